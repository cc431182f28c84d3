//! Programs that load models: tensors by name, archives from their ends, and files that nobody has opened yet.

use std::time::Duration;

use futures::future::join_all;
use sluicefs_s3_client::testing::Content;
use tokio::time::{Instant, timeout};

use super::bucket::Net;
use super::*;

/// S3 as measured: 25 ms to the first byte, 90 MB/s for each connection.
const S3_LIKE: Net = Net { first_byte: Duration::from_millis(25), bytes_per_second: 90_000_000 };

/// Longer than anything takes here, in paused time.
const LONG: Duration = Duration::from_secs(600);

/// A safetensors file of `layers` small, medium and large tensors, which lie in this order and are named by layer; `head_bytes` are before them.
/// What is in the tensors are the bytes of the pattern at their offsets.
fn model(layers: u64, lens: [u64; 3], head_bytes: u64) -> (Content, Vec<ByteRange>) {
    let starts = [0, layers * lens[0], layers * (lens[0] + lens[1])];
    let mut entries = Vec::new();
    let mut tensors = Vec::new();
    for layer in 0..layers {
        for kind in 0..3 {
            let start = starts[kind] + layer * lens[kind];
            let end = start + lens[kind];
            entries.push(format!(
                r#""{layer:04}.{kind}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
                lens[kind]
            ));
            tensors.push(ByteRange::new(head_bytes + start, head_bytes + end));
        }
    }
    let json = format!("{{{}}}", entries.join(","));
    let mut head = (head_bytes - 8).to_le_bytes().to_vec();
    head.extend_from_slice(json.as_bytes());
    assert!(head.len() as u64 <= head_bytes, "the header has {} bytes", head.len());
    head.resize(head_bytes as usize, b' ');
    (file(&head, head_bytes + layers * lens.iter().sum::<u64>()), tensors)
}

/// A file of `size` bytes that begins with `head`, and goes on with the pattern.
fn file(head: &[u8], size: u64) -> Content {
    let head = Content::Bytes(head.to_vec().into());
    let len = head.len();
    let rest = Content::Pattern { seed: 1, len: size };
    Content::join([(&head, ByteRange::new(0, len)), (&rest, ByteRange::new(len, size))])
}

fn bucket(content: Content) -> ProbeBucket {
    let bucket = ProbeBucket::new(0);
    bucket.inner.put(KEY, content);
    bucket
}

fn memory(bytes: u64) -> ReadConfig {
    ReadConfig { memory_limit_bytes: bytes, ..ReadConfig::default() }
}

/// Reads the header as programs do: eight bytes, then the rest of it; the kernel makes pages of that.
async fn read_header(rig: &Rig, head_bytes: u64) {
    assert!(rig.object.read(ByteRange::new(0, 128 * KIB)).await.is_ok());
    for start in (128 * KIB..head_bytes).step_by(128 << 10) {
        assert!(rig.object.read(ByteRange::from_len(start, 128 * KIB)).await.is_ok());
    }
    parsed(rig).await;
}

/// Waits until the header was parsed. The clock stands still while a thread does that.
async fn parsed(rig: &Rig) {
    settle().await;
    let stats = rig.engine.stats();
    assert_eq!(stats.headers_parsed + stats.headers_ignored, 1, "{stats:?}");
}

async fn read_tensor(object: &Arc<OpenObject>, tensor: ByteRange) {
    for start in (tensor.start..tensor.end).step_by(MIB as usize) {
        check(object, ByteRange::new(start, (start + MIB).min(tensor.end))).await;
    }
}

const LENS: [u64; 3] = [128 * KIB, MIB, 4 * MIB];

#[tokio::test(start_paused = true)]
async fn who_reads_by_name_fetches_each_byte_once() {
    for limit in [64 * MIB, 512 * MIB] {
        let (content, tensors) = model(48, LENS, 128 * KIB);
        let size = content.len();
        let rig = Rig::with_config(bucket(content).with_net(S3_LIKE), memory(limit));
        read_header(&rig, 128 * KIB).await;
        for tensor in &tensors {
            read_tensor(&rig.object, *tensor).await;
        }
        let stats = rig.engine.stats();
        assert_eq!((rig.bucket.bytes_asked(), stats.headers_parsed), (size, 1), "{stats:?}");
        assert!(rig.bucket.gets() <= 120, "{} requests for {} MiB", rig.bucket.gets(), size / MIB);
        assert_eq!(stats.streams, 0, "it is done");
    }
}

#[tokio::test(start_paused = true)]
async fn reading_by_name_is_not_bound_by_latency() {
    let (content, tensors) = model(100, LENS, 128 * KIB);
    let size = content.len();
    let rig = Rig::new(bucket(content).with_net(S3_LIKE));
    read_header(&rig, 128 * KIB).await;
    let start = Instant::now();
    for tensor in &tensors {
        read_tensor(&rig.object, *tensor).await;
    }
    let rate = size as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("by name: {rate:.0} MB/s, {} requests, {:?}", rig.bucket.gets(), rig.engine.stats());
    assert!(rate > 900.0, "{rate:.0} MB/s");
}

#[tokio::test(start_paused = true)]
async fn four_readers_by_name_fetch_each_byte_once() {
    let (content, tensors) = model(24, LENS, 128 * KIB);
    let size = content.len();
    let rig = Rig::new(bucket(content).with_net(S3_LIKE));
    read_header(&rig, 128 * KIB).await;
    let reader = |rank: u64| {
        let (object, tensors) = (Arc::clone(&rig.object), tensors.clone());
        Handle::current().spawn(async move {
            tokio::time::sleep(Duration::from_millis(rank * 7)).await;
            for tensor in tensors {
                read_tensor(&object, tensor).await;
            }
        })
    };
    for done in join_all((0..4).map(reader)).await {
        done.expect("reads the right bytes");
    }
    assert_eq!(rig.bucket.bytes_asked(), size, "{:?}", rig.engine.stats());
}

#[tokio::test(start_paused = true)]
async fn who_reads_by_offset_is_a_stream() {
    let (content, _) = model(24, LENS, 128 * KIB);
    let size = content.len();
    let rig = Rig::new(bucket(content).with_net(S3_LIKE));
    read_header(&rig, 128 * KIB).await;
    for start in (128 * KIB..size).step_by(MIB as usize) {
        check(&rig.object, ByteRange::new(start, (start + MIB).min(size))).await;
    }
    assert_eq!(rig.bucket.bytes_asked(), size);
}

#[tokio::test(start_paused = true)]
async fn a_long_header_is_fetched_ahead_of_its_reader() {
    let (content, tensors) = model(48, LENS, 5 * MIB);
    let rig = Rig::new(bucket(content).with_net(S3_LIKE));
    assert!(rig.object.read(ByteRange::new(0, 128 * KIB)).await.is_ok());
    settle().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rig.bucket.bytes_asked() >= 5 * MIB, "{:?}", rig.bucket.ranges());
    read_header(&rig, 5 * MIB).await;
    read_tensor(&rig.object, tensors[0]).await;
}

#[tokio::test(start_paused = true)]
async fn broken_headers_are_ignored_and_counted() {
    let framed = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    for (head, ignored) in [
        (framed("{\"a\":1}"), 1),
        (framed(r#"{"a":{"data_offsets":[0,99999999999]}}"#), 1),
        ([&u64::MAX.to_le_bytes()[..], b"{"].concat(), 1),
        (framed("[]"), 0),
    ] {
        let content = file(&head, 40 * MIB);
        let rig = Rig::of(bucket(content), "m.safetensors");
        assert!(rig.object.read(ByteRange::new(0, 128 * KIB)).await.is_ok());
        if ignored > 0 {
            parsed(&rig).await;
        }
        read_tensor(&rig.object, ByteRange::new(128 * KIB, 40 * MIB)).await;
        let stats = rig.engine.stats();
        assert_eq!(
            (stats.headers_ignored, stats.headers_parsed),
            (ignored, 0),
            "{:?}",
            String::from_utf8_lossy(&head)
        );
        assert_eq!(rig.bucket.bytes_asked(), 40 * MIB);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_begun_in_the_background_is_there_when_its_reader_comes() {
    let (content, tensors) = model(48, LENS, 2 * MIB);
    let size = content.len();
    let rig = Rig::with_config(bucket(content), memory(128 * MIB));
    rig.object.begin(Order::ByName).await;
    settle().await;
    let stats = rig.engine.stats();
    assert_eq!((stats.headers_parsed, stats.shards_begun), (1, 1));
    assert!(rig.bucket.bytes_asked() <= 128 * MIB * 3 / 4 + 3 * MIB, "{} bytes", rig.bucket.bytes_asked());
    let before = rig.bucket.gets();
    rig.object.is_opened();
    let mut first = Box::pin(rig.object.read(ByteRange::from_len(tensors[0].start, 128 * KIB)));
    assert!(matches!(futures::poll!(&mut first), std::task::Poll::Ready(Ok(_))), "it was on its way before");
    assert_eq!(rig.bucket.gets(), before);
    drop(first);
    read_header(&rig, 2 * MIB).await;
    for tensor in &tensors {
        read_tensor(&rig.object, *tensor).await;
    }
    assert_eq!(rig.bucket.bytes_asked(), size);
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_gives_way_to_readers() {
    let rig = Rig::with_config(bucket(file(b"GGUF", 512 * MIB)), memory(64 * MIB));
    let other = rig.engine.open(Arc::new(ObjectVersion::new(
        rig.version.key().clone(),
        512 * MIB,
        rig.bucket.etag(),
    )));
    other.begin(Order::ByOffset).await;
    settle().await;
    let begun = rig.bucket.bytes_asked();
    assert!(begun >= 16 * MIB, "{begun}");
    for start in (128 * MIB..512 * MIB).step_by(MIB as usize) {
        check(&rig.object, ByteRange::from_len(start, MIB)).await;
    }
    assert_eq!(rig.bucket.bytes_asked(), begun + 384 * MIB, "the reader was read ahead of as ever");
    assert!(rig.engine.stats().memory_waits == 0, "{:?}", rig.engine.stats());
}

#[tokio::test(start_paused = true)]
async fn the_directory_at_the_end_of_an_archive_is_fetched_at_once() {
    let size = 300 * MIB + 12_345;
    let rig = Rig::new(ProbeBucket::new(size));
    rig.check(0, 4 * KIB).await;
    rig.check(size - 22, size).await;
    settle().await;
    let before = rig.bucket.gets();
    for back in [4 * KIB, 64 * KIB, 500 * KIB, 900 * KIB] {
        rig.check(size - back, size - back + 4 * KIB).await;
    }
    assert_eq!(rig.bucket.gets(), before, "{:?}", rig.bucket.ranges());
    assert!(rig.bucket.bytes_asked() <= 3 * MIB);
    // Its records, in order.
    for start in (4 * KIB..size).step_by(MIB as usize) {
        rig.check(start, (start + MIB).min(size)).await;
    }
    assert!(rig.bucket.bytes_asked() <= size + MIB, "{} bytes", rig.bucket.bytes_asked());
}

/// A page fault of each thread in each file, all over them, with the memory for four.
#[tokio::test(start_paused = true)]
async fn a_storm_of_page_faults_in_many_files_ends_in_the_least_memory() {
    let (content, tensors) = model(16, LENS, 128 * KIB);
    let rig =
        Rig::with_config(bucket(content.clone()).with_net(S3_LIKE), memory(ReadConfig::MIN_MEMORY_BYTES));
    let files: Vec<_> = (0..12)
        .map(|n| {
            let key = ObjectKey::new(format!("m-{n}.safetensors")).expect("a legal key");
            rig.bucket.inner.put(key.as_str(), content.clone());
            let etag = rig.bucket.inner.object(key.as_str()).and_then(|object| object.head.meta.etag);
            rig.engine.open(Arc::new(ObjectVersion::new(key, content.len(), etag)))
        })
        .collect();
    let thread = |n: usize| {
        let (file, tensors) = (Arc::clone(&files[n % files.len()]), tensors.clone());
        Handle::current().spawn(async move {
            assert!(file.read(ByteRange::new(0, 128 * KIB)).await.is_ok());
            for fault in 0..60 {
                let tensor = tensors[(n * 7 + fault) % tensors.len()];
                // What the kernel reads around a page; it holds what it got until it has copied it.
                let start = tensor.start + (fault as u64 * 1_234_567 % tensor.len()) / 4096 * 4096;
                let data = file
                    .read(ByteRange::from_len(start.saturating_sub(512 * KIB), MIB))
                    .await
                    .expect("the store works");
                tokio::time::sleep(Duration::from_millis(1)).await;
                drop(data);
            }
        })
    };
    let all = join_all((0..96).map(thread));
    let ended = timeout(LONG, all).await.expect("some of them wait for each other for ever");
    ended.into_iter().for_each(|thread| thread.expect("no panic"));
    let stats = rig.engine.stats();
    assert!(stats.memory_peak_bytes <= ReadConfig::MIN_MEMORY_BYTES && stats.memory_waits > 0, "{stats:?}");
}
