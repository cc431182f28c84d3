//! What went wrong at the store, named by what the caller does about it.
//!
//! An [`Error`] is a kind to branch on and a context to print: operation, bucket, key, HTTP status, the
//! server's own code and request id. It is cheap to clone, since one failed fetch may answer many waiters.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of a call to a bucket.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such object: forget the name.
    NotFound,
    /// No such upload in parts: it was completed, aborted or swept; begin anew.
    NoSuchUpload,
    /// No such bucket: the mount cannot work; check the name.
    NoSuchBucket,
    /// The credentials do not allow it: report, do not retry.
    Forbidden,
    /// If-Match or If-None-Match did not hold, or the answer carries another ETag: the object changed.
    PreconditionFailed,
    /// The server asked for fewer requests (503 SlowDown, 429): back off, then retry.
    Throttled,
    /// The bucket lives in another region than the one signed for: rebuild the client.
    WrongRegion,
    /// The credentials ran out: refresh, then retry.
    CredentialsExpired,
    /// No source gave credentials: configure one, or read anonymously.
    NoCredentials,
    /// The endpoint cannot be reached or does not speak S3: check the URL, the network, the TLS roots.
    BadEndpoint,
    /// May succeed when tried again: a 5xx, a broken connection, a time limit.
    Transient,
    /// The answer contradicts the request or its own checksum: retried a little, never handed out.
    Corrupt,
    /// The object lies in an archive tier and must be restored first.
    Archived,
    /// The request itself is wrong: a bug, a limit of the server, or a setting; retrying is no use.
    Invalid,
    /// More bytes than the store takes in an object, a part or a copy: send fewer.
    TooLarge,
    /// The store is full, or a quota is spent: make room.
    NoSpace,
    /// This store cannot do what was asked.
    Unsupported,
}

impl ErrorKind {
    /// Whether the same request may succeed when simply sent again.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Throttled | Self::Transient | Self::Corrupt | Self::CredentialsExpired)
    }
}

/// The code of an error that no first byte came in time: the same attempt with more patience may succeed.
pub(crate) const FIRST_BYTE_TIMEOUT: &str = "FirstByteTimeout";

type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// A failed operation on a bucket. Cloning shares it.
#[derive(Clone)]
pub struct Error(Arc<Context>);

#[derive(Clone)]
struct Context {
    kind: ErrorKind,
    operation: &'static str,
    bucket: Option<Arc<str>>,
    key: Option<Arc<str>>,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    message: Option<String>,
    region: Option<String>,
    retry_after: Option<Duration>,
    attempts: u32,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` in `operation` (a verb of S3: `get`, `list`).
    pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Self(Arc::new(Context {
            kind,
            operation,
            bucket: None,
            key: None,
            status: None,
            code: None,
            request_id: None,
            message: None,
            region: None,
            retry_after: None,
            attempts: 1,
            source: None,
        }))
    }

    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The object, or the prefix of a listing.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The HTTP status, if the server answered.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The server's code for the error, such as `SlowDown`.
    pub fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The server's id of the request, for its operators.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// What happened, in words.
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// The region that the server named, with [`ErrorKind::WrongRegion`].
    pub fn region(&self) -> Option<&str> {
        self.0.region.as_deref()
    }

    /// How long the server asked to wait before the next request.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// How often the request was sent.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Names the bucket.
    #[must_use]
    pub fn with_bucket(self, bucket: &str) -> Self {
        self.edit(|c| c.bucket = Some(Arc::from(bucket)))
    }

    /// Names the object, or the prefix of a listing.
    #[must_use]
    pub fn with_key(self, key: &str) -> Self {
        self.edit(|c| c.key = Some(Arc::from(key)))
    }

    /// Adds the HTTP status.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        self.edit(|c| c.status = Some(status))
    }

    /// Adds the server's code.
    #[must_use]
    pub fn with_code(self, code: impl Into<String>) -> Self {
        self.edit(|c| c.code = Some(code.into()))
    }

    /// Adds the server's request id.
    #[must_use]
    pub fn with_request_id(self, id: impl Into<String>) -> Self {
        self.edit(|c| c.request_id = Some(id.into()))
    }

    /// Says what happened, in words.
    #[must_use]
    pub fn with_message(self, message: impl Into<String>) -> Self {
        self.edit(|c| c.message = Some(message.into()))
    }

    /// Adds the region that the server named.
    #[must_use]
    pub fn with_region(self, region: impl Into<String>) -> Self {
        self.edit(|c| c.region = Some(region.into()))
    }

    /// Adds the wait that the server asked for.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        self.edit(|c| c.retry_after = Some(wait))
    }

    /// Says how often the request was sent.
    #[must_use]
    pub fn with_attempts(self, attempts: u32) -> Self {
        self.edit(|c| c.attempts = attempts)
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>) -> Self {
        self.edit(|c| c.source = Some(Arc::from(source.into())))
    }

    fn edit(mut self, change: impl FnOnce(&mut Context)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Display for Error {
    /// `get s3://bucket/key: message (HTTP 503 SlowDown, request 4442587FB7D0A2F9, 5 attempts)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &*self.0;
        f.write_str(c.operation)?;
        if let Some(bucket) = &c.bucket {
            write!(f, " {bucket}")?;
        }
        if let Some(key) = &c.key {
            write!(f, "{}{}", if c.bucket.is_some() { "/" } else { " " }, key.escape_debug())?;
        }
        match &c.message {
            Some(message) => write!(f, ": {message}")?,
            None => write!(f, ": {}", describe(c.kind))?,
        }
        let mut details = Vec::new();
        match (c.status, &c.code) {
            (Some(status), Some(code)) => details.push(format!("HTTP {status} {code}")),
            (Some(status), None) => details.push(format!("HTTP {status}")),
            (None, Some(code)) => details.push(code.clone()),
            (None, None) => {}
        }
        if let Some(id) = &c.request_id {
            details.push(format!("request {id}"));
        }
        if c.attempts > 1 {
            details.push(format!("{} attempts", c.attempts));
        }
        if details.is_empty() { Ok(()) } else { write!(f, " ({})", details.join(", ")) }
    }
}

fn describe(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "no such object",
        ErrorKind::NoSuchUpload => "no such upload",
        ErrorKind::NoSuchBucket => "no such bucket",
        ErrorKind::Forbidden => "access denied",
        ErrorKind::PreconditionFailed => "the object changed",
        ErrorKind::Throttled => "the server asked for fewer requests",
        ErrorKind::WrongRegion => "the bucket is in another region",
        ErrorKind::CredentialsExpired => "the credentials have expired",
        ErrorKind::NoCredentials => "no credentials found",
        ErrorKind::BadEndpoint => "the endpoint cannot be reached",
        ErrorKind::Transient => "a temporary failure",
        ErrorKind::Corrupt => "the answer is not what was asked for",
        ErrorKind::Archived => "the object is archived and must be restored first",
        ErrorKind::Invalid => "the server refuses the request",
        ErrorKind::TooLarge => "more bytes than the store takes",
        ErrorKind::NoSpace => "the store has no room left",
        ErrorKind::Unsupported => "this store cannot do that",
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("text", &self.to_string());
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_one_line_with_everything_an_operator_needs() {
        let error = Error::new(ErrorKind::Throttled, "get")
            .with_bucket("s3://models")
            .with_key("a\nb")
            .with_status(503)
            .with_code("SlowDown")
            .with_request_id("44FB")
            .with_attempts(5);
        assert_eq!(
            error.to_string(),
            "get s3://models/a\\nb: the server asked for fewer requests (HTTP 503 SlowDown, request 44FB, 5 attempts)"
        );
    }
}
