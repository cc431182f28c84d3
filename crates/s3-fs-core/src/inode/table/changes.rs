//! Names that this mount itself makes, removes and moves, and what it knows better than the store.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::super::replaced::Successor;
use super::super::stored::{Stored, XattrMap};
use super::super::{BeingWritten, GivenAttr, Inode, Node, Remote};
use super::{InodeTable, State, other_kind};
use crate::attr::{Attr, Entry, FileKind, InodeNo};
use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::path;

impl InodeTable {
    /// Adds `name` to the directory `parent`, as this mount made it; counts one lookup.
    ///
    /// # Errors
    /// `BadHandle` for an unknown parent.
    pub(crate) fn create(
        &self,
        (parent, name): (InodeNo, &str),
        remote: &Remote,
        (now, valid_until): (Instant, Instant),
    ) -> Result<Entry> {
        let mut state = self.state.write();
        for kind in [remote.kind(), other_kind(remote.kind())] {
            // Whoever had the name until now has lost it.
            let ino = self.number(&state, parent, name, kind);
            if let Some(former) = state.inodes.get_mut(&ino) {
                former.is_replaced = true;
            }
        }
        let ino = self.number(&state, parent, name, remote.kind());
        let mut inode = self.new_inode(&state, (ino, parent, name), remote, valid_until)?;
        if let Remote::Object(kind, meta) = remote {
            inode.node = Node::Object(*kind, meta.clone());
            inode.is_own_version = true;
            let first = self.first_number(parent, name, *kind);
            if first != ino {
                let object = Some((*kind, meta.clone()));
                state.replaced.insert(first, Successor { ino, object, valid_until });
            }
        }
        inode.lookups = 1;
        let entry = self.look.entry(ino, &inode, now);
        self.insert(&mut state, ino, inode);
        Ok(entry)
    }

    /// The number that `name` stands for, if the table has it, however long ago it was seen.
    pub(crate) fn peek(&self, parent: InodeNo, name: &str) -> Option<InodeNo> {
        let state = self.state.read();
        let known = |kind| {
            let ino = self.number(&state, parent, name, kind);
            state.inodes.get(&ino).filter(|inode| !inode.is_replaced).map(|inode| (ino, inode.valid_until))
        };
        let (directory, file) = (known(FileKind::Directory), known(FileKind::File));
        // Both are known if one was replaced by the other outside: what was seen last counts.
        match (directory, file) {
            (Some((directory, seen)), Some((file, later))) => {
                Some(if later > seen { file } else { directory })
            }
            (one, other) => one.or(other).map(|(ino, _)| ino),
        }
    }

    /// The attributes of `ino`, as they are known.
    ///
    /// # Errors
    /// `BadHandle` for an unknown number.
    pub(crate) fn entry(&self, ino: InodeNo) -> Result<Entry> {
        let state = self.state.read();
        let inode = state.inodes.get(&ino).ok_or_else(|| Error::new(ErrorKind::BadHandle, "getattr"))?;
        Ok(self.look.entry(ino, inode, Instant::now()))
    }

    /// Where the symbolic link `ino` leads, if that was read.
    pub(crate) fn target(&self, ino: InodeNo) -> Option<Arc<[u8]>> {
        self.state.read().inodes.get(&ino)?.target.clone()
    }

    /// The symbolic link `ino`, of the version that it has, leads there.
    pub(crate) fn set_target(&self, ino: InodeNo, target: Arc<[u8]>) {
        if let Some(inode) = self.state.write().inodes.get_mut(&ino) {
            inode.target = Some(target);
        }
    }

    /// How many directories lie between the mount's root and what is in the directory `ino`.
    pub(crate) fn depth(&self, mut ino: InodeNo) -> usize {
        let state = self.state.read();
        let mut depth = 0;
        while ino != InodeNo::ROOT
            && let Some(inode) = state.inodes.get(&ino)
        {
            (ino, depth) = (inode.parent, depth + 1);
        }
        depth
    }

    /// The file `ino` is being written, or is not any more.
    pub(crate) fn set_written(&self, ino: InodeNo, written: Option<Weak<dyn BeingWritten>>) {
        let mut state = self.state.write();
        let Some(inode) = state.inodes.get_mut(&ino) else { return };
        let is_over = written.is_none();
        inode.written = written;
        if is_over {
            // The kernel may have forgotten it meanwhile.
            self.sweep(&mut state, ino);
        }
    }

    /// What was written to the file `ino` is lost, and the kernel may have pages of it: its name gets another number, and the store is asked what
    /// it stands for.
    pub(crate) fn give_up(&self, ino: InodeNo) {
        let mut state = self.state.write();
        let Some(inode) = state.inodes.get_mut(&ino).filter(|inode| !inode.is_replaced) else { return };
        let Node::Object(kind, meta) = &inode.node else { return };
        let (parent, name, kind, meta) = (inode.parent, inode.name.clone(), *kind, meta.clone());
        inode.is_replaced = true;
        self.renumber(&mut state, (parent, &name), (kind, &meta), Instant::now());
    }

    /// Attributes of `ino` are being changed: what the store tells of them is not believed until the guard is dropped.
    pub(crate) fn begin_change(&self, ino: InodeNo) -> Changing<'_> {
        if let Some(inode) = self.state.write().inodes.get_mut(&ino) {
            inode.changing += 1;
        }
        Changing { table: self, ino }
    }

    /// Attributes of `ino` are being changed, and the store has `stored` before that: what was changed elsewhere stays.
    pub(crate) fn rebase(&self, ino: InodeNo, stored: &Stored) {
        if let Some(inode) = self.state.write().inodes.get_mut(&ino) {
            inode.take_stored(stored);
        }
    }

    /// Attributes were given to `ino`.
    pub(crate) fn give(&self, ino: InodeNo, given: GivenAttr) {
        if let Some(inode) = self.state.write().inodes.get_mut(&ino) {
            inode.give(given);
        }
    }

    /// What a file of this kind is that is made just now and given this.
    pub(crate) fn describe_new(&self, kind: FileKind, given: &GivenAttr) -> Attr {
        self.look.of_new(kind, given)
    }

    /// What was given to `ino`, and its extended attributes.
    pub(crate) fn given(&self, ino: InodeNo) -> Option<(GivenAttr, Arc<XattrMap>)> {
        let state = self.state.read();
        let inode = state.inodes.get(&ino)?;
        Some((inode.given.as_deref().copied().unwrap_or_default(), Arc::clone(&inode.xattrs)))
    }

    /// Sets what is given to `ino`, whatever it was.
    pub(crate) fn set_given(&self, ino: InodeNo, (given, xattrs): (GivenAttr, Arc<XattrMap>)) {
        if let Some(inode) = self.state.write().inodes.get_mut(&ino) {
            (inode.given, inode.xattrs) = (Some(Box::new(given)), xattrs);
        }
    }

    /// A time that was given to `ino` is over: it was changed since.
    pub(crate) fn forget_given_time(&self, ino: InodeNo) {
        // Every write asks, and few files were ever given a time: the lock for all is not worth that.
        let state = self.state.read();
        let given = state.inodes.get(&ino).and_then(|inode| inode.given.as_deref());
        if given.is_none_or(|given| given.mtime.is_none()) {
            return;
        }
        drop(state);
        if let Some(given) = self.state.write().inodes.get_mut(&ino).and_then(|inode| inode.given.as_mut()) {
            given.mtime = None;
        }
    }

    /// The inode `ino` has no name any more; who has it open keeps it.
    pub(crate) fn remove(&self, ino: InodeNo) {
        let mut state = self.state.write();
        let Some(inode) = state.inodes.get_mut(&ino) else { return };
        inode.is_replaced = true;
        inode.give(GivenAttr::touched_at(clock::now()));
        let first = self.first_number(inode.parent, &inode.name.clone(), inode.node.kind());
        // What took its name may have been there first.
        if state.replaced.get(first).is_some_and(|successor| successor.ino == ino) {
            state.replaced.remove(first);
        }
    }

    /// The inode `ino` is called `name` in the directory `parent` from now on, with all that is below it; what had that name before has lost it.
    ///
    /// # Errors
    /// `BadHandle` for an unknown number.
    pub(crate) fn rename(
        &self,
        ino: InodeNo,
        (parent, name): (InodeNo, &str),
        valid_until: Instant,
    ) -> Result<()> {
        let mut state = self.state.write();
        let unknown = || Error::new(ErrorKind::BadHandle, "rename");
        let kind = state.inodes.get(&ino).ok_or_else(unknown)?.node.kind();
        if !state.inodes.contains_key(&parent) {
            return Err(unknown());
        }
        for kind in [kind, other_kind(kind)] {
            let other = self.number(&state, parent, name, kind);
            if let Some(former) = state.inodes.get_mut(&other).filter(|_| other != ino) {
                former.is_replaced = true;
            }
        }
        let inode = state.inodes.get_mut(&ino).expect("just seen");
        let before = std::mem::replace(&mut inode.parent, parent);
        let old_name = std::mem::replace(&mut inode.name, Box::from(name));
        inode.valid_until = valid_until;
        let object = match &inode.node {
            Node::Object(kind, meta) => Some((*kind, meta.clone())),
            Node::Directory(_) => None,
        };
        state.replaced.remove(self.first_number(before, &old_name, kind));
        let first = self.first_number(parent, name, kind);
        if first != ino {
            state.replaced.insert(first, Successor { ino, object, valid_until });
        }
        if let Some(directory) = state.inodes.get_mut(&before) {
            directory.children -= 1;
        }
        if let Some(directory) = state.inodes.get_mut(&parent) {
            directory.children += 1;
        }
        state.move_prefixes(ino);
        Ok(())
    }

    /// The known inodes below the directory `ino`, directories before what is in them.
    pub(crate) fn below(&self, ino: InodeNo) -> Vec<InodeNo> {
        self.state.read().below(ino)
    }
}

/// Attributes of an inode are being changed.
#[must_use]
pub(crate) struct Changing<'a> {
    table: &'a InodeTable,
    ino: InodeNo,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if let Some(inode) = self.table.state.write().inodes.get_mut(&self.ino) {
            inode.changing = inode.changing.saturating_sub(1);
        }
    }
}

impl Inode {
    fn give(&mut self, given: GivenAttr) {
        let before = self.given.as_deref().copied().unwrap_or_default();
        self.given = Some(Box::new(before.or(given)));
    }
}

impl State {
    fn below(&self, ino: InodeNo) -> Vec<InodeNo> {
        let mut found = Vec::new();
        let mut above = vec![ino];
        // One pass through the table for each level; renames of directories are rare, and cost a request for each object anyway.
        while !above.is_empty() {
            let is_in = |inode: &Inode| !inode.is_replaced && above.contains(&inode.parent);
            let next: Vec<InodeNo> = self
                .inodes
                .iter()
                .filter(|(other, inode)| **other != InodeNo::ROOT && is_in(inode))
                .map(|(other, _)| *other)
                .collect();
            found.extend(&next);
            above = next;
        }
        found
    }

    /// Gives the directory `ino` and those below it the prefixes that follow from their names.
    fn move_prefixes(&mut self, ino: InodeNo) {
        let below = self.below(ino);
        for ino in std::iter::once(ino).chain(below) {
            let Some(inode) = self.inodes.get(&ino) else { continue };
            let (parent, name) = (inode.parent, inode.name.clone());
            let prefix = match self.inodes.get(&parent).map(|parent| &parent.node) {
                Some(Node::Directory(prefix)) => path::directory_prefix(prefix, &name),
                _ => continue,
            };
            if let Some(Node::Directory(mine)) = self.inodes.get_mut(&ino).map(|inode| &mut inode.node) {
                *mine = prefix;
            }
        }
    }
}
