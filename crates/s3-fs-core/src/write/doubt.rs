//! An object that may have been made although its making failed: the answer was lost.
//!
//! The next attempt must know it as this file's own, or it would take it for a change from elsewhere.

use sluicefs_s3_client::{self as s3, Fingerprint, WriteCondition, Written};

use super::draft::{Base, Draft};
use crate::error::{Error, Result};

/// What the last attempt was to make.
#[derive(Debug, Clone)]
pub(super) struct Doubt {
    pub(super) fingerprint: Fingerprint,
    /// How often the file had been changed then.
    pub(super) changes: u64,
}

impl Doubt {
    /// What another process was to make of the file.
    pub(super) fn new(fingerprint: Fingerprint, changes: u64) -> Self {
        Self { fingerprint, changes }
    }
}

impl Draft {
    /// An attempt to make an object failed; remembers it if the store may have made it all the same.
    pub(super) fn doubt(
        &self,
        error: &s3::Error,
        condition: &WriteCondition,
        made: impl FnOnce() -> Fingerprint,
    ) {
        let is_restored = self.state.lock().is_restored;
        let may_be_made = match error.kind() {
            s3::ErrorKind::Transient | s3::ErrorKind::Corrupt => true,
            // By the mount that died.
            s3::ErrorKind::PreconditionFailed => is_restored,
            _ => false,
        };
        if !may_be_made {
            return;
        }
        let fingerprint = made();
        // Everybody who claims a name writes the same empty object.
        if *condition == WriteCondition::Absent && fingerprint.size() == 0 && !is_restored {
            return;
        }
        let mut state = self.state.lock();
        state.doubt = Some(Doubt { fingerprint, changes: state.changes });
    }

    /// Asks the store what became of the last attempt. What it made is what the file is a change of from now on, or the file itself, and then it is
    /// returned.
    ///
    /// # Errors
    /// As for a look at the object. The doubt stays.
    pub(super) async fn settle_doubt(&self) -> Result<Option<Written>> {
        let (Some(doubt), key) = ({
            let state = self.state.lock();
            (state.doubt.clone(), state.key.clone())
        }) else {
            return Ok(None);
        };
        // A part that came later would be one of an upload that is given up here.
        self.parts_ended().await;
        let found = match self.engine.bucket.head_with_checksum(&key).await {
            Ok((head, checksum)) => {
                Some(head).filter(|head| doubt.fingerprint.is_of(head, checksum.as_ref()))
            }
            Err(error) if error.kind() == s3::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::from_store("write", error).with_name(key.as_str())),
        };
        let (made, is_saved_later) = {
            let mut state = self.state.lock();
            state.doubt = None;
            let Some(head) = found else { return Ok(None) };
            if state.changes == doubt.changes {
                // What it was begun with is still asked for. If the object was made of it, there is nothing left to abort.
                if let Some(upload) = &state.upload {
                    upload.abandon(&self.engine);
                }
                return Ok(Some(Written { etag: head.meta.etag, version_id: head.version_id }));
            }
            state.content.made_after_all();
            if let Some(upload) = state.upload.take() {
                upload.abandon(&self.engine);
            }
            state.base = Some(Base::new(&self.engine, &key, &head.meta));
            let is_saved_later = state.saved.as_ref().is_some_and(|saved| saved.changes > doubt.changes);
            (head.meta, is_saved_later)
        };
        match is_saved_later {
            true => self.saved_is_change_of(made.etag, made.size).await,
            // The store has it, or something later.
            false => self.forget_saved().await,
        }
        Ok(None)
    }
}
