//! `sluicefs warm`: brings objects into the cache on disk before a mount reads them, tells whether they are there, or removes them.
//!
//! For a directory of a bucket it does that itself; for one that is mounted it asks the mount, which knows the bucket, the cache, and which
//! versions it pins.

mod chosen;
mod job;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sluicefs_core::{ReadConfig, WarmConfig, Warmer};
use sluicefs_s3_client::BucketUrl;
use sluicefs_s3_client::config::WriteConfig;

use crate::admin::{WARM, ask_one};
use crate::args::{StoreArgs, WarmArgs};
use crate::failure::Failure;
use crate::logging::Audience;
use crate::settings::{absolute, disk_cache};
use crate::signals::Signals;
use crate::state::Choice;
use crate::store::Source;
use crate::{note, open_files, runtime, say, start_log};

pub(crate) use chosen::Chosen;
pub(crate) use job::{Job, Task};

/// How often progress is told.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How a warm-up fetches, with so many requests at a time.
pub(crate) fn config(requests: u16) -> WarmConfig {
    WarmConfig { requests: usize::from(requests), part_size_bytes: ReadConfig::default().part_size_bytes }
}

/// Does what was asked.
///
/// # Errors
/// If the options make no sense, nothing is there, the bucket or the cache cannot be used, or an object is not in the cache at the end.
pub(crate) fn run(args: &WarmArgs) -> Result<(), Failure> {
    start_log(&args.logs, Audience::Narrated)?;
    let task = match (args.check, args.evict) {
        (true, _) => Task::Check,
        (false, true) => Task::Evict,
        (false, false) => Task::Fetch,
    };
    let list = args.from_list.as_deref().map(read_list).transpose()?;
    let shown = Shown::new(task, args.json);
    let outcome = runtime::new()?.block_on(async {
        let mut signals = Signals::listen()?;
        let work = async {
            match is_path(&args.place) {
                true => by_mount(args, task, list.as_deref(), &shown).await,
                false => of_bucket(args, task, list.as_deref(), &shown).await,
            }
        };
        tokio::select! {
            done = work => done,
            signal = signals.next() => Err(Failure::failed(format!(
                "stopped by {signal}; what was fetched stays in the cache, and the same command goes on from there"
            ))),
        }
    });
    shown.bar.finish_and_clear();
    let outcome = outcome?;
    let (text, verdict) = conclusion(task, &outcome);
    say(&if args.json { outcome.to_string() } else { text })?;
    verdict
}

/// Whether a mount is meant: no URL and no name of a bucket begins so.
fn is_path(place: &str) -> bool {
    matches!(place, "." | "..") || ["/", "./", "../"].iter().any(|begin| place.starts_with(begin))
}

async fn of_bucket(args: &WarmArgs, task: Task, list: Option<&str>, shown: &Shown) -> Result<Value, Failure> {
    let Some(cache) = &args.cache else {
        return Err(Failure::usage(
            "name the directory that mounts of the bucket are given as --cache, or the directory that it is mounted on instead of the bucket",
        ));
    };
    let source = Source::new(&args.place, &args.store, WriteConfig::default())?;
    let prefix = BucketUrl::parse(&args.place).map_err(|error| Failure::usage(error.to_string()))?.prefix;
    let chosen = Chosen::new((prefix, args.place.ends_with('/')), &args.include, list)?;
    let limit_bytes = args.max_cache_size.unwrap_or(u64::MAX);
    let cache = disk_cache(absolute(cache)?, limit_bytes, open_files::raise());
    let warmer = Warmer::open(source.open().await?, &cache, config(args.concurrency))
        .map_err(|error| Failure::usage(format!("--cache: {error}")))?;
    let job = Job::new(warmer, &chosen).await?;
    let mut work = std::pin::pin!(job.run(task));
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            _ = ticks.tick() => {
                job.failures().iter().for_each(|failure| shown.failure(failure));
                shown.progress(&job.progress());
            }
        }
    };
    job.failures().iter().for_each(|failure| shown.failure(failure));
    shown.progress(&job.progress());
    outcome
}

async fn by_mount(args: &WarmArgs, task: Task, list: Option<&str>, shown: &Shown) -> Result<Value, Failure> {
    if args.cache.is_some() || args.max_cache_size.is_some() || args.store != StoreArgs::default() {
        return Err(Failure::usage(
            "a mount knows its bucket and its cache: leave out --cache, --max-cache-size and what is about the bucket and credentials",
        ));
    }
    let choice = Choice::new(args.state_dir.as_deref())?;
    // A slash at the end says that a directory is meant, and is no part of a path.
    let (dir, is_directory) = (Path::new(&args.place), args.place.ends_with('/'));
    let question = |below: &Path| {
        json!({
            "ask": WARM, "task": task.word(), "below": below.to_string_lossy(), "is_directory": is_directory,
            "include": args.include, "list": list, "concurrency": args.concurrency,
        })
    };
    let on_progress = |line: &Value| match (line["failed_key"].is_string(), line["total_bytes"].is_u64()) {
        (true, _) => shown.failure(line),
        (false, true) => shown.progress(line),
        (false, false) => {}
    };
    let (_, outcome) = ask_one(&choice, dir, |found| question(&found.below), on_progress).await?;
    Ok(outcome)
}

fn read_list(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(|_| text),
        _ => std::fs::read_to_string(path),
    };
    read.map_err(|error| Failure::failed(format!("--from-list: cannot read {}: {error}", path.display())))
}

/// How far it is, on the terminal or as JSON.
#[derive(Debug)]
struct Shown {
    /// It draws itself on terminals alone.
    bar: ProgressBar,
    task: Task,
    as_json: bool,
}

impl Shown {
    fn new(task: Task, as_json: bool) -> Self {
        let style =
            ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
                .expect("the template is right");
        let bar = if as_json { ProgressBar::hidden() } else { ProgressBar::new(0) };
        Self { bar: bar.with_style(style), task, as_json }
    }

    fn progress(&self, progress: &Value) {
        if self.task != Task::Fetch {
            return;
        }
        if self.as_json {
            // Who does not read it any more does not keep the rest from the cache.
            drop(say(&progress.to_string()));
        }
        let bytes = |name: &str| progress[name].as_u64().unwrap_or_default();
        self.bar.set_length(bytes("total_bytes"));
        self.bar.set_position(bytes("fetched_bytes") + bytes("present_bytes"));
    }

    fn failure(&self, failure: &Value) {
        let part = |name: &str| failure[name].as_str().unwrap_or("?");
        self.bar.suspend(|| note(&format!("not in the cache: {}: {}", part("failed_key"), part("reason"))));
    }
}

/// The outcome of a warm-up in words, and whether it is what was asked for.
pub(crate) fn conclusion(task: Task, outcome: &Value) -> (String, Result<(), Failure>) {
    let number = |name: &str| outcome[name].as_u64().unwrap_or_default();
    if task == Task::Evict {
        let stay = match number("in_use") {
            0 => String::new(),
            n => format!("; {n} objects stay: mounts have them open"),
        };
        return (format!("{} objects are not in the cache any more{stay}", number("removed")), Ok(()));
    }
    let (objects, incomplete, total) =
        (number("objects"), number("incomplete_objects"), number("total_bytes"));
    let text = format!(
        "{} of {objects} objects are in the cache, {} of {total} bytes; {} bytes were fetched",
        objects.saturating_sub(incomplete),
        total.saturating_sub(number("missing_bytes")),
        number("fetched_bytes"),
    );
    if incomplete == 0 {
        return (text, Ok(()));
    }
    let remedy = match (task, number("failed_objects")) {
        (Task::Check, _) => "run it without --check to fetch them",
        (_, 0) => {
            "the cache is too small, and what came first was removed again; give it more room, or ask for less"
        }
        (..) => "see above",
    };
    let error = format!("{incomplete} of {objects} objects are not in the cache as a whole: {remedy}");
    (text, Err(Failure::failed(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_buckets() {
        for (place, expected) in [
            ("/mnt/llama", true),
            ("./llama", true),
            ("../llama/", true),
            (".", true),
            ("s3://models/llama/", false),
            ("models", false),
            ("file:///srv/models/", false),
            ("arn:aws:s3:eu-west-1:1:accesspoint/a", false),
        ] {
            assert_eq!(is_path(place), expected, "{place}");
        }
    }

    #[test]
    fn what_is_not_there_at_the_end_is_an_error_with_the_remedy() {
        let outcome = |incomplete: u64, failed: u64| {
            json!({ "objects": 3, "incomplete_objects": incomplete, "failed_objects": failed,
                    "total_bytes": 9, "fetched_bytes": 4, "missing_bytes": incomplete })
        };
        let (text, verdict) = conclusion(Task::Fetch, &outcome(0, 0));
        assert_eq!(text, "3 of 3 objects are in the cache, 9 of 9 bytes; 4 bytes were fetched");
        assert!(verdict.is_ok());
        for (task, failed, part) in [
            (Task::Fetch, 0, "too small"),
            (Task::Fetch, 1, "see above"),
            (Task::Check, 0, "without --check"),
        ] {
            let (text, verdict) = conclusion(task, &outcome(1, failed));
            assert_eq!(text, "2 of 3 objects are in the cache, 8 of 9 bytes; 4 bytes were fetched");
            assert!(verdict.unwrap_err().message.contains(part), "{task:?} {failed}");
        }
        let (text, verdict) = conclusion(Task::Evict, &json!({ "removed": 2, "in_use": 1 }));
        assert!(text.starts_with("2 objects are not") && text.contains("1 objects stay") && verdict.is_ok());
    }
}
