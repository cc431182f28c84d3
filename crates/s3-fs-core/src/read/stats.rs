//! What the read path did so far, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::disk::DiskStats;

/// Counters since the file system began.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) blocks_ready: AtomicU64,
    pub(super) blocks_awaited: AtomicU64,
    pub(super) blocks_missed: AtomicU64,
    pub(super) memory_waits: AtomicU64,
    pub(super) gets: AtomicU64,
    pub(super) bytes_fetched: AtomicU64,
    pub(super) headers_parsed: AtomicU64,
    pub(super) headers_ignored: AtomicU64,
    pub(super) shards_begun: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// A snapshot of the read path's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadStats {
    /// Blocks that were in memory when a reader wanted them.
    pub blocks_ready: u64,
    /// Blocks that were on their way when a reader wanted them.
    pub blocks_awaited: u64,
    /// Blocks that had to be asked for when a reader wanted them.
    pub blocks_missed: u64,
    /// Reads that had to wait for memory.
    pub memory_waits: u64,
    /// GET requests started.
    pub gets: u64,
    /// Bytes that arrived.
    pub bytes_fetched: u64,
    /// Files whose header told where their tensors lie.
    pub headers_parsed: u64,
    /// Files that began like that and whose header was broken, or too long: they are read like all others.
    pub headers_ignored: u64,
    /// Files that were begun before anybody read them, since the one before them by name came to its end.
    pub shards_begun: u64,
    /// Memory that buffers take now, idle ones included.
    pub memory_bytes: u64,
    /// The most memory that buffers took.
    pub memory_peak_bytes: u64,
    /// Sequential readers that are being read ahead of.
    pub streams: u64,
    /// What the cache on disk did; all zeros without one.
    pub disk: DiskStats,
}
