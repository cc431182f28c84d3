//! How long a bucket takes to begin a reply, learnt from its recent replies.
//!
//! [`FirstByteTimes`] is a histogram of four buckets an octave, so that a quantile is at most a quarter too long. Every
//! `WINDOW_REPLIES` replies the old ones lose half of their weight: a bucket that became slow or fast is soon known as such.
//! From it follow when an attempt is given up ([`limit`](FirstByteTimes::limit)) and when a second request beside it is worth its cost
//! ([`hedge_after`](FirstByteTimes::hedge_after)). It reads no clock.

use std::time::Duration;

/// An attempt is never given up earlier: the first byte of a busy S3 takes up to a second now and then.
const LEAST_LIMIT: Duration = Duration::from_secs(2);
/// An attempt that took this many times the 99th percentile is stuck, not slow.
const LIMIT_PER_P99: u32 = 3;
/// A second request is never sent earlier: below it lie the pauses of a busy machine, which another request would only prolong.
const LEAST_HEDGE: Duration = Duration::from_millis(50);
/// When a second request is sent while too little is known.
const UNKNOWN_HEDGE: Duration = Duration::from_secs(2);
/// With fewer replies the longest one would be every percentile.
const ENOUGH_REPLIES: u32 = 20;
/// After so many replies the counts are halved.
const WINDOW_REPLIES: u32 = 1024;

/// The first bucket holds what takes up to this power of two of microseconds: 256 us.
const LOWEST_OCTAVE: u32 = 8;
/// The last bucket begins below 2^26 us, which is 67 s: longer than any operation lasts.
const OCTAVES: u32 = 18;
const BUCKETS: usize = OCTAVES as usize * 4;

/// The times to the first byte of one bucket's recent replies.
#[derive(Debug, Clone)]
pub struct FirstByteTimes {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Default for FirstByteTimes {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl FirstByteTimes {
    /// Notes that a reply began after `time`; for one that never began, how long it was waited for.
    pub fn record(&mut self, time: Duration) {
        self.counts[bucket_of(time)] += 1;
        self.total += 1;
        if self.total >= WINDOW_REPLIES {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// How long to wait for a first byte before the attempt is given up: at most `cap`, and `cap` while too little is known.
    pub fn limit(&self, cap: Duration) -> Duration {
        if self.total < ENOUGH_REPLIES {
            return cap;
        }
        self.quantile(99).saturating_mul(LIMIT_PER_P99).max(LEAST_LIMIT).min(cap)
    }

    /// How long to wait for a first byte before a second request is sent beside the first.
    pub fn hedge_after(&self) -> Duration {
        if self.total < ENOUGH_REPLIES {
            return UNKNOWN_HEDGE;
        }
        self.quantile(95).max(self.quantile(50).saturating_mul(2)).max(LEAST_HEDGE)
    }

    /// The time that `percent` of the replies did not exceed, rounded up to the end of its bucket.
    fn quantile(&self, percent: u32) -> Duration {
        let rank = (u64::from(self.total) * u64::from(percent)).div_ceil(100);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        upper_bound(reached.unwrap_or(BUCKETS - 1))
    }
}

fn bucket_of(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1 << LOWEST_OCTAVE);
    let octave = micros.ilog2();
    // The two bits below the highest one.
    let quarter = (micros >> (octave - 2)) & 3;
    let bucket = (octave - LOWEST_OCTAVE) as usize * 4 + quarter as usize;
    bucket.min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let octave = LOWEST_OCTAVE + bucket as u32 / 4;
    Duration::from_micros((bucket as u64 % 4 + 5) << (octave - 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Duration = Duration::from_secs(10);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Times as `(how many, milliseconds)`.
    fn times(groups: &[(u32, u64)]) -> FirstByteTimes {
        let mut times = FirstByteTimes::default();
        for (count, time) in groups {
            (0..*count).for_each(|_| times.record(ms(*time)));
        }
        times
    }

    /// Within the quarter that a bucket is wide.
    fn is_about(got: Duration, expected_ms: u64) -> bool {
        got >= ms(expected_ms) && got <= ms(expected_ms + expected_ms / 4)
    }

    #[test]
    fn a_bucket_holds_its_times_and_is_a_quarter_wide() {
        let mut last = Duration::ZERO;
        for bucket in 0..BUCKETS {
            let bound = upper_bound(bucket);
            assert_eq!(bucket_of(bound - Duration::from_micros(1)), bucket);
            assert_eq!(bucket_of(bound), (bucket + 1).min(BUCKETS - 1));
            assert!(bucket == 0 || bound <= last + last / 4, "{last:?} to {bound:?}");
            last = bound;
        }
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
        assert!(last > Duration::from_secs(60));
    }

    #[test]
    fn quantiles_are_of_the_times_recorded() {
        let known = times(&[(50, 10), (45, 40), (4, 300), (1, 5000)]);
        for (percent, expected_ms) in
            [(1, 10), (50, 10), (51, 40), (95, 40), (96, 300), (99, 300), (100, 5000)]
        {
            let got = known.quantile(percent);
            assert!(is_about(got, expected_ms), "{percent} %: {got:?}, not {expected_ms} ms");
        }
    }

    #[test]
    fn an_attempt_is_given_up_after_three_times_the_99th_percentile() {
        for (what, groups, expected_ms) in [
            ("unknown", &[][..], 10_000),
            ("hardly known", &[(19, 10)], 10_000),
            ("fast", &[(20, 10)], 2000),
            ("one in a hundred is slow", &[(990, 10), (10, 4000)], 2000),
            ("more are slow", &[(980, 10), (20, 1500)], 4500),
            ("slow beyond the cap", &[(100, 4000)], 10_000),
        ] {
            let limit = times(groups).limit(CAP);
            assert!(limit <= CAP && is_about(limit, expected_ms), "{what}: {limit:?}");
        }
        assert_eq!(times(&[(100, 10)]).limit(ms(400)), ms(400), "a lower cap counts");
    }

    #[test]
    fn a_second_request_is_sent_when_the_first_is_among_the_latest() {
        for (what, groups, expected_ms) in [
            ("unknown", &[][..], 2000),
            ("hardly known", &[(19, 10)], 2000),
            ("fast", &[(100, 1)], 50),
            ("twice the median", &[(100, 80)], 160),
            ("the 95th percentile", &[(900, 80), (100, 600)], 600),
            ("few are late", &[(960, 80), (40, 600)], 160),
        ] {
            let after = times(groups).hedge_after();
            // The median is rounded up before it is doubled.
            assert!(is_about(after, expected_ms), "{what}: {after:?}");
        }
    }

    #[test]
    fn old_times_are_forgotten() {
        let mut changed = times(&[(2000, 3000)]);
        assert!(is_about(changed.hedge_after(), 6000), "{:?}", changed.hedge_after());
        (0..6000).for_each(|_| changed.record(ms(30)));
        assert!(is_about(changed.hedge_after(), 60), "{:?}", changed.hedge_after());
        assert!(changed.total < WINDOW_REPLIES);
    }
}
