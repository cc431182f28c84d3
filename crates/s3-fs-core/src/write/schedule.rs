//! Which bytes of a file go into which part of a multipart upload.
//!
//! Boundaries depend on the offset alone, so that a part can be sent as soon as its bytes are there, whatever is written
//! before or after it. Parts double in size every thousand, since an object has at most 10,000 of them.

use sluicefs_s3_client::ByteRange;

/// Parts of one size before the next are twice as large: ten such runs, beginning at 8 MiB, hold 8 TiB.
const PARTS_PER_SIZE: u64 = 1000;

/// The most parts of an upload (Amazon S3 User Guide, "Amazon S3 multipart upload limits").
const MAX_PARTS: u64 = 10_000;

/// The largest object (the same page): 5 TiB.
const MAX_OBJECT_BYTES: u64 = 5 << 40;

/// Where parts begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartSchedule {
    first_bytes: u64,
    max_bytes: u64,
}

impl PartSchedule {
    /// Parts that begin at `first_bytes` and grow to `max_bytes`, what memory can hold, at most.
    pub(crate) fn new(first_bytes: u64, max_bytes: u64) -> Self {
        Self { first_bytes, max_bytes: max_bytes.max(first_bytes) }
    }

    /// The bytes of the part `index`, counted from 0.
    pub(crate) fn range(self, index: u64) -> ByteRange {
        let run = index / PARTS_PER_SIZE;
        let start: u64 = (0..run).map(|run| self.size_in(run) * PARTS_PER_SIZE).sum();
        let size = self.size_in(run);
        ByteRange::from_len(start + (index % PARTS_PER_SIZE) * size, size)
    }

    /// The part that the byte at `offset` is in.
    pub(crate) fn index(self, offset: u64) -> u64 {
        let (mut start, mut run) = (0, 0);
        loop {
            let size = self.size_in(run);
            let end = start + size * PARTS_PER_SIZE;
            if offset < end {
                return run * PARTS_PER_SIZE + (offset - start) / size;
            }
            (start, run) = (end, run + 1);
        }
    }

    /// The largest part.
    pub(crate) fn max_part_bytes(self) -> u64 {
        self.max_bytes
    }

    /// The longest file that these parts can hold.
    pub(crate) fn max_file_bytes(self) -> u64 {
        self.range(MAX_PARTS - 1).end.min(MAX_OBJECT_BYTES)
    }

    fn size_in(self, run: u64) -> u64 {
        let doubled = 1_u64.checked_shl(u32::try_from(run).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
        self.first_bytes.saturating_mul(doubled).min(self.max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn parts_follow_each_other_without_gap() {
        let schedule = PartSchedule::new(8 * MIB, 64 * MIB);
        for index in [0, 1, 998, 999, 1000, 1001, 2000, 4999, 9998] {
            assert_eq!(schedule.range(index).end, schedule.range(index + 1).start, "part {index}");
            for offset in [schedule.range(index).start, schedule.range(index).end - 1] {
                assert_eq!(schedule.index(offset), index, "offset {offset}");
            }
        }
        assert_eq!(schedule.range(1000).len(), 16 * MIB);
        assert_eq!(schedule.range(9999).len(), 64 * MIB);
    }

    #[test]
    fn ten_thousand_parts_hold_the_largest_object() {
        assert_eq!(PartSchedule::new(8 * MIB, u64::MAX).max_file_bytes(), MAX_OBJECT_BYTES);
        let little = PartSchedule::new(8 * MIB, 64 * MIB).max_file_bytes();
        assert_eq!(little, (1000 * (8 + 16 + 32) + 7000 * 64) * MIB);
    }
}
