//! What all written files of one file system share: the store, the memory for their bytes, and the settings.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sluicefs_cache_dir::StageDir;
use sluicefs_s3_client::{Bucket, KeyPrefix, ObjectAttributes, ObjectHead, ObjectKey, ObjectMeta};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::content::Content;
use super::draft::{Draft, NamelessBytes};
use super::lost::LostFiles;
use super::moves::{Moves, Moving, Stay};
use super::old_bytes::OldBytes;
use super::schedule::PartSchedule;
use super::stage::BLOCK_BYTES;
use crate::attr::InodeNo;
use crate::budget::{BUFFER_BYTES, Budget};
use crate::clock;
use crate::config::{WriteBack, WriteConfig};
use crate::inode::stored::Carried;
use crate::read::ReadEngine;

/// At most so many parts of one file are under way: enough for 20 Gbit/s at 90 MB/s per connection.
pub(super) const MAX_PARTS_UNDER_WAY: usize = 32;

/// So many bytes of a file stay here after they were sent, if no other write wants the memory: programs go back to what they wrote last, and
/// memory used again is cheaper than fresh.
pub(super) const KEPT_BYTES: u64 = 32 << 20;

/// Told of each object that a file became.
pub(crate) type OnCommit = Box<dyn Fn(InodeNo, ObjectMeta) + Send + Sync>;

/// Tells what a file takes along when it becomes an object.
/// It is not asked under the lock of a file that is written.
pub(crate) type CarriedBy = Box<dyn Fn(InodeNo) -> Carried + Send + Sync>;

/// The write path of one file system.
pub(crate) struct WriteEngine {
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) reads: Arc<ReadEngine>,
    pub(super) budget: Arc<Budget>,
    pub(super) schedule: PartSchedule,
    pub(super) old_bytes: OldBytes,
    pub(super) runtime: Handle,
    pub(super) config: WriteConfig,
    on_commit: OnCommit,
    pub(super) moves: Arc<Moves>,
    pub(super) carried_by: CarriedBy,
    /// Where written bytes go that memory cannot hold.
    pub(super) stage: Option<Arc<StageDir>>,
    /// Memory for what is read back from there: a part at least.
    pub(super) loading: Arc<Budget>,
    /// When the disk refused bytes last.
    pub(super) refused_at: Mutex<Option<Instant>>,
    /// Each of these is told once.
    pub(super) told_refusal: AtomicBool,
    pub(super) told_no_space: AtomicBool,
    pub(super) nameless: NamelessBytes,
    pub(super) told_unsaved: AtomicBool,
    serials: AtomicU64,
    /// What could not be sent when nobody was there to be told.
    pub(crate) lost: LostFiles,
    drafts: Mutex<Vec<Weak<Draft>>>,
    drafts_made: AtomicU64,
    busy: AtomicUsize,
    /// Told when memory may have come back.
    pub(super) moved: Notify,
}

impl WriteEngine {
    /// A write path to `bucket`, whose requests run on `runtime`, and which stages in `stage` what memory cannot hold. Makes no request and takes
    /// no memory yet.
    pub(crate) fn new(
        bucket: Arc<dyn Bucket>,
        reads: Arc<ReadEngine>,
        (config, stage): (WriteConfig, Option<Arc<StageDir>>),
        runtime: Handle,
        (on_commit, carried_by): (OnCommit, CarriedBy),
    ) -> Arc<Self> {
        // A part must be whole in memory, beside the one that is being filled.
        let schedule = PartSchedule::new(config.part_size_bytes, config.memory_limit_bytes / 4);
        let loading_bytes = if stage.is_some() { loading_bytes(schedule.max_part_bytes()) } else { 0 };
        Arc::new(Self {
            budget: Budget::new(config.memory_limit_bytes.saturating_sub(loading_bytes)),
            old_bytes: OldBytes::new(reads.memory_limit_bytes()),
            stage,
            loading: Budget::new(loading_bytes),
            refused_at: Mutex::default(),
            told_refusal: AtomicBool::new(false),
            told_no_space: AtomicBool::new(false),
            nameless: NamelessBytes::default(),
            told_unsaved: AtomicBool::new(false),
            serials: AtomicU64::new(0),
            lost: LostFiles::default(),
            bucket,
            reads,
            schedule,
            runtime,
            config,
            on_commit,
            moves: Arc::default(),
            carried_by,
            drafts: Mutex::default(),
            drafts_made: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            moved: Notify::new(),
        })
    }

    /// The number of a draft that is made now.
    pub(super) fn next_draft(&self) -> u64 {
        self.drafts_made.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn register(&self, draft: &Arc<Draft>) {
        let mut drafts = self.drafts.lock();
        drafts.retain(|draft| draft.strong_count() > 0);
        drafts.push(Arc::downgrade(draft));
    }

    /// The files that are being written.
    pub(super) fn drafts(&self) -> Vec<Arc<Draft>> {
        self.drafts.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn committed(&self, ino: InodeNo, meta: ObjectMeta) {
        (self.on_commit)(ino, meta);
    }

    /// What is stored with the object `key` besides its bytes.
    pub(crate) fn attributes(&self, key: &ObjectKey) -> ObjectAttributes {
        let content_type = if self.config.infer_content_type { content_type(key) } else { None };
        ObjectAttributes { content_type: content_type.map(str::to_owned), ..Default::default() }
    }

    /// What is stored with the object that makes a directory exist: the type that Amazon's console and others give it.
    pub(crate) fn directory_attributes(&self) -> ObjectAttributes {
        ObjectAttributes { content_type: Some("application/x-directory".to_owned()), ..Default::default() }
    }

    /// Whether an object that is moved from the key `old` to `new` may have to have another type.
    pub(crate) fn may_change_type(&self, old: &ObjectKey, new: &ObjectKey) -> bool {
        let new = content_type(new);
        self.config.infer_content_type && new.is_some() && new != content_type(old)
    }

    /// What is stored with the object `head` when it is moved from the key `old` to `new`: the type that the new name stands for, if it had the
    /// one that the old name stood for.
    pub(crate) fn moved_attributes(
        &self,
        head: &ObjectHead,
        old: &ObjectKey,
        new: &ObjectKey,
    ) -> ObjectAttributes {
        let mut attributes = head.attributes();
        if self.may_change_type(old, new) && is_type_of(head.content_type.as_deref(), content_type(old)) {
            attributes.content_type = content_type(new).map(str::to_owned);
        }
        attributes
    }

    /// Runs `task` to its end, whoever is interested; [`WriteEngine::idle`] waits for it.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let busy = self.busy();
        self.runtime.spawn(async move {
            task.await;
            drop(busy);
        });
    }

    /// Keeps `keys` from moving with a directory, and from being moved over; see [`Stay`]. Cancel-safe.
    pub(crate) async fn stay(&self, keys: &[&str]) -> Stay {
        self.moves.stay(keys).await
    }

    /// Begins to move the directory `from` to `to`: until the guard is dropped, no object is made, sent in parts or removed below either.
    /// Waits for those who are just doing that. Cancel-safe.
    pub(crate) async fn begin_move(self: &Arc<Self>, from: &KeyPrefix, to: &KeyPrefix) -> DirectoryMove {
        let moving = Some(self.moves.begin(from, to).await);
        DirectoryMove { moving, busy: self.busy() }
    }

    /// Returns when nothing is under way at the store.
    pub(crate) async fn idle(&self) {
        loop {
            let moved = self.moved.notified();
            if !self.is_busy() {
                return;
            }
            moved.await;
        }
    }

    /// Lets go of a sent part of some file; false if all that is held is still needed.
    pub(super) fn release_some(&self) -> bool {
        let release = |content: &mut Content| content.release_one() || content.release_shelved();
        let of_draft = |draft: &Arc<Draft>| {
            let mut state = draft.state.lock();
            state.may_let_go() && release(&mut state.content)
        };
        self.drafts().iter().any(of_draft)
    }

    /// Whether files are acknowledged before the store has them.
    pub(super) fn writes_back(&self) -> bool {
        self.config.write_back == WriteBack::Async
    }

    /// A number for a record, larger than those before, also by mounts before this one: the time, in nanoseconds.
    pub(super) fn next_serial(&self) -> u64 {
        let now = clock::now();
        let nanos = u64::try_from(now.secs).unwrap_or(0).saturating_mul(1_000_000_000) + u64::from(now.nanos);
        self.serials.fetch_max(nanos, Ordering::Relaxed);
        self.serials.fetch_add(1, Ordering::Relaxed)
    }

    /// A mount that died gave the number `serial`, by a clock that may have gone ahead.
    pub(super) fn serials_go_on_after(&self, serial: u64) {
        self.serials.fetch_max(serial.saturating_add(1), Ordering::Relaxed);
    }

    /// Something that will give memory back has begun; it ends when the guard is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }
}

/// The memory that reading a part of `part_bytes` back from disk takes, which may begin and end within a block.
fn loading_bytes(part_bytes: u64) -> u64 {
    (part_bytes / BLOCK_BYTES + 2) * Budget::cost_bytes(BUFFER_BYTES)
}

/// The type that the extension of a key's last component stands for, in whatever case; `None` leaves the choice to the store.
fn content_type(key: &ObjectKey) -> Option<&'static str> {
    mime_guess::from_path(key.as_str()).first_raw()
}

/// Whether `stored` is what an object has whose name stands for `inferred`. Stores have a type for those whose name stands for none.
fn is_type_of(stored: Option<&str>, inferred: Option<&str>) -> bool {
    match inferred {
        Some(_) => stored == inferred,
        None => stored.is_none_or(|stored| STORES_OWN_TYPES.contains(&stored)),
    }
}

/// What Amazon and others give to an object that was sent without a type.
const STORES_OWN_TYPES: [&str; 3] = ["", "application/octet-stream", "binary/octet-stream"];

/// A request or a commit under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<WriteEngine>);

/// A directory is moving.
#[derive(Debug)]
#[must_use]
pub(crate) struct DirectoryMove {
    moving: Option<Moving>,
    /// What waits for its end gives memory back then.
    busy: Busy,
}

impl Drop for DirectoryMove {
    fn drop(&mut self) {
        self.moving = None;
        let drafts: Vec<Arc<Draft>> = self.busy.0.drafts.lock().iter().filter_map(Weak::upgrade).collect();
        drafts.iter().for_each(|draft| draft.send_complete_parts(&mut draft.state.lock()));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.moved.notify_waiters();
    }
}

impl fmt::Debug for WriteEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteEngine")
            .field("budget", &self.budget)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_inferred_or_was_chosen() {
        let json = Some("application/json");
        for (stored, inferred, expected) in [
            (None, None, true),
            (Some("binary/octet-stream"), None, true),
            (Some("application/octet-stream"), None, true),
            (Some("text/plain"), None, false),
            (json, json, true),
            (None, json, false),
            (Some("binary/octet-stream"), json, false),
            (Some("application/json; charset=utf-8"), json, false),
        ] {
            assert_eq!(is_type_of(stored, inferred), expected, "{stored:?} {inferred:?}");
        }
    }

    #[test]
    fn extensions_stand_for_types() {
        for (key, expected) in [
            ("site/index.html", Some("text/html")),
            ("a/config.JSON", Some("application/json")),
            ("photo.jpeg", Some("image/jpeg")),
            ("data.tar.gz", Some("application/gzip")),
            ("model.safetensors", None),
            ("Makefile", None),
            (".png", None),
            ("v1.html/data", None),
        ] {
            assert_eq!(content_type(&ObjectKey::new(key).unwrap()), expected, "{key}");
        }
    }
}
