//! Changes that meet other changes, and changes that the store refuses.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sluicefs_core::{
    Creation, Ended, ErrorKind, Existing, FileSystem, FsConfig, HandleId, InodeNo, NewAttr, ReadConfig,
    Replace, WriteConfig,
};
use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule, When};
use sluicefs_s3_client::{self as s3, ByteRange, ETag};

const NEW: NewAttr = NewAttr { mode: 0o755, uid: 0, gid: 0 };

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

struct Rig {
    store: MemoryBucket,
    bucket: Arc<FaultBucket<MemoryBucket>>,
    fs: Arc<FileSystem>,
}

impl Rig {
    fn new(keys: &[&str]) -> Self {
        Self::with(keys, FsConfig::default())
    }

    fn with(keys: &[&str], config: FsConfig) -> Self {
        let store = MemoryBucket::new("b");
        for key in keys {
            store.put(key, key.as_bytes().to_vec());
        }
        let bucket = Arc::new(FaultBucket::new(store.clone()));
        let fs = FileSystem::new(Arc::clone(&bucket) as _, config).unwrap();
        Self { store, bucket, fs }
    }

    fn refuse(&self, operation: Operation, key: &str, when: When) {
        let refused = Fault::Fail(s3::Error::new(s3::ErrorKind::Forbidden, "test"));
        self.bucket.plan().add(Rule::new(refused).on(operation).key(key).when(when));
    }

    fn slow(&self, operation: Operation, key: &str) {
        let later = Fault::Latency(Duration::from_secs(1));
        self.bucket.plan().add(Rule::new(later).on(operation).key(key).when(When::First(1)));
    }

    async fn ino(&self, path: &str) -> InodeNo {
        let mut ino = InodeNo::ROOT;
        for name in path.split('/') {
            ino = self.fs.lookup(ino, name).await.unwrap().attr.ino;
        }
        ino
    }

    async fn open(&self, path: &str) -> HandleId {
        self.fs.open(self.ino(path).await).await.unwrap().handle
    }

    async fn read(&self, handle: HandleId) -> Result<String, ErrorKind> {
        let read = self.fs.read(handle, ByteRange::new(0, 100)).await.map_err(|error| error.kind())?;
        Ok(String::from_utf8(read.slices().collect::<Vec<_>>().concat()).unwrap())
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), ErrorKind> {
        let root = InodeNo::ROOT;
        let renamed = self.fs.rename((root, from), (root, to), Replace::Allowed).await;
        renamed.map_err(|error| error.kind())
    }

    fn keys(&self) -> Vec<String> {
        self.store.keys().iter().map(|key| key.as_str().to_owned()).collect()
    }

    fn stored(&self, key: &str) -> Vec<u8> {
        let content = self.store.object(key).unwrap().content;
        content.slice(ByteRange::new(0, content.len())).to_vec()
    }
}

#[tokio::test]
async fn what_could_not_be_written_is_not_read_as_if_it_had_been() {
    let rig = Rig::new(&["f"]);
    let ino = rig.ino("f").await;
    let reader = rig.open("f").await;
    assert_eq!(rig.read(reader).await.unwrap(), "f");
    rig.refuse(Operation::Put, "f", When::First(2));
    let writer = rig.fs.open_for_writing(ino, Existing::Keep).await.unwrap().handle;
    rig.fs.write(writer, 0, b"X").await.unwrap();
    assert_eq!(rig.fs.flush(writer).await.unwrap_err().kind(), ErrorKind::AccessDenied);
    rig.fs.release(writer);
    rig.fs.finish(Ended::Unmounted, Duration::from_secs(60)).await;
    // The kernel may have pages with the X under this number, so it is nobody's any more.
    assert_eq!(rig.read(reader).await, Err(ErrorKind::Stale));
    assert_eq!(rig.fs.open(ino).await.unwrap_err().kind(), ErrorKind::Stale);
    let again = rig.open("f").await;
    assert_ne!(rig.ino("f").await, ino);
    assert_eq!(rig.read(again).await.unwrap(), "f");
}

#[tokio::test]
async fn a_removal_that_was_refused_changes_nothing() {
    let rig = Rig::new(&["f", "g"]);
    let before = rig.store.object("f").unwrap().head.meta;
    rig.refuse(Operation::Delete, "f", When::Always);
    let reader = rig.open("f").await;
    assert_eq!(rig.fs.unlink(InodeNo::ROOT, "f").await.unwrap_err().kind(), ErrorKind::AccessDenied);
    rig.fs.finish(Ended::Unmounted, Duration::from_secs(60)).await;
    assert_eq!(rig.store.object("f").unwrap().head.meta, before);
    assert_eq!(rig.read(reader).await.unwrap(), "f");
}

#[tokio::test]
async fn a_file_whose_old_name_could_not_be_removed_has_both() {
    let rig = Rig::new(&["f", "target"]);
    rig.refuse(Operation::Delete, "f", When::Always);
    let reader = rig.open("target").await;
    rig.ino("f").await;
    assert_eq!(rig.rename("f", "target").await, Err(ErrorKind::AccessDenied));
    rig.fs.finish(Ended::Unmounted, Duration::from_secs(60)).await;
    assert_eq!(rig.stored("target"), b"f", "nothing is written over the copy");
    assert_eq!(rig.read(reader).await.unwrap(), "target", "who had it open reads on");
    for name in ["f", "target"] {
        let opened = rig.open(name).await;
        assert_eq!(rig.read(opened).await.unwrap(), "f");
    }
}

#[tokio::test(start_paused = true)]
async fn readers_go_on_while_their_file_moves() {
    let rig = Rig::new(&["f", "d/x", "d/y"]);
    for key in ["f", "d/x"] {
        rig.slow(Operation::Delete, key);
    }
    let (file, below) = (rig.open("f").await, rig.open("d/x").await);
    let mut moves = Box::pin(async { tokio::join!(rig.rename("f", "g"), rig.rename("d", "e")) });
    let mut reads = 0;
    loop {
        tokio::select! {
            moved = &mut moves => { assert_eq!(moved, (Ok(()), Ok(()))); break }
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                assert_eq!(rig.read(file).await.unwrap(), "f");
                assert_eq!(rig.read(below).await.unwrap(), "d/x");
                reads += 1;
            }
        }
    }
    assert!(reads > 5);
    assert_eq!(rig.keys(), ["e/x", "e/y", "g"]);
    assert_eq!(rig.read(below).await.unwrap(), "d/x");
}

#[tokio::test(start_paused = true)]
async fn changes_below_a_directory_that_moves_come_after_it() {
    let rig = Rig::new(&["d/gone", "d/moved", "d/stays"]);
    let dir = rig.ino("d").await;
    for name in ["gone", "moved", "stays"] {
        rig.fs.lookup(dir, name).await.unwrap();
        rig.slow(Operation::Copy, &format!("e/{name}"));
    }
    let mut renamed = Box::pin(rig.rename("d", "e"));
    // The objects are listed, and being copied.
    assert!(renamed.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(renamed.as_mut().now_or_never().is_none());
    let fs = &rig.fs;
    let (renamed, claimed, made, removed, moved) = tokio::join!(
        renamed,
        fs.create(dir, "claimed", NEW, Creation::Exclusive),
        fs.make_dir(dir, "made", NEW),
        fs.unlink(dir, "gone"),
        fs.rename((dir, "moved"), (dir, "again"), Replace::Allowed),
    );
    assert_eq!(renamed, Ok(()));
    let claimed = claimed.unwrap().1.handle;
    made.unwrap();
    removed.unwrap();
    moved.unwrap();
    fs.write(claimed, 0, b"mine").await.unwrap();
    fs.flush(claimed).await.unwrap();
    assert_eq!(rig.keys(), ["e/again", "e/claimed", "e/made/", "e/stays"]);
    assert_eq!(rig.stored("e/claimed"), b"mine");
}

#[tokio::test]
async fn a_new_file_does_not_overwrite_what_others_made_of_its_name() {
    let rig = Rig::new(&[]);
    let keep = Creation::OrOpen(Existing::Keep);
    let (_, opened) = rig.fs.create(InodeNo::ROOT, "log", NEW, keep).await.unwrap();
    rig.fs.write(opened.handle, 0, b"a line").await.unwrap();
    rig.store.put("log", "somebody else's");
    assert_eq!(rig.fs.flush(opened.handle).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(rig.stored("log"), b"somebody else's");
}

#[tokio::test]
async fn an_inode_stays_until_what_was_written_is_stored() {
    let rig = Rig::new(&[]);
    let (entry, opened) =
        rig.fs.create(InodeNo::ROOT, "f", NEW, Creation::OrOpen(Existing::Truncate)).await.unwrap();
    rig.fs.write(opened.handle, 0, b"content").await.unwrap();
    // close(2) failed, or was never called; then the kernel forgets the file.
    rig.fs.release(opened.handle);
    rig.fs.forget(entry.attr.ino, 1);
    rig.fs.finish(Ended::Unmounted, Duration::from_secs(60)).await;
    assert_eq!(rig.fs.inode_count(), 1);
    assert_eq!(rig.fs.lookup(InodeNo::ROOT, "f").await.unwrap().attr.size, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_all_over_a_large_file_fit_into_the_least_memory() {
    let read = ReadConfig { memory_limit_bytes: 32 * MIB, ..ReadConfig::default() };
    let rig = Rig::with(&[], FsConfig { read, ..FsConfig::default() });
    let size = 64 * MIB;
    let content: Vec<u8> = (0..size / 8).flat_map(u64::to_le_bytes).collect();
    rig.store.put("f", content.clone());
    let ino = rig.ino("f").await;
    let writer = rig.fs.open_for_writing(ino, Existing::Keep).await.unwrap().handle;
    let mut expected = content;
    for part in 0..size / (8 * MIB) {
        let at = part * 8 * MIB + 4 * MIB;
        rig.fs.write(writer, at, &[b'!'; 4 << 10]).await.unwrap();
        expected[at as usize..(at + 4 * KIB) as usize].fill(b'!');
    }
    rig.fs.flush(writer).await.unwrap();
    assert!(rig.stored("f") == expected);
}

#[tokio::test]
async fn a_rename_goes_on_with_copies_whose_etags_are_others() {
    let sums = ["AAAAAAAAAAA=", "AAAAAAAAAAE="];
    for (copy, sums, moved, gets) in [
        ("text", None, Ok(()), 2),
        ("TEXT", None, Err(ErrorKind::NotEmpty), 2),
        ("text", Some([sums[0], sums[0]]), Ok(()), 0),
        ("TEXT", Some(sums), Err(ErrorKind::NotEmpty), 0),
        ("texts", None, Err(ErrorKind::NotEmpty), 0),
    ] {
        let rig = Rig::new(&["d/g"]);
        rig.store.put("d/f", "text");
        rig.store.put("e/f", copy);
        rig.store.edit("e/f", |head| head.meta.etag = Some(ETag::new("\"of parts-2\"")));
        if let Some(sums) = sums {
            assert!(rig.store.set_crc64nvme("d/f", sums[0]) && rig.store.set_crc64nvme("e/f", sums[1]));
        }
        // As a kernel does.
        for name in ["d", "e"] {
            rig.ino(name).await;
        }
        assert_eq!(rig.rename("d", "e").await, moved, "{copy} {sums:?}");
        assert_eq!(rig.bucket.requests().of(Operation::Get), gets, "{copy} {sums:?}");
        match moved {
            Ok(()) => assert_eq!(rig.keys(), ["e/f", "e/g"]),
            Err(_) => assert_eq!(rig.keys(), ["d/f", "d/g", "e/f"]),
        }
        assert_eq!(rig.stored("e/f"), copy.as_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_the_store_has_lost_is_free_though_it_is_in_use() {
    let rig = Rig::new(&["d/x", "f", "g"]);
    let root = InodeNo::ROOT;
    let (_dir, reader) = (rig.ino("d").await, rig.open("f").await);
    rig.ino("g").await;
    for key in ["d/x", "f"] {
        assert!(rig.store.remove(key));
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    for name in ["d", "f"] {
        let found = rig.fs.lookup(root, name).await;
        assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    }
    rig.fs.rename((root, "g"), (root, "d"), Replace::Forbidden).await.unwrap();
    rig.fs.make_dir(root, "f", NEW).await.unwrap();
    assert_eq!(rig.keys(), ["d", "f/"]);
    rig.fs.release(reader);
}

#[tokio::test(start_paused = true)]
async fn a_close_beside_a_removal_that_is_refused_tells_what_the_store_has() {
    let rig = Rig::new(&["f"]);
    let ino = rig.ino("f").await;
    let writer = rig.fs.open_for_writing(ino, Existing::Keep).await.unwrap().handle;
    rig.fs.write(writer, 0, b"F").await.unwrap();
    rig.slow(Operation::Delete, "f");
    rig.refuse(Operation::Delete, "f", When::Always);
    let mut removed = Box::pin(rig.fs.unlink(InodeNo::ROOT, "f"));
    assert!(removed.as_mut().now_or_never().is_none());
    let (removed, closed) = tokio::join!(removed, rig.fs.flush(writer));
    assert_eq!(removed.unwrap_err().kind(), ErrorKind::AccessDenied);
    closed.unwrap();
    assert_eq!(rig.stored("f"), b"F");
}

#[tokio::test]
async fn files_without_names_leave_memory_to_those_that_have_some() {
    let write = WriteConfig { memory_limit_bytes: 32 * MIB, ..WriteConfig::default() };
    let rig = Rig::with(&[], FsConfig { write, ..FsConfig::default() });
    let (root, len) = (InodeNo::ROOT, 3 * MIB as usize);
    let (names, mut readers) = (["a", "b", "c", "d"], Vec::new());
    names.iter().for_each(|name| _ = rig.store.put(name, name.repeat(len).into_bytes()));
    for name in names {
        readers.push((name, rig.open(name).await));
        rig.fs.unlink(root, name).await.unwrap();
    }
    let create = |name| rig.fs.create(root, name, NEW, Creation::OrOpen(Existing::Truncate));
    let (_, temporary) = create("temporary").await.unwrap();
    rig.fs.unlink(root, "temporary").await.unwrap();
    let written = async {
        for at in 0..32 {
            rig.fs.write(temporary.handle, at * MIB, &[1; MIB as usize]).await?;
        }
        Ok::<_, sluicefs_core::Error>(())
    };
    assert_eq!(written.await.unwrap_err().kind(), ErrorKind::NoSpace);
    let (_, named) = create("named").await.unwrap();
    for at in 0..64 {
        rig.fs.write(named.handle, at * MIB, &[2; MIB as usize]).await.unwrap();
    }
    rig.fs.flush(named.handle).await.unwrap();
    assert!(rig.stored("named") == vec![2; 64 * MIB as usize]);
    for (name, reader) in &readers[..2] {
        assert_eq!(rig.read(*reader).await.unwrap(), name.repeat(100), "{name}");
    }
    // What they took is free again for the next.
    for (_, reader) in readers {
        rig.fs.release(reader);
    }
    rig.fs.release(temporary.handle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_moves_while_it_is_written() {
    let write = WriteConfig { memory_limit_bytes: 32 * MIB, ..WriteConfig::default() };
    let rig = Rig::with(&[], FsConfig { write, ..FsConfig::default() });
    let root = InodeNo::ROOT;
    let (_, opened) = rig.fs.create(root, "f", NEW, Creation::OrOpen(Existing::Truncate)).await.unwrap();
    for at in 0..64 {
        if at == 50 {
            rig.rename("f", "g").await.unwrap();
        }
        rig.fs.write(opened.handle, at * MIB, &[at as u8; MIB as usize]).await.unwrap();
    }
    rig.fs.flush(opened.handle).await.unwrap();
    assert_eq!(rig.keys(), ["g"]);
    let stored = rig.stored("g");
    assert_eq!(stored.len() as u64, 64 * MIB);
    for (at, chunk) in stored.chunks(MIB as usize).enumerate() {
        assert!(chunk.iter().all(|&byte| byte == at as u8), "MiB {at}");
    }
}

#[tokio::test]
async fn a_new_directory_has_nothing_of_one_that_had_its_number() {
    let rig = Rig::new(&["a/s/f"]);
    let (root, a) = (InodeNo::ROOT, rig.ino("a").await);
    let s = rig.ino("a/s").await;
    let f = rig.ino("a/s/f").await;
    rig.fs.unlink(s, "f").await.unwrap();
    rig.rename("a", "b").await.unwrap();
    for (ino, lookups) in [(f, 1), (s, 2), (a, 3)] {
        rig.fs.forget(ino, lookups);
    }
    let made = rig.fs.make_dir(root, "a", NEW).await.unwrap().attr.ino;
    let found = rig.fs.lookup(made, "s").await;
    assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound);
    rig.fs.remove_dir(root, "a").await.unwrap();
}

#[tokio::test]
async fn a_marker_that_the_server_does_not_copy_is_made_anew() {
    let rig = Rig::new(&["d/f"]);
    rig.store.put_with("d/s/", "", |head| head.user_metadata = vec![("mode".into(), "448".into())]);
    let refused = Fault::Fail(s3::Error::new(s3::ErrorKind::Invalid, "test"));
    rig.bucket.plan().add(Rule::new(refused).on(Operation::Copy).key("e/s/"));
    rig.ino("d").await;
    rig.rename("d", "e").await.unwrap();
    assert_eq!(rig.keys(), ["e/f", "e/s/"]);
    let metadata = rig.store.object("e/s/").unwrap().head.user_metadata;
    assert_eq!(metadata, [("mode".to_owned(), "448".to_owned())]);
}
