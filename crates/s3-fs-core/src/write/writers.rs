//! Who writes what: the drafts of a mount by inode, each as long as some handle writes it.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::draft::Draft;
use crate::attr::InodeNo;

/// The files that are being written.
#[derive(Debug, Default)]
pub(crate) struct Writers(Mutex<FxHashMap<InodeNo, Writer>>);

/// One handle's share in a file that is being written.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    draft: Arc<Draft>,
    /// Held once by each handle, and once by the table.
    share: Arc<()>,
}

impl Writer {
    /// The file.
    pub(crate) fn draft(&self) -> &Arc<Draft> {
        &self.draft
    }

    /// Whether this is the share of the table, in `draft`, and no handle has another. The file may have got another draft since.
    fn is_idle(&self, draft: &Arc<Draft>) -> bool {
        Arc::ptr_eq(&self.draft, draft) && Arc::strong_count(&self.share) == 1
    }

    /// Whether no other handle writes the file.
    pub(crate) fn is_only(&self) -> bool {
        Arc::strong_count(&self.share) <= 2
    }
}

impl Writers {
    /// The first handle writes the file `ino`. If another one came first, its draft is what both write.
    pub(crate) fn add(&self, ino: InodeNo, draft: Arc<Draft>) -> Writer {
        let mut writers = self.0.lock();
        writers.entry(ino).or_insert_with(|| Writer { draft, share: Arc::default() }).clone()
    }

    /// Another handle writes the file `ino`, if one does already.
    pub(crate) fn join(&self, ino: InodeNo) -> Option<Writer> {
        self.0.lock().get(&ino).cloned()
    }

    /// The file `ino` as it is being written.
    pub(crate) fn draft(&self, ino: InodeNo) -> Option<Arc<Draft>> {
        let writers = self.0.lock();
        if writers.is_empty() { None } else { writers.get(&ino).map(|writer| Arc::clone(writer.draft())) }
    }

    /// The files with something that was not made durable.
    pub(crate) fn unsaved(&self) -> Vec<Arc<Draft>> {
        let writers = self.0.lock();
        writers.values().map(Writer::draft).filter(|draft| draft.needs_commit()).cloned().collect()
    }

    /// The files that are not what the store has, those without names included.
    pub(crate) fn changed(&self) -> Vec<Arc<Draft>> {
        let writers = self.0.lock();
        writers.values().map(Writer::draft).filter(|draft| draft.is_changed()).cloned().collect()
    }

    /// Whether no handle writes `draft` any more.
    pub(crate) fn is_last(&self, draft: &Arc<Draft>) -> bool {
        self.0.lock().get(&draft.ino).is_some_and(|writer| writer.is_idle(draft))
    }

    /// Forgets `draft` if no handle writes it and `is_over` says so of it, and tells `forget` before anybody can begin again.
    pub(crate) fn remove_idle(
        &self,
        draft: &Arc<Draft>,
        is_over: impl FnOnce(&Draft) -> bool,
        forget: impl FnOnce(),
    ) {
        let mut writers = self.0.lock();
        if writers.get(&draft.ino).is_some_and(|writer| writer.is_idle(draft)) && is_over(draft) {
            forget();
            writers.remove(&draft.ino);
        }
    }
}
