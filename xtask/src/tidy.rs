//! The invariants of `docs/ARCHITECTURE.md`, checked on the text of the repository.
//!
//! Every check is a pure function from text to [`Finding`]s. [`run`] reads the files, applies them all and prints; it fails if a rule
//! is broken, while what is merely large or unfinished is printed as a report.

mod claims;
mod cycles;
mod files;
mod lexer;
mod manifest;
mod names;
mod size;
mod source;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use walkdir::{DirEntry, WalkDir};

use self::manifest::Manifest;
use self::source::Source;

/// One line that breaks a rule, or is worth a look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: String) -> Self {
        Self { path: path.to_owned(), line, message }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// What a whole check found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Rules that are broken.
    pub(crate) broken: Vec<Finding>,
    /// What is worth a look.
    pub(crate) report: Vec<Finding>,
}

/// Checks the repository at `root` and prints what it finds.
///
/// # Errors
/// A rule is broken, or a file cannot be read.
pub(crate) fn run(root: &Path) -> Result<()> {
    let outcome = check(root)?;
    for finding in &outcome.report {
        println!("note: {finding}");
    }
    for finding in &outcome.broken {
        eprintln!("error: {finding}");
    }
    match outcome.broken.len() {
        0 => Ok(()),
        broken => bail!("tidy: {broken} rules broken"),
    }
}

/// Reads the repository at `root` and applies every rule.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn check(root: &Path) -> Result<Outcome> {
    let texts = read_texts(root)?;
    let sources: Vec<_> =
        with_ending(&texts, ".rs").filter_map(|(path, text)| Source::new(path, text)).collect();
    let manifests: Vec<_> =
        with_ending(&texts, "/Cargo.toml").filter_map(|(path, text)| Manifest::new(path, text)).collect();
    let mut outcome = Outcome::default();
    for source in sources.iter().filter(|source| !source.is_generated()) {
        outcome.broken.extend(names::check_source(source));
    }
    for source in &sources {
        outcome.broken.extend(files::check(source));
        outcome.report.extend(size::report(source));
    }
    for manifest in &manifests {
        outcome.broken.extend(names::check_manifest(manifest));
        outcome.broken.extend(manifest::check(manifest, &sources));
        let of_crate: Vec<_> = sources.iter().filter(|source| source.krate == manifest.krate).collect();
        outcome.broken.extend(cycles::check(&of_crate));
    }
    for (path, text) in &texts {
        outcome.broken.extend(words::check(path, text));
    }
    check_claims(&texts, &sources, &mut outcome);
    outcome.broken.sort();
    outcome.report.sort();
    Ok(outcome)
}

fn check_claims(texts: &BTreeMap<String, String>, sources: &[Source], outcome: &mut Outcome) {
    let packages = package_names(texts);
    match texts.get(claims::SEMANTICS) {
        Some(text) => {
            outcome.broken.extend(claims::missing_tests(text, &packages, sources));
            outcome.broken.extend(claims::missing_error_kinds(text, sources));
            outcome.report.extend(claims::untested_claims(text));
        }
        None => outcome.broken.push(Finding::new(claims::SEMANTICS, 1, "is missing".to_owned())),
    }
    let document = texts.get(claims::CLI).map_or("", String::as_str);
    outcome.broken.extend(claims::missing_flags(document, sources));
}

/// Each package's name in Rust code, and the folder of its crate.
fn package_names(texts: &BTreeMap<String, String>) -> HashMap<String, String> {
    let named = with_ending(texts, "/Cargo.toml").filter_map(|(path, text)| {
        let krate = Source::new(path, "")?.krate;
        let name = text.lines().find_map(|line| line.strip_prefix("name = \""))?.trim_end_matches('"');
        Some((name.replace('-', "_"), krate))
    });
    named.collect()
}

fn with_ending<'a>(
    texts: &'a BTreeMap<String, String>,
    ending: &'static str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    texts
        .iter()
        .filter(move |(path, _)| path.ends_with(ending))
        .map(|(path, text)| (path.as_str(), text.as_str()))
}

/// Every text file below `root` by its path from there; what cargo builds and git keeps for itself is left out.
fn read_texts(root: &Path) -> Result<BTreeMap<String, String>> {
    let is_ours =
        |entry: &DirEntry| !matches!(entry.file_name().to_str(), Some("target" | ".git" | "__pycache__"));
    let mut texts = BTreeMap::new();
    for entry in WalkDir::new(root).into_iter().filter_entry(is_ours) {
        let entry = entry.context("walking through the repository")?;
        if !entry.file_type().is_file() || entry.file_name() == "Cargo.lock" {
            continue;
        }
        let bytes = fs::read(entry.path()).with_context(|| format!("reading {}", entry.path().display()))?;
        // Pictures and the like have no lines to judge.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        let path = entry.path().strip_prefix(root).expect("walked from the root");
        texts.insert(path.to_string_lossy().into_owned(), text);
    }
    Ok(texts)
}

#[cfg(test)]
fn finds(findings: &[Finding], message: &str) {
    assert!(findings.iter().any(|f| f.message.contains(message)), "nothing says {message:?}: {findings:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let outcome = check(&crate::workspace::root()).expect("the repository can be read");
        let broken: Vec<_> = outcome.broken.iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}
