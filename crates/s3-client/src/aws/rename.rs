//! RenameObject, which directory buckets alone have.

use super::percent::encode_path;
use super::stored::conditions;
use super::{AwsBucket, Sent, Session};
use crate::bucket::{RenameRequest, unsupported};
use crate::error::Result;
use crate::key::ETag;

impl AwsBucket {
    pub(super) async fn rename_once(&self, session: &Session, request: &RenameRequest) -> Result<()> {
        if !self.traits.rename {
            // The same request without its query would write an empty object.
            return Err(unsupported(&self.identity, "rename", request.target.as_str()));
        }
        let (if_match, if_none_match) = conditions(&request.condition);
        let call = session
            .client
            .rename_object()
            .bucket(&self.settings.bucket)
            .key(request.target.as_str())
            .rename_source(encode_path(&format!("/{}", request.source.as_str())))
            .set_source_if_match(request.source_if_match.as_ref().map(ETag::to_string))
            .set_destination_if_match(if_match)
            .set_destination_if_none_match(if_none_match);
        call.send().await.sent("rename", session, self).map(drop)
    }
}
