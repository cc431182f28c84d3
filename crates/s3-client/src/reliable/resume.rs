//! Goes on with a body that broke, ended early or stalled, from the byte it had reached.
//!
//! The rest is a new ranged GET under If-Match of the first reply's ETag, so that the bytes of two versions never mix. Each piece that
//! arrives begins a new operation: any progress resets the attempts and the deadline, and an unread body's time does not count.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::time::timeout;

use crate::bucket::{BodyStream, GetReply, GetRequest, ObjectMeta};
use crate::error::{Error, ErrorKind, Result};
use crate::key::ByteRange;
use crate::reliable::{Attempts, Shared};
use crate::verify;

/// The bytes of `wanted`, of which `reply` is the first part or all. `request` is what `reply` answers.
pub(crate) fn body(
    shared: Arc<Shared>,
    request: GetRequest,
    wanted: ByteRange,
    reply: GetReply,
) -> BodyStream {
    let end = match request.range {
        None => End::Checksum,
        Some(_) if reply.range.end > wanted.end => End::Cut,
        Some(_) => End::Exact,
    };
    let resumed = Resumed {
        shared,
        request: GetRequest { if_match: reply.meta.etag.clone().or(request.if_match), ..request },
        first: reply.meta,
        start: wanted.start,
        at: wanted.start,
        end_byte: wanted.end,
        body: Some(reply.body),
        end,
        ended: false,
    };
    Box::pin(stream::unfold(resumed, |mut resumed| async { Some((resumed.next().await?, resumed)) }))
}

struct Resumed {
    shared: Arc<Shared>,
    request: GetRequest,
    first: ObjectMeta,
    /// The first byte wanted.
    start: u64,
    /// The next byte wanted.
    at: u64,
    end_byte: u64,
    body: Option<BodyStream>,
    end: End,
    ended: bool,
}

/// How the current body must end once the last byte wanted is here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It may hold more: an endpoint that ignores ranges sends the whole object.
    Cut,
    /// With nothing more.
    Exact,
    /// With nothing more, and only its clean end says that the checksum was right.
    Checksum,
}

/// Why a piece did not come.
enum Failure {
    /// Bytes that were handed out may be wrong: nothing mends that.
    Final(Error),
    /// The rest may be asked for again.
    Broken(Error),
}

impl Resumed {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        if self.ended {
            return None;
        }
        if self.at == self.end_byte {
            self.ended = true;
            return self.check_end().await.err().map(Err);
        }
        let result = self.next_piece().await;
        self.ended = result.is_err();
        Some(result)
    }

    async fn next_piece(&mut self) -> Result<Bytes> {
        let shared = Arc::clone(&self.shared);
        let key = self.request.key.clone();
        let mut attempts = Attempts::new(&shared, "get", key.as_str());
        loop {
            let error = match self.try_piece(&attempts).await {
                Ok(piece) => return Ok(piece),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Broken(error)) => error,
            };
            // Closes the connection of a stalled body before the wait.
            self.body = None;
            attempts.pause_after(error).await?;
        }
    }

    async fn try_piece(&mut self, attempts: &Attempts<'_>) -> Result<Bytes, Failure> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.reopen(attempts).await.map_err(Failure::Broken)?,
        };
        let piece = self.piece_of(&mut body).await?;
        self.body = Some(body);
        self.at += piece.len() as u64;
        Ok(piece)
    }

    async fn piece_of(&mut self, body: &mut BodyStream) -> Result<Bytes, Failure> {
        let room = self.end_byte - self.at;
        loop {
            let limit = self.shared.config.progress_timeout;
            let Ok(item) = timeout(limit, body.next()).await else {
                let message = format!("no byte came for {limit:.1?} at byte {}", self.at);
                return Err(Failure::Broken(self.error(ErrorKind::Transient, &message)));
            };
            match item {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) if piece.len() as u64 <= room => return Ok(piece),
                // The piece is longer than what is left, so that what is left fits a usize.
                Some(Ok(piece)) if self.end == End::Cut => return Ok(piece.slice(..room as usize)),
                Some(Ok(_)) => return Err(Failure::Final(self.too_long())),
                // A checksum is of all bytes: those that were handed out cannot be taken back.
                Some(Err(error)) if error.kind() == ErrorKind::Corrupt && self.at > self.start => {
                    return Err(Failure::Final(error));
                }
                Some(Err(error)) => return Err(Failure::Broken(error)),
                None => {
                    let message = format!("the body ended at byte {} of {}", self.at, self.end_byte);
                    return Err(Failure::Broken(self.error(ErrorKind::Transient, &message)));
                }
            }
        }
    }

    async fn reopen(&mut self, attempts: &Attempts<'_>) -> Result<BodyStream> {
        // While nothing was handed out, a whole object is asked for as one again: only then does its checksum come along.
        let whole = self.end == End::Checksum && self.at == self.start;
        if !whole {
            self.request.range = Some(ByteRange::new(self.at, self.end_byte));
        }
        let (wanted, reply) = attempts.get(&self.request).await?;
        verify::same_version(&self.first, &reply.meta).map_err(|error| {
            error.with_bucket(&self.shared.inner.identity().name).with_key(self.request.key.as_str())
        })?;
        self.end = match () {
            () if whole => End::Checksum,
            () if reply.range.end > wanted.end => End::Cut,
            () => End::Exact,
        };
        Ok(reply.body)
    }

    /// Looks at what follows the last byte wanted.
    async fn check_end(&mut self) -> Result<()> {
        let Some(mut body) = self.body.take() else { return Ok(()) };
        if self.end == End::Cut {
            return Ok(());
        }
        loop {
            let item = timeout(self.shared.config.progress_timeout, body.next()).await;
            return match item {
                Ok(None) => Ok(()),
                Ok(Some(Ok(piece))) if piece.is_empty() => continue,
                Ok(Some(Ok(_))) => Err(self.too_long()),
                Ok(Some(Err(error))) if self.end == End::Checksum || error.kind() == ErrorKind::Corrupt => {
                    Err(error)
                }
                Err(_) if self.end == End::Checksum => {
                    Err(self.error(ErrorKind::Transient, "the body did not end, so its checksum is unknown"))
                }
                // Every byte of the range is here: how the connection ended afterwards changes none of them.
                Ok(Some(Err(_))) | Err(_) => Ok(()),
            };
        }
    }

    fn too_long(&self) -> Error {
        self.error(ErrorKind::Corrupt, &format!("the body goes on after its last byte, {}", self.end_byte))
    }

    fn error(&self, kind: ErrorKind, message: &str) -> Error {
        self.shared.error(kind, "get", self.request.key.as_str(), message)
    }
}
