//! Files that are removed at the store a moment later than for this mount, many by one request.
//!
//! Removed objects wait here. They are sent when a request is full, a moment after the first, or when somebody needs them gone: who syncs
//! a directory, removes or renames one, makes the name anew, or unmounts. An object that cannot be removed gives the file its name back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sluicefs_s3_client::{self as s3, Bucket, MAX_DELETE_KEYS, ObjectKey};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::attr::InodeNo;
use crate::error::{Error, Result};

/// So long an object waits for others.
const DELAY: Duration = Duration::from_millis(200);

/// Who removes more waits until some of these are gone.
const MAX_PENDING: usize = 10_000;

/// The name that a file had.
#[derive(Debug, Clone)]
pub(crate) struct Removal {
    pub(crate) parent: InodeNo,
    pub(crate) name: Box<str>,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The store has removed the object.
    Done,
    /// It has not.
    Failed,
}

/// Told of the end of each removal.
pub(crate) type OnEnd = Box<dyn Fn(&Removal, Outcome) + Send + Sync>;

/// How many files wait to be removed at the store, and how many could not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemovalStats {
    /// Those that the store has not acknowledged yet.
    pub pending: usize,
    /// Those that are there again.
    pub failed: u64,
}

/// The removals of one mount that are not done yet.
pub(crate) struct Removals {
    bucket: Arc<dyn Bucket>,
    runtime: Handle,
    on_end: OnEnd,
    state: Mutex<State>,
    /// Told when a request has ended.
    ended: Notify,
    failed: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<ObjectKey, Removal>,
    under_way: FxHashMap<ObjectKey, u64>,
    /// Of the removals so far, each of which has a number.
    count: u64,
    /// A task will send what waits.
    is_timed: bool,
    /// A failure that nobody was told of yet.
    failure: Option<Error>,
}

impl Removals {
    pub(crate) fn new(bucket: Arc<dyn Bucket>, runtime: Handle, on_end: OnEnd) -> Arc<Self> {
        let (state, ended, failed) = Default::default();
        Arc::new(Self { bucket, runtime, on_end, state, ended, failed })
    }

    pub(crate) fn stats(&self) -> RemovalStats {
        let state = self.state.lock();
        RemovalStats { pending: state.pending(), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// The object `key` is to be removed. Waits while too many are.
    ///
    /// Dropping the future before that removes nothing.
    pub(crate) async fn add(self: &Arc<Self>, key: ObjectKey, removal: Removal) {
        loop {
            let ended = self.ended.notified();
            {
                let mut state = self.state.lock();
                if state.pending() < MAX_PENDING {
                    state.waiting.insert(key, removal);
                    self.send_in_time(&mut state);
                    return;
                }
                self.send(&mut state);
            }
            ended.await;
        }
    }

    /// Returns when everything that was to be removed before is gone.
    ///
    /// # Errors
    /// Why some could not be removed, since somebody was told last.
    pub(crate) async fn flush(self: &Arc<Self>) -> Result<()> {
        let last = {
            let mut state = self.state.lock();
            self.send(&mut state);
            state.count
        };
        loop {
            let ended = self.ended.notified();
            {
                let mut state = self.state.lock();
                if state.under_way.values().all(|number| *number > last) {
                    return state.failure.take().map_or(Ok(()), Err);
                }
            }
            ended.await;
        }
    }

    /// Returns when the object `key` is not about to be removed: it may be made anew.
    pub(crate) async fn ended(self: &Arc<Self>, key: &ObjectKey) {
        loop {
            let ended = self.ended.notified();
            {
                let mut state = self.state.lock();
                if state.waiting.contains_key(key) {
                    self.send(&mut state);
                }
                if !state.under_way.contains_key(key) {
                    return;
                }
            }
            ended.await;
        }
    }

    fn send_in_time(self: &Arc<Self>, state: &mut State) {
        if state.waiting.len() >= MAX_DELETE_KEYS {
            return self.send(state);
        }
        if !std::mem::replace(&mut state.is_timed, true) {
            let this = Arc::clone(self);
            self.runtime.spawn(async move {
                sleep(DELAY).await;
                let mut state = this.state.lock();
                state.is_timed = false;
                this.send(&mut state);
            });
        }
    }

    /// Sends what waits.
    fn send(self: &Arc<Self>, state: &mut State) {
        while !state.waiting.is_empty() {
            let mut batch = BTreeMap::new();
            while batch.len() < MAX_DELETE_KEYS
                && let Some((key, removal)) = state.waiting.pop_first()
            {
                state.count += 1;
                state.under_way.insert(key.clone(), state.count);
                batch.insert(key, removal);
            }
            let this = Arc::clone(self);
            self.runtime.spawn(async move { this.remove(batch).await });
        }
    }

    async fn remove(&self, batch: BTreeMap<ObjectKey, Removal>) {
        let keys: Vec<ObjectKey> = batch.keys().cloned().collect();
        let removed = match &*keys {
            [key] => self.bucket.delete(key).await.map(|()| Vec::new()),
            keys => self.bucket.delete_many(keys).await,
        };
        let (all, some): (Option<s3::Error>, FxHashMap<_, _>) = match removed {
            Ok(failed) => (None, failed.into_iter().collect()),
            Err(error) => (Some(error), FxHashMap::default()),
        };
        let mut failure = None;
        for (key, removal) in &batch {
            let outcome = match some.get(key).or(all.as_ref()) {
                None => Outcome::Done,
                Some(error) => {
                    tracing::error!(%key, %error, "a removed file could not be removed at the store, and is there again");
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    failure = Some(Error::from_store("unlink", error.clone()).with_name(key.as_str()));
                    Outcome::Failed
                }
            };
            (self.on_end)(removal, outcome);
        }
        let mut state = self.state.lock();
        keys.iter().for_each(|key| _ = state.under_way.remove(key));
        state.failure = failure.or(state.failure.take());
        drop(state);
        self.ended.notify_waiters();
    }
}

impl State {
    fn pending(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }
}

impl fmt::Debug for Removals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removals").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
