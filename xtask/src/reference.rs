//! The reference of the command line, `docs/CLI.md`: written by the program itself, so that it cannot lag behind.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{Run, cargo};

const REFERENCE: &str = "docs/CLI.md";

/// Writes the reference.
///
/// # Errors
/// The program cannot be built or fails, or the file cannot be written.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(REFERENCE);
    fs::write(&path, generate(root)?).with_context(|| format!("writing {}", path.display()))
}

/// Compares the reference with what the program would write.
///
/// # Errors
/// They differ, or the program cannot be built or fails.
pub(crate) fn check(root: &Path) -> Result<()> {
    let path = root.join(REFERENCE);
    let written = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    if written != generate(root)? {
        bail!("{REFERENCE} is not what the program says of itself: run `cargo xtask docs` and commit it");
    }
    Ok(())
}

fn generate(root: &Path) -> Result<String> {
    Run::new(built_program(root)?).args(["docs-markdown"]).output()
}

/// Builds the program with the features that the tests gave its dependencies, since building them again with others takes minutes.
fn built_program(root: &Path) -> Result<PathBuf> {
    let build = ["build", "--workspace", "--bins", "--tests", "--message-format", "json-render-diagnostics"];
    let messages = cargo(root).args(build).output()?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = messages.filter(|message| message["target"]["name"] == "sluicefs").find_map(|message| {
        let is_program = message["target"]["kind"][0] == "bin" && message["profile"]["test"] == false;
        message["executable"].as_str().filter(|_| is_program).map(PathBuf::from)
    });
    program.context("cargo built no program called sluicefs")
}
