//! From a draft's bytes to an object: the parts sent while the file is written, and what is left when it is to be durable.

use std::sync::{Arc, OnceLock};

use futures::{StreamExt, TryStreamExt, stream};
use sluicefs_s3_client::{
    self as s3, ByteRange, CompleteUpload, CopyPart, CreateUpload, Fingerprint, ObjectAttributes, ObjectKey,
    ObjectMeta, Part, Payload, PutRequest, UploadId, UploadPart, WriteCondition, Written,
};
use tokio::sync::{OnceCell, Semaphore};

use super::content::Released;
use super::draft::{Base, Draft, Sending, State};
use super::engine::{MAX_PARTS_UNDER_WAY, WriteEngine};
use super::plan::{self, Plan, PlannedPart, Source};
use crate::config::OnConflict;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::stored::{self, Carried};

/// So many of the parts that are left when a file is closed are made at once, besides those under way.
const CLOSING_PARTS: usize = 8;

/// An upload in parts of one object, created when the first part is ready.
#[derive(Debug)]
pub(super) struct Upload {
    key: ObjectKey,
    id: OnceCell<UploadId>,
    /// What it was begun with.
    carried: OnceLock<Carried>,
}

impl Upload {
    async fn id(&self, draft: &Draft) -> Result<UploadId> {
        let create = || async {
            let carried = (draft.engine.carried_by)(draft.ino);
            let attributes = draft.object_attributes(&carried).await?;
            let request = CreateUpload { key: self.key.clone(), attributes, storage_class: None };
            self.carried.get_or_init(|| carried);
            let created = draft.engine.bucket.create_upload(request).await;
            created.map_err(|error| store_error(&self.key, error))
        };
        self.id.get_or_try_init(create).await.cloned()
    }

    /// Its name at the store, if it has one already.
    pub(super) fn known_id(&self) -> Option<UploadId> {
        self.id.get().cloned()
    }

    /// Nobody will complete it: its parts are removed at the store in the background.
    pub(super) fn abandon(self: &Arc<Self>, engine: &Arc<WriteEngine>) {
        if let Some(id) = self.id.get().cloned() {
            let (bucket, key) = (Arc::clone(&engine.bucket), self.key.clone());
            engine.spawn(async move {
                if let Err(error) = bucket.abort_upload(&key, &id).await {
                    tracing::warn!(%key, upload = %id, %error, "an upload that was given up could not be aborted; its parts are still stored");
                }
            });
        }
    }
}

/// What the store said of a write, as an error of the file.
fn store_error(key: &ObjectKey, error: s3::Error) -> Error {
    Error::from_store("write", error).with_name(key.as_str())
}

impl Draft {
    /// Begins to send the parts that are complete, as many as may be under way.
    pub(super) fn send_complete_parts(self: &Arc<Self>, state: &mut State) {
        while state.may_send_early() && state.content.parts_under_way() < MAX_PARTS_UNDER_WAY {
            let Some(index) = state.content.next_to_send() else { return };
            if self.engine.moves.moves(state.key.as_str()) {
                // What is sent to the old key now would be lost. The end of the move looks here again.
                return;
            }
            let range = self.engine.schedule.range(index);
            let Ok(pieces) = state.content.pieces(range) else { return };
            let sources = state.sources();
            let upload = self.upload(state);
            state.content.sending(index);
            let draft = Arc::clone(self);
            self.engine.spawn(async move {
                let sent = async {
                    let body = draft.engine.gather(pieces, &sources).await?.into_bytes();
                    draft.send_part(&upload, index, body.into()).await
                };
                draft.part_ended(index, sent.await);
            });
        }
    }

    /// The upload of this file, created at the store when its first part is sent.
    fn upload(&self, state: &mut State) -> Arc<Upload> {
        let key = &state.key;
        let new = || Upload { key: key.clone(), id: OnceCell::new(), carried: OnceLock::new() };
        Arc::clone(state.upload.get_or_insert_with(|| Arc::new(new())))
    }

    /// What is stored with the object besides its bytes: what the old one has, if this is a change of it, else what its name says.
    async fn object_attributes(&self, carried: &Carried) -> Result<ObjectAttributes> {
        let mut attributes = self.stored_attributes().await?;
        match stored::fitted(&attributes.user_metadata, carried.metadata.clone()) {
            Some(metadata) => attributes.user_metadata = metadata,
            // What programs gave it and does not fit was refused then. The bytes are worth more than the rest.
            None => {
                tracing::warn!(key = %self.key(), "mode, owner and times of a file are not stored with it: its other metadata leave no room for them");
            }
        }
        Ok(attributes)
    }

    /// What is stored with the object that it is a change of, or what its name says.
    pub(crate) async fn stored_attributes(&self) -> Result<ObjectAttributes> {
        if let Some(known) = self.attributes.lock().clone() {
            return Ok(known);
        }
        let (key, is_change) = {
            let state = self.state.lock();
            (state.key.clone(), state.base.is_some())
        };
        let attributes = match is_change {
            false => self.engine.attributes(&key),
            true => match self.engine.bucket.head(&key).await {
                Ok(head) => head.attributes(),
                // Whether the old object may be gone is for the condition of the write to say.
                Err(error) if error.kind() == s3::ErrorKind::NotFound => self.engine.attributes(&key),
                Err(error) => return Err(store_error(&key, error)),
            },
        };
        *self.attributes.lock() = Some(attributes.clone());
        Ok(attributes)
    }

    async fn send_part(&self, upload: &Upload, index: u64, body: Payload) -> Result<Part> {
        let id = upload.id(self).await?;
        let request = UploadPart { key: upload.key.clone(), upload: id, number: number(index), body };
        self.engine.bucket.upload_part(request).await.map_err(|error| store_error(&upload.key, error))
    }

    /// A part that was sent early is at the store, or not.
    fn part_ended(self: &Arc<Self>, index: u64, sent: Result<Part>) {
        let mut state = self.state.lock();
        match sent {
            Ok(part) => {
                state.content.sent(index, part);
                self.trim_kept(&mut state);
            }
            Err(error) => {
                state.content.not_sent(index);
                state.failed = Some(error);
            }
        }
        self.send_complete_parts(&mut state);
        drop(state);
        self.moved.notify_waiters();
        self.engine.moved.notify_waiters();
    }

    /// Makes the object of what was written. Nothing is written meanwhile; parts may be under way.
    pub(super) async fn make_object(&self) -> Result<Written> {
        let (plan, base, key, condition) = {
            let state = self.state.lock();
            let has_ranges = state.base.as_ref().is_some_and(|base| plan::has_ranges(base.version.size()));
            let can_copy = has_ranges && self.engine.bucket.traits().copy_ranges;
            (state.content.plan(can_copy), state.base.clone(), state.key.clone(), self.condition(&state))
        };
        let made = match plan {
            Plan::Whole => self.put_whole(&key, condition).await,
            Plan::Parts(parts) => self.put_parts(parts, base.as_ref(), condition).await,
        };
        if let Err(error) = &made
            && error.store_error().is_some_and(|error| error.kind() == s3::ErrorKind::NoSuchUpload)
        {
            self.parts_ended().await;
            self.upload_lost();
        }
        made
    }

    /// What must be at the store for the new object to take its place: what this file was made from.
    fn condition(&self, state: &State) -> WriteCondition {
        let checks = self.engine.config.on_conflict == OnConflict::Fail;
        if !self.engine.bucket.traits().conditional_writes {
            return WriteCondition::Any;
        }
        match state.base.as_ref().and_then(Base::etag).or(state.replaces.as_ref()) {
            Some(etag) if checks => WriteCondition::Matches(etag.clone()),
            // Who mounts again with that setting has been told of the conflict.
            None if state.must_be_new && (checks || !state.is_restored) => WriteCondition::Absent,
            _ => WriteCondition::Any,
        }
    }

    async fn put_whole(&self, key: &ObjectKey, condition: WriteCondition) -> Result<Written> {
        let size = self.state.lock().content.size();
        let body = self.payload(ByteRange::new(0, size)).await?;
        let attributes = self.object_attributes(&(self.engine.carried_by)(self.ino)).await?;
        let request =
            PutRequest { key: key.clone(), body: body.clone(), attributes, condition: condition.clone() };
        self.note_attempt(Sending::Whole, || Fingerprint::of_bytes(&body)).await;
        let put = self.engine.bucket.put(request).await;
        let written = put.map_err(|error| {
            self.doubt(&error, &condition, || Fingerprint::of_bytes(&body));
            store_error(key, error)
        })?;
        // Parts of what the file was before it was cut.
        self.parts_ended().await;
        if let Some(unused) = self.state.lock().upload.take() {
            unused.abandon(&self.engine);
        }
        Ok(written)
    }

    async fn put_parts(
        &self,
        parts: Vec<PlannedPart>,
        base: Option<&Base>,
        condition: WriteCondition,
    ) -> Result<Written> {
        let upload = self.upload(&mut self.state.lock());
        let id = upload.id(self).await?;
        let turns = Semaphore::new(CLOSING_PARTS);
        let make = |part| self.make_part((&upload, &id), part, base, &turns);
        let window = MAX_PARTS_UNDER_WAY + CLOSING_PARTS;
        let parts: Vec<Part> = stream::iter(parts).map(make).buffered(window).try_collect().await?;
        // Nor may one be under way that was cut off: it would fail, and that would be taken for a failure of what is written next.
        self.parts_ended().await;
        self.note_attempt(Sending::Parts, || Fingerprint::of_parts(&parts)).await;
        let key = upload.key.clone();
        let request = CompleteUpload { key, upload: id, parts: parts.clone(), condition: condition.clone() };
        self.engine.bucket.complete_upload(request).await.map_err(|error| {
            self.doubt(&error, &condition, || Fingerprint::of_parts(&parts));
            store_error(&upload.key, error)
        })
    }

    /// What the file was given after `upload` was begun is not in the object `meta` that it became: that is copied onto itself with it.
    ///
    /// # Errors
    /// As a HEAD and a copy. What was written is durable all the same.
    pub(super) async fn describe_anew(&self, upload: Option<Arc<Upload>>, meta: &ObjectMeta) -> Result<()> {
        let carried = (self.engine.carried_by)(self.ino);
        let is_more = |earlier: &Carried| carried.differs_from(earlier);
        if !upload.is_some_and(|upload| upload.carried.get().is_some_and(is_more)) {
            return Ok(());
        }
        let key = self.key();
        let meta = match self.engine.describe(&key, meta, |_| Ok(carried.metadata)).await {
            // Somebody replaced it just now, with attributes of their own.
            Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => return Ok(()),
            described => described?,
        };
        self.state.lock().base = Some(Base::new(&self.engine, &key, &meta));
        self.engine.committed(self.ino, meta);
        Ok(())
    }

    async fn make_part(
        &self,
        (upload, id): (&Upload, &UploadId),
        part: PlannedPart,
        base: Option<&Base>,
        turns: &Semaphore,
    ) -> Result<Part> {
        // Of two requests for one part, nobody knows which the store obeys last.
        self.until(|content| !content.is_flying(part.index)).await;
        if part.from == Source::Sent
            && let Some(sent) = self.state.lock().content.sent_part(part.index)
        {
            return Ok(sent.clone());
        }
        let _turn = turns.acquire().await.expect("the semaphore is never closed");
        match part.from {
            // What was on its way and did not arrive is here still.
            Source::Sent | Source::Here => {
                let body = self.payload(part.range).await?;
                let sent = self.send_part(upload, part.index, body).await?;
                let mut state = self.state.lock();
                state.content.sending(part.index);
                state.content.sent(part.index, sent.clone());
                Ok(sent)
            }
            Source::Copied => {
                let base = base.expect("only an old object is copied from");
                let request = CopyPart {
                    key: upload.key.clone(),
                    upload: id.clone(),
                    number: number(part.index),
                    source: base.version.key().clone(),
                    source_range: part.range,
                    source_if_match: base.etag().cloned(),
                };
                self.engine.bucket.copy_part(request).await.map_err(|error| store_error(&upload.key, error))
            }
        }
    }

    /// The bytes of `range`, ready to be sent.
    async fn payload(&self, range: ByteRange) -> Result<Payload> {
        let (pieces, sources) = {
            let state = self.state.lock();
            let pieces = state.content.pieces(range);
            let pieces = pieces.map_err(|Released| self.error(ErrorKind::Unsupported, "write", &state))?;
            // Where they are changes while the object is made: memory that others want is made free by moving bytes to disk.
            (pieces, state.sources())
        };
        Ok(Payload::from(self.engine.gather(pieces, &sources).await?.into_bytes()))
    }

    /// The store does not know the upload any more: begin another one, with everything that is still here.
    fn upload_lost(&self) {
        let mut state = self.state.lock();
        state.upload = None;
        if !state.content.upload_lost() {
            tracing::error!(key = %state.key, "the store dropped an upload whose parts are not held here any more: what was written to this file is lost");
        }
    }
}

/// The number of the part `index`.
fn number(index: u64) -> u16 {
    u16::try_from(index + 1).expect("a file has at most 10,000 parts")
}
