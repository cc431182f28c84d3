//! One short async method per file operation; it only wires the pieces below.

use std::sync::Arc;

use sluicefs_s3_client::{Bucket, ByteRange};

use crate::attr::{DirEntry, DirMode, Entry, HandleId, InodeNo, OpenedFile, StatFs};
use crate::config::{FsConfig, InvalidConfig};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that a read returned: one slice, or several in order.
#[derive(Debug, Default)]
pub struct ReadData(Vec<Vec<u8>>);

impl ReadData {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Whether the read was at or past the end.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Told when attributes of an inode that the kernel may hold are no longer true (the object was found changed while it was read).
pub type ChangeListener = Box<dyn Fn(InodeNo) + Send + Sync>;

/// A bucket, or a prefix of it, as a tree of files.
#[derive(Debug)]
pub struct FileSystem {
    _bucket: Arc<dyn Bucket>,
}

impl FileSystem {
    /// A file system over `bucket`. Makes no request.
    ///
    /// Call it inside a tokio runtime: fetches ahead of readers run there.
    ///
    /// # Errors
    /// [`InvalidConfig`] if the settings do not fit together.
    pub fn new(bucket: Arc<dyn Bucket>, config: FsConfig) -> Result<Arc<Self>, InvalidConfig> {
        config.validate()?;
        Ok(Arc::new(Self { _bucket: bucket }))
    }

    /// Sets who is told of changed attributes; the FUSE adapter tells the kernel.
    pub fn set_change_listener(&self, _listener: ChangeListener) {}

    /// Finds `name` in the directory `parent` and counts one lookup of it.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NameTooLong`, `AccessDenied`, `Io`.
    pub async fn lookup(&self, _parent: InodeNo, _name: &str) -> Result<Entry> {
        Err(Error::new(ErrorKind::Io, "lookup"))
    }

    /// How long the kernel may believe that a name it just looked up is absent.
    pub fn negative_ttl(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    /// Takes back `count` lookups of `ino`; at zero the inode may be dropped.
    pub fn forget(&self, _ino: InodeNo, _count: u64) {}

    /// The attributes of `ino`, asked again if their time is over.
    ///
    /// # Errors
    /// `NotFound` if the object is gone, `BadHandle` for an unknown number, `AccessDenied`, `Io`.
    pub async fn getattr(&self, _ino: InodeNo) -> Result<Entry> {
        Err(Error::new(ErrorKind::Io, "getattr"))
    }

    /// Opens a file for reading. Pair it with [`FileSystem::release`].
    ///
    /// # Errors
    /// `IsADirectory`, `NotFound`, `AccessDenied`, `Archived`, `Io`.
    pub async fn open(&self, _ino: InodeNo) -> Result<OpenedFile> {
        Err(Error::new(ErrorKind::Io, "open"))
    }

    /// Reads up to `range.len()` bytes; fewer only at the end of the object, none past it.
    ///
    /// Cancel-safe: fetches it started go on for other readers until the file is released.
    ///
    /// # Errors
    /// `Stale` if the object changed since it was opened, `BadHandle`, `AccessDenied`, `Archived`, `Io`.
    pub async fn read(&self, _handle: HandleId, _range: ByteRange) -> Result<ReadData> {
        Err(Error::new(ErrorKind::Io, "read"))
    }

    /// Closes a file. Unknown handles are ignored.
    pub fn release(&self, _handle: HandleId) {}

    /// Opens a directory. Pair it with [`FileSystem::release_dir`].
    ///
    /// # Errors
    /// `NotADirectory`, `BadHandle`.
    pub async fn open_dir(&self, _ino: InodeNo) -> Result<HandleId> {
        Err(Error::new(ErrorKind::Io, "opendir"))
    }

    /// Hands the entries after `offset` (0, or a `next_offset` of this handle) to `accept` until it returns false or none are left.
    ///
    /// An entry for which `accept` returns false is not counted as looked up, and comes again next time. Returns at least one entry
    /// unless the directory ends, but not all: it does not wait for the next page when it has something to give.
    ///
    /// # Errors
    /// `NotFound` if the directory is gone, `BadHandle`, `AccessDenied`, `Io`.
    pub async fn read_dir(
        &self,
        _handle: HandleId,
        _offset: u64,
        _mode: DirMode,
        _accept: &mut (dyn FnMut(&DirEntry<'_>) -> bool + Send),
    ) -> Result<()> {
        Err(Error::new(ErrorKind::Io, "readdir"))
    }

    /// Closes a directory. Unknown handles are ignored.
    pub fn release_dir(&self, _handle: HandleId) {}

    /// The size of the file system.
    pub fn statfs(&self) -> StatFs {
        StatFs { block_size_bytes: 4096, blocks: 1 << 40, files: 1 << 40, name_max_bytes: 255 }
    }

    /// The value of an extended attribute: `user.s3.etag`, `user.s3.storage_class`, ...
    ///
    /// # Errors
    /// `NoAttribute`, `BadHandle`, `AccessDenied`, `Io`.
    pub async fn xattr(&self, _ino: InodeNo, _name: &str) -> Result<Vec<u8>> {
        Err(Error::new(ErrorKind::NoAttribute, "getxattr"))
    }

    /// The names of the extended attributes of `ino`.
    ///
    /// # Errors
    /// As [`FileSystem::xattr`].
    pub async fn xattr_names(&self, _ino: InodeNo) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
