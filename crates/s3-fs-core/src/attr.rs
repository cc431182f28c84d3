//! What the file system tells about a file or directory.

use std::time::Duration;

use sluicefs_s3_client::Timestamp;

/// The number of a file or directory, stable while the mount lives: the same name gives the same number again after the
/// kernel forgot it, unless its object was replaced from outside after bytes of it were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeNo(pub u64);

impl InodeNo {
    /// The root of the mount (FUSE_ROOT_ID).
    pub const ROOT: Self = Self(1);
}

/// An open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A prefix that some key has, or a `name/` marker.
    Directory,
    /// An object.
    File,
    /// An object whose bytes are the path that it stands for.
    Symlink,
    /// An object that says it is a pipe.
    Fifo,
    /// An object that says it is a socket.
    Socket,
    /// An object that says it is a character device.
    CharDevice,
    /// An object that says it is a block device.
    BlockDevice,
}

/// The bits of `st_mode` that say what a file is (inode(7)).
const TYPES: [(FileKind, u32); 7] = [
    (FileKind::Directory, 0o040_000),
    (FileKind::File, 0o100_000),
    (FileKind::Symlink, 0o120_000),
    (FileKind::Fifo, 0o010_000),
    (FileKind::Socket, 0o140_000),
    (FileKind::CharDevice, 0o020_000),
    (FileKind::BlockDevice, 0o060_000),
];

impl FileKind {
    /// What a file with this `st_mode` is, if the mode says it.
    pub(crate) fn of_mode(mode: u32) -> Option<Self> {
        TYPES.iter().find(|(_, bits)| mode & 0o170_000 == *bits).map(|(kind, _)| *kind)
    }

    /// The bits of `st_mode` that say so.
    pub(crate) fn mode_bits(self) -> u32 {
        TYPES.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, bits)| *bits)
    }
}

/// The attributes of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: InodeNo,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes; 0 for a directory.
    pub size: u64,
    /// When it was last read: as far as somebody has set that, else when the object was written.
    pub atime: Timestamp,
    /// When the object was written; for a directory, when a name in it was made or removed through this mount, else when the mount began.
    pub mtime: Timestamp,
    /// When anything of it was last changed.
    pub ctime: Timestamp,
    /// Permission bits, 0 to 0o7777.
    pub mode: u16,
    /// How many names it has: one, or none any more.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Which device it stands for, if it is one; that device is never reached through it.
    pub rdev: u32,
}

/// What a new file or directory begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAttr {
    /// Permission bits, 0 to 0o7777, without those that the maker's umask takes off.
    pub mode: u16,
    /// Who makes it.
    pub uid: u32,
    /// The maker's group.
    pub gid: u32,
}

/// Attributes to be changed; those that are `None` stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Length in bytes.
    pub size: Option<u64>,
    /// Permission bits, 0 to 0o7777.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// When it was last read.
    pub atime: Option<Timestamp>,
    /// When it was last written.
    pub mtime: Option<Timestamp>,
}

/// Attributes, and how long they may be believed without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The attributes.
    pub attr: Attr,
    /// What is left of their time to live.
    pub ttl: Duration,
}

/// An opened file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedFile {
    /// Names the open file in `read` and `release`.
    pub handle: HandleId,
    /// Pages of this file that the kernel holds are of the version just opened, and may stay.
    pub keep_cache: bool,
}

/// What a reader of a directory wants of each entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirMode {
    /// The name and kind alone (READDIR).
    Names,
    /// The attributes too; every entry but `.` and `..` counts as one lookup (READDIRPLUS).
    Lookup,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Its name, one path component; `.` and `..` come first.
    pub name: &'a str,
    /// Its attributes and their time to live. With [`DirMode::Names`] only `ino` and `kind` are meant.
    pub entry: Entry,
    /// Where to go on reading after this entry.
    pub next_offset: u64,
}

/// The size of the file system, in blocks of `block_size_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in a block.
    pub block_size_bytes: u32,
    /// Blocks in all; a bucket has no limit, so this is a large number.
    pub blocks: u64,
    /// Files in all, likewise.
    pub files: u64,
    /// The longest name, in bytes.
    pub name_max_bytes: u32,
}
