//! One object version while it is open: its readers' streams and the fetches made for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use sluicefs_s3_client::{self as s3, ByteRange};
use tokio::task::JoinSet;

use super::engine::ReadEngine;
use super::fetch::Source;
use super::stats::Counters;
use super::version::ObjectVersion;
use super::window::{Limits, Plan, Streams};
use super::{MAX_READ_BYTES, ReadData};
use crate::cache::disk::{DiskCache, DiskObject};
use crate::cache::{BLOCK_BYTES, Claim, Found, Got, Landing, Want, blocks_of, bytes_of};
use crate::error::{Error, Result};

/// How often a read claims blocks again whose fetches were dropped. Only a panic drops one while its object is open.
const MAX_CLAIMS: u32 = 3;

/// An object version that somebody reads; all handles of an inode share one.
///
/// Dropping the last reference stops its fetches. What they brought stays in the cache while the version lives.
#[derive(Debug)]
pub(crate) struct OpenObject {
    engine: Arc<ReadEngine>,
    version: Arc<ObjectVersion>,
    disk: Option<Arc<DiskObject>>,
    streams: Mutex<Streams>,
    fetches: Mutex<JoinSet<()>>,
}

impl OpenObject {
    pub(super) fn new(engine: Arc<ReadEngine>, version: Arc<ObjectVersion>) -> Arc<Self> {
        let limits = Limits {
            size: version.size(),
            max_window_bytes: engine.config.max_window_bytes,
            max_part_bytes: engine.config.part_size_bytes,
        };
        let streams = Mutex::new(Streams::new(limits));
        let object = |disk: &Arc<DiskCache>| disk.object(version.key().clone(), version.size());
        let disk = engine.disk.as_ref().map(object);
        Arc::new(Self { engine, version, disk, streams, fetches: Mutex::new(JoinSet::new()) })
    }

    /// The version that is read.
    #[cfg(test)]
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
        let plan = self.plan(range);
        let mut want = Want {
            version: self.version.cached(&self.engine.cache),
            size: self.version.size(),
            now: blocks_of(range),
            ahead: blocks_of(plan.ahead),
            part_blocks: (plan.part_bytes / BLOCK_BYTES).max(1) as u32,
        };
        let mut memory = None;
        let mut claimed = 0;
        while claimed < MAX_CLAIMS {
            let got = self.engine.cache.get(&want, memory.take())?;
            let Got::Blocks { found, claims, missed, refused_from } = got else {
                Counters::add(&self.engine.counters.memory_waits, 1);
                memory = Some(self.engine.cache.wait_for_memory(&want).await);
                continue;
            };
            self.count(&found, missed);
            if let Some(block) = refused_from {
                let from = bytes_of(block..block, want.size).start;
                self.streams.lock().refused(plan.stream, from);
            }
            self.start(claims);
            if let Some(data) = ReadData::if_ready(&found, range) {
                return Ok(data);
            }
            self.streams.lock().waited(plan.stream);
            if let Some(data) = collect(found, range).await? {
                return Ok(data);
            }
            claimed += 1;
            want.ahead = want.now.end..want.now.end;
        }
        let error = s3::Error::new(s3::ErrorKind::Transient, "get").with_key(self.version.key().as_str());
        Err(Error::from_store("read", error.with_message("fetches of these bytes ended without an outcome")))
    }

    /// Tells the streams of a read; what comes back is what to fetch ahead.
    fn plan(&self, range: ByteRange) -> Plan {
        let share_bytes = self.engine.share_bytes();
        let mut streams = self.streams.lock();
        let before = streams.reading_ahead();
        let plan = streams.observe(range, share_bytes);
        // Under the lock, so that the sum never falls below what it takes away.
        self.engine.streams.fetch_add(streams.reading_ahead(), Ordering::Relaxed);
        self.engine.streams.fetch_sub(before, Ordering::Relaxed);
        drop(streams);
        if let Some(abandoned) = plan.abandoned {
            self.engine.cache.abandon(self.version.cached(&self.engine.cache), blocks_of(abandoned));
        }
        plan
    }

    /// Starts one fetch for each claim.
    fn start(&self, claims: Vec<Claim>) {
        if claims.is_empty() {
            return;
        }
        let mut fetches = self.fetches.lock();
        while let Some(ended) = fetches.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(key = %self.version.key(), %error, "a fetch ended abnormally");
            }
        }
        for claim in claims {
            let source = Source {
                bucket: Arc::clone(&self.engine.bucket),
                disk: self.disk.clone(),
                counters: Arc::clone(&self.engine.counters),
                version: Arc::clone(&self.version),
            };
            fetches.spawn_on(source.fetch(claim), &self.engine.runtime);
        }
    }

    fn count(&self, found: &[Found], missed: u32) {
        let counters = &*self.engine.counters;
        let ready = found.iter().filter(|f| matches!(f, Found::Ready(_))).count() as u64;
        let awaited = found.len() as u64 - ready - u64::from(missed);
        for (counter, n) in [
            (&counters.blocks_ready, ready),
            (&counters.blocks_awaited, awaited),
            (&counters.blocks_missed, u64::from(missed)),
        ] {
            if n > 0 {
                Counters::add(counter, n);
            }
        }
    }
}

impl Drop for OpenObject {
    fn drop(&mut self) {
        // The fetches stop when `fetches` is dropped. What they brought ahead will hardly be read: nobody has the object open.
        self.engine.streams.fetch_sub(self.streams.get_mut().reading_ahead(), Ordering::Relaxed);
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
