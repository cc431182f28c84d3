//! The layer that breaks single requests: what a bad network, gateway or server does to S3, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::{Response, StatusCode};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::body::{cut, flip};

/// An error of a stream of bytes; hyper closes the connection on it.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A reply's body.
pub(crate) type WireBody = UnsyncBoxBody<Bytes, BoxError>;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum WireFault {
    /// The connection is reset (RST) after about so many bytes of the body.
    Reset(u64),
    /// The connection is closed (FIN) after so many bytes of the body.
    Close(u64),
    /// The same in a chunked body, which then lacks its last chunk.
    ChunkedClose(u64),
    /// Nothing more comes after so many bytes of the body; the connection stays open.
    Stall(u64),
    /// No byte of a reply comes; the connection stays open.
    Silence,
    /// The reply begins this much later.
    Delay(Duration),
    /// The body comes in pieces of `bytes`, one per `every`.
    Drip {
        /// Bytes per piece.
        bytes: usize,
        /// Time from piece to piece.
        every: Duration,
    },
    /// An error reply.
    Status {
        /// The HTTP status.
        status: u16,
        /// The S3 code in its XML.
        code: &'static str,
        /// The `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// The work is done, and the connection then reset without a reply.
    AnswerLost,
    /// 200 with an error in the body, as S3 answers a completion or copy that fails late. Nothing is done.
    ErrorIn200 {
        /// The S3 code in its XML.
        code: &'static str,
    },
    /// So many spaces come after the XML declaration, one per `every`, as S3 sends while it works.
    WhiteSpace {
        /// How many.
        spaces: usize,
        /// Time from one to the next.
        every: Duration,
    },
    /// The connection is reset after so many bytes of the request's body were read. Nothing is done.
    ResetWhileSending(u64),
    /// Nothing more of the request's body is read after so many bytes; the connection stays open.
    StopReading(u64),
    /// The request's body is read so slowly.
    ReadSlowly {
        /// Bytes at once, at least.
        bytes: usize,
        /// Time from piece to piece.
        every: Duration,
    },
    /// The lowest bit of the byte at this offset of the request's body is turned round on the way.
    SentBitFlip(u64),
    /// 301 PermanentRedirect that names the bucket's region.
    Redirect(&'static str),
    /// 200 with an HTML page, as a captive portal sends.
    Html,
    /// The body ends in its middle, and `Content-Length` agrees.
    CutBody,
    /// The lowest bit of the byte at this offset of the body is turned round.
    BitFlip(u64),
    /// The `ETag` header is left out.
    NoETag,
    /// So many bytes of headers more.
    BigHeaders(usize),
    /// `Content-Range` and body are one byte further on than asked for.
    ShiftedRange,
    /// `Content-Range` is right, the bytes are those one further on. Nothing tells.
    ShiftedBytes,
    /// The reply has the first half of the range that was asked for, and says so.
    ShorterRange,
    /// The reply is 200 with the whole object, whatever range was asked for.
    IgnoredRange,
    /// The condition is not looked at.
    IgnoredIfMatch,
    /// The object is replaced before the request is looked at.
    Replace(Content),
    /// The object is removed before the request is looked at.
    Remove,
    /// The listing's token is that of its request.
    RepeatedToken,
    /// The listing never ends: each page has a new token.
    EndlessTokens,
    /// The page holds all names, however few were asked for.
    IgnoredMaxKeys,
}

impl WireFault {
    /// 500 InternalError.
    pub fn internal_error() -> Self {
        Self::Status { status: 500, code: "InternalError", retry_after: None }
    }

    /// 503 SlowDown.
    pub fn slow_down() -> Self {
        Self::Status { status: 503, code: "SlowDown", retry_after: None }
    }

    /// 400 ExpiredToken.
    pub fn expired_token() -> Self {
        Self::Status { status: 400, code: "ExpiredToken", retry_after: None }
    }
}

/// What the store answers wrongly, since only it has the bytes to do so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lie {
    pub(crate) ignore_range: bool,
    pub(crate) ignore_if_match: bool,
    pub(crate) ignore_max_keys: bool,
    pub(crate) repeat_token: bool,
    pub(crate) endless_tokens: bool,
    shift_range: bool,
    shift_bytes: bool,
    shorten_range: bool,
}

impl Lie {
    pub(crate) fn from_faults(faults: &[WireFault]) -> Self {
        let mut lie = Self::default();
        for fault in faults {
            match fault {
                WireFault::IgnoredRange => lie.ignore_range = true,
                WireFault::IgnoredIfMatch => lie.ignore_if_match = true,
                WireFault::IgnoredMaxKeys => lie.ignore_max_keys = true,
                WireFault::RepeatedToken => lie.repeat_token = true,
                WireFault::EndlessTokens => lie.endless_tokens = true,
                WireFault::ShiftedRange => lie.shift_range = true,
                WireFault::ShiftedBytes => lie.shift_bytes = true,
                WireFault::ShorterRange => lie.shorten_range = true,
                _ => {}
            }
        }
        lie
    }

    /// The range that the reply claims, of an object of `size` bytes.
    pub(crate) fn range(self, asked: ByteRange, size: u64) -> ByteRange {
        if self.shift_range && asked.start + 1 < size {
            return ByteRange::new(asked.start + 1, asked.end + 1).intersect(ByteRange::new(0, size));
        }
        if self.shorten_range {
            return ByteRange::from_len(asked.start, asked.len().div_ceil(2));
        }
        asked
    }

    /// The bytes that the reply then holds.
    pub(crate) fn bytes(self, claimed: ByteRange) -> ByteRange {
        if self.shift_bytes && claimed.start > 0 {
            return ByteRange::new(claimed.start - 1, claimed.end - 1);
        }
        claimed
    }
}

/// What the faulty layer can do to a connection beyond its bytes.
#[derive(Debug, Default)]
pub(crate) struct ConnectionFate {
    reset: AtomicBool,
}

impl ConnectionFate {
    /// The connection is to end in a reset.
    pub(crate) fn doom(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Whether the connection is to end in a reset.
    pub(crate) fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }
}

/// The reply that takes the place of the store's, if a fault asks for one.
pub(crate) fn replacement(fault: &WireFault) -> Option<Response<WireBody>> {
    Some(match fault {
        WireFault::Status { status, code, retry_after } => {
            let mut response = error(*status, code);
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(RETRY_AFTER, (*seconds).into());
            }
            response
        }
        WireFault::ErrorIn200 { code } => error(200, code),
        WireFault::Redirect(region) => {
            let mut response = error(301, "PermanentRedirect");
            let name = HeaderName::from_static("x-amz-bucket-region");
            response.headers_mut().insert(name, HeaderValue::from_static(region));
            response
        }
        WireFault::Html => {
            whole(StatusCode::OK, "text/html", "<html><body>Please log in</body></html>".to_owned())
        }
        _ => return None,
    })
}

/// S3's error document.
pub(crate) fn error(status: u16, code: &str) -> Response<WireBody> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>injected</Message>\
         <RequestId>INJECTED</RequestId></Error>"
    );
    let status = StatusCode::from_u16(status).expect("plans use real HTTP statuses");
    whole(status, "application/xml", xml)
}

/// 200 without a body.
pub(crate) fn empty() -> Response<WireBody> {
    Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync())
}

fn whole(status: StatusCode, content_type: &'static str, text: String) -> Response<WireBody> {
    let mut response =
        Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The reply after `fault` spoiled it.
pub(crate) async fn spoil(
    response: Response<WireBody>,
    fault: WireFault,
    fate: &Arc<ConnectionFate>,
) -> Result<Response<WireBody>, BoxError> {
    let (mut parts, body) = response.into_parts();
    let body = match fault {
        WireFault::Reset(after) => {
            let fate = Arc::clone(fate);
            streamed(cut(pieces(body), after).chain(broken(move || fate.doom())))
        }
        WireFault::Close(after) => streamed(cut(pieces(body), after).chain(broken(|| ()))),
        WireFault::ChunkedClose(after) => {
            parts.headers.remove(CONTENT_LENGTH);
            streamed(cut(pieces(body), after).chain(broken(|| ())))
        }
        WireFault::Stall(after) => streamed(cut(pieces(body), after).chain(stream::pending())),
        WireFault::Drip { bytes, every } => streamed(drip(body, bytes, every)),
        WireFault::BitFlip(at) => streamed(flip(pieces(body), at)),
        WireFault::WhiteSpace { spaces, every } => {
            parts.headers.remove(CONTENT_LENGTH);
            let mut rest = body.collect().await?.to_bytes();
            let declaration = rest.windows(2).position(|pair| pair == b"?>").map_or(0, |at| at + 2);
            let first = rest.split_to(declaration);
            let piece = |bytes| stream::once(std::future::ready(Ok(bytes)));
            streamed(piece(first).chain(blanks(spaces, every)).chain(piece(rest)))
        }
        WireFault::CutBody => {
            let mut bytes = body.collect().await?.to_bytes();
            bytes.truncate(bytes.len() / 2);
            parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
            Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
        }
        WireFault::NoETag => {
            parts.headers.remove(ETAG);
            body
        }
        WireFault::BigHeaders(bytes) => {
            const EACH: usize = 4000;
            let value = HeaderValue::try_from("x".repeat(EACH)).expect("letters make a header");
            for number in 0..bytes.div_ceil(EACH) {
                let name = HeaderName::try_from(format!("x-padding-{number}")).expect("letters make a name");
                parts.headers.insert(name, value.clone());
            }
            body
        }
        WireFault::IgnoredRange => {
            parts.headers.remove(CONTENT_RANGE);
            body
        }
        _ => body,
    };
    Ok(Response::from_parts(parts, body))
}

fn pieces(body: WireBody) -> impl Stream<Item = Result<Bytes, BoxError>> + Send + Unpin {
    body.into_data_stream()
}

fn streamed(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> WireBody {
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// Ends the connection. Waiting once first lets hyper flush what came before.
fn broken(prepare: impl FnOnce() + Send + 'static) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    stream::once(async move {
        tokio::task::yield_now().await;
        prepare();
        Err(BoxError::from("injected"))
    })
}

fn blanks(spaces: usize, every: Duration) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    stream::iter(0..spaces).then(move |_| async move {
        tokio::time::sleep(every).await;
        Ok(Bytes::from_static(b" "))
    })
}

/// Whether a fault concerns the body of a request.
pub(crate) fn hinders(fault: &WireFault) -> bool {
    use WireFault::{ReadSlowly, ResetWhileSending, SentBitFlip, StopReading};
    matches!(fault, ResetWhileSending(_) | StopReading(_) | ReadSlowly { .. } | SentBitFlip(_))
}

/// The body of a request as a fault lets it through.
pub(crate) fn hinder(body: WireBody, fault: &WireFault, fate: &Arc<ConnectionFate>) -> WireBody {
    match *fault {
        WireFault::ResetWhileSending(after) => {
            let fate = Arc::clone(fate);
            streamed(cut(pieces(body), after).chain(broken(move || fate.doom())))
        }
        WireFault::StopReading(after) => streamed(cut(pieces(body), after).chain(stream::pending())),
        WireFault::ReadSlowly { bytes, every } => streamed(drip(body, bytes, every)),
        WireFault::SentBitFlip(at) => streamed(flip(pieces(body), at)),
        _ => body,
    }
}

fn drip(body: WireBody, size: usize, every: Duration) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    stream::try_unfold((pieces(body), Bytes::new()), move |(mut pieces, mut rest)| async move {
        while rest.is_empty() {
            match pieces.next().await.transpose()? {
                Some(piece) => rest = piece,
                None => return Ok(None),
            }
        }
        tokio::time::sleep(every).await;
        let piece = rest.split_to(size.clamp(1, rest.len()));
        Ok(Some((piece, (pieces, rest))))
    })
}
