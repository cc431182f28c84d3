//! Copying an object within the bucket, whatever its size.

use futures::{StreamExt, TryStreamExt, stream};
use sluicefs_s3_client::bucket::MAX_COPY_BYTES;
use sluicefs_s3_client::{
    self as s3, CompleteUpload, CopyPart, CopyRequest, CreateUpload, ETag, ObjectAttributes, ObjectKey,
    ObjectMeta, Part, UploadId, WriteCondition,
};

use crate::error::{Error, Result};
use crate::filesystem::FileSystem;

/// Objects over [`MAX_COPY_BYTES`] are copied in parts of this size, so many at once.
const COPY_PART_BYTES: u64 = 1 << 30;
const COPY_PARTS_AT_ONCE: usize = 8;

impl FileSystem {
    /// Copies an object of any size within the bucket, with its attributes or others; returns the copy's ETag.
    pub(in crate::filesystem) async fn copy_object(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        target: &ObjectKey,
        (attributes, condition): (Option<ObjectAttributes>, WriteCondition),
    ) -> Result<Option<ETag>> {
        let unless = condition.clone();
        let failed = |error| copy_error(error, &unless, source);
        if meta.size > MAX_COPY_BYTES {
            return self.copy_in_parts(source, meta, target, (attributes, condition)).await;
        }
        let attributes = match attributes {
            None => self.changed_attributes(source, target).await.map_err(failed)?,
            given => given,
        };
        let request = CopyRequest {
            source: source.clone(),
            source_if_match: meta.etag.clone(),
            target: target.clone(),
            attributes,
            condition,
        };
        Ok(self.bucket.copy(request).await.map_err(failed)?.etag)
    }

    /// What is to be stored with the copy besides its bytes, if not what is stored with the source. Asks for that only if it matters.
    async fn changed_attributes(
        &self,
        source: &ObjectKey,
        target: &ObjectKey,
    ) -> s3::Result<Option<ObjectAttributes>> {
        if !self.bucket.traits().copy_with_attributes || !self.writes.may_change_type(source, target) {
            return Ok(None);
        }
        let head = self.bucket.head(source).await?;
        let attributes = self.writes.moved_attributes(&head, source, target);
        Ok(Some(attributes).filter(|attributes| *attributes != head.attributes()))
    }

    async fn copy_in_parts(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        target: &ObjectKey,
        (attributes, condition): (Option<ObjectAttributes>, WriteCondition),
    ) -> Result<Option<ETag>> {
        let unless = condition.clone();
        let failed = |error| copy_error(error, &unless, source);
        let attributes = match attributes {
            Some(attributes) => attributes,
            None => {
                let head = self.bucket.head(source).await.map_err(failed)?;
                self.writes.moved_attributes(&head, source, target)
            }
        };
        let upload = self.bucket.create_upload(CreateUpload { key: target.clone(), attributes }).await;
        let upload = upload.map_err(failed)?;
        let copied = self.copy_parts(source, meta, target, &upload).await;
        let done = match copied {
            Ok(parts) => {
                let request =
                    CompleteUpload { key: target.clone(), upload: upload.clone(), parts, condition };
                self.bucket.complete_upload(request).await.map_err(failed)
            }
            Err(error) => Err(error),
        };
        if done.is_err()
            && let Err(error) = self.bucket.abort_upload(target, &upload).await
        {
            tracing::warn!(key = %target, %upload, %error, "a copy that failed left parts at the store that could not be removed");
        }
        Ok(done?.etag)
    }

    async fn copy_parts(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        target: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Vec<Part>> {
        let starts = (0..meta.size).step_by(COPY_PART_BYTES as usize);
        let copy = |(index, start): (usize, u64)| async move {
            let whole = s3::ByteRange::new(0, meta.size);
            let request = CopyPart {
                key: target.clone(),
                upload: upload.clone(),
                number: u16::try_from(index + 1).expect("5 TiB are 5,120 parts"),
                source: source.clone(),
                source_range: s3::ByteRange::from_len(start, COPY_PART_BYTES).intersect(whole),
                source_if_match: meta.etag.clone(),
            };
            let copied = self.bucket.copy_part(request).await;
            copied.map_err(|error| Error::from_store("rename", error).with_name(source.as_str()))
        };
        stream::iter(starts.enumerate()).map(copy).buffered(COPY_PARTS_AT_ONCE).try_collect().await
    }
}

/// What failed may be that the name was to be free, or that the source is another version by now.
pub(super) fn copy_error(error: s3::Error, condition: &WriteCondition, source: &ObjectKey) -> Error {
    match condition {
        WriteCondition::Absent => Error::from_claim(error, source.as_str()),
        WriteCondition::Any | WriteCondition::Matches(_) => {
            Error::from_store("rename", error).with_name(source.as_str())
        }
    }
}
