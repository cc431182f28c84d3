//! The kernel side of mounting a FUSE file system: mount(2) or fusermount3, mountinfo, fusectl.
//!
//! [`mount()`] opens `/dev/fuse`, attaches it to a directory and hands the descriptor out; who serves it is not its
//! business. [`MountPoint`] takes the mount away again when it is dropped, so that a failed start leaves nothing
//! mounted. This is the only crate that opens `/dev/fuse` or mounts: the file system and the CSI node share it.
#![forbid(unsafe_code)]

pub mod connection;
pub mod device;
pub mod error;
mod fusermount;
pub mod mount;
pub mod mountinfo;
pub mod options;
pub mod state;
mod target;
pub mod unmount;

pub use connection::{BackingDevice, Connection};
pub use device::{check_fuse_device, connection_of, passed_descriptor};
pub use error::{MountError, Result};
pub use mount::{MountPoint, Mounted, mount};
pub use mountinfo::{DeviceNo, MountEntry, MountTable};
pub use options::{Access, Method, MountOptions, UnmountMode};
pub use state::{MountState, clear_dead, mount_state};
pub use unmount::unmount;

/// What `/proc/mounts` calls the type of our mounts.
pub const FS_TYPE: &str = "fuse.sluicefs";
