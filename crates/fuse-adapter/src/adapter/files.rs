//! Serves open files.

use std::sync::Arc;

use fuser::{FileHandle, INodeNo, OpenFlags, ReplyData, ReplyOpen};
use sluicefs_core::HandleId;
use sluicefs_s3_client::ByteRange;

use super::Core;
use crate::convert::{fopen_flags, inode, is_direct, passthrough_flags};

/// What a program wants to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadRequest {
    /// The kernel's number for it.
    pub(super) id: u64,
    pub(super) handle: HandleId,
    pub(super) range: ByteRange,
    /// Past the kernel's pages.
    pub(super) is_direct: bool,
}

impl Core {
    pub(super) async fn open(self: Arc<Self>, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let opened = match self.fs.open(inode(ino)).await {
            Ok(opened) => opened,
            Err(error) => return reply.error(self.errors.errno(&error)),
        };
        // Who reads past the kernel's pages is served here, also what is not aligned as the disk wants it.
        let file = match is_direct(flags) || !self.local.may_begin(ino.0) {
            true => None,
            false => self.fs.local_file(opened.handle).await,
        };
        let begin = || {
            let backing = self.local.back(file?, |file| reply.open_backing(file))?;
            self.fs.reads_locally(opened.handle).then_some(backing)
        };
        let backing = self.local.add(ino.0, begin);
        let handle = FileHandle(opened.handle.0);
        match backing {
            None => reply.opened(handle, fopen_flags(&opened)),
            Some(backing) => reply.opened_passthrough(handle, passthrough_flags(flags), &backing.id),
        }
    }

    pub(super) async fn read(self: Arc<Self>, asked: ReadRequest, reply: ReplyData) {
        let read = match asked.is_direct {
            true => self.fs.read_direct(asked.handle, asked.range).await,
            false => self.fs.read(asked.handle, asked.range).await,
        };
        match read {
            Ok(data) => self.device.send(asked.id, &data, reply),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }
}
