//! Acknowledging files before the store has them, and sending them afterwards.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::FileSystem;
use crate::attr::InodeNo;
use crate::config::WriteBack;
use crate::error::Result;
use crate::tree::Tree;
use crate::write::{Draft, QueuedFile, UploadQueue, Writers};

impl FileSystem {
    /// The files that were acknowledged and are not at the store yet.
    pub fn queued_files(&self) -> Vec<QueuedFile> {
        self.uploads.files()
    }

    /// Does what close(2) promises: the store has the file, or the disk has it and the store will.
    pub(super) async fn acknowledge(&self, draft: &Arc<Draft>) -> Result<()> {
        if self.config.write.write_back == WriteBack::Async
            && draft.needs_commit()
            && !self.uploads.is_full()
            && draft.save().await
        {
            self.enqueue(draft);
            return Ok(());
        }
        draft.commit().await
    }

    /// Has `draft`, which was saved, sent in the background.
    pub(super) fn enqueue(&self, draft: &Arc<Draft>) {
        self.sender().enqueue(draft);
    }

    pub(super) fn sender(&self) -> Sender {
        let (uploads, writers, tree) =
            (Arc::clone(&self.uploads), Arc::clone(&self.writers), Arc::clone(&self.tree));
        Sender { uploads, writers, tree, runtime: self.runtime.clone() }
    }

    /// What was saved of the file `ino` is nobody's any more: it has no name.
    pub(super) async fn forget_saved(&self, ino: InodeNo) {
        if let Some(draft) = self.writers.draft(ino) {
            draft.forget_saved().await;
        }
    }
}

/// What sending files in the background takes.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    uploads: Arc<UploadQueue>,
    writers: Arc<Writers>,
    tree: Arc<Tree>,
    runtime: Handle,
}

impl Sender {
    pub(super) fn enqueue(&self, draft: &Arc<Draft>) {
        if !self.uploads.add(draft) {
            return;
        }
        let (this, draft) = (self.clone(), Arc::clone(draft));
        self.runtime.spawn(async move {
            this.uploads.serve(&draft).await;
            // Somebody else may be making the object just now, who does not look here afterwards.
            draft.settled().await;
            let forget = || this.tree.table.set_written(draft.ino(), None);
            this.writers.remove_idle(&draft, |draft| !draft.is_changed(), forget);
        });
    }
}
