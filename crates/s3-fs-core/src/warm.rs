//! Brings whole objects into the cache on disk before anybody reads them.
//!
//! A reader never waits for the disk, so what it cannot take in time is left out; here the network waits for the disk, and all of an
//! object gets there. What is there already is not fetched again: an interrupted warm-up goes on where it was.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use sluicefs_s3_client::{self as s3, Bucket, ByteRange, ETag, GetReply, GetRequest, ObjectKey, ObjectMeta};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::cache::disk::{DiskCache, DiskCacheConfig, DiskCacheError, DiskObject};
use crate::cache::{BLOCK_BYTES, bytes_of};
use crate::read::VERIFIED_BYTES;

/// So much of a body is written at a time: less costs a thread switch for each block. What is asked for whole fits.
const PIECE_BYTES: u64 = VERIFIED_BYTES;

/// How to fetch.
#[derive(Debug, Clone, Copy)]
pub struct WarmConfig {
    /// The most requests at a time, each of which holds up to 1 MiB of memory.
    pub requests: usize,
    /// The largest single GET, in bytes.
    pub part_size_bytes: u64,
}

/// Why an object is not in the cache as a whole.
#[derive(Debug, thiserror::Error)]
pub enum WarmError {
    /// The store did not give it.
    #[error(transparent)]
    Store(#[from] s3::Error),
    /// The disk failed.
    #[error("the cache on disk failed: {0}")]
    Disk(#[from] io::Error),
    /// There is no room, also after all that nobody uses was removed.
    #[error("the cache on disk has no room for it")]
    Full,
    /// Nothing of it is ever kept.
    #[error("it has no strong ETag, or this store has none that last, so that nothing of it is kept")]
    Unkept,
}

/// Fills the cache on disk of one bucket.
#[derive(Debug)]
pub struct Warmer {
    bucket: Arc<dyn Bucket>,
    cache: Arc<DiskCache>,
    requests: Semaphore,
    part_blocks: u32,
}

/// An object version, and what of it is not in the cache. It is not evicted while this lives.
#[derive(Debug)]
pub struct Cold {
    object: Arc<DiskObject>,
    key: ObjectKey,
    etag: ETag,
    size: u64,
    absent: Vec<Range<u32>>,
}

impl Cold {
    /// How much of it is not in the cache, in bytes.
    pub fn absent_bytes(&self) -> u64 {
        self.absent.iter().map(|blocks| bytes_of(blocks.clone(), self.size).len()).sum()
    }
}

impl Warmer {
    /// Opens the cache. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(
        bucket: Arc<dyn Bucket>,
        cache: &DiskCacheConfig,
        config: WarmConfig,
    ) -> Result<Self, DiskCacheError> {
        let cache = DiskCache::open(cache, bucket.identity(), 0, Handle::current())?;
        let part_blocks = u32::try_from(config.part_size_bytes / BLOCK_BYTES).unwrap_or(u32::MAX).max(1);
        Ok(Self { bucket, cache, requests: Semaphore::new(config.requests.max(1)), part_blocks })
    }

    /// The bucket that it fetches from.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// Looks at what of an object is not in the cache. Makes no request, and reads no block.
    ///
    /// # Errors
    /// `Unkept`, `Disk`.
    pub async fn look(&self, key: &ObjectKey, meta: &ObjectMeta) -> Result<Cold, WarmError> {
        let etag = meta.etag.clone().filter(|_| self.bucket.traits().lasting_etags);
        let etag = etag.ok_or(WarmError::Unkept)?;
        let object = self.cache.object(key.clone(), meta.size);
        let absent = {
            let (object, etag) = (Arc::clone(&object), etag.clone());
            blocking(move || object.absent(&etag)).await?.ok_or(WarmError::Unkept)?
        };
        Ok(Cold { object, key: key.clone(), etag, size: meta.size, absent })
    }

    /// Fetches what is absent, by several requests at a time; `on_disk` hears of bytes that got there. Cancel-safe: what got there stays.
    ///
    /// # Errors
    /// `Store`, also if the object is another version by now; `Disk`, `Full`.
    pub async fn fetch(&self, cold: &Cold, on_disk: &(impl Fn(u64) + Sync)) -> Result<(), WarmError> {
        let parts = cold.absent.iter().flat_map(|blocks| {
            let starts = blocks.clone().step_by(self.part_blocks as usize);
            starts.map(|start| start..blocks.end.min(start.saturating_add(self.part_blocks)))
        });
        let parts: Vec<Range<u32>> = parts.collect();
        let fetched = stream::iter(parts).map(|blocks| self.part(cold, blocks, on_disk));
        // The requests are what is limited.
        fetched.buffer_unordered(MAX_PARTS).try_collect::<()>().await
    }

    /// How many bytes of the object on disk are right, by their checksums. What is wrong is out of the cache after that.
    ///
    /// # Errors
    /// `Disk`.
    pub async fn verify(&self, cold: &Cold) -> Result<u64, WarmError> {
        let (object, etag) = (Arc::clone(&cold.object), cold.etag.clone());
        Ok(blocking(move || object.right_bytes(&etag)).await?)
    }

    /// Removes an object from the cache; false if somebody has it open.
    ///
    /// # Errors
    /// `Unkept`, `Disk`.
    pub async fn evict(&self, key: &ObjectKey, meta: &ObjectMeta) -> Result<bool, WarmError> {
        let etag = meta.etag.clone().ok_or(WarmError::Unkept)?;
        let object = self.cache.object(key.clone(), meta.size);
        Ok(blocking(move || object.remove(&etag)).await?)
    }

    async fn part(
        &self,
        cold: &Cold,
        blocks: Range<u32>,
        on_disk: &(impl Fn(u64) + Sync),
    ) -> Result<(), WarmError> {
        let _permit = self.requests.acquire().await.expect("the semaphore is never closed");
        let range = bytes_of(blocks.clone(), cold.size);
        // Readers may have brought it while it waited for its turn.
        let (object, etag, wanted) = (Arc::clone(&cold.object), cold.etag.clone(), blocks.clone());
        if !blocking(move || object.lacks(&etag, wanted)).await? {
            on_disk(range.len());
            return Ok(());
        }
        // Asked for without a range, the store sends the checksum of the whole.
        let is_whole = range == ByteRange::new(0, cold.size) && range.len() <= PIECE_BYTES;
        let request = GetRequest {
            key: cold.key.clone(),
            range: (!is_whole).then_some(range),
            if_match: Some(cold.etag.clone()),
        };
        let reply = self.bucket.get(request).await?;
        cold.check(&reply, range)?;
        let (mut body, mut left, mut next) = (reply.body, range.len(), blocks.start);
        let mut piece = Vec::with_capacity(left.min(PIECE_BYTES) as usize);
        while let Some(bytes) = body.next().await {
            let mut bytes = bytes?;
            left =
                left.checked_sub(bytes.len() as u64).ok_or_else(|| cold.corrupt("the reply is too long"))?;
            while !bytes.is_empty() {
                let n = bytes.len().min(PIECE_BYTES as usize - piece.len());
                piece.extend_from_slice(&bytes.split_to(n));
                // What is asked for whole is right only when the body has ended well.
                if piece.len() as u64 == PIECE_BYTES && !is_whole {
                    let full =
                        std::mem::replace(&mut piece, Vec::with_capacity(left.min(PIECE_BYTES) as usize));
                    next = cold.keep(next, full, on_disk).await?;
                }
            }
        }
        if left > 0 {
            return Err(cold.corrupt("the reply is too short").into());
        }
        if !piece.is_empty() {
            cold.keep(next, piece, on_disk).await?;
        }
        Ok(())
    }
}

impl Cold {
    fn check(&self, reply: &GetReply, range: ByteRange) -> Result<(), s3::Error> {
        if reply.meta.etag.as_ref() != Some(&self.etag) || reply.meta.size != self.size {
            let error = s3::Error::new(s3::ErrorKind::PreconditionFailed, "get").with_key(self.key.as_str());
            return Err(error.with_message("the object changed meanwhile"));
        }
        if reply.range != range {
            return Err(self.corrupt("the reply has another range"));
        }
        Ok(())
    }

    fn corrupt(&self, message: &str) -> s3::Error {
        s3::Error::new(s3::ErrorKind::Corrupt, "get").with_key(self.key.as_str()).with_message(message)
    }

    /// Writes the blocks from `first` on, and returns the one behind them.
    async fn keep(
        &self,
        first: u32,
        bytes: Vec<u8>,
        on_disk: &(impl Fn(u64) + Sync),
    ) -> Result<u32, WarmError> {
        let (object, etag, len) = (Arc::clone(&self.object), self.etag.clone(), bytes.len() as u64);
        let kept = blocking(move || {
            let blocks: Vec<&[u8]> = bytes.chunks(BLOCK_BYTES as usize).collect();
            object.keep_now(&etag, first, &blocks)
        });
        if !kept.await? {
            return Err(WarmError::Full);
        }
        on_disk(len);
        Ok(first + len.div_ceil(BLOCK_BYTES) as u32)
    }
}

/// Parts of one object that wait for their turn to be requested.
const MAX_PARTS: usize = 64;

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.map_err(io::Error::other)?
}
