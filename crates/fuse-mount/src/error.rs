//! Why mounting or unmounting failed: one line each, that names the cause and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The result of mounting or unmounting.
pub type Result<T, E = MountError> = std::result::Result<T, E>;

/// A failed mount or unmount. The text is meant for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The directory does not exist.
    #[error("{} does not exist: create the directory first (mkdir -p {})", .0.display(), .0.display())]
    TargetMissing(PathBuf),
    /// The target is a file.
    #[error("{} is not a directory: only a directory can be a mount point", .0.display())]
    NotADirectory(PathBuf),
    /// A FUSE file system is there already.
    #[error(
        "{} is already mounted ({fs_type} from {fs_source}): unmount it first, or choose another directory",
        .target.display()
    )]
    AlreadyMounted {
        /// The directory.
        target: PathBuf,
        /// The type of what is mounted there, such as `fuse.sluicefs`.
        fs_type: String,
        /// Where that comes from, such as `s3://models`.
        fs_source: String,
    },
    /// The target cannot be looked at.
    #[error("cannot look at {}: {source}", .target.display())]
    Target {
        /// The directory.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no `/dev/fuse`.
    #[error(
        "/dev/fuse does not exist: load the kernel's module (modprobe fuse), or start the container with --device /dev/fuse \
         --cap-add SYS_ADMIN; in Kubernetes use the CSI driver"
    )]
    NoDevice,
    /// `/dev/fuse` is there, but may not be opened.
    #[error(
        "opening /dev/fuse is not permitted: in a container add --device /dev/fuse --cap-add SYS_ADMIN (in Kubernetes use the \
         CSI driver), elsewhere check the permissions of the device (usually 0666)"
    )]
    DeviceDenied,
    /// `/dev/fuse` does not open for another reason.
    #[error("cannot open /dev/fuse: {0}")]
    Device(io::Error),
    /// A descriptor that was passed in is not of `/dev/fuse`.
    #[error("file descriptor {0} is not an open /dev/fuse: pass the descriptor that was given to mount(2)")]
    NotAFuseDescriptor(i32),
    /// mount(2) says EPERM.
    #[error(
        "mounting on {} is not permitted: mount(2) needs CAP_SYS_ADMIN (in a container --cap-add SYS_ADMIN, and where AppArmor \
         is on --security-opt apparmor=unconfined), or install fusermount3 (package fuse3)",
        .0.display()
    )]
    NotPermitted(PathBuf),
    /// mount(2) fails in another way.
    #[error("cannot mount on {}: {source}", .target.display())]
    Mount {
        /// The directory.
        target: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An ordinary user, and no helper that may mount for him.
    #[error("fusermount3 is not installed, and mounting without it needs root: install the package fuse3")]
    NoFusermount,
    /// `allow_other` for an ordinary user, who may not have it.
    #[error(
        "--allow-other and --allow-root need the line \"user_allow_other\" in /etc/fuse.conf when you are not root: add it, or \
         mount as root"
    )]
    AllowOtherDenied,
    /// An ordinary user who may not write to the target.
    #[error("{} must be writable by the user who mounts: change its owner or choose another directory", .0.display())]
    TargetNotWritable(PathBuf),
    /// fusermount3 refused for a reason of its own.
    #[error("fusermount3 cannot mount on {}: {message}", .target.display())]
    Fusermount {
        /// The directory.
        target: PathBuf,
        /// What it printed.
        message: String,
    },
    /// Nothing of FUSE is mounted there.
    #[error("{} is not a mount point of a FUSE file system", .0.display())]
    NotMounted(PathBuf),
    /// Somebody uses the mount.
    #[error(
        "{} is in use: close the files and leave the directories below it (fuser -vm {} lists who), or unmount it lazily",
        .0.display(), .0.display()
    )]
    Busy(PathBuf),
    /// Unmounting fails in another way.
    #[error("cannot unmount {}: {source}", .target.display())]
    Unmount {
        /// The directory.
        target: PathBuf,
        /// What the kernel or fusermount3 said.
        source: io::Error,
    },
    /// `/proc/self/mountinfo` cannot be read.
    #[error("cannot read /proc/self/mountinfo: {0}")]
    MountInfo(io::Error),
}

impl MountError {
    /// What looking at `target` failed with.
    pub(crate) fn from_target(target: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::TargetMissing(target.to_owned()),
            io::ErrorKind::NotADirectory => Self::NotADirectory(target.to_owned()),
            _ => Self::Target { target: target.to_owned(), source },
        }
    }
}
