//! What a mount answers at its admin socket.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use serde_json::{Value, json};
use sluicefs_core::FileSystem;
use sluicefs_s3_client::KeyPrefix;
use tokio::sync::Semaphore;
use tokio::time::interval;

use super::warm_up::WarmUp;
use crate::admin::{Answers, EXPLAIN, Progress, REFRESH, STATUS, WARM};
use crate::args::REQUESTS;
use crate::failure::Failure;
use crate::snapshot::Snapshots;
use crate::warm::{Chosen, Job, PROGRESS_EVERY, Task, config};

/// So many are warmed up at a time; each has requests and memory of its own.
const MAX_WARMING: usize = 2;

/// A mount that can be asked.
#[derive(Debug)]
pub(super) struct Questions {
    fs: Arc<FileSystem>,
    snapshots: Snapshots,
    warm_up: Option<Arc<WarmUp>>,
    turns: Semaphore,
}

impl Answers for Questions {
    async fn answer(&self, question: &Value, progress: &mut Progress) -> io::Result<Value> {
        match question["ask"].as_str() {
            Some(STATUS) => Ok(self.status()),
            Some(EXPLAIN) => Ok(self.snapshots.explain(question["path"].as_str().unwrap_or_default())),
            Some(REFRESH) => telling(progress, self.refresh(), || vec![json!({ "doing": REFRESH })]).await,
            Some(WARM) => self.warm(question, progress).await,
            _ => Ok(error(&format!(
                "{} is not known to this mount, which is of version {}",
                question["ask"],
                env!("CARGO_PKG_VERSION")
            ))),
        }
    }
}

/// Does `work`, and tells the `news` of it meanwhile: by these it is known that somebody answers, and that somebody listens.
async fn telling<T>(
    progress: &mut Progress,
    work: impl Future<Output = T> + Send,
    news: impl Fn() -> Vec<Value> + Send + Sync,
) -> io::Result<T> {
    let (mut work, mut ticks) = (pin!(work), interval(PROGRESS_EVERY));
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = ticks.tick() => progress.say_all(&news()).await?,
        }
    };
    progress.say_all(&news()).await?;
    Ok(done)
}

/// Each request of a warm-up holds a mebibyte, in a process whose memory is limited to `memory_bytes` for reading: an eighth of that may go into it.
fn most_requests(memory_bytes: u64) -> u16 {
    u16::try_from((memory_bytes >> 20) / 8).unwrap_or(u16::MAX).max(1)
}

fn error(why: &dyn std::fmt::Display) -> Value {
    json!({ "error": why.to_string() })
}

impl Questions {
    pub(super) fn new(fs: Arc<FileSystem>, snapshots: Snapshots, warm_up: Option<Arc<WarmUp>>) -> Self {
        Self { fs, snapshots, warm_up, turns: Semaphore::new(MAX_WARMING) }
    }

    fn status(&self) -> Value {
        let mut status = self.snapshots.status();
        status["ready"] = (!self.warm_up.as_ref().is_some_and(|warm_up| warm_up.is_awaited())).into();
        status["warm_up"] = self.warm_up.as_ref().map_or(Value::Null, |warm_up| warm_up.status());
        status
    }

    async fn refresh(&self) -> Value {
        let refreshed = self.fs.refresh().await;
        tracing::info!(?refreshed, "names and versions are asked for anew");
        json!({ "released": refreshed.released, "names": refreshed.names, "untold": refreshed.untold })
    }

    async fn warm_job(&self, question: &Value) -> Result<(Task, Job), Failure> {
        let asked = |name: &str| {
            Failure::failed(format!("{name} is not what a warm-up can be asked: {}", question[name]))
        };
        let text = |name: &str| question[name].as_str().ok_or_else(|| asked(name));
        let task = Task::parse(text("task")?).ok_or_else(|| asked("task"))?;
        let include: Option<Vec<String>> = question["include"]
            .as_array()
            .and_then(|all| all.iter().map(|pattern| pattern.as_str().map(str::to_owned)).collect());
        let place =
            place(&self.fs.config().prefix, Path::new(text("below")?), question["is_directory"] == true);
        let chosen =
            Chosen::new(place, &include.ok_or_else(|| asked("include"))?, question["list"].as_str())?;
        let requests = question["concurrency"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(REQUESTS);
        let requests = requests.min(most_requests(self.fs.config().read.memory_limit_bytes));
        let warmer = self.fs.warmer(config(requests)).map_err(|error| Failure::failed(error.to_string()))?;
        let warmer = warmer.ok_or_else(|| {
            Failure::failed("this mount has no cache on disk: mount it with --cache to keep what is fetched")
        })?;
        Ok((task, Job::new(warmer, &chosen).await?))
    }

    async fn warm(&self, question: &Value, progress: &mut Progress) -> io::Result<Value> {
        let Ok(_turn) = self.turns.try_acquire() else {
            return Ok(error(&"this mount is warmed up by others already; try again when they have ended"));
        };
        let found =
            telling(progress, self.warm_job(question), || vec![json!({ "doing": "listing" })]).await?;
        let (task, job) = match found {
            Ok(found) => found,
            Err(failure) => return Ok(error(&failure)),
        };
        let news = || [job.failures(), vec![job.progress()]].concat();
        let outcome = telling(progress, job.run(task), news).await?;
        Ok(outcome.unwrap_or_else(|failure| error(&failure)))
    }
}

/// What of the bucket lies `below` the mount point, and whether only a directory can be meant.
fn place(prefix: &KeyPrefix, below: &Path, is_directory: bool) -> (KeyPrefix, bool) {
    let mut key = prefix.as_str().to_owned();
    for name in below {
        key.push_str(&name.to_string_lossy());
        key.push('/');
    }
    (KeyPrefix::new(key), is_directory || below.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_the_mount_point_is_a_key_below_the_prefix() {
        for (prefix, below, is_directory, expected) in [
            ("", "", false, ("", true)),
            ("", "a/b", false, ("a/b/", false)),
            ("p/", "", false, ("p/", true)),
            ("p/", "a", true, ("p/a/", true)),
        ] {
            let (key, is_directory) = place(&KeyPrefix::new(prefix), Path::new(below), is_directory);
            assert_eq!((key.as_str(), is_directory), expected, "{prefix:?} {below:?}");
        }
    }
}
