//! Names, kept in step with the store: the inode table, what listings told, and the requests that fill them.
//!
//! What is fresh is told from memory. What is not is asked for once, and everything the answer tells is kept.

mod changes;
mod described;
mod doubted;
mod pinned;
mod sweeps;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use sluicefs_s3_client::{Bucket, KeyPrefix, ObjectKey, ObjectMeta};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::attr::{DirEntry, DirMode, Entry, FileKind, InodeNo};
use crate::config::{Attributes, FsConfig, Symlinks};
use crate::error::{Error, ErrorKind, Result};
use crate::inode::Remote;
use crate::inode::negative::NegativeCache;
use crate::inode::stored::Stored;
use crate::inode::table::{Change, InodeTable, Known};
use crate::link::{self, LinkKeys};
use crate::listing::cache::{Flight, ListingCache};
use crate::listing::merge::Hidden;
use crate::listing::{At, Fragment, Listing, Named, OnHidden};
use crate::local::LocalNames;
use crate::open_file::OpenFiles;
use crate::path::{self, NAME_MAX_BYTES};
use crate::pins::Pins;
use crate::readdir::{DOT_ENTRIES, DirHandle};
use crate::resolve::{self, Plan};

use described::Described;
use doubted::{Doubted, over};
use sweeps::Sweeps;

pub(crate) use changes::Target;

/// At most so many hidden names are remembered as reported; after that they are no longer reported.
const MAX_REPORTED: usize = 10_000;

/// A page, then one nearer to the name, then the name alone.
const MAX_PAGES_PER_LOOKUP: usize = 2;

/// A page that answers for absent names is asked for again after this share of the time for which it may.
const STILL_FRESH: f32 = 0.75;

/// A directory is read right after it was opened: its listing, begun then, is good for that even with a time to live of zero.
const OPENED_JUST_NOW: Duration = Duration::from_millis(100);

/// Nothing that was seen so long ago is believed.
const LONG_AGO: Duration = Duration::from_secs(60);

/// The tree of names of one mount.
pub(crate) struct Tree {
    bucket: Arc<dyn Bucket>,
    pub(crate) table: InodeTable,
    negative: NegativeCache,
    listings: Arc<ListingCache>,
    local: LocalNames,
    sweeps: Sweeps,
    doubted: Doubted,
    pins: Option<Arc<Pins>>,
    files: Arc<OpenFiles>,
    runtime: Handle,
    on_hidden: OnHidden,
    links: LinkKeys,
    attributes: Attributes,
    /// Whether there are symbolic links.
    shows_links: bool,
    described: Described,
    ttl: Duration,
    negative_ttl: Duration,
}

impl Tree {
    pub(crate) fn new(
        bucket: Arc<dyn Bucket>,
        config: &FsConfig,
        (files, pins): (Arc<OpenFiles>, Option<Arc<Pins>>),
        runtime: Handle,
    ) -> Self {
        let on_hidden = report_once(Arc::clone(&bucket.identity().name));
        Self {
            bucket,
            table: InodeTable::new(config, Arc::clone(&files) as _),
            negative: NegativeCache::default(),
            listings: Arc::default(),
            local: LocalNames::default(),
            sweeps: Sweeps::default(),
            doubted: Doubted::default(),
            pins,
            files,
            runtime,
            on_hidden,
            links: LinkKeys::of(config),
            attributes: config.attributes,
            shows_links: config.symlinks != Symlinks::None,
            described: Described::default(),
            ttl: config.metadata_ttl.duration(),
            negative_ttl: config.negative_ttl.duration(),
        }
    }

    // === Look-ups ===

    /// Finds `name` in `parent` and counts the lookup.
    pub(crate) async fn lookup(&self, parent: InodeNo, name: &str) -> Result<Entry> {
        let not_found = || Error::new(ErrorKind::NotFound, "lookup").with_name(name);
        if name.len() > NAME_MAX_BYTES {
            return Err(Error::new(ErrorKind::NameTooLong, "lookup").with_name(name));
        }
        let prefix = self.table.directory("lookup", parent)?;
        path::check_name(name).map_err(|_| not_found())?;
        let now = Instant::now();
        let patience = self.sweeps.patience(parent, now, self.ttl);
        if let Some(entry) = self.table.lookup_fresh(parent, name, now, patience) {
            return Ok(entry);
        }
        // A listing may have shown it since, and what was seen stays where versions are pinned.
        if self.negative.get(parent, name, now).is_some() && self.pinned(&prefix, name).is_none() {
            return Err(not_found());
        }
        let (seen, found) = match self.told(parent, name, now, self.believed(now) + patience) {
            Some(told) => {
                self.keep_fresh((parent, &prefix), name, &told, now);
                told
            }
            None => {
                let (seen, found) = self.ask(parent, &prefix, name).await?;
                // This mount may have changed the name while the store was asked.
                match self.local.correct(parent, name, seen) {
                    Some(own) => (seen, own.map(|remote| Named { name: Box::from(name), remote })),
                    None => (seen, found),
                }
            }
        };
        let told = match found.or_else(|| self.pinned(&prefix, name)) {
            Some(named) => self.describe(parent, &prefix, named, seen).await?,
            None => None,
        };
        match told {
            Some((seen, Named { remote, .. }, stored)) => {
                self.negative.remove(parent, name);
                let mut entry = None;
                let told = (&remote, stored.as_deref());
                self.apply(parent, name, told, seen, |e| entry.replace(e).is_none())?;
                entry.ok_or_else(not_found)
            }
            None => {
                self.negative.insert(parent, name, self.absent_until(seen));
                Err(not_found())
            }
        }
    }

    /// The object that `name` in `parent` stands for, as it was seen last, however long ago that was; asks the store if it never was. What it is
    /// good for must bear that it is another by now.
    ///
    /// `None` if there is none, or this mount is writing it.
    pub(crate) async fn seen(
        &self,
        parent: InodeNo,
        name: &str,
    ) -> Result<Option<(InodeNo, ObjectKey, ObjectMeta)>> {
        let ino = self.table.number_of(parent, name, FileKind::File);
        let prefix = self.table.directory("read", parent)?;
        let meta = match self.table.known("read", ino) {
            Ok(known) if known.is_written || known.is_replaced => None,
            Ok(known) => known.meta,
            Err(_) => {
                let now = Instant::now();
                let found = match self.told(parent, name, now, LONG_AGO) {
                    Some((_, found)) => found,
                    None => self.ask(parent, &prefix, name).await?.1,
                };
                match found.map(|named| named.remote) {
                    Some(Remote::Object(FileKind::File, meta)) => Some(meta),
                    _ => None,
                }
            }
        };
        let key = self.key_of(&prefix, name, FileKind::File);
        Ok(meta.and_then(|meta| Some((ino, key?, meta))))
    }

    /// How long `name` may be believed to be absent from `parent`, if it is known to be.
    pub(crate) fn absent_for(&self, parent: InodeNo, name: &str) -> Duration {
        if path::check_name(name).is_err() {
            // No key can ever have it.
            return self.negative_ttl;
        }
        let now = Instant::now();
        let until = self.negative.get(parent, name, now);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Since when `name` is known to be absent from `parent`, if it is.
    pub(crate) fn absent_since(&self, parent: InodeNo, name: &str) -> Option<Instant> {
        self.negative.get(parent, name, Instant::now())?.checked_sub(self.negative_ttl)
    }

    /// What `name` is as far as a listing or this mount itself told: since when that is so, and the answer.
    fn told(
        &self,
        parent: InodeNo,
        name: &str,
        now: Instant,
        ttl: Duration,
    ) -> Option<(Instant, Option<Named>)> {
        let named = |remote| Named { name: Box::from(name), remote };
        if let Some(own) = self.local.correct(parent, name, now) {
            return Some((now, own.map(named)));
        }
        let (seen, found) = self.listings.find(parent, name, now, ttl)?;
        if let Some(own) = self.local.correct(parent, name, seen) {
            return Some((seen, own.map(named)));
        }
        (found.is_some() || seen + self.absence_believed(now) > now).then_some((seen, found))
    }

    /// A page answers for names of `dir` that are absent, and will soon be too old for that: it is asked for again before somebody has to wait
    /// for it.
    fn keep_fresh(
        &self,
        (dir, prefix): (InodeNo, &KeyPrefix),
        name: &str,
        (seen, found): &(Instant, Option<Named>),
        now: Instant,
    ) {
        let is_old = now.saturating_duration_since(*seen) >= self.negative_ttl.mul_f32(STILL_FRESH);
        if found.is_some() || !is_old {
            return;
        }
        if let Some(after) = self.listings.page_of(dir, name) {
            let page = self.page(dir, prefix, after);
            // If it fails, the next look-up asks itself.
            self.runtime.spawn(page.map(|_| ()));
        }
    }

    /// Asks the store what `name` is: when that was, and the answer.
    async fn ask(&self, parent: InodeNo, prefix: &KeyPrefix, name: &str) -> Result<(Instant, Option<Named>)> {
        for _ in 0..MAX_PAGES_PER_LOOKUP {
            let now = Instant::now();
            let after = match self.listings.siblings(parent, |siblings| siblings.plan(name, now)) {
                Plan::Direct => break,
                Plan::FirstPage => None,
                Plan::PageAfter(after) if self.bucket.traits().ordered_listing => Some(after),
                Plan::PageAfter(_) => break,
            };
            if let Some(found) = self.page(parent, prefix, after).await?.find(name) {
                return Ok(found);
            }
        }
        let at = Instant::now();
        let remote = resolve::resolve(&*self.bucket, (prefix, self.links), name).await?;
        Ok((at, remote.map(|remote| Named { name: Box::from(name), remote })))
    }

    /// The page of `dir` after the key `after`, fetched once for all who want it now.
    fn page(&self, dir: InodeNo, prefix: &KeyPrefix, after: Option<String>) -> Flight {
        let fetch = || {
            let (bucket, listings) = (Arc::clone(&self.bucket), Arc::clone(&self.listings));
            let (prefix, after, on_hidden) = (prefix.clone(), after.clone(), Arc::clone(&self.on_hidden));
            let links = self.links;
            let fetch = async move {
                let fetched = Fragment::fetch(&*bucket, (&prefix, links), after.as_deref(), &on_hidden).await;
                let fetched = fetched.map(Arc::new);
                listings.landed(dir, &after, fetched.as_ref().ok().cloned());
                fetched
            };
            fetch.boxed().shared()
        };
        self.listings.flight(dir, &after, fetch)
    }

    /// Takes back `count` lookups of `ino`.
    pub(crate) fn forget(&self, ino: InodeNo, count: u64) {
        self.table.forget(ino, count);
    }

    // === Attributes ===

    /// The attributes of `ino`, asked for again if they are no longer fresh.
    pub(crate) async fn getattr(&self, ino: InodeNo) -> Result<Entry> {
        let now = Instant::now();
        let known = self.table.known("getattr", ino)?;
        let is_directory = known.attr.kind == FileKind::Directory;
        if is_directory && (!self.keeps_attributes() || ino == InodeNo::ROOT) {
            // A directory's attributes never change, and its absence shows when it is looked up or read.
            return Ok(Entry { attr: known.attr, ttl: self.ttl });
        }
        if known.is_replaced {
            return self.replaced(&known);
        }
        if known.is_written {
            return Ok(Entry { attr: known.attr, ttl: self.ttl });
        }
        if known.valid_until > now {
            return Ok(Entry { attr: known.attr, ttl: known.valid_until - now });
        }
        let listed = match is_directory {
            true => Some((now, Some(Named { name: known.name.clone(), remote: Remote::Directory }))),
            false => self.listings.find(known.parent, &known.name, now, self.believed(now)),
        };
        if let Some((seen, Some(named))) = listed
            && (named.remote == Remote::Directory) == is_directory
        {
            let prefix = self.table.directory("getattr", known.parent)?;
            let told = self.describe(known.parent, &prefix, named, seen).await?;
            let gone = || Error::new(ErrorKind::NotFound, "getattr").with_name(&known.name);
            let (seen, Named { remote, .. }, stored) = told.ok_or_else(gone)?;
            self.take(ino, (&remote, stored.as_deref()), seen);
        } else {
            self.refresh("getattr", ino).await?;
        }
        let known = self.table.known("getattr", ino)?;
        if known.is_replaced {
            return self.replaced(&known);
        }
        Ok(Entry { attr: known.attr, ttl: known.valid_until.saturating_duration_since(now) })
    }

    /// The attributes of a file whose name has another number by now. Who has it open sees what it was; who came by its name must look
    /// that up again, and nothing tells us which of them asks.
    fn replaced(&self, known: &Known) -> Result<Entry> {
        if self.files.is_open(known.attr.ino) {
            return Ok(Entry { attr: known.attr, ttl: Duration::ZERO });
        }
        Err(Error::new(ErrorKind::Stale, "getattr").with_name(&known.name))
    }

    /// Whether what is known of `ino` may be told without asking.
    pub(crate) fn is_fresh(&self, ino: InodeNo) -> bool {
        self.table
            .known("open", ino)
            .is_ok_and(|known| known.is_written || known.valid_until > Instant::now())
    }

    /// Asks the store for the file `ino` by HEAD; returns whether it has another version than before.
    ///
    /// Makes no request for a number that its name no longer has.
    pub(crate) async fn refresh(&self, operation: &'static str, ino: InodeNo) -> Result<Change> {
        let known = self.table.known(operation, ino)?;
        if known.is_replaced {
            return Ok(Change::Replaced);
        }
        let (at, meta, stored) = self.head(operation, ino).await?;
        let kind = match &stored {
            // Its key says what it is, or nothing does.
            None => known.attr.kind,
            Some(_) if !self.links.suffix(known.attr.kind).is_empty() => known.attr.kind,
            Some(stored) => stored.kind.map_or(FileKind::File, |kind| self.shown(kind)),
        };
        Ok(self.take(ino, (&Remote::Object(kind, meta), stored.as_deref()), at))
    }

    /// Asks the store for the file `ino`, of which a read found that it is another version; returns whether its handles go on with that.
    pub(crate) async fn move_on(&self, ino: InodeNo) -> Result<bool> {
        if !self.table.known("read", ino)?.may_move_on {
            return Ok(false);
        }
        let (at, meta, _) = self.head("read", ino).await?;
        Ok(self.table.move_on(ino, &meta, self.believed_until(at)))
    }

    /// What the store has under the name of the file `ino`, and when it was asked.
    async fn head(
        &self,
        operation: &'static str,
        ino: InodeNo,
    ) -> Result<(Instant, ObjectMeta, Option<Arc<Stored>>)> {
        let key = self.key(operation, ino)?;
        let at = Instant::now();
        match self.bucket.head(&key).await {
            Ok(head) => {
                let stored = self.learn(&key, &head, at);
                Ok((at, head.meta, stored))
            }
            Err(error) => {
                self.table.expire(ino, at);
                Err(Error::from_store(operation, error).with_name(key.as_str()))
            }
        }
    }

    /// Takes the description of what has the name of the object `ino`, `seen` then, unless newer is known.
    pub(crate) fn take(&self, ino: InodeNo, told: (&Remote, Option<&Stored>), seen: Instant) -> Change {
        self.table.refresh(ino, told, self.believed_until(seen))
    }

    /// The key of the object `ino`.
    pub(crate) fn key(&self, operation: &'static str, ino: InodeNo) -> Result<ObjectKey> {
        let known = self.table.known(operation, ino)?;
        if known.attr.kind == FileKind::Directory {
            return Err(Error::new(ErrorKind::IsADirectory, operation).with_name(&known.name));
        }
        let prefix = self.table.directory(operation, known.parent)?;
        self.key_of(&prefix, &known.name, known.attr.kind)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, operation).with_name(&known.name))
    }

    /// The key of `name` in the directory `prefix`, if it is an object of this kind; `None` if it would be longer than any key.
    pub(crate) fn key_of(&self, prefix: &KeyPrefix, name: &str, kind: FileKind) -> Option<ObjectKey> {
        path::key_with(prefix, name, self.links.suffix(kind))
    }

    /// Whether no file may be called `name`, since its key would stand for a link.
    pub(crate) fn is_reserved(&self, name: &str) -> bool {
        link::is_reserved(name, self.links)
    }

    // === Directories ===

    /// Opens the directory `ino`: begins to list it, unless somebody just did.
    pub(crate) fn open_dir(&self, ino: InodeNo) -> Result<DirHandle> {
        let prefix = self.table.directory("opendir", ino)?;
        let known = self.table.known("opendir", ino)?;
        let listing = self.listing(ino, &prefix);
        if ino != InodeNo::ROOT {
            self.list_ahead(known.parent, &known.name);
        }
        Ok(DirHandle::new(ino, known.parent, listing))
    }

    /// Closes a directory.
    pub(crate) fn close_dir(&self, dir: &DirHandle) {
        self.listings.closed(dir.ino);
    }

    fn listing(&self, ino: InodeNo, prefix: &KeyPrefix) -> Arc<Listing> {
        let now = Instant::now();
        let fresh = self.listings.fresh_listing(ino, now, self.believed(now));
        fresh.unwrap_or_else(|| {
            let (bucket, on_hidden) = (Arc::clone(&self.bucket), Arc::clone(&self.on_hidden));
            let place = (prefix.clone(), self.links);
            let listing = Listing::start(bucket, place, &self.runtime, on_hidden);
            self.listings.insert_listing(ino, Arc::clone(&listing));
            listing
        })
    }

    /// Begins to list the siblings that a walk through `parent` will come to after `name`.
    fn list_ahead(&self, parent: InodeNo, name: &str) {
        let ahead = self.listings.walked(parent, name);
        // The parent may have been forgotten meanwhile; then nobody walks it.
        let Ok(prefix) = self.table.directory("opendir", parent) else { return };
        for name in ahead {
            let ino = self.table.number_of(parent, &name, FileKind::Directory);
            self.listing(ino, &path::directory_prefix(&prefix, &name));
        }
    }

    /// Hands entries from `offset` on to `accept`; see [`FileSystem::read_dir`](crate::FileSystem::read_dir).
    pub(crate) async fn read_dir(
        &self,
        dir: &DirHandle,
        offset: u64,
        mode: DirMode,
        accept: &mut (dyn FnMut(&DirEntry<'_>) -> bool + Send),
    ) -> Result<()> {
        if offset == 0 {
            self.rewind(dir)?;
        }
        for (at, name, ino) in [(0, ".", dir.ino), (1, "..", dir.parent)] {
            if offset <= at {
                let attr =
                    self.table.known("readdir", ino).or_else(|_| self.table.known("readdir", dir.ino))?.attr;
                let entry = Entry { attr, ttl: Duration::ZERO };
                if !accept(&DirEntry { name, entry, next_offset: at + 1 }) {
                    return Ok(());
                }
            }
        }
        let mut index = offset.saturating_sub(DOT_ENTRIES);
        let (listing, mut at) = self.seek(dir, index).await?;
        if listing.is_absent() && dir.ino != InodeNo::ROOT && !self.is_made_here(dir) {
            return Err(Error::new(ErrorKind::NotFound, "readdir"));
        }
        let prefix = self.table.directory("readdir", dir.ino)?;
        while let At::Page(page, first) = at {
            for (number, named) in page.names[first..].iter().enumerate() {
                if number % Self::AHEAD == 0 {
                    self.describe_ahead(&prefix, &page.names[first + number..], page.at).await?;
                }
                index += 1;
                let place = (mode, index + DOT_ENTRIES);
                let taken = match self.local.correct(dir.ino, &named.name, page.at) {
                    None => self.offer(dir.ino, named, page.at, place, accept)?,
                    Some(None) => true,
                    Some(Some(remote)) => {
                        let named = Named { name: named.name.clone(), remote };
                        self.offer(dir.ino, &named, page.at, place, accept)?
                    }
                };
                if !taken {
                    return Ok(());
                }
            }
            at = match listing.poll_at(index) {
                Some(at) => at.map_err(|e| self.readdir_error(dir, e))?,
                None => return Ok(()),
            };
        }
        self.offer_extras(dir, &listing, offset, mode, accept)
    }

    /// The listing of `dir`, and what is at `index` in it. A place that the listing has let go of is looked for in a new one, where it may
    /// be off by what was created or removed before it since.
    async fn seek(&self, dir: &DirHandle, index: u64) -> Result<(Arc<Listing>, At)> {
        loop {
            let listing = dir.listing();
            match listing.at(index).await.map_err(|e| self.readdir_error(dir, e))? {
                At::Gone => {
                    let prefix = self.table.directory("readdir", dir.ino)?;
                    dir.rewind(self.listing(dir.ino, &prefix));
                }
                at => return Ok((listing, at)),
            }
        }
    }

    fn rewind(&self, dir: &DirHandle) -> Result<()> {
        let listing = dir.listing();
        let now = Instant::now();
        let ttl = self.believed(now);
        let ttl = if listing.was_read() { ttl } else { ttl.max(OPENED_JUST_NOW) };
        let is_old = listing.started + ttl <= now;
        if is_old || listing.has_failed() {
            let prefix = self.table.directory("readdir", dir.ino)?;
            dir.rewind(self.listing(dir.ino, &prefix));
        }
        Ok(())
    }

    fn readdir_error(&self, dir: &DirHandle, error: Error) -> Error {
        self.table.expire(dir.ino, Instant::now());
        error
    }

    fn offer(
        &self,
        dir: InodeNo,
        named: &Named,
        seen: Instant,
        (mode, next_offset): (DirMode, u64),
        accept: &mut (dyn FnMut(&DirEntry<'_>) -> bool + Send),
    ) -> Result<bool> {
        let name = &*named.name;
        let recalled = match self.keeps_attributes() {
            true => self.recall(dir, &self.table.directory("readdir", dir)?, named, seen),
            false => None,
        };
        match mode {
            DirMode::Lookup => {
                let accept = |entry| accept(&DirEntry { name, entry, next_offset });
                match &recalled {
                    Some((seen, remote, stored)) => {
                        self.apply(dir, name, (remote, Some(&**stored)), *seen, accept)
                    }
                    // Whose it is, and what, is not known: the next look must ask, however patient it is.
                    None if self.keeps_attributes() => {
                        let now = Instant::now();
                        self.table.apply((dir, name), (&named.remote, None), (now, over(now)), accept)
                    }
                    None => self.apply(dir, name, (&named.remote, None), seen, accept),
                }
            }
            DirMode::Names => {
                let remote = recalled.as_ref().map_or(&named.remote, |(_, remote, _)| remote);
                let entry = self.table.describe(dir, name, remote);
                Ok(accept(&DirEntry { name, entry, next_offset }))
            }
        }
    }

    /// Takes the store's word, `seen` then, on a name.
    fn apply(
        &self,
        parent: InodeNo,
        name: &str,
        told: (&Remote, Option<&Stored>),
        seen: Instant,
        accept: impl FnOnce(Entry) -> bool,
    ) -> Result<bool> {
        self.table.apply((parent, name), told, (Instant::now(), self.believed_until(seen)), accept)
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree")
            .field("bucket", &self.bucket)
            .field("inodes", &self.table.len())
            .finish_non_exhaustive()
    }
}

/// Logs each hidden name once.
fn report_once(bucket: Arc<str>) -> OnHidden {
    let numbers = RandomState::new();
    let reported = Mutex::new(FxHashSet::<u64>::default());
    Arc::new(move |prefix, hidden| {
        let name = match hidden {
            Hidden::Shadowed(name) | Hidden::Illegal(name, _) => name,
        };
        let mut reported = reported.lock();
        if reported.len() >= MAX_REPORTED || !reported.insert(numbers.hash_one((prefix, name))) {
            return;
        }
        let key = format!("{bucket}/{prefix}{}", name.escape_debug());
        match hidden {
            Hidden::Shadowed(_) => {
                tracing::warn!(
                    "hidden: the object {key} has the name of a directory, or is a link with that of a file; rename one of them to see it"
                );
            }
            Hidden::Illegal(_, reason) => {
                tracing::warn!("hidden: {key} {reason}, which no file name can have")
            }
        }
    })
}
