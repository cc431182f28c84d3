//! Models of several files: the next one is begun before somebody opens it, and at no further request.

use std::time::Duration;

use sluicefs_core::{DirMode, FileSystem, HandleId};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::memory::Content;

use crate::recorder::{Recorder, names, walk};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 4 * MIB + 5;

/// Shards of a model, in a directory of their own.
fn model(names: &[&str]) -> Recorder {
    let bucket = Recorder::new(&[]);
    for (seed, name) in (1..).zip(names) {
        bucket.store.put(&format!("m/{name}"), Content::Pattern { seed, len: SIZE });
    }
    bucket
}

async fn open(fs: &FileSystem, path: &str) -> HandleId {
    let ino = walk(fs, path).await.unwrap().attr.ino;
    fs.open(ino).await.unwrap().handle
}

async fn read_all(fs: &FileSystem, handle: HandleId) -> Vec<u8> {
    let mut bytes = Vec::new();
    for start in (0..SIZE).step_by(MIB as usize) {
        let data = fs.read(handle, ByteRange::from_len(start, MIB)).await.unwrap();
        data.slices().for_each(|slice| bytes.extend_from_slice(slice));
    }
    bytes
}

/// Lets all that is under way come to its end.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn gets_of(requests: &[String], name: &str) -> usize {
    requests.iter().filter(|request| **request == format!("get m/{name}")).count()
}

const SHARDS: [&str; 3] = [
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
];

#[tokio::test(start_paused = true)]
async fn the_next_shard_is_on_its_way_when_it_is_opened() {
    let bucket = model(&SHARDS);
    let fs = bucket.mount();
    let dir = walk(&fs, "m").await.unwrap().attr.ino;
    names(&fs, dir, DirMode::Lookup).await.unwrap();
    let first = open(&fs, &format!("m/{}", SHARDS[0])).await;
    bucket.requests();
    read_all(&fs, first).await;
    settle().await;
    let requests = bucket.requests();
    assert!(gets_of(&requests, SHARDS[1]) > 0, "{requests:?}");
    assert_eq!(gets_of(&requests, SHARDS[2]), 0, "{requests:?}");
    assert!(requests.iter().all(|request| request.starts_with("get ")), "the listing tells: {requests:?}");
    assert_eq!(fs.read_stats().shards_begun, 1);

    let second = open(&fs, &format!("m/{}", SHARDS[1])).await;
    bucket.requests();
    let bytes = read_all(&fs, second).await;
    assert!(bytes == Content::Pattern { seed: 2, len: SIZE }.slice(ByteRange::new(0, SIZE)));
    assert_eq!(gets_of(&bucket.requests(), SHARDS[1]), 0, "all of it was there");
    settle().await;
    assert_eq!(fs.read_stats().shards_begun, 2, "and so on");
    assert_eq!(fs.read_stats().bytes_fetched, 3 * SIZE, "each byte once");
}

#[tokio::test(start_paused = true)]
async fn a_shard_of_which_nothing_is_known_costs_one_more_request() {
    let bucket = model(&SHARDS);
    let fs = bucket.mount();
    let first = open(&fs, &format!("m/{}", SHARDS[0])).await;
    settle().await;
    bucket.requests();
    read_all(&fs, first).await;
    settle().await;
    let requests = bucket.requests();
    assert!(gets_of(&requests, SHARDS[1]) > 0, "{requests:?}");
    assert!(requests.iter().filter(|request| !request.starts_with("get ")).count() <= 1, "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_after_the_last_shard_or_any_other_file_or_for_part_of_one() {
    let bucket = model(&["model-00001-of-00001.safetensors", "a", "b", SHARDS[0]]);
    let fs = bucket.mount();
    for name in ["model-00001-of-00001.safetensors", "a", SHARDS[0]] {
        let handle = open(&fs, &format!("m/{name}")).await;
        if name == SHARDS[0] {
            fs.read(handle, ByteRange::new(2 * MIB, 3 * MIB)).await.unwrap();
        } else {
            read_all(&fs, handle).await;
        }
    }
    settle().await;
    assert_eq!(fs.read_stats().shards_begun, 0);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_replaced_after_it_was_begun_is_read_as_it_is() {
    let bucket = model(&SHARDS);
    let fs = bucket.mount();
    let first = open(&fs, &format!("m/{}", SHARDS[0])).await;
    read_all(&fs, first).await;
    settle().await;
    assert_eq!(fs.read_stats().shards_begun, 1);
    bucket.store.put(&format!("m/{}", SHARDS[1]), Content::Pattern { seed: 9, len: SIZE });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let second = open(&fs, &format!("m/{}", SHARDS[1])).await;
    let bytes = read_all(&fs, second).await;
    assert!(bytes == Content::Pattern { seed: 9, len: SIZE }.slice(ByteRange::new(0, SIZE)));
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_nobody_opens_is_let_go_of() {
    let bucket = model(&SHARDS);
    let fs = bucket.mount();
    let first = open(&fs, &format!("m/{}", SHARDS[0])).await;
    let whole = fs.read(first, ByteRange::new(0, SIZE)).await.unwrap();
    drop(whole);
    settle().await;
    let begun = fs.read_stats().memory_bytes;
    tokio::time::sleep(Duration::from_secs(61)).await;
    let second = open(&fs, &format!("m/{}", SHARDS[1])).await;
    bucket.requests();
    read_all(&fs, second).await;
    assert!(gets_of(&bucket.requests(), SHARDS[1]) > 0, "nothing of it was left of {begun} bytes");
}
