//! Models of several files are read one file after another: the next one is begun before somebody opens it.

use std::sync::Arc;

use super::FileSystem;
use crate::attr::InodeNo;
use crate::open_file::BEGUN_FOR;
use crate::read::{Order, next_shard};

impl FileSystem {
    /// Begins to fetch the shard after the file `ino`, which was read in `order` and is nearly fetched, if it is one of several.
    pub(super) fn begin_next_shard(&self, ino: InodeNo, order: Order) {
        let Ok(known) = self.tree.table.known("read", ino) else { return };
        let Some(next) = next_shard(&known.name) else { return };
        let (tree, files) = (Arc::clone(&self.tree), Arc::downgrade(&self.files));
        self.runtime.spawn(async move {
            let seen = tree.seen(known.parent, &next).await;
            drop(tree);
            let (ino, key, meta) = match seen {
                Ok(Some(seen)) => seen,
                Ok(None) => return,
                Err(error) => {
                    return tracing::debug!(%error, next, "the next shard is not begun");
                }
            };
            let Some(files) = files.upgrade() else { return };
            files.begin(ino, key, &meta, order).await;
            let files = { Arc::downgrade(&files) };
            tokio::time::sleep(BEGUN_FOR).await;
            if let Some(files) = files.upgrade() {
                files.forget_late();
            }
        });
    }
}
