//! Extended attributes: what S3 tells of an object beyond a file's attributes.
//!
//! | name | value |
//! |---|---|
//! | `user.s3.key` | the whole key |
//! | `user.s3.etag` | the ETag as sent, quotes included |
//! | `user.s3.storage_class` | `STANDARD`, `GLACIER`, ... |
//! | `user.s3.content_type` | the `Content-Type` (one HEAD) |
//! | `user.s3.version_id` | in a versioned bucket (one HEAD) |
//! | `user.s3.encryption` | `AES256`, `aws:kms`, ... (one HEAD) |
//! | `user.s3.meta.NAME` | the header `x-amz-meta-NAME` (one HEAD) |
//!
//! Listing the names gives only those that cost no request: `ls -l` lists them of every file.

use sluicefs_s3_client::{ObjectHead, ObjectKey, ObjectMeta};

const PREFIX: &str = "user.s3.";

/// One attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attribute {
    Key,
    Etag,
    StorageClass,
    ContentType,
    VersionId,
    Encryption,
    Meta(String),
}

impl Attribute {
    /// The attribute called `name`, if it is one of ours.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name.strip_prefix(PREFIX)? {
            "key" => Self::Key,
            "etag" => Self::Etag,
            "storage_class" => Self::StorageClass,
            "content_type" => Self::ContentType,
            "version_id" => Self::VersionId,
            "encryption" => Self::Encryption,
            other => Self::Meta(other.strip_prefix("meta.")?.to_owned()),
        })
    }

    /// Its value, where a listing tells it.
    pub(crate) fn of_listing(&self, key: &ObjectKey, meta: &ObjectMeta) -> Option<String> {
        match self {
            Self::Key => Some(key.as_str().to_owned()),
            Self::Etag => meta.etag.as_ref().map(ToString::to_string),
            Self::StorageClass => Some(meta.storage_class.as_str().to_owned()),
            _ => None,
        }
    }

    /// Its value, where HEAD tells it.
    pub(crate) fn of_head(&self, head: &ObjectHead) -> Option<String> {
        match self {
            Self::Key | Self::StorageClass => None,
            Self::Etag => head.meta.etag.as_ref().map(ToString::to_string),
            Self::ContentType => head.content_type.clone(),
            Self::VersionId => head.version_id.clone(),
            Self::Encryption => head.encryption.clone(),
            Self::Meta(name) => {
                let found = head.user_metadata.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.clone())
            }
        }
    }
}

/// The names of the attributes that `meta` gives a value.
pub(crate) fn names_of(meta: &ObjectMeta) -> Vec<String> {
    let mut names = vec!["key", "storage_class"];
    if meta.etag.is_some() {
        names.push("etag");
    }
    names.into_iter().map(|name| format!("{PREFIX}{name}")).collect()
}
