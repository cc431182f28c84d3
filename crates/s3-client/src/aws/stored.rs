//! What goes along with everything that is written: storage class, encryption, ACL, tags, conditions, checksums.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;

use super::percent::encode_value;
use crate::bucket::{ObjectAttributes, Payload, StorageClass, WriteCondition};
use crate::checksum::{Checksum, ChecksumAlgorithm};
use crate::config::{ClientConfig, Encryption, UploadChecksums, WriteConfig};
use crate::error::{Error, ErrorKind, Result};

const STORAGE_CLASS: &str = "x-amz-storage-class";

/// Headers that say how objects are stored, for PutObject, CreateMultipartUpload and CopyObject.
#[derive(Debug, Clone)]
pub(super) struct StoredWith(Arc<[(&'static str, String)]>);

impl StoredWith {
    pub(super) fn new(config: &ClientConfig) -> Self {
        let WriteConfig { storage_class, encryption, acl, tags, .. } = &config.write;
        let mut headers = Vec::new();
        let mut add = |name, value: Option<String>| headers.extend(value.map(|value| (name, value)));
        add(STORAGE_CLASS, storage_class.clone());
        add("x-amz-acl", acl.clone());
        let (algorithm, key_id, bucket_key) = match encryption {
            None => (None, None, None),
            Some(Encryption::Aes256) => (Some("AES256"), None, None),
            Some(Encryption::Kms { key_id, bucket_key }) => (Some("aws:kms"), key_id.clone(), *bucket_key),
            Some(Encryption::KmsTwice { key_id }) => (Some("aws:kms:dsse"), key_id.clone(), None),
        };
        add("x-amz-server-side-encryption", algorithm.map(str::to_owned));
        add("x-amz-server-side-encryption-aws-kms-key-id", key_id);
        add("x-amz-server-side-encryption-bucket-key-enabled", bucket_key.map(|enabled| enabled.to_string()));
        let tag =
            |(name, value): &(String, String)| format!("{}={}", encode_value(name), encode_value(value));
        let tagging = tags.iter().map(tag).collect::<Vec<_>>().join("&");
        add("x-amz-tagging", Some(tagging).filter(|tagging| !tagging.is_empty()));
        Self(headers.into())
    }

    /// These, in this tier if they name none.
    pub(super) fn in_class(self, class: Option<StorageClass>) -> Self {
        match class {
            Some(class) if self.0.iter().all(|(name, _)| *name != STORAGE_CLASS) => {
                let class = (STORAGE_CLASS, class.as_str().to_owned());
                Self(self.0.iter().cloned().chain([class]).collect())
            }
            _ => self,
        }
    }

    /// These, and what is stored with one object.
    pub(super) fn and(&self, attributes: &ObjectAttributes) -> Self {
        if attributes.headers.is_empty() {
            return self.clone();
        }
        let own = attributes.headers.iter().map(|(name, value)| (*name, value.clone()));
        Self(self.0.iter().cloned().chain(own).collect())
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for StoredWith {
    fn name(&self) -> &'static str {
        "StoredWith"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        for (name, value) in self.0.iter() {
            context.request_mut().headers_mut().try_insert(*name, value.clone())?;
        }
        Ok(())
    }
}

/// `If-Match` and `If-None-Match`.
pub(super) fn conditions(condition: &WriteCondition) -> (Option<String>, Option<String>) {
    match condition {
        WriteCondition::Any => (None, None),
        WriteCondition::Absent => (None, Some("*".to_owned())),
        WriteCondition::Matches(etag) => (Some(etag.to_string()), None),
    }
}

/// The `x-amz-meta-*` headers as the SDK takes them.
pub(super) fn metadata(attributes: &ObjectAttributes) -> Option<HashMap<String, String>> {
    let metadata: HashMap<_, _> = attributes.user_metadata.iter().cloned().collect();
    (!metadata.is_empty()).then_some(metadata)
}

impl UploadChecksums {
    pub(super) fn algorithm(self) -> Option<ChecksumAlgorithm> {
        match self {
            Self::Crc64Nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            Self::Crc32c => Some(ChecksumAlgorithm::Crc32c),
            Self::Off => None,
        }
    }

    pub(super) fn of(self, body: &Payload) -> Option<Checksum> {
        Some(Checksum::of(self.algorithm()?, body.pieces()))
    }

    /// A server that does not know the checksum's headers says so in many ways; this adds the remedy.
    pub(super) fn explain(self, error: Error) -> Error {
        let refused = matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported);
        let says = |text: Option<&str>| {
            text.is_some_and(|text| {
                text.to_ascii_lowercase().contains("checksum") || text == "NotImplemented"
            })
        };
        if self == Self::Off || !refused || !(says(error.code()) || says(error.message())) {
            return error;
        }
        let words = error.message().unwrap_or("the server refuses the request").to_owned();
        error.with_message(format!(
            "{words}; if this server does not know S3's checksums, write with --upload-checksums off"
        ))
    }
}

/// The headers of a checksum, by algorithm.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ChecksumHeaders {
    pub(super) crc32c: Option<String>,
    pub(super) crc64nvme: Option<String>,
}

impl ChecksumHeaders {
    pub(super) fn of(checksum: Option<Checksum>) -> Self {
        let text = |algorithm| checksum.filter(|sum| sum.algorithm() == algorithm).map(|sum| sum.to_string());
        Self { crc32c: text(ChecksumAlgorithm::Crc32c), crc64nvme: text(ChecksumAlgorithm::Crc64Nvme) }
    }

    /// Compares what was sent with what the server says that it stored, if it says so.
    pub(super) fn check(
        &self,
        operation: &'static str,
        crc32c: Option<&str>,
        crc64: Option<&str>,
    ) -> Result<()> {
        for (sent, stored) in [(&self.crc32c, crc32c), (&self.crc64nvme, crc64)] {
            if let (Some(sent), Some(stored)) = (sent, stored)
                && sent != stored
            {
                let message =
                    format!("the bytes that were sent have {sent}, those that were stored {stored}");
                return Err(Error::new(ErrorKind::Corrupt, operation)
                    .with_code("ChecksumMismatch")
                    .with_message(message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_the_settings_say() {
        let headers = |write| {
            let config = ClientConfig { write, ..ClientConfig::default() };
            let StoredWith(headers) = StoredWith::new(&config);
            headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        assert!(headers(WriteConfig::default()).is_empty());
        let encryption =
            Some(Encryption::Kms { key_id: Some("alias/models".to_owned()), bucket_key: Some(true) });
        let all = headers(WriteConfig {
            storage_class: Some("STANDARD_IA".to_owned()),
            acl: Some("bucket-owner-full-control".to_owned()),
            tags: vec![("team".to_owned(), "a & b".to_owned()), ("k=v".to_owned(), String::new())],
            encryption,
            ..WriteConfig::default()
        });
        assert_eq!(
            all,
            [
                "x-amz-storage-class: STANDARD_IA",
                "x-amz-acl: bucket-owner-full-control",
                "x-amz-server-side-encryption: aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id: alias/models",
                "x-amz-server-side-encryption-bucket-key-enabled: true",
                "x-amz-tagging: team=a%20%26%20b&k%3Dv=",
            ]
        );
    }

    #[test]
    fn refused_checksums_name_the_setting() {
        let error =
            |kind, code: &str, message: &str| Error::new(kind, "put").with_code(code).with_message(message);
        for (error, named) in [
            (error(ErrorKind::Unsupported, "NotImplemented", "A header you provided"), true),
            (
                error(ErrorKind::Invalid, "InvalidArgument", "Unsupported header x-amz-checksum-crc64nvme"),
                true,
            ),
            (error(ErrorKind::Invalid, "InvalidChecksum", "no"), true),
            (error(ErrorKind::Invalid, "InvalidArgument", "bad storage class"), false),
            (error(ErrorKind::Forbidden, "AccessDenied", "checksum"), false),
        ] {
            let text = UploadChecksums::Crc64Nvme.explain(error.clone()).to_string();
            assert_eq!(text.contains("--upload-checksums off"), named, "{text}");
            assert_eq!(UploadChecksums::Off.explain(error.clone()).to_string(), error.to_string());
        }
    }

    #[test]
    fn other_checksums_than_those_sent_are_corrupt() {
        let sum = Checksum::parse(ChecksumAlgorithm::Crc64Nvme, "rosUhgp5mIg=");
        let headers = ChecksumHeaders::of(sum);
        assert_eq!(headers.crc64nvme.as_deref(), Some("rosUhgp5mIg="));
        for (stored, right) in [(None, true), (Some("rosUhgp5mIg="), true), (Some("AAAAAAAAAAA="), false)] {
            assert_eq!(headers.check("put", Some("not asked for"), stored).is_ok(), right, "{stored:?}");
        }
        assert_eq!(ChecksumHeaders::of(None), ChecksumHeaders::default());
    }
}
