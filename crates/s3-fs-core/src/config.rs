//! Settings of a file system: plain data with documented defaults, checked once.

use std::time::Duration;

use sluicefs_s3_client::{KeyPrefix, StorageClass};

use crate::cache::disk::{DiskCacheConfig, DiskCacheError};

/// How long something learnt from the store is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// For this long; zero asks the store each time.
    For(Duration),
    /// Until the mount ends.
    Forever,
}

/// What the kernel is told for [`Ttl::Forever`]: a year, since FUSE has no "for ever".
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Ttl {
    /// The time as a number.
    pub fn duration(self) -> Duration {
        match self {
            Self::For(duration) => duration,
            Self::Forever => FOREVER,
        }
    }
}

/// The least that S3 takes as a part, but for the last (Amazon S3 User Guide, "Amazon S3 multipart upload limits").
const MIN_PART_BYTES: u64 = 5 << 20;

/// Settings of one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsConfig {
    /// The part of the bucket that is the root: empty, or ending in `/`.
    pub prefix: KeyPrefix,
    /// Owner of files and directories, as far as nothing else is known.
    pub uid: u32,
    /// Group of files and directories, as far as nothing else is known.
    pub gid: u32,
    /// Who owns what is made through the mount, default its maker.
    pub uid_of_new: OwnerOfNew,
    /// Whose group it has, default its maker's.
    pub gid_of_new: OwnerOfNew,
    /// Permission bits of files, default 0o644.
    pub file_mode: u16,
    /// Permission bits of directories, default 0o755.
    pub dir_mode: u16,
    /// How long attributes and listings are believed, default 1 s.
    pub metadata_ttl: Ttl,
    /// How long the absence of a name is believed, default 1 s.
    pub negative_ttl: Ttl,
    /// Ask the store at each open of a file whose pages the kernel may hold, even while its attributes are believed: an open
    /// then never sees an older version than the newest (close-to-open consistency). Default true.
    pub revalidate_on_open: bool,
    /// Which version of an object its name stands for. Default the newest.
    pub versions: VersionPolicy,
    /// Which symbolic links there are. Default those that stay inside the mount.
    pub symlinks: Symlinks,
    /// How attributes that a listing does not tell are kept. Default not at all.
    pub attributes: Attributes,
    /// What may be changed. Default everything.
    pub allow: Allow,
    /// How reads fetch ahead.
    pub read: ReadConfig,
    /// How writes are staged and sent.
    pub write: WriteConfig,
}

/// Which version of an object its name stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The newest, as far as it is known.
    #[default]
    Newest,
    /// The one that was seen first, until the file system is refreshed: what has changed since is stale. Only for a mount that changes nothing.
    Pinned,
}

/// Which symbolic links can be made and followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Symlinks {
    /// None: the objects that stand for them are files like all others.
    None,
    /// Those with a relative target in which `..` comes first, if at all, and does not lead out of the mount.
    #[default]
    Inside,
    /// All.
    Any,
}

/// In whose words attributes are kept in the metadata of objects (docs/SEMANTICS.md has the formats).
///
/// Unless it is `None`, each name that is looked at costs a HEAD, and each change of an object's attributes a copy onto itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Attributes {
    /// They are not kept.
    #[default]
    None,
    /// In those of s3fs, where a symbolic link is an object that says so.
    S3fs,
    /// In those of rclone.
    Rclone,
}

/// To whom belongs what is made through the mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OwnerOfNew {
    /// To whoever makes it; the group of a directory with the setgid bit goes to what is made in it.
    #[default]
    Maker,
    /// To whom everything else belongs.
    Settings,
}

/// What a mount may change in the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow {
    /// Whether anything may be changed.
    pub changes: bool,
    /// Whether files and directories may be removed, renamed away included.
    pub delete: bool,
    /// Whether an object that exists may be replaced: written to, cut, or renamed over.
    pub overwrite: bool,
}

impl Allow {
    /// Everything.
    pub const ALL: Self = Self { changes: true, delete: true, overwrite: true };
    /// Reading alone.
    pub const NOTHING: Self = Self { changes: false, delete: false, overwrite: false };
}

/// What to do when the object that a file was made from was replaced by somebody else meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Fail with `Stale`: what the other wrote stays.
    #[default]
    Fail,
    /// Replace it.
    Overwrite,
}

/// How a file that is created exclusively (`O_EXCL`) claims its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Exclusive {
    /// At the store, at once, by an empty object: whoever comes second is told at open.
    #[default]
    AtOpen,
    /// When the file is closed: one request fewer, but the second is told only then.
    AtClose,
}

/// When closing a file returns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WriteBack {
    /// When the store has it.
    #[default]
    Off,
    /// When it is durable in the stage, if there is one with room for it; the store has it later. What somebody else makes of the name meanwhile is
    /// not overwritten, also where the file was cut to nothing.
    Async,
}

/// Settings of the write path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteConfig {
    /// All memory that written bytes may take until they are sent, in bytes; besides [`ReadConfig::memory_limit_bytes`].
    pub memory_limit_bytes: u64,
    /// The first parts of an upload, in bytes; later ones grow. A file up to this long is sent in one request.
    pub part_size_bytes: u64,
    /// What to do about changes from elsewhere.
    pub on_conflict: OnConflict,
    /// How exclusive creation claims a name.
    pub exclusive: Exclusive,
    /// A directory with more objects below it is not renamed: each costs a request or two, and the rename is over only with the last.
    pub max_renamed_objects: u64,
    /// Give what is written the `Content-Type` that the extension of its name stands for, if it does for one. Default true.
    pub infer_content_type: bool,
    /// Removed files are gone at the store a moment later, many by one request. Default false.
    pub delete_behind: bool,
    /// When closing a file returns. Default when the store has it.
    pub write_back: WriteBack,
    /// The tier that new objects are told to be in, as far as attributes show it. The client's settings decide.
    pub storage_class: StorageClass,
}

impl Default for WriteConfig {
    fn default() -> Self {
        Self {
            memory_limit_bytes: 128 << 20,
            part_size_bytes: 8 << 20,
            on_conflict: OnConflict::default(),
            exclusive: Exclusive::default(),
            max_renamed_objects: 100_000,
            infer_content_type: true,
            delete_behind: false,
            write_back: WriteBack::default(),
            storage_class: StorageClass::Standard,
        }
    }
}

/// Settings of the read path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadConfig {
    /// All memory that read buffers and cached blocks may take, in bytes; at least [`ReadConfig::MIN_MEMORY_BYTES`].
    pub memory_limit_bytes: u64,
    /// The largest single GET, in bytes.
    pub part_size_bytes: u64,
    /// How far ahead of one sequential reader to fetch at most, in bytes. Many readers at once share three quarters of the memory.
    pub max_window_bytes: u64,
    /// How much of what was read stays in memory, in bytes, when memory is wanted for what comes next; at most a quarter of the limit
    /// counts. The kernel's page cache holds what was read too, so a little is enough, and memory used again is cheaper than fresh.
    pub history_bytes: u64,
    /// Where blocks that were read are kept beyond the mount. Default nowhere.
    pub disk: Option<DiskCacheConfig>,
    /// A read fails that waits although for so long nothing was fetched or read by this mount. It must be longer than any request may take,
    /// retries included; default 2 min.
    pub stuck_after: Duration,
}

impl ReadConfig {
    /// The least memory that lets several readers make progress: four parts of 8 MiB.
    pub const MIN_MEMORY_BYTES: u64 = 32 << 20;
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            memory_limit_bytes: 512 << 20,
            part_size_bytes: 8 << 20,
            max_window_bytes: 192 << 20,
            history_bytes: 32 << 20,
            disk: None,
            stuck_after: Duration::from_secs(120),
        }
    }
}

impl Default for FsConfig {
    fn default() -> Self {
        Self {
            prefix: KeyPrefix::root(),
            uid: 0,
            gid: 0,
            uid_of_new: OwnerOfNew::Maker,
            gid_of_new: OwnerOfNew::Maker,
            file_mode: 0o644,
            dir_mode: 0o755,
            metadata_ttl: Ttl::For(Duration::from_secs(1)),
            negative_ttl: Ttl::For(Duration::from_secs(1)),
            revalidate_on_open: true,
            versions: VersionPolicy::default(),
            symlinks: Symlinks::default(),
            attributes: Attributes::default(),
            allow: Allow::ALL,
            read: ReadConfig::default(),
            write: WriteConfig::default(),
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// The prefix must be empty or end in `/`.
    #[error("the prefix {0:?} must end in \"/\": it names a directory")]
    Prefix(String),
    /// Too little memory.
    #[error("a memory limit of {0} bytes is too small: the least is {min}", min = ReadConfig::MIN_MEMORY_BYTES)]
    Memory(u64),
    /// A part of an upload is too small for the store, or larger than a quarter of the memory for writes.
    #[error(
        "an upload part size of {part} bytes does not fit: use {MIN_PART_BYTES} to {max}, a quarter of the memory for writes"
    )]
    WritePartSize {
        /// What was asked for.
        part: u64,
        /// The largest that fits.
        max: u64,
    },
    /// Attributes are to be kept in metadata, and the bucket has none.
    #[error(
        "{0} keeps no metadata, in which attributes would be kept: leave --attributes out, or mount a bucket of S3"
    )]
    NoMetadata(String),
    /// Versions are pinned, and objects may be changed.
    #[error(
        "versions are pinned only where nothing is changed: mount read-only, or let names stand for the newest version"
    )]
    PinnedChanges,
    /// The cache on disk cannot be had.
    #[error(transparent)]
    DiskCache(#[from] DiskCacheError),
    /// Part size of zero, or larger than a quarter of the memory limit.
    #[error("a part size of {part} bytes does not fit: use 131072 to {max}, a quarter of the memory limit")]
    PartSize {
        /// What was asked for.
        part: u64,
        /// The largest that fits.
        max: u64,
    },
}

impl FsConfig {
    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// [`InvalidConfig`] names the setting and what would do.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let prefix = self.prefix.as_str();
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return Err(InvalidConfig::Prefix(prefix.to_owned()));
        }
        if self.versions == VersionPolicy::Pinned && self.allow.changes {
            return Err(InvalidConfig::PinnedChanges);
        }
        let read = &self.read;
        if read.memory_limit_bytes < ReadConfig::MIN_MEMORY_BYTES {
            return Err(InvalidConfig::Memory(read.memory_limit_bytes));
        }
        let max = read.memory_limit_bytes / 4;
        if !(128 << 10..=max).contains(&read.part_size_bytes) {
            return Err(InvalidConfig::PartSize { part: read.part_size_bytes, max });
        }
        let (part, max) = (self.write.part_size_bytes, self.write.memory_limit_bytes / 4);
        if self.allow.changes && !(MIN_PART_BYTES..=max).contains(&part) {
            return Err(InvalidConfig::WritePartSize { part, max });
        }
        Ok(())
    }
}
