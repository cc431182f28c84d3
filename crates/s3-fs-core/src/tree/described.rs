//! What the metadata of objects say about names, where attributes are kept there: one HEAD for each version, remembered.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sluicefs_s3_client::{self as s3, KeyPrefix, ObjectHead, ObjectKey, ObjectMeta};
use tokio::time::Instant;

use super::Tree;
use crate::attr::{FileKind, InodeNo};
use crate::config::Attributes;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::inode::stored::{Carried, Metadata, Stored, write};
use crate::listing::Named;
use crate::path;

/// At most so many objects' metadata are remembered.
const MAX_REMEMBERED: usize = 65_536;

/// So many objects are asked about at once for a reader of a directory, and so many names ahead of it: more than one reply holds.
const HEADS_AT_ONCE: usize = 32;
const HEADS_AHEAD: usize = 128;

/// Metadata of objects by key. A change of metadata alone leaves the ETag as it is, so the time counts too.
#[derive(Debug, Default)]
pub(super) struct Described(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    objects: FxHashMap<ObjectKey, Remembered>,
    order: VecDeque<ObjectKey>,
}

#[derive(Debug, Clone)]
struct Remembered {
    /// The version, as HEAD told it; `None`: there is no such object.
    meta: Option<ObjectMeta>,
    /// `None`: it was changed here then, and not asked about since.
    stored: Option<Arc<Stored>>,
    at: Instant,
}

/// What a name is, since when that is so, and what its metadata say.
type Told = (Instant, Named, Option<Arc<Stored>>);

impl Described {
    fn get(&self, key: &ObjectKey) -> Option<Remembered> {
        self.0.lock().objects.get(key).cloned()
    }

    fn insert(&self, key: &ObjectKey, remembered: Remembered) {
        let mut state = self.0.lock();
        if state.objects.get(key).is_some_and(|known| known.at > remembered.at) {
            // Asked before that, and answered after.
            return;
        }
        if state.objects.insert(key.clone(), remembered).is_none() {
            state.order.push_back(key.clone());
        }
        while state.order.len() > MAX_REMEMBERED {
            if let Some(oldest) = state.order.pop_front() {
                state.objects.remove(&oldest);
            }
        }
    }
}

impl Tree {
    /// How many names [`Tree::describe_ahead`] asks about at once.
    pub(super) const AHEAD: usize = HEADS_AHEAD;

    /// Whether attributes are kept in metadata.
    pub(crate) fn keeps_attributes(&self) -> bool {
        self.attributes != Attributes::None
    }

    /// What the metadata say of `named` in the directory `prefix`, asked for unless remembered; `None` if the object is gone.
    pub(super) async fn describe(
        &self,
        parent: InodeNo,
        prefix: &KeyPrefix,
        named: Named,
        seen: Instant,
    ) -> Result<Option<Told>> {
        if !self.keeps_attributes() || self.is_written(parent, &named.name) {
            return Ok(Some((seen, named, None)));
        }
        let Some(key) = self.described_key(prefix, &named) else { return Ok(Some((seen, named, None))) };
        if let Some(stored) = self.remembered(&key, &named.remote) {
            let remote = self.with_kind(named.remote, &stored);
            return Ok(Some((seen, Named { remote, ..named }, Some(stored))));
        }
        let remembered = self.ask_about(&key).await?;
        let stored = remembered.stored.unwrap_or_default();
        let remote = match (&named.remote, remembered.meta) {
            (Remote::Directory, _) => Remote::Directory,
            (Remote::Object(..), None) => return Ok(None),
            (Remote::Object(kind, _), Some(meta)) => Remote::Object(*kind, meta),
        };
        let remote = self.with_kind(remote, &stored);
        Ok(Some((remembered.at, Named { remote, ..named }, Some(stored))))
    }

    /// Asks about names that a reader of a directory comes to next.
    pub(super) async fn describe_ahead(
        &self,
        prefix: &KeyPrefix,
        names: &[Named],
        seen: Instant,
    ) -> Result<()> {
        if !self.keeps_attributes() {
            return Ok(());
        }
        let unknown = names.iter().take(HEADS_AHEAD).filter_map(|named| {
            let key = self.described_key(prefix, named)?;
            self.told_of(&key, &named.remote, seen).is_none().then_some(key)
        });
        let keys: Vec<ObjectKey> = unknown.collect();
        let mut asked = stream::iter(keys)
            .map(|key| async move { self.ask_about(&key).await })
            .buffer_unordered(HEADS_AT_ONCE);
        while let Some(answer) = asked.next().await {
            match answer {
                // One object that nobody may look at does not keep the others from being listed.
                Err(error) if error.kind() == ErrorKind::AccessDenied => {
                    tracing::debug!(%error, "listed without its attributes");
                }
                answer => drop(answer?),
            }
        }
        Ok(())
    }

    /// What is remembered of `named`, which a listing had when it was `seen`: since when that is so, and what it is by its metadata.
    pub(super) fn recall(
        &self,
        parent: InodeNo,
        prefix: &KeyPrefix,
        named: &Named,
        seen: Instant,
    ) -> Option<(Instant, Remote, Arc<Stored>)> {
        if !self.keeps_attributes() || self.is_written(parent, &named.name) {
            return None;
        }
        self.told_of(&self.described_key(prefix, named)?, &named.remote, seen)
    }

    /// The same of the object `key`: as the listing has it, or as a HEAD told since.
    fn told_of(
        &self,
        key: &ObjectKey,
        listed: &Remote,
        seen: Instant,
    ) -> Option<(Instant, Remote, Arc<Stored>)> {
        if let Some(stored) = self.remembered(key, listed) {
            return Some((seen, self.with_kind(listed.clone(), &stored), stored));
        }
        let Remembered { meta, stored, at } = self.described.get(key).filter(|known| known.at >= seen)?;
        let stored = stored?;
        let remote = match listed {
            Remote::Directory => Remote::Directory,
            Remote::Object(kind, _) => Remote::Object(*kind, meta?),
        };
        Some((at, self.with_kind(remote, &stored), stored))
    }

    /// What a HEAD of `key` told, which is remembered.
    pub(super) fn learn(&self, key: &ObjectKey, head: &ObjectHead, at: Instant) -> Option<Arc<Stored>> {
        if !self.keeps_attributes() {
            return None;
        }
        let stored = Arc::new(Stored::read(self.attributes, &head.user_metadata));
        let remembered = Remembered { meta: Some(head.meta.clone()), stored: Some(Arc::clone(&stored)), at };
        self.described.insert(key, remembered);
        Some(stored)
    }

    /// The metadata that the attributes of `ino` make; none unless they are kept.
    pub(crate) fn metadata_of(&self, ino: InodeNo) -> Metadata {
        match (self.table.known("setattr", ino), self.table.given(ino)) {
            (Ok(known), Some((_, xattrs))) => write(self.attributes, &known.attr, &xattrs),
            _ => Metadata::new(),
        }
    }

    /// The same for a file that is about to become an object, and whether a time was given to it.
    pub(crate) fn carried_by(&self, ino: InodeNo) -> Carried {
        if !self.keeps_attributes() {
            return Carried::default();
        }
        let has_given_time = self.table.given(ino).is_some_and(|(given, _)| given.mtime.is_some());
        Carried { metadata: self.metadata_of(ino), has_given_time }
    }

    /// The object `key` was written, or its metadata changed, by this mount.
    pub(crate) fn metadata_changed(&self, key: &ObjectKey) {
        self.described.insert(key, Remembered { meta: None, stored: None, at: Instant::now() });
    }

    async fn ask_about(&self, key: &ObjectKey) -> Result<Remembered> {
        let at = Instant::now();
        match self.bucket.head(key).await {
            Ok(head) => {
                let stored = self.learn(key, &head, at);
                Ok(Remembered { meta: Some(head.meta), stored, at })
            }
            Err(error) if error.kind() == s3::ErrorKind::NotFound => {
                let absent = Remembered { meta: None, stored: Some(Arc::default()), at };
                self.described.insert(key, absent.clone());
                Ok(absent)
            }
            Err(error) => Err(Error::from_store("getattr", error).with_name(key.as_str())),
        }
    }

    /// What is remembered of the object `key`, if that is of the version of `remote`.
    fn remembered(&self, key: &ObjectKey, remote: &Remote) -> Option<Arc<Stored>> {
        let remembered = self.described.get(key)?;
        let is_right = match (remote, &remembered.meta) {
            // A listing tells nothing of the object of a directory.
            (Remote::Directory, _) => {
                let now = Instant::now();
                remembered.at + self.believed(now) > now
            }
            (Remote::Object(_, meta), Some(known)) => {
                meta.etag == known.etag
                    && meta.size == known.size
                    && meta.last_modified.secs == known.last_modified.secs
            }
            (Remote::Object(..), None) => false,
        };
        remembered.stored.filter(|_| is_right)
    }

    /// The object whose metadata describe `named`.
    fn described_key(&self, prefix: &KeyPrefix, named: &Named) -> Option<ObjectKey> {
        match named.remote.kind() {
            FileKind::Directory => ObjectKey::new(path::directory_prefix(prefix, &named.name).as_str()).ok(),
            kind => self.key_of(prefix, &named.name, kind),
        }
    }

    /// The metadata say what an object is, unless its key does.
    fn with_kind(&self, remote: Remote, stored: &Stored) -> Remote {
        match (remote, stored.kind) {
            (Remote::Object(FileKind::File, meta), Some(kind)) => Remote::Object(self.shown(kind), meta),
            (remote, _) => remote,
        }
    }

    /// What an object is whose metadata say that it is of this kind.
    pub(super) fn shown(&self, kind: FileKind) -> FileKind {
        match kind {
            FileKind::Directory => FileKind::File,
            FileKind::Symlink if !self.shows_links => FileKind::File,
            kind => kind,
        }
    }

    /// Whether this mount writes the file, so that it knows more of it than the store does.
    fn is_written(&self, parent: InodeNo, name: &str) -> bool {
        let known = self.table.peek(parent, name).map(|ino| self.table.known("lookup", ino));
        matches!(known, Some(Ok(known)) if known.is_written)
    }
}
