//! Decides whether a failed request is sent again, and when.
//!
//! The decision is a pure function of the error, of what was tried so far and of the time spent; the randomness is passed in.
//! [`ReliableBucket`](crate::reliable::ReliableBucket) is the one loop that acts on it. There is no quota shared between
//! buckets: one mount's bad hour must not stop another mount's retries.

use std::time::Duration;

use rand::{Rng, RngCore};

use crate::error::{Error, ErrorKind, FIRST_BYTE_TIMEOUT};
use crate::first_byte::FirstByteTimes;

/// The longest wait that a server may impose by `Retry-After`. A balancer that says an hour means its own restart, which takes seconds; a
/// reader cannot wait for the hour in any case.
pub const RETRY_AFTER_CAP: Duration = Duration::from_secs(10);

/// How often, how fast and how long a bucket is asked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryConfig {
    /// The longest wait before the second attempt; doubled for each one after it. Waits are drawn evenly from zero to this.
    pub backoff_base: Duration,
    /// The longest wait between two attempts, but for a longer `Retry-After`.
    pub backoff_cap: Duration,
    /// How long an operation may take in all until its reply begins, and how long a body may bring nothing.
    pub operation_deadline: Duration,
    /// How long one attempt of HEAD or GET may take at most until its reply's headers are here. Once it is known how fast the bucket
    /// answers, less: see [`FirstByteTimes::limit`].
    pub first_byte_timeout: Duration,
    /// How long one attempt may take to bring a whole page of a listing.
    pub page_timeout: Duration,
    /// How long nothing of a request's body may be taken. The body may take any time as long as it moves.
    pub send_timeout: Duration,
    /// How long the attempts at completing an upload or at a copy may take together: S3 works on either for minutes.
    pub finish_timeout: Duration,
    /// How long a body may bring no byte before the rest is requested anew.
    pub progress_timeout: Duration,
    /// How often an answer that contradicts its request or its checksum is asked for again.
    pub corrupt_retries: u32,
    /// How often a request is repeated after the credentials ran out.
    pub expired_retries: u32,
    /// The most requests of one bucket that wait for their reply at once.
    pub max_concurrency: u32,
    /// How many GETs may be sent a second time because their reply is late, in percent of all GETs; 0 for none.
    pub hedge_percent: u32,
    /// Fixes the jitter, for tests that must be repeatable; drawn from the operating system if `None`.
    pub jitter_seed: Option<u64>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            backoff_base: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(5),
            operation_deadline: Duration::from_secs(60),
            first_byte_timeout: Duration::from_secs(10),
            page_timeout: Duration::from_secs(20),
            send_timeout: Duration::from_secs(10),
            finish_timeout: Duration::from_secs(600),
            progress_timeout: Duration::from_secs(5),
            corrupt_retries: 2,
            expired_retries: 2,
            max_concurrency: 256,
            hedge_percent: 5,
            jitter_seed: None,
        }
    }
}

/// What was tried so far in one operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests sent.
    pub attempts: u32,
    /// Those whose answer was corrupt.
    pub corrupt: u32,
    /// Those refused because the credentials ran out.
    pub expired: u32,
    /// Those whose reply did not begin in time.
    pub silent: u32,
}

impl Tally {
    /// Counts one failed request.
    pub fn record(&mut self, error: &Error) {
        self.attempts += 1;
        match error.kind() {
            ErrorKind::Corrupt => self.corrupt += 1,
            ErrorKind::CredentialsExpired => self.expired += 1,
            _ => {}
        }
        if error.code() == Some(FIRST_BYTE_TIMEOUT) {
            self.silent += 1;
        }
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send the request again after this wait.
    Retry {
        /// The wait.
        after: Duration,
    },
    /// Hand the error to the caller.
    GiveUp,
}

impl RetryConfig {
    /// Decides after `error`, which `tally` already counts, `elapsed` after the operation began.
    ///
    /// Waits have full jitter: evenly from zero to the backoff. A `Retry-After` is a lower bound, up to [`RETRY_AFTER_CAP`], and some jitter
    /// is added to it so that those who were told the same time do not return together. One that does not fit into the time that is left
    /// counts as none: the next attempt may be served all the same. Gives up when the wait would outlive the deadline.
    pub fn decide(&self, error: &Error, tally: &Tally, elapsed: Duration, rng: &mut dyn RngCore) -> Decision {
        let kind = error.kind();
        let spent = match kind {
            ErrorKind::Corrupt => tally.corrupt > self.corrupt_retries,
            ErrorKind::CredentialsExpired => tally.expired > self.expired_retries,
            _ => false,
        };
        if !kind.is_retryable() || spent {
            return Decision::GiveUp;
        }
        let left = self.operation_deadline.saturating_sub(elapsed);
        let own = jitter(self.backoff(tally.attempts), rng);
        let imposed =
            error.retry_after().map(|wait| wait.min(RETRY_AFTER_CAP) + jitter(self.backoff_base, rng));
        let after = imposed.filter(|wait| *wait < left).map_or(own, |wait| wait.max(own));
        if after < left { Decision::Retry { after } } else { Decision::GiveUp }
    }

    /// How long the next attempt waits for its first byte. Each one before it that waited in vain doubles that, so that a store that became
    /// slow all at once is still read from.
    pub fn first_byte_limit(&self, times: &FirstByteTimes, tally: &Tally) -> Duration {
        let factor = 1_u32.checked_shl(tally.silent).unwrap_or(u32::MAX);
        times.limit(self.first_byte_timeout).saturating_mul(factor).min(self.first_byte_timeout)
    }

    /// The longest wait after `attempts` failures.
    fn backoff(&self, attempts: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff_base.saturating_mul(factor).min(self.backoff_cap)
    }
}

fn jitter(limit: Duration, rng: &mut dyn RngCore) -> Duration {
    limit.mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// Draws the largest value there is, so that waits show their upper bound.
    struct Highest;

    impl RngCore for Highest {
        fn next_u32(&mut self) -> u32 {
            u32::MAX
        }
        fn next_u64(&mut self) -> u64 {
            u64::MAX
        }
        fn fill_bytes(&mut self, dst: &mut [u8]) {
            dst.fill(u8::MAX);
        }
    }

    fn after(kind: ErrorKind, failures: u32, elapsed: Duration) -> Option<Duration> {
        let error = Error::new(kind, "get");
        let mut tally = Tally::default();
        (0..failures).for_each(|_| tally.record(&error));
        match RetryConfig::default().decide(&error, &tally, elapsed, &mut Highest) {
            Decision::Retry { after } => Some(after),
            Decision::GiveUp => None,
        }
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let bounds = [100, 200, 400, 800, 1600, 3200, 5000, 5000];
        for (failures, bound) in (1..).zip(bounds) {
            let wait = after(ErrorKind::Transient, failures, Duration::ZERO).expect("retried");
            assert_eq!(
                wait.as_secs_f64().mul_add(1000.0, 0.0).round(),
                f64::from(bound),
                "after {failures} failures"
            );
        }
        assert_eq!(
            after(ErrorKind::Transient, 500, Duration::ZERO).map(|d| d.as_secs_f64().round()),
            Some(5.0)
        );
    }

    #[test]
    fn waits_are_spread_from_zero_to_the_bound() {
        let mut rng = StdRng::seed_from_u64(7);
        let error = Error::new(ErrorKind::Throttled, "get");
        let tally = Tally { attempts: 5, ..Tally::default() };
        let waits: Vec<f64> = (0..1000)
            .map(|_| match RetryConfig::default().decide(&error, &tally, Duration::ZERO, &mut rng) {
                Decision::Retry { after } => after.as_secs_f64(),
                Decision::GiveUp => f64::NAN,
            })
            .collect();
        let mean = waits.iter().sum::<f64>() / 1000.0;
        assert!((0.7..0.9).contains(&mean), "mean {mean} of waits between 0 and 1.6 s");
        assert!(waits.iter().any(|w| *w < 0.05) && waits.iter().any(|w| *w > 1.55));
    }

    #[test]
    fn only_what_may_succeed_is_retried() {
        use ErrorKind::*;
        for kind in [Throttled, Transient, Corrupt, CredentialsExpired] {
            assert!(after(kind, 1, Duration::ZERO).is_some(), "{kind:?}");
        }
        for kind in [
            NotFound,
            NoSuchBucket,
            Forbidden,
            PreconditionFailed,
            WrongRegion,
            NoCredentials,
            BadEndpoint,
            Archived,
            Invalid,
            Unsupported,
        ] {
            assert_eq!(after(kind, 1, Duration::ZERO), None, "{kind:?}");
        }
    }

    #[test]
    fn corrupt_answers_and_expired_credentials_are_retried_twice() {
        for kind in [ErrorKind::Corrupt, ErrorKind::CredentialsExpired] {
            assert!(after(kind, 2, Duration::ZERO).is_some(), "{kind:?}");
            assert_eq!(after(kind, 3, Duration::ZERO), None, "{kind:?}");
        }
    }

    #[test]
    fn other_failures_do_not_use_up_the_two_for_corrupt_answers() {
        let tally = Tally { attempts: 9, corrupt: 1, ..Tally::default() };
        let error = Error::new(ErrorKind::Corrupt, "get");
        let decision = RetryConfig::default().decide(&error, &tally, Duration::ZERO, &mut Highest);
        assert!(matches!(decision, Decision::Retry { .. }));
    }

    #[test]
    fn each_silent_attempt_doubles_the_patience() {
        let config = RetryConfig::default();
        let mut known = FirstByteTimes::default();
        (0..100).for_each(|_| known.record(Duration::from_millis(20)));
        let silence = Error::new(ErrorKind::Transient, "get").with_code(FIRST_BYTE_TIMEOUT);
        let mut tally = Tally::default();
        tally.record(&Error::new(ErrorKind::Transient, "get"));
        for expected_secs in [2, 4, 8, 10, 10] {
            assert_eq!(config.first_byte_limit(&known, &tally).as_secs(), expected_secs);
            tally.record(&silence);
        }
        tally.silent = 1000;
        assert_eq!(config.first_byte_limit(&known, &tally).as_secs(), 10);
    }

    #[test]
    fn nothing_is_started_that_would_outlive_the_deadline() {
        assert!(after(ErrorKind::Transient, 1, Duration::from_millis(59_800)).is_some());
        assert_eq!(after(ErrorKind::Transient, 1, Duration::from_millis(59_950)), None);
    }

    /// The wait after a refusal with `Retry-After`, in milliseconds; `None` if there is to be none.
    fn told(retry_after_secs: u64, attempts: u32, elapsed_secs: u64) -> Option<u128> {
        let error =
            Error::new(ErrorKind::Throttled, "get").with_retry_after(Duration::from_secs(retry_after_secs));
        let tally = Tally { attempts, ..Tally::default() };
        match RetryConfig::default().decide(&error, &tally, Duration::from_secs(elapsed_secs), &mut Highest) {
            Decision::Retry { after } => Some(after.as_millis()),
            Decision::GiveUp => None,
        }
    }

    #[test]
    fn retry_after_is_a_lower_bound_within_reason() {
        for (what, wait, expected_ms) in [
            ("as told, and the jitter", told(7, 1, 0), 7100),
            ("an hour", told(3600, 1, 0), 10_100),
            ("more than the deadline", told(61, 1, 0), 10_100),
            ("does not fit any more", told(3600, 9, 52), 5000),
            ("nothing does not mean all the time", told(0, 9, 0), 5000),
        ] {
            // The highest draw lies just below its bound.
            let wait = wait.expect(what);
            assert!((expected_ms - 1..=expected_ms).contains(&wait), "{what}: {wait} ms");
        }
        assert_eq!(told(3600, 9, 56), None, "not even the backoff fits");
    }
}
