//! A [`Bucket`] over any store of the `object_store` crate: memory, and what its builders know. A local directory has a bucket of its own,
//! [`DirectoryBucket`](crate::DirectoryBucket).
//!
//! Its paths cannot express every key: an empty segment (`a//b`), a leading `/`, `.`, `..` and control characters have no
//! path, so such a key is simply not there; and a directory with such a name in it cannot be listed. The key `a/`, which makes a directory
//! exist, is kept as `.sluicefs-directory` in that directory. Its listings are whole and in no order, so pages are cut here from a sorted copy, which is
//! kept for the pages after it.

mod uploads;
mod write;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, GetRange, GetResultPayload, ObjectMeta as StoreMeta, ObjectStore,
    ObjectStoreExt,
};
use parking_lot::Mutex;

use crate::bucket::{
    BodyStream, Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyRequest, CreateUpload, GetReply,
    GetRequest, ListPage, ListRequest, ListedObject, ObjectHead, ObjectMeta, Part, PutRequest, StorageClass,
    Timestamp, UploadId, UploadMarker, UploadPage, UploadPart, Written,
};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ContinuationToken, ETag, KeyPrefix, ObjectKey};

use uploads::Uploads;

/// How many listings are remembered between their pages.
const MAX_SNAPSHOTS: usize = 4;
/// A listing with more names is made anew for each page; one name takes some 150 bytes.
const MAX_SNAPSHOT_NAMES: usize = 1_000_000;
/// What stands for `/` at the end of a key. No key may end in it.
const MARKER: &str = ".sluicefs-directory";
/// One read of a local file; smaller ones cost a thread switch each.
const FILE_PIECE_BYTES: u64 = 1 << 20;

/// A bucket over an `object_store` store.
pub struct ObjectStoreBucket {
    identity: BucketIdentity,
    store: Arc<dyn ObjectStore>,
    snapshots: Mutex<VecDeque<Snapshot>>,
    next_snapshot: AtomicU64,
    uploads: Uploads,
}

impl ObjectStoreBucket {
    /// Shows all of `store` under the name that `identity` gives it.
    pub fn new(store: Arc<dyn ObjectStore>, identity: BucketIdentity) -> Self {
        let (snapshots, next_snapshot, uploads) = Default::default();
        Self { identity, store, snapshots, next_snapshot, uploads }
    }

    fn error(&self, operation: &'static str, key: &str, error: StoreError) -> Error {
        let kind = kind_of(&error);
        let message = error.to_string();
        let out =
            Error::new(kind, operation).with_bucket(&self.identity.name).with_key(key).with_source(error);
        // The kind says it all; the store's words would repeat the key.
        if kind == ErrorKind::NotFound { out } else { out.with_message(message) }
    }

    /// The path of a key, or that there is none.
    fn path(&self, operation: &'static str, key: &ObjectKey) -> Result<Path> {
        path_of(key.as_str()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, operation).with_bucket(&self.identity.name).with_key(key.as_str())
        })
    }

    /// All names that a listing wants, sorted as S3 sorts.
    async fn names(&self, prefix: &KeyPrefix, delimiter: bool) -> Result<Vec<Name>> {
        let prefix = prefix.as_str();
        let directory = match prefix.rfind('/') {
            Some(at) => match path_of(&prefix[..at]) {
                Some(path) => Some(path),
                None => return Ok(Vec::new()),
            },
            None => None,
        };
        let failed = |e| self.error("list", prefix, e);
        let mut names = Vec::new();
        if delimiter {
            let listed = self.store.list_with_delimiter(directory.as_ref()).await.map_err(failed)?;
            names.extend(listed.common_prefixes.iter().map(|path| Name::Prefix(format!("{path}/"))));
            names.extend(listed.objects.into_iter().filter_map(Name::object));
        } else {
            let mut listed = self.store.list(directory.as_ref());
            while let Some(meta) = listed.try_next().await.map_err(failed)? {
                names.extend(Name::object(meta));
            }
        }
        names.retain(|name| name.text().starts_with(prefix));
        names.sort_unstable_by(|a, b| a.text().cmp(b.text()));
        Ok(names)
    }

    fn remembered(&self, id: u64) -> Option<Arc<[Name]>> {
        let snapshots = self.snapshots.lock();
        snapshots.iter().find(|snapshot| snapshot.id == id).map(|snapshot| Arc::clone(&snapshot.names))
    }

    fn remember(&self, names: &Arc<[Name]>) -> u64 {
        let id = self.next_snapshot.fetch_add(1, Ordering::Relaxed);
        if names.len() <= MAX_SNAPSHOT_NAMES {
            let mut snapshots = self.snapshots.lock();
            snapshots.truncate(MAX_SNAPSHOTS - 1);
            snapshots.push_front(Snapshot { id, names: Arc::clone(names) });
        }
        id
    }

    fn forget(&self, id: u64) {
        self.snapshots.lock().retain(|snapshot| snapshot.id != id);
    }
}

/// The names of one listing, as they were when it began.
struct Snapshot {
    id: u64,
    names: Arc<[Name]>,
}

/// One line of a listing.
enum Name {
    Object(ListedObject),
    /// With its `/` at the end.
    Prefix(String),
}

impl Name {
    fn object(meta: StoreMeta) -> Option<Self> {
        // A path may be longer than any key; no name could open it.
        let key = ObjectKey::new(key_of(meta.location.as_ref())).ok()?;
        Some(Self::Object(ListedObject { key, meta: to_meta(&meta) }))
    }

    fn text(&self) -> &str {
        match self {
            Self::Object(object) => object.key.as_str(),
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// Cuts the page after the name `after`; the last name of it, if more follow.
fn cut_page<'a>(names: &'a [Name], after: Option<&str>, max_keys: u16) -> (ListPage, Option<&'a str>) {
    let start = after.map_or(0, |after| names.partition_point(|name| name.text() <= after));
    let end = names.len().min(start + usize::from(max_keys));
    let mut page = ListPage::default();
    for name in &names[start..end] {
        match name {
            Name::Object(object) => page.objects.push(object.clone()),
            Name::Prefix(prefix) => page.common_prefixes.push(KeyPrefix::new(prefix.as_str())),
        }
    }
    let more = (end < names.len()).then(|| names[start..end].last().map(Name::text)).flatten();
    (page, more)
}

/// `<snapshot>:<last name given out>`
fn parse_token(token: &ContinuationToken) -> Option<(u64, &str)> {
    let (id, after) = token.0.split_once(':')?;
    Some((id.parse().ok()?, after))
}

/// The path whose key is `key`; `None` for a key that has none.
fn path_of(key: &str) -> Option<Path> {
    let path = match key.strip_suffix('/') {
        Some(_) => Path::parse(format!("{key}{MARKER}")),
        None => Path::parse(key),
    };
    path.ok().filter(|path| key_of(path.as_ref()) == key)
}

/// The key of what is kept at `path`.
fn key_of(path: &str) -> &str {
    path.strip_suffix(MARKER).filter(|directory| directory.ends_with('/')).unwrap_or(path)
}

fn kind_of(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::NotFound { .. } | StoreError::InvalidPath { .. } => ErrorKind::NotFound,
        StoreError::Precondition { .. } | StoreError::AlreadyExists { .. } => ErrorKind::PreconditionFailed,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Forbidden,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => ErrorKind::Unsupported,
        StoreError::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        other => match io_kind_of(other) {
            Some(std::io::ErrorKind::PermissionDenied) => ErrorKind::Forbidden,
            // A key below what is a file there.
            Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => ErrorKind::NotFound,
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => ErrorKind::NoSpace,
            Some(std::io::ErrorKind::FileTooLarge) => ErrorKind::TooLarge,
            _ => ErrorKind::Transient,
        },
    }
}

/// What the operating system said about a local file, which comes as a generic error.
fn io_kind_of(error: &StoreError) -> Option<std::io::ErrorKind> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

fn to_meta(meta: &StoreMeta) -> ObjectMeta {
    ObjectMeta {
        size: meta.size,
        etag: meta.e_tag.as_deref().map(ETag::new),
        last_modified: Timestamp {
            secs: meta.last_modified.timestamp(),
            nanos: meta.last_modified.timestamp_subsec_nanos(),
        },
        storage_class: StorageClass::Standard,
    }
}

#[async_trait]
impl Bucket for ObjectStoreBucket {
    fn identity(&self) -> &BucketIdentity {
        &self.identity
    }

    fn traits(&self) -> BucketTraits {
        BucketTraits {
            conditional_writes: false,
            copy_ranges: false,
            copy_with_attributes: false,
            lasting_etags: false,
            ..BucketTraits::default()
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        let path = self.path("head", key)?;
        let options = GetOptions { head: true, ..GetOptions::default() };
        let reply = self.store.get_opts(&path, options).await;
        let reply = reply.map_err(|e| self.error("head", key.as_str(), e))?;
        let mut head =
            ObjectHead { version_id: reply.meta.version.clone(), ..ObjectHead::of(to_meta(&reply.meta)) };
        write::describe(&mut head, &reply.attributes);
        Ok(head)
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        let key = request.key.as_str();
        let path = self.path("get", &request.key)?;
        let options = GetOptions {
            if_match: request.if_match.as_ref().map(ETag::to_string),
            range: request.range.map(|range| GetRange::Bounded(range.start..range.end)),
            ..GetOptions::default()
        };
        let reply = match self.store.get_opts(&path, options).await {
            Ok(reply) => reply,
            Err(error) => return Err(self.refused(&request, &path, error).await),
        };
        let (meta, range) = (to_meta(&reply.meta), ByteRange::from(reply.range.clone()));
        let subject = (Arc::clone(&self.identity.name), key.to_owned());
        let body: BodyStream = match reply.payload {
            GetResultPayload::File(file, _) => file_body(file, range, subject),
            GetResultPayload::Stream(stream) => Box::pin(stream.map_err(move |e| {
                let kind = kind_of(&e);
                Error::new(kind, "get").with_bucket(&subject.0).with_key(&subject.1).with_source(e)
            })),
        };
        Ok(GetReply { meta, range, body })
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        let token = match &request.continuation {
            Some(token) => Some(parse_token(token).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "list")
                    .with_message("this continuation token is not of this store")
            })?),
            None => None,
        };
        let after = token.map(|(_, after)| after).or(request.start_after.as_deref());
        let (id, names) = match token.and_then(|(id, _)| Some((id, self.remembered(id)?))) {
            Some((id, names)) => (Some(id), names),
            None => (None, Arc::from(self.names(&request.prefix, request.delimiter).await?)),
        };
        let (mut page, more) = cut_page(&names, after, request.max_keys);
        match (more, id) {
            (Some(last), id) => {
                let id = id.unwrap_or_else(|| self.remember(&names));
                page.next = Some(ContinuationToken(format!("{id}:{last}")));
            }
            (None, Some(id)) => self.forget(id),
            (None, None) => {}
        }
        Ok(page)
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        self.put_object(request).await
    }

    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        self.begin_upload(request).await
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        self.send_part(request).await
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        self.end_upload(&request).await
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let aborted = self.uploads.abort(key, upload).await;
        aborted.map_err(|e| self.error("abort upload", key.as_str(), e))
    }

    /// Those that were begun through this bucket; stores tell of no others.
    async fn list_uploads(&self, prefix: &KeyPrefix, _: Option<UploadMarker>) -> Result<UploadPage> {
        Ok(UploadPage { uploads: self.uploads.list(prefix), next: None })
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.remove(key).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        self.remove_many(keys).await
    }

    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        self.copy_object(&request).await
    }
}

impl ObjectStoreBucket {
    /// Stores have no error of their own for a range past the end.
    async fn refused(&self, request: &GetRequest, path: &Path, error: StoreError) -> Error {
        let past_end = match (request.range, kind_of(&error)) {
            (Some(range), ErrorKind::Transient) => {
                self.store.head(path).await.is_ok_and(|meta| range.start >= meta.size)
            }
            _ => false,
        };
        let out = self.error("get", request.key.as_str(), error);
        if !past_end {
            return out;
        }
        Error::new(ErrorKind::Invalid, "get")
            .with_bucket(&self.identity.name)
            .with_key(request.key.as_str())
            .with_status(416)
            .with_code("InvalidRange")
            .with_source(out)
    }
}

/// Reads a local file in pieces that are worth a thread switch.
fn file_body(file: File, range: ByteRange, subject: (Arc<str>, String)) -> BodyStream {
    let pieces = stream::try_unfold((Arc::new(file), range.start), move |(file, at)| async move {
        if at >= range.end {
            return Ok(None);
        }
        let piece = ByteRange::from_len(at, FILE_PIECE_BYTES).intersect(range);
        let reader = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || read_piece(&reader, piece)).await;
        let bytes = read.map_err(std::io::Error::other).flatten()?;
        Ok::<_, std::io::Error>(Some((bytes, (file, piece.end))))
    });
    pieces
        .map_err(move |e| {
            // The file was truncated or its disk failed; a new GET tells.
            Error::new(ErrorKind::Transient, "get")
                .with_bucket(&subject.0)
                .with_key(&subject.1)
                .with_message(e.to_string())
                .with_source(e)
        })
        .boxed()
}

fn read_piece(file: &File, piece: ByteRange) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let len = usize::try_from(piece.len()).map_err(std::io::Error::other)?;
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, piece.start)?;
    Ok(Bytes::from(buffer))
}

impl fmt::Debug for ObjectStoreBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStoreBucket")
            .field("identity", &self.identity)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
