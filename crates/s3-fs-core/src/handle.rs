//! Numbers for open files and directories.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::attr::HandleId;
use crate::error::{Error, ErrorKind, Result};

/// Open things by number. Numbers are not used again.
#[derive(Debug)]
pub(crate) struct HandleTable<H> {
    open: RwLock<FxHashMap<HandleId, Arc<H>>>,
    next: AtomicU64,
}

impl<H> HandleTable<H> {
    pub(crate) fn new() -> Self {
        Self { open: RwLock::default(), next: AtomicU64::new(1) }
    }

    /// Gives an open thing its number.
    pub(crate) fn insert(&self, handle: H) -> HandleId {
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.open.write().insert(id, Arc::new(handle));
        id
    }

    /// The open thing with that number.
    pub(crate) fn get(&self, operation: &'static str, id: HandleId) -> Result<Arc<H>> {
        self.open.read().get(&id).cloned().ok_or_else(|| Error::new(ErrorKind::BadHandle, operation))
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.read().len()
    }

    /// Takes the number back.
    pub(crate) fn remove(&self, id: HandleId) -> Option<Arc<H>> {
        self.open.write().remove(&id)
    }
}
