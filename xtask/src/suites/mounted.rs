//! A mount of the release build in the foreground, with a log that is shown when something goes wrong.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::server::Server;
use crate::command::Run;

/// So long a mount may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mount, which is taken away when this is dropped, whoever uses it.
#[derive(Debug)]
pub(super) struct Mounted {
    home: PathBuf,
    directory: PathBuf,
    process: Child,
}

impl Mounted {
    /// Mounts the server's bucket for all users, and waits until it answers.
    ///
    /// # Errors
    /// It cannot be mounted: the log is part of the message.
    pub(super) fn mount(program: &Path, server: &Server, flags: &str) -> Result<Self> {
        // Short names: the path of a socket below has 107 bytes at most (unix(7)).
        let home = std::env::temp_dir().join(format!("suites-{}", std::process::id()));
        let directory = home.join("m");
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let log = File::create(home.join("log")).context("making the log")?;
        let mut command = Command::new(program);
        command.args(["mount", "--foreground", "--allow-other"]).args(&server.flags);
        command.args(flags.split_whitespace()).arg(&server.bucket).arg(&directory);
        command.envs(server.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let mut mounted = Self { home, directory, process };
        let began = Instant::now();
        while !mounted.is_mounted()? {
            if mounted.process.try_wait().is_ok_and(|ended| ended.is_some()) || began.elapsed() > PATIENCE {
                bail!("{command:?} does not mount; its log:\n{}", mounted.log());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(mounted)
    }

    /// The mount point.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    /// Unmounts, as a person would.
    ///
    /// # Errors
    /// It is in use, or its process does not end well: the log is part of the message.
    pub(super) fn unmount(mut self) -> Result<()> {
        Run::new("umount").args([&self.directory]).run()?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            match self.process.try_wait().context("waiting for the mount")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the mount ended with {status}; its log:\n{}", self.log()),
                None => sleep(Duration::from_millis(50)),
            }
        }
        bail!("the mount's process does not end; its log:\n{}", self.log())
    }

    fn is_mounted(&self) -> Result<bool> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("reading the list of mounts")?;
        let directory = self.directory.to_string_lossy();
        Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(&directory)))
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted().unwrap_or(false) {
            eprintln!("the end of the mount's log:\n{}", self.log());
            Run::new("umount").args(["--lazy"]).args([&self.directory]).succeeds();
        }
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Err(error) = fs::remove_dir_all(&self.home) {
            eprintln!("removing {}: {error}", self.home.display());
        }
    }
}
