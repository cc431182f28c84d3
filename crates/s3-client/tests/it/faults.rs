//! The fault table: what a bad server or network does to a read, byte by byte on a real socket, and what the reader sees of it.
//!
//! Each row starts a server, breaks some of its replies, and reads through the SDK bucket and the retry loop. Limits are scaled down so
//! that the table takes seconds; what the real limits are is tested in paused time beside the retry loop.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use sluicefs_embedded_s3::{EmbeddedS3, MemoryBucket, Operation, Rule, When, WireFault, crc64nvme};
use sluicefs_s3_client::testing::memory::pattern;
use sluicefs_s3_client::testing::{Content, FaultBucket};
use sluicefs_s3_client::{
    AwsBucket, Bucket, ByteRange, ErrorKind, GetRequest, KeyPrefix, ListRequest, ObjectKey, ReliableBucket,
    Result, RetryConfig,
};

use crate::embedded::{aws_bucket, serve};

const SIZE: u64 = 4 << 20;
const CONTENT: Content = Content::Pattern { seed: 1, len: SIZE };
const SMALL: &str = "a small object, which comes in one piece";

/// Limits that no healthy request meets, however busy the machine is.
pub(crate) fn patient() -> RetryConfig {
    RetryConfig {
        backoff_base: Duration::from_millis(2),
        backoff_cap: Duration::from_millis(20),
        first_byte_timeout: Duration::from_secs(20),
        page_timeout: Duration::from_secs(20),
        progress_timeout: Duration::from_secs(20),
        jitter_seed: Some(1),
        ..RetryConfig::default()
    }
}

/// Notices soon that nothing comes.
fn watchful() -> RetryConfig {
    let limit = Duration::from_millis(400);
    RetryConfig { first_byte_timeout: limit, page_timeout: limit, progress_timeout: limit, ..patient() }
}

/// Gives up soon.
pub(crate) fn hasty() -> RetryConfig {
    RetryConfig { operation_deadline: Duration::from_secs(2), ..patient() }
}

struct World {
    server: EmbeddedS3,
    memory: MemoryBucket,
    /// Counts the requests that are tried, also those that no server sees.
    below: Arc<FaultBucket<AwsBucket>>,
    bucket: ReliableBucket,
}

impl World {
    async fn new(config: RetryConfig) -> Self {
        let memory = MemoryBucket::new("b");
        memory.put("model", CONTENT);
        memory.put("small", SMALL);
        let server = serve(memory.clone()).await;
        let below = Arc::new(FaultBucket::new(aws_bucket(&server).await));
        let bucket = ReliableBucket::new(Arc::clone(&below) as Arc<dyn Bucket>, config);
        Self { server, memory, below, bucket }
    }

    async fn with(config: RetryConfig, rules: Vec<Rule<WireFault>>) -> Self {
        let world = Self::new(config).await;
        rules.into_iter().for_each(|rule| world.server.faults().add(rule));
        world
    }

    /// Reads as an open file does: under the ETag that a listing gave.
    async fn read(&self, range: Option<Range<u64>>) -> Result<Bytes> {
        let if_match = self.memory.object("model").unwrap().head.meta.etag;
        let request = GetRequest { key: key("model"), range: range.map(ByteRange::from), if_match };
        collect(&self.bucket, request).await
    }

    fn gets(&self) -> u64 {
        self.server.requests().of(Operation::Get)
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

async fn collect(bucket: &dyn Bucket, request: GetRequest) -> Result<Bytes> {
    let pieces: Vec<Bytes> = bucket.get(request).await?.body.try_collect().await?;
    Ok(pieces.concat().into())
}

/// A range that begins inside the object and takes several pieces.
const RANGE: Range<u64> = 1_000_001..3_000_003;

fn get(fault: WireFault) -> Rule<WireFault> {
    Rule::new(fault).on(Operation::Get)
}

fn first(n: u64, fault: WireFault) -> Vec<Rule<WireFault>> {
    vec![get(fault).when(When::First(n))]
}

fn always(fault: WireFault) -> Vec<Rule<WireFault>> {
    vec![get(fault)]
}

fn status(status: u16, code: &'static str) -> WireFault {
    WireFault::Status { status, code, retry_after: None }
}

/// The right bytes come, after a number of GETs.
async fn comes_right(config: RetryConfig, rules: Vec<Rule<WireFault>>, gets: RangeInclusive<u64>) {
    let row = format!("{rules:?}");
    let world = World::with(config, rules).await;
    let bytes = world.read(Some(RANGE)).await.unwrap_or_else(|e| panic!("{row}: {e}"));
    assert!(bytes == pattern(1, RANGE.into()), "{row}: wrong bytes");
    assert!(gets.contains(&world.gets()), "{row}: {} GETs", world.gets());
}

/// An error comes, after a number of GETs.
async fn fails(config: RetryConfig, rules: Vec<Rule<WireFault>>, kind: ErrorKind, gets: RangeInclusive<u64>) {
    let row = format!("{rules:?}");
    let world = World::with(config, rules).await;
    let error = world.read(Some(RANGE)).await.expect_err(&row);
    assert_eq!(error.kind(), kind, "{row}: {error}");
    assert!(gets.contains(&world.gets()), "{row}: {} GETs, {error}", world.gets());
}

const MANY: u64 = u64::MAX;

#[tokio::test]
async fn server_errors() {
    comes_right(patient(), first(2, WireFault::internal_error()), 3..=3).await;
    comes_right(patient(), first(9, WireFault::internal_error()), 10..=10).await;
    fails(hasty(), always(WireFault::internal_error()), ErrorKind::Transient, 2..=MANY).await;
    comes_right(patient(), first(9, WireFault::slow_down()), 10..=10).await;
    fails(hasty(), always(WireFault::slow_down()), ErrorKind::Throttled, 2..=MANY).await;
    comes_right(patient(), first(2, status(429, "TooManyRequests")), 3..=3).await;
    fails(hasty(), always(status(429, "TooManyRequests")), ErrorKind::Throttled, 2..=MANY).await;
    // A proxy's 503 has no code of S3's.
    comes_right(patient(), first(2, status(503, "Unavailable")), 3..=3).await;
}

#[tokio::test]
async fn throttling_waits_as_long_as_it_is_told_and_lowers_the_concurrency() {
    let slow_down = WireFault::Status { status: 503, code: "SlowDown", retry_after: Some(1) };
    let world = World::with(patient(), first(1, slow_down)).await;
    let start = tokio::time::Instant::now();
    world.read(Some(RANGE)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(world.bucket.concurrency_limit() < 256);
    // More than the operation may take: the next attempt is made all the same.
    let slow_down = WireFault::Status { status: 503, code: "SlowDown", retry_after: Some(3600) };
    comes_right(hasty(), first(1, slow_down.clone()), 2..=2).await;
    fails(hasty(), always(slow_down), ErrorKind::Throttled, 2..=MANY).await;
}

#[tokio::test]
async fn bodies_that_break() {
    for n in [1, 3] {
        comes_right(patient(), first(n, WireFault::Reset(300_000)), n + 1..=n + 1).await;
        comes_right(patient(), first(n, WireFault::Close(300_000)), n + 1..=n + 1).await;
        comes_right(patient(), first(n, WireFault::ChunkedClose(300_000)), n + 1..=n + 1).await;
    }
    // Each reply breaks, but each brings something.
    comes_right(patient(), always(WireFault::Close(300_000)), 7..=7).await;
    comes_right(patient(), always(WireFault::Reset(300_000)), 7..=MANY).await;
    // The connection ends before the first byte of the body.
    comes_right(patient(), first(2, WireFault::Close(0)), 3..=3).await;
    fails(hasty(), always(WireFault::Close(0)), ErrorKind::Transient, 2..=MANY).await;
}

#[tokio::test]
async fn servers_that_say_nothing() {
    comes_right(watchful(), first(1, WireFault::Stall(300_000)), 2..=MANY).await;
    comes_right(watchful(), first(1, WireFault::Silence), 2..=MANY).await;
    let gives_up = RetryConfig { operation_deadline: Duration::from_millis(1500), ..watchful() };
    fails(gives_up.clone(), always(WireFault::Silence), ErrorKind::Transient, 2..=4).await;
    fails(gives_up, always(WireFault::Stall(0)), ErrorKind::Transient, 2..=8).await;
    // Late, but within the limit.
    comes_right(patient(), first(1, WireFault::Delay(Duration::from_millis(300))), 1..=1).await;
    // Slow, but never still.
    let drip = WireFault::Drip { bytes: 100_000, every: Duration::from_millis(20) };
    comes_right(patient(), always(drip), 1..=1).await;
}

#[tokio::test]
async fn a_late_reply_is_asked_for_a_second_time() {
    // Of a server whose replies are known to be quick.
    let world = World::new(patient()).await;
    let request = || GetRequest { key: key("small"), range: Some(ByteRange::new(0, 7)), if_match: None };
    for _ in 0..50 {
        collect(&world.bucket, request()).await.unwrap();
    }
    let before = world.gets();
    world.server.faults().add(get(WireFault::Delay(Duration::from_secs(10))).when(When::First(1)));
    let start = tokio::time::Instant::now();
    assert_eq!(collect(&world.bucket, request()).await.unwrap(), "a small");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(world.gets() - before, 2);
    // Of one that nobody knows yet.
    let world = World::with(patient(), first(1, WireFault::Delay(Duration::from_secs(10)))).await;
    let start = tokio::time::Instant::now();
    assert!(world.read(Some(RANGE)).await.unwrap() == pattern(1, RANGE.into()));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(world.gets(), 2);
}

#[tokio::test]
async fn ranges_that_were_not_asked_for() {
    comes_right(patient(), first(1, WireFault::ShorterRange), 2..=2).await;
    comes_right(patient(), always(WireFault::ShorterRange), 10..=40).await;
    comes_right(patient(), first(1, WireFault::ShiftedRange), 2..=2).await;
    fails(patient(), always(WireFault::ShiftedRange), ErrorKind::Corrupt, 3..=3).await;
    comes_right(patient(), first(1, WireFault::IgnoredRange), 2..=2).await;
    fails(patient(), always(WireFault::IgnoredRange), ErrorKind::Corrupt, 3..=3).await;
    let world = World::with(patient(), always(WireFault::IgnoredRange)).await;
    let start = world.read(Some(0..100_000)).await.unwrap();
    assert!(start == pattern(1, ByteRange::new(0, 100_000)));
}

#[tokio::test]
async fn replies_that_are_not_the_stores() {
    comes_right(patient(), first(1, WireFault::Html), 2..=2).await;
    fails(patient(), always(WireFault::Html), ErrorKind::Corrupt, 3..=3).await;
    comes_right(patient(), first(1, WireFault::NoETag), 2..=2).await;
    fails(patient(), always(WireFault::NoETag), ErrorKind::Corrupt, 3..=3).await;
    for bytes in [800_000, 70_000] {
        fails(patient(), always(WireFault::BigHeaders(bytes)), ErrorKind::BadEndpoint, 1..=1).await;
    }
    comes_right(patient(), always(WireFault::BigHeaders(40_000)), 1..=1).await;
}

#[tokio::test]
async fn objects_that_change_while_they_are_read() {
    let replaced = get(WireFault::Replace(Content::Pattern { seed: 2, len: SIZE })).when(When::Nth(2));
    let closed = get(WireFault::Close(300_000)).when(When::First(1));
    fails(patient(), vec![closed.clone(), replaced.clone()], ErrorKind::PreconditionFailed, 2..=2).await;
    let careless = get(WireFault::IgnoredIfMatch);
    fails(patient(), vec![closed.clone(), replaced, careless.clone()], ErrorKind::PreconditionFailed, 2..=2)
        .await;
    // Before the first byte.
    let replaced = get(WireFault::Replace(Content::Pattern { seed: 2, len: SIZE })).when(When::Nth(1));
    fails(patient(), vec![replaced.clone()], ErrorKind::PreconditionFailed, 1..=1).await;
    fails(patient(), vec![replaced, careless], ErrorKind::PreconditionFailed, 1..=1).await;
    let removed = get(WireFault::Remove).when(When::Nth(2));
    fails(patient(), vec![closed, removed], ErrorKind::NotFound, 2..=2).await;
}

#[tokio::test]
async fn refusals_are_final() {
    fails(patient(), always(status(404, "NoSuchKey")), ErrorKind::NotFound, 1..=1).await;
    fails(patient(), always(status(404, "NoSuchBucket")), ErrorKind::NoSuchBucket, 1..=1).await;
    fails(patient(), always(status(403, "AccessDenied")), ErrorKind::Forbidden, 1..=1).await;
    fails(patient(), always(status(403, "InvalidObjectState")), ErrorKind::Archived, 1..=1).await;
}

#[tokio::test]
async fn credentials_clocks_and_regions() {
    comes_right(patient(), first(1, WireFault::expired_token()), 2..=2).await;
    fails(patient(), always(WireFault::expired_token()), ErrorKind::CredentialsExpired, 3..=6).await;
    comes_right(patient(), first(1, status(403, "RequestTimeTooSkewed")), 2..=2).await;
    comes_right(patient(), first(1, WireFault::Redirect("eu-west-1")), 2..=2).await;
    // The region it names is the one that was signed for.
    fails(patient(), always(WireFault::Redirect("us-east-1")), ErrorKind::BadEndpoint, 1..=1).await;
}

#[tokio::test]
async fn flipped_bits_in_whole_objects() {
    let whole = |name| GetRequest { key: key(name), range: None, if_match: None };
    let world = |rules| async {
        let world = World::with(patient(), rules).await;
        assert!(world.memory.set_crc64nvme("small", &crc64nvme(&SMALL.into())));
        assert!(world.memory.set_crc64nvme("model", &crc64nvme(&CONTENT)));
        world
    };
    // In one piece: nothing was handed out, so it is asked for again, as a whole and with its checksum.
    let flipped = world(first(1, WireFault::BitFlip(3))).await;
    assert_eq!(collect(&flipped.bucket, whole("small")).await.unwrap(), SMALL);
    let requests = flipped.server.recent_requests();
    assert_eq!(requests.iter().map(|r| r.range.clone()).collect::<Vec<_>>(), [None, None]);
    let flipped = world(always(WireFault::BitFlip(3))).await;
    let error = collect(&flipped.bucket, whole("small")).await.unwrap_err();
    assert_eq!((error.kind(), flipped.gets()), (ErrorKind::Corrupt, 3), "{error}");
    // In many: the stream ends in the news.
    let flipped = world(first(1, WireFault::BitFlip(3))).await;
    let error = collect(&flipped.bucket, whole("model")).await.unwrap_err();
    assert_eq!((error.kind(), flipped.gets()), (ErrorKind::Corrupt, 1), "{error}");
    assert!(collect(&flipped.bucket, whole("model")).await.unwrap() == pattern(1, ByteRange::new(0, SIZE)));
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back() {
    let mut world = World::new(patient()).await;
    let mut body = {
        let request = GetRequest { key: key("model"), range: None, if_match: None };
        world.bucket.get(request).await.unwrap().body
    };
    let mut bytes = body.next().await.unwrap().unwrap().to_vec();
    world.server.stop().await;
    let tried = world.below.requests().total();
    let rest = async {
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
    };
    let back = async {
        // Until the rest was asked for in vain a few times.
        while world.below.requests().total() < tried + 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        world.server.restart().await.unwrap();
    };
    tokio::join!(rest, back);
    assert!(bytes == pattern(1, ByteRange::new(0, SIZE)));
}

#[tokio::test]
async fn connections_that_were_closed_while_idle() {
    let mut world = World::new(patient()).await;
    for _ in 0..3 {
        assert!(world.read(Some(RANGE)).await.unwrap() == pattern(1, RANGE.into()));
        world.server.restart().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_stays_away() {
    let mut world = World::new(hasty()).await;
    world.server.stop().await;
    let error = world.read(Some(RANGE)).await.unwrap_err();
    assert!(error.attempts() > 1, "{error}");
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn descriptions() {
    let world =
        World::with(patient(), vec![Rule::new(WireFault::internal_error()).when(When::First(2))]).await;
    assert_eq!(world.bucket.head(&key("model")).await.unwrap().meta.size, SIZE);
    assert_eq!(world.server.requests().of(Operation::Head), 3);
    let world = World::with(watchful(), vec![Rule::new(WireFault::Silence).when(When::First(1))]).await;
    assert_eq!(world.bucket.head(&key("model")).await.unwrap().meta.size, SIZE);
}

// === listings ===

/// All names of a listing of twenty, three at a time.
async fn list_all(config: RetryConfig, rules: Vec<Rule<WireFault>>) -> (Result<Vec<String>>, u64) {
    let world = World::new(config).await;
    ["model", "small"].into_iter().for_each(|key| _ = world.memory.remove(key));
    (0..20).for_each(|n| _ = world.memory.put(&format!("name {n:02}"), "x"));
    rules.into_iter().for_each(|rule| world.server.faults().add(rule.on(Operation::List)));
    let mut request = ListRequest { max_keys: 3, ..ListRequest::directory(KeyPrefix::root()) };
    let mut names = Vec::new();
    let result = loop {
        let page = match world.bucket.list(request.clone()).await {
            Ok(page) => page,
            Err(error) => break Err(error),
        };
        names.extend(page.objects.iter().map(|o| o.key.as_str().to_owned()));
        assert!(names.len() < 100, "the listing does not end");
        match page.next {
            Some(next) => request.continuation = Some(next),
            None => break Ok(names),
        }
    };
    (result, world.server.requests().of(Operation::List))
}

#[tokio::test]
async fn listings() {
    let whole: Vec<String> = (0..20).map(|n| format!("name {n:02}")).collect();
    let pages = 7;
    for (fault, n, config) in [
        (WireFault::internal_error(), 2, patient()),
        (WireFault::slow_down(), 3, patient()),
        (WireFault::CutBody, 2, patient()),
        (WireFault::Close(100), 2, patient()),
        (WireFault::Html, 2, patient()),
        (WireFault::IgnoredMaxKeys, 2, patient()),
    ] {
        let (names, requests) = list_all(config, vec![Rule::new(fault.clone()).when(When::First(n))]).await;
        assert_eq!(names.unwrap_or_else(|e| panic!("{fault:?}: {e}")), whole, "{fault:?}");
        assert_eq!(requests, pages + n, "{fault:?}");
    }
    for fault in [WireFault::Silence, WireFault::Stall(100)] {
        let (names, _) = list_all(watchful(), vec![Rule::new(fault.clone()).when(When::First(1))]).await;
        assert_eq!(names.unwrap_or_else(|e| panic!("{fault:?}: {e}")), whole, "{fault:?}");
    }
}

#[tokio::test]
async fn listings_that_cannot_be() {
    for (fault, kind) in [
        (WireFault::CutBody, ErrorKind::Corrupt),
        (WireFault::IgnoredMaxKeys, ErrorKind::Corrupt),
        (WireFault::RepeatedToken, ErrorKind::Corrupt),
        (WireFault::EndlessTokens, ErrorKind::Corrupt),
        (WireFault::Html, ErrorKind::Corrupt),
        (status(404, "NoSuchBucket"), ErrorKind::NoSuchBucket),
        (status(403, "AccessDenied"), ErrorKind::Forbidden),
    ] {
        let (result, requests) = list_all(patient(), vec![Rule::new(fault.clone())]).await;
        let error = result.expect_err(&format!("{fault:?}"));
        assert_eq!(error.kind(), kind, "{fault:?}: {error}");
        assert!(requests <= 6, "{fault:?}: {requests} requests");
    }
}
