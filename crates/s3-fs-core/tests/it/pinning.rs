//! Pinned versions: what is seen first counts, for as long as the mount is not refreshed, and what that costs in requests.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_core::kernel::BoxFuture;
use sluicefs_core::{
    Allow, DirMode, ErrorKind, FileSystem, FsConfig, InodeNo, Kernel, PinStats, Refreshed, Ttl, VersionPolicy,
};

use crate::recorder::{LATENCY, Recorder, content, names, walk};

/// As for a model: nothing is asked again.
fn pinned() -> FsConfig {
    FsConfig {
        versions: VersionPolicy::Pinned,
        allow: Allow::NOTHING,
        metadata_ttl: Ttl::Forever,
        negative_ttl: Ttl::Forever,
        revalidate_on_open: false,
        ..FsConfig::default()
    }
}

/// The same, asking again for names that were looked at a second ago.
fn pinned_and_curious() -> FsConfig {
    let ttl = Ttl::For(Duration::from_secs(1));
    FsConfig { metadata_ttl: ttl, negative_ttl: ttl, ..pinned() }
}

async fn read(fs: &FileSystem, path: &str) -> Result<String, ErrorKind> {
    let ino = walk(fs, path).await.map_err(|error| error.kind())?.attr.ino;
    let file = fs.open(ino).await.map_err(|error| error.kind())?;
    let content = content(fs, file.handle).await.map_err(|error| error.kind());
    fs.release(file.handle);
    content
}

/// Lets go of what the kernel knows of `path`, and of what is believed of it.
async fn forget(fs: &FileSystem, path: &str) {
    let ino = walk(fs, path).await.unwrap().attr.ino;
    fs.forget(ino, u64::MAX);
    tokio::time::advance(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn what_changed_after_it_was_seen_and_before_it_was_opened_is_stale() {
    let bucket = Recorder::new(&["d/a", "d/b", "d/c"]);
    let fs = bucket.mount_with(pinned());
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    assert_eq!(names(&fs, dir, DirMode::Lookup).await.unwrap(), ["a", "b", "c"]);
    bucket.store.put("d/a", "changed");
    bucket.store.put("d/b", "D/B");
    bucket.store.remove("d/c");
    bucket.requests();
    for (path, size) in [("d/a", 3), ("d/b", 3), ("d/c", 3)] {
        assert_eq!(walk(&fs, path).await.unwrap().attr.size, size, "{path}");
        assert_eq!(bucket.requests(), Vec::<String>::new());
        assert_eq!(read(&fs, path).await, Err(ErrorKind::Stale), "{path}");
        assert_eq!(bucket.requests(), [format!("get {path}")], "nothing else is asked");
    }
    assert_eq!(fs.pin_stats().map(|PinStats { objects, .. }| objects), Some(3));
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_is_remembered_when_everything_else_was_forgotten() {
    let bucket = Recorder::new(&["a", "gone"]);
    let fs = bucket.mount_with(pinned_and_curious());
    for path in ["a", "gone"] {
        forget(&fs, path).await;
    }
    bucket.store.put("a", "another length");
    bucket.store.remove("gone");
    bucket.requests();
    for path in ["a", "gone"] {
        assert_eq!(walk(&fs, path).await.unwrap().attr.size, path.len() as u64);
        assert!(!bucket.requests().is_empty(), "it was looked up anew");
        assert_eq!(read(&fs, path).await, Err(ErrorKind::Stale), "{path}");
        forget(&fs, path).await;
    }
    let root = names(&fs, InodeNo::ROOT, DirMode::Names).await.unwrap();
    assert_eq!(root, ["a"], "a listing shows what is there");
    bucket.store.put("new", "n");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(read(&fs, "new").await.as_deref(), Ok("n"), "what is seen later is pinned then");
    bucket.store.put("new", "m");
    forget(&fs, "new").await;
    assert_eq!(read(&fs, "new").await, Err(ErrorKind::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_absent_and_was_listed_since_is_not_forgotten_again() {
    let bucket = Recorder::new(&["d/a"]);
    let fs = bucket.mount_with(pinned());
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    assert_eq!(walk(&fs, "d/b").await.unwrap_err().kind(), ErrorKind::NotFound);
    bucket.store.put("d/b", "new");
    assert_eq!(names(&fs, dir, DirMode::Lookup).await.unwrap(), ["a", "b"]);
    forget(&fs, "d/b").await;
    assert_eq!(read(&fs, "d/b").await.as_deref(), Ok("new"));
}

#[tokio::test(start_paused = true)]
async fn what_is_open_keeps_its_version_over_a_refresh() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount_with(pinned());
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let old = fs.open(ino).await.unwrap().handle;
    assert_eq!(content(&fs, old).await.unwrap(), "a");
    bucket.store.put("a", "b");
    assert_eq!(read(&fs, "a").await.as_deref(), Ok("a"), "bytes that are here are of that version");
    let refreshed = fs.refresh().await;
    assert_eq!(refreshed, Refreshed { released: 1, names: 1, untold: 0 });
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(read(&fs, "a").await.as_deref(), Ok("b"), "what is opened after it is new");
    assert_eq!(content(&fs, old).await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_shows_new_names_and_sizes_at_once_also_where_nothing_is_pinned() {
    for config in [pinned(), FsConfig { versions: VersionPolicy::Newest, ..pinned() }] {
        let bucket = Recorder::new(&["d/a"]);
        let fs = bucket.mount_with(config);
        let dir = walk(&fs, "d").await.unwrap().attr.ino;
        assert_eq!(names(&fs, dir, DirMode::Lookup).await.unwrap(), ["a"]);
        assert_eq!(walk(&fs, "d/new").await.unwrap_err().kind(), ErrorKind::NotFound);
        bucket.store.put("d/a", "longer than before");
        bucket.store.put("d/new", "new");
        bucket.requests();
        assert_eq!(walk(&fs, "d/a").await.unwrap().attr.size, 3);
        assert_eq!(walk(&fs, "d/new").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(bucket.requests(), Vec::<String>::new());

        fs.refresh().await;
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(walk(&fs, "d/a").await.unwrap().attr.size, 18);
        assert_eq!(walk(&fs, "d/new").await.unwrap().attr.size, 3);
        assert_eq!(names(&fs, dir, DirMode::Lookup).await.unwrap(), ["a", "new"]);
        assert_eq!(read(&fs, "d/a").await.as_deref(), Ok("longer than before"));
        bucket.requests();
        assert_eq!(walk(&fs, "d/a").await.unwrap().attr.size, 18);
        assert_eq!(bucket.requests(), Vec::<String>::new(), "it is believed again");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_asked_for_before_a_refresh_is_not_believed_after_it() {
    for config in [pinned(), FsConfig { versions: VersionPolicy::Newest, ..pinned() }] {
        let bucket = Recorder::new(&["a"]);
        let fs = bucket.mount_with(config);
        let refresh = async {
            // The answer is on its way, and says how it was.
            tokio::time::sleep(LATENCY / 2).await;
            bucket.store.put("a", "new");
            fs.refresh().await;
        };
        let (asked, ()) = tokio::join!(walk(&fs, "a"), refresh);
        assert_eq!(asked.unwrap().attr.size, 1);
        assert_eq!(walk(&fs, "a").await.unwrap().attr.size, 3);
        assert_eq!(read(&fs, "a").await.as_deref(), Ok("new"));
        assert_eq!(walk(&fs, "a").await.unwrap().attr.size, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn what_describes_another_version_is_not_shown_of_this_one() {
    let bucket = Recorder::new(&["a"]);
    let fs = bucket.mount_with(pinned());
    let ino = walk(&fs, "a").await.unwrap().attr.ino;
    let etag = fs.xattr(ino, "user.s3.etag").await.unwrap();
    bucket.store.put("a", "new");
    assert_eq!(fs.xattr(ino, "user.s3.etag").await.unwrap(), etag);
    assert_eq!(fs.xattr(ino, "user.s3.content_type").await.unwrap_err().kind(), ErrorKind::Stale);
}

/// A kernel that notes which names it was told of, and takes in all but those that begin with `deaf`.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Name>>>);

type Name = (InodeNo, Box<str>);

impl Kernel for Told {
    fn doubt_attributes(&self, _ino: InodeNo) -> BoxFuture<'static, bool> {
        Box::pin(std::future::ready(true))
    }

    fn doubt_names(&self, names: Vec<Name>) -> BoxFuture<'static, usize> {
        let heard = names.iter().filter(|(_, name)| !name.starts_with("deaf")).count();
        self.0.lock().extend(names);
        Box::pin(std::future::ready(heard))
    }

    fn ends_files_at_short_replies(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn the_kernel_is_told_of_the_names_that_it_has() {
    let bucket = Recorder::new(&["deaf", "forgotten", "d/a"]);
    let fs = bucket.mount_with(pinned());
    let told = Told::default();
    fs.set_kernel(Box::new(told.clone()));
    let dir = walk(&fs, "d").await.unwrap().attr.ino;
    for path in ["deaf", "d/a", "forgotten"] {
        walk(&fs, path).await.unwrap();
    }
    assert_eq!(walk(&fs, "absent").await.unwrap_err().kind(), ErrorKind::NotFound);
    let forgotten = walk(&fs, "forgotten").await.unwrap().attr.ino;
    fs.forget(forgotten, u64::MAX);
    let refreshed = fs.refresh().await;
    let mut names = std::mem::take(&mut *told.0.lock());
    names.sort();
    let mut expected = [(InodeNo::ROOT, "absent"), (InodeNo::ROOT, "d"), (InodeNo::ROOT, "deaf"), (dir, "a")]
        .map(|(dir, name)| (dir, Box::from(name)));
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!((refreshed.names, refreshed.untold), (4, 1));
    assert_eq!(fs.refresh().await.names, 3, "what was absent is not known any more");
}
