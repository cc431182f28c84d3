//! `sluicefs warm`: brings objects into the cache on disk before a mount reads them, tells whether they are there, or removes them.
//!
//! Each object is looked up in the cache first, and only what is absent is fetched, so that a warm-up which was interrupted goes on where
//! it was. At the end all of it is looked up again: a cache that is too small has evicted some.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sluicefs_core::{DiskCacheConfig, ReadConfig, WarmConfig, WarmError, Warmer};
use sluicefs_s3_client::config::WriteConfig;
use sluicefs_s3_client::{Bucket, BucketUrl, ErrorKind, KeyPrefix, ListRequest, ListedObject, ObjectKey};

use crate::args::WarmArgs;
use crate::failure::Failure;
use crate::logging::Audience;
use crate::settings::{absolute, disk_cache};
use crate::signals::Signals;
use crate::store::Source;
use crate::{note, open_files, runtime, say, start_log};

/// So many objects are looked at or fetched at a time: small ones need many to fill the requests.
const OBJECTS_AT_ONCE: usize = 64;

/// How often progress is printed as JSON.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Does what was asked.
///
/// # Errors
/// If the options make no sense, nothing is there, the bucket or the cache cannot be used, or an object is not in the cache at the end.
pub(crate) fn run(args: &WarmArgs) -> Result<(), Failure> {
    start_log(&args.logs, Audience::Narrated)?;
    let chosen = Chosen::new(args)?;
    let source = Source::new(&args.url, &args.store, WriteConfig::default())?;
    let limit_bytes = args.max_cache_size.unwrap_or(u64::MAX);
    let cache = disk_cache(absolute(&args.cache)?, limit_bytes, open_files::raise());
    runtime::new()?.block_on(async {
        let mut signals = Signals::listen()?;
        tokio::select! {
            done = work(args, &chosen, &source, &cache) => done,
            signal = signals.next() => Err(Failure::failed(format!(
                "stopped by {signal}; what was fetched stays in the cache, and the same command goes on from there"
            ))),
        }
    })
}

async fn work(
    args: &WarmArgs,
    chosen: &Chosen,
    source: &Source,
    cache: &DiskCacheConfig,
) -> Result<(), Failure> {
    let bucket = source.open().await?;
    let objects = chosen.objects(&*bucket).await?;
    if objects.is_empty() {
        return Err(Failure::failed(format!("there is nothing at {} that was asked for", args.url)));
    }
    let config = WarmConfig {
        requests: usize::from(args.concurrency),
        part_size_bytes: ReadConfig::default().part_size_bytes,
    };
    let warmer =
        Warmer::open(bucket, cache, config).map_err(|error| Failure::usage(format!("--cache: {error}")))?;
    let work = Work { warmer, objects, json: args.json, tally: Tally::default() };
    if args.evict {
        return work.evict().await;
    }
    if !args.check {
        work.fetch().await?;
    }
    work.check(args.check).await
}

/// Which objects are meant.
#[derive(Debug)]
struct Chosen {
    prefix: KeyPrefix,
    /// The object of this key, if it is there, and not only what is below it.
    namesake: Option<ObjectKey>,
    include: Option<GlobSet>,
    list: Option<Vec<ObjectKey>>,
}

impl Chosen {
    fn new(args: &WarmArgs) -> Result<Self, Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
        let prefix = BucketUrl::parse(&args.url).map_err(|error| usage(&error))?.prefix;
        let namesake = prefix.as_str().strip_suffix('/').filter(|_| !args.url.ends_with('/'));
        let namesake = namesake.map(ObjectKey::new).transpose().map_err(|error| usage(&error))?;
        let include = (!args.include.is_empty()).then(|| globs(&args.include)).transpose()?;
        let list = args.from_list.as_deref().map(read_list).transpose()?;
        let keys = |text: String| keys_of(&text, &prefix);
        let list = list.map(keys).transpose()?;
        Ok(Self { prefix, namesake, include, list })
    }

    fn includes(&self, key: &ObjectKey) -> bool {
        let below = key.as_str().strip_prefix(self.prefix.as_str()).unwrap_or(key.as_str());
        self.include.as_ref().is_none_or(|globs| globs.is_match(below))
    }

    async fn objects(&self, bucket: &dyn Bucket) -> Result<Vec<ListedObject>, Failure> {
        if let Some(keys) = &self.list {
            let keys = keys.iter().filter(|key| self.includes(key));
            let heads = stream::iter(keys).map(|key| head(bucket, key)).buffered(OBJECTS_AT_ONCE);
            let heads: Vec<_> = heads.collect().await;
            let found = heads.into_iter().map(|head| {
                let (key, head) = head?;
                head.ok_or_else(|| {
                    Failure::failed(format!("there is no object {}/{key}", bucket.identity().name))
                })
            });
            return found.collect();
        }
        let mut objects = Vec::new();
        if let Some(key) = &self.namesake {
            objects.extend(head(bucket, key).await?.1);
        }
        let mut request = ListRequest { delimiter: false, ..ListRequest::directory(self.prefix.clone()) };
        loop {
            let page = bucket.list(request.clone()).await.map_err(|error| Failure::store(&error))?;
            objects.extend(page.objects.into_iter().filter(|object| self.includes(&object.key)));
            match page.next {
                Some(next) => request.continuation = Some(next),
                None => return Ok(objects),
            }
        }
    }
}

/// What the store says of an object; `None` if there is none.
async fn head<'a>(
    bucket: &dyn Bucket,
    key: &'a ObjectKey,
) -> Result<(&'a ObjectKey, Option<ListedObject>), Failure> {
    match bucket.head(key).await {
        Ok(head) => Ok((key, Some(ListedObject { key: key.clone(), meta: head.meta }))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok((key, None)),
        Err(error) => Err(Failure::store(&error)),
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, Failure> {
    let usage = |error: globset::Error| Failure::usage(format!("--include: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // As in a shell: a star stays within one directory, two do not; a pattern without a slash is of names in any directory.
        let anywhere = if pattern.contains('/') { pattern.clone() } else { format!("**/{pattern}") };
        set.add(GlobBuilder::new(&anywhere).literal_separator(true).build().map_err(usage)?);
    }
    set.build().map_err(usage)
}

fn read_list(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut text).map(|_| text),
        _ => std::fs::read_to_string(path),
    };
    read.map_err(|error| Failure::failed(format!("--from-list: cannot read {}: {error}", path.display())))
}

/// The keys in a list, one in each line; empty lines count for nothing.
fn keys_of(text: &str, prefix: &KeyPrefix) -> Result<Vec<ObjectKey>, Failure> {
    let key = |line: &str| {
        ObjectKey::new(format!("{}{line}", prefix.as_str()))
            .map_err(|error| Failure::usage(format!("--from-list: {error}")))
    };
    text.lines().filter(|line| !line.is_empty()).map(key).collect()
}

/// What became of the bytes and objects.
#[derive(Debug, Default)]
struct Tally {
    fetched_bytes: AtomicU64,
    present_bytes: AtomicU64,
    failed: AtomicU64,
}

/// What is to be done with which objects.
#[derive(Debug)]
struct Work {
    warmer: Warmer,
    objects: Vec<ListedObject>,
    json: bool,
    tally: Tally,
}

impl Work {
    fn total_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.meta.size).sum()
    }

    async fn fetch(&self) -> Result<(), Failure> {
        let style =
            ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
                .expect("the template is right");
        // It draws itself on terminals alone.
        let bar = if self.json { ProgressBar::hidden() } else { ProgressBar::new(self.total_bytes()) };
        let bar = bar.with_style(style);
        let each = stream::iter(&self.objects).for_each_concurrent(OBJECTS_AT_ONCE, |object| {
            let bar = &bar;
            async move {
                if let Err(error) = self.fetch_one(object, bar).await {
                    self.tally.failed.fetch_add(1, Ordering::Relaxed);
                    bar.suspend(|| note(&format!("not in the cache: {}: {error}", object.key)));
                }
            }
        });
        let mut each = std::pin::pin!(each);
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                () = &mut each => break,
                _ = ticks.tick(), if self.json => self.say_progress()?,
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    async fn fetch_one(&self, object: &ListedObject, bar: &ProgressBar) -> Result<(), WarmError> {
        let cold = self.warmer.look(&object.key, &object.meta).await?;
        let present = object.meta.size - cold.absent_bytes();
        self.tally.present_bytes.fetch_add(present, Ordering::Relaxed);
        bar.inc(present);
        let on_disk = |bytes| {
            self.tally.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
            bar.inc(bytes);
        };
        self.warmer.fetch(&cold, &on_disk).await
    }

    fn say_progress(&self) -> Result<(), Failure> {
        let done = &self.tally;
        say(&json!({
            "fetched_bytes": done.fetched_bytes.load(Ordering::Relaxed),
            "present_bytes": done.present_bytes.load(Ordering::Relaxed),
            "total_bytes": self.total_bytes(),
        })
        .to_string())
    }

    /// Whether all of it is there; with `thorough`, whether each block is right, too.
    async fn check(&self, thorough: bool) -> Result<(), Failure> {
        let looked = stream::iter(&self.objects).map(|object| self.missing_bytes(object, thorough));
        let missing: Vec<Option<u64>> = looked.buffered(OBJECTS_AT_ONCE).collect().await;
        let incomplete = missing.iter().filter(|missing| **missing != Some(0)).count();
        let missing_bytes: u64 = missing.iter().flatten().sum();
        let (objects, total_bytes) = (self.objects.len(), self.total_bytes());
        let fetched_bytes = self.tally.fetched_bytes.load(Ordering::Relaxed);
        let told = json!({
            "objects": objects, "incomplete_objects": incomplete, "total_bytes": total_bytes,
            "fetched_bytes": fetched_bytes, "missing_bytes": missing_bytes,
        });
        say(&if self.json {
            told.to_string()
        } else {
            format!(
                "{} of {objects} objects are in the cache, {} of {total_bytes} bytes; {fetched_bytes} bytes were fetched",
                objects - incomplete,
                total_bytes.saturating_sub(missing_bytes),
            )
        })?;
        if incomplete == 0 {
            return Ok(());
        }
        let failed = self.tally.failed.load(Ordering::Relaxed);
        let remedy = match (thorough, failed) {
            (true, _) => "run it without --check to fetch them",
            (false, 0) => {
                "the cache is too small, and what came first was removed again; give it more room, or ask for less"
            }
            (false, _) => "see above",
        };
        Err(Failure::failed(format!(
            "{incomplete} of {objects} objects are not in the cache as a whole: {remedy}"
        )))
    }

    /// How much of an object is missing or damaged; `None` if that cannot be told.
    async fn missing_bytes(&self, object: &ListedObject, thorough: bool) -> Option<u64> {
        let look = async {
            let cold = self.warmer.look(&object.key, &object.meta).await?;
            let right = if thorough {
                self.warmer.verify(&cold).await?
            } else {
                object.meta.size - cold.absent_bytes()
            };
            Ok::<_, WarmError>(object.meta.size - right)
        };
        match look.await {
            Ok(missing) => Some(missing),
            Err(error) => {
                tracing::info!(key = %object.key, %error, "nobody can tell what of it is in the cache");
                None
            }
        }
    }

    async fn evict(&self) -> Result<(), Failure> {
        let mut in_use = 0_u64;
        for object in &self.objects {
            match self.warmer.evict(&object.key, &object.meta).await {
                Ok(true) | Err(WarmError::Unkept) => {}
                Ok(false) => in_use += 1,
                Err(error) => return Err(Failure::failed(format!("{}: {error}", object.key))),
            }
        }
        let gone = self.objects.len() as u64 - in_use;
        let told = json!({ "removed": gone, "in_use": in_use }).to_string();
        say(&if self.json { told } else { format!("{gone} objects are not in the cache any more") })?;
        if in_use > 0 {
            note(&format!("{in_use} objects stay: mounts have them open"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, key, is_included) in [
            ("*.safetensors", "model.safetensors", true),
            ("*.safetensors", "deep/er/model.safetensors", true),
            ("*.safetensors", "model.bin", false),
            ("deep/*", "deep/model", true),
            ("deep/*", "deep/er/model", false),
            ("deep/**", "deep/er/model", true),
            ("model-0000?-of-2", "model-00001-of-2", true),
            ("{a,b}.json", "x/b.json", true),
        ] {
            assert_eq!(globs(&[pattern.to_owned()]).unwrap().is_match(key), is_included, "{pattern} {key}");
        }
        assert!(globs(&["[".to_owned()]).is_err());
    }

    #[test]
    fn a_list_has_keys_below_the_directory() {
        let keys = keys_of("a b\n\nc/d\r\n", &KeyPrefix::new("p/")).unwrap();
        assert_eq!(keys.iter().map(ObjectKey::as_str).collect::<Vec<_>>(), ["p/a b", "p/c/d"]);
    }
}
