//! Asking: all mounts at once, so that one which does not answer holds nobody up.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Mounted, SOCKET, is_mounted, means_dead, mounts, remove};
use crate::state::Directory;

/// An answer is shorter, also with thousands of files being written.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A mount that works answers within milliseconds.
const LIMIT: Duration = Duration::from_secs(5);

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

async fn ask(path: &Path, question: &Value) -> io::Result<Value> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut text = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}
