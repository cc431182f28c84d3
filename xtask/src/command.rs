//! Runs other programs: each is printed before it runs, and a failure says which one it was.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// A program to run. Nothing it runs may wait for somebody to type.
#[derive(Debug)]
pub(crate) struct Run(Command);

/// The cargo that runs this program, in `root`.
pub(crate) fn cargo(root: &Path) -> Run {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Run::new(cargo).dir(root)
}

impl Run {
    /// Runs `program`, found on the PATH unless it is a path.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self(command)
    }

    /// Runs it in this folder.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.0.current_dir(dir);
        self
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.0.args(args);
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it with its output shown.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub(crate) fn run(mut self) -> Result<()> {
        eprintln!("$ {}", self.line());
        let status = self.0.status().with_context(|| format!("starting {}", self.line()))?;
        self.check(status)
    }

    /// Runs it and returns what it printed; its errors are shown.
    ///
    /// # Errors
    /// It cannot be started, fails, or does not print UTF-8.
    pub(crate) fn output(mut self) -> Result<String> {
        self.0.stderr(Stdio::inherit());
        let output = self.0.output().with_context(|| format!("starting {}", self.line()))?;
        self.check(output.status)?;
        String::from_utf8(output.stdout).with_context(|| format!("reading the output of {}", self.line()))
    }

    /// Runs it and returns what it printed, its errors among that, whether or not it succeeded.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn output_of_any_end(mut self) -> Result<String> {
        eprintln!("$ {}", self.line());
        let output = self.0.output().with_context(|| format!("starting {}", self.line()))?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// Whether it can be started and succeeds; shows nothing.
    pub(crate) fn succeeds(mut self) -> bool {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        bail!("{} failed: {status}", self.line())
    }

    /// The command as a person would type it.
    fn line(&self) -> String {
        let program = Path::new(self.0.get_program()).file_name().unwrap_or(self.0.get_program());
        let words = std::iter::once(program).chain(self.0.get_args());
        words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }
}

fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./:=,@+".contains(c));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Where `program` is, if the PATH has it.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_it_would_be_typed() {
        let run = Run::new("/usr/bin/cargo").args(["test", "a b", "it's", "", "--x=y"]);
        assert_eq!(run.line(), r"cargo test 'a b' 'it'\''s' '' --x=y");
    }

    #[test]
    fn failures_name_the_command() {
        let error = Run::new("false").args(["x"]).run().expect_err("false fails");
        assert!(error.to_string().contains("false x failed"), "{error}");
        assert!(Run::new("/nowhere/program").run().is_err());
        assert!(Run::new("true").succeeds() && !Run::new("false").succeeds());
        assert_eq!(Run::new("echo").args(["x"]).output().expect("echo works"), "x\n");
        assert!(which("sh").is_some() && which("no-such-program").is_none());
    }
}
