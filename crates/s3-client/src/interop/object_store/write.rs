//! Writing through `object_store`.
//!
//! What is asked for and a store cannot do is `Unsupported`. Bytes are copied once, since a store in memory would keep the caller's buffers.

use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, UpdateVersion,
};

use super::ObjectStoreBucket;
use super::uploads::Refused;
use crate::bucket::{
    Bucket, CompleteUpload, CopyRequest, CreateUpload, MAX_DELETE_KEYS, ObjectAttributes, ObjectHead, Part,
    PutRequest, STORED_HEADERS, UploadId, UploadPart, WriteCondition, Written,
};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ETag, ObjectKey};

/// Objects of one list that are removed at once.
const DELETES_AT_ONCE: usize = 8;

impl ObjectStoreBucket {
    pub(super) async fn put_object(&self, request: PutRequest) -> Result<Written> {
        const OPERATION: &str = "put";
        let path = self.path_to_write(OPERATION, &request.key)?;
        let mode = match &request.condition {
            WriteCondition::Any => PutMode::Overwrite,
            WriteCondition::Absent => PutMode::Create,
            WriteCondition::Matches(etag) => {
                PutMode::Update(UpdateVersion { e_tag: Some(etag.to_string()), version: None })
            }
        };
        let options =
            PutOptions { mode, attributes: to_attributes(&request.attributes), ..PutOptions::default() };
        let payload = PutPayload::from(request.body.to_bytes());
        // Stores do not tell how far they are.
        request.body.note_sent(request.body.len());
        let result = self.store.put_opts(&path, payload, options).await;
        let result = result.map_err(|e| self.error(OPERATION, request.key.as_str(), e))?;
        Ok(Written { etag: result.e_tag.as_deref().map(ETag::new), version_id: result.version })
    }

    pub(super) async fn begin_upload(&self, request: CreateUpload) -> Result<UploadId> {
        const OPERATION: &str = "create upload";
        let path = self.path_to_write(OPERATION, &request.key)?;
        let attributes = to_attributes(&request.attributes);
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let begun = self.store.put_multipart_opts(&path, options).await;
        let upload = begun.map_err(|e| self.error(OPERATION, request.key.as_str(), e))?;
        let key = request.key.clone();
        self.uploads.add(key, upload).map_err(|e| self.refusal(OPERATION, &request.key, e))
    }

    pub(super) async fn send_part(&self, request: UploadPart) -> Result<Part> {
        let UploadPart { key, upload, number, body } = request;
        // Whether it waits for its turn or for the store, no byte is waiting for the network here.
        body.note_sent(body.len());
        let sent = self.uploads.send(&key, &upload, number, body.to_bytes()).await;
        sent.map_err(|e| self.refusal("upload part", &key, e))
    }

    pub(super) async fn end_upload(&self, request: &CompleteUpload) -> Result<Written> {
        const OPERATION: &str = "complete upload";
        if request.condition != WriteCondition::Any {
            return Err(self.cannot(OPERATION, &request.key, "conditions of uploads in parts"));
        }
        let result = self.uploads.complete(&request.key, &request.upload, &request.parts).await;
        let result = result.map_err(|e| self.refusal(OPERATION, &request.key, e))?;
        Ok(Written { etag: result.e_tag.as_deref().map(ETag::new), version_id: result.version })
    }

    pub(super) async fn remove(&self, key: &ObjectKey) -> Result<()> {
        // What has no path is not there.
        let Ok(path) = self.path("delete", key) else { return Ok(()) };
        match self.store.delete(&path).await.map_err(|e| self.error("delete", key.as_str(), e)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    pub(super) async fn remove_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        if keys.len() > MAX_DELETE_KEYS {
            let message = format!("{} keys in one request, which takes {MAX_DELETE_KEYS}", keys.len());
            return Err(Error::new(ErrorKind::Invalid, "delete many").with_message(message));
        }
        let remove = async |key: ObjectKey| self.remove(&key).await.err().map(|error| (key, error));
        let removals = stream::iter(keys.to_vec()).map(remove).buffer_unordered(DELETES_AT_ONCE);
        Ok(removals.filter_map(std::future::ready).collect().await)
    }

    /// Between the look at the source's version and the copy, another writer may come: stores have no such condition.
    pub(super) async fn copy_object(&self, request: &CopyRequest) -> Result<Written> {
        const OPERATION: &str = "copy";
        let failed = |key: &ObjectKey, e| self.error(OPERATION, key.as_str(), e);
        let mode = match request.condition {
            WriteCondition::Any => CopyMode::Overwrite,
            WriteCondition::Absent => CopyMode::Create,
            WriteCondition::Matches(_) => {
                return Err(self.cannot(OPERATION, &request.target, "copies over a certain version"));
            }
        };
        if request.attributes.is_some() {
            return Err(self.cannot(OPERATION, &request.target, "copies with other attributes"));
        }
        if request.source == request.target {
            return Err(Error::new(ErrorKind::Invalid, OPERATION)
                .with_bucket(&self.identity.name)
                .with_key(request.target.as_str())
                .with_message("a copy onto itself changes nothing"));
        }
        let (source, target) =
            (self.path(OPERATION, &request.source)?, self.path_to_write(OPERATION, &request.target)?);
        if let Some(etag) = &request.source_if_match {
            let current = self.store.head(&source).await.map_err(|e| failed(&request.source, e))?;
            if current.e_tag.as_deref().map(ETag::new).as_ref() != Some(etag) {
                return Err(Error::new(ErrorKind::PreconditionFailed, OPERATION)
                    .with_bucket(&self.identity.name)
                    .with_key(request.source.as_str()));
            }
        }
        let options = CopyOptions::new().with_mode(mode);
        self.store.copy_opts(&source, &target, options).await.map_err(|e| failed(&request.source, e))?;
        let head = self.head(&request.target).await?;
        Ok(Written { etag: head.meta.etag, version_id: head.version_id })
    }

    /// The path of a key that is to be written.
    fn path_to_write(&self, operation: &'static str, key: &ObjectKey) -> Result<Path> {
        self.path(operation, key).map_err(|_| {
            let message =
                "this store has no path for such a key: empty components, . and .., control characters";
            Error::new(ErrorKind::Invalid, operation)
                .with_bucket(&self.identity.name)
                .with_key(key.as_str())
                .with_message(message)
        })
    }

    fn cannot(&self, operation: &'static str, key: &ObjectKey, what: &str) -> Error {
        Error::new(ErrorKind::Unsupported, operation)
            .with_bucket(&self.identity.name)
            .with_key(key.as_str())
            .with_message(format!("this store cannot do {what}"))
    }

    fn refusal(&self, operation: &'static str, key: &ObjectKey, refused: Refused) -> Error {
        let kind = match refused {
            Refused::Store(error) => return self.error(operation, key.as_str(), error),
            Refused::NoSuchUpload => ErrorKind::NoSuchUpload,
            Refused::Number(_) | Refused::OtherParts => ErrorKind::Invalid,
            Refused::TooMany => ErrorKind::NoSpace,
        };
        let message = refused.to_string();
        Error::new(kind, operation)
            .with_bucket(&self.identity.name)
            .with_key(key.as_str())
            .with_message(message)
    }
}

fn to_attributes(attributes: &ObjectAttributes) -> Attributes {
    let content_type = attributes.content_type.clone().map(|kind| (Attribute::ContentType, kind));
    let metadata = attributes.user_metadata.iter().cloned();
    let metadata = metadata.map(|(name, value)| (Attribute::Metadata(name.into()), value));
    let headers =
        attributes.headers.iter().filter_map(|(header, value)| Some((attribute(header)?, value.clone())));
    content_type.into_iter().chain(metadata).chain(headers).collect()
}

/// A stored header, if stores have such a thing.
fn attribute(header: &str) -> Option<Attribute> {
    match header {
        "cache-control" => Some(Attribute::CacheControl),
        "content-disposition" => Some(Attribute::ContentDisposition),
        "content-encoding" => Some(Attribute::ContentEncoding),
        "content-language" => Some(Attribute::ContentLanguage),
        _ => None,
    }
}

/// Puts into `head` what a store keeps besides bytes.
pub(super) fn describe(head: &mut ObjectHead, attributes: &Attributes) {
    for (name, value) in attributes {
        match name {
            Attribute::ContentType => head.content_type = Some(value.to_string()),
            Attribute::Metadata(name) => head.user_metadata.push((name.to_string(), value.to_string())),
            _ => {}
        }
    }
    for header in STORED_HEADERS {
        if let Some(value) = attribute(header).and_then(|attribute| attributes.get(&attribute)) {
            head.headers.push((header, value.to_string()));
        }
    }
    head.user_metadata.sort();
}
