//! A bucket around another one, which notes every upload in parts from before it is created until it is no more.
//!
//! A journal that cannot be written keeps nobody from writing to the bucket: what is lost is that a killed process is cleaned up after, and that
//! is logged.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::file::UploadJournal;
use crate::bucket::{
    Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyPart, CopyRequest, CreateUpload, GetReply,
    GetRequest, ListPage, ListRequest, ObjectHead, Part, PutRequest, RenameRequest, UploadId, UploadMarker,
    UploadPage, UploadPart, Written,
};
use crate::checksum::StoredChecksum;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyPrefix, ObjectKey};

/// A bucket whose uploads are in a journal.
pub struct JournaledBucket {
    inner: Arc<dyn Bucket>,
    journal: Arc<UploadJournal>,
    is_failing: AtomicBool,
}

impl JournaledBucket {
    /// `inner`, its uploads noted in `journal`.
    pub fn new(inner: Arc<dyn Bucket>, journal: UploadJournal) -> Self {
        Self { inner, journal: Arc::new(journal), is_failing: AtomicBool::new(false) }
    }

    /// Logs a failure of the journal, the first of several.
    fn noted<T>(&self, noted: io::Result<T>) -> Option<T> {
        match noted {
            Ok(noted) => {
                self.is_failing.store(false, Ordering::Relaxed);
                Some(noted)
            }
            Err(error) => {
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(bucket = %self.identity().name, %error, "the journal of uploads cannot be written: if this process is killed now, parts may stay at the store until `sluicefs uploads abort` removes them");
                }
                None
            }
        }
    }

    async fn begin(&self, key: &ObjectKey) -> Option<u64> {
        let (journal, key) = (Arc::clone(&self.journal), key.clone());
        let begun = tokio::task::spawn_blocking(move || journal.begin(&key)).await;
        self.noted(begun.unwrap_or_else(|ended| Err(io::Error::other(ended))))
    }

    fn ended(&self, key: &ObjectKey, upload: &UploadId) {
        self.noted(self.journal.ended(key, upload));
    }
}

#[async_trait]
impl Bucket for JournaledBucket {
    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        let entry = self.begin(&request.key).await;
        let created = self.inner.create_upload(request).await;
        if let Some(entry) = entry {
            self.noted(match &created {
                Ok(upload) => self.journal.created(entry, upload),
                // The store may have begun one all the same.
                Err(error) if error.kind().is_retryable() => self.journal.gave_up(entry),
                Err(_) => self.journal.refused(entry),
            });
        }
        created
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        let (key, upload) = (request.key.clone(), request.upload.clone());
        let completed = self.inner.complete_upload(request).await;
        let is_gone = match &completed {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::NoSuchUpload,
        };
        if is_gone {
            self.ended(&key, &upload);
        }
        completed
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        self.inner.abort_upload(key, upload).await?;
        self.ended(key, upload);
        Ok(())
    }

    // === Handed on as they are ===

    fn identity(&self) -> &BucketIdentity {
        self.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        self.inner.head(key).await
    }

    async fn head_with_checksum(&self, key: &ObjectKey) -> Result<(ObjectHead, Option<StoredChecksum>)> {
        self.inner.head_with_checksum(key).await
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        self.inner.get(request).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        self.inner.put(request).await
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        self.inner.upload_part(request).await
    }

    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        self.inner.copy_part(request).await
    }

    async fn list_uploads(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> Result<UploadPage> {
        self.inner.list_uploads(prefix, marker).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        self.inner.delete_many(keys).await
    }

    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        self.inner.copy(request).await
    }

    async fn rename(&self, request: RenameRequest) -> Result<()> {
        self.inner.rename(request).await
    }
}

impl fmt::Debug for JournaledBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournaledBucket").field("inner", &self.inner).finish_non_exhaustive()
    }
}
