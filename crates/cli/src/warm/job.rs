//! A warm-up: some objects, and how far it is with them.
//!
//! Each object is looked up in the cache first, and only what is absent is fetched, so that a warm-up which was interrupted goes on where
//! it was. At the end all of it is looked up again: a cache that is too small has evicted some.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sluicefs_core::{WarmError, Warmer};
use sluicefs_s3_client::ListedObject;

use super::chosen::Chosen;
use crate::failure::Failure;

/// So many objects are looked at or fetched at a time: small ones need many to fill the requests.
pub(super) const OBJECTS_AT_ONCE: usize = 64;

/// Of so many objects that failed each is told between two looks at the job; of others that there were some.
const MAX_FAILURES: usize = 1000;

/// What is to be done with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Bring them into the cache.
    Fetch,
    /// Tell whether they are there, and right.
    Check,
    /// Remove them.
    Evict,
}

impl Task {
    const ALL: [Self; 3] = [Self::Fetch, Self::Check, Self::Evict];

    /// As it is called between a command and a mount.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Check => "check",
            Self::Evict => "evict",
        }
    }

    /// What is called so.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.word() == word)
    }
}

/// What became of the bytes and objects.
#[derive(Debug, Default)]
struct Tally {
    fetched_bytes: AtomicU64,
    present_bytes: AtomicU64,
    failed: AtomicU64,
    /// Those that nobody was told of yet.
    failures: Mutex<Vec<Value>>,
}

/// What is to be done with which objects. Any number of tasks may look at how far it is.
#[derive(Debug)]
pub(crate) struct Job {
    warmer: Warmer,
    objects: Vec<ListedObject>,
    tally: Tally,
}

impl Job {
    /// Finds out which objects are meant.
    ///
    /// # Errors
    /// As [`Chosen::objects`]; if there are none.
    pub(crate) async fn new(warmer: Warmer, chosen: &Chosen) -> Result<Self, Failure> {
        let objects = chosen.objects(&**warmer.bucket()).await?;
        if objects.is_empty() {
            return Err(Failure::failed(format!(
                "there is nothing at {}/{} that was asked for",
                warmer.bucket().identity().name,
                chosen.prefix()
            )));
        }
        Ok(Self { warmer, objects, tally: Tally::default() })
    }

    /// Does it, and tells the outcome: for [`conclusion`](super::conclusion). Cancel-safe: what got into the cache stays.
    ///
    /// # Errors
    /// If the disk failed.
    pub(crate) async fn run(&self, task: Task) -> Result<Value, Failure> {
        match task {
            Task::Evict => return self.evict().await,
            Task::Fetch => self.fetch().await,
            Task::Check => {}
        }
        Ok(self.check(task).await)
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Value {
        let done = &self.tally;
        json!({
            "fetched_bytes": done.fetched_bytes.load(Ordering::Relaxed),
            "present_bytes": done.present_bytes.load(Ordering::Relaxed),
            "total_bytes": self.total_bytes(),
        })
    }

    /// Objects that did not get into the cache since this was asked last, each with why.
    pub(crate) fn failures(&self) -> Vec<Value> {
        std::mem::take(&mut *self.tally.failures.lock())
    }

    fn total_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.meta.size).sum()
    }

    async fn fetch(&self) {
        let each =
            stream::iter(0..self.objects.len()).for_each_concurrent(OBJECTS_AT_ONCE, |index| async move {
                let object = &self.objects[index];
                if let Err(error) = self.fetch_one(object).await {
                    self.tally.failed.fetch_add(1, Ordering::Relaxed);
                    let mut failures = self.tally.failures.lock();
                    if failures.len() < MAX_FAILURES {
                        failures
                            .push(json!({ "failed_key": object.key.as_str(), "reason": error.to_string() }));
                    }
                }
            });
        each.await;
    }

    async fn fetch_one(&self, object: &ListedObject) -> Result<(), WarmError> {
        let cold = self.warmer.look(&object.key, &object.meta).await?;
        let present = object.meta.size - cold.absent_bytes();
        self.tally.present_bytes.fetch_add(present, Ordering::Relaxed);
        let on_disk = |bytes| {
            self.tally.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        self.warmer.fetch(&cold, &on_disk).await
    }

    /// Whether all of it is there; to check it, whether each block is right, too.
    async fn check(&self, task: Task) -> Value {
        let objects = stream::iter(0..self.objects.len());
        let looked = objects.map(|index| self.missing_bytes(&self.objects[index], task));
        let missing: Vec<Option<u64>> = looked.buffered(OBJECTS_AT_ONCE).collect().await;
        json!({
            "objects": self.objects.len(),
            "incomplete_objects": missing.iter().filter(|missing| **missing != Some(0)).count(),
            "failed_objects": self.tally.failed.load(Ordering::Relaxed),
            "total_bytes": self.total_bytes(),
            "fetched_bytes": self.tally.fetched_bytes.load(Ordering::Relaxed),
            "missing_bytes": missing.iter().flatten().sum::<u64>(),
        })
    }

    /// How much of an object is missing or damaged; `None` if that cannot be told.
    async fn missing_bytes(&self, object: &ListedObject, task: Task) -> Option<u64> {
        let look = async {
            let cold = self.warmer.look(&object.key, &object.meta).await?;
            let right = match task {
                Task::Check => self.warmer.verify(&cold).await?,
                Task::Fetch | Task::Evict => object.meta.size - cold.absent_bytes(),
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

    async fn evict(&self) -> Result<Value, Failure> {
        let mut in_use = 0_u64;
        for object in &self.objects {
            match self.warmer.evict(&object.key, &object.meta).await {
                Ok(true) | Err(WarmError::Unkept) => {}
                Ok(false) => in_use += 1,
                Err(error) => return Err(Failure::failed(format!("{}: {error}", object.key))),
            }
        }
        Ok(json!({ "removed": self.objects.len() as u64 - in_use, "in_use": in_use }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_known_by_their_words() {
        for task in Task::ALL {
            assert_eq!(Task::parse(task.word()), Some(task));
        }
        assert_eq!(Task::parse("burn"), None);
    }
}
