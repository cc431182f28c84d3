//! A bucket that keeps its word: one retry loop, time limits and checked answers around any other bucket.
//!
//! [`ReliableBucket`] is the one place where requests are repeated. The pieces are elsewhere and mostly pure: what is retried
//! ([`retry`](crate::retry)), whether an answer fits ([`verify`]), how a broken body goes on
//! (`resume`), how many requests run at once ([`limiter`](crate::limiter)), when a reply is late ([`first_byte`](crate::first_byte)) and
//! what a second request for it may cost ([`hedge`](crate::hedge)).

mod resume;
mod sending;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::bucket::{
    Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyPart, CopyRequest, CreateUpload, GetReply,
    GetRequest, ListPage, ListRequest, ObjectHead, Part, PutRequest, RenameRequest, UploadId, UploadMarker,
    UploadPage, UploadPart, Written,
};
use crate::checksum::StoredChecksum;
use crate::error::{Error, ErrorKind, FIRST_BYTE_TIMEOUT, Result};
use crate::first_byte::FirstByteTimes;
use crate::hedge::{HedgeBudget, hedged};
use crate::key::{ByteRange, KeyPrefix, ObjectKey};
use crate::limiter::{Limiter, Turn};
use crate::retry::{Decision, RetryConfig, Tally};
use crate::verify::{self, PageTrail};

/// Retries, limits and checks around another bucket, which does one request per call.
///
/// - A failure that may pass is retried with jittered backoff, honouring `Retry-After`, until the operation's deadline; the error
///   that is then returned counts the attempts. An attempt without reply headers is given up early and made again.
/// - A GET whose reply is late by the measure of the recent ones is sent a second time, for a few in a hundred; the first good reply counts.
/// - The body of a GET goes on by itself when the connection breaks, ends early or stalls: a new request under If-Match asks for the
///   rest. Each byte of progress begins a new deadline. If the object changed in between, the stream ends in `PreconditionFailed`.
/// - Every answer is checked against its request; one that contradicts it is asked for again twice, then is `Corrupt`.
///
/// # Checksums of whole objects
/// The bytes of a GET without a range are unverified until the body ends cleanly: a checksum mismatch may be the last item of the
/// stream, `Corrupt`, after bytes were handed out. Bytes cannot be taken back, so that is retried only while none were: where the whole
/// object came in one piece. A body that had to be resumed after its first piece ends without that check, as any range does.
///
/// # Writing
/// - A request with a body may take as long as its bytes move. It is given up when the server reads nothing for
///   [`send_timeout`](RetryConfig::send_timeout), or does not answer after the last byte.
/// - Where a write seems to have failed because it was done before, its answer having been lost, the object is looked at: if it is
///   what was to be written, by MD5 or checksum, that is a success. A move is known as done when the source is gone and the target
///   has the version that was to be moved, so the request must name it.
/// - An upload whose first answer was lost was begun all the same, and stays until somebody aborts it; the bucket's lifecycle rules
///   or a sweep by [`list_uploads`](Bucket::list_uploads) find it.
///
/// # Cancel safety
/// Every call and body may be dropped at any time.
pub struct ReliableBucket {
    shared: Arc<Shared>,
}

/// What the calls and the bodies of one bucket share.
pub(crate) struct Shared {
    pub(crate) inner: Arc<dyn Bucket>,
    pub(crate) config: RetryConfig,
    limiter: Arc<Limiter>,
    pace: Mutex<Pace>,
    rng: Mutex<StdRng>,
    trail: Mutex<PageTrail>,
}

/// How fast the bucket answers, and what a reply that is late may cost.
struct Pace {
    times: FirstByteTimes,
    hedges: HedgeBudget,
}

impl ReliableBucket {
    /// Wraps `inner`, whose own retries must be off.
    pub fn new(inner: Arc<dyn Bucket>, config: RetryConfig) -> Self {
        let rng = config.jitter_seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        let limiter = Limiter::new(config.max_concurrency);
        let pace = Pace { times: FirstByteTimes::default(), hedges: HedgeBudget::new(config.hedge_percent) };
        let shared = Shared {
            inner,
            config,
            limiter,
            pace: Mutex::new(pace),
            rng: Mutex::new(rng),
            trail: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// How many requests may wait for their reply at once: the maximum, or fewer after the server asked for fewer.
    pub fn concurrency_limit(&self) -> u32 {
        self.shared.limiter.limit()
    }
}

impl fmt::Debug for ReliableBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReliableBucket").field(&self.shared.inner).finish()
    }
}

#[async_trait]
impl Bucket for ReliableBucket {
    fn identity(&self) -> &BucketIdentity {
        self.shared.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.shared.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        let mut attempts = Attempts::new(&self.shared, "head", key.as_str());
        loop {
            match attempts.first_byte(self.shared.inner.head(key)).await {
                Ok(head) => return Ok(head),
                Err(error) => attempts.pause_after(error).await?,
            }
        }
    }

    /// Without the checksum where it may not be asked for.
    async fn head_with_checksum(&self, key: &ObjectKey) -> Result<(ObjectHead, Option<StoredChecksum>)> {
        self.shared.head_with_checksum(key).await
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        if request.range.is_some_and(|range| range.is_empty()) {
            // HTTP cannot ask for no bytes, and a server that ignores the malformed range would send them all.
            return Err(self.shared.error(
                ErrorKind::Invalid,
                "get",
                request.key.as_str(),
                "the range is empty",
            ));
        }
        let mut attempts = Attempts::new(&self.shared, "get", request.key.as_str());
        let (wanted, reply) = loop {
            match attempts.get(&request).await {
                Ok(accepted) => break accepted,
                Err(error) => attempts.pause_after(error).await?,
            }
        };
        let meta = reply.meta.clone();
        let body = resume::body(Arc::clone(&self.shared), request, wanted, reply);
        Ok(GetReply { meta, range: wanted, body })
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        let limit = self.shared.config.page_timeout;
        let mut attempts = Attempts::new(&self.shared, "list", request.prefix.as_str());
        loop {
            let answer = attempts.once(limit, self.shared.inner.list(request.clone())).await;
            match answer.and_then(|page| self.shared.check_page(&request, page)) {
                Ok(page) => return Ok(page),
                Err(error) => attempts.pause_after(error).await?,
            }
        }
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        self.shared.put(request).await
    }

    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        self.shared.create_upload(request).await
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        self.shared.upload_part(request).await
    }

    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        self.shared.copy_part(request).await
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        self.shared.complete_upload(request).await
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.shared.abort_upload(key, upload).await
    }

    async fn list_uploads(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> Result<UploadPage> {
        self.shared.list_uploads(prefix, marker).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.shared.delete(key).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        self.shared.delete_many(keys).await
    }

    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        self.shared.copy(request).await
    }

    async fn rename(&self, request: RenameRequest) -> Result<()> {
        self.shared.rename(request).await
    }
}

impl Shared {
    /// An error of this module's own making.
    pub(crate) fn error(&self, kind: ErrorKind, operation: &'static str, key: &str, message: &str) -> Error {
        Error::new(kind, operation)
            .with_bucket(&self.inner.identity().name)
            .with_key(key)
            .with_message(message)
    }

    /// One GET whose headers fit the request, and the bytes it entitles to.
    async fn get_checked(&self, request: &GetRequest) -> Result<(ByteRange, GetReply)> {
        let reply = self.inner.get(request.clone()).await?;
        let wanted = verify::get_reply(request, &reply.meta, reply.range)
            .map_err(|error| error.with_bucket(&self.inner.identity().name).with_key(request.key.as_str()))?;
        Ok((wanted, reply))
    }

    /// A GET beside one whose reply is late, if it is paid for and nobody waits for its turn.
    fn second_get(
        &self,
        request: &GetRequest,
    ) -> Option<impl Future<Output = Result<(ByteRange, GetReply)>>> {
        let turn = self.limiter.spare_turn()?;
        if !self.pace.lock().hedges.spend() {
            return None;
        }
        tracing::debug!(bucket = %self.inner.identity().name, key = %request.key, "the reply is late, asking a second time");
        Some(async move {
            let result = self.get_checked(request).await;
            settle(turn, &result);
            result
        })
    }

    fn check_page(&self, request: &ListRequest, page: ListPage) -> Result<ListPage> {
        let mut trail = self.trail.lock();
        let ordered = self.inner.traits().ordered_listing;
        verify::list_page(request, trail.before(request), ordered, &page).map_err(|error| {
            error.with_bucket(&self.inner.identity().name).with_key(request.prefix.as_str())
        })?;
        trail.note(request, &page);
        Ok(page)
    }
}

/// Gives a turn back with the news of its request.
fn settle<T>(turn: Turn, result: &Result<T>) {
    match result {
        Ok(_) => turn.succeeded(),
        Err(error) if error.kind() == ErrorKind::Throttled => turn.throttled(),
        Err(_) => drop(turn),
    }
}

/// The attempts at one operation, and the time they have in all.
pub(crate) struct Attempts<'a> {
    shared: &'a Shared,
    operation: &'static str,
    key: &'a str,
    started: Instant,
    /// Time that does not count to the deadline, because work was done in it.
    excused: Duration,
    tally: Tally,
    /// Whether an attempt may have been done although it failed.
    may_be_done: bool,
    /// Why the attempt before this one failed.
    last: Option<Error>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(shared: &'a Shared, operation: &'static str, key: &'a str) -> Self {
        Self {
            shared,
            operation,
            key,
            started: Instant::now(),
            excused: Duration::ZERO,
            tally: Tally::default(),
            may_be_done: false,
            last: None,
        }
    }

    /// One GET whose headers fit the request, and the bytes it entitles to; a second request beside it if the reply is late.
    pub(crate) async fn get(&self, request: &GetRequest) -> Result<(ByteRange, GetReply)> {
        let after = {
            let mut pace = self.shared.pace.lock();
            pace.hedges.earn();
            pace.times.hedge_after()
        };
        let first = self.shared.get_checked(request);
        self.first_byte(hedged(first, after, || self.shared.second_get(request))).await
    }

    /// One attempt at what ends with the headers of a reply, for as long as this bucket's replies may take.
    async fn first_byte<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let pace = &self.shared.pace;
        let limit = self.shared.config.first_byte_limit(&pace.lock().times, &self.tally);
        let timed = async {
            let start = Instant::now();
            let result = attempt.await;
            if result.is_ok() {
                pace.lock().times.record(start.elapsed());
            }
            result
        };
        self.once(limit, timed).await.inspect_err(|error| {
            if error.code() == Some(FIRST_BYTE_TIMEOUT) {
                pace.lock().times.record(limit);
            }
        })
    }

    /// Waits for a turn and makes one attempt, which may take `limit`; neither goes on past the operation's deadline.
    async fn once<T>(&self, limit: Duration, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let turn = self.turn().await?;
        let left = self.deadline().saturating_duration_since(Instant::now());
        let Ok(result) = timeout(limit.min(left), attempt).await else {
            if left < limit {
                return Err(self.cut_short("no reply came before the deadline"));
            }
            let error = self.error(ErrorKind::Transient, &format!("no reply within {limit:.1?}"));
            return Err(error.with_code(FIRST_BYTE_TIMEOUT));
        };
        settle(turn, &result);
        result
    }

    /// Waits for a turn until the deadline.
    async fn turn(&self) -> Result<Turn> {
        let turn = timeout_at(self.deadline(), self.shared.limiter.turn()).await;
        turn.map_err(|_| self.cut_short("no turn came before the deadline"))
    }

    fn deadline(&self) -> Instant {
        self.started + self.excused + self.shared.config.operation_deadline
    }

    /// Counts a failure; returns when the next attempt is due.
    ///
    /// # Errors
    /// The failure itself, with the number of attempts, when there is to be none.
    pub(crate) async fn pause_after(&mut self, error: Error) -> Result<()> {
        self.tally.record(&error);
        let elapsed = self.started.elapsed().saturating_sub(self.excused);
        let decision = self.shared.config.decide(&error, &self.tally, elapsed, &mut *self.shared.rng.lock());
        match decision {
            Decision::GiveUp => Err(error.with_attempts(self.tally.attempts)),
            Decision::Retry { after } => {
                tracing::debug!(%error, attempt = self.tally.attempts, wait = ?after, "retrying");
                sleep(after).await;
                self.last = Some(error);
                Ok(())
            }
        }
    }

    /// The error of an attempt that the deadline ended: what went wrong before says more than that time ran out.
    fn cut_short(&self, message: &str) -> Error {
        self.last.clone().unwrap_or_else(|| self.error(ErrorKind::Transient, message))
    }

    fn error(&self, kind: ErrorKind, message: &str) -> Error {
        self.shared.error(kind, self.operation, self.key, message)
    }
}

#[cfg(test)]
mod tests;
