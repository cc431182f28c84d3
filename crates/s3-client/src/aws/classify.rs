//! From what a server answered, or did not, to what the caller does about it.
//!
//! [`classify`] is a pure function of status, code and headers, so that its table is its test. [`from_sdk`] takes the SDK's
//! errors apart for it. An answer to HEAD has no body and therefore no code: status and headers must do.

use std::error::Error as StdError;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use super::header_limit::TooLarge;
use super::quiet::Silence;
use super::transport::TransportFault;
use super::watch::AnswerFault;
use crate::endpoint::{host_of_location, region_of_aws_host};
use crate::error::{Error, ErrorKind};

/// An answer that is no success.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal<'a> {
    pub(crate) operation: &'static str,
    pub(crate) status: u16,
    /// From the body; absent for HEAD.
    pub(crate) code: Option<&'a str>,
    pub(crate) message: Option<&'a str>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) retry_after: Option<&'a str>,
    /// `x-amz-bucket-region`, or the `Region` of the body.
    pub(crate) region: Option<&'a str>,
    pub(crate) location: Option<&'a str>,
}

/// What the request was signed with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub(crate) region: &'a str,
    /// Temporary credentials, which may run out.
    pub(crate) has_session_token: bool,
    pub(crate) now: SystemTime,
}

/// Says what to do about a refusal.
pub(crate) fn classify(refusal: &Refusal<'_>, signed: Signed<'_>) -> Error {
    let redirected = refusal.location.and_then(host_of_location);
    let region = refusal.region.or_else(|| redirected.as_deref().and_then(region_of_aws_host));
    let other_region = region.filter(|region| *region != signed.region);
    let kind = kind_of(refusal, signed, other_region.is_some());
    let mut error = Error::new(kind, refusal.operation).with_status(refusal.status);
    if let Some(code) = refusal.code {
        error = error.with_code(code);
    }
    if let Some(id) = refusal.request_id {
        error = error.with_request_id(id);
    }
    if let Some(region) = region.filter(|_| kind == ErrorKind::WrongRegion) {
        error = error.with_region(region);
    }
    if let Some(wait) = refusal.retry_after.and_then(|text| parse_retry_after(text, signed.now)) {
        error = error.with_retry_after(wait);
    }
    match message_of(kind, refusal, region) {
        Some(message) => error.with_message(message),
        None => error,
    }
}

fn kind_of(refusal: &Refusal<'_>, signed: Signed<'_>, other_region: bool) -> ErrorKind {
    let redirect = matches!(refusal.status, 301 | 302 | 307 | 308);
    let region_code = refusal.code.is_some_and(|code| REGION_CODES.contains(&code));
    if other_region && (redirect || region_code || (refusal.status == 400 && refusal.code.is_none())) {
        return ErrorKind::WrongRegion;
    }
    match (refusal.operation, refusal.code) {
        // If-Match where there is nothing to match.
        ("put" | "complete upload", Some("NoSuchKey")) => return ErrorKind::PreconditionFailed,
        // Somebody else wrote between the upload's beginning and its end; the parts cannot be used again (CompleteMultipartUpload).
        ("complete upload", Some("ConditionalRequestConflict")) => return ErrorKind::PreconditionFailed,
        _ => {}
    }
    if let Some(kind) = refusal.code.and_then(kind_of_code) {
        return kind;
    }
    match refusal.status {
        200..=299 => ErrorKind::Corrupt,
        300..=399 => ErrorKind::BadEndpoint,
        // An expired token answers HEAD with a bare 400; a refresh costs little and tells.
        400 if refusal.code.is_none() && refusal.operation == "head" && signed.has_session_token => {
            ErrorKind::CredentialsExpired
        }
        401 | 403 => ErrorKind::Forbidden,
        // S3 names the missing bucket in a body; a bare 404 to LIST comes from something else.
        404 if refusal.operation == "list" => ErrorKind::BadEndpoint,
        404 => ErrorKind::NotFound,
        405 | 501 => ErrorKind::Unsupported,
        408 | 409 | 425 => ErrorKind::Transient,
        412 => ErrorKind::PreconditionFailed,
        413 => ErrorKind::TooLarge,
        507 => ErrorKind::NoSpace,
        429 | 503 => ErrorKind::Throttled,
        500..=599 => ErrorKind::Transient,
        _ => ErrorKind::Invalid,
    }
}

/// What a code means, whatever the status.
pub(super) fn kind_of_code(code: &str) -> Option<ErrorKind> {
    KIND_BY_CODE.iter().find(|(c, _)| *c == code).map(|(_, kind)| *kind)
}

/// Codes that mean another region when the answer names one.
const REGION_CODES: [&str; 4] = [
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
];

/// Amazon S3 API reference, "Error responses", and what MinIO, Ceph and R2 add.
const KIND_BY_CODE: &[(&str, ErrorKind)] = &[
    ("NoSuchKey", ErrorKind::NotFound),
    ("NoSuchVersion", ErrorKind::NotFound),
    ("NoSuchUpload", ErrorKind::NoSuchUpload),
    ("NoSuchBucket", ErrorKind::NoSuchBucket),
    ("NoSuchAccessPoint", ErrorKind::NoSuchBucket),
    ("AccessDenied", ErrorKind::Forbidden),
    ("AccountProblem", ErrorKind::Forbidden),
    ("AllAccessDisabled", ErrorKind::Forbidden),
    ("InvalidAccessKeyId", ErrorKind::Forbidden),
    ("InvalidPayer", ErrorKind::Forbidden),
    ("InvalidSecurity", ErrorKind::Forbidden),
    ("NotSignedUp", ErrorKind::Forbidden),
    ("SignatureDoesNotMatch", ErrorKind::Forbidden),
    ("PreconditionFailed", ErrorKind::PreconditionFailed),
    ("BandwidthLimitExceeded", ErrorKind::Throttled),
    ("RequestLimitExceeded", ErrorKind::Throttled),
    ("RequestThrottled", ErrorKind::Throttled),
    ("ServiceUnavailable", ErrorKind::Throttled),
    ("SlowDown", ErrorKind::Throttled),
    ("SlowDownRead", ErrorKind::Throttled),
    ("SlowDownWrite", ErrorKind::Throttled),
    ("Throttling", ErrorKind::Throttled),
    ("ThrottlingException", ErrorKind::Throttled),
    ("TooManyRequests", ErrorKind::Throttled),
    ("ExpiredToken", ErrorKind::CredentialsExpired),
    ("ExpiredTokenException", ErrorKind::CredentialsExpired),
    ("InvalidToken", ErrorKind::CredentialsExpired),
    ("TokenRefreshRequired", ErrorKind::CredentialsExpired),
    ("RequestExpired", ErrorKind::CredentialsExpired),
    ("BadDigest", ErrorKind::Corrupt),
    ("InternalError", ErrorKind::Transient),
    ("ConditionalRequestConflict", ErrorKind::Transient),
    ("IncompleteBody", ErrorKind::Transient),
    ("OperationAborted", ErrorKind::Transient),
    ("RequestTimeTooSkewed", ErrorKind::Transient),
    ("RequestTimeout", ErrorKind::Transient),
    ("InvalidObjectState", ErrorKind::Archived),
    ("EntityTooLarge", ErrorKind::TooLarge),
    ("MetadataTooLarge", ErrorKind::NoSpace),
    ("QuotaExceeded", ErrorKind::NoSpace),
    ("XMinioAdminBucketQuotaExceeded", ErrorKind::NoSpace),
    ("XMinioStorageFull", ErrorKind::NoSpace),
    ("EntityTooSmall", ErrorKind::Invalid),
    ("InvalidPart", ErrorKind::Invalid),
    ("InvalidPartOrder", ErrorKind::Invalid),
    ("MalformedXML", ErrorKind::Invalid),
    ("InvalidArgument", ErrorKind::Invalid),
    ("InvalidBucketName", ErrorKind::Invalid),
    ("InvalidRange", ErrorKind::Invalid),
    ("InvalidRequest", ErrorKind::Invalid),
    ("KeyTooLongError", ErrorKind::Invalid),
    ("MethodNotAllowed", ErrorKind::Unsupported),
    ("NotImplemented", ErrorKind::Unsupported),
];

/// Words for the refusals that have a remedy; the server's own words for the rest.
fn message_of(kind: ErrorKind, refusal: &Refusal<'_>, region: Option<&str>) -> Option<String> {
    let server = refusal.message.map(one_line).filter(|text| !text.is_empty());
    let with_server = |text: &str| match &server {
        Some(server) => format!("{text} (the server says: {server})"),
        None => text.to_owned(),
    };
    let text = match (refusal.code, kind) {
        (Some("InvalidAccessKeyId"), _) => {
            "this endpoint does not know the access key id; check that the credentials belong to it".to_owned()
        }
        (Some("SignatureDoesNotMatch"), _) => {
            "the signature does not match: the secret key is wrong, or a proxy changes requests on the way".to_owned()
        }
        (Some("RequestTimeTooSkewed"), _) => "the local clock is off by more than 15 minutes".to_owned(),
        (Some("InvalidObjectState"), _) => "the object is archived; restore it (aws s3api restore-object) and read it again when the restore is done".to_owned(),
        (_, ErrorKind::WrongRegion) => {
            format!("the bucket is in region {}", region.unwrap_or("(not named)"))
        }
        (_, ErrorKind::CredentialsExpired) => with_server("the credentials have expired and their source gave no newer ones"),
        (_, ErrorKind::Forbidden) => with_server(permission_of(refusal.operation)),
        (None, ErrorKind::BadEndpoint) => format!("HTTP {} without an S3 error: this may be no S3 endpoint", refusal.status),
        _ => return server,
    };
    Some(text)
}

fn permission_of(operation: &str) -> &'static str {
    match operation {
        "list" => "access denied; listing needs s3:ListBucket on the bucket",
        "list uploads" => "access denied; this needs s3:ListBucketMultipartUploads on the bucket",
        "put" | "create upload" | "upload part" | "complete upload" | "rename" => {
            "access denied; writing needs s3:PutObject on the key"
        }
        "copy" | "copy part" => {
            "access denied; copying needs s3:GetObject on the source and s3:PutObject on the target"
        }
        "abort upload" => "access denied; this needs s3:AbortMultipartUpload on the key",
        "delete" | "delete many" => "access denied; deleting needs s3:DeleteObject on the key",
        _ => {
            "access denied; reading needs s3:GetObject on the key, and s3:ListBucket to tell missing keys from forbidden ones"
        }
    }
}

/// A server's text, fit for one line of a log.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    match line.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => line[..at].to_owned(),
        None => line,
    }
}

/// `Retry-After`: seconds, or an HTTP date.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(secs) = text.parse::<u64>() {
        return Some(Duration::from_secs(secs));
    }
    let date = SystemTime::try_from(DateTime::from_str(text, Format::HttpDate).ok()?).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// Takes an SDK error apart.
pub(crate) fn from_sdk<E>(
    operation: &'static str,
    error: SdkError<E, HttpResponse>,
    signed: Signed<'_>,
) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    // Credentials are fetched inside the request too (S3 Express sessions); their error is already ours.
    if let Some(own) = in_chain::<Error>(&error) {
        return own.clone();
    }
    if let Some(fault) = in_chain::<AnswerFault>(&error) {
        let out = Error::new(ErrorKind::Corrupt, operation).with_message(fault.to_string());
        let raw = error.raw_response();
        return match raw {
            Some(raw) => with_reply(out, raw),
            None => out,
        }
        .with_source(error);
    }
    if let Some(silence) = in_chain::<Silence>(&error) {
        let text = silence.to_string();
        return Error::new(ErrorKind::Transient, operation).with_message(text).with_source(error);
    }
    match &error {
        SdkError::ServiceError(service) => {
            refused(operation, service.err().meta(), service.raw(), signed).with_source(error)
        }
        // Whatever the status says, it may not be the store's.
        SdkError::ResponseError(response) if in_chain::<TooLarge>(&error).is_some() => {
            with_reply(TransportFault::of(&error).to_error(operation), response.raw()).with_source(error)
        }
        SdkError::ResponseError(response) if response.raw().status().is_success() => {
            let fault = TransportFault::of(&error);
            let out = match fault.kind() {
                Some(_) => fault.to_error(operation),
                None => {
                    Error::new(ErrorKind::Corrupt, operation).with_message("the answer cannot be understood")
                }
            };
            with_reply(out, response.raw()).with_source(error)
        }
        SdkError::ResponseError(response) => {
            refused(operation, &Default::default(), response.raw(), signed).with_source(error)
        }
        SdkError::ConstructionFailure(_) => {
            let text = innermost(&error);
            Error::new(ErrorKind::Invalid, operation)
                .with_message(format!("the request cannot be made: {}", one_line(&text)))
                .with_source(error)
        }
        _ => TransportFault::of(&error).to_error(operation).with_source(error),
    }
}

fn refused(
    operation: &'static str,
    meta: &aws_smithy_types::error::ErrorMetadata,
    raw: &HttpResponse,
    signed: Signed<'_>,
) -> Error {
    let header = |name| raw.headers().get(name);
    let body = raw.body().bytes().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let refusal = Refusal {
        operation,
        status: raw.status().as_u16(),
        // For a 404 without a body the SDK makes up a code, which would hide that no S3 answered.
        code: meta.code().filter(|_| !body.is_empty()),
        message: meta.message(),
        request_id: header("x-amz-request-id"),
        retry_after: header("retry-after"),
        region: header("x-amz-bucket-region").or_else(|| element(body, "Region")),
        location: header("location"),
    };
    classify(&refusal, signed)
}

fn with_reply(error: Error, raw: &HttpResponse) -> Error {
    let error = error.with_status(raw.status().as_u16());
    match raw.headers().get("x-amz-request-id") {
        Some(id) => error.with_request_id(id),
        None => error,
    }
}

/// The text of the first `<name>` of a small XML document.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let rest = &xml[xml.find(&format!("<{name}>"))? + name.len() + 2..];
    let text = rest[..rest.find('<')?].trim();
    (!text.is_empty()).then_some(text)
}

/// The first error of type `T` in a chain of causes.
pub(crate) fn in_chain<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

#[cfg(test)]
mod tests;
