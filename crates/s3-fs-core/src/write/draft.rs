//! One file while this mount writes it: what was written is taken in, sent in parts, and made an object when somebody wants it durable.
//!
//! All handles of a file share its draft, so that each sees what the others wrote. A write waits for nothing but memory. Making the object is
//! one task that nobody's interruption stops; while it runs, writes of this file wait. When it fails, everything that was written is still here
//! and the next attempt begins with it.

mod commit;
mod names;
mod save;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use sluicefs_s3_client::{ByteRange, ETag, ObjectAttributes, ObjectKey, ObjectMeta, Timestamp};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::content::{Content, Piece, Released};
use super::doubt::Doubt;
use super::engine::{Busy, WriteEngine};
use super::gather::Sources;
use super::spill::OnDisk;
use super::upload::Upload;
use crate::attr::InodeNo;
use crate::budget::{Budget, Reservation};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::BeingWritten;
use crate::read::{MAX_READ_BYTES, ObjectVersion, OpenObject, ReadData};
use save::Saved;

pub(super) use names::NamelessBytes;
pub(crate) use names::{LosingName, Paused};
pub(super) use save::Sending;

/// How long a write waits for memory that nothing under way will give back, before it fails: buffers of a finished request may
/// come back a moment after its reply.
const MEMORY_GRACE: Duration = Duration::from_secs(1);

/// One file that is being written.
pub(crate) struct Draft {
    pub(super) engine: Arc<WriteEngine>,
    pub(super) ino: InodeNo,
    /// Which of all drafts it is: an inode may have another one later.
    pub(super) number: u64,
    /// Held while the object is made.
    turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) state: Mutex<State>,
    /// What is stored with the object besides its bytes, once known.
    pub(super) attributes: Mutex<Option<ObjectAttributes>>,
    /// Told when a part has ended, when the making of the object has, and of what else somebody may wait for.
    pub(super) moved: Notify,
}

/// What changes while a file is written.
pub(super) struct State {
    pub(super) key: ObjectKey,
    pub(super) base: Option<Base>,
    pub(super) content: Content,
    pub(super) on_disk: OnDisk,
    pub(super) upload: Option<Arc<Upload>>,
    mtime: Timestamp,
    /// The file is not what the store has.
    changed: bool,
    /// The file is here in whole, though the store may have it too.
    is_held: bool,
    /// How often it was changed.
    pub(super) changes: u64,
    /// The last attempt to make the object may have succeeded, for all that is known.
    pub(super) doubt: Option<Doubt>,
    /// The object is being made: what it is made of must not change.
    committing: bool,
    /// The store never had the file.
    created: bool,
    /// The name was free when the file was created, and must still be.
    pub(super) must_be_new: bool,
    /// The file has no name any more: it is nobody's object.
    pub(super) orphan: bool,
    /// It may get that back.
    is_leaving: bool,
    /// What it is charged with while it has none, in bytes of memory.
    nameless_bytes: u64,
    /// Nothing of it is sent.
    is_paused: bool,
    /// Why what was written could not be sent, until it is.
    pub(super) failed: Option<Error>,
    /// What of it is durable on this machine, and not in an object that the store is known to have.
    pub(super) saved: Option<Saved>,
    /// The object that was there when the file was cut to nothing, where that counts.
    pub(super) replaces: Option<ETag>,
    /// A mount that died had saved it, and may have sent it.
    pub(super) is_restored: bool,
}

/// The object that a file was, or became, at the store.
#[derive(Clone)]
pub(super) struct Base {
    pub(super) version: Arc<ObjectVersion>,
    pub(super) object: Arc<OpenObject>,
}

impl Base {
    pub(super) fn new(engine: &WriteEngine, key: &ObjectKey, meta: &ObjectMeta) -> Self {
        Self::of_version(engine, key, meta.size, meta.etag.clone())
    }

    fn of_version(engine: &WriteEngine, key: &ObjectKey, size: u64, etag: Option<ETag>) -> Self {
        let version = Arc::new(ObjectVersion::new(key.clone(), size, etag));
        let object = engine.reads.open(Arc::clone(&version));
        Self { version, object }
    }

    pub(super) fn etag(&self) -> Option<&ETag> {
        self.version.etag()
    }
}

/// Why a write could not be taken in at once.
enum Blocked {
    /// The object is being made.
    Committing,
    /// So much memory is missing, in the budget's units.
    Memory(u32),
}

impl Draft {
    /// The file `ino` with the key `key`: the object `meta` for now, or a new one.
    pub(crate) fn new(
        engine: Arc<WriteEngine>,
        ino: InodeNo,
        key: ObjectKey,
        meta: Option<&ObjectMeta>,
    ) -> Arc<Self> {
        let state = State {
            base: meta.map(|meta| Base::new(&engine, &key, meta)),
            content: Content::new(engine.schedule, meta.map_or(0, |meta| meta.size)),
            on_disk: OnDisk::default(),
            key,
            upload: None,
            mtime: meta.map_or_else(clock::now, |meta| meta.last_modified),
            changed: meta.is_none(),
            is_held: false,
            changes: 0,
            doubt: None,
            committing: false,
            created: meta.is_none(),
            must_be_new: false,
            orphan: false,
            is_leaving: false,
            nameless_bytes: 0,
            is_paused: false,
            failed: None,
            saved: None,
            replaces: None,
            is_restored: false,
        };
        let draft = Arc::new(Self {
            number: engine.next_draft(),
            engine,
            ino,
            turn: Arc::default(),
            state: Mutex::new(state),
            attributes: Mutex::default(),
            moved: Notify::new(),
        });
        draft.engine.register(&draft);
        draft
    }

    /// Whether what is read comes from here, and not from the object.
    pub(crate) fn is_read_here(&self) -> bool {
        let state = self.state.lock();
        state.changed || state.is_held
    }

    /// Whether there is something that the store does not have.
    pub(crate) fn is_changed(&self) -> bool {
        self.state.lock().changed
    }

    /// Which inode it is of.
    pub(crate) fn ino(&self) -> InodeNo {
        self.ino
    }

    /// Where the object will be.
    pub(crate) fn key(&self) -> ObjectKey {
        self.state.lock().key.clone()
    }

    /// The object was made by this mount just now, with these attributes.
    pub(crate) fn has_attributes(&self, attributes: ObjectAttributes) {
        *self.attributes.lock() = Some(attributes);
    }

    /// The name must be free when the object is made.
    pub(crate) fn must_be_new(&self) {
        self.state.lock().must_be_new = true;
    }

    /// Whether this mount created the file and the store never had it.
    pub(crate) fn was_never_stored(&self) -> bool {
        let state = self.state.lock();
        state.created && !state.orphan
    }

    // === Writing ===

    /// Takes in `data` at `offset` if that needs no waiting; else `None`: use [`Draft::write`].
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub(crate) fn try_write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Option<Result<()>> {
        match self.take_in(offset, data, None) {
            Ok(()) => Some(Ok(())),
            Err(Ok(_blocked)) => None,
            Err(Err(error)) => Some(Err(error)),
        }
    }

    /// Takes in `data` at `offset`. Cancel-safe: all of it is taken in, or nothing.
    ///
    /// # Errors
    /// `TooLarge` past what parts can hold; `NoSpace` if memory ran out and nothing under way gives any back; `Io` and others when what was
    /// written before could not be sent and holds the memory; `Unsupported` for bytes that were sent and let go.
    pub(crate) async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<()> {
        let mut memory = None;
        loop {
            let moved = self.moved.notified();
            match self.take_in(offset, data, memory.take()) {
                Ok(()) => return Ok(()),
                Err(Err(error)) => return Err(error),
                Err(Ok(Blocked::Committing)) => moved.await,
                Err(Ok(Blocked::Memory(units))) => memory = Some(self.memory(units).await?),
            }
        }
    }

    fn take_in(
        self: &Arc<Self>,
        offset: u64,
        data: &[u8],
        memory: Option<Reservation>,
    ) -> Result<(), Result<Blocked, Error>> {
        let mut state = self.state.lock();
        if state.committing {
            return Err(Ok(Blocked::Committing));
        }
        let range = ByteRange::from_len(offset, data.len() as u64);
        if range.end > self.engine.schedule.max_file_bytes() {
            return Err(Err(self.error(ErrorKind::TooLarge, "write", &state)));
        }
        let units = state.content.cost_units(range);
        let mut memory = match memory.filter(|memory| memory.units() >= units) {
            None if units > 0 => match self.engine.budget.try_reserve(units, 0) {
                None => return Err(Ok(Blocked::Memory(units))),
                reserved => reserved,
            },
            enough => enough,
        };
        let is_limited = state.orphan && self.engine.stage.is_none();
        if is_limited && !self.charge_nameless(&mut state, Budget::bytes_of(units)) {
            return Err(Err(self.no_space_for(&state)));
        }
        let written = state.content.write(offset, data, &mut memory);
        written.map_err(|Released| Err(self.error(ErrorKind::Unsupported, "write", &state)))?;
        state.touch();
        self.send_complete_parts(&mut state);
        Ok(())
    }

    /// Waits for memory. What files have sent and still hold is given up for it, or goes to disk with whatever else can.
    pub(super) async fn memory(self: &Arc<Self>, units: u32) -> Result<Reservation> {
        let mut reserve = std::pin::pin!(self.engine.budget.reserve(units));
        loop {
            let moved = self.engine.moved.notified();
            let can_spill = self.engine.can_spill();
            // What is acknowledged on disk may be sent long after.
            if !(can_spill && self.engine.writes_back())
                && let Some(failed) = &self.state.lock().failed
            {
                return Err(failed.clone());
            }
            if !can_spill {
                // What is let go of may go to somebody who waits longer, or be held by a reader: only something under way is waited for.
                while self.engine.release_some() {
                    if let Some(reservation) = reserve.as_mut().now_or_never() {
                        return Ok(reservation);
                    }
                }
            } else if !self.engine.spill_sent() && self.state.lock().content.parts_under_way() == 0 {
                self.engine.spill_any();
            }
            if !self.engine.is_busy() {
                let late = timeout(MEMORY_GRACE, &mut reserve).await;
                return late.map_err(|_| self.no_space());
            }
            tokio::select! {
                reservation = &mut reserve => return Ok(reservation),
                () = moved => {}
            }
        }
    }

    fn no_space(&self) -> Error {
        self.no_space_for(&self.state.lock())
    }

    fn no_space_for(&self, state: &State) -> Error {
        self.engine.report_no_space();
        self.error(ErrorKind::NoSpace, "write", state)
    }

    /// Makes the file `size` bytes long: cuts its end off, or adds a hole.
    ///
    /// # Errors
    /// `TooLarge`; `Unsupported` if the new end lies in a part that was sent and let go.
    pub(crate) async fn truncate(self: &Arc<Self>, size: u64) -> Result<()> {
        self.resize(|_| size).await
    }

    /// Makes the file at least `size` bytes long, by a hole.
    ///
    /// # Errors
    /// As [`Draft::truncate`].
    pub(crate) async fn grow(self: &Arc<Self>, size: u64) -> Result<()> {
        self.resize(|now| now.max(size)).await
    }

    async fn resize(self: &Arc<Self>, size: impl Fn(u64) -> u64) -> Result<()> {
        loop {
            let moved = self.moved.notified();
            {
                let mut state = self.state.lock();
                let size = size(state.content.size());
                if size > self.engine.schedule.max_file_bytes() {
                    return Err(self.error(ErrorKind::TooLarge, "truncate", &state));
                }
                if !state.committing {
                    if size == state.content.size() && (size > 0 || state.base.is_none()) {
                        return Ok(());
                    }
                    let done = state.content.truncate(size);
                    done.map_err(|Released| self.error(ErrorKind::Unsupported, "truncate", &state))?;
                    if size == 0 {
                        // Nothing of the old object is left, so whatever it has become does not matter: unless it may be long until the
                        // store has this.
                        let old = state.base.take();
                        if let Some(old) = old.filter(|_| self.engine.writes_back()) {
                            state.replaces = old.etag().cloned();
                        }
                    }
                    state.touch();
                    return Ok(());
                }
            }
            moved.await;
        }
    }

    // === Reading ===

    /// Reads up to `range.len()` bytes, the first [`MAX_READ_BYTES`] of them if it is longer; fewer at the end of the file.
    ///
    /// # Errors
    /// `Stale` if the old object was replaced and bytes of it are needed; `Unsupported` for bytes that were sent and let go; `Io` and others
    /// from the store.
    pub(crate) async fn read(&self, range: ByteRange) -> Result<ReadData> {
        let range = ByteRange::new(range.start, range.end.min(range.start.saturating_add(MAX_READ_BYTES)));
        loop {
            let (pieces, sources, deaths) = {
                let state = self.state.lock();
                let range = range.intersect(ByteRange::new(0, state.content.size()));
                let pieces = state.content.pieces(range);
                let pieces = pieces.map_err(|Released| self.error(ErrorKind::Unsupported, "read", &state))?;
                (pieces, state.sources(), state.content.deaths())
            };
            let was_on_disk = pieces.iter().any(Piece::is_on_disk);
            let data = self.engine.gather(pieces, &sources).await?;
            // What was let go of on disk meanwhile may read as zeros.
            if !was_on_disk || self.state.lock().content.deaths() == deaths {
                return Ok(data);
            }
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, operation: &'static str, state: &State) -> Error {
        Error::new(kind, operation).with_name(state.key.as_str())
    }
}

impl BeingWritten for Draft {
    fn attributes(&self) -> (u64, Timestamp) {
        let state = self.state.lock();
        (state.content.size(), state.mtime)
    }
}

impl State {
    /// Something was changed just now.
    fn touch(&mut self) {
        self.changed = true;
        self.changes += 1;
        self.mtime = clock::now();
    }

    /// Where what is not in memory is read from.
    pub(super) fn sources(&self) -> Sources {
        Sources { base: self.base.clone(), file: self.on_disk.file() }
    }

    /// Whether what is written may be sent before anybody asks.
    pub(super) fn may_send_early(&self) -> bool {
        !self.orphan && !self.committing && !self.is_paused && self.failed.is_none()
    }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("ino", &self.ino).field("key", &self.key()).finish_non_exhaustive()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        self.engine.nameless.give_back(state.nameless_bytes);
        self.engine.drop_file(state.on_disk.take());
        if let Some(upload) = state.upload.take() {
            upload.abandon(&self.engine);
        }
        self.engine.moved.notify_waiters();
    }
}

/// Keeps writes out while the object is made.
struct Committing<'a> {
    draft: &'a Draft,
    _busy: Busy,
}

impl<'a> Committing<'a> {
    fn begin(draft: &'a Draft) -> Self {
        draft.state.lock().committing = true;
        Self { draft, _busy: draft.engine.busy() }
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.draft.state.lock().committing = false;
        self.draft.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
