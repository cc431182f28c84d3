//! `sluicefs mount`: opens the bucket, mounts it, serves it until it is unmounted or a signal says stop.

mod plan;
mod questions;
mod warm_up;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluicefs_core::{Ended, FileSystem, Restored};
use sluicefs_fuse::{MountConfig, MountError, MountedSession, SessionError};
use sluicefs_fuse_mount::{MountState, mount_state, passed_descriptor};
use sluicefs_s3_client::ObjectKey;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::admin::{AdminSocket, is_mounted};
use crate::args::MountArgs;
use crate::background::{self, Parent, Report};
use crate::compat::Personality;
use crate::failure::{ExitStatus, Failure};
use crate::logging::{self, Audience, Destination};
use crate::signals::Signals;
use crate::snapshot::Snapshots;
use crate::{note, runtime, state};

use plan::{Cache, Plan};
use questions::Questions;
use warm_up::WarmUp;

/// Under which name and with which arguments this process was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Invocation<'a> {
    pub(crate) personality: Personality,
    /// All of them, `argv[0]` included.
    pub(crate) args: &'a [OsString],
}

/// Mounts, and returns when the mount answers; in the foreground, when it ended.
///
/// # Errors
/// One line that names cause and remedy; nothing is left mounted.
pub(crate) fn run(args: &MountArgs, invocation: Invocation<'_>) -> Result<(), Failure> {
    if args.process.auto_unmount {
        return Err(Failure::usage(
            "--auto-unmount is not supported: leave it out; the next mount on the directory of a killed process cleans it",
        ));
    }
    let plan = Plan::new(args, invocation.personality)?;
    if !args.process.foreground {
        return background::mount(invocation.personality, invocation.args, &plan.target);
    }
    if !args.process.report_to_parent {
        logging::init(&args.logs, Audience::Terminal, crate::log_filter(invocation.personality))?;
        return run_until_unmounted(&plan, Foreground::Terminal);
    }
    let mut parent = Parent::connect()?;
    start_in_background(args, invocation.personality)
        .and_then(|logging| run_until_unmounted(&plan, Foreground::Child(&mut parent, logging)))
        .inspect_err(|failure| parent.report(&Report::Failed(failure.clone())))
        .map_err(|failure| Failure { message: String::new(), ..failure })
}

fn start_in_background(args: &MountArgs, personality: Personality) -> Result<Logging, Failure> {
    background::leave_session()?;
    let destination = logging::init(&args.logs, Audience::Nobody, crate::log_filter(personality))?;
    let is_lost = destination == Destination::Nowhere && !args.logs.no_log;
    Ok(if is_lost { Logging::Lost } else { Logging::AsAsked })
}

/// Who waits for the mount.
#[derive(Debug)]
enum Foreground<'a> {
    Terminal,
    Child(&'a mut Parent, Logging),
}

/// Whether the log of a mount in the background goes anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logging {
    AsAsked,
    Lost,
}

/// Threads may take so long to end with the mount; those that end take their files in the state directory with them.
const END_GRACE: Duration = Duration::from_secs(5);

fn run_until_unmounted(plan: &Plan, mut foreground: Foreground<'_>) -> Result<(), Failure> {
    let runtime = runtime::new()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let Prepared { fs, state, cleaning } = tokio::select! {
            ready = prepare(plan) => ready?,
            signal = signals.next() => return Err(Failure::failed(format!("stopped by {signal} before anything was mounted"))),
        };
        let session = attach(Arc::clone(&fs), plan.target.clone(), plan.session.clone()).await?;
        let answering = match state {
            Some(state) => answer_questions(plan, state, &fs, session.target()).await,
            None => None,
        };
        tracing::info!(source = %plan.source, target_path = %session.target().display(), "mounted");
        tracing::info!("{}", plan.chosen.line());
        match foreground.mounted() {
            Ok(()) => {
                let warming = plan.warm_up.clone().map(|warm_up| {
                    let fs = Arc::clone(&fs);
                    Handle::current().spawn(async move { warm_up.run(&fs).await })
                });
                let sending = Sending(Arc::clone(&fs));
                let cleaning = Handle::current().spawn(async move {
                    if let Some(cleaning) = cleaning {
                        cleaning.await;
                    }
                    drop(sending);
                });
                let (ended, served) =
                    serve_and_tell(session, &mut signals, plan.warm_up.as_deref(), foreground).await;
                // What is not done yet is left to the next mount.
                for task in [Some(cleaning), warming].into_iter().flatten() {
                    task.abort();
                    drop(task.await);
                }
                let saved = finish(&fs, ended, plan.cache.as_ref()).await;
                if let Some(answering) = answering {
                    answering.abort();
                    // Whatever became of it, its socket is gone then.
                    drop(answering.await);
                }
                served.and(saved)
            }
            Err(failure) => Err(failure),
        }
        .inspect_err(|failure| tracing::error!(%failure, "the mount ended"))
    });
    // A thread that looks at a hung mount point would hold up the end for ever.
    runtime.shutdown_timeout(END_GRACE);
    result
}

/// Sends what was taken over from killed mounts once this is dropped, whatever became of cleaning up after them.
struct Sending(Arc<FileSystem>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.send_restored();
    }
}

impl Foreground<'_> {
    /// The mount answers: nothing of the parent's is held any more after this, and it has the time that a warm-up takes.
    fn mounted(&mut self) -> Result<(), Failure> {
        let Self::Child(parent, logging) = self else { return Ok(()) };
        if *logging == Logging::Lost {
            note(
                "note: there is no system log here, so the mount logs nothing; --log-directory would keep a log",
            );
        }
        background::detach()?;
        parent.report(&Report::Mounted);
        Ok(())
    }

    /// The mount is ready; `failed` says what went wrong on the way.
    fn ready(&mut self, failed: Option<String>) {
        match self {
            Self::Child(parent, _) => parent.report(&Report::Ready(failed)),
            // Does nothing unless systemd asked for it.
            Self::Terminal => {
                if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                    tracing::warn!(%error, "systemd cannot be told that the mount is ready");
                }
            }
        }
    }
}

/// Serves the mount, and tells meanwhile when it is ready.
async fn serve_and_tell(
    session: MountedSession,
    signals: &mut Signals,
    warm_up: Option<&WarmUp>,
    mut foreground: Foreground<'_>,
) -> (Ended, Result<(), Failure>) {
    let mut served = std::pin::pin!(serve(session, signals));
    let ready = async {
        match warm_up {
            Some(warm_up) => warm_up.ready().await,
            None => None,
        }
    };
    tokio::select! {
        biased;
        failed = ready => foreground.ready(failed),
        (ended, served) = &mut served => {
            // Who waits for it hears that it was in vain.
            return (ended, served.and(Err(Failure::failed("it was unmounted before its warm-up had ended"))));
        }
    }
    served.await
}

/// What is there before anything is mounted.
struct Prepared<C> {
    fs: Arc<FileSystem>,
    state: Option<state::Directory>,
    /// To be done once it is mounted: cleaning up after those who were killed.
    cleaning: Option<C>,
}

/// Answers `sluicefs status` and the like until the task is aborted; `None` if nobody can ask, for the reason in the log.
async fn answer_questions(
    plan: &Plan,
    state: state::Directory,
    fs: &Arc<FileSystem>,
    mount_point: &Path,
) -> Option<JoinHandle<()>> {
    let snapshots = Snapshots {
        fs: Arc::clone(fs),
        source: plan.source.to_string(),
        mount_point: mount_point.to_string_lossy().into_owned(),
        cache: plan.cache.as_ref().map(|cache| (cache.dir.to_string_lossy().into_owned(), cache.stage_bytes)),
        since: Instant::now(),
        preset: plan.chosen.as_json(),
    };
    match AdminSocket::bind(state, &snapshots.source, mount_point).await {
        Ok(socket) => Some(Handle::current().spawn(socket.serve(Questions::new(
            Arc::clone(fs),
            snapshots,
            plan.warm_up.clone(),
        )))),
        Err(error) => {
            tracing::warn!(%error, "`sluicefs status` does not find this mount: its socket cannot be made");
            None
        }
    }
}

/// All that can fail without anything being mounted.
async fn prepare(plan: &Plan) -> Result<Prepared<impl Future<Output = ()> + Send + use<>>, Failure> {
    probe(plan).await?;
    let (target, directory, cache) = (plan.target.clone(), plan.source.directory(), plan.cache.clone());
    // However long it takes to remove what killed mounts left there.
    let stage = tokio::task::spawn_blocking(move || {
        cache.map_or(Ok(None), |cache| cache.open(&target, directory.as_deref()))
    });
    let stage = stage.await.map_err(panicked)??;
    let mut bucket = plan.source.open().await?;
    let (state, mut cleaning) = (plan.state.open()?, None);
    // Who changes nothing begins no upload, and is not to remove any.
    if plan.fs.allow.changes
        && let Some(state) = &state
    {
        match state.journaled(&bucket) {
            Ok(journaled) => {
                cleaning = Some(state.clone().clean_up(std::mem::replace(&mut bucket, journaled)));
            }
            Err(error) => plan.state.do_without(&format!("cannot be written to: {error}"))?,
        }
    }
    let fs = FileSystem::with_stage(bucket, plan.fs.clone(), stage);
    let fs = fs.map_err(|error| Failure::usage(error.to_string()))?;
    let restored = fs.restore().await;
    if restored != Restored::default() {
        tracing::info!(
            files = restored.taken,
            left = restored.left,
            "sending files that a mount which was killed, or could not reach the store, had acknowledged"
        );
    }
    Ok(Prepared { fs, state, cleaning })
}

/// Finds what is wrong with the mount point, which may not answer at all.
async fn probe(plan: &Plan) -> Result<(), Failure> {
    let (target, directory) = (plan.target.clone(), plan.source.directory());
    let checked = tokio::task::spawn_blocking(move || {
        check_target(&target)?;
        directory.map_or(Ok(()), |directory| check_apart(&directory, &target))
    });
    match timeout(PROBE_LIMIT, checked).await {
        Ok(checked) => checked.map_err(panicked)?,
        Err(_) => {
            let message = format!(
                "{} does not answer: something is mounted there whose process is stopped; detach it with umount -l",
                plan.target.display()
            );
            Err(Failure::new(ExitStatus::MountPoint, message))
        }
    }
}

/// A mount point that takes longer to look at does not answer at all.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Finds what is wrong with the mount point before the bucket is asked.
fn check_target(target: &Path) -> Result<(), Failure> {
    if passed_descriptor(target).is_some() {
        return Ok(());
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoDevice.into());
    }
    match mount_state(target)? {
        MountState::Mounted { fs_type, source } if fs_type == "fuse" || fs_type.starts_with("fuse.") => {
            Err(MountError::AlreadyMounted { target: target.to_owned(), fs_type, fs_source: source }.into())
        }
        // Mounting over it cleans it, if it is ours.
        MountState::Dead { .. } => Ok(()),
        MountState::Mounted { .. } | MountState::NotMounted if target.is_dir() => Ok(()),
        MountState::Mounted { .. } | MountState::NotMounted => {
            Err(MountError::NotADirectory(target.to_owned()).into())
        }
    }
}

/// Refuses to mount a directory where it would show itself, or hide itself from everybody else.
fn check_apart(directory: &Path, target: &Path) -> Result<(), Failure> {
    // What is not there, or cannot be looked at, is told by whoever needs it.
    let (Ok(source), Ok(target)) = (directory.canonicalize(), target.canonicalize()) else { return Ok(()) };
    let relation = match (target.starts_with(&source), source.starts_with(&target)) {
        (true, true) => "is the directory that is to be mounted",
        (true, false) => "lies in the directory that is to be mounted",
        (false, true) => "would hide the directory that is to be mounted",
        (false, false) => return Ok(()),
    };
    let message = format!(
        "the mount point {} {relation}, {}; choose one outside of it",
        target.display(),
        source.display()
    );
    Err(Failure::new(ExitStatus::MountPoint, message))
}

/// Mounts. Not to be given up half-way: it takes no request to the store.
pub(crate) async fn attach(
    fs: Arc<FileSystem>,
    target: PathBuf,
    config: MountConfig,
) -> Result<MountedSession, Failure> {
    let runtime = Handle::current();
    let mounted = tokio::task::spawn_blocking(move || sluicefs_fuse::mount(fs, &target, config, runtime));
    mounted.await.map_err(panicked)?.map_err(session_failure)
}

async fn serve(mut session: MountedSession, signals: &mut Signals) -> (Ended, Result<(), Failure>) {
    tokio::select! {
        served = session.wait() => {
            tracing::info!("unmounted");
            // It is still there if somebody ended the connection, and with it all use of it.
            let ended = if is_mounted(session.target()) { Ended::TakenAway } else { Ended::Unmounted };
            return (ended, served.map_err(session_failure));
        }
        signal = signals.next() => tracing::info!(signal, "unmounting"),
    }
    match stop(session, signals).await {
        Ok(ended) => (ended, Ok(())),
        Err(failure) => (Ended::TakenAway, Err(failure)),
    }
}

/// How long what is on its way to the store may take when the mount has ended.
const SAVING_GRACE: Duration = Duration::from_secs(30);

/// Waits for what was written; an error names what is lost, and what is left for the next mount.
async fn finish(fs: &FileSystem, ended: Ended, cache: Option<&Cache>) -> Result<(), Failure> {
    let unfinished = fs.finish(ended, SAVING_GRACE).await;
    for key in &unfinished.lost {
        tracing::error!(%key, "what was written to this file is lost: it was neither closed nor synced when the mount ended");
    }
    for key in &unfinished.kept {
        tracing::error!(%key, "this file was closed and is not at the store yet: it is kept for the next mount");
    }
    let lost = some_of(&unfinished.lost).map(|keys| {
        format!("files were neither closed nor synced when the mount ended, so what was written to them is lost: {keys}")
    });
    let kept = some_of(&unfinished.kept).zip(cache).map(|(keys, cache)| {
        let dir = cache.dir.display();
        format!("files that were closed are not at the store yet: {keys}. They are kept in {dir}; the next mount of the bucket with --cache {dir} sends them")
    });
    match (lost, kept) {
        (None, None) => Ok(()),
        (None, Some(kept)) => Err(Failure::new(ExitStatus::Store, kept)),
        (Some(lost), None) => Err(Failure::failed(lost)),
        (Some(lost), Some(kept)) => Err(Failure::failed(format!("{lost}; {kept}"))),
    }
}

/// The first of `keys`, and how many there are besides.
fn some_of(keys: &[ObjectKey]) -> Option<String> {
    let (first, rest) = keys.split_first()?;
    Some(if rest.is_empty() { first.to_string() } else { format!("{first} and {} more", rest.len()) })
}

/// How long users of the mount may take to leave it after a signal.
const GRACE: Duration = Duration::from_secs(5);
/// The kernel tells nobody when a mount stops being busy, so it is asked this often.
const BUSY_RETRY: Duration = Duration::from_millis(100);

/// Unmounts: gracefully while the grace lasts and no second signal comes, then regardless of its users.
pub(crate) async fn stop(mut session: MountedSession, signals: &mut Signals) -> Result<Ended, Failure> {
    let deadline = Instant::now() + GRACE;
    loop {
        let (returned, result) = tokio::task::spawn_blocking(move || {
            let result = session.unmount();
            (session, result)
        })
        .await
        .map_err(panicked)?;
        session = returned;
        match result {
            Ok(()) => return Ok(Ended::Unmounted),
            // Whoever passed the descriptor in unmounts; our end of it closes with the process.
            Err(SessionError::MountedElsewhere) => return Ok(Ended::TakenAway),
            Err(SessionError::Mount(MountError::Busy(_))) if Instant::now() < deadline => {
                tokio::select! {
                    () = tokio::time::sleep(BUSY_RETRY) => {}
                    signal = signals.next() => {
                        tracing::warn!(signal, "unmounting at once although the mount is in use");
                        break;
                    }
                }
            }
            Err(SessionError::Mount(MountError::Busy(path))) => {
                tracing::warn!(target_path = %path.display(), grace_s = GRACE.as_secs(), "still in use: unmounting lazily");
                break;
            }
            Err(error) => return Err(session_failure(error)),
        }
    }
    tokio::task::spawn_blocking(move || drop(session)).await.map_err(panicked)?;
    Ok(Ended::TakenAway)
}

pub(crate) fn session_failure(error: SessionError) -> Failure {
    match error {
        SessionError::Mount(error) => error.into(),
        SessionError::Handshake(_) | SessionError::NoAnswer { .. } => {
            Failure::new(ExitStatus::MountPoint, error.to_string())
        }
        other => Failure::failed(other.to_string()),
    }
}

pub(crate) fn panicked(error: tokio::task::JoinError) -> Failure {
    Failure::failed(format!("a task ended unexpectedly: {error}"))
}
