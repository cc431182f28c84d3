//! The read path over buckets in memory: what is asked of the store, what readers get, and how much memory that takes.

mod bucket;
mod disk;
mod economy;
mod failures;
mod loading;
mod memory;
mod sharing;

use std::sync::Arc;
use std::time::Duration;

use sluicefs_s3_client::testing::memory::pattern;
use sluicefs_s3_client::{ByteRange, ETag, ObjectKey};
use tokio::runtime::Handle;

use super::*;
use crate::config::ReadConfig;
use crate::error::{Error, Result};
use bucket::{KEY, ProbeBucket};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// An engine over a probe bucket, and its object opened.
struct Rig {
    bucket: Arc<ProbeBucket>,
    engine: Arc<ReadEngine>,
    version: Arc<ObjectVersion>,
    object: Arc<OpenObject>,
}

impl Rig {
    fn new(bucket: ProbeBucket) -> Self {
        Self::with_config(bucket, ReadConfig::default())
    }

    fn with_config(bucket: ProbeBucket, config: ReadConfig) -> Self {
        let etag = bucket.etag();
        Self::with_etag(bucket, config, etag)
    }

    fn with_etag(bucket: ProbeBucket, config: ReadConfig, etag: Option<ETag>) -> Self {
        let size = bucket.size();
        let bucket = Arc::new(bucket);
        let engine = ReadEngine::with_disk(Arc::clone(&bucket) as _, config, Handle::current());
        let engine = engine.expect("the directory is a test's own");
        let key = ObjectKey::new(KEY).expect("a legal key");
        let version = Arc::new(ObjectVersion::new(key, size, etag));
        let object = engine.open(Arc::clone(&version));
        Self { bucket, engine, version, object }
    }

    /// The object under another name; the default settings.
    fn of(bucket: ProbeBucket, key: &str) -> Self {
        let content = bucket.inner.object(KEY).expect("the bucket has one object").content;
        bucket.inner.put(key, content);
        let Self { bucket, engine, .. } = Self::new(bucket);
        let meta = bucket.inner.object(key).expect("just put").head.meta;
        let key = ObjectKey::new(key).expect("a legal key");
        let version = Arc::new(ObjectVersion::new(key, meta.size, meta.etag));
        let object = engine.open(Arc::clone(&version));
        Self { bucket, engine, version, object }
    }

    async fn read(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        read(&self.object, ByteRange::new(start, end)).await
    }

    /// Reads what cannot be read.
    async fn fails(&self, start: u64, end: u64) -> Error {
        match self.read(start, end).await {
            Ok(bytes) => panic!("{} bytes instead of an error", bytes.len()),
            Err(error) => error,
        }
    }

    /// Reads `range` and holds it against what was stored.
    async fn check(&self, start: u64, end: u64) {
        check(&self.object, ByteRange::new(start, end)).await;
    }
}

async fn read(object: &Arc<OpenObject>, range: ByteRange) -> Result<Vec<u8>> {
    let data = object.read(range).await?;
    let bytes = data.slices().collect::<Vec<_>>().concat();
    assert_eq!(bytes.len(), data.len());
    Ok(bytes)
}

async fn check(object: &Arc<OpenObject>, range: ByteRange) {
    let bytes = read(object, range).await.expect("the store works");
    let expected = range.intersect(ByteRange::new(0, object.version().size()));
    let expected = pattern(1, expected);
    assert!(bytes == expected, "wrong bytes of {range}");
}

/// Lets all tasks run until none can go on without the test. For paused clocks alone: time stands still meanwhile.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
