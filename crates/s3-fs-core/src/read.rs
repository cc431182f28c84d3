//! Reading open objects: streams recognised, blocks fetched ahead, bytes handed out without a copy.
//!
//! A read asks its object's [streams](window) what is worth fetching ahead, and the block cache for the bytes; blocks that are missing
//! come back as claims, each of which becomes [one GET](fetch). A read whose blocks are all in memory does neither wait nor copy.

mod engine;
mod fetch;
mod file_reads;
mod header;
mod loader;
mod object;
mod stats;
mod version;
mod watchdog;
mod window;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use sluicefs_s3_client::ByteRange;

pub(crate) use engine::ReadEngine;
pub(crate) use fetch::VERIFIED_BYTES;
pub use file_reads::{FileReads, Pattern, Taken};
pub(crate) use loader::{Order, next_shard};
pub(crate) use object::OpenObject;
pub use stats::ReadStats;
pub(crate) use version::ObjectVersion;

use crate::cache::{BLOCK_BYTES, Block, Found};

/// The most bytes that one read returns. A read promises itself memory for all it returns, so this must be well below the least
/// memory limit; kernels ask for 1 MiB.
pub const MAX_READ_BYTES: u64 = 8 << 20;

/// Bytes that a read returned: one slice, or several in order.
///
/// They lie in the cache's own blocks and count against its memory limit until this is dropped: write them out, or copy them, and let go.
#[derive(Default)]
pub struct ReadData {
    slices: Vec<Slice>,
    len: usize,
}

enum Slice {
    /// Part of a block of the cache.
    Block { block: Arc<Block>, start: u32, end: u32 },
    /// Bytes that somebody wrote, or zeros.
    Bytes(Bytes),
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Block { block, start, end } => &block.bytes()[*start as usize..*end as usize],
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What a hole reads as, so many bytes at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl ReadData {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the read was at or past the end.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.slices.iter().map(AsRef::as_ref)
    }

    /// The bytes as pieces that can be kept and sent; they hold what this held.
    pub(crate) fn into_bytes(self) -> Vec<Bytes> {
        let piece = |slice| match slice {
            Slice::Bytes(bytes) => bytes,
            block => Bytes::from_owner(block),
        };
        self.slices.into_iter().map(piece).collect()
    }

    /// Adds `bytes` at the end.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.slices.push(Slice::Bytes(bytes));
    }

    /// Adds `len` zeros at the end.
    pub(crate) fn push_zeros(&mut self, mut len: u64) {
        while len > 0 {
            let n = len.min(ZEROS.len() as u64);
            self.push(Bytes::from_static(&ZEROS[..n as usize]));
            len -= n;
        }
    }

    /// The bytes of `range`, if all its blocks, `found` in order, are here.
    fn if_ready(found: &[Found], range: ByteRange) -> Option<Self> {
        let mut slices = Vec::with_capacity(found.len());
        let mut at = range.start;
        for slot in found {
            let Found::Ready(block) = slot else { return None };
            let start = at % BLOCK_BYTES;
            let end = (start + (range.end - at)).min(BLOCK_BYTES);
            slices.push(Slice::Block { block: Arc::clone(block), start: start as u32, end: end as u32 });
            at += end - start;
        }
        debug_assert_eq!(at, range.end, "a read finds all its blocks");
        Some(Self { slices, len: range.len() as usize })
    }
}

impl fmt::Debug for ReadData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadData({} bytes in {} slices)", self.len, self.slices.len())
    }
}

#[cfg(test)]
mod tests;
