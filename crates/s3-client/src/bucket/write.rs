//! What a bucket is asked to write, and what it tells about it: objects in one request or in parts, copies, uploads under way.
//!
//! The bytes to send are a [`Payload`], which shares its pieces, so that a request can be sent again without a copy of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::{StorageClass, Timestamp};
use crate::checksum::Checksum;
use crate::key::{ByteRange, ETag, ObjectKey};

/// The least that a part may have, but for the last of an upload (Amazon S3 User Guide, "Multipart upload limits").
pub const MIN_PART_BYTES: u64 = 5 << 20;
/// The most that a part may have (the same page).
pub const MAX_PART_BYTES: u64 = 5 << 30;
/// The most parts of one upload, and the highest number of one (the same page).
pub const MAX_PARTS: u16 = 10_000;
/// The largest object that every S3 takes (the same page; Amazon's own limit was raised since).
pub const MAX_OBJECT_BYTES: u64 = 5 << 40;
/// The most that one PutObject may send (API reference, PutObject).
pub const MAX_PUT_BYTES: u64 = 5 << 30;
/// The largest object that one CopyObject may copy (API reference, CopyObject).
pub const MAX_COPY_BYTES: u64 = 5 << 30;
/// The most that user metadata of an object may have, names and values together (Amazon S3 User Guide, "Working with object metadata").
pub const MAX_METADATA_BYTES: usize = 2048;
/// The most keys that one DeleteObjects may name (API reference, DeleteObjects).
pub const MAX_DELETE_KEYS: usize = 1000;

/// Bytes to send, as shared pieces; cheap to clone, so that a request can be sent again.
#[derive(Clone)]
pub struct Payload {
    pieces: Arc<[Bytes]>,
    len: u64,
    progress: Option<Arc<Progress>>,
}

impl Payload {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, in order. No piece is empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// A copy of all bytes in one piece.
    pub fn to_bytes(&self) -> Bytes {
        match &*self.pieces {
            [piece] => Bytes::copy_from_slice(piece),
            pieces => pieces.concat().into(),
        }
    }

    /// The same bytes, whose sending `progress` will tell.
    #[must_use]
    pub fn watched_by(&self, progress: Arc<Progress>) -> Self {
        Self { progress: Some(progress), ..self.clone() }
    }

    /// Tells whoever watches that the network took so many bytes more. A bucket calls it as it sends.
    pub fn note_sent(&self, bytes: u64) {
        if let Some(progress) = &self.progress {
            progress.note(bytes);
        }
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.into(), len, progress: None }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::from(vec![bytes])
    }
}

impl Default for Payload {
    /// No bytes.
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes in {} pieces)", self.len, self.pieces.len())
    }
}

/// How far the sending of a [`Payload`] has come.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    sent_bytes: AtomicU64,
    /// When the last bytes were taken, since `began`.
    last_ms: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { began: Instant::now(), sent_bytes: AtomicU64::new(0), last_ms: AtomicU64::new(0) }
    }
}

impl Progress {
    /// How many bytes were taken.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// When the watching began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// When bytes were last taken; at the beginning, when the watching began.
    pub fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    fn note(&self, bytes: u64) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What must be true of the object that a request would replace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WriteCondition {
    /// Nothing.
    #[default]
    Any,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// It is this version (`If-Match`).
    Matches(ETag),
}

/// What is stored with an object besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectAttributes {
    /// The `Content-Type`; the store chooses one if there is none.
    pub content_type: Option<String>,
    /// The `x-amz-meta-*` headers, by name in lower case without that beginning.
    pub user_metadata: Vec<(String, String)>,
    /// Some of [`STORED_HEADERS`](super::STORED_HEADERS).
    pub headers: Vec<(&'static str, String)>,
}

/// A whole object, to be written in one request: at most [`MAX_PUT_BYTES`].
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// The object.
    pub key: ObjectKey,
    /// All its bytes.
    pub body: Payload,
    /// What is stored besides them.
    pub attributes: ObjectAttributes,
    /// When not to write it.
    pub condition: WriteCondition,
}

impl PutRequest {
    /// Whether the object only makes a directory exist: it has no bytes, and its key ends in `/`. Servers that keep their objects in a file system
    /// make a directory of it, and then name no version.
    pub fn is_directory_marker(&self) -> bool {
        self.body.is_empty() && self.key.as_str().ends_with('/')
    }
}

/// What a store tells about an object that it has just written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Which version it is; every store of S3's kind tells, but for [directory markers](PutRequest::is_directory_marker).
    pub etag: Option<ETag>,
    /// The `x-amz-version-id`, in a versioned bucket.
    pub version_id: Option<String>,
}

/// The store's name for an upload in parts. It is known with its key alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(Arc<str>);

impl UploadId {
    /// Takes the store's text.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// The store's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// An object to be written in parts.
#[derive(Debug, Clone)]
pub struct CreateUpload {
    /// The object.
    pub key: ObjectKey,
    /// What is stored besides its bytes.
    pub attributes: ObjectAttributes,
    /// The tier to keep it in, unless the client's settings name one; `None` leaves that to the store.
    pub storage_class: Option<StorageClass>,
}

/// One part of an upload.
#[derive(Debug, Clone)]
pub struct UploadPart {
    /// The object.
    pub key: ObjectKey,
    /// The upload.
    pub upload: UploadId,
    /// Where the part goes, 1 to [`MAX_PARTS`]; the object is its parts in the order of these. A number that was sent before is replaced.
    pub number: u16,
    /// The bytes.
    pub body: Payload,
}

/// One part of an upload, taken from an object that is there.
///
/// A range other than the whole is copied only of objects over [`MIN_PART_BYTES`] (API reference, UploadPartCopy).
#[derive(Debug, Clone)]
pub struct CopyPart {
    /// The object that is being written.
    pub key: ObjectKey,
    /// The upload.
    pub upload: UploadId,
    /// Where the part goes, as in [`UploadPart`].
    pub number: u16,
    /// The object to copy from, in the same bucket.
    pub source: ObjectKey,
    /// Which of its bytes; the range must lie inside.
    pub source_range: ByteRange,
    /// Copy from no other version.
    pub source_if_match: Option<ETag>,
}

/// A part that the store has, as completing the upload needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it goes.
    pub number: u16,
    /// Which bytes the store took it for.
    pub etag: ETag,
    /// How many bytes it has.
    pub size: u64,
    /// What the bytes come to, where checksums are sent.
    pub checksum: Option<Checksum>,
}

impl Part {
    /// What the bytes of all `parts` come to, one after the other; `None` if that of one is not known.
    pub fn joined_checksum(parts: &[Self]) -> Option<Checksum> {
        let (first, rest) = parts.split_first()?;
        rest.iter().try_fold(first.checksum?, |sum, part| sum.then(part.checksum?, part.size))
    }
}

/// All parts of an upload, to become an object.
#[derive(Debug, Clone)]
pub struct CompleteUpload {
    /// The object.
    pub key: ObjectKey,
    /// The upload.
    pub upload: UploadId,
    /// Its parts, at least one, their numbers rising; those that are left out are thrown away.
    pub parts: Vec<Part>,
    /// When not to write the object.
    pub condition: WriteCondition,
}

/// A copy of an object of at most [`MAX_COPY_BYTES`] within the bucket.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    /// The object to copy.
    pub source: ObjectKey,
    /// Copy no other version.
    pub source_if_match: Option<ETag>,
    /// The object to write. It may be the source itself if `attributes` are given.
    pub target: ObjectKey,
    /// What is stored besides the bytes; `None` to copy that too.
    pub attributes: Option<ObjectAttributes>,
    /// The tier to keep the copy in, unless the client's settings name one. `None` leaves that to the store, which does not go by the source.
    pub storage_class: Option<StorageClass>,
    /// When not to write the target.
    pub condition: WriteCondition,
}

/// A move within the bucket without a copy, where [`BucketTraits::rename`](super::BucketTraits::rename) says so.
#[derive(Debug, Clone)]
pub struct RenameRequest {
    /// The object to move.
    pub source: ObjectKey,
    /// Move no other version. With it a move whose answer was lost can be told from one that failed.
    pub source_if_match: Option<ETag>,
    /// Its new name; an object of that name is replaced.
    pub target: ObjectKey,
    /// When not to replace the target.
    pub condition: WriteCondition,
}

/// An upload in parts that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadMeta {
    /// The object.
    pub key: ObjectKey,
    /// The upload.
    pub upload: UploadId,
    /// When it was begun.
    pub initiated: Timestamp,
}

/// Where the next page of uploads begins; made by the bucket that listed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadMarker {
    pub(crate) key: String,
    pub(crate) upload: String,
}

impl UploadMarker {
    /// After the upload `upload` of `key`.
    pub fn new(key: impl Into<String>, upload: impl Into<String>) -> Self {
        Self { key: key.into(), upload: upload.into() }
    }

    /// The key of the last upload before the page.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The last upload before the page.
    pub fn upload(&self) -> &str {
        &self.upload
    }
}

/// One page of the uploads under way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadPage {
    /// The uploads, by key where the store sorts.
    pub uploads: Vec<UploadMeta>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<UploadMarker>,
}
