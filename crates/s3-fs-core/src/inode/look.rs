//! How inodes look to `stat`: what the store, the mount's settings, programs and writers say, each over the one before.

use std::sync::Weak;
use std::time::Duration;

use sluicefs_s3_client::{ObjectMeta, Timestamp};
use tokio::time::Instant;

use super::{GivenAttr, Inode, Node};
use crate::attr::{Attr, Entry, FileKind, InodeNo};
use crate::clock;
use crate::config::FsConfig;

/// What all inodes have in common in the eyes of `stat`.
#[derive(Debug)]
pub(super) struct Look {
    uid: u32,
    gid: u32,
    file_mode: u16,
    dir_mode: u16,
    /// How long attributes of files that are written here may be told.
    ttl: Duration,
    /// The time stamp of every directory: when the mount began, as S3 keeps none.
    started: Timestamp,
}

impl Look {
    pub(super) fn new(config: &FsConfig) -> Self {
        Self {
            uid: config.uid,
            gid: config.gid,
            file_mode: config.file_mode,
            dir_mode: config.dir_mode,
            ttl: config.metadata_ttl.duration(),
            started: clock::now(),
        }
    }

    /// The attributes of what the store describes as `meta`, or of a directory.
    pub(super) fn attr(&self, ino: InodeNo, kind: FileKind, meta: Option<&ObjectMeta>) -> Attr {
        let (size, mtime) = meta.map_or((0, self.started), |meta| (meta.size, meta.last_modified));
        let mode = match kind {
            FileKind::Directory => self.dir_mode,
            FileKind::File
            | FileKind::Fifo
            | FileKind::Socket
            | FileKind::CharDevice
            | FileKind::BlockDevice => self.file_mode,
            // Linux looks at no permissions of links (symlink(7)).
            FileKind::Symlink => 0o777,
        };
        let (atime, ctime) = (mtime, mtime);
        Attr { ino, kind, size, atime, mtime, ctime, mode, nlink: 1, uid: self.uid, gid: self.gid, rdev: 0 }
    }

    /// The attributes of the inode `ino`.
    pub(super) fn of(&self, ino: InodeNo, inode: &Inode) -> Attr {
        let meta = match &inode.node {
            Node::Directory(_) => None,
            Node::Object(_, meta) => Some(meta),
        };
        let mut attr = self.attr(ino, inode.node.kind(), meta);
        if let Some(written) = inode.written.as_ref().and_then(Weak::upgrade) {
            (attr.size, attr.mtime) = written.attributes();
            (attr.atime, attr.ctime) = (attr.mtime, attr.mtime);
        }
        if inode.is_replaced && !inode.is_outdated {
            // Removed, or replaced, by this mount.
            attr.nlink = 0;
        }
        if let Some(given) = &inode.given {
            Self::give(&mut attr, given);
        }
        attr
    }

    /// What a file of this kind is that is made just now and given this.
    pub(super) fn of_new(&self, kind: FileKind, given: &GivenAttr) -> Attr {
        let now = clock::now();
        let mut attr = self.attr(InodeNo(0), kind, None);
        (attr.atime, attr.mtime, attr.ctime) = (now, now, now);
        Self::give(&mut attr, given);
        attr
    }

    fn give(attr: &mut Attr, given: &GivenAttr) {
        attr.mode = given.mode.unwrap_or(attr.mode);
        attr.uid = given.uid.unwrap_or(attr.uid);
        attr.gid = given.gid.unwrap_or(attr.gid);
        attr.rdev = given.rdev.unwrap_or(attr.rdev);
        attr.atime = given.atime.unwrap_or(attr.atime);
        attr.mtime = given.names.or(given.mtime).unwrap_or(attr.mtime);
        // Writing changes this, too.
        attr.ctime = given.ctime.max(given.names).map_or(attr.ctime, |given| given.max(attr.ctime));
    }

    /// The same with the time for which the kernel may believe them.
    pub(super) fn entry(&self, ino: InodeNo, inode: &Inode, now: Instant) -> Entry {
        let ttl = inode.valid_until.saturating_duration_since(now);
        let ttl = if inode.is_written() { self.ttl } else { ttl };
        Entry { attr: self.of(ino, inode), ttl }
    }
}
