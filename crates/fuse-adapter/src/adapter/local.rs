//! Files that the kernel reads by itself, from a local file that has their bytes (FUSE passthrough).
//!
//! The kernel reads all handles of an inode in one way. While one is open by passthrough, every other one must be, and of the same backing file; while one is read
//! through the kernel's pages, none can be: such an open fails (fs/fuse/iomode.c). This table has the handles that the kernel may have, so that
//! each open is answered as the ones before it: a handle is in it before the kernel hears of it, and until the kernel has let go of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::BackingId;
use parking_lot::Mutex;
use sluicefs_core::LocalFile;

/// Whether the kernel may read files that are whole in the cache on disk by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passthrough {
    /// Where it can: as root, on kernels that have it (Linux 6.9), and where objects that exist cannot be overwritten through the mount.
    WherePossible,
    /// Never: every block that is read is held against its checksum.
    Off,
}

/// A file that the kernel reads instead of asking us.
#[derive(Debug)]
pub(super) struct Backing {
    // Closed first.
    pub(super) id: BackingId,
    _file: LocalFile,
}

/// How the open files of a mount are read.
#[derive(Debug, Default)]
pub(super) struct LocalOpens {
    /// The kernel agreed in INIT.
    is_on: AtomicBool,
    /// It refused a backing file later.
    was_refused: AtomicBool,
    inodes: Mutex<HashMap<u64, Inode>>,
}

/// An inode that is open.
#[derive(Debug)]
struct Inode {
    handles: u64,
    /// What its handles read, if not through us.
    backing: Option<Arc<Backing>>,
}

impl LocalOpens {
    /// The kernel can do it.
    pub(super) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Whether a handle of `ino` could be the first one that reads a local file.
    pub(super) fn may_begin(&self, ino: u64) -> bool {
        self.is_on.load(Ordering::Relaxed)
            && !self.was_refused.load(Ordering::Relaxed)
            && !self.inodes.lock().contains_key(&ino)
    }

    /// Adds a handle of `ino`; `begin` says what it reads, if it is the only one. `None` if it reads through us.
    pub(super) fn add(&self, ino: u64, begin: impl FnOnce() -> Option<Backing>) -> Option<Arc<Backing>> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let mut inodes = self.inodes.lock();
        let inode = inodes.entry(ino).or_insert_with(|| Inode { handles: 0, backing: begin().map(Arc::new) });
        inode.handles += 1;
        inode.backing.clone()
    }

    /// The kernel has let go of a handle of `ino`.
    pub(super) fn remove(&self, ino: u64) {
        let mut inodes = self.inodes.lock();
        let last = match inodes.entry(ino) {
            Entry::Occupied(mut inode) if inode.get().handles > 1 => {
                inode.get_mut().handles -= 1;
                None
            }
            Entry::Occupied(inode) => Some(inode.remove()),
            Entry::Vacant(_) => None,
        };
        drop(inodes);
        // Closing it asks the kernel.
        drop(last);
    }

    /// Makes `file` one that the kernel reads, by `register`. Where it refuses that once, it is not asked again.
    pub(super) fn back(
        &self,
        file: LocalFile,
        register: impl FnOnce(&LocalFile) -> io::Result<BackingId>,
    ) -> Option<Backing> {
        match register(&file) {
            Ok(id) => Some(Backing { id, _file: file }),
            Err(error) => {
                if !self.was_refused.swap(true, Ordering::Relaxed) {
                    tracing::info!(
                        %error,
                        "the kernel does not read the cache on disk by itself, which takes root and a local file system: it is read for it"
                    );
                }
                None
            }
        }
    }
}
