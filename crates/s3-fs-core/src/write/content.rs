//! What a file holds while it is being written: where each of its bytes is, without any request.
//!
//! A byte is staged (written and held here, in memory or on disk), or in a part that was sent and let go, or in the old object, or a hole.
//! Offsets never shift, so sets of ranges say which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sluicefs_s3_client::{ByteRange, Part};

use super::plan::{self, Plan};
use super::ranges::RangeSet;
use super::schedule::PartSchedule;
use super::stage::{BLOCK_BYTES, Leaving, Place, Stage};
use crate::budget::Reservation;

/// The bytes of a file, as far as they differ from the old object.
#[derive(Debug)]
pub(super) struct Content {
    schedule: PartSchedule,
    size: u64,
    /// How much of the old object is still part of the file where nothing was written.
    base_len: u64,
    dirty: RangeSet,
    stage: Stage,
    /// Parts that the store has as the file has them.
    sent: BTreeMap<u64, Part>,
    /// Parts under way that nothing was written to since.
    under_way: BTreeSet<u64>,
    /// Parts with a request under way, whatever was written since: until it ends, nobody knows which of two the store will have.
    flying: BTreeSet<u64>,
    /// Sent parts that are still staged in memory, the oldest first.
    kept: VecDeque<u64>,
    /// Sent parts that are staged on disk, or on their way there, the oldest first.
    shelved: VecDeque<u64>,
    /// Sent bytes that are not staged any more.
    released: RangeSet,
    /// Where the writes that followed each other without a gap began and where they have come to.
    run: ByteRange,
}

/// Bytes of a file, by where they are.
#[derive(Debug)]
pub(super) enum Piece {
    /// In memory.
    Staged(Vec<Bytes>),
    /// In the file on disk, at the same offset.
    OnDisk(ByteRange),
    /// In the old object, at the same offset.
    Base(ByteRange),
    /// Nowhere: so many zeros.
    Hole(u64),
}

impl Piece {
    /// Whether it is in the file on disk.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(self, Self::OnDisk(_))
    }
}

/// Bytes that were sent in a part and are no longer held: they can be neither read nor changed until the file is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Released;

impl Content {
    /// A file of `size` bytes, all of which are in the old object.
    pub(super) fn new(schedule: PartSchedule, size: u64) -> Self {
        Self {
            schedule,
            size,
            base_len: size,
            dirty: RangeSet::default(),
            stage: Stage::default(),
            sent: BTreeMap::new(),
            under_way: BTreeSet::new(),
            flying: BTreeSet::new(),
            kept: VecDeque::new(),
            shelved: VecDeque::new(),
            released: RangeSet::default(),
            run: ByteRange::new(0, 0),
        }
    }

    /// A file of which `written` was written and is on disk.
    pub(super) fn on_disk(
        schedule: PartSchedule,
        (size, base_len): (u64, u64),
        written: &[ByteRange],
    ) -> Self {
        let mut content = Self { size, base_len, ..Self::new(schedule, size) };
        for range in written {
            content.dirty.insert(*range);
            content.stage.put_on_disk(*range);
        }
        content
    }

    /// Its length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How much of the old object is part of it where nothing was written.
    pub(super) fn base_len(&self) -> u64 {
        self.base_len
    }

    /// What was written since the object was made last, but for what was sent and let go.
    pub(super) fn written(&self) -> Vec<ByteRange> {
        self.dirty.within(ByteRange::new(0, u64::MAX)).collect()
    }

    /// What memory a write of `range` takes, in the budget's units.
    pub(super) fn cost_units(&self, range: ByteRange) -> u32 {
        self.stage.cost_units(range)
    }

    /// Takes over `data`, which begins at `offset`; `memory` is what it costs.
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        memory: &mut Option<Reservation>,
    ) -> Result<(), Released> {
        let range = ByteRange::from_len(offset, data.len() as u64);
        // A part that was the last, and is no more, is too short for its place.
        self.change(ByteRange::new(offset.min(self.size), range.end))?;
        self.stage.write(offset, data, memory);
        self.dirty.insert(range);
        self.released.remove(range);
        self.size = self.size.max(range.end);
        self.run = match self.run.end == range.start {
            true => ByteRange::new(self.run.start, range.end),
            false => range,
        };
        Ok(())
    }

    /// Makes the file `size` bytes long: cuts its end off, or adds a hole.
    pub(super) fn truncate(&mut self, size: u64) -> Result<(), Released> {
        if size < self.size {
            let cut = ByteRange::new(size, self.size);
            self.change(cut)?;
            self.dirty.remove(cut);
            self.released.remove(cut);
            self.stage.discard(ByteRange::new(size, u64::MAX));
            self.base_len = self.base_len.min(size);
        } else {
            self.change(ByteRange::new(self.size, size))?;
        }
        self.size = size;
        self.run = ByteRange::new(size, size);
        Ok(())
    }

    /// Parts with bytes of `range` must be sent again. Those let go can be made anew only if all of their bytes are.
    fn change(&mut self, range: ByteRange) -> Result<(), Released> {
        if range.is_empty() || (self.sent.is_empty() && self.under_way.is_empty()) {
            return Ok(());
        }
        let touched = self.schedule.index(range.start)..=self.schedule.index(range.end - 1);
        let lost = |index: u64| {
            let part = self.schedule.range(index).intersect(ByteRange::new(0, self.size));
            self.released.touches(part) && part.intersect(range) != part
        };
        let sent: Vec<u64> = self.sent.range(touched.clone()).map(|(&index, _)| index).collect();
        if sent.iter().any(|&index| lost(index)) {
            return Err(Released);
        }
        for index in sent {
            self.sent.remove(&index);
            self.released.remove(self.schedule.range(index));
        }
        self.kept.retain(|index| !touched.contains(index));
        self.shelved.retain(|index| !touched.contains(index));
        self.under_way.retain(|index| !touched.contains(index));
        Ok(())
    }

    /// Where the bytes of `range`, which lies in the file, are, in order.
    pub(super) fn pieces(&self, range: ByteRange) -> Result<Vec<Piece>, Released> {
        if self.released.touches(range) {
            return Err(Released);
        }
        let mut pieces = Vec::new();
        let mut at = range.start;
        for written in self.dirty.within(range) {
            self.unwritten(ByteRange::new(at, written.start), &mut pieces);
            pieces.extend(self.stage.places(written).into_iter().map(|(place, range)| match place {
                Place::Memory => Piece::Staged(self.stage.share(range)),
                Place::Disk => Piece::OnDisk(range),
            }));
            at = written.end;
        }
        self.unwritten(ByteRange::new(at, range.end), &mut pieces);
        Ok(pieces)
    }

    /// The ranges whose bytes are in the old object alone.
    pub(super) fn in_base(&self) -> Vec<ByteRange> {
        let whole = self.pieces(ByteRange::new(0, self.size.min(self.base_len))).unwrap_or_default();
        let ranges = whole.into_iter().filter_map(|piece| match piece {
            Piece::Base(range) => Some(range),
            Piece::Staged(_) | Piece::OnDisk(_) | Piece::Hole(_) => None,
        });
        ranges.collect()
    }

    /// Takes over `data`, bytes of the old object from `offset` on, where nothing was written since; `memory` is what a write of them costs.
    pub(super) fn absorb(&mut self, offset: u64, data: &[u8], memory: &mut Option<Reservation>) {
        let range = ByteRange::from_len(offset, data.len() as u64);
        let still =
            self.in_base().into_iter().map(|base| base.intersect(range)).filter(|part| !part.is_empty());
        for part in still.collect::<Vec<_>>() {
            let from = &data[(part.start - offset) as usize..(part.end - offset) as usize];
            self.stage.write(part.start, from, memory);
            self.dirty.insert(part);
        }
    }

    fn unwritten(&self, gap: ByteRange, pieces: &mut Vec<Piece>) {
        let base = gap.intersect(ByteRange::new(0, self.base_len));
        if !base.is_empty() {
            pieces.push(Piece::Base(base));
        }
        let hole = gap.end.saturating_sub(gap.start.max(self.base_len));
        if hole > 0 {
            pieces.push(Piece::Hole(hole));
        }
    }

    // === Parts ===

    /// The next part that is complete and worth sending before the file is closed: writes ran through it and went on behind it.
    pub(super) fn next_to_send(&self) -> Option<u64> {
        let first = self.schedule.index(self.run.start);
        let first = if self.schedule.range(first).start < self.run.start { first + 1 } else { first };
        let is_known = |index: &u64| self.sent.contains_key(index) || self.under_way.contains(index);
        let next = (first..).find(|index| !is_known(index))?;
        // A part that was changed while it was under way waits for the end of that request.
        let is_complete = self.schedule.range(next).end < self.run.end;
        (is_complete && !self.flying.contains(&next)).then_some(next)
    }

    /// Whether a request for the part `index` is under way.
    pub(super) fn is_flying(&self, index: u64) -> bool {
        self.flying.contains(&index)
    }

    /// How many parts are under way.
    pub(super) fn parts_under_way(&self) -> usize {
        self.flying.len()
    }

    /// Notes that the part `index` is being sent.
    pub(super) fn sending(&mut self, index: u64) {
        self.under_way.insert(index);
        self.flying.insert(index);
    }

    /// Notes that the store has `part` as number `index`; whether it is still what the file holds.
    pub(super) fn sent(&mut self, index: u64, part: Part) -> bool {
        self.flying.remove(&index);
        let is_current = self.under_way.remove(&index);
        if is_current {
            self.sent.insert(index, part);
            self.kept.push_back(index);
        }
        is_current
    }

    /// Notes that the part `index` could not be sent.
    pub(super) fn not_sent(&mut self, index: u64) {
        self.flying.remove(&index);
        self.under_way.remove(&index);
    }

    /// What the store said of the part `index` when it was sent.
    pub(super) fn sent_part(&self, index: u64) -> Option<&Part> {
        self.sent.get(&index)
    }

    /// How many parts the store has, and the bytes in them.
    pub(super) fn sent_parts(&self) -> (usize, u64) {
        (self.sent.len(), self.sent.values().map(|part| part.size).sum())
    }

    /// Bytes that were written since the object was made last.
    pub(super) fn written_bytes(&self) -> u64 {
        self.dirty.len() + self.released.len()
    }

    /// Bytes of sent parts that are still in memory.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.iter().map(|&index| self.schedule.range(index).len()).sum()
    }

    /// Lets go of the oldest sent part in memory but the first, whose bytes programs go back to; false if there is none.
    pub(super) fn release_one(&mut self) -> bool {
        let part = take_oldest(&mut self.kept);
        part.is_some_and(|index| self.release(index))
    }

    /// As [`Content::release_one`], of a part on disk.
    pub(super) fn release_shelved(&mut self) -> bool {
        let part = take_oldest(&mut self.shelved);
        part.is_some_and(|index| self.release(index))
    }

    fn release(&mut self, index: u64) -> bool {
        let range = self.schedule.range(index);
        self.released.insert(range);
        self.dirty.remove(range);
        self.stage.discard(range);
        true
    }

    // === To disk ===

    /// The oldest sent part in memory, for moving it to disk: but the first, as programs go back to that.
    pub(super) fn shelve_one(&mut self) -> Vec<Leaving> {
        let Some(index) = take_oldest(&mut self.kept) else { return Vec::new() };
        self.shelved.push_back(index);
        self.stage.leaving(self.schedule.range(index), &self.dirty, u64::MAX)
    }

    /// Up to `max_bytes` that are not being sent, for moving them to disk; the block that is being written just now last.
    pub(super) fn leaving(&self, max_bytes: u64) -> Vec<Leaving> {
        let hot = self.run.end / BLOCK_BYTES * BLOCK_BYTES;
        let ranges = [(0, hot), (hot + BLOCK_BYTES, u64::MAX), (hot, hot + BLOCK_BYTES)];
        let leaving = ranges
            .into_iter()
            .map(|(start, end)| self.stage.leaving(ByteRange::new(start, end), &self.dirty, max_bytes));
        leaving.into_iter().find(|leaving| !leaving.is_empty()).unwrap_or_default()
    }

    /// All that is in memory, for copying it to disk: also what is being sent.
    pub(super) fn all_in_memory(&self) -> Vec<Leaving> {
        self.stage.all_in_memory(&self.dirty)
    }

    /// What is on disk of it.
    pub(super) fn ranges_on_disk(&self) -> Vec<std::ops::Range<u64>> {
        let places =
            self.dirty.within(ByteRange::new(0, u64::MAX)).flat_map(|range| self.stage.places(range));
        places.filter(|(place, _)| *place == Place::Disk).map(|(_, range)| range.start..range.end).collect()
    }

    /// What was leaving is on disk.
    pub(super) fn left(&mut self, leaving: &[Leaving]) {
        leaving.iter().for_each(|leaving| self.stage.left(leaving, &self.dirty));
    }

    /// Takes the ranges that the file on disk need not hold any more.
    pub(super) fn take_dead(&mut self) -> Vec<ByteRange> {
        self.stage.take_dead()
    }

    /// Whether there are such.
    pub(super) fn has_dead(&self) -> bool {
        self.stage.has_dead()
    }

    /// How often bytes on disk were let go of: who began to read them before that reads again.
    pub(super) fn deaths(&self) -> u64 {
        self.stage.deaths()
    }

    /// The upload is gone, and what was sent with it; false if some of that was let go and cannot be sent again.
    pub(super) fn upload_lost(&mut self) -> bool {
        self.sent.clear();
        self.kept.clear();
        self.shelved.clear();
        let lost: Vec<ByteRange> = self.released.within(ByteRange::new(0, u64::MAX)).collect();
        for range in &lost {
            // They were written: the old object's bytes must not take their place.
            self.dirty.insert(*range);
        }
        lost.is_empty()
    }

    /// An object was made of what the file was at an attempt that seemed to fail, and is what the file is a change of from now on.
    ///
    /// What was let go is in it, since it cannot have been changed. Holes before that were so then, and are zeros of the object.
    pub(super) fn made_after_all(&mut self) {
        let let_go = self.released.within(ByteRange::new(0, u64::MAX));
        self.base_len = let_go.map(|range| range.end).fold(self.base_len, u64::max);
        self.released.clear();
        self.sent.clear();
        self.kept.clear();
        self.shelved.clear();
    }

    /// Whether some of it is in sent parts alone.
    pub(super) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    /// How to make the object, if what is under way arrives.
    pub(super) fn plan(&self, can_copy: bool) -> Plan {
        let sent = self.sent.keys().chain(&self.under_way).copied().collect();
        let content =
            plan::Content { size: self.size, base_len: self.base_len, dirty: &self.dirty, sent: &sent };
        plan::plan(&content, self.schedule, can_copy)
    }

    /// All of it is in the object now: nothing is held any more.
    pub(super) fn committed(&mut self) {
        self.base_len = self.size;
        self.run = ByteRange::new(self.size, self.size);
        self.dirty.clear();
        self.released.clear();
        self.stage.clear();
        self.sent.clear();
        self.kept.clear();
        self.shelved.clear();
        self.under_way.clear();
    }
}

/// Takes the oldest of `parts` but the first of the file.
fn take_oldest(parts: &mut VecDeque<u64>) -> Option<u64> {
    let at = parts.iter().position(|&index| index != 0)?;
    parts.remove(at)
}

#[cfg(test)]
mod tests;
