//! Watches the body of a listing as it arrives, since the SDK's parser forgives too much.
//!
//! It takes an XML document that was cut in the middle for a shorter listing, and works for seconds on deep nesting. Here the
//! body has a size limit and a depth limit, and must end with the listing's closing tag.

use std::pin::Pin;
use std::task::{Context, Poll};

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextMut;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A page of 1000 keys of 1024 bytes, each byte escaped, stays below 4 MiB.
const MAX_BODY_BYTES: usize = 16 << 20;
/// A listing nests 4 deep (`ListBucketResult/Contents/Owner/ID`).
const MAX_DEPTH: i32 = 32;
/// Closing tag and the white space after it.
const TAIL_BYTES: usize = 64;

/// Why a body is no whole list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerFault {
    #[error("the answer is over {} MiB long", MAX_BODY_BYTES >> 20)]
    TooLong,
    #[error("the answer nests more than {MAX_DEPTH} elements")]
    TooDeep,
    #[error("the answer was cut: it does not end with </{0}>")]
    Cut(&'static str),
    #[error("the answer is no {0}; this may be no S3 endpoint")]
    NotXml(&'static str),
}

/// Judges the bytes of one body, in order.
#[derive(Debug)]
struct Watch {
    /// The name of the root element.
    root: &'static str,
    seen: usize,
    xml: XmlDepth,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Watch {
    fn of(root: &'static str) -> Self {
        Self { root, seen: 0, xml: XmlDepth::default(), head: Vec::new(), tail: Vec::new() }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), AnswerFault> {
        self.seen += bytes.len();
        if self.seen > MAX_BODY_BYTES {
            return Err(AnswerFault::TooLong);
        }
        self.note_head(bytes);
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        if self.xml.feed(bytes) > MAX_DEPTH { Err(AnswerFault::TooDeep) } else { Ok(()) }
    }

    /// White space in a row counts once: S3 sends it until it knows what to answer.
    fn note_head(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.head.len() == HEAD_BYTES {
                break;
            }
            if !byte.is_ascii_whitespace() {
                self.head.push(*byte);
            } else if self.head.last().is_some_and(|last| *last != b' ') {
                self.head.push(b' ');
            }
        }
    }

    fn end(&self) -> Result<(), AnswerFault> {
        let contains = |name: String| self.head.windows(name.len()).any(|w| w == name.as_bytes());
        // An error in place of the answer is for the SDK to read. Those of single keys stand inside of it.
        let is_error = !contains(format!("<{}", self.root)) && contains("<Error>".to_owned());
        let root = if is_error { "Error" } else { self.root };
        let begun = contains(format!("<{root}"));
        let tail = self.tail.trim_ascii_end();
        let closed = tail.ends_with(format!("</{root}>").as_bytes()) || tail.ends_with(b"/>");
        if begun && closed && self.xml.depth == 0 {
            return Ok(());
        }
        // Cut before the root element can be told from a page of something else by its beginning alone.
        let xml = self.head.is_empty() || self.head.starts_with(b"<?xml");
        Err(if begun || xml { AnswerFault::Cut(self.root) } else { AnswerFault::NotXml(self.root) })
    }
}

/// Enough for the XML declaration and the root element.
const HEAD_BYTES: usize = 512;

/// Counts open elements; not a parser, and wrong only about documents that S3 never sends (CDATA with tags in it).
#[derive(Debug, Default)]
struct XmlDepth {
    depth: i32,
    deepest: i32,
    state: XmlState,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum XmlState {
    #[default]
    Text,
    /// After `<`.
    Open,
    /// Inside a tag that counted; the last byte was `/` or not.
    Tag { slash: bool },
    /// Inside `</...>`, `<?...>` or `<!...>`.
    Other,
}

impl XmlDepth {
    /// The deepest nesting so far.
    fn feed(&mut self, bytes: &[u8]) -> i32 {
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (XmlState::Text, b'<') => XmlState::Open,
                (XmlState::Open, b'/') => {
                    self.depth -= 1;
                    XmlState::Other
                }
                (XmlState::Open, b'?' | b'!') => XmlState::Other,
                (XmlState::Open, _) => {
                    self.depth += 1;
                    self.deepest = self.deepest.max(self.depth);
                    if byte == b'>' { XmlState::Text } else { XmlState::Tag { slash: false } }
                }
                (XmlState::Tag { slash: true }, b'>') => {
                    self.depth -= 1;
                    XmlState::Text
                }
                (XmlState::Tag { .. } | XmlState::Other, b'>') => XmlState::Text,
                (XmlState::Tag { .. }, byte) => XmlState::Tag { slash: byte == b'/' },
                (state, _) => state,
            };
        }
        self.deepest
    }
}

/// A body that fails where [`Watch`] objects.
#[derive(Debug)]
struct WatchedBody {
    inner: SdkBody,
    watch: Watch,
    /// An answer that is no success has another root element.
    whole: bool,
    done: bool,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let verdict = match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let fed = frame.data_ref().map_or(Ok(()), |bytes| self.watch.feed(bytes));
                fed.map(|()| Some(frame))
            }
            Some(Err(error)) => {
                self.done = true;
                return Poll::Ready(Some(Err(error)));
            }
            None if self.whole => self.watch.end().map(|()| None),
            None => Ok(None),
        };
        self.done = !matches!(verdict, Ok(Some(_)));
        Poll::Ready(match verdict {
            Ok(frame) => frame.map(Ok),
            Err(fault) => Some(Err(fault.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        // The end must be polled for, since it may be a fault.
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Puts a [`WatchedBody`] around one answer.
#[derive(Debug)]
pub(crate) struct WatchAnswer(&'static str);

impl WatchAnswer {
    /// The answer's root element has this name.
    pub(crate) fn named(root: &'static str) -> Self {
        Self(root)
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for WatchAnswer {
    fn name(&self) -> &'static str {
        "WatchAnswer"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response_mut();
        let whole = response.status().is_success();
        let inner = response.take_body();
        let watched = WatchedBody { inner, watch: Watch::of(self.0), whole, done: false };
        *response.body_mut() = SdkBody::from_body_1_x(watched);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "ListBucketResult";

    fn judge(body: &[u8]) -> Result<(), AnswerFault> {
        // One byte at a time: a fault must not depend on where the network cuts.
        let mut split = Watch::of(ROOT);
        let split = body.iter().try_for_each(|b| split.feed(&[*b])).and_then(|()| split.end());
        let mut whole = Watch::of(ROOT);
        let whole = whole.feed(body).and_then(|()| whole.end());
        assert_eq!(split, whole);
        whole
    }

    #[test]
    fn a_whole_listing_passes() {
        for body in [
            "<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x/y\"><A/><IsTruncated>false</IsTruncated></ListBucketResult>",
            "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"/>",
            "<ListBucketResult><Contents><Owner><ID>1</ID></Owner></Contents></ListBucketResult>\n  \n",
        ] {
            assert_eq!(judge(body.as_bytes()), Ok(()), "{body}");
        }
    }

    #[test]
    fn a_cut_listing_does_not() {
        let body =
            "<?xml version=\"1.0\"?><ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>";
        for len in 0..body.len() {
            let expected =
                if len == 0 || len >= 5 { AnswerFault::Cut(ROOT) } else { AnswerFault::NotXml(ROOT) };
            assert_eq!(judge(&body.as_bytes()[..len]), Err(expected), "{len}");
        }
        assert_eq!(judge(b"<!doctype html><html>Please log in</html>"), Err(AnswerFault::NotXml(ROOT)));
    }

    #[test]
    fn an_answer_of_another_kind_is_told() {
        assert_eq!(judge(b"<Error><Code>InternalError</Code></Error>"), Ok(()));
        assert_eq!(judge(b"<Error><Code>InternalError</Co"), Err(AnswerFault::Cut(ROOT)));
        let inside = b"<ListBucketResult><Error><Code>AccessDenied</Code></Error></ListBucketResult>";
        assert_eq!(judge(inside), Ok(()));
        assert_eq!(judge(&inside[..60]), Err(AnswerFault::Cut(ROOT)));
        assert_eq!(judge(b"<CopyObjectResult></CopyObjectResult>"), Err(AnswerFault::NotXml(ROOT)));
        let spaces = " \n".repeat(5000);
        let waited = format!("<?xml version=\"1.0\"?>{spaces}<ListBucketResult>{spaces}</ListBucketResult>");
        assert_eq!(judge(waited.as_bytes()), Ok(()));
        assert_eq!(judge(b"<ListBucketResult><Contents><Key/>"), Err(AnswerFault::Cut(ROOT)));
    }

    #[test]
    fn nesting_and_length_have_limits() {
        let nested = |n: usize| {
            format!("<ListBucketResult>{}{}</ListBucketResult>", "<a b=\"/\">".repeat(n), "</a>".repeat(n))
        };
        assert_eq!(judge(nested(31).as_bytes()), Ok(()));
        assert_eq!(judge(nested(32).as_bytes()), Err(AnswerFault::TooDeep));
        let many = format!("<ListBucketResult>{}</ListBucketResult>", "<a/><b></b>".repeat(1000));
        assert_eq!(judge(many.as_bytes()), Ok(()));
        let mut watch = Watch::of(ROOT);
        let mebibyte = vec![b' '; 1 << 20];
        for _ in 0..16 {
            watch.feed(&mebibyte).unwrap();
        }
        assert_eq!(watch.feed(b" "), Err(AnswerFault::TooLong));
    }
}
