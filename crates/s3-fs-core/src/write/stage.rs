//! Bytes that were written and are not at the store yet, by their offset in the file.
//!
//! They lie in blocks of the budget's buffers, each at its own place, so that a byte written twice is held once. A block that is being
//! sent, or moved to disk, is shared with whoever does that; writing to it meanwhile copies it first, and the other has what was there when
//! it began. Bytes that were moved to disk are known here by their ranges alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sluicefs_s3_client::ByteRange;

use super::ranges::RangeSet;
use crate::budget::{BUFFER_BYTES, Budget, Buffer, Reservation};

/// What is staged, moved to disk and read back at once.
pub(super) const BLOCK_BYTES: u64 = BUFFER_BYTES as u64;

/// The written bytes of one file.
#[derive(Debug, Default)]
pub(super) struct Stage {
    blocks: BTreeMap<u64, Arc<Buffer>>,
    /// Bytes that are on disk, and nowhere newer.
    on_disk: RangeSet,
    /// Bytes that the file on disk need not hold any more; none of those that are on disk.
    dead: RangeSet,
    /// How often bytes on disk became dead: who began to read them before that reads again.
    deaths: u64,
}

/// A block on its way to disk.
#[derive(Debug)]
pub(super) struct Leaving {
    index: u64,
    block: Arc<Buffer>,
    /// Which of its bytes count.
    ranges: Vec<ByteRange>,
}

impl Leaving {
    /// The bytes that count, and their offsets.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let start = self.index * BLOCK_BYTES;
        let cut = move |range: &ByteRange| (range.start - start) as usize..(range.end - start) as usize;
        self.ranges.iter().map(move |range| (range.start, &self.block.bytes()[cut(range)]))
    }
}

/// The bytes of `block`, for as long as somebody has them.
pub(super) fn shared(block: Arc<Buffer>) -> Bytes {
    Bytes::from_owner(Shared(block))
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
        self.on_disk.remove(range);
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

    /// The bytes of `range`, all of which are in memory. They stay as they are, whatever is written later.
    pub(super) fn share(&self, range: ByteRange) -> Vec<Bytes> {
        let piece = |index: u64| {
            let start = index * BLOCK_BYTES;
            let part = range.intersect(ByteRange::from_len(start, BLOCK_BYTES));
            let block = self.blocks.get(&index).expect("what is shared was written");
            shared(Arc::clone(block)).slice((part.start - start) as usize..(part.end - start) as usize)
        };
        blocks_of(range).map(piece).collect()
    }

    /// The parts of `range`, all of which was written, in order: whether they are on disk, or in memory.
    pub(super) fn places(&self, range: ByteRange) -> Vec<(Place, ByteRange)> {
        let mut places = Vec::new();
        let mut at = range.start;
        for on_disk in self.on_disk.within(range) {
            places.push((Place::Memory, ByteRange::new(at, on_disk.start)));
            places.push((Place::Disk, on_disk));
            at = on_disk.end;
        }
        places.push((Place::Memory, ByteRange::new(at, range.end)));
        places.retain(|(_, part)| !part.is_empty());
        places
    }

    // === To disk ===

    /// Blocks of `range` that nobody else has, for moving them to disk: at most `max_bytes`. Of their bytes, those in `written` count.
    pub(super) fn leaving(&self, range: ByteRange, written: &RangeSet, max_bytes: u64) -> Vec<Leaving> {
        let blocks = self.blocks.range(blocks_of(range));
        let unshared = blocks.filter(|(_, block)| Arc::strong_count(block) == 1);
        unshared.map(|block| self.leave(block, written)).take((max_bytes / BLOCK_BYTES) as usize).collect()
    }

    /// All blocks, whoever has them, for copying them to disk. Of their bytes, those in `written` count.
    pub(super) fn all_in_memory(&self, written: &RangeSet) -> Vec<Leaving> {
        self.blocks.iter().map(|block| self.leave(block, written)).collect()
    }

    fn leave(&self, (&index, block): (&u64, &Arc<Buffer>), written: &RangeSet) -> Leaving {
        let written = written.within(ByteRange::from_len(index * BLOCK_BYTES, BLOCK_BYTES));
        let in_memory =
            written.flat_map(|range| self.places(range)).filter(|(place, _)| *place == Place::Memory);
        Leaving { index, block: Arc::clone(block), ranges: in_memory.map(|(_, range)| range).collect() }
    }

    /// The bytes of `range` are on disk.
    pub(super) fn put_on_disk(&mut self, range: ByteRange) {
        self.on_disk.insert(range);
        self.dead.remove(range);
    }

    /// The block is on disk, and is let go of unless it was changed or discarded meanwhile. Of its bytes, those in `written` still count.
    pub(super) fn left(&mut self, leaving: &Leaving, written: &RangeSet) {
        if self.blocks.get(&leaving.index).is_some_and(|block| Arc::ptr_eq(block, &leaving.block)) {
            self.blocks.remove(&leaving.index);
            for range in leaving.ranges.iter().flat_map(|range| written.within(*range)) {
                self.put_on_disk(range);
            }
        }
    }

    /// Takes the ranges that the file on disk need not hold any more.
    pub(super) fn take_dead(&mut self) -> Vec<ByteRange> {
        std::mem::take(&mut self.dead).within(ByteRange::new(0, u64::MAX)).collect()
    }

    /// Whether there are such.
    pub(super) fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    /// How often bytes on disk became dead.
    pub(super) fn deaths(&self) -> u64 {
        self.deaths
    }

    /// Lets go of the blocks that lie in `range` whole, and of its bytes on disk.
    pub(super) fn discard(&mut self, range: ByteRange) {
        let dead: Vec<ByteRange> = self.on_disk.within(range).collect();
        self.deaths += u64::from(!dead.is_empty());
        self.on_disk.remove(range);
        dead.into_iter().for_each(|range| self.dead.insert(range));
        let (first, end) = (range.start.div_ceil(BLOCK_BYTES), range.end / BLOCK_BYTES);
        while let Some((&index, _)) = self.blocks.range(first..end.max(first)).next() {
            self.blocks.remove(&index);
        }
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.deaths += 1;
        self.blocks.clear();
        self.on_disk.clear();
        self.dead.clear();
    }
}

/// Where written bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Memory,
    Disk,
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
