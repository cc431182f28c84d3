//! Many readers of one object: each block is fetched once, each reader gets its bytes.

use std::sync::Arc;

use futures::future::join_all;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;

#[tokio::test(start_paused = true)]
async fn concurrent_readers_of_a_block_cause_one_get() {
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::new(ProbeBucket::new(64 * MIB).with_gate(&gate));
    let readers: Vec<_> = (0..50)
        .map(|n| {
            let object = Arc::clone(&rig.object);
            Handle::current()
                .spawn(async move { check(&object, ByteRange::from_len(40 * MIB + n, 100)).await })
        })
        .collect();
    settle().await;
    assert_eq!(rig.bucket.gets(), 1);
    gate.add_permits(1000);
    for reader in readers {
        reader.await.expect("reads the right bytes");
    }
    assert_eq!(rig.bucket.ranges(), [ByteRange::from_len(40 * MIB, 128 * KIB)]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_wakes_when_its_block_lands_not_when_the_request_ends() {
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::new(ProbeBucket::new(64 * MIB).with_gate(&gate));
    // One block is two pieces of the body; the request is for eight.
    gate.add_permits(2);
    rig.check(0, 4 * KIB).await;
    assert_eq!((rig.bucket.gets(), rig.bucket.active()), (1, 1));
    assert_eq!(rig.bucket.ranges()[0].len(), MIB);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_memory_is_read_without_waiting() {
    let rig = Rig::new(ProbeBucket::new(64 * MIB));
    rig.check(0, MIB).await;
    settle().await;
    let mut again = Box::pin(rig.object.read(ByteRange::new(3, MIB - 3)));
    let data = futures::poll!(&mut again);
    assert!(matches!(data, std::task::Poll::Ready(Ok(data)) if data.len() as u64 == MIB - 6));
    assert_eq!(rig.engine.stats().blocks_ready, 8);
}

#[tokio::test(start_paused = true)]
async fn reads_at_the_edges_of_the_object() {
    let size = 300 * KIB + 7;
    let rig = Rig::new(ProbeBucket::new(size));
    rig.check(size - 1, size).await;
    rig.check(size - 1, size + MIB).await;
    rig.check(size, size + MIB).await;
    rig.check(u64::MAX - 1, u64::MAX).await;
    rig.check(5, 5).await;
    rig.check(0, size).await;
    rig.check(127 * KIB, 257 * KIB).await;
    assert!(rig.object.read(ByteRange::new(9, 9)).await.expect("nothing to read").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_needs_no_request() {
    let rig = Rig::new(ProbeBucket::new(0));
    rig.check(0, 4096).await;
    assert_eq!(rig.bucket.gets(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_read_returns_its_first_part() {
    let rig = Rig::new(ProbeBucket::new(64 * MIB));
    let bytes = rig.read(MIB, 60 * MIB).await.expect("the store works");
    assert!(bytes == pattern(1, ByteRange::from_len(MIB, MAX_READ_BYTES)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reader_leaves_its_fetch_to_others() {
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::new(ProbeBucket::new(64 * MIB).with_gate(&gate));
    let mut first = Box::pin(rig.object.read(ByteRange::from_len(40 * MIB, KIB)));
    assert!(futures::poll!(&mut first).is_pending());
    settle().await;
    drop(first);
    gate.add_permits(2);
    rig.check(40 * MIB, 40 * MIB + KIB).await;
    assert_eq!(rig.bucket.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_stops_its_fetches() {
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::new(ProbeBucket::new(64 * MIB).with_gate(&gate));
    gate.add_permits(2);
    rig.check(0, 4 * KIB).await;
    assert_eq!(rig.bucket.active(), 1);
    let Rig { bucket, engine, version, object } = rig;
    drop(object);
    settle().await;
    assert_eq!(bucket.active(), 0, "the rest of the first MiB is not wanted any more");

    // What had landed is still there for the next open; what had not is asked for again.
    let object = engine.open(Arc::clone(&version));
    check(&object, ByteRange::new(0, 128 * KIB)).await;
    gate.add_permits(2);
    check(&object, ByteRange::new(128 * KIB, 256 * KIB)).await;
    assert_eq!(engine.stats().streams, 1);
    drop((object, version));
    settle().await;
    assert_eq!(engine.cache.ready_blocks(), 0, "nobody can ask for a version that nobody holds");
    assert_eq!(engine.stats().streams, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_another_handle_claims_again_what_was_dropped() {
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::new(ProbeBucket::new(64 * MIB).with_gate(&gate));
    let other = rig.engine.open(Arc::clone(&rig.version));
    let mut first = Box::pin(rig.object.read(ByteRange::from_len(40 * MIB, KIB)));
    assert!(futures::poll!(&mut first).is_pending());
    let second =
        Handle::current().spawn(async move { check(&other, ByteRange::from_len(40 * MIB, KIB)).await });
    settle().await;
    assert_eq!(rig.bucket.gets(), 1);
    drop(first);
    let Rig { bucket, object, .. } = rig;
    drop(object);
    settle().await;
    assert_eq!(bucket.gets(), 2);
    gate.add_permits(2);
    second.await.expect("reads the right bytes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any mix of concurrent reads gets the right bytes, in little memory, and leaves nothing promised.
    #[test]
    fn concurrent_reads_get_the_bytes_they_ask_for(
        size in 1..40 * MIB,
        reads in prop::collection::vec((0..40 * MIB, 1..3 * MIB), 1..60),
        lanes in 1..16_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let config = ReadConfig { memory_limit_bytes: ReadConfig::MIN_MEMORY_BYTES, ..ReadConfig::default() };
            let rig = Rig::with_config(ProbeBucket::new(size), config);
            let lanes = reads.chunks(reads.len().div_ceil(lanes)).map(|lane| {
                let (object, lane) = (Arc::clone(&rig.object), lane.to_vec());
                Handle::current().spawn(async move {
                    for (start, len) in lane {
                        check(&object, ByteRange::from_len(start, len)).await;
                        // And go on from there, so that streams are among them.
                        check(&object, ByteRange::from_len(start + len, len)).await;
                    }
                })
            });
            for lane in join_all(lanes.collect::<Vec<_>>()).await {
                lane.expect("reads the right bytes");
            }
            let stats = rig.engine.stats();
            assert!(stats.memory_peak_bytes <= ReadConfig::MIN_MEMORY_BYTES, "{stats:?}");
        });
    }
}
