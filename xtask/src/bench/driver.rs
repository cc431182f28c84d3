//! Calls the driver for one run of one program.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::OURS;
use super::figures::Figures;
use crate::command::Run;

/// The driver and what it is told each time.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) script: PathBuf,
    /// The folder of the peers' programs.
    pub(super) bin: String,
    /// Our command, with places for what the driver fills in.
    pub(super) mount: String,
    pub(super) nice: i32,
    pub(super) quiet_secs: u32,
}

impl Driver {
    /// One run of one program.
    ///
    /// # Errors
    /// The driver cannot be run, or the run failed.
    pub(super) fn measure(&self, program: &str, net: &str, workload: &str) -> Result<Figures> {
        let ours = format!("{OURS}={}", self.mount);
        let peer = if program == OURS { ["--cmd", &ours] } else { ["--peer", program] };
        let run = Run::new("python3").args([&self.script]).args(peer).env("PEERS_BIN", &self.bin);
        let run = run.args(["--net", net, "--workload", workload, "--runs", "1", "--tries", "1"]);
        let run = run.args([format!("--nice={}", self.nice), format!("--quiet={}", self.quiet_secs)]);
        let line = run.output()?;
        let line: Value = serde_json::from_str(line.trim()).with_context(|| format!("reading {line:?}"))?;
        Figures::read(&line).with_context(|| format!("{program} on {net}, {workload}"))
    }
}
