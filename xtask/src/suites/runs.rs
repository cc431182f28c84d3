//! How each suite is run, and what must come of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::score::{Score, read_everyday, read_pjdfstest};
use crate::command::Run;
use crate::tools::Judges;

/// Of forty: a bucket has no hard links, and keeps extended attributes only when told to.
const APPS_MARK: usize = 38;
/// Of 398, without attributes that outlive the mount.
const PJDFSTEST_MARK: usize = 170;
/// Of 398, with them.
const PJDFSTEST_S3FS_MARK: usize = 325;
/// Operations of fsx with each seed.
const FSX_OPERATIONS: &str = "2000";

/// Where a suite runs, and what it needs.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// A directory on the mount, with one file in it.
    directory: PathBuf,
    /// The folder of the suites' settings.
    settings: PathBuf,
    judges: &'a Judges,
}

impl<'a> Place<'a> {
    /// Makes a directory for the suite `number` on the mount at `mount`.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make(mount: &Path, number: usize, root: &Path, judges: &'a Judges) -> Result<Self> {
        let directory = mount.join(format!("{}-{number}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        fs::write(directory.join("file"), "x").context("writing a file there")?;
        Ok(Self { directory, settings: root.join("xtask/suites"), judges })
    }
}

/// Everyday programs.
///
/// # Errors
/// They cannot be run.
pub(super) fn apps(place: &Place<'_>) -> Result<Score> {
    let script = place.settings.join("everyday.py");
    let output = Run::new("python3").args([&script, &place.directory]).output_of_any_end()?;
    Ok(read_everyday(Score::new("apps", APPS_MARK), &output))
}

/// fsx with so many seeds.
///
/// # Errors
/// It cannot be run.
pub(super) fn fsx(place: &Place<'_>, seeds: u32) -> Result<Score> {
    let mut score = Score::new("fsx", seeds as usize);
    for seed in 1..=seeds {
        let file = place.directory.join("fsx");
        let run = Run::new(&place.judges.fsx).args([Path::new("-f"), &place.settings.join("fsx.toml")]);
        let run = run.args(["-q", "-N", FSX_OPERATIONS, "-S", &seed.to_string(), "-P"]);
        let run = run.args([&std::env::temp_dir(), &file]);
        score.add(&format!("seed {seed}"), (!run.succeeds()).then_some(""));
        // It may be left behind after a failure.
        let _ = fs::remove_file(&file);
    }
    Ok(score)
}

/// fio, each job by itself.
///
/// # Errors
/// It cannot be run.
pub(super) fn fio(place: &Place<'_>) -> Result<Score> {
    let mut score = Score::new("fio", FIO_JOBS.len());
    for job in FIO_JOBS {
        let run = Run::new("fio").args(["--section", job]).args([&place.settings.join("verify.fio")]);
        let run = run.env("DIRECTORY", &place.directory);
        score.add(job, (!run.succeeds()).then_some(""));
    }
    Ok(score)
}

/// The sections of verify.fio.
const FIO_JOBS: [&str; 2] = ["even", "odd"];

/// pjdfstest.
///
/// # Errors
/// It cannot be run.
pub(super) fn pjdfstest(place: &Place<'_>) -> Result<Score> {
    run_pjdfstest(place, Score::new("pjdfstest", PJDFSTEST_MARK))
}

/// pjdfstest, on a mount that keeps attributes.
///
/// # Errors
/// It cannot be run.
pub(super) fn pjdfstest_s3fs(place: &Place<'_>) -> Result<Score> {
    run_pjdfstest(place, Score::new("pjdfstest-s3fs", PJDFSTEST_S3FS_MARK))
}

fn run_pjdfstest(place: &Place<'_>, score: Score) -> Result<Score> {
    let settings = place.settings.join("pjdfstest.toml");
    let run = Run::new(&place.judges.pjdfstest).args([Path::new("-c"), &settings]);
    let output = run.args([Path::new("-p"), &place.directory]).output_of_any_end()?;
    Ok(read_pjdfstest(score, &output))
}
