//! Reading open objects: streams recognised, blocks fetched ahead, bytes handed out without a copy.
//!
//! A read asks its object's [streams](window) what is worth fetching ahead, and the block cache for the bytes; blocks that are missing
//! come back as claims, each of which becomes [one GET](fetch). A read whose blocks are all in memory does neither wait nor copy.

mod engine;
mod fetch;
mod object;
mod stats;
mod version;
mod window;

use std::fmt;
use std::sync::Arc;

use sluicefs_s3_client::ByteRange;

pub(crate) use engine::ReadEngine;
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

struct Slice {
    block: Arc<Block>,
    start: u32,
    end: u32,
}

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
        self.slices.iter().map(|s| &s.block.bytes()[s.start as usize..s.end as usize])
    }

    /// The bytes of `range`, if all its blocks, `found` in order, are here.
    fn if_ready(found: &[Found], range: ByteRange) -> Option<Self> {
        let mut slices = Vec::with_capacity(found.len());
        let mut at = range.start;
        for slot in found {
            let Found::Ready(block) = slot else { return None };
            let start = at % BLOCK_BYTES;
            let end = (start + (range.end - at)).min(BLOCK_BYTES);
            slices.push(Slice { block: Arc::clone(block), start: start as u32, end: end as u32 });
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
