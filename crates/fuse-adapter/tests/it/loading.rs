//! Programs that map the files of a model and touch their pages, many at once, in little memory.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use sluicefs_core::{FsConfig, ReadConfig};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::MemoryBucket;
use sluicefs_s3_client::testing::memory::Content;
use tempfile::TempDir;

use crate::support::TestMount;

const KIB: u64 = 1 << 10;
const LAYERS: u64 = 24;
/// A small, a medium and a large tensor in each layer.
const LENS: [u64; 3] = [20 * KIB, 260 * KIB, 900 * KIB];
const SHARDS: u64 = 3;

/// A safetensors file where tensors lie by type and are named by layer.
fn shard(seed: u64) -> Vec<u8> {
    let starts = [0, LAYERS * LENS[0], LAYERS * (LENS[0] + LENS[1])];
    let entry = |layer: u64, kind: usize| {
        let start = starts[kind] + layer * LENS[kind];
        let (len, end) = (LENS[kind], start + LENS[kind]);
        format!(r#""l.{layer:03}.{kind}":{{"dtype":"U8","shape":[{len}],"data_offsets":[{start},{end}]}}"#)
    };
    let entries: Vec<String> =
        (0..LAYERS).flat_map(|layer| (0..3).map(move |kind| entry(layer, kind))).collect();
    let json = format!("{{{}}}", entries.join(","));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    let len = LAYERS * LENS.iter().sum::<u64>();
    bytes.extend_from_slice(&Content::Pattern { seed, len }.slice(ByteRange::new(0, len)));
    bytes
}

/// Maps each file, and compares tensor after tensor, by name, with the file outside; several processes at once, of which each begins elsewhere
/// in every tensor.
const PROGRAM: &str = "
import json, mmap, multiprocessing, os, struct, sys
inside, outside, ranks, in_order = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == 'in order'
def load(rank):
    names = sorted(os.listdir(outside))
    for name in names if in_order else names[rank % len(names):] + names[:rank % len(names)]:
        with open(f'{inside}/{name}', 'rb') as f, open(f'{outside}/{name}', 'rb') as g:
            m, w = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), g.read()
            n = struct.unpack('<Q', m[:8])[0]
            header = json.loads(m[8:8 + n])
            for tensor in sorted(header):
                start, end = (8 + n + offset for offset in header[tensor]['data_offsets'])
                cut = start + (end - start) * rank // ranks
                for a, b in ((cut, end), (start, cut)):
                    assert m[a:b] == w[a:b], (name, tensor, rank)
processes = [multiprocessing.Process(target=load, args=(rank,)) for rank in range(ranks)]
for p in processes: p.start()
for p in processes: p.join()
assert all(p.exitcode == 0 for p in processes), [p.exitcode for p in processes]
";

/// A mount of a model, and the same files outside it.
fn model(memory_limit_bytes: u64) -> (TestMount, TempDir) {
    let (bucket, outside) = (MemoryBucket::new("models"), TempDir::with_prefix("sluicefs-model-").unwrap());
    for n in 1..=SHARDS {
        let (name, bytes) = (format!("model-{n:05}-of-{SHARDS:05}.safetensors"), shard(n));
        fs::write(outside.path().join(&name), &bytes).unwrap();
        bucket.put(&name, Content::Bytes(bytes.into()));
    }
    let read = ReadConfig { memory_limit_bytes, ..ReadConfig::default() };
    (TestMount::new(Arc::new(bucket), FsConfig { read, ..FsConfig::default() }), outside)
}

fn load(mount: &TestMount, outside: &TempDir, ranks: u32, order: &str) {
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM]).arg(mount.path()).arg(outside.path()).arg(ranks.to_string()).arg(order);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn ranks_that_map_the_same_files_get_each_byte_fetched_about_once() {
    let (mount, outside) = model(512 << 20);
    load(&mount, &outside, 4, "in order");
    let stats = mount.fs.read_stats();
    let total = SHARDS * shard(1).len() as u64;
    assert!(stats.bytes_fetched <= total * 21 / 20, "{} of {total} bytes: {stats:?}", stats.bytes_fetched);
    assert_eq!(
        (stats.headers_parsed, stats.headers_ignored, stats.shards_begun),
        (SHARDS, 0, SHARDS - 1),
        "{stats:?}"
    );
}

#[test]
fn a_storm_of_page_faults_in_many_files_ends_in_the_least_memory() {
    let (mount, outside) = model(ReadConfig::MIN_MEMORY_BYTES);
    load(&mount, &outside, 12, "anywhere");
    let stats = mount.fs.read_stats();
    assert!(stats.memory_peak_bytes <= ReadConfig::MIN_MEMORY_BYTES, "{stats:?}");
}
