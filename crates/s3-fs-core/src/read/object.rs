//! One object version while it is open: its readers' streams and the fetches made for them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use sluicefs_s3_client::{self as s3, ByteRange};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::engine::ReadEngine;
use super::fetch::Source;
use super::file_reads::FileCounters;
use super::header::Header;
use super::loader::{Advice, Ahead, Order, Part};
use super::stats::Counters;
use super::version::ObjectVersion;
use super::window::Limits;
use super::{MAX_READ_BYTES, ReadData};
use crate::cache::disk::{DiskCache, DiskObject, LocalFile};
use crate::cache::{BLOCK_BYTES, Claim, Found, Got, Landing, Urgency, Want, blocks_of, bytes_of};
use crate::error::{Error, Result};

/// How often a read claims blocks again whose fetches were dropped. Only a panic drops one while its object is open.
const MAX_CLAIMS: u32 = 3;

/// When so much of an object was asked for, a share of it, what comes after it is worth beginning.
const END_SHARE: (u64, u64) = (15, 16);

/// So much is fetched of an object that nobody has opened before it is known how it will be read: headers are mostly shorter.
const FIRST_BYTES: u64 = 1 << 20;

/// An object version that somebody reads; all handles of an inode share one.
///
/// Dropping the last reference stops its fetches. What they brought stays in the cache while the version lives.
#[derive(Debug)]
pub(crate) struct OpenObject {
    pub(super) engine: Arc<ReadEngine>,
    version: Arc<ObjectVersion>,
    disk: Option<Arc<DiskObject>>,
    pub(super) ahead: Mutex<Ahead>,
    pub(super) header: Header,
    reads: Arc<FileCounters>,
    /// How much of it was asked for, in bytes; what was asked for twice counts twice.
    asked_bytes: AtomicU64,
    told_of_end: AtomicBool,
    /// Nobody has opened it yet.
    is_background: AtomicBool,
    pub(super) fetches: Mutex<JoinSet<()>>,
}

impl OpenObject {
    pub(super) fn new(engine: Arc<ReadEngine>, version: Arc<ObjectVersion>) -> Arc<Self> {
        let limits = Limits {
            size: version.size(),
            max_window_bytes: engine.config.max_window_bytes,
            max_part_bytes: engine.config.part_size_bytes,
        };
        let (ahead, header) = (Mutex::new(Ahead::new(limits)), Header::default());
        let object = |disk: &Arc<DiskCache>| disk.object(version.key().clone(), version.size());
        let disk = engine.disk.as_ref().map(object);
        let reads = Arc::new(FileCounters::new(version.key().clone(), version.size()));
        Arc::new(Self {
            engine,
            version,
            disk,
            ahead,
            header,
            reads,
            asked_bytes: AtomicU64::new(0),
            told_of_end: AtomicBool::new(false),
            is_background: AtomicBool::new(false),
            fetches: Mutex::new(JoinSet::new()),
        })
    }

    /// The version that is read.
    pub(crate) fn version(&self) -> &Arc<ObjectVersion> {
        &self.version
    }

    /// Reads the bytes of `range`, the first [`MAX_READ_BYTES`] of them if it is longer; fewer at the end of the object, none past it.
    ///
    /// Does not wait if all of them are in memory. Any number of reads may run at once. Cancel-safe: dropping the future leaves the
    /// fetches it started running, for other readers.
    ///
    /// # Errors
    /// `Stale` if the object is another version by now; `NotFound` if it is gone; `AccessDenied`, `Archived`; `Io` when the store
    /// failed after all retries. Readers of the same block share the error, and a second try within a second gets it at once.
    pub(crate) async fn read(self: &Arc<Self>, range: ByteRange) -> Result<ReadData> {
        let range = ByteRange::new(range.start, range.end.min(range.start.saturating_add(MAX_READ_BYTES)));
        let range = range.intersect(ByteRange::new(0, self.version.size()));
        if range.is_empty() {
            return Ok(ReadData::default());
        }
        let advice = self.plan(range);
        if self.reads.read(range.len(), advice.way) {
            self.engine.recent.insert(Arc::clone(&self.reads));
        }
        let read = self.engine.watchdog.watch(self.version.key(), self.serve(range, advice));
        let data = read.await?;
        self.look_for_header(range);
        Ok(data)
    }

    /// Reads the bytes of `range`, which are in the object, and fetches what `advice` says.
    async fn serve(&self, range: ByteRange, advice: Advice) -> Result<ReadData> {
        let Advice { plan, parts, .. } = advice;
        let mut want = Want {
            version: self.version.cached(&self.engine.cache),
            size: self.version.size(),
            now: blocks_of(range),
            ahead: blocks_of(plan.ahead),
            part_blocks: (plan.part_bytes / BLOCK_BYTES).max(1) as u32,
        };
        let mut parts = Some(parts);
        let mut memory = None;
        let mut claimed = 0;
        while claimed < MAX_CLAIMS {
            let got = self.engine.cache.get(&want, memory.take())?;
            let Got::Blocks { found, claims, missed, refused_from } = got else {
                Counters::add(&self.engine.counters.memory_waits, 1);
                Counters::add(&self.reads.memory_waits, 1);
                memory = Some(self.engine.cache.wait_for_memory(&want).await);
                continue;
            };
            self.count(&found, missed);
            if let Some(block) = refused_from {
                let from = bytes_of(block..block, want.size).start;
                Counters::add(&self.reads.refusals, 1);
                self.ahead.lock().refused(plan.stream, from);
            }
            self.start(claims);
            self.fetch_ahead(parts.take().into_iter().flatten(), Urgency::Ahead);
            if let Some(data) = ReadData::if_ready(&found, range) {
                return Ok(data);
            }
            self.ahead.lock().waited(plan.stream);
            let start = Instant::now();
            let collected = collect(found, range).await;
            self.reads.waited(start.elapsed());
            if let Some(data) = collected? {
                return Ok(data);
            }
            claimed += 1;
            want.ahead = want.now.end..want.now.end;
        }
        let error = s3::Error::new(s3::ErrorKind::Transient, "get").with_key(self.version.key().as_str());
        Err(Error::from_store("read", error.with_message("fetches of these bytes ended without an outcome")))
    }

    /// The object as a local file, if the cache on disk has all of it and knows that it is right. Cancel-safe.
    pub(crate) async fn local_file(&self) -> Option<LocalFile> {
        self.disk.as_ref()?.local_file(self.version.etag()).await
    }

    /// Somebody reads the local file from now on.
    pub(crate) fn note_local(&self) {
        if let Some(disk) = &self.disk {
            disk.note_local();
        }
    }

    /// Begins to fetch it for a reader who will probably open it soon, as far as nobody else wants the memory. Returns when the fetches are
    /// under way. Cancel-safe.
    pub(crate) async fn begin(self: &Arc<Self>, order: Order) {
        self.is_background.store(true, Ordering::Release);
        Counters::add(&self.engine.counters.shards_begun, 1);
        self.fetch_now(ByteRange::new(0, FIRST_BYTES.min(self.version.size()))).await;
        self.read_header().await;
        let parts = self.advised(|ahead, share_bytes| ahead.begin(order, share_bytes));
        self.fetch_ahead(parts, Urgency::Background);
    }

    /// Somebody has opened it.
    pub(crate) fn is_opened(&self) {
        if self.is_background.swap(false, Ordering::AcqRel) {
            self.engine.cache.expect(self.version.cached(&self.engine.cache));
        }
    }

    /// Tells once that nearly all of it was asked for, and in which order it was read.
    pub(crate) fn nears_its_end(&self) -> Option<Order> {
        let (share, of) = END_SHARE;
        let asked = self.asked_bytes.load(Ordering::Relaxed);
        if asked < self.version.size() / of * share || self.told_of_end.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(self.ahead.lock().order())
    }

    /// Tells of a read; what comes back is what to fetch ahead.
    fn plan(&self, range: ByteRange) -> Advice {
        let advice = self.advised(|ahead, share_bytes| ahead.observe(range, share_bytes));
        if let Some(abandoned) = advice.plan.abandoned {
            self.engine.cache.abandon(self.version.cached(&self.engine.cache), blocks_of(abandoned));
        }
        advice
    }

    fn advised<R>(&self, ask: impl FnOnce(&mut Ahead, u64) -> R) -> R {
        let share_bytes = self.engine.share_bytes();
        let mut ahead = self.ahead.lock();
        let before = ahead.reading_ahead();
        let advice = ask(&mut ahead, share_bytes);
        // Under the lock, so that the sum never falls below what it takes away.
        self.engine.streams.fetch_add(ahead.reading_ahead(), Ordering::Relaxed);
        self.engine.streams.fetch_sub(before, Ordering::Relaxed);
        advice
    }

    /// Starts to fetch what is missing of `parts`, until memory runs out.
    pub(super) fn fetch_ahead(&self, parts: impl IntoIterator<Item = Part>, urgency: Urgency) {
        for part in parts {
            match self.claim_ahead(part.range, urgency) {
                Some(claims) => self.start(claims),
                None => {
                    Counters::add(&self.reads.refusals, 1);
                    return self.ahead.lock().refused_part(&part);
                }
            }
        }
    }

    /// Fetches what is missing of `range` while the caller waits, if there is memory for it.
    pub(super) async fn fetch_now(&self, range: ByteRange) {
        for claim in self.claim_ahead(range, Urgency::Background).into_iter().flatten() {
            Counters::add(&self.asked_bytes, claim.range().len());
            self.source().fetch(claim).await;
        }
    }

    fn claim_ahead(&self, range: ByteRange, urgency: Urgency) -> Option<Vec<Claim>> {
        let version = (self.version.cached(&self.engine.cache), self.version.size());
        self.engine.cache.claim_ahead(version, blocks_of(range), urgency)
    }

    /// The blocks that hold `range`, if all are here.
    pub(super) fn peek(&self, range: ByteRange) -> Option<ReadData> {
        let blocks: Range<u32> = blocks_of(range);
        let found = self.engine.cache.peek(self.version.cached(&self.engine.cache), blocks)?;
        let found: Vec<Found> = found.into_iter().map(Found::Ready).collect();
        ReadData::if_ready(&found, range)
    }

    /// Starts one fetch for each claim.
    fn start(&self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        let bytes = claims.iter().map(|claim| claim.range().len()).sum();
        Counters::add(&self.asked_bytes, bytes);
        let mut fetches = self.fetches.lock();
        while let Some(ended) = fetches.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(key = %self.version.key(), %error, "a fetch ended abnormally");
            }
        }
        for claim in claims {
            fetches.spawn_on(self.source().fetch(claim), &self.engine.runtime);
        }
    }

    fn source(&self) -> Source {
        Source {
            bucket: Arc::clone(&self.engine.bucket),
            disk: self.disk.clone(),
            counters: Arc::clone(&self.engine.counters),
            file: Arc::clone(&self.reads),
            version: Arc::clone(&self.version),
        }
    }

    fn count(&self, found: &[Found], missed: u32) {
        let counters = &*self.engine.counters;
        let ready = found.iter().filter(|f| matches!(f, Found::Ready(_))).count() as u64;
        let awaited = found.len() as u64 - ready - u64::from(missed);
        for (counter, of_file, n) in [
            (&counters.blocks_ready, &self.reads.ready, ready),
            (&counters.blocks_awaited, &self.reads.awaited, awaited),
            (&counters.blocks_missed, &self.reads.missed, u64::from(missed)),
        ] {
            if n > 0 {
                Counters::add(counter, n);
                Counters::add(of_file, n);
            }
        }
    }
}

impl Drop for OpenObject {
    fn drop(&mut self) {
        // The fetches stop when `fetches` is dropped. What they brought ahead will hardly be read: nobody has the object open.
        self.engine.streams.fetch_sub(self.ahead.get_mut().reading_ahead(), Ordering::Relaxed);
        self.engine.cache.abandon(self.version.cached(&self.engine.cache), 0..u32::MAX);
    }
}

/// Waits for the blocks of a read. `None` if a fetch was dropped: ask again.
async fn collect(mut found: Vec<Found>, range: ByteRange) -> Result<Option<ReadData>> {
    // From the last to the first: blocks land in order, so that one wake-up mostly finds them all.
    for slot in found.iter_mut().rev() {
        if let Found::Filling(pending) = slot {
            *slot = match pending.wait().await {
                Landing::Block(block) => Found::Ready(block),
                Landing::Failed(error) => return Err(error),
                Landing::Abandoned => return Ok(None),
            };
        }
    }
    Ok(ReadData::if_ready(&found, range))
}
