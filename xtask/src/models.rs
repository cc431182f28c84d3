//! Measures models on mounts: how long one takes to load, and what a damaged disk cache does to its readers.
//!
//! The measuring is in Python, as loaders are, in `xtask/models`; the other programs and the S3 emulator come from the driver that
//! [`Bench`](crate::bench::Bench) uses, too.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::command::{Run, cargo};
use crate::{tools, workspace};

#[derive(Debug, Args)]
pub(crate) struct Models {
    /// What to measure.
    #[arg(value_enum)]
    what: What,
    /// The folder with the driver `peers.py` and its `setup.sh`.
    #[arg(long, env = "SLUICEFS_BENCH_DRIVER")]
    driver: Option<PathBuf>,
    /// Given to the script, such as `--peer mountpoint` or `--help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// How long a model takes to load, cold and warm.
    Load,
    /// What readers get from a disk cache that was damaged.
    Caches,
}

impl What {
    fn script(self) -> &'static str {
        match self {
            Self::Load => "measure.py",
            Self::Caches => "caches.py",
        }
    }
}

impl Models {
    /// Builds a release, measures, and prints what came out.
    ///
    /// # Errors
    /// There is no driver, a tool is missing, the build fails, or the script does.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        let Some(driver) = self.driver.as_deref().filter(|dir| dir.join("peers.py").is_file()) else {
            bail!("give the folder that has the driver peers.py with --driver, or in SLUICEFS_BENCH_DRIVER");
        };
        cargo(root).args(["build", "--release", "--package", "sluicefs"]).run()?;
        let target = workspace::target_dir(root)?;
        let python = tools::prepare(root, &target)?.python;
        let bin = Run::new(driver.join("setup.sh")).output()?;
        let program = target.join("release/sluicefs");
        let run = Run::new(python).args([root.join("xtask/models").join(self.what.script())]);
        let run = run.args([Path::new("--driver"), driver, Path::new("--program"), &program]);
        run.args(["--bin", bin.trim()]).args(&self.args).run()
    }
}
