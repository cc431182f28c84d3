//! S3 prefixes as an inode tree with a read-ahead cache.
//!
//! [`FileSystem`] answers the questions a kernel asks (look a name up, list a directory, read a range) with the fewest
//! requests to a [`Bucket`](sluicefs_s3_client::Bucket) that are correct. It knows nothing of FUSE, gRPC or a command line: any Rust
//! program may use it as a library.
#![forbid(unsafe_code)]

pub mod attr;
pub(crate) mod budget;
pub(crate) mod cache;
mod clock;
pub mod config;
pub mod error;
pub mod filesystem;
mod handle;
mod inode;
pub mod kernel;
mod link;
mod listing;
mod local;
mod open_file;
mod path;
mod pins;
pub(crate) mod read;
mod readdir;
mod removals;
mod resolve;
mod tree;
mod warm;
mod write;
pub mod xattr;

pub use attr::{
    Attr, DirEntry, DirMode, Entry, FileKind, HandleId, InodeNo, NewAttr, OpenedFile, SetAttr, StatFs,
};
pub use cache::disk::{DiskCacheConfig, DiskCacheError, DiskStats, LocalFile};
pub use config::{
    Allow, Attributes, Exclusive, FsConfig, OnConflict, OwnerOfNew, ReadConfig, Symlinks, Ttl, VersionPolicy,
    WriteBack, WriteConfig,
};
pub use error::{Error, ErrorKind, Result};
pub use filesystem::{
    Creation, Ended, Existing, FileSystem, PinStats, Refreshed, Replace, Restored, Unfinished, XattrMode,
};
pub use kernel::Kernel;
pub use read::{FileReads, MAX_READ_BYTES, Pattern, ReadData, ReadStats, Taken};
pub use removals::RemovalStats;
pub use warm::{Cold, WarmConfig, WarmError, Warmer};
pub use write::{FileBeingWritten, LostFile, QueuedFile, QueuedState, WriteStatus};
