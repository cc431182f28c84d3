//! GetObject: which bytes an answer really holds, and whether S3's own checksum can vouch for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::get_object::{GetObject, GetObjectOutput};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};

use super::body::{Body, Subject, Verifier};
use super::fields::with_key;
use super::head::{storage_class, timestamp};
use super::lean::{ChecksumMode, Lean, Wanted};
use super::{AwsBucket, Sent, Session};
use crate::bucket::{GetReply, GetRequest, ObjectMeta};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ETag};

impl AwsBucket {
    pub(super) async fn get_once(&self, session: &Session, request: &GetRequest) -> Result<GetReply> {
        if request.range.is_some() || self.refuses_checksum_mode() {
            return self.get_with(session, request, ChecksumMode::Omit).await;
        }
        let refused = match self.get_with(session, request, ChecksumMode::Ask).await {
            Err(error) if may_refuse_the_header(&error) => error,
            other => return other,
        };
        match self.get_with(session, request, ChecksumMode::Omit).await {
            Ok(reply) => {
                self.stop_asking_for_checksums(&refused);
                Ok(reply)
            }
            // The header was not the reason.
            Err(_) => Err(refused),
        }
    }

    async fn get_with(
        &self,
        session: &Session,
        request: &GetRequest,
        mode: ChecksumMode,
    ) -> Result<GetReply> {
        let wanted = Wanted {
            range: range_header(request.range)?,
            if_match: request.if_match.as_ref().map(ETag::to_string),
            checksum: mode,
            ..Wanted::new(request.key.as_str())
        };
        let (output, status) = match self.lean_get(session).await {
            Some(lean) => {
                lean.send(&wanted, session.keys(), self.clock.now()).await.sent("get", session, self)?
            }
            None => {
                let reply = Reply::new(mode);
                let status = Arc::clone(&reply.status);
                let call = self.sdk_get(session, &wanted).customize().interceptor(reply);
                (call.send().await.sent("get", session, self)?, status.load(Ordering::Relaxed))
            }
        };
        self.to_reply(request, output, status)
    }

    /// The short way of sending GETs, if there is one over this connection.
    pub(super) async fn lean_get<'a>(&self, session: &'a Session) -> Option<&'a Lean<GetObject>> {
        let call = |wanted: &Wanted<'_>, settings| {
            let call = self.sdk_get(session, wanted).customize().interceptor(Reply::new(wanted.checksum));
            // It always fails: where it would have been sent, or before that.
            async { drop(call.config_override(settings).send().await) }
        };
        let learn = || Lean::learn(&self.template.http, session.keys(), self.clock.now(), call);
        session.connection.lean_get.get_or_init(learn).await.as_ref()
    }

    pub(super) fn sdk_get(&self, session: &Session, wanted: &Wanted<'_>) -> GetObjectFluentBuilder {
        let call = with_key!(self.settings, session.client.get_object()).key(wanted.key);
        call.set_range(wanted.range.clone()).set_if_match(wanted.if_match.clone())
    }

    fn to_reply(&self, request: &GetRequest, mut output: GetObjectOutput, status: u16) -> Result<GetReply> {
        let corrupt =
            |message: &str| Error::new(ErrorKind::Corrupt, "get").with_status(status).with_message(message);
        let Some(etag) = output.e_tag().map(ETag::new) else {
            let html = output.content_type().is_some_and(|kind| kind.starts_with("text/html"));
            return Err(corrupt(match html {
                true => {
                    "the answer is a web page, no object; something between here and S3 answers in its place"
                }
                false => "the answer has no ETag; this is no object of S3",
            }));
        };
        let length = output.content_length().and_then(|len| u64::try_from(len).ok());
        let held = Held::judge(status, length, output.content_range()).map_err(corrupt)?;
        let range = held.cut(request.range).map_err(corrupt)?;
        let meta = ObjectMeta {
            size: held.size,
            etag: Some(etag),
            last_modified: timestamp(output.last_modified()),
            storage_class: storage_class(output.storage_class().map(|class| class.as_str())),
        };
        let verifier = if request.range.is_none() { Verifier::of(&output) } else { None };
        let subject =
            Subject { bucket: Arc::clone(&self.identity.name), key: Arc::from(request.key.as_str()) };
        let bytes = std::mem::take(&mut output.body);
        Ok(GetReply { meta, range, body: Box::pin(Body::new(bytes, range.len(), verifier, subject)) })
    }
}

/// The header `Range`; HTTP cannot ask for no bytes.
fn range_header(range: Option<ByteRange>) -> Result<Option<String>> {
    match range {
        None => Ok(None),
        Some(range) if range.is_empty() => {
            Err(Error::new(ErrorKind::Invalid, "get")
                .with_message("a range without bytes cannot be asked for"))
        }
        Some(range) => Ok(Some(format!("bytes={}-{}", range.start, range.end - 1))),
    }
}

/// Which bytes of an object of which size a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    range: ByteRange,
    size: u64,
}

impl Held {
    /// Reads status, `Content-Length` and `Content-Range` as RFC 9110 means them.
    fn judge(status: u16, length: Option<u64>, content_range: Option<&str>) -> Result<Self, &'static str> {
        match (status, content_range) {
            (206, Some(text)) => {
                let held = Self::parse(text).ok_or("the answer's Content-Range cannot be understood")?;
                if length.is_some_and(|len| len != held.range.len()) {
                    return Err("Content-Range and Content-Length of the answer contradict each other");
                }
                Ok(held)
            }
            (206, None) => Err("the answer is partial but has no Content-Range"),
            _ => {
                let size = length.ok_or("the answer has no Content-Length")?;
                Ok(Self { range: ByteRange::new(0, size), size })
            }
        }
    }

    /// `bytes 0-9/100`
    fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, size): (u64, u64, u64) =
            (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
        (first <= last && last < size).then(|| Self { range: ByteRange::new(first, last + 1), size })
    }

    /// The part of the held bytes that serves `wanted`. Answers with other bytes than asked for are returned as they are, for
    /// the checks above to refuse.
    fn cut(self, wanted: Option<ByteRange>) -> Result<ByteRange, &'static str> {
        let whole = self.range == ByteRange::new(0, self.size);
        match wanted {
            Some(wanted) if whole && wanted.start == 0 => Ok(wanted.intersect(self.range)),
            Some(wanted) if whole && wanted != self.range => {
                Err("the endpoint ignores Range: it sent the whole object")
            }
            _ => Ok(self.range),
        }
    }
}

/// Servers that do not know the header say 400 or 501, without a code that explains it otherwise.
fn may_refuse_the_header(error: &Error) -> bool {
    matches!(error.status(), Some(400 | 501))
        && matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported)
}

/// Adds `x-amz-checksum-mode` and notes the status. Through the SDK's own setting the SDK would verify too, and warn about every
/// multipart object.
#[derive(Debug)]
pub(super) struct Reply {
    status: Arc<AtomicU16>,
    mode: ChecksumMode,
}

impl Reply {
    pub(super) fn new(mode: ChecksumMode) -> Self {
        Self { status: Arc::default(), mode }
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Reply {
    fn name(&self) -> &'static str {
        "Reply"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.mode == ChecksumMode::Ask {
            context.request_mut().headers_mut().insert("x-amz-checksum-mode", "ENABLED");
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.status.store(context.response().status().as_u16(), Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(start: u64, end: u64, size: u64) -> Held {
        Held { range: ByteRange::new(start, end), size }
    }

    #[test]
    fn answers_tell_which_bytes_they_hold() {
        for (status, length, content_range, expected) in [
            (200, Some(100), None, Some(held(0, 100, 100))),
            (200, Some(0), None, Some(held(0, 0, 0))),
            (200, None, None, None),
            (206, Some(10), Some("bytes 0-9/100"), Some(held(0, 10, 100))),
            (206, None, Some("bytes 90-99/100"), Some(held(90, 100, 100))),
            (206, Some(9), Some("bytes 0-9/100"), None),
            (206, Some(10), None, None),
            (206, Some(10), Some("bytes 0-9/*"), None),
            (206, Some(10), Some("bytes 9-0/100"), None),
            (206, Some(10), Some("bytes 95-104/100"), None),
            (206, Some(10), Some("items 0-9/100"), None),
        ] {
            assert_eq!(
                Held::judge(status, length, content_range).ok(),
                expected,
                "{status} {length:?} {content_range:?}"
            );
        }
    }

    #[test]
    fn a_whole_object_serves_a_range_from_its_start_alone() {
        let range = |start, end| Some(ByteRange::new(start, end));
        assert_eq!(held(0, 100, 100).cut(None).ok(), range(0, 100));
        assert_eq!(held(0, 100, 100).cut(range(0, 10)).ok(), range(0, 10));
        assert_eq!(held(0, 100, 100).cut(range(0, 1000)).ok(), range(0, 100));
        assert_eq!(held(0, 100, 100).cut(range(50, 60)).ok(), None);
        assert_eq!(held(50, 60, 100).cut(range(50, 60)).ok(), range(50, 60));
        assert_eq!(held(40, 50, 100).cut(range(50, 60)).ok(), range(40, 50));
    }

    #[test]
    fn range_headers_have_inclusive_ends() {
        assert_eq!(range_header(Some(ByteRange::new(0, 1))).unwrap().as_deref(), Some("bytes=0-0"));
        assert_eq!(range_header(None).unwrap(), None);
        assert!(range_header(Some(ByteRange::new(5, 5))).is_err());
    }
}
