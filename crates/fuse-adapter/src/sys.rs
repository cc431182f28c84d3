//! All `unsafe` of this crate: taking a descriptor by its number.
#![allow(unsafe_code, reason = "this is the one file for it")]

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::{FdFlags, fcntl_setfd};
use sluicefs_fuse_mount::{MountError, check_fuse_device};

/// A descriptor of our own for the `/dev/fuse` that this process was started with as number `fd`.
///
/// The original stays open, but no longer passes to programs that we start.
///
/// # Errors
/// [`MountError::NotAFuseDescriptor`] if there is no such descriptor, or it is of something else.
pub(crate) fn passed_device(fd: i32) -> Result<OwnedFd, MountError> {
    if fd < 0 || std::fs::symlink_metadata(Path::new("/proc/self/fd").join(fd.to_string())).is_err() {
        return Err(MountError::NotAFuseDescriptor(fd));
    }
    // SAFETY: `fd` is not -1, and it is open, as /proc just told. It stays open while it is borrowed: it was there before this
    // process began, so no value in it owns it and nothing closes it.
    // JUSTIFICATION: a descriptor that is known by its number alone can be taken in no other way: opening /dev/fd/N makes a
    // new connection, and pidfd_getfd(2) is refused by the seccomp profiles of containers.
    let passed = unsafe { BorrowedFd::borrow_raw(fd) };
    check_fuse_device(passed)?;
    fcntl_setfd(passed, FdFlags::CLOEXEC).map_err(|error| MountError::Device(error.into()))?;
    passed.try_clone_to_owned().map_err(MountError::Device)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn only_an_open_fuse_device_can_be_passed_in() {
        let null = std::fs::File::open("/dev/null").unwrap();
        for fd in [-1, 1_000_000, null.as_raw_fd()] {
            assert!(matches!(passed_device(fd), Err(MountError::NotAFuseDescriptor(n)) if n == fd), "{fd}");
        }
        let fuse = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let taken = passed_device(fuse.as_raw_fd()).unwrap();
        assert_ne!(taken.as_raw_fd(), fuse.as_raw_fd());
    }
}
