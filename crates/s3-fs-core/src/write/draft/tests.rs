//! Drafts against a bucket in memory: what becomes of writes, and what each costs the store.

mod staged;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use sluicefs_cache_dir::StageDir;
use sluicefs_s3_client::testing::memory::pattern;
use sluicefs_s3_client::testing::{
    Content as Stored, Fault, FaultBucket, MemoryBucket, Operation, Rule, When,
};
use sluicefs_s3_client::{self as s3, Bucket, GetRequest};

use super::*;
use crate::config::{OnConflict, ReadConfig, WriteConfig};
use crate::inode::stored::Carried;
use crate::read::ReadEngine;

const MIB: u64 = 1 << 20;

struct Rig {
    bucket: MemoryBucket,
    faults: Arc<FaultBucket<MemoryBucket>>,
    engine: Arc<WriteEngine>,
    commits: Arc<Mutex<Vec<(InodeNo, ObjectMeta)>>>,
}

fn rig() -> Rig {
    rig_with(WriteConfig::default())
}

fn rig_with(config: WriteConfig) -> Rig {
    staged_rig(config, None)
}

fn staged_rig(config: WriteConfig, stage: Option<Arc<StageDir>>) -> Rig {
    let bucket = MemoryBucket::new("drafts").with_min_part_bytes(config.part_size_bytes.min(5 * MIB));
    let faults = Arc::new(FaultBucket::new(bucket.clone()));
    let runtime = tokio::runtime::Handle::current();
    let store: Arc<dyn Bucket> = Arc::clone(&faults) as Arc<dyn Bucket>;
    let reads = ReadEngine::new(Arc::clone(&store), ReadConfig::default(), None, runtime.clone());
    let commits: Arc<Mutex<Vec<_>>> = Arc::default();
    let heard = Arc::clone(&commits);
    let on_commit = Box::new(move |ino, meta| heard.lock().push((ino, meta)));
    let nothing = Box::new(|_| Carried::default());
    let engine = WriteEngine::new(store, reads, (config, stage), runtime, (on_commit, nothing));
    Rig { bucket, faults, engine, commits }
}

impl Rig {
    fn create(&self, key: &str) -> Arc<Draft> {
        Draft::new(Arc::clone(&self.engine), InodeNo(9), ObjectKey::new(key).unwrap(), None)
    }

    async fn open(&self, key: &str) -> Arc<Draft> {
        let key = ObjectKey::new(key).unwrap();
        let meta = self.bucket.head(&key).await.unwrap().meta;
        Draft::new(Arc::clone(&self.engine), InodeNo(9), key, Some(&meta))
    }

    async fn stored(&self, key: &str) -> Bytes {
        let request = GetRequest { key: ObjectKey::new(key).unwrap(), range: None, if_match: None };
        let body = self.bucket.get(request).await.unwrap().body;
        body.try_collect::<Vec<_>>().await.unwrap().concat().into()
    }

    fn count(&self, operation: Operation) -> u64 {
        self.faults.requests().of(operation)
    }
}

async fn read(draft: &Draft, start: u64, len: u64) -> Vec<u8> {
    let data = draft.read(ByteRange::from_len(start, len)).await.unwrap();
    data.slices().collect::<Vec<_>>().concat()
}

/// Writes bytes `range` of the pattern `seed`, a MiB at a time.
async fn fill(draft: &Arc<Draft>, seed: u64, range: ByteRange) {
    let mut at = range.start;
    while at < range.end {
        let end = (at + MIB).min(range.end);
        draft.write(at, &pattern(seed, ByteRange::new(at, end))).await.unwrap();
        at = end;
    }
}

#[tokio::test]
async fn a_small_file_is_one_put() {
    let rig = rig();
    let draft = rig.create("small");
    draft.write(0, b"hello ").await.unwrap();
    draft.write(6, b"world").await.unwrap();
    assert_eq!(read(&draft, 3, 100).await, b"lo world");
    assert!(rig.bucket.object("small").is_none(), "nothing is there before it is durable");
    draft.commit().await.unwrap();
    assert_eq!(rig.stored("small").await, "hello world");
    draft.commit().await.unwrap();
    assert_eq!((rig.count(Operation::Put), rig.faults.requests().total()), (1, 1));
    assert_eq!(rig.commits.lock().len(), 1);
}

#[tokio::test]
async fn an_empty_file_is_an_object_too() {
    let rig = rig();
    rig.create("empty").commit().await.unwrap();
    assert_eq!(rig.stored("empty").await, "");
}

#[tokio::test]
async fn a_large_file_is_sent_while_it_is_written() {
    let rig = rig();
    let draft = rig.create("large");
    fill(&draft, 1, ByteRange::new(0, 40 * MIB + 5)).await;
    draft.parts_ended().await;
    assert_eq!(rig.count(Operation::UploadPart), 5, "all complete parts were sent before anybody asked");
    assert!(rig.bucket.object("large").is_none());
    draft.commit().await.unwrap();
    assert!(rig.stored("large").await == pattern(1, ByteRange::new(0, 40 * MIB + 5)));
    assert_eq!((rig.count(Operation::UploadPart), rig.count(Operation::Put)), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_file_is_sent_while_parts_are_under_way() {
    let rig = rig();
    let second = Duration::from_secs(1);
    rig.faults.plan().add(Rule::new(Fault::Latency(second)).on(Operation::UploadPart));
    let draft = rig.create("f");
    fill(&draft, 1, ByteRange::new(0, 30 * MIB)).await;
    let began = tokio::time::Instant::now();
    draft.commit().await.unwrap();
    assert_eq!(began.elapsed(), second, "all parts at the same time");
    assert!(rig.stored("f").await == pattern(1, ByteRange::new(0, 30 * MIB)));
    assert_eq!(rig.count(Operation::UploadPart), 4);
}

#[tokio::test]
async fn more_than_memory_is_written_in_order() {
    let config = WriteConfig { memory_limit_bytes: 40 * MIB, ..WriteConfig::default() };
    let rig = rig_with(config);
    let draft = rig.create("huge");
    fill(&draft, 2, ByteRange::new(0, 200 * MIB)).await;
    draft.commit().await.unwrap();
    assert!(rig.stored("huge").await == pattern(2, ByteRange::new(0, 200 * MIB)));
}

#[tokio::test]
async fn a_change_within_a_large_object_sends_one_part() {
    let rig = rig();
    rig.bucket.put("big", Stored::Pattern { seed: 3, len: 100 * MIB });
    let draft = rig.open("big").await;
    draft.write(50 * MIB, b"changed").await.unwrap();
    assert_eq!(read(&draft, 50 * MIB - 2, 11).await.len(), 11);
    draft.commit().await.unwrap();
    let mut expected = pattern(3, ByteRange::new(0, 100 * MIB)).to_vec();
    expected[(50 * MIB) as usize..(50 * MIB) as usize + 7].copy_from_slice(b"changed");
    assert!(rig.stored("big").await == expected);
    assert_eq!((rig.count(Operation::UploadPart), rig.count(Operation::CopyPart)), (1, 2));
}

#[tokio::test]
async fn appending_goes_on_from_what_was_made_durable() {
    let rig = rig();
    let draft = rig.create("log");
    fill(&draft, 4, ByteRange::new(0, 20 * MIB)).await;
    draft.commit().await.unwrap();
    draft.write(20 * MIB, b"one more line").await.unwrap();
    draft.commit().await.unwrap();
    let mut expected = pattern(4, ByteRange::new(0, 20 * MIB)).to_vec();
    expected.extend(b"one more line");
    assert!(rig.stored("log").await == expected);
    assert_eq!(rig.count(Operation::CopyPart), 1, "the unchanged parts are copied at the store");
}

#[tokio::test]
async fn a_changed_object_keeps_what_is_stored_with_it() {
    let rig = rig();
    let mark = |head: &mut s3::ObjectHead| {
        head.content_type = Some("text/x-own".to_owned());
        head.user_metadata = vec![("owner".to_owned(), "me".to_owned())];
    };
    rig.bucket.put_with("small", "x", mark);
    rig.bucket.put_with("large", Stored::Pattern { seed: 1, len: 20 * MIB }, mark);
    for key in ["small", "large"] {
        let draft = rig.open(key).await;
        draft.write(0, b"changed").await.unwrap();
        draft.commit().await.unwrap();
        draft.write(0, b"again").await.unwrap();
        draft.commit().await.unwrap();
        let head = rig.bucket.object(key).unwrap().head;
        assert_eq!(head.content_type.as_deref(), Some("text/x-own"), "{key}");
        assert_eq!(head.user_metadata, [("owner".to_owned(), "me".to_owned())], "{key}");
    }
    assert_eq!(rig.count(Operation::Head), 2, "asked for once each");
}

#[tokio::test]
async fn cutting_and_growing_leaves_zeros() {
    let rig = rig();
    rig.bucket.put("f", "0123456789");
    let draft = rig.open("f").await;
    draft.truncate(4).await.unwrap();
    draft.truncate(6).await.unwrap();
    draft.write(8, b"ab").await.unwrap();
    assert_eq!(read(&draft, 0, 100).await, b"0123\0\0\0\0ab");
    draft.commit().await.unwrap();
    assert_eq!(rig.stored("f").await, b"0123\0\0\0\0ab"[..]);
}

#[tokio::test]
async fn a_file_cut_to_nothing_replaces_whatever_is_there() {
    let rig = rig();
    rig.bucket.put("f", "old");
    let draft = rig.open("f").await;
    draft.truncate(0).await.unwrap();
    rig.bucket.put("f", "somebody else's");
    draft.write(0, b"new").await.unwrap();
    draft.commit().await.unwrap();
    assert_eq!(rig.stored("f").await, "new");
}

#[tokio::test]
async fn a_change_from_elsewhere_is_not_overwritten() {
    let rig = rig();
    rig.bucket.put("f", "old");
    let draft = rig.open("f").await;
    draft.write(3, b"er").await.unwrap();
    rig.bucket.put("f", "somebody else's");
    assert_eq!(draft.commit().await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(rig.stored("f").await, "somebody else's");
    assert!(draft.is_changed(), "what was written is not thrown away");
}

#[tokio::test]
async fn a_change_from_elsewhere_is_overwritten_when_told_to() {
    let rig = rig_with(WriteConfig { on_conflict: OnConflict::Overwrite, ..WriteConfig::default() });
    rig.bucket.put("f", "old");
    let draft = rig.open("f").await;
    draft.write(0, b"NEW").await.unwrap();
    rig.bucket.put("f", "abc");
    draft.commit().await.unwrap();
    assert_eq!(rig.stored("f").await, "NEW");
}

#[tokio::test]
async fn a_failed_commit_is_told_and_tried_again() {
    let rig = rig();
    let broken = Fault::Fail(s3::Error::new(s3::ErrorKind::Transient, "put"));
    rig.faults.plan().add(Rule::new(broken).on(Operation::Put).when(When::First(1)));
    let draft = rig.create("f");
    draft.write(0, b"kept").await.unwrap();
    assert_eq!(draft.commit().await.unwrap_err().kind(), ErrorKind::Io);
    assert!(rig.bucket.object("f").is_none() && rig.commits.lock().is_empty());
    draft.commit().await.unwrap();
    assert_eq!(rig.stored("f").await, "kept");
}

#[tokio::test]
async fn a_part_that_failed_is_sent_again_at_the_end() {
    let rig = rig();
    let broken = Fault::Fail(s3::Error::new(s3::ErrorKind::Transient, "upload_part"));
    rig.faults.plan().add(Rule::new(broken).on(Operation::UploadPart).when(When::Nth(2)));
    let draft = rig.create("f");
    fill(&draft, 5, ByteRange::new(0, 30 * MIB)).await;
    draft.commit().await.unwrap();
    assert!(rig.stored("f").await == pattern(5, ByteRange::new(0, 30 * MIB)));
}

#[tokio::test]
async fn a_store_that_forgot_the_upload_gets_another_one() {
    let rig = rig();
    let draft = rig.create("f");
    fill(&draft, 6, ByteRange::new(0, 20 * MIB)).await;
    draft.parts_ended().await;
    let uploads = rig.bucket.list_uploads(&s3::KeyPrefix::root(), None).await.unwrap().uploads;
    rig.bucket.abort_upload(&uploads[0].key, &uploads[0].upload).await.unwrap();
    draft.commit().await.unwrap_err();
    draft.commit().await.unwrap();
    assert!(rig.stored("f").await == pattern(6, ByteRange::new(0, 20 * MIB)));
}

#[tokio::test]
async fn a_draft_that_is_dropped_leaves_no_upload() {
    let rig = rig();
    let draft = rig.create("f");
    fill(&draft, 7, ByteRange::new(0, 20 * MIB)).await;
    draft.parts_ended().await;
    let uploads = || async { rig.bucket.list_uploads(&s3::KeyPrefix::root(), None).await.unwrap().uploads };
    assert_eq!(uploads().await.len(), 1);
    drop(draft);
    timeout(Duration::from_secs(10), async {
        while !uploads().await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the upload is aborted");
    assert!(rig.bucket.object("f").is_none());
}

#[tokio::test]
async fn writing_without_memory_fails_cleanly() {
    let rig = rig_with(WriteConfig { memory_limit_bytes: 32 * MIB, ..WriteConfig::default() });
    let draft = rig.create("scattered");
    let mut at = 0;
    let error = loop {
        // Every other MiB: no part is ever complete.
        match draft.write(at, &[1; 1 << 20]).await {
            Ok(()) => at += 2 * MIB,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(at >= 48 * MIB, "most of the memory was used: {at}");
    draft.commit().await.unwrap();
    draft.write(at, b"goes on").await.unwrap();
    draft.commit().await.unwrap();
    assert_eq!(rig.stored("scattered").await.len() as u64, at + 7);
}

#[tokio::test(start_paused = true)]
async fn memory_that_a_reader_holds_is_not_waited_for_without_end() {
    let rig = rig_with(WriteConfig { memory_limit_bytes: 32 * MIB, ..WriteConfig::default() });
    let draft = rig.create("f");
    fill(&draft, 8, ByteRange::new(0, 24 * MIB)).await;
    draft.parts_ended().await;
    let mut held = Vec::new();
    for at in 0..24 {
        held.push(draft.read(ByteRange::from_len(at * MIB, MIB)).await.unwrap());
    }
    let mut at = 32 * MIB;
    let error = loop {
        match draft.write(at, &[1; 1 << 20]).await {
            Ok(()) => at += 2 * MIB,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    drop(held);
    draft.write(at, b"goes on").await.unwrap();
}

#[tokio::test]
async fn sent_bytes_that_were_let_go_cannot_be_changed_but_the_first_part_can() {
    let rig = rig_with(WriteConfig { memory_limit_bytes: 40 * MIB, ..WriteConfig::default() });
    let draft = rig.create("f");
    fill(&draft, 8, ByteRange::new(0, 120 * MIB)).await;
    draft.parts_ended().await;
    assert_eq!(draft.write(20 * MIB, b"x").await.unwrap_err().kind(), ErrorKind::Unsupported);
    draft.write(3, b"header").await.unwrap();
    draft.commit().await.unwrap();
    let mut expected = pattern(8, ByteRange::new(0, 120 * MIB)).to_vec();
    expected[3..9].copy_from_slice(b"header");
    assert!(rig.stored("f").await == expected);
    draft.write(20 * MIB, b"now it can be").await.unwrap();
}

#[tokio::test]
async fn a_removed_file_is_never_sent() {
    let rig = rig();
    let draft = rig.create("tmp");
    draft.orphan().await;
    fill(&draft, 9, ByteRange::new(0, 20 * MIB)).await;
    assert_eq!(read(&draft, 5, 3).await, pattern(9, ByteRange::new(5, 8)));
    draft.commit().await.unwrap();
    assert_eq!(rig.faults.requests().total(), 0);
}

#[tokio::test]
async fn objects_have_the_type_of_their_extension_unless_told_not_to() {
    let check = async |infer_content_type, len, expected: Option<&str>| {
        let rig = rig_with(WriteConfig { infer_content_type, ..WriteConfig::default() });
        let draft = rig.create("site/index.html");
        fill(&draft, 1, ByteRange::new(0, len)).await;
        draft.commit().await.unwrap();
        let head = rig.bucket.head(&ObjectKey::new("site/index.html").unwrap()).await.unwrap();
        assert_eq!(head.content_type.as_deref(), expected, "{len}");
    };
    // In one request, and in parts.
    for len in [5, 20 * MIB] {
        check(true, len, Some("text/html")).await;
        check(false, len, Some("binary/octet-stream")).await;
    }
}

fn lost(operation: Operation) -> Rule<Fault> {
    Rule::new(Fault::AnswerLost).on(operation).when(When::First(1))
}

#[tokio::test]
async fn an_object_whose_every_answer_was_lost_is_known_at_the_next_attempt() {
    for (len, operation) in [(1000, Operation::Put), (20 * MIB, Operation::CompleteUpload)] {
        for changed in [false, true] {
            let rig = rig();
            rig.bucket.put("f", Stored::Pattern { seed: 3, len });
            rig.faults.plan().add(lost(operation));
            let draft = rig.open("f").await;
            fill(&draft, 4, ByteRange::new(0, len)).await;
            assert_eq!(draft.commit().await.unwrap_err().kind(), ErrorKind::Io);
            let mut expected = pattern(4, ByteRange::new(0, len)).to_vec();
            if changed {
                draft.write(500, b"changed").await.unwrap();
                expected[500..507].copy_from_slice(b"changed");
            }
            draft.commit().await.unwrap();
            assert!(rig.stored("f").await == expected);
            assert_eq!(rig.count(operation), 1 + u64::from(changed), "what is there is not sent again");
            let etag = rig.bucket.object("f").unwrap().head.meta.etag;
            assert_eq!(rig.commits.lock().last().unwrap().1.etag, etag);
        }
    }
}

#[tokio::test]
async fn what_was_let_go_is_in_an_object_whose_answer_was_lost() {
    let config = WriteConfig { memory_limit_bytes: 40 * MIB, ..WriteConfig::default() };
    let rig = rig_with(config);
    rig.faults.plan().add(lost(Operation::CompleteUpload));
    let draft = rig.create("huge");
    fill(&draft, 2, ByteRange::new(0, 100 * MIB)).await;
    assert_eq!(draft.commit().await.unwrap_err().kind(), ErrorKind::Io);
    draft.write(100 * MIB, b"more").await.unwrap();
    draft.commit().await.unwrap();
    assert!(rig.stored("huge").await == [&pattern(2, ByteRange::new(0, 100 * MIB))[..], b"more"].concat());
}

#[tokio::test]
async fn an_upload_that_is_not_needed_after_all_is_aborted() {
    for changed in [false, true] {
        let rig = rig();
        rig.faults.plan().add(lost(Operation::Put));
        let draft = rig.create("f");
        fill(&draft, 5, ByteRange::new(0, 20 * MIB)).await;
        draft.parts_ended().await;
        // What is left is one request.
        draft.truncate(1000).await.unwrap();
        let upload = draft.state.lock().upload.as_ref().and_then(|upload| upload.known_id()).unwrap();
        assert_eq!(draft.commit().await.unwrap_err().kind(), ErrorKind::Io);
        assert!(rig.bucket.has_upload(&draft.key(), &upload));
        if changed {
            draft.write(0, b"changed").await.unwrap();
        }
        draft.commit().await.unwrap();
        rig.engine.idle().await;
        assert!(!rig.bucket.has_upload(&draft.key(), &upload), "changed: {changed}");
    }
}

#[tokio::test]
async fn another_writers_object_is_not_taken_for_one_whose_answer_was_lost() {
    let rig = rig();
    rig.bucket.put("f", "old");
    rig.faults.plan().add(lost(Operation::Put));
    let draft = rig.open("f").await;
    draft.write(0, b"new").await.unwrap();
    assert_eq!(draft.commit().await.unwrap_err().kind(), ErrorKind::Io);
    rig.bucket.put("f", "two");
    assert_eq!(draft.commit().await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(rig.stored("f").await, "two");
}
