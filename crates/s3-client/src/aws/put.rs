//! PutObject: the bytes with their checksum in a header, so that nothing is hashed twice and no trailer is needed.

use super::fields::with_key;
use super::stored::{ChecksumHeaders, conditions, metadata};
use super::{AwsBucket, Sent, Session, send_body};
use crate::bucket::{PutRequest, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::key::ETag;

const OPERATION: &str = "put";

impl AwsBucket {
    pub(super) async fn put_once(&self, session: &Session, request: &PutRequest) -> Result<Written> {
        let settings = &self.settings;
        let checksum = ChecksumHeaders::of(settings.checksums.of(&request.body));
        let (if_match, if_none_match) = conditions(&request.condition);
        let call = with_key!(settings, session.sending.put_object())
            .key(request.key.as_str())
            .body(send_body::byte_stream(&request.body))
            .set_content_type(request.attributes.content_type.clone())
            .set_metadata(metadata(&request.attributes))
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .set_checksum_crc32_c(checksum.crc32c.clone())
            .set_checksum_crc64_nvme(checksum.crc64nvme.clone())
            .customize()
            .disable_payload_signing()
            .interceptor(settings.stored_with.and(&request.attributes));
        let output = call.send().await.sent(OPERATION, session, self);
        let output = output.map_err(|error| settings.checksums.explain(error))?;
        checksum.check(OPERATION, output.checksum_crc32_c(), output.checksum_crc64_nvme())?;
        let etag = match output.e_tag() {
            None if request.is_directory_marker() => None,
            etag => named(OPERATION, etag)?,
        };
        Ok(Written { etag, version_id: output.version_id })
    }
}

/// The ETag of an answer. What writes objects names their version; an answer that does not is somebody else's.
pub(super) fn named(operation: &'static str, etag: Option<&str>) -> Result<Option<ETag>> {
    match etag.filter(|etag| !etag.is_empty()) {
        Some(etag) => Ok(Some(ETag::new(etag))),
        None => Err(Error::new(ErrorKind::Corrupt, operation)
            .with_message("the answer has no ETag; something between here and S3 may answer in its place")),
    }
}
