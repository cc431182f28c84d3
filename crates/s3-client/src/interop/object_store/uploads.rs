//! Uploads in parts through `object_store`, where a part's place is the order in which it was given.
//!
//! Parts arrive in any order, so one whose turn has not come waits with its caller, who holds its bytes. A part that failed has taken its
//! place all the same: the upload cannot be mended, and is as good as gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_smithy_async::time::{SystemTimeSource, TimeSource};
use aws_smithy_types::DateTime;
use object_store::{MultipartUpload, PutPayload, PutResult};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bucket::{Part, Timestamp, UploadId, UploadMeta};
use crate::checksum::{Checksum, ChecksumAlgorithm};
use crate::key::{ETag, KeyPrefix, ObjectKey};

/// Uploads of one bucket at once; each holds what its store holds for it.
const MAX_OPEN_UPLOADS: usize = 10_000;

/// Why a part or a completion was refused here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("no such upload")]
    NoSuchUpload,
    #[error("parts are numbered from 1 on without a gap and sent once each; {0} is not the next")]
    Number(u16),
    #[error("the parts are not those that were sent")]
    OtherParts,
    #[error("{MAX_OPEN_UPLOADS} uploads are open already")]
    TooMany,
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// The uploads that were begun through one bucket.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    open: Mutex<BTreeMap<(ObjectKey, UploadId), Arc<Upload>>>,
    begun: AtomicU64,
}

#[derive(Debug)]
struct Upload {
    initiated: Timestamp,
    state: Mutex<State>,
    /// The number of the part whose turn it is; [`BROKEN`] once one failed.
    turn: watch::Sender<u16>,
}

#[derive(Debug)]
struct State {
    /// `None` while it is completed or aborted.
    store: Option<Box<dyn MultipartUpload>>,
    sent: Vec<Part>,
}

/// No part has this number.
const BROKEN: u16 = u16::MAX;

impl Uploads {
    /// Takes up an upload that the store began.
    pub(super) fn add(&self, key: ObjectKey, store: Box<dyn MultipartUpload>) -> Result<UploadId, Refused> {
        let now = DateTime::from(SystemTimeSource::new().now());
        let upload = Upload {
            initiated: Timestamp { secs: now.secs(), nanos: now.subsec_nanos() },
            state: Mutex::new(State { store: Some(store), sent: Vec::new() }),
            turn: watch::Sender::new(1),
        };
        let mut open = self.open.lock();
        if open.len() == MAX_OPEN_UPLOADS {
            return Err(Refused::TooMany);
        }
        let id = UploadId::new(format!("{:x}", self.begun.fetch_add(1, Ordering::Relaxed)));
        open.insert((key, id.clone()), Arc::new(upload));
        Ok(id)
    }

    fn find(&self, key: &ObjectKey, id: &UploadId) -> Result<Arc<Upload>, Refused> {
        self.open.lock().get(&(key.clone(), id.clone())).map(Arc::clone).ok_or(Refused::NoSuchUpload)
    }

    /// Sends a part when its turn comes.
    pub(super) async fn send(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        number: u16,
        body: bytes::Bytes,
    ) -> Result<Part, Refused> {
        let upload = self.find(key, id)?;
        // The sender lives as long as the upload, which this holds.
        let _ = upload.turn.subscribe().wait_for(|turn| *turn >= number).await;
        let checksum = Checksum::of(ChecksumAlgorithm::Crc64Nvme, [&body]);
        let part = Part {
            number,
            etag: ETag::new(&format!("\"{number}-{checksum}\"")),
            size: body.len() as u64,
            checksum: Some(checksum),
        };
        let sending = {
            let mut state = upload.state.lock();
            let turn = *upload.turn.borrow();
            let store = state.store.as_mut().filter(|_| turn != BROKEN).ok_or(Refused::NoSuchUpload)?;
            if number != turn {
                return Err(Refused::Number(number));
            }
            let sending = store.put_part(PutPayload::from(body));
            state.sent.push(part.clone());
            upload.turn.send_replace(number + 1);
            sending
        };
        // Also if the caller goes away in the middle.
        let broken = BrokenUnlessDone(&upload.turn);
        sending.await?;
        std::mem::forget(broken);
        Ok(part)
    }

    /// Completes an upload of exactly these parts.
    pub(super) async fn complete(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        parts: &[Part],
    ) -> Result<PutResult, Refused> {
        let upload = self.find(key, id)?;
        let mut store = {
            let mut state = upload.state.lock();
            let same = |(a, b): (&Part, &Part)| (a.number, &a.etag) == (b.number, &b.etag);
            if parts.is_empty() || parts.len() != state.sent.len() || !parts.iter().zip(&state.sent).all(same)
            {
                return Err(Refused::OtherParts);
            }
            let whole = *upload.turn.borrow() != BROKEN;
            state.store.take().filter(|_| whole).ok_or(Refused::NoSuchUpload)?
        };
        match store.complete().await {
            Ok(result) => {
                self.open.lock().remove(&(key.clone(), id.clone()));
                Ok(result)
            }
            Err(error) => {
                upload.state.lock().store = Some(store);
                Err(error.into())
            }
        }
    }

    /// Throws an upload away, if there is one.
    pub(super) async fn abort(&self, key: &ObjectKey, id: &UploadId) -> object_store::Result<()> {
        let Some(upload) = self.open.lock().remove(&(key.clone(), id.clone())) else { return Ok(()) };
        upload.turn.send_replace(BROKEN);
        let store = upload.state.lock().store.take();
        match store {
            Some(mut store) => store.abort().await,
            None => Ok(()),
        }
    }

    /// All that were begun here and not ended, below a prefix.
    pub(super) fn list(&self, prefix: &KeyPrefix) -> Vec<UploadMeta> {
        let open = self.open.lock();
        let listed = open.iter().filter(|((key, _), _)| key.as_str().starts_with(prefix.as_str()));
        let meta = |((key, id), upload): (&(ObjectKey, UploadId), &Arc<Upload>)| UploadMeta {
            key: key.clone(),
            upload: id.clone(),
            initiated: upload.initiated,
        };
        listed.map(meta).collect()
    }
}

/// Wakes those who wait for a turn that cannot come.
struct BrokenUnlessDone<'a>(&'a watch::Sender<u16>);

impl Drop for BrokenUnlessDone<'_> {
    fn drop(&mut self) {
        self.0.send_replace(BROKEN);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use object_store::UploadPart;

    use super::*;

    /// Takes parts as it is told: at once, never, or not at all.
    #[derive(Debug)]
    struct Store {
        answer: Answer,
        given: Arc<Mutex<Vec<usize>>>,
    }

    #[derive(Debug, Clone, Copy)]
    enum Answer {
        Done,
        Pending,
        Fails,
    }

    #[async_trait::async_trait]
    impl MultipartUpload for Store {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            self.given.lock().push(data.content_length());
            match self.answer {
                Answer::Done => async { Ok(()) }.boxed(),
                Answer::Pending => std::future::pending().boxed(),
                Answer::Fails => {
                    let path = "k".to_owned();
                    async { Err(object_store::Error::NotFound { path, source: "gone".into() }) }.boxed()
                }
            }
        }

        async fn complete(&mut self) -> object_store::Result<PutResult> {
            Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
        }

        async fn abort(&mut self) -> object_store::Result<()> {
            Ok(())
        }
    }

    struct World {
        uploads: Uploads,
        key: ObjectKey,
        id: UploadId,
        given: Arc<Mutex<Vec<usize>>>,
    }

    fn world(answer: Answer) -> World {
        let (uploads, key, given) = (Uploads::default(), ObjectKey::new("k").unwrap(), Arc::default());
        let store = Store { answer, given: Arc::clone(&given) };
        let id = uploads.add(key.clone(), Box::new(store)).unwrap();
        World { uploads, key, id, given }
    }

    impl World {
        /// Sends the part of this number, of as many bytes.
        async fn send(&self, number: u16) -> Result<Part, Refused> {
            let body = Bytes::from(vec![0; number.into()]);
            self.uploads.send(&self.key, &self.id, number, body).await
        }
    }

    #[tokio::test]
    async fn parts_are_given_in_the_order_of_their_numbers() {
        let w = world(Answer::Done);
        let (c, a, d, b) = tokio::join!(w.send(3), w.send(1), w.send(4), w.send(2));
        assert_eq!(*w.given.lock(), [1, 2, 3, 4]);
        let parts = [a, b, c, d].map(Result::unwrap);
        assert!(matches!(w.send(2).await, Err(Refused::Number(2))));
        let fewer = w.uploads.complete(&w.key, &w.id, &parts[..3]).await;
        assert!(matches!(fewer, Err(Refused::OtherParts)));
        w.uploads.complete(&w.key, &w.id, &parts).await.unwrap();
        assert!(matches!(w.send(5).await, Err(Refused::NoSuchUpload)));
    }

    #[tokio::test]
    async fn an_upload_with_a_failed_part_is_gone_for_those_who_wait() {
        let w = world(Answer::Fails);
        let (waiting, failed) = tokio::join!(w.send(3), w.send(1));
        assert!(matches!(failed, Err(Refused::Store(_))));
        assert!(matches!(waiting, Err(Refused::NoSuchUpload)));
        assert!(matches!(w.uploads.complete(&w.key, &w.id, &[]).await, Err(Refused::OtherParts)));
    }

    #[tokio::test]
    async fn an_upload_whose_part_was_given_up_is_gone_too() {
        let w = world(Answer::Pending);
        let mut sending = Box::pin(w.send(1));
        assert!(sending.as_mut().now_or_never().is_none());
        drop(sending);
        assert!(matches!(w.send(2).await, Err(Refused::NoSuchUpload)));
        // One that never had its turn took no place.
        let w = world(Answer::Done);
        let mut early = Box::pin(w.send(2));
        assert!(early.as_mut().now_or_never().is_none());
        drop(early);
        w.send(1).await.unwrap();
        w.send(2).await.unwrap();
    }

    #[tokio::test]
    async fn aborting_wakes_those_who_wait() {
        let w = world(Answer::Done);
        let (waiting, aborted) = tokio::join!(w.send(2), w.uploads.abort(&w.key, &w.id));
        assert!(matches!(waiting, Err(Refused::NoSuchUpload)) && aborted.is_ok());
        assert!(w.uploads.list(&KeyPrefix::root()).is_empty());
    }
}
