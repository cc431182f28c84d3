//! What can be done to the bytes of any body: cut short, a bit turned round. For faults inside a process and on a wire.

use std::future::ready;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

/// The first `bytes` of a body.
pub fn cut<E>(
    body: impl Stream<Item = Result<Bytes, E>>,
    bytes: u64,
) -> impl Stream<Item = Result<Bytes, E>> {
    body.scan(bytes, |left, piece| {
        if *left == 0 {
            return ready(None);
        }
        let piece = piece.map(|piece| {
            let taken = piece.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= taken as u64;
            piece.slice(..taken)
        });
        ready(Some(piece))
    })
}

/// The body with the lowest bit of the byte at `offset` turned round.
pub fn flip<E>(
    body: impl Stream<Item = Result<Bytes, E>>,
    offset: u64,
) -> impl Stream<Item = Result<Bytes, E>> {
    body.scan(0_u64, move |at, piece| {
        let piece = piece.map(|piece| {
            let inside = usize::try_from(offset.wrapping_sub(*at)).unwrap_or(usize::MAX);
            *at += piece.len() as u64;
            let mut piece = BytesMut::from(&*piece);
            if let Some(byte) = piece.get_mut(inside) {
                *byte ^= 1;
            }
            piece.freeze()
        });
        ready(Some(piece))
    })
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    const PIECES: [Result<&[u8], &str>; 4] = [Ok(b"abc"), Ok(b"de"), Err("broken"), Ok(b"f")];

    fn body() -> impl Stream<Item = Result<Bytes, &'static str>> {
        stream::iter(PIECES.map(|piece| piece.map(Bytes::from_static)))
    }

    async fn text(body: impl Stream<Item = Result<Bytes, &'static str>>) -> String {
        let pieces: Vec<_> = body.collect().await;
        let text = |piece: &Result<Bytes, &str>| match piece {
            Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Err(error) => format!("({error})"),
        };
        pieces.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn a_cut_body_ends_after_its_last_byte() {
        for (bytes, expected) in [
            (0, ""),
            (2, "ab"),
            (3, "abc"),
            (4, "abc d"),
            (5, "abc de"),
            (6, "abc de (broken) f"),
            (9, "abc de (broken) f"),
        ] {
            assert_eq!(text(cut(body(), bytes)).await, expected, "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_flip_changes_one_byte_in_whatever_piece() {
        for (offset, expected) in [
            (0, "`bc de (broken) f"),
            (4, "abc dd (broken) f"),
            (5, "abc de (broken) g"),
            (6, "abc de (broken) f"),
        ] {
            assert_eq!(text(flip(body(), offset)).await, expected, "{offset}");
        }
    }
}
