//! The admin socket of a mount: whoever may open it asks one question, as a line of JSON, and gets the answer, the
//! last of one or more lines of JSON. Those before it tell how far a long answer is.
//!
//! A mount has two files in the state directory: `PID-N.mount` says what is mounted where, and `PID-N.sock` answers, to its owner alone. A process
//! that was killed leaves both. Its socket refuses connections, by which it is known to be dead; the next mount at the same place removes
//! its files, and so does whoever finds that nothing is mounted there any more.

mod ask;
mod wanted;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluicefs_fuse_mount::MountTable;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::state::Directory;

pub(crate) use ask::{Answer, Asked, ask_all, ask_one};
pub(crate) use wanted::Wanted;

// What can be asked.

/// How a mount is.
pub(crate) const STATUS: &str = "status";
/// How one of its files is read.
pub(crate) const EXPLAIN: &str = "explain";
/// That it asks the store anew for all that it knows.
pub(crate) const REFRESH: &str = "refresh";
/// That it brings objects into its cache, looks for them there, or removes them.
pub(crate) const WARM: &str = "warm";

/// How the name of the file ends that describes a mount.
const MOUNT: &str = ".mount";
/// How the name of its socket ends.
const SOCKET: &str = ".sock";
/// A question is shorter, also with a list of a hundred thousand keys.
const MAX_QUESTION_BYTES: u64 = 64 << 20;
/// So many are answered at once.
const MAX_CONNECTIONS: usize = 32;
/// After an error it is tried again so much later.
const PAUSE: Duration = Duration::from_secs(1);
/// Who takes longer to ask, or to take in a line, is not listened to.
const LIMIT: Duration = Duration::from_secs(5);

/// What the state directory says of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) mount_point: PathBuf,
    pub(crate) source: String,
    pub(crate) pid: u32,
}

impl Mounted {
    fn text(&self) -> String {
        let Self { mount_point, source, pid } = self;
        json!({ "mount_point": mount_point.to_string_lossy(), "source": source, "pid": pid }).to_string()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        Some(Self {
            mount_point: value["mount_point"].as_str()?.into(),
            source: value["source"].as_str()?.to_owned(),
            pid: value["pid"].as_u64()?.try_into().ok()?,
        })
    }
}

/// A socket that is listened on. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: UnixListener,
    directory: Directory,
    stem: String,
}

impl AdminSocket {
    /// Makes the socket of the mount of `source` at `mount_point` by this process, and removes those that the dead left.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn bind(directory: Directory, source: &str, mount_point: &Path) -> io::Result<Self> {
        remove_dead(&directory, mount_point).await?;
        let pid = std::process::id();
        let mounted = Mounted { mount_point: mount_point.to_owned(), source: source.to_owned(), pid };
        for number in 0.. {
            // A process that was killed may have had our number.
            let stem = format!("{pid}-{number}");
            match directory.listen(&format!("{stem}{SOCKET}")) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                bound => {
                    let socket = Self { listener: UnixListener::from_std(bound?)?, directory, stem };
                    socket.directory.write(&format!("{}{MOUNT}", socket.stem), &mounted.text())?;
                    return Ok(socket);
                }
            }
        }
        unreachable!("a directory has not so many files")
    }

    /// Answers until it is dropped; then what is being answered ends too.
    pub(crate) async fn serve(self, answers: impl Answers) {
        let (answers, turns) = (Arc::new(answers), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
        let mut connections = JoinSet::new();
        loop {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // As where no more files can be open. Who asks waits meanwhile.
                    tracing::warn!(%error, "the admin socket accepts nobody just now: `sluicefs status` gets no answer of this mount");
                    drop(turn);
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let answers = Arc::clone(&answers);
            connections.spawn(async move {
                if let Err(error) = reply(stream, &*answers).await {
                    tracing::debug!(%error, "somebody at the admin socket left");
                }
                drop(turn);
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.directory, &self.stem) {
            tracing::debug!(%error, "the admin socket is left behind");
        }
    }
}

/// Who answers what is asked at the socket.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers `question`. How far an answer is that takes long may be told meanwhile; it ends with an error when nobody listens any more.
    fn answer(
        &self,
        question: &Value,
        progress: &mut Progress,
    ) -> impl Future<Output = io::Result<Value>> + Send;
}

/// Who asked, while the answer is on its way.
#[derive(Debug)]
pub(crate) struct Progress(BufReader<UnixStream>);

impl Progress {
    /// Tells how far it is, by a line before the answer.
    ///
    /// # Errors
    /// If nobody listens any more.
    pub(crate) async fn say(&mut self, line: &Value) -> io::Result<()> {
        timeout(LIMIT, self.0.write_all(format!("{line}\n").as_bytes())).await?
    }

    /// The same by several lines.
    ///
    /// # Errors
    /// As [`Progress::say`].
    pub(crate) async fn say_all(&mut self, lines: &[Value]) -> io::Result<()> {
        for line in lines {
            self.say(line).await?;
        }
        Ok(())
    }
}

async fn reply(stream: UnixStream, answers: &impl Answers) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    timeout(LIMIT, (&mut stream).take(MAX_QUESTION_BYTES).read_until(b'\n', &mut line)).await??;
    let mut progress = Progress(stream);
    let answer = match serde_json::from_slice(&line) {
        Ok(question) => answers.answer(&question, &mut progress).await?,
        Err(error) => json!({ "error": format!("this is no question: {error}") }),
    };
    progress.say(&answer).await
}

/// Removes what dead mounts left that were at `mount_point`, or are at none any more.
async fn remove_dead(directory: &Directory, mount_point: &Path) -> io::Result<()> {
    for (stem, mounted) in mounts(directory)? {
        if is_dead(directory, &stem).await
            && (mounted.mount_point == mount_point || !is_mounted(&mounted.mount_point))
        {
            remove(directory, &stem)?;
        }
    }
    Ok(())
}

/// Whether nobody listens any more.
async fn is_dead(directory: &Directory, stem: &str) -> bool {
    let connected = timeout(LIMIT, UnixStream::connect(directory.path_of(&format!("{stem}{SOCKET}")))).await;
    matches!(connected, Ok(Err(error)) if means_dead(&error))
}

fn means_dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Whether one of our mounts is there, also one whose process is gone. Touches nothing of it.
pub(crate) fn is_mounted(mount_point: &Path) -> bool {
    let table = MountTable::read();
    table.is_ok_and(|table| table.top(mount_point).is_some_and(|entry| entry.is_ours()))
}

fn remove(directory: &Directory, stem: &str) -> io::Result<()> {
    for suffix in [SOCKET, MOUNT] {
        match directory.remove(&format!("{stem}{suffix}")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// All mounts that have files there, and what these are called without their endings.
fn mounts(directory: &Directory) -> io::Result<Vec<(String, Mounted)>> {
    let mut mounts = Vec::new();
    for name in directory.names(MOUNT)? {
        // One that goes in this moment is no mount any more.
        let Ok(text) = directory.read(&name) else { continue };
        let stem = name.trim_end_matches(MOUNT).to_owned();
        mounts.extend(Mounted::parse(&text).map(|mounted| (stem, mounted)));
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_describes_a_mount_is_read_back_and_nonsense_is_not() {
        let mounted = Mounted { mount_point: "/mnt/a \"b\"".into(), source: "s3://b".into(), pid: 7 };
        assert_eq!(Mounted::parse(mounted.text().as_bytes()), Some(mounted));
        for broken in ["", "{}", r#"{"mount_point":"/m","source":"s","pid":-1}"#] {
            assert_eq!(Mounted::parse(broken.as_bytes()), None, "{broken}");
        }
    }
}
