//! How to reach a bucket and as whom: plain settings, checked in one place, secrets never printed.
//!
//! A [`ClientConfig`] is data that may travel to another process. It reads nothing by itself: the environment and the
//! profile files count only with [`CredentialSource::DefaultChain`], and then through aws-config.

mod write;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

pub use write::{Encryption, UploadChecksums, WriteConfig};

/// A text that no log shows: `Debug` prints `<redacted>`, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for a signature or a header.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Keys handed over by the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticKeys {
    /// The public half, `AKIA...`.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: Secret,
    /// Present with temporary credentials.
    #[serde(default)]
    pub session_token: Option<Secret>,
}

/// Whom the requests are signed as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CredentialSource {
    /// The AWS order: environment, profile files (with SSO, process, web identity, assumed roles), web identity token, ECS or EKS
    /// container credentials, EC2 instance metadata. The only source that lets the environment set region and endpoint.
    #[default]
    DefaultChain,
    /// Requests are not signed; for public buckets.
    Anonymous,
    /// These keys, and nothing from the environment.
    Static(StaticKeys),
}

/// Where the bucket's name goes in a URL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressingStyle {
    /// Virtual-host style at Amazon; path style at any other endpoint, whose certificates and DNS seldom know bucket names.
    #[default]
    Auto,
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    VirtualHost,
}

/// Which kind of bucket to expect, when the name does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BucketType {
    /// Flat keys, listed in byte order.
    GeneralPurpose,
    /// S3 Express One Zone: listings are not in order and know no start-after.
    Directory,
}

/// A 256-bit key that S3 encrypts objects with and does not keep (SSE-C).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SseCustomerKey([u8; 32]);

impl SseCustomerKey {
    /// Takes the 32 bytes of an AES-256 key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Takes the key in base64.
    ///
    /// # Errors
    /// [`ConfigError::SseKey`] unless it is base64 of exactly 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, ConfigError> {
        let bytes = aws_smithy_types::base64::decode(text.trim()).map_err(|_| ConfigError::SseKey)?;
        Ok(Self(bytes.try_into().map_err(|_| ConfigError::SseKey)?))
    }

    /// The key as its request header has it.
    pub(crate) fn to_base64(&self) -> String {
        aws_smithy_types::base64::encode(self.0)
    }

    /// The MD5 of the key as its request header has it: how S3 finds a garbled key.
    pub(crate) fn md5_base64(&self) -> String {
        use md5::Digest;
        aws_smithy_types::base64::encode(md5::Md5::digest(self.0))
    }
}

impl fmt::Debug for SseCustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl TryFrom<String> for SseCustomerKey {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        Self::from_base64(&text)
    }
}

impl From<SseCustomerKey> for String {
    fn from(key: SseCustomerKey) -> String {
        key.to_base64()
    }
}

/// How to reach a bucket and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// The bucket's region. Without it: the environment, the profile and EC2 instance metadata (with the default chain), else
    /// `us-east-1`; a wrong guess is corrected by the server's redirect.
    pub region: Option<String>,
    /// The URL of an S3-compatible service, `https://` or `http://`. Without it: `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` and the
    /// profile (with the default chain), else Amazon.
    pub endpoint_url: Option<String>,
    /// Where the bucket's name goes in a URL.
    pub addressing: AddressingStyle,
    /// The profile of `~/.aws/config` and `~/.aws/credentials` to use. Naming one makes it the only source of credentials.
    pub profile: Option<String>,
    /// Whom the requests are signed as.
    pub credentials: CredentialSource,
    /// A PEM file of certificates to trust besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Agree to pay for the requests, as requester-pays buckets demand.
    pub requester_pays: bool,
    /// The 12-digit account that must own the bucket; requests to anybody else's fail with 403.
    pub expected_bucket_owner: Option<String>,
    /// The key that the objects are encrypted with.
    pub sse_customer_key: Option<SseCustomerKey>,
    /// What is stored with every object that is written.
    pub write: WriteConfig,
    /// Use the bucket's transfer-acceleration endpoint.
    pub transfer_acceleration: bool,
    /// Use an endpoint with IPv6 and IPv4.
    pub dual_stack: bool,
    /// Overrides what the bucket's name says (`--x-s3` at its end is a directory bucket).
    pub bucket_type: Option<BucketType>,
    /// Put before our name in the User-Agent header, for the access logs.
    pub user_agent_prefix: Option<String>,
    /// Limit for DNS, TCP and TLS together, per connection.
    pub connect_timeout: Duration,
    /// Limit from the request's end to the answer's headers. (Bodies have a progress limit of their own.)
    pub first_byte_timeout: Duration,
    /// Limit for the checks made before a mount is announced.
    pub probe_timeout: Duration,
    /// How much of it EC2 instance metadata may take: outside EC2 nobody answers there.
    pub imds_timeout: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            region: None,
            endpoint_url: None,
            addressing: AddressingStyle::Auto,
            profile: None,
            credentials: CredentialSource::DefaultChain,
            ca_bundle: None,
            requester_pays: false,
            expected_bucket_owner: None,
            sse_customer_key: None,
            write: WriteConfig::default(),
            transfer_acceleration: false,
            dual_stack: false,
            bucket_type: None,
            user_agent_prefix: None,
            connect_timeout: Duration::from_secs(3),
            first_byte_timeout: Duration::from_secs(10),
            probe_timeout: Duration::from_secs(10),
            imds_timeout: Duration::from_secs(2),
        }
    }
}

impl ClientConfig {
    /// Checks every setting without touching network, files or environment.
    ///
    /// # Errors
    /// The first setting that cannot work, with what would.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(url) = &self.endpoint_url {
            Endpoint::parse(url)
                .map_err(|e| ConfigError::Endpoint { url: url.clone(), reason: e.to_string() })?;
        }
        if self.region.as_deref().is_some_and(|region| !is_region(region)) {
            return Err(ConfigError::Region(self.region.clone().unwrap_or_default()));
        }
        if let Some(owner) = &self.expected_bucket_owner
            && !(owner.len() == 12 && owner.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(ConfigError::Owner(owner.clone()));
        }
        if self.transfer_acceleration
            && (self.endpoint_url.is_some() || self.addressing == AddressingStyle::Path)
        {
            return Err(ConfigError::Acceleration);
        }
        if let Some(prefix) = &self.user_agent_prefix
            && !prefix.bytes().all(|b| (0x20..0x7f).contains(&b))
        {
            return Err(ConfigError::UserAgent);
        }
        if self.connect_timeout.is_zero() || self.first_byte_timeout.is_zero() || self.probe_timeout.is_zero()
        {
            return Err(ConfigError::ZeroTimeout);
        }
        self.write.validate(self.sse_customer_key.is_some())
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The endpoint URL does not parse.
    #[error("the endpoint URL {url:?} {reason}; write it like https://minio.example.com:9000")]
    Endpoint {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The region would not fit into a host name.
    #[error("{0:?} is no region; write it like eu-west-1")]
    Region(String),
    /// The owner is no account id.
    #[error("{0:?} is no account id; the expected bucket owner has 12 digits")]
    Owner(String),
    /// The SSE-C key is no AES-256 key.
    #[error("the SSE-C key must be base64 of 32 bytes")]
    SseKey,
    /// Acceleration works at Amazon with virtual-host addressing alone.
    #[error("transfer acceleration works neither with an endpoint URL nor with path-style addressing")]
    Acceleration,
    /// A header would be broken.
    #[error("the user-agent prefix may hold printable ASCII alone")]
    UserAgent,
    /// A name that no header can have.
    #[error("the {what} {name:?} has characters that no header takes")]
    Name {
        /// What it was to be.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// Two ways to encrypt.
    #[error("objects are encrypted with a customer's key (SSE-C) or by a key of the store, not both")]
    TwoEncryptions,
    /// More or longer tags than S3 takes.
    #[error("an object has at most 10 tags, with names of 1 to 128 characters and values of up to 256")]
    Tags,
    /// Nothing answers in no time.
    #[error("a time limit of zero lets nothing succeed")]
    ZeroTimeout,
}

/// Whether `text` can stand in a host name as a region does; unknown regions must work, they appear every year.
fn is_region(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let config = ClientConfig {
            credentials: CredentialSource::Static(StaticKeys {
                access_key_id: "AKIAEXAMPLE".into(),
                secret_access_key: Secret::new("wJalrXUtnFEMI"),
                session_token: Some(Secret::new("FwoGZXIvYXdz")),
            }),
            sse_customer_key: Some(SseCustomerKey::new([0x61; 32])),
            ..ClientConfig::default()
        };
        let text = format!("{config:?}");
        assert!(text.contains("AKIAEXAMPLE"), "{text}");
        for secret in ["wJalrXUtnFEMI", "FwoGZXIvYXdz", "YWFh", "aaaa", "97"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }

    #[test]
    fn sse_key_takes_32_bytes_of_base64() {
        let key = SseCustomerKey::from_base64("YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=").unwrap();
        assert_eq!(key, SseCustomerKey::new([b'a'; 32]));
        // md5 of 32 times "a", from hashlib.
        assert_eq!(key.md5_base64(), "Xsqb0+sHwAbNQ65I395/0w==");
        for bad in ["", "YWFh", "not base64!", "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh"] {
            assert_eq!(SseCustomerKey::from_base64(bad), Err(ConfigError::SseKey), "{bad}");
        }
    }

    #[test]
    fn validate_names_the_setting_that_cannot_work() {
        let check = |edit: fn(&mut ClientConfig), expected: Option<&str>| {
            let mut config = ClientConfig::default();
            edit(&mut config);
            let got = config.validate().map_err(|e| e.to_string());
            match expected {
                None => assert_eq!(got, Ok(())),
                Some(part) => {
                    assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{got:?} lacks {part:?}")
                }
            }
        };
        check(|_| {}, None);
        check(|c| c.endpoint_url = Some("http://127.0.0.1:9000".into()), None);
        check(|c| c.endpoint_url = Some("127.0.0.1:9000".into()), Some("http:// or https://"));
        check(|c| c.region = Some("eu-west-1".into()), None);
        check(|c| c.region = Some("eu west".into()), Some("eu-west-1"));
        check(|c| c.region = Some(String::new()), Some("no region"));
        check(|c| c.expected_bucket_owner = Some("123456789012".into()), None);
        check(|c| c.expected_bucket_owner = Some("1234".into()), Some("12 digits"));
        check(|c| c.user_agent_prefix = Some("a\r\nX: y".into()), Some("user-agent"));
        check(|c| c.connect_timeout = Duration::ZERO, Some("zero"));
        check(
            |c| {
                c.transfer_acceleration = true;
                c.addressing = AddressingStyle::Path;
            },
            Some("acceleration"),
        );
    }
}
