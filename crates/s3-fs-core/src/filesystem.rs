//! One short async method per file operation; it only wires the pieces below.

mod attributes;
mod files;
mod links;
mod local;
mod names;
mod refresh;
mod rename;
mod restore;
mod shards;
mod write_back;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sluicefs_cache_dir::StageDir;
use sluicefs_s3_client::{Bucket, ByteRange};
use tokio::runtime;
use tokio::sync::Mutex as AsyncMutex;

use crate::attr::{Attr, DirEntry, DirMode, Entry, FileKind, HandleId, InodeNo, OpenedFile, StatFs};
use crate::cache::disk::DiskCacheError;
use crate::config::{Attributes, FsConfig, InvalidConfig, VersionPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::handle::HandleTable;
use crate::kernel::{Destination, Kernel};
use crate::open_file::{FileHandle, OpenFiles, Pin};
use crate::path::NAME_MAX_BYTES;
use crate::pins::{PinnedBucket, Pins};
use crate::read::{FileReads, ReadData, ReadEngine, ReadStats};
use crate::readdir::DirHandle;
use crate::removals::{Removal, RemovalStats, Removals};
use crate::tree::Tree;
use crate::warm::{WarmConfig, Warmer};
use crate::write::{UploadQueue, WriteEngine, WriteStatus, Writer, Writers};
use crate::xattr;

use attributes::TURNS;
use restore::Unsettled;

pub use attributes::XattrMode;
pub use files::{Creation, Ended, Existing, Unfinished};
pub use refresh::{PinStats, Refreshed};
pub use rename::Replace;
pub use restore::Restored;

/// A bucket, or a prefix of it, as a tree of files.
///
/// Share it in an [`Arc`]; every method may be called from many tasks at once. Dropping it ends all fetches.
pub struct FileSystem {
    bucket: Arc<dyn Bucket>,
    tree: Arc<Tree>,
    files: Arc<OpenFiles>,
    engine: Arc<ReadEngine>,
    writes: Arc<WriteEngine>,
    writers: Arc<Writers>,
    /// Files that were acknowledged and are not at the store yet.
    uploads: Arc<UploadQueue>,
    stage: Option<Arc<StageDir>>,
    /// Stages of killed mounts that are to be looked at again.
    unsettled: Mutex<Unsettled>,
    runtime: runtime::Handle,
    /// Files that lost their names while they were open, until the kernel forgets them.
    nameless: Mutex<FxHashMap<InodeNo, Writer>>,
    /// If removed files are removed at the store a moment later.
    removals: Option<Arc<Removals>>,
    /// Held while attributes are stored.
    turns: [AsyncMutex<()>; TURNS],
    open_files: HandleTable<Handle>,
    open_dirs: HandleTable<DirHandle>,
    kernel: OnceLock<Box<dyn Kernel>>,
    /// Where versions are pinned: to which.
    pins: Option<Arc<Pins>>,
    config: FsConfig,
}

/// An open file.
#[derive(Debug)]
struct Handle {
    reader: FileHandle,
    /// What writes go to, if it is open for writing.
    writer: Option<Writer>,
}

impl FileSystem {
    /// A file system over `bucket`. Makes no request.
    ///
    /// Call it inside a tokio runtime: fetches ahead of readers run there.
    ///
    /// # Errors
    /// [`InvalidConfig`] if the settings do not fit together, or the bucket does not keep what they want.
    pub fn new(bucket: Arc<dyn Bucket>, config: FsConfig) -> Result<Arc<Self>, InvalidConfig> {
        Self::with_stage(bucket, config, None)
    }

    /// The same with `stage` for written bytes that memory cannot hold.
    ///
    /// # Errors
    /// As [`FileSystem::new`].
    pub fn with_stage(
        bucket: Arc<dyn Bucket>,
        config: FsConfig,
        stage: Option<Arc<StageDir>>,
    ) -> Result<Arc<Self>, InvalidConfig> {
        config.validate()?;
        if config.attributes != Attributes::None && !bucket.traits().copy_with_attributes {
            return Err(InvalidConfig::NoMetadata(bucket.identity().name.to_string()));
        }
        let pins = (config.versions == VersionPolicy::Pinned).then(|| Arc::new(Pins::new()));
        let bucket: Arc<dyn Bucket> = match &pins {
            Some(pins) => Arc::new(PinnedBucket::new(bucket, Arc::clone(pins))),
            None => bucket,
        };
        let runtime = runtime::Handle::current();
        let engine = ReadEngine::with_disk(Arc::clone(&bucket), config.read.clone(), runtime.clone())?;
        let files = Arc::new(OpenFiles::new(Arc::clone(&engine)));
        let tree = Arc::new(Tree::new(
            Arc::clone(&bucket),
            &config,
            (Arc::clone(&files), pins.clone()),
            runtime.clone(),
        ));
        let (committed, described) = (Arc::clone(&tree), Arc::clone(&tree));
        let removals = config.write.delete_behind.then(|| {
            let tree = Arc::clone(&tree);
            let on_end = Box::new(move |removal: &Removal, outcome| tree.removal_ended(removal, outcome));
            Removals::new(Arc::clone(&bucket), runtime.clone(), on_end)
        });
        let writes = WriteEngine::new(
            Arc::clone(&bucket),
            Arc::clone(&engine),
            (config.write.clone(), stage.clone()),
            runtime.clone(),
            (
                Box::new(move |ino, meta| committed.committed(ino, meta)),
                Box::new(move |ino| described.carried_by(ino)),
            ),
        );
        let (open_files, open_dirs) = (HandleTable::new(), HandleTable::new());
        Ok(Arc::new(Self {
            bucket,
            tree,
            files,
            engine,
            writes,
            writers: Arc::default(),
            uploads: Arc::default(),
            stage,
            unsettled: Mutex::default(),
            runtime,
            nameless: Mutex::default(),
            removals,
            turns: Default::default(),
            open_files,
            open_dirs,
            kernel: OnceLock::new(),
            pins,
            config,
        }))
    }

    /// What brings whole objects into the cache on disk of this file system, in the versions that it shows; `None` if it has no cache.
    ///
    /// # Errors
    /// If the cache cannot be used.
    pub fn warmer(&self, config: WarmConfig) -> Result<Option<Warmer>, DiskCacheError> {
        let disk = self.config.read.disk.as_ref();
        disk.map(|disk| Warmer::open(Arc::clone(&self.bucket), disk, config)).transpose()
    }

    /// Sets the kernel that reads from this and must hear of changes; the FUSE adapter does. Only the first call counts.
    pub fn set_kernel(&self, kernel: Box<dyn Kernel>) {
        if self.kernel.set(kernel).is_err() {
            tracing::debug!("a kernel was set already; the second one is not used");
        }
    }

    /// Finds `name` in the directory `parent` and counts one lookup of it.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `NameTooLong`, `AccessDenied`, `Io`.
    pub async fn lookup(&self, parent: InodeNo, name: &str) -> Result<Entry> {
        self.tree.lookup(parent, name).await
    }

    /// How long the kernel may believe that a name which a lookup just did not find is absent: what is left of that time.
    pub fn absent_for(&self, parent: InodeNo, name: &str) -> Duration {
        self.tree.absent_for(parent, name)
    }

    /// Takes back `count` lookups of `ino`; at zero the inode may be dropped.
    pub fn forget(&self, ino: InodeNo, count: u64) {
        self.tree.forget(ino, count);
        if self.tree.table.is_forgotten(ino) {
            let nameless = self.nameless.lock().remove(&ino);
            if let Some(nameless) = nameless {
                let draft = Arc::clone(nameless.draft());
                drop(nameless);
                self.writers.remove_idle(&draft, |_| true, || self.tree.table.set_written(ino, None));
            }
        }
    }

    /// The attributes of `ino`, asked again if their time is over.
    ///
    /// # Errors
    /// `NotFound` if the object is gone, `BadHandle` for an unknown number, `AccessDenied`, `Io`; `Stale` if the name has another
    /// number by now and nobody has this one open.
    pub async fn getattr(&self, ino: InodeNo) -> Result<Entry> {
        self.tree.getattr(ino).await
    }

    /// The attributes of `ino` as they were seen last, however long ago. Makes no request.
    ///
    /// # Errors
    /// `BadHandle` for an unknown number.
    pub fn last_known(&self, ino: InodeNo) -> Result<Attr> {
        Ok(self.tree.table.known("getattr", ino)?.attr)
    }

    /// Opens a file for reading. Pair it with [`FileSystem::release`].
    ///
    /// Asks the store only if the attributes are no longer fresh, or if the kernel may hold pages of an older version: what is read for
    /// the first time is fetched on condition that it is what was seen.
    ///
    /// # Errors
    /// `Stale` if the name has another number by now: look it up again, as the kernel does by itself. `IsADirectory`, `NotFound`, `AccessDenied`, `Io`.
    pub async fn open(&self, ino: InodeNo) -> Result<OpenedFile> {
        let (reader, keep_cache) = self.open_reader(ino).await?;
        let handle = self.open_files.insert(Handle { reader, writer: None });
        Ok(OpenedFile { handle, keep_cache })
    }

    async fn open_reader(&self, ino: InodeNo) -> Result<(FileHandle, bool)> {
        let key = self.tree.key("open", ino)?;
        let is_fresh = self.tree.is_fresh(ino);
        let may_be_cached = self.config.revalidate_on_open && self.files.was_delivered(ino);
        // What was acknowledged and not sent yet is newer than anything that the store could tell.
        let is_saved = self.writers.draft(ino).is_some_and(|draft| draft.has_saved());
        let may_be_cached = may_be_cached && !is_saved;
        if !is_fresh || may_be_cached {
            self.tree.refresh("open", ino).await?;
        }
        let current = self.tree.table.current("open", ino)?;
        if !matches!(current.attr.kind, FileKind::File | FileKind::Directory) {
            // The kernel follows links and opens pipes by itself.
            return Err(Error::new(ErrorKind::Invalid, "open").with_name(&current.name));
        }
        let meta = current.meta.ok_or_else(|| Error::new(ErrorKind::IsADirectory, "open"))?;
        Ok(self.files.open(ino, key, meta))
    }

    /// Reads up to `range.len()` bytes, at most [`MAX_READ_BYTES`](crate::MAX_READ_BYTES); fewer only at the end of the object, none past it.
    ///
    /// If the object changed before a byte of it was read, the new version is read, after the kernel was told.
    ///
    /// Cancel-safe: fetches it started go on for other readers until the file is released.
    ///
    /// # Errors
    /// `Stale` if the object changed since a byte of it was read, or is gone, or if the kernel must ask again for the end of an object
    /// that shrank; `BadHandle`, `AccessDenied`, `Archived`, `Io`.
    pub async fn read(&self, handle: HandleId, range: ByteRange) -> Result<ReadData> {
        self.read_to(handle, range, Destination::Pages).await
    }

    /// The same for bytes that the kernel does not keep (O_DIRECT).
    ///
    /// # Errors
    /// As [`FileSystem::read`], but the end of an object that shrank is read at once.
    pub async fn read_direct(&self, handle: HandleId, range: ByteRange) -> Result<ReadData> {
        self.read_to(handle, range, Destination::Reader).await
    }

    async fn read_to(&self, handle: HandleId, range: ByteRange, to: Destination) -> Result<ReadData> {
        let handle = self.open_files.get("read", handle)?;
        let reader = &handle.reader;
        match self.read_once(reader, range, to).await {
            // What this mount itself writes may have become the object in the middle of the read.
            Err(error) if error.kind() == ErrorKind::Stale && self.is_overtaken(reader).await => {
                self.read_once(reader, range, to).await
            }
            // Or moved it.
            Err(error) if error.kind() == ErrorKind::Stale && reader.may_follow() => {
                self.read_once(reader, range, to).await
            }
            read => read,
        }
    }

    /// Whether this mount writes the file, and may have made the version that a read has met; waits until that is known here.
    async fn is_overtaken(&self, reader: &FileHandle) -> bool {
        match self.writers.draft(reader.ino) {
            Some(draft) => {
                draft.settled().await;
                true
            }
            None => false,
        }
    }

    async fn read_once(&self, reader: &FileHandle, range: ByteRange, to: Destination) -> Result<ReadData> {
        if let Some(draft) = self.writers.draft(reader.ino)
            && draft.is_read_here()
        {
            return draft.read(range).await;
        }
        let kernel = self.kernel.get().map(|kernel| &**kernel);
        let pin = reader.pin()?;
        let read = match reader.read(&pin, range, to, kernel).await {
            Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::NotFound) => {
                self.find_new_version(reader, &pin, error).await?;
                reader.read(&reader.pin()?, range, to, kernel).await
            }
            done => done,
        };
        if let Some(order) = pin.nears_its_end() {
            self.begin_next_shard(reader.ino, order);
        }
        read?.ok_or_else(|| reader.stale())
    }

    /// The object changed under a read of the version of `pin`: takes note of the new one; an error if the reader must not go on with that.
    async fn find_new_version(&self, handle: &FileHandle, pin: &Pin, error: Error) -> Result<()> {
        if self.pins.is_some() {
            return Err(if error.kind() == ErrorKind::Stale { error } else { handle.stale() });
        }
        if !handle.is_current(pin) && pin.may_move_on() {
            // Another read has found it already.
            return Ok(());
        }
        match self.tree.move_on(handle.ino).await {
            Ok(true) if pin.may_move_on() => Ok(()),
            Ok(_) if error.kind() == ErrorKind::Stale => Err(error),
            Ok(_) => Err(handle.stale()),
            Err(gone) if gone.kind() == ErrorKind::NotFound => Err(handle.stale()),
            Err(other) => Err(other),
        }
    }

    /// Opens a directory. Pair it with [`FileSystem::release_dir`].
    ///
    /// # Errors
    /// `NotADirectory`, `BadHandle`.
    pub async fn open_dir(&self, ino: InodeNo) -> Result<HandleId> {
        Ok(self.open_dirs.insert(self.tree.open_dir(ino)?))
    }

    /// Hands the entries after `offset` (0, or a `next_offset` of this handle) to `accept` until it returns false or none are left.
    ///
    /// An entry for which `accept` returns false is not counted as looked up, and comes again next time. Hands over at least one entry
    /// unless the directory ends, but not all: it does not wait for the next page when it has something to give.
    ///
    /// # Errors
    /// `NotFound` if the directory is gone, `BadHandle`, `AccessDenied`, `Io`.
    pub async fn read_dir(
        &self,
        handle: HandleId,
        offset: u64,
        mode: DirMode,
        accept: &mut (dyn FnMut(&DirEntry<'_>) -> bool + Send),
    ) -> Result<()> {
        let dir = self.open_dirs.get("readdir", handle)?;
        self.tree.read_dir(&dir, offset, mode, accept).await
    }

    /// Closes a directory. Unknown handles are ignored.
    pub fn release_dir(&self, handle: HandleId) {
        if let Some(dir) = self.open_dirs.remove(handle) {
            self.tree.close_dir(&dir);
        }
    }

    /// The size of the file system: a bucket has no limit, so the numbers are large, and all free.
    pub fn statfs(&self) -> StatFs {
        StatFs {
            block_size_bytes: 4096,
            blocks: 1 << 40,
            files: 1 << 40,
            name_max_bytes: NAME_MAX_BYTES as u32,
        }
    }

    /// The value of an extended attribute: see [`crate::xattr`] for their names.
    ///
    /// # Errors
    /// `NoAttribute`, `BadHandle`, `NotFound`, `AccessDenied`, `Io`; `Stale` if the name has another number by now.
    pub async fn xattr(&self, ino: InodeNo, name: &str) -> Result<Vec<u8>> {
        let missing = || Error::new(ErrorKind::NoAttribute, "getxattr").with_name(name);
        // `ls -l` asks for security labels and ACLs of every file: those never cost a request.
        let Some(attribute) = xattr::Attribute::parse(name) else {
            let own = self.tree.table.given(ino).and_then(|(_, xattrs)| xattrs.get(name).cloned());
            return own.ok_or_else(missing);
        };
        let known = self.tree.table.current("getxattr", ino)?;
        if known.attr.kind == FileKind::Directory {
            return Err(missing());
        }
        let key = self.tree.key("getxattr", ino)?;
        if let Some(value) = known.meta.as_ref().and_then(|meta| attribute.of_listing(&key, meta)) {
            return Ok(value.into_bytes());
        }
        let head = self.bucket.head(&key).await;
        let head = head.map_err(|error| Error::from_store("getxattr", error).with_name(key.as_str()))?;
        attribute.of_head(&head).map(String::into_bytes).ok_or_else(missing)
    }

    /// The names of the extended attributes of `ino` that are known without a request.
    ///
    /// # Errors
    /// `BadHandle`; `Stale` if the name has another number by now.
    pub async fn xattr_names(&self, ino: InodeNo) -> Result<Vec<String>> {
        let known = self.tree.table.current("listxattr", ino)?;
        let mut names = known.meta.map_or_else(Vec::new, |meta| xattr::names_of(&meta));
        if let Some((_, own)) = self.tree.table.given(ino) {
            names.extend(own.keys().cloned());
        }
        Ok(names)
    }

    /// How many removed files the store still has, with [`delete_behind`](crate::WriteConfig::delete_behind).
    pub fn removal_stats(&self) -> RemovalStats {
        self.removals.as_ref().map(|removals| removals.stats()).unwrap_or_default()
    }

    /// The files being written, what they take, and what was lost.
    pub fn write_status(&self) -> WriteStatus {
        self.writes.status()
    }

    /// How many files and directories are open.
    pub fn open_counts(&self) -> (usize, usize) {
        (self.open_files.len(), self.open_dirs.len())
    }

    /// The settings.
    pub fn config(&self) -> &FsConfig {
        &self.config
    }

    /// What reads cost so far, and the memory they take.
    pub fn read_stats(&self) -> ReadStats {
        self.engine.stats()
    }

    /// What was read lately of the file at `path`, which begins below the root, and how that was served. Makes no request.
    ///
    /// `None` if none of it was, or it is not among the files that were read last. `path` must not lead through a symbolic link.
    pub fn reads_of(&self, path: &str) -> Option<FileReads> {
        self.engine.reads_of(&format!("{}{path}", self.config.prefix))
    }

    /// How many inodes the kernel has references to, the root included.
    pub fn inode_count(&self) -> usize {
        self.tree.table.len()
    }
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystem")
            .field("tree", &self.tree)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
