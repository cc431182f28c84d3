//! What is at a target now: nothing, a living mount, or one whose server has died.

use std::path::Path;

use rustix::io::Errno;

use crate::error::Result;
use crate::mountinfo::{MountEntry, MountTable};
use crate::options::UnmountMode;
use crate::target::resolve;
use crate::unmount::detach;

/// What is mounted at a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountState {
    /// The directory is no mount point.
    NotMounted,
    /// Something is mounted, and not known to be dead.
    Mounted {
        /// Its type, such as `fuse.sluicefs`.
        fs_type: String,
        /// What is mounted, such as `s3://models`.
        source: String,
    },
    /// A FUSE mount that nobody serves any more: every access fails with ENOTCONN.
    Dead {
        /// Its type, such as `fuse.sluicefs`.
        fs_type: String,
        /// What was mounted.
        source: String,
    },
}

/// Tells what is mounted at `target`.
///
/// Asks FUSE mounts for their root, so it waits for a server that is stopped.
///
/// # Errors
/// [`TargetMissing`](crate::MountError::TargetMissing) if there is no such path, [`Target`](crate::MountError::Target) if it cannot be looked at.
pub fn mount_state(target: &Path) -> Result<MountState> {
    let target = resolve(target)?;
    let table = MountTable::read()?;
    let Some(entry) = table.top(&target) else { return Ok(MountState::NotMounted) };
    let (fs_type, source) = (entry.fs_type.clone(), entry.source.clone());
    if is_dead(entry) {
        return Ok(MountState::Dead { fs_type, source });
    }
    Ok(MountState::Mounted { fs_type, source })
}

/// Unmounts `target` lazily if it is one of our own mounts and its server has died; whether it did.
///
/// # Errors
/// As [`mount_state`], and [`Unmount`](crate::MountError::Unmount).
pub fn clear_dead(target: &Path) -> Result<bool> {
    let target = resolve(target)?;
    let table = MountTable::read()?;
    match table.top(&target) {
        Some(entry) if entry.is_ours() && is_dead(entry) => {
            detach(&target, UnmountMode::Lazy)?;
            tracing::info!(target_path = %target.display(), source = entry.source, "removed a mount whose server had died");
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(crate) fn is_dead(entry: &MountEntry) -> bool {
    // statfs always asks the server, where stat may answer from the kernel's cache.
    entry.is_fuse() && matches!(rustix::fs::statfs(&entry.mount_point), Err(Errno::NOTCONN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_directory_is_not_mounted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mount_state(dir.path()).unwrap(), MountState::NotMounted);
        assert!(!clear_dead(dir.path()).unwrap());
        assert!(
            matches!(mount_state(Path::new("/proc")).unwrap(), MountState::Mounted { fs_type, .. } if fs_type == "proc")
        );
    }
}
