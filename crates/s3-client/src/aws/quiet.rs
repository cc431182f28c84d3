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

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use bytes::Buf;
    use futures::{StreamExt, stream};

    use super::*;

    /// Bytes so many seconds apart, and then no more.
    struct Slowly(Pin<Box<dyn futures::Stream<Item = Bytes> + Send + Sync>>);

    impl Body for Slowly {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.0.poll_next_unpin(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// How many of these pieces come through.
    async fn read(waits: &'static [u64]) -> Result<usize, String> {
        let pieces = stream::iter(waits).then(|wait| async {
            sleep(Duration::from_secs(*wait)).await;
            Bytes::from_static(b" ")
        });
        let inner = SdkBody::from_body_1_x(Slowly(Box::pin(pieces)));
        let body = LimitedBody { inner, timer: Box::pin(sleep(SILENCE_LIMIT)) };
        let stream = aws_sdk_s3::primitives::ByteStream::new(SdkBody::from_body_1_x(body));
        let all = stream.collect().await;
        all.map(|bytes| bytes.remaining())
            .map_err(|e| e.source().map(ToString::to_string).unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn answers_may_last_but_not_fall_silent() {
        assert_eq!(read(&[59, 59, 59, 59]).await, Ok(4));
        assert_eq!(read(&[59, 61, 1]).await, Err(Silence.to_string()));
        assert_eq!(read(&[61]).await, Err(Silence.to_string()));
    }
}
