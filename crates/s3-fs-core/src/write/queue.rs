//! The files that were acknowledged and are not at the store yet: sent a few at a time, and again after a pause when that fails, until the mount
//! ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluicefs_s3_client::ObjectKey;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::draft::Draft;
use crate::error::{Error, ErrorKind};

/// So many files are sent at once; each may have many parts under way.
const SENT_AT_ONCE: usize = 8;

/// With so many files waiting, closing another one waits for the store.
const MAX_QUEUED: usize = 10_000;

/// How long the first pause is, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A file that was acknowledged and is not at the store yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedFile {
    /// Where its object will be.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Where its bytes are kept.
    pub kept_in: PathBuf,
    /// What it is doing.
    pub state: QueuedState,
    /// How often sending it failed.
    pub failures: u32,
    /// Why it did the last time.
    pub error: Option<String>,
}

/// What a file in the queue is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueuedState {
    /// It waits for its turn.
    Waiting,
    /// It is being sent.
    Sending,
    /// It is sent again when so much time is over.
    Paused(Duration),
    /// Somebody else replaced the object since: it is not sent again by this mount unless it is written to.
    Conflict,
}

/// The queue of one mount.
#[derive(Debug)]
pub(crate) struct UploadQueue {
    state: Mutex<State>,
    turns: Semaphore,
    /// Told when a task has ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By the numbers of their drafts: a file that has another one is another file here.
    files: BTreeMap<u64, Queued>,
    /// Nobody gets a turn.
    is_held: bool,
    /// The mount ends: each file has one attempt more.
    is_closing: bool,
    /// And one of them failed, so that the others need not try.
    is_store_away: bool,
}

#[derive(Debug)]
struct Queued {
    draft: Arc<Draft>,
    doing: Doing,
    failures: u32,
    error: Option<String>,
    /// It was saved again since the attempt began.
    is_renewed: bool,
    /// A task has it.
    is_served: bool,
    /// Its last attempt failed when the mount had ended.
    is_given_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Waiting,
    Sending,
    Paused(Instant),
    Conflict,
}

/// What the task of a file does next.
enum Next {
    Try,
    Wait(Option<Instant>),
    End,
}

impl State {
    /// All tasks look at the state.
    fn tell_all(&self) {
        self.files.values().for_each(|queued| queued.draft.moved.notify_waiters());
    }
}

impl Default for UploadQueue {
    fn default() -> Self {
        Self { state: Mutex::default(), turns: Semaphore::new(SENT_AT_ONCE), ended: Notify::new() }
    }
}

impl UploadQueue {
    /// Nothing more is sent until [`resume`](Self::resume).
    pub(crate) fn hold(&self) {
        if !std::mem::replace(&mut self.state.lock().is_held, true) {
            self.turns.forget_permits(SENT_AT_ONCE);
        }
    }

    /// What was held is sent.
    pub(crate) fn resume(&self) {
        if std::mem::replace(&mut self.state.lock().is_held, false) {
            self.turns.add_permits(SENT_AT_ONCE);
        }
    }

    /// Whether no more files should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.state.lock().files.len() >= MAX_QUEUED
    }

    /// Adds `draft`, which was saved; true if nobody serves it yet: then [`serve`](Self::serve) has to.
    pub(crate) fn add(&self, draft: &Arc<Draft>) -> bool {
        let mut state = self.state.lock();
        let queued = state.files.entry(draft.number).or_insert_with(|| Queued {
            draft: Arc::clone(draft),
            doing: Doing::Waiting,
            failures: 0,
            error: None,
            is_renewed: true,
            is_served: false,
            is_given_up: false,
        });
        queued.is_renewed = true;
        let is_new = !std::mem::replace(&mut queued.is_served, true);
        drop(state);
        draft.moved.notify_waiters();
        is_new
    }

    /// Sends `draft` until the store has what was saved last, it has no name any more, or the mount ends.
    pub(crate) async fn serve(&self, draft: &Draft) {
        loop {
            // Also told when its object was made, or is none any more, whoever did that.
            let mut moved = std::pin::pin!(draft.moved.notified());
            moved.as_mut().enable();
            match self.next(draft) {
                Next::End => return self.ended.notify_waiters(),
                Next::Try => self.attempt(draft.number).await,
                Next::Wait(None) => moved.await,
                Next::Wait(Some(until)) => tokio::select! {
                    () = moved => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn next(&self, draft: &Draft) -> Next {
        let mut state = self.state.lock();
        let (is_closing, is_store_away) = (state.is_closing, state.is_store_away);
        if !draft.is_saved() || !draft.needs_commit() {
            // It was sent, removed, or is being written to: then it is added again when that is closed.
            state.files.remove(&draft.number);
        }
        let Some(queued) = state.files.get_mut(&draft.number) else { return Next::End };
        if is_store_away || queued.is_given_up {
            queued.is_served = false;
            return Next::End;
        }
        match queued.doing {
            _ if queued.is_renewed => Next::Try,
            Doing::Conflict if is_closing => {
                queued.is_served = false;
                Next::End
            }
            Doing::Conflict => Next::Wait(None),
            Doing::Paused(until) if !is_closing && until > Instant::now() => Next::Wait(Some(until)),
            Doing::Waiting | Doing::Sending | Doing::Paused(_) => Next::Try,
        }
    }

    async fn attempt(&self, number: u64) {
        self.set(number, Doing::Waiting);
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let draft = {
            let mut state = self.state.lock();
            if state.is_store_away {
                return;
            }
            let Some(queued) = state.files.get_mut(&number) else { return };
            (queued.doing, queued.is_renewed) = (Doing::Sending, false);
            Arc::clone(&queued.draft)
        };
        if let Err(error) = draft.commit_saved().await {
            self.failed(number, &error);
        }
    }

    fn failed(&self, number: u64, error: &Error) {
        let mut state = self.state.lock();
        let is_closing = state.is_closing;
        let Some(queued) = state.files.get_mut(&number) else { return };
        queued.failures += 1;
        queued.error = Some(error.to_string());
        let (key, kept_in) = (queued.draft.key(), queued.draft.kept_in().unwrap_or_default());
        if error.kind() == ErrorKind::Stale {
            queued.doing = Doing::Conflict;
            tracing::error!(%key, %error, kept_in = %kept_in.display(), "a file that was closed is not sent: somebody else replaced its object meanwhile. It is kept; `sluicefs status` tells the remedy");
            return;
        }
        let pause = pause(queued.failures);
        queued.doing = Doing::Paused(Instant::now() + pause);
        match queued.failures {
            1 => {
                tracing::warn!(%key, %error, kept_in = %kept_in.display(), "a file that was closed could not be sent yet; it is kept, and sent again")
            }
            failures => {
                tracing::info!(%key, %error, failures, pause_s = pause.as_secs(), "a file that was closed could not be sent again")
            }
        }
        queued.is_given_up = is_closing;
        if is_closing && error.kind() == ErrorKind::Io {
            state.is_store_away = true;
            state.tell_all();
        }
    }

    fn set(&self, number: u64, doing: Doing) {
        if let Some(queued) = self.state.lock().files.get_mut(&number) {
            queued.doing = doing;
        }
    }

    /// The mount has ended: returns when the store has all files, or when an attempt has shown that it is away.
    pub(crate) async fn drain(&self) {
        self.resume();
        {
            let mut state = self.state.lock();
            state.is_closing = true;
            if !state.files.is_empty() {
                tracing::info!(files = state.files.len(), "waiting until the store has what was closed");
            }
            state.tell_all();
        }
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if !self.is_served() {
                return;
            }
            ended.await;
        }
    }

    /// Whether anything in it may still be sent.
    pub(crate) fn is_served(&self) -> bool {
        self.state.lock().files.values().any(|queued| queued.is_served)
    }

    /// What is in it.
    pub(crate) fn files(&self) -> Vec<QueuedFile> {
        let state = self.state.lock();
        let now = Instant::now();
        let file = |queued: &Queued| QueuedFile {
            key: queued.draft.key(),
            size_bytes: queued.draft.size_bytes(),
            kept_in: queued.draft.kept_in().unwrap_or_default(),
            state: match queued.doing {
                Doing::Waiting => QueuedState::Waiting,
                Doing::Sending => QueuedState::Sending,
                Doing::Paused(until) => QueuedState::Paused(until.saturating_duration_since(now)),
                Doing::Conflict => QueuedState::Conflict,
            },
            failures: queued.failures,
            error: queued.error.clone(),
        };
        state.files.values().map(file).collect()
    }
}

/// How long to wait after so many failures.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute() {
        let secs = [1, 2, 3, 6, 7, 8, u32::MAX].map(|failures| pause(failures).as_secs());
        assert_eq!(secs, [1, 2, 4, 32, 60, 60, 60]);
    }
}
