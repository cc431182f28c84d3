//! What becomes of a file that is being written when it loses its name, or gets another.
//!
//! Nobody's object is never made, but who has the file open reads and writes it to its end. Each step waits for an object that is just being
//! made, and keeps the next from being made meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluicefs_s3_client::{ByteRange, ObjectKey, ObjectMeta};
use tokio::sync::OwnedMutexGuard;

use super::{Base, Committing, Draft, State};
use crate::budget::Reservation;
use crate::error::Result;
use crate::read::MAX_READ_BYTES;
use crate::write::content::Piece;
use crate::write::engine::Busy;
use crate::write::gather::Sources;

/// Files that lost their names while they were open, and what is written to them since, are held in memory up to this share of what written bytes
/// may take: one in so many. The rest is for what becomes objects. On disk they are held as long as there is room.
const NAMELESS_SHARE: u64 = 4;

/// The pieces of `range` that one read returns.
fn in_reads(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (range.start..range.end).step_by(MAX_READ_BYTES as usize);
    starts.map(move |start| range.intersect(ByteRange::from_len(start, MAX_READ_BYTES)))
}

/// Memory that is charged to files without names, in bytes.
#[derive(Debug, Default)]
pub(in crate::write) struct NamelessBytes(AtomicU64);

impl NamelessBytes {
    /// Adds `bytes`, if all together are `limit` at most then.
    fn take(&self, bytes: u64, limit: u64) -> bool {
        let add = |taken: u64| taken.checked_add(bytes).filter(|&taken| taken <= limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Keeps the object of a file from being made, and parts of it from being sent.
pub(crate) struct Paused {
    draft: Arc<Draft>,
    _turn: OwnedMutexGuard<()>,
    /// Who waits for memory meanwhile waits for the end of this.
    _busy: Busy,
}

impl Drop for Paused {
    fn drop(&mut self) {
        let mut state = self.draft.state.lock();
        state.is_paused = false;
        self.draft.send_complete_parts(&mut state);
    }
}

/// A file is losing its name, unless the store refuses: who makes it durable waits until the guard is dropped.
#[must_use]
pub(crate) struct LosingName(Arc<Draft>);

impl Drop for LosingName {
    fn drop(&mut self) {
        self.0.state.lock().is_leaving = false;
        self.0.moved.notify_waiters();
    }
}

impl Draft {
    /// The file was removed: what is written is never sent, and can be read until its last handle is closed. Waits for an object that is just
    /// being made.
    pub(crate) async fn orphan(&self) {
        let _turn = self.turn.lock().await;
        self.state.lock().orphan = true;
    }

    /// As [`Draft::orphan`], of a file that may regain its name before the guard is dropped.
    pub(crate) async fn leave(self: &Arc<Self>) -> LosingName {
        let _turn = self.turn.lock().await;
        let mut state = self.state.lock();
        (state.orphan, state.is_leaving) = (true, true);
        LosingName(Arc::clone(self))
    }

    /// Returns when it is decided whether the file keeps its name.
    pub(super) async fn name_decided(&self) {
        loop {
            let moved = self.moved.notified();
            if !self.state.lock().is_leaving {
                return;
            }
            moved.await;
        }
    }

    /// Returns when no object is being made of it.
    pub(crate) async fn settled(&self) {
        let _turn = self.turn.lock().await;
    }

    /// The file was not removed after all.
    pub(crate) async fn regain_name(&self) {
        let _turn = self.turn.lock().await;
        let mut state = self.state.lock();
        (state.orphan, state.is_held) = (false, false);
        self.engine.nameless.give_back(std::mem::take(&mut state.nameless_bytes));
    }

    /// As [`hold`](Self::hold), if somebody may read it.
    ///
    /// # Errors
    /// As that.
    pub(crate) async fn hold_if(self: &Arc<Self>, is_open: bool) -> Result<bool> {
        if is_open { self.hold().await } else { Ok(true) }
    }

    /// Fetches what is in the object alone, which is about to go, so that the file can be read to its end; false if it is too long to be held.
    ///
    /// # Errors
    /// As [`Draft::read`]; `NoSpace`.
    pub(crate) async fn hold(self: &Arc<Self>) -> Result<bool> {
        let _turn = self.turn.lock().await;
        let (ranges, sources) = {
            let state = self.state.lock();
            (state.content.in_base(), state.sources())
        };
        let bytes: u64 = ranges.iter().map(ByteRange::len).sum();
        let fits_on_disk = self.engine.stage.as_ref().is_some_and(|stage| stage.has_room(bytes));
        if !fits_on_disk && !self.charge_nameless(&mut self.state.lock(), bytes) {
            return Ok(false);
        }
        for range in ranges.into_iter().flat_map(in_reads) {
            self.hold_part(range, &sources).await?;
        }
        self.state.lock().is_held = true;
        Ok(true)
    }

    /// Whether `bytes` more may be in memory for files without names. They are given back when nobody has this one open any more.
    pub(super) fn charge_nameless(&self, state: &mut State, bytes: u64) -> bool {
        let limit = self.engine.config.memory_limit_bytes / NAMELESS_SHARE;
        let has_room = self.engine.nameless.take(bytes, limit);
        state.nameless_bytes += if has_room { bytes } else { 0 };
        has_room
    }

    /// Fetches `part` of the object and keeps it here. The memory for it comes first: nobody waits for that with bytes of the object in hand.
    async fn hold_part(self: &Arc<Self>, part: ByteRange, sources: &Sources) -> Result<()> {
        let mut memory: Option<Reservation> = None;
        loop {
            let units = self.state.lock().content.cost_units(part);
            if memory.as_ref().map_or(0, Reservation::units) < units {
                drop(memory.take());
                memory = Some(self.memory(units).await?);
            }
            let data = self.engine.gather(vec![Piece::Base(part)], sources).await?;
            let mut state = self.state.lock();
            if memory.as_ref().map_or(0, Reservation::units) < state.content.cost_units(part) {
                // Something of it was written meanwhile, and is being sent.
                continue;
            }
            let mut at = part.start;
            for slice in data.slices() {
                state.content.absorb(at, slice, &mut memory);
                at += slice.len() as u64;
            }
            return Ok(());
        }
    }

    /// What was written and not made durable is given up: nothing of it stays at the store.
    pub(crate) async fn give_up(&self) {
        self.orphan().await;
        self.parts_ended().await;
        if let Some(upload) = self.state.lock().upload.take() {
            upload.abandon(&self.engine);
        }
    }

    /// Keeps the object from being made until the guard is dropped; waits for one that is just being made, and for parts that are on their way.
    pub(crate) async fn pause(self: &Arc<Self>) -> Paused {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        self.state.lock().is_paused = true;
        let paused = Paused { draft: Arc::clone(self), _turn: turn, _busy: self.engine.busy() };
        self.parts_ended().await;
        paused
    }

    /// The file is called `key` from now on: the object `meta` there, if it is one. What was written to it since goes there.
    pub(crate) async fn moved(self: &Arc<Self>, _paused: &Paused, key: ObjectKey, meta: Option<&ObjectMeta>) {
        let _quiet = Committing::begin(self);
        self.saved_moved(&key, meta.and_then(|meta| meta.etag.clone())).await;
        let mut state = self.state.lock();
        if let Some(meta) = meta.filter(|_| state.base.is_some()) {
            state.base = Some(Base::new(&self.engine, &key, meta));
        }
        if let (Some(replaced), Some(meta)) = (&mut state.replaces, meta) {
            *replaced = meta.etag.clone().unwrap_or_else(|| replaced.clone());
        }
        if let Some(upload) = state.upload.take() {
            upload.abandon(&self.engine);
            if !state.content.upload_lost() {
                tracing::error!(%key, "a file was moved while it was written, and some of what was written is not held here any more: it cannot be made durable");
            }
        }
        (state.key, state.doubt) = (key, None);
        // The new name may stand for another type.
        *self.attributes.lock() = None;
    }

    /// Whether some of what was written is at the store alone, under the key that the file has now.
    pub(crate) fn is_bound_to_key(&self) -> bool {
        self.state.lock().content.has_released()
    }
}
