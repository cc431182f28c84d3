//! The bytes of a GET: cut to what was asked for, checked against the checksum that S3 stored.
//!
//! The last piece of a checked body is held back until the checksum agrees, so a small object is never handed out unchecked.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_checksums::http::HttpChecksum;
use aws_smithy_checksums::{Checksum, ChecksumAlgorithm};
use bytes::Bytes;
use futures::Stream;

use super::transport::TransportFault;
use crate::error::{Error, ErrorKind, Result};

/// A checksum in the making, and what it must come to.
pub(crate) struct Verifier {
    sum: Box<dyn HttpChecksum>,
    expected: Vec<u8>,
    name: &'static str,
}

impl Verifier {
    /// The cheapest whole-object checksum among the headers. A multipart object's checksum of checksums (`...-3`, type `COMPOSITE`) says
    /// nothing that can be computed from the bytes alone.
    pub(crate) fn of(output: &GetObjectOutput) -> Option<Self> {
        if output.checksum_type().is_some_and(|kind| kind.as_str() == "COMPOSITE") {
            return None;
        }
        let offered = [
            (ChecksumAlgorithm::Crc64Nvme, output.checksum_crc64_nvme()),
            (ChecksumAlgorithm::Crc32c, output.checksum_crc32_c()),
            (ChecksumAlgorithm::Crc32, output.checksum_crc32()),
            (ChecksumAlgorithm::Sha1, output.checksum_sha1()),
            (ChecksumAlgorithm::Sha256, output.checksum_sha256()),
        ];
        offered.into_iter().find_map(|(algorithm, text)| Self::new(algorithm, text?))
    }

    fn new(algorithm: ChecksumAlgorithm, text: &str) -> Option<Self> {
        let expected = aws_smithy_types::base64::decode(text).ok()?;
        let sum = algorithm.into_impl();
        let right_size = Checksum::size(&*sum) == expected.len() as u64;
        right_size.then(|| Self { sum, expected, name: algorithm.as_str() })
    }

    fn verify(self) -> Result<(), String> {
        let actual = self.sum.finalize();
        let encode = |bytes: &[u8]| aws_smithy_types::base64::encode(bytes);
        if actual == self.expected {
            return Ok(());
        }
        let (actual, expected) = (encode(&actual), encode(&self.expected));
        Err(format!("the bytes have {} {actual}, but {expected} was stored with them", self.name))
    }
}

/// Names the object in the errors of its body.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) bucket: Arc<str>,
    pub(crate) key: Arc<str>,
}

impl Subject {
    fn name(&self, error: Error) -> Error {
        error.with_bucket(&self.bucket).with_key(&self.key)
    }
}

/// The stream behind a [`GetReply`](crate::GetReply).
pub(crate) struct Body {
    inner: Option<ByteStream>,
    /// Bytes still to be handed out.
    left: u64,
    verifier: Option<Verifier>,
    subject: Subject,
}

impl Body {
    /// The first `len` bytes of `inner`; a verifier must be of exactly those bytes.
    pub(crate) fn new(inner: ByteStream, len: u64, verifier: Option<Verifier>, subject: Subject) -> Self {
        Self { inner: Some(inner), left: len, verifier, subject }
    }

    fn fail(&mut self, error: Error) -> Poll<Option<Result<Bytes>>> {
        self.inner = None;
        Poll::Ready(Some(Err(self.subject.name(error))))
    }

    /// Accounts for a piece and checks the sum once all are here.
    fn accept(&mut self, mut piece: Bytes) -> Result<Bytes, Error> {
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        if let Some(verifier) = &mut self.verifier {
            verifier.sum.update(&piece);
        }
        if self.left == 0
            && let Some(Err(message)) = self.verifier.take().map(Verifier::verify)
        {
            return Err(Error::new(ErrorKind::Corrupt, "get")
                .with_code("ChecksumMismatch")
                .with_message(message));
        }
        Ok(piece)
    }
}

impl Stream for Body {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            match ready!(Pin::new(inner).poll_next(cx)) {
                Some(Ok(piece)) if piece.is_empty() => {}
                // More than was announced, or the rest of a whole object of which a part was wanted.
                Some(Ok(_)) if this.left == 0 => {
                    this.inner = None;
                }
                Some(Ok(piece)) => match this.accept(piece) {
                    Ok(piece) => return Poll::Ready(Some(Ok(piece))),
                    Err(error) => return this.fail(error),
                },
                Some(Err(error)) => {
                    let fault = TransportFault::of(&error).to_error("get");
                    return this.fail(fault.with_source(error));
                }
                None => {
                    this.inner = None;
                    // The HTTP layer notices a short body of known length; this is for the others.
                    if this.left > 0 {
                        let message = format!("the body ended {} bytes early", this.left);
                        return this.fail(
                            Error::new(ErrorKind::Transient, "get")
                                .with_code("BodyCut")
                                .with_message(message),
                        );
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::ChecksumType;
    use aws_smithy_types::body::SdkBody;
    use futures::StreamExt;

    use super::*;

    async fn read(bytes: &'static str, len: u64, verifier: Option<Verifier>) -> (String, Option<ErrorKind>) {
        let subject = Subject { bucket: Arc::from("s3://b"), key: Arc::from("k") };
        let mut body = Body::new(ByteStream::new(SdkBody::from(bytes)), len, verifier, subject);
        let mut out = String::new();
        while let Some(piece) = body.next().await {
            match piece {
                Ok(piece) => out.push_str(std::str::from_utf8(&piece).unwrap()),
                Err(error) => {
                    assert!(error.to_string().starts_with("get s3://b/k: "), "{error}");
                    assert!(body.next().await.is_none(), "an error ends the stream");
                    return (out, Some(error.kind()));
                }
            }
        }
        (out, None)
    }

    #[tokio::test]
    async fn a_body_is_cut_to_its_length_and_missed_bytes_are_told() {
        assert_eq!(read("hello", 5, None).await, ("hello".into(), None));
        assert_eq!(read("hello world", 5, None).await, ("hello".into(), None));
        assert_eq!(read("hel", 5, None).await, ("hel".into(), Some(ErrorKind::Transient)));
        assert_eq!(read("", 0, None).await, (String::new(), None));
    }

    #[tokio::test]
    async fn a_wrong_checksum_keeps_the_last_piece_back() {
        // crc32 of "hello" is 0x3610a686.
        let verifier = || Verifier::new(ChecksumAlgorithm::Crc32, "NhCmhg==");
        assert!(verifier().is_some());
        assert_eq!(read("hello", 5, verifier()).await, ("hello".into(), None));
        assert_eq!(read("jello", 5, verifier()).await, (String::new(), Some(ErrorKind::Corrupt)));
    }

    #[test]
    fn checksums_of_checksums_are_left_alone() {
        let output = || GetObjectOutput::builder();
        assert!(Verifier::of(&output().checksum_crc32("NhCmhg==").build()).is_some());
        for unusable in [
            output().build(),
            output().checksum_crc32("NhCmhg==").checksum_type(ChecksumType::Composite).build(),
            output().checksum_crc32("NhCmhg==-2").build(),
            output().checksum_crc32("not base64").build(),
            output().checksum_sha256("NhCmhg==").build(),
        ] {
            assert!(Verifier::of(&unusable).is_none(), "{unusable:?}");
        }
    }
}
