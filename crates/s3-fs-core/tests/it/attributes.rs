//! Attributes that are kept in metadata, where several clients change one object.

use std::sync::Arc;
use std::time::Duration;

use sluicefs_core::{
    Attributes, Entry, ErrorKind, Existing, FileSystem, FsConfig, InodeNo, OnConflict, Replace, SetAttr,
    WriteConfig, XattrMode,
};
use sluicefs_s3_client::StorageClass;
use sluicefs_s3_client::testing::memory::Content;
use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule};

const MIB: u64 = 1 << 20;

/// Larger objects are copied in parts.
const MAX_COPY_BYTES: u64 = 8 * MIB;

const SECOND: Duration = Duration::from_secs(1);

struct Rig {
    store: MemoryBucket,
    bucket: Arc<FaultBucket<MemoryBucket>>,
    fs: Arc<FileSystem>,
}

fn store() -> MemoryBucket {
    MemoryBucket::new("b").with_traits(|traits| traits.max_copy_bytes = MAX_COPY_BYTES)
}

fn kept(attributes: Attributes) -> FsConfig {
    FsConfig { attributes, ..FsConfig::default() }
}

fn mode(mode: u16) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

impl Rig {
    fn new(store: &MemoryBucket) -> Self {
        Self::with(store, kept(Attributes::S3fs))
    }

    fn with(store: &MemoryBucket, config: FsConfig) -> Self {
        let bucket = Arc::new(FaultBucket::new(store.clone()));
        let fs = FileSystem::new(Arc::clone(&bucket) as _, config).unwrap();
        Self { store: store.clone(), bucket, fs }
    }

    async fn look(&self, path: &str) -> Entry {
        let mut entry = self.fs.getattr(InodeNo::ROOT).await.unwrap();
        for name in path.split('/') {
            entry = self.fs.lookup(entry.attr.ino, name).await.unwrap();
        }
        entry
    }

    async fn set(&self, path: &str, set: SetAttr) -> Result<Entry, ErrorKind> {
        let ino = self.look(path).await.attr.ino;
        self.fs.set_attr(ino, set).await.map_err(|error| error.kind())
    }

    fn text(&self, key: &str) -> String {
        let content = self.store.object(key).unwrap().content;
        String::from_utf8(content.pieces().collect::<Vec<_>>().concat()).unwrap()
    }

    fn size(&self, key: &str) -> u64 {
        self.store.object(key).unwrap().content.len()
    }
}

/// A change of attributes that the store is busy with when another client replaces the object: how it ends, and the object's length then.
async fn replaced_meanwhile(len: u64, on_conflict: OnConflict) -> (Result<u16, ErrorKind>, u64) {
    let write = WriteConfig { on_conflict, ..WriteConfig::default() };
    let config = FsConfig { write, ..kept(Attributes::S3fs) };
    let rig = Rig::with(&store().with_copy_time(SECOND), config);
    rig.store.put("f", Content::Pattern { seed: 1, len });
    let last = Rule::new(Fault::Latency(SECOND)).on(Operation::CompleteUpload);
    rig.bucket.plan().add(last);
    let ino = rig.look("f").await.attr.ino;
    let changed = async { rig.fs.set_attr(ino, mode(0o600)).await };
    let replaced = async {
        tokio::time::sleep(SECOND / 2).await;
        rig.store.put("f", "theirs");
    };
    let (changed, ()) = tokio::join!(changed, replaced);
    (changed.map(|entry| entry.attr.mode).map_err(|error| error.kind()), rig.size("f"))
}

#[tokio::test(start_paused = true)]
async fn a_change_of_attributes_does_not_undo_what_others_wrote_meanwhile() {
    for len in [1, MAX_COPY_BYTES + 1] {
        let ended = replaced_meanwhile(len, OnConflict::Fail).await;
        assert_eq!(ended, (Err(ErrorKind::Stale), 6), "{len} bytes");
        let ended = replaced_meanwhile(len, OnConflict::Overwrite).await;
        assert_eq!(ended, (Ok(0o600), len), "{len} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_before_is_looked_at_again() {
    let rig = Rig::new(&store());
    rig.store.put("f", "old");
    let ino = rig.look("f").await.attr.ino;
    rig.store.put("f", "theirs");
    let error = rig.fs.set_attr(ino, mode(0o600)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    // The kernel does this by itself.
    assert_eq!(rig.look("f").await.attr.size, 6);
    assert_eq!(rig.set("f", mode(0o600)).await.unwrap().attr.mode, 0o600);
}

#[tokio::test]
async fn copies_stay_in_the_tier_of_their_source() {
    use StorageClass::{Glacier, GlacierIr, IntelligentTiering, Standard, StandardIa};
    for (class, len, expected) in [
        (GlacierIr, 1, GlacierIr),
        (StandardIa, MAX_COPY_BYTES + 1, StandardIa),
        (IntelligentTiering, 1, IntelligentTiering),
        (Glacier, 1, Standard),
    ] {
        let rig = Rig::new(&store());
        rig.store.put_with("f", Content::Pattern { seed: 1, len }, |head| {
            (head.meta.storage_class, head.restored) = (class, true);
        });
        let ino = rig.set("f", mode(0o600)).await.unwrap().attr.ino;
        let root = InodeNo::ROOT;
        for key in ["f", "g"] {
            assert_eq!(rig.store.object(key).unwrap().head.meta.storage_class, expected, "{key}");
            let shown = rig.fs.xattr(ino, "user.s3.storage_class").await.unwrap();
            assert_eq!(shown, expected.as_str().as_bytes());
            if key == "f" {
                rig.fs.rename((root, "f"), (root, "g"), Replace::Allowed).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn metadata_of_others_count_and_times_give_way_to_them() {
    let metadata = |rig: &Rig, name: &str| {
        let metadata = rig.store.object("f").unwrap().head.user_metadata;
        metadata.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    };
    for (others, fits) in [(1960, true), (2040, false)] {
        let rig = Rig::new(&store());
        rig.store.put_with("f", "old", |head| {
            head.user_metadata = vec![("other".to_owned(), "x".repeat(others - 5))];
        });
        let ino = rig.look("f").await.attr.ino;
        let expected = if fits { Ok(0o600) } else { Err(ErrorKind::NoSpace) };
        let changed = rig.set("f", mode(0o600)).await.map(|entry| entry.attr.mode);
        assert_eq!(changed, expected, "an object");
        let opened = rig.fs.open_for_writing(ino, Existing::Keep).await.unwrap().handle;
        rig.fs.write(opened, 0, b"new").await.unwrap();
        let changed = rig.set("f", mode(0o600)).await.map(|entry| entry.attr.mode);
        assert_eq!(changed, expected, "a file that is written");
        // It can be written whatever it takes.
        rig.fs.flush(opened).await.unwrap();
        assert_eq!(rig.text("f"), "new");
        assert_eq!(metadata(&rig, "mode").is_some(), fits);
        assert_eq!(metadata(&rig, "atime"), None);
        assert_eq!(metadata(&rig, "other").unwrap().len(), others - 5);
        let large = rig.fs.set_xattr(ino, "user.a", &[b'x'; 100], XattrMode::Any).await;
        assert_eq!(large.unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
