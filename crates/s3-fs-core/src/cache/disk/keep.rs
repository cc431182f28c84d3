//! Blocks on their way to the disk: a short queue, emptied by one thread at a time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use sluicefs_cache_dir::objects::{Entry, Sealed};
use sluicefs_s3_client::ETag;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{DiskCache, DiskObject, FULL_FOR, Known, OpenEntry, Trouble};
use crate::cache::block::Block;

/// What file systems give out at a time.
const PAGE_BYTES: u64 = 4096;

/// What an entry takes beside its index and its blocks: a page of extents, and one for a directory that is made for it.
const ENTRY_BYTES: u64 = 2 * PAGE_BYTES;

/// The blocks that wait.
#[derive(Debug)]
pub(super) struct Queue {
    limit_bytes: u64,
    waiting: Mutex<Waiting>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: u64,
    /// Some thread writes them.
    is_written: bool,
}

#[derive(Debug)]
struct Job {
    object: Arc<DiskObject>,
    index: u32,
    block: Arc<Block>,
}

impl Queue {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, waiting: Mutex::default(), emptied: Notify::new() }
    }

    /// Returns when it is empty.
    pub(super) async fn idle(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if !self.waiting.lock().is_written {
                return;
            }
            emptied.await;
        }
    }

    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        let job = waiting.jobs.pop_front();
        match &job {
            Some(job) => waiting.bytes -= job.block.bytes().len() as u64,
            None => {
                waiting.is_written = false;
                self.emptied.notify_waiters();
            }
        }
        job
    }
}

impl DiskObject {
    /// Writes block `index` to the disk some time soon, unless that cannot keep up.
    pub(crate) fn keep(self: &Arc<Self>, etag: Option<&ETag>, index: u32, block: Arc<Block>) {
        if self.sealed(etag).is_none() {
            return;
        }
        let queue = &self.cache.queue;
        let mut waiting = queue.waiting.lock();
        let bytes = block.bytes().len() as u64;
        if waiting.bytes + bytes > queue.limit_bytes {
            self.cache.counters.left_out_blocks.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += bytes;
        waiting.jobs.push_back(Job { object: Arc::clone(self), index, block });
        if !std::mem::replace(&mut waiting.is_written, true) {
            drop(waiting);
            let cache = Arc::clone(&self.cache);
            self.cache.runtime.spawn_blocking(move || cache.empty_queue());
        }
    }

    pub(super) fn write(&self, sealed: &Sealed, index: u32, bytes: &[u8]) -> io::Result<bool> {
        let cache = &*self.cache;
        let known = self.entry.lock().clone();
        let open = match known {
            Known::Entry(open) => open,
            Known::Nothing | Known::Absent => {
                let Some(permit) = cache.permit() else { return Ok(false) };
                let cost = sealed.identity().index_bytes().next_multiple_of(PAGE_BYTES) + ENTRY_BYTES;
                let Some(_room) = cache.take_room(cost)? else { return Ok(false) };
                let Some(entry) = Entry::open_or_create(&cache.objects, sealed)? else { return Ok(false) };
                let open = Arc::new(OpenEntry { entry, _permit: permit });
                *self.entry.lock() = Known::Entry(Arc::clone(&open));
                open
            }
        };
        let cost = (bytes.len() as u64).next_multiple_of(PAGE_BYTES);
        let Some(_room) = cache.take_room(cost)? else { return Ok(false) };
        let written = open.entry.write(index, bytes)?;
        cache.counters.written_bytes.fetch_add(written, Ordering::Relaxed);
        Ok(true)
    }
}

/// Whether writing failed because there is no room, on the disk or for this user.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl DiskCache {
    fn empty_queue(&self) {
        while let Some(Job { object, index, block }) = self.queue.next() {
            let sealed = object.sealed.get().and_then(Option::as_ref).expect("what waits has a name");
            let written = object.write(sealed, index, block.bytes());
            let is_kept = written.unwrap_or_else(|error| {
                self.failed(Trouble::Writing, &object.key, &error);
                if is_full(&error) {
                    *self.full_until.lock() = Some(Instant::now() + FULL_FOR);
                }
                false
            });
            if !is_kept {
                self.counters.left_out_blocks.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_when_it_or_the_users_share_is() {
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        const EDQUOT: i32 = 122;
        for (code, expected) in [(ENOSPC, true), (EDQUOT, true), (EIO, false)] {
            assert_eq!(is_full(&io::Error::from_raw_os_error(code)), expected, "{code}");
        }
    }
}
