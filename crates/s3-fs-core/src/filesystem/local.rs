//! Files whose bytes somebody else reads: from a local file of the cache on disk, without asking here.

use super::FileSystem;
use crate::attr::HandleId;
use crate::cache::disk::LocalFile;

impl FileSystem {
    /// Whether there may be local files: there is a cache on disk, and what is an object already cannot be written to through this mount.
    pub fn may_have_local_files(&self) -> bool {
        self.engine.has_disk() && !self.config.allow.overwrite
    }

    /// A file of this machine with exactly the bytes that `handle` reads, if the cache on disk has all of them and each was found right. What is there and
    /// was not checked yet is checked in the background. Cancel-safe.
    ///
    /// Whoever takes it must say so before a byte is read from it: see [`FileSystem::reads_locally`].
    pub async fn local_file(&self, handle: HandleId) -> Option<LocalFile> {
        if !self.may_have_local_files() {
            return None;
        }
        let handle = self.open_files.get("open", handle).ok()?;
        let is_written = handle.writer.is_some() || self.writers.draft(handle.reader.ino).is_some();
        if is_written { None } else { handle.reader.local_file().await }
    }

    /// Says that `handle` is read from its local file from now on, which counts as delivering its version: the file has that version for good. False if it
    /// has another one meanwhile: the local file is not to be used.
    pub fn reads_locally(&self, handle: HandleId) -> bool {
        self.open_files.get("open", handle).is_ok_and(|handle| handle.reader.reads_locally())
    }

    /// Returns when the cache on disk has what it was given, and has checked what it is to check. Cancel-safe.
    pub async fn cache_settled(&self) {
        self.engine.idle().await;
        self.engine.checked().await;
    }
}
