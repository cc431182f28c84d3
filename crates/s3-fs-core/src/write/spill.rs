//! Moves to disk what memory cannot hold: one job for each file at a time, which lets go of what is dead before it writes.
//!
//! What was saved does not change on disk: if a file is that, the job makes another one, of what is alive.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluicefs_cache_dir::{StageDir, StageFile};
use sluicefs_s3_client::ByteRange;
use tokio::time::Instant;

use super::draft::{Draft, State};
use super::engine::{KEPT_BYTES, WriteEngine};
use super::stage::Leaving;

/// So much of a file goes to disk in one job: little enough that its memory comes back soon.
const SPILL_BYTES: u64 = 4 << 20;

/// A disk that refused bytes is given no others for this long: somebody may have made room since.
const REFUSAL: Duration = Duration::from_secs(1);

/// What of a file is on disk, or on its way there.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    /// Made when something goes there, and given up when the object is made.
    file: Option<Arc<StageFile>>,
    /// A job is under way.
    pub(super) is_moving: bool,
}

impl OnDisk {
    /// All of it is in `file`.
    pub(super) fn of(file: Arc<StageFile>) -> Self {
        Self { file: Some(file), is_moving: false }
    }

    pub(super) fn put(&mut self, file: Arc<StageFile>) {
        self.file = Some(file);
    }

    pub(super) fn file(&self) -> Option<Arc<StageFile>> {
        self.file.clone()
    }

    pub(super) fn take(&mut self) -> Option<Arc<StageFile>> {
        self.file.take()
    }
}

/// Bytes on their way to disk.
pub(super) struct Job {
    pub(super) file: Arc<StageFile>,
    before: Before,
    pub(super) leaving: Vec<Leaving>,
}

/// What is done to a file before anything is written to it.
enum Before {
    /// What is dead goes.
    Discard(Vec<ByteRange>),
    /// It is new, and takes over what of an older one, which was saved, is alive.
    Copy(Arc<StageFile>, Vec<std::ops::Range<u64>>),
}

impl Job {
    /// Moves `leaving` out of `state` to its file on disk, or to a new one in `stage` if that was saved or there is none.
    pub(super) fn new(stage: &StageDir, state: &mut State, leaving: Vec<Leaving>) -> Self {
        let dead = state.content.take_dead();
        match state.on_disk.file() {
            Some(file) if file.is_kept() => {
                let before = Before::Copy(file, state.content.ranges_on_disk());
                Self { file: Arc::new(stage.create()), before, leaving }
            }
            file => {
                let file = file.unwrap_or_else(|| Arc::new(stage.create()));
                Self { file, before: Before::Discard(dead), leaving }
            }
        }
    }

    /// Blocks.
    pub(super) fn run(&self) -> io::Result<()> {
        match &self.before {
            Before::Discard(dead) => {
                dead.iter().try_for_each(|range| self.file.discard(range.start..range.end))?;
            }
            Before::Copy(older, ranges) => self.file.copy(older, ranges.iter().cloned())?,
        }
        for (offset, bytes) in self.leaving.iter().flat_map(Leaving::pieces) {
            self.file.write(offset, bytes)?;
        }
        Ok(())
    }
}

impl Draft {
    /// Begins to move the oldest sent part to disk; false if there is none, or something is moving already.
    pub(super) fn spill_sent(self: &Arc<Self>, state: &mut State) -> bool {
        state.may_let_go() && {
            let leaving = state.content.shelve_one();
            self.begin_to_move(state, leaving)
        }
    }

    /// Begins to move bytes to disk that are not being sent; false if there are none, or something is moving already.
    pub(super) fn spill_any(self: &Arc<Self>, state: &mut State) -> bool {
        !state.on_disk.is_moving && {
            let leaving = state.content.leaving(SPILL_BYTES);
            self.begin_to_move(state, leaving)
        }
    }

    /// Lets go of the oldest sent part on disk; false if there is none.
    pub(super) fn unshelve(self: &Arc<Self>, state: &mut State) -> bool {
        state.may_let_go() && state.content.release_shelved() && {
            self.begin_to_move(state, Vec::new());
            true
        }
    }

    /// Keeps little enough of what was sent in memory.
    pub(super) fn trim_kept(self: &Arc<Self>, state: &mut State) {
        match self.engine.disk() {
            _ if state.content.kept_bytes() <= KEPT_BYTES || !state.may_let_go() => {}
            None => while state.content.kept_bytes() > KEPT_BYTES && state.content.release_one() {},
            Some(stage) if stage.has_room(SPILL_BYTES) => _ = self.spill_sent(state),
            Some(_) => _ = self.unshelve(state),
        }
    }

    fn begin_to_move(self: &Arc<Self>, state: &mut State, leaving: Vec<Leaving>) -> bool {
        let Some(stage) = &self.engine.stage else { return false };
        // A copy of what was saved gives no room back.
        let has_dead = state.content.has_dead() && state.on_disk.file().is_some_and(|file| !file.is_kept());
        if leaving.is_empty() && !has_dead {
            return false;
        }
        let job = Job::new(stage, state, leaving);
        if let Before::Discard(_) = &job.before {
            state.on_disk.put(Arc::clone(&job.file));
        }
        state.on_disk.is_moving = true;
        let (draft, busy) = (Arc::clone(self), self.engine.busy());
        self.engine.runtime.spawn_blocking(move || {
            let done = job.run();
            draft.moved_to_disk(&job, done);
            // The blocks come back to the budget before anybody hears of it.
            drop(job);
            drop(busy);
            draft.moved.notify_waiters();
        });
        true
    }

    fn moved_to_disk(self: &Arc<Self>, job: &Job, done: io::Result<()>) {
        let mut state = self.state.lock();
        state.on_disk.is_moving = false;
        match done {
            Ok(()) => {
                // Unless the object was made meanwhile, and nothing on disk is needed any more.
                if matches!(job.before, Before::Copy(..)) && state.on_disk.file.is_some() {
                    state.on_disk.put(Arc::clone(&job.file));
                }
                state.content.left(&job.leaving);
            }
            Err(error) => self.engine.disk_refused(&error),
        }
        self.trim_kept(&mut state);
    }
}

impl State {
    /// Whether what was sent may be let go of: not what was saved, or is on its way to that, as it may have to be sent anew from here.
    pub(super) fn may_let_go(&self) -> bool {
        !self.on_disk.is_moving && !self.is_saved()
    }
}

impl WriteEngine {
    /// Whether bytes may go to disk: it has room for them, or begins to make some.
    pub(super) fn can_spill(&self) -> bool {
        self.disk().is_some_and(|stage| stage.has_room(SPILL_BYTES) || self.any_draft(Draft::unshelve))
    }

    /// The stage, if there is one, and the disk took the last bytes that it was given.
    fn disk(&self) -> Option<&Arc<StageDir>> {
        let refused = *self.refused_at.lock();
        let is_refusing = refused.is_some_and(|at| at.elapsed() < REFUSAL);
        self.stage.as_ref().filter(|_| !is_refusing)
    }

    fn disk_refused(&self, error: &io::Error) {
        *self.refused_at.lock() = Some(Instant::now());
        if !self.told_refusal.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the disk takes no more written bytes; what is in memory stays there");
        }
    }

    /// A write fails, as neither memory nor the disk has room for it.
    pub(super) fn report_no_space(&self) {
        if self.told_no_space.swap(true, Ordering::Relaxed) {
            return;
        }
        match &self.stage {
            None => tracing::error!(
                "the memory for written bytes is full, so a write failed: --cache DIR would stage more on disk, --memory-target keep more"
            ),
            Some(stage) => tracing::error!(
                staged_bytes = stage.used_bytes(),
                "memory and disk for written bytes are full, so a write failed: see --stage-size, and what is free on that disk"
            ),
        }
    }

    /// A file could not be saved, so that closing it waits for the store.
    pub(super) fn report_unsaved(&self, error: &io::Error) {
        if !self.told_unsaved.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the disk takes no more files that the store does not have, so closing one waits for the store: see --stage-size, and what is free on that disk");
        }
    }

    /// Begins to move a sent part of some file to disk; false if there is none that can.
    pub(super) fn spill_sent(&self) -> bool {
        self.any_draft(Draft::spill_sent)
    }

    /// Begins to move bytes of some file to disk; false if there are none that can.
    pub(super) fn spill_any(&self) -> bool {
        self.any_draft(Draft::spill_any)
    }

    /// Removes a file on disk where that may block.
    pub(super) fn drop_file(&self, file: Option<Arc<StageFile>>) {
        if let Some(file) = file {
            self.runtime.spawn_blocking(move || drop(file));
        }
    }

    fn any_draft(&self, act: fn(&Arc<Draft>, &mut State) -> bool) -> bool {
        self.drafts().iter().any(|draft| act(draft, &mut draft.state.lock()))
    }
}
