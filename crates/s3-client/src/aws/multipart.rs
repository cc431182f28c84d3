//! Uploads in parts: CreateMultipartUpload, UploadPart, UploadPartCopy, CompleteMultipartUpload, AbortMultipartUpload and
//! ListMultipartUploads.
//!
//! With CRC-64/NVME the checksum of the object is combined from those of its parts and sent with the completion, so that the store
//! verifies and keeps one of the whole. CRC-32C goes along with each part alone.

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::types::{
    ChecksumAlgorithm as SdkAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, EncodingType,
};

use super::copy::copy_source;
use super::fields::{copying, with_key, with_owner};
use super::head::timestamp;
use super::list::decode_name;
use super::put::named;
use super::quiet::AnswerLimit;
use super::stored::{ChecksumHeaders, conditions, metadata};
use super::watch::WatchAnswer;
use super::without_key::WithoutKey;
use super::{AwsBucket, Sent, Session, send_body};
use crate::bucket::{
    CompleteUpload, CopyPart, CreateUpload, Part, UploadId, UploadMarker, UploadMeta, UploadPage, UploadPart,
    Written,
};
use crate::checksum::{Checksum, ChecksumAlgorithm};
use crate::config::UploadChecksums;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ETag, KeyPrefix, ObjectKey};

impl AwsBucket {
    pub(super) async fn create_upload_once(
        &self,
        session: &Session,
        request: &CreateUpload,
    ) -> Result<UploadId> {
        const OPERATION: &str = "create upload";
        let settings = &self.settings;
        let (algorithm, kind) = match settings.checksums {
            UploadChecksums::Crc64Nvme => (Some(SdkAlgorithm::Crc64Nvme), Some(ChecksumType::FullObject)),
            UploadChecksums::Crc32c => (Some(SdkAlgorithm::Crc32C), None),
            UploadChecksums::Off => (None, None),
        };
        let call = with_key!(settings, session.client.create_multipart_upload())
            .key(request.key.as_str())
            .set_content_type(request.attributes.content_type.clone())
            .set_metadata(metadata(&request.attributes))
            .set_checksum_algorithm(algorithm)
            .set_checksum_type(kind)
            .customize()
            .interceptor(settings.stored_with.and(&request.attributes).in_class(request.storage_class))
            .interceptor(WatchAnswer::named("InitiateMultipartUploadResult"))
            .interceptor(WithoutKey);
        let output = call.send().await.sent(OPERATION, session, self);
        let output = output.map_err(|error| settings.checksums.explain(error))?;
        match output.upload_id() {
            Some(id) if !id.is_empty() => Ok(UploadId::new(id)),
            _ => Err(Error::new(ErrorKind::Corrupt, OPERATION).with_message("the answer names no upload")),
        }
    }

    pub(super) async fn upload_part_once(&self, session: &Session, request: &UploadPart) -> Result<Part> {
        const OPERATION: &str = "upload part";
        let settings = &self.settings;
        let sum = settings.checksums.of(&request.body);
        let checksum = ChecksumHeaders::of(sum);
        let call = with_key!(settings, session.sending.upload_part())
            .key(request.key.as_str())
            .upload_id(request.upload.as_str())
            .part_number(i32::from(request.number))
            .body(send_body::byte_stream(&request.body))
            .set_checksum_crc32_c(checksum.crc32c.clone())
            .set_checksum_crc64_nvme(checksum.crc64nvme.clone())
            .customize()
            .disable_payload_signing();
        let output = call.send().await.sent(OPERATION, session, self);
        let output = output.map_err(|error| settings.checksums.explain(error))?;
        checksum.check(OPERATION, output.checksum_crc32_c(), output.checksum_crc64_nvme())?;
        part(OPERATION, request.number, request.body.len(), output.e_tag(), sum)
    }

    pub(super) async fn copy_part_once(&self, session: &Session, request: &CopyPart) -> Result<Part> {
        const OPERATION: &str = "copy part";
        let settings = &self.settings;
        let range = request.source_range;
        if range.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, OPERATION).with_message("the range is empty"));
        }
        let call = copying!(settings, session.finishing.upload_part_copy())
            .key(request.key.as_str())
            .upload_id(request.upload.as_str())
            .part_number(i32::from(request.number))
            .copy_source(copy_source(&settings.bucket, &request.source))
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1))
            .set_copy_source_if_match(request.source_if_match.as_ref().map(ETag::to_string))
            .customize()
            .interceptor(AnswerLimit)
            .interceptor(WatchAnswer::named("CopyPartResult"));
        let output = call.send().await.sent(OPERATION, session, self)?;
        let result = output.copy_part_result();
        let stored = |algorithm| {
            let text = match algorithm {
                ChecksumAlgorithm::Crc32c => result?.checksum_crc32_c(),
                ChecksumAlgorithm::Crc64Nvme => result?.checksum_crc64_nvme(),
            };
            Checksum::parse(algorithm, text?)
        };
        let checksum = settings.checksums.algorithm().and_then(stored);
        part(OPERATION, request.number, range.len(), result.and_then(|result| result.e_tag()), checksum)
    }

    pub(super) async fn complete_upload_once(
        &self,
        session: &Session,
        request: &CompleteUpload,
    ) -> Result<Written> {
        const OPERATION: &str = "complete upload";
        let settings = &self.settings;
        let whole = Part::joined_checksum(&request.parts)
            .filter(|_| settings.checksums == UploadChecksums::Crc64Nvme);
        let checksum = ChecksumHeaders::of(whole);
        let size = request.parts.iter().map(|part| part.size).sum::<u64>();
        let (if_match, if_none_match) = conditions(&request.condition);
        let parts = request.parts.iter().map(completed_part).collect();
        let call = with_key!(settings, session.finishing.complete_multipart_upload())
            .key(request.key.as_str())
            .upload_id(request.upload.as_str())
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .set_checksum_type(whole.map(|_| ChecksumType::FullObject))
            .set_checksum_crc64_nvme(checksum.crc64nvme.clone())
            .set_mpu_object_size(whole.and_then(|_| i64::try_from(size).ok()))
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .customize()
            .interceptor(AnswerLimit)
            .interceptor(WatchAnswer::named("CompleteMultipartUploadResult"))
            .interceptor(WithoutKey);
        let output = call.send().await.sent(OPERATION, session, self);
        let output = output.map_err(|error| settings.checksums.explain(error))?;
        checksum.check(OPERATION, None, output.checksum_crc64_nvme())?;
        Ok(Written { etag: named(OPERATION, output.e_tag())?, version_id: output.version_id })
    }

    pub(super) async fn abort_upload_once(
        &self,
        session: &Session,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> Result<()> {
        let call = with_owner!(self.settings, session.client.abort_multipart_upload())
            .key(key.as_str())
            .upload_id(upload.as_str());
        match call.send().await.sent("abort upload", session, self) {
            Err(error) if error.kind() == ErrorKind::NoSuchUpload => Ok(()),
            result => result.map(drop),
        }
    }

    pub(super) async fn list_uploads_once(
        &self,
        session: &Session,
        prefix: &KeyPrefix,
        marker: Option<&UploadMarker>,
    ) -> Result<UploadPage> {
        let call = with_owner!(self.settings, session.client.list_multipart_uploads())
            .encoding_type(EncodingType::Url)
            .set_prefix(Some(prefix.as_str().to_owned()).filter(|prefix| !prefix.is_empty()))
            .set_key_marker(marker.map(|marker| marker.key.clone()))
            .set_upload_id_marker(marker.map(|marker| marker.upload.clone()))
            .customize()
            .interceptor(WatchAnswer::named("ListMultipartUploadsResult"));
        let output = call.send().await.sent("list uploads", session, self)?;
        to_page(&output, prefix)
    }
}

fn part(
    operation: &'static str,
    number: u16,
    size: u64,
    etag: Option<&str>,
    checksum: Option<Checksum>,
) -> Result<Part> {
    let etag = named(operation, etag)?.expect("an answer without an ETag is an error");
    Ok(Part { number, etag, size, checksum })
}

fn completed_part(part: &Part) -> CompletedPart {
    let checksum = ChecksumHeaders::of(part.checksum);
    CompletedPart::builder()
        .part_number(i32::from(part.number))
        .e_tag(part.etag.to_string())
        .set_checksum_crc32_c(checksum.crc32c)
        .set_checksum_crc64_nvme(checksum.crc64nvme)
        .build()
}

fn to_page(output: &ListMultipartUploadsOutput, prefix: &KeyPrefix) -> Result<UploadPage> {
    let corrupt = |message: &str| Error::new(ErrorKind::Corrupt, "list uploads").with_message(message);
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let decode = |text: &str| if encoded { decode_name(text) } else { Some(text.to_owned()) };
    let mut page = UploadPage::default();
    for upload in output.uploads() {
        let (Some(name), Some(id)) = (upload.key(), upload.upload_id()) else {
            return Err(corrupt("an upload has no key or no id"));
        };
        let Some(key) = decode(name).and_then(|name| ObjectKey::new(name).ok()) else {
            tracing::warn!(
                name,
                "an upload's name is no legal key (UTF-8 of 1 to 1024 bytes) and is left out"
            );
            continue;
        };
        // Some servers ignore the prefix.
        if key.as_str().starts_with(prefix.as_str()) {
            let initiated = timestamp(upload.initiated());
            page.uploads.push(UploadMeta { key, upload: UploadId::new(id), initiated });
        }
    }
    if output.is_truncated() == Some(true) {
        let key = output.next_key_marker().and_then(decode).filter(|key| !key.is_empty());
        let upload = output.next_upload_id_marker().unwrap_or_default().to_owned();
        let key = key.ok_or_else(|| corrupt("the page is not the last but says nothing of the next"))?;
        page.next = Some(UploadMarker { key, upload });
    }
    Ok(page)
}
