//! Writing to a directory, beyond the contract: what lies on disk meanwhile and afterwards, and who wins.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::bucket::{ObjectAttributes, Payload, WriteCondition};
use crate::key::ETag;

fn put(name: &str, text: &'static str) -> PutRequest {
    PutRequest {
        key: key(name),
        body: Payload::from(Bytes::from_static(text.as_bytes())),
        attributes: ObjectAttributes::default(),
        condition: WriteCondition::Any,
    }
}

fn create(name: &str) -> CreateUpload {
    CreateUpload { key: key(name), attributes: ObjectAttributes::default(), storage_class: None }
}

fn part(name: &str, upload: &UploadId, number: u16, text: &'static str) -> UploadPart {
    let body = Payload::from(Bytes::from_static(text.as_bytes()));
    UploadPart { key: key(name), upload: upload.clone(), number, body }
}

fn complete(name: &str, upload: &UploadId, parts: Vec<Part>) -> CompleteUpload {
    CompleteUpload { key: key(name), upload: upload.clone(), parts, condition: WriteCondition::Any }
}

/// Everything on disk below `dir`, hidden or not.
fn on_disk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn nothing_but_the_objects_stays_on_disk() {
    let (dir, bucket) = directory(&["a"]);
    bucket.put(put("d/e/k", "text")).await.unwrap();
    let taken = PutRequest { condition: WriteCondition::Absent, ..put("a", "other") };
    assert_eq!(bucket.put(taken).await.unwrap_err().kind(), ErrorKind::PreconditionFailed);
    let upload = bucket.create_upload(create("parts")).await.unwrap();
    let sent = bucket.upload_part(part("parts", &upload, 1, "text")).await.unwrap();
    bucket.complete_upload(complete("parts", &upload, vec![sent])).await.unwrap();
    let upload = bucket.create_upload(create("aborted")).await.unwrap();
    bucket.upload_part(part("aborted", &upload, 7, "text")).await.unwrap();
    bucket.abort_upload(&key("aborted"), &upload).await.unwrap();
    assert_eq!(on_disk(dir.path()), ["a", "d", "d/e", "d/e/k", "parts"]);
    assert_eq!(text(&bucket, "a").await.unwrap(), "a");
}

#[tokio::test]
async fn what_is_being_written_is_no_part_of_the_bucket() {
    let (dir, bucket) = directory(&["a"]);
    let upload = bucket.create_upload(create("k")).await.unwrap();
    bucket.upload_part(part("k", &upload, 1, "text")).await.unwrap();
    assert_eq!(on_disk(dir.path()).len(), 5, "{:?}", on_disk(dir.path()));
    assert_eq!(names(&bucket, flat()).await, ["a"]);
    assert_eq!(names(&bucket, ListRequest::directory(KeyPrefix::root())).await, ["a"]);
    assert!(names(&bucket, ListRequest::directory(KeyPrefix::new(".sluicefs-staging/"))).await.is_empty());
    let inside = format!(".sluicefs-staging/{upload}/key");
    for name in [".sluicefs-staging", ".sluicefs-staging/", &inside] {
        is_absent(&bucket, name).await;
        assert_eq!(bucket.put(put(name, "x")).await.unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        bucket.delete(&key(name)).await.unwrap();
    }
    assert_eq!(on_disk(dir.path()).len(), 5);
}

#[tokio::test]
async fn uploads_outlive_the_process_that_began_them() {
    let (dir, bucket) = directory(&[]);
    let upload = bucket.create_upload(create("k")).await.unwrap();
    let first = bucket.upload_part(part("k", &upload, 1, "first ")).await.unwrap();
    let bucket = DirectoryBucket::open(dir.path()).unwrap();
    let page = bucket.list_uploads(&KeyPrefix::root(), None).await.unwrap();
    let [open] = &*page.uploads else { panic!("one upload is open: {page:?}") };
    assert_eq!((&open.key, &open.upload), (&key("k"), &upload));
    assert!(open.initiated.secs > 1_500_000_000);
    let second = bucket.upload_part(part("k", &upload, 2, "second")).await.unwrap();
    bucket.complete_upload(complete("k", &upload, vec![first, second])).await.unwrap();
    assert_eq!(text(&bucket, "k").await.unwrap(), "first second");
}

#[tokio::test]
async fn ids_that_are_paths_are_no_uploads() {
    let (dir, bucket) = directory(&["0123456789abcdef0123456789abcdef/key"]);
    for id in
        ["", ".", "..", "../0123456789abcdef0123456789abcdef", "a/b", "0123456789abcdef0123456789abcdef"]
    {
        let upload = UploadId::new(id);
        let error = bucket.upload_part(part("k", &upload, 1, "x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchUpload, "{id:?}: {error}");
        bucket.abort_upload(&key("k"), &upload).await.unwrap();
    }
    assert!(dir.path().join("0123456789abcdef0123456789abcdef/key").exists());
}

#[tokio::test]
async fn a_key_that_cannot_be_a_file_is_refused_with_the_reason() {
    let (dir, bucket) = directory(&["file", "d/k"]);
    let long = "n".repeat(300);
    for (name, part) in [
        ("file/below", "is a file"),
        ("d", "a directory of that name"),
        ("a//b", "is empty"),
        ("../out", ". or .."),
        (&*long, "longer than a file name"),
        ("marker/", "holds no bytes"),
    ] {
        let error = bucket.put(put(name, "x")).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(part), "{name}: {error}");
    }
    assert_eq!(on_disk(dir.path()), ["d", "d/k", "file"]);
}

#[tokio::test]
async fn one_of_many_writers_at_once_keeps_the_condition() {
    let (_dir, bucket) = directory(&[]);
    let race = async |condition: WriteCondition| {
        let writers =
            (0..20).map(|_| bucket.put(PutRequest { condition: condition.clone(), ..put("d/k", "text") }));
        let results = futures::future::join_all(writers).await;
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert!(
            lost.iter().all(|r| r.as_ref().unwrap_err().kind() == ErrorKind::PreconditionFailed),
            "{lost:?}"
        );
        assert_eq!(won.len(), 1, "{condition:?}");
        won.into_iter().next().unwrap().unwrap().etag.unwrap()
    };
    let etag: ETag = race(WriteCondition::Absent).await;
    race(WriteCondition::Matches(etag)).await;
}

#[tokio::test]
async fn a_reader_keeps_the_old_bytes_while_a_file_is_replaced() {
    let (dir, bucket) = directory(&[]);
    fs::write(dir.path().join("k"), vec![1; 2 * MIB]).unwrap();
    let mut body = bucket.get(get("k")).await.unwrap().body;
    let first = body.try_next().await.unwrap().unwrap();
    bucket.put(put("k", "new")).await.unwrap();
    assert!([first.to_vec(), collect(body).await.unwrap()].concat() == vec![1; 2 * MIB]);
    assert_eq!(text(&bucket, "k").await.unwrap(), "new");
}

#[tokio::test]
async fn a_link_is_replaced_and_removed_and_its_file_is_not() {
    let (dir, bucket) = directory(&["blob"]);
    symlink("blob", dir.path().join("link")).unwrap();
    bucket.delete(&key("link")).await.unwrap();
    assert!(dir.path().join("blob").exists() && !dir.path().join("link").is_symlink());
    symlink("blob", dir.path().join("link")).unwrap();
    bucket.put(put("link", "new")).await.unwrap();
    assert_eq!(text(&bucket, "blob").await.unwrap(), "blob");
    assert_eq!(text(&bucket, "link").await.unwrap(), "new");
    // What the bucket does not show, it does not remove.
    mkfifoat(CWD, dir.path().join("pipe"), Mode::RUSR).unwrap();
    bucket.delete(&key("pipe")).await.unwrap();
    assert!(dir.path().join("pipe").exists());
}

#[tokio::test]
async fn directories_are_made_and_removed_by_their_markers() {
    let (dir, bucket) = directory(&[]);
    bucket.put(put("d/e/", "")).await.unwrap();
    assert_eq!(names(&bucket, flat()).await, ["d/e/"]);
    bucket.put(put("d/e/k", "text")).await.unwrap();
    bucket.delete(&key("d/e/")).await.unwrap();
    assert_eq!(
        text(&bucket, "d/e/k").await.unwrap(),
        "text",
        "a directory with something in it is no object"
    );
    bucket.delete(&key("d/e/k")).await.unwrap();
    assert_eq!(names(&bucket, flat()).await, ["d/e/"], "a directory stays when it becomes empty");
    let request = RenameRequest {
        source: key("d/e/"),
        source_if_match: None,
        target: key("f/"),
        condition: WriteCondition::Any,
    };
    bucket.rename(request).await.unwrap();
    assert_eq!(names(&bucket, flat()).await, ["d/", "f/"]);
    for name in ["d/", "f/"] {
        bucket.delete(&key(name)).await.unwrap();
    }
    assert_eq!(on_disk(dir.path()), [] as [&str; 0]);
}

#[tokio::test]
async fn a_copy_is_a_file_of_its_own() {
    let (dir, bucket) = directory(&[]);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(dir.path().join("a"), &bytes).unwrap();
    let request = CopyRequest {
        source: key("a"),
        source_if_match: None,
        target: key("d/b"),
        attributes: None,
        storage_class: None,
        condition: WriteCondition::Any,
    };
    bucket.copy(request).await.unwrap();
    assert!(fs::read(dir.path().join("d/b")).unwrap() == bytes);
    let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
    assert_ne!(inode("a"), inode("d/b"));
}

#[tokio::test]
async fn attributes_that_are_not_kept_cannot_be_changed() {
    let (_dir, bucket) = directory(&["a"]);
    for (attributes, expected) in
        [(Some(ObjectAttributes::default()), ErrorKind::Unsupported), (None, ErrorKind::Invalid)]
    {
        let request = CopyRequest {
            source: key("a"),
            source_if_match: None,
            target: key("a"),
            attributes,
            storage_class: None,
            condition: WriteCondition::Any,
        };
        assert_eq!(bucket.copy(request).await.unwrap_err().kind(), expected);
    }
}

#[tokio::test]
async fn what_killed_writers_left_is_removed_before_the_first_write() {
    let (dir, bucket) = directory(&["a"]);
    let upload = bucket.create_upload(create("k")).await.unwrap();
    bucket.upload_part(part("k", &upload, 1, "text")).await.unwrap();
    let staging = dir.path().join(".sluicefs-staging");
    let living = File::create(staging.join("1".repeat(32))).unwrap();
    living.try_lock().unwrap();
    fs::write(staging.join("2".repeat(32)), "half").unwrap();
    fs::create_dir(staging.join("3".repeat(32))).unwrap();
    fs::write(staging.join("not-ours"), "").unwrap();
    let before = on_disk(dir.path());

    let next = DirectoryBucket::open(dir.path()).unwrap();
    assert_eq!(names(&next, flat()).await, ["a"]);
    assert_eq!(on_disk(dir.path()), before, "who only reads removes nothing");
    next.put(put("b", "text")).await.unwrap();
    let mut expected = before;
    expected.retain(|name| !name.ends_with(&"2".repeat(32)) && !name.ends_with(&"3".repeat(32)));
    expected.push("b".to_owned());
    expected.sort();
    assert_eq!(on_disk(dir.path()), expected);
    next.abort_upload(&key("k"), &upload).await.unwrap();
}
