//! What is expected of the readers of one object: streams as they show, and more where the object says what it holds.
//!
//! Programs that load models read a header and then the tensors that it names, by offset or by name, and one file after another. By
//! offset is a stream like any other; by name is a [`walk::Walk`], once [the header](safetensors) is known.

mod safetensors;
mod shards;
mod walk;

use sluicefs_s3_client::ByteRange;

pub(super) use safetensors::{Broken, find, parse};
pub(crate) use shards::next_shard;
pub(super) use walk::Part;

use super::window::{Limits, Plan, StreamId, Streams};
use walk::{Bounds, Walk};

/// In which order a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// From its start to its end, as far as is known.
    ByOffset,
    /// Tensor after tensor, by name.
    ByName,
}

/// How a read came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From tensor to tensor, by name.
    ByName,
    /// After one before it.
    GoesOn,
    /// After none.
    Jump,
}

/// What to do about a read.
#[derive(Debug)]
pub(super) struct Advice {
    pub(super) plan: Plan,
    pub(super) way: Way,
    /// What to fetch ahead besides the plan, the most urgent first.
    pub(super) parts: Vec<Part>,
}

/// What reads ahead of the readers of one object.
#[derive(Debug)]
pub(super) struct Ahead {
    streams: Streams,
    walk: Option<Walk>,
    /// The stream of a reader that was expected.
    begun: Option<StreamId>,
}

impl Ahead {
    pub(super) fn new(limits: Limits) -> Self {
        Self { streams: Streams::new(limits), walk: None, begun: None }
    }

    /// Takes note of a read of `range`, which is not empty and lies inside the object; see [`Streams::observe`].
    pub(super) fn observe(&mut self, range: ByteRange, share_bytes: u64) -> Advice {
        if let Some(walk) = &mut self.walk {
            let was_followed = walk.is_followed();
            let (window, part) = self.streams.largest(share_bytes);
            if let Some(parts) = walk.observe(range, Bounds { window, part }) {
                if !was_followed {
                    self.streams.clear();
                }
                return Advice { plan: Plan::nothing(range, part), way: Way::ByName, parts };
            }
        }
        let begun = self.streams.begun();
        let plan = self.streams.observe(range, share_bytes);
        let way = if self.streams.begun() > begun { Way::Jump } else { Way::GoesOn };
        let part = |range| Part { range, at: 0 };
        Advice { parts: plan.tail.map(part).into_iter().collect(), plan, way }
    }

    /// Takes the tensors of the object, which come by name; `size` is the object's.
    pub(super) fn learn(&mut self, tensors: &[ByteRange], size: u64) {
        // One that is followed already stays as it is.
        if self.walk.is_none() {
            self.walk = Walk::new(tensors, size);
        }
    }

    /// Expects a reader before its first read; what to fetch ahead of it.
    pub(super) fn begin(&mut self, order: Order, share_bytes: u64) -> Vec<Part> {
        let (window, part) = self.streams.largest(share_bytes);
        match &mut self.walk {
            Some(walk) if order == Order::ByName => walk.begin(Bounds { window, part }),
            _ => {
                let Plan { ahead, part_bytes: part, stream, .. } = self.streams.begin(share_bytes);
                self.begun = Some(stream);
                let starts = (ahead.start..ahead.end).step_by(part as usize);
                let range = |start| ByteRange::new(start, (start + part).min(ahead.end));
                starts.map(|start| Part { range: range(start), at: start }).collect()
            }
        }
    }

    /// How its readers go about the object.
    pub(super) fn order(&self) -> Order {
        match &self.walk {
            Some(walk) if walk.is_by_name() => Order::ByName,
            _ => Order::ByOffset,
        }
    }

    /// A reader has to wait whose read was planned for as `plan`.
    pub(super) fn waited(&mut self, stream: StreamId) {
        self.streams.waited(stream);
    }

    /// Nothing from `from` on was fetched ahead of `stream`: there was no memory.
    pub(super) fn refused(&mut self, stream: StreamId, from: u64) {
        self.streams.refused(stream, from);
    }

    /// Neither `part` nor what comes after it was fetched: there was no memory.
    pub(super) fn refused_part(&mut self, part: &Part) {
        match (&mut self.walk, self.begun) {
            (Some(walk), _) if walk.is_followed() => walk.refused(part.at),
            (_, Some(begun)) => self.streams.refused(begun, part.range.start),
            _ => {}
        }
    }

    /// How many readers are read ahead of and are not done.
    pub(super) fn reading_ahead(&self) -> usize {
        let walks = self.walk.as_ref().is_some_and(Walk::is_followed);
        self.streams.reading_ahead() + usize::from(walks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_an_expected_reader_was_refused_is_planned_again_when_it_comes() {
        let limits = Limits { size: 1 << 30, max_window_bytes: 64 * MIB, max_part_bytes: 8 * MIB };
        let mut ahead = Ahead::new(limits);
        let parts = ahead.begin(Order::ByOffset, u64::MAX);
        assert_eq!((parts.len(), ahead.reading_ahead()), (8, 1));
        let read =
            |ahead: &mut Ahead, at: u64| ahead.observe(ByteRange::from_len(at, MIB), u64::MAX).plan.ahead;
        assert!(read(&mut ahead, 0).is_empty(), "all of it is on its way");
        ahead.refused_part(&parts[2]);
        let again = read(&mut ahead, MIB);
        assert_eq!(again.start, parts[2].range.start);
        assert!(again.end >= 64 * MIB, "{again:?}");
    }
}
