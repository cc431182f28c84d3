//! A second request for a reply that is late, where the store's replies are seldom as late.
//!
//! `hedged` runs both in the caller's task and hands out the first good answer; [`HedgeBudget`] bounds what that costs. Whether a reply
//! is late is judged by [`first_byte`](crate::first_byte), what the requests are is the caller's.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use crate::error::Result;

/// What one second request costs. Each first one brings the percentage that is configured.
const COST: u32 = 100;
/// Second requests that may be saved up, so that a burst of connections that all went dead is met at once.
const MOST_SAVED: u32 = 10;

/// The right to send second requests: a percentage of the first ones, and one to begin with.
#[derive(Debug)]
pub struct HedgeBudget {
    percent: u32,
    saved: u32,
}

impl HedgeBudget {
    /// At most `percent` second requests to a hundred first ones; none at all for 0.
    pub fn new(percent: u32) -> Self {
        Self { percent, saved: if percent == 0 { 0 } else { COST } }
    }

    /// A first request is sent.
    pub fn earn(&mut self) {
        self.saved = self.saved.saturating_add(self.percent).min(COST * MOST_SAVED);
    }

    /// Whether a second request may be sent; if so, it is paid for.
    pub fn spend(&mut self) -> bool {
        let enough = self.saved >= COST;
        if enough {
            self.saved -= COST;
        }
        enough
    }
}

/// The first good answer of `first` and of the request that `second` makes if the first has not answered `after` it began.
///
/// An answer is good if it is no error, or one that no repetition mends. The other request is dropped then. A second request that fails
/// changes nothing: the first is waited for as if it were alone. If the first fails, the second is waited for, and if both do, the error
/// is the first's. Cancel-safe: dropping the future drops both.
///
/// # Errors
/// Those of the requests.
pub(crate) async fn hedged<T, S>(
    first: impl Future<Output = Result<T>>,
    after: Duration,
    second: impl FnOnce() -> Option<S>,
) -> Result<T>
where
    S: Future<Output = Result<T>>,
{
    let mut first = pin!(first);
    if let Ok(answer) = timeout(after, first.as_mut()).await {
        return answer;
    }
    let Some(second) = second() else { return first.await };
    let mut second = pin!(second);
    tokio::select! {
        biased;
        answer = &mut first => match answer {
            Err(error) if error.kind().is_retryable() => {
                second.await.map_err(|later| if later.kind().is_retryable() { error } else { later })
            }
            good => good,
        },
        answer = &mut second => match answer {
            Err(error) if error.kind().is_retryable() => first.await,
            good => good,
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::error::{Error, ErrorKind};

    /// An answer after some milliseconds: the text, or an error.
    type Answer = (u64, Result<&'static str, ErrorKind>);

    async fn answer((ms, text): Answer) -> Result<&'static str> {
        sleep(Duration::from_millis(ms)).await;
        text.map_err(|kind| Error::new(kind, "get"))
    }

    /// What comes of two requests, the second sent after 100 ms if at all, and after how many milliseconds.
    async fn raced(first: Answer, second: Option<Answer>) -> (Result<&'static str, ErrorKind>, u128) {
        let start = Instant::now();
        let result = hedged(answer(first), Duration::from_millis(100), || second.map(answer)).await;
        (result.map_err(|e| e.kind()), start.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_wins() {
        use ErrorKind::{NotFound, Throttled, Transient};
        for (what, first, second, expected) in [
            ("in time", (99, Ok("first")), Some((0, Ok("second"))), (Ok("first"), 99)),
            ("fails in time", (99, Err(Transient)), Some((0, Ok("second"))), (Err(Transient), 99)),
            ("not paid for", (5000, Ok("first")), None, (Ok("first"), 5000)),
            ("second is faster", (5000, Ok("first")), Some((30, Ok("second"))), (Ok("second"), 130)),
            ("first is faster", (120, Ok("first")), Some((30, Ok("second"))), (Ok("first"), 120)),
            ("second fails", (500, Ok("first")), Some((30, Err(Throttled))), (Ok("first"), 500)),
            ("first fails", (110, Err(Transient)), Some((30, Ok("second"))), (Ok("second"), 130)),
            ("both fail", (110, Err(Transient)), Some((30, Err(Throttled))), (Err(Transient), 130)),
            (
                "both fail, second first",
                (150, Err(Transient)),
                Some((30, Err(Throttled))),
                (Err(Transient), 150),
            ),
            ("second is final", (5000, Ok("first")), Some((30, Err(NotFound))), (Err(NotFound), 130)),
            ("first is final", (110, Err(NotFound)), Some((30, Ok("second"))), (Err(NotFound), 110)),
            (
                "first fails, second is final",
                (110, Err(Transient)),
                Some((30, Err(NotFound))),
                (Err(NotFound), 130),
            ),
        ] {
            assert_eq!(raced(first, second).await, expected, "{what}");
        }
    }

    #[test]
    fn second_requests_are_a_percentage_of_the_first() {
        let mut budget = HedgeBudget::new(5);
        let sent = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(sent.count(), 51, "one to begin with, then five of a hundred");
    }

    #[test]
    fn a_few_are_saved_up_and_no_more() {
        let mut budget = HedgeBudget::new(5);
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
        let mut none = HedgeBudget::new(0);
        (0..100_000).for_each(|_| none.earn());
        assert!(!none.spend());
    }
}
