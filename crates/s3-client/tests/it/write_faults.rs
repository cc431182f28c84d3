//! The fault table for writing: what a bad server or network does to a request that writes, on a real socket, and what comes of it.
//!
//! Limits are scaled down as for reading; what the real ones are is tested in paused time beside the retry loop.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluicefs_embedded_s3::{EmbeddedS3, MemoryBucket, Operation, Rule, When, WireFault};
use sluicefs_s3_client::testing::FaultBucket;
use sluicefs_s3_client::testing::memory::pattern;
use sluicefs_s3_client::{
    AwsBucket, Bucket, BucketType, ByteRange, CompleteUpload, CopyPart, CopyRequest, CreateUpload, Error,
    ErrorKind, KeyPrefix, ObjectAttributes, ObjectKey, Part, Payload, PutRequest, ReliableBucket,
    RenameRequest, Result, RetryConfig, UploadId, UploadPart, WriteCondition, Written,
};

use crate::embedded::{aws_bucket_with, serve};
use crate::faults::{hasty, patient};

/// More than the kernel's buffers on both sides take, so that a server that does not read is noticed.
const LARGE: u64 = 24 << 20;
const SMALL: u64 = 300_000;

struct World {
    server: EmbeddedS3,
    memory: MemoryBucket,
    /// Counts the requests that are tried, also those that no server sees.
    below: Arc<FaultBucket<AwsBucket>>,
    bucket: ReliableBucket,
}

impl World {
    async fn new(config: RetryConfig, rules: Vec<Rule<WireFault>>) -> Self {
        let memory =
            MemoryBucket::new("b").with_min_part_bytes(1000).with_traits(|traits| traits.rename = true);
        let server = serve(memory.clone()).await;
        rules.into_iter().for_each(|rule| server.faults().add(rule));
        let directory = |config: &mut sluicefs_s3_client::ClientConfig| {
            config.bucket_type = Some(BucketType::Directory);
        };
        let below = Arc::new(FaultBucket::new(aws_bucket_with(&server, directory).await));
        let bucket = ReliableBucket::new(Arc::clone(&below) as Arc<dyn Bucket>, config);
        Self { server, memory, below, bucket }
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.server.requests().of(operation)
    }

    fn holds(&self, name: &str, seed: u64, len: u64) -> bool {
        let Some(object) = self.memory.object(name) else { return false };
        object.content.pieces().collect::<Vec<_>>().concat() == bytes(seed, len)
    }

    async fn put(&self, len: u64, condition: WriteCondition) -> Result<Written> {
        self.bucket.put(put(len, condition)).await
    }

    async fn begin(&self) -> Result<UploadId> {
        let create =
            CreateUpload { key: key("k"), attributes: ObjectAttributes::default(), storage_class: None };
        self.bucket.create_upload(create).await
    }

    async fn part(&self, upload: &UploadId, number: u16, len: u64) -> Result<Part> {
        let body = Payload::from(bytes(number.into(), len));
        self.bucket.upload_part(UploadPart { key: key("k"), upload: upload.clone(), number, body }).await
    }

    /// An object in two parts.
    async fn upload(&self) -> Result<Written> {
        let upload = self.begin().await?;
        let parts = vec![self.part(&upload, 1, SMALL).await?, self.part(&upload, 2, SMALL).await?];
        self.complete(&upload, parts).await
    }

    async fn complete(&self, upload: &UploadId, parts: Vec<Part>) -> Result<Written> {
        let condition = WriteCondition::Any;
        let request = CompleteUpload { key: key("k"), upload: upload.clone(), parts, condition };
        self.bucket.complete_upload(request).await
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn bytes(seed: u64, len: u64) -> Bytes {
    pattern(seed, ByteRange::new(0, len))
}

fn put(len: u64, condition: WriteCondition) -> PutRequest {
    let attributes = ObjectAttributes::default();
    PutRequest { key: key("k"), body: bytes(1, len).into(), attributes, condition }
}

fn copy(condition: WriteCondition) -> CopyRequest {
    let (source, target) = (key("k"), key("copy"));
    CopyRequest { source, source_if_match: None, target, attributes: None, storage_class: None, condition }
}

fn once(operation: Operation, fault: WireFault) -> Vec<Rule<WireFault>> {
    vec![Rule::new(fault).on(operation).when(When::First(1))]
}

fn twice(operation: Operation, fault: WireFault) -> Vec<Rule<WireFault>> {
    vec![Rule::new(fault).on(operation).when(When::First(2))]
}

fn always(operation: Operation, fault: WireFault) -> Vec<Rule<WireFault>> {
    vec![Rule::new(fault).on(operation)]
}

/// Notices soon that a body does not move, or an answer does not come.
fn watchful() -> RetryConfig {
    let limit = Duration::from_millis(500);
    RetryConfig { send_timeout: limit, first_byte_timeout: limit, page_timeout: limit, ..patient() }
}

/// A put of `len` bytes succeeds in `requests`.
async fn put_comes_right(config: RetryConfig, rules: Vec<Rule<WireFault>>, len: u64, requests: u64) {
    let row = format!("{rules:?}");
    let world = World::new(config, rules).await;
    let written = world.put(len, WriteCondition::Any).await.unwrap_or_else(|e| panic!("{row}: {e}"));
    assert!(world.holds("k", 1, len), "{row}: wrong bytes");
    assert_eq!(written.etag, world.memory.object("k").unwrap().head.meta.etag, "{row}");
    assert_eq!(world.requests(Operation::Put), requests, "{row}");
}

async fn put_fails(config: RetryConfig, rules: Vec<Rule<WireFault>>, len: u64) -> Error {
    let row = format!("{rules:?}");
    let world = World::new(config, rules).await;
    let error = world.put(len, WriteCondition::Any).await.expect_err(&row);
    assert!(world.memory.object("k").is_none(), "{row}: the object is there");
    error
}

#[tokio::test]
async fn puts_that_are_refused_for_now() {
    use Operation::Put;
    for len in [0, SMALL, LARGE] {
        put_comes_right(patient(), twice(Put, WireFault::internal_error()), len, 3).await;
    }
    let error = put_fails(hasty(), always(Put, WireFault::internal_error()), SMALL).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    let storm = vec![Rule::new(WireFault::slow_down()).on(Put).when(When::First(9))];
    put_comes_right(patient(), storm, SMALL, 10).await;
    put_comes_right(patient(), once(Put, WireFault::expired_token()), SMALL, 2).await;
    let error = put_fails(patient(), always(Put, WireFault::expired_token()), SMALL).await;
    assert_eq!(error.kind(), ErrorKind::CredentialsExpired, "{error}");
}

#[tokio::test]
async fn refusals_are_heard_before_the_body_is_sent() {
    // The server answers and closes while most of the body is on the way.
    for (status, code, kind) in [
        (403, "AccessDenied", ErrorKind::Forbidden),
        (400, "EntityTooLarge", ErrorKind::TooLarge),
        (507, "InsufficientStorage", ErrorKind::NoSpace),
        (403, "QuotaExceeded", ErrorKind::NoSpace),
    ] {
        let fault = WireFault::Status { status, code, retry_after: None };
        let error = put_fails(patient(), always(Operation::Put, fault), SMALL).await;
        assert_eq!((error.kind(), error.attempts()), (kind, 1), "{error}");
    }
}

#[tokio::test]
async fn puts_whose_connection_breaks() {
    use Operation::Put;
    put_comes_right(patient(), twice(Put, WireFault::ResetWhileSending(100_000)), SMALL, 3).await;
    put_comes_right(patient(), once(Put, WireFault::ResetWhileSending(5 << 20)), LARGE, 2).await;
    put_comes_right(patient(), twice(Put, WireFault::AnswerLost), SMALL, 3).await;
    let error = put_fails(hasty(), always(Put, WireFault::ResetWhileSending(0)), SMALL).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn conditional_puts_whose_answer_is_lost() {
    let world = World::new(patient(), once(Operation::Put, WireFault::AnswerLost)).await;
    world.put(SMALL, WriteCondition::Absent).await.unwrap();
    assert_eq!((world.requests(Operation::Put), world.requests(Operation::Head)), (2, 1));
    let error = world.put(SMALL, WriteCondition::Absent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
}

#[tokio::test]
async fn servers_that_do_not_read() {
    use Operation::Put;
    put_comes_right(watchful(), once(Put, WireFault::StopReading(0)), LARGE, 2).await;
    put_comes_right(watchful(), once(Put, WireFault::StopReading(2 << 20)), LARGE, 2).await;
    // All of it fits into the kernel's buffers, so that only the missing answer tells.
    put_comes_right(watchful(), once(Put, WireFault::StopReading(0)), SMALL, 2).await;
    put_comes_right(watchful(), once(Put, WireFault::Silence), SMALL, 2).await;
    let gives_up = RetryConfig { operation_deadline: Duration::from_secs(2), ..watchful() };
    let error = put_fails(gives_up, always(Put, WireFault::StopReading(0)), LARGE).await;
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("stopped reading"), "{error}");
}

#[tokio::test]
async fn servers_that_read_slowly_are_waited_for() {
    // Some three seconds, six times what a body may stand still.
    let slow = WireFault::ReadSlowly { bytes: 400_000, every: Duration::from_millis(50) };
    put_comes_right(watchful(), always(Operation::Put, slow), LARGE, 1).await;
}

#[tokio::test]
async fn bytes_that_are_garbled_on_the_way() {
    use Operation::{Put, UploadPart};
    put_comes_right(patient(), once(Put, WireFault::SentBitFlip(1234)), SMALL, 2).await;
    let error = put_fails(patient(), always(Put, WireFault::SentBitFlip(1234)), SMALL).await;
    assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, Some("BadDigest")), "{error}");
    let world = World::new(patient(), once(UploadPart, WireFault::SentBitFlip(SMALL - 1))).await;
    world.upload().await.unwrap();
    assert_eq!(world.requests(UploadPart), 3);
}

#[tokio::test]
async fn uploads_in_parts_over_bad_connections() {
    use Operation::{CompleteUpload, CreateUpload, UploadPart};
    for (rules, operation, requests) in [
        (twice(CreateUpload, WireFault::internal_error()), CreateUpload, 3),
        (twice(UploadPart, WireFault::internal_error()), UploadPart, 4),
        (twice(UploadPart, WireFault::ResetWhileSending(5000)), UploadPart, 4),
        (twice(UploadPart, WireFault::AnswerLost), UploadPart, 4),
        (once(UploadPart, WireFault::NoETag), UploadPart, 3),
        (once(CompleteUpload, WireFault::internal_error()), CompleteUpload, 2),
        (once(CompleteUpload, WireFault::ErrorIn200 { code: "InternalError" }), CompleteUpload, 2),
        (once(CompleteUpload, WireFault::ErrorIn200 { code: "SlowDown" }), CompleteUpload, 2),
        (once(CompleteUpload, WireFault::AnswerLost), CompleteUpload, 2),
        (once(CompleteUpload, WireFault::CutBody), CompleteUpload, 2),
        (once(CompleteUpload, WireFault::Close(30)), CompleteUpload, 2),
        (once(CompleteUpload, WireFault::Html), CompleteUpload, 2),
    ] {
        let row = format!("{rules:?}");
        let world = World::new(patient(), rules).await;
        let written = world.upload().await.unwrap_or_else(|e| panic!("{row}: {e}"));
        let object = world.memory.object("k").unwrap();
        assert_eq!((written.etag, object.content.len()), (object.head.meta.etag, 2 * SMALL), "{row}");
        assert_eq!(world.requests(operation), requests, "{row}");
    }
}

#[tokio::test]
async fn completions_that_fail_are_errors() {
    let error_in_200 = WireFault::ErrorIn200 { code: "InternalError" };
    let world = World::new(hasty(), always(Operation::CompleteUpload, error_in_200)).await;
    let error = world.upload().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Transient, Some("InternalError")), "{error}");
    assert!(world.memory.object("k").is_none());

    let world = World::new(patient(), Vec::new()).await;
    let upload = world.begin().await.unwrap();
    let part = world.part(&upload, 1, SMALL).await.unwrap();
    world.bucket.abort_upload(&key("k"), &upload).await.unwrap();
    let error = world.complete(&upload, vec![part]).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::NoSuchUpload, 1), "{error}");
}

#[tokio::test]
async fn work_that_takes_long_is_waited_for_while_white_space_comes() {
    let waiting = || WireFault::WhiteSpace { spaces: 20, every: Duration::from_millis(100) };
    let rules = [Operation::CompleteUpload, Operation::Copy, Operation::CopyPart]
        .map(|operation| Rule::new(waiting()).on(operation));
    // Four times as long as any other answer may take.
    let world = World::new(watchful(), rules.to_vec()).await;
    world.upload().await.unwrap();
    world.bucket.copy(copy(WriteCondition::Any)).await.unwrap();
    let upload = world.begin().await.unwrap();
    world.bucket.copy_part(copy_part(&upload)).await.unwrap();
    for operation in [Operation::CompleteUpload, Operation::Copy, Operation::CopyPart] {
        assert_eq!(world.requests(operation), 1, "{operation:?}");
    }
}

fn copy_part(upload: &UploadId) -> CopyPart {
    CopyPart {
        key: key("k"),
        upload: upload.clone(),
        number: 1,
        source: key("k"),
        source_range: ByteRange::new(10, 5000),
        source_if_match: None,
    }
}

#[tokio::test]
async fn copies_over_bad_connections() {
    use Operation::{Copy, CopyPart};
    for fault in [
        WireFault::internal_error(),
        WireFault::ErrorIn200 { code: "InternalError" },
        WireFault::AnswerLost,
        WireFault::CutBody,
        WireFault::Html,
    ] {
        let rules =
            [Copy, CopyPart].map(|operation| Rule::new(fault.clone()).on(operation).when(When::First(1)));
        let world = World::new(patient(), rules.to_vec()).await;
        world.memory.put("k", bytes(1, SMALL));
        world.bucket.copy(copy(WriteCondition::Absent)).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert!(world.holds("copy", 1, SMALL), "{fault:?}");
        let upload = world.begin().await.unwrap();
        world.bucket.copy_part(copy_part(&upload)).await.unwrap_or_else(|e| panic!("{fault:?}: {e}"));
        assert_eq!((world.requests(Copy), world.requests(CopyPart)), (2, 2), "{fault:?}");
    }
}

#[tokio::test]
async fn removals_and_moves_whose_answers_are_lost() {
    use Operation::{AbortUpload, Delete, DeleteMany, Rename};
    let rules = [AbortUpload, Delete, DeleteMany, Rename]
        .map(|operation| Rule::new(WireFault::AnswerLost).on(operation).when(When::First(1)));
    let world = World::new(patient(), rules.to_vec()).await;
    let etag = world.memory.put("k", "text");
    let moved = RenameRequest {
        source: key("k"),
        source_if_match: Some(etag),
        target: key("moved"),
        condition: WriteCondition::Absent,
    };
    world.bucket.rename(moved).await.unwrap();
    assert!(world.memory.object("k").is_none() && world.memory.object("moved").is_some());
    world.bucket.delete(&key("moved")).await.unwrap();
    world.memory.put("a", "a");
    assert!(world.bucket.delete_many(&[key("a"), key("b")]).await.unwrap().is_empty());
    assert!(world.memory.keys().is_empty());
    let upload = world.begin().await.unwrap();
    world.bucket.abort_upload(&key("k"), &upload).await.unwrap();
    assert!(world.bucket.list_uploads(&KeyPrefix::root(), None).await.unwrap().uploads.is_empty());
    for operation in [AbortUpload, Delete, DeleteMany, Rename] {
        assert_eq!(world.requests(operation), 2, "{operation:?}");
    }
}

#[tokio::test]
async fn lists_that_were_cut_are_asked_for_again() {
    use Operation::{DeleteMany, ListUploads};
    for fault in [WireFault::CutBody, WireFault::Html, WireFault::Close(60)] {
        let rules = [DeleteMany, ListUploads]
            .map(|operation| Rule::new(fault.clone()).on(operation).when(When::First(1)));
        let world = World::new(patient(), rules.to_vec()).await;
        world.begin().await.unwrap();
        assert_eq!(world.bucket.list_uploads(&KeyPrefix::root(), None).await.unwrap().uploads.len(), 1);
        assert!(world.bucket.delete_many(&[key("a"), key("b")]).await.unwrap().is_empty());
        assert_eq!((world.requests(DeleteMany), world.requests(ListUploads)), (2, 2), "{fault:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_for_a_while() {
    let mut world = World::new(patient(), Vec::new()).await;
    let upload = world.begin().await.unwrap();
    world.server.stop().await;
    let World { server, bucket, below, .. } = &mut world;
    let tried = below.requests().total();
    let body = Payload::from(bytes(1, SMALL));
    let sent = bucket.upload_part(UploadPart { key: key("k"), upload: upload.clone(), number: 1, body });
    let back = async {
        // Until it was tried in vain a few times.
        while below.requests().total() < tried + 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.restart().await.unwrap();
    };
    let (part, ()) = tokio::join!(sent, back);
    world.complete(&upload, vec![part.unwrap()]).await.unwrap();
    assert!(world.holds("k", 1, SMALL));
}
