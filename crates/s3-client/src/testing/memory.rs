//! A bucket in memory: the reference of what a correct store answers, and the shelf behind the embedded server.

mod content;
mod write;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures::stream;
use parking_lot::RwLock;

use crate::bucket::{
    Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyPart, CopyRequest, CreateUpload, GetReply,
    GetRequest, ListPage, ListRequest, ListedObject, ObjectHead, ObjectMeta, Part, PutRequest, RenameRequest,
    StorageClass, Timestamp, UploadId, UploadMarker, UploadPage, UploadPart, Written,
};
use crate::checksum::{ChecksumAlgorithm, StoredChecksum};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ContinuationToken, ETag, KeyPrefix, ObjectKey};

pub use content::{Content, Joined, pattern};
use write::Uploads;

/// Bytes in one piece of a body.
const PIECE_BYTES: u64 = 64 << 10;

/// One stored object.
#[derive(Debug, Clone)]
pub struct StoredObject {
    /// Its bytes.
    pub content: Content,
    /// What HEAD tells about it.
    pub head: ObjectHead,
    /// The CRC-64/NVME of all its bytes in base64, where one was stored.
    pub crc64nvme: Option<String>,
}

impl StoredObject {
    /// Written now, with nothing but its bytes.
    fn new(content: Content, etag: ETag) -> Self {
        let meta = ObjectMeta {
            size: content.len(),
            etag: Some(etag),
            last_modified: now(),
            storage_class: StorageClass::Standard,
        };
        let content_type = Some(DEFAULT_CONTENT_TYPE.to_owned());
        let head = ObjectHead { content_type, ..ObjectHead::of(meta) };
        Self { content, head, crc64nvme: None }
    }
}

/// What S3 says of objects that were written without one.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// A bucket in memory. Cloning shares its objects and uploads.
///
/// The calls of [`Bucket`] that write keep the rules of S3: parts of at least 5 MiB, ranges copied of larger objects alone, MD5s as ETags.
#[derive(Debug, Clone)]
pub struct MemoryBucket {
    identity: BucketIdentity,
    traits: BucketTraits,
    etags: ETags,
    copy_time: Duration,
    objects: Arc<RwLock<BTreeMap<ObjectKey, StoredObject>>>,
    uploads: Arc<Uploads>,
}

/// What ETags are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ETags {
    Md5,
    Opaque,
}

impl MemoryBucket {
    /// An empty bucket called `name` in messages.
    pub fn new(name: &str) -> Self {
        let identity =
            BucketIdentity { endpoint: Arc::from("memory"), name: Arc::from(format!("memory:{name}")) };
        let traits = BucketTraits::default();
        Self {
            identity,
            traits,
            etags: ETags::Md5,
            copy_time: Duration::ZERO,
            objects: Arc::default(),
            uploads: Arc::default(),
        }
    }

    /// The same bucket, which takes smaller parts, so that tests need few bytes.
    #[must_use]
    pub fn with_min_part_bytes(self, min_part_bytes: u64) -> Self {
        self.with_traits(|traits| traits.min_part_bytes = min_part_bytes)
    }

    /// The same bucket after `edit` changed what it can do.
    #[must_use]
    pub fn with_traits(mut self, edit: impl FnOnce(&mut BucketTraits)) -> Self {
        edit(&mut self.traits);
        self
    }

    /// The same bucket, whose ETags are no MD5s, as those of objects encrypted with keys of KMS.
    #[must_use]
    pub fn with_opaque_etags(self) -> Self {
        Self { etags: ETags::Opaque, ..self }
    }

    /// The same bucket, in which a copy takes this time: it is of what the source was before, and replaces what the target is after.
    #[must_use]
    pub fn with_copy_time(self, copy_time: Duration) -> Self {
        Self { copy_time, ..self }
    }

    /// Writes an object and returns its ETag.
    pub fn put(&self, key: &str, content: impl Into<Content>) -> ETag {
        self.put_with(key, content, |_| {})
    }

    /// Writes an object after `edit` changed what HEAD will tell about it.
    pub fn put_with(
        &self,
        key: &str,
        content: impl Into<Content>,
        edit: impl FnOnce(&mut ObjectHead),
    ) -> ETag {
        let content = content.into();
        let etag = self.etag(&content);
        let mut stored = StoredObject::new(content, etag.clone());
        edit(&mut stored.head);
        let key = ObjectKey::new(key).expect("tests put legal keys");
        self.objects.write().insert(key, stored);
        etag
    }

    /// Stores a checksum (base64) with an object, right or wrong; whether there is such an object.
    pub fn set_crc64nvme(&self, key: &str, checksum: &str) -> bool {
        let Ok(key) = ObjectKey::new(key) else { return false };
        match self.objects.write().get_mut(&key) {
            Some(stored) => stored.crc64nvme = Some(checksum.to_owned()),
            None => return false,
        }
        true
    }

    /// Changes what HEAD tells about an object; whether there is such an object.
    pub fn edit(&self, key: &str, edit: impl FnOnce(&mut ObjectHead)) -> bool {
        let Ok(key) = ObjectKey::new(key) else { return false };
        self.objects.write().get_mut(&key).map(|stored| edit(&mut stored.head)).is_some()
    }

    /// Whether an upload in parts is under way.
    pub fn has_upload(&self, key: &ObjectKey, upload: &UploadId) -> bool {
        self.uploads.contains(key, upload)
    }

    /// Removes an object; whether there was one.
    pub fn remove(&self, key: &str) -> bool {
        ObjectKey::new(key).is_ok_and(|key| self.objects.write().remove(&key).is_some())
    }

    /// The object, if there is one.
    pub fn object(&self, key: &str) -> Option<StoredObject> {
        self.objects.read().get(&ObjectKey::new(key).ok()?).cloned()
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.objects.read().keys().cloned().collect()
    }

    fn find(&self, operation: &'static str, key: &ObjectKey) -> Result<StoredObject> {
        let not_found = || self.error(ErrorKind::NotFound, operation, key);
        self.objects.read().get(key).cloned().ok_or_else(not_found)
    }

    fn error(&self, kind: ErrorKind, operation: &'static str, key: &ObjectKey) -> Error {
        Error::new(kind, operation).with_bucket(&self.identity.name).with_key(key.as_str())
    }

    fn etag(&self, content: &Content) -> ETag {
        match self.etags {
            ETags::Md5 => content.md5_etag(),
            ETags::Opaque => content.opaque_etag(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the server's clock is not the file system's")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // S3 keeps whole seconds.
    Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

#[async_trait]
impl Bucket for MemoryBucket {
    fn identity(&self) -> &BucketIdentity {
        &self.identity
    }

    fn traits(&self) -> BucketTraits {
        self.traits
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        Ok(self.find("head", key)?.head)
    }

    async fn head_with_checksum(&self, key: &ObjectKey) -> Result<(ObjectHead, Option<StoredChecksum>)> {
        let stored = self.find("head", key)?;
        let checksum = stored.crc64nvme.as_deref();
        Ok((stored.head, checksum.and_then(|sum| StoredChecksum::parse(ChecksumAlgorithm::Crc64Nvme, sum))))
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        let error =
            |kind| Error::new(kind, "get").with_bucket(&self.identity.name).with_key(request.key.as_str());
        let StoredObject { content, head, .. } = self.find("get", &request.key)?;
        if request.if_match.is_some() && request.if_match != head.meta.etag {
            return Err(error(ErrorKind::PreconditionFailed).with_status(412));
        }
        if head.meta.storage_class.is_archive() && !head.restored {
            return Err(error(ErrorKind::Archived).with_status(403).with_code("InvalidObjectState"));
        }
        let all = ByteRange::new(0, content.len());
        let range = match request.range {
            None => all,
            Some(range) if range.start >= all.end => {
                return Err(error(ErrorKind::Invalid).with_status(416).with_code("InvalidRange"));
            }
            Some(range) => range.intersect(all),
        };
        let pieces = (range.start..range.end).step_by(PIECE_BYTES as usize);
        let body =
            pieces.map(move |at| Ok(content.slice(ByteRange::from_len(at, PIECE_BYTES).intersect(range))));
        Ok(GetReply { meta: head.meta, range, body: Box::pin(stream::iter(body)) })
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        Ok(list_page(&self.objects.read(), &request))
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        self.put_object(request)
    }

    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        self.check_metadata("create upload", &request.key, &request.attributes)?;
        Ok(self.uploads.create(request))
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        self.store_part(request)
    }

    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        self.store_copied_part(&request)
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        self.join_parts(&request)
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.uploads.abort(key, upload);
        Ok(())
    }

    async fn list_uploads(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> Result<UploadPage> {
        Ok(self.uploads.page(prefix, marker))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.objects.write().remove(key);
        Ok(())
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        self.delete_objects(keys)
    }

    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        self.copy_object(request).await
    }

    async fn rename(&self, request: RenameRequest) -> Result<()> {
        self.rename_object(&request)
    }
}

/// ListObjectsV2 over a sorted map; a token is the last name that was given out.
fn list_page(objects: &BTreeMap<ObjectKey, StoredObject>, request: &ListRequest) -> ListPage {
    let prefix = request.prefix.as_str();
    let continued = request.continuation.as_ref().map(|token| token.0.as_str());
    let after = continued.or(request.start_after.as_deref()).unwrap_or_default();
    let mut page = ListPage::default();
    let mut last = String::new();
    let mut from = first_key(prefix, after, continued.is_some() && request.delimiter);
    for count in 0.. {
        let Some((key, stored)) = objects.range((from, Bound::Unbounded)).next() else { return page };
        let Some(rest) = key.as_str().strip_prefix(prefix) else { return page };
        if count == usize::from(request.max_keys) {
            page.next = (count > 0).then_some(ContinuationToken(last));
            return page;
        }
        let slash = if request.delimiter { rest.find('/') } else { None };
        match slash {
            None => {
                page.objects.push(ListedObject { key: key.clone(), meta: stored.head.meta.clone() });
                from = Bound::Excluded(key.clone());
                key.as_str().clone_into(&mut last);
            }
            Some(at) => {
                let common = &key.as_str()[..=prefix.len() + at];
                page.common_prefixes.push(KeyPrefix::new(common));
                from = past(common);
                common.clone_into(&mut last);
            }
        }
    }
    page
}

/// Where a listing begins that has prefix `prefix` and comes after the name `after`.
fn first_key(prefix: &str, after: &str, after_may_be_rolled_up: bool) -> Bound<ObjectKey> {
    if after_may_be_rolled_up && after.len() > prefix.len() && after.ends_with('/') {
        return past(after);
    }
    match ObjectKey::new(if after >= prefix { after } else { prefix }) {
        Ok(key) if after >= prefix => Bound::Excluded(key),
        Ok(key) => Bound::Included(key),
        // Both are empty, or longer than any key.
        Err(_) => Bound::Unbounded,
    }
}

/// After all keys that begin with `common`, which ends in a slash.
fn past(common: &str) -> Bound<ObjectKey> {
    // `0` follows `/` in ASCII, and nothing lies between in UTF-8.
    let next = format!("{}0", &common[..common.len() - 1]);
    Bound::Included(ObjectKey::new(next).expect("as long as the common prefix of a key"))
}
