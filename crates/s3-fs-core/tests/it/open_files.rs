//! Objects that change while they are open: never a mix of versions.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use sluicefs_core::{
    Creation, DirMode, Ended, ErrorKind, Existing, FileSystem, FsConfig, InodeNo, Kernel, NewAttr, Ttl,
};
use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule, When};
use sluicefs_s3_client::{self as s3, ByteRange};

use crate::recorder::{Recorder, content, ttl, walk};

const PAST_TTL: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn an_object_changed_after_a_read_gets_another_number() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let first = walk(&fs, "a").await.unwrap().attr.ino;
    let old = fs.open(first).await.unwrap().handle;
    assert_eq!(content(&fs, old).await.unwrap(), "a");
    bucket.store.put("a", "b");
    bucket.requests();
    assert_eq!(fs.open(first).await.unwrap_err().kind(), ErrorKind::Stale);
    let second = walk(&fs, "a").await.unwrap().attr.ino;
    assert_ne!(first, second, "the kernel would mix the pages of both");
    let new = fs.open(second).await.unwrap();
    assert_eq!(bucket.requests(), ["head a"], "what the first open learnt serves the others");
    assert!(new.keep_cache, "pages under this number can only be of this version");
    assert_eq!(content(&fs, new.handle).await.unwrap(), "b");
    assert_eq!(content(&fs, old).await.unwrap(), "a", "the old version is still in memory");
    assert_eq!(walk(&fs, "a").await.unwrap().attr.ino, second);
}

#[tokio::test(start_paused = true)]
async fn a_number_given_to_a_new_version_is_kept_after_the_kernel_forgot_it() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let mut seen = Vec::new();
    for version in ["a", "b", "c"] {
        bucket.store.put("a", version);
        tokio::time::advance(PAST_TTL).await;
        let ino = walk(&fs, "a").await.unwrap().attr.ino;
        let handle = fs.open(ino).await.unwrap().handle;
        assert_eq!(content(&fs, handle).await.unwrap(), version);
        fs.release(handle);
        assert!(!seen.contains(&ino), "{version} has the number of an older version");
        seen.push(ino);
    }
    for ino in &seen {
        fs.forget(*ino, 10);
    }
    assert_eq!(fs.inode_count(), 1);
    tokio::time::advance(PAST_TTL).await;
    assert_eq!(walk(&fs, "a").await.unwrap().attr.ino, seen[2]);
}

#[tokio::test(start_paused = true)]
async fn an_old_number_tells_what_it_was_to_those_who_have_it_open_and_is_stale_for_others() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    content(&fs, handle).await.unwrap();
    bucket.store.put("a", "newer");
    tokio::time::advance(PAST_TTL).await;
    assert_eq!(fs.getattr(ino).await.unwrap().attr.size, 1, "fstat of the old version");
    let new = walk(&fs, "a").await.unwrap().attr;
    assert_eq!(new.size, 5);
    assert_ne!(new.ino, ino);
    assert_eq!(fs.last_known(ino).unwrap().size, 1);
    assert_eq!(fs.xattr(ino, "user.s3.etag").await.unwrap_err().kind(), ErrorKind::Stale);
    fs.release(handle);
    assert_eq!(fs.getattr(ino).await.unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test(start_paused = true)]
async fn listings_show_the_number_of_the_new_version() {
    for mode in [DirMode::Names, DirMode::Lookup] {
        let bucket = Recorder::new(&["a"]);
        let fs = bucket.mount();
        let ino = walk(&fs, "a").await.unwrap().attr.ino;
        let handle = fs.open(ino).await.unwrap().handle;
        content(&fs, handle).await.unwrap();
        bucket.store.put("a", "b");
        tokio::time::advance(PAST_TTL).await;
        if mode == DirMode::Names {
            // Names alone tell of no version: the number is the one of the last look.
            walk(&fs, "a").await.unwrap();
        }
        let dir = fs.open_dir(InodeNo::ROOT).await.unwrap();
        let mut listed = None;
        fs.read_dir(dir, 2, mode, &mut |entry| listed.replace(entry.entry.attr.ino).is_none()).await.unwrap();
        assert_eq!(listed, Some(walk(&fs, "a").await.unwrap().attr.ino));
        assert_ne!(listed, Some(ino));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_of_which_nothing_was_read_has_no_pages_to_drop() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    for _ in 0..2 {
        assert!(
            fs.open(ino).await.unwrap().keep_cache,
            "an open that drops pages waits for every read under way"
        );
    }
    bucket.store.put("a", "b");
    tokio::time::advance(PAST_TTL).await;
    assert!(fs.open(ino).await.unwrap().keep_cache, "there are none of the old version either");
    let handle = fs.open(ino).await.unwrap().handle;
    assert_eq!(content(&fs, handle).await.unwrap(), "b", "under the same number");
}

#[tokio::test(start_paused = true)]
async fn an_object_changed_before_the_first_byte_is_read_in_its_new_version() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let told = Told::of(&fs);
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    bucket.store.put("a", "b");
    assert_eq!(content(&fs, handle).await.unwrap(), "b");
    assert_eq!(*told.0.lock(), [ino], "its time is another now");
    assert_eq!(fs.getattr(ino).await.unwrap().attr.size, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_had_bytes_never_gets_those_of_another_version() {
    let bucket = Recorder::new(&[]);
    let mib = 1 << 20;
    bucket.store.put("a", vec![1; 64 * mib]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    let range = |at: u64| ByteRange::from_len(at * mib as u64, 4096);
    fs.read(handle, range(0)).await.unwrap();
    bucket.store.put("a", vec![2; 64 * mib]);
    let late = fs.read(handle, range(60)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Stale);
    let early = fs.read(handle, range(0)).await.unwrap();
    assert!(
        early.slices().flatten().all(|byte| *byte == 1),
        "what was fetched before the change is still right"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_object_is_stale_for_readers_and_absent_for_others() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    bucket.store.remove("a");
    assert_eq!(content(&fs, handle).await.unwrap_err().kind(), ErrorKind::Stale);
    tokio::time::advance(PAST_TTL).await;
    assert_eq!(fs.getattr(ino).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(walk(&fs, "a").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_second_open_asks_the_store_unless_a_ttl_was_asked_for() {
    let bucket = Recorder::new(&["a"]);
    for (config, expected) in
        [(ttl(1000), vec!["head a"]), (FsConfig { revalidate_on_open: false, ..ttl(1000) }, vec![])]
    {
        let fs = bucket.mount_with(config);
        let ino = walk(&fs, "a").await.unwrap().attr.ino;
        let first = fs.open(ino).await.unwrap();
        content(&fs, first.handle).await.unwrap();
        bucket.requests();
        assert!(fs.open(ino).await.unwrap().keep_cache);
        assert_eq!(bucket.requests(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_believed_for_ever_is_not_asked_again() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount_with(FsConfig { metadata_ttl: Ttl::Forever, ..ttl(0) });
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    bucket.requests();
    tokio::time::advance(Duration::from_secs(3600 * 24)).await;
    fs.getattr(ino).await.unwrap();
    walk(&fs, "a").await.unwrap();
    assert_eq!(bucket.requests(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn handles_that_were_never_opened_are_refused() {
    let bucket = Recorder::new(&["a", "d/b"]);
    let fs = bucket.mount();
    let handle = sluicefs_core::HandleId(77);
    assert_eq!(content(&fs, handle).await.unwrap_err().kind(), ErrorKind::BadHandle);
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    assert_eq!(fs.open(dir).await.unwrap_err().kind(), ErrorKind::IsADirectory);
    let file = walk(&fs, "a").await.unwrap().attr.ino;
    assert_eq!(fs.open_dir(file).await.unwrap_err().kind(), ErrorKind::NotADirectory);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_length_is_read_once_the_kernel_was_told() {
    for (text, first_reads) in [("longer", &["longer"][..]), ("", &["stale", ""][..])] {
        let bucket = Recorder::new(&["a"]);
        let fs = bucket.mount();
        let told = Told::of(&fs);
        let ino = walk(&fs, "a").await.unwrap().attr.ino;
        let unread = fs.open(ino).await.unwrap().handle;
        bucket.store.put("a", text);
        for expected in first_reads {
            match content(&fs, unread).await {
                Ok(read) => assert_eq!(read, *expected),
                Err(error) => assert_eq!((error.kind(), *expected), (ErrorKind::Stale, "stale")),
            }
        }
        assert_eq!(*told.0.lock(), [ino]);
        assert_eq!(fs.last_known(ino).unwrap().size, text.len() as u64, "what a reader at the end is told");
        assert_eq!(walk(&fs, "a").await.unwrap().attr.ino, ino);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_kernel_an_object_of_another_length_is_read_at_once() {
    for text in ["longer", ""] {
        let bucket = Recorder::new(&["a"]);
        let fs = bucket.mount();
        let ino = walk(&fs, "a").await.unwrap().attr.ino;
        let handle = fs.open(ino).await.unwrap().handle;
        bucket.store.put("a", text);
        assert_eq!(content(&fs, handle).await.unwrap(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_length_changed_before_an_open_has_another_number() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    bucket.store.put("a", "longer");
    tokio::time::advance(PAST_TTL).await;
    assert_eq!(fs.open(ino).await.unwrap_err().kind(), ErrorKind::Stale);
    let longer = walk(&fs, "a").await.unwrap().attr;
    assert_eq!(longer.size, 6);
    assert_ne!(longer.ino, ino, "the kernel cuts and drops pages when the length of a number changes");
    let handle = fs.open(longer.ino).await.unwrap().handle;
    assert_eq!(content(&fs, handle).await.unwrap(), "longer");
}

#[tokio::test(start_paused = true)]
async fn who_opened_an_object_and_read_nothing_reads_what_a_look_up_found_since() {
    for text in ["b", "longer"] {
        let bucket = Recorder::new(&["a"]);
        let fs = bucket.mount();
        let told = Told::of(&fs);
        let ino = walk(&fs, "a").await.unwrap().attr.ino;
        let handle = fs.open(ino).await.unwrap().handle;
        bucket.store.put("a", text);
        tokio::time::advance(PAST_TTL).await;
        assert_eq!(walk(&fs, "a").await.unwrap().attr.size, text.len() as u64);
        assert_eq!(content(&fs, handle).await.unwrap(), text);
        assert_eq!(fs.getattr(ino).await.unwrap().attr.size, text.len() as u64, "fstat");
        assert_eq!(*told.0.lock(), [ino]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_third_length_before_the_first_byte_is_stale() {
    let bucket = Recorder::new(&["first"]);
    let fs = bucket.mount();
    let _told = Told::of(&fs);
    let ino = walk(&fs, "first").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    bucket.store.put("first", "2nd");
    assert_eq!(content(&fs, handle).await.unwrap_err().kind(), ErrorKind::Stale, "its end is refused once");
    bucket.store.put("first", "number three");
    assert_eq!(content(&fs, handle).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_ne!(walk(&fs, "first").await.unwrap().attr.ino, ino);
}

/// A kernel that notes which inodes it was told of, as one that cuts files at short replies.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<InodeNo>>>);

impl Told {
    fn of(fs: &FileSystem) -> Self {
        let told = Self::default();
        fs.set_kernel(Box::new(told.clone()));
        told
    }
}

impl Kernel for Told {
    fn doubt_attributes(&self, ino: InodeNo) -> BoxFuture<'static, bool> {
        self.0.lock().push(ino);
        std::future::ready(true).boxed()
    }

    fn doubt_names(&self, names: Vec<(InodeNo, Box<str>)>) -> BoxFuture<'static, usize> {
        std::future::ready(names.len()).boxed()
    }

    fn ends_files_at_short_replies(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_overtaken_by_what_this_mount_writes_gives_that() {
    const MIB: u64 = 1 << 20;
    let bucket = Recorder::new(&["a"]);
    bucket.store.put("a", vec![b'a'; 4 * MIB as usize]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let reader = fs.open(ino).await.unwrap().handle;
    fs.read(reader, ByteRange::from_len(3 * MIB + 77, 10)).await.unwrap();
    let writer = fs.open_for_writing(ino, Existing::Keep).await.unwrap().handle;
    bucket.requests();
    let rewrite = async {
        for n in 0..4 {
            fs.write(writer, n * MIB, &vec![b'b'; MIB as usize]).await?;
        }
        fs.flush(writer).await
    };
    let (read, rewritten) = tokio::join!(fs.read(reader, ByteRange::from_len(0, 10)), rewrite);
    rewritten.unwrap();
    let requests = bucket.requests();
    let at = |wanted: &str| requests.iter().position(|request| request == wanted).unwrap();
    assert!(at("get a") < at("put a"), "the old version was asked for first: {requests:?}");
    assert_eq!(read.unwrap().slices().collect::<Vec<_>>().concat(), b"bbbbbbbbbb");
}

#[tokio::test]
async fn a_new_file_that_could_not_be_written_is_not_there() {
    let bucket = FaultBucket::new(MemoryBucket::new("b"));
    let refused = Fault::Fail(s3::Error::new(s3::ErrorKind::Forbidden, "put"));
    bucket.plan().add(Rule::new(refused).on(Operation::Put).when(When::First(2)));
    let fs = FileSystem::new(Arc::new(bucket), FsConfig::default()).unwrap();
    let create = || {
        fs.create(
            InodeNo::ROOT,
            "f",
            NewAttr { mode: 0o644, uid: 0, gid: 0 },
            Creation::OrOpen(Existing::Truncate),
        )
    };
    let (_, opened) = create().await.unwrap();
    fs.write(opened.handle, 0, b"x").await.unwrap();
    assert_eq!(fs.flush(opened.handle).await.unwrap_err().kind(), ErrorKind::AccessDenied);
    fs.release(opened.handle);
    fs.finish(Ended::Unmounted, Duration::from_secs(60)).await;
    assert_eq!(fs.lookup(InodeNo::ROOT, "f").await.unwrap_err().kind(), ErrorKind::NotFound);
    let (_, opened) = create().await.unwrap();
    fs.flush(opened.handle).await.unwrap();
    assert_eq!(fs.lookup(InodeNo::ROOT, "f").await.unwrap().attr.size, 0);
}
