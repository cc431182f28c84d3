//! Sets of byte ranges: which bytes of a file were written, are holes, or were sent.

use std::collections::BTreeMap;

use sluicefs_s3_client::ByteRange;

/// A set of bytes, kept as ranges that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    /// Start to end, half-open.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Whether no byte is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds the bytes of `range`.
    pub(crate) fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            if before_end >= end {
                return;
            }
            start = before;
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&next);
            end = end.max(next_end);
        }
        self.ranges.insert(start, end);
    }

    /// Takes the bytes of `range` out.
    pub(crate) fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        if let Some((&start, &end)) = self.ranges.range(..range.start).next_back()
            && end > range.start
        {
            self.ranges.insert(start, range.start);
            if end > range.end {
                self.ranges.insert(range.end, end);
                return;
            }
        }
        while let Some((&start, &end)) = self.ranges.range(range.start..range.end).next() {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// The parts of `range` that are in the set, in order.
    pub(crate) fn within(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        // An empty or turned-around range has nothing in it.
        let last = range.end.max(first);
        let clip = move |(&start, &end): (&u64, &u64)| {
            ByteRange::new(start.max(range.start), end.min(range.end).max(start.max(range.start)))
        };
        self.ranges.range(first..last).map(clip).filter(|part| !part.is_empty())
    }

    /// Whether some byte of `range` is in the set.
    pub(crate) fn touches(&self, range: ByteRange) -> bool {
        self.within(range).next().is_some()
    }

    /// How many bytes are in the set.
    pub(crate) fn len(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// Empties the set.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        let mut set = RangeSet::default();
        ranges.iter().for_each(|&(start, end)| set.insert(ByteRange::new(start, end)));
        set
    }

    fn pairs(ranges: impl IntoIterator<Item = ByteRange>) -> Vec<(u64, u64)> {
        ranges.into_iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn neighbours_become_one_range() {
        let all = ByteRange::new(0, 100);
        assert_eq!(pairs(set(&[(0, 5), (5, 9)]).within(all)), [(0, 9)]);
        assert_eq!(pairs(set(&[(5, 9), (0, 5), (20, 30), (8, 21)]).within(all)), [(0, 30)]);
        assert_eq!(pairs(set(&[(0, 5), (6, 9)]).within(all)), [(0, 5), (6, 9)]);
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set_of_bytes(
            steps in prop::collection::vec((any::<bool>(), 0_u64..64, 0_u64..24), 0..40),
            probe in (0_u64..64, 0_u64..24),
        ) {
            let mut model = [false; 128];
            let mut set = RangeSet::default();
            for (add, start, len) in steps {
                let range = ByteRange::from_len(start, len);
                if add { set.insert(range) } else { set.remove(range) }
                model[start as usize..(start + len) as usize].fill(add);
            }
            let bytes = |range: ByteRange| &model[range.start as usize..range.end as usize];
            prop_assert_eq!(set.len(), model.iter().filter(|byte| **byte).count() as u64);
            let mut last = None;
            for part in set.within(ByteRange::new(0, 128)) {
                prop_assert!(last.is_none_or(|end| end < part.start), "ranges touch");
                prop_assert!(bytes(part).iter().all(|byte| *byte));
                last = Some(part.end);
            }
            let probe = ByteRange::from_len(probe.0, probe.1);
            prop_assert_eq!(set.touches(probe), bytes(probe).iter().any(|byte| *byte));
        }
    }
}
