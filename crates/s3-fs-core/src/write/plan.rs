//! Decides how a changed file becomes an object with the fewest bytes on the wire.
//!
//! A small file is sent whole. A large one is put together from parts: those already sent, runs of the old object that the store copies by
//! itself, and the parts in which something changed.

use std::collections::BTreeSet;

use sluicefs_s3_client::ByteRange;

use super::ranges::RangeSet;
use super::schedule::PartSchedule;

/// The most bytes that the store copies into one part (Amazon S3 API Reference, UploadPartCopy).
const MAX_COPY_BYTES: u64 = 5 << 30;

/// A range is copied of objects alone that are longer than this (the same page).
const MAX_UNCOPIED_BYTES: u64 = 5 << 20;

/// How to make the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Send all of it in one request.
    Whole,
    /// Put it together from parts, in this order.
    Parts(Vec<PlannedPart>),
}

/// One part of a multipart upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedPart {
    /// Its place in the schedule, counted from 0; part numbers count from 1.
    pub(super) index: u64,
    /// The bytes of the file in it.
    pub(super) range: ByteRange,
    /// Where they come from.
    pub(super) from: Source,
}

/// Where the bytes of a part come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// They were sent already, or are on their way.
    Sent,
    /// The store copies them from the old object.
    Copied,
    /// They are sent now.
    Here,
}

/// A changed file.
#[derive(Debug)]
pub(super) struct Content<'a> {
    /// Its length in bytes.
    pub(super) size: u64,
    /// How many bytes of the old object, from its start, are still part of it where nothing was written; 0 without one.
    pub(super) base_len: u64,
    /// The bytes that were written since.
    pub(super) dirty: &'a RangeSet,
    /// The parts that were sent or are on their way, by index.
    pub(super) sent: &'a BTreeSet<u64>,
}

/// Whether the store copies ranges of an object of `bytes`.
pub(super) fn has_ranges(bytes: u64) -> bool {
    bytes > MAX_UNCOPIED_BYTES
}

/// Plans the upload of `content`; `can_copy` says whether the store copies ranges.
pub(super) fn plan(content: &Content<'_>, schedule: PartSchedule, can_copy: bool) -> Plan {
    let size = content.size;
    if content.sent.is_empty() && size <= schedule.range(0).end {
        return Plan::Whole;
    }
    let mut parts: Vec<PlannedPart> = Vec::new();
    let mut index = 0;
    loop {
        let range = schedule.range(index).intersect(ByteRange::new(0, size));
        if range.is_empty() {
            return Plan::Parts(parts);
        }
        let from = match () {
            () if content.sent.contains(&index) => Source::Sent,
            () if can_copy && range.end <= content.base_len && !content.dirty.touches(range) => {
                Source::Copied
            }
            () => Source::Here,
        };
        match parts.last_mut() {
            Some(last) if joins(last, range, from) => {
                last.range = ByteRange::new(last.range.start, range.end)
            }
            _ => parts.push(PlannedPart { index, range, from }),
        }
        index += 1;
    }
}

/// Whether `range` can be copied together with the part before it.
fn joins(last: &PlannedPart, range: ByteRange, from: Source) -> bool {
    from == Source::Copied && last.from == Source::Copied && last.range.len() + range.len() <= MAX_COPY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// `(from, first MiB, last MiB)` of each part of a file whose parts have 8 MiB.
    fn check(
        (size, base_len): (u64, u64),
        dirty: &[(u64, u64)],
        sent: &[u64],
        can_copy: bool,
    ) -> Option<Vec<(Source, u64, u64)>> {
        let mut set = RangeSet::default();
        dirty.iter().for_each(|&(start, end)| set.insert(ByteRange::new(start * MIB, end * MIB)));
        let sent = sent.iter().copied().collect();
        let content = Content { size: size * MIB, base_len: base_len * MIB, dirty: &set, sent: &sent };
        match plan(&content, PartSchedule::new(8 * MIB, 64 * MIB), can_copy) {
            Plan::Whole => None,
            Plan::Parts(parts) => {
                let about = |part: &PlannedPart| (part.from, part.range.start / MIB, part.range.end / MIB);
                Some(parts.iter().map(about).collect())
            }
        }
    }

    use Source::{Copied, Here, Sent};

    #[test]
    fn a_small_file_is_sent_whole() {
        assert_eq!(check((0, 0), &[], &[], true), None);
        assert_eq!(check((8, 0), &[(0, 8)], &[], true), None);
        assert_eq!(check((8, 8), &[(3, 4)], &[], true), None);
    }

    #[test]
    fn a_large_one_is_sent_in_parts() {
        let parts = vec![(Here, 0, 8), (Here, 8, 16), (Here, 16, 17)];
        assert_eq!(check((17, 0), &[(0, 17)], &[], true), Some(parts));
        let parts = vec![(Sent, 0, 8), (Sent, 8, 16), (Here, 16, 17)];
        assert_eq!(check((17, 0), &[(0, 17)], &[0, 1], true), Some(parts));
    }

    #[test]
    fn unchanged_bytes_are_copied_in_long_runs() {
        let parts = vec![(Copied, 0, 96), (Here, 96, 104), (Copied, 104, 4096)];
        assert_eq!(check((4096, 4096), &[(100, 101)], &[], true), Some(parts));
        let long = check((12_288, 12_288), &[], &[], true).expect("parts");
        assert!(long.iter().all(|(from, start, end)| *from == Copied && end - start <= 5120), "{long:?}");
        assert_eq!(long.len(), 3);
    }

    #[test]
    fn appending_copies_all_but_the_last_part() {
        let parts = vec![(Copied, 0, 16), (Here, 16, 21)];
        assert_eq!(check((21, 20), &[(20, 21)], &[], true), Some(parts));
    }

    #[test]
    fn no_range_is_copied_of_what_is_as_short_as_the_shortest_part() {
        assert!(!has_ranges(5 * MIB));
        assert!(has_ranges(5 * MIB + 1));
    }

    #[test]
    fn what_was_cut_off_is_not_copied_back() {
        // Cut to 20 MiB, then grown to 30 again: a hole from 20 on.
        let parts = vec![(Copied, 0, 16), (Here, 16, 24), (Here, 24, 30)];
        assert_eq!(check((30, 20), &[], &[], true), Some(parts));
    }

    #[test]
    fn a_store_that_cannot_copy_gets_everything() {
        let parts = vec![(Here, 0, 8), (Here, 8, 16), (Here, 16, 20)];
        assert_eq!(check((20, 20), &[(1, 2)], &[], false), Some(parts));
    }
}
