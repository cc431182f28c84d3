//! Names that this mount makes, removes and moves: the tree knows them at once, whatever older listings say.

use sluicefs_s3_client::{KeyPrefix, ObjectKey, ObjectMeta};
use tokio::time::Instant;

use super::Tree;
use crate::attr::{DirEntry, DirMode, Entry, FileKind, InodeNo};
use crate::clock;
use crate::error::Result;
use crate::inode::table::Known;
use crate::inode::{GivenAttr, Remote};
use crate::listing::{Listing, Named};
use crate::local::Extra;
use crate::path;
use crate::readdir::DirHandle;
use crate::removals::{Outcome, Removal};

/// Names that no listing has follow those of the listing, at offsets from here on: a bucket has fewer keys.
const EXTRAS_FROM: u64 = 1 << 62;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) ino: InodeNo,
    pub(crate) known: Known,
}

impl Tree {
    /// Finds `name` in `parent` without counting a lookup: as it is known, however long ago, else as the store has it. Who has an inode in use does
    /// not keep its name, once the store was found to have none of that.
    ///
    /// # Errors
    /// As [`Tree::lookup`].
    pub(crate) async fn find(&self, parent: InodeNo, name: &str) -> Result<Target> {
        if let Some(ino) = self.table.peek(parent, name) {
            let known = self.table.known("lookup", ino)?;
            if known.is_written || self.negative.get(parent, name, Instant::now()).is_none() {
                return Ok(Target { ino, known });
            }
        }
        let ino = self.lookup(parent, name).await?.attr.ino;
        let known = self.table.known("lookup", ino);
        self.forget(ino, 1);
        Ok(Target { ino, known: known? })
    }

    /// Adds `name`, which the store knows since `known`, or does not know yet; counts one lookup.
    ///
    /// # Errors
    /// `BadHandle` for an unknown parent.
    pub(crate) fn create(
        &self,
        parent: InodeNo,
        name: &str,
        remote: &Remote,
        known: Option<Instant>,
    ) -> Result<Entry> {
        let now = Instant::now();
        let entry = self.table.create((parent, name), remote, (now, now + self.ttl))?;
        // Its number may have been another directory's.
        self.local.clear(entry.attr.ino);
        self.made(parent, name, remote.clone(), known);
        self.names_changed(parent);
        Ok(entry)
    }

    /// This mount made the directory `ino`, whose name was absent at `at`: so was all that could be in it.
    pub(crate) fn made_directory(&self, ino: InodeNo, at: Instant) {
        self.listings.made(ino, at);
    }

    /// Notes that `name` stands for `remote`, which the store knows since `known`, or does not.
    pub(crate) fn made(&self, parent: InodeNo, name: &str, remote: Remote, known: Option<Instant>) {
        self.negative.remove(parent, name);
        self.note(parent, name, Some(remote), known);
    }

    /// Notes that `name`, which was `ino`, is gone at the store. A directory stays when its last name has gone, until it is removed.
    pub(crate) fn removed(&self, parent: InodeNo, name: &str, ino: InodeNo) {
        let now = Instant::now();
        self.table.remove(ino);
        self.gone(parent, name, now);
        self.names_changed(parent);
    }

    /// A name in the directory `ino` was made or removed.
    fn names_changed(&self, ino: InodeNo) {
        self.table.give(ino, GivenAttr::names_changed_at(clock::now()));
    }

    /// Notes that `name`, which was `ino`, is gone for this mount; the store will know.
    pub(crate) fn removed_here(&self, parent: InodeNo, name: &str, ino: InodeNo) {
        self.table.remove(ino);
        self.left(parent, name, Instant::now());
        self.note(parent, name, None, None);
        self.keep_directory(parent);
        self.names_changed(parent);
    }

    /// What [`Tree::removed_here`] noted is true at the store too, or not at all.
    pub(crate) fn removal_ended(&self, removal: &Removal, outcome: Outcome) {
        let Removal { parent, name } = removal;
        self.local.removal_ended(*parent, name, (outcome == Outcome::Done).then(Instant::now));
        if outcome == Outcome::Failed {
            self.negative.remove(*parent, name);
        }
    }

    /// Notes that the inode `ino` has moved, which the store's listings show since `known`, or do not.
    ///
    /// # Errors
    /// `BadHandle` for an unknown number.
    pub(crate) fn moved(
        &self,
        ino: InodeNo,
        (old_parent, old_name): (InodeNo, &str),
        (parent, name): (InodeNo, &str),
        remote: Remote,
        known: Option<Instant>,
    ) -> Result<()> {
        let now = Instant::now();
        let below: Vec<InodeNo> = std::iter::once(ino).chain(self.table.below(ino)).collect();
        self.table.rename(ino, (parent, name), now + self.ttl)?;
        for ino in below {
            // Listings of a directory are of its old prefix.
            self.listings.forget(ino);
            // Somebody may have looked for a name between the end of the old one and this.
            self.negative.forget(ino);
        }
        self.gone(old_parent, old_name, now);
        self.made(parent, name, remote, known);
        self.table.give(ino, GivenAttr::touched_at(clock::now()));
        self.names_changed(old_parent);
        self.names_changed(parent);
        Ok(())
    }

    /// The file `ino` became the object `meta`, written by this mount.
    pub(crate) fn committed(&self, ino: InodeNo, meta: ObjectMeta) {
        let now = Instant::now();
        self.table.commit(ino, meta.clone(), now + self.ttl);
        if let Ok(key) = self.key("fsync", ino) {
            self.metadata_changed(&key);
        }
        if let Ok(known) = self.table.known("fsync", ino) {
            self.made(known.parent, &known.name, Remote::Object(known.attr.kind, meta), Some(now));
        }
    }

    /// What the directory `ino` was given is in the object `marker` now.
    pub(crate) fn directory_described(&self, ino: InodeNo, marker: &ObjectKey) {
        self.metadata_changed(marker);
        // Whoever asked before must not say so after.
        self.table.described(ino, Instant::now() + self.ttl);
    }

    fn gone(&self, parent: InodeNo, name: &str, now: Instant) {
        self.left(parent, name, now);
        self.note(parent, name, None, Some(now));
        self.keep_directory(parent);
    }

    fn left(&self, parent: InodeNo, name: &str, now: Instant) {
        self.negative.insert(parent, name, now + self.negative_ttl);
        self.sweeps.removed(parent, now);
    }

    /// What keys imply goes with the last of them; a directory that somebody emptied is still there.
    fn keep_directory(&self, ino: InodeNo) {
        if ino == InodeNo::ROOT {
            return;
        }
        if let Ok(known) = self.table.known("unlink", ino).as_ref().map(|known| (known.parent, &known.name)) {
            self.note(known.0, known.1, Some(Remote::Directory), None);
        }
    }

    fn note(&self, parent: InodeNo, name: &str, remote: Option<Remote>, known: Option<Instant>) {
        for dir in self.local.set(parent, name, remote, known) {
            self.listings.forget(dir);
        }
    }

    /// Whether the store has names below the directory `ino`, or this mount is about to make some.
    pub(crate) fn has_local_names(&self, ino: InodeNo) -> bool {
        self.local.has_unknown(ino)
    }

    /// Whether this mount made the directory, or something in it that the store does not have yet.
    pub(super) fn is_made_here(&self, dir: &DirHandle) -> bool {
        if self.local.has_unknown(dir.ino) {
            return true;
        }
        self.table.known("readdir", dir.ino).is_ok_and(|known| {
            let own = self.local.correct(known.parent, &known.name, dir.listing().started);
            own == Some(Some(Remote::Directory))
        })
    }

    /// Hands on the names that the listing does not have.
    pub(super) fn offer_extras(
        &self,
        dir: &DirHandle,
        listing: &Listing,
        offset: u64,
        mode: DirMode,
        accept: &mut (dyn FnMut(&DirEntry<'_>) -> bool + Send),
    ) -> Result<()> {
        let after = offset.saturating_sub(EXTRAS_FROM);
        for Extra { serial, name, remote } in self.local.extras(dir.ino, after, listing.started) {
            if listing.find(&name).is_some_and(|(_, found)| found.is_some()) {
                continue;
            }
            let named = Named { name, remote };
            if !self.offer(dir.ino, &named, Instant::now(), (mode, EXTRAS_FROM + serial), accept)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The prefix of the directory `name` in `parent`.
    pub(crate) fn prefix_of(
        &self,
        operation: &'static str,
        parent: InodeNo,
        name: &str,
    ) -> Result<KeyPrefix> {
        Ok(path::directory_prefix(&self.table.directory(operation, parent)?, name))
    }
}

impl Target {
    pub(crate) fn is_directory(&self) -> bool {
        self.known.attr.kind == FileKind::Directory
    }
}
