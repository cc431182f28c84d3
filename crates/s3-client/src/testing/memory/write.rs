//! Writing to a bucket in memory, by the rules of S3.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Content, DEFAULT_CONTENT_TYPE, ETags, MemoryBucket, StoredObject, now};
use crate::bucket::{
    CompleteUpload, CopyPart, CopyRequest, CreateUpload, MAX_DELETE_KEYS, MAX_METADATA_BYTES,
    MAX_OBJECT_BYTES, MAX_PART_BYTES, MAX_PARTS, MAX_PUT_BYTES, ObjectAttributes, Part, Payload, PutRequest,
    RenameRequest, StorageClass, Timestamp, UploadId, UploadMarker, UploadMeta, UploadPage, UploadPart,
    WriteCondition, Written, unsupported,
};
use crate::checksum::{Checksum, ChecksumAlgorithm, multipart_etag};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ETag, KeyPrefix, ObjectKey};

/// Uploads in one page of their listing (API reference, ListMultipartUploads).
const MAX_PAGE_UPLOADS: usize = 1000;

type Objects = BTreeMap<ObjectKey, StoredObject>;

/// The uploads under way, by key and then in the order they were begun.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    open: Mutex<BTreeMap<(ObjectKey, UploadId), Upload>>,
    begun: AtomicU64,
}

#[derive(Debug)]
struct Upload {
    attributes: ObjectAttributes,
    storage_class: StorageClass,
    initiated: Timestamp,
    parts: BTreeMap<u16, StoredPart>,
}

#[derive(Debug, Clone)]
struct StoredPart {
    content: Content,
    etag: ETag,
    /// That of gigabytes is not computed.
    checksum: Option<Checksum>,
}

impl Uploads {
    pub(super) fn create(&self, request: CreateUpload) -> UploadId {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let id = UploadId::new(format!("upload-{number:08}"));
        let CreateUpload { key, attributes, storage_class } = request;
        let storage_class = storage_class.unwrap_or_default();
        let upload = Upload { attributes, storage_class, initiated: now(), parts: BTreeMap::new() };
        self.open.lock().insert((key, id.clone()), upload);
        id
    }

    pub(super) fn contains(&self, key: &ObjectKey, upload: &UploadId) -> bool {
        self.open.lock().contains_key(&(key.clone(), upload.clone()))
    }

    pub(super) fn abort(&self, key: &ObjectKey, upload: &UploadId) {
        self.open.lock().remove(&(key.clone(), upload.clone()));
    }

    pub(super) fn page(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> UploadPage {
        let open = self.open.lock();
        let after = marker.and_then(|m| Some((ObjectKey::new(m.key).ok()?, UploadId::new(m.upload))));
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = UploadPage::default();
        for ((key, id), upload) in open.range((from, Bound::Unbounded)) {
            if !key.as_str().starts_with(prefix.as_str()) {
                continue;
            }
            if let Some(last) = page.uploads.last().filter(|_| page.uploads.len() == MAX_PAGE_UPLOADS) {
                let (key, upload) = (last.key.as_str().to_owned(), last.upload.as_str().to_owned());
                page.next = Some(UploadMarker { key, upload });
                break;
            }
            page.uploads.push(UploadMeta {
                key: key.clone(),
                upload: id.clone(),
                initiated: upload.initiated,
            });
        }
        page
    }

    /// Adds a part; whether there is such an upload.
    fn add(&self, key: &ObjectKey, upload: &UploadId, number: u16, part: StoredPart) -> bool {
        match self.open.lock().get_mut(&(key.clone(), upload.clone())) {
            Some(upload) => _ = upload.parts.insert(number, part),
            None => return false,
        }
        true
    }
}

impl MemoryBucket {
    pub(super) fn put_object(&self, request: PutRequest) -> Result<Written> {
        let PutRequest { key, body, attributes, condition } = request;
        if body.len() > MAX_PUT_BYTES {
            return Err(self.too_large("put", &key));
        }
        self.check_traits("put", &key, &condition)?;
        self.check_metadata("put", &key, &attributes)?;
        let (content, checksum) = received(&body);
        let etag = self.etag(&content);
        let mut stored = StoredObject::new(content, etag.clone());
        stored.set_attributes(attributes);
        stored.crc64nvme = Some(checksum.to_string());
        let mut objects = self.objects.write();
        self.check(&objects, "put", &key, &condition)?;
        objects.insert(key, stored);
        Ok(Written { etag: Some(etag), version_id: None })
    }

    pub(super) fn store_part(&self, request: UploadPart) -> Result<Part> {
        let UploadPart { key, upload, number, body } = request;
        if body.len() > MAX_PART_BYTES {
            return Err(self.too_large("upload part", &key));
        }
        let (content, checksum) = received(&body);
        let part = StoredPart { etag: self.etag(&content), content, checksum: Some(checksum) };
        self.add_part("upload part", &key, &upload, number, part)
    }

    pub(super) fn store_copied_part(&self, request: &CopyPart) -> Result<Part> {
        const OPERATION: &str = "copy part";
        let CopyPart { key, upload, number, source, source_range, source_if_match } = request;
        if !self.traits.copy_ranges {
            return Err(unsupported(&self.identity, OPERATION, key.as_str()));
        }
        let stored = self.source(OPERATION, source, source_if_match.as_ref())?;
        let all = ByteRange::new(0, stored.content.len());
        let inside = !source_range.is_empty() && source_range.intersect(all) == *source_range;
        if !inside || (*source_range != all && all.len() <= self.traits.min_part_bytes) {
            let message =
                format!("range {source_range} is not valid for a source object of {} bytes", all.len());
            return Err(self.invalid(OPERATION, key, "InvalidRequest").with_message(message));
        }
        if source_range.len() > MAX_PART_BYTES {
            return Err(self.too_large(OPERATION, key));
        }
        let content = Content::join([(&stored.content, *source_range)]);
        let part = StoredPart { etag: self.etag(&content), checksum: content.crc64nvme(), content };
        self.add_part(OPERATION, key, upload, *number, part)
    }

    pub(super) fn join_parts(&self, request: &CompleteUpload) -> Result<Written> {
        const OPERATION: &str = "complete upload";
        let CompleteUpload { key, upload: id, parts, condition } = request;
        self.check_traits(OPERATION, key, condition)?;
        // In this order everywhere both are held.
        let mut open = self.uploads.open.lock();
        let mut objects = self.objects.write();
        let position = (key.clone(), id.clone());
        let upload = open.get(&position).ok_or_else(|| self.no_such_upload(OPERATION, key))?;
        let stored = self.chosen(upload, key, parts)?;
        self.check(&objects, OPERATION, key, condition)?;
        let whole = |part: &StoredPart| ByteRange::new(0, part.content.len());
        let content = Content::join(stored.iter().map(|part| (&part.content, whole(part))));
        if content.len() > MAX_OBJECT_BYTES {
            return Err(self.too_large(OPERATION, key));
        }
        let etag = match self.etags {
            ETags::Md5 => multipart_etag(stored.iter().map(|part| &part.etag)).expect("the parts have MD5s"),
            ETags::Opaque => opaque_multipart_etag(&content, stored.len()),
        };
        let checksum = stored[1..]
            .iter()
            .try_fold(stored[0].checksum, |sum, part| Some(sum?.then(part.checksum?, part.content.len())))
            .flatten();
        let mut object = StoredObject::new(content, etag.clone());
        object.head.meta.last_modified = upload.initiated;
        object.head.meta.storage_class = upload.storage_class;
        object.set_attributes(upload.attributes.clone());
        object.crc64nvme = checksum.map(|sum| sum.to_string());
        objects.insert(key.clone(), object);
        open.remove(&position);
        Ok(Written { etag: Some(etag), version_id: None })
    }

    pub(super) fn delete_objects(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        if let Some(key) = keys.get(MAX_DELETE_KEYS) {
            return Err(self.invalid("delete many", key, "MalformedXML"));
        }
        let mut objects = self.objects.write();
        keys.iter().for_each(|key| _ = objects.remove(key));
        Ok(Vec::new())
    }

    pub(super) async fn copy_object(&self, request: CopyRequest) -> Result<Written> {
        const OPERATION: &str = "copy";
        let CopyRequest { source, source_if_match, target, attributes, storage_class, condition } = request;
        self.check_traits(OPERATION, &target, &condition)?;
        let mut stored = self.source(OPERATION, &source, source_if_match.as_ref())?;
        if stored.content.len() > self.traits.max_copy_bytes {
            return Err(self.too_large(OPERATION, &target));
        }
        match &attributes {
            None if source == target => return Err(self.invalid(OPERATION, &target, "InvalidRequest")),
            None => {}
            Some(attributes) => self.check_metadata(OPERATION, &target, attributes)?,
        }
        let etag = self.etag(&stored.content);
        stored.head.meta.etag = Some(etag.clone());
        stored.head.meta.last_modified = now();
        stored.head.meta.storage_class = storage_class.unwrap_or_default();
        if let Some(attributes) = attributes {
            stored.set_attributes(attributes);
        }
        if !self.copy_time.is_zero() {
            tokio::time::sleep(self.copy_time).await;
        }
        let mut objects = self.objects.write();
        self.check(&objects, OPERATION, &target, &condition)?;
        objects.insert(target, stored);
        Ok(Written { etag: Some(etag), version_id: None })
    }

    pub(super) fn rename_object(&self, request: &RenameRequest) -> Result<()> {
        const OPERATION: &str = "rename";
        let RenameRequest { source, source_if_match, target, condition } = request;
        if !self.traits.rename {
            return Err(unsupported(&self.identity, OPERATION, target.as_str()));
        }
        let mut objects = self.objects.write();
        let stored = objects.get(source).ok_or_else(|| self.error(ErrorKind::NotFound, OPERATION, source))?;
        if source_if_match.is_some() && *source_if_match != stored.head.meta.etag {
            return Err(self.precondition(OPERATION, source));
        }
        self.check(&objects, OPERATION, target, condition)?;
        if let Some(stored) = objects.remove(source) {
            objects.insert(target.clone(), stored);
        }
        Ok(())
    }

    fn add_part(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        upload: &UploadId,
        number: u16,
        part: StoredPart,
    ) -> Result<Part> {
        if !(1..=MAX_PARTS).contains(&number) {
            return Err(self.invalid(operation, key, "InvalidArgument"));
        }
        let told =
            Part { number, etag: part.etag.clone(), size: part.content.len(), checksum: part.checksum };
        if self.uploads.add(key, upload, number, part) {
            Ok(told)
        } else {
            Err(self.no_such_upload(operation, key))
        }
    }

    /// The parts that make the object.
    fn chosen(&self, upload: &Upload, key: &ObjectKey, parts: &[Part]) -> Result<Vec<StoredPart>> {
        let error = |code| self.invalid("complete upload", key, code);
        if parts.is_empty() {
            return Err(error("MalformedXML"));
        }
        if !parts.is_sorted_by(|a, b| a.number < b.number) {
            return Err(error("InvalidPartOrder"));
        }
        let mut chosen = Vec::with_capacity(parts.len());
        for part in parts {
            let stored = upload.parts.get(&part.number).filter(|stored| stored.etag == part.etag);
            chosen.push(stored.cloned().ok_or_else(|| error("InvalidPart"))?);
        }
        let small = |part: &StoredPart| part.content.len() < self.traits.min_part_bytes;
        if chosen[..chosen.len() - 1].iter().any(small) {
            return Err(error("EntityTooSmall").with_message("a part that is not the last is too small"));
        }
        Ok(chosen)
    }

    fn source(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        if_match: Option<&ETag>,
    ) -> Result<StoredObject> {
        let stored = self.find(operation, key)?;
        if if_match.is_some() && if_match != stored.head.meta.etag.as_ref() {
            return Err(self.precondition(operation, key));
        }
        if stored.head.meta.storage_class.is_archive() && !stored.head.restored {
            return Err(self
                .error(ErrorKind::Archived, operation, key)
                .with_status(403)
                .with_code("InvalidObjectState"));
        }
        Ok(stored)
    }

    fn check_traits(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        condition: &WriteCondition,
    ) -> Result<()> {
        if *condition == WriteCondition::Any || self.traits.conditional_writes {
            return Ok(());
        }
        Err(unsupported(&self.identity, operation, key.as_str()))
    }

    pub(super) fn check_metadata(
        &self,
        operation: &'static str,
        key: &ObjectKey,
        attributes: &ObjectAttributes,
    ) -> Result<()> {
        let lengths = attributes.user_metadata.iter().map(|(name, value)| name.len() + value.len());
        match lengths.sum::<usize>() <= MAX_METADATA_BYTES {
            true => Ok(()),
            false => Err(self
                .error(ErrorKind::NoSpace, operation, key)
                .with_status(400)
                .with_code("MetadataTooLarge")),
        }
    }

    fn check(
        &self,
        objects: &Objects,
        operation: &'static str,
        key: &ObjectKey,
        condition: &WriteCondition,
    ) -> Result<()> {
        let current = objects.get(key).map(|stored| &stored.head.meta.etag);
        let holds = match condition {
            WriteCondition::Any => true,
            WriteCondition::Absent => current.is_none(),
            WriteCondition::Matches(etag) => current.is_some_and(|current| current.as_ref() == Some(etag)),
        };
        if holds { Ok(()) } else { Err(self.precondition(operation, key)) }
    }

    fn precondition(&self, operation: &'static str, key: &ObjectKey) -> Error {
        self.error(ErrorKind::PreconditionFailed, operation, key)
            .with_status(412)
            .with_code("PreconditionFailed")
    }

    fn no_such_upload(&self, operation: &'static str, key: &ObjectKey) -> Error {
        self.error(ErrorKind::NoSuchUpload, operation, key).with_status(404).with_code("NoSuchUpload")
    }

    fn too_large(&self, operation: &'static str, key: &ObjectKey) -> Error {
        self.error(ErrorKind::TooLarge, operation, key).with_status(400).with_code("EntityTooLarge")
    }

    fn invalid(&self, operation: &'static str, key: &ObjectKey, code: &str) -> Error {
        self.error(ErrorKind::Invalid, operation, key).with_status(400).with_code(code)
    }
}

impl StoredObject {
    fn set_attributes(&mut self, attributes: ObjectAttributes) {
        let content_type = attributes.content_type.unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned());
        self.head.content_type = Some(content_type);
        self.head.user_metadata = attributes.user_metadata;
        self.head.headers = attributes.headers;
    }
}

/// A copy of the bytes of a request: those of the caller may be a buffer that it waits to use again.
fn received(body: &Payload) -> (Content, Checksum) {
    let checksum = Checksum::of(ChecksumAlgorithm::Crc64Nvme, body.pieces());
    let bytes = body.to_bytes();
    body.note_sent(body.len());
    (Content::Bytes(bytes), checksum)
}

fn opaque_multipart_etag(content: &Content, parts: usize) -> ETag {
    let text = content.opaque_etag().to_string();
    ETag::new(&format!("{}-{parts}\"", text.trim_end_matches('"')))
}
