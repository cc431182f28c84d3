//! Names: listed, found, not found, too long, and strange.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, open, seek};
use rustix::io::Errno;
use sluicefs_core::{FsConfig, Ttl};
use sluicefs_s3_client::testing::memory::MemoryBucket;

use crate::support::{TestMount, bucket};

fn names(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_io_error(&result.expect_err("it should fail")).expect("an error of the kernel")
}

fn many(count: usize) -> MemoryBucket {
    let bucket = MemoryBucket::new("many");
    for n in 0..count {
        bucket.put(&format!("d/f{n:05}"), "x");
    }
    bucket
}

#[test]
fn directories_list_files_and_prefixes() {
    let bucket = bucket(&[("a.txt", "1"), ("dir/b.txt", "22"), ("dir/sub/c.txt", "333"), ("marker/", "")]);
    let mount = TestMount::new(Arc::new(bucket), FsConfig::default());
    assert_eq!(names(mount.path()), ["a.txt", "dir", "marker"].map(str::to_owned).into());
    assert_eq!(names(&mount.join("dir")), ["b.txt", "sub"].map(str::to_owned).into());
    assert_eq!(names(&mount.join("marker")), BTreeSet::new());
    let kinds: BTreeSet<_> = fs::read_dir(mount.join("dir"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.file_type().unwrap().is_dir()))
        .collect();
    assert_eq!(kinds, [("b.txt".to_owned(), false), ("sub".to_owned(), true)].into());
    assert_eq!(fs::metadata(mount.join("dir/sub/c.txt")).unwrap().len(), 3);
}

#[test]
fn a_directory_of_many_pages_lists_each_name_once() {
    let mount = TestMount::new(Arc::new(many(2500)), FsConfig::default());
    let listed: Vec<_> = fs::read_dir(mount.join("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let unique: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!((listed.len(), unique.len()), (2500, 2500));
    assert!(unique.contains("f00000") && unique.contains("f02499"));
}

#[test]
fn reading_goes_on_where_a_cookie_points_and_starts_over_at_zero() {
    let mount = TestMount::new(Arc::new(many(1000)), FsConfig::default());
    let dir = open(mount.join("d"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut space = vec![MaybeUninit::uninit(); 8192];
    let mut read_on = || {
        let mut seen = Vec::new();
        let mut raw = RawDir::new(&dir, &mut space);
        while let Some(entry) = raw.next() {
            let entry = entry.unwrap();
            seen.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
        }
        seen
    };
    let all = read_on();
    assert_eq!(all.len(), 1002, "1,000 names, . and ..");
    for at in [0, 1, 2, 500, 997, 1000] {
        seek(&dir, SeekFrom::Start(all[at].1)).unwrap();
        assert_eq!(read_on(), all[at + 1..], "after entry {at}");
    }
    seek(&dir, SeekFrom::Start(0)).unwrap();
    assert_eq!(read_on(), all);
}

#[test]
fn strange_names_work() {
    let odd =
        ["a b", "new\nline", "🦀.bin", "a+b%41&c", "back\\slash", "\"quotes'", "-rf", " ", "...", "ümläut"];
    let bucket = MemoryBucket::new("odd");
    for (n, name) in odd.iter().enumerate() {
        bucket.put(&format!("odd/{name}"), n.to_string().into_bytes());
    }
    let mount = TestMount::new(Arc::new(bucket), FsConfig::default());
    assert_eq!(names(&mount.join("odd")), odd.map(str::to_owned).into());
    for (n, name) in odd.iter().enumerate() {
        assert_eq!(fs::read_to_string(mount.join("odd").join(name)).unwrap(), n.to_string(), "{name:?}");
    }
}

#[test]
fn names_that_are_not_there_are_not_found() {
    let mount = TestMount::new(Arc::new(bucket(&[("file", "x"), ("dir/file", "x")])), FsConfig::default());
    assert_eq!(errno(fs::metadata(mount.join("none"))), Errno::NOENT);
    assert_eq!(errno(fs::metadata(mount.join("none"))), Errno::NOENT, "the kernel remembers");
    assert_eq!(errno(fs::metadata(mount.join("dir/none"))), Errno::NOENT);
    assert_eq!(errno(fs::metadata(mount.join("file/none"))), Errno::NOTDIR);
    assert_eq!(errno(fs::read_dir(mount.join("file"))), Errno::NOTDIR);
    assert_eq!(errno(fs::read(mount.join("dir"))), Errno::ISDIR);
    let not_utf8 = mount.path().join(OsStr::from_bytes(b"caf\xe9"));
    assert_eq!(errno(fs::metadata(not_utf8)), Errno::NOENT);
}

#[test]
fn names_of_over_255_bytes_are_too_long() {
    let longest = "n".repeat(255);
    let bucket = MemoryBucket::new("long");
    bucket.put(&longest, "x");
    let mount = TestMount::new(Arc::new(bucket), FsConfig::default());
    assert_eq!(fs::read_to_string(mount.join(&longest)).unwrap(), "x");
    assert_eq!(errno(fs::metadata(mount.join(&"n".repeat(256)))), Errno::NAMETOOLONG);
}

#[test]
fn absence_is_forgotten_when_its_time_is_over() {
    let store = bucket(&[]);
    let config = FsConfig {
        negative_ttl: Ttl::For(Duration::ZERO),
        metadata_ttl: Ttl::For(Duration::ZERO),
        ..FsConfig::default()
    };
    let mount = TestMount::new(Arc::new(store.clone()), config);
    assert_eq!(errno(fs::metadata(mount.join("later"))), Errno::NOENT);
    store.put("later", "here");
    assert_eq!(fs::read_to_string(mount.join("later")).unwrap(), "here");
}

#[test]
fn absence_is_believed_for_its_time() {
    let store = bucket(&[]);
    let config = FsConfig {
        negative_ttl: Ttl::Forever,
        metadata_ttl: Ttl::For(Duration::ZERO),
        ..FsConfig::default()
    };
    let mount = TestMount::new(Arc::new(store.clone()), config);
    assert_eq!(errno(fs::metadata(mount.join("later"))), Errno::NOENT);
    store.put("later", "here");
    assert_eq!(errno(fs::metadata(mount.join("later"))), Errno::NOENT);
}

#[test]
fn forgotten_inodes_leave_the_table() {
    let mount = TestMount::new(Arc::new(many(1000)), FsConfig::default());
    assert_eq!(names(&mount.join("d")).len(), 1000);
    assert!(mount.fs.inode_count() >= 1000, "READDIRPLUS counts each as looked up");
    let fs = Arc::clone(&mount.fs);
    let path = mount.path().to_owned();
    // Remounting read-only what is read-only changes nothing, but the kernel then drops the names it does not use, and forgets them.
    rustix::mount::mount_remount(
        &path,
        rustix::mount::MountFlags::RDONLY
            | rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV,
        "",
    )
    .unwrap();
    // FORGET is sent in the background; whoever is answered after it has seen it.
    for _ in 0..1000 {
        if fs.inode_count() < 100 {
            return;
        }
        rustix::fs::statfs(&path).unwrap();
    }
    panic!("{} inodes are still held", fs.inode_count());
}
