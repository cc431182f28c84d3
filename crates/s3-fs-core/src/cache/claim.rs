//! The right and the duty to fetch a run of missing blocks.

use std::ops::Range;
use std::sync::Arc;

use sluicefs_s3_client::ByteRange;

use super::block::{Block, block_len, bytes_of, cost_units};
use super::memory::{Shared, Urgency};
use super::pending::{Landing, Pending};
use crate::budget::{Buffer, Reservation};
use crate::error::Error;

/// A run of blocks that only its holder fetches, with the memory for them.
///
/// Blocks are filled from the first to the last. Dropping the claim tells those who wait for the rest to claim them again.
#[derive(Debug)]
pub(crate) struct Claim {
    shared: Arc<Shared>,
    version: u64,
    size: u64,
    /// What is not filled yet.
    blocks: Range<u32>,
    /// One for each of `blocks`, the next one last.
    pending: Vec<Arc<Pending>>,
    reservation: Reservation,
}

impl Claim {
    /// `pending` has one entry for each of `blocks`, in order; `reservation` covers them all.
    pub(super) fn new(
        shared: Arc<Shared>,
        version: (u64, u64),
        blocks: Range<u32>,
        mut pending: Vec<Arc<Pending>>,
        reservation: Reservation,
    ) -> Self {
        pending.reverse();
        let (version, size) = version;
        Self { shared, version, size, blocks, pending, reservation }
    }

    /// The bytes that are still to be fetched.
    pub(crate) fn range(&self) -> ByteRange {
        bytes_of(self.blocks.clone(), self.size)
    }

    /// The first block that is still to be filled.
    pub(crate) fn first(&self) -> u32 {
        self.blocks.start
    }

    /// How many blocks are still to be filled.
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// The first `count` blocks as a claim of their own; the rest stays in this one.
    pub(crate) fn split(&mut self, count: u32) -> Self {
        let at = self.blocks.start + count.min(self.blocks());
        let blocks = self.blocks.start..at;
        let pending = self.pending.split_off(self.pending.len() - blocks.len());
        let reservation = self.reservation.split(cost_units(blocks.clone(), self.size));
        self.blocks.start = at;
        Self {
            shared: Arc::clone(&self.shared),
            version: self.version,
            size: self.size,
            blocks,
            pending,
            reservation,
        }
    }

    /// An empty buffer for the block `ahead` places after the next one.
    pub(crate) fn buffer(&mut self, ahead: u32) -> Buffer {
        self.reservation.buffer(block_len(self.blocks.start + ahead, self.size))
    }

    /// Publishes the next block if `read` says that it put the right bytes there, and returns whether it did. Else the claim is as it was
    /// before, and the block can be fetched from elsewhere.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn fill_by<E>(&mut self, read: impl FnOnce(&mut [u8]) -> Result<bool, E>) -> Result<bool, E> {
        let mut buffer = self.buffer(0);
        let is_right = buffer.read_into(block_len(self.blocks.start, self.size), read);
        if matches!(is_right, Ok(true)) {
            self.fill(Arc::new(Block::new(buffer)));
        } else {
            self.reservation.merge(buffer.into_reservation());
        }
        is_right
    }

    /// Publishes the next block.
    pub(crate) fn fill(&mut self, block: Arc<Block>) {
        let pending = self.pending.pop().expect("a claim is not filled twice");
        {
            let mut table = self.shared.table.lock();
            table.fill(self.version, self.blocks.start, Arc::clone(&block));
            // Whoever waits for memory has evicted what there was; what lands since then may be the rest.
            if self.shared.budget.is_short() {
                table.evict(Urgency::Demand);
            }
        }
        self.blocks.start += 1;
        pending.land(Landing::Block(block));
    }

    /// Gives all who wait for the rest the same error.
    pub(crate) fn fail(mut self, error: &Error) {
        {
            let mut table = self.shared.table.lock();
            for index in self.blocks.clone() {
                table.fail(self.version, index, error.clone());
            }
        }
        for pending in self.pending.drain(..) {
            pending.land(Landing::Failed(error.clone()));
        }
        self.blocks.start = self.blocks.end;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        {
            let mut table = self.shared.table.lock();
            for index in self.blocks.clone() {
                table.abandon_claim(self.version, index);
            }
        }
        for pending in self.pending.drain(..) {
            pending.land(Landing::Abandoned);
        }
    }
}
