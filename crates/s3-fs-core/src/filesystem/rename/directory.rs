//! Moving a directory: all its objects are copied before the first is deleted.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use sluicefs_s3_client::bucket::MAX_DELETE_KEYS;
use sluicefs_s3_client::{
    self as s3, ETag, KeyPrefix, ListRequest, ListedObject, ObjectKey, ObjectMeta, Payload, PutRequest,
    WriteCondition,
};
use tokio::time::Instant;

use super::SAVING_ROUNDS;
use super::resume::is_file;
use crate::attr::InodeNo;
use crate::error::{Error, ErrorKind, Result};
use crate::filesystem::{FileSystem, attributes};
use crate::inode::{Remote, is_same_version};
use crate::tree::Target;
use crate::write::DirectoryMove;

/// So many objects of a directory are copied at once.
const COPIES_AT_ONCE: usize = 32;

/// A key of 1,024 bytes has no more components.
const MAX_DEPTH: usize = 512;

/// Where a directory moves from and to.
pub(super) type Move<'a> = (&'a KeyPrefix, &'a KeyPrefix);

impl FileSystem {
    pub(super) async fn rename_directory(
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
        if let Err(error) = self.delete_objects(&objects, &old).await {
            self.writers_follow(source.ino, (&old, &new), &copies).await;
            return Err(error);
        }
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
    async fn begin_move(&self, ino: InodeNo, (old, new): Move<'_>, name: &str) -> Result<DirectoryMove> {
        for _ in 0..SAVING_ROUNDS {
            for draft in self.tree.table.below(ino).iter().filter_map(|ino| self.writers.draft(*ino)) {
                draft.commit().await?;
            }
            let moving = self.writes.begin_move(old, new).await;
            let below = self.tree.table.below(ino);
            let mut drafts = below.iter().filter_map(|ino| self.writers.draft(*ino));
            if !drafts.any(|draft| draft.is_bound_to_key() || draft.has_saved()) {
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
    fn readers_follow(&self, ino: InodeNo, (old, new): Move<'_>, copies: &Copies<'_>) {
        let Ok(key) = self.tree.key("rename", ino) else { return };
        let Some(name) = key.as_str().strip_prefix(old.as_str()) else { return };
        if let (Some(copy), Ok(new_key)) = (self.copy_of(ino, name, copies), key_below(new, name)) {
            self.files.moved(ino, new_key, &copy);
        }
    }

    /// Not all objects of the directory `ino` could be deleted after they were copied: what is written to files of those that were goes to the
    /// copies, as it is based on these.
    async fn writers_follow(&self, ino: InodeNo, (old, new): Move<'_>, copies: &Copies<'_>) {
        let left = match self.all_below(old).await {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(from = %old, to = %new, %error, "a directory moved in part: what is being written to files below it may be refused, as their objects may be gone");
                return;
            }
        };
        for ino in self.tree.table.below(ino) {
            let (Some(draft), Ok(key)) = (self.writers.draft(ino), self.tree.key("rename", ino)) else {
                continue;
            };
            let Some(name) = key.as_str().strip_prefix(old.as_str()).filter(|name| !left.contains_key(*name))
            else {
                continue;
            };
            if let (Some(copy), Ok(new_key)) = (self.copy_of(ino, name, copies), key_below(new, name)) {
                let paused = draft.pause().await;
                draft.moved(&paused, new_key, Some(&copy)).await;
            }
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
    pub(super) async fn all_below(&self, prefix: &KeyPrefix) -> Result<BTreeMap<String, ObjectMeta>> {
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

    /// Copies all of `objects`; returns the copies' ETags by name.
    async fn copy_objects(
        &self,
        objects: &BTreeMap<String, ObjectMeta>,
        (old, new): Move<'_>,
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
                let copied = self.writes.copy_object(&from, &meta, &to, (None, WriteCondition::Any)).await;
                let etag = match copied {
                    Err(error) if !is_file(&name) && is_refused(&error) => {
                        self.make_marker_like(&from, to).await?
                    }
                    copied => copied?.etag,
                };
                Ok::<_, Error>((name, etag))
            }
        };
        stream::iter(objects).map(copy).buffer_unordered(COPIES_AT_ONCE).try_collect().await
    }

    /// Makes the marker `to` with what is stored with the marker `from`. Servers that keep a marker as a directory may refuse to copy it.
    async fn make_marker_like(&self, from: &ObjectKey, to: ObjectKey) -> Result<Option<ETag>> {
        let failed = |error| Error::from_store("rename", error).with_name(from.as_str());
        let attributes = self.bucket.head(from).await.map_err(failed)?.attributes();
        let condition = WriteCondition::Any;
        let request = PutRequest { key: to, body: Payload::default(), attributes, condition };
        Ok(self.bucket.put(request).await.map_err(failed)?.etag)
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

/// Whether the store finds the request itself wrong.
fn is_refused(error: &Error) -> bool {
    error.store_error().is_some_and(|error| error.kind() == s3::ErrorKind::Invalid)
}

/// What of a directory was copied: as it was listed, and the copies' ETags.
struct Copies<'a> {
    objects: &'a BTreeMap<String, ObjectMeta>,
    etags: &'a BTreeMap<String, Option<ETag>>,
}

pub(super) fn key_below(prefix: &KeyPrefix, name: &str) -> Result<ObjectKey> {
    let too_long = |_| Error::new(ErrorKind::NameTooLong, "rename").with_name(name);
    ObjectKey::new(format!("{}{name}", prefix.as_str())).map_err(too_long)
}
