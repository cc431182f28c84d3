//! The read path of one file system: its memory, its cache, and what all open objects share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use sluicefs_s3_client::Bucket;
use tokio::runtime::Handle;

use super::file_reads::{FileReads, RecentFiles};
use super::object::OpenObject;
use super::stats::{Counters, ReadStats};
use super::version::ObjectVersion;
use super::watchdog::Watchdog;
use crate::budget::Budget;
use crate::cache::BlockCache;
use crate::cache::disk::{DiskCache, DiskCacheError};
use crate::config::ReadConfig;

/// Blocks that wait for the disk may hold so much of the memory, a share of it.
const QUEUE_SHARE: u64 = 8;

/// What reads ahead and what is in memory, of one file system.
#[derive(Debug)]
pub(crate) struct ReadEngine {
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) config: ReadConfig,
    pub(super) runtime: Handle,
    pub(super) cache: BlockCache,
    pub(super) disk: Option<Arc<DiskCache>>,
    pub(super) counters: Arc<Counters>,
    /// Streams that read ahead, of all open objects.
    pub(super) streams: AtomicUsize,
    pub(super) budget: Arc<Budget>,
    pub(super) watchdog: Watchdog,
    pub(super) recent: RecentFiles,
    /// Held while a header is parsed: one at a time.
    pub(super) parsing: Arc<Mutex<()>>,
}

impl ReadEngine {
    /// A read path over `bucket` with the cache on disk that the settings name, unless nothing of this bucket can be known again.
    ///
    /// # Errors
    /// If that cache cannot be had.
    pub(crate) fn with_disk(
        bucket: Arc<dyn Bucket>,
        config: ReadConfig,
        runtime: Handle,
    ) -> Result<Arc<Self>, DiskCacheError> {
        let queue_bytes = config.memory_limit_bytes / QUEUE_SHARE;
        let open = |disk| DiskCache::open(disk, bucket.identity(), queue_bytes, runtime.clone());
        let disk = config.disk.as_ref().filter(|_| bucket.traits().lasting_etags);
        let disk = disk.map(open).transpose()?;
        Ok(Self::new(bucket, config, disk, runtime))
    }

    /// A read path over `bucket`; fetches run on `runtime`. Makes no request and takes no memory yet.
    pub(crate) fn new(
        bucket: Arc<dyn Bucket>,
        config: ReadConfig,
        disk: Option<Arc<DiskCache>>,
        runtime: Handle,
    ) -> Arc<Self> {
        let budget = Budget::new(config.memory_limit_bytes);
        let history_bytes = config.history_bytes.min(config.memory_limit_bytes / 4);
        let cache = BlockCache::new(Arc::clone(&budget), history_bytes);
        let counters = Arc::<Counters>::default();
        let watchdog = Watchdog::new(config.stuck_after, Arc::clone(&counters));
        Arc::new(Self {
            bucket,
            config,
            runtime,
            cache,
            disk,
            counters,
            streams: AtomicUsize::new(0),
            budget,
            watchdog,
            recent: RecentFiles::default(),
            parsing: Arc::default(),
        })
    }

    /// Opens a version for reading. Makes no request.
    ///
    /// Open it once and share the result among all handles: streams are recognised across them. Opened again later, it finds the
    /// blocks that are still in memory.
    pub(crate) fn open(self: &Arc<Self>, version: Arc<ObjectVersion>) -> Arc<OpenObject> {
        OpenObject::new(Arc::clone(self), version)
    }

    /// All memory that reads may take, in bytes.
    pub(crate) fn memory_limit_bytes(&self) -> u64 {
        self.config.memory_limit_bytes
    }

    /// Returns when the disk has what it was given. Cancel-safe.
    pub(crate) async fn idle(&self) {
        if let Some(disk) = &self.disk {
            disk.idle().await;
        }
    }

    /// Whether there is a cache on disk.
    pub(crate) fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Returns when the disk's cache has checked what it is to check. Cancel-safe.
    pub(crate) async fn checked(&self) {
        if let Some(disk) = &self.disk {
            disk.checked().await;
        }
    }

    /// How much one stream may read ahead, so that all of them fit into memory.
    pub(super) fn share_bytes(&self) -> u64 {
        let streams = self.streams.load(Ordering::Relaxed).max(1) as u64;
        self.config.memory_limit_bytes / 4 * 3 / streams
    }

    /// What was read of the object `key`, if that was lately.
    pub(crate) fn reads_of(&self, key: &str) -> Option<FileReads> {
        self.recent.reads_of(key)
    }

    /// The counters.
    pub(crate) fn stats(&self) -> ReadStats {
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let c = &*self.counters;
        ReadStats {
            blocks_ready: get(&c.blocks_ready),
            blocks_awaited: get(&c.blocks_awaited),
            blocks_missed: get(&c.blocks_missed),
            memory_waits: get(&c.memory_waits),
            gets: get(&c.gets),
            bytes_fetched: get(&c.bytes_fetched),
            headers_parsed: get(&c.headers_parsed),
            headers_ignored: get(&c.headers_ignored),
            shards_begun: get(&c.shards_begun),
            memory_bytes: self.budget.in_use_bytes(),
            memory_peak_bytes: self.budget.peak_bytes(),
            streams: self.streams.load(Ordering::Relaxed) as u64,
            disk: self.disk.as_ref().map(|disk| disk.stats()).unwrap_or_default(),
        }
    }
}
