//! What writes: translated between the protocol and the bucket in memory, which knows the rules.

use bytes::Bytes;
use futures::TryStreamExt;
use s3s::dto::{self, ETagCondition};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use sluicefs_s3_client::{
    Bucket, ByteRange, Checksum, ChecksumAlgorithm, CompleteUpload, CopyPart, CopyRequest, CreateUpload,
    ETag, Error, ErrorKind, KeyPrefix, ObjectAttributes, ObjectKey, Part, Payload, PutRequest, StorageClass,
    UploadId, UploadMarker, UploadPart, WriteCondition, Written,
};

use super::{Store, full_object, last_modified};
use crate::names::{form_decode, form_encode};

/// What is stored besides bytes, of inputs that are each of a type of its own.
macro_rules! attributes {
    ($input:ident) => {{
        let headers = [
            ("cache-control", $input.cache_control),
            ("content-disposition", $input.content_disposition),
            ("content-encoding", $input.content_encoding),
            ("content-language", $input.content_language),
        ];
        ObjectAttributes {
            content_type: $input.content_type,
            user_metadata: user_metadata($input.metadata),
            headers: headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        }
    }};
}

impl Store {
    pub(super) async fn put(&self, input: dto::PutObjectInput) -> S3Result<dto::PutObjectOutput> {
        let bucket = self.bucket(&input.bucket)?;
        let key = key(&input.key)?;
        self.check_target(&input.bucket, &input.key, input.if_match.as_ref())?;
        let body = received(input.body).await?;
        let checksum =
            verified(&body, input.checksum_crc32c.as_deref(), input.checksum_crc64nvme.as_deref())?;
        let request = PutRequest {
            key,
            body,
            attributes: attributes!(input),
            condition: condition(input.if_match.as_ref(), input.if_none_match.as_ref()),
        };
        let written = Bucket::put(bucket, request).await.map_err(to_s3)?;
        if let Some(class) = input.storage_class {
            bucket.edit(&input.key, |head| head.meta.storage_class = StorageClass::parse(class.as_str()));
        }
        Ok(dto::PutObjectOutput {
            e_tag: to_etag(&written),
            checksum_crc32c: checksum.crc32c,
            checksum_crc64nvme: checksum.crc64nvme,
            ..Default::default()
        })
    }

    pub(super) async fn create_upload(
        &self,
        input: dto::CreateMultipartUploadInput,
    ) -> S3Result<dto::CreateMultipartUploadOutput> {
        let storage_class = input.storage_class.map(|class| StorageClass::parse(class.as_str()));
        let request = CreateUpload { key: key(&input.key)?, attributes: attributes!(input), storage_class };
        let upload = self.bucket(&input.bucket)?.create_upload(request).await.map_err(to_s3)?;
        Ok(dto::CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(upload.as_str().to_owned()),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: input.checksum_type,
            ..Default::default()
        })
    }

    pub(super) async fn upload_part(&self, input: dto::UploadPartInput) -> S3Result<dto::UploadPartOutput> {
        let body = received(input.body).await?;
        let checksum =
            verified(&body, input.checksum_crc32c.as_deref(), input.checksum_crc64nvme.as_deref())?;
        let request = UploadPart {
            key: key(&input.key)?,
            upload: UploadId::new(input.upload_id),
            number: number(input.part_number)?,
            body,
        };
        let part = self.bucket(&input.bucket)?.upload_part(request).await.map_err(to_s3)?;
        Ok(dto::UploadPartOutput {
            e_tag: wire_etag(&part.etag),
            checksum_crc32c: checksum.crc32c,
            checksum_crc64nvme: checksum.crc64nvme,
            ..Default::default()
        })
    }

    pub(super) async fn copy_part(
        &self,
        input: dto::UploadPartCopyInput,
    ) -> S3Result<dto::UploadPartCopyOutput> {
        let bucket = self.bucket(&input.bucket)?;
        let source = copy_source(&input.copy_source, &input.bucket)?;
        let size = self.object(&input.bucket, source.as_str())?.content.len();
        let range = match &input.copy_source_range {
            None => ByteRange::new(0, size),
            Some(text) => copy_range(text).ok_or_else(|| s3_error!(InvalidArgument, "copy-source-range"))?,
        };
        let request = CopyPart {
            key: key(&input.key)?,
            upload: UploadId::new(input.upload_id),
            number: number(input.part_number)?,
            source,
            source_range: range,
            source_if_match: input.copy_source_if_match.as_ref().and_then(own_etag),
        };
        let part = bucket.copy_part(request).await.map_err(to_s3)?;
        let result = dto::CopyPartResult {
            e_tag: wire_etag(&part.etag),
            checksum_crc64nvme: part.checksum.map(|sum| sum.to_string()),
            ..Default::default()
        };
        Ok(dto::UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    pub(super) async fn complete_upload(
        &self,
        input: dto::CompleteMultipartUploadInput,
    ) -> S3Result<dto::CompleteMultipartUploadOutput> {
        let bucket = self.bucket(&input.bucket)?;
        self.check_target(&input.bucket, &input.key, input.if_match.as_ref())?;
        let listed = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let request = CompleteUpload {
            key: key(&input.key)?,
            upload: UploadId::new(input.upload_id),
            parts: listed.iter().map(listed_part).collect::<S3Result<_>>()?,
            condition: condition(input.if_match.as_ref(), input.if_none_match.as_ref()),
        };
        let written = bucket.complete_upload(request).await.map_err(to_s3)?;
        let object = self.object(&input.bucket, &input.key)?;
        let sizes_agree =
            input.mpu_object_size.is_none_or(|size| u64::try_from(size) == Ok(object.content.len()));
        let sums_agree = input.checksum_crc64nvme.is_none() || input.checksum_crc64nvme == object.crc64nvme;
        if !sizes_agree || !sums_agree {
            // The store that does it right looks first. Here the object goes again, and the upload with it.
            bucket.remove(&input.key);
            return Err(s3_error!(BadDigest, "the object is not what the parts were said to come to"));
        }
        Ok(dto::CompleteMultipartUploadOutput {
            e_tag: to_etag(&written),
            checksum_type: object.crc64nvme.as_ref().map(|_| full_object()),
            checksum_crc64nvme: object.crc64nvme,
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..Default::default()
        })
    }

    pub(super) async fn abort_upload(&self, input: dto::AbortMultipartUploadInput) -> S3Result<()> {
        let upload = UploadId::new(input.upload_id);
        let bucket = self.bucket(&input.bucket)?;
        if !bucket.has_upload(&key(&input.key)?, &upload) {
            return Err(s3_error!(NoSuchUpload));
        }
        bucket.abort_upload(&key(&input.key)?, &upload).await.map_err(to_s3)
    }

    pub(super) async fn list_uploads(
        &self,
        input: dto::ListMultipartUploadsInput,
    ) -> S3Result<dto::ListMultipartUploadsOutput> {
        let encoded = input.encoding_type.as_ref().is_some_and(|e| e.as_str() == dto::EncodingType::URL);
        let encode = |name: &str| if encoded { form_encode(name) } else { name.to_owned() };
        let prefix = KeyPrefix::new(input.prefix.clone().unwrap_or_default());
        let marker = match (&input.key_marker, &input.upload_id_marker) {
            (Some(key), Some(upload)) if !key.is_empty() => {
                Some(UploadMarker::new(form_decode(key), upload.as_str()))
            }
            _ => None,
        };
        let page = self.bucket(&input.bucket)?.list_uploads(&prefix, marker).await.map_err(to_s3)?;
        let upload = |meta: &sluicefs_s3_client::UploadMeta| dto::MultipartUpload {
            key: Some(encode(meta.key.as_str())),
            upload_id: Some(meta.upload.as_str().to_owned()),
            initiated: Some(super::timestamp(meta.initiated)),
            ..Default::default()
        };
        let next = page.next.as_ref();
        Ok(dto::ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            encoding_type: input.encoding_type,
            is_truncated: Some(next.is_some()),
            next_key_marker: next.map(|marker| encode(marker.key())),
            next_upload_id_marker: next.map(|marker| marker.upload().to_owned()),
            prefix: input.prefix.as_deref().map(encode),
            uploads: Some(page.uploads.iter().map(upload).collect()),
            ..Default::default()
        })
    }

    pub(super) async fn delete_many(
        &self,
        input: dto::DeleteObjectsInput,
    ) -> S3Result<dto::DeleteObjectsOutput> {
        let bucket = self.bucket(&input.bucket)?;
        let names: Vec<String> = input.delete.objects.into_iter().map(|object| object.key).collect();
        let keys = names.iter().map(|name| key(name)).collect::<S3Result<Vec<_>>>()?;
        bucket.delete_many(&keys).await.map_err(to_s3)?;
        let deleted = |name| dto::DeletedObject { key: Some(name), ..Default::default() };
        let quiet = input.delete.quiet == Some(true);
        let deleted = (!quiet).then(|| names.into_iter().map(deleted).collect());
        Ok(dto::DeleteObjectsOutput { deleted, ..Default::default() })
    }

    /// `headers` has the conditions of the target, which the protocol's crate does not know.
    pub(super) async fn copy(
        &self,
        input: dto::CopyObjectInput,
        headers: &hyper::HeaderMap,
    ) -> S3Result<dto::CopyObjectOutput> {
        let bucket = self.bucket(&input.bucket)?;
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let condition = match (header("if-match"), header("if-none-match")) {
            (Some(etag), _) => WriteCondition::Matches(ETag::new(etag)),
            (None, Some("*")) => WriteCondition::Absent,
            _ => WriteCondition::Any,
        };
        let replace =
            input.metadata_directive.as_ref().is_some_and(|directive| directive.as_str() == "REPLACE");
        let request = CopyRequest {
            source: copy_source(&input.copy_source, &input.bucket)?,
            source_if_match: input.copy_source_if_match.as_ref().and_then(own_etag),
            target: key(&input.key)?,
            storage_class: input.storage_class.map(|class| StorageClass::parse(class.as_str())),
            attributes: replace.then(|| attributes!(input)),
            condition,
        };
        let written = bucket.copy(request).await.map_err(to_s3)?;
        let object = self.object(&input.bucket, &input.key)?;
        let result = dto::CopyObjectResult {
            e_tag: to_etag(&written),
            last_modified: Some(last_modified(&object.head.meta)),
            checksum_crc64nvme: object.crc64nvme,
            ..Default::default()
        };
        Ok(dto::CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    /// S3 tells a missing object from one that does not match.
    fn check_target(&self, bucket: &str, key: &str, if_match: Option<&ETagCondition>) -> S3Result<()> {
        if if_match.is_some() {
            self.object(bucket, key)?;
        }
        Ok(())
    }
}

fn key(text: &str) -> S3Result<ObjectKey> {
    ObjectKey::new(text).map_err(|_| S3Error::new(S3ErrorCode::KeyTooLongError))
}

fn number(part: i32) -> S3Result<u16> {
    u16::try_from(part).map_err(|_| s3_error!(InvalidArgument, "part number"))
}

fn copy_source(source: &dto::CopySource, bucket: &str) -> S3Result<ObjectKey> {
    match source {
        dto::CopySource::Bucket { bucket: from, key: name, .. } if **from == *bucket => key(name),
        _ => Err(s3_error!(NotImplemented, "copies stay within their bucket")),
    }
}

/// `bytes=0-9`
fn copy_range(text: &str) -> Option<ByteRange> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| ByteRange::new(first, last + 1))
}

fn user_metadata(metadata: Option<dto::Metadata>) -> Vec<(String, String)> {
    let mut user_metadata: Vec<_> = metadata.into_iter().flatten().collect();
    user_metadata.sort();
    user_metadata
}

fn condition(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> WriteCondition {
    match (if_match.and_then(own_etag), if_none_match) {
        (Some(etag), _) => WriteCondition::Matches(etag),
        (None, Some(condition)) if condition.is_any() => WriteCondition::Absent,
        _ => WriteCondition::Any,
    }
}

fn own_etag(condition: &ETagCondition) -> Option<ETag> {
    condition.as_etag().map(from_wire)
}

fn from_wire(etag: &dto::ETag) -> ETag {
    ETag::new(&format!("\"{}\"", etag.value()))
}

fn listed_part(part: &dto::CompletedPart) -> S3Result<Part> {
    let malformed = || s3_error!(MalformedXML);
    Ok(Part {
        number: number(part.part_number.ok_or_else(malformed)?)?,
        etag: from_wire(part.e_tag.as_ref().ok_or_else(malformed)?),
        size: 0,
        checksum: None,
    })
}

fn to_etag(written: &Written) -> Option<dto::ETag> {
    wire_etag(written.etag.as_ref()?)
}

fn wire_etag(etag: &ETag) -> Option<dto::ETag> {
    dto::ETag::parse_http_header(etag.to_string().as_bytes()).ok()
}

/// All of a request's body.
async fn received(body: Option<dto::StreamingBlob>) -> S3Result<Payload> {
    // An empty one may be left out.
    let Some(body) = body else { return Ok(Payload::default()) };
    let pieces: Result<Vec<Bytes>, _> = body.try_collect().await;
    let pieces = pieces.map_err(|error| S3Error::with_source(S3ErrorCode::IncompleteBody, error))?;
    Ok(Payload::from(pieces))
}

/// Checksums that were sent and are right.
struct Verified {
    crc32c: Option<String>,
    crc64nvme: Option<String>,
}

fn verified(body: &Payload, crc32c: Option<&str>, crc64nvme: Option<&str>) -> S3Result<Verified> {
    let verify = |algorithm, text: Option<&str>| {
        let Some(text) = text else { return Ok(None) };
        if Checksum::parse(algorithm, text) == Some(Checksum::of(algorithm, body.pieces())) {
            Ok(Some(text.to_owned()))
        } else {
            Err(s3_error!(BadDigest, "the checksum you specified did not match what was received"))
        }
    };
    Ok(Verified {
        crc32c: verify(ChecksumAlgorithm::Crc32c, crc32c)?,
        crc64nvme: verify(ChecksumAlgorithm::Crc64Nvme, crc64nvme)?,
    })
}

/// The error as S3 would have it.
pub(crate) fn to_s3(error: Error) -> S3Error {
    let code = match (error.code(), error.kind()) {
        (Some(code), _) => S3ErrorCode::from_bytes(code.as_bytes()),
        (None, ErrorKind::NotFound) => Some(S3ErrorCode::NoSuchKey),
        (None, ErrorKind::NoSuchUpload) => Some(S3ErrorCode::NoSuchUpload),
        (None, ErrorKind::PreconditionFailed) => Some(S3ErrorCode::PreconditionFailed),
        (None, ErrorKind::Unsupported) => Some(S3ErrorCode::NotImplemented),
        (None, ErrorKind::Invalid) => Some(S3ErrorCode::InvalidRequest),
        (None, _) => None,
    };
    match code {
        Some(code) => S3Error::with_message(code, error.to_string()),
        None => S3Error::internal_error(error),
    }
}
