//! The bytes of a file, read through the descriptor that was opened with it.
//!
//! A file may change while it is read, which an object never does. So each piece is handed out only if time, size and inode are still
//! those of the beginning.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::fstat;
use rustix::io::pread;

use super::error_of;
use super::place::meta_of_file;
use crate::bucket::BodyStream;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ETag, ObjectKey};

/// One read of a file; smaller ones cost a thread switch each.
const PIECE_BYTES: u64 = 1 << 20;

/// Names the object in the errors of its body.
pub(super) struct Subject {
    pub(super) bucket: Arc<str>,
    pub(super) key: ObjectKey,
}

struct Source {
    file: OwnedFd,
    etag: Option<ETag>,
    subject: Subject,
}

/// The bytes of `range`, which lies inside the file; none without a file.
pub(super) fn of(
    file: Option<OwnedFd>,
    range: ByteRange,
    etag: Option<ETag>,
    subject: Subject,
) -> BodyStream {
    let Some(file) = file else { return Box::pin(stream::empty()) };
    let source = Arc::new(Source { file, etag, subject });
    Box::pin(stream::try_unfold((source, range.start), move |(source, at)| async move {
        if at >= range.end {
            return Ok(None);
        }
        let piece = ByteRange::from_len(at, PIECE_BYTES).intersect(range);
        let reader = Arc::clone(&source);
        let read = tokio::task::spawn_blocking(move || reader.piece(piece)).await;
        let bytes = read.unwrap_or_else(|failed| {
            Err(source.error(ErrorKind::Transient, "the thread that read the file ended").with_source(failed))
        })?;
        Ok(Some((bytes, (source, piece.end))))
    }))
}

impl Source {
    fn piece(&self, piece: ByteRange) -> Result<Bytes> {
        let failed = |cause| error_of(&self.subject.bucket, "get", self.subject.key.as_str(), cause);
        let bytes = read(&self.file, piece).map_err(failed)?;
        let now = fstat(&self.file)
            .map_err(io::Error::from)
            .and_then(|stat| meta_of_file(&stat))
            .map_err(failed)?;
        if now.etag != self.etag {
            return Err(self.error(ErrorKind::PreconditionFailed, "the file changed while it was read"));
        }
        if (bytes.len() as u64) < piece.len() {
            return Err(self.error(ErrorKind::Transient, "the file gave fewer bytes than it has"));
        }
        Ok(bytes)
    }

    fn error(&self, kind: ErrorKind, message: &str) -> Error {
        let error = Error::new(kind, "get").with_bucket(&self.subject.bucket);
        error.with_key(self.subject.key.as_str()).with_message(message)
    }
}

/// The bytes of `piece`; fewer where the file ends.
fn read(file: &OwnedFd, piece: ByteRange) -> io::Result<Bytes> {
    let len = usize::try_from(piece.len()).map_err(io::Error::other)?;
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let at = piece.start + buffer.len() as u64;
        match pread(file, spare_capacity(&mut buffer), at).map_err(io::Error::from) {
            Ok(0) => break,
            Ok(_) => {}
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    // The vector may have room for more than was asked for.
    buffer.truncate(len);
    Ok(Bytes::from(buffer))
}
