//! Moving files and directories: by the store where it can, else by copying there and deleting here, in an order that loses nothing.
//!
//! A file is at its new name before it is gone from the old one. A directory's objects are all copied before the first is deleted, so that
//! a rename that was cut short leaves each object under its old name, or under its new one, or both; done again, it goes on.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use sluicefs_s3_client::bucket::{MAX_COPY_BYTES, MAX_DELETE_KEYS};
use sluicefs_s3_client::{
    self as s3, CompleteUpload, CopyPart, CopyRequest, CreateUpload, ETag, KeyPrefix, ListRequest,
    ListedObject, ObjectAttributes, ObjectKey, ObjectMeta, Part, RenameRequest, UploadId, WriteCondition,
};

use tokio::time::Instant;

use super::{FileSystem, attributes};
use crate::attr::{FileKind, InodeNo};
use crate::error::{Error, ErrorKind, Result};
use crate::inode::{Remote, is_same_version};
use crate::path;
use crate::tree::Target;
use crate::write::{DirectoryMove, Stay};

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

/// So often files below a directory are made durable before it is renamed.
const SAVING_ROUNDS: usize = 3;

/// So many objects of a directory are copied at once.
const COPIES_AT_ONCE: usize = 32;

/// A key of 1,024 bytes has no more components.
const MAX_DEPTH: usize = 512;

/// Objects over [`MAX_COPY_BYTES`] are copied in parts of this size, so many at once.
const COPY_PART_BYTES: u64 = 1 << 30;
const COPY_PARTS_AT_ONCE: usize = 8;

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
        if let Some(target) = &target {
            self.leave_nameless(target).await?;
        }
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
        if kind == FileKind::File {
            self.may_be_file("rename", to.1)?;
        }
        let (key, new_key, _stays) = self.keys_that_stay(ino, to).await?;
        self.removal_ended(&new_key).await;
        // Nothing of the file is sent to its old key from here on.
        let draft = self.writers.draft(ino);
        let paused = match &draft {
            Some(draft) => Some(draft.pause().await),
            None => None,
        };
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
        let etag = self.copy_object(source, &meta, target, (None, condition)).await?;
        let copy = ObjectMeta { etag: etag.or(meta.etag.clone()), ..meta.clone() };
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

    /// Copies an object of any size within the bucket, with its attributes or others; returns the copy's ETag.
    pub(super) async fn copy_object(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        target: &ObjectKey,
        (attributes, condition): (Option<ObjectAttributes>, WriteCondition),
    ) -> Result<Option<ETag>> {
        let unless = condition.clone();
        let failed = |error| copy_error(error, &unless, source);
        if meta.size > MAX_COPY_BYTES {
            return self.copy_in_parts(source, meta, target, (attributes, condition)).await;
        }
        let attributes = match attributes {
            None => self.changed_attributes(source, target).await.map_err(failed)?,
            given => given,
        };
        let request = CopyRequest {
            source: source.clone(),
            source_if_match: meta.etag.clone(),
            target: target.clone(),
            attributes,
            condition,
        };
        Ok(self.bucket.copy(request).await.map_err(failed)?.etag)
    }

    /// What is to be stored with the copy besides its bytes, if not what is stored with the source. Asks for that only if it matters.
    async fn changed_attributes(
        &self,
        source: &ObjectKey,
        target: &ObjectKey,
    ) -> s3::Result<Option<ObjectAttributes>> {
        if !self.bucket.traits().copy_with_attributes || !self.writes.may_change_type(source, target) {
            return Ok(None);
        }
        let head = self.bucket.head(source).await?;
        let attributes = self.writes.moved_attributes(&head, source, target);
        Ok(Some(attributes).filter(|attributes| *attributes != head.attributes()))
    }

    async fn copy_in_parts(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        target: &ObjectKey,
        (attributes, condition): (Option<ObjectAttributes>, WriteCondition),
    ) -> Result<Option<ETag>> {
        let unless = condition.clone();
        let failed = |error| copy_error(error, &unless, source);
        let attributes = match attributes {
            Some(attributes) => attributes,
            None => {
                let head = self.bucket.head(source).await.map_err(failed)?;
                self.writes.moved_attributes(&head, source, target)
            }
        };
        let upload = self.bucket.create_upload(CreateUpload { key: target.clone(), attributes }).await;
        let upload = upload.map_err(failed)?;
        let copied = self.copy_parts(source, meta, target, &upload).await;
        let done = match copied {
            Ok(parts) => {
                let request =
                    CompleteUpload { key: target.clone(), upload: upload.clone(), parts, condition };
                self.bucket.complete_upload(request).await.map_err(failed)
            }
            Err(error) => Err(error),
        };
        if done.is_err()
            && let Err(error) = self.bucket.abort_upload(target, &upload).await
        {
            tracing::warn!(key = %target, %upload, %error, "a copy that failed left parts at the store that could not be removed");
        }
        Ok(done?.etag)
    }

    async fn copy_parts(
        &self,
        source: &ObjectKey,
        meta: &ObjectMeta,
        target: &ObjectKey,
        upload: &UploadId,
    ) -> Result<Vec<Part>> {
        let starts = (0..meta.size).step_by(COPY_PART_BYTES as usize);
        let copy = |(index, start): (usize, u64)| async move {
            let whole = s3::ByteRange::new(0, meta.size);
            let request = CopyPart {
                key: target.clone(),
                upload: upload.clone(),
                number: u16::try_from(index + 1).expect("5 TiB are 5,120 parts"),
                source: source.clone(),
                source_range: s3::ByteRange::from_len(start, COPY_PART_BYTES).intersect(whole),
                source_if_match: meta.etag.clone(),
            };
            let copied = self.bucket.copy_part(request).await;
            copied.map_err(|error| Error::from_store("rename", error).with_name(source.as_str()))
        };
        stream::iter(starts.enumerate()).map(copy).buffered(COPY_PARTS_AT_ONCE).try_collect().await
    }

    // === Directories ===

    async fn rename_directory(
        &self,
        source: &Target,
        from: (InodeNo, &str),
        to: (InodeNo, &str),
        target: Option<Target>,
    ) -> Result<()> {
        let old = self.tree.table.directory("rename", source.ino)?;
        let new = self.tree.prefix_of("rename", to.0, to.1)?;
        if new.as_str().starts_with(old.as_str()) {
            return Err(Error::new(ErrorKind::Invalid, "rename").with_name(to.1));
        }
        let _moving = self.begin_move(source.ino, (&old, &new), from.1).await?;
        self.sync_removals().await?;
        let objects = self.all_below(&old).await?;
        if let Some(target) = &target {
            if !target.is_directory() {
                return Err(Error::new(ErrorKind::NotADirectory, "rename").with_name(to.1));
            }
            match self.must_be_empty("rename", target.ino).await {
                Err(error) if error.kind() == ErrorKind::NotEmpty => {
                    self.must_be_continued(&objects, (&old, &new), error).await?;
                }
                done => done?,
            }
        }
        let etags = self.copy_objects(&objects, (&old, &new)).await?;
        let copies = Copies { objects: &objects, etags: &etags };
        for ino in self.tree.table.below(source.ino) {
            self.readers_follow(ino, (&old, &new), &copies);
        }
        self.delete_objects(&objects, &old).await?;
        let known = match objects.is_empty() {
            // It is there for this mount alone, or the server does not list what makes it exist.
            true => {
                let marker = self.marker("rename", &new)?;
                let attributes = attributes::with_metadata(
                    self.writes.directory_attributes(),
                    self.tree.metadata_of(source.ino),
                );
                let known = self.put_marker("rename", marker, attributes).await?;
                self.remove_marker("rename", &old).await?;
                known
            }
            false => Some(Instant::now()),
        };
        if let Some(target) = target {
            self.tree.table.remove(target.ino);
        }
        self.tree.moved(source.ino, from, to, Remote::Directory, known)?;
        for ino in self.tree.table.below(source.ino) {
            self.follow_move(ino, &new, &copies).await;
        }
        Ok(())
    }

    /// Makes durable what is written to files below the directory `ino`, and keeps objects below it from being made or removed until the guard
    /// is dropped.
    ///
    /// What is written after that stays here. A file that is written so fast that parts of it are at the store alone, under its old key, cannot
    /// move with its directory.
    async fn begin_move(
        &self,
        ino: InodeNo,
        (old, new): (&KeyPrefix, &KeyPrefix),
        name: &str,
    ) -> Result<DirectoryMove> {
        for _ in 0..SAVING_ROUNDS {
            for draft in self.tree.table.below(ino).iter().filter_map(|ino| self.writers.draft(*ino)) {
                draft.commit().await?;
            }
            let moving = self.writes.begin_move(old, new).await;
            let below = self.tree.table.below(ino);
            let mut drafts = below.iter().filter_map(|ino| self.writers.draft(*ino));
            if !drafts.any(|draft| draft.is_bound_to_key()) {
                return Ok(moving);
            }
        }
        tracing::warn!(
            directory = name,
            "a directory cannot be renamed while large files below it are being written"
        );
        Err(Error::new(ErrorKind::Unsupported, "rename").with_name(name))
    }

    /// The file `ino` was copied with its directory: who has it open goes on with the copy, before the object goes.
    fn readers_follow(&self, ino: InodeNo, (old, new): (&KeyPrefix, &KeyPrefix), copies: &Copies<'_>) {
        let Ok(key) = self.tree.key("rename", ino) else { return };
        let Some(name) = key.as_str().strip_prefix(old.as_str()) else { return };
        if let (Some(copy), Ok(new_key)) = (self.copy_of(ino, name, copies), key_below(new, name)) {
            self.files.moved(ino, new_key, &copy);
        }
    }

    /// The file `ino`, below a directory that was renamed, is another object now.
    async fn follow_move(&self, ino: InodeNo, new: &KeyPrefix, copies: &Copies<'_>) {
        let Ok(key) = self.tree.key("rename", ino) else { return };
        let name = key.as_str().strip_prefix(new.as_str());
        let copy = name.and_then(|name| self.copy_of(ino, name, copies));
        if let Some(copy) = &copy {
            self.tree.committed(ino, copy.clone());
            self.files.moved(ino, key.clone(), copy);
        }
        if let Some(draft) = self.writers.draft(ino) {
            let paused = draft.pause().await;
            draft.moved(&paused, key, copy.as_ref()).await;
        }
    }

    /// What the file `ino` is after its directory was copied; `None` if what was copied is not what it was here: it became known, or was changed
    /// by somebody else, after the objects were listed.
    fn copy_of(&self, ino: InodeNo, name: &str, copies: &Copies<'_>) -> Option<ObjectMeta> {
        let known = self.tree.table.known("rename", ino).ok()?.meta?;
        let listed = copies.objects.get(name).filter(|listed| is_same_version(&known, listed))?;
        let etag = copies.etags.get(name)?.clone().or(listed.etag.clone());
        Some(ObjectMeta { etag, ..known })
    }

    /// All objects below `prefix`, its marker included, by what follows the prefix in their keys.
    async fn all_below(&self, prefix: &KeyPrefix) -> Result<BTreeMap<String, ObjectMeta>> {
        let mut objects = BTreeMap::new();
        let mut request = ListRequest { delimiter: false, ..ListRequest::directory(prefix.clone()) };
        loop {
            let page = self.bucket.list(request.clone()).await;
            let page =
                page.map_err(|error| Error::from_listing("rename", error).with_name(prefix.as_str()))?;
            for ListedObject { key, meta } in page.objects {
                let rest = key.as_str().strip_prefix(prefix.as_str());
                objects.insert(rest.unwrap_or_default().to_owned(), meta);
            }
            let limit = self.config.write.max_renamed_objects;
            if objects.len() as u64 > limit {
                tracing::warn!(prefix = %prefix, limit, "a directory of more objects than may be renamed at once stays where it is");
                return Err(Error::new(ErrorKind::TooLarge, "rename").with_name(prefix.as_str()));
            }
            match page.next {
                Some(next) => request.continuation = Some(next),
                None => return Ok(objects),
            }
        }
    }

    /// A target that is not empty is the beginning of this very rename, if everything in it is a copy of what is here or was here. At least
    /// one file must be among that: every two directories have equal markers.
    async fn must_be_continued(
        &self,
        objects: &BTreeMap<String, ObjectMeta>,
        (old, new): (&KeyPrefix, &KeyPrefix),
        not_empty: Error,
    ) -> Result<()> {
        let there = self.all_below(new).await?;
        let is_copy = |(name, meta): (&String, &ObjectMeta)| {
            objects.get(name).is_some_and(|here| here.size == meta.size && here.etag == meta.etag)
        };
        let copies = there.iter().filter(|object| is_copy(*object)).count();
        let has_copied_file = there.iter().any(|object| is_file(object.0) && is_copy(object));
        if has_copied_file && (copies == there.len() || copies == objects.len()) {
            tracing::info!(from = %old, to = %new, copies, "a rename that was interrupted goes on");
            return Ok(());
        }
        Err(not_empty)
    }

    /// Copies all of `objects`; returns the copies' ETags by name.
    async fn copy_objects(
        &self,
        objects: &BTreeMap<String, ObjectMeta>,
        (old, new): (&KeyPrefix, &KeyPrefix),
    ) -> Result<BTreeMap<String, Option<ETag>>> {
        // Nothing is begun that cannot be finished for the length of a name.
        for name in objects.keys() {
            key_below(new, name)?;
        }
        let total = objects.len();
        if total >= COPIES_AT_ONCE {
            tracing::info!(from = %old, to = %new, total, "copying the objects of a directory to its new name");
        }
        let copy = |(name, meta): (&String, &ObjectMeta)| {
            let (name, meta) = (name.clone(), meta.clone());
            async move {
                let (from, to) = (key_below(old, &name)?, key_below(new, &name)?);
                let etag = self.copy_object(&from, &meta, &to, (None, WriteCondition::Any)).await?;
                Ok::<_, Error>((name, etag))
            }
        };
        stream::iter(objects).map(copy).buffer_unordered(COPIES_AT_ONCE).try_collect().await
    }

    /// Deletes all of `objects`, and then the markers that a store of real directories shows of those that are empty now.
    async fn delete_objects(&self, objects: &BTreeMap<String, ObjectMeta>, old: &KeyPrefix) -> Result<()> {
        let keys = objects.keys().map(|name| key_below(old, name)).collect::<Result<Vec<_>>>()?;
        for keys in keys.chunks(MAX_DELETE_KEYS) {
            self.delete_many("rename", keys).await?;
        }
        for _ in 0..MAX_DEPTH {
            let left = self.all_below(old).await?;
            if left.is_empty() || left.keys().any(|name| is_file(name)) {
                break;
            }
            let markers = left.keys().map(|name| key_below(old, name)).collect::<Result<Vec<_>>>()?;
            self.delete_many("rename", &markers).await?;
        }
        Ok(())
    }

    async fn delete_many(&self, operation: &'static str, keys: &[ObjectKey]) -> Result<()> {
        let failed = self.bucket.delete_many(keys).await;
        let failed = failed.map_err(|error| Error::from_store(operation, error))?;
        match failed.into_iter().next() {
            Some((key, error)) => Err(Error::from_store(operation, error).with_name(key.as_str())),
            None => Ok(()),
        }
    }
}

/// What failed may be that the name was to be free, or that the source is another version by now.
fn copy_error(error: s3::Error, condition: &WriteCondition, source: &ObjectKey) -> Error {
    match condition {
        WriteCondition::Absent => Error::from_claim(error, source.as_str()),
        WriteCondition::Any | WriteCondition::Matches(_) => {
            Error::from_store("rename", error).with_name(source.as_str())
        }
    }
}

/// Whether an object below a directory is a file, and not the marker of a directory.
fn is_file(name: &str) -> bool {
    !name.is_empty() && !name.ends_with('/')
}

/// What of a directory was copied: as it was listed, and the copies' ETags.
struct Copies<'a> {
    objects: &'a BTreeMap<String, ObjectMeta>,
    etags: &'a BTreeMap<String, Option<ETag>>,
}

fn key_below(prefix: &KeyPrefix, name: &str) -> Result<ObjectKey> {
    let too_long = |_| Error::new(ErrorKind::NameTooLong, "rename").with_name(name);
    ObjectKey::new(format!("{}{name}", prefix.as_str())).map_err(too_long)
}
