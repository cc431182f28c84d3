//! Licences, bans and sources of all dependencies, from `cargo metadata`.
//!
//! This is the part of cargo-deny that is used here. Building cargo-deny itself takes seven minutes of processor time (0.20, release),
//! and the checks must run on a machine that has nothing yet.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace;

/// Licences that let the program be distributed under Apache-2.0.
const ALLOWED: [&str; 8] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Packages that may not come in, and why.
const BANNED: [(&str, &str); 4] = [
    (
        "openssl",
        "TLS is rustls with ring; OpenSSL must be there at build time and is patched by somebody else",
    ),
    ("openssl-sys", "as openssl"),
    ("native-tls", "is OpenSSL on Linux"),
    ("aws-lc-sys", "needs CMake and builds for minutes; rustls uses ring"),
];

/// FUSE is Linux: what only other systems need is never built.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// Checks all packages that are built on Linux and prints which ones come in more than one version.
///
/// # Errors
/// A package is not allowed; every one is printed.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = workspace::metadata(root, &["--filter-platform", PLATFORM])?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    for (name, versions) in duplicates(packages) {
        println!("note: {name} comes in {} versions: {}", versions.len(), versions.join(", "));
    }
    let problems: Vec<_> = packages.iter().flat_map(problems).collect();
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    match problems.len() {
        0 => Ok(()),
        count => bail!("{count} packages are not allowed"),
    }
}

fn problems(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let mut problems = Vec::new();
    if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
        problems.push(format!("{name} is banned: {why}"));
    }
    if package["source"].as_str().is_some_and(|source| source.starts_with("git")) {
        problems.push(format!("{name} comes from a git repository, not from a registry"));
    }
    match package["license"].as_str() {
        Some(licence) if is_allowed(licence) => {}
        Some(licence) => problems.push(format!("{name} has a licence that is not on the list: {licence}")),
        None => problems.push(format!("{name} does not name its licence")),
    }
    problems
}

fn duplicates(packages: &[Value]) -> BTreeMap<&str, Vec<&str>> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        if let (Some(name), Some(version)) = (package["name"].as_str(), package["version"].as_str()) {
            versions.entry(name).or_default().push(version);
        }
    }
    versions.retain(|_, versions| versions.len() > 1);
    versions
}

/// Whether an SPDX expression can be satisfied with allowed licences alone. Old manifests write `/` for `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let allowed = any_of(&mut rest);
    allowed && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> bool {
    let mut allowed = all_of(words);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        // Not `||`, which would leave the right side unread.
        allowed |= all_of(words);
    }
    allowed
}

fn all_of(words: &mut &[&str]) -> bool {
    let mut allowed = licence(words);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        allowed &= licence(words);
    }
    allowed
}

fn licence(words: &mut &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first == "(" {
        let allowed = any_of(words);
        let closed = words.first() == Some(&")");
        *words = words.get(1..).unwrap_or_default();
        return allowed && closed;
    }
    if let ["WITH", exception, rest @ ..] = *words {
        *words = rest;
        return ALLOWED.contains(&format!("{first} WITH {exception}").as_str());
    }
    ALLOWED.contains(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_satisfied_by_allowed_licences() {
        for (expression, allowed) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0 OR MIT", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0/MIT", true),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("(MIT OR GPL-3.0) AND LGPL-2.1", false),
            ("GPL-3.0 OR MIT AND ISC", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0 WITH Classpath-exception-2.0", false),
            ("Apache-2.0 WITH LLVM-exception OR MIT", true),
            ("(MIT", false),
            ("MIT ISC", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression), allowed, "{expression}");
        }
    }

    #[test]
    fn packages_are_refused_by_name_source_and_licence() {
        for (package, count) in [
            (json!({"name": "a", "license": "MIT"}), 0),
            (json!({"name": "a", "license": "MIT", "source": "registry+x"}), 0),
            (json!({"name": "a", "license": "MIT", "source": "git+https://x"}), 1),
            (json!({"name": "openssl-sys", "license": "MIT"}), 1),
            (json!({"name": "a", "license": "SSPL-1.0"}), 1),
            (json!({"name": "a"}), 1),
        ] {
            assert_eq!(problems(&package).len(), count, "{package}");
        }
    }

    #[test]
    fn several_versions_of_a_package_are_found() {
        let packages = [("a", "1.0.0"), ("b", "1.0.0"), ("a", "2.0.0")];
        let packages = packages.map(|(name, version)| json!({"name": name, "version": version}));
        assert_eq!(duplicates(&packages), BTreeMap::from([("a", vec!["1.0.0", "2.0.0"])]));
    }
}
