//! Moving files and directories: by the store where it can, else by copying there and deleting here, in an order that loses nothing.
//!
//! A file is at its new name before it is gone from the old one. A directory's objects are all copied before the first is deleted, so that
//! a rename that was cut short leaves each object under its old name, or under its new one, or both; done again, it goes on.

mod directory;
mod resume;

use sluicefs_s3_client::{ObjectKey, ObjectMeta, RenameRequest, WriteCondition};
use tokio::time::Instant;

use super::FileSystem;
use crate::attr::{FileKind, InodeNo};
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::path;
use crate::tree::Target;
use crate::write::{Paused, Stay, copy_error};

/// What may happen to what has the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It is replaced.
    Allowed,
    /// That is an error (`RENAME_NOREPLACE`).
    Forbidden,
}

/// Why a file did not move.
#[derive(Debug)]
enum Unmoved {
    /// Nothing happened.
    Untouched(Error),
    /// It has the new name too: the old one could not be removed.
    Copied(Error),
}

impl From<Error> for Unmoved {
    fn from(error: Error) -> Self {
        Self::Untouched(error)
    }
}

/// So often what is being written is made durable before it is renamed.
const SAVING_ROUNDS: usize = 3;

impl FileSystem {
    /// Moves `name` in `parent` to `new_name` in `new_parent`. No byte travels here; what was written to the file is made durable first.
    ///
    /// # Errors
    /// `Exists` if the new name is taken and `replace` forbids that; `NotEmpty`, `IsADirectory`, `NotADirectory` if it is something that cannot be
    /// replaced; `Invalid` for a directory moved into itself; `TooLarge` for a directory of more objects than the settings allow;
    /// `ReadOnly` or `NotPermitted` if the mount allows no such change; `Stale` if somebody else replaced the object meanwhile; `NotFound`,
    /// `NameTooLong`, `AccessDenied`, `Io`.
    pub async fn rename(
        &self,
        (parent, name): (InodeNo, &str),
        (new_parent, new_name): (InodeNo, &str),
        replace: Replace,
    ) -> Result<()> {
        self.may_delete("rename")?;
        path::check_new_name(new_name).map_err(|kind| Error::new(kind, "rename").with_name(new_name))?;
        let source = self.tree.find(parent, name).await?;
        let target = match self.tree.find(new_parent, new_name).await {
            Ok(target) if target.ino == source.ino => return Ok(()),
            Ok(target) => Some(target),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if target.is_some() && replace == Replace::Forbidden {
            return Err(Error::new(ErrorKind::Exists, "rename").with_name(new_name));
        }
        let (from, to) = ((parent, name), (new_parent, new_name));
        match source.is_directory() {
            true => self.rename_directory(&source, from, to, target).await,
            false => self.rename_file(&source, from, to, target, replace).await,
        }
    }

    async fn rename_file(
        &self,
        source: &Target,
        from: (InodeNo, &str),
        to: (InodeNo, &str),
        target: Option<Target>,
        replace: Replace,
    ) -> Result<()> {
        if target.as_ref().is_some_and(Target::is_directory) {
            return Err(Error::new(ErrorKind::IsADirectory, "rename").with_name(to.1));
        }
        if target.is_some() && !self.config.allow.overwrite {
            return Err(Error::new(ErrorKind::NotPermitted, "rename").with_name(to.1));
        }
        if let Some(draft) = self.writers.draft(source.ino) {
            draft.commit().await?;
        }
        if let Some(target) = &target
            && let Some(pending) = self.writers.draft(target.ino).filter(|draft| draft.has_saved())
        {
            // What was acknowledged of it comes first: after a crash it must be there unless this is done.
            pending.commit().await?;
        }
        let _losing = match &target {
            Some(target) => self.leave_nameless(target).await?,
            None => None,
        };
        match (self.move_file(source, from, to, (target.as_ref(), replace)).await, target) {
            (Err(Unmoved::Untouched(error)), target) => {
                if let Some(target) = target {
                    self.regain_name(target.ino).await;
                }
                Err(error)
            }
            // Whether or not the old name is gone, the new one is this file's.
            (done, target) => {
                if let Some(target) = target {
                    self.forget_saved(target.ino).await;
                    self.tree.table.remove(target.ino);
                }
                done.map_err(|(Unmoved::Untouched(error) | Unmoved::Copied(error))| error)
            }
        }
    }

    async fn move_file(
        &self,
        source: &Target,
        from: (InodeNo, &str),
        to: (InodeNo, &str),
        (target, replace): (Option<&Target>, Replace),
    ) -> Result<(), Unmoved> {
        let (ino, kind) = (source.ino, source.known.attr.kind);
        if kind != FileKind::Symlink {
            self.may_be_file("rename", to.1)?;
        }
        let (key, new_key, _stays, paused) = self.begin_move_of_file(ino, to).await?;
        self.removal_ended(&new_key).await;
        let old = self.object("rename", source)?;
        let condition = match replace {
            Replace::Forbidden if self.bucket.traits().conditional_writes => WriteCondition::Absent,
            _ => WriteCondition::Any,
        };
        // A file and a link of one name are two objects.
        let displaced = match target {
            Some(target) => Some(self.tree.key("rename", target.ino)?).filter(|key| *key != new_key),
            None => None,
        };
        let keys = (&key, &new_key, displaced.as_ref());
        let meta = self.move_object((ino, Remote::Object(kind, old)), keys, condition, to).await?;
        let remote = Remote::Object(kind, meta.clone());
        self.tree.moved(ino, from, to, remote, Some(Instant::now())).map_err(Unmoved::Copied)?;
        self.tree.committed(ino, meta.clone());
        self.files.moved(ino, new_key.clone(), &meta);
        // Somebody may have begun to write it meanwhile.
        if let Some(draft) = self.writers.draft(ino) {
            let paused = match paused {
                Some(paused) => paused,
                None => draft.pause().await,
            };
            draft.moved(&paused, new_key, Some(&meta)).await;
        }
        Ok(())
    }

    /// As [`FileSystem::keys_that_stay`]; and nothing of the file is sent to its old key from here on. What is at the store alone, under that key,
    /// is made an object first.
    async fn begin_move_of_file(
        &self,
        ino: InodeNo,
        to: (InodeNo, &str),
    ) -> Result<(ObjectKey, ObjectKey, Stay, Option<Paused>)> {
        for _ in 0..SAVING_ROUNDS {
            let (key, new_key, stays) = self.keys_that_stay(ino, to).await?;
            let Some(draft) = self.writers.draft(ino) else { return Ok((key, new_key, stays, None)) };
            let paused = draft.pause().await;
            // What was saved since it was made an object says that it belongs to the old key, and would come back there after a crash.
            if !draft.is_bound_to_key() && !draft.has_saved() {
                return Ok((key, new_key, stays, Some(paused)));
            }
            // Making the object takes both.
            drop((stays, paused));
            draft.commit().await?;
        }
        tracing::warn!(
            name = to.1,
            "a file cannot be renamed while it is being written, if it is large, or closed again and again"
        );
        Err(Error::new(ErrorKind::Unsupported, "rename").with_name(to.1))
    }

    /// The key of the file `ino`, and the one that it gets; neither moves with a directory meanwhile.
    async fn keys_that_stay(
        &self,
        ino: InodeNo,
        to: (InodeNo, &str),
    ) -> Result<(ObjectKey, ObjectKey, Stay)> {
        let keys = || {
            let prefix = self.tree.table.directory("rename", to.0)?;
            let too_long = || Error::new(ErrorKind::NameTooLong, "rename").with_name(to.1);
            let kind = self.tree.table.known("rename", ino)?.attr.kind;
            let new_key = self.tree.key_of(&prefix, to.1, kind).ok_or_else(too_long)?;
            Ok::<_, Error>((self.tree.key("rename", ino)?, new_key))
        };
        loop {
            let (key, new_key) = keys()?;
            let stays = self.writes.stay(&[key.as_str(), new_key.as_str()]).await;
            if keys()? == (key.clone(), new_key.clone()) {
                return Ok((key, new_key, stays));
            }
        }
    }

    /// Moves the object of `ino`, and removes the one that it displaces under another key; returns what it is then. Whoever reads it goes on
    /// with the copy before the old one is gone.
    async fn move_object(
        &self,
        (ino, remote): (InodeNo, Remote),
        (source, target, displaced): (&ObjectKey, &ObjectKey, Option<&ObjectKey>),
        condition: WriteCondition,
        to: (InodeNo, &str),
    ) -> Result<ObjectMeta, Unmoved> {
        let kind = remote.kind();
        let Remote::Object(_, meta) = remote else {
            return Err(Error::new(ErrorKind::IsADirectory, "rename").with_name(source.as_str()).into());
        };
        let gone = || async {
            match displaced {
                Some(displaced) => self.delete("rename", displaced).await,
                None => Ok(()),
            }
        };
        if self.bucket.traits().rename {
            let request = RenameRequest {
                source: source.clone(),
                source_if_match: meta.etag.clone(),
                target: target.clone(),
                condition: condition.clone(),
            };
            let renamed = self.bucket.rename(request).await;
            renamed.map_err(|error| copy_error(error, &condition, source))?;
            gone().await.map_err(Unmoved::Copied)?;
            return Ok(meta);
        }
        let copy = self.writes.copy_object(source, &meta, target, (None, condition)).await?;
        self.files.moved(ino, target.clone(), &copy);
        let removed = match gone().await {
            Ok(()) => self.delete("rename", source).await,
            error => error,
        };
        if let Err(error) = removed {
            self.files.moved(ino, source.clone(), &meta);
            self.tree.made(to.0, to.1, Remote::Object(kind, copy), Some(Instant::now()));
            return Err(Unmoved::Copied(error));
        }
        Ok(copy)
    }
}
