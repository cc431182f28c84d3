//! Writing over a bucket in memory that fails on demand: what is done once, what is done again, and what was done after all.

use super::*;
use crate::bucket::{
    CompleteUpload, CopyPart, CopyRequest, CreateUpload, ObjectAttributes, Part, Payload, PutRequest,
    RenameRequest, UploadId, UploadPart, WriteCondition,
};
use crate::key::ETag;

const MINUTE: Duration = Duration::from_secs(60);

/// Buckets whose ETags are MD5s, and others.
#[derive(Debug, Clone, Copy)]
enum ETags {
    Md5,
    Opaque,
}

struct World {
    bucket: ReliableBucket,
    faulty: Arc<FaultBucket<MemoryBucket>>,
}

fn world(etags: ETags, rules: impl IntoIterator<Item = Rule<Fault>>) -> World {
    let memory = MemoryBucket::new("test").with_min_part_bytes(4).with_traits(|traits| traits.rename = true);
    let memory = match etags {
        ETags::Md5 => memory,
        ETags::Opaque => memory.with_opaque_etags(),
    };
    let faulty = Arc::new(FaultBucket::new(memory));
    rules.into_iter().for_each(|rule| faulty.plan().add(rule));
    let config = RetryConfig { jitter_seed: Some(1), ..RetryConfig::default() };
    World { bucket: ReliableBucket::new(Arc::clone(&faulty) as Arc<dyn Bucket>, config), faulty }
}

impl World {
    fn memory(&self) -> &MemoryBucket {
        self.faulty.inner()
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.faulty.requests().of(operation)
    }

    /// The bytes of an object, past the faults.
    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let content = self.memory().object(name)?.content;
        Some(content.pieces().collect::<Vec<_>>().concat())
    }

    /// An upload of `k` with two parts.
    async fn uploaded(&self) -> CompleteUpload {
        let create =
            CreateUpload { key: key(), attributes: ObjectAttributes::default(), storage_class: None };
        let upload = self.bucket.create_upload(create).await.unwrap();
        let mut parts = Vec::new();
        for (number, text) in [(1, "some "), (2, "text")] {
            parts.push(self.bucket.upload_part(part(&upload, number, text)).await.unwrap());
        }
        CompleteUpload { key: key(), upload, parts, condition: WriteCondition::Any }
    }
}

fn part(upload: &UploadId, number: u16, text: &'static str) -> UploadPart {
    UploadPart {
        key: key(),
        upload: upload.clone(),
        number,
        body: Bytes::from_static(text.as_bytes()).into(),
    }
}

fn put(text: &'static str, condition: WriteCondition) -> PutRequest {
    let body = Payload::from(Bytes::from_static(text.as_bytes()));
    PutRequest { key: key(), body, attributes: ObjectAttributes::default(), condition }
}

fn copy(condition: WriteCondition) -> CopyRequest {
    let target = ObjectKey::new("copy").unwrap();
    CopyRequest {
        source: key(),
        source_if_match: None,
        target,
        attributes: None,
        storage_class: None,
        condition,
    }
}

fn once(operation: Operation, fault: Fault) -> Rule<Fault> {
    Rule::new(fault).on(operation).when(When::First(1))
}

fn failure() -> Fault {
    error(ErrorKind::Transient)
}

#[tokio::test(start_paused = true)]
async fn writes_that_fail_are_made_again_until_the_deadline() {
    for (operation, attempts) in [(Operation::Put, 3), (Operation::UploadPart, 4)] {
        let w = world(ETags::Md5, [Rule::new(failure()).on(operation).when(When::First(2))]);
        w.bucket.put(put("text", WriteCondition::Any)).await.unwrap();
        let complete = w.uploaded().await;
        w.bucket.complete_upload(complete).await.unwrap();
        assert_eq!(w.bytes("k").unwrap(), b"some text");
        assert_eq!(w.requests(operation), attempts);
    }
    let w = world(ETags::Md5, [Rule::new(failure()).on(Operation::Put)]);
    let start = Instant::now();
    let error = w.bucket.put(put("text", WriteCondition::Any)).await.unwrap_err();
    assert!((55..=60).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(u64::from(error.attempts()), w.requests(Operation::Put));
}

#[tokio::test(start_paused = true)]
async fn a_conditional_put_whose_answer_was_lost_is_known_as_done() {
    for etags in [ETags::Md5, ETags::Opaque] {
        let w = world(etags, [once(Operation::Put, Fault::AnswerLost)]);
        let written = w.bucket.put(put("new", WriteCondition::Absent)).await.unwrap();
        assert_eq!(written.etag, w.memory().object("k").unwrap().head.meta.etag);
        assert_eq!((w.requests(Operation::Put), w.requests(Operation::Head)), (2, 1), "{etags:?}");

        let w = world(etags, [once(Operation::Put, Fault::AnswerLost)]);
        let old = w.memory().put("k", "old");
        w.bucket.put(put("new", WriteCondition::Matches(old))).await.unwrap();
        assert_eq!(w.bytes("k").unwrap(), b"new");
    }
}

#[tokio::test(start_paused = true)]
async fn where_checksums_may_not_be_read_the_md5_must_do() {
    for (etags, known) in [(ETags::Md5, true), (ETags::Opaque, false)] {
        let no_checksum = once(Operation::Head, error(ErrorKind::Forbidden));
        let w = world(etags, [once(Operation::Put, Fault::AnswerLost), no_checksum]);
        let result = w.bucket.put(put("new", WriteCondition::Absent)).await;
        assert_eq!(
            result.map(drop).map_err(|e| e.kind()),
            if known { Ok(()) } else { Err(ErrorKind::PreconditionFailed) }
        );
        assert_eq!(w.requests(Operation::Head), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_conditional_put_that_another_writer_forestalled_fails() {
    // The first attempt was not done; the second finds what somebody else wrote since.
    for fault in [failure(), Fault::BodyBreaks(1)] {
        let w = world(ETags::Md5, [once(Operation::Put, fault)]);
        w.memory().put("k", "not mine");
        let error = w.bucket.put(put("new text", WriteCondition::Absent)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
        assert_eq!(w.bytes("k").unwrap(), b"not mine");
        assert_eq!(w.requests(Operation::Head), 1);
    }
    // Without a doubt there is no question.
    let w = world(ETags::Md5, []);
    w.memory().put("k", "new text");
    let error = w.bucket.put(put("new text", WriteCondition::Absent)).await.unwrap_err();
    assert_eq!((error.kind(), w.requests(Operation::Head)), (ErrorKind::PreconditionFailed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_answer_was_lost_is_known_as_done() {
    for etags in [ETags::Md5, ETags::Opaque] {
        for fault in [Fault::AnswerLost, Fault::NoETag] {
            let w = world(etags, [once(Operation::CompleteUpload, fault)]);
            let complete = w.uploaded().await;
            let written = w.bucket.complete_upload(complete.clone()).await.unwrap();
            assert_eq!(written.etag, w.memory().object("k").unwrap().head.meta.etag);
            assert_eq!((w.requests(Operation::CompleteUpload), w.requests(Operation::Head)), (2, 1));
            // Asked once more by a caller who does not know.
            assert_eq!(w.bucket.complete_upload(complete).await.unwrap(), written);
            assert_eq!(w.bytes("k").unwrap(), b"some text");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_no_more_is_an_error() {
    let w = world(ETags::Md5, []);
    let complete = w.uploaded().await;
    w.bucket.abort_upload(&complete.key, &complete.upload).await.unwrap();
    for other in [None, Some("another text")] {
        other.into_iter().for_each(|text| _ = w.memory().put("k", text));
        let error = w.bucket.complete_upload(complete.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchUpload, "{error}");
    }
    let error = w.bucket.upload_part(part(&complete.upload, 3, "late")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchUpload);
}

#[tokio::test(start_paused = true)]
async fn what_can_be_done_twice_is_done_twice() {
    use Operation::{AbortUpload, Copy, CopyPart as Part, CreateUpload as Create, Delete, DeleteMany};
    let rules = [AbortUpload, Copy, Part, Create, Delete, DeleteMany].map(|o| once(o, Fault::AnswerLost));
    let w = world(ETags::Md5, rules);
    w.memory().put("k", "0123456789");
    let create = CreateUpload { key: key(), attributes: ObjectAttributes::default(), storage_class: None };
    let upload = w.bucket.create_upload(create).await.unwrap();
    let copied = CopyPart {
        key: key(),
        upload: upload.clone(),
        number: 1,
        source: key(),
        source_range: ByteRange::new(2, 8),
        source_if_match: None,
    };
    assert_eq!(w.bucket.copy_part(copied).await.unwrap().size, 6);
    w.bucket.abort_upload(&key(), &upload).await.unwrap();
    let left = w.bucket.list_uploads(&KeyPrefix::root(), None).await.unwrap().uploads;
    assert_eq!(left.len(), 1, "the upload whose answer was lost stays");
    w.bucket.copy(copy(WriteCondition::Any)).await.unwrap();
    assert_eq!(w.bytes("copy").unwrap(), b"0123456789");
    w.bucket.delete(&key()).await.unwrap();
    assert!(w.bucket.delete_many(&[ObjectKey::new("copy").unwrap()]).await.unwrap().is_empty());
    assert!(w.memory().keys().is_empty());
    for operation in [AbortUpload, Copy, Part, Create, Delete, DeleteMany] {
        assert_eq!(w.requests(operation), 2, "{operation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conditional_copy_whose_answer_was_lost_is_known_as_done() {
    for etags in [ETags::Md5, ETags::Opaque] {
        let w = world(etags, [once(Operation::Copy, Fault::AnswerLost)]);
        w.bucket.put(put("text", WriteCondition::Any)).await.unwrap();
        w.bucket.copy(copy(WriteCondition::Absent)).await.unwrap();
        assert_eq!(w.requests(Operation::Copy), 2);
    }
    let w = world(ETags::Md5, [once(Operation::Copy, failure())]);
    w.bucket.put(put("text", WriteCondition::Any)).await.unwrap();
    w.memory().put("copy", "TEXT");
    let error = w.bucket.copy(copy(WriteCondition::Absent)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
}

#[tokio::test(start_paused = true)]
async fn a_copy_onto_itself_that_another_writer_forestalled_fails() {
    let w = world(ETags::Md5, [once(Operation::Copy, failure())]);
    let old = w.memory().put("k", "old");
    w.memory().put("k", "not mine");
    let request = CopyRequest {
        target: key(),
        attributes: Some(ObjectAttributes::default()),
        ..copy(WriteCondition::Matches(old))
    };
    let error = w.bucket.copy(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    assert_eq!(w.requests(Operation::Copy), 2);
}

#[tokio::test(start_paused = true)]
async fn a_move_whose_answer_was_lost_is_known_by_the_version_that_moved() {
    let moved = |source_if_match: Option<ETag>, condition| RenameRequest {
        source: key(),
        source_if_match,
        target: ObjectKey::new("new name").unwrap(),
        condition,
    };
    for condition in [WriteCondition::Any, WriteCondition::Absent] {
        let w = world(ETags::Opaque, [once(Operation::Rename, Fault::AnswerLost)]);
        let etag = w.memory().put("k", "text");
        w.bucket.rename(moved(Some(etag), condition)).await.unwrap();
        assert_eq!(w.bytes("new name").unwrap(), b"text");
    }
    // Nobody can know what moved.
    let w = world(ETags::Md5, [once(Operation::Rename, Fault::AnswerLost)]);
    w.memory().put("k", "text");
    let error = w.bucket.rename(moved(None, WriteCondition::Any)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // The target is another object of the same bytes, and the source still there.
    let w = world(ETags::Md5, [once(Operation::Rename, failure())]);
    let etag = w.memory().put("k", "text");
    w.memory().put("new name", "text");
    let error = w.bucket.rename(moved(Some(etag), WriteCondition::Absent)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    assert!(w.bytes("k").is_some());
}

#[tokio::test(start_paused = true)]
async fn of_many_deletions_those_that_may_succeed_are_asked_for_again() {
    let keys: Vec<ObjectKey> = (0..10).map(|n| ObjectKey::new(format!("d/{n}")).unwrap()).collect();
    let run = async |kind, when| {
        let error = Error::new(kind, "delete many");
        let fault = Fault::SomeFail { every: 3, error };
        let w = world(ETags::Md5, [Rule::new(fault).on(Operation::DeleteMany).when(when)]);
        keys.iter().for_each(|key| _ = w.memory().put(key.as_str(), "x"));
        let failed = w.bucket.delete_many(&keys).await.unwrap();
        (failed.len(), w.memory().keys().len(), w.requests(Operation::DeleteMany))
    };
    assert_eq!(run(ErrorKind::Throttled, When::First(2)).await, (0, 0, 3));
    assert_eq!(run(ErrorKind::Forbidden, When::Always).await, (4, 4, 1));
    let (failed, left, requests) = run(ErrorKind::Transient, When::Always).await;
    assert_eq!((failed, left), (1, 1), "of ten the first, fourth, ... stay, until one is left");
    assert!(requests > 10, "{requests}");
}

/// A megabyte, sent with these faults; how long it took.
async fn sent(rules: Vec<Rule<Fault>>) -> (Result<Written>, Duration, u64) {
    let w = world(ETags::Md5, rules);
    let start = Instant::now();
    let body = Payload::from(pattern(1, ByteRange::new(0, SIZE)));
    let request = PutRequest { body, ..put("", WriteCondition::Any) };
    let result = w.bucket.put(request).await;
    (result, start.elapsed(), w.requests(Operation::Put))
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_reading_is_left_after_ten_seconds() {
    for fault in [Fault::BodyStalls(100_000), Fault::Silence] {
        let (result, took, requests) = sent(vec![once(Operation::Put, fault.clone())]).await;
        assert!(result.is_ok() && requests == 2, "{result:?}");
        assert!((10..=11).contains(&took.as_secs()), "{took:?}");
        let (result, took, requests) = sent(vec![Rule::new(fault).on(Operation::Put)]).await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Transient);
        assert!((50..=70).contains(&took.as_secs()) && requests >= 5, "{took:?}, {requests} attempts");
    }
    // It read everything and says nothing.
    let (result, took, _) = sent(vec![once(Operation::Put, Fault::BodyStalls(SIZE))]).await;
    assert!(result.is_ok() && (10..=11).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_gets_the_time_that_it_takes() {
    let slow = || Fault::BodySlow { bytes: 10_000, every: Duration::from_secs(9) };
    let (result, took, requests) = sent(vec![Rule::new(slow()).on(Operation::Put)]).await;
    assert!(result.is_ok() && requests == 1, "{result:?}");
    assert_eq!(took, 15 * MINUTE);
    // The time in which bytes moved does not count to the deadline of the attempts after it.
    let rules = vec![once(Operation::Put, slow()), once(Operation::Put, Fault::AnswerLost)];
    let (result, took, requests) = sent(rules).await;
    assert!(result.is_ok() && requests == 2, "{result:?}");
    assert!(took > 15 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_completion_may_take_ten_minutes() {
    let w = world(ETags::Md5, [once(Operation::CompleteUpload, Fault::Latency(9 * MINUTE))]);
    let complete = w.uploaded().await;
    w.bucket.complete_upload(complete).await.unwrap();
    assert_eq!(w.requests(Operation::CompleteUpload), 1);
    let w = world(ETags::Md5, [Rule::new(Fault::Silence).on(Operation::CompleteUpload)]);
    let complete = w.uploaded().await;
    let start = Instant::now();
    let error = w.bucket.complete_upload(complete).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!((600..=660).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn answers_about_other_parts_are_refused() {
    #[derive(Debug)]
    struct Liar(MemoryBucket);
    #[async_trait]
    impl Bucket for Liar {
        fn identity(&self) -> &BucketIdentity {
            self.0.identity()
        }
        fn traits(&self) -> BucketTraits {
            self.0.traits()
        }
        async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
            self.0.head(key).await
        }
        async fn get(&self, request: GetRequest) -> Result<GetReply> {
            self.0.get(request).await
        }
        async fn list(&self, request: ListRequest) -> Result<ListPage> {
            self.0.list(request).await
        }
        async fn upload_part(&self, request: UploadPart) -> Result<Part> {
            Ok(Part { number: request.number, etag: ETag::new("\"x\""), size: 1, checksum: None })
        }
    }
    let bucket = ReliableBucket::new(Arc::new(Liar(MemoryBucket::new("b"))), RetryConfig::default());
    let error = bucket.upload_part(part(&UploadId::new("u"), 1, "text")).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Corrupt, 3), "{error}");
    // What such a bucket does not implement is not tried again.
    let error = bucket.put(put("text", WriteCondition::Any)).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Unsupported, 1));
}

#[tokio::test(start_paused = true)]
async fn bad_weather_slows_writes_and_changes_no_byte() {
    let storm = [
        (failure(), 0.15),
        (error(ErrorKind::Throttled), 0.05),
        (Fault::AnswerLost, 0.10),
        (Fault::BodyBreaks(2), 0.10),
        (Fault::BodyStalls(3), 0.03),
        (Fault::NoETag, 0.03),
    ];
    for etags in [ETags::Md5, ETags::Opaque] {
        let w = world(etags, storm.clone().map(|(fault, rate)| Rule::new(fault).when(When::Rate(rate))));
        for round in 0..60_u32 {
            w.memory().remove("k");
            w.bucket.put(put("old text", WriteCondition::Absent)).await.unwrap();
            let old = w.memory().object("k").unwrap().head.meta.etag.unwrap();
            let complete = CompleteUpload { condition: WriteCondition::Matches(old), ..w.uploaded().await };
            w.bucket.complete_upload(complete).await.unwrap();
            assert_eq!(w.bytes("k").unwrap(), b"some text", "{etags:?}, round {round}");
            w.bucket.copy(copy(WriteCondition::Any)).await.unwrap();
            w.bucket.delete(&key()).await.unwrap();
            assert_eq!(w.bytes("copy").unwrap(), b"some text");
        }
    }
}
