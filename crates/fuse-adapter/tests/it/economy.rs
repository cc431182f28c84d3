//! What changes cost the store, in requests and bytes, as programs make them on a real mount.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use sluicefs_core::{Ended, FsConfig, RemovalStats};
use sluicefs_embedded_s3::{Operation, Rule, WireFault};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::MemoryBucket;
use sluicefs_s3_client::testing::memory::{Content, pattern};

use crate::server::Served;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SEED: u64 = 3;

/// A mount of a bucket with these objects, each of so many bytes.
fn served(objects: &[(&str, u64)]) -> (MemoryBucket, Served) {
    let store = MemoryBucket::new("models");
    for (key, len) in objects {
        store.put(key, Content::Pattern { seed: SEED, len: *len });
    }
    (store.clone(), Served::writable(store, FsConfig::default()))
}

/// Runs a program with the mount as its working directory.
fn run(served: &Served, program: &[&str]) {
    let done =
        Command::new(program[0]).args(&program[1..]).current_dir(served.mount.path()).output().unwrap();
    assert!(done.status.success(), "{program:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What `change` costs: requests, bytes sent, bytes fetched.
fn cost(served: &Served, change: impl FnOnce()) -> (u64, u64, u64) {
    let traffic = || (served.server.traffic().received_bytes(), served.server.traffic().sent_bytes());
    let before = traffic();
    served.server.requests().reset();
    change();
    let after = traffic();
    (served.server.requests().total(), after.0 - before.0, after.1 - before.1)
}

/// Bytes of a few pages of XML.
const NO_DATA: u64 = 64 << 10;

#[test]
fn mv_of_ten_gib_moves_no_byte_through_this_machine() {
    let (store, served) = served(&[("large.bin", 10 * GIB)]);
    let (requests, sent, fetched) = cost(&served, || run(&served, &["mv", "large.bin", "moved.bin"]));
    assert!(sent < NO_DATA && fetched < NO_DATA, "{sent} bytes sent, {fetched} fetched");
    // Ten parts of a GiB, and what is around them.
    assert_eq!(served.server.requests().of(Operation::CopyPart), 10);
    assert!(requests <= 20, "{requests} requests");
    let moved = store.object("moved.bin").unwrap().content;
    assert_eq!(moved.len(), 10 * GIB);
    for at in [0, 5 * GIB - 7, 10 * GIB - 4096] {
        let range = ByteRange::from_len(at, 4096);
        assert!(moved.slice(range) == pattern(SEED, range), "at {at}");
    }
    assert!(store.object("large.bin").is_none());
}

#[test]
fn a_directory_with_an_object_of_six_gib_moves_by_copies_of_parts() {
    let (store, served) = served(&[("d/large", 6 * GIB), ("d/small", 1000)]);
    let (_, sent, fetched) = cost(&served, || run(&served, &["mv", "d", "e"]));
    assert!(sent < NO_DATA && fetched < NO_DATA, "{sent} bytes sent, {fetched} fetched");
    assert_eq!(served.server.requests().of(Operation::CopyPart), 6);
    let keys: Vec<String> = store.keys().iter().map(|key| key.as_str().to_owned()).collect();
    assert_eq!(keys, ["e/large", "e/small"]);
    assert_eq!(store.object("e/large").unwrap().content.len(), 6 * GIB);
}

#[test]
fn a_change_of_a_mib_in_four_gib_moves_less_than_64_mib() {
    for at in [0, 2 * GIB + 12_345, 4 * GIB - MIB] {
        let (store, served) = served(&[("model", 4 * GIB)]);
        let change = pattern(9, ByteRange::new(0, MIB));
        let (_, sent, fetched) = cost(&served, || {
            let file = OpenOptions::new().write(true).open(served.mount.join("model")).unwrap();
            file.write_all_at(&change, at).unwrap();
            file.sync_all().unwrap();
        });
        println!("at {at}: {sent} bytes sent, {fetched} fetched");
        assert!(sent + fetched < 64 * MIB, "{sent} bytes sent, {fetched} fetched, for a change at {at}");
        let content = store.object("model").unwrap().content;
        assert_eq!(content.len(), 4 * GIB);
        assert!(content.slice(ByteRange::from_len(at, MIB)) == change);
        for range in [ByteRange::from_len(GIB, 4096), ByteRange::from_len(3 * GIB, 4096)] {
            assert!(content.slice(range) == pattern(SEED, range), "{range}");
        }
    }
}

#[test]
fn rm_r_costs_a_request_for_each_file_and_few_more() {
    let names: Vec<String> = (0..2000).map(|n| format!("d/sub-{}/file-{n}", n % 2)).collect();
    let objects: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 10)).collect();
    let (store, served) = served(&objects);
    let (requests, ..) = cost(&served, || run(&served, &["rm", "-r", "d"]));
    println!("{requests} requests");
    assert!(requests <= 2040, "{requests} requests for 2,000 files");
    assert!(store.keys().is_empty());
    assert!(!fs::exists(served.mount.join("d")).unwrap());
}

/// A mount whose removals wait for each other.
fn removing_behind(store: &MemoryBucket) -> Served {
    let mut settings = FsConfig::default();
    settings.write.delete_behind = true;
    Served::writable(store.clone(), settings)
}

#[test]
fn rm_r_with_delete_behind_costs_a_request_per_directory_and_few_more() {
    let store = MemoryBucket::new("models");
    (0..5000).for_each(|n| _ = store.put(&format!("d/sub-{}/file-{n}", n % 2), "content"));
    let served = removing_behind(&store);
    let (requests, ..) = cost(&served, || run(&served, &["rm", "-r", "d"]));
    println!("{requests} requests");
    assert!(requests <= 50, "{requests} requests for 5,000 files");
    assert!(store.keys().is_empty());
}

#[test]
fn names_removed_behind_are_gone_at_once_and_may_be_made_anew() {
    let store = MemoryBucket::new("models");
    for key in ["a", "b", "c", "d/file"] {
        store.put(key, "old");
    }
    let served = removing_behind(&store);
    // Nothing is sent of its own accord while this test looks.
    served
        .server
        .faults()
        .add(Rule::new(WireFault::Delay(Duration::from_millis(300))).on(Operation::DeleteMany));
    let path = |name: &str| served.mount.join(name);
    for name in ["a", "b", "c"] {
        fs::remove_file(path(name)).unwrap();
        assert!(!fs::exists(path(name)).unwrap());
    }
    let names: Vec<_> =
        fs::read_dir(served.mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["d"]);
    fs::File::create_new(path("a")).unwrap().write_all(b"new").unwrap();
    fs::write(path("b"), "new").unwrap();
    fs::rename(path("d/file"), path("c")).unwrap();
    fs::File::open(served.mount.path()).unwrap().sync_all().unwrap();
    let read = |name| fs::read_to_string(path(name)).unwrap();
    assert_eq!((read("a"), read("b"), read("c")), ("new".into(), "new".into(), "old".into()));
    assert_eq!(store.object("a").unwrap().content.len(), 3);
    assert_eq!(served.mount.fs.removal_stats(), RemovalStats::default());
}

#[test]
fn a_file_that_could_not_be_removed_behind_is_there_again() {
    let store = MemoryBucket::new("models");
    store.put("file", "content");
    let served = removing_behind(&store);
    let refused = WireFault::Status { status: 403, code: "AccessDenied", retry_after: None };
    served.server.faults().add(Rule::new(refused).on(Operation::Delete));
    fs::remove_file(served.mount.join("file")).unwrap();
    let synced = fs::File::open(served.mount.path()).unwrap().sync_all();
    assert_eq!(synced.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(served.mount.fs.removal_stats(), RemovalStats { pending: 0, failed: 1 });
    let listed: Vec<_> =
        fs::read_dir(served.mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listed, ["file"]);
}

#[test]
fn what_is_removed_behind_is_gone_when_the_mount_has_ended() {
    let store = MemoryBucket::new("models");
    store.put("file", "content");
    let served = removing_behind(&store);
    fs::remove_file(served.mount.join("file")).unwrap();
    served.mount.runtime().block_on(served.mount.fs.finish(Ended::Unmounted, Duration::from_secs(20)));
    assert!(store.keys().is_empty());
}
