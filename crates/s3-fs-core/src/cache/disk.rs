//! Blocks on a local disk, which outlive the mount and are shared by all mounts and processes that name the same directory.
//!
//! The cache is best effort in one direction and strict in the other: a disk that is full, broken or slow costs a request to the store and
//! one line in the log, never an error; and a block counts only if its checksum says that it is the one asked for. Written blocks
//! pass through a short queue; when the disk cannot keep up, they are left out.

mod keep;
mod local;
mod whole;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_cache_dir::objects::{self, Entry, Identity, Opened, Quota, Room, Sealed, Stored};
use sluicefs_cache_dir::own_directory;
use sluicefs_s3_client::{BucketIdentity, ETag, ObjectKey};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::block::BLOCK_BYTES;
use super::claim::Claim;
use keep::Queue;
use local::Checks;
pub use local::LocalFile;
pub(crate) use local::is_worth_a_check;

const _: () = assert!(BLOCK_BYTES == objects::BLOCK_BYTES, "a block is one in memory and on disk");

/// The same trouble with the disk is reported again after this time.
const REPORT_EVERY: Duration = Duration::from_secs(600);

/// After the disk had no room, and nothing could go, it is asked again after this time.
const FULL_FOR: Duration = Duration::from_secs(1);

/// Where a cache on disk lies and how large it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCacheConfig {
    /// The directory. It is made if it is not there; its parent must be.
    pub directory: PathBuf,
    /// All that it may hold, in bytes, 4 MiB at least. It also stays clear of the last twentieth of its file system, or of the last 4 GiB.
    pub limit_bytes: u64,
    /// How many objects may be open in it at a time, three open files of the process each. Others are read from the store.
    pub max_open_objects: usize,
}

/// Why a directory cannot be the cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the cache directory {} cannot be used: {reason}", directory.display())]
pub struct DiskCacheError {
    directory: PathBuf,
    reason: String,
}

/// What the cache on disk did, since the mount began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Bytes that were read from it.
    pub read_bytes: u64,
    /// Bytes that were written to it.
    pub written_bytes: u64,
    /// Blocks that were left out because the disk did not keep up or was full.
    pub left_out_blocks: u64,
    /// Blocks and entries that were not what had been written.
    pub damaged: u64,
    /// Calls of the operating system that failed.
    pub errors: u64,
    /// Objects of which all blocks were found right in the background, so that they can be read as local files.
    pub proven: u64,
    /// How often somebody began to read an object as a local file.
    pub local_opens: u64,
}

#[derive(Debug, Default)]
struct Counters {
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    left_out_blocks: AtomicU64,
    damaged: AtomicU64,
    errors: AtomicU64,
    proven: AtomicU64,
    local_opens: AtomicU64,
}

/// The cache on disk of one bucket.
#[derive(Debug)]
pub(crate) struct DiskCache {
    directory: PathBuf,
    objects: PathBuf,
    bucket: BucketIdentity,
    quota: Quota,
    /// One for each object that may be open in it.
    open_objects: Arc<Semaphore>,
    /// The disk had no room: none is asked for until then.
    full_until: Mutex<Option<Instant>>,
    queue: Queue,
    checks: Checks,
    runtime: Handle,
    counters: Counters,
    reported: [Mutex<Option<Instant>>; 3],
}

/// What is reported once in a while.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Reading,
    Writing,
    Damage,
}

/// An object that is open, as the cache on disk knows it.
#[derive(Debug)]
pub(crate) struct DiskObject {
    cache: Arc<DiskCache>,
    key: ObjectKey,
    size: u64,
    /// Known with the ETag; `None` inside: it cannot be kept.
    sealed: OnceLock<Option<Sealed>>,
    entry: Mutex<Known>,
    /// Held by who opens the entry: others that come meanwhile need no right of their own to open one.
    opening: Mutex<()>,
    /// Blocks of it were written to the disk.
    was_filled: AtomicBool,
}

#[derive(Debug, Clone)]
enum Known {
    Nothing,
    Absent,
    Entry(Arc<OpenEntry>),
}

/// An entry, and the right to have one more of them open.
#[derive(Debug)]
struct OpenEntry {
    entry: Arc<Entry>,
    _permit: OwnedSemaphorePermit,
}

impl DiskCache {
    /// Opens the cache of `bucket`; at most `queue_bytes` wait to be written.
    ///
    /// # Errors
    /// If the directory is not this user's alone, or cannot be made or read.
    pub(crate) fn open(
        config: &DiskCacheConfig,
        bucket: &BucketIdentity,
        queue_bytes: u64,
        runtime: Handle,
    ) -> Result<Arc<Self>, DiskCacheError> {
        let directory = config.directory.clone();
        let fail = |reason: String| DiskCacheError { directory: directory.clone(), reason };
        let objects = directory.join("objects");
        for path in [&directory, &objects] {
            own_directory(path).map_err(|error| fail(error.to_string()))?;
        }
        let quota = Quota::open(&directory, config.limit_bytes).map_err(|error| fail(error.to_string()))?;
        Ok(Arc::new(Self {
            directory,
            objects,
            bucket: bucket.clone(),
            quota,
            open_objects: Arc::new(Semaphore::new(config.max_open_objects.min(Semaphore::MAX_PERMITS))),
            full_until: Mutex::default(),
            queue: Queue::new(queue_bytes),
            checks: Checks::default(),
            runtime,
            counters: Counters::default(),
            reported: Default::default(),
        }))
    }

    /// The object `key` of `size` bytes, to be read through the cache.
    pub(crate) fn object(self: &Arc<Self>, key: ObjectKey, size: u64) -> Arc<DiskObject> {
        let (sealed, entry) = (OnceLock::new(), Mutex::new(Known::Nothing));
        let was_filled = AtomicBool::new(false);
        let opening = Mutex::default();
        Arc::new(DiskObject { cache: Arc::clone(self), key, size, sealed, entry, opening, was_filled })
    }

    /// What it did.
    pub(crate) fn stats(&self) -> DiskStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        DiskStats {
            read_bytes: get(&c.read_bytes),
            written_bytes: get(&c.written_bytes),
            left_out_blocks: get(&c.left_out_blocks),
            damaged: get(&c.damaged),
            errors: get(&c.errors),
            proven: get(&c.proven),
            local_opens: get(&c.local_opens),
        }
    }

    /// Returns when nothing waits to be written. Cancel-safe.
    pub(crate) async fn idle(&self) {
        self.queue.idle().await;
    }

    /// Returns when nothing waits to be checked as a whole. Cancel-safe.
    pub(crate) async fn checked(&self) {
        self.checks.idle().await;
    }

    /// Takes room for `bytes` on the disk; `None` if there is none.
    fn take_room(&self, bytes: u64) -> io::Result<Option<Room<'_>>> {
        let now = Instant::now();
        if self.full_until.lock().is_some_and(|until| now < until) {
            return Ok(None);
        }
        let taken = self.quota.take(bytes)?;
        *self.full_until.lock() = taken.is_none().then(|| now + FULL_FOR);
        Ok(taken)
    }

    /// The right to open one more entry.
    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.open_objects).try_acquire_owned().ok()
    }

    fn failed(&self, trouble: Trouble, key: &ObjectKey, error: &io::Error) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        if self.is_news(trouble) {
            let directory = self.directory.display();
            tracing::warn!(%directory, %key, %error, "the cache on disk failed: what it does not have comes from the store");
        }
    }

    fn damaged(&self, key: &ObjectKey) {
        self.counters.damaged.fetch_add(1, Ordering::Relaxed);
        if self.is_news(Trouble::Damage) {
            let directory = self.directory.display();
            tracing::warn!(%directory, %key, "what the cache on disk holds was changed: it is fetched again from the store");
        }
    }

    fn is_news(&self, trouble: Trouble) -> bool {
        let now = Instant::now();
        let mut last = self.reported[trouble as usize].lock();
        let is_news = last.is_none_or(|last| now.saturating_duration_since(last) > REPORT_EVERY);
        if is_news {
            *last = Some(now);
        }
        is_news
    }
}

impl DiskObject {
    /// Fills the first blocks of `claim` that are on disk. Returns what is left of it, and how many blocks at its beginning are to be fetched
    /// before the disk has some again.
    ///
    /// Cancel-safe: a fill that was begun ends on its own, and its claim with it.
    pub(crate) async fn fill(self: &Arc<Self>, etag: Option<&ETag>, claim: Claim) -> Option<(Claim, u32)> {
        let all = claim.blocks();
        let is_known_absent = matches!(*self.entry.lock(), Known::Absent);
        let Some(sealed) = self.sealed(etag).filter(|_| !is_known_absent) else { return Some((claim, all)) };
        let (object, sealed) = (Arc::clone(self), sealed.clone());
        let fill = move || {
            let mut claim = claim;
            let gap = match object.find(&sealed) {
                Some(open) => object.fill_from(&open.entry, &mut claim),
                None => claim.blocks(),
            };
            (claim, gap)
        };
        match self.cache.runtime.spawn_blocking(fill).await {
            Ok(left) => Some(left),
            Err(error) => {
                tracing::error!(key = %self.key, %error, "reading the cache on disk ended abnormally");
                None
            }
        }
    }

    fn fill_from(&self, entry: &Entry, claim: &mut Claim) -> u32 {
        let filled = self.try_fill_from(entry, claim);
        filled.unwrap_or_else(|error| {
            self.cache.failed(Trouble::Reading, &self.key, &error);
            claim.blocks()
        })
    }

    fn try_fill_from(&self, entry: &Entry, claim: &mut Claim) -> io::Result<u32> {
        let records = entry.records(claim.first(), claim.blocks())?;
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next_if(|record| *record != 0) {
            let index = claim.first();
            let read = |into: &mut [u8]| {
                let is_right = entry.read(index, record, into)? == Stored::Right;
                if is_right {
                    self.cache.counters.read_bytes.fetch_add(into.len() as u64, Ordering::Relaxed);
                }
                Ok::<_, io::Error>(is_right)
            };
            if !claim.fill_by(read)? {
                self.cache.damaged(&self.key);
                return Ok(1 + records.take_while(|record| *record == 0).count() as u32);
            }
        }
        Ok(records.take_while(|record| *record == 0).count() as u32)
    }

    fn sealed(&self, etag: Option<&ETag>) -> Option<&Sealed> {
        let etag = etag.filter(|etag| etag.is_strong())?;
        let sealed = || Sealed::new(self.identity(etag));
        self.sealed.get_or_init(sealed).as_ref()
    }

    fn identity(&self, etag: &ETag) -> Identity {
        let BucketIdentity { endpoint, name } = &self.cache.bucket;
        Identity {
            endpoint: endpoint.to_string(),
            bucket: name.to_string(),
            key: self.key.as_str().to_owned(),
            etag: etag.to_string(),
            size: self.size,
        }
    }

    fn find(&self, sealed: &Sealed) -> Option<Arc<OpenEntry>> {
        let _opening = self.opening.lock();
        match self.entry.lock().clone() {
            Known::Entry(entry) => return Some(entry),
            Known::Absent => return None,
            Known::Nothing => {}
        }
        let permit = self.cache.permit()?;
        let entry = match Entry::open(&self.cache.objects, sealed) {
            Ok(Opened::Entry(entry)) => Some(Arc::new(OpenEntry { entry, _permit: permit })),
            Ok(Opened::Absent) => None,
            Ok(Opened::Damaged) => {
                self.cache.damaged(&self.key);
                None
            }
            Err(error) => {
                self.cache.failed(Trouble::Reading, &self.key, &error);
                None
            }
        };
        *self.entry.lock() = entry.clone().map_or(Known::Absent, Known::Entry);
        entry
    }
}
