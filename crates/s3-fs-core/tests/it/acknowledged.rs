//! Files that are acknowledged before the store has them, over a store that is slow, away, or changed by others.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sluicefs_cache_dir::StageDir;
use sluicefs_core::{
    Attributes, Creation, Ended, Existing, FileSystem, FsConfig, HandleId, InodeNo, NewAttr, Replace,
    Restored, SetAttr, Unfinished, WriteBack, WriteConfig,
};
use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule, When};
use sluicefs_s3_client::{self as s3, Bucket};

const MIB: u64 = 1 << 20;
const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };
const GRACE: Duration = Duration::from_secs(30);

struct Rig {
    store: MemoryBucket,
    bucket: Arc<FaultBucket<MemoryBucket>>,
    fs: Arc<FileSystem>,
    cache: tempfile::TempDir,
}

fn config() -> FsConfig {
    let write = WriteConfig { write_back: WriteBack::Async, ..WriteConfig::default() };
    FsConfig { write, ..FsConfig::default() }
}

fn transient() -> Fault {
    Fault::Fail(s3::Error::new(s3::ErrorKind::Transient, "away"))
}

/// Copies all stages in the cache `from` to the cache `to`, but for what is there.
fn copy_files(from: &Path, to: &Path) {
    let stages = fs::read_dir(from.join("stage")).unwrap().map(|entry| entry.unwrap().path());
    for stage in stages.filter(|path| path.is_dir()) {
        let copy = to.join("stage").join(stage.file_name().unwrap());
        fs::create_dir_all(&copy).unwrap();
        for file in fs::read_dir(stage).unwrap().map(|entry| entry.unwrap().path()) {
            let copy = copy.join(file.file_name().unwrap());
            if !copy.exists() {
                fs::copy(&file, copy).unwrap();
            }
        }
    }
}

impl Rig {
    fn new(config: FsConfig) -> Self {
        let store = MemoryBucket::new("b").with_traits(|traits| traits.max_copy_bytes = 8 * MIB);
        Self::over(store, config, tempfile::tempdir().unwrap())
    }

    fn over(store: MemoryBucket, config: FsConfig, cache: tempfile::TempDir) -> Self {
        let bucket = Arc::new(FaultBucket::new(store.clone()));
        let stage = StageDir::open(cache.path(), 1 << 30).unwrap();
        let fs = FileSystem::with_stage(Arc::clone(&bucket) as _, config, Some(stage)).unwrap();
        Self { store, bucket, fs, cache }
    }

    async fn create(&self, name: &str) -> (InodeNo, HandleId) {
        let create = self.fs.create(InodeNo::ROOT, name, NEW, Creation::OrOpen(Existing::Truncate));
        let (entry, opened) = create.await.unwrap();
        (entry.attr.ino, opened.handle)
    }

    async fn open(&self, ino: InodeNo) -> HandleId {
        self.fs.open_for_writing(ino, Existing::Keep).await.unwrap().handle
    }

    async fn close(&self, handle: HandleId) {
        self.fs.flush(handle).await.unwrap();
        self.fs.release(handle);
    }

    /// What is on disk now.
    fn copy_of_cache(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.cache.path(), copy.path());
        copy
    }

    /// What the next mount finds if this one is killed now.
    async fn after_a_crash(&self) -> Self {
        let next = Self::over(self.store.clone(), config(), self.copy_of_cache());
        assert_eq!(next.fs.restore().await.left, 0);
        next
    }

    async fn no_uploads(&self) {
        let uploads = self.store.list_uploads(&s3::KeyPrefix::root(), None).await.unwrap().uploads;
        assert!(uploads.is_empty(), "{uploads:?}");
    }

    /// Writes `data` at `offset` of the file `name`, and closes it.
    async fn write(&self, name: &str, offset: u64, data: &[u8]) {
        let ino = self.fs.lookup(InodeNo::ROOT, name).await.unwrap().attr.ino;
        let handle = self.open(ino).await;
        self.fs.write(handle, offset, data).await.unwrap();
        self.close(handle).await;
        self.fs.forget(ino, 1);
    }

    /// The store takes nothing until its faults are cleared.
    fn refuse(&self) {
        for operation in [Operation::Put, Operation::CompleteUpload] {
            self.bucket.plan().add(Rule::new(transient()).on(operation));
        }
    }

    /// Returns when sending the one file in the queue has failed so often.
    async fn failed(&self, times: u32) {
        while self.fs.queued_files().iter().all(|file| file.failures < times) {
            tokio::task::yield_now().await;
        }
    }

    /// Returns when the store was asked for that so often.
    async fn asked(&self, operation: Operation, times: u64) {
        while self.bucket.requests().of(operation) < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn stored(&self, key: &str) -> Vec<u8> {
        self.store.object(key).unwrap().content.pieces().flatten().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_written_again_while_its_metadata_are_sent_is_sent_again() {
    let rig = Rig::new(FsConfig { attributes: Attributes::S3fs, ..config() });
    let (ino, handle) = rig.create("f").await;
    for at in 0..20 {
        rig.fs.write(handle, at * MIB, &[7; MIB as usize]).await.unwrap();
    }
    rig.asked(Operation::UploadPart, 1).await;
    let private = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    rig.fs.set_attr(ino, private).await.unwrap();
    rig.bucket.plan().add(Rule::new(Fault::Latency(GRACE / 2)).on(Operation::CopyPart));
    rig.close(handle).await;
    // The object is there, and is copied onto itself for its mode.
    rig.asked(Operation::CopyPart, 1).await;
    let untouched = rig.open(ino).await;
    rig.close(untouched).await;
    let again = rig.open(ino).await;
    rig.fs.write(again, 0, b"new").await.unwrap();
    rig.close(again).await;
    assert_eq!(rig.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
    assert_eq!(rig.stored("f")[..4], *b"new\x07");
    assert!(rig.fs.queued_files().is_empty() && rig.fs.write_status().files.is_empty());
}

#[tokio::test]
async fn a_file_that_is_open_when_the_mount_ends_does_not_keep_the_bucket() {
    let rig = Rig::new(config());
    let (_, handle) = rig.create("f").await;
    rig.fs.write(handle, 0, b"not closed").await.unwrap();
    assert_eq!(rig.fs.finish(Ended::TakenAway, GRACE).await.lost.len(), 1);
    let bucket = Arc::downgrade(&rig.bucket);
    drop(rig);
    let is_gone = async {
        while Weak::strong_count(&bucket) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GRACE, is_gone).await.expect("nothing holds the bucket");
}

#[tokio::test]
async fn what_was_written_through_a_mapping_is_sent_although_nobody_says_that_it_was_closed() {
    for write_back in [WriteBack::Off, WriteBack::Async] {
        let write = WriteConfig { write_back, ..WriteConfig::default() };
        let rig = Rig::new(FsConfig { write, ..FsConfig::default() });
        let (_, handle) = rig.create("f").await;
        rig.fs.write(handle, 0, b"closed").await.unwrap();
        rig.fs.flush(handle).await.unwrap();
        rig.fs.write(handle, 0, b"MAPPED").await.unwrap();
        assert_eq!(rig.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
        assert_eq!(rig.stored("f"), b"MAPPED");
    }
}

/// What is written to a file of which a mount that was killed may have sent what it had saved.
#[tokio::test(start_paused = true)]
async fn what_a_killed_mount_had_sent_can_be_written_on() {
    for (first, is_large) in [(&b"one"[..], false), (&[1; 20 * MIB as usize], true)] {
        for is_change in [false, true] {
            let rig = Rig::new(config());
            if is_change {
                rig.store.put("f", vec![0; first.len()]);
            } else {
                let (_, handle) = rig.create("f").await;
                rig.refuse();
                rig.close(handle).await;
            }
            rig.refuse();
            rig.write("f", 0, first).await;
            rig.failed(1).await;
            let killed = rig.after_a_crash().await;
            rig.bucket.plan().clear();
            assert_eq!(rig.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
            assert_eq!(rig.stored("f"), first);
            if is_large {
                // Of parts the first attempt was noted.
                assert_eq!(rig.bucket.requests().of(Operation::Put), 0);
            }

            killed.write("f", first.len() as u64, b"two").await;
            killed.fs.send_restored();
            assert_eq!(killed.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
            assert!(killed.stored("f") == [first, b"two"].concat(), "change: {is_change}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_without_an_answer_is_known_after_it_was_written_on_and_a_crash() {
    let rig = Rig::new(config());
    rig.store.put("f", "old content");
    rig.bucket.plan().add(Rule::new(Fault::AnswerLost).on(Operation::Put).when(When::First(1)));
    rig.write("f", 0, b"one").await;
    rig.failed(1).await;
    assert_eq!(rig.stored("f"), b"one content");
    rig.bucket.plan().add(Rule::new(transient()).on(Operation::Head));
    rig.write("f", 4, b"two").await;
    let next = rig.after_a_crash().await;
    next.bucket.plan().add(Rule::new(Fault::AnswerLost).on(Operation::Put).when(When::First(1)));
    next.fs.send_restored();
    next.failed(1).await;
    assert_eq!(next.stored("f"), b"one twotent");
    let last = next.after_a_crash().await;
    last.write("f", 0, b"ONE").await;
    last.fs.send_restored();
    assert_eq!(last.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
    assert_eq!(last.stored("f"), b"ONE twotent");
}

#[tokio::test(start_paused = true)]
async fn what_was_saved_does_not_come_back_over_what_was_synced_later() {
    for len in [3, 20 * MIB as usize] {
        let rig = Rig::new(config());
        let (ino, handle) = rig.create("f").await;
        rig.refuse();
        rig.fs.write(handle, 0, &vec![1; len]).await.unwrap();
        rig.close(handle).await;
        rig.failed(1).await;
        let handle = rig.open(ino).await;
        rig.fs.write(handle, 0, b"new").await.unwrap();
        rig.bucket.plan().clear();
        let lost = [Operation::Put, Operation::CompleteUpload];
        lost.into_iter()
            .for_each(|operation| rig.bucket.plan().add(Rule::new(Fault::AnswerLost).on(operation)));
        rig.fs.fsync(handle).await.unwrap_err();
        assert_eq!(rig.stored("f")[..3], *b"new");
        let next = rig.after_a_crash().await;
        assert!(next.fs.queued_files().is_empty());
        next.fs.send_restored();
        assert_eq!(next.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
        assert_eq!(next.stored("f")[..3], *b"new");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_over_yet_is_taken_over_later() {
    let rig = Rig::new(config());
    for name in ["dir/one", "dir/two"] {
        rig.store.put(name, "old");
    }
    rig.refuse();
    let dir = rig.fs.lookup(InodeNo::ROOT, "dir").await.unwrap().attr.ino;
    for name in ["one", "two"] {
        let ino = rig.fs.lookup(dir, name).await.unwrap().attr.ino;
        let handle = rig.open(ino).await;
        rig.fs.write(handle, 0, b"new").await.unwrap();
        rig.close(handle).await;
    }
    let (_, handle) = rig.create("three").await;
    rig.fs.write(handle, 0, b"new").await.unwrap();
    rig.close(handle).await;
    let next = Rig::over(rig.store.clone(), config(), rig.copy_of_cache());
    for operation in [Operation::Head, Operation::List] {
        next.bucket.plan().add(Rule::new(transient()).on(operation));
    }
    assert_eq!(next.fs.restore().await, Restored { taken: 0, left: 3 });
    let asked = next.bucket.requests().total();
    assert!(asked <= 2, "the others do not wait for the store, too: {asked}");
    next.bucket.plan().clear();
    next.fs.send_restored();
    let dir = next.fs.lookup(InodeNo::ROOT, "dir").await.unwrap().attr.ino;
    let before = next.fs.lookup(dir, "one").await.unwrap().attr.ino;
    let reader = next.fs.open(before).await.unwrap().handle;
    tokio::time::sleep(GRACE).await;
    assert_eq!(next.stored("dir/one"), b"new");
    assert_eq!(next.stored("dir/two"), b"new");
    assert_eq!(next.stored("three"), b"new");
    let after = next.fs.lookup(dir, "one").await.unwrap().attr.ino;
    assert_ne!(before, after, "the kernel may have pages of the old object");
    next.fs.release(reader);
    assert_eq!(next.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_over_and_saved_again_is_one_file_after_the_next_crash() {
    let rig = Rig::new(config());
    let (_, handle) = rig.create("f").await;
    rig.refuse();
    rig.fs.write(handle, 0, b"one").await.unwrap();
    rig.close(handle).await;
    let second = rig.after_a_crash().await;
    let before = second.copy_of_cache();
    second.write("f", 3, b"two").await;
    // The crash comes before the first, in another stage, is let go of.
    let after = second.copy_of_cache();
    copy_files(before.path(), after.path());
    let third = Rig::over(rig.store.clone(), config(), after);
    assert_eq!(third.fs.restore().await, Restored { taken: 1, left: 0 });
    third.fs.send_restored();
    assert_eq!(third.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
    assert_eq!(third.stored("f"), b"onetwo");
}

#[tokio::test]
async fn a_file_that_was_removed_while_it_was_open_leaves_no_parts_when_the_mount_is_taken_away() {
    let rig = Rig::new(config());
    let (_, handle) = rig.create("f").await;
    for at in 0..20 {
        rig.fs.write(handle, at * MIB, &[7; MIB as usize]).await.unwrap();
    }
    rig.asked(Operation::UploadPart, 1).await;
    rig.fs.unlink(InodeNo::ROOT, "f").await.unwrap();
    assert_eq!(rig.fs.finish(Ended::TakenAway, GRACE).await, Unfinished::default());
    rig.no_uploads().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_nobody_waits_for_any_more_leaves_no_parts() {
    let rig = Rig::new(config());
    rig.store.put("f", vec![1; 20 * MIB as usize]);
    rig.fs.lookup(InodeNo::ROOT, "f").await.unwrap();
    rig.bucket.plan().add(Rule::new(Fault::Silence).on(Operation::CopyPart));
    let rename = rig.fs.rename((InodeNo::ROOT, "f"), (InodeNo::ROOT, "g"), Replace::Allowed);
    tokio::time::timeout(GRACE, rename).await.expect_err("it hangs");
    assert_eq!(rig.bucket.requests().of(Operation::CopyPart), 1);
    rig.fs.finish(Ended::TakenAway, GRACE).await;
    rig.no_uploads().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_saved_while_it_is_renamed_has_the_new_name_after_a_crash() {
    let rig = Rig::new(config());
    let (_, handle) = rig.create("old").await;
    rig.fs.write(handle, 0, b"one").await.unwrap();
    // Somebody reads what is replaced: its bytes are fetched before that, and after the object was made.
    rig.store.put("new", "replaced");
    let replaced = rig.fs.lookup(InodeNo::ROOT, "new").await.unwrap().attr.ino;
    let reader = rig.fs.open(replaced).await.unwrap().handle;
    for operation in [Operation::Get, Operation::Copy] {
        rig.bucket.plan().add(Rule::new(Fault::Latency(GRACE)).on(operation));
    }
    let rename = rig.fs.rename((InodeNo::ROOT, "old"), (InodeNo::ROOT, "new"), Replace::Allowed);
    let meanwhile = async {
        rig.asked(Operation::Get, 1).await;
        rig.fs.write(handle, 3, b"two").await.unwrap();
        rig.fs.flush(handle).await.unwrap();
        rig.asked(Operation::Copy, 1).await;
        let next = rig.after_a_crash().await;
        assert!(next.fs.queued_files().iter().all(|file| file.key.as_str() != "old"));
    };
    let (renamed, ()) = tokio::join!(rename, meanwhile);
    renamed.unwrap();
    rig.fs.release(handle);
    rig.fs.release(reader);
    assert_eq!(rig.fs.finish(Ended::Unmounted, GRACE).await, Unfinished::default());
    assert_eq!(rig.stored("new"), b"onetwo");
}

#[tokio::test(start_paused = true)]
async fn what_is_written_below_a_directory_that_moved_in_part_goes_where_its_object_went() {
    let rig = Rig::new(FsConfig::default());
    let names = ["a", "b", "c"];
    for name in names {
        rig.store.put(&format!("dir/{name}"), "old");
    }
    let dir = rig.fs.lookup(InodeNo::ROOT, "dir").await.unwrap().attr.ino;
    let mut handles = Vec::new();
    for name in names {
        let ino = rig.fs.lookup(dir, name).await.unwrap().attr.ino;
        handles.push(rig.open(ino).await);
    }
    let error = s3::Error::new(s3::ErrorKind::Forbidden, "delete");
    rig.bucket.plan().add(Rule::new(Fault::SomeFail { every: 2, error }).on(Operation::DeleteMany));
    let moved = rig.fs.rename((InodeNo::ROOT, "dir"), (InodeNo::ROOT, "new"), Replace::Allowed).await;
    moved.unwrap_err();
    for handle in handles {
        rig.fs.write(handle, 0, b"new").await.unwrap();
        rig.close(handle).await;
    }
    for (name, is_left) in [("a", true), ("b", false), ("c", true)] {
        let (old, new) = (format!("dir/{name}"), format!("new/{name}"));
        assert_eq!(rig.stored(if is_left { &old } else { &new }), b"new", "{name}");
        assert_eq!(rig.store.object(&old).is_some(), is_left, "{name}");
    }
}
