//! Which blocks are in memory or on their way, and which of them to give up first.
//!
//! Blocks that were read go first, since the kernel's page cache holds what they held; one that was read again gets a second
//! round. Then blocks fetched ahead of readers that went elsewhere, then, for a reader who waits, those fetched ahead longest ago.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::block::Block;
use super::lists::{EntryId, Lists};
use super::pending::Pending;
use crate::budget::{Budget, Reservation};
use crate::error::Error;

/// How long a block that was fetched ahead waits for its reader before others that read ahead may have its place.
const UNREAD_GRACE: Duration = Duration::from_secs(10);

/// How long a failed block answers with its error: the kernel tries a failed read-ahead again at once, page by page, and each try
/// would wait for a whole round of retries.
const FAILURE_MEMORY: Duration = Duration::from_secs(1);

/// The most failures remembered at a time; older ones are forgotten first.
const MAX_FAILURES: usize = 1024;

/// Read at least once.
const READ: usize = 0;
/// Fetched ahead of a reader that went elsewhere, or may never come.
const ABANDONED: usize = 1;
/// Fetched ahead of a reader that is expected.
const UNREAD: usize = 2;

/// What the cache and its claims share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) budget: Arc<Budget>,
    pub(super) table: Mutex<Table>,
}

/// The blocks of all versions, and their order of eviction.
#[derive(Debug)]
pub(super) struct Table {
    versions: FxHashMap<u64, FxHashMap<u32, Slot>>,
    order: Lists<Held, 3>,
    failures: std::collections::VecDeque<(u64, u32)>,
    /// How many read blocks stay when memory is wanted for others.
    history_blocks: usize,
}

#[derive(Debug)]
struct Held {
    version: u64,
    index: u32,
    block: Arc<Block>,
    read_again: bool,
    landed: Instant,
}

#[derive(Debug)]
enum Slot {
    Ready(EntryId),
    /// With the list that it will be in.
    Filling {
        pending: Arc<Pending>,
        list: usize,
    },
    Failed {
        error: Error,
        until: Instant,
    },
}

/// What the table knows of a block.
#[derive(Debug)]
pub(super) enum Known {
    Ready(Arc<Block>),
    Filling(Arc<Pending>),
    Failed(Error),
    Missing,
}

/// For whom memory is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A reader waits.
    Demand,
    /// Nobody waits yet.
    Ahead,
    /// Nobody is known who will ever: it takes what is free and nobody's else, and goes first.
    Background,
}

impl Table {
    pub(super) fn new(history_blocks: usize) -> Self {
        Self {
            versions: FxHashMap::default(),
            order: Lists::default(),
            failures: std::collections::VecDeque::new(),
            history_blocks,
        }
    }

    /// Looks up a block that a reader wants now.
    pub(super) fn read(&mut self, version: u64, index: u32) -> Known {
        let Some(slots) = self.versions.get_mut(&version) else { return Known::Missing };
        match slots.get_mut(&index) {
            None => Known::Missing,
            Some(Slot::Ready(id)) => {
                let id = *id;
                if self.order.list_of(id) == READ {
                    self.order.get_mut(id).read_again = true;
                } else {
                    self.order.move_to(id, READ);
                }
                Known::Ready(Arc::clone(&self.order.get_mut(id).block))
            }
            Some(Slot::Filling { pending, list }) => {
                *list = READ;
                Known::Filling(Arc::clone(pending))
            }
            Some(Slot::Failed { error, until }) if *until > Instant::now() => Known::Failed(error.clone()),
            Some(Slot::Failed { .. }) => Known::Missing,
        }
    }

    /// Whether a block is neither here, nor on its way, nor known to fail.
    pub(super) fn is_missing(&self, version: u64, index: u32) -> bool {
        match self.versions.get(&version).and_then(|slots| slots.get(&index)) {
            None => true,
            Some(Slot::Failed { until, .. }) => *until <= Instant::now(),
            Some(Slot::Ready(_) | Slot::Filling { .. }) => false,
        }
    }

    /// Marks a missing block as being fetched.
    pub(super) fn claim(&mut self, version: u64, index: u32, urgency: Urgency) -> Arc<Pending> {
        let pending = Arc::new(Pending::default());
        let list = match urgency {
            Urgency::Demand => READ,
            Urgency::Ahead => UNREAD,
            Urgency::Background => ABANDONED,
        };
        let slot = Slot::Filling { pending: Arc::clone(&pending), list };
        self.versions.entry(version).or_default().insert(index, slot);
        pending
    }

    /// Puts a fetched block in the place of its claim.
    pub(super) fn fill(&mut self, version: u64, index: u32, block: Arc<Block>) {
        let slot = self.versions.get_mut(&version).and_then(|slots| slots.get_mut(&index));
        let slot = slot.expect("a claim keeps its slot");
        let list = if let Slot::Filling { list, .. } = slot { *list } else { UNREAD };
        let held = Held { version, index, block, read_again: false, landed: Instant::now() };
        *slot = Slot::Ready(self.order.push(list, held));
    }

    /// Ends a claim with an error. Only a block that a reader waited for remembers it: the next reader of another should have a try.
    pub(super) fn fail(&mut self, version: u64, index: u32, error: Error) {
        let slots = self.versions.get_mut(&version).expect("a claim keeps its slot");
        let slot = slots.get_mut(&index).expect("a claim keeps its slot");
        if !matches!(slot, Slot::Filling { list: READ, .. }) {
            return self.drop_slot(version, index);
        }
        *slot = Slot::Failed { error, until: Instant::now() + FAILURE_MEMORY };
        self.failures.push_back((version, index));
        if self.failures.len() > MAX_FAILURES {
            let (version, index) = self.failures.pop_front().expect("just filled");
            let slot = self.versions.get(&version).and_then(|slots| slots.get(&index));
            if matches!(slot, Some(Slot::Failed { .. })) {
                self.drop_slot(version, index);
            }
        }
    }

    /// Ends a claim without an outcome.
    pub(super) fn abandon_claim(&mut self, version: u64, index: u32) {
        self.drop_slot(version, index);
    }

    /// Blocks of `version` in `indices` that nobody read yet will not be missed much.
    pub(super) fn abandon(&mut self, version: u64, indices: std::ops::Range<u32>) {
        let Some(slots) = self.versions.get(&version) else { return };
        let unread = |id: &EntryId, order: &Lists<Held, 3>| order.list_of(*id) == UNREAD;
        // Whichever is shorter: the range, or all blocks of the version.
        let ids: Vec<EntryId> = if indices.len() < slots.len() {
            indices.filter_map(|index| slots.get(&index)).filter_map(Slot::ready).collect()
        } else {
            slots.iter().filter(|(index, _)| indices.contains(index)).filter_map(|(_, s)| s.ready()).collect()
        };
        for id in ids {
            if unread(&id, &self.order) {
                self.order.move_to(id, ABANDONED);
            }
        }
    }

    /// A reader of `version` has come: what was fetched in the background is expected now.
    pub(super) fn expect(&mut self, version: u64) {
        let Some(slots) = self.versions.get_mut(&version) else { return };
        for slot in slots.values_mut() {
            match slot {
                Slot::Filling { list, .. } if *list == ABANDONED => *list = UNREAD,
                Slot::Ready(id) if self.order.list_of(*id) == ABANDONED => self.order.move_to(*id, UNREAD),
                Slot::Ready(_) | Slot::Filling { .. } | Slot::Failed { .. } => {}
            }
        }
    }

    /// A block that is here, of which it makes no difference that somebody looked.
    pub(super) fn peek(&mut self, version: u64, index: u32) -> Option<Arc<Block>> {
        let id = self.versions.get(&version)?.get(&index)?.ready()?;
        Some(Arc::clone(&self.order.get_mut(id).block))
    }

    /// Drops all that is known of a version; none of its blocks may be on their way.
    pub(super) fn forget(&mut self, version: u64) {
        for (_, slot) in self.versions.remove(&version).into_iter().flatten() {
            if let Slot::Ready(id) = slot {
                self.order.remove(id);
            }
        }
    }

    /// Promises `units`, giving up blocks as `urgency` allows.
    ///
    /// `None` for [`Urgency::Demand`] means that blocks worth `units` were given up but are still held by readers, or that all
    /// memory is in flight: waiting at the budget will do.
    pub(super) fn reserve(
        &mut self,
        budget: &Arc<Budget>,
        units: u32,
        urgency: Urgency,
    ) -> Option<Reservation> {
        // Memory that has been used before is cheaper than fresh memory.
        while self.order.len(READ) > self.history_blocks && self.evict_read() {}
        // A reader who waits must find something free while others read ahead.
        let spare = match urgency {
            Urgency::Demand => 0,
            Urgency::Ahead => budget.limit_units() / 8,
            Urgency::Background => budget.limit_units() / 4,
        };
        let mut evicted = 0;
        loop {
            if let Some(reservation) = budget.try_reserve(units, spare) {
                return Some(reservation);
            }
            if evicted >= units || (urgency != Urgency::Demand && budget.is_short()) {
                return None;
            }
            evicted += self.evict(urgency)?;
        }
    }

    /// Gives up one block and says what it cost.
    pub(super) fn evict(&mut self, urgency: Urgency) -> Option<u32> {
        self.pass_over_read_again();
        let from = |list: usize| self.order.front(list);
        if urgency == Urgency::Background {
            return Some(self.drop_entry(from(READ)?));
        }
        let id = from(READ).or_else(|| from(ABANDONED)).or_else(|| from(UNREAD))?;
        let is_expected = self.order.list_of(id) == UNREAD;
        if urgency == Urgency::Ahead && is_expected && self.order.get_mut(id).landed.elapsed() < UNREAD_GRACE
        {
            return None;
        }
        Some(self.drop_entry(id))
    }

    fn evict_read(&mut self) -> bool {
        self.pass_over_read_again();
        self.order.front(READ).map(|id| self.drop_entry(id)).is_some()
    }

    /// Gives the oldest read blocks that were read again their second round.
    fn pass_over_read_again(&mut self) {
        for _ in 0..self.order.len(READ) {
            let Some(id) = self.order.front(READ) else { return };
            if !std::mem::take(&mut self.order.get_mut(id).read_again) {
                return;
            }
            self.order.move_to(id, READ);
        }
    }

    fn drop_entry(&mut self, id: EntryId) -> u32 {
        let held = self.order.remove(id);
        self.drop_slot(held.version, held.index);
        held.block.units()
    }

    fn drop_slot(&mut self, version: u64, index: u32) {
        let Some(slots) = self.versions.get_mut(&version) else { return };
        slots.remove(&index);
        if slots.is_empty() {
            self.versions.remove(&version);
        }
    }

    /// How many blocks are ready.
    #[cfg(test)]
    pub(super) fn ready_blocks(&self) -> usize {
        [READ, ABANDONED, UNREAD].iter().map(|list| self.order.len(*list)).sum()
    }
}

impl Slot {
    fn ready(&self) -> Option<EntryId> {
        match self {
            Self::Ready(id) => Some(*id),
            Self::Filling { .. } | Self::Failed { .. } => None,
        }
    }
}
