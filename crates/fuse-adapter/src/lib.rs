//! Serves a [`FileSystem`](sluicefs_core::FileSystem) through FUSE.
//!
//! [`mount`] puts it on a directory and returns a [`MountedSession`], which is the mount: dropping it unmounts. Requests
//! are decoded by `adapter`, answered from memory at once where that can be, and otherwise by a task on the runtime; no
//! thread that reads requests ever waits for the network. Only this crate names an errno.

mod adapter;
mod convert;
mod device;
mod errno;
mod kernel;
mod notify;
mod session;
mod sys;
mod tasks;

pub use adapter::{Passthrough, Xattrs};
pub use session::{MountConfig, MountedSession, SessionError, mount};
pub use sluicefs_fuse_mount::{Access, Method, MountError, UnmountMode};
