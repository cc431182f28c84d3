//! The warm-up of a mount: what it brings into its cache by itself once it is mounted.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use sluicefs_core::FileSystem;
use sluicefs_s3_client::KeyPrefix;
use tokio::sync::watch;

use crate::args::{MountArgs, REQUESTS};
use crate::failure::Failure;
use crate::warm::{Chosen, Job, Task, conclusion, config};

/// What to warm up, and how far that is.
#[derive(Debug)]
pub(super) struct WarmUp {
    patterns: Vec<String>,
    chosen: Chosen,
    when_ready: Ready,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

/// When the mount is ready for those who use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// When it answers.
    AtOnce,
    /// When the warm-up has ended, well or not.
    Warm,
}

#[derive(Debug)]
enum State {
    Listing,
    Fetching(Arc<Job>),
    Complete(Value),
    Failed(String),
}

impl WarmUp {
    /// The warm-up that was asked for, if any was, of a mount of what is below `prefix`.
    ///
    /// # Errors
    /// If a pattern makes no sense.
    pub(super) fn new(args: &MountArgs, prefix: KeyPrefix) -> Result<Option<Self>, Failure> {
        let patterns = args.reading.warm.clone();
        if patterns.is_empty() {
            return Ok(None);
        }
        let chosen = Chosen::new((prefix, true), &patterns, None)
            .map_err(|failure| Failure::usage(format!("--warm: {failure}")))?;
        let when_ready = if args.reading.warm_wait { Ready::Warm } else { Ready::AtOnce };
        let (state, ended) = (Mutex::new(State::Listing), watch::Sender::new(false));
        Ok(Some(Self { patterns, chosen, when_ready, state, ended }))
    }

    /// Does it. Cancel-safe: what got into the cache stays.
    pub(super) async fn run(&self, fs: &FileSystem) {
        let state = match self.fetch(fs).await {
            Ok(outcome) => {
                tracing::info!(%outcome, "the warm-up is complete");
                State::Complete(outcome)
            }
            Err(failure) => {
                tracing::error!(%failure, "the warm-up failed; what is not in the cache is read from the store");
                State::Failed(failure.to_string())
            }
        };
        *self.state.lock() = state;
        self.ended.send_replace(true);
    }

    async fn fetch(&self, fs: &FileSystem) -> Result<Value, Failure> {
        let warmer = fs.warmer(config(REQUESTS)).map_err(|error| Failure::failed(error.to_string()))?;
        let warmer = warmer.expect("a warm-up without a cache is refused before anything is mounted");
        let job = Arc::new(Job::new(warmer, &self.chosen).await?);
        *self.state.lock() = State::Fetching(Arc::clone(&job));
        let outcome = job.run(Task::Fetch).await?;
        for failure in job.failures() {
            tracing::warn!(%failure, "not brought into the cache");
        }
        let (_, verdict) = conclusion(Task::Fetch, &outcome);
        verdict.map(|()| outcome)
    }

    /// Waits until the mount is ready; returns what went wrong with the warm-up, if that was waited for. Cancel-safe.
    pub(super) async fn ready(&self) -> Option<String> {
        if self.when_ready == Ready::AtOnce {
            return None;
        }
        // The sender is our own.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
        match &*self.state.lock() {
            State::Failed(why) => Some(why.clone()),
            State::Listing | State::Fetching(_) | State::Complete(_) => None,
        }
    }

    /// Whether somebody waits for it, and it has not ended.
    pub(super) fn is_awaited(&self) -> bool {
        self.when_ready == Ready::Warm && !*self.ended.borrow()
    }

    /// How far it is.
    pub(super) fn status(&self) -> Value {
        let (state, progress, error) = match &*self.state.lock() {
            State::Listing => ("listing", Value::Null, None),
            State::Fetching(job) => ("fetching", job.progress(), None),
            State::Complete(outcome) => ("complete", outcome.clone(), None),
            State::Failed(why) => ("failed", Value::Null, Some(why.clone())),
        };
        json!({ "patterns": self.patterns, "state": state, "progress": progress, "error": error })
    }
}
