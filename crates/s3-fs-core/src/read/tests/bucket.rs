//! A bucket that notes what it is asked for, takes its time, and fails or stops when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use sluicefs_s3_client::testing::{Content, MemoryBucket};
use sluicefs_s3_client::{
    self as s3, Bucket, BucketIdentity, BucketTraits, ByteRange, ETag, GetReply, GetRequest, ListPage,
    ListRequest, ObjectHead, ObjectKey, ObjectMeta,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The object that tests read.
pub(super) const KEY: &str = "model";

/// How long the network takes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Net {
    pub(super) first_byte: Duration,
    /// Of each request; 0 for no limit.
    pub(super) bytes_per_second: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct ProbeBucket {
    pub(super) inner: MemoryBucket,
    net: Net,
    requests: Mutex<Vec<GetRequest>>,
    /// Requests whose replies have not ended or been dropped.
    active: Arc<AtomicUsize>,
    /// Each piece of a body takes one permit.
    gate: Option<Arc<Semaphore>>,
    failures: Mutex<Vec<s3::Error>>,
    edit: Mutex<Option<fn(&mut GetReply)>>,
    /// Bodies are zeros, which take no time to make.
    is_blank: bool,
}

impl ProbeBucket {
    pub(super) fn new(size: u64) -> Self {
        let inner = MemoryBucket::new("probe");
        inner.put(KEY, Content::Pattern { seed: 1, len: size });
        Self {
            inner,
            net: Net::default(),
            requests: Mutex::default(),
            active: Arc::default(),
            gate: None,
            failures: Mutex::default(),
            edit: Mutex::default(),
            is_blank: false,
        }
    }

    /// A bucket for tests that count rather than compare.
    pub(super) fn blank(size: u64) -> Self {
        Self { is_blank: true, ..Self::new(size) }
    }

    pub(super) fn with_net(mut self, net: Net) -> Self {
        self.net = net;
        self
    }

    /// Lets no piece of a body through until the test adds permits.
    pub(super) fn with_gate(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(Arc::clone(gate));
        self
    }

    /// The next requests fail with `error`, once for each call.
    pub(super) fn fail_next(&self, error: s3::Error) {
        self.failures.lock().push(error);
    }

    /// Falsifies all replies from now on.
    pub(super) fn edit_replies(&self, edit: fn(&mut GetReply)) {
        *self.edit.lock() = Some(edit);
    }

    pub(super) fn size(&self) -> u64 {
        self.inner.object(KEY).map_or(0, |object| object.content.len())
    }

    pub(super) fn etag(&self) -> Option<ETag> {
        self.inner.object(KEY)?.head.meta.etag
    }

    pub(super) fn gets(&self) -> usize {
        self.requests.lock().len()
    }

    /// All requests so far; whole objects as their range.
    pub(super) fn ranges(&self) -> Vec<ByteRange> {
        let all = ByteRange::new(0, self.size());
        self.requests.lock().iter().map(|r| r.range.unwrap_or(all)).collect()
    }

    pub(super) fn requests(&self) -> Vec<GetRequest> {
        self.requests.lock().clone()
    }

    pub(super) fn bytes_asked(&self) -> u64 {
        self.ranges().iter().map(ByteRange::len).sum()
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::SeqCst)
    }

    async fn reply(&self, request: GetRequest) -> s3::Result<GetReply> {
        self.requests.lock().push(request.clone());
        self.active.fetch_add(1, Ordering::SeqCst);
        let guard = Active(Arc::clone(&self.active));
        if !self.net.first_byte.is_zero() {
            tokio::time::sleep(self.net.first_byte).await;
        }
        if let Some(error) = self.failures.lock().pop() {
            return Err(error);
        }
        let mut reply = self.inner.get(request).await?;
        if self.is_blank {
            static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
            let pieces = (0..reply.range.len()).step_by(ZEROS.len());
            let len = reply.range.len();
            let piece = move |at: u64| Ok(Bytes::from_static(&ZEROS[..(len - at).min(64 << 10) as usize]));
            reply.body = Box::pin(futures::stream::iter(pieces.map(piece)));
        }
        let (net, gate, start) = (self.net, self.gate.clone(), Instant::now());
        let mut sent = 0;
        let body = reply.body.then(move |piece: s3::Result<Bytes>| {
            let _holds = &guard;
            sent += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let due = net
                .bytes_per_second
                .checked_ilog2()
                .map(|_| start + Duration::from_secs_f64(sent as f64 / net.bytes_per_second as f64));
            let gate = gate.clone();
            let waited: BoxFuture<'static, s3::Result<Bytes>> = Box::pin(async move {
                if let Some(due) = due {
                    tokio::time::sleep_until(due).await;
                }
                if let Some(gate) = gate {
                    gate.acquire().await.expect("never closed").forget();
                }
                piece
            });
            waited
        });
        reply.body = Box::pin(body);
        if let Some(edit) = *self.edit.lock() {
            edit(&mut reply);
        }
        Ok(reply)
    }
}

struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Bucket for ProbeBucket {
    fn identity(&self) -> &BucketIdentity {
        self.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> s3::Result<ObjectHead> {
        self.inner.head(key).await
    }

    async fn get(&self, request: GetRequest) -> s3::Result<GetReply> {
        self.reply(request).await
    }

    async fn list(&self, request: ListRequest) -> s3::Result<ListPage> {
        self.inner.list(request).await
    }
}

/// What a server without ETags in its replies leaves out.
pub(super) fn without_etag(meta: &mut ObjectMeta) {
    meta.etag = None;
}
