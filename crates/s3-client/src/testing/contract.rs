//! What every [`Bucket`] does: one suite that all of them pass, whatever stands behind them.
//!
//! The suite panics at the first difference. A store that cannot do something says so by a [`Skip`], so that each
//! exception is written down where the store is tested.

mod write;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::bucket::{Bucket, GetRequest, ListPage, ListRequest};
use crate::error::ErrorKind;
use crate::key::{ByteRange, ETag, KeyPrefix, ObjectKey};

pub use write::write_contract;

/// A bucket to be tested, and what must live as long as it: a server, a directory.
#[derive(Debug)]
pub struct Subject {
    /// The bucket.
    pub bucket: Arc<dyn Bucket>,
    /// Dropped after it.
    pub keep: Box<dyn Any + Send>,
}

impl Subject {
    /// A bucket that needs nothing else.
    pub fn new(bucket: impl Bucket) -> Self {
        Self { bucket: Arc::new(bucket), keep: Box::new(()) }
    }
}

/// The objects that a bucket is to be made with.
pub type Objects = Vec<(String, Bytes)>;

/// What a store cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It refuses or changes keys such as `a//b`, `..` or control characters.
    OddKeys,
    /// It does not look at If-Match.
    IfMatch,
    /// Its listings name no ETags.
    ListedETags,
    /// It fails when asked for a key that is a directory of its own, instead of saying that there is no such object.
    DirectoryKeys,
    /// It keeps neither content types nor metadata.
    Attributes,
    /// Its copies have the attributes of their source.
    CopyWithAttributes,
    /// It copies an object onto itself although that changes nothing.
    CopyOntoItself,
    /// It does not look at If-Match when it writes.
    WriteIfMatch,
    /// It does not look at the conditions of a completion.
    CompleteConditions,
    /// It does not look at the conditions of a copy's source.
    CopyConditions,
    /// It does not look at the conditions of a copy's target.
    CopyTargetConditions,
    /// It takes ranges that do not lie inside the object that they are copied from.
    CopyRangeChecks,
    /// Its parts have the numbers from 1 on without a gap, and each is sent once.
    PartNumbers,
    /// It fails otherwise than by NoSuchUpload when asked for an upload that is no more.
    GoneUploads,
    /// It does not look at the ETags of the parts that are to make an object.
    PartETags,
    /// It takes small parts that are not the last.
    SmallParts,
    /// It does not list the uploads under way.
    ListUploads,
}

/// Runs the suite over buckets from `make`, which makes one with exactly the objects it is given.
///
/// # Panics
/// Where the bucket differs from S3.
pub async fn bucket_contract<F>(make: F, skips: &[Skip])
where
    F: AsyncFn(Objects) -> Subject,
{
    describes_objects(&make, skips).await;
    reads_ranges(&make).await;
    if !skips.contains(&Skip::IfMatch) {
        keeps_conditions(&make).await;
    }
    knows_what_is_missing(&make, skips).await;
    lists_like_the_model(&make).await;
    lists_in_order_of_bytes(&make).await;
    if !skips.contains(&Skip::OddKeys) {
        keeps_odd_keys(&make).await;
    }
}

/// Keys that are legal and rarely tried. Some differ only in what a careless client decodes, normalises or trims.
pub fn odd_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "with space",
        "with+plus",
        "with%20percent",
        "%",
        "%41",
        "A",
        "%2541",
        "a//b",
        "a/b",
        "a",
        "a/",
        "a//",
        "/",
        "//",
        "/leading",
        "trailing/",
        ".",
        "..",
        "../up",
        "a/../b",
        "a/./b",
        "./a",
        "tab\there",
        "new\nline",
        "cr\rhere",
        "back\\slash",
        "quote\"",
        "quote'",
        "<xml>&amp;",
        "a&b=c?d#e",
        "semi;colon,comma",
        "~tilde*star!",
        "emoji 🦀",
        "e\u{301}",
        "\u{e9}",
        "\u{feff}bom",
        "\u{1}control",
        "\u{7f}",
        "{}[]|^`",
        "$@:",
        " leading",
        "trailing ",
    ]
    .map(str::to_owned)
    .to_vec();
    keys.push("k".repeat(1024));
    keys.push(format!("{}é", "é/".repeat(340)));
    keys
}

fn objects<'a>(keys: impl IntoIterator<Item = &'a str>) -> Objects {
    keys.into_iter().map(|key| (key.to_owned(), content_of(key))).collect()
}

/// Bytes that tell which key they belong to.
fn content_of(key: &str) -> Bytes {
    Bytes::from(format!("the bytes of {key:?}"))
}

fn key(key: &str) -> ObjectKey {
    ObjectKey::new(key).expect("the suite uses legal keys")
}

fn get(name: &str) -> GetRequest {
    GetRequest { key: key(name), range: None, if_match: None }
}

fn get_range(name: &str, start: u64, end: u64) -> GetRequest {
    GetRequest { range: Some(ByteRange::new(start, end)), ..get(name) }
}

async fn read(bucket: &dyn Bucket, request: GetRequest) -> Bytes {
    let what = format!("{request:?}");
    let reply = bucket.get(request).await.unwrap_or_else(|e| fail(&format!("{what}: {e}")));
    let range = reply.range;
    let pieces: Vec<Bytes> = reply.body.try_collect().await.unwrap_or_else(|e| fail(&format!("{what}: {e}")));
    let bytes = Bytes::from(pieces.concat());
    assert_eq!(bytes.len() as u64, range.len(), "{what}: the body has the announced length");
    bytes
}

#[expect(clippy::panic, reason = "the suite reports by panicking")]
fn fail(message: &str) -> ! {
    panic!("{message}")
}

async fn refused(bucket: &dyn Bucket, request: GetRequest, kind: ErrorKind) {
    let what = format!("{request:?}");
    match bucket.get(request).await {
        Ok(reply) => fail(&format!("{what} gave {reply:?}, not {kind:?}")),
        Err(error) => assert_eq!(error.kind(), kind, "{what}: {error}"),
    }
}

async fn describes_objects<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } =
        make(vec![("d/k".to_owned(), Bytes::from_static(b"0123456789")), ("empty".to_owned(), Bytes::new())])
            .await;
    for (name, size) in [("d/k", 10), ("empty", 0)] {
        let head = bucket.head(&key(name)).await.unwrap_or_else(|e| fail(&format!("head {name}: {e}")));
        assert_eq!(head.meta.size, size, "{name}");
        assert!(head.meta.last_modified.secs > 0, "{name}: a time of writing");
        let reply = bucket.get(get(name)).await.unwrap_or_else(|e| fail(&format!("get {name}: {e}")));
        assert_eq!((&reply.meta.etag, reply.meta.size), (&head.meta.etag, size), "{name}");
        assert_eq!(reply.range, ByteRange::new(0, size), "{name}");
        let list = ListRequest { delimiter: false, ..ListRequest::directory(KeyPrefix::new(name)) };
        let page = bucket.list(list).await.unwrap_or_else(|e| fail(&format!("list {name}: {e}")));
        let [listed] = &*page.objects else { fail(&format!("one object begins with {name}: {page:?}")) };
        assert_eq!((listed.key.as_str(), listed.meta.size), (name, size));
        // HTTP dates have whole seconds; listings may have more.
        assert_eq!(listed.meta.last_modified.secs, head.meta.last_modified.secs, "{name}");
        if !skips.contains(&Skip::ListedETags) {
            assert_eq!(listed.meta.etag, head.meta.etag, "{name}");
        }
    }
}

async fn reads_ranges<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let big: Bytes = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let Subject { bucket, keep: _keep } =
        make(vec![("big".to_owned(), big.clone()), ("empty".to_owned(), Bytes::new())]).await;
    let size = big.len() as u64;
    assert!(read(&*bucket, get("big")).await == big, "the whole object");
    assert!(read(&*bucket, get("empty")).await.is_empty());
    for (start, end) in [
        (0, 1),
        (0, size),
        (1, size),
        (65_535, 65_537),
        (size - 1, size),
        (100_000, 900_001),
        // Cut to the object.
        (size - 5, size + 5),
        (0, u64::MAX >> 1),
    ] {
        let expected = big.slice(start as usize..end.min(size) as usize);
        assert!(read(&*bucket, get_range("big", start, end)).await == expected, "bytes {start}..{end}");
        let reply = bucket.get(get_range("big", start, end)).await.unwrap_or_else(|e| fail(&e.to_string()));
        assert_eq!((reply.range, reply.meta.size), (ByteRange::new(start, end.min(size)), size));
    }
    for (name, start, end) in [("big", size, size + 1), ("big", size + 100, size + 200), ("empty", 0, 1)] {
        refused(&*bucket, get_range(name, start, end), ErrorKind::Invalid).await;
    }
}

async fn keeps_conditions<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let Subject { bucket, keep: _keep } = make(objects(["k"])).await;
    let head = bucket.head(&key("k")).await.unwrap_or_else(|e| fail(&e.to_string()));
    assert!(head.meta.etag.is_some(), "a store that keeps conditions has ETags");
    let with = |if_match: Option<ETag>, name| GetRequest { if_match, ..get(name) };
    assert_eq!(read(&*bucket, with(head.meta.etag.clone(), "k")).await, content_of("k"));
    let other = Some(ETag::new("\"00000000000000000000000000000000\""));
    refused(&*bucket, with(other.clone(), "k"), ErrorKind::PreconditionFailed).await;
    refused(
        &*bucket,
        GetRequest { range: Some(ByteRange::new(0, 1)), ..with(other.clone(), "k") },
        ErrorKind::PreconditionFailed,
    )
    .await;
    refused(&*bucket, with(other, "none"), ErrorKind::NotFound).await;
}

async fn knows_what_is_missing<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(objects(["d/k"])).await;
    for name in ["none", "d", "d/none", "d/k/none"] {
        if name == "d" && skips.contains(&Skip::DirectoryKeys) {
            continue;
        }
        match bucket.head(&key(name)).await {
            Ok(head) => fail(&format!("head {name} gave {head:?}")),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
        refused(&*bucket, get(name), ErrorKind::NotFound).await;
        refused(&*bucket, get_range(name, 0, 10), ErrorKind::NotFound).await;
    }
    let Subject { bucket, keep: _keep } = make(Vec::new()).await;
    for delimiter in [false, true] {
        let list = ListRequest { delimiter, ..ListRequest::directory(KeyPrefix::root()) };
        let page = bucket.list(list).await.unwrap_or_else(|e| fail(&e.to_string()));
        assert_eq!(page, ListPage::default(), "an empty bucket");
    }
}

/// The names that a listing must give, in order: what ListObjectsV2 promises, said in five lines.
fn model(keys: &[String], prefix: &str, delimiter: bool, after: &str) -> Vec<String> {
    let rolled_up = |key: &String| {
        let rest = key.strip_prefix(prefix)?;
        let end =
            if delimiter { rest.find('/').map_or(key.len(), |at| prefix.len() + at + 1) } else { key.len() };
        Some(key[..end].to_owned())
    };
    let names: BTreeSet<String> =
        keys.iter().filter(|key| key.as_str() > after).filter_map(rolled_up).collect();
    names.into_iter().collect()
}

/// All pages of a listing, merged by name.
async fn list_all(bucket: &dyn Bucket, mut request: ListRequest) -> Vec<String> {
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let page = bucket.list(request.clone()).await.unwrap_or_else(|e| fail(&format!("{request:?}: {e}")));
        let mut here: Vec<String> = page.objects.iter().map(|o| o.key.as_str().to_owned()).collect();
        here.extend(page.common_prefixes.iter().map(|p| p.as_str().to_owned()));
        assert!(here.len() <= usize::from(request.max_keys), "{request:?}: {} names", here.len());
        if bucket.traits().ordered_listing {
            here.sort_unstable();
        }
        names.extend(here);
        pages += 1;
        assert!(pages < 10_000, "{request:?} does not end");
        match page.next {
            Some(next) => request.continuation = Some(next),
            None => break,
        }
    }
    if !bucket.traits().ordered_listing {
        names.sort_unstable();
    }
    names
}

async fn lists_like_the_model<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let mut keys: Vec<String> =
        (0..7).flat_map(|d| (0..4).map(move |f| format!("dir{d}/sub{f}/file"))).collect();
    keys.extend((0..9).map(|f| format!("dir3/file{f}")));
    keys.extend((0..5).map(|f| format!("top{f}.bin")));
    keys.extend(["dir".to_owned(), "dir-3/x".to_owned(), "dir3.txt".to_owned(), "zz/y/x/w/v".to_owned()]);
    keys.sort_unstable();
    let Subject { bucket, keep: _keep } = make(objects(keys.iter().map(String::as_str))).await;
    for delimiter in [false, true] {
        for prefix in [
            "",
            "d",
            "dir",
            "dir3",
            "dir3/",
            "dir3/sub1/",
            "dir3/f",
            "zz/y/",
            "none/",
            "dir3/sub1/file",
            "zzz",
        ] {
            for max_keys in [1, 2, 3, 10, 1000] {
                let request =
                    ListRequest { delimiter, max_keys, ..ListRequest::directory(KeyPrefix::new(prefix)) };
                let expected = model(&keys, prefix, delimiter, "");
                assert_eq!(list_all(&*bucket, request.clone()).await, expected, "{request:?}");
            }
        }
        // Unordered stores have no "after".
        for after in ["", "dir3.txt", "dir3/file4", "dir3/file40", "m", "zzz"] {
            if !bucket.traits().ordered_listing || (delimiter && after.contains('/')) {
                continue;
            }
            let start_after = Some(after.to_owned());
            let request = ListRequest {
                delimiter,
                start_after,
                max_keys: 3,
                ..ListRequest::directory(KeyPrefix::root())
            };
            let expected = model(&keys, "", delimiter, after);
            assert_eq!(list_all(&*bucket, request.clone()).await, expected, "{request:?}");
        }
    }
}

async fn lists_in_order_of_bytes<F: AsyncFn(Objects) -> Subject>(make: &F) {
    // In UTF-16 the last two change places; case-blind and locale-aware orders differ too.
    let keys = ["B", "Z-1", "a", "a-b", "a.b", "b", "z", "é", "ﬀ", "🦀"];
    let Subject { bucket, keep: _keep } = make(objects(keys)).await;
    for max_keys in [1, 3, 1000] {
        let request = ListRequest { max_keys, delimiter: false, ..ListRequest::directory(KeyPrefix::root()) };
        assert_eq!(list_all(&*bucket, request).await, keys, "in pages of {max_keys}");
    }
}

async fn keeps_odd_keys<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let mut keys = odd_keys();
    keys.sort_unstable();
    let Subject { bucket, keep: _keep } = make(objects(keys.iter().map(String::as_str))).await;
    for name in &keys {
        assert_eq!(read(&*bucket, get(name)).await, content_of(name), "get {name:?}");
        let head = bucket.head(&key(name)).await.unwrap_or_else(|e| fail(&format!("head {name:?}: {e}")));
        assert_eq!(head.meta.size, content_of(name).len() as u64, "head {name:?}");
    }
    for max_keys in [1, 7, 1000] {
        for (prefix, delimiter) in
            [("", false), ("", true), ("a/", true), ("a//", true), ("/", true), ("%", false), ("a ", false)]
        {
            let request =
                ListRequest { delimiter, max_keys, ..ListRequest::directory(KeyPrefix::new(prefix)) };
            let expected = model(&keys, prefix, delimiter, "");
            assert_eq!(list_all(&*bucket, request.clone()).await, expected, "{request:?}");
        }
    }
    for name in &keys {
        let request =
            ListRequest { delimiter: false, ..ListRequest::directory(KeyPrefix::new(name.as_str())) };
        assert_eq!(list_all(&*bucket, request).await, model(&keys, name, false, ""), "prefix {name:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reliable::ReliableBucket;
    use crate::retry::RetryConfig;
    use crate::testing::{FaultBucket, MemoryBucket};

    fn memory(objects: Objects) -> MemoryBucket {
        let bucket = MemoryBucket::new("contract");
        objects.into_iter().for_each(|(key, bytes)| _ = bucket.put(&key, bytes));
        bucket
    }

    /// Moves too, as a directory bucket does.
    fn directory(objects: Objects) -> MemoryBucket {
        memory(objects).with_min_part_bytes(1000).with_traits(|traits| traits.rename = true)
    }

    #[tokio::test]
    async fn memory_bucket_keeps_the_contract() {
        bucket_contract(async |objects| Subject::new(memory(objects)), &[]).await;
        write_contract(async |objects| Subject::new(memory(objects)), &[]).await;
        write_contract(async |objects| Subject::new(directory(objects)), &[]).await;
        write_contract(async |objects| Subject::new(directory(objects).with_opaque_etags()), &[]).await;
    }

    #[tokio::test]
    async fn memory_bucket_without_conditions_and_ranged_copies_keeps_the_contract() {
        let plain = |traits: &mut crate::bucket::BucketTraits| {
            (traits.conditional_writes, traits.copy_ranges) = (false, false);
        };
        write_contract(async |objects| Subject::new(memory(objects).with_traits(plain)), &[]).await;
    }

    #[tokio::test]
    async fn fault_bucket_without_faults_keeps_the_contract() {
        bucket_contract(async |objects| Subject::new(FaultBucket::new(memory(objects))), &[]).await;
        write_contract(async |objects| Subject::new(FaultBucket::new(directory(objects))), &[]).await;
    }

    #[tokio::test]
    async fn reliable_bucket_keeps_the_contract() {
        let reliable = |memory| Subject::new(ReliableBucket::new(Arc::new(memory), RetryConfig::default()));
        bucket_contract(async |objects| reliable(memory(objects)), &[]).await;
        write_contract(async |objects| reliable(directory(objects)), &[]).await;
    }
}
