//! Taking over what mounts that died had acknowledged.
//!
//! What cannot be taken over just now, as the store does not answer, the disk does not, or a mount that is dying holds its stage still, is looked
//! at again in the background.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluicefs_cache_dir::{Leftover, Leftovers, StageFile};
use sluicefs_s3_client::{self as s3, Fingerprint, ObjectKey};
use tokio::time::sleep;

use super::FileSystem;
use super::attributes::new_object;
use crate::attr::{FileKind, InodeNo};
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::inode::stored::Stored;
use crate::write::{Draft, Record};

/// After so long what could not be taken over is looked at again; each time later, up to the longest pause.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// So often stages are looked at whose mounts lived at first: one that was killed may take a minute to end.
const LOOKS_AT_HELD: usize = 4;

/// What became of files that mounts had acknowledged which died since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// So many are there again, and on their way to the store.
    pub taken: usize,
    /// So many are left where they are, each with its reason in the log.
    pub left: usize,
}

/// Stages that are to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Something in them could not be taken over.
    failed: BTreeSet<PathBuf>,
    /// Their mounts live, or are dying.
    held: BTreeSet<PathBuf>,
}

/// When stages are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Before the first question: nobody has seen anything of the mount.
    First,
    /// Whoever has a file open goes on with what it was.
    Later,
}

/// What became of a file that a mount which died had saved.
enum Taken {
    /// It is there again.
    Back,
    /// That mount had removed it, or made an object of a later content, and was killed before it had noted so.
    Settled,
}

/// A file that a mount which died had saved.
#[derive(Debug)]
struct Left {
    record: Record,
    file: StageFile,
}

impl FileSystem {
    /// Takes over the files of this bucket that mounts with the same stage had acknowledged which died since: they are there at once, and are
    /// sent from [`FileSystem::send_restored`] on. To be called before the first question. Asks the store for the directories that they are in.
    pub async fn restore(&self) -> Restored {
        self.uploads.hold();
        let (restored, unsettled) = self.look(Look::First, None).await;
        *self.unsettled.lock() = unsettled;
        restored
    }

    /// Begins to send files in the background that were held since [`FileSystem::restore`]: the uploads of those who died are told from ours by
    /// then. What could not be taken over is looked at again from now on.
    pub fn send_restored(self: &Arc<Self>) {
        self.uploads.resume();
        let mut unsettled = std::mem::take(&mut *self.unsettled.lock());
        let this = Arc::downgrade(self);
        self.runtime.spawn(async move {
            let mut pause = FIRST_PAUSE;
            for look in 1.. {
                if look > LOOKS_AT_HELD {
                    unsettled.held.clear();
                }
                let stages: BTreeSet<_> = unsettled.failed.union(&unsettled.held).cloned().collect();
                if stages.is_empty() {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                let Some(this) = this.upgrade() else { return };
                let (restored, now) = this.look(Look::Later, Some(stages)).await;
                unsettled = now;
                if restored.taken > 0 {
                    tracing::info!(
                        files = restored.taken,
                        "sending more files that a mount which was killed had acknowledged"
                    );
                }
            }
        });
    }

    /// Takes over what is in `stages`, or in all; tells what is left to be looked at again.
    async fn look(&self, look: Look, stages: Option<BTreeSet<PathBuf>>) -> (Restored, Unsettled) {
        let (mut restored, mut unsettled) = (Restored::default(), Unsettled::default());
        let Leftovers { files, failed, held } = self.leftovers(stages).await;
        unsettled.held.extend(held);
        for (stage, error) in failed {
            report(look, &stage, &error);
            restored.left += 1;
            unsettled.failed.insert(stage);
        }
        let mut is_store_away = false;
        for left in latest(files) {
            let path = left.file.path();
            let key = left.record.key();
            let stage = stage_of(&path);
            if is_store_away {
                restored.left += 1;
                unsettled.failed.insert(stage);
                continue;
            }
            match self.restore_one(look, left).await {
                Ok(Taken::Back) => restored.taken += 1,
                Ok(Taken::Settled) => {}
                Err(error) => {
                    report(look, &path, &error.clone().with_name(key.as_str()));
                    restored.left += 1;
                    if error.kind() == ErrorKind::Io {
                        // Each of the others would wait as long for an answer.
                        is_store_away = true;
                        unsettled.failed.insert(stage);
                    }
                }
            }
        }
        (restored, unsettled)
    }

    /// What is left in `stages`, or in all, of files of this mount.
    async fn leftovers(&self, stages: Option<BTreeSet<PathBuf>>) -> Leftovers {
        let Some(stage) = self.stage.clone().filter(|_| self.config.allow.changes) else {
            return Leftovers::default();
        };
        let (identity, prefix) = (self.bucket.identity().clone(), self.config.prefix.clone());
        let taken = self.runtime.spawn_blocking(move || {
            let is_mine = |path: &Path, text: &[u8]| match Record::parse(text) {
                Some(record) => {
                    record.is_of(&identity) && record.key().as_str().starts_with(prefix.as_str())
                }
                None => {
                    tracing::error!(path = %path.display(), "what a killed mount noted of a file that it had acknowledged makes no sense, or is of a later version: the file is left where it is");
                    false
                }
            };
            let is_looked_at = |stage: &Path| stages.as_ref().is_none_or(|stages| stages.contains(stage));
            stage.take_leftovers(is_looked_at, is_mine)
        });
        match taken.await {
            Ok(Ok(taken)) => taken,
            Ok(Err(error)) => {
                tracing::error!(%error, "what killed mounts had acknowledged cannot be looked at");
                Leftovers::default()
            }
            Err(_ended) => Leftovers::default(),
        }
    }

    async fn restore_one(&self, look: Look, left: Left) -> Result<Taken> {
        let Left { record, file } = left;
        let key = record.key();
        if self.is_settled(&key, &record).await? {
            self.writes.let_go(Arc::new(file)).await;
            return Ok(Taken::Settled);
        }
        let mut looked_up = Vec::new();
        let placed = self.place(look, &key, &record, &mut looked_up).await;
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

    /// Whether that mount had done with the file, and was killed before it had noted so.
    async fn is_settled(&self, key: &ObjectKey, record: &Record) -> Result<bool> {
        if record.is_leaving && record.had_object() {
            return self.is_gone(key).await;
        }
        match &record.superseded_by {
            Some(later) => self.is_made(key, later).await,
            None => Ok(false),
        }
    }

    /// Whether the store has no such object.
    async fn is_gone(&self, key: &ObjectKey) -> Result<bool> {
        match self.bucket.head(key).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == s3::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(Error::from_store("restore", error).with_name(key.as_str())),
        }
    }

    /// Whether the object is what it was to be known by.
    async fn is_made(&self, key: &ObjectKey, fingerprint: &Fingerprint) -> Result<bool> {
        match self.bucket.head_with_checksum(key).await {
            Ok((head, checksum)) => Ok(fingerprint.is_of(&head, checksum.as_ref())),
            Err(error) if error.kind() == s3::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::from_store("restore", error).with_name(key.as_str())),
        }
    }

    /// The inode of the file `key`, made if need be with the directories above it. What was looked up for that is counted in `looked_up`.
    async fn place(
        &self,
        look: Look,
        key: &ObjectKey,
        record: &Record,
        looked_up: &mut Vec<InodeNo>,
    ) -> Result<InodeNo> {
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
        let (entry, is_known) = match self.tree.lookup(parent, name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                (self.tree.create(parent, name, &object, None)?, false)
            }
            found => (found?, true),
        };
        let mut ino = entry.attr.ino;
        looked_up.push(ino);
        if entry.attr.kind == FileKind::Directory {
            return Err(Error::new(ErrorKind::IsADirectory, OPERATION).with_name(name));
        }
        if self.writers.draft(ino).is_some() {
            let error = Error::new(ErrorKind::Exists, OPERATION).with_name(name);
            return Err(error.because("a file of that name is being written, or another mount had acknowledged one, which is sent first"));
        }
        if is_known && look == Look::Later {
            // The kernel may have pages of the object under this number.
            self.tree.table.give_up(ino);
            ino = self.tree.lookup(parent, name).await?.attr.ino;
            looked_up.push(ino);
        }
        // Whatever becomes of the object: the name is there.
        self.tree.made(parent, name, object, None);
        Ok(ino)
    }
}

/// Says once what cannot be taken over.
fn report(look: Look, path: &Path, error: &dyn std::error::Error) {
    match look {
        Look::First => {
            tracing::error!(path = %path.display(), %error, "what a killed mount had acknowledged cannot be taken over; it stays where it is");
        }
        Look::Later => {
            tracing::debug!(path = %path.display(), %error, "what a killed mount had acknowledged cannot be taken over yet");
        }
    }
}

fn stage_of(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

/// The `taken` in the order in which they are to be taken over. What was superseded goes: a crash came before it was removed.
fn latest(taken: Vec<Leftover>) -> Vec<Left> {
    let mut by_key: BTreeMap<ObjectKey, Vec<Left>> = BTreeMap::new();
    for Leftover { record, file } in taken {
        // Others are not mine.
        if let Some(record) = Record::parse(&record) {
            by_key.entry(record.key()).or_default().push(Left { record, file });
        }
    }
    let mut latest = Vec::new();
    for mut of_key in by_key.into_values() {
        of_key.sort_unstable_by_key(|left| left.record.serial);
        let superseded: Vec<bool> =
            of_key.iter().map(|left| of_key.iter().any(|other| supersedes(other, left))).collect();
        for (left, is_superseded) in of_key.into_iter().zip(superseded) {
            if !is_superseded {
                latest.push(left);
            } else if let Err(error) = left.file.let_go() {
                tracing::warn!(%error, "a file that was superseded cannot be removed");
            }
        }
    }
    latest
}

/// Whether `later` took the place of `earlier`, of the same key: it says so, or the same mount saved it later.
fn supersedes(later: &Left, earlier: &Left) -> bool {
    let is_same_stage = stage_of(&later.file.path()) == stage_of(&earlier.file.path());
    later.record.supersedes == Some(earlier.record.serial)
        || (is_same_stage && later.record.serial > earlier.record.serial)
}
