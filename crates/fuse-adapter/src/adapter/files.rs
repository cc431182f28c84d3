//! Serves open files.

use std::sync::Arc;

use fuser::{FileHandle, INodeNo, ReplyData, ReplyOpen};
use sluicefs_core::HandleId;
use sluicefs_s3_client::ByteRange;

use super::Core;
use crate::convert::{fopen_flags, inode};

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
    pub(super) async fn open(self: Arc<Self>, ino: INodeNo, reply: ReplyOpen) {
        match self.fs.open(inode(ino)).await {
            Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen_flags(&opened)),
            Err(error) => reply.error(self.errors.errno(&error)),
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
