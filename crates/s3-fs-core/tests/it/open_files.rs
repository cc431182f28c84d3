//! Objects that change while they are open: never a mix of versions.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_core::{ErrorKind, Ttl};

use crate::recorder::{Recorder, content, ttl, walk};

const PAST_TTL: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn an_object_changed_after_a_read_is_stale_until_opened_again() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let old = fs.open(ino).await.unwrap().handle;
    assert_eq!(content(&fs, old).await.unwrap(), "a");
    bucket.store.put("a", "b");
    let new = fs.open(ino).await.unwrap();
    assert!(!new.keep_cache, "the kernel holds pages of the old version");
    assert_eq!(content(&fs, new.handle).await.unwrap(), "b");
    assert_eq!(content(&fs, old).await.unwrap_err().kind(), ErrorKind::Stale);
    let again = fs.open(ino).await.unwrap();
    assert!(again.keep_cache);
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
    assert_eq!(content(&fs, handle).await.unwrap(), "b");
    for text in ["c", "d"] {
        bucket.store.put("a", text);
        assert!(
            !fs.open(ino).await.unwrap().keep_cache,
            "pages of what was read are there until {text:?} is read"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_changed_before_the_first_byte_is_read_in_its_new_version() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&told);
    fs.set_change_listener(Box::new(move |ino| listener.lock().push(ino)));
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    bucket.store.put("a", "b");
    assert_eq!(content(&fs, handle).await.unwrap(), "b");
    assert_eq!(*told.lock(), [ino], "its time is another now");
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
    let range = |at: u64| sluicefs_s3_client::ByteRange::from_len(at * mib as u64, 4096);
    fs.read(handle, range(0)).await.unwrap();
    bucket.store.put("a", vec![2; 64 * mib]);
    let late = fs.read(handle, range(60)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Stale);
    // What was fetched before the change is no longer given out either: the inode has moved on.
    assert_eq!(fs.read(handle, range(0)).await.unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test(start_paused = true)]
async fn a_change_seen_by_stat_makes_old_handles_stale() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let handle = fs.open(ino).await.unwrap().handle;
    content(&fs, handle).await.unwrap();
    bucket.store.put("a", "newer");
    tokio::time::advance(PAST_TTL).await;
    assert_eq!(fs.getattr(ino).await.unwrap().attr.size, 5);
    assert_eq!(content(&fs, handle).await.unwrap_err().kind(), ErrorKind::Stale);
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
    for (config, expected) in [
        (ttl(1000), vec!["head a"]),
        (sluicefs_core::FsConfig { revalidate_on_open: false, ..ttl(1000) }, vec![]),
    ] {
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
    let fs = bucket.mount_with(sluicefs_core::FsConfig { metadata_ttl: Ttl::Forever, ..ttl(0) });
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
async fn an_object_of_another_length_is_stale_until_looked_up_again() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let unread = fs.open(ino).await.unwrap().handle;
    bucket.store.put("a", "longer");
    // Whoever opened it believes the old length: nothing may be read by that.
    assert_eq!(content(&fs, unread).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(content(&fs, unread).await.unwrap_err().kind(), ErrorKind::Stale);
    let read = fs.open(ino).await.unwrap().handle;
    assert_eq!(content(&fs, read).await.unwrap(), "longer");
    bucket.store.put("a", "s");
    assert_eq!(fs.open(ino).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(walk(&fs, "a").await.unwrap().attr.size, 1);
    let handle = fs.open(ino).await.unwrap().handle;
    assert_eq!(content(&fs, handle).await.unwrap(), "s");
}
