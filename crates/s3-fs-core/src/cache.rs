//! The blocks of all open objects in memory, each fetched by one reader for all.
//!
//! [`BlockCache::get`] answers a read in one step: the blocks that are here, those on their way, and a [`Claim`] for those
//! missing, which the caller must fetch. It does no I/O. How much memory there is decides the [`Budget`]; what is given up when
//! it runs short, the table in `memory`.

mod block;
mod claim;
pub(crate) mod disk;
mod lists;
mod memory;
mod pending;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

pub(crate) use block::{BLOCK_BYTES, Block, blocks_of, bytes_of};
pub(crate) use claim::Claim;
pub(crate) use pending::{Landing, Pending};

use crate::budget::{Budget, Reservation};
use crate::error::Result;
use block::cost_units;
pub(crate) use memory::Urgency;
use memory::{Known, Shared, Table};

/// So long is no request, in blocks, that it would be cut.
const UNCUT: u32 = u32::MAX / 4;

/// The cache of one file system.
#[derive(Debug)]
pub(crate) struct BlockCache {
    shared: Arc<Shared>,
    next_version: AtomicU64,
}

/// The cache's name for an object version. Dropping it drops the version's blocks: nobody can ask for them any more.
#[derive(Debug)]
pub(crate) struct VersionEntry {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for VersionEntry {
    fn drop(&mut self) {
        self.shared.table.lock().forget(self.id);
    }
}

/// What a read wants of one object version.
#[derive(Debug, Clone)]
pub(crate) struct Want<'a> {
    /// The version.
    pub(crate) version: &'a VersionEntry,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// The blocks that the reader waits for.
    pub(crate) now: Range<u32>,
    /// Blocks to fetch ahead if they are missing and memory allows. Those before it were fetched ahead already: if one of `now` is
    /// missing, others up to here were evicted too, and come along. Begins no earlier than `now` ends.
    pub(crate) ahead: Range<u32>,
    /// Blocks in one request.
    pub(crate) part_blocks: u32,
}

/// A block that a read wants now.
#[derive(Debug)]
pub(crate) enum Found {
    /// It is here.
    Ready(Arc<Block>),
    /// It is on its way.
    Filling(Arc<Pending>),
}

/// The answer to a read.
#[derive(Debug)]
pub(crate) enum Got {
    /// All blocks wanted now are here or on their way, if the caller fetches `claims`.
    Blocks {
        /// One for each block wanted now, in order.
        found: Vec<Found>,
        /// What the caller has to fetch, in the order of urgency.
        claims: Vec<Claim>,
        /// How many of the blocks wanted now had to be claimed.
        missed: u32,
        /// The first block ahead for which there was no memory.
        refused_from: Option<u32>,
    },
    /// There is no memory for the missing blocks. Drop what you hold, wait in [`BlockCache::wait_for_memory`], and ask again.
    NoMemory,
}

impl BlockCache {
    /// An empty cache that takes its memory from `budget`, and keeps `history_bytes` of blocks that were read when memory is wanted
    /// for others.
    pub(crate) fn new(budget: Arc<Budget>, history_bytes: u64) -> Self {
        let history_blocks = usize::try_from(history_bytes / BLOCK_BYTES).unwrap_or(usize::MAX);
        let table = Mutex::new(Table::new(history_blocks));
        Self { shared: Arc::new(Shared { budget, table }), next_version: AtomicU64::new(0) }
    }

    /// A name for a version that the cache has not seen.
    pub(crate) fn add_version(&self) -> VersionEntry {
        let id = self.next_version.fetch_add(1, Ordering::Relaxed);
        VersionEntry { shared: Arc::clone(&self.shared), id }
    }

    /// Answers a read, in one step under one lock.
    ///
    /// `memory` is what [`BlockCache::wait_for_memory`] gave for the same blocks, if the first answer was [`Got::NoMemory`].
    ///
    /// # Errors
    /// The error of a block that failed within the last second.
    pub(crate) fn get(&self, want: &Want<'_>, memory: Option<Reservation>) -> Result<Got> {
        let mut table = self.shared.table.lock();
        let (mut found, mut missing) = look_up(&mut table, want)?;
        let missed = missing.len() as u32;
        let mut reservation = None;
        if missed > 0 {
            let units = cost(&missing, want.size);
            reservation = match memory {
                Some(mut memory) => Some(memory.split(units)),
                None => table.reserve(&self.shared.budget, units, Urgency::Demand),
            };
            if reservation.is_none() {
                return Ok(Got::NoMemory);
            }
        }
        let refused_from = self.look_ahead(&mut table, want, &mut missing, &mut reservation);
        let claims = match reservation {
            Some(reservation) => {
                let urgency = Urgency::Ahead;
                self.claim(&mut table, want, (&missing, urgency), reservation, &mut found)
            }
            None => Vec::new(),
        };
        let found = found.into_iter().map(|f| f.expect("what was missing was claimed")).collect();
        Ok(Got::Blocks { found, claims, missed, refused_from })
    }

    /// Adds to `missing` the blocks worth fetching ahead, and to `reservation` the memory for them, part by part; returns where memory
    /// ran out.
    fn look_ahead(
        &self,
        table: &mut Table,
        want: &Want<'_>,
        missing: &mut Vec<u32>,
        reservation: &mut Option<Reservation>,
    ) -> Option<u32> {
        let again = if missing.is_empty() { 0..0 } else { repair_range(want) };
        for part in parts(&again, want.part_blocks).chain(parts(&want.ahead, want.part_blocks)) {
            let before = missing.len();
            missing.extend(part.clone().filter(|index| table.is_missing(want.version.id, *index)));
            if missing.len() == before {
                continue;
            }
            let units = cost(&missing[before..], want.size);
            let Some(promised) = table.reserve(&self.shared.budget, units, Urgency::Ahead) else {
                missing.truncate(before);
                return Some(part.start);
            };
            match reservation {
                Some(reservation) => reservation.merge(promised),
                None => *reservation = Some(promised),
            }
        }
        None
    }

    /// Claims those of `blocks` that are missing, to be fetched by one request for each run of them; `None` if there is no memory for all.
    pub(crate) fn claim_ahead(
        &self,
        (version, size): (&VersionEntry, u64),
        blocks: Range<u32>,
        urgency: Urgency,
    ) -> Option<Vec<Claim>> {
        let mut table = self.shared.table.lock();
        let missing: Vec<u32> = blocks.clone().filter(|index| table.is_missing(version.id, *index)).collect();
        if missing.is_empty() {
            return Some(Vec::new());
        }
        let reservation = table.reserve(&self.shared.budget, cost(&missing, size), urgency)?;
        let now = blocks.start..blocks.start;
        let want = Want { version, size, now, ahead: blocks, part_blocks: UNCUT };
        Some(self.claim(&mut table, &want, (&missing, urgency), reservation, &mut []))
    }

    /// Turns `missing` blocks into claims of contiguous runs, and notes those wanted now in `found`.
    fn claim(
        &self,
        table: &mut Table,
        want: &Want<'_>,
        (missing, ahead): (&[u32], Urgency),
        mut reservation: Reservation,
        found: &mut [Option<Found>],
    ) -> Vec<Claim> {
        let version = want.version.id;
        let mut claims = Vec::new();
        for blocks in runs(missing, &want.now, want.part_blocks) {
            let pending: Vec<Arc<Pending>> = blocks
                .clone()
                .map(|index| {
                    let is_now = want.now.contains(&index);
                    let urgency = if is_now { Urgency::Demand } else { ahead };
                    let pending = table.claim(version, index, urgency);
                    if is_now {
                        found[(index - want.now.start) as usize] = Some(Found::Filling(Arc::clone(&pending)));
                    }
                    pending
                })
                .collect();
            let memory = reservation.split(cost_units(blocks.clone(), want.size));
            claims.push(Claim::new(Arc::clone(&self.shared), (version, want.size), blocks, pending, memory));
        }
        claims
    }

    /// Waits until all blocks wanted now would find memory. Cancel-safe.
    ///
    /// The caller must hold no block, or two readers could wait for each other.
    pub(crate) async fn wait_for_memory(&self, want: &Want<'_>) -> Reservation {
        self.shared.budget.reserve(cost_units(want.now.clone(), want.size)).await
    }

    /// All of `blocks`, if they are here. They are no more read by that than before.
    pub(crate) fn peek(&self, version: &VersionEntry, blocks: Range<u32>) -> Option<Vec<Arc<Block>>> {
        let mut table = self.shared.table.lock();
        blocks.map(|index| table.peek(version.id, index)).collect()
    }

    /// Says that somebody reads a version of which blocks were fetched in the background.
    pub(crate) fn expect(&self, version: &VersionEntry) {
        self.shared.table.lock().expect(version.id);
    }

    /// Says that blocks of a version were fetched for a reader that went elsewhere: they go before those still expected.
    pub(crate) fn abandon(&self, version: &VersionEntry, blocks: Range<u32>) {
        self.shared.table.lock().abandon(version.id, blocks);
    }

    /// How many blocks are ready.
    #[cfg(test)]
    pub(crate) fn ready_blocks(&self) -> usize {
        self.shared.table.lock().ready_blocks()
    }
}

/// What a reader wants now: what is here or on its way, in order, and what is neither.
fn look_up(table: &mut Table, want: &Want<'_>) -> Result<(Vec<Option<Found>>, Vec<u32>)> {
    let mut found = Vec::with_capacity(want.now.len());
    let mut missing = Vec::new();
    for index in want.now.clone() {
        found.push(match table.read(want.version.id, index) {
            Known::Ready(block) => Some(Found::Ready(block)),
            Known::Filling(pending) => Some(Found::Filling(pending)),
            Known::Failed(error) => return Err(error),
            Known::Missing => {
                missing.push(index);
                None
            }
        });
    }
    Ok((found, missing))
}

/// What buffers for `missing` blocks of an object of `size` bytes cost, in the budget's units.
fn cost(missing: &[u32], size: u64) -> u32 {
    missing.iter().map(|index| cost_units(*index..index + 1, size)).sum()
}

/// What may be missing after a block wanted now: at most one request's worth of what had been fetched ahead.
fn repair_range(want: &Want<'_>) -> Range<u32> {
    let start = want.now.end;
    let end = start.saturating_add(want.part_blocks) / want.part_blocks * want.part_blocks;
    start..end.min(want.ahead.start).max(start)
}

/// `range` cut at multiples of `part_blocks`.
fn parts(range: &Range<u32>, part_blocks: u32) -> impl Iterator<Item = Range<u32>> + use<> {
    let Range { mut start, end } = *range;
    std::iter::from_fn(move || {
        (start < end).then(|| {
            let next = (start / part_blocks + 1).saturating_mul(part_blocks).min(end);
            std::mem::replace(&mut start, next)..next
        })
    })
}

/// Rising `missing` blocks as contiguous runs of about `part_blocks`, ending at multiples of it.
///
/// What a reader wants now is not cut, unless it is long: one request answers it. A short beginning joins the part after it.
fn runs(missing: &[u32], now: &Range<u32>, part_blocks: u32) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    let whole = if now.len() <= 2 * part_blocks as usize { now.clone() } else { 0..0 };
    let mut limit = 0;
    for index in missing {
        match runs.last_mut() {
            Some(run) if run.end == *index && (*index < limit || whole.contains(index)) => run.end += 1,
            _ => {
                runs.push(*index..index + 1);
                limit = (index + part_blocks + part_blocks / 2) / part_blocks * part_blocks;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests;
