//! Open files: which version of an object each handle reads, and when it may move on to another.
//!
//! A reader never sees two versions mixed. A handle is pinned to the version it opened. Once a byte of that version was delivered to
//! anyone through this inode, the kernel's page cache may hold it, and the inode keeps that version for good: another one gets another
//! inode number, and reads of this one find the old bytes or are stale. Only while nothing was delivered may an inode, and every handle
//! of it, [move on](moved) with the object to a new version.

mod begun;
mod moved;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sluicefs_s3_client::{ByteRange, ObjectKey, ObjectMeta};

use self::begun::Begun;
use self::moved::Moved;
use crate::attr::InodeNo;
use crate::cache::disk::LocalFile;
use crate::cache::disk::is_worth_a_check;
use crate::error::{Error, ErrorKind, Result};
use crate::inode::{Follow, Versions, is_same_version};
use crate::kernel::{Destination, Kernel};
use crate::read::{ObjectVersion, OpenObject, Order, ReadData, ReadEngine};

pub(crate) use self::begun::BEGUN_FOR;

/// One version of one object, for all handles of an inode.
#[derive(Debug)]
struct Pinned {
    meta: ObjectMeta,
    version: Arc<ObjectVersion>,
    /// A byte of this version went to the kernel.
    delivered: AtomicBool,
    /// The kernel may have bytes of the file that are not of this version, or that it wrote itself.
    follows_delivered: bool,
    /// Handles moved on to it from an older version, of which nobody had a byte.
    moved: Option<Moved>,
    /// This mount made it of the version before, or moved it: the kernel saw every byte change, and handles go on with it.
    written_here: bool,
    /// The kernel may have pages with bytes that never became an object: nothing is read beside them.
    is_spoiled: bool,
    /// Its reading state, while a handle has it open.
    object: Mutex<Weak<OpenObject>>,
}

/// What the handles of an inode share.
#[derive(Debug)]
struct Shared {
    current: Mutex<Arc<Pinned>>,
}

/// Files that were opened and not yet forgotten by the kernel.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    engine: Arc<ReadEngine>,
    files: Mutex<FxHashMap<InodeNo, Arc<Shared>>>,
    begun: Begun,
}

/// One open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub(crate) ino: InodeNo,
    file: Arc<Shared>,
    pin: Mutex<Pin>,
    engine: Arc<ReadEngine>,
}

/// The version that a read is of.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    pinned: Arc<Pinned>,
    object: Arc<OpenObject>,
}

impl OpenFiles {
    pub(crate) fn new(engine: Arc<ReadEngine>) -> Self {
        Self { engine, files: Mutex::default(), begun: Begun::default() }
    }

    /// Opens the version `meta` of `ino`. Returns whether all pages that the kernel holds of the inode are of that version.
    pub(crate) fn open(&self, ino: InodeNo, key: ObjectKey, meta: ObjectMeta) -> (FileHandle, bool) {
        // Kept until the handle has it.
        let mut begun = None;
        let mut files = self.files.lock();
        let file = files.entry(ino).or_insert_with(|| {
            begun = self.begun.take(&key, &meta);
            Arc::new(Shared::new(Pinned::of(key, meta.clone(), begun.as_ref())))
        });
        let file = Arc::clone(file);
        drop(files);
        let pinned = file.current();
        // Where the kernel has no pages there is nothing to drop, and an open that drops pages waits for all reads under way: a second
        // reader of a slow file must not. Without an ETag in the listing, equal length and time do not prove that pages are of this version.
        let keep_cache = match pinned.delivered.load(Ordering::Acquire) {
            true => meta.etag.is_some(),
            false => !pinned.follows_delivered,
        };
        let object = pinned.open(&self.engine);
        object.is_opened();
        let engine = Arc::clone(&self.engine);
        (FileHandle { ino, file, pin: Mutex::new(Pin { pinned, object }), engine }, keep_cache)
    }

    /// Begins to fetch the object `meta` at `key`, which will be the file `ino` when somebody looks it up, and which is expected to be read in
    /// `order`. Does nothing if that was done, if somebody has it open, or if it has no ETag, by which it could be known again.
    ///
    /// Returns when the fetches are under way; [`OpenFiles::forget_late`] lets go of them.
    pub(crate) async fn begin(&self, ino: InodeNo, key: ObjectKey, meta: &ObjectMeta, order: Order) {
        if meta.etag.is_none() || self.is_open(ino) || self.begun.has(&key, meta) {
            return;
        }
        let known = self.files.lock().get(&ino).map(|file| file.current());
        let object = match known {
            Some(pinned) if pinned.is_of(meta) => pinned.open(&self.engine),
            Some(_) => return,
            None => self.engine.open(Arc::new(ObjectVersion::new(key, meta.size, meta.etag.clone()))),
        };
        self.begun.insert(Arc::clone(&object));
        object.begin(order).await;
    }

    /// Lets go of what was begun and nobody opened in time.
    pub(crate) fn forget_late(&self) {
        self.begun.forget_late();
    }

    /// Whether the kernel may hold pages of the file: then only the store can tell whether they are still right.
    pub(crate) fn was_delivered(&self, ino: InodeNo) -> bool {
        self.files.lock().get(&ino).is_some_and(|file| file.current().delivered.load(Ordering::Acquire))
    }

    /// The file `ino` has another key and is the object `meta` there.
    pub(crate) fn moved(&self, ino: InodeNo, key: ObjectKey, meta: &ObjectMeta) {
        if let Some(file) = self.files.lock().get(&ino) {
            file.moved(key, meta);
        }
    }

    /// What was written to the file `ino` is lost: the kernel may have pages of it, so nobody reads it under this number any more.
    pub(crate) fn spoil(&self, ino: InodeNo) {
        if let Some(file) = self.files.lock().get(&ino) {
            file.spoil();
        }
    }

    /// Whether a handle of the file is open.
    pub(crate) fn is_open(&self, ino: InodeNo) -> bool {
        // Each handle holds the file, as the map does, and nobody else.
        self.files.lock().get(&ino).is_some_and(|file| Arc::strong_count(file) > 1)
    }
}

impl Versions for OpenFiles {
    fn follow(&self, ino: InodeNo, seen: &ObjectMeta) -> Follow {
        self.files.lock().get(&ino).map_or(Follow::Free, |file| file.follow(seen))
    }

    fn move_on(&self, ino: InodeNo, seen: &ObjectMeta) -> bool {
        self.files.lock().get(&ino).is_some_and(|file| match file.follow(seen) {
            Follow::Same | Follow::Free => true,
            Follow::Parts => false,
        })
    }

    fn commit(&self, ino: InodeNo, written: &ObjectMeta) {
        if let Some(file) = self.files.lock().get(&ino) {
            file.commit(written);
        }
    }

    fn forget(&self, ino: InodeNo) {
        self.files.lock().remove(&ino);
    }
}

impl Shared {
    fn new(pinned: Pinned) -> Self {
        Self { current: Mutex::new(Arc::new(pinned)) }
    }

    fn current(&self) -> Arc<Pinned> {
        Arc::clone(&self.current.lock())
    }

    /// Moves on to the version `seen`, unless the kernel has bytes of another one.
    fn follow(&self, seen: &ObjectMeta) -> Follow {
        let mut current = self.current.lock();
        if current.is_of(seen) {
            return Follow::Same;
        }
        if current.follows_delivered || current.delivered.load(Ordering::Acquire) {
            return Follow::Parts;
        }
        let earlier = current.moved.as_ref().map_or(current.meta.size, Moved::earlier);
        if earlier != current.meta.size && seen.size != current.meta.size {
            // The kernel may still be about to take in the second of three lengths.
            return Follow::Parts;
        }
        let moved = Some(Moved::new(seen.size, earlier));
        let key = current.version.key().clone();
        *current = Arc::new(Pinned { moved, ..Pinned::new(key, seen.clone()) });
        Follow::Free
    }

    fn commit(&self, written: &ObjectMeta) {
        let mut current = self.current.lock();
        if !current.is_of(written) {
            let key = current.version.key().clone();
            *current = Arc::new(Pinned::written_here(key, written, true));
        }
    }

    fn moved(&self, key: ObjectKey, meta: &ObjectMeta) {
        let mut current = self.current.lock();
        if *current.version.key() == key && current.is_of(meta) {
            return;
        }
        let follows = current.follows_delivered || current.delivered.load(Ordering::Acquire);
        *current = Arc::new(Pinned::written_here(key, meta, follows));
    }

    fn spoil(&self) {
        let mut current = self.current.lock();
        let spoiled = Pinned::new(current.version.key().clone(), current.meta.clone());
        *current = Arc::new(Pinned { is_spoiled: true, follows_delivered: true, ..spoiled });
    }

    /// Bytes of `pinned` are about to go to the kernel; false if the object has moved on meanwhile.
    fn deliver(&self, pinned: &Arc<Pinned>) -> bool {
        let current = self.current.lock();
        let is_current = Arc::ptr_eq(&current, pinned);
        if is_current {
            pinned.delivered.store(true, Ordering::Release);
        }
        is_current
    }
}

impl Pinned {
    fn new(key: ObjectKey, meta: ObjectMeta) -> Self {
        let version = Arc::new(ObjectVersion::new(key, meta.size, meta.etag.clone()));
        let delivered = AtomicBool::new(false);
        let (follows_delivered, written_here, is_spoiled) = (false, false, false);
        let (moved, object) = (None, Mutex::default());
        Self { meta, version, delivered, follows_delivered, moved, written_here, is_spoiled, object }
    }

    /// The version that `begun` has begun to read, if that is one.
    fn of(key: ObjectKey, meta: ObjectMeta, begun: Option<&Arc<OpenObject>>) -> Self {
        let fresh = Self::new(key, meta);
        match begun {
            None => fresh,
            Some(object) => {
                let version = Arc::clone(object.version());
                Self { version, object: Mutex::new(Arc::downgrade(object)), ..fresh }
            }
        }
    }

    /// A version that this mount made.
    fn written_here(key: ObjectKey, meta: &ObjectMeta, follows_delivered: bool) -> Self {
        Self { follows_delivered, written_here: true, ..Self::new(key, meta.clone()) }
    }

    fn open(&self, engine: &Arc<ReadEngine>) -> Arc<OpenObject> {
        let mut object = self.object.lock();
        object.upgrade().unwrap_or_else(|| {
            let opened = engine.open(Arc::clone(&self.version));
            *object = Arc::downgrade(&opened);
            opened
        })
    }

    fn is_of(&self, meta: &ObjectMeta) -> bool {
        // The listing may have had no ETag; then the first GET's counts.
        match (&meta.etag, self.version.etag()) {
            (Some(seen), Some(pinned)) => seen == pinned && meta.size == self.meta.size,
            _ => is_same_version(meta, &self.meta),
        }
    }
}

impl FileHandle {
    /// Reads from the version of `pin`; `None` if the kernel must ask again, which it does by itself where it can.
    ///
    /// # Errors
    /// `Stale` if the object has changed: see [`Pin::may_move_on`]. `NotFound` if it is gone, `AccessDenied`, `Archived`, `Io`.
    pub(crate) async fn read(
        &self,
        Pin { pinned, object }: &Pin,
        range: ByteRange,
        destination: Destination,
        kernel: Option<&dyn Kernel>,
    ) -> Result<Option<ReadData>> {
        if let (Some(moved), Some(kernel)) = (&pinned.moved, kernel)
            && !moved.admits(kernel, self.ino, range, destination).await
        {
            return Ok(None);
        }
        let data = object.read(range).await?;
        if self.file.deliver(pinned) { Ok(Some(data)) } else { Err(self.stale()) }
    }

    /// A local file with the bytes that this handle reads, if there is one and it may be read without asking here.
    pub(crate) async fn local_file(&self) -> Option<LocalFile> {
        let Pin { pinned, object } = self.pin().ok()?;
        // What moved on may have a length that the kernel has not taken in yet.
        let is_worth_it = pinned.moved.is_none() && is_worth_a_check(pinned.meta.size);
        if is_worth_it { object.local_file().await } else { None }
    }

    /// This handle is read from its local file from now on, which delivers its version; false if the file has another one meanwhile.
    pub(crate) fn reads_locally(&self) -> bool {
        let Pin { pinned, object } = self.pin.lock().clone();
        let is_current = self.file.deliver(&pinned);
        if is_current {
            object.note_local();
        }
        is_current
    }

    /// Whether the file is still of the version of `pin`, as far as is known.
    pub(crate) fn is_current(&self, pin: &Pin) -> bool {
        Arc::ptr_eq(&self.file.current(), &pin.pinned)
    }

    /// Whether this mount made or moved the present version, and this handle has not gone on with it yet.
    pub(crate) fn may_follow(&self) -> bool {
        let current = self.file.current();
        current.written_here && !Arc::ptr_eq(&self.pin.lock().pinned, &current)
    }

    /// The error of a read that would mix two versions.
    pub(crate) fn stale(&self) -> Error {
        Error::new(ErrorKind::Stale, "read").with_name(self.file.current().version.key().as_str())
    }

    /// The version to read: the current one, if this handle is of it or may move on to it.
    ///
    /// # Errors
    /// `Stale` if bytes of its version were delivered, and the file has another one by now.
    pub(crate) fn pin(&self) -> Result<Pin> {
        let current = self.file.current();
        let mut pin = self.pin.lock();
        if current.is_spoiled {
            return Err(self.stale());
        }
        if !Arc::ptr_eq(&pin.pinned, &current) {
            if pin.pinned.delivered.load(Ordering::Acquire) && !current.written_here {
                return Err(self.stale());
            }
            let object = current.open(&self.engine);
            *pin = Pin { pinned: current, object };
        }
        Ok(pin.clone())
    }
}

impl Pin {
    /// Tells once that nearly all of the object was asked for, and in which order it was read.
    pub(crate) fn nears_its_end(&self) -> Option<Order> {
        self.object.nears_its_end()
    }

    /// Whether no byte of the version was delivered, so that a changed object may be read in its new version.
    pub(crate) fn may_move_on(&self) -> bool {
        !self.pinned.delivered.load(Ordering::Acquire)
    }
}
