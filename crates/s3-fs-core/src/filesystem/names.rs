//! Making and removing names.

use sluicefs_s3_client::{
    KeyPrefix, ListRequest, ObjectAttributes, ObjectKey, ObjectMeta, Payload, PutRequest, WriteCondition,
};
use tokio::time::Instant;

use std::sync::Arc;

use super::FileSystem;
use crate::attr::{Entry, FileKind, InodeNo, NewAttr};
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::path;
use crate::removals::Removal;
use crate::tree::Target;
use crate::write::{Draft, LosingName, Stay};

impl FileSystem {
    /// Makes the directory `name` in `parent` and counts one lookup. The store gets an empty object `name/`, so that the directory outlives
    /// the mount also while nothing is in it.
    ///
    /// # Errors
    /// `Exists`; `ReadOnly` if the mount changes nothing; `NameTooLong`, `InvalidName`, `AccessDenied`, `Io`.
    pub async fn make_dir(&self, parent: InodeNo, name: &str, new: NewAttr) -> Result<Entry> {
        self.may_change("mkdir")?;
        self.must_be_free("mkdir", parent, name).await?;
        let marker = || self.marker("mkdir", &self.tree.prefix_of("mkdir", parent, name)?);
        let (marker, _stays) = self.stay(marker).await?;
        let absent_since = self.tree.absent_since(parent, name);
        let given = self.birth(parent, FileKind::Directory, new)?;
        let attributes = self.described(self.writes.directory_attributes(), FileKind::Directory, &given);
        let known = self.put_marker("mkdir", marker, attributes).await?;
        let entry = self.tree.create(parent, name, &Remote::Directory, known)?;
        if let Some(at) = absent_since {
            self.tree.made_directory(entry.attr.ino, at);
        }
        self.give_birth(&entry, given)
    }

    /// Removes the file `name` from `parent`.
    ///
    /// Who has it open goes on reading and writing it until it is closed, if it is not longer than a part of the memory for written bytes;
    /// what was not read of a longer one is gone.
    ///
    /// # Errors
    /// `IsADirectory`; `ReadOnly` or `NotPermitted` if the mount allows no such change; `NotFound`, `AccessDenied`, `Io`.
    pub async fn unlink(&self, parent: InodeNo, name: &str) -> Result<()> {
        self.may_delete("unlink")?;
        let target = self.tree.find(parent, name).await?;
        if target.is_directory() {
            return Err(Error::new(ErrorKind::IsADirectory, "unlink").with_name(name));
        }
        let _losing = self.leave_nameless(&target).await?;
        let (key, _stays) = self.stay(|| self.tree.key("unlink", target.ino)).await?;
        if let Some(removals) = &self.removals {
            self.tree.removed_here(parent, name, target.ino);
            self.forget_saved(target.ino).await;
            removals.add(key, Removal { parent, name: Box::from(name) }).await;
            return Ok(());
        }
        let pending = self.writers.draft(target.ino).filter(|draft| draft.has_saved());
        if let Some(pending) = &pending {
            // A crash between the removal at the store and that of what is kept here must not look like somebody else's.
            pending.saved_is_leaving(true).await;
        }
        if let Err(error) = self.delete("unlink", &key).await {
            if let Some(pending) = &pending {
                pending.saved_is_leaving(false).await;
            }
            self.regain_name(target.ino).await;
            return Err(error);
        }
        self.forget_saved(target.ino).await;
        self.tree.removed(parent, name, target.ino);
        Ok(())
    }

    /// Removes the empty directory `name` from `parent`.
    ///
    /// # Errors
    /// `NotEmpty`, `NotADirectory`; `ReadOnly` or `NotPermitted` if the mount allows no such change; `NotFound`, `AccessDenied`, `Io`.
    pub async fn remove_dir(&self, parent: InodeNo, name: &str) -> Result<()> {
        self.may_delete("rmdir")?;
        let target = self.tree.find(parent, name).await?;
        if !target.is_directory() {
            return Err(Error::new(ErrorKind::NotADirectory, "rmdir").with_name(name));
        }
        let marker = || self.marker("rmdir", &self.tree.table.directory("rmdir", target.ino)?);
        let _stays = self.stay(marker).await?;
        self.sync_removals().await?;
        self.must_be_empty("rmdir", target.ino).await?;
        self.remove_marker("rmdir", &self.tree.table.directory("rmdir", target.ino)?).await?;
        self.tree.removed(parent, name, target.ino);
        Ok(())
    }

    /// Returns when the files that this mount removed are gone at the store too.
    ///
    /// # Errors
    /// Why one is not, and is there again: `AccessDenied`, `Io`.
    pub async fn sync_removals(&self) -> Result<()> {
        match &self.removals {
            Some(removals) => removals.flush().await,
            None => Ok(()),
        }
    }

    // === What these have in common ===

    /// Keeps the key that `key` gives from moving with a directory. It is asked again after a move was waited for.
    pub(super) async fn stay(&self, key: impl Fn() -> Result<ObjectKey>) -> Result<(ObjectKey, Stay)> {
        loop {
            let now = key()?;
            let stay = self.writes.stay(&[now.as_str()]).await;
            if key()? == now {
                return Ok((now, stay));
            }
        }
    }

    /// Returns when the object `key` may be made: one of that name may be about to be removed.
    pub(super) async fn removal_ended(&self, key: &ObjectKey) {
        if let Some(removals) = &self.removals {
            removals.ended(key).await;
        }
    }

    /// The file is about to lose its name: what is written to it must not be sent any more, and who has it open needs its bytes. Who makes it
    /// durable is not told that it is until the guard is dropped.
    pub(super) async fn leave_nameless(&self, target: &Target) -> Result<Option<LosingName>> {
        let ino = target.ino;
        let writer = self.writers.join(ino);
        if writer.is_none() && (!self.files.is_open(ino) || target.known.attr.size == 0) {
            return Ok(None);
        }
        let writer = match writer {
            Some(writer) => writer,
            None => {
                let key = self.tree.key("unlink", ino)?;
                let meta = target.known.meta.as_ref();
                self.begin_draft(ino, Draft::new(Arc::clone(&self.writes), ino, key, meta))
            }
        };
        let draft = writer.draft();
        let losing = draft.leave().await;
        match draft.hold_if(self.files.is_open(ino)).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!(key = %draft.key(), "a file too long to be held in memory is removed while it is open: what was not read of it yet is gone");
            }
            Err(error) => {
                tracing::warn!(key = %draft.key(), %error, "a file is removed while it is open, and its bytes could not be fetched: what was not read of it yet is gone");
            }
        }
        self.nameless.lock().insert(ino, writer);
        Ok(Some(losing))
    }

    /// The file did not lose its name after all.
    pub(super) async fn regain_name(&self, ino: InodeNo) {
        let writer = self.nameless.lock().remove(&ino);
        if let Some(writer) = writer {
            writer.draft().regain_name().await;
            if writer.draft().is_saved() {
                // The queue has forgotten it if it came by meanwhile.
                self.enqueue(writer.draft());
            }
            self.end_writing(ino, writer);
        }
    }

    pub(super) async fn must_be_free(
        &self,
        operation: &'static str,
        parent: InodeNo,
        name: &str,
    ) -> Result<()> {
        path::check_new_name(name).map_err(|kind| Error::new(kind, operation).with_name(name))?;
        match self.tree.find(parent, name).await {
            Ok(_) => Err(Error::new(ErrorKind::Exists, operation).with_name(name)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(key) = path::file_key(&self.tree.table.directory(operation, parent)?, name) {
                    self.removal_ended(&key).await;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the store, at once, whether anything but its own marker is in the directory `ino`.
    pub(super) async fn must_be_empty(&self, operation: &'static str, ino: InodeNo) -> Result<()> {
        let prefix = self.tree.table.directory(operation, ino)?;
        let not_empty = || Error::new(ErrorKind::NotEmpty, operation).with_name(prefix.as_str());
        if self.tree.has_local_names(ino) {
            return Err(not_empty());
        }
        let request = ListRequest { delimiter: false, max_keys: 2, ..ListRequest::directory(prefix.clone()) };
        let page = self.bucket.list(request).await.map_err(|error| Error::from_listing(operation, error))?;
        let is_marker = |key: &ObjectKey| key.as_str() == prefix.as_str();
        if page.objects.iter().any(|object| !is_marker(&object.key)) || !page.common_prefixes.is_empty() {
            return Err(not_empty());
        }
        Ok(())
    }

    /// The key of the object that makes a directory exist; the root needs none.
    pub(super) fn marker(&self, operation: &'static str, prefix: &KeyPrefix) -> Result<ObjectKey> {
        let name_too_long = |_| Error::new(ErrorKind::NameTooLong, operation).with_name(prefix.as_str());
        ObjectKey::new(prefix.as_str()).map_err(name_too_long)
    }

    /// Makes a directory exist at the store by its object `marker`. Returns since when listings show that; `None` if they may not, as where the
    /// server names no version of what it made.
    pub(super) async fn put_marker(
        &self,
        operation: &'static str,
        marker: ObjectKey,
        attributes: ObjectAttributes,
    ) -> Result<Option<Instant>> {
        let name = marker.clone();
        let request =
            PutRequest { key: marker, body: Payload::default(), attributes, condition: WriteCondition::Any };
        let written = self.bucket.put(request).await;
        let written =
            written.map_err(|error| Error::from_store(operation, error).with_name(name.as_str()))?;
        Ok(written.etag.map(|_| Instant::now()))
    }

    pub(super) async fn remove_marker(&self, operation: &'static str, prefix: &KeyPrefix) -> Result<()> {
        let marker = self.marker(operation, prefix)?;
        self.delete(operation, &marker).await
    }

    pub(super) async fn delete(&self, operation: &'static str, key: &ObjectKey) -> Result<()> {
        let deleted = self.bucket.delete(key).await;
        deleted.map_err(|error| Error::from_store(operation, error).with_name(key.as_str()))
    }

    pub(super) fn may_delete(&self, operation: &'static str) -> Result<()> {
        self.may_change(operation)?;
        if self.config.allow.delete { Ok(()) } else { Err(Error::new(ErrorKind::NotPermitted, operation)) }
    }

    /// The object of `target`, which is a file.
    pub(super) fn object(&self, operation: &'static str, target: &Target) -> Result<ObjectMeta> {
        let known = self.tree.table.known(operation, target.ino)?;
        known.meta.ok_or_else(|| Error::new(ErrorKind::IsADirectory, operation).with_name(&known.name))
    }
}
