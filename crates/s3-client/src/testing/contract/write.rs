//! What every bucket that can be written does with what it is given.

use bytes::Bytes;

use super::{Objects, Skip, Subject, fail, get, key, read};
use crate::bucket::{
    Bucket, CompleteUpload, CopyPart, CopyRequest, CreateUpload, GetRequest, ListRequest, MAX_DELETE_KEYS,
    ObjectAttributes, Part, Payload, PutRequest, RenameRequest, UploadId, UploadPart, WriteCondition,
};
use crate::error::{ErrorKind, Result};
use crate::key::{ByteRange, ETag, KeyPrefix, ObjectKey};
use crate::testing::memory::pattern;

/// Runs the suite over buckets from `make`, as [`bucket_contract`](super::bucket_contract) does.
///
/// # Panics
/// Where the bucket differs from S3.
pub async fn write_contract<F>(make: F, skips: &[Skip])
where
    F: AsyncFn(Objects) -> Subject,
{
    puts_objects(&make).await;
    if !skips.contains(&Skip::Attributes) {
        keeps_attributes(&make, skips).await;
    }
    keeps_write_conditions(&make, skips).await;
    writes_in_parts(&make, skips).await;
    refuses_wrong_parts(&make, skips).await;
    knows_its_uploads(&make, skips).await;
    copies_parts(&make, skips).await;
    removes_objects(&make).await;
    copies_objects(&make, skips).await;
    renames_objects(&make).await;
    if !skips.contains(&Skip::OddKeys) {
        writes_odd_keys(&make).await;
    }
}

/// A request to write `body`, without conditions.
fn put(name: &str, body: impl Into<Payload>) -> PutRequest {
    PutRequest {
        key: key(name),
        body: body.into(),
        attributes: ObjectAttributes::default(),
        condition: WriteCondition::Any,
    }
}

fn text(text: &'static str) -> Payload {
    Bytes::from_static(text.as_bytes()).into()
}

fn bytes(seed: u64, len: u64) -> Bytes {
    pattern(seed, ByteRange::new(0, len))
}

/// The value, or a report.
fn ok<T>(what: &str, result: Result<T>) -> T {
    result.unwrap_or_else(|e| fail(&format!("{what}: {e}")))
}

#[track_caller]
fn refused<T>(what: &str, result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => fail(&format!("{what} succeeded and ought to be {kind:?}")),
        Err(error) => assert_eq!(error.kind(), kind, "{what}: {error}"),
    }
}

/// Asked for an upload that is no more.
#[track_caller]
fn gone<T>(what: &str, result: Result<T>, skips: &[Skip]) {
    if skips.contains(&Skip::GoneUploads) {
        assert!(result.is_err(), "{what} succeeded");
    } else {
        refused(what, result, ErrorKind::NoSuchUpload);
    }
}

async fn etag_of(bucket: &dyn Bucket, name: &str) -> Option<ETag> {
    ok(name, bucket.head(&key(name)).await).meta.etag
}

async fn is_absent(bucket: &dyn Bucket, name: &str) {
    refused(&format!("head {name}"), bucket.head(&key(name)).await, ErrorKind::NotFound);
}

async fn puts_objects<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let Subject { bucket, keep: _keep } = make(Vec::new()).await;
    let pieces: Vec<Bytes> = (0..50).map(|seed| bytes(seed, 1 + seed * 997)).collect();
    let whole = pieces.concat();
    for (name, body) in
        [("d/e/k", Payload::from(pieces)), ("empty", Payload::default()), ("d/text", text("some text"))]
    {
        let written = ok(name, bucket.put(put(name, body.clone())).await);
        assert!(written.etag.is_some(), "{name}: the store names what it wrote");
        assert_eq!(etag_of(&*bucket, name).await, written.etag, "{name}");
        assert!(read(&*bucket, get(name)).await == body.to_bytes(), "{name}");
    }
    assert!(read(&*bucket, get("d/e/k")).await == whole);
    // The next one takes its place.
    let before = etag_of(&*bucket, "d/text").await;
    ok("put", bucket.put(put("d/text", text("another text"))).await);
    assert_eq!(read(&*bucket, get("d/text")).await, "another text");
    assert_ne!(etag_of(&*bucket, "d/text").await, before);
    let page = ok("list", bucket.list(ListRequest::directory(KeyPrefix::new("d/"))).await);
    let listed: Vec<_> = page.objects.iter().map(|o| (o.key.as_str(), o.meta.size)).collect();
    assert_eq!(listed, [("d/text", 12)]);
}

fn attributes(
    content_type: &str,
    metadata: &[(&str, &str)],
    headers: &[(&'static str, &str)],
) -> ObjectAttributes {
    ObjectAttributes {
        content_type: Some(content_type.to_owned()),
        user_metadata: metadata.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
    }
}

async fn has_attributes(bucket: &dyn Bucket, name: &str, expected: &ObjectAttributes) {
    let head = ok(name, bucket.head(&key(name)).await);
    assert_eq!(head.attributes(), *expected, "{name}");
}

async fn keeps_attributes<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(Vec::new()).await;
    let headers =
        [("cache-control", "max-age=60"), ("content-disposition", "attachment"), ("content-encoding", "br")];
    let first = attributes("text/x-first", &[("mode", "33188"), ("mtime", "1500000000.123456789")], &headers);
    let second = attributes("text/x-second", &[("uid", "1000")], &[("content-language", "de")]);
    ok("put", bucket.put(PutRequest { attributes: first.clone(), ..put("k", text("text")) }).await);
    has_attributes(&*bucket, "k", &first).await;
    let create = CreateUpload { key: key("parts"), attributes: first.clone(), storage_class: None };
    let upload = ok("create", bucket.create_upload(create).await);
    let part = ok("part", send(&*bucket, "parts", &upload, 1, text("text")).await);
    ok("complete", complete(&*bucket, "parts", &upload, vec![part]).await);
    has_attributes(&*bucket, "parts", &first).await;
    ok("copy", bucket.copy(copy("k", "copy")).await);
    has_attributes(&*bucket, "copy", &first).await;
    if skips.contains(&Skip::CopyWithAttributes) {
        return;
    }
    ok("copy", bucket.copy(CopyRequest { attributes: Some(second.clone()), ..copy("k", "other") }).await);
    has_attributes(&*bucket, "other", &second).await;
    // The way to change them without sending the bytes again.
    ok("copy", bucket.copy(CopyRequest { attributes: Some(second.clone()), ..copy("k", "k") }).await);
    has_attributes(&*bucket, "k", &second).await;
    assert_eq!(read(&*bucket, get("k")).await, "text");
    if !skips.contains(&Skip::CopyOntoItself) {
        refused("a copy onto itself", bucket.copy(copy("k", "k")).await, ErrorKind::Invalid);
    }
}

/// A version that is not there.
fn another() -> ETag {
    ETag::new("\"00000000000000000000000000000000\"")
}

async fn keeps_write_conditions<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(vec![("k".to_owned(), Bytes::from_static(b"old"))]).await;
    let with = |name, condition| PutRequest { condition, ..put(name, text("new")) };
    if !bucket.traits().conditional_writes {
        // A condition may be kept or refused, and is never left out of account.
        match bucket.put(with("k", WriteCondition::Absent)).await {
            Ok(_) => fail("a put ignored its condition"),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PreconditionFailed),
                "{error}"
            ),
        }
        assert_eq!(read(&*bucket, get("k")).await, "old");
        return;
    }
    let failed = ErrorKind::PreconditionFailed;
    refused("put over k", bucket.put(with("k", WriteCondition::Absent)).await, failed);
    if !skips.contains(&Skip::WriteIfMatch) {
        refused("put", bucket.put(with("k", WriteCondition::Matches(another()))).await, failed);
        refused("put", bucket.put(with("none", WriteCondition::Matches(another()))).await, failed);
    }
    assert_eq!(read(&*bucket, get("k")).await, "old");
    ok("put", bucket.put(with("new", WriteCondition::Absent)).await);
    assert_eq!(read(&*bucket, get("new")).await, "new");
    if !skips.contains(&Skip::WriteIfMatch) {
        let Some(current) = etag_of(&*bucket, "k").await else { fail("conditions need ETags") };
        ok("put", bucket.put(with("k", WriteCondition::Matches(current.clone()))).await);
        assert_eq!(read(&*bucket, get("k")).await, "new");
        refused("put", bucket.put(with("k", WriteCondition::Matches(current))).await, failed);
    }
    if skips.contains(&Skip::CompleteConditions) {
        return;
    }
    let upload = begin(&*bucket, "k").await;
    let part = ok("part", send(&*bucket, "k", &upload, 1, text("parts")).await);
    let request = |condition| CompleteUpload {
        key: key("k"),
        upload: upload.clone(),
        parts: vec![part.clone()],
        condition,
    };
    refused("complete", bucket.complete_upload(request(WriteCondition::Absent)).await, failed);
    if !skips.contains(&Skip::WriteIfMatch) {
        refused(
            "complete",
            bucket.complete_upload(request(WriteCondition::Matches(another()))).await,
            failed,
        );
    }
    assert_eq!(read(&*bucket, get("k")).await, "new");
    ok("complete", bucket.complete_upload(request(WriteCondition::Any)).await);
    assert_eq!(read(&*bucket, get("k")).await, "parts");
}

async fn begin(bucket: &dyn Bucket, name: &str) -> UploadId {
    let create =
        CreateUpload { key: key(name), attributes: ObjectAttributes::default(), storage_class: None };
    ok(&format!("create upload {name}"), bucket.create_upload(create).await)
}

async fn send(
    bucket: &dyn Bucket,
    name: &str,
    upload: &UploadId,
    number: u16,
    body: impl Into<Payload>,
) -> Result<Part> {
    bucket.upload_part(UploadPart { key: key(name), upload: upload.clone(), number, body: body.into() }).await
}

async fn complete(bucket: &dyn Bucket, name: &str, upload: &UploadId, parts: Vec<Part>) -> Result<ETag> {
    let condition = WriteCondition::Any;
    let request = CompleteUpload { key: key(name), upload: upload.clone(), parts, condition };
    let written = bucket.complete_upload(request).await?;
    Ok(written.etag.unwrap_or_else(|| fail(&format!("complete {name}: no ETag"))))
}

async fn writes_in_parts<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(vec![("k".to_owned(), Bytes::from_static(b"old"))]).await;
    let least = bucket.traits().min_part_bytes.max(1);
    // Sent out of order and at the same time; the object is what their numbers say.
    let lens = [least, least + 12_345, 17];
    let upload = begin(&*bucket, "k").await;
    let numbers: [u16; 3] = if skips.contains(&Skip::PartNumbers) { [1, 2, 3] } else { [1, 7, 10_000] };
    let body = |at: usize| bytes(at as u64, lens[at]);
    let [last, first, middle] = [2, 0, 1].map(|at| send(&*bucket, "k", &upload, numbers[at], body(at)));
    let (last, first, middle) = futures::join!(last, first, middle);
    let parts = vec![ok("part", first), ok("part", middle), ok("part", last)];
    let told: Vec<_> = parts.iter().map(|part| (part.number, part.size)).collect();
    assert_eq!(told, [(numbers[0], lens[0]), (numbers[1], lens[1]), (numbers[2], lens[2])]);
    assert_eq!(read(&*bucket, get("k")).await, "old", "an upload shows when it is complete");
    let etag = ok("complete", complete(&*bucket, "k", &upload, parts).await);
    assert_eq!(etag_of(&*bucket, "k").await, Some(etag));
    assert!(read(&*bucket, get("k")).await == [body(0), body(1), body(2)].concat());
    // The upload is used up.
    gone("a part", send(&*bucket, "k", &upload, 2, text("late")).await, skips);
    if !skips.contains(&Skip::PartNumbers) {
        let upload = begin(&*bucket, "replaced").await;
        let unused = ok("part", send(&*bucket, "replaced", &upload, 1, text("first")).await);
        let part = ok("part", send(&*bucket, "replaced", &upload, 1, text("second")).await);
        assert_ne!(unused.etag, part.etag);
        ok("part", send(&*bucket, "replaced", &upload, 2, text("left out")).await);
        ok("complete", complete(&*bucket, "replaced", &upload, vec![part]).await);
        assert_eq!(read(&*bucket, get("replaced")).await, "second");
    }
}

async fn refuses_wrong_parts<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(Vec::new()).await;
    let nowhere = UploadId::new("nothing-of-this-name");
    gone("a part", send(&*bucket, "k", &nowhere, 1, text("x")).await, skips);
    let upload = begin(&*bucket, "k").await;
    let small = ok("part", send(&*bucket, "k", &upload, 1, text("small")).await);
    let last = ok("part", send(&*bucket, "k", &upload, 2, text("last")).await);
    refused("no parts", complete(&*bucket, "k", &upload, Vec::new()).await, ErrorKind::Invalid);
    let result = complete(&*bucket, "k", &nowhere, vec![small.clone()]).await;
    gone("another upload", result, skips);
    let wrong = Part { etag: another(), ..small.clone() };
    if !skips.contains(&Skip::PartETags) {
        refused("wrong ETag", complete(&*bucket, "k", &upload, vec![wrong]).await, ErrorKind::Invalid);
    }
    if !skips.contains(&Skip::PartNumbers) {
        let order = vec![last.clone(), small.clone()];
        refused("wrong order", complete(&*bucket, "k", &upload, order).await, ErrorKind::Invalid);
    }
    if bucket.traits().min_part_bytes > 1 && !skips.contains(&Skip::SmallParts) {
        let parts = vec![small.clone(), last];
        refused("a small part", complete(&*bucket, "k", &upload, parts).await, ErrorKind::Invalid);
    }
    is_absent(&*bucket, "k").await;
    if !skips.contains(&Skip::PartNumbers) {
        // What was refused can still be put right.
        ok("complete", complete(&*bucket, "k", &upload, vec![small]).await);
        assert_eq!(read(&*bucket, get("k")).await, "small");
    }
}

async fn knows_its_uploads<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(Vec::new()).await;
    let names = ["a/1", "a/2", "a/2", "b +%é/1"];
    let mut uploads = Vec::new();
    for name in names {
        uploads.push((key(name), begin(&*bucket, name).await));
    }
    if !skips.contains(&Skip::ListUploads) {
        let sorted = |mut uploads: Vec<(ObjectKey, UploadId)>| {
            uploads.sort();
            uploads
        };
        assert_eq!(sorted(open_uploads(&*bucket, "").await), sorted(uploads.clone()));
        assert_eq!(sorted(open_uploads(&*bucket, "a/2").await), sorted(uploads[1..3].to_vec()));
    }
    for (key, upload) in &uploads {
        ok("abort", bucket.abort_upload(key, upload).await);
        if !skips.contains(&Skip::GoneUploads) {
            ok("abort again", bucket.abort_upload(key, upload).await);
        }
        let result = send(&*bucket, key.as_str(), upload, 1, text("x")).await;
        gone("a part", result, skips);
    }
    if !skips.contains(&Skip::ListUploads) {
        assert_eq!(open_uploads(&*bucket, "").await, []);
    }
    is_absent(&*bucket, "a/1").await;
}

async fn open_uploads(bucket: &dyn Bucket, prefix: &str) -> Vec<(ObjectKey, UploadId)> {
    let mut uploads = Vec::new();
    let mut marker = None;
    loop {
        let page = ok("list uploads", bucket.list_uploads(&KeyPrefix::new(prefix), marker).await);
        uploads.extend(page.uploads.into_iter().map(|meta| (meta.key, meta.upload)));
        marker = page.next;
        if marker.is_none() {
            return uploads;
        }
    }
}

async fn copies_parts<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(Vec::new()).await;
    let least = bucket.traits().min_part_bytes.max(1);
    let request = |upload: &UploadId, number, range: std::ops::Range<u64>| CopyPart {
        key: key("k"),
        upload: upload.clone(),
        number,
        source: key("from here/a+b%"),
        source_range: range.into(),
        source_if_match: None,
    };
    let upload = begin(&*bucket, "k").await;
    if !bucket.traits().copy_ranges {
        refused("copy", bucket.copy_part(request(&upload, 1, 0..1)).await, ErrorKind::Unsupported);
        return;
    }
    let source = bytes(1, 2 * least + 100_000);
    let etag = ok("put", bucket.put(put("from here/a+b%", source.clone())).await).etag;
    let first = request(&upload, 1, 5..least + 1000);
    let matching = CopyPart { source_if_match: etag, ..first.clone() };
    let first_part = ok("copy", bucket.copy_part(matching).await);
    assert_eq!((first_part.number, first_part.size), (1, least + 995));
    let second = ok("send", send(&*bucket, "k", &upload, 2, bytes(2, least)).await);
    let end = source.len() as u64;
    let third = ok("copy", bucket.copy_part(request(&upload, 3, end - 10..end)).await);
    ok("complete", complete(&*bucket, "k", &upload, vec![first_part, second, third]).await);
    let expected =
        [source.slice(5..least as usize + 1000), bytes(2, least), source.slice(source.len() - 10..)].concat();
    assert!(read(&*bucket, get("k")).await == expected);

    let upload = begin(&*bucket, "k").await;
    let missing = CopyPart { source: key("none"), ..request(&upload, 1, 0..10) };
    refused("no source", bucket.copy_part(missing).await, ErrorKind::NotFound);
    if !skips.contains(&Skip::CopyConditions) {
        let other = CopyPart { source_if_match: Some(another()), ..request(&upload, 1, 0..10) };
        refused("other version", bucket.copy_part(other).await, ErrorKind::PreconditionFailed);
    }
    if !skips.contains(&Skip::CopyRangeChecks) {
        for range in [end - 1..end + 1, end..end + 5] {
            let what = format!("range {range:?}");
            refused(&what, bucket.copy_part(request(&upload, 1, range)).await, ErrorKind::Invalid);
        }
    }
    let late = request(&UploadId::new("nothing-of-this-name"), 1, 0..10);
    gone("no upload", bucket.copy_part(late).await, skips);
}

async fn removes_objects<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let names: Vec<String> = (0..25).map(|n| format!("d/{n:02}")).collect();
    let Subject { bucket, keep: _keep } = make(super::objects(names.iter().map(String::as_str))).await;
    ok("delete", bucket.delete(&key("d/00")).await);
    is_absent(&*bucket, "d/00").await;
    ok("delete again", bucket.delete(&key("d/00")).await);
    ok("delete what never was", bucket.delete(&key("none/at/all")).await);
    let keys: Vec<ObjectKey> = names[..20].iter().map(|name| key(name)).collect();
    assert!(ok("delete many", bucket.delete_many(&keys).await).is_empty(), "absent ones are fine");
    let page = ok("list", bucket.list(ListRequest::directory(KeyPrefix::new("d/"))).await);
    let left: Vec<_> = page.objects.iter().map(|o| o.key.as_str()).collect();
    assert_eq!(left, names[20..]);
    assert!(ok("delete none", bucket.delete_many(&[]).await).is_empty());
    let many = vec![key("none"); MAX_DELETE_KEYS + 1];
    refused("too many keys", bucket.delete_many(&many).await, ErrorKind::Invalid);
}

fn copy(source: &str, target: &str) -> CopyRequest {
    CopyRequest {
        source: key(source),
        source_if_match: None,
        target: key(target),
        attributes: None,
        storage_class: None,
        condition: WriteCondition::Any,
    }
}

async fn copies_objects<F: AsyncFn(Objects) -> Subject>(make: &F, skips: &[Skip]) {
    let Subject { bucket, keep: _keep } = make(super::objects(["a", "b"])).await;
    let failed = ErrorKind::PreconditionFailed;
    let written = ok("copy", bucket.copy(copy("a", "d/c")).await);
    assert!(written.etag.is_some());
    assert_eq!(etag_of(&*bucket, "d/c").await, written.etag);
    assert_eq!(read(&*bucket, get("d/c")).await, super::content_of("a"));
    assert_eq!(read(&*bucket, get("a")).await, super::content_of("a"));
    ok("copy over", bucket.copy(copy("b", "d/c")).await);
    assert_eq!(read(&*bucket, get("d/c")).await, super::content_of("b"));
    refused("no source", bucket.copy(copy("none", "x")).await, ErrorKind::NotFound);
    if !skips.contains(&Skip::CopyConditions) {
        let matching = CopyRequest { source_if_match: etag_of(&*bucket, "a").await, ..copy("a", "m") };
        ok("copy", bucket.copy(matching).await);
        let other = CopyRequest { source_if_match: Some(another()), ..copy("a", "x") };
        refused("other version", bucket.copy(other).await, failed);
        is_absent(&*bucket, "x").await;
    }
    if bucket.traits().conditional_writes && !skips.contains(&Skip::CopyTargetConditions) {
        let absent = |target| CopyRequest { condition: WriteCondition::Absent, ..copy("a", target) };
        refused("taken", bucket.copy(absent("b")).await, failed);
        assert_eq!(read(&*bucket, get("b")).await, super::content_of("b"));
        ok("free", bucket.copy(absent("free")).await);
        assert_eq!(read(&*bucket, get("free")).await, super::content_of("a"));
    }
}

async fn renames_objects<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let Subject { bucket, keep: _keep } = make(super::objects(["a", "b", "c"])).await;
    let request = |source, target| RenameRequest {
        source: key(source),
        source_if_match: None,
        target: key(target),
        condition: WriteCondition::Any,
    };
    if !bucket.traits().rename {
        refused("rename", bucket.rename(request("a", "x")).await, ErrorKind::Unsupported);
        return;
    }
    let failed = ErrorKind::PreconditionFailed;
    let etag = etag_of(&*bucket, "a").await;
    let other = RenameRequest { source_if_match: Some(another()), ..request("a", "d/x") };
    refused("other version", bucket.rename(other).await, failed);
    let absent = RenameRequest { condition: WriteCondition::Absent, ..request("a", "b") };
    refused("taken", bucket.rename(absent).await, failed);
    let moved = RenameRequest { source_if_match: etag.clone(), ..request("a", "d/x y+z%") };
    ok("rename", bucket.rename(moved).await);
    assert_eq!(etag_of(&*bucket, "d/x y+z%").await, etag, "the version goes along");
    assert_eq!(read(&*bucket, get("d/x y+z%")).await, super::content_of("a"));
    is_absent(&*bucket, "a").await;
    refused("no source", bucket.rename(request("a", "e")).await, ErrorKind::NotFound);
    ok("rename over", bucket.rename(request("c", "b")).await);
    assert_eq!(read(&*bucket, get("b")).await, super::content_of("c"));
}

async fn writes_odd_keys<F: AsyncFn(Objects) -> Subject>(make: &F) {
    let Subject { bucket, keep: _keep } = make(Vec::new()).await;
    let names = super::odd_keys();
    for name in &names {
        ok(&format!("put {name:?}"), bucket.put(put(name, super::content_of(name))).await);
    }
    for (at, name) in names.iter().enumerate() {
        let request = GetRequest { key: key(name), range: None, if_match: None };
        assert_eq!(read(&*bucket, request).await, super::content_of(name), "{name:?}");
        let copied = format!("copy of/{at}");
        ok(&format!("copy {name:?}"), bucket.copy(copy(name, &copied)).await);
        assert_eq!(read(&*bucket, get(&copied)).await, super::content_of(name), "copy of {name:?}");
        let upload = begin(&*bucket, name).await;
        let part = ok(name, send(&*bucket, name, &upload, 1, text("in parts")).await);
        ok(name, complete(&*bucket, name, &upload, vec![part]).await);
        assert_eq!(read(&*bucket, get(name)).await, "in parts", "{name:?}");
    }
    let keys: Vec<ObjectKey> = names.iter().map(|name| key(name)).collect();
    let (one, many) = keys.split_at(keys.len() / 2);
    for key in one {
        ok(&format!("delete {key:?}"), bucket.delete(key).await);
    }
    let failed = ok("delete many", bucket.delete_many(many).await);
    assert!(failed.is_empty(), "{failed:?}");
    for name in &names {
        is_absent(&*bucket, name).await;
    }
}
