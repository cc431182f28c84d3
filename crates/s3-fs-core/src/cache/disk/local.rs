//! Objects of the cache as files of this machine, for those who can read such files by themselves.
//!
//! That is for a whole object of which every block was found right, and whose file nobody touched since: nobody checks what is read from it. Where that is
//! not known it is found out in the background, one object at a time, for whoever comes next.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_cache_dir::objects::{Check, Entry, Opened, Sealed, Verified};
use sluicefs_s3_client::{ETag, ObjectKey};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinSet;

use super::{DiskCache, DiskObject, Known, OpenEntry, Trouble};
use crate::cache::block::BLOCK_BYTES;

/// So many objects wait to be checked. Whoever opens one that found no room asks for it again.
const MAX_WAITING: usize = 256;

/// So much is checked between two looks at whether the mount has ended: 64 MiB.
const BLOCKS_AT_ONCE: u32 = 512;

/// So often a check waits for an entry to settle. More than once only if somebody wrote to it meanwhile.
const MAX_WAITS: u32 = 5;

/// The time of file systems is that of the last tick, which may be so long ago.
const TICK: Duration = Duration::from_millis(10);

/// An open waits so long for the disk, which may not answer at all. Then it is read like one that is not known to be right.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether an object of `size` bytes is worth a check as a whole. One of a single block is read by one request, which costs less than opening another
/// file for it.
pub(crate) fn is_worth_a_check(size: u64) -> bool {
    size > BLOCK_BYTES
}

/// A file of this machine with exactly the bytes of an object version. It stays while this lives.
#[derive(Debug)]
pub struct LocalFile(Arc<OpenEntry>);

impl AsFd for LocalFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.entry.as_fd()
    }
}

/// The objects that wait to be checked as wholes.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// Somebody reads local files.
    are_wanted: AtomicBool,
    /// The first one is being checked.
    waiting: Mutex<VecDeque<(ObjectKey, Sealed)>>,
    /// What checks them, if there are any.
    tasks: Mutex<JoinSet<()>>,
    emptied: Notify,
}

impl Checks {
    /// Returns when nothing waits.
    pub(super) async fn idle(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.waiting.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Takes the first one away; false if it was the last.
    fn pop(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.pop_front();
        if waiting.is_empty() {
            self.emptied.notify_waiters();
        }
        !waiting.is_empty()
    }
}

impl DiskObject {
    /// The object as a local file, if all of it is there and known to be right. Cancel-safe.
    pub(crate) async fn local_file(self: &Arc<Self>, etag: Option<&ETag>) -> Option<LocalFile> {
        self.cache.checks.are_wanted.store(true, Ordering::Relaxed);
        let sealed = self.sealed(etag)?.clone();
        if matches!(*self.entry.lock(), Known::Absent) {
            return None;
        }
        let object = Arc::clone(self);
        let found = self.cache.runtime.spawn_blocking(move || object.proven(&sealed));
        let Ok(found) = tokio::time::timeout(PATIENCE, found).await else {
            tracing::debug!(key = %self.key, "the cache on disk does not answer");
            return None;
        };
        found.unwrap_or_else(|error| {
            tracing::error!(key = %self.key, %error, "looking into the cache on disk ended abnormally");
            None
        })
    }

    fn proven(&self, sealed: &Sealed) -> Option<LocalFile> {
        let open = self.find(sealed)?;
        match open.entry.is_proven() {
            Ok(true) => Some(LocalFile(open)),
            Ok(false) => {
                self.cache.check_later(&self.key, sealed);
                None
            }
            Err(error) => {
                self.cache.failed(Trouble::Reading, &self.key, &error);
                None
            }
        }
    }

    /// Somebody reads it from its local file from now on.
    pub(crate) fn note_local(&self) {
        self.cache.counters.local_opens.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for DiskObject {
    fn drop(&mut self) {
        if *self.was_filled.get_mut()
            && is_worth_a_check(self.size)
            && let Some(Some(sealed)) = self.sealed.get()
        {
            // Whoever checks it must be allowed to open it.
            *self.entry.get_mut() = Known::Nothing;
            self.cache.check_later(&self.key, sealed);
        }
    }
}

impl DiskCache {
    fn check_later(self: &Arc<Self>, key: &ObjectKey, sealed: &Sealed) {
        if !self.checks.are_wanted.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.checks.waiting.lock();
        let is_waiting = |(_, other): &(ObjectKey, Sealed)| other.identity() == sealed.identity();
        if waiting.len() >= MAX_WAITING || waiting.iter().any(is_waiting) {
            return;
        }
        waiting.push_back((key.clone(), sealed.clone()));
        if waiting.len() > 1 {
            return;
        }
        drop(waiting);
        let mut tasks = self.checks.tasks.lock();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "checking the cache on disk ended abnormally");
            }
        }
        tasks.spawn_on(check_all(Arc::downgrade(self)), &self.runtime);
    }

    fn has_checked(&self, key: &ObjectKey, found: io::Result<Verified>) {
        match found {
            Ok(verified) => {
                for _ in 0..verified.damaged {
                    self.damaged(key);
                }
                self.counters.proven.fetch_add(u64::from(verified.is_proven), Ordering::Relaxed);
            }
            Err(error) => self.failed(Trouble::Reading, key, &error),
        }
    }
}

/// Checks what waits, until nothing does or the mount has ended.
async fn check_all(cache: Weak<DiskCache>) {
    loop {
        let Some(living) = cache.upgrade() else { return };
        let Some((key, sealed)) = living.checks.waiting.lock().front().cloned() else { return };
        let found = living.permit().map(|permit| check(living.objects.clone(), sealed, permit));
        drop(living);
        let found = match found {
            Some(found) => found.await,
            // As many are open as may be.
            None => Ok(Verified::default()),
        };
        let Some(living) = cache.upgrade() else { return };
        living.has_checked(&key, found);
        if !living.checks.pop() {
            return;
        }
    }
}

/// Checks one object, unless it is not whole, or known to be right.
async fn check(objects: PathBuf, sealed: Sealed, _permit: OwnedSemaphorePermit) -> io::Result<Verified> {
    let found = move || match Entry::open(&objects, &sealed)? {
        Opened::Entry(entry) if entry.is_whole()? && !entry.is_proven()? => Ok(Ok(entry)),
        Opened::Entry(_) | Opened::Absent => Ok(Err(Verified::default())),
        Opened::Damaged => Ok(Err(Verified { damaged: 1, ..Verified::default() })),
    };
    let entry = match blocking(found).await? {
        Ok(entry) => entry,
        Err(verified) => return Ok(verified),
    };
    if !settled(&entry).await? {
        return Ok(Verified::default());
    }
    let mut check = blocking(move || Check::new(entry)).await?;
    loop {
        let (rest, goes_on) =
            blocking(move || check.go_on(BLOCKS_AT_ONCE).map(|goes_on| (check, goes_on))).await?;
        check = rest;
        if !goes_on {
            return blocking(move || check.end()).await;
        }
    }
}

/// Waits until a check of `entry` can prove it; false if it cannot soon: somebody keeps writing to it, or the clock was set back behind its time.
async fn settled(entry: &Arc<Entry>) -> io::Result<bool> {
    for _ in 0..MAX_WAITS {
        let entry = Arc::clone(entry);
        let rest = blocking(move || entry.settles_in()).await?;
        if rest.is_zero() {
            return Ok(true);
        }
        tokio::time::sleep(rest + TICK).await;
    }
    Ok(false)
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.map_err(io::Error::other)?
}
