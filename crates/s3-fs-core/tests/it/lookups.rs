//! Which requests look-ups cost, and what they answer.

use std::time::Duration;

use sluicefs_core::{DirMode, ErrorKind, FileKind, FsConfig, InodeNo, NewAttr};
use sluicefs_s3_client::KeyPrefix;

use crate::recorder::{LATENCY, Recorder, content, names, ttl, walk};

#[tokio::test(start_paused = true)]
async fn a_cold_name_costs_one_list() {
    let bucket = Recorder::new(&["a", "d/x"]);
    let fs = bucket.mount();
    assert_eq!(walk(&fs, "a").await.unwrap().attr.kind, FileKind::File);
    assert_eq!(bucket.requests(), ["list a"]);
    assert_eq!(walk(&fs, "a").await.unwrap().attr.size, 1);
    assert_eq!(bucket.requests(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_open_and_read_right_after_ls_costs_one_get() {
    let bucket = Recorder::new(&["d/a", "d/b"]);
    let fs = bucket.mount();
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    names(&fs, dir, DirMode::Lookup).await.unwrap();
    bucket.requests();
    let ino = fs.lookup(dir, "a").await.unwrap().attr.ino;
    let file = fs.open(ino).await.unwrap();
    assert_eq!(content(&fs, file.handle).await.unwrap(), "d/a");
    assert_eq!(bucket.requests(), ["get d/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_siblings_costs_one_page() {
    let keys: Vec<String> = (0..100).map(|i| format!("d/{i:03}")).collect();
    let bucket = Recorder::new(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let fs = bucket.mount();
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    fs.lookup(dir, "000").await.unwrap();
    bucket.requests();
    let names: Vec<String> = (1..100).map(|i| format!("{i:03}")).collect();
    let found = futures::future::join_all(names.iter().map(|name| fs.lookup(dir, name))).await;
    assert!(found.iter().all(Result::is_ok));
    assert_eq!(bucket.requests(), ["list d/"]);
    assert_eq!(fs.lookup(dir, "absent").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bucket.requests(), Vec::<String>::new(), "the page told that too");
}

#[tokio::test(start_paused = true)]
async fn a_missing_name_is_remembered_for_its_ttl() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    for expected in [&["list b"][..], &[]] {
        assert_eq!(walk(&fs, "b").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(bucket.requests(), expected);
    }
    bucket.store.put("b", "new");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(walk(&fs, "b").await.unwrap().attr.size, 3);
}

#[tokio::test(start_paused = true)]
async fn absence_is_passed_on_for_what_is_left_of_its_time() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount_with(ttl(1000));
    let left = || fs.absent_for(InodeNo::ROOT, "b");
    assert_eq!(left(), Duration::ZERO, "nothing is known of it");
    walk(&fs, "b").await.unwrap_err();
    assert_eq!(left(), Duration::from_secs(1) - LATENCY, "since the store was asked");
    tokio::time::advance(Duration::from_millis(600)).await;
    walk(&fs, "b").await.unwrap_err();
    assert_eq!(left(), Duration::from_millis(400) - LATENCY);
    bucket.store.put("b", "new");
    tokio::time::advance(Duration::from_secs(1)).await;
    walk(&fs, "b").await.unwrap();
    assert_eq!(left(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn illegal_names_never_reach_the_store() {
    let bucket = Recorder::new(&["d//x", "d/../y"]);
    let fs = bucket.mount();
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    bucket.requests();
    for name in ["", ".", "..", "a\0b"] {
        assert_eq!(fs.lookup(dir, name).await.unwrap_err().kind(), ErrorKind::NotFound, "{name:?}");
    }
    assert_eq!(fs.lookup(dir, &"n".repeat(256)).await.unwrap_err().kind(), ErrorKind::NameTooLong);
    assert_eq!(bucket.requests(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_name_keeps_its_number_after_the_kernel_forgot_it() {
    let bucket = Recorder::new(&["d/a"]);
    let fs = bucket.mount();
    let first = walk(&fs, "d/a").await.unwrap().attr.ino;
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    fs.forget(dir, 2);
    fs.forget(first, 1);
    assert_eq!(fs.inode_count(), 1);
    assert_eq!(walk(&fs, "d/a").await.unwrap().attr.ino, first);
}

#[tokio::test(start_paused = true)]
async fn a_directory_stays_while_the_kernel_knows_a_file_in_it() {
    let bucket = Recorder::new(&["d/a"]);
    let fs = bucket.mount();
    let file = walk(&fs, "d/a").await.unwrap().attr.ino;
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    fs.forget(dir, 2);
    let opened = fs.open(file).await.unwrap();
    assert_eq!(content(&fs, opened.handle).await.unwrap(), "d/a");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_becomes_a_directory_gets_another_number() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let file = walk(&fs, "a").await.unwrap().attr;
    bucket.store.put("a/b", "x");
    tokio::time::advance(Duration::from_secs(2)).await;
    let dir = walk(&fs, "a").await.unwrap().attr;
    assert_eq!((file.kind, dir.kind), (FileKind::File, FileKind::Directory));
    assert_ne!(file.ino, dir.ino);
}

#[tokio::test(start_paused = true)]
async fn with_a_ttl_of_zero_every_question_is_asked() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount_with(ttl(0));
    for _ in 0..2 {
        let ino = walk(&fs, "a").await.unwrap().attr.ino;
        fs.getattr(ino).await.unwrap();
        assert_eq!(bucket.requests().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_prefix_is_the_root() {
    let bucket = Recorder::new(&["models/llama/config.json", "other"]);
    let fs = bucket.mount_with(FsConfig { prefix: KeyPrefix::new("models/"), ..FsConfig::default() });
    assert_eq!(names(&fs, InodeNo::ROOT, DirMode::Names).await.unwrap(), ["llama/"]);
    assert!(walk(&fs, "llama/config.json").await.is_ok());
    assert_eq!(walk(&fs, "other").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn attributes_and_xattrs_of_a_listed_file_cost_nothing() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    names(&fs, InodeNo::ROOT, DirMode::Lookup).await.unwrap();
    bucket.requests();
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    assert_eq!(fs.xattr(ino, "user.s3.storage_class").await.unwrap(), b"STANDARD");
    assert_eq!(fs.xattr(ino, "user.s3.key").await.unwrap(), b"a");
    assert!(fs.xattr(ino, "user.s3.etag").await.unwrap().starts_with(b"\""));
    assert_eq!(fs.xattr(ino, "security.selinux").await.unwrap_err().kind(), ErrorKind::NoAttribute);
    assert_eq!(fs.xattr_names(ino).await.unwrap().len(), 3);
    assert_eq!(bucket.requests(), Vec::<String>::new());
    assert_eq!(fs.xattr(ino, "user.s3.content_type").await.unwrap(), b"binary/octet-stream");
    assert_eq!(bucket.requests(), ["head a"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_removal_overtook_does_not_bring_the_name_back() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount_with(ttl(0));
    fs.lookup(InodeNo::ROOT, "a").await.unwrap();
    let (asked, removed) = tokio::join!(fs.lookup(InodeNo::ROOT, "a"), fs.unlink(InodeNo::ROOT, "a"));
    removed.unwrap();
    // The store was asked while the object was there, and answered after it was gone.
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs.lookup(InodeNo::ROOT, "a").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn names_are_believed_for_longer_while_others_are_removed() {
    for (removes, asks) in [(true, false), (false, true)] {
        let bucket = Recorder::new(&["d/a", "d/b", "d/c"]);
        let fs = bucket.mount();
        let dir = walk(&fs, "d").await.unwrap().attr.ino;
        names(&fs, dir, DirMode::Lookup).await.unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        if removes {
            fs.unlink(dir, "a").await.unwrap();
        }
        bucket.requests();
        fs.lookup(dir, "b").await.unwrap();
        assert_eq!(!bucket.requests().is_empty(), asks);
    }
}

#[tokio::test(start_paused = true)]
async fn names_in_a_directory_made_here_are_absent_without_a_request() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let dir =
        fs.make_dir(InodeNo::ROOT, "d", NewAttr { mode: 0o755, uid: 0, gid: 0 }).await.unwrap().attr.ino;
    assert_eq!(bucket.requests(), ["list d", "put d/"]);
    for name in ["x", "y", "z"] {
        assert_eq!(fs.lookup(dir, name).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(bucket.requests(), Vec::<String>::new());
    bucket.store.put("d/x", "from elsewhere");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(fs.lookup(dir, "x").await.unwrap().attr.size, 14);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_one_absent_name_after_another_waits_for_none() {
    let bucket = Recorder::new(&["d/other"]);
    let fs = bucket.mount();
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    for name in ["first", "second"] {
        fs.lookup(dir, name).await.unwrap_err();
    }
    bucket.requests();
    let began = tokio::time::Instant::now();
    for n in 0..200 {
        assert_eq!(fs.lookup(dir, &format!("{n:03}")).await.unwrap_err().kind(), ErrorKind::NotFound);
        tokio::time::sleep(LATENCY).await;
    }
    assert_eq!(began.elapsed(), 200 * LATENCY, "no look-up waited");
    let requests = bucket.requests();
    assert!(requests.iter().all(|request| request == "list d/"), "{requests:?}");
    assert_eq!(requests.len(), 5, "a page each three quarters of a second, for four seconds");
    bucket.store.put("d/new", "from elsewhere");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        fs.lookup(dir, "new").await.unwrap().attr.size,
        14,
        "absence is believed for no longer than its time"
    );
}
