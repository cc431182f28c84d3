//! A note in an index that all blocks of the entry were found right, and as what the data file was then.
//!
//! Pure functions. Every write to a file moves the time of its last change (ctime), which nobody can set. File systems count that time in
//! steps, so that a write may leave it as it is if the one before was within the same step: a stamp is of a file whose step was over before its blocks were
//! read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::format::Sealed;

/// Bytes of a stamp.
pub(super) const STAMP_BYTES: usize = 40;

/// Longer than any step of a file system that knows fractions of a second: Linux takes the time of the last tick, which come every 10 ms at least.
const FINE_STEP: Duration = Duration::from_millis(100);

/// Longer than a step where whole seconds are all that is known: FAT counts them in pairs.
const COARSE_STEP: Duration = Duration::from_secs(3);

/// The data file of an entry as it was at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) size: u64,
    changed: Time,
}

/// Seconds and nanoseconds since 1970.
type Time = (i64, i64);

impl Stamp {
    pub(super) fn of(data: &Metadata) -> Self {
        Self { inode: data.ino(), size: data.size(), changed: (data.ctime(), data.ctime_nsec()) }
    }

    /// How long it takes, from the time when the file `just_changed` of the same file system was changed, until every write must give this one
    /// another time; zero if that is so by then.
    pub(super) fn settles_in(&self, just_changed: &Metadata) -> Duration {
        self.settles_after((just_changed.ctime(), just_changed.ctime_nsec()))
    }

    fn settles_after(&self, now: Time) -> Duration {
        let step = if self.changed.1 == 0 { COARSE_STEP } else { FINE_STEP };
        let nanos = |(secs, nanos): Time| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        // Before it, if the clock was set back.
        let since = u64::try_from(nanos(now) - nanos(self.changed)).unwrap_or(0);
        step.saturating_sub(Duration::from_nanos(since))
    }

    /// As it lies in the index of `sealed`.
    pub(super) fn encode(&self, sealed: &Sealed) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        let words = [self.inode, self.size, self.changed.0.cast_unsigned(), self.changed.1.cast_unsigned()];
        for (at, word) in bytes[8..].chunks_exact_mut(8).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
        let sum = sealed.checksum(&bytes[8..]);
        bytes[..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None` if there is none in `bytes`, or one of another entry.
    pub(super) fn decode(bytes: &[u8; STAMP_BYTES], sealed: &Sealed) -> Option<Self> {
        let word = |n: usize| u64::from_le_bytes(*bytes[n * 8..].first_chunk().expect("five words"));
        let is_right = word(0) == sealed.checksum(&bytes[8..]);
        let changed = (word(3).cast_signed(), word(4).cast_signed());
        is_right.then_some(Self { inode: word(1), size: word(2), changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::format::example;

    const STAMP: Stamp = Stamp { inode: 7, size: 300_000, changed: (1_700_000_000, 123_456_789) };

    #[test]
    fn a_stamp_is_of_one_entry_and_shows_every_flipped_bit() {
        let sealed = example("a", 300_000);
        let bytes = STAMP.encode(&sealed);
        assert_eq!(Stamp::decode(&bytes, &sealed), Some(STAMP));
        assert_eq!(Stamp::decode(&bytes, &example("b", 300_000)), None);
        assert_eq!(Stamp::decode(&[0; STAMP_BYTES], &sealed), None);
        for bit in 0..STAMP_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::decode(&bytes, &sealed), None, "bit {bit}");
        }
    }

    #[test]
    fn a_file_settles_when_the_step_of_its_last_change_is_over() {
        let (secs, nanos) = STAMP.changed;
        let millis = |n: i64| (secs, nanos + n * 1_000_000);
        let fine = STAMP;
        let coarse = Stamp { changed: (secs, 0), ..STAMP };
        for (stamp, now, expected) in [
            (fine, millis(0), 100),
            (fine, millis(30), 70),
            (fine, millis(100), 0),
            (fine, (secs + 1_000_000, 0), 0),
            (fine, (secs - 5, 0), 100),
            (coarse, (secs + 2, 0), 1000),
            (coarse, (secs + 3, 0), 0),
        ] {
            assert_eq!(stamp.settles_after(now), Duration::from_millis(expected), "{stamp:?} at {now:?}");
        }
    }
}
