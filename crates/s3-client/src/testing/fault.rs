//! A bucket that fails on demand: latency, errors, wrong, short and stalled bodies, wrong pages.
//!
//! It lies as a bad server or a bad client library would, one request at a time, so that whatever stands above can show that it
//! notices. The plan and the seed make a failure repeatable.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::body::{cut, flip};
use super::plan::{FaultPlan, Operation, RequestCounts, Rule};
use crate::bucket::{
    BodyStream, Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyPart, CopyRequest, CreateUpload,
    GetReply, GetRequest, ListPage, ListRequest, ObjectHead, Part, Payload, PutRequest, RenameRequest,
    UploadId, UploadMarker, UploadPage, UploadPart, Written,
};
use crate::checksum::StoredChecksum;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ETag, KeyPrefix, ObjectKey};

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is answered this much later. Other faults of the same request come after it.
    Latency(Duration),
    /// A HEAD is answered so much later, with what was true before.
    AnswerLater(Duration),
    /// It fails.
    Fail(Error),
    /// It is never answered.
    Silence,
    /// A request that writes is done, and then fails.
    AnswerLost,
    /// The body, of the request or the reply, fails after so many bytes.
    BodyBreaks(u64),
    /// The body ends after so many bytes, as if it were whole.
    BodyEnds(u64),
    /// The body, of the request or the reply, brings nothing more after so many bytes, and does not end.
    BodyStalls(u64),
    /// The body of the request is taken so slowly.
    BodySlow {
        /// Bytes at once.
        bytes: u64,
        /// Time from piece to piece.
        every: Duration,
    },
    /// The body goes on after its last byte.
    BodyTooLong,
    /// The byte at this offset of the body has a wrong bit, and nothing tells.
    BitFlip(u64),
    /// The body turns out not to match its checksum after so many bytes.
    ChecksumMismatch(u64),
    /// The reply names another ETag.
    WrongETag,
    /// The reply names no ETag.
    NoETag,
    /// The reply is of the bytes after those asked for, and says so.
    ShiftedRange,
    /// The reply is of fewer bytes than asked for, and says so.
    ShorterRange,
    /// The reply is of the whole object, whatever range was asked for.
    IgnoredRange,
    /// The reply is what it would be without If-Match.
    IgnoredIfMatch,
    /// Of the objects to be removed, the first and then every so many-th is not.
    SomeFail {
        /// From one that fails to the next.
        every: usize,
        /// Why.
        error: Error,
    },
    /// The page's token is the one it was asked for with.
    RepeatedToken,
    /// The page runs backwards.
    UnsortedPage,
    /// Half of the page is missing, and it claims to be the last. Nothing above a bucket can see that.
    HalfPage,
}

/// Any bucket, with faults.
#[derive(Debug)]
pub struct FaultBucket<B> {
    inner: B,
    plan: FaultPlan<Fault>,
    counts: RequestCounts,
}

impl<B: Bucket> FaultBucket<B> {
    /// Without faults yet.
    pub fn new(inner: B) -> Self {
        Self::seeded(inner, 0)
    }

    /// Without faults yet; the seed decides which requests a rate hits.
    pub fn seeded(inner: B, seed: u64) -> Self {
        Self { inner, plan: FaultPlan::seeded(seed), counts: RequestCounts::default() }
    }

    /// The same, with a rule more.
    #[must_use]
    pub fn with(self, rule: Rule<Fault>) -> Self {
        self.plan.add(rule);
        self
    }

    /// The faults, which may change at any time.
    pub fn plan(&self) -> &FaultPlan<Fault> {
        &self.plan
    }

    /// How many requests came, failed ones too.
    pub fn requests(&self) -> &RequestCounts {
        &self.counts
    }

    /// The bucket without faults.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// Counts a request and lives through the faults that need no answer; returns the others.
    async fn meet(&self, operation: Operation, key: &str) -> Result<Vec<Fault>> {
        self.counts.count(operation);
        let mut rest = Vec::new();
        for fault in self.plan.faults(operation, key) {
            match fault {
                Fault::Latency(time) => tokio::time::sleep(time).await,
                Fault::Fail(error) => return Err(error.with_bucket(&self.identity().name).with_key(key)),
                Fault::Silence => std::future::pending().await,
                other => rest.push(other),
            }
        }
        Ok(rest)
    }
}

#[async_trait]
impl<B: Bucket> Bucket for FaultBucket<B> {
    fn identity(&self) -> &BucketIdentity {
        self.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        let faults = self.meet(Operation::Head, key.as_str()).await?;
        let mut head = self.inner.head(key).await?;
        for fault in faults {
            match fault {
                Fault::WrongETag => head.meta.etag = Some(ETag::new("\"another\"")),
                Fault::NoETag => head.meta.etag = None,
                Fault::AnswerLater(time) => tokio::time::sleep(time).await,
                _ => {}
            }
        }
        Ok(head)
    }

    async fn head_with_checksum(&self, key: &ObjectKey) -> Result<(ObjectHead, Option<StoredChecksum>)> {
        self.meet(Operation::Head, key.as_str()).await?;
        self.inner.head_with_checksum(key).await
    }

    async fn get(&self, mut request: GetRequest) -> Result<GetReply> {
        let faults = self.meet(Operation::Get, request.key.as_str()).await?;
        for fault in &faults {
            edit_request(&mut request, fault);
        }
        let mut reply = self.inner.get(request).await?;
        for fault in faults {
            reply = edit_reply(reply, fault);
        }
        Ok(reply)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        let faults = self.meet(Operation::List, request.prefix.as_str()).await?;
        let mut page = self.inner.list(request.clone()).await?;
        for fault in faults {
            match fault {
                Fault::RepeatedToken => page.next = request.continuation.clone(),
                Fault::UnsortedPage => page.objects.reverse(),
                Fault::HalfPage => {
                    page.objects.truncate(page.objects.len() / 2);
                    page.common_prefixes.truncate(page.common_prefixes.len() / 2);
                    page.next = None;
                }
                _ => {}
            }
        }
        Ok(page)
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        let faults = self.meet(Operation::Put, request.key.as_str()).await?;
        send("put", &request.body, &faults).await?;
        let written = self.inner.put(request).await?;
        answer("put", written, &faults).map(|written| without_etag(written, &faults))
    }

    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        let faults = self.meet(Operation::CreateUpload, request.key.as_str()).await?;
        answer("create upload", self.inner.create_upload(request).await?, &faults)
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        let faults = self.meet(Operation::UploadPart, request.key.as_str()).await?;
        send("upload part", &request.body, &faults).await?;
        answer("upload part", self.inner.upload_part(request).await?, &faults)
    }

    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        let faults = self.meet(Operation::CopyPart, request.key.as_str()).await?;
        answer("copy part", self.inner.copy_part(request).await?, &faults)
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        let faults = self.meet(Operation::CompleteUpload, request.key.as_str()).await?;
        let written = self.inner.complete_upload(request).await?;
        answer("complete upload", written, &faults).map(|written| without_etag(written, &faults))
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let faults = self.meet(Operation::AbortUpload, key.as_str()).await?;
        self.inner.abort_upload(key, upload).await?;
        answer("abort upload", (), &faults)
    }

    async fn list_uploads(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> Result<UploadPage> {
        let faults = self.meet(Operation::ListUploads, prefix.as_str()).await?;
        let mut page = self.inner.list_uploads(prefix, marker.clone()).await?;
        if faults.iter().any(|fault| matches!(fault, Fault::RepeatedToken)) {
            page.next = marker;
        }
        Ok(page)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let faults = self.meet(Operation::Delete, key.as_str()).await?;
        self.inner.delete(key).await?;
        answer("delete", (), &faults)
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let faults = self.meet(Operation::DeleteMany, keys.first().map_or("", ObjectKey::as_str)).await?;
        let spared = faults.iter().filter_map(|fault| match fault {
            Fault::SomeFail { every, error } => Some((*every, error)),
            _ => None,
        });
        let mut failed = Vec::new();
        for (every, error) in spared {
            failed.extend(keys.iter().step_by(every).map(|key| (key.clone(), error.clone())));
        }
        let wanted: Vec<ObjectKey> =
            keys.iter().filter(|key| failed.iter().all(|(f, _)| f != *key)).cloned().collect();
        failed.extend(self.inner.delete_many(&wanted).await?);
        answer("delete many", failed, &faults)
    }

    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        let faults = self.meet(Operation::Copy, request.target.as_str()).await?;
        let written = self.inner.copy(request).await?;
        answer("copy", written, &faults).map(|written| without_etag(written, &faults))
    }

    async fn rename(&self, request: RenameRequest) -> Result<()> {
        let faults = self.meet(Operation::Rename, request.target.as_str()).await?;
        self.inner.rename(request).await?;
        answer("rename", (), &faults)
    }
}

/// Sends a request's body as the faults let it.
async fn send(operation: &'static str, body: &Payload, faults: &[Fault]) -> Result<()> {
    for fault in faults {
        match fault {
            Fault::BodyBreaks(at) => {
                body.note_sent(*at);
                let error = Error::new(ErrorKind::Transient, operation);
                return Err(error.with_message("the connection was reset"));
            }
            Fault::BodyStalls(at) => {
                body.note_sent(*at);
                std::future::pending().await
            }
            Fault::BodySlow { bytes, every } => {
                for _ in 0..body.len() / bytes {
                    tokio::time::sleep(*every).await;
                    body.note_sent(*bytes);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The answer, unless it is lost.
fn answer<T>(operation: &'static str, answer: T, faults: &[Fault]) -> Result<T> {
    if faults.iter().any(|fault| matches!(fault, Fault::AnswerLost)) {
        let error = Error::new(ErrorKind::Transient, operation);
        return Err(error.with_message("the connection was reset before the answer"));
    }
    Ok(answer)
}

fn without_etag(written: Written, faults: &[Fault]) -> Written {
    let untold = faults.iter().any(|fault| matches!(fault, Fault::NoETag));
    Written { etag: written.etag.filter(|_| !untold), ..written }
}

fn edit_request(request: &mut GetRequest, fault: &Fault) {
    match (fault, request.range) {
        (Fault::IgnoredRange, _) => request.range = None,
        (Fault::IgnoredIfMatch, _) => request.if_match = None,
        (Fault::ShiftedRange, Some(range)) => {
            request.range = Some(ByteRange::new(range.start + 1, range.end + 1))
        }
        (Fault::ShorterRange, Some(range)) => {
            request.range = Some(ByteRange::from_len(range.start, range.len().div_ceil(2)));
        }
        _ => {}
    }
}

fn edit_reply(reply: GetReply, fault: Fault) -> GetReply {
    let GetReply { mut meta, range, body } = reply;
    let body: BodyStream = match fault {
        Fault::BodyBreaks(at) => {
            let error = Error::new(ErrorKind::Transient, "get").with_message("the connection was reset");
            Box::pin(cut(body, at).chain(stream::iter([Err(error)])))
        }
        Fault::BodyEnds(at) => Box::pin(cut(body, at)),
        Fault::BodyStalls(at) => Box::pin(cut(body, at).chain(stream::pending())),
        Fault::BodyTooLong => Box::pin(body.chain(stream::iter([Ok(Bytes::from_static(b"!"))]))),
        Fault::BitFlip(at) => Box::pin(flip(body, at)),
        Fault::ChecksumMismatch(after) => {
            let error = Error::new(ErrorKind::Corrupt, "get").with_message("the checksum does not match");
            Box::pin(cut(body, after).chain(stream::iter([Err(error)])))
        }
        Fault::WrongETag => {
            meta.etag = Some(ETag::new("\"another\""));
            body
        }
        Fault::NoETag => {
            meta.etag = None;
            body
        }
        _ => body,
    };
    GetReply { meta, range, body }
}
