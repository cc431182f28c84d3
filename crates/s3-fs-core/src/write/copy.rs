//! Copying an object within the bucket, whatever its size; onto itself too, which is how a store changes what it keeps besides the bytes.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use sluicefs_s3_client::fingerprint::{Likeness, likeness};
use sluicefs_s3_client::{
    self as s3, CompleteUpload, CopyPart, CopyRequest, CreateUpload, ETag, ObjectAttributes, ObjectKey,
    ObjectMeta, Part, StorageClass, UploadId, WriteCondition,
};

use super::engine::WriteEngine;
use crate::config::OnConflict;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::stored::{self, Metadata};

/// Objects that one request does not copy are copied in parts of this size, so many at once.
const COPY_PART_BYTES: u64 = 1 << 30;
const COPY_PARTS_AT_ONCE: usize = 8;

impl WriteEngine {
    /// Copies an object of any size within the bucket, with its attributes or others; returns what the copy is.
    ///
    /// # Errors
    /// `Exists` for a name that was to be free; `Stale` if the source is another version, or the target not what it was to be.
    pub(crate) async fn copy_object(
        self: &Arc<Self>,
        source: &ObjectKey,
        meta: &ObjectMeta,
        target: &ObjectKey,
        (attributes, condition): (Option<ObjectAttributes>, WriteCondition),
    ) -> Result<ObjectMeta> {
        let unless = condition.clone();
        let failed = |error| copy_error(error, &unless, source);
        let storage_class = kept_class(meta.storage_class);
        let etag = if meta.size > self.bucket.traits().max_copy_bytes {
            self.copy_in_parts(source, meta, target, (attributes, condition)).await?
        } else {
            let attributes = match attributes {
                None => self.changed_attributes(source, target).await.map_err(failed)?,
                given => given,
            };
            let request = CopyRequest {
                source: source.clone(),
                source_if_match: meta.etag.clone(),
                target: target.clone(),
                attributes,
                storage_class,
                condition,
            };
            self.bucket.copy(request).await.map_err(failed)?.etag
        };
        let storage_class = match (self.config.storage_class, storage_class) {
            (StorageClass::Standard, Some(kept)) => kept,
            (StorageClass::Standard, None) if !meta.storage_class.is_archive() => meta.storage_class,
            (settings, _) => settings,
        };
        Ok(ObjectMeta { etag: etag.or(meta.etag.clone()), storage_class, ..meta.clone() })
    }

    /// Puts what `ours` makes of the metadata of the object `key` into them; it is of the version `meta`. Returns what it is then. Costs a HEAD and a
    /// copy of the object onto itself.
    ///
    /// # Errors
    /// `Stale` if it is another version, unless the settings let that be replaced; `NoSpace` if it takes no more metadata; as a HEAD and a copy.
    pub(crate) async fn describe(
        self: &Arc<Self>,
        key: &ObjectKey,
        meta: &ObjectMeta,
        ours: impl FnOnce(&Metadata) -> Result<Metadata>,
    ) -> Result<ObjectMeta> {
        let failed = |error| Error::from_store("setattr", error).with_name(key.as_str());
        let before = self.bucket.head_with_checksum(key).await.map_err(failed)?;
        let meta = ObjectMeta { etag: meta.etag.clone().or(before.0.meta.etag.clone()), ..meta.clone() };
        let mut attributes = before.0.attributes();
        let ours = ours(&attributes.user_metadata)?;
        attributes.user_metadata = fitted(key, &attributes.user_metadata, ours)?;
        let metadata = attributes.user_metadata.clone();
        let condition = self.unless_replaced(&meta);
        match self.copy_object(key, &meta, key, (Some(attributes), condition)).await {
            Err(error) if error.kind() == ErrorKind::Stale => {
                // A copy whose answer was lost may have another ETag, so that the next attempt finds another version.
                let now = self.bucket.head_with_checksum(key).await.map_err(failed)?;
                let is_ours = stored::say_the_same(&now.0.user_metadata, &metadata);
                if is_ours && likeness(&before, &now) != Likeness::Different {
                    return Ok(ObjectMeta { etag: now.0.meta.etag, ..meta });
                }
                Err(error)
            }
            done => done,
        }
    }

    /// The condition under which the object `meta` may be replaced.
    fn unless_replaced(&self, meta: &ObjectMeta) -> WriteCondition {
        let checks = self.config.on_conflict == OnConflict::Fail && self.bucket.traits().conditional_writes;
        match &meta.etag {
            Some(etag) if checks => WriteCondition::Matches(etag.clone()),
            _ => WriteCondition::Any,
        }
    }

    /// What is to be stored with the copy besides its bytes, if not what is stored with the source. Asks for that only if it matters.
    async fn changed_attributes(
        &self,
        source: &ObjectKey,
        target: &ObjectKey,
    ) -> s3::Result<Option<ObjectAttributes>> {
        if !self.bucket.traits().copy_with_attributes || !self.may_change_type(source, target) {
            return Ok(None);
        }
        let head = self.bucket.head(source).await?;
        let attributes = self.moved_attributes(&head, source, target);
        Ok(Some(attributes).filter(|attributes| *attributes != head.attributes()))
    }

    async fn copy_in_parts(
        self: &Arc<Self>,
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
                self.moved_attributes(&head, source, target)
            }
        };
        let storage_class = kept_class(meta.storage_class);
        let request = CreateUpload { key: target.clone(), attributes, storage_class };
        let upload = self.bucket.create_upload(request).await.map_err(failed)?;
        let mut ending = Ending { engine: self, target, upload: Some(upload.clone()) };
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
        ending.upload = None;
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

/// An upload of a copy. If who wants the copy goes away before it ends, it is aborted in the background.
struct Ending<'a> {
    engine: &'a Arc<WriteEngine>,
    target: &'a ObjectKey,
    /// `None` once it has ended.
    upload: Option<UploadId>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let (bucket, target) = (Arc::clone(&self.engine.bucket), self.target.clone());
        self.engine.spawn(async move {
            if let Err(error) = bucket.abort_upload(&target, &upload).await {
                tracing::warn!(key = %target, %upload, %error, "a copy that was given up left parts at the store that could not be removed");
            }
        });
    }
}

/// The metadata `all` of the object `key` with `ours` in place of what said the same before.
///
/// # Errors
/// `NoSpace` if the store does not take so much.
pub(crate) fn fitted(key: &ObjectKey, all: &Metadata, ours: Metadata) -> Result<Metadata> {
    stored::fitted(all, ours).ok_or_else(|| {
        let full = Error::new(ErrorKind::NoSpace, "setattr").with_name(key.as_str());
        full.because("an object has at most 2 KiB of metadata")
    })
}

/// The tier that a copy of an object of this one is to be in, if that must be said. What lies in an archive is copied from what was restored of it,
/// and would have to be restored again: its copy is where the store puts new objects. Some servers have tiers of their own and take no name of them.
fn kept_class(class: StorageClass) -> Option<StorageClass> {
    use StorageClass::{GlacierIr, IntelligentTiering, OnezoneIa, ReducedRedundancy, StandardIa};
    match class {
        ReducedRedundancy | StandardIa | OnezoneIa | IntelligentTiering | GlacierIr => Some(class),
        _ => None,
    }
}

/// What failed may be that the name was to be free, or that the source is another version by now.
pub(crate) fn copy_error(error: s3::Error, condition: &WriteCondition, source: &ObjectKey) -> Error {
    match condition {
        WriteCondition::Absent => Error::from_claim(error, source.as_str()),
        WriteCondition::Any | WriteCondition::Matches(_) => {
            Error::from_store("rename", error).with_name(source.as_str())
        }
    }
}
