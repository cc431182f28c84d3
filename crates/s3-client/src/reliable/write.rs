//! Requests that write, made again until they are done, and known as done when only their answer was lost.

use std::sync::Arc;

use super::sending::{SendLimits, Stalled};
use super::{Attempts, Shared};
use crate::bucket::{
    CompleteUpload, CopyPart, CopyRequest, CreateUpload, Part, Payload, Progress, PutRequest, RenameRequest,
    UploadId, UploadMarker, UploadPage, UploadPart, WriteCondition, Written,
};
use crate::error::{Error, ErrorKind, FIRST_BYTE_TIMEOUT, Result};
use crate::fingerprint::{Fingerprint, Found, Likeness, likeness};
use crate::key::{ETag, KeyPrefix, ObjectKey};

impl Shared {
    pub(super) async fn put(&self, request: PutRequest) -> Result<Written> {
        let mut attempts = Attempts::new(self, "put", request.key.as_str());
        loop {
            let send = |body| self.inner.put(PutRequest { body, ..request.clone() });
            let sent = attempts.send(&request.body, send).await;
            let error = match sent {
                Ok(written) if request.is_directory_marker() => return Ok(written),
                sent => match sent.and_then(|written| attempts.named(written)) {
                    Ok(written) => return Ok(written),
                    Err(error) => error,
                },
            };
            // Everybody who claims a name writes the same empty object: whose it is cannot be told, and only one may believe it is theirs.
            let is_claim = request.condition == WriteCondition::Absent && request.body.is_empty();
            if error.kind() == ErrorKind::PreconditionFailed
                && attempts.may_be_done
                && !is_claim
                && let Some(found) = self.find(&request.key).await?
                && Fingerprint::of_bytes(&request.body).is_of(&found.0, found.1.as_ref())
            {
                return Ok(attempts.recovered(found));
            }
            attempts.pause_after(error).await?;
        }
    }

    pub(super) async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        let send = || self.inner.create_upload(request.clone());
        self.repeat("create upload", request.key.as_str(), send).await
    }

    pub(super) async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        let mut attempts = Attempts::new(self, "upload part", request.key.as_str());
        loop {
            let send = |body| self.inner.upload_part(UploadPart { body, ..request.clone() });
            let answer = attempts.send(&request.body, send).await;
            match answer.and_then(|part| attempts.fits(part, request.number, request.body.len())) {
                Ok(part) => return Ok(part),
                Err(error) => attempts.pause_after(error).await?,
            }
        }
    }

    pub(super) async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        let mut attempts = Attempts::new(self, "copy part", request.key.as_str());
        loop {
            let answer = attempts.finish(self.inner.copy_part(request.clone())).await;
            match answer.and_then(|part| attempts.fits(part, request.number, request.source_range.len())) {
                Ok(part) => return Ok(part),
                Err(error) => attempts.pause_after(error).await?,
            }
        }
    }

    pub(super) async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        let mut attempts = Attempts::new(self, "complete upload", request.key.as_str());
        loop {
            let answer = attempts.finish(self.inner.complete_upload(request.clone())).await;
            let error = match answer.and_then(|written| attempts.named(written)) {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            // Also the first attempt: the caller may have asked before, and lost the answer.
            let may_be_done = match error.kind() {
                ErrorKind::NoSuchUpload => true,
                ErrorKind::PreconditionFailed => attempts.may_be_done,
                _ => false,
            };
            if may_be_done
                && let Some(found) = self.find(&request.key).await?
                && Fingerprint::of_parts(&request.parts).is_of(&found.0, found.1.as_ref())
            {
                return Ok(attempts.recovered(found));
            }
            attempts.pause_after(error).await?;
        }
    }

    pub(super) async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.repeat("abort upload", key.as_str(), || self.inner.abort_upload(key, upload)).await
    }

    pub(super) async fn list_uploads(
        &self,
        prefix: &KeyPrefix,
        marker: Option<UploadMarker>,
    ) -> Result<UploadPage> {
        const OPERATION: &str = "list uploads";
        let mut attempts = Attempts::new(self, OPERATION, prefix.as_str());
        loop {
            let limit = self.config.page_timeout;
            let answer = attempts.once(limit, self.inner.list_uploads(prefix, marker.clone())).await;
            let error = match answer {
                Ok(page) if page.next.is_some() && page.next == marker => {
                    attempts.error(ErrorKind::Corrupt, "the marker of the next page is that of this page")
                }
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            attempts.pause_after(error).await?;
        }
    }

    pub(super) async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.repeat("delete", key.as_str(), || self.inner.delete(key)).await
    }

    /// What fails may fail for some keys only, and only for now: those are asked for again.
    pub(super) async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let first = keys.first().map_or("", ObjectKey::as_str);
        let mut attempts = Attempts::new(self, "delete many", first);
        let (mut left, mut failed) = (keys.to_vec(), Vec::new());
        loop {
            let told = match attempts.once(self.config.page_timeout, self.inner.delete_many(&left)).await {
                Ok(told) => told,
                Err(error) => {
                    attempts.pause_after(error).await?;
                    continue;
                }
            };
            let (passing, staying): (Vec<_>, Vec<_>) =
                told.into_iter().partition(|(_, error)| error.kind().is_retryable());
            failed.extend(staying);
            let Some((_, error)) = passing.first() else { return Ok(failed) };
            if attempts.pause_after(error.clone()).await.is_err() {
                failed.extend(passing);
                return Ok(failed);
            }
            left = passing.into_iter().map(|(key, _)| key).collect();
        }
    }

    pub(super) async fn copy(&self, request: CopyRequest) -> Result<Written> {
        let mut attempts = Attempts::new(self, "copy", request.target.as_str());
        loop {
            let answer = attempts.finish(self.inner.copy(request.clone())).await;
            let error = match answer.and_then(|written| attempts.named(written)) {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            if error.kind() == ErrorKind::PreconditionFailed
                && attempts.may_be_done
                && request.condition != WriteCondition::Any
                // Of a copy onto itself the source is no witness: the caller knows what it was.
                && request.source != request.target
                && let Some(found) = self.find(&request.target).await?
                && let Some(source) = self.find(&request.source).await?
                && likeness(&found, &source) == Likeness::Same
            {
                return Ok(attempts.recovered(found));
            }
            attempts.pause_after(error).await?;
        }
    }

    pub(super) async fn rename(&self, request: RenameRequest) -> Result<()> {
        let mut attempts = Attempts::new(self, "rename", request.target.as_str());
        loop {
            let answer = attempts.once(self.config.page_timeout, self.inner.rename(request.clone())).await;
            let Err(error) = answer else { return Ok(()) };
            attempts.note_doubt(&error);
            let gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PreconditionFailed);
            if gone && attempts.may_be_done && self.was_moved(&request).await? {
                return Ok(());
            }
            attempts.pause_after(error).await?;
        }
    }

    /// Whether the source is gone and the target is the version that was to be moved.
    async fn was_moved(&self, request: &RenameRequest) -> Result<bool> {
        let Some(etag) = &request.source_if_match else { return Ok(false) };
        let is_moved =
            |found: Option<Found>| found.is_some_and(|(head, _)| head.meta.etag.as_ref() == Some(etag));
        Ok(self.find(&request.source).await?.is_none() && is_moved(self.find(&request.target).await?))
    }

    pub(super) async fn head_with_checksum(&self, key: &ObjectKey) -> Result<Found> {
        match self.repeat("head", key.as_str(), || self.inner.head_with_checksum(key)).await {
            // The checksum takes a permission more than the rest, and some servers do not know it.
            Err(error) if WITHOUT_CHECKSUM.contains(&error.kind()) => {
                self.repeat("head", key.as_str(), || self.inner.head(key)).await.map(|head| (head, None))
            }
            found => found,
        }
    }

    /// The object as it is, with its checksum; `None` if there is none.
    async fn find(&self, key: &ObjectKey) -> Result<Option<Found>> {
        match self.head_with_checksum(key).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request that may be done twice until it is answered or the deadline is over.
    async fn repeat<T, F>(&self, operation: &'static str, key: &str, send: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempts = Attempts::new(self, operation, key);
        loop {
            match attempts.once(self.config.page_timeout, send()).await {
                Ok(done) => return Ok(done),
                Err(error) => attempts.pause_after(error).await?,
            }
        }
    }
}

impl Attempts<'_> {
    /// One attempt at what sends `body`. The time in which bytes moved does not count to the deadline.
    async fn send<T, F>(&mut self, body: &Payload, send: impl FnOnce(Payload) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let turn = self.turn().await?;
        let config = &self.shared.config;
        let patience = 1_u32.checked_shl(self.tally.silent).unwrap_or(u32::MAX);
        let reply = config.first_byte_timeout.saturating_mul(patience).min(config.operation_deadline);
        let limits = SendLimits { stall: config.send_timeout, reply };
        let progress = Arc::new(Progress::default());
        let attempt = send(body.watched_by(Arc::clone(&progress)));
        let result = match limits.watch(attempt, body.len(), &progress).await {
            Ok(result) => result,
            Err(Stalled::Body(sent)) => Err(self.error(
                ErrorKind::Transient,
                &format!(
                    "the server stopped reading for {:.1?} at byte {sent} of {}",
                    config.send_timeout,
                    body.len()
                ),
            )),
            Err(Stalled::Reply) => Err(self
                .error(ErrorKind::Transient, "the server read all bytes and did not answer")
                .with_code(FIRST_BYTE_TIMEOUT)),
        };
        self.excused += progress.last() - progress.began();
        super::settle(turn, &result);
        result.inspect_err(|error| self.note_doubt(error))
    }

    /// One attempt at what the server works on for long. Its time does not count to the deadline, but all of them together have a limit.
    async fn finish<T>(&mut self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let turn = self.turn().await?;
        let began = tokio::time::Instant::now();
        let limit = self.shared.config.finish_timeout.saturating_sub(self.excused);
        let result = match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result,
            Err(_) => Err(self.error(ErrorKind::Transient, "the server did not finish in time")),
        };
        let rest = self.shared.config.finish_timeout.saturating_sub(self.excused);
        self.excused += began.elapsed().min(rest);
        super::settle(turn, &result);
        result.inspect_err(|error| self.note_doubt(error))
    }

    /// After this the request may have been done, for all that is known.
    fn note_doubt(&mut self, error: &Error) {
        self.may_be_done |= matches!(error.kind(), ErrorKind::Transient | ErrorKind::Corrupt);
    }

    /// The answer, if it names the version that was written.
    fn named(&mut self, written: Written) -> Result<Written> {
        if written.etag.is_some() {
            return Ok(written);
        }
        let error = self.error(ErrorKind::Corrupt, "the answer does not name what was written (no ETag)");
        self.note_doubt(&error);
        Err(error)
    }

    fn fits(&self, part: Part, number: u16, size: u64) -> Result<Part> {
        if (part.number, part.size) == (number, size) {
            return Ok(part);
        }
        let message =
            format!("part {number} of {size} bytes was sent, {} of {} came", part.number, part.size);
        Err(self.error(ErrorKind::Corrupt, &message))
    }

    /// What the lost answer would have said.
    fn recovered(&self, (head, _): Found) -> Written {
        let etag: &Option<ETag> = &head.meta.etag;
        tracing::debug!(
            operation = self.operation,
            key = self.key,
            ?etag,
            "the answer was lost, the object is there"
        );
        Written { etag: head.meta.etag, version_id: head.version_id }
    }
}

/// Errors after which an object is described without its checksum.
const WITHOUT_CHECKSUM: [ErrorKind; 3] = [ErrorKind::Forbidden, ErrorKind::Invalid, ErrorKind::Unsupported];
