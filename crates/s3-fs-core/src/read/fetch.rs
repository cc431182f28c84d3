//! Turns a claim into reads from the disk and GETs, and fills its blocks as the bytes arrive.
//!
//! Retries, resumed bodies and time limits are the bucket's business. Here a reply is held against the pinned version, and each byte
//! is copied once, from the network's buffer into its block.

use std::sync::Arc;

use futures::StreamExt;
use sluicefs_s3_client::{self as s3, BodyStream, Bucket, ByteRange, GetRequest};
use tokio::time::Instant;

use super::file_reads::FileCounters;
use super::stats::Counters;
use super::version::ObjectVersion;
use crate::budget::Buffer;
use crate::cache::disk::DiskObject;
use crate::cache::{Block, Claim};
use crate::error::{Error, Result};

/// Objects up to this long are asked for whole, without a range, when no block of them is here: only then does the store send the
/// checksum of what it stored. Their blocks are handed out when the last byte has been verified, which costs the first reader the time
/// of at most this many bytes.
pub(crate) const VERIFIED_BYTES: u64 = 1 << 20;

/// Where the blocks of one object version come from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) disk: Option<Arc<DiskObject>>,
    pub(super) counters: Arc<Counters>,
    pub(super) file: Arc<FileCounters>,
    pub(super) version: Arc<ObjectVersion>,
}

impl Source {
    /// Fetches what `claim` claims, from the disk what is there and by one GET each what lies between; its waiters learn the outcome.
    pub(super) async fn fetch(self, claim: Claim) {
        let Some(disk) = &self.disk else { return self.get(claim).await };
        let mut claim = claim;
        while claim.blocks() > 0 {
            let before = claim.range().len();
            let Some((left, absent)) = disk.fill(self.version.etag(), claim).await else { return };
            claim = left;
            Counters::add(&self.file.disk_bytes, before - claim.range().len());
            if absent > 0 {
                self.get(claim.split(absent)).await;
            }
        }
    }

    async fn get(&self, mut claim: Claim) {
        if let Err(error) = self.try_get(&mut claim).await {
            tracing::debug!(key = %self.version.key(), range = %claim.range(), %error, "a fetch failed");
            Counters::add(&self.file.failures, 1);
            claim.fail(&error);
        }
    }

    async fn try_get(&self, claim: &mut Claim) -> Result<()> {
        let version = &*self.version;
        let range = claim.range();
        let is_whole = range == ByteRange::new(0, version.size()) && range.len() <= VERIFIED_BYTES;
        let request = GetRequest {
            key: version.key().clone(),
            range: (!is_whole).then_some(range),
            if_match: version.etag().cloned(),
        };
        Counters::add(&self.counters.gets, 1);
        Counters::add(&self.file.gets, 1);
        let asked = Instant::now();
        let reply = self.bucket.get(request).await.map_err(|error| Error::from_store("read", error))?;
        self.file.answered(asked.elapsed());
        version.check(&reply.meta)?;
        if reply.range != range {
            return Err(corrupt(version, &format!("bytes {} instead of {range}", reply.range)));
        }
        let publish = if is_whole { Publish::AtEnd } else { Publish::Each };
        // Without an ETag in the reply nothing proves for ever whose bytes these are.
        let disk = self.disk.as_ref().filter(|_| reply.meta.etag.is_some());
        self.receive(claim, reply.body, (publish, disk)).await
    }

    async fn receive(
        &self,
        claim: &mut Claim,
        mut body: BodyStream,
        (publish, disk): (Publish, Option<&Arc<DiskObject>>),
    ) -> Result<()> {
        let version = &*self.version;
        let range = claim.range();
        let mut left = range.len();
        let mut full = Vec::new();
        let mut current = None;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| Error::from_store("read", error))?;
            Counters::add(&self.counters.bytes_fetched, piece.len() as u64);
            Counters::add(&self.file.fetched_bytes, piece.len() as u64);
            if piece.len() as u64 > left {
                return Err(corrupt(version, &format!("more than the {} bytes of {range}", range.len())));
            }
            left -= piece.len() as u64;
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let buffer = current.get_or_insert_with(|| claim.buffer(full.len() as u32));
                let n = buffer.fill(rest);
                rest = &rest[n..];
                if !buffer.is_full() {
                    continue;
                }
                let buffer = current.take().expect("just filled");
                match publish {
                    Publish::Each => self.publish(claim, buffer, disk),
                    Publish::AtEnd => full.push(buffer),
                }
            }
        }
        if left > 0 {
            return Err(corrupt(
                version,
                &format!("{left} of the {} bytes of {range} are missing", range.len()),
            ));
        }
        for buffer in full {
            self.publish(claim, buffer, disk);
        }
        Ok(())
    }

    fn publish(&self, claim: &mut Claim, buffer: Buffer, disk: Option<&Arc<DiskObject>>) {
        let block = Arc::new(Block::new(buffer));
        // First, so that what a reader has got is on its way to the disk.
        if let Some(disk) = disk {
            disk.keep(self.version.etag(), claim.first(), Arc::clone(&block));
        }
        claim.fill(block);
    }
}

/// When blocks are handed to readers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Publish {
    /// As soon as a block is full.
    Each,
    /// When the body has ended well: its checksum is known only then.
    AtEnd,
}

fn corrupt(version: &ObjectVersion, message: &str) -> Error {
    let error = s3::Error::new(s3::ErrorKind::Corrupt, "get").with_key(version.key().as_str());
    Error::from_store("read", error.with_message(message))
}
