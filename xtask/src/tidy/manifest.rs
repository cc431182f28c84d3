//! A crate's `Cargo.toml` as the rules see it: what it depends on, and whether its code names each of them.
//!
//! The manifests here are plain: one dependency per line, all of them from `[workspace.dependencies]`. A line that breaks this habit
//! is a finding of its own, so nothing hides from a reader this simple.

use std::collections::HashSet;

use super::Finding;
use super::lexer::Kind;
use super::source::{Role, Source};

/// The dependencies of one crate.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The folder of the crate.
    pub(crate) krate: String,
    /// Where the manifest lies, from the root of the repository.
    pub(crate) path: String,
    /// In the order of the file.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One line of `[dependencies]`, `[dev-dependencies]` or `[build-dependencies]`.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// As written: `aws-sdk-s3`.
    pub(crate) name: String,
    /// Whether users get it.
    pub(crate) role: Role,
    /// Counted from 1.
    pub(crate) line: usize,
    text: String,
}

impl Dependency {
    /// The name in Rust code.
    pub(crate) fn ident(&self) -> String {
        self.name.replace('-', "_")
    }
}

impl Manifest {
    /// Reads a manifest at `path`; `None` for one outside every crate.
    pub(crate) fn new(path: &str, text: &str) -> Option<Self> {
        let place = Source::new(path, "")?;
        let mut role = None;
        let mut dependencies = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(section) = line.strip_prefix('[') {
                role = match section.trim_end_matches(']') {
                    "dependencies" | "build-dependencies" => Some(Role::Production),
                    "dev-dependencies" => Some(Role::Test),
                    _ => None,
                };
            } else if let Some(role) = role.filter(|_| !(line.is_empty() || line.starts_with('#'))) {
                let name: String =
                    line.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect();
                dependencies.push(Dependency { name, role, line: index + 1, text: line.to_owned() });
            }
        }
        Some(Self { krate: place.krate, path: path.to_owned(), dependencies })
    }
}

/// Dependencies with a version of their own, and those that no code of the crate names.
pub(crate) fn check(manifest: &Manifest, sources: &[Source]) -> Vec<Finding> {
    let idents = |role: Option<Role>| -> HashSet<&str> {
        let of_crate = sources.iter().filter(|source| source.krate == manifest.krate);
        let of_role = of_crate.filter(|source| role.is_none_or(|role| source.role() == role));
        let tokens = of_role.flat_map(|source| source.lexed().tokens);
        tokens.filter(|token| token.kind == Kind::Ident).map(|token| token.text).collect()
    };
    let (production, all) = (idents(Some(Role::Production)), idents(None));
    let mut findings = Vec::new();
    for dependency in &manifest.dependencies {
        let mut find = |message: String| {
            findings.push(Finding::new(&manifest.path, dependency.line, message));
        };
        // A crate names itself to have its own test features in its tests.
        let is_itself = dependency.text.contains("path = \".\"");
        if !dependency.text.contains("workspace = true") && !is_itself {
            find(format!("`{}` must take its version from [workspace.dependencies]", dependency.name));
        }
        let named = if dependency.role == Role::Production { &production } else { &all };
        // Some packages, such as md-5, have a library whose name is simply shorter.
        let idents = [dependency.ident(), dependency.name.replace('-', "")];
        if !is_itself && !idents.iter().any(|ident| named.contains(ident.as_str())) {
            find(format!("no code here names `{}`: drop the dependency", dependency.name));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dependency_comes_from_the_workspace_and_is_named() {
        let code = Source::new("crates/a/src/lib.rs", "use serde_json::Value; use md5::Md5; // anyhow")
            .expect("inside a crate");
        let test =
            Source::new("crates/a/tests/it/main.rs", "use tempfile::tempdir;").expect("inside a crate");
        let sources = [code, test];
        for (text, findings) in [
            ("[dependencies]\nserde-json.workspace = true\n", 0),
            ("[dependencies]\nserdejson.workspace = true\n", 1),
            ("[dependencies]\nmd-5.workspace = true\n", 0),
            ("[dependencies]\nserde-json = \"1\"\n", 1),
            ("[dependencies]\nanyhow.workspace = true\n", 1),
            ("[dependencies]\ntempfile.workspace = true\n", 1),
            ("[dev-dependencies]\ntempfile = { workspace = true, features = [] }\n", 0),
            ("[dev-dependencies]\na = { path = \".\", features = [\"x\"] }\n", 0),
            ("[features]\nx = []\n[lints]\nworkspace = true\n", 0),
        ] {
            let manifest = Manifest::new("crates/a/Cargo.toml", text).expect("inside a crate");
            assert_eq!(check(&manifest, &sources).len(), findings, "{text}");
        }
    }
}
