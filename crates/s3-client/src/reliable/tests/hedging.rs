//! A second request for a reply that is late, in paused time.

use super::*;

/// A bucket that is known to answer in 30 ms, and then meets `rules`.
async fn known(
    rules: impl IntoIterator<Item = Rule<Fault>>,
) -> (ReliableBucket, Arc<FaultBucket<MemoryBucket>>) {
    let (bucket, faulty) = bucket([get(Fault::Latency(Duration::from_millis(30)))]);
    for _ in 0..100 {
        read_one(&bucket).await;
    }
    faulty.plan().clear();
    faulty.requests().reset();
    rules.into_iter().for_each(|rule| faulty.plan().add(rule));
    (bucket, faulty)
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_costs_two_seconds_where_nothing_is_known() {
    for late in [Fault::Silence, Fault::Latency(Duration::from_secs(9))] {
        let (_, took) = expect_bytes(vec![get(late).when(When::First(1))], 2).await;
        assert!((2000..2100).contains(&took.as_millis()), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_costs_little_where_replies_are_quick() {
    let (bucket, faulty) = known([get(Fault::Silence).when(When::First(1))]).await;
    let took = read_one(&bucket).await;
    assert!((60..100).contains(&took.as_millis()), "twice the median of 30 ms: {took:?}");
    assert_eq!(faulty.requests().of(Operation::Get), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reply_in_time_is_asked_for_once() {
    let (bucket, faulty) = known([get(Fault::Latency(Duration::from_millis(59)))]).await;
    read_one(&bucket).await;
    assert_eq!(faulty.requests().of(Operation::Get), 1);
}

#[tokio::test(start_paused = true)]
async fn three_late_replies_in_a_hundred_do_not_show() {
    let (bucket, faulty) = known([get(Fault::Latency(Duration::from_secs(1))).when(When::Rate(0.03))]).await;
    let mut late = 0;
    for _ in 0..2000 {
        late += u32::from(read_one(&bucket).await >= Duration::from_secs(1));
    }
    let second = faulty.requests().of(Operation::Get) - 2000;
    assert!((40..=80).contains(&second), "{second} second requests for 2000");
    assert!(late <= 6, "{late} reads were late; a second request is late as seldom as a first");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_becomes_slow_is_not_asked_twice_for_everything() {
    let (bucket, faulty) = known([get(Fault::Latency(Duration::from_secs(1)))]).await;
    for _ in 0..500 {
        read_one(&bucket).await;
    }
    let second = faulty.requests().of(Operation::Get) - 500;
    assert!(second <= 10, "{second} second requests for 500");
}

#[tokio::test(start_paused = true)]
async fn a_second_request_that_fails_does_not_show() {
    for kind in [ErrorKind::Throttled, ErrorKind::Transient, ErrorKind::Corrupt] {
        let (bucket, faulty) = known([
            get(Fault::Latency(Duration::from_millis(400))).when(When::Nth(1)),
            get(error(kind)).when(When::Nth(2)),
        ])
        .await;
        let took = read_one(&bucket).await;
        assert_eq!((took.as_millis(), faulty.requests().of(Operation::Get)), (400, 2), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_reply_that_contradicts_the_request_does_not_win() {
    let (bucket, _) = known([
        get(Fault::Latency(Duration::from_millis(400))).when(When::Nth(1)),
        get(Fault::ShiftedRange).when(When::Nth(2)),
    ])
    .await;
    assert_eq!(read_one(&bucket).await.as_millis(), 400);
}

#[tokio::test(start_paused = true)]
async fn two_replies_never_mix_their_versions() {
    // The second reply is of the old object and breaks; the first would be of the new one, and so is what follows.
    let (bucket, faulty) = known([
        get(Fault::Latency(Duration::from_millis(400))).when(When::Nth(1)),
        get(Fault::BodyBreaks(100_000)).when(When::Nth(2)),
    ])
    .await;
    let mut body = bucket.get(request(None)).await.unwrap().body;
    faulty.inner().put("k", Content::Pattern { seed: 2, len: SIZE });
    let mut got = Vec::new();
    let error = loop {
        match body.next().await.expect("the stream ends in an error") {
            Ok(piece) => got.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    assert!(got == pattern(1, ByteRange::new(0, 100_000)));
}

#[tokio::test(start_paused = true)]
async fn a_rest_that_is_late_is_asked_for_a_second_time_too() {
    let (bucket, faulty) =
        known([get(Fault::BodyBreaks(100_000)).when(When::Nth(1)), get(Fault::Silence).when(When::Nth(2))])
            .await;
    let start = Instant::now();
    assert!(read(&bucket, None).await.unwrap() == pattern(1, ByteRange::new(0, SIZE)));
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
    assert_eq!(faulty.requests().of(Operation::Get), 3);
}

#[tokio::test(start_paused = true)]
async fn no_second_request_takes_the_turn_of_a_first() {
    let config = RetryConfig { max_concurrency: 1, ..RetryConfig::default() };
    let late = get(Fault::Latency(Duration::from_secs(5))).when(When::First(1));
    let (bucket, faulty) = bucket_with(config, [late]);
    assert_eq!(read_one(&bucket).await.as_secs(), 5);
    assert_eq!(faulty.requests().of(Operation::Get), 1);
}
