//! How many requests one bucket may have waiting for a reply, learnt from its answers.
//!
//! Additive increase, multiplicative decrease: an answer that asks for fewer requests lowers the limit to 0.7 of itself, a whole
//! limit's worth of good answers raises it by one. It starts at the maximum: a store that never throttles never notices it.
//! A turn covers a request until its reply's headers are here, not its body: a reader that leaves a body unread must not be able to
//! stop the listings of the same mount.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a throttled answer leaves of the limit.
const DECREASE: f64 = 0.7;

/// A gate that lets a limited, changing number of requests through, in the order they came.
#[derive(Debug)]
pub struct Limiter {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    max: f64,
}

#[derive(Debug)]
struct State {
    /// Between 1 and the maximum; its whole part counts.
    limit: f64,
    /// Turns that were taken before the limit fell below their number: they vanish instead of returning.
    owed: usize,
    /// Counts the decreases. Turns taken before the last one say nothing new by failing too.
    epoch: u64,
}

/// The right to have one request under way; returned when dropped.
#[derive(Debug)]
pub struct Turn {
    limiter: Arc<Limiter>,
    permit: Option<OwnedSemaphorePermit>,
    epoch: u64,
}

impl Limiter {
    /// A gate for at most `max` requests at once, at least one.
    pub fn new(max: u32) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(max as usize)),
            state: Mutex::new(State { limit: f64::from(max), owed: 0, epoch: 0 }),
            max: f64::from(max),
        })
    }

    /// Waits for a turn. Cancel-safe: a dropped wait leaves the queue.
    pub async fn turn(self: &Arc<Self>) -> Turn {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the gate is never closed");
        self.of(permit)
    }

    /// A turn that nobody waits for, if there is one.
    pub fn spare_turn(self: &Arc<Self>) -> Option<Turn> {
        Some(self.of(Arc::clone(&self.permits).try_acquire_owned().ok()?))
    }

    fn of(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Turn {
        let epoch = self.state.lock().epoch;
        Turn { limiter: Arc::clone(self), permit: Some(permit), epoch }
    }

    /// How many requests may be under way now.
    pub fn limit(&self) -> u32 {
        whole(self.state.lock().limit)
    }

    fn succeeded(&self) {
        let mut state = self.state.lock();
        let old = whole(state.limit);
        state.limit = (state.limit + 1.0 / state.limit).min(self.max);
        if whole(state.limit) > old {
            if state.owed > 0 { state.owed -= 1 } else { self.permits.add_permits(1) }
        }
    }

    fn throttled(&self, epoch: u64) {
        let mut state = self.state.lock();
        // A burst of refusals of requests that were sent together is one piece of news.
        if epoch != state.epoch {
            return;
        }
        state.epoch += 1;
        let old = whole(state.limit);
        state.limit = (state.limit * DECREASE).max(1.0);
        let fewer = (old - whole(state.limit)) as usize;
        state.owed += fewer - self.permits.forget_permits(fewer);
    }
}

#[expect(clippy::cast_sign_loss, reason = "limits lie between 1 and the maximum, a u32")]
fn whole(limit: f64) -> u32 {
    limit as u32
}

impl Turn {
    /// The server answered as it should: the limit may grow.
    pub fn succeeded(self) {
        self.limiter.succeeded();
    }

    /// The server asked for fewer requests.
    pub fn throttled(self) {
        self.limiter.throttled(self.epoch);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.limiter.state.lock();
        if state.owed > 0 {
            state.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// How many turns can be had at once.
    fn free(limiter: &Arc<Limiter>) -> usize {
        let turns: Vec<Turn> = std::iter::from_fn(|| limiter.turn().now_or_never()).collect();
        turns.len()
    }

    fn take(limiter: &Arc<Limiter>, n: usize) -> Vec<Turn> {
        (0..n).map(|_| limiter.turn().now_or_never().expect("a free turn")).collect()
    }

    #[test]
    fn a_throttled_answer_takes_three_tenths() {
        let limiter = Limiter::new(100);
        take(&limiter, 1).remove(0).throttled();
        assert_eq!((limiter.limit(), free(&limiter)), (70, 70));
    }

    #[test]
    fn refusals_of_one_burst_count_once() {
        let limiter = Limiter::new(100);
        take(&limiter, 100).into_iter().for_each(Turn::throttled);
        assert_eq!((limiter.limit(), free(&limiter)), (70, 70));
    }

    #[test]
    fn turns_above_a_lowered_limit_vanish_when_they_end() {
        let limiter = Limiter::new(10);
        let mut turns = take(&limiter, 10);
        turns.remove(0).throttled();
        assert_eq!(limiter.limit(), 7);
        assert_eq!(free(&limiter), 0, "nine are under way");
        turns.truncate(7);
        assert_eq!(free(&limiter), 0, "seven are under way");
        turns.truncate(5);
        assert_eq!(free(&limiter), 2);
    }

    #[test]
    fn the_limit_never_falls_below_one() {
        let limiter = Limiter::new(4);
        for _ in 0..20 {
            take(&limiter, 1).remove(0).throttled();
        }
        assert_eq!((limiter.limit(), free(&limiter)), (1, 1));
    }

    #[test]
    fn good_answers_raise_it_slowly_and_not_past_the_maximum() {
        let limiter = Limiter::new(10);
        take(&limiter, 1).remove(0).throttled();
        for _ in 0..8 {
            take(&limiter, 1).remove(0).succeeded();
        }
        assert_eq!(
            (limiter.limit(), free(&limiter)),
            (8, 8),
            "about one limit's worth of answers for one more"
        );
        for _ in 0..1000 {
            take(&limiter, 1).remove(0).succeeded();
        }
        assert_eq!((limiter.limit(), free(&limiter)), (10, 10));
    }

    #[test]
    fn a_spare_turn_is_one_that_nobody_needs() {
        let limiter = Limiter::new(2);
        let first = limiter.spare_turn().expect("two are free");
        let _second = limiter.spare_turn().expect("one is free");
        assert!(limiter.spare_turn().is_none());
        let mut waiting = Box::pin(limiter.turn());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(limiter.spare_turn().is_none(), "whoever waits comes first");
        assert!(waiting.now_or_never().is_some());
    }

    #[test]
    fn a_turn_that_is_only_dropped_changes_nothing() {
        let limiter = Limiter::new(3);
        drop(take(&limiter, 3));
        assert_eq!((limiter.limit(), free(&limiter)), (3, 3));
    }
}
