//! CopyObject.

use aws_sdk_s3::types::{MetadataDirective, TaggingDirective};

use super::fields::copying;
use super::percent::encode_path;
use super::put::named;
use super::quiet::AnswerLimit;
use super::stored::{conditions, metadata};
use super::watch::WatchAnswer;
use super::{AwsBucket, Sent, Session};
use crate::bucket::{CopyRequest, Written};
use crate::error::Result;
use crate::key::{ETag, ObjectKey};

impl AwsBucket {
    pub(super) async fn copy_once(&self, session: &Session, request: &CopyRequest) -> Result<Written> {
        const OPERATION: &str = "copy";
        let settings = &self.settings;
        let (if_match, if_none_match) = conditions(&request.condition);
        let attributes = request.attributes.as_ref();
        let stored_with =
            attributes.map_or_else(|| settings.stored_with.clone(), |own| settings.stored_with.and(own));
        let call = copying!(settings, session.finishing.copy_object())
            .key(request.target.as_str())
            .copy_source(copy_source(&settings.bucket, &request.source))
            .set_copy_source_if_match(request.source_if_match.as_ref().map(ETag::to_string))
            .set_if_match(if_match)
            .set_if_none_match(if_none_match)
            .set_metadata_directive(attributes.map(|_| MetadataDirective::Replace))
            .set_content_type(attributes.and_then(|attributes| attributes.content_type.clone()))
            .set_metadata(attributes.and_then(metadata))
            .set_tagging_directive(settings.tags.then_some(TaggingDirective::Replace))
            .customize()
            .interceptor(stored_with.in_class(request.storage_class))
            .interceptor(AnswerLimit)
            .interceptor(WatchAnswer::named("CopyObjectResult"));
        let output = call.send().await.sent(OPERATION, session, self)?;
        let etag = output.copy_object_result().and_then(|result| result.e_tag());
        Ok(Written { etag: named(OPERATION, etag)?, version_id: output.version_id().map(str::to_owned) })
    }
}

/// `x-amz-copy-source`: the bucket or the ARN of its access point, and the key, encoded.
pub(super) fn copy_source(bucket: &str, key: &ObjectKey) -> String {
    let between = if bucket.starts_with("arn:") { "/object/" } else { "/" };
    encode_path(&format!("{bucket}{between}{}", key.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_encoded() {
        let key = |key: &str| ObjectKey::new(key).unwrap();
        assert_eq!(copy_source("b", &key("/a+b//c d")), "b//a%2Bb//c%20d");
        assert_eq!(
            copy_source("arn:aws:s3:eu-west-1:123456789012:accesspoint/p", &key("k?")),
            "arn%3Aaws%3As3%3Aeu-west-1%3A123456789012%3Aaccesspoint/p/object/k%3F"
        );
    }
}
