//! Creating, writing and closing files.

use std::sync::Arc;
use std::time::Duration;

use sluicefs_s3_client::{ObjectKey, ObjectMeta, Payload, PutRequest, StorageClass, WriteCondition};
use tokio::time::{Instant, timeout, timeout_at};

use super::{FileSystem, Handle};
use crate::attr::{Entry, FileKind, HandleId, InodeNo, NewAttr, OpenedFile};
use crate::clock;
use crate::config::{Exclusive, OnConflict, WriteBack};
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::path;
use crate::write::{Draft, Writer};

/// What becomes of a file's content when it is opened for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays until it is written over.
    Keep,
    /// It is cut off (`O_TRUNC`).
    Truncate,
}

/// Whether a file may exist when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// It is opened then.
    OrOpen(Existing),
    /// That is an error (`O_EXCL`).
    Exclusive,
}

/// What the store does not have when a mount has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Files that some program had written to and neither closed nor synced: what it wrote since it last did is lost.
    pub lost: Vec<ObjectKey>,
    /// Files that were acknowledged, and are kept in the stage for the next mount.
    pub kept: Vec<ObjectKey>,
}

/// How a mount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nobody had anything open any more: what was written was closed, and what came through mappings since was all of it.
    Unmounted,
    /// It was taken away from whoever used it: a file may be half written.
    TakenAway,
}

/// How long removing the parts of files that were not closed may take when the mount ends.
const ABORT_GRACE: Duration = Duration::from_secs(5);

impl FileSystem {
    /// Creates the file `name` in `parent`, opens it for reading and writing, and counts one lookup. Pair it with
    /// [`FileSystem::release`].
    ///
    /// The store has the file when it is closed or synced; created exclusively, it has an empty one at once, unless the settings say otherwise.
    ///
    /// # Errors
    /// `Exists` if it must not; `IsADirectory`; `ReadOnly` or `NotPermitted` if the mount allows no such change; `NameTooLong`, `InvalidName`,
    /// `AccessDenied`, `Io`.
    pub async fn create(
        &self,
        parent: InodeNo,
        name: &str,
        new: NewAttr,
        creation: Creation,
    ) -> Result<(Entry, OpenedFile)> {
        self.may_change("create")?;
        path::check_new_name(name).map_err(|kind| Error::new(kind, "create").with_name(name))?;
        let exclusive = creation == Creation::Exclusive;
        match self.tree.lookup(parent, name).await {
            Ok(entry) => {
                let opened = match creation {
                    Creation::OrOpen(existing) => self.open_for_writing(entry.attr.ino, existing).await,
                    Creation::Exclusive => Err(Error::new(ErrorKind::Exists, "create").with_name(name)),
                };
                return match opened {
                    Ok(opened) => Ok((entry, opened)),
                    Err(error) => {
                        self.tree.forget(entry.attr.ino, 1);
                        Err(error)
                    }
                };
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.may_be_file("create", name)?;
        let key = || {
            let prefix = self.tree.table.directory("create", parent)?;
            let too_long = || Error::new(ErrorKind::NameTooLong, "create").with_name(name);
            path::file_key(&prefix, name).ok_or_else(too_long)
        };
        let (key, _stays) = self.stay(key).await?;
        self.removal_ended(&key).await;
        let mut meta = ObjectMeta {
            size: 0,
            etag: None,
            last_modified: clock::now(),
            storage_class: StorageClass::Standard,
        };
        let claims = exclusive && self.config.write.exclusive == Exclusive::AtOpen;
        let given = self.birth(parent, FileKind::File, new)?;
        let attributes = self.described(self.writes.attributes(&key), FileKind::File, &given);
        if claims && self.bucket.traits().conditional_writes {
            let request = PutRequest {
                key: key.clone(),
                body: Payload::default(),
                attributes: attributes.clone(),
                condition: WriteCondition::Absent,
            };
            let written = self.bucket.put(request).await.map_err(|error| Error::from_claim(error, name))?;
            meta.etag = written.etag;
        }
        let is_stored = meta.etag.is_some();
        let known = is_stored.then(Instant::now);
        let remote = Remote::Object(FileKind::File, meta.clone());
        let entry = self.tree.create(parent, name, &remote, known)?;
        let ino = entry.attr.ino;
        let draft = Draft::new(Arc::clone(&self.writes), ino, key.clone(), is_stored.then_some(&meta));
        if !is_stored && self.must_stay_free(creation) {
            // What somebody else makes of the name meanwhile is not overwritten unseen.
            draft.must_be_new();
        }
        draft.has_attributes(attributes);
        let writer = self.begin_draft(ino, draft);
        let entry = self.give_birth(&entry, given)?;
        let (reader, _) = self.files.open(ino, key, meta);
        let handle = self.open_files.insert(Handle { reader, writer: Some(writer) });
        Ok((entry, OpenedFile { handle, keep_cache: false }))
    }

    /// Whether a file that is created so must not replace what others make of its name meanwhile.
    fn must_stay_free(&self, creation: Creation) -> bool {
        let write = &self.config.write;
        // Until it is sent there is time for others.
        let is_late = write.write_back == WriteBack::Async && write.on_conflict == OnConflict::Fail;
        is_late || creation != Creation::OrOpen(Existing::Truncate)
    }

    /// Opens a file for reading and writing. Pair it with [`FileSystem::release`].
    ///
    /// # Errors
    /// `Stale` if its name stands for another object by now: look it up again, as the kernel does by itself. `ReadOnly` or
    /// `NotPermitted` if the mount allows no such change; `IsADirectory`, `NotFound`, `AccessDenied`, `Io`.
    pub async fn open_for_writing(&self, ino: InodeNo, existing: Existing) -> Result<OpenedFile> {
        self.may_change("open")?;
        let (reader, keep_cache) = self.open_reader(ino).await?;
        let writer = Some(self.begin_writing(ino, existing).await?);
        Ok(OpenedFile { handle: self.open_files.insert(Handle { reader, writer }), keep_cache })
    }

    /// The draft of the file `ino`, begun if nobody writes it yet.
    async fn begin_writing(&self, ino: InodeNo, existing: Existing) -> Result<Writer> {
        let writer = match self.writers.join(ino) {
            Some(writer) => writer,
            None => {
                let (key, _stays) = self.stay(|| self.tree.key("open", ino)).await?;
                let known = self.tree.table.current("open", ino)?;
                if !self.config.allow.overwrite {
                    return Err(Error::new(ErrorKind::NotPermitted, "open").with_name(key.as_str()));
                }
                self.begin_draft(ino, Draft::new(Arc::clone(&self.writes), ino, key, known.meta.as_ref()))
            }
        };
        if existing == Existing::Truncate {
            if let Err(error) = writer.draft().truncate(0).await {
                self.end_writing(ino, writer);
                return Err(error);
            }
            self.tree.table.forget_given_time(ino);
        }
        Ok(writer)
    }

    /// The first handle writes the file `ino`, as `draft` unless another handle was faster: the inode is as long and as old as what is
    /// written to it.
    pub(super) fn begin_draft(&self, ino: InodeNo, draft: Arc<Draft>) -> Writer {
        let writer = self.writers.add(ino, draft);
        self.tree.table.set_written(ino, Some(Arc::downgrade(writer.draft()) as _));
        writer
    }

    /// Takes in `data` at `offset` (bytes) of an open file, if that needs no waiting; else `None`: use [`FileSystem::write`].
    ///
    /// # Errors
    /// As [`FileSystem::write`].
    pub fn try_write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Option<Result<()>> {
        match self.writing("write", handle) {
            Ok((ino, draft)) => {
                self.tree.table.forget_given_time(ino);
                draft.try_write(offset, data)
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Takes in `data` at `offset` (bytes) of an open file: all of it, or nothing.
    ///
    /// Every handle of the file sees it at once. The store has it after [`FileSystem::flush`] or [`FileSystem::fsync`].
    ///
    /// # Errors
    /// `TooLarge` past what an object can hold; `NoSpace` if the memory for written bytes is full and nothing under way empties it; what the
    /// store answered if that is why it is full; `BadHandle` for a handle that is not open for writing.
    pub async fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<()> {
        let (_, draft) = self.writing("write", handle)?;
        draft.write(offset, data).await
    }

    /// Makes what was written to an open file durable, as close(2) does: returns when the store has acknowledged the object, or, with
    /// [`WriteBack::Async`], when the disk has it. Does nothing if nothing was written since the last time.
    ///
    /// # Errors
    /// `Stale` if somebody else replaced the object meanwhile, and what was written is not based on that; `NoSpace`, `AccessDenied`, `Io`.
    /// What was written is kept until the last handle is released, and the next call tries again.
    pub async fn flush(&self, handle: HandleId) -> Result<()> {
        let handle = self.open_files.get("flush", handle)?;
        match &handle.writer {
            Some(writer) => self.acknowledge(writer.draft()).await,
            None => Ok(()),
        }
    }

    /// Makes what was written to the file durable at the store, through any handle of it.
    ///
    /// # Errors
    /// As [`FileSystem::flush`].
    pub async fn fsync(&self, handle: HandleId) -> Result<()> {
        let handle = self.open_files.get("fsync", handle)?;
        match self.writers.draft(handle.reader.ino) {
            Some(draft) => draft.commit().await,
            None => Ok(()),
        }
    }

    /// Makes room up to `end` (bytes) as fallocate(2) does without flags: the file is at least that long afterwards. A bucket has room
    /// without end, so nothing is reserved.
    ///
    /// # Errors
    /// `TooLarge`, `BadHandle`.
    pub async fn allocate(&self, handle: HandleId, end: u64) -> Result<()> {
        let (_, draft) = self.writing("fallocate", handle)?;
        draft.grow(end).await
    }

    /// Cuts or grows the file `ino`; it is durable then, unless somebody has it open for writing.
    pub(super) async fn set_size(&self, ino: InodeNo, size: u64) -> Result<()> {
        let writer = match self.writers.join(ino) {
            Some(writer) => writer,
            None => {
                let _reader = self.open_reader(ino).await?;
                self.begin_writing(ino, Existing::Keep).await?
            }
        };
        let draft = Arc::clone(writer.draft());
        let done = match draft.truncate(size).await {
            Ok(()) if writer.is_only() => self.acknowledge(&draft).await,
            done => done,
        };
        self.end_writing(ino, writer);
        done?;
        // Also when it was as long before (truncate(2)).
        self.tree.table.forget_given_time(ino);
        Ok(())
    }

    /// Closes a file. Unknown handles are ignored.
    ///
    /// Bytes that nobody made durable (written through a mapping after close(2), for example) are sent in the background; what cannot be
    /// is named in the log.
    pub fn release(&self, handle: HandleId) {
        let Some(handle) = self.open_files.remove(handle) else { return };
        if let Some(writer) = handle.writer.clone() {
            let ino = handle.reader.ino;
            drop(handle);
            self.end_writing(ino, writer);
        }
    }

    /// The mount has `ended`: waits for the store to have what was acknowledged, unless it is away, and up to `grace` for what else is on its way
    /// there.
    ///
    /// Cancel-safe, but what is dropped with the runtime leaves parts at the store.
    pub async fn finish(&self, ended: Ended, grace: Duration) -> Unfinished {
        if ended == Ended::Unmounted {
            // The kernel drops the news that a file was closed if it is unmounted at once.
            let is_open = |draft: &Arc<Draft>| !draft.is_saved() && !self.writers.is_last(draft);
            for draft in self.writers.unsaved().into_iter().filter(is_open) {
                self.save_late(draft.ino(), draft);
            }
        }
        let (is_idle, deadline) = self.drained(grace).await;
        let all_gone = timeout_at(deadline, self.sync_removals()).await;
        if !matches!(all_gone, Ok(Ok(()))) {
            tracing::error!(stats = ?self.removal_stats(), "not all removed files are gone at the store");
        }
        if timeout_at(deadline, self.engine.idle()).await.is_err() {
            tracing::info!("the cache on disk was not given all that was read: the disk is slow");
        }
        let unsaved = self.writers.unsaved();
        if !is_idle {
            tracing::warn!(grace_s = grace.as_secs(), "the store has not acknowledged everything in time");
        }
        let (saved, lost): (Vec<_>, Vec<_>) = unsaved.iter().partition(|draft| draft.is_saved());
        let kept = saved.iter().chain(lost.iter().filter(|draft| draft.has_saved()));
        let unfinished = Unfinished {
            kept: kept.map(|draft| draft.key()).collect(),
            lost: lost.iter().map(|draft| draft.key()).collect(),
        };
        let give_up = async {
            // Those without names too: parts of them may be at the store.
            for draft in self.writers.changed() {
                draft.give_up().await;
            }
            self.writes.idle().await;
        };
        if timeout(ABORT_GRACE, give_up).await.is_err() {
            tracing::warn!("parts of files that were not closed may be left at the store");
        }
        unfinished
    }

    /// Waits for the store to have what was acknowledged, unless it is away, and for what is on its way there: for that `grace` after the other.
    /// Whether that is so, and when the grace ends.
    async fn drained(&self, grace: Duration) -> (bool, Instant) {
        loop {
            self.uploads.drain().await;
            let deadline = Instant::now() + grace;
            let is_idle = timeout_at(deadline, self.writes.idle()).await.is_ok();
            // What was closed late is saved first, and waits to be sent then.
            if !is_idle || !self.uploads.is_served() {
                return (is_idle, deadline);
            }
        }
    }

    pub(super) fn end_writing(&self, ino: InodeNo, writer: Writer) {
        let draft = Arc::clone(writer.draft());
        drop(writer);
        if !self.writers.is_last(&draft) {
            return;
        }
        if draft.is_saved() {
            self.enqueue(&draft);
            return;
        }
        if draft.is_changed() {
            self.save_late(ino, draft);
            return;
        }
        self.writers.remove_idle(
            &draft,
            |draft| !draft.is_changed(),
            || self.tree.table.set_written(ino, None),
        );
    }

    /// Nobody can be told any more what becomes of what was written to the file `ino` after it was closed.
    fn save_late(&self, ino: InodeNo, draft: Arc<Draft>) {
        let (writers, tree) = (Arc::clone(&self.writers), Arc::clone(&self.tree));
        let (files, writes) = (Arc::clone(&self.files), Arc::clone(&self.writes));
        let sender = (self.config.write.write_back == WriteBack::Async).then(|| self.sender());
        self.writes.spawn(async move {
            if let Some(sender) = sender
                && draft.save().await
            {
                sender.enqueue(&draft);
                return;
            }
            let saved = draft.commit().await;
            if let Err(error) = &saved {
                writes.lost.add(draft.key(), error);
                if draft.was_never_stored()
                    && let Ok(known) = tree.table.known("release", ino)
                {
                    // There is no such object, so there is no such file.
                    tree.removed(known.parent, &known.name, ino);
                }
            }
            // Somebody may have opened it, written to it and closed it meanwhile: what was acknowledged then is not given up.
            let is_over = |draft: &Draft| if saved.is_ok() { !draft.is_changed() } else { !draft.is_saved() };
            writers.remove_idle(&draft, is_over, || {
                if saved.is_err() && draft.needs_commit() {
                    files.spoil(ino);
                    tree.table.give_up(ino);
                }
                tree.table.set_written(ino, None);
            });
        });
    }

    fn writing(&self, operation: &'static str, handle: HandleId) -> Result<(InodeNo, Arc<Draft>)> {
        let handle = self.open_files.get(operation, handle)?;
        match &handle.writer {
            Some(writer) => Ok((handle.reader.ino, Arc::clone(writer.draft()))),
            None => Err(Error::new(ErrorKind::BadHandle, operation)),
        }
    }

    /// Whether the mount changes nothing at all.
    pub fn is_read_only(&self) -> bool {
        !self.config.allow.changes
    }

    pub(super) fn may_change(&self, operation: &'static str) -> Result<()> {
        if self.config.allow.changes { Ok(()) } else { Err(Error::new(ErrorKind::ReadOnly, operation)) }
    }
}
