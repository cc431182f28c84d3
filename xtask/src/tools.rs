//! Gets what the tests need beyond cargo: Debian packages, two S3 servers that nobody here wrote, and a spelling checker.
//!
//! Everything but the Debian packages goes under cargo's build folder, and is kept there until its version changes here.

mod packages;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{Run, cargo};

/// From PyPI: moto with what its S3 server alone needs (the `server` extra brings the servers of all services), and typos.
/// With numpy and safetensors, which programs on a mount save their tensors by.
const PYTHON_TOOLS: [&str; 6] = [
    "moto[s3]==5.2.5",
    "flask==3.1.3",
    "flask-cors==6.0.5",
    "typos==1.52.0",
    "numpy==2.4.6",
    "safetensors==0.8.0",
];

/// Kept as a wheel too, to be installed on a mount.
const WHEEL: &str = "safetensors==0.8.0";

/// From crates.io: the file-backed server of the `s3s` project.
const S3S_FS_VERSION: &str = "0.14.1";

/// From crates.io: test suites for file systems.
const FSX_VERSION: &str = "0.3.2";
const PJDFSTEST_VERSION: &str = "0.2.2";

/// Programs that the tests and checks run.
#[derive(Debug)]
pub(crate) struct Tools {
    /// moto's S3 server, in Python.
    pub(crate) moto_server: PathBuf,
    /// The s3s project's server on a directory.
    pub(crate) s3s_fs: PathBuf,
    /// The spelling checker.
    pub(crate) typos: PathBuf,
    /// Python with what programs on a mount import; the folder `wheels` lies beside its environment.
    pub(crate) python: PathBuf,
}

/// Programs that judge a mount.
#[derive(Debug)]
pub(crate) struct Judges {
    /// Random operations on one file.
    pub(crate) fsx: PathBuf,
    /// What POSIX says of system calls.
    pub(crate) pjdfstest: PathBuf,
}

/// Gets all of them below `target`, cargo's build folder.
///
/// # Errors
/// As for [`prepare`].
pub(crate) fn prepare_judges(root: &Path, target: &Path) -> Result<Judges> {
    packages::install(packages::JUDGES)?;
    let dir = target.join("tools");
    let judge = |name, version| from_crates_io(root, &dir, (name, version, &[]));
    Ok(Judges { fsx: judge("fsx", FSX_VERSION)?, pjdfstest: judge("pjdfstest", PJDFSTEST_VERSION)? })
}

/// Gets all of them below `target`, cargo's build folder.
///
/// # Errors
/// A Debian package is missing and cannot be installed from here (the message names it), or a download or build fails.
pub(crate) fn prepare(root: &Path, target: &Path) -> Result<Tools> {
    packages::install(packages::TESTS)?;
    let dir = target.join("tools");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    // One waits for the network, the other for the processor.
    let (venv, s3s_fs) = std::thread::scope(|scope| {
        let venv = scope.spawn(|| python_tools(&dir));
        let s3s_fs = from_crates_io(root, &dir, ("s3s-fs", S3S_FS_VERSION, &["--features", "binary"]));
        (venv.join().expect("installing does not panic"), s3s_fs)
    });
    let bin = venv?.join("bin");
    Ok(Tools {
        moto_server: bin.join("moto_server"),
        s3s_fs: s3s_fs?,
        typos: bin.join("typos"),
        python: bin.join("python3"),
    })
}

/// A Python environment with [`PYTHON_TOOLS`]; made anew when the list has changed.
fn python_tools(dir: &Path) -> Result<PathBuf> {
    let venv = dir.join("venv");
    let stamp = venv.join("installed.txt");
    let wanted = PYTHON_TOOLS.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(venv);
    }
    Run::new("python3").args(["-m", "venv", "--clear"]).args([&venv]).run()?;
    let pip = Run::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check"]);
    pip.args(PYTHON_TOOLS).run()?;
    let pip = Run::new(venv.join("bin/pip")).args(["download", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--dest"]).args([dir.join("wheels")]).args([WHEEL]).run()?;
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(venv)
}

/// A program from crates.io, with flags for cargo; built when it is not there in the wanted version.
fn from_crates_io(root: &Path, dir: &Path, (name, version, flags): (&str, &str, &[&str])) -> Result<PathBuf> {
    let home = dir.join(format!("{name}-{version}"));
    let program = home.join("bin").join(name);
    if program.exists() {
        return Ok(program);
    }
    let build = dir.join("build");
    // Without optimisation it builds in half the time, and the tests move little through it.
    cargo(root)
        .args(["install", name, "--version", version, "--locked", "--debug"])
        .args(flags)
        .args(["--quiet", "--no-track", "--config", "profile.dev.debug=false"])
        .args([Path::new("--target-dir"), &build, Path::new("--root"), &home])
        .run()?;
    fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))?;
    Ok(program)
}
