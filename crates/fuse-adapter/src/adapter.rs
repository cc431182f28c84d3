//! From the kernel's requests to the core's operations, and back: decode, serve, reply exactly once.
//!
//! Each callback runs on a thread that reads requests, and must not wait. What is in memory is answered there and then; the rest goes on
//! as a task that owns the reply. A reply that is dropped unsent says EIO, so that no program waits for ever.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use sluicefs_core::{DirEntry, DirMode, ErrorKind, FileSystem, HandleId, ReadData};
use sluicefs_s3_client::ByteRange;
use tokio::runtime::Handle;

use crate::convert::{
    Caller, XattrReply, absent, attributes, check_access, check_open, file_type, fopen_flags, inode,
    is_direct, xattr_list, xattr_reply,
};
use crate::errno::ErrorLog;
use crate::kernel::{Learnt, negotiate};
use crate::tasks::Requests;

/// Whether extended attributes can be read.
///
/// `ls -l` asks for a security label and an ACL of every file. The kernel stops asking for ever once it is told that there are none
/// at all; while it may ask, listing 100,000 names costs 200,000 more questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xattrs {
    /// There are none; the kernel does not ask again.
    Off,
    /// `user.s3.etag` and the others of [`sluicefs_core::xattr`] can be read.
    Readable,
}

/// Serves one file system to one kernel connection.
#[derive(Debug)]
pub(crate) struct Adapter {
    core: Arc<Core>,
    requests: Requests,
    request_kb: u32,
    xattrs: Xattrs,
    learnt: Learnt,
}

/// What a task needs to finish a request.
#[derive(Debug)]
struct Core {
    fs: Arc<FileSystem>,
    errors: ErrorLog,
}

/// Inode numbers are never used for another file while the mount lives.
const GENERATION: Generation = Generation(0);

impl Adapter {
    pub(crate) fn new(fs: Arc<FileSystem>, runtime: Handle, request_kb: u32, xattrs: Xattrs) -> Self {
        let core = Arc::new(Core { fs, errors: ErrorLog::default() });
        Self { core, requests: Requests::new(runtime), request_kb, xattrs, learnt: Learnt::default() }
    }

    /// What INIT will tell of the kernel.
    pub(crate) fn learnt(&self) -> Learnt {
        self.learnt.clone()
    }

    fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core)
    }
}

impl Core {
    async fn lookup(&self, parent: INodeNo, name: &str, reply: ReplyEntry) {
        match self.fs.lookup(inode(parent), name).await {
            Ok(entry) => reply.entry(&entry.ttl, &attributes(&entry.attr), GENERATION),
            Err(error) => {
                let ttl = self.fs.negative_ttl();
                let errno = self.errors.lookup_errno(&error);
                match error.kind() {
                    ErrorKind::NotFound if !ttl.is_zero() => reply.entry(&ttl, &absent(), GENERATION),
                    _ => reply.error(errno),
                }
            }
        }
    }

    async fn getattr(&self, ino: INodeNo, reply: ReplyAttr) {
        match self.fs.getattr(inode(ino)).await {
            Ok(entry) => reply.attr(&entry.ttl, &attributes(&entry.attr)),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    async fn access(&self, ino: INodeNo, caller: Caller, mask: AccessFlags, reply: ReplyEmpty) {
        let allowed = match self.fs.getattr(inode(ino)).await {
            Ok(entry) => check_access(&entry.attr, caller, mask),
            Err(error) => Err(self.errors.errno(&error)),
        };
        match allowed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    async fn open(&self, ino: INodeNo, reply: ReplyOpen) {
        match self.fs.open(inode(ino)).await {
            Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen_flags(&opened)),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    async fn read(&self, handle: FileHandle, range: ByteRange, flags: OpenFlags, reply: ReplyData) {
        let handle = HandleId(handle.0);
        let read = match is_direct(flags) {
            true => self.fs.read_direct(handle, range).await,
            false => self.fs.read(handle, range).await,
        };
        match read {
            Ok(data) => send(&data, reply),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    async fn opendir(&self, ino: INodeNo, reply: ReplyOpen) {
        match self.fs.open_dir(inode(ino)).await {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    async fn readdir(&self, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut accept = |entry: &DirEntry<'_>| {
            let attr = &entry.entry.attr;
            !reply.add(INodeNo(attr.ino.0), entry.next_offset, file_type(attr.kind), entry.name)
        };
        match self.read_dir(handle, offset, DirMode::Names, &mut accept).await {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    async fn readdirplus(&self, handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut accept = |entry: &DirEntry<'_>| {
            let (attr, ttl) = (attributes(&entry.entry.attr), entry.entry.ttl);
            !reply.add(attr.ino, entry.next_offset, entry.name, &ttl, &attr, GENERATION)
        };
        match self.read_dir(handle, offset, DirMode::Lookup, &mut accept).await {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    /// An error after the first entry waits for the next call: what was accepted is counted as looked up and must be sent.
    async fn read_dir(
        &self,
        handle: FileHandle,
        offset: u64,
        mode: DirMode,
        accept: &mut (dyn FnMut(&DirEntry<'_>) -> bool + Send),
    ) -> Result<(), Errno> {
        let mut accepted = false;
        let mut note = |entry: &DirEntry<'_>| {
            let taken = accept(entry);
            accepted |= taken;
            taken
        };
        let result = self.fs.read_dir(HandleId(handle.0), offset, mode, &mut note).await;
        match result {
            Err(error) if !accepted => Err(self.errors.errno(&error)),
            _ => Ok(()),
        }
    }

    async fn getxattr(&self, ino: INodeNo, name: &str, size: u32, reply: ReplyXattr) {
        match self.fs.xattr(inode(ino), name).await {
            Ok(value) => send_xattr(&value, size, reply),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    async fn listxattr(&self, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattr_names(inode(ino)).await {
            Ok(names) => send_xattr(&xattr_list(&names), size, reply),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }
}

thread_local! {
    /// Where reads that straddle blocks are put together. It grows to the largest request, once for each thread.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// fuser takes one slice: a read within one block is sent from where it lies, any other is copied together first.
fn send(data: &ReadData, reply: ReplyData) {
    let mut slices = data.slices();
    let first = slices.next().unwrap_or_default();
    let Some(second) = slices.next() else { return reply.data(first) };
    SCRATCH.with_borrow_mut(|whole| {
        whole.clear();
        whole.reserve(data.len());
        for slice in [first, second].into_iter().chain(slices) {
            whole.extend_from_slice(slice);
        }
        reply.data(whole);
    });
}

fn send_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match xattr_reply(value, size) {
        XattrReply::Size(len) => reply.size(len),
        XattrReply::Data(data) => reply.data(data),
        XattrReply::TooSmall => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.request_kb, &self.learnt)
    }

    // === Names and attributes ===

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Keys are UTF-8: nothing has any other name.
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        let (core, name) = (self.core(), name.to_owned());
        self.requests.serve(async move { core.lookup(parent, &name, reply).await });
    }

    // fuser's batch_forget calls this for each.
    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.core.fs.forget(inode(ino), count);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        if handle.is_some() {
            // Asked in the middle of a read, near what the kernel takes for the end. What was last known will do, and a reader then never
            // waits for the store in a request that cannot be killed; stat(2) asks without a handle.
            return match self.core.fs.last_known(inode(ino)) {
                Ok(attr) => reply.attr(&Duration::ZERO, &attributes(&attr)),
                Err(error) => reply.error(self.core.errors.errno(&error)),
            };
        }
        let core = self.core();
        self.requests.serve(async move { core.getattr(ino, reply).await });
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let (core, caller) = (self.core(), Caller { uid: request.uid(), gid: request.gid() });
        self.requests.serve(async move { core.access(ino, caller, mask, reply).await });
    }

    fn readlink(&self, _request: &Request, _ino: INodeNo, reply: ReplyData) {
        // Nothing is a symbolic link (readlink(2): EINVAL).
        reply.error(Errno::EINVAL);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if self.xattrs == Xattrs::Off {
            return reply.error(Errno::ENOSYS);
        }
        let Some(name) = name.to_str() else { return reply.error(Errno::ENODATA) };
        let (core, name) = (self.core(), name.to_owned());
        self.requests.serve(async move { core.getxattr(ino, &name, size, reply).await });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if self.xattrs == Xattrs::Off {
            return reply.error(Errno::ENOSYS);
        }
        let core = self.core();
        self.requests.serve(async move { core.listxattr(ino, size, reply).await });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let size = self.core.fs.statfs();
        let (blocks, files, unit) = (size.blocks, size.files, size.block_size_bytes);
        reply.statfs(blocks, blocks, blocks, files, files, unit, size.name_max_bytes, unit);
    }

    // === Files ===

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if let Err(errno) = check_open(flags) {
            return reply.error(errno);
        }
        let core = self.core();
        self.requests.serve(async move { core.open(ino, reply).await });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (core, range) = (self.core(), ByteRange::from_len(offset, size.into()));
        self.requests.serve(async move { core.read(handle, range, flags, reply).await });
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Never behind anything else: a program that was killed waits for this one.
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.core.fs.release(HandleId(handle.0));
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    // === Directories ===

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let core = self.core();
        self.requests.serve(async move { core.opendir(ino, reply).await });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let core = self.core();
        self.requests.serve(async move { core.readdir(handle, offset, reply).await });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let core = self.core();
        self.requests.serve(async move { core.readdirplus(handle, offset, reply).await });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.core.fs.release_dir(HandleId(handle.0));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    // === What would write ===

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    // === What the kernel does by itself once it hears that we do not ===

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
