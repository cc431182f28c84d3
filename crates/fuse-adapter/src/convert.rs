//! Between the core's words and the kernel's: attributes, open flags, permissions, the size protocol of xattrs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{AccessFlags, Errno, FileAttr, FileType, FopenFlags, INodeNo, OpenFlags};
use rustix::fs::OFlags;
use sluicefs_core::{Attr, FileKind, InodeNo, OpenedFile};
use sluicefs_s3_client::Timestamp;

/// What `st_blksize` tells programs to read with: as much as the kernel asks of us in one request.
const PREFERRED_READ_BYTES: u32 = 1 << 20;

/// The unit of `st_blocks` (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

pub(crate) fn inode(ino: INodeNo) -> InodeNo {
    InodeNo(ino.0)
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(crate) fn attributes(attr: &Attr) -> FileAttr {
    let mtime = system_time(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(STAT_BLOCK_BYTES),
        atime: system_time(attr.atime),
        mtime,
        ctime: system_time(attr.ctime),
        crtime: mtime,
        kind: file_type(attr.kind),
        // Setuid and setgid bits are shown, and mean nothing: every mount is nosuid.
        perm: attr.mode & 0o7777,
        // 1 for directories too: find(1) then does not count subdirectories by links.
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: PREFERRED_READ_BYTES,
        flags: 0,
    }
}

/// The attributes of a name that does not exist: inode number 0 lets the kernel remember the absence (fuse_lookup_name).
pub(crate) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// A time that the clock cannot hold becomes the epoch.
fn system_time(at: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(at.secs.unsigned_abs());
    let base = if at.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(at.nanos.into()))).unwrap_or(UNIX_EPOCH)
}

/// Whether the kernel keeps no pages of what it reads with these flags of the open file (O_DIRECT).
pub(crate) fn is_direct(flags: OpenFlags) -> bool {
    flags.0 & OFlags::DIRECT.bits().cast_signed() != 0
}

/// What the kernel is told of an opened file.
///
/// Without NOFLUSH a reader that is killed while a read of its waits for the store would send FLUSH and wait for the answer; with it,
/// a reader ends as soon as it is killed.
pub(crate) fn fopen_flags(opened: &OpenedFile) -> FopenFlags {
    let keep = if opened.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
    keep | FopenFlags::FOPEN_NOFLUSH
}

/// The same for a file that the kernel reads by itself, opened with `flags`. It takes no word of its pages then (fs/fuse/iomode.c).
pub(crate) fn passthrough_flags(flags: OpenFlags) -> FopenFlags {
    // Who reads past the pages is served here.
    let past = if is_direct(flags) { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
    past | FopenFlags::FOPEN_NOFLUSH
}

/// Who asks for access.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// access(2), for mounts without `default_permissions`: the owner's, group's or others' bits decide. What the mount does not allow to
/// be changed the kernel refuses by itself, or the change will be.
pub(crate) fn check_access(attr: &Attr, caller: Caller, mask: AccessFlags) -> Result<(), Errno> {
    let wanted = u16::try_from(mask.bits() & 0o7).expect("three bits");
    let any_execute = attr.mode & 0o111 != 0 || attr.kind == FileKind::Directory;
    let granted = match () {
        // Root reads everything, and executes what anybody may.
        () if caller.uid == 0 => 0o6 | u16::from(any_execute),
        () if caller.uid == attr.uid => attr.mode >> 6,
        () if caller.gid == attr.gid => attr.mode >> 3,
        () => attr.mode,
    };
    if wanted & !granted == 0 { Ok(()) } else { Err(Errno::EACCES) }
}

/// What to answer to a request for `value` into a buffer of `size` bytes (getxattr(2)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum XattrReply<'a> {
    /// Size 0 asks how long it is.
    Size(u32),
    Data(&'a [u8]),
    /// It does not fit: ERANGE.
    TooSmall,
}

pub(crate) fn xattr_reply(value: &[u8], size: u32) -> XattrReply<'_> {
    // The kernel asks for 64 KiB at most (XATTR_SIZE_MAX), and S3's metadata are smaller.
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => XattrReply::Size(len),
        Ok(len) if len <= size => XattrReply::Data(value),
        _ => XattrReply::TooSmall,
    }
}

/// Attribute names as listxattr(2) wants them: each ended by a NUL.
pub(crate) fn xattr_list(names: &[String]) -> Vec<u8> {
    let mut list = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
    for name in names {
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    list
}

#[cfg(test)]
mod tests;
