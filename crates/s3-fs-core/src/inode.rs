//! Files and directories the kernel knows by number.
//!
//! [`InodeTable`](table::InodeTable) holds one [`Inode`] for each number with lookups, and nothing for names nobody
//! asked for: those stay in listing pages. What the store says of a name is a [`Remote`].

mod look;
pub(crate) mod negative;
mod replaced;
pub(crate) mod stored;
pub(crate) mod table;

use std::sync::{Arc, Weak};

use sluicefs_s3_client::{KeyPrefix, ObjectMeta, Timestamp};
use tokio::time::Instant;

use self::stored::XattrMap;
use crate::attr::{Attr, FileKind, InodeNo, NewAttr};
use crate::clock;
use crate::config::{FsConfig, OwnerOfNew};

/// The mode bit that makes a directory hand on its group (inode(7), S_ISGID).
const SETGID: u16 = 0o2000;

/// What the store has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remote {
    /// Keys that begin with the name and a slash.
    Directory,
    /// An object, which is a file or something else.
    Object(FileKind, ObjectMeta),
}

/// A file or directory that the kernel knows, or a directory with such below it.
#[derive(Debug)]
pub(crate) struct Inode {
    /// The directory it is in; the root is its own parent.
    pub(crate) parent: InodeNo,
    /// Its name there; empty for the root.
    pub(crate) name: Box<str>,
    /// How often the kernel looked it up and did not forget it yet.
    pub(crate) lookups: u64,
    /// How many inodes of the table have this as their parent.
    pub(crate) children: u32,
    /// Its name has another number by now: this one belongs to who has it open, and is of the version that they read.
    pub(crate) is_replaced: bool,
    /// That is because the store had another version: handles that had no byte of this one may read that.
    pub(crate) is_outdated: bool,
    /// Until when what is known of it may be told without asking again.
    pub(crate) valid_until: Instant,
    /// What it is.
    pub(crate) node: Node,
    /// It is being written here: its length and time are those of what is written, and what the store has is older.
    /// Who writes it holds that.
    pub(crate) written: Option<Weak<dyn BeingWritten>>,
    /// This mount wrote the version that it has: the time of that is known better here than at the store, and stays.
    pub(crate) is_own_version: bool,
    /// Where it leads, if it is a symbolic link that was read.
    pub(crate) target: Option<Arc<[u8]>>,
    /// Extended attributes that its metadata have.
    pub(crate) xattrs: Arc<XattrMap>,
    /// Attributes that programs gave it through this mount, or its metadata.
    pub(crate) given: Option<Box<GivenAttr>>,
    /// So many changes of that are on their way to the store: what it tells may be older.
    pub(crate) changing: u16,
}

impl Inode {
    /// Whether neither the kernel, nor anything below it, nor what is written to it needs it.
    pub(crate) fn is_unused(&self) -> bool {
        self.lookups == 0 && self.children == 0 && !self.is_written()
    }

    /// Whether it is being written here.
    pub(crate) fn is_written(&self) -> bool {
        self.written.as_ref().is_some_and(|written| written.strong_count() > 0)
    }
}

/// A file that is being written.
pub(crate) trait BeingWritten: std::fmt::Debug + Send + Sync {
    /// Its length in bytes and the time of its last change.
    fn attributes(&self) -> (u64, Timestamp);
}

/// Attributes that were set, where they differ from what the settings and the store say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct GivenAttr {
    pub(crate) mode: Option<u16>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) atime: Option<Timestamp>,
    pub(crate) mtime: Option<Timestamp>,
    /// When attributes were last given, or the name changed.
    pub(crate) ctime: Option<Timestamp>,
    /// When names in it were last made or removed here, if no time was given to it since. This is not stored.
    pub(crate) names: Option<Timestamp>,
    /// Which device it stands for.
    pub(crate) rdev: Option<u32>,
}

impl GivenAttr {
    /// Of a directory in which names changed at `now`.
    pub(crate) fn names_changed_at(now: Timestamp) -> Self {
        Self { names: Some(now), ..Self::default() }
    }

    /// Of something about which anything else changed at `now`.
    pub(crate) fn touched_at(now: Timestamp) -> Self {
        Self { ctime: Some(now), ..Self::default() }
    }

    /// What `new`, made in the directory `parent`, begins with.
    ///
    /// A directory with the setgid bit hands its group on, and that bit to directories (mkdir(2), "BSD group semantics").
    pub(crate) fn of_new(new: NewAttr, kind: FileKind, parent: &Attr, config: &FsConfig) -> Self {
        // A file has the times of what is written to it.
        let now = (kind != FileKind::File).then(clock::now);
        let hands_on = parent.mode & SETGID != 0;
        let gid = if hands_on { parent.gid } else { new.gid };
        let bit = if hands_on && kind == FileKind::Directory { SETGID } else { 0 };
        Self {
            mode: Some(new.mode | bit),
            uid: (config.uid_of_new == OwnerOfNew::Maker).then_some(new.uid),
            gid: (config.gid_of_new == OwnerOfNew::Maker).then_some(gid),
            atime: now,
            mtime: now,
            ctime: now,
            names: None,
            rdev: None,
        }
    }

    /// Those of `newer`, and of these where it has none.
    pub(crate) fn or(self, newer: Self) -> Self {
        Self {
            mode: newer.mode.or(self.mode),
            uid: newer.uid.or(self.uid),
            gid: newer.gid.or(self.gid),
            atime: newer.atime.or(self.atime),
            mtime: newer.mtime.or(self.mtime),
            ctime: newer.ctime.or(self.ctime),
            names: newer.names.or(self.names.filter(|_| newer.mtime.is_none())),
            rdev: newer.rdev.or(self.rdev),
        }
    }
}

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Node {
    /// A directory: the beginning of the keys below it.
    Directory(KeyPrefix),
    /// A file, or something else that is an object: the object as last seen.
    Object(FileKind, ObjectMeta),
}

/// Knows of which versions the kernel has bytes.
///
/// The table asks while it is locked: an answer and what the table makes of it are one step.
pub(crate) trait Versions: std::fmt::Debug + Send + Sync {
    /// The object of `ino` was seen as `seen`, of the same length: whether the inode may have that version under its number. If so,
    /// handles that had no byte move on to it.
    fn follow(&self, ino: InodeNo, seen: &ObjectMeta) -> Follow;

    /// A read found the object of `ino` as `seen`, perhaps of another length: whether its handles go on with that.
    fn move_on(&self, ino: InodeNo, seen: &ObjectMeta) -> bool;

    /// The version `written` of `ino` was written through this mount.
    fn commit(&self, ino: InodeNo, written: &ObjectMeta);

    /// The kernel has no more references to `ino`, nor pages of it.
    fn forget(&self, ino: InodeNo);
}

/// What a version that was seen means for the inode of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// The kernel has no bytes under this number: it may stand for any version.
    Free,
    /// The version seen is the one that the kernel may have bytes of.
    Same,
    /// The kernel has bytes of another version, which it would mix with those of this one.
    Parts,
}

/// Whether two descriptions are of the same bytes. Without an ETag on both sides, length and time must do.
pub(crate) fn is_same_version(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    match (&a.etag, &b.etag) {
        (Some(x), Some(y)) => x == y && a.size == b.size,
        // HEAD gives fractions of a second where listings do, or neither: whole seconds are what all servers agree on.
        _ => a.size == b.size && a.last_modified.secs == b.last_modified.secs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parent_mode: u16, kind: FileKind, config: &FsConfig, expected: (u16, Option<u32>, Option<u32>)) {
        let time = Timestamp::default();
        let parent = Attr {
            ino: InodeNo::ROOT,
            kind: FileKind::Directory,
            size: 0,
            atime: time,
            mtime: time,
            ctime: time,
            mode: parent_mode,
            nlink: 1,
            uid: 1,
            gid: 2,
            rdev: 0,
        };
        let new = NewAttr { mode: 0o640, uid: 10, gid: 20 };
        let given = GivenAttr::of_new(new, kind, &parent, config);
        assert_eq!((given.mode, given.uid, given.gid), (Some(expected.0), expected.1, expected.2));
    }

    #[test]
    fn what_is_new_belongs_to_its_maker_unless_its_directory_or_the_settings_say_otherwise() {
        let makers = FsConfig::default();
        check(0o755, FileKind::File, &makers, (0o640, Some(10), Some(20)));
        check(0o2755, FileKind::File, &makers, (0o640, Some(10), Some(2)));
        check(0o2755, FileKind::Directory, &makers, (0o2640, Some(10), Some(2)));
        let fixed = FsConfig { uid_of_new: OwnerOfNew::Settings, gid_of_new: OwnerOfNew::Settings, ..makers };
        check(0o755, FileKind::File, &fixed, (0o640, None, None));
    }
}
