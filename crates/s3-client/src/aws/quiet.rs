//! A limit on silence within an answer, for requests that S3 works on for minutes.
//!
//! S3 answers 200 at once and then sends white space until a completion or copy is done; the answer may last, but it may not fall silent.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextMut;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

/// How long an answer may be silent, before its first byte and after any. Other servers than Amazon's send no white space.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// The answer fell silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer stopped for {:?}", SILENCE_LIMIT)]
pub(super) struct Silence;

/// Puts the limit on one answer.
#[derive(Debug, Default)]
pub(super) struct AnswerLimit;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for AnswerLimit {
    fn name(&self) -> &'static str {
        "AnswerLimit"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let limited = LimitedBody { inner: response.take_body(), timer: Box::pin(sleep(SILENCE_LIMIT)) };
        *response.body_mut() = SdkBody::from_body_1_x(limited);
        Ok(())
    }
}

struct LimitedBody {
    inner: SdkBody,
    timer: Pin<Box<Sleep>>,
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.timer.as_mut().reset(Instant::now() + SILENCE_LIMIT);
            return Poll::Ready(frame);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Silence.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
