//! What a read costs without a kernel and a network: from memory, and fetched in order from a bucket in memory.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking, and criterion's macros write functions"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sluicefs_core::{FileSystem, FsConfig, HandleId, InodeNo};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::pattern;
use sluicefs_s3_client::testing::{Content, MemoryBucket};
use tokio::runtime::Runtime;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 256 * MIB;

async fn open(bucket: &MemoryBucket) -> (Arc<FileSystem>, HandleId) {
    let fs = FileSystem::new(Arc::new(bucket.clone()), FsConfig::default()).unwrap();
    let ino = fs.lookup(InodeNo::ROOT, "model").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    (fs, handle)
}

/// Reads all in order, a MiB at a time.
async fn read_all(fs: &FileSystem, handle: HandleId) {
    for at in (0..SIZE).step_by(MIB as usize) {
        let data = fs.read(handle, ByteRange::from_len(at, MIB)).await.unwrap();
        assert_eq!(black_box(data.len()) as u64, MIB);
    }
}

fn reads(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let bucket = MemoryBucket::new("bench");
    bucket.put("model", Content::Bytes(pattern(1, ByteRange::new(0, SIZE))));
    let (fs, handle) = runtime.block_on(open(&bucket));

    let mut group = c.benchmark_group("from memory");
    for (name, len) in [("4 KiB", 4 << 10), ("128 KiB", 128 << 10), ("1 MiB", MIB)] {
        let range = ByteRange::from_len(MIB, len);
        runtime.block_on(fs.read(handle, range)).unwrap();
        group.bench_function(name, |b| b.to_async(&runtime).iter(|| fs.read(handle, black_box(range))));
    }
    group.finish();

    let mut group = c.benchmark_group("in order");
    group.throughput(Throughput::Bytes(SIZE)).sample_size(10);
    group.bench_function("from the bucket, memory used before", |b| {
        b.to_async(&runtime).iter(|| async {
            // Opened anew, so that nothing is in memory, while its buffers are.
            let ino = fs.lookup(InodeNo::ROOT, "model").await.unwrap().attr.ino;
            let again = fs.open(ino).await.unwrap().handle;
            read_all(&fs, again).await;
            fs.release(again);
        });
    });
    group.bench_function("from the bucket, fresh memory", |b| {
        let fresh = || runtime.block_on(open(&bucket));
        b.iter_batched(
            fresh,
            |(fs, handle)| runtime.block_on(async { read_all(&fs, handle).await }),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, reads);
criterion_main!(benches);
