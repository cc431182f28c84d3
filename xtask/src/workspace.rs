//! Where the repository and its build folder are, and what cargo knows about its packages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::cargo;

/// The root of the repository.
///
/// Cargo names this package's folder to whatever it runs. What was true when this was built is not asked first: a repository may be
/// moved with its build folder, and two copies may share one.
pub(crate) fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().expect("xtask lies in the repository").to_owned()
}

/// Cargo's build folder, wherever its configuration puts it.
///
/// # Errors
/// Cargo fails.
pub(crate) fn target_dir(root: &Path) -> Result<PathBuf> {
    let metadata = metadata(root, &["--no-deps"])?;
    let target = metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(target))
}

/// What `cargo metadata` says; the lock file must be up to date.
///
/// # Errors
/// Cargo fails.
pub(crate) fn metadata(root: &Path, args: &[&str]) -> Result<Value> {
    let text = cargo(root).args(["metadata", "--locked", "--format-version", "1"]).args(args).output()?;
    serde_json::from_str(&text).context("reading the answer of cargo metadata")
}
