//! The inodes of a mount: number to inode, name to number, and the only place where lookup counts change.
//!
//! A number is a hash of the parent's number, the name and the kind, so that a name keeps its number after the kernel forgot it
//! and a file that becomes a directory gets another, without remembering either. The kernel keeps pages by number: a file that was
//! replaced from outside while it has bytes of it, or with another length, gets a further number, and the old one stays with those who
//! opened the old version.

mod changes;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use sluicefs_s3_client::{KeyPrefix, ObjectMeta};
use tokio::time::Instant;

use super::look::Look;
use super::replaced::{Replaced, Successor};
use super::stored::Stored;
use super::{Follow, GivenAttr, Inode, Node, Remote, Versions, is_same_version};
use crate::attr::{Attr, Entry, FileKind, InodeNo};
use crate::config::FsConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::path;

/// All inodes of a mount.
#[derive(Debug)]
pub(crate) struct InodeTable {
    state: RwLock<State>,
    /// Seeded anew for each mount: numbers cannot be made to collide from outside.
    numbers: RandomState,
    versions: Arc<dyn Versions>,
    look: Look,
}

#[derive(Debug)]
struct State {
    /// Boxed: a hash table is half empty on average, and an inode is an eighth of a kilobyte.
    inodes: FxHashMap<InodeNo, Box<Inode>>,
    replaced: Replaced,
    /// How many further numbers were given: none is given twice.
    further: u64,
}

/// What is known of one inode.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) attr: Attr,
    pub(crate) valid_until: Instant,
    pub(crate) parent: InodeNo,
    pub(crate) name: Box<str>,
    /// The object, if it is one.
    pub(crate) meta: Option<ObjectMeta>,
    /// The name has another number by now; this is what its former owner was.
    pub(crate) is_replaced: bool,
    /// Handles that had no byte of it may read what the store has.
    pub(crate) may_move_on: bool,
    /// It is being written by this mount.
    pub(crate) is_written: bool,
}

/// What applying the store's word to the table changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The inode is new, or as it was.
    None,
    /// The file has another version than the one known before.
    NewVersion,
    /// The name has another version, and another number with it: this inode stays as it was, for those who have it open.
    Replaced,
    /// Nothing: it was seen before what is known.
    Outdated,
}

impl InodeTable {
    pub(crate) fn new(config: &FsConfig, versions: Arc<dyn Versions>) -> Self {
        let mut root = Inode::new(InodeNo::ROOT, "", Node::Directory(config.prefix.clone()), Instant::now());
        root.lookups = 1;
        let inodes = FxHashMap::from_iter([(InodeNo::ROOT, root)]);
        let state = State { inodes, replaced: Replaced::default(), further: 0 };
        Self { state: RwLock::new(state), numbers: RandomState::new(), versions, look: Look::new(config) }
    }

    /// What is known of `ino`.
    pub(crate) fn known(&self, operation: &'static str, ino: InodeNo) -> Result<Known> {
        let state = self.state.read();
        let inode = state.inodes.get(&ino).ok_or_else(|| Error::new(ErrorKind::BadHandle, operation))?;
        let meta = match &inode.node {
            Node::Directory(_) => None,
            Node::Object(_, meta) => Some(meta.clone()),
        };
        Ok(Known {
            attr: self.look.of(ino, inode),
            valid_until: inode.valid_until,
            parent: inode.parent,
            name: inode.name.clone(),
            meta,
            is_replaced: inode.is_replaced,
            may_move_on: inode.may_move_on(),
            is_written: inode.is_written(),
        })
    }

    /// What is known of `ino` as long as it is what its name stands for.
    ///
    /// # Errors
    /// `Stale` if the name has another number by now: look it up again.
    pub(crate) fn current(&self, operation: &'static str, ino: InodeNo) -> Result<Known> {
        let known = self.known(operation, ino)?;
        if known.is_replaced {
            return Err(Error::new(ErrorKind::Stale, operation).with_name(&known.name));
        }
        Ok(known)
    }

    /// The keys' beginning in the directory `ino`.
    pub(crate) fn directory(&self, operation: &'static str, ino: InodeNo) -> Result<KeyPrefix> {
        match self.state.read().inodes.get(&ino).map(|inode| &inode.node) {
            Some(Node::Directory(prefix)) => Ok(prefix.clone()),
            Some(Node::Object(..)) => Err(Error::new(ErrorKind::NotADirectory, operation)),
            None => Err(Error::new(ErrorKind::BadHandle, operation)),
        }
    }

    /// Looks `name` up among what is known and still believed at `now`, or was until `patience` ago, and counts the lookup.
    pub(crate) fn lookup_fresh(
        &self,
        parent: InodeNo,
        name: &str,
        now: Instant,
        patience: Duration,
    ) -> Option<Entry> {
        let mut state = self.state.write();
        // A directory shadows a file of its name.
        for kind in [FileKind::Directory, FileKind::File] {
            let ino = self.number(&state, parent, name, kind);
            let is_fresh = |inode: &&mut Box<Inode>| inode.valid_until + patience > now || inode.is_written();
            if let Some(inode) = state.inodes.get_mut(&ino).filter(is_fresh) {
                inode.lookups += 1;
                return Some(self.look.entry(ino, inode, now));
            }
        }
        // The name was given another number, and nobody has looked it up since.
        let first = self.first_number(parent, name, FileKind::File);
        let successor = state.replaced.get(first).filter(|successor| successor.valid_until > now)?;
        let ino = successor.ino;
        if state.inodes.contains_key(&ino) || !state.inodes.contains_key(&parent) {
            return None;
        }
        let (kind, meta) = successor.object.clone()?;
        let node = Node::Object(kind, meta);
        let mut inode = Inode::new(parent, name, node, successor.valid_until);
        inode.lookups = 1;
        let entry = self.look.entry(ino, &inode, now);
        state.insert(ino, inode);
        Some(entry)
    }

    /// What a listing's entry looks like, whether or not the table has it.
    pub(crate) fn describe(&self, parent: InodeNo, name: &str, remote: &Remote) -> Entry {
        let ino = self.number_of(parent, name, remote.kind());
        Entry { attr: self.look.attr(ino, remote.kind(), remote.meta()), ttl: Duration::ZERO }
    }

    /// The number that `name` has or would have.
    pub(crate) fn number_of(&self, parent: InodeNo, name: &str, kind: FileKind) -> InodeNo {
        self.number(&self.state.read(), parent, name, kind)
    }

    /// Takes the store's word on `name` and offers the entry to `accept`; if it takes it, that counts as a lookup.
    ///
    /// `accept` must not call the table. Returns whether it accepted.
    pub(crate) fn apply(
        &self,
        (parent, name): (InodeNo, &str),
        (remote, stored): (&Remote, Option<&Stored>),
        (now, valid_until): (Instant, Instant),
        accept: impl FnOnce(Entry) -> bool,
    ) -> Result<bool> {
        let mut state = self.state.write();
        if !state.inodes.contains_key(&parent) {
            return Err(Error::new(ErrorKind::BadHandle, "lookup"));
        }
        let kind = remote.kind();
        let other = self.number(&state, parent, name, other_kind(kind));
        if let Some(shadowed) = state.inodes.get_mut(&other) {
            // The name stands for something else now; nothing known of its former owner may answer for it.
            shadowed.valid_until = now;
        }
        let mut ino = self.number(&state, parent, name, kind);
        let change = match state.inodes.get_mut(&ino) {
            Some(inode) => inode.take(ino, remote, valid_until, &*self.versions),
            None => Change::None,
        };
        if let (Change::Replaced, Some(meta)) = (change, remote.meta()) {
            ino = self.renumber(&mut state, (parent, name), (kind, meta), valid_until);
        }
        let mut new = None;
        let inode = match state.inodes.get_mut(&ino) {
            Some(inode) => inode,
            None => new.insert(self.new_inode(&state, (ino, parent, name), remote, valid_until)?),
        };
        if let Some(stored) = stored.filter(|_| change != Change::Outdated) {
            inode.learn(stored);
        }
        let accepted = accept(self.look.entry(ino, inode, now));
        inode.lookups += u64::from(accepted);
        if let (Some(inode), true) = (new, accepted) {
            self.insert(&mut state, ino, inode);
        }
        Ok(accepted)
    }

    /// Takes a newer description of what has the name of the object `ino` from the store, if it is still known.
    pub(crate) fn refresh(
        &self,
        ino: InodeNo,
        (remote, stored): (&Remote, Option<&Stored>),
        valid_until: Instant,
    ) -> Change {
        let mut state = self.state.write();
        let Some(inode) = state.inodes.get_mut(&ino) else { return Change::None };
        if inode.is_replaced {
            return Change::Replaced;
        }
        let change = inode.take(ino, remote, valid_until, &*self.versions);
        if let (Change::None | Change::NewVersion, Some(stored)) = (change, stored) {
            inode.learn(stored);
        }
        if let (Change::Replaced, Some(meta)) = (change, remote.meta()) {
            let (parent, name) = (inode.parent, inode.name.clone());
            self.renumber(&mut state, (parent, &name), (remote.kind(), meta), valid_until);
        }
        change
    }

    /// A read found the file `ino` as `meta`: whether its handles go on with that, under its number. If not, its name gets another one.
    pub(crate) fn move_on(&self, ino: InodeNo, meta: &ObjectMeta, valid_until: Instant) -> bool {
        let mut state = self.state.write();
        let Some(inode) = state.inodes.get_mut(&ino).filter(|inode| inode.may_move_on()) else {
            return false;
        };
        if self.versions.move_on(ino, meta) {
            inode.node = Node::Object(FileKind::File, meta.clone());
            inode.valid_until = inode.valid_until.max(valid_until);
            return true;
        }
        if !inode.is_replaced {
            inode.is_replaced = true;
            inode.is_outdated = true;
            let (parent, name) = (inode.parent, inode.name.clone());
            self.renumber(&mut state, (parent, &name), (FileKind::File, meta), valid_until);
        }
        false
    }

    /// The file `ino` has the version `meta` from now on, as it was written through it: it keeps its number, and its name stands for it.
    pub(crate) fn commit(&self, ino: InodeNo, meta: ObjectMeta, valid_until: Instant) {
        let mut state = self.state.write();
        let Some(inode) = state.inodes.get(&ino) else { return };
        let (parent, name, kind) = (inode.parent, inode.name.clone(), inode.node.kind());
        let current = self.number(&state, parent, &name, kind);
        if current != ino {
            if let Some(other) = state.inodes.get_mut(&current) {
                other.is_replaced = true;
            }
            let first = self.first_number(parent, &name, kind);
            let object = Some((kind, meta.clone()));
            state.replaced.insert(first, Successor { ino, object, valid_until });
        }
        self.versions.commit(ino, &meta);
        if let Some(inode) = state.inodes.get_mut(&ino) {
            inode.is_replaced = false;
            inode.is_own_version = true;
            inode.node = Node::Object(kind, meta);
            inode.valid_until = valid_until;
        }
    }

    /// All that is known of the directory `ino` is stored, and may be told until then.
    pub(crate) fn described(&self, ino: InodeNo, valid_until: Instant) {
        if let Some(inode) = self.state.write().inodes.get_mut(&ino) {
            inode.valid_until = valid_until;
            if let Some(given) = &mut inode.given {
                given.mtime = given.names.take().or(given.mtime);
            }
        }
    }

    /// Nothing known of `ino` may be told any more without asking.
    pub(crate) fn expire(&self, ino: InodeNo, now: Instant) {
        if let Some(inode) = self.state.write().inodes.get_mut(&ino) {
            inode.valid_until = now;
        }
    }

    /// Nothing known of any inode may be told any more without asking, as if its time had been over `over` ago. Returns the names of those that
    /// the kernel has, by directory.
    pub(crate) fn expire_all(&self, over: Instant) -> Vec<(InodeNo, Box<str>)> {
        let state = &mut *self.state.write();
        state.replaced.expire_all(over);
        let mut names = Vec::new();
        for (ino, inode) in &mut state.inodes {
            inode.valid_until = over;
            if *ino != InodeNo::ROOT && inode.lookups > 0 {
                names.push((inode.parent, inode.name.clone()));
            }
        }
        names
    }

    /// Takes back `count` lookups; what nobody knows any more is gone.
    pub(crate) fn forget(&self, ino: InodeNo, count: u64) {
        let mut state = self.state.write();
        if let Some(inode) = state.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
        }
        self.sweep(&mut state, ino);
    }

    /// Whether the kernel has no reference to `ino`.
    pub(crate) fn is_forgotten(&self, ino: InodeNo) -> bool {
        self.state.read().inodes.get(&ino).is_none_or(|inode| inode.lookups == 0)
    }

    /// Removes `ino` if nobody needs it any more, and then the directories above that only it needed.
    fn sweep(&self, state: &mut State, ino: InodeNo) {
        let inodes = &mut state.inodes;
        let mut next = ino;
        // A directory stays while an inode below it needs its prefix, a file while it is on its way to the store.
        while next != InodeNo::ROOT && inodes.get(&next).is_some_and(|inode| inode.is_unused()) {
            let parent = inodes.remove(&next).expect("just seen").parent;
            self.versions.forget(next);
            if let Some(inode) = inodes.get_mut(&parent) {
                inode.children -= 1;
            }
            next = parent;
        }
    }

    /// How many inodes there are, the root included.
    pub(crate) fn len(&self) -> usize {
        self.state.read().inodes.len()
    }

    /// The number that `name` has or would have.
    fn number(&self, state: &State, parent: InodeNo, name: &str, kind: FileKind) -> InodeNo {
        let first = self.first_number(parent, name, kind);
        let mut number = state.replaced.get(first).map_or(first, |successor| successor.ino).0;
        loop {
            // 0 means "no inode" to FUSE, 1 is the root.
            if number > InodeNo::ROOT.0 {
                let ino = InodeNo(number);
                match state.inodes.get(&ino) {
                    Some(i)
                        if i.is_replaced
                            || i.parent != parent
                            || *i.name != *name
                            || is_directory(i.node.kind()) != is_directory(kind) => {}
                    _ => return ino,
                }
            }
            number = number.wrapping_add(1);
        }
    }

    /// The number of `name` until it is replaced, if no other name has it. What is no directory has the same, whatever it is.
    fn first_number(&self, parent: InodeNo, name: &str, kind: FileKind) -> InodeNo {
        InodeNo(self.numbers.hash_one((parent.0, name, is_directory(kind))))
    }

    /// Gives the file `name` a further number, for another version of its object.
    fn renumber(
        &self,
        state: &mut State,
        (parent, name): (InodeNo, &str),
        (kind, meta): (FileKind, &ObjectMeta),
        valid_until: Instant,
    ) -> InodeNo {
        let first = self.first_number(parent, name, kind);
        let ino = loop {
            state.further += 1;
            let ino = InodeNo(self.numbers.hash_one((first.0, state.further)));
            if ino > InodeNo::ROOT && !state.inodes.contains_key(&ino) {
                break ino;
            }
        };
        let object = Some((kind, meta.clone()));
        state.replaced.insert(first, Successor { ino, object, valid_until });
        ino
    }

    /// Puts a new inode into the table. A number that is not the first of its name is remembered: whoever has that may be forgotten sooner.
    fn insert(&self, state: &mut State, ino: InodeNo, inode: Box<Inode>) {
        let first = self.first_number(inode.parent, &inode.name, inode.node.kind());
        if first != ino && state.replaced.get(first).is_none_or(|known| known.ino != ino) {
            let valid_until = inode.valid_until;
            state.replaced.insert(first, Successor { ino, object: None, valid_until });
        }
        state.insert(ino, inode);
    }

    /// An inode for `name`, which the table does not have.
    fn new_inode(
        &self,
        state: &State,
        (ino, parent, name): (InodeNo, InodeNo, &str),
        remote: &Remote,
        valid_until: Instant,
    ) -> Result<Box<Inode>> {
        let Some(Node::Directory(prefix)) = state.inodes.get(&parent).map(|parent| &parent.node) else {
            return Err(Error::new(ErrorKind::BadHandle, "lookup"));
        };
        let (node, valid_until) = match remote {
            Remote::Directory => (Node::Directory(path::directory_prefix(prefix, name)), valid_until),
            Remote::Object(kind, meta) => {
                // What was seen when the number was given may be newer.
                let first = self.first_number(parent, name, *kind);
                let newer = state.replaced.get(first).filter(|s| s.ino == ino && s.valid_until > valid_until);
                let newer = newer.and_then(|s| Some((s.object.clone()?, s.valid_until)));
                let ((kind, meta), valid_until) = newer.unwrap_or(((*kind, meta.clone()), valid_until));
                (Node::Object(kind, meta), valid_until)
            }
        };
        Ok(Inode::new(parent, name, node, valid_until))
    }
}

// === impl State ===

impl State {
    fn insert(&mut self, ino: InodeNo, inode: Box<Inode>) {
        if let Some(parent) = self.inodes.get_mut(&inode.parent) {
            parent.children += 1;
        }
        self.inodes.insert(ino, inode);
    }
}

// === impl Inode ===

impl Inode {
    fn new(parent: InodeNo, name: &str, node: Node, valid_until: Instant) -> Box<Self> {
        let name = Box::from(name);
        Box::new(Self {
            parent,
            name,
            lookups: 0,
            children: 0,
            is_replaced: false,
            is_outdated: false,
            valid_until,
            node,
            written: None,
            is_own_version: false,
            target: None,
            xattrs: Arc::default(),
            given: None,
            changing: 0,
        })
    }

    /// Its metadata say this. Times that are not stored stay: that of a new name, and that of names in it unless what is stored is later.
    fn learn(&mut self, stored: &Stored) {
        if self.changing == 0 {
            self.take_stored(stored);
        }
    }

    fn take_stored(&mut self, stored: &Stored) {
        let own = self.given.as_deref().copied().unwrap_or_default();
        let ctime = own.ctime.max(stored.given.ctime);
        let names = own.names.filter(|_| own.names > stored.given.ctime.or(stored.given.mtime));
        self.given = Some(Box::new(GivenAttr { ctime, names, ..stored.given }));
        if *self.xattrs != stored.xattrs {
            self.xattrs = Arc::new(stored.xattrs.clone());
        }
    }

    /// Whether handles that had no byte of it may read what the store has under its name.
    fn may_move_on(&self) -> bool {
        !self.is_written() && (!self.is_replaced || self.is_outdated)
    }

    /// Takes the store's word on the inode `ino`, unless its name needs another number for that.
    fn take(
        &mut self,
        ino: InodeNo,
        remote: &Remote,
        valid_until: Instant,
        versions: &dyn Versions,
    ) -> Change {
        if valid_until < self.valid_until || self.is_written() {
            // Told later, but seen earlier than what is known.
            return Change::Outdated;
        }
        let mut change = Change::None;
        if let (Node::Object(kind, known), Remote::Object(seen_kind, seen)) = (&mut self.node, remote) {
            // When the length of an inode changes, the kernel cuts off pages and drops them, at a time of its own: bytes that were read
            // since may turn into zeros. So a number stands for one length, except where a read is under way.
            // What is no file stands for one version alone, and so does what was one.
            let follow = match *kind == *seen_kind && known.size == seen.size {
                true if *kind == FileKind::File => versions.follow(ino, seen),
                true if is_same_version(known, seen) => Follow::Same,
                _ => Follow::Parts,
            };
            change = match follow {
                Follow::Parts => {
                    self.is_replaced = true;
                    self.is_outdated = true;
                    return Change::Replaced;
                }
                // The store's own time of what was written here is not known, and where it names no version that is all there would be.
                Follow::Free if self.is_own_version && (known.etag.is_none() || seen.etag.is_none()) => {
                    Change::None
                }
                Follow::Free if !is_same_version(known, seen) => Change::NewVersion,
                Follow::Free | Follow::Same => Change::None,
            };
            let own = std::mem::replace(known, seen.clone());
            match change {
                Change::NewVersion => {
                    self.is_own_version = false;
                    if let Some(given) = &mut self.given {
                        (given.atime, given.mtime, given.ctime) = (None, None, None);
                    }
                }
                _ if self.is_own_version => {
                    known.last_modified = own.last_modified;
                    known.etag = known.etag.take().or(own.etag);
                }
                _ => {}
            }
        }
        self.valid_until = valid_until;
        change
    }
}

// === impl Remote ===

impl Remote {
    pub(crate) fn kind(&self) -> FileKind {
        match self {
            Self::Directory => FileKind::Directory,
            Self::Object(kind, _) => *kind,
        }
    }

    fn meta(&self) -> Option<&ObjectMeta> {
        match self {
            Self::Directory => None,
            Self::Object(_, meta) => Some(meta),
        }
    }
}

// === impl Node ===

impl Node {
    pub(super) fn kind(&self) -> FileKind {
        match self {
            Self::Directory(_) => FileKind::Directory,
            Self::Object(kind, _) => *kind,
        }
    }
}

fn is_directory(kind: FileKind) -> bool {
    kind == FileKind::Directory
}

/// One of the kinds whose numbers differ from that of `kind`.
fn other_kind(kind: FileKind) -> FileKind {
    if is_directory(kind) { FileKind::File } else { FileKind::Directory }
}

#[cfg(test)]
mod tests;
