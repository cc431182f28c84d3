//! The cache on disk: what outlives the mount, who shares it, what damage costs.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sluicefs_cache_dir::objects as disk;
use sluicefs_s3_client::testing::Content;
use tempfile::TempDir;

use super::bucket::without_etag;
use super::*;
use crate::cache::disk::{DiskCacheConfig, DiskStats};

const LIMIT: u64 = 64 * MIB;

fn config(directory: &Path, limit_bytes: u64) -> ReadConfig {
    ReadConfig {
        disk: Some(DiskCacheConfig { directory: directory.to_owned(), limit_bytes, max_open_objects: 2 }),
        ..ReadConfig::default()
    }
}

/// A mount of its own of an object of `size` bytes, with the cache in `directory`.
fn mount(directory: &Path, size: u64) -> Rig {
    Rig::with_config(ProbeBucket::new(size), config(directory, LIMIT))
}

impl Rig {
    async fn check_all(&self) {
        let size = self.bucket.size();
        for start in (0..size).step_by(MIB as usize) {
            self.check(start, (start + MIB).min(size)).await;
        }
    }

    async fn kept(&self) -> DiskStats {
        self.engine.idle().await;
        self.engine.stats().disk
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => directories.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_not_asked_for_by_the_next_mount() {
    let dir = TempDir::new().unwrap();
    let size = 5 * MIB + 77;
    let first = mount(dir.path(), size);
    first.check_all().await;
    assert_eq!(first.kept().await.written_bytes, size);
    let second = mount(dir.path(), size);
    second.check_all().await;
    assert_eq!(second.bucket.gets(), 0);
    assert_eq!(second.kept().await, DiskStats { read_bytes: size, ..DiskStats::default() });
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_reach_the_disk_in_whatever_order_they_come() {
    let dir = TempDir::new().unwrap();
    let size = 4 * MIB + 77;
    let first = mount(dir.path(), size);
    for start in (0..=size / (128 * KIB)).rev().map(|block| block * 128 * KIB) {
        first.check(start, (start + 128 * KIB).min(size)).await;
    }
    assert_eq!(first.kept().await.written_bytes, size);
    let second = mount(dir.path(), size);
    second.check_all().await;
    assert_eq!((second.bucket.gets(), second.kept().await.read_bytes), (0, size));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_between_comes_from_the_store_alone() {
    let dir = TempDir::new().unwrap();
    let size = 8 * MIB;
    let first = mount(dir.path(), size);
    for start in [0, 3 * MIB, 4 * MIB + 128 * KIB] {
        first.check(start, start + 128 * KIB).await;
    }
    let kept = first.kept().await;
    let second = mount(dir.path(), size);
    second.check_all().await;
    let then = second.kept().await;
    assert_eq!(second.bucket.bytes_asked(), size - kept.written_bytes, "{kept:?} {then:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mounts_fill_one_directory_and_find_what_the_other_wrote() {
    let dir = TempDir::new().unwrap();
    let size = 6 * MIB;
    let (a, b) = (mount(dir.path(), size), mount(dir.path(), size));
    tokio::join!(a.check_all(), b.check_all());
    a.kept().await;
    b.kept().await;
    let c = mount(dir.path(), size);
    c.check_all().await;
    assert_eq!(c.bucket.gets(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_finds_nothing_of_the_old_one() {
    let dir = TempDir::new().unwrap();
    let first = mount(dir.path(), MIB);
    first.check_all().await;
    first.kept().await;
    let bucket = ProbeBucket::new(MIB);
    bucket.inner.put(KEY, Content::Pattern { seed: 2, len: MIB });
    let second = Rig::with_config(bucket, config(dir.path(), LIMIT));
    let bytes = second.read(0, MIB).await.unwrap();
    assert!(bytes == pattern(2, ByteRange::new(0, MIB)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_and_what_was_used_last_stays() {
    let dir = TempDir::new().unwrap();
    let limit = 8 * MIB;
    let open = |key: usize| {
        let bucket = ProbeBucket::new(2 * MIB);
        let rig = Rig::with_config(bucket, config(dir.path(), limit));
        rig.bucket.inner.put(&format!("{KEY}{key}"), Content::Pattern { seed: 1, len: 2 * MIB });
        let key = ObjectKey::new(format!("{KEY}{key}")).unwrap();
        let etag = rig.bucket.inner.object(key.as_str()).unwrap().head.meta.etag;
        let object = rig.engine.open(Arc::new(ObjectVersion::new(key, 2 * MIB, etag)));
        (rig, object)
    };
    for key in 0..12 {
        let (rig, object) = open(key);
        check(&object, ByteRange::new(0, 2 * MIB)).await;
        rig.kept().await;
        let used: u64 = disk::list(dir.path()).unwrap().iter().map(|object| object.disk_bytes).sum();
        assert!(used <= limit, "{used} bytes after {key}");
    }
    let (rig, object) = open(11);
    check(&object, ByteRange::new(0, 2 * MIB)).await;
    assert_eq!(rig.bucket.gets(), 0, "the last one is there");
    let (rig, object) = open(0);
    check(&object, ByteRange::new(0, 2 * MIB)).await;
    assert_ne!(rig.bucket.gets(), 0, "the first one is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_the_cache_is_read_and_kept_in_part() {
    let dir = TempDir::new().unwrap();
    let size = 24 * MIB;
    let rig = Rig::with_config(ProbeBucket::new(size), config(dir.path(), 8 * MIB));
    rig.check_all().await;
    let stats = rig.kept().await;
    assert!(stats.left_out_blocks > 0 && stats.errors == 0, "{stats:?}");
    let used: u64 = disk::list(dir.path()).unwrap().iter().map(|object| object.disk_bytes).sum();
    assert!((MIB..=8 * MIB).contains(&used), "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_objects_are_open_in_it_than_it_may_have() {
    let dir = TempDir::new().unwrap();
    let rig = mount(dir.path(), MIB);
    let etag = rig.bucket.inner.object(KEY).unwrap().head.meta.etag;
    let open = |key: &str| {
        rig.bucket.inner.put(key, Content::Pattern { seed: 1, len: MIB });
        let version = ObjectVersion::new(ObjectKey::new(key).unwrap(), MIB, etag.clone());
        rig.engine.open(Arc::new(version))
    };
    let mut objects = Vec::new();
    for key in ["a", "b", "c"] {
        let object = open(key);
        check(&object, ByteRange::new(0, MIB)).await;
        objects.push(object);
        rig.kept().await;
    }
    let keys = || {
        let mut objects = disk::list(dir.path()).unwrap();
        objects.sort_by_key(|object| object.identity.as_ref().map(|identity| identity.key.clone()));
        objects.into_iter().map(|object| object.identity.unwrap().key).collect::<Vec<_>>()
    };
    assert_eq!(keys(), ["a", "b"]);
    objects.clear();
    let object = open("d");
    check(&object, ByteRange::new(0, MIB)).await;
    rig.kept().await;
    assert_eq!(keys(), ["a", "b", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_without_its_etag_is_read_and_not_kept() {
    let dir = TempDir::new().unwrap();
    let bucket = ProbeBucket::new(MIB);
    let etag = bucket.etag();
    bucket.edit_replies(|reply| without_etag(&mut reply.meta));
    let rig = Rig::with_etag(bucket, config(dir.path(), LIMIT), etag);
    rig.check_all().await;
    assert_eq!(rig.kept().await.written_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_may_write_to_is_refused() {
    let dir = TempDir::new().unwrap();
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(dir.path(), open).unwrap();
    let config = config(dir.path(), LIMIT);
    let bucket = Arc::new(ProbeBucket::new(1));
    let error = ReadEngine::with_disk(bucket, config, Handle::current()).unwrap_err().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_listed_verified_and_cleared_from_outside() {
    let dir = TempDir::new().unwrap();
    let rig = mount(dir.path(), MIB);
    rig.check_all().await;
    rig.kept().await;
    let object = &disk::list(dir.path()).unwrap()[0];
    assert_eq!(object.identity.as_ref().map(|identity| identity.key.as_str()), Some(KEY));
    assert!(!disk::clear(object).unwrap(), "a mount has it open");
    drop(rig);
    let data =
        files(dir.path()).into_iter().find(|path| path.extension().is_some_and(|e| e == "data")).unwrap();
    File::options().write(true).open(data).unwrap().write_all_at(b"X", 200_000).unwrap();
    let verified = disk::verify(dir.path(), object).unwrap();
    assert_eq!((verified.right_blocks, verified.damaged), (7, 1));
    assert!(disk::clear(object).unwrap());
    assert_eq!(disk::list(dir.path()).unwrap().len(), 0);
}
