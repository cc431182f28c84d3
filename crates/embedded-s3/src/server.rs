//! The socket: accepting, serving, recording and stopping.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, RANGE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Result, s3_error};
use sluicefs_s3_client::testing::{FaultPlan, MemoryBucket, Operation, RequestCounts};
use sluicefs_s3_client::{Bucket as _, ETag, ErrorKind, ObjectKey, RenameRequest, WriteCondition};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::names::{Target, path_decode};
use crate::store::Store;
use crate::wire::{self, BoxError, ConnectionFate, Lie, WireBody, WireFault};

/// How many requests are remembered one by one.
const RECENT_REQUESTS: usize = 1000;

/// What to serve, and to whom.
#[derive(Debug, Clone)]
pub struct EmbeddedS3Config {
    /// The buckets, by name. They stay the caller's: what it puts there is served at once.
    pub buckets: Vec<(String, MemoryBucket)>,
    /// Where to listen; port 0 for any free one.
    pub addr: SocketAddr,
    /// The region that the buckets say they are in. Requests may be signed for any.
    pub region: String,
    /// The access key id that signed requests must have.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// Who may read without a signature.
    pub unsigned: Unsigned,
}

/// What becomes of requests without a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// They are served.
    Allowed,
    /// They are answered by 403 AccessDenied.
    Refused,
}

impl EmbeddedS3Config {
    /// These buckets on any free port of 127.0.0.1, for the key `sluicefs` with the secret `sluicefs-secret` and unsigned requests.
    pub fn new<N: Into<String>>(buckets: impl IntoIterator<Item = (N, MemoryBucket)>) -> Self {
        Self {
            buckets: buckets.into_iter().map(|(name, bucket)| (name.into(), bucket)).collect(),
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            region: "us-east-1".to_owned(),
            access_key_id: "sluicefs".to_owned(),
            secret_access_key: "sluicefs-secret".to_owned(),
            unsigned: Unsigned::Allowed,
        }
    }
}

/// One request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// What it asked for.
    pub operation: Operation,
    /// The bucket.
    pub bucket: String,
    /// The key, or the prefix of a listing.
    pub key: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The query string, as sent.
    pub query: Option<String>,
    /// The status it was answered with; `None` while it is not.
    pub status: Option<u16>,
}

/// A running server. Dropping it closes its socket and all connections.
pub struct EmbeddedS3 {
    shared: Arc<Shared>,
    addr: SocketAddr,
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Shared {
    service: S3Service,
    buckets: Vec<(String, MemoryBucket)>,
    faults: FaultPlan<WireFault>,
    counts: RequestCounts,
    traffic: Traffic,
    /// The latest requests, and the number of the first of them.
    recent: Mutex<(u64, VecDeque<RequestRecord>)>,
}

impl EmbeddedS3 {
    /// Listens, and serves on the calling runtime until dropped or stopped.
    ///
    /// # Errors
    /// What binding the address gives.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(config: EmbeddedS3Config) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            service: service(&config),
            buckets: config.buckets,
            faults: FaultPlan::default(),
            counts: RequestCounts::default(),
            traffic: Traffic::default(),
            recent: Mutex::default(),
        });
        let mut server = Self { shared, addr: config.addr, running: None };
        server.restart().await?;
        Ok(server)
    }

    /// `http://127.0.0.1:<port>`; stays the same when stopped and restarted.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Closes the socket and every connection, in whatever state they are, and returns when they are closed.
    pub async fn stop(&mut self) {
        let Some(Running { stop, task }) = self.running.take() else { return };
        // It fails only if the task is gone already.
        let _ = stop.send(());
        let _ = task.await;
    }

    /// Stops if it runs, then serves the same buckets on the same port.
    ///
    /// # Errors
    /// What binding the address gives: somebody else may have taken the port.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await;
        let listener = TcpListener::bind(self.addr).await?;
        self.addr = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let serving = serve(Arc::clone(&self.shared), listener, stopped);
        let task = tokio::runtime::Handle::current().spawn(serving);
        self.running = Some(Running { stop, task });
        Ok(())
    }

    /// The faults, which may change at any time and outlive a restart.
    pub fn faults(&self) -> &FaultPlan<WireFault> {
        &self.shared.faults
    }

    /// How many requests of each kind came, failed ones too.
    pub fn requests(&self) -> &RequestCounts {
        &self.shared.counts
    }

    /// How many bytes the bodies of all requests and replies have, by their `Content-Length`.
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// The latest requests, the newest last; at most 1,000.
    pub fn recent_requests(&self) -> Vec<RequestRecord> {
        self.shared.recent.lock().1.iter().cloned().collect()
    }
}

impl fmt::Debug for EmbeddedS3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedS3").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Drop for EmbeddedS3 {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.task.abort();
        }
    }
}

fn service(config: &EmbeddedS3Config) -> S3Service {
    let buckets = config.buckets.iter().cloned().collect();
    let mut builder =
        S3ServiceBuilder::new(Store { buckets: Arc::new(buckets), region: config.region.clone() });
    builder.set_auth(SimpleAuth::from_single(&*config.access_key_id, &*config.secret_access_key));
    builder.set_access(Access(config.unsigned));
    builder.build()
}

struct Access(Unsigned);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        match (context.credentials(), self.0) {
            (Some(_), _) | (None, Unsigned::Allowed) => Ok(()),
            (None, Unsigned::Refused) => Err(s3_error!(AccessDenied, "Access Denied")),
        }
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => _ = connections.spawn(connection(Arc::clone(&shared), stream)),
                // A connection that was reset before it was accepted; the next one may be fine.
                Err(error) => tracing::debug!(%error, "accept failed"),
            },
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    // Small replies must not wait for the client's delayed acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let fate = Arc::new(ConnectionFate::default());
    let socket = Socket { stream, fate: Arc::clone(&fate) };
    let service = service_fn(move |request| {
        let (shared, fate) = (Arc::clone(&shared), Arc::clone(&fate));
        async move { shared.answer(request, &fate).await }
    });
    let serving =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "connection ended");
    }
}

/// How many bytes came and went.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Bytes of requests.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes of replies.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

fn content_length(headers: &hyper::HeaderMap) -> u64 {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or_default()
}

/// Ends a connection instead of a reply.
#[derive(Debug)]
struct HangUp;

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fault ends the connection")
    }
}

impl std::error::Error for HangUp {}

impl Shared {
    /// The reply; an error ends the connection without one.
    async fn answer(
        &self,
        request: Request<Incoming>,
        fate: &Arc<ConnectionFate>,
    ) -> Result<Response<WireBody>, HangUp> {
        let target = Target::of(request.method(), request.uri(), request.headers());
        let has_body = request.method() != hyper::Method::HEAD;
        self.counts.count(target.operation);
        self.traffic.received.fetch_add(content_length(request.headers()), Ordering::Relaxed);
        let number = self.record(&request, &target);
        let faults = self.faults.faults(target.operation, &target.key);
        let lost = faults.iter().any(|fault| matches!(fault, WireFault::AnswerLost));
        let response = match self.answer_with(request, &target, faults, fate).await {
            Ok(response) => response,
            Err(_) if fate.is_reset() => return Err(HangUp),
            Err(error) => {
                tracing::error!(%error, "the embedded server failed");
                wire::replacement(&WireFault::internal_error()).expect("a status replaces the reply")
            }
        };
        if lost {
            fate.doom();
            return Err(HangUp);
        }
        self.note_status(number, response.status().as_u16());
        if has_body {
            self.traffic.sent.fetch_add(content_length(response.headers()), Ordering::Relaxed);
        }
        Ok(response)
    }

    async fn answer_with(
        &self,
        mut request: Request<Incoming>,
        target: &Target,
        faults: Vec<WireFault>,
        fate: &Arc<ConnectionFate>,
    ) -> Result<Response<WireBody>, BoxError> {
        for fault in &faults {
            match fault {
                WireFault::Delay(time) => tokio::time::sleep(*time).await,
                WireFault::Silence => std::future::pending().await,
                WireFault::Replace(content) => {
                    self.change(&target.bucket, |bucket| _ = bucket.put(&target.key, content.clone()));
                }
                WireFault::Remove => self.change(&target.bucket, |bucket| _ = bucket.remove(&target.key)),
                _ => {}
            }
        }
        if let Some(response) = faults.iter().find_map(wire::replacement) {
            return Ok(response);
        }
        request.extensions_mut().insert(Lie::from_faults(&faults));
        let mut response = if target.operation == Operation::Rename {
            self.rename(&request, target).await
        } else {
            let request = request.map(|body| hindered(body, &faults, fate));
            let response = self.service.call(request).await.map_err(BoxError::from)?;
            response.map(|body| body.map_err(BoxError::from).boxed_unsync())
        };
        if fate.is_reset() {
            return Err(HangUp.into());
        }
        for fault in faults {
            response = wire::spoil(response, fault, fate).await?;
        }
        Ok(response)
    }

    /// RenameObject, which the protocol's crate does not know. Signatures are not looked at.
    async fn rename(&self, request: &Request<Incoming>, target: &Target) -> Response<WireBody> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let bucket = self.buckets.iter().find(|(name, _)| *name == target.bucket).map(|(_, bucket)| bucket);
        let source = path_decode(header("x-amz-rename-source").unwrap_or_default());
        let source = ObjectKey::new(source.strip_prefix('/').unwrap_or(&source));
        let (Some(bucket), Ok(source), Ok(key)) = (bucket, source, ObjectKey::new(target.key.as_str()))
        else {
            return wire::error(400, "InvalidRequest");
        };
        let condition = match (header("if-match"), header("if-none-match")) {
            (Some(etag), _) => WriteCondition::Matches(ETag::new(etag)),
            (None, Some("*")) => WriteCondition::Absent,
            _ => WriteCondition::Any,
        };
        let source_if_match = header("x-amz-rename-source-if-match").map(ETag::new);
        let request = RenameRequest { source, source_if_match, target: key, condition };
        match bucket.rename(request).await {
            Ok(()) => wire::empty(),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => wire::error(404, "NoSuchKey"),
                ErrorKind::PreconditionFailed => wire::error(412, "PreconditionFailed"),
                ErrorKind::Unsupported => wire::error(501, "NotImplemented"),
                _ => wire::error(400, "InvalidRequest"),
            },
        }
    }

    fn change(&self, bucket: &str, change: impl Fn(&MemoryBucket)) {
        self.buckets.iter().filter(|(name, _)| name == bucket).for_each(|(_, bucket)| change(bucket));
    }

    fn record(&self, request: &Request<Incoming>, target: &Target) -> u64 {
        let range = request.headers().get(RANGE).and_then(|value| value.to_str().ok());
        let record = RequestRecord {
            operation: target.operation,
            bucket: target.bucket.clone(),
            key: target.key.clone(),
            range: range.map(str::to_owned),
            query: request.uri().query().map(str::to_owned),
            status: None,
        };
        let (first, recent) = &mut *self.recent.lock();
        if recent.len() == RECENT_REQUESTS {
            recent.pop_front();
            *first += 1;
        }
        recent.push_back(record);
        *first + recent.len() as u64 - 1
    }

    fn note_status(&self, number: u64, status: u16) {
        let (first, recent) = &mut *self.recent.lock();
        let index = number.checked_sub(*first).and_then(|i| usize::try_from(i).ok());
        if let Some(record) = index.and_then(|i| recent.get_mut(i)) {
            record.status = Some(status);
        }
    }
}

fn hindered(body: Incoming, faults: &[WireFault], fate: &Arc<ConnectionFate>) -> s3s::Body {
    if !faults.iter().any(wire::hinders) {
        return s3s::Body::from(body);
    }
    let body = body.map_err(BoxError::from).boxed_unsync();
    let body = faults.iter().fold(body, |body, fault| wire::hinder(body, fault, fate));
    s3s::Body::http_body_unsync(body)
}

/// A stream that ends in a reset when the faults say so.
struct Socket {
    stream: TcpStream,
    fate: Arc<ConnectionFate>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.fate.is_reset()
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "no SO_LINGER");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A shutdown would send FIN, and the reset after it would come too late.
        if self.fate.is_reset() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
