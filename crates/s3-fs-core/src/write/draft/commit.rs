//! Making the object of a file, in a task that nobody's interruption stops.

use std::sync::Arc;

use sluicefs_s3_client::{ObjectMeta, Written};

use super::{Base, Committing, Draft};
use crate::error::{ErrorKind, Result};
use crate::write::content::Content;
use crate::write::moves::Stay;

impl Draft {
    /// Makes what was written durable: returns when the store has acknowledged the object, or why it did not. Does nothing if nothing
    /// changed.
    ///
    /// Dropping the future does not stop it.
    ///
    /// # Errors
    /// `Stale` if the object was replaced by somebody else since it was opened; `NoSpace`, `AccessDenied`, `Io`. What was written is kept, and
    /// the next call tries again.
    pub(crate) async fn commit(self: &Arc<Self>) -> Result<()> {
        self.commit_if(Draft::needs_commit).await
    }

    /// Whether something of it is to be sent.
    pub(crate) fn needs_commit(&self) -> bool {
        let state = self.state.lock();
        state.changed && !state.orphan
    }

    /// The same for a file as it was when it was saved: does nothing if it was written to since.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub(crate) async fn commit_saved(self: &Arc<Self>) -> Result<()> {
        self.commit_if(|draft| draft.needs_commit() && draft.is_saved()).await
    }

    async fn commit_if(self: &Arc<Self>, is_wanted: fn(&Self) -> bool) -> Result<()> {
        self.name_decided().await;
        if !is_wanted(self) {
            return Ok(());
        }
        let this = Arc::clone(self);
        let made = self.engine.runtime.spawn(async move { this.commit_now(is_wanted).await });
        made.await.unwrap_or_else(|_ended| Err(self.error(ErrorKind::Io, "fsync", &self.state.lock())))
    }

    async fn commit_now(self: Arc<Self>, is_wanted: fn(&Self) -> bool) -> Result<()> {
        let _stays = self.stay().await;
        let _turn = self.turn.lock().await;
        let _committing = Committing::begin(&self);
        if !is_wanted(&self) {
            return Ok(());
        }
        match self.make_object_unless_made().await {
            Ok(written) => {
                let meta = {
                    let state = self.state.lock();
                    ObjectMeta {
                        size: state.content.size(),
                        etag: written.etag,
                        last_modified: state.mtime,
                        storage_class: self.engine.config.storage_class,
                    }
                };
                // First, so that whoever finds nothing unsent here reads the new version. Not under the lock of the state, which the
                // table takes inside of its own.
                self.engine.committed(self.ino, meta.clone());
                let upload = {
                    let mut state = self.state.lock();
                    state.content.committed();
                    self.engine.drop_file(state.on_disk.take());
                    state.base = Some(Base::new(&self.engine, &state.key, &meta));
                    state.failed = None;
                    (state.must_be_new, state.created) = (false, false);
                    (state.replaces, state.is_restored) = (None, false);
                    state.upload.take()
                };
                self.forget_saved().await;
                let described = self.describe_anew(upload, &meta).await;
                // Not before: who finds nothing unsent may begin anew with the version that the store has.
                self.state.lock().changed = false;
                described
            }
            Err(error) => {
                self.state.lock().failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Makes the object, unless an attempt whose answer was lost has made it.
    async fn make_object_unless_made(&self) -> Result<Written> {
        self.know_what_was_restored().await?;
        match self.settle_doubt().await? {
            Some(written) => Ok(written),
            None => self.make_object_or_find_it().await,
        }
    }

    /// Makes the object. If the store has another one than it should, that may be what a mount that died has made of this.
    async fn make_object_or_find_it(&self) -> Result<Written> {
        let made = self.make_object().await;
        match made {
            Err(error) if error.kind() == ErrorKind::Stale && self.may_have_been_sent() => {
                self.settle_doubt().await?.ok_or(error)
            }
            made => made,
        }
    }

    /// Keeps the file from moving with its directory.
    pub(super) async fn stay(&self) -> Stay {
        loop {
            let key = self.key();
            let stay = self.engine.moves.stay(&[key.as_str()]).await;
            // It may have moved while a move was waited for.
            if self.key() == key {
                return stay;
            }
        }
    }

    pub(in crate::write) async fn parts_ended(&self) {
        self.until(|content| content.parts_under_way() == 0).await;
    }

    /// Returns when `is_so`, which a part that ends makes so.
    pub(in crate::write) async fn until(&self, is_so: impl Fn(&Content) -> bool) {
        loop {
            let moved = self.moved.notified();
            if is_so(&self.state.lock().content) {
                return;
            }
            moved.await;
        }
    }
}
