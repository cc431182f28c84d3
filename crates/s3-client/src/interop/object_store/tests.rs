//! Memory and a local directory as buckets, listings compared with the reference bucket's.

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{PutPayload, path::Path};

use super::*;
use crate::bucket::{ObjectAttributes, Payload, WriteCondition};
use crate::testing::memory::MemoryBucket;

const KEYS: [&str; 9] =
    ["a", "a-b/x", "a.txt", "a/b", "a/c/d", "a/c/e f+%41", "b/🦀", "model.safetensors", "z"];

fn identity() -> BucketIdentity {
    BucketIdentity { endpoint: Arc::from("test"), name: Arc::from("test:") }
}

async fn in_memory(keys: &[&str]) -> ObjectStoreBucket {
    let store = InMemory::new();
    for key in keys {
        store.put(&Path::parse(key).unwrap(), PutPayload::from((*key).to_owned())).await.unwrap();
    }
    ObjectStoreBucket::new(Arc::new(store), identity())
}

/// A directory with `keys` as files; a key cannot also be a directory there.
fn local(keys: &[&str]) -> (tempfile::TempDir, ObjectStoreBucket) {
    let dir = tempfile::tempdir().unwrap();
    for key in keys {
        let path = dir.path().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, key).unwrap();
    }
    let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    (dir, ObjectStoreBucket::new(Arc::new(store), identity()))
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// All names of a listing in the order of its pages.
async fn names(bucket: &dyn Bucket, mut request: ListRequest) -> Vec<String> {
    let mut out = Vec::new();
    loop {
        let page = bucket.list(request.clone()).await.unwrap();
        let count = page.objects.len() + page.common_prefixes.len();
        assert!(count <= usize::from(request.max_keys));
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

#[tokio::test]
async fn listings_equal_those_of_the_reference_bucket() {
    let reference = MemoryBucket::new("reference");
    for key in KEYS {
        reference.put(key, key.as_bytes().to_vec());
    }
    let bucket = in_memory(&KEYS).await;
    for prefix in ["", "a", "a/", "a/c", "a/c/", "b/", "nothing/", "a//", "/"] {
        for delimiter in [true, false] {
            for max_keys in [1, 2, 1000] {
                for start_after in [None, Some("a.txt"), Some("zz")] {
                    let request = ListRequest {
                        prefix: KeyPrefix::new(prefix),
                        delimiter,
                        start_after: start_after.map(str::to_owned),
                        continuation: None,
                        max_keys,
                    };
                    let (got, expected) =
                        (names(&bucket, request.clone()).await, names(&reference, request.clone()).await);
                    assert_eq!(got, expected, "{request:?}");
                }
            }
        }
    }
    assert!(bucket.snapshots.lock().is_empty(), "finished listings are forgotten");
}

#[tokio::test]
async fn a_forgotten_listing_goes_on_from_its_token() {
    let bucket = in_memory(&KEYS).await;
    let request = ListRequest { max_keys: 3, delimiter: false, ..ListRequest::directory(KeyPrefix::root()) };
    let first = bucket.list(request.clone()).await.unwrap();
    for _ in 0..MAX_SNAPSHOTS {
        bucket.list(request.clone()).await.unwrap();
    }
    assert_eq!(bucket.snapshots.lock().len(), MAX_SNAPSHOTS);
    let rest = names(&bucket, ListRequest { continuation: first.next, ..request.clone() }).await;
    assert_eq!(rest, KEYS[3..]);
    let foreign = ListRequest { continuation: Some(ContinuationToken("elsewhere".into())), ..request };
    assert_eq!(bucket.list(foreign).await.unwrap_err().kind(), ErrorKind::Invalid);
}

async fn read(bucket: &dyn Bucket, request: GetRequest) -> Result<(ByteRange, Vec<u8>)> {
    let reply = bucket.get(request).await?;
    let body: Vec<Bytes> = reply.body.try_collect().await?;
    Ok((reply.range, body.concat()))
}

fn get(text: &str) -> GetRequest {
    GetRequest { key: key(text), range: None, if_match: None }
}

#[tokio::test]
async fn objects_are_read_whole_and_in_ranges() {
    let (_dir, local) = local(&["a/b", "empty"]);
    std::fs::write(_dir.path().join("empty"), "").unwrap();
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(_dir.path().join("big"), &big).unwrap();
    let memory = in_memory(&["a/b"]).await;
    for bucket in [&local, &memory] {
        let range = |start, end| GetRequest { range: Some(ByteRange::new(start, end)), ..get("a/b") };
        assert_eq!(read(bucket, get("a/b")).await.unwrap(), (ByteRange::new(0, 3), b"a/b".to_vec()));
        assert_eq!(read(bucket, range(1, 2)).await.unwrap(), (ByteRange::new(1, 2), b"/".to_vec()));
        assert_eq!(read(bucket, range(1, 100)).await.unwrap(), (ByteRange::new(1, 3), b"/b".to_vec()));
        let past = read(bucket, range(3, 4)).await.unwrap_err();
        assert_eq!((past.kind(), past.status()), (ErrorKind::Invalid, Some(416)), "{past}");
        assert_eq!(bucket.head(&key("a/b")).await.unwrap().meta.size, 3);
    }
    assert_eq!(read(&local, get("empty")).await.unwrap().1, b"");
    assert_eq!(read(&local, get("big")).await.unwrap().1, big);
    let middle = GetRequest { range: Some(ByteRange::new(1 << 20, (1 << 20) + 7)), ..get("big") };
    assert_eq!(read(&local, middle).await.unwrap().1, big[1 << 20..(1 << 20) + 7]);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let (_dir, local) = local(&["a/b"]);
    let memory = in_memory(&["a/b"]).await;
    for bucket in [&local, &memory] {
        for missing in ["nope", "a", "a/b/c", "a/b/", "a//b", "/a/b", "a/../a/b", "."] {
            let head = bucket.head(&key(missing)).await.unwrap_err();
            assert_eq!(head.kind(), ErrorKind::NotFound, "{missing}: {head}");
            let get = bucket.get(get(missing)).await.unwrap_err();
            assert_eq!(get.kind(), ErrorKind::NotFound, "{missing}: {get}");
        }
    }
}

#[tokio::test]
async fn another_version_is_refused() {
    let (dir, bucket) = local(&["a"]);
    let etag = bucket.head(&key("a")).await.unwrap().meta.etag.unwrap();
    let pinned = || GetRequest { if_match: Some(etag.clone()), ..get("a") };
    assert_eq!(read(&bucket, pinned()).await.unwrap().1, b"a");
    std::fs::write(dir.path().join("a"), "longer").unwrap();
    assert_eq!(bucket.get(pinned()).await.unwrap_err().kind(), ErrorKind::PreconditionFailed);
}

#[tokio::test]
async fn a_file_cut_while_it_is_read_is_an_error_and_no_short_body() {
    let (dir, bucket) = local(&["a"]);
    std::fs::write(dir.path().join("a"), vec![1; 3 << 20]).unwrap();
    let mut body = bucket.get(get("a")).await.unwrap().body;
    assert_eq!(body.try_next().await.unwrap().unwrap().len(), 1 << 20);
    File::options().write(true).open(dir.path().join("a")).unwrap().set_len(1 << 20).unwrap();
    let error = body.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn keys_that_make_directories_exist_are_kept() {
    let bucket = in_memory(&["a/b"]).await;
    let put = |name: &str| PutRequest {
        key: key(name),
        body: Payload::default(),
        attributes: ObjectAttributes::default(),
        condition: WriteCondition::Absent,
    };
    let list =
        |prefix: &str, delimiter| ListRequest { delimiter, ..ListRequest::directory(KeyPrefix::new(prefix)) };
    bucket.put(put("a/c/")).await.unwrap();
    assert_eq!(bucket.put(put("a/c/")).await.unwrap_err().kind(), ErrorKind::PreconditionFailed);
    assert_eq!(names(&bucket, list("a/", true)).await, ["a/b", "a/c/"]);
    assert_eq!(names(&bucket, list("a/c/", true)).await, ["a/c/"]);
    assert_eq!(names(&bucket, list("", false)).await, ["a/b", "a/c/"]);
    assert_eq!(bucket.head(&key("a/c/")).await.unwrap().meta.size, 0);
    assert_eq!(bucket.head(&key("a/c")).await.unwrap_err().kind(), ErrorKind::NotFound);
    for illegal in ["a//", "/", &format!("a/{MARKER}")] {
        assert_eq!(bucket.put(put(illegal)).await.unwrap_err().kind(), ErrorKind::Invalid, "{illegal}");
    }
    bucket.delete(&key("a/c/")).await.unwrap();
    assert_eq!(names(&bucket, list("", false)).await, ["a/b"]);
}
