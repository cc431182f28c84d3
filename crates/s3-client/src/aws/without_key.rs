//! Leaves the key out of answers that repeat it.
//!
//! A key may have control characters, which XML 1.0 has not, in escapes or not: the SDK could not read the answer to a request that
//! succeeded. Nobody needs to be told the key that was sent.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextMut;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

const TAG: &[u8] = b"<Key>";

/// Empties each `<Key>` of a document that comes in pieces.
#[derive(Debug, Default)]
struct Filter {
    /// How much of the tag came last; all of it while its text is skipped.
    matched: usize,
}

impl Filter {
    fn pass(&mut self, piece: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(piece.len());
        for &byte in piece {
            if self.matched == TAG.len() {
                if byte != b'<' {
                    continue;
                }
                self.matched = 0;
            }
            self.matched = match byte {
                byte if byte == TAG[self.matched] => self.matched + 1,
                b'<' => 1,
                _ => 0,
            };
            out.push(byte);
        }
        out.into()
    }
}

/// Puts the filter around one answer.
#[derive(Debug)]
pub(super) struct WithoutKey;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for WithoutKey {
    fn name(&self) -> &'static str {
        "WithoutKey"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let filtered = FilteredBody { inner: response.take_body(), filter: Filter::default() };
        *response.body_mut() = SdkBody::from_body_1_x(filtered);
        Ok(())
    }
}

struct FilteredBody {
    inner: SdkBody,
    filter: Filter,
}

impl Body for FilteredBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|piece| self.filter.pass(&piece)))))
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
    use super::*;

    #[test]
    fn keys_are_emptied_wherever_the_network_cuts() {
        let answer = b"<R><Bucket>b</Bucket><Key>a\x01&#x1;b</Key><<Key>x</Key><Keys>y</Keys><Key/></R>";
        let expected = b"<R><Bucket>b</Bucket><Key></Key><<Key></Key><Keys>y</Keys><Key/></R>";
        for size in 1..=answer.len() {
            let mut filter = Filter::default();
            let out: Vec<u8> = answer.chunks(size).flat_map(|piece| filter.pass(piece)).collect();
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(expected), "pieces of {size}");
        }
    }
}
