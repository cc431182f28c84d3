//! Serves open directories.

use std::sync::Arc;

use fuser::{Errno, FileHandle, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyOpen};
use sluicefs_core::{DirEntry, DirMode, HandleId};

use super::{Core, GENERATION};
use crate::convert::{attributes, file_type, inode};

impl Core {
    pub(super) async fn opendir(self: Arc<Self>, ino: INodeNo, reply: ReplyOpen) {
        match self.fs.open_dir(inode(ino)).await {
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::empty()),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn readdir(self: Arc<Self>, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut accept = |entry: &DirEntry<'_>| {
            let attr = &entry.entry.attr;
            !reply.add(INodeNo(attr.ino.0), entry.next_offset, file_type(attr.kind), entry.name)
        };
        match self.read_dir(handle, offset, DirMode::Names, &mut accept).await {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) async fn readdirplus(
        self: Arc<Self>,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
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
}
