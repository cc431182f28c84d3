//! Reads ahead of a program that takes the tensors of a file by name.
//!
//! They lie by type and only within a type by name, so such a program goes to and fro between regions: to one who sees the reads alone,
//! several slow streams that stop where tensors end. Here it is known what comes next. A [`Walk`] numbers the bytes of all tensors in
//! the order of their names, recognises a reader who keeps to it, and says which ranges of the file lie before that reader; for anybody
//! else it has no opinion, and the [streams](super::super::window) decide.
//!
//! Like those it does no I/O, holds no bytes and knows no clock.

use sluicefs_s3_client::ByteRange;

use crate::cache::BLOCK_BYTES;

/// Small tensors may be skipped: the kernel has pages of them from what it read around their neighbours.
const MAX_STEP: usize = 8;

/// As many steps from one name to a next one prove that the order is by name.
const VOTES: u32 = 2;

/// How far a reader may skip without losing its place, in bytes of tensors.
const SKIP_BYTES: u64 = 16 << 20;

/// A read that begins so near to the last one belongs to that, and proves nothing: the kernel reads beyond the end of a tensor, and many
/// requests of one read at once, which come in any order.
const NEAR_BYTES: u64 = 16 << 20;

/// Who is so far behind the furthest reader is read ahead of as a stream: another process that reads the same tensors.
const BEHIND_BYTES: u64 = 16 << 20;

/// A read touches more tensors only if they are tiny; then the first ones tell enough.
const MAX_TOUCHED: usize = 256;

/// The most tensors planned at a time.
const MAX_PIECES: usize = 8192;

/// A reader who lost its place so often is not followed any more.
const MAX_MOVES: u32 = 4;

/// From so many bytes on it is known whether whole tensors are read, or slices of them; from a window on, if that is more.
const JUDGED_BYTES: u64 = 64 << 20;

/// Readers of less than one in so many bytes are not followed any more: they want slices of tensors, and whole ones are fetched for them. The
/// first of eight processes that divide each tensor among them may be ahead of the others.
const LEAST_SHARE: u64 = 6;

/// The tensors of one file, and how far a reader who takes them by name has come.
#[derive(Debug)]
pub(super) struct Walk {
    /// By name.
    tensors: Vec<Tensor>,
    /// Indices of `tensors`, in the order of their offsets.
    by_offset: Vec<u32>,
    file_bytes: u64,
    guess: Guess,
    place: Option<Place>,
    moves: u32,
    is_given_up: bool,
}

/// What bounds a plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How much may be fetched ahead of the reader, in bytes.
    pub(super) window: u64,
    /// How much to fetch in one request, in bytes.
    pub(super) part: u64,
}

/// A range worth fetching in one request; whole blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::read) struct Part {
    pub(in crate::read) range: ByteRange,
    /// Where the walk comes to it first, in bytes of tensors by name.
    pub(in crate::read) at: u64,
}

#[derive(Debug)]
struct Tensor {
    range: ByteRange,
    /// How many bytes of tensors come before it by name.
    at: u64,
    /// How many tensors lie before it in the file.
    position: usize,
}

impl Tensor {
    fn end(&self) -> u64 {
        self.at + self.range.len()
    }
}

/// Where the reader is; in bytes of tensors by name.
#[derive(Debug)]
struct Place {
    began: u64,
    /// Up to where it has read.
    next: u64,
    /// Up to where fetches were started.
    planned: u64,
    /// How many bytes it has read.
    read: u64,
}

/// Whether reads go by name.
#[derive(Debug, Default)]
struct Guess {
    votes: u32,
    previous: Option<ByteRange>,
    /// The tensors that the last jump may have led to, rising.
    last: Vec<usize>,
    /// Those that the last read near to that touched, rising.
    near: Vec<usize>,
}

/// Part of a tensor that a read touches.
#[derive(Debug, Clone, Copy)]
struct Touched {
    index: usize,
    /// In bytes of tensors by name.
    start: u64,
    end: u64,
}

impl Walk {
    /// The walk through `tensors`, which come by name and lie in a file of `file_bytes`; `None` if they lie by name too, so that reading
    /// by name is reading in order.
    pub(super) fn new(tensors: &[ByteRange], file_bytes: u64) -> Option<Self> {
        let mut at = 0;
        let tensors = tensors.iter().map(|range| {
            let tensor = Tensor { range: *range, at, position: 0 };
            at += range.len();
            tensor
        });
        let mut tensors: Vec<Tensor> = tensors.collect();
        let mut by_offset: Vec<u32> = (0..u32::try_from(tensors.len()).ok()?).collect();
        by_offset.sort_by_key(|index| tensors[*index as usize].range.start);
        if by_offset.is_sorted() {
            return None;
        }
        for (position, index) in by_offset.iter().enumerate() {
            tensors[*index as usize].position = position;
        }
        let (guess, place) = (Guess::default(), None);
        Some(Self { tensors, by_offset, file_bytes, guess, place, moves: 0, is_given_up: false })
    }

    /// Follows a reader before its first read; what to fetch ahead of it.
    pub(super) fn begin(&mut self, bounds: Bounds) -> Vec<Part> {
        self.place = Some(Place { began: 0, next: 0, planned: 0, read: 0 });
        self.plan(bounds)
    }

    /// Whether a reader is followed that has not come to the end.
    pub(super) fn is_followed(&self) -> bool {
        !self.is_given_up && self.place.as_ref().is_some_and(|place| place.next < self.bytes())
    }

    /// Whether a reader was followed, to the end or until now.
    pub(super) fn is_by_name(&self) -> bool {
        !self.is_given_up && self.place.is_some()
    }

    /// Takes note of a read; what to fetch ahead of its reader besides, the most urgent first. `None` if the walk does not know this reader.
    pub(super) fn observe(&mut self, range: ByteRange, bounds: Bounds) -> Option<Vec<Part>> {
        if self.is_given_up {
            return None;
        }
        let touched = self.touched(range);
        if let Some(seen) = self.follow(&touched) {
            self.is_given_up = self.place.as_ref().is_some_and(|place| place.is_sliced(bounds.window));
            return match seen {
                Seen::Behind => None,
                _ if self.is_given_up => None,
                Seen::Advance => Some(self.plan(bounds)),
                Seen::Beside => Some(Vec::new()),
            };
        }
        let indices = touched.iter().map(|touched| touched.index).collect();
        let first = self.guess.sees(range, indices, &self.tensors)?;
        let Touched { start, end, .. } = *touched.iter().find(|touched| touched.index == first)?;
        self.moves += 1;
        self.is_given_up = self.moves > MAX_MOVES;
        self.place = Some(Place { began: start, next: end, planned: end, read: end - start });
        Some(self.plan(bounds))
    }

    /// There was no memory for what the walk comes to at `at`, and later.
    pub(super) fn refused(&mut self, at: u64) {
        if let Some(place) = &mut self.place {
            place.planned = place.planned.min(at).max(place.next);
        }
    }

    fn bytes(&self) -> u64 {
        self.tensors.last().map_or(0, Tensor::end)
    }

    /// What a read touches, in the order of offsets.
    fn touched(&self, range: ByteRange) -> Vec<Touched> {
        let tensor = |index: &u32| &self.tensors[*index as usize];
        let from = self.by_offset.partition_point(|index| tensor(index).range.end <= range.start);
        let touched = self.by_offset[from..].iter().map(|index| (*index as usize, tensor(index)));
        let touched = touched.take_while(|(_, tensor)| tensor.range.start < range.end).take(MAX_TOUCHED);
        let touched = touched.map(|(index, tensor)| {
            let part = tensor.range.intersect(range);
            let start = tensor.at + (part.start - tensor.range.start);
            Touched { index, start, end: start + part.len() }
        });
        touched.collect()
    }

    /// Lets the reader who is followed go on to what a read touches; `None` if that is not its read.
    fn follow(&mut self, touched: &[Touched]) -> Option<Seen> {
        let bytes = self.bytes();
        let place = self.place.as_mut()?;
        let nearest = touched.iter().min_by_key(|touched| touched.start.abs_diff(place.next))?;
        let at = self.tensors.partition_point(|tensor| tensor.end() <= place.next);
        let is_ahead = nearest.start > place.next + SKIP_BYTES && nearest.index > at + MAX_STEP;
        if is_ahead && nearest.start > place.planned {
            return None;
        }
        if nearest.end + BEHIND_BYTES < place.next {
            // Who begins again when another has come to the end is a new reader.
            let is_new = nearest.start < place.began || place.next >= bytes;
            place.read += if is_new { 0 } else { nearest.end - nearest.start };
            return (!is_new).then_some(Seen::Behind);
        }
        if is_ahead {
            // The kernel reads beyond the end of a tensor.
            return Some(Seen::Beside);
        }
        place.next = place.next.max(nearest.end);
        place.read += touched.iter().map(|touched| touched.end - touched.start).sum::<u64>();
        Some(Seen::Advance)
    }

    /// What is to be fetched now; nothing while half the window is.
    fn plan(&mut self, bounds: Bounds) -> Vec<Part> {
        let Some(place) = &mut self.place else { return Vec::new() };
        if place.planned.saturating_sub(place.next) > bounds.window / 2 {
            return Vec::new();
        }
        let (start, end) = (place.planned.max(place.next), place.next + bounds.window);
        let from = self.tensors.partition_point(|tensor| tensor.end() <= start);
        let tensors = self.tensors[from..].iter().take_while(|tensor| tensor.at < end).take(MAX_PIECES);
        let mut pieces = Vec::new();
        for tensor in tensors {
            let (start, end) = (start.max(tensor.at), end.min(tensor.end()));
            let offset = |at: u64| tensor.range.start + (at - tensor.at);
            let blocks = offset(start) / BLOCK_BYTES * BLOCK_BYTES..offset(end).next_multiple_of(BLOCK_BYTES);
            let range = ByteRange::new(blocks.start, blocks.end.min(self.file_bytes));
            pieces.push(Part { range, at: start });
            place.planned = end;
        }
        requests(pieces, bounds.part)
    }
}

/// What a read of the reader who is followed is.
enum Seen {
    Advance,
    /// Of what it will come to.
    Beside,
    /// Of what it has left behind: another reads the same tensors.
    Behind,
}

impl Place {
    fn is_sliced(&self, window: u64) -> bool {
        let went = self.next - self.began;
        went >= window.max(JUDGED_BYTES) && self.read < went / LEAST_SHARE
    }
}

impl Guess {
    /// Takes note of a read of `range`, which touches these of the `tensors`. The one that its reader is at, once it is proved that it goes by
    /// name.
    fn sees(&mut self, range: ByteRange, mut touched: Vec<usize>, tensors: &[Tensor]) -> Option<usize> {
        touched.sort_unstable();
        let is_near = |previous: ByteRange| {
            range.start + NEAR_BYTES >= previous.start && range.start <= previous.end + NEAR_BYTES
        };
        let is_jump = !self.previous.replace(range).is_some_and(is_near);
        if touched.is_empty() || touched.iter().any(|index| self.last.binary_search(index).is_ok()) {
            return None;
        }
        if !is_jump {
            self.near = touched;
            return None;
        }
        let near = std::mem::take(&mut self.near);
        let (is_first, last) = (self.last.is_empty() && near.is_empty(), &self.last);
        let below = |some: &[usize], index: &usize| match some.partition_point(|other| other < index) {
            0 => None,
            n => Some(some[n - 1] + 1),
        };
        let before = |index: &usize| below(last, index).max(below(&near, index)).or(is_first.then_some(0));
        // Where few types alternate, the next one in the file is one of the next by name too.
        let is_next_in_file = |index: &usize| {
            let position = tensors[*index].position;
            last.iter()
                .chain(&near)
                .any(|last| (1..=MAX_STEP).contains(&position.wrapping_sub(tensors[*last].position)))
        };
        if touched.iter().any(is_next_in_file) {
            self.last = touched;
            return None;
        }
        let steps = |index: &usize| before(index).is_some_and(|before| index - before < MAX_STEP);
        let next: Vec<usize> = touched.iter().copied().filter(steps).collect();
        if next.is_empty() {
            self.votes = self.votes.saturating_sub(1);
            self.last = touched;
            return None;
        }
        // Who begins with the first name, though another tensor lies first, goes by name.
        self.votes += if is_first && next[0] == 0 && tensors[0].position != 0 { VOTES } else { 1 };
        self.last = next;
        if self.votes < VOTES {
            return None;
        }
        self.votes = 0;
        self.last.first().copied()
    }
}

/// Joins `pieces` that touch, cuts them into requests of about `part` bytes, and puts first what the walk comes to first.
fn requests(mut pieces: Vec<Part>, part: u64) -> Vec<Part> {
    pieces.sort_unstable_by_key(|piece| piece.range.start);
    let mut parts: Vec<Part> = Vec::new();
    for Part { range, at: piece } in pieces {
        let mut start = range.start;
        while start < range.end {
            let at = piece + (start - range.start);
            match parts.last_mut() {
                // Nearly all pieces overlap the one before by a block.
                Some(last) if last.range.end >= start && last.range.end < limit(last.range.start, part) => {
                    let end = range.end.min(limit(last.range.start, part)).max(last.range.end);
                    *last = Part { range: ByteRange::new(last.range.start, end), at: last.at.min(at) };
                    start = end;
                }
                last => {
                    start = last.map_or(start, |last| start.max(last.range.end));
                    let end = range.end.min(limit(start, part));
                    if start < end {
                        let at = piece + (start - range.start);
                        parts.push(Part { range: ByteRange::new(start, end), at });
                    }
                    start = end.max(start);
                }
            }
        }
    }
    parts.sort_by_key(|part| part.at);
    parts
}

/// Where a request that begins at `start` ends: at a multiple of `part`, which a short beginning joins.
fn limit(start: u64, part: u64) -> u64 {
    (start + part + part / 2) / part * part
}

#[cfg(test)]
mod tests;
