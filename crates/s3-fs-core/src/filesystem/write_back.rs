//! Acknowledging files before the store has them, sending them afterwards, and taking over what mounts that died had acknowledged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use sluicefs_cache_dir::Leftover;
use sluicefs_s3_client::{self as s3, ObjectKey};
use tokio::runtime::Handle;

use super::FileSystem;
use super::attributes::new_object;
use crate::attr::{FileKind, InodeNo};
use crate::config::WriteBack;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::inode::stored::Stored;
use crate::tree::Tree;
use crate::write::{Draft, QueuedFile, Record, UploadQueue, Writers};

/// What became of files that mounts had acknowledged which died since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// So many are there again, and on their way to the store.
    pub taken: usize,
    /// So many are left where they are, each with its reason in the log.
    pub left: usize,
}

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

    // === After a mount that died ===

    /// Takes over the files of this bucket that mounts with the same stage had acknowledged which died since: they are there at once, and are
    /// sent from [`FileSystem::send_restored`] on. To be called before the first question. Asks the store for the directories that they are in.
    pub async fn restore(&self) -> Restored {
        let mut restored = Restored::default();
        self.uploads.hold();
        for left in self.leftovers().await {
            let key = left.record.key();
            let path = left.file.path();
            match self.restore_one(left).await {
                Ok(Taken::Back) => restored.taken += 1,
                Ok(Taken::Removed) => {}
                Err(error) => {
                    tracing::error!(%key, %error, kept_in = %path.display(), "a file that a killed mount had acknowledged cannot be taken over; it stays where it is");
                    restored.left += 1;
                }
            }
        }
        restored
    }

    /// Begins to send files in the background that were held since [`FileSystem::restore`]: the uploads of those who died are told from ours by then.
    pub fn send_restored(&self) {
        self.uploads.resume();
    }

    async fn leftovers(&self) -> Vec<Left> {
        let Some(stage) = self.stage.clone().filter(|_| self.config.allow.changes) else { return Vec::new() };
        let (identity, prefix) = (self.bucket.identity().clone(), self.config.prefix.clone());
        let taken = self.runtime.spawn_blocking(move || {
            let is_mine = |text: &[u8]| {
                let record = Record::parse(text);
                record.is_some_and(|record| {
                    record.is_of(&identity) && record.key().as_str().starts_with(prefix.as_str())
                })
            };
            stage.take_leftovers(is_mine)
        });
        let taken = match taken.await {
            Ok(Ok(taken)) => taken,
            Ok(Err(error)) => {
                tracing::error!(%error, "what killed mounts had acknowledged cannot be looked at");
                return Vec::new();
            }
            Err(_ended) => return Vec::new(),
        };
        latest(taken)
    }

    async fn restore_one(&self, left: Left) -> Result<Taken> {
        let Left { record, file } = left;
        let key = record.key();
        if record.is_leaving && record.had_object() && self.is_gone(&key).await? {
            self.writes.let_go(Arc::new(file)).await;
            return Ok(Taken::Removed);
        }
        let mut looked_up = Vec::new();
        let placed = self.place(&key, &record, &mut looked_up).await;
        if let Ok(ino) = placed {
            let described = record.noted().described;
            if self.tree.keeps_attributes() && !described.is_empty() {
                let stored = Stored::read(self.config.attributes, &described);
                self.tree.table.set_given(ino, (stored.given, Arc::new(stored.xattrs)));
            }
            let draft = Draft::restored(Arc::clone(&self.writes), ino, record, file);
            // No handle writes it: the table alone holds it from here on.
            drop(self.begin_draft(ino, Arc::clone(&draft)));
            self.enqueue(&draft);
        }
        looked_up.into_iter().rev().for_each(|ino| self.tree.forget(ino, 1));
        placed.map(|_ino| Taken::Back)
    }

    /// Whether the store has no such object.
    async fn is_gone(&self, key: &ObjectKey) -> Result<bool> {
        match self.bucket.head(key).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == s3::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(Error::from_store("restore", error).with_name(key.as_str())),
        }
    }

    /// The inode of the file `key`, made if need be with the directories above it. What was looked up for that is counted in `looked_up`.
    async fn place(&self, key: &ObjectKey, record: &Record, looked_up: &mut Vec<InodeNo>) -> Result<InodeNo> {
        const OPERATION: &str = "restore";
        let below = key.as_str().strip_prefix(self.config.prefix.as_str()).unwrap_or_default();
        let (directories, name) = below.rsplit_once('/').map_or(("", below), |(above, name)| (above, name));
        let mut parent = InodeNo::ROOT;
        for directory in directories.split('/').filter(|directory| !directory.is_empty()) {
            let entry = match self.tree.lookup(parent, directory).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.tree.create(parent, directory, &Remote::Directory, None)?
                }
                found => found?,
            };
            looked_up.push(entry.attr.ino);
            if entry.attr.kind != FileKind::Directory {
                return Err(Error::new(ErrorKind::NotADirectory, OPERATION).with_name(directory));
            }
            parent = entry.attr.ino;
        }
        let object = Remote::Object(FileKind::File, new_object(record.noted().size, None));
        let entry = match self.tree.lookup(parent, name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.tree.create(parent, name, &object, None)?
            }
            found => found?,
        };
        let ino = entry.attr.ino;
        looked_up.push(ino);
        if entry.attr.kind == FileKind::Directory {
            return Err(Error::new(ErrorKind::IsADirectory, OPERATION).with_name(name));
        }
        if self.writers.draft(ino).is_some() {
            let error = Error::new(ErrorKind::Exists, OPERATION).with_name(name);
            return Err(
                error.because("another mount had acknowledged a file of that name, which is sent first")
            );
        }
        // Whatever becomes of the object: the name is there.
        self.tree.made(parent, name, object, None);
        Ok(ino)
    }
}

/// What became of a file that a mount which died had saved.
enum Taken {
    /// It is there again.
    Back,
    /// That mount had removed it, and was killed before it had noted so.
    Removed,
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

/// A file that a mount which died had saved.
struct Left {
    record: Record,
    file: sluicefs_cache_dir::StageFile,
}

/// The `taken` in the order in which they are to be taken over. Of two of one key in one stage, the earlier was superseded: a crash came before it was
/// removed.
fn latest(taken: Vec<Leftover>) -> Vec<Left> {
    let mut latest: BTreeMap<(PathBuf, ObjectKey), Left> = BTreeMap::new();
    for Leftover { record, file } in taken {
        let Some(record) = Record::parse(&record) else { continue };
        let stage = file.path().parent().map(PathBuf::from).unwrap_or_default();
        let place = (stage, record.key());
        let other = latest.remove(&place);
        let left = Left { record, file };
        let (winner, loser) = match other {
            Some(other) if other.record.serial > left.record.serial => (other, Some(left)),
            other => (left, other),
        };
        if let Some(loser) = loser
            && let Err(error) = loser.file.let_go()
        {
            tracing::warn!(%error, "a file that was superseded cannot be removed");
        }
        latest.insert(place, winner);
    }
    latest.into_values().collect()
}
