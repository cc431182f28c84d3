//! Asking: all mounts at once, so that one which does not answer holds nobody up.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wanted::{Found, Wanted};
use super::{Mounted, SOCKET, is_mounted, means_dead, mounts, remove};
use crate::failure::{ExitStatus, Failure};
use crate::state::{Choice, Directory};

/// An answer is shorter, also with thousands of files being written.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A mount that works answers within milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// What may be the matter with a process that says nothing.
const STOPPED: &str = "it may be stopped (kill -CONT) or hang";

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Answer {
    Said(Value),
    /// Nobody listens any more, and what was mounted is still in the way.
    Dead,
    /// It did not answer; the end of a sentence about its process.
    Silent(String),
}

/// A mount that was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) mount: Mounted,
    pub(crate) answer: Answer,
}

/// Asks all mounts with files in `directory` that `wanted` wants.
///
/// # Errors
/// If the directory cannot be read.
pub(crate) async fn ask_all(
    directory: &Directory,
    question: &Value,
    wanted: impl Fn(&Mounted) -> bool,
) -> io::Result<Vec<Asked>> {
    let mounts = mounts(directory)?.into_iter().filter(|(_, mount)| wanted(mount));
    let asked = mounts.map(|(stem, mount)| async move {
        let path = directory.path_of(&format!("{stem}{SOCKET}"));
        let answer = match timeout(LIMIT, ask(&path, question)).await {
            Ok(Ok(answer)) => Answer::Said(answer),
            Ok(Err(error)) if means_dead(&error) && !is_mounted(&mount.mount_point) => {
                // Nothing is left of it but its files.
                if let Err(error) = remove(directory, &stem) {
                    tracing::debug!(%error, "what a dead mount left could not be removed");
                }
                return None;
            }
            Ok(Err(error)) if means_dead(&error) => Answer::Dead,
            Ok(Err(error)) => Answer::Silent(format!("said nothing: {error}")),
            Err(_) => Answer::Silent(format!(
                "said nothing within {} seconds; it may be stopped (kill -CONT) or hang",
                LIMIT.as_secs()
            )),
        };
        Some(Asked { mount, answer })
    });
    Ok(join_all(asked).await.into_iter().flatten().collect())
}

/// Asks the mount that `dir` is on, or below, and hands on how far its answer is.
///
/// # Errors
/// If there is no such mount, it is dead, does not answer, or does not know the question.
pub(crate) async fn ask_one(
    choice: &Choice,
    dir: &Path,
    question: impl FnOnce(&Found) -> Value,
    mut on_progress: impl FnMut(&Value),
) -> Result<(Found, Value), Failure> {
    let wanted = Wanted::new(dir)?;
    let all = match choice.open_existing()? {
        Some(directory) => {
            let all = mounts(&directory)
                .map_err(|error| Failure::failed(format!("the state directory cannot be read: {error}")))?;
            Some((directory, all))
        }
        None => None,
    };
    let found = all.and_then(|(directory, all)| {
        let found = all.into_iter().filter_map(|(stem, mount)| Some((stem, wanted.found(mount)?)));
        // Of mounts on each other the one below is not reached by the path; nor is the one that was made first.
        let found =
            found.max_by_key(|(stem, found)| (found.mount.mount_point.components().count(), stem.clone()));
        found.map(|(stem, found)| (directory, stem, found))
    });
    let Some((directory, stem, found)) = found else { return Err(wanted.absent()) };
    let path = directory.path_of(&format!("{stem}{SOCKET}"));
    let silent = |why: &dyn std::fmt::Display| {
        let mount = &found.mount;
        Failure::new(ExitStatus::MountPoint, mount.silent(&format!("said nothing: {why}")))
    };
    let question = question(&found);
    let mut lines = match timeout(LIMIT, connect(&path, &question)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if means_dead(&error) => {
            return Err(Failure::new(ExitStatus::MountPoint, found.mount.dead()));
        }
        Ok(Err(error)) => return Err(silent(&error)),
        Err(_) => return Err(silent(&STOPPED)),
    };
    let mut last = None;
    loop {
        let mut line = Vec::new();
        let read = (&mut lines).take(MAX_ANSWER_BYTES);
        // Who is at work on a long answer tells each second how far it is.
        let read = timeout(LIMIT, pin!(read).read_until(b'\n', &mut line)).await;
        if read.map_err(|_| silent(&STOPPED))?.map_err(|error| silent(&error))? == 0 {
            break;
        }
        if let Some(before) = last.take() {
            on_progress(&before);
        }
        last = Some(serde_json::from_slice::<Value>(&line).map_err(|error| silent(&error))?);
    }
    let answer = last.ok_or_else(|| silent(&"it ended before it had answered"))?;
    match answer["error"].as_str() {
        Some(error) => Err(Failure::failed(error)),
        None => Ok((found, answer)),
    }
}

async fn connect(path: &Path, question: &Value) -> io::Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    Ok(BufReader::new(stream))
}

async fn ask(path: &Path, question: &Value) -> io::Result<Value> {
    let mut text = Vec::new();
    connect(path, question).await?.take(MAX_ANSWER_BYTES).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

impl Mounted {
    /// That its process was killed, and what to do.
    pub(super) fn dead(&self) -> String {
        let (at, pid) = (self.mount_point.display(), self.pid);
        format!(
            "the mount of {} at {at} is dead: its process {pid} was killed; mount it again, or run: sluicefs unmount {at}",
            self.source
        )
    }

    /// That it does not answer, with the end of the sentence about its process.
    pub(super) fn silent(&self, why: &str) -> String {
        let (at, pid) = (self.mount_point.display(), self.pid);
        format!("the mount of {} at {at} does not answer: its process {pid} {why}", self.source)
    }
}

impl Asked {
    /// What is wrong with the mount, if anything is.
    pub(crate) fn what_is_wrong(&self) -> Option<String> {
        match &self.answer {
            Answer::Said(_) => None,
            Answer::Dead => Some(self.mount.dead()),
            Answer::Silent(why) => Some(self.mount.silent(why)),
        }
    }
}
