//! Objects that are fetched before anybody opened them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_s3_client::{ObjectKey, ObjectMeta};
use tokio::time::Instant;

use crate::read::{ObjectVersion, OpenObject};

/// The most objects that are held for readers to come: as many as programs read files at once.
const MAX_BEGUN: usize = 8;

/// How long they are held: a loader comes within seconds, when it has placed what it read before.
pub(crate) const BEGUN_FOR: Duration = Duration::from_secs(60);

/// What was begun, oldest first.
#[derive(Debug, Default)]
pub(super) struct Begun(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    object: Arc<OpenObject>,
    until: Instant,
}

impl Begun {
    /// Holds `object`; the oldest makes room.
    pub(super) fn insert(&self, object: Arc<OpenObject>) {
        let mut entries = self.0.lock();
        let oldest = (entries.len() >= MAX_BEGUN).then(|| entries.remove(0));
        entries.push(Entry { object, until: Instant::now() + BEGUN_FOR });
        drop(entries);
        drop(oldest);
    }

    /// Whether the version of `key` that `meta` describes is held.
    pub(super) fn has(&self, key: &ObjectKey, meta: &ObjectMeta) -> bool {
        self.0.lock().iter().any(|entry| is_of(entry.object.version(), key, meta))
    }

    /// Hands over the version of `key` that `meta` describes.
    pub(super) fn take(&self, key: &ObjectKey, meta: &ObjectMeta) -> Option<Arc<OpenObject>> {
        let mut entries = self.0.lock();
        let at = entries.iter().position(|entry| is_of(entry.object.version(), key, meta))?;
        Some(entries.remove(at).object)
    }

    /// Lets go of those whose time is over.
    pub(super) fn forget_late(&self) {
        let now = Instant::now();
        let mut entries = self.0.lock();
        let late: Vec<Entry> = entries.extract_if(.., |entry| entry.until <= now).collect();
        drop(entries);
        drop(late);
    }
}

/// Without an ETag nothing proves that it is the same version.
fn is_of(version: &ObjectVersion, key: &ObjectKey, meta: &ObjectMeta) -> bool {
    let is_known = meta.etag.is_some() && version.etag() == meta.etag.as_ref();
    is_known && version.key() == key && version.size() == meta.size
}
