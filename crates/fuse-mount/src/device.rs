//! `/dev/fuse`: opening it, and recognising a descriptor of it that somebody passed in.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, fstat, major, minor};
use rustix::io::Errno;

use crate::error::{MountError, Result};
use crate::mountinfo::DeviceNo;

/// Character device 10:229 is `/dev/fuse` (Documentation/admin-guide/devices.txt).
const FUSE_DEVICE: DeviceNo = DeviceNo { major: 10, minor: 229 };

/// Opens `/dev/fuse`.
pub(crate) fn open() -> Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(explain_open)?;
    Ok(device.into())
}

fn explain_open(error: io::Error) -> MountError {
    match Errno::from_io_error(&error) {
        // ENODEV, ENXIO: the node is there, the module is not.
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => MountError::NoDevice,
        // EPERM comes from the device cgroup of a container.
        Some(Errno::ACCESS | Errno::PERM) => MountError::DeviceDenied,
        _ => MountError::Device(error),
    }
}

/// The number in a target of the form `/dev/fd/N`: somebody else has mounted, and passes the open `/dev/fuse` in.
pub fn passed_descriptor(target: &Path) -> Option<i32> {
    let digits = target.to_str()?.strip_prefix("/dev/fd/")?;
    // "+3" parses too, but is no name in /dev/fd.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Checks that `fd` is an open `/dev/fuse`.
///
/// # Errors
/// [`MountError::NotAFuseDescriptor`]
pub fn check_fuse_device(fd: BorrowedFd<'_>) -> Result<()> {
    let wrong = || MountError::NotAFuseDescriptor(fd.as_raw_fd());
    let stat = fstat(fd).map_err(|_| wrong())?;
    let device = DeviceNo { major: major(stat.st_rdev), minor: minor(stat.st_rdev) };
    let is_fuse = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && device == FUSE_DEVICE;
    is_fuse.then_some(()).ok_or_else(wrong)
}

/// The device number of the mount that `fd` serves, where the kernel tells (`fuse_connection` in fdinfo).
pub fn connection_of(fd: BorrowedFd<'_>) -> Option<DeviceNo> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = File::open(path).and_then(io::read_to_string).ok()?;
    parse_fdinfo(&text)
}

fn parse_fdinfo(text: &str) -> Option<DeviceNo> {
    let value = text.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?;
    Some(DeviceNo { major: 0, minor: value.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn only_a_number_in_dev_fd_is_a_passed_descriptor() {
        for (target, expected) in [
            ("/dev/fd/3", Some(3)),
            ("/dev/fd/12", Some(12)),
            ("/dev/fd/", None),
            ("/dev/fd/+3", None),
            ("/dev/fd/-3", None),
            ("/dev/fd/3/x", None),
            ("/dev/fd/99999999999", None),
            ("/mnt/3", None),
        ] {
            assert_eq!(passed_descriptor(Path::new(target)), expected, "{target}");
        }
    }

    #[test]
    fn only_dev_fuse_is_a_fuse_device() {
        let null = File::open("/dev/null").unwrap();
        assert!(matches!(check_fuse_device(null.as_fd()), Err(MountError::NotAFuseDescriptor(_))));
        let regular = tempfile::tempfile().unwrap();
        assert!(check_fuse_device(regular.as_fd()).is_err());
    }

    #[test]
    fn a_missing_and_a_forbidden_device_have_their_own_texts() {
        for (errno, expected) in [
            (Errno::NOENT, "/dev/fuse does not exist"),
            (Errno::NXIO, "/dev/fuse does not exist"),
            (Errno::ACCESS, "opening /dev/fuse is not permitted"),
            (Errno::PERM, "opening /dev/fuse is not permitted"),
            (Errno::MFILE, "cannot open /dev/fuse"),
        ] {
            let text = explain_open(errno.into()).to_string();
            assert!(text.starts_with(expected) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn the_connection_is_read_from_fdinfo() {
        let text = "pos:\t0\nflags:\t02\nmnt_id:\t9\nino:\t4\nfuse_connection:\t47\n";
        assert_eq!(parse_fdinfo(text), Some(DeviceNo { major: 0, minor: 47 }));
        assert_eq!(parse_fdinfo("pos:\t0\n"), None);
    }
}
