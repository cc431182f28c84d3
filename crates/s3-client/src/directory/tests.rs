//! A directory as a bucket: what it shows, what it leaves out, and that no path leads out of it.

mod write;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;
use crate::bucket::BodyStream;
use crate::key::KeyPrefix;
use crate::testing::MemoryBucket;

const KEYS: [&str; 10] =
    ["a", "a-b/x", "a.txt", "aa/b", "aa/c/d", "aa/c/e f+%41", "b/🦀", "b\nc", "model.safetensors", "z"];

/// A directory with `keys` as files.
fn directory(keys: &[&str]) -> (tempfile::TempDir, DirectoryBucket) {
    let dir = tempfile::tempdir().unwrap();
    for key in keys {
        let path = dir.path().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, key).unwrap();
    }
    let bucket = DirectoryBucket::open(dir.path()).unwrap();
    (dir, bucket)
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn get(text: &str) -> GetRequest {
    GetRequest { key: key(text), range: None, if_match: None }
}

fn flat() -> ListRequest {
    ListRequest { delimiter: false, ..ListRequest::directory(KeyPrefix::root()) }
}

async fn text(bucket: &DirectoryBucket, name: &str) -> Result<String> {
    let body = collect(bucket.get(get(name)).await?.body).await?;
    Ok(String::from_utf8(body).unwrap())
}

async fn collect(body: BodyStream) -> Result<Vec<u8>> {
    Ok(body.try_collect::<Vec<Bytes>>().await?.concat())
}

/// All names of a listing in the order of its pages.
async fn names(bucket: &dyn Bucket, mut request: ListRequest) -> Vec<String> {
    let mut out = Vec::new();
    loop {
        let page = bucket.list(request.clone()).await.unwrap();
        assert!(page.objects.len() + page.common_prefixes.len() <= usize::from(request.max_keys));
        let mut names: Vec<String> = page.objects.iter().map(|o| o.key.as_str().to_owned()).collect();
        names.extend(page.common_prefixes.iter().map(|p| p.as_str().to_owned()));
        names.sort();
        assert!(names.first().is_none_or(|first| out.last() < Some(first)), "pages rise");
        out.extend(names);
        match page.next {
            Some(next) => request.continuation = Some(next),
            None => return out,
        }
    }
}

async fn is_absent(bucket: &DirectoryBucket, name: &str) {
    let head = bucket.head(&key(name)).await.map_err(|e| e.kind());
    assert_eq!(head, Err(ErrorKind::NotFound), "head {name:?}");
    let got = bucket.get(get(name)).await.map_err(|e| e.kind()).map(|reply| reply.meta);
    assert_eq!(got, Err(ErrorKind::NotFound), "get {name:?}");
}

#[tokio::test]
async fn listings_equal_those_of_the_reference_bucket() {
    let (_dir, bucket) = directory(&KEYS);
    let reference = MemoryBucket::new("reference");
    for key in KEYS {
        reference.put(key, key.as_bytes().to_vec());
    }
    for prefix in
        ["", "a", "a/", "aa", "aa/", "aa/c", "aa/c/", "b", "b/", "nothing/", "a//", "/", "..", "../"]
    {
        for delimiter in [true, false] {
            for max_keys in [1, 2, 1000] {
                for start_after in ["", "a.txt", "aa/", "aa/c/d", "aa/c/e f+%41", "b/", "zz"] {
                    let request = ListRequest {
                        prefix: KeyPrefix::new(prefix),
                        delimiter,
                        start_after: Some(start_after.to_owned()),
                        continuation: None,
                        max_keys,
                    };
                    let expected = names(&reference, request.clone()).await;
                    assert_eq!(names(&bucket, request.clone()).await, expected, "{request:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn names_that_no_bucket_has_are_left_out_alone() {
    let (dir, bucket) = directory(&["a", "d/b", "new\nline", "tab\t"]);
    let odd = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
    fs::write(odd(b"latin-\xe9"), "x").unwrap();
    fs::create_dir(odd(b"dir-\xff")).unwrap();
    mkfifoat(CWD, dir.path().join("d/pipe"), Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    for _ in 0..2 {
        assert_eq!(names(&bucket, flat()).await, ["a", "d/b", "new\nline", "tab\t"]);
        let page = names(&bucket, ListRequest::directory(KeyPrefix::root())).await;
        assert_eq!(page, ["a", "d/", "new\nline", "tab\t"]);
    }
    assert_eq!(text(&bucket, "new\nline").await.unwrap(), "new\nline");
    for name in ["d/pipe", "socket", "d", "a/b"] {
        is_absent(&bucket, name).await;
    }
    assert_eq!(bucket.shared.hidden.named(), ["d/pipe", "dir-\\xff", "latin-\\xe9", "socket"], "once each");
}

#[tokio::test]
async fn links_are_followed_to_files_inside_alone() {
    let (dir, bucket) = directory(&["blobs/abc", "d/x"]);
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "secret").unwrap();
    fs::create_dir_all(dir.path().join("snapshots/1")).unwrap();
    let link = |target: &Path, name: &str| symlink(target, dir.path().join(name)).unwrap();
    link(Path::new("../../blobs/abc"), "snapshots/1/model");
    link(Path::new("blobs"), "linked");
    link(Path::new("nowhere"), "dangling");
    link(Path::new("circle"), "circle");
    link(outside.path(), "absolute");
    link(Path::new("/proc/self/root/etc/passwd"), "magic");
    link(Path::new("../../../../../../etc/passwd"), "climbing");
    assert_eq!(names(&bucket, flat()).await, ["blobs/abc", "d/x", "snapshots/1/model"]);
    assert_eq!(text(&bucket, "snapshots/1/model").await.unwrap(), "blobs/abc");
    for name in ["linked", "linked/abc", "dangling", "circle", "absolute", "magic", "climbing", "circle/a"] {
        is_absent(&bucket, name).await;
    }
}

#[tokio::test]
async fn no_key_leads_out() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), "secret").unwrap();
    let inner = outer.path().join("root");
    fs::create_dir_all(inner.join("a/b")).unwrap();
    fs::write(inner.join("a/b/c"), "c").unwrap();
    let bucket = DirectoryBucket::open(&inner).unwrap();
    for name in
        ["../secret", "a/../../secret", "a/../a/b/c", "/etc/passwd", "a//b/c", "./a/b/c", "a/b/", "a/b/c/"]
    {
        is_absent(&bucket, name).await;
    }
    // One component more than a key has room for.
    is_absent(&bucket, &"d/".repeat(512)).await;
    is_absent(&bucket, &"n".repeat(300)).await;
}

#[tokio::test]
async fn an_empty_directory_is_an_object_with_a_slash() {
    let (dir, bucket) = directory(&["full/a"]);
    fs::create_dir_all(dir.path().join("empty")).unwrap();
    fs::create_dir_all(dir.path().join("nest/of/nothing")).unwrap();
    assert_eq!(names(&bucket, flat()).await, ["empty/", "full/a", "nest/of/nothing/"]);
    assert_eq!(names(&bucket, ListRequest::directory(KeyPrefix::root())).await, ["empty/", "full/", "nest/"]);
    assert_eq!(names(&bucket, ListRequest::directory(KeyPrefix::new("empty/"))).await, ["empty/"]);
    assert_eq!(bucket.head(&key("empty/")).await.unwrap().meta.size, 0);
    assert_eq!(text(&bucket, "nest/of/nothing/").await.unwrap(), "");
    for name in ["full/", "nest/", "nest/of/", "none/", "full/a/"] {
        is_absent(&bucket, name).await;
    }
    let after = ListRequest { start_after: Some("empty/".into()), ..flat() };
    assert_eq!(names(&bucket, after).await, ["full/a", "nest/of/nothing/"]);
}

#[tokio::test]
async fn a_change_is_another_version() {
    let (dir, bucket) = directory(&["a"]);
    let path = dir.path().join("a");
    let etag = async || bucket.head(&key("a")).await.unwrap().meta.etag.unwrap();
    let first = etag().await;
    let pinned = || GetRequest { if_match: Some(first.clone()), ..get("a") };
    assert_eq!(collect(bucket.get(pinned()).await.unwrap().body).await.unwrap(), b"a");
    let page = bucket.list(flat()).await.unwrap();
    assert_eq!(page.objects[0].meta.etag.as_ref(), Some(&first), "listings say the same");
    // As long as before and of the same time, but another file.
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let other = dir.path().join("other");
    fs::write(&other, "b").unwrap();
    File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_ne!(etag().await, first);
    let error = bucket.get(pinned()).await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::PreconditionFailed, Some(412)), "{error}");
}

const MIB: usize = 1 << 20;

/// A file of 3 MiB, of which the first was read, and what comes after `change`.
async fn read_while(change: impl FnOnce(&Path)) -> Result<Vec<u8>> {
    let (dir, bucket) = directory(&[]);
    let path = dir.path().join("a");
    fs::write(&path, vec![1; 3 * MIB]).unwrap();
    let mut body = bucket.get(get("a")).await.unwrap().body;
    assert_eq!(body.try_next().await.unwrap().unwrap().len(), MIB);
    change(&path);
    collect(body).await
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_never_mixes() {
    let write = |path: &Path| File::options().write(true).open(path).unwrap();
    for (what, change) in [
        ("cut", &(|path: &Path| write(path).set_len(MIB as u64).unwrap()) as &dyn Fn(&Path)),
        ("longer", &|path| write(path).set_len(4 * MIB as u64).unwrap()),
        ("overwritten", &|path| {
            use std::os::unix::fs::FileExt;
            let file = write(path);
            file.write_all_at(&[2], 2 * MIB as u64).unwrap();
            // The kernel's clock ticks every few milliseconds.
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
    ] {
        let error = read_while(change).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{what}: {error}");
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_or_removed_while_it_is_read_stays_whole() {
    let removed = read_while(|path| fs::remove_file(path).unwrap()).await.unwrap();
    assert!(removed == vec![1; 2 * MIB]);
    let replaced = read_while(|path| {
        fs::write(path.with_extension("new"), vec![2; 3 * MIB]).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    });
    assert!(replaced.await.unwrap() == vec![1; 2 * MIB]);
}

#[tokio::test]
async fn ranges_are_read_to_the_byte() {
    let (dir, bucket) = directory(&[]);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(dir.path().join("a"), &bytes).unwrap();
    for (start, end) in [(0, 1), (MIB - 1, MIB + 1), (7, 2 * MIB + 7), (2_999_999, 4_000_000)] {
        let request = GetRequest { range: Some(ByteRange::new(start as u64, end as u64)), ..get("a") };
        let reply = bucket.get(request).await.unwrap();
        let end = end.min(bytes.len());
        assert_eq!(reply.range, ByteRange::new(start as u64, end as u64));
        assert!(collect(reply.body).await.unwrap() == bytes[start..end], "{start}..{end}");
    }
}

#[tokio::test]
async fn a_large_directory_is_read_once_for_all_its_pages() {
    let keys: Vec<String> = (0..2500).map(|n| format!("d/{n:04}")).collect();
    let (dir, bucket) = directory(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let request = ListRequest::directory(KeyPrefix::new("d/"));
    let first = bucket.list(request.clone()).await.unwrap();
    assert_eq!(bucket.shared.snapshots.len(), 1);
    // What goes meanwhile is missing, what comes meanwhile is for the next listing.
    fs::remove_file(dir.path().join("d/1500")).unwrap();
    fs::write(dir.path().join("d/1500-new"), "").unwrap();
    let rest = names(&bucket, ListRequest { continuation: first.next, ..request.clone() }).await;
    let expected: Vec<_> = keys[1000..].iter().filter(|key| *key != "d/1500").cloned().collect();
    assert_eq!(rest, expected);
    assert_eq!(bucket.shared.snapshots.len(), 0, "a finished listing is forgotten");
    assert_eq!(names(&bucket, request).await.len(), 2500);
}

#[tokio::test]
async fn a_forgotten_listing_goes_on_from_its_token() {
    let keys: Vec<String> = (0..1500).map(|n| format!("{n:04}")).collect();
    let (_dir, bucket) = directory(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let first = bucket.list(flat()).await.unwrap();
    for _ in 0..8 {
        bucket.list(flat()).await.unwrap();
    }
    let rest = names(&bucket, ListRequest { continuation: first.next, ..flat() }).await;
    assert_eq!(rest, keys[1000..]);
    let foreign = ListRequest { continuation: Some(ContinuationToken("elsewhere".into())), ..flat() };
    assert_eq!(bucket.list(foreign).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn what_is_no_directory_does_not_open() {
    let (dir, _) = directory(&["file"]);
    for (name, part) in [("missing", "No such file"), ("file", "no directory")] {
        let error = DirectoryBucket::open(&dir.path().join(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchBucket);
        assert!(error.to_string().contains(part), "{error}");
    }
}
