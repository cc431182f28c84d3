//! What becomes of a file that is being written when it loses its name, or gets another.
//!
//! Nobody's object is never made, but who has the file open reads and writes it to its end. Each step waits for an object that is just being
//! made, and keeps the next from being made meanwhile.

use std::sync::Arc;

use sluicefs_s3_client::{ByteRange, ObjectKey, ObjectMeta};
use tokio::sync::OwnedMutexGuard;

use super::{Base, Committing, Draft};
use crate::budget::Reservation;
use crate::error::Result;
use crate::read::MAX_READ_BYTES;
use crate::write::content::Piece;

/// A file that loses its name while it is open is held in memory up to this share of what written bytes may take: one in so many. On disk it is
/// held as long as there is room.
const HELD_SHARE: u64 = 4;

/// The pieces of `range` that one read returns.
fn in_reads(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let starts = (range.start..range.end).step_by(MAX_READ_BYTES as usize);
    starts.map(move |start| range.intersect(ByteRange::from_len(start, MAX_READ_BYTES)))
}

/// Keeps the object of a file from being made.
pub(crate) struct Paused(#[expect(dead_code, reason = "held until it is dropped")] OwnedMutexGuard<()>);

impl Draft {
    /// The file was removed: what is written is never sent, and can be read until its last handle is closed. Waits for an object that is just
    /// being made.
    pub(crate) async fn orphan(&self) {
        let _turn = self.turn.lock().await;
        self.state.lock().orphan = true;
    }

    /// Returns when no object is being made of it.
    pub(crate) async fn settled(&self) {
        let _turn = self.turn.lock().await;
    }

    /// The file was not removed after all.
    pub(crate) async fn regain_name(&self) {
        let _turn = self.turn.lock().await;
        self.state.lock().orphan = false;
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
        if !fits_on_disk && bytes > self.engine.config.memory_limit_bytes / HELD_SHARE {
            return Ok(false);
        }
        for range in ranges.into_iter().flat_map(in_reads) {
            let data = self.engine.gather(vec![Piece::Base(range)], &sources).await?;
            let mut at = range.start;
            for slice in data.slices() {
                let part = ByteRange::from_len(at, slice.len() as u64);
                let units = self.state.lock().content.cost_units(part);
                let mut memory = if units > 0 { Some(self.memory(units).await?) } else { None };
                let mut state = self.state.lock();
                if memory.as_ref().map_or(0, Reservation::units) >= state.content.cost_units(part) {
                    state.content.absorb(at, slice, &mut memory);
                }
                at = part.end;
            }
        }
        self.state.lock().changed = true;
        Ok(true)
    }

    /// What was written and not made durable is given up: nothing of it stays at the store.
    pub(crate) async fn give_up(&self) {
        self.orphan().await;
        self.parts_ended().await;
        if let Some(upload) = self.state.lock().upload.take() {
            upload.abandon(&self.engine);
        }
    }

    /// Keeps the object from being made until the guard is dropped; waits for one that is just being made.
    pub(crate) async fn pause(&self) -> Paused {
        Paused(Arc::clone(&self.turn).lock_owned().await)
    }

    /// The file is called `key` from now on: the object `meta` there, if it is one. What was written to it since goes there.
    pub(crate) async fn moved(&self, _paused: &Paused, key: ObjectKey, meta: Option<&ObjectMeta>) {
        let _quiet = Committing::begin(self);
        self.parts_ended().await;
        let mut state = self.state.lock();
        if let Some(meta) = meta.filter(|_| state.base.is_some()) {
            state.base = Some(Base::new(&self.engine, &key, meta));
        }
        if let Some(upload) = state.upload.take() {
            upload.abandon(&self.engine);
            if !state.content.upload_lost() {
                tracing::error!(%key, "a file was moved while it was written, and some of what was written is not held here any more: it cannot be made durable");
            }
        }
        state.key = key;
    }

    /// Whether some of what was written is at the store alone, under the key that the file has now.
    pub(crate) fn is_bound_to_key(&self) -> bool {
        self.state.lock().content.has_released()
    }
}
