//! HeadObject.

use aws_sdk_s3::operation::head_object::builders::HeadObjectFluentBuilder;
use aws_sdk_s3::operation::head_object::{HeadObject, HeadObjectOutput};
use aws_sdk_s3::types;
use aws_smithy_async::time::TimeSource;
use aws_smithy_types::DateTime;

use super::fields::with_key;
use super::lean::{ChecksumMode, Lean, Wanted};
use super::{AwsBucket, Sent, Session};
use crate::bucket::{ObjectHead, ObjectMeta, STORED_HEADERS, StorageClass, Timestamp};
use crate::checksum::{ChecksumAlgorithm, StoredChecksum};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ETag, ObjectKey};

impl AwsBucket {
    pub(super) async fn head_once(&self, session: &Session, key: &ObjectKey) -> Result<ObjectHead> {
        to_head(self.head_with(session, &Wanted::new(key.as_str())).await?)
    }

    pub(super) async fn head_with_checksum_once(
        &self,
        session: &Session,
        key: &ObjectKey,
    ) -> Result<(ObjectHead, Option<StoredChecksum>)> {
        let wanted = Wanted { checksum: ChecksumMode::Ask, ..Wanted::new(key.as_str()) };
        let output = self.head_with(session, &wanted).await?;
        let crc64 = output.checksum_crc64_nvme().map(|text| (ChecksumAlgorithm::Crc64Nvme, text));
        let crc32 = output.checksum_crc32_c().map(|text| (ChecksumAlgorithm::Crc32c, text));
        let checksum = crc64.or(crc32).and_then(|(algorithm, text)| StoredChecksum::parse(algorithm, text));
        Ok((to_head(output)?, checksum))
    }

    async fn head_with(&self, session: &Session, wanted: &Wanted<'_>) -> Result<HeadObjectOutput> {
        match self.lean_head(session).await {
            Some(lean) => {
                let sent = lean.send(wanted, session.keys(), self.clock.now()).await;
                sent.sent("head", session, self).map(|(output, _status)| output)
            }
            None => self.sdk_head(session, wanted).send().await.sent("head", session, self),
        }
    }

    /// The short way of sending HEADs, if there is one over this connection.
    pub(super) async fn lean_head<'a>(&self, session: &'a Session) -> Option<&'a Lean<HeadObject>> {
        let call = |wanted: &Wanted<'_>, settings| {
            let call = self.sdk_head(session, wanted).customize();
            // It always fails: where it would have been sent, or before that.
            async { drop(call.config_override(settings).send().await) }
        };
        let learn = || Lean::learn(&self.template.http, session.keys(), self.clock.now(), call);
        session.connection.lean_head.get_or_init(learn).await.as_ref()
    }

    pub(super) fn sdk_head(&self, session: &Session, wanted: &Wanted<'_>) -> HeadObjectFluentBuilder {
        let ask = (wanted.checksum == ChecksumMode::Ask).then_some(types::ChecksumMode::Enabled);
        let call = with_key!(self.settings, session.client.head_object()).key(wanted.key);
        call.set_if_match(wanted.if_match.clone()).set_checksum_mode(ask)
    }
}

fn to_head(output: HeadObjectOutput) -> Result<ObjectHead> {
    let size = output.content_length().and_then(|len| u64::try_from(len).ok());
    let size = size.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "head").with_message("the answer has no Content-Length")
    })?;
    let meta = ObjectMeta {
        size,
        etag: output.e_tag().map(ETag::new),
        last_modified: timestamp(output.last_modified()),
        storage_class: storage_class(output.storage_class().map(|class| class.as_str())),
    };
    let encryption = match (output.server_side_encryption(), output.sse_customer_algorithm()) {
        (Some(kind), _) => Some(kind.as_str().to_owned()),
        (None, Some(_)) => Some("SSE-C".to_owned()),
        (None, None) => None,
    };
    let mut user_metadata: Vec<(String, String)> = output
        .metadata()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    user_metadata.sort();
    // A server that keeps this one took the framing of a request's body for something of the object.
    let encoding = output.content_encoding().filter(|encoding| !encoding.contains("aws-chunked"));
    let headers = [
        output.cache_control(),
        output.content_disposition(),
        encoding,
        output.content_language(),
        output.expires_string(),
        output.website_redirect_location(),
    ];
    let headers = STORED_HEADERS.into_iter().zip(headers);
    let headers = headers.filter_map(|(name, value)| Some((name, value?.to_owned()))).collect();
    Ok(ObjectHead {
        meta,
        content_type: output.content_type().map(str::to_owned),
        version_id: output.version_id().map(str::to_owned),
        encryption,
        restored: output.restore().is_some_and(is_restored),
        user_metadata,
        headers,
    })
}

/// `x-amz-restore: ongoing-request="false", expiry-date="..."` tells of a copy that can be read.
fn is_restored(restore: &str) -> bool {
    restore.contains("ongoing-request=\"false\"")
}

/// S3 leaves the class of STANDARD objects out.
pub(super) fn storage_class(name: Option<&str>) -> StorageClass {
    name.map_or(StorageClass::Standard, StorageClass::parse)
}

/// A server that tells no time gives the epoch.
pub(super) fn timestamp(time: Option<&DateTime>) -> Timestamp {
    time.map_or(Timestamp::default(), |t| Timestamp { secs: t.secs(), nanos: t.subsec_nanos() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restored_copies_are_told_from_running_restores() {
        assert!(is_restored("ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\""));
        assert!(!is_restored("ongoing-request=\"true\""));
    }
}
