//! Bytes that were written and are not at the store yet, by their offset in the file.
//!
//! They lie in blocks of the budget's buffers, each at its own place, so that a byte written twice is held once. A block that is being
//! sent is shared with its request; writing to it meanwhile copies it first, and the request sends what was there when it began.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sluicefs_s3_client::ByteRange;

use crate::budget::{BUFFER_BYTES, Budget, Buffer, Reservation};

const BLOCK_BYTES: u64 = BUFFER_BYTES as u64;

/// The written bytes of one file.
#[derive(Debug, Default)]
pub(super) struct Stage {
    blocks: BTreeMap<u64, Arc<Buffer>>,
}

/// A block as the owner of the bytes cut from it.
struct Shared(Arc<Buffer>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Stage {
    /// What memory [`Stage::write`] of `range` takes, in the budget's units: that of the blocks that are not there or are being sent.
    pub(super) fn cost_units(&self, range: ByteRange) -> u32 {
        let is_free = |index: &u64| self.blocks.get(index).is_some_and(|block| Arc::strong_count(block) == 1);
        let fresh = blocks_of(range).filter(|index| !is_free(index)).count();
        fresh as u32 * Budget::cost_units(BUFFER_BYTES)
    }

    /// Takes over `data`, which begins at `offset`; `memory` is what [`Stage::cost_units`] asked for.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], memory: &mut Option<Reservation>) {
        let range = ByteRange::from_len(offset, data.len() as u64);
        for index in blocks_of(range) {
            let start = index * BLOCK_BYTES;
            let part = range.intersect(ByteRange::from_len(start, BLOCK_BYTES));
            let from = &data[(part.start - offset) as usize..(part.end - offset) as usize];
            self.block(index, memory).write_at((part.start - start) as usize, from);
        }
    }

    /// The block `index`, for writing.
    fn block(&mut self, index: u64, memory: &mut Option<Reservation>) -> &mut Buffer {
        let is_shared = self.blocks.get(&index).is_some_and(|block| Arc::strong_count(block) > 1);
        if is_shared || !self.blocks.contains_key(&index) {
            let memory = memory.as_mut().expect("memory was promised for blocks to come");
            let mut fresh = memory.buffer(BUFFER_BYTES);
            if let Some(sent) = self.blocks.get(&index) {
                fresh.fill(sent.bytes());
            }
            self.blocks.insert(index, Arc::new(fresh));
        }
        let block = self.blocks.get_mut(&index).expect("it was there or was put there");
        Arc::get_mut(block).expect("a shared one was replaced, and sharing takes the same lock")
    }

    /// The bytes of `range`, all of which were written. They stay as they are, whatever is written later.
    pub(super) fn share(&self, range: ByteRange) -> Vec<Bytes> {
        let piece = |index: u64| {
            let start = index * BLOCK_BYTES;
            let part = range.intersect(ByteRange::from_len(start, BLOCK_BYTES));
            let block = self.blocks.get(&index).expect("what is shared was written");
            Bytes::from_owner(Shared(Arc::clone(block)))
                .slice((part.start - start) as usize..(part.end - start) as usize)
        };
        blocks_of(range).map(piece).collect()
    }

    /// Lets go of the blocks that lie in `range` whole.
    pub(super) fn discard(&mut self, range: ByteRange) {
        let (first, end) = (range.start.div_ceil(BLOCK_BYTES), range.end / BLOCK_BYTES);
        while let Some((&index, _)) = self.blocks.range(first..end.max(first)).next() {
            self.blocks.remove(&index);
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }
}

fn blocks_of(range: ByteRange) -> std::ops::Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(stage: &mut Stage, budget: &Arc<Budget>, offset: u64, data: &[u8]) -> u32 {
        let units = stage.cost_units(ByteRange::from_len(offset, data.len() as u64));
        let mut memory = budget.try_reserve(units, 0);
        stage.write(offset, data, &mut memory);
        assert_eq!(memory.map_or(0, |left| left.units()), 0, "the cost is exact");
        units
    }

    fn read(stage: &Stage, start: u64, end: u64) -> Vec<u8> {
        stage.share(ByteRange::new(start, end)).concat()
    }

    #[test]
    fn what_was_written_last_is_read() {
        let (budget, mut stage) = (Budget::new(8 << 20), Stage::default());
        write(&mut stage, &budget, BLOCK_BYTES - 2, b"abcd");
        write(&mut stage, &budget, BLOCK_BYTES - 1, b"XY");
        assert_eq!(read(&stage, BLOCK_BYTES - 2, BLOCK_BYTES + 2), b"aXYd");
        write(&mut stage, &budget, 0, b"far before");
        assert_eq!(read(&stage, 0, 10), b"far before");
        assert_eq!(read(&stage, BLOCK_BYTES - 2, BLOCK_BYTES + 2), b"aXYd");
    }

    #[test]
    fn what_is_being_sent_stays_as_it_was() {
        let (budget, mut stage) = (Budget::new(8 << 20), Stage::default());
        let cost = write(&mut stage, &budget, 0, b"old content");
        let sent = stage.share(ByteRange::new(0, 11));
        assert_eq!(write(&mut stage, &budget, 4, b"C"), cost, "the block is copied");
        assert_eq!(sent.concat(), b"old content");
        assert_eq!(read(&stage, 0, 11), b"old Content");
        drop(sent);
        assert_eq!(write(&mut stage, &budget, 0, b"O"), 0, "nobody else has the block");
    }

    #[test]
    fn memory_comes_back() {
        let (budget, mut stage) = (Budget::new(8 << 20), Stage::default());
        write(&mut stage, &budget, 0, &vec![1; 3 * BUFFER_BYTES]);
        let held = budget.promised_bytes();
        stage.discard(ByteRange::new(1, 3 * BLOCK_BYTES - 1));
        assert_eq!(budget.promised_bytes(), held / 3 * 2, "blocks that lie in it whole");
        stage.clear();
        assert_eq!(budget.promised_bytes(), 0);
    }
}
