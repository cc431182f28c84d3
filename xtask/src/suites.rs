//! Judges from outside: test suites of other projects, and everyday programs, on a mount of a release build.
//!
//! Each suite has a mount and a directory of its own. What a suite says is counted here, and compared with the mark that must be met; the
//! reasons for the cases that fail stand in docs/SUITES.md.

mod mounted;
mod runs;
mod score;
mod server;

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::command::cargo;
use crate::{tools, workspace};
use mounted::Mounted;
use runs::Place;
use score::Score;
use server::Server;

#[derive(Debug, Args)]
pub(crate) struct Suites {
    /// What to mount: "moto" or "s3s-fs" for a server of that kind, or the URL of one.
    #[arg(long, default_value = "moto")]
    against: String,
    /// The bucket at that URL; it must exist, and what is in it may get lost. Credentials are found as the mount finds them.
    #[arg(long, default_value = server::BUCKET)]
    bucket: String,
    /// How many seeds fsx is run with.
    #[arg(long, default_value_t = 20)]
    seeds: u32,
    /// More flags for the mount, such as `--metadata-ttl 60`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    flags: String,
    /// Run these alone.
    #[arg(value_enum)]
    suites: Vec<Suite>,
}

/// A suite, by the name of its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Forty things that people do with everyday programs.
    Apps,
    /// Random writes, reads, mappings and truncations of one file.
    Fsx,
    /// Files whose every block is verified.
    Fio,
    /// What POSIX says of system calls; needs root.
    Pjdfstest,
    /// The same with attributes kept in the words of s3fs.
    PjdfstestS3fs,
}

impl Suite {
    /// What the mount must be told for it. pjdfstest makes links with absolute targets.
    fn flags(self) -> &'static str {
        match self {
            Self::Apps | Self::Fsx | Self::Fio => "",
            Self::Pjdfstest => "--allow-symlinks any",
            Self::PjdfstestS3fs => "--allow-symlinks any --attributes s3fs",
        }
    }
}

impl Suites {
    /// Builds, mounts, runs the suites, and prints what passed.
    ///
    /// # Errors
    /// Something that a suite needs is missing, or a mark is missed.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let suites = if self.suites.is_empty() { Suite::value_variants() } else { &self.suites };
        cargo(root).args(["build", "--release", "--package", "sluicefs"]).run()?;
        let target = workspace::target_dir(root)?;
        let judges = tools::prepare_judges(root, &target)?;
        let mut server = Server::start(&self.against, &self.bucket, root, &target)?;
        let program = target.join("release/sluicefs");
        let mut scores = Vec::new();
        for (number, suite) in suites.iter().enumerate() {
            let flags = format!("{} {}", suite.flags(), self.flags);
            let mounted = Mounted::mount(&program, &server, &flags)?;
            let place = Place::make(mounted.path(), number, root, &judges)?;
            let ran = match suite {
                Suite::Apps => runs::apps(&place),
                Suite::Fsx => runs::fsx(&place, self.seeds),
                Suite::Fio => runs::fio(&place),
                Suite::Pjdfstest => runs::pjdfstest(&place),
                Suite::PjdfstestS3fs => runs::pjdfstest_s3fs(&place),
            };
            let score = ran.with_context(|| format!("running {suite:?}"))?;
            println!("{}", score.text());
            mounted.unmount()?;
            server.check()?;
            scores.push(score);
        }
        verdict(&scores)
    }
}

fn verdict(scores: &[Score]) -> Result<()> {
    let missed: Vec<&str> = scores.iter().filter(|score| !score.is_met()).map(|score| score.suite).collect();
    if missed.is_empty() {
        return Ok(());
    }
    bail!("below the mark: {}", missed.join(", "))
}
