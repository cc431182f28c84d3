//! How many bytes a change of a large object moves, from a program's write to the bucket.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use sluicefs_core::FsConfig;
use sluicefs_s3_client::testing::MemoryBucket;
use sluicefs_s3_client::testing::memory::{Content, pattern};
use sluicefs_s3_client::{
    Bucket, BucketIdentity, BucketTraits, ByteRange, CompleteUpload, CopyPart, CreateUpload, GetReply,
    GetRequest, ListPage, ListRequest, ObjectHead, ObjectKey, Part, PutRequest, Result, UploadId, UploadPart,
    Written,
};

use crate::support::TestMount;

const MIB: u64 = 1 << 20;

/// A bucket that counts the bytes of objects which go either way.
#[derive(Debug)]
struct Metered {
    inner: MemoryBucket,
    fetched: AtomicU64,
    sent: AtomicU64,
}

#[async_trait]
impl Bucket for Metered {
    fn identity(&self) -> &BucketIdentity {
        self.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        self.inner.head(key).await
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        let reply = self.inner.get(request).await?;
        self.fetched.fetch_add(reply.range.len(), Ordering::Relaxed);
        Ok(reply)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        self.sent.fetch_add(request.body.len(), Ordering::Relaxed);
        Bucket::put(&self.inner, request).await
    }

    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        self.inner.create_upload(request).await
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        self.sent.fetch_add(request.body.len(), Ordering::Relaxed);
        self.inner.upload_part(request).await
    }

    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        self.inner.copy_part(request).await
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        self.inner.complete_upload(request).await
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.inner.abort_upload(key, upload).await
    }
}

#[test]
fn a_change_of_a_mebibyte_moves_a_part_and_not_the_object() {
    let size = 512 * MIB;
    let inner = MemoryBucket::new("large");
    inner.put("large", Content::Pattern { seed: 4, len: size });
    let bucket = Arc::new(Metered { inner, fetched: AtomicU64::new(0), sent: AtomicU64::new(0) });
    let config = |config: &mut sluicefs_fuse::MountConfig| config.read_only = false;
    let mount = TestMount::with(Arc::clone(&bucket) as _, FsConfig::default(), config);
    let file = OpenOptions::new().write(true).open(mount.join("large")).unwrap();
    let (at, change) = (200 * MIB + 12_345, pattern(9, ByteRange::new(0, MIB)));
    file.write_all_at(&change, at).unwrap();
    file.sync_all().unwrap();
    let (fetched, sent) = (bucket.fetched.load(Ordering::Relaxed), bucket.sent.load(Ordering::Relaxed));
    assert!(sent >= MIB && fetched + sent < 64 * MIB, "fetched {fetched}, sent {sent}");
    let stored = bucket.inner.object("large").unwrap().content;
    assert_eq!(stored.len(), size);
    for (start, end) in [(0, at), (at + MIB, size)] {
        for edge in [ByteRange::new(start, start + MIB), ByteRange::new(end - MIB, end)] {
            assert!(stored.slice(edge) == pattern(4, edge), "{edge}");
        }
    }
    assert!(stored.slice(ByteRange::from_len(at, MIB)) == change);
}
