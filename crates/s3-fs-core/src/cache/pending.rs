//! A block that is being fetched, as its readers see it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::block::Block;
use crate::error::Error;

/// How a fetch of one block ended.
#[derive(Debug, Clone)]
pub(crate) enum Landing {
    /// The bytes are here.
    Block(Arc<Block>),
    /// The store gave an error, shared by all who waited.
    Failed(Error),
    /// The fetch was dropped before it got here: claim the block again.
    Abandoned,
}

/// A block on its way. Once landed it keeps the outcome, so that eviction cannot take it from those who waited.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    landing: Mutex<Option<Landing>>,
    landed: Notify,
}

impl Pending {
    /// Tells everyone who waits, now or later. The first call counts.
    pub(super) fn land(&self, landing: Landing) {
        self.landing.lock().get_or_insert(landing);
        self.landed.notify_waiters();
    }

    /// Waits for the end of the fetch. Cancel-safe.
    pub(crate) async fn wait(&self) -> Landing {
        let mut landed = std::pin::pin!(self.landed.notified());
        loop {
            // Registered before looking, so that a landing in between is not missed.
            landed.as_mut().enable();
            if let Some(landing) = self.landing.lock().as_ref() {
                return landing.clone();
            }
            landed.as_mut().await;
            landed.set(self.landed.notified());
        }
    }
}
