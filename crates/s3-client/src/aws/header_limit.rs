//! Refuses answers whose headers are longer than any S3 sends.
//!
//! The HTTP library stops at 400 kB or a hundred headers, and calls that no HTTP; an answer below it would be kept in memory for as long as
//! its body is read. Neither gets better by asking again.

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::http::Headers;

/// Names and values together. S3 allows 2 kB of user metadata and sends some twenty headers more; others allow 8 to 16 kB.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// An answer with too many headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes of headers")]
pub(super) struct TooLarge(usize);

/// Looks at the headers of every answer before its body is read.
#[derive(Debug)]
pub(super) struct HeaderLimit;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for HeaderLimit {
    fn name(&self) -> &'static str {
        "HeaderLimit"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        Ok(check(context.response().headers())?)
    }
}

/// Measures the headers of an answer.
pub(super) fn check(headers: &Headers) -> Result<(), TooLarge> {
    let bytes = headers.iter_bytes().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES { Err(TooLarge(bytes)) } else { Ok(()) }
}
