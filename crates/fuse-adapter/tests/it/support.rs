//! A mount for a test, and buckets that count or withhold what they give.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sluicefs_cache_dir::StageDir;
use sluicefs_core::{FileSystem, FsConfig, Ttl};
use sluicefs_fuse::{MountConfig, MountedSession, mount};
use sluicefs_s3_client::testing::memory::MemoryBucket;
use sluicefs_s3_client::{
    Bucket, BucketIdentity, BucketTraits, ByteRange, Error, ErrorKind, GetReply, GetRequest, ListPage,
    ListRequest, ObjectHead, ObjectKey, Result,
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// A mounted bucket. Dropping it unmounts and ends its threads, also when the test fails.
pub(crate) struct TestMount {
    // In the order in which they go.
    pub(crate) session: MountedSession,
    runtime: Option<Runtime>,
    pub(crate) fs: Arc<FileSystem>,
    _directory: TempDir,
}

impl TestMount {
    /// Mounts `bucket` read-only.
    pub(crate) fn new(bucket: Arc<dyn Bucket>, config: FsConfig) -> Self {
        Self::with(bucket, config, |_| {})
    }

    /// Mounts `bucket` with other settings of the mount.
    pub(crate) fn with(
        bucket: Arc<dyn Bucket>,
        config: FsConfig,
        edit: impl FnOnce(&mut MountConfig),
    ) -> Self {
        Self::staged(bucket, config, None, edit)
    }

    /// The same with a directory for written bytes.
    pub(crate) fn staged(
        bucket: Arc<dyn Bucket>,
        config: FsConfig,
        stage: Option<Arc<StageDir>>,
        edit: impl FnOnce(&mut MountConfig),
    ) -> Self {
        let directory = TempDir::with_prefix("sluicefs-").unwrap();
        let runtime = runtime();
        let mut settings = MountConfig::new("memory:test");
        edit(&mut settings);
        let context = runtime.enter();
        let fs = FileSystem::with_stage(bucket, config, stage).unwrap();
        drop(context);
        let session = mount(Arc::clone(&fs), directory.path(), settings, runtime.handle().clone()).unwrap();
        Self { session, runtime: Some(runtime), fs, _directory: directory }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.session.target()
    }

    /// A file or directory below it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The runtime that serves it.
    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it goes with the mount")
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        if let Err(error) = self.session.unmount() {
            // A failing test may hold files open; dropping the session then unmounts lazily.
            eprintln!("unmounting {}: {error}", self.path().display());
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A mount where nothing is believed, so that every look shows the bucket as it is.
pub(crate) fn doubtful() -> FsConfig {
    let ttl = Ttl::For(Duration::ZERO);
    FsConfig { metadata_ttl: ttl, negative_ttl: ttl, ..FsConfig::default() }
}

/// A runtime for a mount.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A bucket with these objects.
pub(crate) fn bucket(objects: &[(&str, &'static str)]) -> MemoryBucket {
    let bucket = MemoryBucket::new("test");
    for (key, content) in objects {
        bucket.put(key, *content);
    }
    bucket
}

/// What a [`Gate`] holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    Gets,
    Everything,
}

/// A held request fails after this time: a process whose own mount does not answer cannot be killed, and must not be left behind by a
/// failing test.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The bytes that a request for no bytes asks for.
const NONE: ByteRange = ByteRange { start: 0, end: 0 };

/// A bucket that counts requests, and holds them back while it is told to.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: MemoryBucket,
    held: watch::Sender<Held>,
    /// What waits: the bytes of a GET, none of another request.
    waiting: watch::Sender<Vec<ByteRange>>,
    pub(crate) gets: AtomicU64,
    pub(crate) others: AtomicU64,
}

impl Gate {
    /// An open one before `inner`.
    pub(crate) fn new(inner: MemoryBucket) -> Arc<Self> {
        let (held, waiting) = (watch::Sender::new(Held::Nothing), watch::Sender::new(Vec::new()));
        Arc::new(Self { inner, held, waiting, gets: AtomicU64::new(0), others: AtomicU64::new(0) })
    }

    /// From now on no request is answered.
    pub(crate) fn hold_everything(&self) {
        self.held.send_replace(Held::Everything);
    }

    /// From now on names are, and bytes are not.
    pub(crate) fn hold_gets(&self) {
        self.held.send_replace(Held::Gets);
    }

    /// Answers again, also those that wait.
    pub(crate) fn open(&self) {
        self.held.send_replace(Held::Nothing);
    }

    /// Returns when a request is held back.
    pub(crate) fn until_somebody_waits(&self, runtime: &Runtime) {
        self.until(runtime, |waiting| !waiting.is_empty());
    }

    /// Returns when a GET of the byte at `offset` is held back.
    pub(crate) fn until_somebody_waits_for(&self, runtime: &Runtime, offset: u64) {
        self.until(runtime, |waiting| waiting.iter().any(|range| (range.start..range.end).contains(&offset)));
    }

    fn until(&self, runtime: &Runtime, reached: impl Fn(&[ByteRange]) -> bool) {
        let mut waiting = self.waiting.subscribe();
        let limit = Duration::from_secs(20);
        let reached = async { tokio::time::timeout(limit, waiting.wait_for(|w| reached(w))).await.map(drop) };
        runtime.block_on(reached).expect("no such request came");
    }

    async fn pass(&self, range: ByteRange, holds: impl Fn(Held) -> bool) -> Result<()> {
        if !holds(*self.held.borrow()) {
            return Ok(());
        }
        self.waiting.send_modify(|waiting| waiting.push(range));
        let mut held = self.held.subscribe();
        match tokio::time::timeout(GIVE_UP, held.wait_for(|held| !holds(*held))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Transient, "gate").with_message("held back for too long")),
        }
    }
}

#[async_trait::async_trait]
impl Bucket for Gate {
    fn identity(&self) -> &BucketIdentity {
        self.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        self.others.fetch_add(1, Ordering::Relaxed);
        self.pass(NONE, |held| held == Held::Everything).await?;
        self.inner.head(key).await
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let range = request.range.unwrap_or(ByteRange::new(0, u64::MAX));
        self.pass(range, |held| held != Held::Nothing).await?;
        self.inner.get(request).await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        self.others.fetch_add(1, Ordering::Relaxed);
        self.pass(NONE, |held| held == Held::Everything).await?;
        self.inner.list(request).await
    }
}

/// A started program that is killed and waited for when dropped.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    /// Waits for its end, at most `limit`; how long that took, or `None`.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> Option<Duration> {
        let pid = Pid::from_child(&self.0);
        let began = Instant::now();
        // A child that was waited for before has no number any more.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Some(Duration::ZERO) };
        let mut polled = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        let timeout =
            Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        let ended = poll(&mut polled, Some(&timeout)).unwrap() > 0;
        ended.then(|| {
            self.0.wait().unwrap();
            began.elapsed()
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is fine.
        drop(self.0.kill());
        if self.ends_within(Duration::from_secs(5)).is_none() {
            eprintln!("process {} does not die", self.0.id());
        }
    }
}
