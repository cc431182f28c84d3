//! The retry loop and the resumed body over a bucket in memory that fails on demand, in paused time.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

mod hedging;
mod writing;

use super::*;
use crate::key::{ContinuationToken, KeyPrefix};
use crate::testing::memory::pattern;
use crate::testing::{Content, Fault, FaultBucket, MemoryBucket, Operation, Rule, When};

const SIZE: u64 = 1_000_000;

fn content() -> Content {
    Content::Pattern { seed: 1, len: SIZE }
}

/// A reliable bucket with one object `k`, and the faulty one below it.
fn bucket(rules: impl IntoIterator<Item = Rule<Fault>>) -> (ReliableBucket, Arc<FaultBucket<MemoryBucket>>) {
    bucket_with(RetryConfig::default(), rules)
}

/// The same without second requests.
fn unhedged(
    rules: impl IntoIterator<Item = Rule<Fault>>,
) -> (ReliableBucket, Arc<FaultBucket<MemoryBucket>>) {
    bucket_with(RetryConfig { hedge_percent: 0, ..RetryConfig::default() }, rules)
}

fn bucket_with(
    config: RetryConfig,
    rules: impl IntoIterator<Item = Rule<Fault>>,
) -> (ReliableBucket, Arc<FaultBucket<MemoryBucket>>) {
    let memory = MemoryBucket::new("test");
    memory.put("k", content());
    let faulty = Arc::new(FaultBucket::new(memory));
    rules.into_iter().for_each(|rule| faulty.plan().add(rule));
    let config = RetryConfig { jitter_seed: Some(1), ..config };
    (ReliableBucket::new(Arc::clone(&faulty) as Arc<dyn Bucket>, config), faulty)
}

fn key() -> ObjectKey {
    ObjectKey::new("k").unwrap()
}

fn request(range: Option<std::ops::Range<u64>>) -> GetRequest {
    GetRequest { key: key(), range: range.map(ByteRange::from), if_match: None }
}

async fn read(bucket: &ReliableBucket, range: Option<std::ops::Range<u64>>) -> Result<Bytes> {
    let pieces: Vec<Bytes> = bucket.get(request(range)).await?.body.try_collect().await?;
    Ok(pieces.concat().into())
}

/// Reads a few right bytes; how long that took.
async fn read_one(bucket: &ReliableBucket) -> Duration {
    let start = Instant::now();
    assert_eq!(read(bucket, Some(10..20)).await.unwrap(), pattern(1, ByteRange::new(10, 20)));
    start.elapsed()
}

fn error(kind: ErrorKind) -> Fault {
    Fault::Fail(Error::new(kind, "get"))
}

fn get(fault: Fault) -> Rule<Fault> {
    Rule::new(fault).on(Operation::Get)
}

/// Reads a range over `rules` and expects the right bytes after `requests` GETs.
async fn expect_bytes(rules: Vec<Rule<Fault>>, requests: u64) -> (ReliableBucket, Duration) {
    let case = format!("{rules:?}");
    let (bucket, faulty) = bucket(rules);
    let start = Instant::now();
    let bytes = read(&bucket, Some(1000..900_000)).await.unwrap_or_else(|e| panic!("{case}: {e}"));
    assert!(bytes == pattern(1, ByteRange::new(1000, 900_000)), "{case}: wrong bytes");
    assert_eq!(faulty.requests().of(Operation::Get), requests, "{case}");
    (bucket, start.elapsed())
}

/// Reads a range over `rules` and expects an error after `requests` GETs.
async fn expect_error(rules: Vec<Rule<Fault>>, kind: ErrorKind, requests: u64) -> Duration {
    let case = format!("{rules:?}");
    let (bucket, faulty) = bucket(rules);
    let start = Instant::now();
    let error = read(&bucket, Some(1000..900_000)).await.expect_err(&case);
    assert_eq!(error.kind(), kind, "{case}: {error}");
    assert_eq!(faulty.requests().of(Operation::Get), requests, "{case}: {error}");
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_retried() {
    for kind in [ErrorKind::Transient, ErrorKind::Throttled] {
        let (_, took) = expect_bytes(vec![get(error(kind)).when(When::First(2))], 3).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        let (_, took) = expect_bytes(vec![get(error(kind)).when(When::First(9))], 10).await;
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
    for kind in [ErrorKind::Corrupt, ErrorKind::CredentialsExpired] {
        expect_bytes(vec![get(error(kind)).when(When::First(2))], 3).await;
        expect_error(vec![get(error(kind))], kind, 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_stay_are_not() {
    use ErrorKind::*;
    for kind in
        [NotFound, NoSuchBucket, Forbidden, PreconditionFailed, WrongRegion, NoCredentials, Archived, Invalid]
    {
        let took = expect_error(vec![get(error(kind))], kind, 1).await;
        assert_eq!(took, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_ends_at_its_deadline_and_counts_its_attempts() {
    let (bucket, faulty) = bucket([Rule::new(error(ErrorKind::Transient))]);
    let calls: [(Operation, Error); 3] = [
        (Operation::Head, bucket.head(&key()).await.unwrap_err()),
        (Operation::Get, bucket.get(request(None)).await.unwrap_err()),
        (Operation::List, bucket.list(ListRequest::directory(KeyPrefix::root())).await.unwrap_err()),
    ];
    for (operation, error) in calls {
        assert_eq!(u64::from(error.attempts()), faulty.requests().of(operation));
        assert!((15..60).contains(&error.attempts()), "{error}");
    }
    let start = Instant::now();
    bucket.head(&key()).await.unwrap_err();
    let took = start.elapsed();
    assert!((55..=60).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_asked_again_after_the_first_byte_limit() {
    let (bucket, faulty) = unhedged([get(Fault::Silence).when(When::First(1))]);
    let took = read_one(&bucket).await;
    assert!((10..=11).contains(&took.as_secs()), "nothing is known of the bucket: {took:?}");
    assert_eq!(faulty.requests().of(Operation::Get), 2);
    // The attempts, and the one second request that is paid for from the beginning.
    let took = expect_error(vec![get(Fault::Silence)], ErrorKind::Transient, 7).await;
    assert_eq!(took.as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_silent_attempt_is_given_up_sooner_where_replies_are_known_to_be_quick() {
    let (bucket, faulty) = unhedged([
        get(Fault::Latency(Duration::from_millis(30))).when(When::First(100)),
        get(Fault::Silence).when(When::Nth(101)),
    ]);
    for _ in 0..100 {
        read_one(&bucket).await;
    }
    let took = read_one(&bucket).await;
    assert!((2000..2200).contains(&took.as_millis()), "{took:?}");
    assert_eq!(faulty.requests().of(Operation::Get), 102);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_becomes_slow_is_still_read_from() {
    let (bucket, faulty) = unhedged([get(Fault::Latency(Duration::from_secs(5)))]);
    faulty.plan().clear();
    for _ in 0..100 {
        read_one(&bucket).await;
    }
    faulty.plan().add(get(Fault::Latency(Duration::from_secs(5))));
    // Attempts of two and of four seconds in vain.
    let took = read_one(&bucket).await;
    assert!((11..12).contains(&took.as_secs()), "{took:?}");
    let took = read_one(&bucket).await;
    assert!((5..6).contains(&took.as_secs()), "what was learnt helps the next: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_does_not_hide_what_went_wrong_before() {
    // Three refusals, each after seven seconds, and three seconds for the fourth attempt.
    let faulty = FaultBucket::new(MemoryBucket::new("test"))
        .with(get(Fault::Latency(Duration::from_secs(7))))
        .with(get(error(ErrorKind::Throttled)).when(When::First(3)))
        .with(get(Fault::Silence));
    let config = RetryConfig {
        operation_deadline: Duration::from_secs(24),
        hedge_percent: 0,
        ..RetryConfig::default()
    };
    let bucket = ReliableBucket::new(Arc::new(faulty), config);
    let error = bucket.get(request(None)).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Throttled, 4), "{error}");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept() {
    let slow_down = Error::new(ErrorKind::Throttled, "get").with_retry_after(Duration::from_secs(7));
    let (_, took) = expect_bytes(vec![get(Fault::Fail(slow_down)).when(When::First(1))], 2).await;
    assert_eq!(took.as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_retry_after_neither_stalls_nor_kills() {
    let busy = Error::new(ErrorKind::Throttled, "get").with_retry_after(Duration::from_secs(3600));
    let (_, took) = expect_bytes(vec![get(Fault::Fail(busy.clone())).when(When::First(1))], 2).await;
    assert!((10..11).contains(&took.as_secs()), "{took:?}");
    let (bucket, faulty) = bucket([get(Fault::Fail(busy))]);
    let start = Instant::now();
    let error = bucket.get(request(None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert!((55..=60).contains(&start.elapsed().as_secs()), "at the deadline: {:?}", start.elapsed());
    assert!((6..=20).contains(&faulty.requests().total()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn throttling_lowers_the_number_of_requests_at_once() {
    let (bucket, _) = expect_bytes(vec![get(error(ErrorKind::Throttled)).when(When::First(3))], 4).await;
    assert_eq!(bucket.concurrency_limit(), 87, "256 * 0.7 * 0.7 * 0.7");
}

#[tokio::test(start_paused = true)]
async fn unread_bodies_hold_no_turns() {
    let memory = MemoryBucket::new("test");
    memory.put("k", content());
    let config = RetryConfig { max_concurrency: 1, ..RetryConfig::default() };
    let bucket = ReliableBucket::new(Arc::new(memory), config);
    let _unread = bucket.get(request(None)).await.unwrap();
    assert_eq!(read(&bucket, Some(0..10)).await.unwrap(), pattern(1, ByteRange::new(0, 10)));
}

#[tokio::test(start_paused = true)]
async fn broken_bodies_go_on_where_they_broke() {
    for fault in [Fault::BodyBreaks(100_000), Fault::BodyEnds(100_000), Fault::ShorterRange] {
        for (when, requests) in [(When::First(1), 2), (When::First(3), 4)] {
            let (_, took) = expect_bytes(vec![get(fault.clone()).when(when)], requests).await;
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
    }
    let (_, took) = expect_bytes(vec![get(Fault::BodyStalls(100_000)).when(When::First(1))], 2).await;
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_renews_the_attempts_and_the_deadline() {
    // Nine bodies of 100,000 bytes, each of which stalls for five seconds, and forty of a few bytes.
    expect_bytes(vec![get(Fault::BodyStalls(100_000))], 9).await;
    let (_, took) = expect_bytes(vec![get(Fault::BodyStalls(22_475))], 40).await;
    assert!(took > Duration::from_secs(120), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_without_progress_ends_at_the_deadline() {
    let (bucket, faulty) = bucket([get(Fault::BodyBreaks(0))]);
    let mut body = bucket.get(request(None)).await.unwrap().body;
    let start = Instant::now();
    let error = body.next().await.expect("an error, not the end").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(u64::from(error.attempts()), faulty.requests().total());
    assert!((55..=60).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_nobody_reads_does_not_age() {
    let (bucket, faulty) = bucket([]);
    let mut body = bucket.get(request(None)).await.unwrap().body;
    let first = body.next().await.unwrap().unwrap();
    sleep(Duration::from_secs(3600)).await;
    let rest: Vec<Bytes> = body.try_collect().await.unwrap();
    assert_eq!(first.len() as u64 + rest.iter().map(|b| b.len() as u64).sum::<u64>(), SIZE);
    assert_eq!(faulty.requests().of(Operation::Get), 1);
}

#[tokio::test(start_paused = true)]
async fn versions_never_mix() {
    // Without the second rule the store refuses; with it, only the reply's ETag tells.
    for ignore_if_match in [None, Some(get(Fault::IgnoredIfMatch))] {
        let (bucket, faulty) = bucket([get(Fault::BodyBreaks(100_000)).when(When::First(1))]);
        ignore_if_match.into_iter().for_each(|rule| faulty.plan().add(rule));
        let mut body = bucket.get(request(None)).await.unwrap().body;
        let mut got = body.next().await.unwrap().unwrap().to_vec();
        faulty.inner().put("k", Content::Pattern { seed: 2, len: SIZE });
        let error = loop {
            match body.next().await.expect("the stream ends in an error") {
                Ok(piece) => got.extend_from_slice(&piece),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
        assert!(got == pattern(1, ByteRange::new(0, 100_000)));
        assert!(body.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_removed_while_read_is_not_found() {
    let (bucket, faulty) = bucket([get(Fault::BodyBreaks(100_000)).when(When::First(1))]);
    let body = bucket.get(request(None)).await.unwrap().body;
    faulty.inner().remove("k");
    let error = body.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn answers_to_other_questions_are_refused() {
    for fault in [Fault::ShiftedRange, Fault::IgnoredRange] {
        expect_bytes(vec![get(fault.clone()).when(When::First(2))], 3).await;
        expect_error(vec![get(fault)], ErrorKind::Corrupt, 3).await;
    }
    expect_error(vec![get(Fault::BodyTooLong)], ErrorKind::Corrupt, 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_bytes_of_a_whole_body_serve_a_range_at_its_start() {
    let (bucket, _) = bucket([get(Fault::IgnoredRange)]);
    let reply = bucket.get(request(Some(0..100_000))).await.unwrap();
    assert_eq!((reply.range, reply.meta.size), (ByteRange::new(0, 100_000), SIZE));
    let pieces: Vec<Bytes> = reply.body.try_collect().await.unwrap();
    assert!(pieces.concat() == pattern(1, ByteRange::new(0, 100_000)));
}

#[tokio::test(start_paused = true)]
async fn other_etags_than_the_one_asked_for_are_refused() {
    for (fault, kind, requests) in
        [(Fault::WrongETag, ErrorKind::PreconditionFailed, 1), (Fault::NoETag, ErrorKind::Corrupt, 3)]
    {
        let (bucket, faulty) = bucket([get(fault)]);
        let if_match = faulty.inner().object("k").unwrap().head.meta.etag;
        let error = bucket.get(GetRequest { if_match, ..request(None) }).await.unwrap_err();
        assert_eq!((error.kind(), faulty.requests().total()), (kind, requests), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_checksum_ends_the_stream_and_is_not_resumed() {
    let (bucket, faulty) = bucket([get(Fault::ChecksumMismatch(SIZE))]);
    let mut body = bucket.get(request(None)).await.unwrap().body;
    let mut length = 0;
    let error = loop {
        match body.next().await.expect("an error comes before the end") {
            Ok(piece) => length += piece.len() as u64,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), length), (ErrorKind::Corrupt, SIZE));
    assert!(body.next().await.is_none());
    assert_eq!(faulty.requests().of(Operation::Get), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_checksum_before_the_first_byte_is_asked_for_again() {
    for (when, requests, good) in [(When::First(2), 3, true), (When::Always, 3, false)] {
        let (bucket, faulty) = bucket([get(Fault::ChecksumMismatch(0)).when(when)]);
        match read(&bucket, None).await {
            Ok(bytes) => assert!(good && bytes == pattern(1, ByteRange::new(0, SIZE))),
            Err(error) => assert!(!good && error.kind() == ErrorKind::Corrupt, "{error}"),
        }
        assert_eq!(faulty.requests().of(Operation::Get), requests);
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_range_is_not_sent() {
    let (bucket, faulty) = bucket([]);
    let error = bucket.get(request(Some(5..5))).await.unwrap_err();
    assert_eq!((error.kind(), faulty.requests().total()), (ErrorKind::Invalid, 0));
}

#[tokio::test(start_paused = true)]
async fn pages_that_cannot_be_are_refused() {
    let list = |continuation: Option<&str>| ListRequest {
        continuation: continuation.map(|t| ContinuationToken(t.to_owned())),
        max_keys: 2,
        ..ListRequest::directory(KeyPrefix::root())
    };
    for (fault, continuation) in [(Fault::RepeatedToken, Some("a")), (Fault::UnsortedPage, None)] {
        for (when, good) in [(When::First(2), true), (When::Always, false)] {
            let (bucket, faulty) = bucket([Rule::new(fault.clone()).on(Operation::List).when(when)]);
            ["a", "b", "c", "d"].into_iter().for_each(|key| _ = faulty.inner().put(key, "x"));
            let result = bucket.list(list(continuation)).await;
            assert_eq!(result.as_ref().map_err(Error::kind).is_ok(), good, "{fault:?}: {result:?}");
            assert!(good || result.unwrap_err().kind() == ErrorKind::Corrupt);
            assert_eq!(faulty.requests().of(Operation::List), 3);
        }
    }
}

/// Everything that passes, at once, at rates that make a read of a few pieces meet several of them.
fn bad_weather() -> Vec<Rule<Fault>> {
    let slow_down = Error::new(ErrorKind::Throttled, "get").with_retry_after(Duration::from_millis(300));
    [
        (Fault::Latency(Duration::from_millis(30)), 1.0),
        (error(ErrorKind::Transient), 0.10),
        (Fault::Fail(slow_down), 0.05),
        (error(ErrorKind::CredentialsExpired), 0.01),
        (Fault::Silence, 0.02),
        (Fault::BodyBreaks(70_000), 0.10),
        (Fault::BodyEnds(50_000), 0.10),
        (Fault::BodyStalls(30_000), 0.05),
        (Fault::ShorterRange, 0.05),
        (Fault::ShiftedRange, 0.01),
        (Fault::IgnoredRange, 0.01),
    ]
    .map(|(fault, rate)| get(fault).when(When::Rate(rate)))
    .to_vec()
}

#[tokio::test(start_paused = true)]
async fn bad_weather_slows_reads_and_changes_no_byte() {
    for seed in 0..200 {
        let memory = MemoryBucket::new("test");
        memory.put("k", content());
        let faulty = Arc::new(FaultBucket::seeded(memory, seed));
        bad_weather().into_iter().for_each(|rule| faulty.plan().add(rule));
        let config = RetryConfig { jitter_seed: Some(seed), corrupt_retries: 5, ..RetryConfig::default() };
        let bucket = ReliableBucket::new(Arc::clone(&faulty) as Arc<dyn Bucket>, config);
        let start = Instant::now();
        let readers = (0..8).map(|reader| {
            let range = reader * 100_000 + 1..reader * 100_000 + 150_000;
            let bucket = &bucket;
            async move {
                let bytes =
                    read(bucket, Some(range.clone())).await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                assert!(bytes == pattern(1, range.into()), "seed {seed}: wrong bytes");
            }
        });
        futures::future::join_all(readers).await;
        let requests = faulty.requests().of(Operation::Get);
        assert!(requests <= 8 * 6, "seed {seed}: {requests} requests for 8 reads");
        assert!(start.elapsed() < Duration::from_secs(60), "seed {seed}: {:?}", start.elapsed());
    }
}
