//! The cache's unit: 128 KiB of one object version, filled once and never changed.

use std::ops::Range;

use sluicefs_s3_client::ByteRange;

use crate::budget::{BUFFER_BYTES, Budget, Buffer};

/// Bytes in a block; the last one of an object may be shorter.
///
/// The smallest read worth a request of its own (Linux asks for 128 KiB by default), and small enough that a random read fetches
/// little besides what it wants.
pub(crate) const BLOCK_BYTES: u64 = BUFFER_BYTES as u64;

/// The bytes of one block. They count against the budget until the last holder drops it.
#[derive(Debug)]
pub(crate) struct Block(Buffer);

impl Block {
    /// Takes over a full buffer.
    pub(crate) fn new(buffer: Buffer) -> Self {
        debug_assert!(buffer.is_full(), "a block is published whole");
        Self(buffer)
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    pub(super) fn units(&self) -> u32 {
        self.0.units()
    }
}

/// The blocks that hold the bytes of `range`; none, after those that hold bytes before it, if it is empty.
pub(crate) fn blocks_of(range: ByteRange) -> Range<u32> {
    let block = |n: u64| u32::try_from(n).expect("no object has 2^32 blocks (512 TiB)");
    if range.is_empty() {
        let at = block(range.start.div_ceil(BLOCK_BYTES));
        return at..at;
    }
    block(range.start / BLOCK_BYTES)..block(range.end.div_ceil(BLOCK_BYTES))
}

/// The bytes of the blocks `blocks` of an object of `size` bytes.
pub(crate) fn bytes_of(blocks: Range<u32>, size: u64) -> ByteRange {
    let at = |block: u32| (u64::from(block) * BLOCK_BYTES).min(size);
    ByteRange::new(at(blocks.start), at(blocks.end))
}

/// How long block `index` of an object of `size` bytes is.
pub(crate) fn block_len(index: u32, size: u64) -> usize {
    bytes_of(index..index + 1, size).len() as usize
}

/// What the buffers of `blocks` cost, in the budget's units.
pub(super) fn cost_units(blocks: Range<u32>, size: u64) -> u32 {
    let Some(last) = blocks.end.checked_sub(1).filter(|last| *last >= blocks.start) else { return 0 };
    (last - blocks.start) * Budget::cost_units(BUFFER_BYTES) + Budget::cost_units(block_len(last, size))
}
