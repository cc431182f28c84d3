//! When everything that is known was last doubted, and what that means for answers that were asked for before.

use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use super::{LONG_AGO, Tree};
use crate::attr::InodeNo;

/// The time of the last refresh. Answers to requests that were sent before it are told to who waits for them, and not believed after that.
#[derive(Debug, Default)]
pub(super) struct Doubted(RwLock<Option<Instant>>);

impl Doubted {
    /// The part of `ttl` that lies after the refresh: what was seen within that until `now` is believed.
    fn since(&self, ttl: Duration, now: Instant) -> Duration {
        self.0.read().map_or(ttl, |at| ttl.min(now.saturating_duration_since(at)))
    }

    /// Until when what was `seen` then is believed for `ttl`.
    fn until(&self, seen: Instant, ttl: Duration) -> Instant {
        match *self.0.read() {
            Some(at) if seen < at => over(seen),
            _ => seen + ttl,
        }
    }
}

/// So long ago that nothing is believed any more, however patient somebody is.
pub(super) fn over(now: Instant) -> Instant {
    now.checked_sub(LONG_AGO).unwrap_or(now)
}

impl Tree {
    /// What is left at `now` of the time for which names and attributes are believed.
    pub(super) fn believed(&self, now: Instant) -> Duration {
        self.doubted.since(self.ttl, now)
    }

    /// The same for the absence of names.
    pub(super) fn absence_believed(&self, now: Instant) -> Duration {
        self.doubted.since(self.negative_ttl, now)
    }

    /// Until when names and attributes that were `seen` then are believed.
    pub(super) fn believed_until(&self, seen: Instant) -> Instant {
        self.doubted.until(seen, self.ttl)
    }

    /// The same for the absence of names.
    pub(super) fn absent_until(&self, seen: Instant) -> Instant {
        self.doubted.until(seen, self.negative_ttl)
    }

    /// Believes nothing any more that the store told until now. Returns the names that the kernel may know, absent ones too, by directory.
    pub(crate) fn refresh_all(&self) -> Vec<(InodeNo, Box<str>)> {
        let now = Instant::now();
        *self.doubted.0.write() = Some(now);
        self.listings.clear();
        let mut names = self.table.expire_all(over(now));
        names.extend(self.negative.drain(now));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_before_a_refresh_is_not_believed_after_it() {
        let (doubted, start, minute) = (Doubted::default(), Instant::now(), Duration::from_secs(60));
        let seen = start + minute;
        assert_eq!((doubted.since(minute, seen), doubted.until(seen, minute)), (minute, seen + minute));
        *doubted.0.write() = Some(seen + Duration::from_secs(10));
        let now = seen + Duration::from_secs(15);
        assert_eq!(doubted.since(minute, now), Duration::from_secs(5));
        assert!(seen + doubted.since(minute, now) <= now && doubted.until(seen, minute) < now);
        let later = seen + Duration::from_secs(12);
        assert!(later + doubted.since(minute, now) > now);
        assert_eq!(doubted.until(later, minute), later + minute);
    }
}
