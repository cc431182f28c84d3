//! Opening and probing without a network.

use std::time::Duration;

use super::*;
use crate::bucket::*;
use crate::key::{KeyPrefix, ObjectKey};

async fn opened(text: &str) -> Result<Arc<dyn Bucket>> {
    open_checked(&BucketUrl::parse(text).unwrap(), &ClientConfig::default()).await
}

#[tokio::test]
async fn directories_and_memory_open() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.bin"), "weights").unwrap();
    let bucket = opened(&format!("file://{}", dir.path().display())).await.unwrap();
    assert_eq!(bucket.head(&ObjectKey::new("model.bin").unwrap()).await.unwrap().meta.size, 7);
    let memory = opened("memory:").await.unwrap();
    assert_eq!(memory.list(ListRequest::directory(KeyPrefix::root())).await.unwrap(), ListPage::default());
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    for (name, part) in [("missing", "No such file"), ("file", "no directory")] {
        let error = opened(&format!("file://{}/{name}", dir.path().display())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchBucket);
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// A bucket whose listings fail, the first `failures` times or for ever; or never answer.
#[derive(Debug)]
struct Broken {
    identity: BucketIdentity,
    error: Option<Error>,
    failures: std::sync::atomic::AtomicU32,
}

impl Broken {
    fn new(error: Option<Error>, failures: u32) -> Self {
        let identity = BucketIdentity { endpoint: "http://127.0.0.1:9".into(), name: "s3://b".into() };
        Self { identity, error, failures: failures.into() }
    }
}

#[async_trait::async_trait]
impl Bucket for Broken {
    fn identity(&self) -> &BucketIdentity {
        &self.identity
    }

    fn traits(&self) -> BucketTraits {
        BucketTraits::default()
    }

    async fn head(&self, _: &ObjectKey) -> Result<ObjectHead> {
        unreachable!("a probe lists")
    }

    async fn get(&self, _: GetRequest) -> Result<GetReply> {
        unreachable!("a probe lists")
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        assert_eq!(request.max_keys, 1);
        let Some(error) = &self.error else { return std::future::pending().await };
        let left = &self.failures;
        if left.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            return Ok(ListPage::default());
        }
        left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        Err(error.clone().with_bucket("s3://b"))
    }
}

async fn probed(error: Option<Error>, failures: u32) -> Result<()> {
    probe(&Broken::new(error, failures), &KeyPrefix::root(), Duration::from_secs(10)).await
}

#[tokio::test(start_paused = true)]
async fn each_failure_names_cause_and_remedy_on_one_line() {
    let error = |kind| Error::new(kind, "list");
    for (failure, kind, parts) in [
        (
            Some(error(ErrorKind::NoSuchBucket)),
            ErrorKind::NoSuchBucket,
            &["no such bucket", "check its name"][..],
        ),
        (
            Some(error(ErrorKind::WrongRegion).with_region("eu-west-1")),
            ErrorKind::WrongRegion,
            &["--region eu-west-1"],
        ),
        (Some(error(ErrorKind::WrongRegion)), ErrorKind::WrongRegion, &["--region"]),
        (
            Some(
                error(ErrorKind::Transient)
                    .with_code("ConnectionRefused")
                    .with_message("the endpoint refuses connections"),
            ),
            ErrorKind::Transient,
            &["cannot reach http://127.0.0.1:9", "refuses", "endpoint URL"],
        ),
        (
            Some(error(ErrorKind::Corrupt).with_message("no listing")),
            ErrorKind::Corrupt,
            &["does not answer as S3 does"],
        ),
        (
            Some(error(ErrorKind::NoCredentials).with_message("no credentials found")),
            ErrorKind::NoCredentials,
            &["no credentials"],
        ),
        (None, ErrorKind::Transient, &["no answer from http://127.0.0.1:9 within 10s"]),
    ] {
        let start = tokio::time::Instant::now();
        let error = probed(failure, u32::MAX).await.unwrap_err();
        assert!(start.elapsed() <= Duration::from_secs(10));
        assert_eq!(error.kind(), kind);
        let text = error.to_string();
        for part in parts.iter().chain(&["s3://b"]) {
            assert!(text.contains(part), "{text} lacks {part}");
        }
        assert!(!text.contains('\n'), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_passes_is_no_failure() {
    let error = || Some(Error::new(ErrorKind::Transient, "list"));
    assert!(probed(error(), 2).await.is_ok());
    assert_eq!(probed(error(), 3).await.unwrap_err().attempts(), 3);
    let busy = Error::new(ErrorKind::Throttled, "list").with_retry_after(Duration::from_secs(60));
    assert!(probed(Some(busy.clone()), 2).await.is_ok(), "a minute of Retry-After is not waited for");
    let error = probed(Some(busy), u32::MAX).await.unwrap_err();
    assert!(error.to_string().contains("try again later"), "{error}");
}
