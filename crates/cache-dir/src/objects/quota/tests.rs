//! The count, as several processes and strangers make it go wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::objects::format::{BLOCK_BYTES, example};
use crate::objects::{Entry, Way, list};

const MIB: u64 = 1 << 20;

fn cache() -> TempDir {
    let root = TempDir::new().unwrap();
    own_directory(&root.path().join("objects")).unwrap();
    root
}

/// Keeps an object of one block.
fn keep(root: &Path, key: &str) {
    let sealed = example(key, BLOCK_BYTES);
    let entry = Entry::open_or_create(&root.join("objects"), &sealed).unwrap().unwrap();
    entry.write(0, &[&[7; BLOCK_BYTES as usize]], Way::Through).unwrap();
}

/// What the cache takes of the disk.
fn disk_bytes(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    let below = metadata.is_dir().then(|| fs::read_dir(path).unwrap());
    metadata.blocks() * 512
        + below.into_iter().flatten().map(|entry| disk_bytes(&entry.unwrap().path())).sum::<u64>()
}

#[test]
fn room_that_is_not_written_yet_is_nobody_elses() {
    let root = cache();
    let (a, b) = (Quota::open(root.path(), 8 * MIB).unwrap(), Quota::open(root.path(), 8 * MIB).unwrap());
    let taken: Vec<Room<'_>> = (0..7).map(|_| a.take(MIB).unwrap().unwrap()).collect();
    assert!(b.take(2 * MIB).unwrap().is_none(), "counted anew, {taken:?} are still to be written");
    drop(taken);
    let other = Quota::open(root.path(), 64 * MIB).unwrap();
    let _taken = other.take(20 * MIB).unwrap().unwrap();
    assert!(b.take(MIB).unwrap().is_none(), "a process with a higher limit took it");
}

#[test]
fn room_whose_process_is_gone_is_free() {
    let root = cache();
    let dead = Quota::open(root.path(), 8 * MIB).unwrap();
    let taken = dead.take(7 * MIB).unwrap();
    drop(taken);
    drop(dead);
    assert!(Quota::open(root.path(), 8 * MIB).unwrap().take(7 * MIB).unwrap().is_some());
}

#[test]
fn directories_count() {
    let root = cache();
    for n in 0..50 {
        keep(root.path(), &n.to_string());
    }
    let objects = root.path().join("objects");
    assert_eq!(census(&objects).unwrap().bytes, disk_bytes(&objects));
}

#[test]
fn what_others_put_there_is_in_nobodys_way() {
    let root = cache();
    keep(root.path(), "a");
    let objects = root.path().join("objects");
    fs::write(objects.join("file"), "x").unwrap();
    let shelf = fs::read_dir(&objects).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
    let shelf = shelf.unwrap();
    fs::create_dir(shelf.join("directory.index")).unwrap();
    std::os::unix::fs::symlink("/dev/null", shelf.join("link.index")).unwrap();
    let quota = Quota::open(root.path(), 8 * MIB).unwrap();
    assert_eq!(list(root.path()).unwrap().len(), 1);
    let _taken = quota.take(8 * MIB - 64 * 1024).unwrap().unwrap();
    assert_eq!(list(root.path()).unwrap().len(), 0);
    assert!(quota.take(MIB).unwrap().is_none());
}

#[test]
fn an_entry_that_cannot_be_removed_does_not_keep_the_others() {
    let root = cache();
    for key in ["a", "b"] {
        keep(root.path(), key);
    }
    let files = Files::of(&root.path().join("objects"), example("a", BLOCK_BYTES).name());
    fs::remove_file(&files.data).unwrap();
    fs::create_dir(&files.data).unwrap();
    let quota = Quota::open(root.path(), 4 * MIB).unwrap();
    let _taken = quota.take(4 * MIB - 64 * 1024).unwrap().unwrap();
    assert_eq!(list(root.path()).unwrap().len(), 1);
    assert!(quota.take(MIB).is_err(), "nothing is left but what cannot go");
}

#[test]
fn only_the_owner_sees_what_is_kept() {
    let root = cache();
    keep(root.path(), "a");
    for shelf in fs::read_dir(root.path().join("objects")).unwrap() {
        let shelf = shelf.unwrap();
        assert_eq!(shelf.metadata().unwrap().permissions().mode() & 0o7777, 0o700, "{shelf:?}");
        for file in fs::read_dir(shelf.path()).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        }
    }
}
