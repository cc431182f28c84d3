//! Gets what the tests need beyond cargo: Debian packages, two S3 servers that nobody here wrote, and a spelling checker.
//!
//! Everything but the Debian packages goes under cargo's build folder, and is kept there until its version changes here.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{Run, cargo, which};

/// From PyPI: moto with what its S3 server alone needs (the `server` extra brings the servers of all services), and typos.
const PYTHON_TOOLS: [&str; 4] = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "typos==1.52.0"];

/// From crates.io: the file-backed server of the `s3s` project.
const S3S_FS_VERSION: &str = "0.14.1";

/// Programs that the tests and checks run.
#[derive(Debug)]
pub(crate) struct Tools {
    /// moto's S3 server, in Python.
    pub(crate) moto_server: PathBuf,
    /// The s3s project's server on a directory.
    pub(crate) s3s_fs: PathBuf,
    /// The spelling checker.
    pub(crate) typos: PathBuf,
}

/// Gets all of them below `target`, cargo's build folder.
///
/// # Errors
/// A Debian package is missing and cannot be installed from here (the message names it), or a download or build fails.
pub(crate) fn prepare(root: &Path, target: &Path) -> Result<Tools> {
    install_packages()?;
    let dir = target.join("tools");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    // One waits for the network, the other for the processor.
    let (venv, s3s_fs) = std::thread::scope(|scope| {
        let venv = scope.spawn(|| python_tools(&dir));
        let s3s_fs = s3s_fs(root, &dir);
        (venv.join().expect("installing does not panic"), s3s_fs)
    });
    let bin = venv?.join("bin");
    Ok(Tools { moto_server: bin.join("moto_server"), s3s_fs: s3s_fs?, typos: bin.join("typos") })
}

// === Debian packages ===

struct Need {
    package: &'static str,
    what_for: &'static str,
    present: fn() -> bool,
}

const NEEDS: [Need; 3] = [
    Need {
        package: "fuse3",
        what_for: "fusermount3, with which users other than root mount",
        present: || which("fusermount3").is_some(),
    },
    Need { package: "gcc libc6-dev", what_for: "a C compiler and linker", present: || which("cc").is_some() },
    Need {
        package: "python3-venv",
        what_for: "a Python environment for the outside S3 server",
        present: || Run::new("python3").args(["-c", "import ensurepip, venv"]).succeeds(),
    },
];

fn install_packages() -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        bail!(
            "there is no /dev/fuse here, so nothing can be mounted: load the kernel's module (modprobe fuse), or start the \
             container with --device /dev/fuse --cap-add SYS_ADMIN"
        );
    }
    let missing: Vec<_> = NEEDS.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().flat_map(|need| need.package.split(' ')).collect();
    for need in &missing {
        eprintln!("missing: {} ({})", need.package, need.what_for);
    }
    if !(is_root() && which("apt-get").is_some()) {
        bail!(
            "install these Debian packages (or what they hold) first: apt-get install {}",
            packages.join(" ")
        );
    }
    eprintln!("installing them, since this is root on Debian");
    let apt = || Run::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
    apt().args(["update", "-qq"]).run()?;
    apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages).run()?;
    match missing.iter().find(|need| !(need.present)()) {
        Some(need) => bail!("{} is installed, but there is still no sign of {}", need.package, need.what_for),
        None => Ok(()),
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

// === Below the build folder ===

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
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(venv)
}

/// The s3s-fs program; built when it is not there in the wanted version.
fn s3s_fs(root: &Path, dir: &Path) -> Result<PathBuf> {
    let home = dir.join(format!("s3s-fs-{S3S_FS_VERSION}"));
    let program = home.join("bin/s3s-fs");
    if program.exists() {
        return Ok(program);
    }
    let build = dir.join("build");
    // Without optimisation it builds in half the time, and the tests move little through it.
    cargo(root)
        .args([
            "install",
            "s3s-fs",
            "--version",
            S3S_FS_VERSION,
            "--features",
            "binary",
            "--locked",
            "--debug",
        ])
        .args(["--quiet", "--no-track", "--config", "profile.dev.debug=false"])
        .args([Path::new("--target-dir"), &build, Path::new("--root"), &home])
        .run()?;
    fs::remove_dir_all(&build).with_context(|| format!("removing {}", build.display()))?;
    Ok(program)
}
