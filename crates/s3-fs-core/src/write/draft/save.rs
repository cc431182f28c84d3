//! Acknowledging a file before the store has it: its bytes and a record of what they are become durable on disk.
//!
//! What was saved does not change on disk. What is written to the file afterwards goes to another file there, which takes the place of the first
//! when it is saved itself, so that a crash finds the one or the other.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sluicefs_cache_dir::StageFile;
use sluicefs_s3_client::{ByteRange, ETag, Fingerprint, ObjectKey};

use super::{Base, Committing, Doubt, Draft, State};
use crate::attr::InodeNo;
use crate::error::Result;
use crate::write::content::Content;
use crate::write::engine::WriteEngine;
use crate::write::gather::Sources;
use crate::write::plan::Plan;
use crate::write::record::{Noted, Record};
use crate::write::spill::{Job, OnDisk};

/// A file as it was when it was saved.
#[derive(Debug)]
pub(in crate::write) struct Saved {
    pub(in crate::write) file: Arc<StageFile>,
    record: Record,
    /// How often it had been changed then.
    pub(in crate::write) changes: u64,
    /// Another process saved it, and may have sent it without a note of that.
    may_be_sent: bool,
}

/// How an object is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::write) enum Sending {
    /// In one request.
    Whole,
    /// In parts.
    Parts,
}

/// What has to be on disk for a file to be safe.
struct Saving {
    job: Job,
    record: Record,
    changes: u64,
}

impl Saving {
    fn run(&self) -> io::Result<()> {
        self.job.run()?;
        self.job.file.keep(&self.record.text())
    }
}

impl Draft {
    /// The file `ino` as a mount that died had saved it in `file`.
    pub(crate) fn restored(
        engine: Arc<WriteEngine>,
        ino: InodeNo,
        record: Record,
        file: StageFile,
    ) -> Arc<Self> {
        let (key, noted, file) = (record.key(), record.noted(), Arc::new(file));
        engine.serials_go_on_after(record.serial);
        let draft = Self::new(engine, ino, key.clone(), None);
        {
            let mut state = draft.state.lock();
            let state = &mut *state;
            state.content =
                Content::on_disk(draft.engine.schedule, (noted.size, noted.base_len), &noted.written);
            state.on_disk = OnDisk::of(Arc::clone(&file));
            state.base =
                noted.base.map(|(version, size)| Base::of_version(&draft.engine, &key, size, version));
            state.created = state.base.is_none() && noted.replaces.is_none();
            (state.replaces, state.must_be_new) = (noted.replaces, noted.must_be_new);
            (state.mtime, state.is_restored) = (noted.modified, true);
            state.changes = 1;
            let attempted_at = if record.is_attempt_older { 0 } else { state.changes };
            state.doubt = record.attempted.clone().map(|fingerprint| Doubt::new(fingerprint, attempted_at));
            let may_be_sent = state.doubt.is_none();
            state.saved = Some(Saved { file, record, changes: state.changes, may_be_sent });
        }
        *draft.attributes.lock() = noted.attributes;
        draft
    }

    /// Makes what was written durable on this machine; false if that cannot be, so that the store must have it. Waits for an object that is just
    /// being made.
    ///
    /// Dropping the future does not stop it.
    pub(crate) async fn save(self: &Arc<Self>) -> bool {
        self.name_decided().await;
        let this = Arc::clone(self);
        let saved = self.engine.runtime.spawn(async move { this.save_now().await });
        saved.await.unwrap_or(false)
    }

    async fn save_now(self: Arc<Self>) -> bool {
        let _stays = self.stay().await;
        let _turn = self.turn.lock().await;
        if !self.needs_commit() || self.is_saved() {
            return true;
        }
        let _committing = Committing::begin(&self);
        // What cannot be read of what was saved before cannot be saved anew: the log has the reason.
        if self.know_what_was_restored().await.is_err() {
            return false;
        }
        self.until_still().await;
        let described = (self.engine.carried_by)(self.ino).metadata;
        let Some(saving) = self.saving(described) else { return false };
        let done = self.engine.runtime.spawn_blocking(move || {
            let done = saving.run();
            (saving, done)
        });
        let Ok((saving, done)) = done.await else {
            self.state.lock().on_disk.is_moving = false;
            return false;
        };
        match done {
            Ok(()) => {
                self.is_saved_now(saving).await;
                true
            }
            Err(error) => {
                self.state.lock().on_disk.is_moving = false;
                self.engine.report_unsaved(&error);
                // The store will have it: no mount must find it here.
                self.engine.let_go(saving.job.file).await;
                false
            }
        }
    }

    /// Waits until nothing of it is on its way to disk, and then says that something is.
    async fn until_still(&self) {
        loop {
            let moved = self.moved.notified();
            {
                let mut state = self.state.lock();
                if !state.on_disk.is_moving {
                    state.on_disk.is_moving = true;
                    return;
                }
            }
            moved.await;
        }
    }

    /// `None` if some of it is at the store alone, or there is no disk.
    fn saving(&self, described: Vec<(String, String)>) -> Option<Saving> {
        let mut state = self.state.lock();
        let stage = self.engine.stage.as_ref().filter(|_| !state.content.has_released());
        let Some(stage) = stage else {
            state.on_disk.is_moving = false;
            return None;
        };
        let noted = Noted {
            size: state.content.size(),
            written: state.content.written(),
            base_len: state.content.base_len(),
            base: state.base.as_ref().map(|base| (base.etag().cloned(), base.version.size())),
            replaces: state.replaces.clone(),
            must_be_new: state.must_be_new,
            modified: state.mtime,
            attributes: self.attributes.lock().clone(),
            described,
        };
        let mut record =
            Record::new(self.engine.bucket.identity(), &state.key, self.engine.next_serial(), noted);
        record.supersedes = state.saved.as_ref().map(|saved| saved.record.serial);
        if let Some(doubt) = &state.doubt {
            record.attempted = Some(doubt.fingerprint.clone());
            record.is_attempt_older = doubt.changes != state.changes;
        }
        let in_memory = state.content.all_in_memory();
        let job = Job::new(stage, &mut state, in_memory);
        Some(Saving { job, record, changes: state.changes })
    }

    async fn is_saved_now(&self, saving: Saving) {
        let Saving { job, record, changes } = saving;
        let file = Arc::clone(&job.file);
        let superseded = {
            let mut state = self.state.lock();
            state.content.left(&job.leaving);
            state.on_disk.is_moving = false;
            state.on_disk.put(Arc::clone(&file));
            state.saved.replace(Saved { file, record, changes, may_be_sent: false })
        };
        // The blocks come back to the budget before anybody hears of it.
        drop(job);
        self.engine.moved.notify_waiters();
        if let Some(superseded) = superseded {
            self.engine.let_go(superseded.file).await;
        }
    }

    /// Whether the file as it is now is durable on this machine.
    pub(crate) fn is_saved(&self) -> bool {
        let state = self.state.lock();
        state.changed && state.is_saved()
    }

    /// Whether an earlier content of it, or this one, is durable on this machine alone.
    pub(crate) fn has_saved(&self) -> bool {
        self.state.lock().saved.is_some()
    }

    /// Where what was saved of it is.
    pub(crate) fn kept_in(&self) -> Option<PathBuf> {
        self.state.lock().saved.as_ref().map(|saved| saved.file.path())
    }

    /// How long it is.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.state.lock().content.size()
    }

    /// The object is about to be removed, or was not after all.
    pub(crate) async fn saved_is_leaving(&self, is_leaving: bool) {
        self.amend_saved(|record| record.is_leaving = is_leaving).await;
    }

    /// What was saved of it is nobody's any more.
    pub(crate) async fn forget_saved(&self) {
        let saved = self.state.lock().saved.take();
        if let Some(saved) = saved {
            self.engine.let_go(saved.file).await;
            self.moved.notify_waiters();
        }
    }

    /// What was saved of it moves with it.
    pub(super) async fn saved_moved(&self, key: &ObjectKey, version: Option<ETag>) {
        self.amend_saved(|record| record.move_to(key, version)).await;
    }

    /// What was saved of it is described by these metadata.
    pub(crate) async fn describe_saved(&self) {
        let described = (self.engine.carried_by)(self.ino).metadata;
        self.amend_saved(|record| record.describe(described)).await;
    }

    /// What was saved of it is a change of this object, as it is itself.
    pub(in crate::write) async fn saved_is_change_of(&self, version: Option<ETag>, size: u64) {
        self.amend_saved(|record| record.is_change_of(version, size)).await;
    }

    /// The object is about to be made. It is noted what it will be known by, if nobody could tell after a crash by what was saved that it was made:
    /// if that was another content; if it takes bytes of the old object, which then is no more; and of parts, whose sizes the settings say.
    pub(in crate::write) async fn note_attempt(&self, sending: Sending, made: impl FnOnce() -> Fingerprint) {
        let note: fn(&mut Record, Fingerprint) = {
            let state = self.state.lock();
            let takes_old_bytes = || state.base.is_some() && !state.content.in_base().is_empty();
            match &state.saved {
                Some(_) if !state.is_saved() => |record, made| record.superseded_by = Some(made),
                Some(_) if sending == Sending::Parts || takes_old_bytes() => |record, made| {
                    (record.attempted, record.is_attempt_older) = (Some(made), false);
                },
                _ => return,
            }
        };
        let made = made();
        self.amend_saved(|record| note(record, made)).await;
    }

    /// A mount that died may have sent what it had saved. If the file was written to since, the object must be known by that content.
    ///
    /// # Errors
    /// `Io` if the disk fails.
    pub(super) async fn know_what_was_restored(&self) -> Result<()> {
        let (noted, changes, sources) = {
            let state = self.state.lock();
            let saved = state.saved.as_ref().filter(|saved| saved.may_be_sent && !state.is_saved());
            let Some(saved) = saved.filter(|_| state.doubt.is_none()) else { return Ok(()) };
            let sources = Sources { base: None, file: Some(Arc::clone(&saved.file)) };
            (saved.record.noted(), saved.changes, sources)
        };
        let lengths = (noted.size, noted.base_len);
        let content = Content::on_disk(self.engine.schedule, lengths, &noted.written);
        // All others were noted before they were sent.
        let fingerprint = if content.plan(false) == Plan::Whole && content.in_base().is_empty() {
            let pieces = content.pieces(ByteRange::new(0, noted.size)).unwrap_or_default();
            let body = self.engine.gather(pieces, &sources).await?.into_bytes();
            Some(Fingerprint::of_bytes(&body.into()))
        } else {
            None
        };
        let mut state = self.state.lock();
        if let Some(saved) = &mut state.saved {
            saved.may_be_sent = false;
        }
        state.doubt = fingerprint.map(|fingerprint| Doubt::new(fingerprint, changes));
        Ok(())
    }

    async fn amend_saved(&self, change: impl FnOnce(&mut Record)) {
        let amended = {
            let mut state = self.state.lock();
            state.saved.as_mut().map(|saved| {
                change(&mut saved.record);
                (Arc::clone(&saved.file), saved.record.text())
            })
        };
        let Some((file, text)) = amended else { return };
        let kept = self.engine.runtime.spawn_blocking(move || file.amend(&text)).await;
        if let Err(error) = kept.unwrap_or_else(|ended| Err(io::Error::other(ended))) {
            tracing::error!(key = %self.key(), %error, "what is kept on disk of a file does not know of its change: if this process is killed before the store has it, the next mount makes it as it was");
        }
    }

    /// The store has something else than what this file was made from. What a mount that died had sent is no change from elsewhere: it is
    /// looked for.
    pub(super) fn may_have_been_sent(&self) -> bool {
        let state = self.state.lock();
        state.is_restored && state.doubt.is_some()
    }
}

impl State {
    pub(in crate::write) fn is_saved(&self) -> bool {
        self.saved.as_ref().is_some_and(|saved| saved.changes == self.changes)
    }
}

impl WriteEngine {
    /// Makes sure that no mount finds what was saved in `file`.
    pub(crate) async fn let_go(&self, file: Arc<StageFile>) {
        let gone = self.runtime.spawn_blocking(move || file.let_go().map_err(|error| (file.path(), error)));
        if let Ok(Err((path, error))) = gone.await {
            tracing::warn!(path = %path.display(), %error, "a file that was kept for sending it cannot be removed; the next mount will find it");
        }
    }
}
