//! The inodes of a mount: number to inode, name to number, and the only place where lookup counts change.
//!
//! A number is a hash of the parent's number, the name and the kind, so that a name keeps its number after the kernel forgot it
//! and a file that becomes a directory gets another, without remembering either.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use sluicefs_s3_client::{KeyPrefix, ObjectMeta};
use tokio::time::Instant;

use super::{Inode, Node, Remote};
use crate::attr::{Attr, Entry, FileKind, InodeNo};
use crate::clock;
use crate::config::FsConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::path;

/// All inodes of a mount.
#[derive(Debug)]
pub(crate) struct InodeTable {
    /// Boxed: a hash table is half empty on average, and an inode is an eighth of a kilobyte.
    inodes: RwLock<FxHashMap<InodeNo, Box<Inode>>>,
    /// Seeded anew for each mount: numbers cannot be made to collide from outside.
    numbers: RandomState,
    look: Look,
}

/// What all inodes have in common in the eyes of `stat`.
#[derive(Debug)]
struct Look {
    uid: u32,
    gid: u32,
    file_mode: u16,
    dir_mode: u16,
    /// The time stamp of every directory: when the mount began, as S3 keeps none.
    started: sluicefs_s3_client::Timestamp,
}

/// What is known of one inode.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) attr: Attr,
    pub(crate) valid_until: Instant,
    pub(crate) parent: InodeNo,
    pub(crate) name: Box<str>,
    /// The object, if it is a file.
    pub(crate) meta: Option<ObjectMeta>,
}

/// What applying the store's word to the table changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The inode is new, or as it was.
    None,
    /// The file has another version than the one known before, of the same length.
    NewVersion,
    /// The file has another version of another length, of which the kernel does not know yet.
    NewLength,
    /// Nothing: it was seen before what is known.
    Outdated,
}

impl InodeTable {
    pub(crate) fn new(config: &FsConfig) -> Self {
        let root = Inode {
            parent: InodeNo::ROOT,
            name: Box::from(""),
            lookups: 1,
            children: 0,
            valid_until: Instant::now(),
            node: Node::Directory(config.prefix.clone()),
        };
        let look = Look {
            uid: config.uid,
            gid: config.gid,
            file_mode: config.file_mode,
            dir_mode: config.dir_mode,
            started: clock::now(),
        };
        Self {
            inodes: RwLock::new(FxHashMap::from_iter([(InodeNo::ROOT, Box::new(root))])),
            numbers: RandomState::new(),
            look,
        }
    }

    /// What is known of `ino`.
    pub(crate) fn known(&self, operation: &'static str, ino: InodeNo) -> Result<Known> {
        let inodes = self.inodes.read();
        let inode = inodes.get(&ino).ok_or_else(|| Error::new(ErrorKind::BadHandle, operation))?;
        let meta = match &inode.node {
            Node::Directory(_) => None,
            Node::File(meta) => Some(meta.clone()),
        };
        let attr = self.look.attr(ino, meta.as_ref());
        Ok(Known {
            attr,
            valid_until: inode.valid_until,
            parent: inode.parent,
            name: inode.name.clone(),
            meta,
        })
    }

    /// The keys' beginning in the directory `ino`.
    pub(crate) fn directory(&self, operation: &'static str, ino: InodeNo) -> Result<KeyPrefix> {
        match self.inodes.read().get(&ino).map(|inode| &inode.node) {
            Some(Node::Directory(prefix)) => Ok(prefix.clone()),
            Some(Node::File(_)) => Err(Error::new(ErrorKind::NotADirectory, operation)),
            None => Err(Error::new(ErrorKind::BadHandle, operation)),
        }
    }

    /// Looks `name` up among what is known and still believed at `now`, and counts the lookup.
    pub(crate) fn lookup_fresh(&self, parent: InodeNo, name: &str, now: Instant) -> Option<Entry> {
        let mut inodes = self.inodes.write();
        // A directory shadows a file of its name.
        for kind in [FileKind::Directory, FileKind::File] {
            let ino = self.number(&inodes, parent, name, kind);
            if let Some(inode) = inodes.get_mut(&ino).filter(|inode| inode.valid_until > now) {
                inode.lookups += 1;
                return Some(self.look.entry(ino, inode, now));
            }
        }
        None
    }

    /// What a listing's entry looks like, whether or not the table has it.
    pub(crate) fn describe(&self, parent: InodeNo, name: &str, remote: &Remote) -> Entry {
        let (kind, meta) = match remote {
            Remote::Directory => (FileKind::Directory, None),
            Remote::File(meta) => (FileKind::File, Some(meta)),
        };
        Entry { attr: self.look.attr(self.number_of(parent, name, kind), meta), ttl: Duration::ZERO }
    }

    /// The number that `name` has or would have.
    pub(crate) fn number_of(&self, parent: InodeNo, name: &str, kind: FileKind) -> InodeNo {
        self.number(&self.inodes.read(), parent, name, kind)
    }

    /// Takes the store's word on `name` and offers the entry to `accept`; if it takes it, that counts as a lookup.
    ///
    /// `accept` must not call the table. Returns whether it accepted, and what changed.
    pub(crate) fn apply(
        &self,
        (parent, name): (InodeNo, &str),
        remote: &Remote,
        (now, valid_until): (Instant, Instant),
        accept: impl FnOnce(Entry) -> bool,
    ) -> Result<(bool, Change)> {
        let mut inodes = self.inodes.write();
        let Some(Node::Directory(prefix)) = inodes.get(&parent).map(|inode| &inode.node) else {
            return Err(Error::new(ErrorKind::BadHandle, "lookup"));
        };
        let node = match remote {
            Remote::Directory => Node::Directory(path::directory_prefix(prefix, name)),
            Remote::File(meta) => Node::File(meta.clone()),
        };
        let ino = self.number(&inodes, parent, name, kind_of(&node));
        let other = self.number(&inodes, parent, name, other_kind(kind_of(&node)));
        if let Some(replaced) = inodes.get_mut(&other) {
            // The name stands for something else now; nothing known of its former owner may answer for it.
            replaced.valid_until = now;
        }
        let mut change = Change::None;
        let mut fresh = None;
        let inode = match inodes.get_mut(&ino) {
            Some(inode) => {
                change = inode.take(node, valid_until);
                inode
            }
            None => fresh.insert(Box::new(Inode {
                parent,
                name: Box::from(name),
                lookups: 0,
                children: 0,
                valid_until,
                node,
            })),
        };
        let accepted = accept(self.look.entry(ino, inode, now));
        inode.lookups += u64::from(accepted);
        if let (Some(inode), true) = (fresh, accepted) {
            inodes.insert(ino, inode);
            if let Some(parent) = inodes.get_mut(&parent) {
                parent.children += 1;
            }
        }
        Ok((accepted, change))
    }

    /// Takes a newer description of the file `ino`, if it is still known.
    pub(crate) fn refresh(&self, ino: InodeNo, meta: ObjectMeta, valid_until: Instant) -> Change {
        self.inodes
            .write()
            .get_mut(&ino)
            .map_or(Change::None, |inode| inode.take(Node::File(meta), valid_until))
    }

    /// Nothing known of `ino` may be told any more without asking.
    pub(crate) fn expire(&self, ino: InodeNo, now: Instant) {
        if let Some(inode) = self.inodes.write().get_mut(&ino) {
            inode.valid_until = now;
        }
    }

    /// Takes back `count` lookups; returns the numbers that nobody knows any more.
    pub(crate) fn forget(&self, ino: InodeNo, count: u64) -> Vec<InodeNo> {
        let mut inodes = self.inodes.write();
        if let Some(inode) = inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
        }
        let mut gone = Vec::new();
        let mut next = ino;
        // A directory stays while an inode below it needs its prefix.
        while next != InodeNo::ROOT
            && inodes.get(&next).is_some_and(|inode| inode.lookups == 0 && inode.children == 0)
        {
            let parent = inodes.remove(&next).expect("just seen").parent;
            gone.push(next);
            if let Some(inode) = inodes.get_mut(&parent) {
                inode.children -= 1;
            }
            next = parent;
        }
        gone
    }

    /// How many inodes there are, the root included.
    pub(crate) fn len(&self) -> usize {
        self.inodes.read().len()
    }

    fn number(
        &self,
        inodes: &FxHashMap<InodeNo, Box<Inode>>,
        parent: InodeNo,
        name: &str,
        kind: FileKind,
    ) -> InodeNo {
        let mut number = self.numbers.hash_one((parent.0, name, kind == FileKind::Directory));
        loop {
            // 0 means "no inode" to FUSE, 1 is the root.
            if number > InodeNo::ROOT.0 {
                let ino = InodeNo(number);
                match inodes.get(&ino) {
                    Some(i) if i.parent != parent || *i.name != *name || kind_of(&i.node) != kind => {}
                    _ => return ino,
                }
            }
            number = number.wrapping_add(1);
        }
    }
}

// === impl Inode ===

impl Inode {
    fn take(&mut self, node: Node, valid_until: Instant) -> Change {
        if valid_until < self.valid_until {
            // Told later, but seen earlier than what is known.
            return Change::Outdated;
        }
        let change = match (&self.node, &node) {
            (Node::File(old), Node::File(new)) if old.size != new.size => Change::NewLength,
            (Node::File(old), Node::File(new)) if !is_same_version(old, new) => Change::NewVersion,
            _ => Change::None,
        };
        self.node = node;
        self.valid_until = valid_until;
        change
    }
}

/// Whether two descriptions are of the same bytes. Without an ETag on both sides, length and time must do.
pub(crate) fn is_same_version(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    match (&a.etag, &b.etag) {
        (Some(x), Some(y)) => x == y && a.size == b.size,
        // HEAD gives fractions of a second where listings do, or neither: whole seconds are what all servers agree on.
        _ => a.size == b.size && a.last_modified.secs == b.last_modified.secs,
    }
}

fn kind_of(node: &Node) -> FileKind {
    match node {
        Node::Directory(_) => FileKind::Directory,
        Node::File(_) => FileKind::File,
    }
}

fn other_kind(kind: FileKind) -> FileKind {
    match kind {
        FileKind::Directory => FileKind::File,
        FileKind::File => FileKind::Directory,
    }
}

// === impl Look ===

impl Look {
    fn attr(&self, ino: InodeNo, meta: Option<&ObjectMeta>) -> Attr {
        let (kind, size, mtime, mode) = match meta {
            Some(meta) => (FileKind::File, meta.size, meta.last_modified, self.file_mode),
            None => (FileKind::Directory, 0, self.started, self.dir_mode),
        };
        Attr { ino, kind, size, mtime, mode, uid: self.uid, gid: self.gid }
    }

    fn entry(&self, ino: InodeNo, inode: &Inode, now: Instant) -> Entry {
        let meta = match &inode.node {
            Node::Directory(_) => None,
            Node::File(meta) => Some(meta),
        };
        Entry { attr: self.attr(ino, meta), ttl: inode.valid_until.saturating_duration_since(now) }
    }
}
