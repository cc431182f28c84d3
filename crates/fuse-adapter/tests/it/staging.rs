//! Files that memory cannot hold, staged on a disk through a real mount.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sluicefs_cache_dir::StageDir;
use sluicefs_core::{FsConfig, WriteConfig};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::MemoryBucket;
use sluicefs_s3_client::testing::memory::pattern;
use tempfile::TempDir;

use crate::support::{TestMount, bucket};

const MIB: u64 = 1 << 20;

/// A mount of `bucket` in the least memory, that stages in `cache`.
fn mounted(bucket: &MemoryBucket, cache: &Path) -> TestMount {
    let stage = StageDir::open(cache, u64::MAX).unwrap();
    let write =
        WriteConfig { memory_limit_bytes: 20 * MIB, part_size_bytes: 5 * MIB, ..WriteConfig::default() };
    let config = FsConfig { write, ..FsConfig::default() };
    TestMount::staged(Arc::new(bucket.clone()), config, Some(stage), |config| config.read_only = false)
}

fn stored(bucket: &MemoryBucket, key: &str) -> Vec<u8> {
    let content = bucket.object(key).unwrap().content;
    content.slice(ByteRange::new(0, content.len())).to_vec()
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

#[test]
fn a_file_larger_than_memory_is_written_backwards() {
    let (bucket, cache) = (bucket(&[]), TempDir::new().unwrap());
    let mount = mounted(&bucket, cache.path());
    let file = create(&mount.join("f"));
    let expected = pattern(5, ByteRange::new(0, 100 * MIB));
    for at in (0..100).rev() {
        let range = (at * MIB) as usize..((at + 1) * MIB) as usize;
        file.write_all_at(&expected[range], at * MIB).unwrap();
    }
    let mut read = vec![0; 3 * MIB as usize];
    file.read_exact_at(&mut read, 50 * MIB + 7).unwrap();
    assert!(read == expected[50 * MIB as usize + 7..53 * MIB as usize + 7]);
    file.sync_all().unwrap();
    assert!(stored(&bucket, "f") == expected);
}

/// A disk of 64 MiB.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where it cannot be had.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount a small disk");
            return None;
        }
        let directory = TempDir::new().unwrap();
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), c"size=64m,mode=700").unwrap();
        Some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.0.path(), UnmountFlags::DETACH) {
            eprintln!("unmounting {}: {error}", self.0.path().display());
        }
    }
}

#[test]
fn a_full_disk_fails_the_write_and_loses_nothing() {
    let Some(disk) = SmallDisk::new() else { return };
    let bucket = bucket(&[]);
    let mount = mounted(&bucket, disk.0.path());
    let other = create(&mount.join("other"));
    other.write_all_at(b"written before", 0).unwrap();
    let file = create(&mount.join("scattered"));
    let piece = pattern(6, ByteRange::new(0, MIB));
    let mut expected = Vec::new();
    let error = loop {
        // Every other MiB, so that no part is ever complete.
        match file.write_all_at(&piece, expected.len() as u64 + MIB) {
            Ok(()) => {
                expected.resize(expected.len() + MIB as usize, 0);
                expected.extend(&piece);
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(expected.len() as u64 > 2 * 60 * MIB, "the disk was used: {}", expected.len());
    other.write_all_at(b" and after", 14).unwrap();
    other.sync_all().unwrap();
    file.sync_all().unwrap();
    drop((file, other));
    let (len, stored) = (expected.len(), stored(&bucket, "scattered"));
    // Of the write that failed, the kernel may have passed on a beginning.
    assert!(stored.len() >= len && stored[..len] == expected);
    assert_eq!(fs::read(mount.join("other")).unwrap(), b"written before and after");
    let again = create(&mount.join("again"));
    again.write_all_at(&piece, 0).unwrap();
    again.sync_all().unwrap();
}
