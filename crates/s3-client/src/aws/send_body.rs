//! The body of a request: shared pieces of known length, cut small enough that progress shows.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::bucket::Payload;

/// Bytes handed over at once. The HTTP library queues sixteen pieces or 400 kB, which is how far the count may be ahead of the socket.
const PIECE_BYTES: usize = 64 << 10;

/// The body as the SDK takes it. Nothing is copied.
pub(super) fn byte_stream(payload: &Payload) -> ByteStream {
    ByteStream::new(SdkBody::from_body_1_x(SendBody {
        pieces: payload.pieces().iter().cloned().collect(),
        left: payload.len(),
        payload: payload.clone(),
    }))
}

struct SendBody {
    pieces: VecDeque<Bytes>,
    left: u64,
    payload: Payload,
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(first) = self.pieces.front_mut() else { return Poll::Ready(None) };
        let piece = first.split_to(first.len().min(PIECE_BYTES));
        if first.is_empty() {
            self.pieces.pop_front();
        }
        let len = piece.len() as u64;
        self.left -= len;
        self.payload.note_sent(len);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bucket::Progress;

    #[tokio::test]
    async fn pieces_are_sent_in_order_and_counted() {
        let pieces: Vec<Bytes> =
            [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 5].map(|len| vec![len as u8; len].into()).to_vec();
        let payload = Payload::from(pieces.clone());
        let progress = Arc::new(Progress::default());
        let watched = payload.watched_by(Arc::clone(&progress));
        let stream = byte_stream(&watched);
        assert_eq!(stream.size_hint(), (payload.len(), Some(payload.len())));
        assert_eq!(progress.sent_bytes(), 0);
        let sent = stream.collect().await.unwrap().into_bytes();
        assert!(sent == pieces.concat());
        assert_eq!(progress.sent_bytes(), payload.len());
    }
}
