//! What is stored with every object that is written, and how the store can tell that its bytes are whole.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Which checksum goes along with bytes that are written, for the store to verify and to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadChecksums {
    /// CRC-64/NVME of whole objects, also of those written in parts, so that whoever reads one can verify it.
    #[default]
    Crc64Nvme,
    /// CRC-32C: of the parts alone where there are parts. Servers know it for longer.
    Crc32c,
    /// None, for servers that refuse requests with one.
    Off,
}

/// How the store encrypts what is written, where that is not the bucket's own setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// With keys of S3 (SSE-S3).
    Aes256,
    /// With a key of KMS (SSE-KMS).
    Kms {
        /// Its id, ARN or alias; the account's own key for S3 if there is none.
        key_id: Option<String>,
        /// Whether a key of the bucket saves requests to KMS; `None` for what the bucket says.
        bucket_key: Option<bool>,
    },
    /// Twice, with a key of KMS (DSSE-KMS).
    KmsTwice {
        /// As above.
        key_id: Option<String>,
    },
}

/// What is stored with every object that is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriteConfig {
    /// Which checksum goes along with the bytes.
    pub upload_checksums: UploadChecksums,
    /// The storage class, by Amazon's name: `STANDARD_IA`, `INTELLIGENT_TIERING`, ... Without it, the server's default.
    pub storage_class: Option<String>,
    /// How the store encrypts. Not together with a key of the customer's (SSE-C).
    pub encryption: Option<Encryption>,
    /// A canned ACL, by Amazon's name: `bucket-owner-full-control`, ...
    pub acl: Option<String>,
    /// Tags, by name.
    pub tags: Vec<(String, String)>,
}

/// Tags of one object (Amazon S3 User Guide, "Object tagging").
const MAX_TAGS: usize = 10;

impl WriteConfig {
    pub(super) fn validate(&self, has_customer_key: bool) -> Result<(), ConfigError> {
        let names = [("storage class", &self.storage_class), ("ACL", &self.acl)];
        for (what, name) in names {
            if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
                return Err(ConfigError::Name { what, name: name.clone() });
            }
        }
        let key = match &self.encryption {
            Some(_) if has_customer_key => return Err(ConfigError::TwoEncryptions),
            Some(Encryption::Kms { key_id, .. } | Encryption::KmsTwice { key_id }) => key_id.as_deref(),
            Some(Encryption::Aes256) | None => None,
        };
        if let Some(key) = key.filter(|key| key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(ConfigError::Name { what: "KMS key", name: key.to_owned() });
        }
        let fits = |(name, value): &(String, String)| {
            (1..=128).contains(&name.chars().count()) && value.chars().count() <= 256
        };
        if self.tags.len() > MAX_TAGS || !self.tags.iter().all(fits) {
            return Err(ConfigError::Tags);
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_named() {
        let check = |edit: fn(&mut WriteConfig), customer_key, expected: Option<&str>| {
            let mut config = WriteConfig::default();
            edit(&mut config);
            match (config.validate(customer_key).map_err(|e| e.to_string()), expected) {
                (Ok(()), None) => {}
                (Err(text), Some(part)) => assert!(text.contains(part), "{text} lacks {part}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        };
        check(|c| c.storage_class = Some("ONEZONE_IA".into()), false, None);
        check(|c| c.storage_class = Some("ONE ZONE".into()), false, Some("storage class \"ONE ZONE\""));
        check(|c| c.acl = Some("a\r\nb".into()), false, Some("ACL"));
        check(|c| c.encryption = Some(Encryption::Aes256), false, None);
        check(|c| c.encryption = Some(Encryption::Aes256), true, Some("SSE-C"));
        check(|c| c.tags = vec![("team".into(), "grün & more".into())], false, None);
        check(|c| c.tags = vec![(String::new(), "x".into())], false, Some("10 tags"));
        check(|c| c.tags = vec![("t".into(), "x".into()); 11], false, Some("10 tags"));
        check(
            |c| {
                c.encryption = Some(Encryption::KmsTwice { key_id: Some("two words".into()) });
            },
            false,
            Some("KMS key"),
        );
    }
}
