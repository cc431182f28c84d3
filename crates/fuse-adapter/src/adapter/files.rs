//! Serves open files.

use std::cell::RefCell;
use std::sync::Arc;

use fuser::{FileHandle, INodeNo, OpenFlags, ReplyData, ReplyOpen};
use sluicefs_core::{HandleId, ReadData};
use sluicefs_s3_client::ByteRange;

use super::Core;
use crate::convert::{fopen_flags, inode, is_direct};

impl Core {
    pub(super) async fn open(self: Arc<Self>, ino: INodeNo, reply: ReplyOpen) {
        match self.fs.open(inode(ino)).await {
            Ok(opened) => reply.opened(FileHandle(opened.handle.0), fopen_flags(&opened)),
            Err(error) => reply.error(self.errors.errno(&error)),
        }
    }

    pub(super) async fn read(
        self: Arc<Self>,
        handle: FileHandle,
        range: ByteRange,
        flags: OpenFlags,
        reply: ReplyData,
    ) {
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
