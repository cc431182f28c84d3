//! Fails a read that waits although nothing moves any more.
//!
//! Requests have time limits of their own, and memory comes back as fetches end, so that a read always ends. What remains is what this process
//! cannot see: a disk below the cache that does not answer, or something that the mount itself needs and that lies in the mount, such as a
//! file with credentials. A process that waits for a page of a mount cannot be killed, so somebody has to give up.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use sluicefs_s3_client::ObjectKey;
use tokio::time::timeout;

use super::stats::Counters;
use crate::error::{Error, ErrorKind, Result};

/// When one read was given up, what it held may let the others go on: they get a time of the limit over this.
const LAST_CHANCE: u32 = 16;

/// Why such a read fails.
const STUCK: &str = "nothing that was being read has got on for too long";

/// Watches the reads of one file system.
#[derive(Debug)]
pub(super) struct Watchdog {
    limit: Duration,
    counters: Arc<Counters>,
    ended: AtomicU64,
    given_up: AtomicU64,
}

impl Watchdog {
    /// One that fails a read when for `limit` no byte was fetched and no read that waited ended.
    pub(super) fn new(limit: Duration, counters: Arc<Counters>) -> Self {
        Self { limit, counters, ended: AtomicU64::new(0), given_up: AtomicU64::new(0) }
    }

    fn moves(&self) -> u64 {
        self.ended.load(Ordering::Relaxed) + self.counters.bytes_fetched.load(Ordering::Relaxed)
    }

    /// Gives what `read` of `key` gives. One that does not wait costs nothing. Cancel-safe if `read` is.
    ///
    /// # Errors
    /// Those of `read`; `Io` if it still waits after a time in which nothing moved. Others that wait get a little more.
    pub(super) async fn watch<T>(&self, key: &ObjectKey, read: impl Future<Output = Result<T>>) -> Result<T> {
        let mut read = pin!(read);
        if let Poll::Ready(done) = futures::poll!(read.as_mut()) {
            return done;
        }
        let mut limit = self.limit;
        loop {
            let (moves, given_up) = (self.moves(), self.given_up.load(Ordering::Relaxed));
            if let Ok(done) = timeout(limit, read.as_mut()).await {
                self.ended.fetch_add(1, Ordering::Relaxed);
                return done;
            }
            let had_its_chance = limit < self.limit;
            if self.moves() != moves {
                limit = self.limit;
            } else if self.given_up.load(Ordering::Relaxed) != given_up && !had_its_chance {
                limit = self.limit / LAST_CHANCE;
            } else {
                self.given_up.fetch_add(1, Ordering::Relaxed);
                return Err(self.give_up(key));
            }
        }
    }

    fn give_up(&self, key: &ObjectKey) -> Error {
        let seconds = self.limit.as_secs();
        tracing::error!(
            "a read of {key} was given up: {STUCK} ({seconds} s). Does the mount need a file that lies in it, or a disk that does not answer?"
        );
        Error::new(ErrorKind::Io, "read").with_name(key.as_str()).because(STUCK)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::FutureExt;
    use tokio::time::{Instant, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(100);

    fn key() -> ObjectKey {
        ObjectKey::new("model").expect("a legal key")
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_is_given_up_when_nothing_moves() {
        let watchdog = Watchdog::new(LIMIT, Arc::default());
        let start = Instant::now();
        let error = watchdog.watch(&key(), pending::<Result<()>>()).await.expect_err("it never ends");
        assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Io, LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_while_anything_moves() {
        let watchdog = Watchdog::new(LIMIT, Arc::default());
        let start = Instant::now();
        let mover = async {
            for _ in 0..10 {
                sleep(LIMIT / 2).await;
                Counters::add(&watchdog.counters.bytes_fetched, 1);
            }
            pending::<()>().await;
        };
        let key = key();
        let read = watchdog.watch(&key, pending::<Result<()>>());
        let error = tokio::select! { error = read => error, () = mover => unreachable!("it is pending") };
        assert_eq!(error.expect_err("it never ends").kind(), ErrorKind::Io);
        assert!(start.elapsed() > 5 * LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_those_that_wait_is_given_up_at_a_time() {
        let watchdog = Watchdog::new(LIMIT, Arc::default());
        let key = key();
        let early = watchdog.watch(&key, pending::<Result<()>>());
        let late = async {
            sleep(LIMIT / 2).await;
            // What fails in the middle of its time counts as a move.
            watchdog.watch(&key, sleep(LIMIT).map(Ok)).await
        };
        let (early, late) = tokio::join!(early, late);
        assert!(early.is_err() && late.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_given_up_soon_when_that_helps_nobody() {
        let watchdog = Watchdog::new(LIMIT, Arc::default());
        let (key, start) = (key(), Instant::now());
        let all = (0..64).map(|_| watchdog.watch(&key, pending::<Result<()>>()));
        let ended = futures::future::join_all(all).await;
        assert!(ended.iter().all(Result::is_err));
        assert!(start.elapsed() <= LIMIT + LIMIT / LAST_CHANCE, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_is_not_watched() {
        let watchdog = Watchdog::new(Duration::ZERO, Arc::default());
        assert_eq!(watchdog.watch(&key(), async { Ok(7) }).await.expect("it is ready"), 7);
    }
}
