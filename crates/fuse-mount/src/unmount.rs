//! Takes a mount away: umount2 for root, fusermount3 for everyone else.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{MountError, Result};
use crate::fusermount;
use crate::mountinfo::MountTable;
use crate::options::UnmountMode;
use crate::target::resolve;

/// Unmounts the FUSE file system at `target`.
///
/// # Errors
/// [`MountError::NotMounted`] if there is none, [`MountError::Busy`] if it is in use.
pub fn unmount(target: &Path, mode: UnmountMode) -> Result<()> {
    let target = resolve(target)?;
    match MountTable::read()?.top(&target) {
        Some(entry) if entry.is_fuse() => detach(&target, mode),
        _ => Err(MountError::NotMounted(target)),
    }
}

/// Unmounts what is at `target`, an absolute path as in mountinfo.
pub(crate) fn detach(target: &Path, mode: UnmountMode) -> Result<()> {
    // The target was resolved before: a link that somebody put there since means another place.
    let flags = match mode {
        UnmountMode::Graceful => UnmountFlags::NOFOLLOW,
        UnmountMode::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(target, flags) {
        Ok(()) => Ok(()),
        // Only root may; fusermount3 is setuid root and checks that the mount is the caller's.
        Err(Errno::PERM) => fusermount::unmount(target, mode),
        Err(Errno::BUSY) => Err(MountError::Busy(target.to_owned())),
        Err(Errno::INVAL) => Err(MountError::NotMounted(target.to_owned())),
        Err(error) => Err(MountError::Unmount { target: target.to_owned(), source: error.into() }),
    }
}
