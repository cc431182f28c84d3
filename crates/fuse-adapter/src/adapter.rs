//! From the kernel's requests to the core's operations, and back: decode, serve, reply exactly once.
//!
//! Each callback runs on a thread that reads requests, and must not wait. What is in memory is answered there and then; the rest goes on
//! as a task that owns the reply. A reply that is dropped unsent says EIO, so that no program waits for ever.
//!
//! Here requests are decoded, all in one place since fuser wants one implementation of one trait. What serves them stands with what it is
//! about: [names], [open files](files), [open directories](directories) or
//! [changes].

mod changes;
mod directories;
mod files;
mod local;
mod names;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::FileType;
use sluicefs_core::{FileSystem, HandleId};
use sluicefs_s3_client::ByteRange;
use tokio::runtime::Handle;

use crate::convert::{Caller, attributes, inode, is_direct};
use crate::device::Device;
use crate::errno::ErrorLog;
use crate::kernel::{Learnt, allow_passthrough, negotiate};
use crate::tasks::Requests;
use files::ReadRequest;
use local::LocalOpens;
pub use local::Passthrough;

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
    config: AdapterConfig,
    learnt: Learnt,
}

/// How requests are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdapterConfig {
    /// The largest request in KiB.
    pub(crate) request_kb: u32,
    pub(crate) xattrs: Xattrs,
    pub(crate) passthrough: Passthrough,
}

/// What a task needs to finish a request.
#[derive(Debug)]
struct Core {
    fs: Arc<FileSystem>,
    errors: ErrorLog,
    device: Device,
    local: LocalOpens,
}

/// Inode numbers are never used for another file while the mount lives.
const GENERATION: Generation = Generation(0);

/// A new name that no key can have: keys are UTF-8 (EILSEQ is what file systems with such a rule answer).
const NOT_UTF8: Errno = Errno::EILSEQ;

impl Adapter {
    pub(crate) fn new(
        (fs, device): (Arc<FileSystem>, Device),
        runtime: Handle,
        config: AdapterConfig,
    ) -> Self {
        let (errors, local) = (ErrorLog::default(), LocalOpens::default());
        let core = Arc::new(Core { fs, errors, device, local });
        Self { core, requests: Requests::new(runtime), config, learnt: Learnt::default() }
    }

    /// What INIT will tell of the kernel.
    pub(crate) fn learnt(&self) -> Learnt {
        self.learnt.clone()
    }

    fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.config.request_kb, &self.learnt)?;
        let is_wanted =
            self.config.passthrough == Passthrough::WherePossible && self.core.fs.may_have_local_files();
        if is_wanted && allow_passthrough(config) {
            self.core.local.turn_on();
        }
        Ok(())
    }

    // === Names and attributes ===

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Keys are UTF-8: nothing has any other name.
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        self.requests.serve(self.core().lookup(parent, name.to_owned(), reply));
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
        self.requests.serve(self.core().getattr(ino, reply));
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let caller = Caller { uid: request.uid(), gid: request.gid() };
        self.requests.serve(self.core().access(ino, caller, mask, reply));
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.requests.serve(self.core().readlink(ino, reply));
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if self.config.xattrs == Xattrs::Off {
            return reply.error(Errno::ENOSYS);
        }
        let Some(name) = name.to_str() else { return reply.error(Errno::ENODATA) };
        self.requests.serve(self.core().getxattr(ino, name.to_owned(), size, reply));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if self.config.xattrs == Xattrs::Off {
            return reply.error(Errno::ENOSYS);
        }
        self.requests.serve(self.core().listxattr(ino, size, reply));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let size = self.core.fs.statfs();
        let (blocks, files, unit) = (size.blocks, size.files, size.block_size_bytes);
        reply.statfs(blocks, blocks, blocks, files, files, unit, size.name_max_bytes, unit);
    }

    // === Files ===

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if changes::writes(flags) {
            return self.requests.serve(self.core().open_for_writing(ino, flags, reply));
        }
        self.requests.serve(self.core().open(ino, flags, reply));
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let range = ByteRange::from_len(offset, size.into());
        let asked = ReadRequest {
            id: request.unique().0,
            handle: HandleId(handle.0),
            range,
            is_direct: is_direct(flags),
        };
        self.requests.serve(self.core().read(asked, reply));
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Never behind a read: a program that was killed waits for this one.
        self.requests.serve(self.core().flush(handle, reply));
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.core.local.remove(ino.0);
        self.core.fs.release(HandleId(handle.0));
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.requests.serve(self.core().fsync(handle, reply));
    }

    // === Directories ===

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.requests.serve(self.core().opendir(ino, reply));
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.requests.serve(self.core().readdir(handle, offset, reply));
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.requests.serve(self.core().readdirplus(handle, offset, reply));
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
        self.requests.serve(self.core().fsyncdir(reply));
    }

    // === Changes ===

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let Some(name) = name.to_str() else { return reply.error(NOT_UTF8) };
        let new = changes::new_attr(request, mode);
        self.requests.serve(self.core().create(parent, name.to_owned(), new, flags, reply));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Mostly there is memory, and the bytes are copied once, from the kernel's buffer to where they stay.
        let tried = self.requests.at_once(|| self.core.fs.try_write(HandleId(handle.0), offset, data));
        match tried {
            Some(Some(written)) => self.core.wrote(written, data.len(), reply),
            Some(None) => self.requests.serve(self.core().write(handle, offset, data.to_vec(), reply)),
            None => drop(reply),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let Some(name) = name.to_str() else { return reply.error(NOT_UTF8) };
        let new = changes::new_attr(request, mode);
        self.requests.serve(self.core().make_dir(parent, name.to_owned(), new, reply));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(name) = name.to_str() else { return reply.error(NOT_UTF8) };
        let (what, new) = ((FileType::from_raw_mode(mode), rdev), changes::new_attr(request, mode));
        self.requests.serve(self.core().make_node(parent, name.to_owned(), what, new, reply));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        self.requests.serve(self.core().unlink(parent, name.to_owned(), reply));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        self.requests.serve(self.core().remove_dir(parent, name.to_owned(), reply));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        let Some(new_name) = new_name.to_str() else { return reply.error(NOT_UTF8) };
        let (from, to) = ((parent, name.to_owned()), (new_parent, new_name.to_owned()));
        self.requests.serve(self.core().rename(from, to, flags, reply));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let Some(name) = name.to_str() else { return reply.error(NOT_UTF8) };
        let (target, new) = (target.as_os_str().to_owned(), changes::new_attr(request, 0o777));
        self.requests.serve(self.core().symlink((parent, name.to_owned()), target, new, reply));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        // link(2): the file system does not support hard links. An object has one key.
        reply.error(self.core.no_links());
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = changes::wanted((mode, uid, gid), size, (atime, mtime));
        self.requests.serve(self.core().set_attr(ino, set, reply));
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(name) = name.to_str() else { return reply.error(NOT_UTF8) };
        let value = (value.to_vec(), flags);
        self.requests.serve(self.core().set_xattr(ino, name.to_owned(), value, reply));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENODATA) };
        self.requests.serve(self.core().remove_xattr(ino, name.to_owned(), reply));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let end = offset.saturating_add(length);
        self.requests.serve(self.core().allocate(handle, end, mode, reply));
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
        // The kernel copies through its pages then.
        reply.error(Errno::ENOSYS);
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
