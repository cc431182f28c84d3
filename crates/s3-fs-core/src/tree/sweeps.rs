//! Directories that a program is emptying, name by name.
//!
//! It looks at each name before it removes it, and at a round trip for each removal the names are soon too old to be believed: the
//! directory would be listed again every second only to be told what the program is about to remove. So these names are believed for longer.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::attr::InodeNo;

/// The next name is expected within this time.
const PAUSE: Duration = Duration::from_secs(2);

/// Names are believed for so many times their time to live more, up to [`MAX_PATIENCE`].
const PATIENCE_FACTOR: u32 = 9;
const MAX_PATIENCE: Duration = Duration::from_secs(9);

/// So many directories may be emptied at once.
const MAX_SWEEPS: usize = 16;

/// The directories, and when a name of each was last removed; the latest last.
#[derive(Debug, Default)]
pub(super) struct Sweeps(Mutex<VecDeque<(InodeNo, Instant)>>);

impl Sweeps {
    /// A name of `dir` was removed.
    pub(super) fn removed(&self, dir: InodeNo, now: Instant) {
        let mut sweeps = self.0.lock();
        sweeps.retain(|(other, _)| *other != dir);
        if sweeps.len() == MAX_SWEEPS {
            sweeps.pop_front();
        }
        sweeps.push_back((dir, now));
    }

    /// For how much longer than `ttl` names of `dir` are believed.
    pub(super) fn patience(&self, dir: InodeNo, now: Instant, ttl: Duration) -> Duration {
        let sweeps = self.0.lock();
        let is_swept = sweeps.iter().any(|(other, last)| *other == dir && *last + PAUSE > now);
        if is_swept { ttl.saturating_mul(PATIENCE_FACTOR).min(MAX_PATIENCE) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_are_believed_for_longer_while_others_are_removed() {
        let (sweeps, now, second) = (Sweeps::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!(sweeps.patience(InodeNo(7), now, second), Duration::ZERO);
        sweeps.removed(InodeNo(7), now);
        assert_eq!(sweeps.patience(InodeNo(7), now + second, second), 9 * second);
        assert_eq!(sweeps.patience(InodeNo(8), now + second, second), Duration::ZERO);
        assert_eq!(sweeps.patience(InodeNo(7), now + PAUSE, second), Duration::ZERO);
        for (ttl, expected) in [(0, 0), (100, 900), (60_000, 9000)] {
            let patience = sweeps.patience(InodeNo(7), now, Duration::from_millis(ttl));
            assert_eq!(patience, Duration::from_millis(expected), "{ttl}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_of_too_many_is_forgotten() {
        let (sweeps, now) = (Sweeps::default(), Instant::now());
        (0..=MAX_SWEEPS as u64).for_each(|dir| sweeps.removed(InodeNo(dir), now));
        let is_swept = |dir| !sweeps.patience(InodeNo(dir), now, Duration::from_secs(1)).is_zero();
        assert_eq!((is_swept(0), is_swept(1), is_swept(MAX_SWEEPS as u64)), (false, true, true));
    }
}
