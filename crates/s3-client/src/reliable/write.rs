//! Requests that write, made again until they are done.

use std::time::Duration;

use super::{Attempts, Shared};
use crate::bucket::{
    CompleteUpload, CopyPart, CopyRequest, CreateUpload, Part, PutRequest, RenameRequest, UploadId,
    UploadMarker, UploadPage, UploadPart, Written,
};
use crate::error::{Error, Result};
use crate::key::{KeyPrefix, ObjectKey};

impl Shared {
    pub(super) async fn put(&self, request: PutRequest) -> Result<Written> {
        let limit = self.config.write_timeout;
        self.repeat("put", request.key.as_str(), limit, || self.inner.put(request.clone())).await
    }

    pub(super) async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        let limit = self.config.page_timeout;
        let send = || self.inner.create_upload(request.clone());
        self.repeat("create upload", request.key.as_str(), limit, send).await
    }

    pub(super) async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        let limit = self.config.write_timeout;
        let send = || self.inner.upload_part(request.clone());
        self.repeat("upload part", request.key.as_str(), limit, send).await
    }

    pub(super) async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        let limit = self.config.write_timeout;
        self.repeat("copy part", request.key.as_str(), limit, || self.inner.copy_part(request.clone())).await
    }

    pub(super) async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        let limit = self.config.write_timeout;
        let send = || self.inner.complete_upload(request.clone());
        self.repeat("complete upload", request.key.as_str(), limit, send).await
    }

    pub(super) async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let limit = self.config.page_timeout;
        self.repeat("abort upload", key.as_str(), limit, || self.inner.abort_upload(key, upload)).await
    }

    pub(super) async fn list_uploads(
        &self,
        prefix: &KeyPrefix,
        marker: Option<UploadMarker>,
    ) -> Result<UploadPage> {
        let limit = self.config.page_timeout;
        let send = || self.inner.list_uploads(prefix, marker.clone());
        self.repeat("list uploads", prefix.as_str(), limit, send).await
    }

    pub(super) async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let limit = self.config.page_timeout;
        self.repeat("delete", key.as_str(), limit, || self.inner.delete(key)).await
    }

    pub(super) async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let limit = self.config.page_timeout;
        let first = keys.first().map_or("", ObjectKey::as_str);
        self.repeat("delete many", first, limit, || self.inner.delete_many(keys)).await
    }

    pub(super) async fn copy(&self, request: CopyRequest) -> Result<Written> {
        let limit = self.config.write_timeout;
        self.repeat("copy", request.target.as_str(), limit, || self.inner.copy(request.clone())).await
    }

    pub(super) async fn rename(&self, request: RenameRequest) -> Result<()> {
        let limit = self.config.page_timeout;
        self.repeat("rename", request.target.as_str(), limit, || self.inner.rename(request.clone())).await
    }

    /// Sends a request until it is answered or the deadline is over.
    async fn repeat<T, F>(
        &self,
        operation: &'static str,
        key: &str,
        limit: Duration,
        send: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut attempts = Attempts::new(self, operation, key);
        loop {
            match attempts.once(limit, send()).await {
                Ok(done) => return Ok(done),
                Err(error) => attempts.pause_after(error).await?,
            }
        }
    }
}
