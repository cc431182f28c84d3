//! Changing attributes, and keeping them in the metadata of objects where the settings say so.
//!
//! What is being written carries its attributes when it becomes an object. What is an object already is copied onto itself with other
//! metadata, by the store; a directory has an empty object for that.

use std::sync::Arc;

use sluicefs_s3_client::{
    self as s3, ObjectAttributes, ObjectMeta, Payload, PutRequest, StorageClass, WriteCondition,
};
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use super::FileSystem;
use crate::attr::{Entry, FileKind, InodeNo, NewAttr, SetAttr};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::stored::{self, Metadata, Stored, XattrMap};
use crate::inode::{GivenAttr, Remote};
use crate::write::fitted;
use crate::xattr;

/// Changes of the attributes of one file come one after the other; so many groups of files do not wait for each other.
pub(super) const TURNS: usize = 16;

/// What there may be before an extended attribute is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Anything.
    Any,
    /// It must not be there (`XATTR_CREATE`).
    Create,
    /// It must be there (`XATTR_REPLACE`).
    Replace,
}

/// Gives what is to be changed to what is known by then.
type Give<'a> = &'a (dyn Fn() -> Result<()> + Sync);

impl FileSystem {
    /// Changes attributes of `ino`, and returns what they are then.
    ///
    /// A file that is cut or grown while nobody has it open for writing is made durable before this returns. Owner, mode and times are kept
    /// while the kernel knows the file, and in the metadata of its object if the settings say so.
    ///
    /// # Errors
    /// As [`FileSystem::open_for_writing`] and [`FileSystem::flush`]; `NoSpace` if the store takes no more metadata.
    pub async fn set_attr(&self, ino: InodeNo, set: SetAttr) -> Result<Entry> {
        self.may_change("setattr")?;
        if let Some(size) = set.size {
            self.set_size(ino, size).await?;
        }
        let given = GivenAttr {
            mode: set.mode,
            uid: set.uid,
            gid: set.gid,
            atime: set.atime,
            mtime: set.mtime,
            ctime: Some(clock::now()),
            names: None,
            rdev: None,
        };
        let _changing = self.tree.table.begin_change(ino);
        let before = self.tree.table.given(ino);
        let give = || {
            self.tree.table.give(ino, given);
            Ok(())
        };
        give()?;
        // A new length comes with the object that is written.
        let is_more = set.mode.or(set.uid.and(Some(0))).or(set.gid.and(Some(0))).is_some();
        if is_more || set.atime.is_some() || set.mtime.is_some() {
            self.keep_or_restore(ino, before, &give).await?;
        }
        self.getattr(ino).await
    }

    /// Makes the pipe, socket or device `name` in `parent`, which nothing will ever reach through the mount, and counts one lookup.
    ///
    /// # Errors
    /// `NotPermitted` unless attributes are kept; else as [`FileSystem::create`].
    pub async fn make_node(
        &self,
        (parent, name): (InodeNo, &str),
        (kind, rdev): (FileKind, u32),
        new: NewAttr,
    ) -> Result<Entry> {
        self.may_change("mknod")?;
        if !self.tree.keeps_attributes() {
            let error = Error::new(ErrorKind::NotPermitted, "mknod").with_name(name);
            return Err(error.because("a bucket has no such files; --attributes keeps what is known of them"));
        }
        self.must_be_free("mknod", parent, name).await?;
        self.may_be_file("mknod", name)?;
        let too_long = || Error::new(ErrorKind::NameTooLong, "mknod").with_name(name);
        let key = || {
            let prefix = self.tree.table.directory("mknod", parent)?;
            self.tree.key_of(&prefix, name, kind).ok_or_else(too_long)
        };
        let (key, _stays) = self.stay(key).await?;
        let given = GivenAttr { rdev: Some(rdev), ..self.birth(parent, kind, new)? };
        let request = PutRequest {
            attributes: self.described(self.writes.attributes(&key), kind, &given),
            key,
            body: Payload::default(),
            condition: self.unless_taken(),
        };
        let written = self.bucket.put(request).await.map_err(|error| Error::from_claim(error, name))?;
        let remote = Remote::Object(kind, new_object(0, written.etag));
        let entry = self.tree.create(parent, name, &remote, Some(Instant::now()))?;
        self.give_birth(&entry, given)
    }

    // === Extended attributes ===

    /// Sets an extended attribute of `ino`, in the metadata of its object.
    ///
    /// # Errors
    /// `Unsupported` unless attributes are kept, and for names that do not begin with `user.`; `NotPermitted` for those that tell of the
    /// object; `Exists` and `NoAttribute` as `mode` says; `NoSpace` if the store takes no more metadata.
    pub async fn set_xattr(&self, ino: InodeNo, name: &str, value: &[u8], mode: XattrMode) -> Result<()> {
        let fail = |kind| Error::new(kind, "setxattr").with_name(name);
        self.change_xattrs("setxattr", ino, name, |xattrs| {
            match (mode, xattrs.contains_key(name)) {
                (XattrMode::Create, true) => return Err(fail(ErrorKind::Exists)),
                (XattrMode::Replace, false) => return Err(fail(ErrorKind::NoAttribute)),
                _ => {}
            }
            xattrs.insert(name.to_owned(), value.to_vec());
            Ok(())
        })
        .await
    }

    /// Removes an extended attribute of `ino`.
    ///
    /// # Errors
    /// As [`FileSystem::set_xattr`]; `NoAttribute` if there is none.
    pub async fn remove_xattr(&self, ino: InodeNo, name: &str) -> Result<()> {
        let missing = || Error::new(ErrorKind::NoAttribute, "removexattr").with_name(name);
        self.change_xattrs("removexattr", ino, name, |xattrs| {
            xattrs.remove(name).map(drop).ok_or_else(missing)
        })
        .await
    }

    async fn change_xattrs(
        &self,
        operation: &'static str,
        ino: InodeNo,
        name: &str,
        change: impl Fn(&mut XattrMap) -> Result<()> + Sync,
    ) -> Result<()> {
        self.may_change(operation)?;
        if !self.tree.keeps_attributes() || !name.starts_with("user.") {
            return Err(Error::new(ErrorKind::Unsupported, operation).with_name(name));
        }
        if xattr::Attribute::parse(name).is_some() {
            return Err(Error::new(ErrorKind::NotPermitted, operation).with_name(name));
        }
        let unknown = || Error::new(ErrorKind::BadHandle, operation);
        let _changing = self.tree.table.begin_change(ino);
        let before = self.tree.table.given(ino).ok_or_else(unknown)?;
        let touched = GivenAttr::touched_at(clock::now());
        let give = || {
            let (given, xattrs) = self.tree.table.given(ino).ok_or_else(unknown)?;
            let mut xattrs = XattrMap::clone(&xattrs);
            change(&mut xattrs)?;
            self.tree.table.set_given(ino, (given.or(touched), Arc::new(xattrs)));
            Ok(())
        };
        give()?;
        self.keep_or_restore(ino, Some(before), &give).await
    }

    // === Metadata ===

    /// What `new` of this kind begins with in the directory `parent`.
    pub(super) fn birth(&self, parent: InodeNo, kind: FileKind, new: NewAttr) -> Result<GivenAttr> {
        let parent = self.tree.table.known("create", parent)?.attr;
        Ok(GivenAttr::of_new(new, kind, &parent, &self.config))
    }

    /// What was made just now begins with the attributes `given`.
    pub(super) fn give_birth(&self, made: &Entry, given: GivenAttr) -> Result<Entry> {
        self.tree.table.give(made.attr.ino, given);
        self.tree.table.entry(made.attr.ino)
    }

    /// What is stored with a new object: `attributes`, and what describes it as a file.
    pub(super) fn described(
        &self,
        attributes: ObjectAttributes,
        kind: FileKind,
        given: &GivenAttr,
    ) -> ObjectAttributes {
        let attr = self.tree.table.describe_new(kind, given);
        with_metadata(attributes, stored::write(self.config.attributes, &attr, &XattrMap::new()))
    }

    /// The condition under which a new object is made, where the store keeps conditions.
    pub(super) fn unless_taken(&self) -> WriteCondition {
        match self.bucket.traits().conditional_writes {
            true => WriteCondition::Absent,
            false => WriteCondition::Any,
        }
    }

    async fn keep_or_restore(
        &self,
        ino: InodeNo,
        before: Option<(GivenAttr, Arc<XattrMap>)>,
        give: Give<'_>,
    ) -> Result<()> {
        let kept = self.keep_attributes(ino, give).await;
        if let (Err(_), Some(before)) = (&kept, before) {
            self.tree.table.set_given(ino, before);
        }
        kept
    }

    /// Stores what `ino` was given, if that is kept and its object will not carry it anyway.
    async fn keep_attributes(&self, ino: InodeNo, give: Give<'_>) -> Result<()> {
        const OPERATION: &str = "setattr";
        if !self.tree.keeps_attributes() {
            return Ok(());
        }
        if self.tree.table.known(OPERATION, ino)?.meta.is_none() {
            return self.describe_directory(ino, give).await;
        }
        // First, so that nobody waits for somebody who waits for a directory that moves.
        let (key, _stays) = self.stay(|| self.tree.key(OPERATION, ino)).await?;
        let _turn = self.turn(ino).await;
        // An object that is just being made has what the file was given before that began.
        let draft = self.writers.draft(ino);
        let paused = match &draft {
            Some(draft) => Some(draft.pause().await),
            None => None,
        };
        let known = self.tree.table.known(OPERATION, ino)?;
        let Some(meta) = known.meta.filter(|_| !known.is_replaced) else {
            // It has no name any more, so it is no object.
            return Ok(());
        };
        if let Some(draft) = draft.as_ref().filter(|draft| draft.is_changed()) {
            // What the object will not take is said now.
            let stored = draft.stored_attributes().await?;
            fitted(&key, &stored.user_metadata, self.tree.metadata_of(ino))?;
            draft.describe_saved().await;
            return Ok(());
        }
        let ours = |stored: &Metadata| self.merged(ino, stored, give);
        let described = self.writes.describe(&key, &meta, ours).await;
        let meta = described.inspect_err(|error| {
            if error.kind() == ErrorKind::Stale {
                // The kernel looks it up again by itself, and is to see what it is by now.
                self.tree.table.expire(ino, Instant::now());
            }
        })?;
        self.tree.committed(ino, meta.clone());
        self.files.moved(ino, key.clone(), &meta);
        if let (Some(draft), Some(paused)) = (draft, paused) {
            draft.moved(&paused, key, Some(&meta)).await;
        }
        Ok(())
    }

    /// Waits until no other attributes of `ino` are being stored, and keeps others from that.
    async fn turn(&self, ino: InodeNo) -> MutexGuard<'_, ()> {
        self.turns[(ino.0 % TURNS as u64) as usize].lock().await
    }

    /// The metadata that `ino` is to have where the store has `stored`: what was changed elsewhere stays.
    fn merged(&self, ino: InodeNo, stored: &Metadata, give: Give<'_>) -> Result<Metadata> {
        self.tree.table.rebase(ino, &Stored::read(self.config.attributes, stored));
        give()?;
        Ok(self.tree.metadata_of(ino))
    }

    async fn describe_directory(&self, ino: InodeNo, give: Give<'_>) -> Result<()> {
        const OPERATION: &str = "setattr";
        let prefix = self.tree.table.directory(OPERATION, ino)?;
        if prefix.as_str().is_empty() {
            // The bucket itself is no object: what its root is given is not kept.
            return Ok(());
        }
        let marker = || self.marker(OPERATION, &self.tree.table.directory(OPERATION, ino)?);
        let (marker, _stays) = self.stay(marker).await?;
        let _turn = self.turn(ino).await;
        let failed = |error| Error::from_store(OPERATION, error).with_name(marker.as_str());
        let (mut attributes, meta) = match self.bucket.head(&marker).await {
            Ok(head) => (head.attributes(), Some(head.meta)),
            Err(error) if error.kind() == s3::ErrorKind::NotFound => {
                (self.writes.directory_attributes(), None)
            }
            Err(error) => return Err(failed(error)),
        };
        let ours = |stored: &Metadata| match stored.is_empty() {
            true => Ok(self.tree.metadata_of(ino)),
            false => self.merged(ino, stored, give),
        };
        match meta.filter(|meta| meta.size > 0) {
            Some(meta) => drop(self.writes.describe(&marker, &meta, ours).await?),
            None => {
                let ours = ours(&attributes.user_metadata)?;
                attributes.user_metadata = fitted(&marker, &attributes.user_metadata, ours)?;
                let body = Payload::default();
                let request =
                    PutRequest { key: marker.clone(), body, attributes, condition: WriteCondition::Any };
                self.bucket.put(request).await.map_err(failed)?;
            }
        }
        self.tree.directory_described(ino, &marker);
        Ok(())
    }
}

/// `attributes` with metadata of ours.
pub(super) fn with_metadata(attributes: ObjectAttributes, ours: Metadata) -> ObjectAttributes {
    let user_metadata = stored::replace(attributes.user_metadata, ours);
    ObjectAttributes { user_metadata, ..attributes }
}

/// An object of `size` bytes that was made just now.
pub(super) fn new_object(size: u64, etag: Option<s3::ETag>) -> ObjectMeta {
    ObjectMeta { size, etag, last_modified: clock::now(), storage_class: StorageClass::Standard }
}
