//! Reading directories: what is shown, in how many requests, and where reading goes on.

use std::time::Duration;

use sluicefs_core::{DirMode, ErrorKind, InodeNo};

use crate::recorder::{Recorder, names, read_names, walk};

#[tokio::test(start_paused = true)]
async fn a_directory_shows_files_prefixes_and_markers() {
    let bucket = Recorder::new(&["a", "b/c", "d/", "e/f/g"]);
    let fs = bucket.mount();
    assert_eq!(names(&fs, InodeNo::ROOT, DirMode::Lookup).await.unwrap(), ["a", "b/", "d/", "e/"]);
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    assert_eq!(names(&fs, dir, DirMode::Lookup).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn ls_l_of_n_names_costs_a_request_per_thousand() {
    let keys: Vec<String> = (0..2500).map(|i| format!("d/{i:05}")).collect();
    let bucket = Recorder::new(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let fs = bucket.mount();
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    bucket.requests();
    let found = names(&fs, dir, DirMode::Lookup).await.unwrap();
    assert_eq!(found.len(), 2500);
    assert!(found.is_sorted());
    for name in found {
        let entry = fs.lookup(dir, &name).await.unwrap();
        fs.getattr(entry.attr.ino).await.unwrap();
    }
    assert_eq!(bucket.requests(), ["list d/"; 3]);
}

#[tokio::test(start_paused = true)]
async fn hidden_names_are_left_out_and_directories_win() {
    let bucket = Recorder::new(&["a", "a/b", "c//d", "../e", "./f", "/g", "ok"]);
    bucket.store.put(&"n".repeat(256), "too long");
    let fs = bucket.mount();
    assert_eq!(names(&fs, InodeNo::ROOT, DirMode::Names).await.unwrap(), ["a/", "c/", "ok"]);
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_at_any_offset_given_out() {
    let keys: Vec<String> = (0..1500).map(|i| format!("{i:04}")).collect();
    let bucket = Recorder::new(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let fs = bucket.mount();
    let handle = fs.open_dir(InodeNo::ROOT).await.unwrap();
    let all = read_names(&fs, handle, 0, DirMode::Names, usize::MAX).await.unwrap();
    assert_eq!(all.len(), 1502);
    for at in [0, 1, 2, 999, 1000, 1001, 1500] {
        let again = read_names(&fs, handle, all[at].1, DirMode::Lookup, 3).await.unwrap();
        assert_eq!(again, all[at + 1..all.len().min(at + 4)], "after entry {at}");
    }
    // One that does not fit comes again.
    assert_eq!(read_names(&fs, handle, 0, DirMode::Lookup, 2).await.unwrap(), all[..2]);
}

#[tokio::test(start_paused = true)]
async fn entries_that_did_not_fit_are_not_counted_as_looked_up() {
    let bucket = Recorder::new(&["a", "b", "c"]);
    let fs = bucket.mount();
    let handle = fs.open_dir(InodeNo::ROOT).await.unwrap();
    read_names(&fs, handle, 0, DirMode::Lookup, 3).await.unwrap();
    assert_eq!(fs.inode_count(), 2, "the root and a");
}

#[tokio::test(start_paused = true)]
async fn a_rewound_directory_shows_new_names_after_the_ttl() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount();
    let handle = fs.open_dir(InodeNo::ROOT).await.unwrap();
    assert_eq!(read_names(&fs, handle, 0, DirMode::Names, usize::MAX).await.unwrap().len(), 3);
    bucket.store.put("b", "x");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(read_names(&fs, handle, 0, DirMode::Names, usize::MAX).await.unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_gone_is_not_found() {
    let bucket = Recorder::new(&["d/a"]);
    let fs = bucket.mount();
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    bucket.store.remove("d/a");
    assert_eq!(names(&fs, dir, DirMode::Names).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        names(&fs, InodeNo::ROOT, DirMode::Names).await.unwrap(),
        Vec::<String>::new(),
        "an empty bucket is no error"
    );
}

#[tokio::test(start_paused = true)]
async fn a_walk_lists_ahead() {
    let keys: Vec<String> = (0..40).flat_map(|d| (0..3).map(move |f| format!("{d:02}/{f}"))).collect();
    let bucket = Recorder::new(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let fs = bucket.mount();
    let dirs = names(&fs, InodeNo::ROOT, DirMode::Lookup).await.unwrap();
    let began = tokio::time::Instant::now();
    for dir in &dirs {
        let ino = walk(&fs, dir).await.unwrap().attr.ino;
        assert_eq!(names(&fs, ino, DirMode::Lookup).await.unwrap().len(), 3);
    }
    let round_trips = began.elapsed().as_millis() / crate::recorder::LATENCY.as_millis();
    assert!(round_trips <= 10, "{round_trips} round trips for 40 directories");
    assert_eq!(bucket.requests().len(), 41, "and not one request too many");
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_directory_share_its_listing() {
    let bucket = Recorder::new(&["a", "b"]);
    let fs = bucket.mount();
    let readers = (0..8).map(|_| names(&fs, InodeNo::ROOT, DirMode::Lookup));
    for result in futures::future::join_all(readers).await {
        assert_eq!(result.unwrap(), ["a", "b"]);
    }
    assert_eq!(bucket.requests(), ["list "]);
}

/// More names than are kept of a listing with one reader.
const MANY: usize = 203_000;

fn many_names() -> Recorder {
    let keys: Vec<String> = (0..MANY).map(|i| format!("{i:06}")).collect();
    Recorder::new(&keys.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(start_paused = true)]
async fn one_reader_of_a_huge_directory_may_seek_back_to_its_beginning() {
    let bucket = many_names();
    let fs = bucket.mount();
    let handle = fs.open_dir(InodeNo::ROOT).await.unwrap();
    let all = read_names(&fs, handle, 0, DirMode::Names, usize::MAX).await.unwrap();
    assert_eq!(all.len(), MANY + 2);
    assert_eq!(bucket.requests().len(), MANY / 1000);
    // What is near is still here.
    let near = MANY - 150_000;
    assert_eq!(
        read_names(&fs, handle, all[near].1, DirMode::Names, 3).await.unwrap(),
        all[near + 1..near + 4]
    );
    assert_eq!(bucket.requests(), Vec::<String>::new());
    // The rest is listed again, as far as it takes.
    for at in [1, 2500, 1200] {
        assert_eq!(read_names(&fs, handle, all[at].1, DirMode::Names, 3).await.unwrap(), all[at + 1..at + 4]);
    }
    assert!((3..8).contains(&bucket.requests().len()), "some pages from the start");
    // Others who open it begin at its beginning.
    let other = fs.open_dir(InodeNo::ROOT).await.unwrap();
    assert_eq!(read_names(&fs, other, 0, DirMode::Names, 4).await.unwrap(), all[..4]);
}

#[tokio::test(start_paused = true)]
async fn look_ups_of_names_that_were_let_go_of_are_asked_again() {
    let bucket = many_names();
    let fs = bucket.mount();
    let handle = fs.open_dir(InodeNo::ROOT).await.unwrap();
    read_names(&fs, handle, 0, DirMode::Names, usize::MAX).await.unwrap();
    bucket.requests();
    for name in ["000000", "000999", "001000", "202999"] {
        assert!(fs.lookup(InodeNo::ROOT, name).await.is_ok(), "{name}");
    }
    assert_eq!(fs.lookup(InodeNo::ROOT, "202999x").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn two_readers_of_a_huge_directory_keep_it_for_each_other() {
    let bucket = many_names();
    let fs = bucket.mount();
    let (fast, slow) = (fs.open_dir(InodeNo::ROOT).await.unwrap(), fs.open_dir(InodeNo::ROOT).await.unwrap());
    let all = read_names(&fs, fast, 0, DirMode::Names, usize::MAX).await.unwrap();
    assert_eq!(read_names(&fs, slow, 2, DirMode::Names, usize::MAX).await.unwrap(), all[2..]);
    assert_eq!(bucket.requests().len(), MANY / 1000);
}
