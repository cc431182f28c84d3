//! A mount and the threads that serve it: start, end, and what lies between.
//!
//! The transport is fuser's: this module and `adapter` are all that would change with another one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, available_parallelism};

use fuser::{Session, SessionACL};
use sluicefs_core::FileSystem;
use sluicefs_fuse_mount::{
    Access, Connection, Method, MountError, MountOptions, MountPoint, UnmountMode, passed_descriptor,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::adapter::{Adapter, AdapterConfig, Passthrough, Xattrs};
use crate::device::Device;
use crate::kernel::{DEFAULT_REQUEST_KB, raise_read_ahead, raise_request_limit};
use crate::notify::Notices;
use crate::sys::passed_device;

/// Settings of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountConfig {
    /// What `/proc/mounts` names as the source: `s3://models`.
    pub source: String,
    /// Who may use the mount, default the user who mounts. With [`Access::OwnerAndRoot`] what the kernel has cached is served to
    /// others too, as far as the mode bits allow.
    pub access: Access,
    /// Default true: the kernel itself refuses writes. Without it every write reaches us, and is refused here.
    pub read_only: bool,
    /// mount(2) or fusermount3, default what the user may do.
    pub method: Method,
    /// Threads that read requests, default one for each processor, at least 2 and at most 4.
    pub threads: usize,
    /// Read-ahead of the kernel in KiB, default 1024; `None` leaves the kernel's own 128. Raising it needs root.
    pub read_ahead_kb: Option<u32>,
    /// The largest request in KiB, default 1024; more raises `/proc/sys/fs/fuse/max_pages_limit` for the whole machine.
    pub max_request_kb: u32,
    /// Who answers questions for extended attributes, default nobody.
    pub xattrs: Xattrs,
    /// Whether the kernel reads what is whole in the cache on disk by itself. Default where it can.
    pub passthrough: Passthrough,
}

impl MountConfig {
    /// The defaults, for a bucket called `source`.
    pub fn new(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            access: Access::Owner,
            read_only: true,
            method: Method::Auto,
            threads: available_parallelism().map_or(MIN_THREADS, usize::from).clamp(MIN_THREADS, MAX_THREADS),
            read_ahead_kb: Some(1024),
            max_request_kb: DEFAULT_REQUEST_KB,
            xattrs: Xattrs::Off,
            passthrough: Passthrough::WherePossible,
        }
    }
}

/// One may be copying a large reply while the other answers a lookup; more than four only contend for the device.
const MIN_THREADS: usize = 2;
const MAX_THREADS: usize = 4;

/// Why a mount did not come to be, or ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Mounting or unmounting.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel and we did not agree.
    #[error("the FUSE handshake failed: {0} (is the passed descriptor mounted, and served by nobody else?)")]
    Handshake(#[source] io::Error),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// The mount does not answer.
    #[error("{} was mounted, but does not answer: {source}", .path.display())]
    NoAnswer {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Whoever passed the descriptor in has mounted, and must unmount.
    #[error("mounted by the program that passed the descriptor in: unmount it there")]
    MountedElsewhere,
    /// Reading requests failed.
    #[error("serving the mount failed: {0}")]
    Serve(#[source] io::Error),
}

/// A file system that is mounted and served. Dropping it unmounts: at once if nobody uses it, else lazily.
#[derive(Debug)]
pub struct MountedSession {
    /// What was given as the target; the directory itself unless that was a descriptor.
    target: PathBuf,
    point: Option<MountPoint>,
    notices: Option<Notices>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Its sender goes with the thread.
    ended: watch::Receiver<()>,
}

/// Mounts `fs` on the directory `target` and serves it; with `/dev/fd/N` as the target, serves what somebody else has mounted and
/// passed in as descriptor N. Requests that must wait run on `runtime`.
///
/// Blocks until the mount answers. That takes no request to the store.
///
/// # Errors
/// [`SessionError`] says why; nothing is left mounted.
pub fn mount(
    fs: Arc<FileSystem>,
    target: &Path,
    config: MountConfig,
    runtime: Handle,
) -> Result<MountedSession, SessionError> {
    raise_request_limit(config.max_request_kb);
    let (device, point) = attach(target, &config)?;
    let replies = Device::new(&device).map_err(MountError::Device)?;
    let (request_kb, xattrs, passthrough) = (config.max_request_kb, config.xattrs, config.passthrough);
    let settings = AdapterConfig { request_kb, xattrs, passthrough };
    let adapter = Adapter::new((Arc::clone(&fs), replies), runtime, settings);
    let learnt = adapter.learnt();
    let (acl, fuser_config) = fuser_settings(&config);
    let session = Session::from_fd(adapter, device, acl, fuser_config).map_err(SessionError::Handshake)?;
    if let Some(kb) = config.read_ahead_kb {
        raise_read_ahead(session.as_fd(), point.as_ref().and_then(MountPoint::device), kb);
    }
    let notices = Notices::start(&fs, session.notifier(), learnt).map_err(SessionError::Thread)?;
    let (running, ended) = watch::channel(());
    let thread = Builder::new().name("sluicefs-fuse".to_owned()).spawn(move || {
        let _dropped_at_the_end = running;
        session.run()
    });
    let mounted = MountedSession {
        target: point.as_ref().map_or(target, MountPoint::path).to_owned(),
        point,
        notices: Some(notices),
        thread: Some(thread.map_err(SessionError::Thread)?),
        ended,
    };
    mounted.check_answer()?;
    Ok(mounted)
}

/// The open device, and the mount if it is ours.
fn attach(target: &Path, config: &MountConfig) -> Result<(OwnedFd, Option<MountPoint>), MountError> {
    if let Some(fd) = passed_descriptor(target) {
        return Ok((passed_device(fd)?, None));
    }
    let options = MountOptions {
        source: config.source.clone(),
        access: config.access,
        read_only: config.read_only,
        method: config.method,
    };
    let mounted = sluicefs_fuse_mount::mount(target, &options)?;
    Ok((mounted.device, Some(mounted.point)))
}

fn fuser_settings(config: &MountConfig) -> (SessionACL, fuser::Config) {
    // The kernel refuses strangers by itself; only "root too" is unknown to it.
    let acl = match config.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Owner | Access::Everyone => SessionACL::All,
    };
    let mut settings = fuser::Config::default();
    settings.acl = acl;
    settings.n_threads = Some(config.threads);
    (acl, settings)
}

impl MountedSession {
    /// The directory, absolute and without symbolic links; `/dev/fd/N` if that was the target.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether requests are still served.
    pub fn is_serving(&self) -> bool {
        self.ended.has_changed().is_ok()
    }

    /// Unmounts, unless it is in use. Blocks until the last thread has ended; no request to the store is waited for.
    ///
    /// # Errors
    /// [`MountError::Busy`] while files are open below the mount: it is served on, and this may be tried again.
    /// [`SessionError::MountedElsewhere`] if the target was a descriptor.
    pub fn unmount(&mut self) -> Result<(), SessionError> {
        let Some(point) = &mut self.point else { return Err(SessionError::MountedElsewhere) };
        point.unmount(UnmountMode::Graceful)?;
        self.join()
    }

    /// Waits until the mount was unmounted, by whomever. Cancel-safe.
    ///
    /// # Errors
    /// [`SessionError::Serve`] if reading requests failed; the mount is then taken away.
    pub async fn wait(&mut self) -> Result<(), SessionError> {
        // Nothing is ever sent: an error says that the thread has ended.
        while self.ended.changed().await.is_ok() {}
        self.join()
    }

    /// The same, blocking this thread.
    ///
    /// # Errors
    /// As [`MountedSession::wait`].
    pub fn wait_blocking(&mut self) -> Result<(), SessionError> {
        self.join()
    }

    /// Waits for the thread, and puts everything away.
    fn join(&mut self) -> Result<(), SessionError> {
        let served = match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(SessionError::Serve(error)),
            Some(Err(_panic)) => Err(SessionError::Serve(io::Error::other("a thread panicked"))),
        };
        self.notices.take();
        if let Some(point) = &mut self.point {
            point.unmount(UnmountMode::Lazy)?;
        }
        served
    }

    fn check_answer(&self) -> Result<(), SessionError> {
        let Some(point) = &self.point else { return Ok(()) };
        // statfs is always asked of us, and always answered by the thread that reads it.
        let answer = rustix::fs::statfs(point.path());
        answer
            .map(drop)
            .map_err(|error| SessionError::NoAnswer { path: point.path().to_owned(), source: error.into() })
    }

    /// Takes the mount out of the tree although it is in use, and ends the connection where fusectl lets us: whoever uses it then gets
    /// ENOTCONN. Where not, it is served until the last user leaves.
    fn detach(&mut self) {
        let Some(point) = &mut self.point else { return };
        let connection = point.device().and_then(Connection::find);
        if let Err(error) = point.unmount(UnmountMode::Lazy) {
            tracing::warn!(%error, "the mount is left behind");
            return;
        }
        match connection.map(|connection| connection.abort()) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "the mount is in use, and served until its last user leaves")
            }
            None => tracing::warn!(
                "the mount is in use, and served until its last user leaves (fusectl is not mounted)"
            ),
        }
    }
}

impl Drop for MountedSession {
    fn drop(&mut self) {
        if self.thread.is_none() || self.point.is_none() {
            return;
        }
        match self.unmount() {
            Err(SessionError::Mount(MountError::Busy(_))) => self.detach(),
            Err(error) => tracing::warn!(%error, "unmounting"),
            Ok(()) => {}
        }
    }
}
