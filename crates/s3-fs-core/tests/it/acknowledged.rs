//! Files that are acknowledged before the store has them, over a store that is slow, away, or changed by others.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sluicefs_cache_dir::StageDir;
use sluicefs_core::{
    Attributes, Creation, Existing, FileSystem, FsConfig, HandleId, InodeNo, NewAttr, SetAttr, Unfinished,
    WriteBack, WriteConfig,
};
use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule};

const MIB: u64 = 1 << 20;
const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };
const GRACE: Duration = Duration::from_secs(30);

struct Rig {
    store: MemoryBucket,
    bucket: Arc<FaultBucket<MemoryBucket>>,
    fs: Arc<FileSystem>,
    _cache: tempfile::TempDir,
}

fn config() -> FsConfig {
    let write = WriteConfig { write_back: WriteBack::Async, ..WriteConfig::default() };
    FsConfig { write, ..FsConfig::default() }
}

impl Rig {
    fn new(config: FsConfig) -> Self {
        let store = MemoryBucket::new("b").with_traits(|traits| traits.max_copy_bytes = 8 * MIB);
        let bucket = Arc::new(FaultBucket::new(store.clone()));
        let cache = tempfile::tempdir().unwrap();
        let stage = StageDir::open(cache.path(), 1 << 30).unwrap();
        let fs = FileSystem::with_stage(Arc::clone(&bucket) as _, config, Some(stage)).unwrap();
        Self { store, bucket, fs, _cache: cache }
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

    /// Returns when the store was asked for that so often.
    async fn asked(&self, operation: Operation, times: u64) {
        while self.bucket.requests().of(operation) < times {
            tokio::task::yield_now().await;
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
    assert_eq!(rig.fs.finish(GRACE).await, Unfinished::default());
    assert_eq!(rig.stored("f")[..4], *b"new\x07");
    assert!(rig.fs.queued_files().is_empty() && rig.fs.write_status().files.is_empty());
}

#[tokio::test]
async fn a_file_that_is_open_when_the_mount_ends_does_not_keep_the_bucket() {
    let rig = Rig::new(config());
    let (_, handle) = rig.create("f").await;
    rig.fs.write(handle, 0, b"not closed").await.unwrap();
    assert_eq!(rig.fs.finish(GRACE).await.lost.len(), 1);
    let bucket = Arc::downgrade(&rig.bucket);
    drop(rig);
    let is_gone = async {
        while Weak::strong_count(&bucket) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GRACE, is_gone).await.expect("nothing holds the bucket");
}
