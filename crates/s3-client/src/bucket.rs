//! The seam between the file system and the store: one bucket of objects.
//!
//! A [`Bucket`] does one request per call and tells the truth about it. Retrying, resuming and checking answers is the
//! work of [`ReliableBucket`](crate::reliable::ReliableBucket), which is a bucket too. The name is not `ObjectStore`: that is the
//! `object_store` crate's, whose paths cannot express every key.

mod write;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::checksum::StoredChecksum;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ContinuationToken, ETag, KeyPrefix, ObjectKey};

pub use write::{
    CompleteUpload, CopyPart, CopyRequest, CreateUpload, MAX_COPY_BYTES, MAX_DELETE_KEYS, MAX_METADATA_BYTES,
    MAX_OBJECT_BYTES, MAX_PART_BYTES, MAX_PARTS, MAX_PUT_BYTES, MIN_PART_BYTES, ObjectAttributes, Part,
    Payload, Progress, PutRequest, RenameRequest, UploadId, UploadMarker, UploadMeta, UploadPage, UploadPart,
    WriteCondition, Written,
};

/// The most keys and prefixes one listing page may hold (ListObjectsV2, `MaxKeys`).
pub const MAX_PAGE_KEYS: u16 = 1000;

/// The bytes of an object as they arrive, in order. An error ends the stream.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send + 'static>>;

/// One bucket of objects.
///
/// The calls that write answer `Unsupported` unless a bucket implements them.
///
/// # Cancel safety
/// Every call may be dropped at any time. A call that writes may then have been done or not, as after an error without an answer.
#[async_trait]
pub trait Bucket: fmt::Debug + Send + Sync + 'static {
    /// Which bucket this is, for messages and as part of a cache's key.
    fn identity(&self) -> &BucketIdentity;

    /// What this store does not do as S3 does.
    fn traits(&self) -> BucketTraits;

    /// Describes the object `key` without its bytes.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, and what the network gives.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead>;

    /// Describes an object with the checksum that the store keeps of its bytes, if it does and tells.
    ///
    /// # Errors
    /// As [`head`](Self::head); `Forbidden` also where objects may be described and the key that encrypts them may not be used.
    async fn head_with_checksum(&self, key: &ObjectKey) -> Result<(ObjectHead, Option<StoredChecksum>)> {
        Ok((self.head(key).await?, None))
    }

    /// Starts to read an object.
    ///
    /// Returns once the reply's headers are here; the bytes follow in the body. A range that reaches past the end of the object is
    /// cut to it; one that begins at or past the end is `Invalid` (HTTP 416).
    ///
    /// # Errors
    /// `NotFound`, `Forbidden`, `Archived`; `PreconditionFailed` if the object's ETag is not `if_match`.
    async fn get(&self, request: GetRequest) -> Result<GetReply>;

    /// Returns one page of names that begin with a prefix.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Forbidden`; `Corrupt` if the page is not whole.
    async fn list(&self, request: ListRequest) -> Result<ListPage>;

    /// Writes an object in one request.
    ///
    /// # Errors
    /// `PreconditionFailed` if the condition does not hold, also for an absent object that should match; `TooLarge`, `NoSpace`,
    /// `Forbidden`.
    async fn put(&self, request: PutRequest) -> Result<Written> {
        Err(unsupported(self.identity(), "put", request.key.as_str()))
    }

    /// Begins an upload in parts. It takes room at the store until it is completed or aborted.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        Err(unsupported(self.identity(), "create upload", request.key.as_str()))
    }

    /// Sends a part. Parts may be sent at the same time and in any order.
    ///
    /// # Errors
    /// `NoSuchUpload` if the upload was completed or aborted; else as [`put`](Self::put).
    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        Err(unsupported(self.identity(), "upload part", request.key.as_str()))
    }

    /// Copies a part from an object, where [`BucketTraits::copy_ranges`] says so.
    ///
    /// # Errors
    /// `NoSuchUpload`; `NotFound` if there is no such source; `PreconditionFailed` if it is another version; `Invalid` if the range
    /// does not lie inside, or the source is too small for a range.
    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        Err(unsupported(self.identity(), "copy part", request.key.as_str()))
    }

    /// Makes an object of the parts of an upload, which is then no more. At Amazon the object's time is when the upload was begun.
    ///
    /// # Errors
    /// `NoSuchUpload`; `PreconditionFailed` if the condition does not hold or another writer came in between; `Invalid` if a part
    /// is not the one that was sent, or is too small and not the last. After an error but `NoSuchUpload` the upload is still there.
    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        Err(unsupported(self.identity(), "complete upload", request.key.as_str()))
    }

    /// Throws an upload and its parts away. Fine if there is no such upload.
    ///
    /// Parts that are still being sent may stay; abort again when their requests have ended.
    ///
    /// # Errors
    /// `Forbidden`, and what the network gives.
    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let _ = upload;
        Err(unsupported(self.identity(), "abort upload", key.as_str()))
    }

    /// Returns one page of the uploads under way whose keys begin with `prefix`.
    ///
    /// # Errors
    /// `Forbidden`, `NoSuchBucket`; `Corrupt` if the page is not whole.
    async fn list_uploads(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> Result<UploadPage> {
        let _ = marker;
        Err(unsupported(self.identity(), "list uploads", prefix.as_str()))
    }

    /// Removes an object. Fine if there is none.
    ///
    /// # Errors
    /// `Forbidden`, and what the network gives.
    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        Err(unsupported(self.identity(), "delete", key.as_str()))
    }

    /// Removes up to [`MAX_DELETE_KEYS`] objects, and returns those that could not be removed. Fine for those that are not there.
    ///
    /// # Errors
    /// `Invalid` for too many keys; `Forbidden` and what the network gives, when it is not known of each key what became of it.
    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        Err(unsupported(self.identity(), "delete many", keys.first().map_or("", ObjectKey::as_str)))
    }

    /// Copies an object within the bucket.
    ///
    /// # Errors
    /// `NotFound` if there is no such source; `PreconditionFailed` if either condition does not hold; `TooLarge` over
    /// [`BucketTraits::max_copy_bytes`]; `Archived`; `Invalid` for a copy onto itself that changes nothing.
    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        Err(unsupported(self.identity(), "copy", request.target.as_str()))
    }

    /// Moves an object within the bucket at once, where [`BucketTraits::rename`] says so.
    ///
    /// # Errors
    /// `NotFound` if there is no such source; `PreconditionFailed` if either condition does not hold; `Unsupported` elsewhere.
    async fn rename(&self, request: RenameRequest) -> Result<()> {
        Err(unsupported(self.identity(), "rename", request.target.as_str()))
    }
}

/// The error of what a store cannot do.
pub(crate) fn unsupported(identity: &BucketIdentity, operation: &'static str, key: &str) -> Error {
    Error::new(ErrorKind::Unsupported, operation).with_bucket(&identity.name).with_key(key)
}

/// Names a bucket among all buckets: two mounts with equal identities see the same objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BucketIdentity {
    /// The endpoint or kind of store: `https://s3.eu-west-1.amazonaws.com`, `file`, `memory`.
    pub endpoint: Arc<str>,
    /// The bucket as a person writes it: `s3://models`, `file:///srv/models`. Messages begin with it.
    pub name: Arc<str>,
}

/// Where a store differs from general-purpose S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketTraits {
    /// Keys and common prefixes of a listing rise in byte order. S3 Express directory buckets do not sort.
    pub ordered_listing: bool,
    /// [`WriteCondition`]s are kept everywhere. Without, a request with one may be `Unsupported`.
    pub conditional_writes: bool,
    /// [`Bucket::rename`] works. General-purpose buckets have nothing of the kind.
    pub rename: bool,
    /// [`Bucket::copy_part`] works.
    pub copy_ranges: bool,
    /// [`CopyRequest::attributes`] are kept.
    pub copy_with_attributes: bool,
    /// An ETag stands for the same bytes for ever, in other processes too. A store in memory counts from the start in each.
    pub lasting_etags: bool,
    /// The least that a part may have, but for the last.
    pub min_part_bytes: u64,
    /// The largest object that one [`Bucket::copy`] copies.
    pub max_copy_bytes: u64,
}

impl Default for BucketTraits {
    /// General-purpose S3.
    fn default() -> Self {
        Self {
            ordered_listing: true,
            conditional_writes: true,
            rename: false,
            copy_ranges: true,
            copy_with_attributes: true,
            lasting_etags: true,
            min_part_bytes: MIN_PART_BYTES,
            max_copy_bytes: MAX_COPY_BYTES,
        }
    }
}

/// Seconds and nanoseconds since the Unix epoch, as the store gave them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// The tier an object is kept in. Unknown names are kept as [`StorageClass::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[expect(missing_docs, reason = "the names are Amazon's own")]
#[non_exhaustive]
pub enum StorageClass {
    #[default]
    Standard,
    ReducedRedundancy,
    StandardIa,
    OnezoneIa,
    IntelligentTiering,
    Glacier,
    GlacierIr,
    DeepArchive,
    Outposts,
    ExpressOnezone,
    Other,
}

const STORAGE_CLASSES: [(StorageClass, &str); 11] = [
    (StorageClass::Standard, "STANDARD"),
    (StorageClass::ReducedRedundancy, "REDUCED_REDUNDANCY"),
    (StorageClass::StandardIa, "STANDARD_IA"),
    (StorageClass::OnezoneIa, "ONEZONE_IA"),
    (StorageClass::IntelligentTiering, "INTELLIGENT_TIERING"),
    (StorageClass::Glacier, "GLACIER"),
    (StorageClass::GlacierIr, "GLACIER_IR"),
    (StorageClass::DeepArchive, "DEEP_ARCHIVE"),
    (StorageClass::Outposts, "OUTPOSTS"),
    (StorageClass::ExpressOnezone, "EXPRESS_ONEZONE"),
    (StorageClass::Other, "OTHER"),
];

impl StorageClass {
    /// Reads Amazon's name of a class; a reply without one means STANDARD.
    pub fn parse(name: &str) -> Self {
        STORAGE_CLASSES.iter().find(|(_, n)| *n == name).map_or(Self::Other, |(class, _)| *class)
    }

    /// Amazon's name of the class.
    pub fn as_str(self) -> &'static str {
        STORAGE_CLASSES.iter().find(|(class, _)| *class == self).map_or("OTHER", |(_, name)| name)
    }

    /// Whether an object of this class must be restored before it can be read. (Intelligent-Tiering may archive too, which only
    /// the GET tells.)
    pub fn is_archive(self) -> bool {
        matches!(self, Self::Glacier | Self::DeepArchive)
    }
}

/// What a listing tells about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length in bytes.
    pub size: u64,
    /// Which version of the bytes; some S3-compatible servers leave it out of listings.
    pub etag: Option<ETag>,
    /// When the object was written.
    pub last_modified: Timestamp,
    /// The tier it is kept in.
    pub storage_class: StorageClass,
}

/// What HEAD tells about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// What a listing would tell.
    pub meta: ObjectMeta,
    /// The `Content-Type`.
    pub content_type: Option<String>,
    /// The `x-amz-version-id`, in a versioned bucket.
    pub version_id: Option<String>,
    /// The server-side encryption: `AES256`, `aws:kms`, ...
    pub encryption: Option<String>,
    /// Whether an archived object has a restored copy that can be read now.
    pub restored: bool,
    /// The `x-amz-meta-*` headers, by name in lower case without that beginning.
    pub user_metadata: Vec<(String, String)>,
    /// Those of [`STORED_HEADERS`] that it has.
    pub headers: Vec<(&'static str, String)>,
}

impl ObjectHead {
    /// Of an object with nothing but its bytes.
    pub fn of(meta: ObjectMeta) -> Self {
        Self {
            meta,
            content_type: None,
            version_id: None,
            encryption: None,
            restored: false,
            user_metadata: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// All that is stored with the object besides its bytes, as far as it is written along with a changed or moved one.
    pub fn attributes(&self) -> ObjectAttributes {
        ObjectAttributes {
            content_type: self.content_type.clone(),
            user_metadata: self.user_metadata.clone(),
            headers: self.headers.clone(),
        }
    }
}

/// Headers besides `Content-Type` that a store keeps with an object and gives to whoever fetches it, in the order of their names.
pub const STORED_HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
];

/// Which bytes of which version of an object.
#[derive(Debug, Clone)]
pub struct GetRequest {
    /// The object.
    pub key: ObjectKey,
    /// The bytes wanted; `None` for all of them, which lets the store's checksum be verified.
    pub range: Option<ByteRange>,
    /// Refuse any other version.
    pub if_match: Option<ETag>,
}

/// The headers of a GET, and its bytes.
pub struct GetReply {
    /// The object as it was when the reply began. `size` is that of the whole object.
    pub meta: ObjectMeta,
    /// The bytes that the body holds.
    pub range: ByteRange,
    /// The bytes.
    pub body: BodyStream,
}

impl fmt::Debug for GetReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetReply")
            .field("meta", &self.meta)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Which names a listing wants.
#[derive(Debug, Clone)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: KeyPrefix,
    /// Roll up keys that have a `/` after the prefix into common prefixes.
    pub delimiter: bool,
    /// Only keys after this one in byte order; the first page alone. Not kept by unordered buckets.
    pub start_after: Option<String>,
    /// Go on where a page ended.
    pub continuation: Option<ContinuationToken>,
    /// At most this many keys and common prefixes, 1 to [`MAX_PAGE_KEYS`].
    pub max_keys: u16,
}

impl ListRequest {
    /// The first full page of the names directly below `prefix`.
    pub fn directory(prefix: KeyPrefix) -> Self {
        Self { prefix, delimiter: true, start_after: None, continuation: None, max_keys: MAX_PAGE_KEYS }
    }
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its whole key, prefix included.
    pub key: ObjectKey,
    /// What the listing tells about it.
    pub meta: ObjectMeta,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// Objects, in byte order of their keys where the store sorts.
    pub objects: Vec<ListedObject>,
    /// Rolled-up keys, each ending in the delimiter, in byte order where the store sorts.
    pub common_prefixes: Vec<KeyPrefix>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<ContinuationToken>,
}
