//! What the tests need of the machine, Debian packages above all: looked for, installed where that is possible, else named.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{Run, which};

/// Where the kernel has its control files of FUSE (Documentation/filesystems/fuse/fuse.rst).
const CONTROL_FILES: &str = "/sys/fs/fuse/connections";

/// Something that Debian has.
pub(super) struct Need {
    packages: &'static [&'static str],
    what_for: &'static str,
    present: fn() -> bool,
}

/// Of the tests.
pub(super) const TESTS: &[Need] = &[
    Need {
        packages: &["fuse3"],
        what_for: "fusermount3, with which users other than root mount",
        present: || which("fusermount3").is_some(),
    },
    Need {
        packages: &["gcc", "libc6-dev"],
        what_for: "a C compiler and linker",
        present: || which("cc").is_some(),
    },
    Need {
        packages: &["python3-venv"],
        what_for: "a Python environment for the outside S3 server",
        present: || Run::new("python3").args(["-c", "import ensurepip, venv"]).succeeds(),
    },
    Need {
        packages: &["rsync", "git", "sqlite3", "vim"],
        what_for: "programs that are run on a mount",
        present: || ["rsync", "git", "sqlite3", "vim"].iter().all(|name| which(name).is_some()),
    },
];

/// Of the suites that outside judges bring.
pub(super) const JUDGES: &[Need] = &[
    Need {
        packages: &["libacl1-dev"],
        what_for: "access control lists, which pjdfstest is built with",
        present: || Path::new("/usr/include/sys/acl.h").exists(),
    },
    Need {
        packages: &["fio"],
        what_for: "files whose blocks are verified",
        present: || which("fio").is_some(),
    },
    Need {
        packages: &["rsync", "git", "sqlite3", "attr", "zip", "gzip"],
        what_for: "everyday programs",
        present: || {
            ["rsync", "git", "sqlite3", "setfattr", "zip", "gzip"].iter().all(|name| which(name).is_some())
        },
    },
];

/// Who runs this, and where.
#[derive(Debug, Clone, Copy)]
struct Machine {
    is_root: bool,
    has_apt: bool,
}

/// What to do about missing packages.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Install(Vec<&'static str>),
    /// They cannot be installed from here: what to say.
    Tell(String),
}

/// Installs what is missing.
///
/// # Errors
/// There is no /dev/fuse, or something is missing and cannot be installed from here: the message names the packages.
pub(super) fn install(needs: &[Need]) -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        bail!(
            "there is no /dev/fuse here, so nothing can be mounted: load the kernel's module (modprobe fuse), or start the \
             container with --device /dev/fuse --cap-add SYS_ADMIN"
        );
    }
    control_files()?;
    let missing: Vec<_> = needs.iter().filter(|need| !(need.present)()).collect();
    for need in &missing {
        eprintln!("missing: {} ({})", need.packages.join(" "), need.what_for);
    }
    let machine = Machine { is_root: is_root(), has_apt: which("apt-get").is_some() };
    match plan(&missing, machine) {
        Plan::Nothing => return Ok(()),
        Plan::Tell(message) => bail!(message),
        Plan::Install(packages) => {
            eprintln!("installing them, since this is root on Debian");
            run_apt(&packages).with_context(|| by_hand(&packages))?;
        }
    }
    match missing.iter().find(|need| !(need.present)()) {
        Some(need) => {
            bail!("{} is installed, but there is still no sign of {}", need.packages.join(" "), need.what_for)
        }
        None => Ok(()),
    }
}

/// Mounts the files by which the kernel lets a mount that is in use be ended at once, where nothing has done that at boot.
fn control_files() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading what is mounted")?;
    if mounts.lines().any(|mount| mount.split(' ').nth(2) == Some("fusectl")) {
        return Ok(());
    }
    let mount = ["-t", "fusectl", "fusectl", CONTROL_FILES];
    if !is_root() {
        bail!("the control files of FUSE are not mounted; as root: mount {}", mount.join(" "));
    }
    eprintln!("mounting the control files of FUSE, since this is root");
    Run::new("mount").args(mount).run()
}

fn plan(missing: &[&Need], machine: Machine) -> Plan {
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages).copied().collect();
    match machine {
        _ if packages.is_empty() => Plan::Nothing,
        Machine { is_root: true, has_apt: true } => Plan::Install(packages),
        _ => Plan::Tell(by_hand(&packages)),
    }
}

fn by_hand(packages: &[&str]) -> String {
    format!("install these Debian packages (or what they hold) first: apt-get install {}", packages.join(" "))
}

fn run_apt(packages: &[&str]) -> Result<()> {
    // Another apt at work, as on a machine that has just started, is waited for.
    let apt = || {
        Run::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args([
            "-qq",
            "-o",
            "DPkg::Lock::Timeout=120",
        ])
    };
    // A fresh image has no lists of packages.
    apt().args(["update"]).run()?;
    apt().args(["install", "-y", "--no-install-recommends"]).args(packages).run()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT_ON_DEBIAN: Machine = Machine { is_root: true, has_apt: true };

    #[test]
    fn what_is_there_is_not_installed() {
        for machine in [ROOT_ON_DEBIAN, Machine { is_root: false, has_apt: false }] {
            assert_eq!(plan(&[], machine), Plan::Nothing);
        }
    }

    #[test]
    fn root_on_debian_installs_all_that_is_missing() {
        let missing = [&TESTS[0], &TESTS[1]];
        assert_eq!(plan(&missing, ROOT_ON_DEBIAN), Plan::Install(vec!["fuse3", "gcc", "libc6-dev"]));
    }

    #[test]
    fn everybody_else_is_told_what_to_install() {
        for (is_root, has_apt) in [(false, true), (true, false), (false, false)] {
            let Plan::Tell(message) = plan(&[&TESTS[2]], Machine { is_root, has_apt }) else {
                panic!("nothing can be installed");
            };
            assert!(message.ends_with("apt-get install python3-venv"), "{message}");
        }
    }
}
