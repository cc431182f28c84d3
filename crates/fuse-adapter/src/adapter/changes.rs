//! Requests that change something: each decoded, done, and answered once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow,
};
use rustix::fs::{FileType, OFlags, XattrFlags};
use sluicefs_core::{
    Creation, Entry, Existing, FileKind, HandleId, NewAttr, Replace, Result, SetAttr, XattrMode,
};
use sluicefs_s3_client::Timestamp;

use super::{Core, GENERATION};
use crate::convert::{attributes, fopen_flags, inode};

/// `FALLOC_FL_KEEP_SIZE` (fallocate(2)): the length stays; a bucket has room without end, so nothing is left to do.
const KEEP_SIZE: i32 = 1;

impl Core {
    /// Opens a file for writing.
    pub(super) async fn open_for_writing(self: Arc<Self>, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.fs.open_for_writing(inode(ino), existing(flags.0)).await {
            Ok(opened) => {
                // What is written is nowhere else, so it is read here.
                self.local.add(ino.0, || None);
                reply.opened(FileHandle(opened.handle.0), write_flags(&opened));
            }
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn create(
        self: Arc<Self>,
        parent: INodeNo,
        name: String,
        new: NewAttr,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let creation = match OFlags::from_bits_retain(flags.cast_unsigned()).contains(OFlags::EXCL) {
            true => Creation::Exclusive,
            false => Creation::OrOpen(existing(flags)),
        };
        match self.fs.create(inode(parent), &name, new, creation).await {
            Ok((entry, opened)) => {
                self.local.add(entry.attr.ino.0, || None);
                let (attr, handle) = (attributes(&entry.attr), FileHandle(opened.handle.0));
                reply.created(&entry.ttl, &attr, GENERATION, handle, write_flags(&opened));
            }
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    /// mknod(2): a regular file, or something that nothing is ever read from.
    pub(super) async fn make_node(
        self: Arc<Self>,
        parent: INodeNo,
        name: String,
        (file_type, rdev): (FileType, u32),
        new: NewAttr,
        reply: ReplyEntry,
    ) {
        let special = match file_type {
            FileType::Fifo => Some(FileKind::Fifo),
            FileType::Socket => Some(FileKind::Socket),
            FileType::CharacterDevice => Some(FileKind::CharDevice),
            FileType::BlockDevice => Some(FileKind::BlockDevice),
            _ => None,
        };
        if let Some(kind) = special {
            return self.made(self.fs.make_node((inode(parent), &name), (kind, rdev), new).await, reply);
        }
        let created = self.fs.create(inode(parent), &name, new, Creation::Exclusive).await;
        let made = match created {
            Ok((entry, opened)) => {
                let saved = self.fs.flush(opened.handle).await;
                self.fs.release(opened.handle);
                if saved.is_err() {
                    self.fs.forget(entry.attr.ino, 1);
                }
                saved.map(|()| entry)
            }
            Err(error) => Err(error),
        };
        self.made(made, reply);
    }

    pub(super) async fn make_dir(
        self: Arc<Self>,
        parent: INodeNo,
        name: String,
        new: NewAttr,
        reply: ReplyEntry,
    ) {
        self.made(self.fs.make_dir(inode(parent), &name, new).await, reply);
    }

    pub(super) async fn symlink(
        self: Arc<Self>,
        (parent, name): (INodeNo, String),
        target: OsString,
        new: NewAttr,
        reply: ReplyEntry,
    ) {
        self.made(self.fs.symlink(inode(parent), &name, target.as_bytes(), new).await, reply);
    }

    fn made(&self, made: Result<Entry>, reply: ReplyEntry) {
        match made {
            Ok(entry) => reply.entry(&entry.ttl, &attributes(&entry.attr), GENERATION),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn write(
        self: Arc<Self>,
        handle: FileHandle,
        offset: u64,
        data: Vec<u8>,
        reply: ReplyWrite,
    ) {
        let written = self.fs.write(HandleId(handle.0), offset, &data).await;
        self.wrote(written, data.len(), reply);
    }

    pub(super) fn wrote(&self, written: Result<()>, len: usize, reply: ReplyWrite) {
        match written {
            Ok(()) => reply.written(u32::try_from(len).expect("the kernel sends at most max_write")),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn flush(self: Arc<Self>, handle: FileHandle, reply: ReplyEmpty) {
        self.done(self.fs.flush(HandleId(handle.0)).await, reply);
    }

    pub(super) async fn fsync(self: Arc<Self>, handle: FileHandle, reply: ReplyEmpty) {
        self.done(self.fs.fsync(HandleId(handle.0)).await, reply);
    }

    pub(super) async fn fsyncdir(self: Arc<Self>, reply: ReplyEmpty) {
        self.done(self.fs.sync_removals().await, reply);
    }

    pub(super) async fn unlink(self: Arc<Self>, parent: INodeNo, name: String, reply: ReplyEmpty) {
        self.done(self.fs.unlink(inode(parent), &name).await, reply);
    }

    pub(super) async fn remove_dir(self: Arc<Self>, parent: INodeNo, name: String, reply: ReplyEmpty) {
        self.done(self.fs.remove_dir(inode(parent), &name).await, reply);
    }

    pub(super) async fn rename(
        self: Arc<Self>,
        from: (INodeNo, String),
        to: (INodeNo, String),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // RENAME_EXCHANGE and RENAME_WHITEOUT (rename(2): EINVAL where the file system cannot).
        if !RenameFlags::RENAME_NOREPLACE.contains(flags) {
            return reply.error(Errno::EINVAL);
        }
        let replace = match flags.contains(RenameFlags::RENAME_NOREPLACE) {
            true => Replace::Forbidden,
            false => Replace::Allowed,
        };
        let renamed = self.fs.rename((inode(from.0), &from.1), (inode(to.0), &to.1), replace).await;
        self.done(renamed, reply);
    }

    pub(super) async fn set_attr(self: Arc<Self>, ino: INodeNo, set: SetAttr, reply: ReplyAttr) {
        match self.fs.set_attr(inode(ino), set).await {
            Ok(entry) => reply.attr(&entry.ttl, &attributes(&entry.attr)),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn allocate(
        self: Arc<Self>,
        handle: FileHandle,
        end: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match mode {
            0 => self.done(self.fs.allocate(HandleId(handle.0), end).await, reply),
            KEEP_SIZE => reply.ok(),
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }

    /// What there can be none of: hard links.
    pub(super) fn no_links(&self) -> Errno {
        if self.fs.is_read_only() { Errno::EROFS } else { Errno::EPERM }
    }

    pub(super) async fn set_xattr(
        self: Arc<Self>,
        ino: INodeNo,
        name: String,
        (value, flags): (Vec<u8>, i32),
        reply: ReplyEmpty,
    ) {
        let mode = match XattrFlags::from_bits_retain(flags.cast_unsigned()) {
            flags if flags.contains(XattrFlags::CREATE) => XattrMode::Create,
            flags if flags.contains(XattrFlags::REPLACE) => XattrMode::Replace,
            _ => XattrMode::Any,
        };
        self.done(self.fs.set_xattr(inode(ino), &name, &value, mode).await, reply);
    }

    pub(super) async fn remove_xattr(self: Arc<Self>, ino: INodeNo, name: String, reply: ReplyEmpty) {
        self.done(self.fs.remove_xattr(inode(ino), &name).await, reply);
    }

    fn done(&self, done: Result<()>, reply: ReplyEmpty) {
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }
}

/// What is told of a file opened for writing: its FLUSH must come, since close(2) tells what became of the writes.
fn write_flags(opened: &sluicefs_core::OpenedFile) -> FopenFlags {
    fopen_flags(opened).difference(FopenFlags::FOPEN_NOFLUSH)
}

/// Whether a file may be written through a handle opened with these flags.
pub(super) fn writes(flags: OpenFlags) -> bool {
    let flags = OFlags::from_bits_retain(flags.0.cast_unsigned());
    flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)
}

fn existing(flags: i32) -> Existing {
    match OFlags::from_bits_retain(flags.cast_unsigned()).contains(OFlags::TRUNC) {
        true => Existing::Truncate,
        false => Existing::Keep,
    }
}

fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).expect("twelve bits")
}

/// What `request` makes; the kernel took the umask off `mode` already.
pub(super) fn new_attr(request: &Request, mode: u32) -> NewAttr {
    NewAttr { mode: permissions(mode), uid: request.uid(), gid: request.gid() }
}

/// What SETATTR asks for.
pub(super) fn wanted(
    (mode, uid, gid): (Option<u32>, Option<u32>, Option<u32>),
    size: Option<u64>,
    (atime, mtime): (Option<TimeOrNow>, Option<TimeOrNow>),
) -> SetAttr {
    SetAttr {
        size,
        mode: mode.map(permissions),
        uid,
        gid,
        atime: atime.map(timestamp),
        mtime: mtime.map(timestamp),
    }
}

#[expect(clippy::disallowed_methods, reason = "UTIME_NOW is the time of day")]
fn timestamp(at: TimeOrNow) -> Timestamp {
    let at = match at {
        TimeOrNow::SpecificTime(at) => at,
        TimeOrNow::Now => SystemTime::now(),
    };
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { secs: seconds(since), nanos: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => Timestamp { secs: -seconds(before), nanos: 0 },
                nanos => Timestamp { secs: -seconds(before) - 1, nanos: 1_000_000_000 - nanos },
            }
        }
    }
}
