//! Attributes that are kept in metadata, where several clients change one object.

use std::sync::Arc;
use std::time::Duration;

use sluicefs_core::{
    Attributes, Creation, DirEntry, DirMode, Entry, ErrorKind, Existing, FileKind, FileSystem, FsConfig,
    HandleId, InodeNo, NewAttr, OnConflict, Replace, SetAttr, WriteConfig, XattrMode,
};
use sluicefs_s3_client::testing::memory::Content;
use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule, When};
use sluicefs_s3_client::{self as s3, ReliableBucket, RetryConfig, StorageClass, Timestamp};

const MIB: u64 = 1 << 20;

/// Larger objects are copied in parts.
const MAX_COPY_BYTES: u64 = 8 * MIB;

/// A file of this length is sent in parts.
const LARGE_BYTES: u64 = 20 * MIB;

/// `st_mode` of a file that only its owner reads and writes, as s3fs writes it.
const PRIVATE: &str = "33152";

const SECOND: Duration = Duration::from_secs(1);

const NEW: NewAttr = NewAttr { mode: 0o644, uid: 0, gid: 0 };

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

    /// The same with a client that makes requests again.
    fn patient(store: &MemoryBucket) -> Self {
        let rig = Self::new(store);
        let config = RetryConfig { jitter_seed: Some(1), ..RetryConfig::default() };
        let reliable = ReliableBucket::new(Arc::clone(&rig.bucket) as _, config);
        let fs = FileSystem::new(Arc::new(reliable), kept(Attributes::S3fs)).unwrap();
        Self { fs, ..rig }
    }

    /// Begins a file of [`LARGE_BYTES`], of which parts were sent.
    async fn large(&self, name: &str) -> (InodeNo, HandleId) {
        let create = self.fs.create(InodeNo::ROOT, name, NEW, Creation::OrOpen(Existing::Truncate));
        let (entry, opened) = create.await.unwrap();
        for at in (0..LARGE_BYTES).step_by(MIB as usize) {
            self.fs.write(opened.handle, at, &[7; MIB as usize]).await.unwrap();
        }
        while self.requests(Operation::UploadPart) == 0 {
            tokio::time::sleep(SECOND / 100).await;
        }
        (entry.attr.ino, opened.handle)
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.bucket.requests().of(operation)
    }

    fn metadata(&self, key: &str, name: &str) -> Option<String> {
        let metadata = self.store.object(key).unwrap().head.user_metadata;
        metadata.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
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
        assert_eq!(rig.metadata("f", "mode").is_some(), fits);
        assert_eq!(rig.metadata("f", "atime"), None);
        assert_eq!(rig.metadata("f", "other").unwrap().len(), others - 5);
        let large = rig.fs.set_xattr(ino, "user.a", &[b'x'; 100], XattrMode::Any).await;
        assert_eq!(large.unwrap_err().kind(), ErrorKind::NoSpace);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_file_was_given_while_it_was_written_is_stored_whatever_its_size() {
    for max_copy_bytes in [MAX_COPY_BYTES, 2 * LARGE_BYTES] {
        let rig = Rig::new(&store().with_traits(|traits| traits.max_copy_bytes = max_copy_bytes));
        let (ino, handle) = rig.large("f").await;
        rig.fs.set_attr(ino, mode(0o600)).await.unwrap();
        rig.fs.flush(handle).await.unwrap();
        assert_eq!(rig.metadata("f", "mode").as_deref(), Some(PRIVATE));
        assert_eq!(rig.size("f"), LARGE_BYTES);
        // It goes on from the object that it is now.
        rig.fs.write(handle, 0, b"x").await.unwrap();
        rig.fs.flush(handle).await.unwrap();
        assert_eq!(rig.metadata("f", "mode").as_deref(), Some(PRIVATE));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_attributes_whose_answer_was_lost_is_known_as_done() {
    let rig = Rig::patient(&store().with_traits(|traits| traits.max_copy_bytes = 2 * LARGE_BYTES));
    let (ino, handle) = rig.large("f").await;
    rig.fs.set_attr(ino, mode(0o600)).await.unwrap();
    // The copy of what was made of parts has another ETag, so that the second attempt finds another version.
    let lost = || Rule::new(Fault::AnswerLost).on(Operation::Copy).when(When::First(1));
    rig.bucket.plan().add(lost());
    rig.fs.flush(handle).await.unwrap();
    assert_eq!(rig.requests(Operation::Copy), 2);
    assert_eq!(rig.metadata("f", "mode").as_deref(), Some(PRIVATE));
    rig.fs.write(handle, LARGE_BYTES, b"more").await.unwrap();
    rig.fs.flush(handle).await.unwrap();
    rig.fs.release(handle);
    assert_eq!(rig.size("f"), LARGE_BYTES + 4);
    rig.bucket.plan().add(lost());
    assert_eq!(rig.set("f", mode(0o644)).await.unwrap().attr.mode, 0o644);
    assert_eq!(rig.metadata("f", "mode").as_deref(), Some("33188"));
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_durable_where_its_attributes_cannot_be_stored() {
    let rig = Rig::new(&store().with_traits(|traits| traits.max_copy_bytes = 2 * LARGE_BYTES));
    let (ino, handle) = rig.large("f").await;
    rig.fs.set_attr(ino, mode(0o600)).await.unwrap();
    let refused = Fault::Fail(s3::Error::new(s3::ErrorKind::Forbidden, "test"));
    rig.bucket.plan().add(Rule::new(refused).on(Operation::Copy));
    assert_eq!(rig.fs.flush(handle).await.unwrap_err().kind(), ErrorKind::AccessDenied);
    assert_eq!(rig.size("f"), LARGE_BYTES);
    rig.bucket.requests().reset();
    rig.fs.flush(handle).await.unwrap();
    assert_eq!(rig.bucket.requests().total(), 0, "there is nothing left to send");
}

#[tokio::test(start_paused = true)]
async fn what_a_file_is_given_while_its_object_is_made_is_stored_after_that() {
    let rig = Rig::new(&store());
    let create = rig.fs.create(InodeNo::ROOT, "f", NEW, Creation::OrOpen(Existing::Truncate));
    let (entry, opened) = create.await.unwrap();
    rig.fs.write(opened.handle, 0, b"text").await.unwrap();
    rig.bucket.plan().add(Rule::new(Fault::Latency(SECOND)).on(Operation::Put));
    let change = async {
        tokio::time::sleep(SECOND / 2).await;
        rig.fs.set_attr(entry.attr.ino, mode(0o600)).await?;
        rig.fs.set_xattr(entry.attr.ino, "user.colour", b"blue", XattrMode::Any).await
    };
    let (flushed, changed) = tokio::join!(rig.fs.flush(opened.handle), change);
    assert_eq!((flushed.is_ok(), changed.is_ok()), (true, true));
    assert_eq!(rig.metadata("f", "mode").as_deref(), Some(PRIVATE));
    assert!(rig.metadata("f", "xattr").is_some());
    assert_eq!(rig.requests(Operation::Put), 1, "nothing was sent twice");
    rig.fs.write(opened.handle, 4, b" more").await.unwrap();
    rig.fs.flush(opened.handle).await.unwrap();
    assert_eq!(rig.text("f"), "text more");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_directory_that_moves_keeps_nobody_from_changing_attributes() {
    let rig = Rig::new(&store());
    // More than take turns, so that some share one.
    let names: Vec<String> = (0..40).map(|n| format!("f{n}")).collect();
    for name in names.iter().map(String::as_str).chain(["d/x"]) {
        rig.store.put(name, "text");
    }
    rig.bucket.plan().add(Rule::new(Fault::Latency(SECOND)).on(Operation::Copy).key("e/x"));
    let below = rig.look("d/x").await.attr.ino;
    let root = InodeNo::ROOT;
    let moved = rig.fs.rename((root, "d"), (root, "e"), Replace::Allowed);
    let waits = async {
        tokio::time::sleep(SECOND / 4).await;
        rig.fs.set_attr(below, mode(0o600)).await
    };
    let others = async {
        tokio::time::sleep(SECOND / 2).await;
        for name in &names {
            rig.set(name, mode(0o600)).await.unwrap();
        }
        assert!(rig.store.object("e/x").is_none(), "the directory still moves");
    };
    let (moved, waited, ()) = tokio::join!(moved, waits, others);
    moved.unwrap();
    waited.unwrap();
    assert_eq!(rig.metadata("e/x", "mode").as_deref(), Some(PRIVATE));
}

#[tokio::test]
async fn nothing_but_a_link_is_moved_to_the_key_of_a_link() {
    for (attributes, expected) in
        [(Attributes::Rclone, Err(ErrorKind::InvalidName)), (Attributes::S3fs, Ok(FileKind::Fifo))]
    {
        let rig = Rig::with(&store(), kept(attributes));
        let root = InodeNo::ROOT;
        rig.fs.make_node((root, "pipe"), (FileKind::Fifo, 0), NEW).await.unwrap();
        let moved = rig.fs.rename((root, "pipe"), (root, "x.rclonelink"), Replace::Allowed).await;
        let is = match moved {
            Ok(()) => Ok(rig.look("x.rclonelink").await.attr.kind),
            Err(error) => Err(error.kind()),
        };
        assert_eq!(is, expected, "{attributes:?}");
    }
}

/// The names in the root with their modes and what is left of their time to live, as a reader of the directory that looks each up gets them.
async fn read_root(fs: &FileSystem, handle: HandleId, from: u64) -> Vec<(String, u16, FileKind, Duration)> {
    let mut entries = Vec::new();
    let mut accept = |entry: &DirEntry<'_>| {
        let Entry { attr, ttl } = entry.entry;
        entries.push((entry.name.to_owned(), attr.mode, attr.kind, ttl));
        true
    };
    fs.read_dir(handle, from, DirMode::Lookup, &mut accept).await.unwrap();
    entries.retain(|(name, ..)| !name.starts_with('.'));
    entries
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_directory_is_told_nothing_that_is_not_known() {
    let rig = Rig::new(&store());
    rig.store.put_with("link", "target", |head| {
        head.user_metadata = vec![("mode".to_owned(), "41471".to_owned())];
    });
    let refused = Fault::Fail(s3::Error::new(s3::ErrorKind::Forbidden, "test"));
    rig.bucket.plan().add(Rule::new(refused).on(Operation::Head).key("link").when(When::First(1)));
    let handle = rig.fs.open_dir(InodeNo::ROOT).await.unwrap();
    let entries = read_root(&rig.fs, handle, 0).await;
    assert_eq!((entries.len(), entries[0].3), (1, Duration::ZERO));
    assert_eq!(rig.look("link").await.attr.kind, FileKind::Symlink, "the next look asks");

    // A name that the listing does not have yet, and nobody remembers.
    let create = rig.fs.create(InodeNo::ROOT, "new", NEW, Creation::OrOpen(Existing::Truncate));
    let (entry, opened) = create.await.unwrap();
    rig.fs.set_attr(entry.attr.ino, mode(0o600)).await.unwrap();
    rig.fs.flush(opened.handle).await.unwrap();
    rig.fs.release(opened.handle);
    rig.fs.forget(entry.attr.ino, 1);
    let entries = read_root(&rig.fs, handle, 3).await;
    assert_eq!(entries.len(), 1);
    assert!(entries[0].1 == 0o600 || entries[0].3.is_zero(), "{entries:?}");
    assert_eq!(rig.look("new").await.attr.mode, 0o600);
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_directory_gets_what_an_object_is_since_it_was_listed() {
    let rig = Rig::new(&store());
    rig.store.put("f", "old");
    rig.bucket.plan().add(Rule::new(Fault::Latency(SECOND / 2)).on(Operation::Head).key("f"));
    let handle = rig.fs.open_dir(InodeNo::ROOT).await.unwrap();
    let replaced = async {
        tokio::time::sleep(SECOND / 4).await;
        rig.store.put_with("f", "theirs", |head| {
            head.user_metadata = vec![("mode".to_owned(), PRIVATE.to_owned())];
        });
    };
    let (entries, ()) = tokio::join!(read_root(&rig.fs, handle, 0), replaced);
    let [(name, mode, ..)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((name.as_str(), *mode), ("f", 0o600));
    assert_eq!(rig.look("f").await.attr.size, 6);
    assert_eq!(rig.requests(Operation::Head), 1);
}

#[tokio::test(start_paused = true)]
async fn a_directory_has_the_attributes_that_another_mount_gave_it() {
    for attributes in [Attributes::S3fs, Attributes::Rclone] {
        let store = store();
        store.put("d/x", "text");
        let (here, there) = (Rig::with(&store, kept(attributes)), Rig::with(&store, kept(attributes)));
        let dir = here.look("d").await.attr.ino;
        there.set("d", mode(0o700)).await.unwrap();
        // The times of the directory change with the names in it.
        let before = here.look("d").await.attr.mtime;
        here.fs.make_dir(dir, "new", NEW).await.unwrap();
        let changed = here.look("d").await.attr.mtime;
        assert!(changed > before, "{changed:?} {before:?}");
        tokio::time::sleep(2 * SECOND).await;
        let seen = here.look("d").await.attr;
        assert_eq!((seen.mode, seen.mtime), (0o700, changed), "{attributes:?}");
        // And nobody undoes them.
        here.set("d", SetAttr { uid: Some(7), ..SetAttr::default() }).await.unwrap();
        let time = Timestamp { secs: 1_000_000_000, nanos: 0 };
        tokio::time::sleep(2 * SECOND).await;
        there.set("d", SetAttr { mtime: Some(time), ..SetAttr::default() }).await.unwrap();
        tokio::time::sleep(2 * SECOND).await;
        let seen = here.look("d").await.attr;
        assert_eq!((seen.mode, seen.uid, seen.mtime), (0o700, 7, time), "{attributes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_change_does_not_undo_it() {
    let rig = Rig::new(&store());
    rig.store.put("d/x", "text");
    let (dir, file) = (rig.look("d").await.attr.ino, rig.look("d/x").await.attr.ino);
    tokio::time::sleep(2 * SECOND).await;
    for (ino, key) in [(dir, "d/"), (file, "d/x")] {
        // The answer of a HEAD that is on its way when the change is made.
        rig.bucket
            .plan()
            .add(Rule::new(Fault::AnswerLater(SECOND)).on(Operation::Head).key(key).when(When::First(1)));
        let change = async {
            tokio::time::sleep(SECOND / 2).await;
            rig.fs.set_attr(ino, mode(0o700)).await.unwrap();
        };
        tokio::join!(rig.fs.getattr(ino), change).0.unwrap();
        assert_eq!(rig.fs.getattr(ino).await.unwrap().attr.mode, 0o700, "{key}");
    }
    tokio::time::sleep(2 * SECOND).await;
    let handle = rig.fs.open_dir(dir).await.unwrap();
    assert_eq!(read_root(&rig.fs, handle, 0).await[0].1, 0o700);
}

#[tokio::test]
async fn a_change_of_attributes_costs_a_head_and_a_copy() {
    let rig = Rig::new(&store());
    rig.store.put("f", "text");
    let ino = rig.look("f").await.attr.ino;
    rig.bucket.requests().reset();
    rig.fs.set_attr(ino, mode(0o600)).await.unwrap();
    let requests = (rig.requests(Operation::Head), rig.requests(Operation::Copy));
    assert_eq!((requests, rig.bucket.requests().total()), ((1, 1), 2));
    rig.fs.set_xattr(ino, "user.colour", b"blue", XattrMode::Any).await.unwrap();
    assert_eq!(rig.bucket.requests().total(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_two_mounts_give_one_name_is_all_kept() {
    for path in ["f", "d"] {
        let store = store();
        store.put("f", "text");
        store.put("d/x", "text");
        let (here, there) = (Rig::new(&store), Rig::new(&store));
        // Both know it, and neither looks again before it changes it.
        let (one, other) = (here.look(path).await.attr.ino, there.look(path).await.attr.ino);
        here.fs.set_attr(one, mode(0o700)).await.unwrap();
        there.fs.set_attr(other, SetAttr { uid: Some(7), ..SetAttr::default() }).await.unwrap();
        here.fs.set_xattr(one, "user.a", b"1", XattrMode::Any).await.unwrap();
        there.fs.set_xattr(other, "user.b", b"2", XattrMode::Any).await.unwrap();
        let taken = there.fs.set_xattr(other, "user.a", b"3", XattrMode::Create).await;
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::Exists);
        tokio::time::sleep(2 * SECOND).await;
        for rig in [here, there] {
            let Entry { attr, .. } = rig.look(path).await;
            assert_eq!((attr.mode, attr.uid), (0o700, 7), "{path}");
            for (name, value) in [("user.a", b"1"), ("user.b", b"2")] {
                assert_eq!(rig.fs.xattr(attr.ino, name).await.unwrap(), value, "{path}");
            }
        }
    }
}
