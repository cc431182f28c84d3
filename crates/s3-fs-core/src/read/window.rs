//! Decides what to fetch ahead of the readers of one object.
//!
//! [`Streams`] sees every read, from all handles of an inode, and tells which belong together. Two reads that touch are a stream;
//! a stream has a window, which doubles while its reader has to wait and stays when it does not. A read that continues nothing gets
//! what it asks for and no more, unless it is at the beginning of the object or the reads before it showed that reading here goes on.
//!
//! It does no I/O, holds no bytes and knows no clock: the cache acts on the [`Plan`].

use sluicefs_s3_client::ByteRange;

use crate::cache::BLOCK_BYTES;

/// The most streams of one object; a model loader reads eight regions at once, a pool of threads sixteen.
const MAX_STREAMS: usize = 16;

/// Streams of two reads and more give way to new ones only while there are more than this many: random reads must not push them out,
/// and new ones need some room to prove themselves.
const KEPT_STREAMS: usize = 12;

/// The first window. Linux is raised to 1 MiB of read-ahead, so that is what its second request asks for.
const FIRST_WINDOW_BYTES: u64 = 1 << 20;

/// The smallest part worth a request of its own while there is more to fetch: at 90 MB/s and 25 ms to the first byte it takes half as
/// long to deliver as to ask for.
const MIN_PART_BYTES: u64 = 1 << 20;

/// A window is fetched in so many parts, so that reading is parallel long before the window is large.
const PARTS_IN_WINDOW: u64 = 8;

/// Objects up to this long are fetched whole when they are read from the start.
const WHOLE_OBJECT_BYTES: u64 = 8 << 20;

/// Whose end is read first, or second, is an archive: its directory is there, and of that length at most if it is not huge. One MiB
/// names ten thousand files in a zip.
const TAIL_BYTES: u64 = 1 << 20;

/// So near to the end a read looks for the directory of an archive; programs search 64 KiB for that of a zip.
const NEAR_END_BYTES: u64 = 64 << 10;

/// How far behind the furthest read another one may begin and still belong to its stream: the kernel sends read-ahead out of order, a
/// MiB each.
const BEHIND_BYTES: u64 = 4 << 20;

/// How far a stream may be skipped forward; it may be more for a large window.
const SKIP_BYTES: u64 = 4 << 20;

/// Runs of reads are expected to be as long as the last two were, but no longer than this.
const MAX_EXPECTED_BYTES: u64 = 16 << 20;

/// From this expected length on, the first read of a run is read ahead of. Runs whose lengths differ by no more are equally long.
const MIN_EXPECTED_BYTES: u64 = 2 << 20;

/// What bounds the plans for one object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The object's length.
    pub(super) size: u64,
    /// The largest window.
    pub(super) max_window_bytes: u64,
    /// The largest part.
    pub(super) max_part_bytes: u64,
}

/// Names a stream until it is dropped; names are not used again, and 0 is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamId(u64);

/// What to do about a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// What to start fetching besides the read itself; whole blocks. If it is empty, it tells where the last one ended.
    pub(super) ahead: ByteRange,
    /// How much to fetch in one request.
    pub(super) part_bytes: u64,
    /// The stream that the read belongs to.
    pub(super) stream: StreamId,
    /// What was fetched ahead of a stream that was dropped to make room.
    pub(super) abandoned: Option<ByteRange>,
    /// What to fetch before the read, besides; whole blocks.
    pub(super) tail: Option<ByteRange>,
}

impl Plan {
    /// To fetch `range` if it is missing, and no more.
    pub(super) fn nothing(range: ByteRange, part_bytes: u64) -> Self {
        let end = round_up(range.end);
        let stream = StreamId(0);
        Self { ahead: ByteRange::new(end, end), part_bytes, stream, abandoned: None, tail: None }
    }
}

/// The streams of one object.
#[derive(Debug)]
pub(super) struct Streams {
    limits: Limits,
    /// Least recently read first.
    streams: Vec<Stream>,
    next_id: u64,
    /// How long the last two runs of reads were.
    last_runs: [u64; 2],
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    /// Where the first read began.
    start: u64,
    /// Where the furthest read ended.
    next: u64,
    /// Up to where fetches were started; whole blocks.
    planned: u64,
    window: u64,
    /// Where it will probably end; 0 if that is unknown.
    probable_end: u64,
    /// Whether it goes on: more than one read, or expected to be.
    is_run: bool,
    /// Whether a reader had to wait since the last plan.
    waited: bool,
}

impl Streams {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, streams: Vec::new(), next_id: 0, last_runs: [0; 2] }
    }

    /// Takes note of a read of `range`, which is not empty and lies inside the object.
    ///
    /// `share_bytes` is what one stream may read ahead in view of all others.
    pub(super) fn observe(&mut self, range: ByteRange, share_bytes: u64) -> Plan {
        let limits = self.limits_within(share_bytes);
        let (mut abandoned, mut tail) = (None, None);
        let ahead;
        match self.find(range) {
            Some(at) => {
                let mut stream = self.streams.remove(at);
                ahead = stream.advance(range, &limits);
                self.streams.push(stream);
            }
            None => {
                self.learn();
                abandoned = self.make_room();
                tail = self.tail(range);
                self.next_id += 1;
                let mut stream = Stream::first_read(StreamId(self.next_id), range);
                ahead = stream.begin(&limits, self.last_runs);
                self.streams.push(stream);
            }
        }
        let stream = self.streams.last().expect("just pushed");
        Plan { ahead, part_bytes: part_bytes(stream.window, &limits), stream: stream.id, abandoned, tail }
    }

    /// Expects a reader of the whole object from its start; what to fetch ahead of its first read.
    pub(super) fn begin(&mut self, share_bytes: u64) -> Plan {
        let limits = self.limits_within(share_bytes);
        self.next_id += 1;
        let mut stream = Stream::first_read(StreamId(self.next_id), ByteRange::new(0, 0));
        (stream.is_run, stream.window) = (true, limits.max_window_bytes);
        let ahead = stream.plan_to(limits.max_window_bytes, &limits);
        let (id, part_bytes) = (stream.id, part_bytes(limits.max_window_bytes, &limits));
        self.streams.push(stream);
        Plan { ahead, part_bytes, stream: id, abandoned: None, tail: None }
    }

    /// Somebody else plans for the readers of this object now.
    pub(super) fn clear(&mut self) {
        self.streams.clear();
    }

    /// A reader of `stream` has to wait.
    pub(super) fn waited(&mut self, stream: StreamId) {
        if let Some(stream) = self.get_mut(stream) {
            stream.waited = true;
        }
    }

    /// Nothing from `from` on was fetched ahead of `stream`: there was no memory.
    pub(super) fn refused(&mut self, stream: StreamId, from: u64) {
        if let Some(stream) = self.get_mut(stream) {
            stream.planned = stream.planned.min(from).max(round_up(stream.next));
        }
    }

    /// How many streams there were, those that ended included.
    pub(super) fn begun(&self) -> u64 {
        self.next_id
    }

    /// How many streams are read ahead of and are not done.
    pub(super) fn reading_ahead(&self) -> usize {
        self.streams.iter().filter(|s| s.is_run && s.next < self.limits.size).count()
    }

    /// The window and the part of who reads ahead as far as it may.
    pub(super) fn largest(&self, share_bytes: u64) -> (u64, u64) {
        let limits = self.limits_within(share_bytes);
        (limits.max_window_bytes, part_bytes(limits.max_window_bytes, &limits))
    }

    fn limits_within(&self, share_bytes: u64) -> Limits {
        let max_window_bytes = self.limits.max_window_bytes.min(share_bytes).max(BLOCK_BYTES);
        Limits { max_window_bytes, ..self.limits }
    }

    /// What lies before a read of the end, if it is one of the first two places that are read.
    fn tail(&self, range: ByteRange) -> Option<ByteRange> {
        let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
        let tail = self.limits.size.saturating_sub(TAIL_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        let is_end = range.end + NEAR_END_BYTES >= self.limits.size && tail > 0;
        let is_early = self.next_id < 2 && self.streams.iter().all(|stream| stream.start == 0);
        (is_early && is_end && tail < start).then(|| ByteRange::new(tail, start))
    }

    fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.iter_mut().rev().find(|s| s.id == id)
    }

    /// The stream nearest to a read among those it may belong to.
    fn find(&self, range: ByteRange) -> Option<usize> {
        let near = self.streams.iter().enumerate().filter(|(_, s)| s.may_take(range));
        near.min_by_key(|(_, s)| (!s.is_run, s.next.abs_diff(range.start))).map(|(at, _)| at)
    }

    /// Before a new stream begins: how long was the one before it?
    fn learn(&mut self) {
        let Some(last) = self.streams.last() else { return };
        let run = if last.is_run { last.next - last.start } else { 0 };
        self.last_runs = [self.last_runs[1], run.min(MAX_EXPECTED_BYTES)];
    }

    fn make_room(&mut self) -> Option<ByteRange> {
        if self.streams.len() < MAX_STREAMS {
            return None;
        }
        let runs = self.streams.iter().filter(|s| s.is_run).count();
        let drops_run = runs > KEPT_STREAMS;
        let at = self.streams.iter().position(|s| s.is_run == drops_run).unwrap_or(0);
        let stream = self.streams.remove(at);
        (stream.next < stream.planned).then(|| ByteRange::new(stream.next, stream.planned))
    }
}

impl Stream {
    fn first_read(id: StreamId, range: ByteRange) -> Self {
        Self {
            id,
            start: range.start,
            next: range.end,
            planned: round_up(range.end),
            window: FIRST_WINDOW_BYTES,
            probable_end: 0,
            is_run: false,
            waited: false,
        }
    }

    /// Whether a read of `range` may be part of this stream.
    fn may_take(&self, range: ByteRange) -> bool {
        if self.is_run {
            let skip = SKIP_BYTES.max(self.window / 2);
            return range.start + BEHIND_BYTES >= self.next && range.start <= self.next + skip;
        }
        // One read proves nothing: only its neighbours belong to it, in whichever order they come.
        range.start == self.next || range.end == self.start
    }

    /// The first read: what to fetch with it.
    fn begin(&mut self, limits: &Limits, last_runs: [u64; 2]) -> ByteRange {
        let (shorter, longer) = (last_runs[0].min(last_runs[1]), last_runs[0].max(last_runs[1]));
        if self.start == 0 {
            let is_small = limits.size <= WHOLE_OBJECT_BYTES.min(limits.max_window_bytes);
            let ahead = if is_small { limits.size } else { FIRST_WINDOW_BYTES.max(2 * self.next) };
            return self.plan_to(ahead.min(self.next + limits.max_window_bytes), limits);
        }
        if shorter < MIN_EXPECTED_BYTES {
            return self.plan_to(self.next, limits);
        }
        self.is_run = true;
        self.window = shorter.min(limits.max_window_bytes);
        if longer - shorter <= MIN_EXPECTED_BYTES {
            self.probable_end = round_up(self.start + longer);
        }
        self.plan_to((self.start + longer).min(self.next + self.window), limits)
    }

    /// A further read: what to fetch ahead.
    fn advance(&mut self, range: ByteRange, limits: &Limits) -> ByteRange {
        self.is_run = true;
        self.start = self.start.min(range.start);
        self.next = self.next.max(range.end);
        self.planned = self.planned.max(round_up(self.next));
        if self.next > self.probable_end && self.probable_end > 0 {
            // Longer than the last ones, so nothing is known of it: as for any new run.
            self.probable_end = 0;
            self.window = FIRST_WINDOW_BYTES;
        }
        self.window = self.window.min(limits.max_window_bytes);
        // Planning when half the window is left keeps the requests in flight: at its edge the reader would wait for a first byte.
        if self.planned - self.next.min(self.planned) > self.window / 2 {
            return self.plan_to(self.planned, limits);
        }
        if std::mem::take(&mut self.waited) {
            // Who reads from the very beginning will probably read it all.
            let growth = if self.start == 0 { 4 } else { 2 };
            self.window = (self.window * growth).min(limits.max_window_bytes);
        }
        let part = part_bytes(self.window, limits);
        let end = (self.next + self.window).next_multiple_of(part);
        self.plan_to(if self.probable_end > 0 { end.min(self.probable_end) } else { end }, limits)
    }

    /// Plans up to `end`, and says what is new of that.
    fn plan_to(&mut self, end: u64, limits: &Limits) -> ByteRange {
        let start = self.planned.min(limits.size);
        self.planned = round_up(end).max(self.planned);
        ByteRange::new(start, self.planned.min(limits.size))
    }
}

/// How much of a window to fetch in one request.
fn part_bytes(window: u64, limits: &Limits) -> u64 {
    let part = (window / PARTS_IN_WINDOW).max(MIN_PART_BYTES).min(window).min(limits.max_part_bytes);
    (part / BLOCK_BYTES).max(1) * BLOCK_BYTES
}

fn round_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests;
