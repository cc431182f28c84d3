//! What is asked of the store: few requests, nothing twice, and how long that takes over a slow network.

use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Net;
use super::*;

/// S3 as measured: 25 ms to the first byte, 90 MB/s for each connection.
const S3_LIKE: Net = Net { first_byte: Duration::from_millis(25), bytes_per_second: 90_000_000 };

/// Reads `start..end` as Linux does for one who reads in order: a MiB at a time, the next one asked for before it is needed.
async fn read_like_linux(rig: &Rig, start: u64, end: u64) {
    let piece = |at: u64| {
        let object = Arc::clone(&rig.object);
        Handle::current().spawn(async move { object.read(ByteRange::new(at, (at + MIB).min(end))).await })
    };
    let mut next = Some(piece(start));
    for at in (start..end).step_by(MIB as usize) {
        let current = next.take().expect("asked for ahead");
        if at + MIB < end {
            next = Some(piece(at + MIB));
        }
        let data = current.await.expect("no panic").expect("the store works");
        assert_eq!(data.len() as u64, MIB.min(end - at));
    }
}

#[tokio::test(start_paused = true)]
async fn a_gib_in_order_takes_few_requests_and_no_byte_twice() {
    let size = 1024 * MIB;
    let rig = Rig::new(ProbeBucket::blank(size).with_net(S3_LIKE));
    read_like_linux(&rig, 0, size).await;
    assert_eq!(rig.bucket.bytes_asked(), size);
    let mut ranges = rig.bucket.ranges();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{ranges:?}");
    assert!(ranges.len() <= 128 + 32, "{} requests", ranges.len());
}

#[tokio::test(start_paused = true)]
async fn reading_in_order_is_not_bound_by_latency() {
    let size = 4096 * MIB;
    let rig = Rig::new(ProbeBucket::blank(size).with_net(S3_LIKE));
    let start = Instant::now();
    read_like_linux(&rig, 0, size).await;
    let rate = size as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("in order: {rate:.0} MB/s, {} requests, {:?}", rig.bucket.gets(), rig.engine.stats());
    assert!(rate > 950.0, "{rate:.0} MB/s");
}

#[tokio::test(start_paused = true)]
async fn shuffled_pieces_become_streams() {
    let (size, piece) = (1024 * MIB, 16 * MIB);
    let rig = Rig::new(ProbeBucket::blank(size).with_net(S3_LIKE));
    let count = size / piece;
    let start = Instant::now();
    for n in 0..count {
        let at = n * 29 % count * piece;
        read_like_linux(&rig, at, at + piece).await;
    }
    let rate = size as f64 / start.elapsed().as_secs_f64() / 1e6;
    let ratio = rig.bucket.bytes_asked() as f64 / size as f64;
    println!("shuffled: {rate:.0} MB/s, {ratio:.2} x the bytes, {} requests", rig.bucket.gets());
    assert!(ratio < 1.25, "{ratio:.2} x the bytes");
    assert!(rate > 200.0, "{rate:.0} MB/s");
}

#[tokio::test(start_paused = true)]
async fn random_reads_ask_for_what_they_read() {
    let rig = Rig::new(ProbeBucket::new(4096 * MIB));
    let len = 128 * KIB;
    let offsets = (0..400).map(|n| (n * 12_345 + 7) % 32_768 * len);
    for start in offsets.clone() {
        rig.check(start, start + len).await;
    }
    let expected: Vec<ByteRange> = offsets.map(|start| ByteRange::from_len(start, len)).collect();
    assert_eq!(rig.bucket.ranges(), expected);
}

#[tokio::test(start_paused = true)]
async fn random_small_reads_ask_for_one_block() {
    let rig = Rig::new(ProbeBucket::new(4096 * MIB));
    for n in 1..400_u64 {
        let start = (n * 982_451_653) % (4096 * MIB / 4096) * 4096;
        rig.check(start, start + 4096).await;
    }
    assert!(rig.bucket.bytes_asked() <= 400 * 128 * KIB);
    assert_eq!(rig.engine.stats().bytes_fetched, rig.bucket.bytes_asked());
}

#[tokio::test(start_paused = true)]
async fn a_small_object_is_one_request_without_a_range() {
    for size in [1, 4096, 100 * KIB, 128 * KIB, 128 * KIB + 1, MIB] {
        let rig = Rig::new(ProbeBucket::new(size));
        rig.check(0, 4096).await;
        rig.check(0, size).await;
        let requests = rig.bucket.requests();
        assert_eq!(requests.len(), 1, "size {size}");
        assert_eq!((requests[0].range, &requests[0].if_match), (None, &rig.bucket.etag()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_takes_one_round_trip() {
    let rig = Rig::new(ProbeBucket::new(4096 * MIB).with_net(S3_LIKE));
    let start = Instant::now();
    rig.check(0, 4096).await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(30), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_read_ahead_of_more_than_it_needs() {
    let rig = Rig::new(ProbeBucket::blank(1024 * MIB).with_net(S3_LIKE));
    for at in (0..64 * MIB).step_by(MIB as usize) {
        assert!(rig.object.read(ByteRange::new(at, at + MIB)).await.is_ok());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ahead = rig.bucket.bytes_asked() - 64 * MIB;
    assert!(ahead <= 5 * MIB, "{ahead} bytes ahead of a reader of 20 MB/s");
}
