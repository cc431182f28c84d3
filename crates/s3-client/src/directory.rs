//! A directory of this machine as a bucket: its regular files are the objects, their paths the keys.
//!
//! What a file system has and a bucket has not, is left out: a name that is no UTF-8, a pipe, a device or a link that leads elsewhere is not
//! there, and is named in the log once. Nothing else is affected by it. A symbolic link is followed where it leads to a regular file
//! inside the directory, as the caches of model hubs have them; directories are never followed, so that no path goes round in circles. An empty
//! directory is the empty object whose key ends in `/`, which is how a bucket says the same.
//!
//! What is written is written aside and renamed, so that nobody sees half of it; it lies in `.sluicefs-staging` until then, a name at the root that is no
//! key and is gone when nothing is being written. Content types and metadata are not kept.
//!
//! An object's ETag follows from time, size and inode of its file, so that a change is seen, but for one within the clock tick of the change
//! before it that leaves the size. A path never leaves the directory, whoever changes it at the same time: it is walked name by name, in
//! directories that are held open.

mod body;
mod hidden;
mod place;
mod staging;
mod upload;
mod walk;
mod write;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Once};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::fd::OwnedFd;

use crate::bucket::{
    Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyPart, CopyRequest, CreateUpload, GetReply,
    GetRequest, ListPage, ListRequest, ObjectHead, ObjectMeta, Part, PutRequest, RenameRequest, UploadId,
    UploadMarker, UploadPage, UploadPart, Written,
};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ContinuationToken, KeyPrefix, ObjectKey};

use hidden::Hidden;
use place::{Place, Root, is_absence};
use walk::{Snapshots, Walk};

/// A bucket over a directory of this machine. Blocking calls run on the runtime's threads for them.
pub struct DirectoryBucket {
    shared: Arc<Shared>,
}

struct Shared {
    identity: BucketIdentity,
    root: Root,
    hidden: Hidden,
    snapshots: Snapshots,
    /// Held from the look at a condition until the file has its place.
    writing: Mutex<()>,
    cleared_staging: Once,
}

impl DirectoryBucket {
    /// Opens the directory `path`, which may be moved later on: it is held open.
    ///
    /// # Errors
    /// `NoSuchBucket` if it is not there, is no directory or may not be read.
    pub fn open(path: &Path) -> Result<Self> {
        let name = format!("file://{}", path.display());
        let root = Root::open(path).map_err(|cause| {
            let message = match cause.kind() {
                io::ErrorKind::NotADirectory => "this is no directory".to_owned(),
                _ => format!("the directory cannot be used: {cause}"),
            };
            let error = Error::new(ErrorKind::NoSuchBucket, "open").with_bucket(&name);
            error.with_message(message).with_source(cause)
        })?;
        let identity = BucketIdentity { endpoint: Arc::from("file"), name: Arc::from(name) };
        let shared = Shared {
            hidden: Hidden::new(&identity.name),
            identity,
            root,
            snapshots: Snapshots::default(),
            writing: Mutex::new(()),
            cleared_staging: Once::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs `work` where it may block. Dropping the future leaves it to end by itself.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|failed| {
            let error = Error::new(ErrorKind::Transient, "read").with_bucket(&self.shared.identity.name);
            Err(error.with_message("the thread that did it ended").with_source(failed))
        })
    }
}

impl Shared {
    fn error(&self, operation: &'static str, key: &str, cause: io::Error) -> Error {
        error_of(&self.identity.name, operation, key, cause)
    }

    fn refusal(&self, kind: ErrorKind, operation: &'static str, key: &ObjectKey) -> Error {
        Error::new(kind, operation).with_bucket(&self.identity.name).with_key(key.as_str())
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let found = match Place::of(key.as_str()) {
            Some(Place::File(path)) => self.root.stat_file(path),
            Some(Place::Marker(path)) => self.marker(path),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        found.map_err(|cause| self.error("head", key.as_str(), cause))
    }

    /// The object that stands for an empty directory.
    fn marker(&self, path: &str) -> io::Result<ObjectMeta> {
        let directory = self.root.open_directory(path)?;
        match walk::is_empty(&self.root, path, &directory, &self.hidden)? {
            true => place::marker_meta(&directory),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The file of an object, none if it stands for a directory.
    fn open(&self, key: &ObjectKey) -> io::Result<(Option<OwnedFd>, ObjectMeta)> {
        match Place::of(key.as_str()) {
            Some(Place::File(path)) => self.root.open_file(path).map(|(file, meta)| (Some(file), meta)),
            Some(Place::Marker(path)) => Ok((None, self.marker(path)?)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn get(&self, request: &GetRequest) -> Result<GetReply> {
        let key = &request.key;
        let (file, meta) = self.open(key).map_err(|cause| self.error("get", key.as_str(), cause))?;
        if request.if_match.is_some() && request.if_match != meta.etag {
            return Err(self.refusal(ErrorKind::PreconditionFailed, "get", key).with_status(412));
        }
        let all = ByteRange::new(0, meta.size);
        let range = match request.range {
            None => all,
            Some(range) if range.start >= all.end => {
                let error = self.refusal(ErrorKind::Invalid, "get", key);
                return Err(error.with_status(416).with_code("InvalidRange"));
            }
            Some(range) => range.intersect(all),
        };
        let subject = body::Subject { bucket: Arc::clone(&self.identity.name), key: key.clone() };
        Ok(GetReply { range, body: body::of(file, range, meta.etag.clone(), subject), meta })
    }

    fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let token = match &request.continuation {
            Some(token) => Some(parse_token(token).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "list")
                    .with_bucket(&self.identity.name)
                    .with_message("this continuation token is not of this store")
            })?),
            None => None,
        };
        let id = token.map_or_else(|| self.snapshots.begin(), |(id, _)| id);
        let mut walk = Walk::new(&self.root, &self.hidden, &self.snapshots, id);
        walk.delimiter = request.delimiter;
        walk.max_names = usize::from(request.max_keys);
        match token {
            Some((_, last)) => walk.go_on_after(last),
            None => walk.start_after(request.start_after.as_deref().unwrap_or_default()),
        }
        let prefix = request.prefix.as_str();
        let (mut page, last) = walk.run(prefix).map_err(|(path, cause)| self.error("list", &path, cause))?;
        page.next = last.map(|last| ContinuationToken(format!("{id}:{last}")));
        if page.next.is_none() {
            self.snapshots.forget(id);
        }
        Ok(page)
    }
}

/// `<listing>:<last name given out>`
fn parse_token(token: &ContinuationToken) -> Option<(u64, &str)> {
    let (id, last) = token.0.split_once(':')?;
    Some((id.parse().ok()?, last))
}

fn error_of(bucket: &str, operation: &'static str, key: &str, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        _ if is_absence(&cause) => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Forbidden,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::FileTooLarge => ErrorKind::TooLarge,
        _ => ErrorKind::Transient,
    };
    let error = Error::new(kind, operation).with_bucket(bucket).with_key(key);
    // The kind says it all.
    let error = if kind == ErrorKind::NotFound { error } else { error.with_message(cause.to_string()) };
    error.with_source(cause)
}

#[async_trait]
impl Bucket for DirectoryBucket {
    fn identity(&self) -> &BucketIdentity {
        &self.shared.identity
    }

    fn traits(&self) -> BucketTraits {
        BucketTraits {
            rename: true,
            copy_with_attributes: false,
            min_part_bytes: 1,
            ..BucketTraits::default()
        }
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        let key = key.clone();
        let meta = self.blocking(move |shared| shared.head(&key)).await?;
        Ok(ObjectHead::of(meta))
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        self.blocking(move |shared| shared.get(&request)).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.blocking(move |shared| shared.list(&request)).await
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        self.blocking(move |shared| shared.put(&request)).await
    }

    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        self.blocking(move |shared| shared.create_upload(&request)).await
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        self.blocking(move |shared| shared.upload_part(&request)).await
    }

    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        self.blocking(move |shared| shared.copy_part(&request)).await
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        self.blocking(move |shared| shared.complete_upload(&request)).await
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let (key, upload) = (key.clone(), upload.clone());
        self.blocking(move |shared| shared.abort_upload(&key, &upload)).await
    }

    async fn list_uploads(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> Result<UploadPage> {
        let prefix = prefix.clone();
        self.blocking(move |shared| shared.list_uploads(&prefix, marker.as_ref())).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let key = key.clone();
        self.blocking(move |shared| shared.delete(&key)).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let keys = keys.to_vec();
        self.blocking(move |shared| shared.delete_many(&keys)).await
    }

    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        self.blocking(move |shared| shared.copy(&request)).await
    }

    async fn rename(&self, request: RenameRequest) -> Result<()> {
        self.blocking(move |shared| shared.rename(&request)).await
    }
}

impl fmt::Debug for DirectoryBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryBucket").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
