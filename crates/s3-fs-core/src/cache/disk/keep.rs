//! Blocks on their way to the disk: a short queue, emptied by one thread at a time.
//!
//! Blocks come as the network brings them, a few of each of many requests in turn; what waits is put into the order of the file, and
//! neighbours are one write.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use sluicefs_cache_dir::objects::{Entry, Sealed, Way};
use sluicefs_s3_client::ETag;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{DiskCache, DiskObject, FULL_FOR, Known, OpenEntry, Trouble};
use crate::cache::block::Block;

/// What file systems give out at a time.
const PAGE_BYTES: u64 = 4096;

/// What an entry takes beside its index and its blocks: a page of extents, and one for a directory that is made for it.
const ENTRY_BYTES: u64 = 2 * PAGE_BYTES;

/// What is taken from the queue at a time has one of so many shares of it, so that the rest has room for what comes meanwhile.
const BATCH_SHARE: u64 = 4;

/// The most blocks in one write: 2 MiB, beyond which disks become no faster.
const RUN_BLOCKS: usize = 16;

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

    /// What waits longest, in the order of files, and how it should be written; empty when nothing waits.
    fn next(&self) -> (Vec<Job>, Way) {
        let mut waiting = self.waiting.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < self.limit_bytes / BATCH_SHARE
            && let Some(job) = waiting.jobs.pop_front()
        {
            bytes += job.block.bytes().len() as u64;
            batch.push(job);
        }
        // With a limit below four bytes, nothing ever waits.
        if batch.is_empty() {
            waiting.is_written = false;
            self.emptied.notify_waiters();
        }
        batch.sort_unstable_by_key(|job| (Arc::as_ptr(&job.object).addr(), job.index));
        // A disk that does not keep up may do so later, from the kernel's memory.
        let way = if waiting.bytes > self.limit_bytes / 2 { Way::Through } else { Way::Past };
        (batch, way)
    }

    fn written(&self, bytes: u64) {
        self.waiting.lock().bytes -= bytes;
    }
}

/// `jobs`, in the order of files, as runs of neighbours.
fn runs(jobs: &[Job]) -> impl Iterator<Item = &[Job]> {
    let runs = jobs.chunk_by(|a, b| Arc::ptr_eq(&a.object, &b.object) && a.index + 1 == b.index);
    runs.flat_map(|run| run.chunks(RUN_BLOCKS))
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

    /// Writes the blocks from `first` on; false if there is no room for them.
    pub(super) fn write(&self, sealed: &Sealed, first: u32, blocks: &[&[u8]], way: Way) -> io::Result<bool> {
        let cache = &*self.cache;
        let opening = self.opening.lock();
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
        drop(opening);
        let cost = |bytes: &&[u8]| (bytes.len() as u64).next_multiple_of(PAGE_BYTES);
        let Some(_room) = cache.take_room(blocks.iter().map(cost).sum())? else { return Ok(false) };
        let written = open.entry.write(first, blocks, way)?;
        self.was_filled.store(true, Ordering::Relaxed);
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
        loop {
            let (batch, way) = self.queue.next();
            if batch.is_empty() {
                return;
            }
            for run in runs(&batch) {
                self.write_run(run, way);
            }
            self.queue.written(batch.iter().map(|job| job.block.bytes().len() as u64).sum());
        }
    }

    fn write_run(&self, run: &[Job], way: Way) {
        let Job { object, index, .. } = &run[0];
        let sealed = object.sealed.get().and_then(Option::as_ref).expect("what waits has a name");
        let blocks: Vec<&[u8]> = run.iter().map(|job| job.block.bytes()).collect();
        let is_kept = object.write(sealed, *index, &blocks, way).unwrap_or_else(|error| {
            self.failed(Trouble::Writing, &object.key, &error);
            if is_full(&error) {
                *self.full_until.lock() = Some(Instant::now() + FULL_FOR);
            }
            false
        });
        if !is_kept {
            self.counters.left_out_blocks.fetch_add(run.len() as u64, Ordering::Relaxed);
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
