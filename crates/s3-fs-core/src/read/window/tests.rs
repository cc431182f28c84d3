//! Tables of reads and of what is fetched ahead of them. Units: KiB, so that blocks are 128.

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 10;
const GIB: u64 = 1 << 20;

fn streams(size_kib: u64) -> Streams {
    Streams::new(Limits { size: size_kib * KIB, max_window_bytes: 128 << 20, max_part_bytes: 8 << 20 })
}

fn kib(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start * KIB, end * KIB)
}

impl Streams {
    fn read(&mut self, start: u64, end: u64) -> Plan {
        self.observe(kib(start, end), u64::MAX)
    }

    /// Reads and finds what it wants in memory.
    fn ahead(&mut self, start: u64, end: u64) -> (u64, u64) {
        let ahead = self.read(start, end).ahead;
        (ahead.start / KIB, ahead.end / KIB)
    }

    /// Reads and has to wait.
    fn ahead_waiting(&mut self, start: u64, end: u64) -> (u64, u64) {
        let plan = self.read(start, end);
        self.waited(plan.stream);
        (plan.ahead.start / KIB, plan.ahead.end / KIB)
    }
}

/// Start and end.
type Span = (u64, u64);

/// Each row: a read, and what is fetched ahead of it.
fn check(size_kib: u64, rows: &[(Span, Span)]) {
    let mut streams = streams(size_kib);
    for (at, ((start, end), expected)) in rows.iter().enumerate() {
        assert_eq!(streams.ahead(*start, *end), *expected, "row {at}: read {start}..{end}");
    }
}

#[test]
fn a_first_read_from_the_start_fetches_the_first_mib() {
    check(GIB, &[((0, 4), (128, MIB))]);
    check(GIB, &[((0, 128), (128, MIB))]);
    check(GIB, &[((0, MIB), (MIB, 2 * MIB))]);
}

#[test]
fn a_small_object_read_from_the_start_is_fetched_whole() {
    check(8 * MIB, &[((0, 4), (128, 8 * MIB)), ((4, 1024), (8 * MIB, 8 * MIB))]);
    check(100, &[((0, 100), (100, 100))]);
    check(8 * MIB + 1, &[((0, 4), (128, MIB))]);
}

#[test]
fn random_reads_fetch_nothing_ahead() {
    let mut streams = streams(GIB);
    for n in 1..1000_u64 {
        let start = n * 7919 % 8000 * 128 + 128;
        assert_eq!(streams.ahead(start, start + 100), (start + 128, start + 128), "read {n}");
        assert_eq!(streams.reading_ahead(), 0);
    }
}

#[test]
fn the_second_read_of_a_run_starts_a_window_of_one_mib() {
    check(GIB, &[((5000, 5100), (5120, 5120)), ((5100, 5200), (5248, 7168))]);
    // Rounded up to whole parts, so that requests begin at multiples of a MiB.
}

#[test]
fn a_run_that_arrives_in_the_wrong_order_is_a_run() {
    check(GIB, &[((5120, 6144), (6144, 6144)), ((4096, 5120), (6144, 7168)), ((6144, 7168), (7168, 8192))]);
}

#[test]
fn reads_that_only_overlap_are_not_a_run() {
    check(GIB, &[((5120, 5248), (5248, 5248)), ((5124, 5248), (5248, 5248)), ((5120, 5248), (5248, 5248))]);
}

#[test]
fn the_window_stays_while_the_reader_never_waits() {
    let mut streams = streams(GIB);
    let mut planned = 0;
    for start in (0..64 * MIB).step_by(128) {
        planned = streams.ahead(start, start + 128).1.max(planned);
        assert!(planned - start <= 3 * MIB, "{planned} planned at {start}");
    }
}

/// Reads 512 MiB from `from` on, always waiting; returns how many MiB lay ahead at each plan.
fn windows_of_a_waiting_reader(from: u64) -> Vec<u64> {
    let mut streams = streams(GIB);
    let mut windows = Vec::new();
    let mut planned = from;
    for start in (from..from + 512 * MIB).step_by(128) {
        let (a, b) = streams.ahead_waiting(start, start + 128);
        if a < b {
            assert_eq!(a, planned.max(start + 128), "no hole and nothing twice");
            planned = b;
            windows.push((planned - start - 128).div_ceil(MIB));
        }
        assert!(planned == from || planned >= start + 128, "what is read was planned");
    }
    windows
}

#[test]
fn the_window_doubles_with_each_plan_while_the_reader_waits() {
    let windows = windows_of_a_waiting_reader(MIB);
    assert_eq!(windows[..8], [3, 4, 8, 17, 34, 68, 128, 128]);
    assert!(windows[8..].iter().all(|w| (120..=136).contains(w)), "{windows:?}");
}

#[test]
fn the_window_grows_faster_when_reading_began_at_the_start() {
    assert_eq!(windows_of_a_waiting_reader(0)[..5], [1, 5, 17, 68, 128]);
}

#[test]
fn plans_are_made_before_half_the_window_is_used_up() {
    let mut streams = streams(GIB);
    let mut planned = 0;
    for start in (0..256 * MIB).step_by(1024) {
        let (_, end) = streams.ahead_waiting(start, start + 1024);
        planned = end.max(planned);
        let window = streams.streams[0].window / KIB;
        assert!(planned - (start + 1024) >= window / 2, "{planned} planned at {start}, window {window}");
    }
}

#[test]
fn parts_grow_with_the_window_to_their_limit() {
    let mut streams = streams(GIB);
    let mut parts = Vec::new();
    for start in (MIB..512 * MIB).step_by(1024) {
        let plan = streams.read(start, start + 1024);
        streams.waited(plan.stream);
        parts.push(plan.part_bytes / KIB / MIB);
    }
    parts.dedup();
    assert_eq!(parts, [1, 2, 4, 8]);
}

#[test]
fn a_stream_ends_at_the_end_of_the_object() {
    let mut streams = streams(20 * MIB + 3);
    assert_eq!(streams.ahead_waiting(17 * MIB, 18 * MIB), (18 * MIB, 18 * MIB));
    assert_eq!(streams.ahead_waiting(18 * MIB, 19 * MIB), (19 * MIB, 20 * MIB + 3));
    assert_eq!(streams.reading_ahead(), 1);
    assert_eq!(streams.ahead_waiting(19 * MIB, 20 * MIB + 3), (20 * MIB + 3, 20 * MIB + 3));
    assert_eq!(streams.reading_ahead(), 0);
}

#[test]
fn reads_behind_and_ahead_within_the_window_stay_in_the_stream() {
    let mut streams = streams(GIB);
    let first = streams.read(0, MIB).stream;
    // The kernel's read-ahead, out of order; a skip forward; a look back.
    for start in [1, 3, 2, 5, 4, 9, 6, 7, 8, 12] {
        assert_eq!(streams.read(start * MIB, (start + 1) * MIB).stream, first, "at {start} MiB");
    }
    assert_ne!(streams.read(100 * MIB, 101 * MIB).stream, first);
    assert_eq!(streams.read(13 * MIB, 14 * MIB).stream, first, "the jump did not end it");
}

#[test]
fn sixteen_runs_are_told_apart() {
    let mut streams = streams(64 * GIB);
    let mut ids = Vec::new();
    for round in 0..20 {
        for run in 1..=12_u64 {
            let start = run * GIB + round * 128;
            let id = streams.read(start, start + 128).stream;
            if round == 0 {
                ids.push(id);
            }
            assert_eq!(id, ids[run as usize - 1], "round {round}, run {run}");
        }
        // A random reader besides them does not push them out once they have proved themselves.
        for noise in 0..(if round == 0 { 0 } else { 5 }) {
            let start = 40 * GIB + (round * 5 + noise) * 10 * MIB;
            streams.read(start, start + 4);
        }
    }
    assert_eq!(streams.reading_ahead(), 12);
}

#[test]
fn a_new_run_can_prove_itself_beside_many_old_ones() {
    let mut streams = streams(64 * GIB);
    for run in 1..=20_u64 {
        // Two new runs whose reads alternate.
        for round in 0..3 {
            for twin in [0, GIB] {
                let start = run * 2 * GIB + twin + round * 128;
                streams.read(start, start + 128);
            }
        }
        let last = &streams.streams[streams.streams.len() - 2..];
        assert!(last.iter().all(|s| s.is_run), "at run {run}");
        assert!(streams.streams.len() <= MAX_STREAMS);
    }
}

#[test]
fn what_was_fetched_ahead_of_a_dropped_stream_is_abandoned() {
    let mut streams = streams(64 * GIB);
    for run in 1..=16_u64 {
        streams.read(run * GIB, run * GIB + 128);
        assert_eq!(streams.read(run * GIB + 128, run * GIB + 256).abandoned, None);
    }
    let abandoned = streams.read(40 * GIB, 40 * GIB + 128).abandoned;
    assert_eq!(abandoned, Some(kib(GIB + 256, GIB + 2 * MIB)));
}

/// Reads a run of `len` KiB; returns what was fetched ahead of its first read, and how far beyond its end the plans went.
fn run(streams: &mut Streams, from: u64, len: u64) -> (u64, u64) {
    let mut first = None;
    let mut planned = 0;
    for start in (from..from + len).step_by(1024) {
        let (a, b) = streams.ahead_waiting(start, start + 1024);
        first.get_or_insert(b - a);
        planned = b.max(planned);
    }
    (first.unwrap_or(0) / MIB, planned.saturating_sub(from + len) / MIB)
}

#[test]
fn runs_of_equal_length_teach_how_long_the_next_one_will_be() {
    for len in [4 * MIB, 16 * MIB] {
        let mut streams = streams(64 * GIB);
        let runs: Vec<_> = (1..=5).map(|n| run(&mut streams, n * GIB, len)).collect();
        assert_eq!((runs[0].0, runs[1].0), (0, 0), "nothing is known yet: {runs:?}");
        assert!(
            runs[2..].iter().all(|r| *r == (len / MIB - 1, 0)),
            "all of it at once, and no more: {runs:?}"
        );
    }
}

#[test]
fn a_run_longer_than_expected_is_read_ahead_of_like_a_new_one() {
    let mut streams = streams(64 * GIB);
    for n in 1..=3 {
        run(&mut streams, n * GIB, 4 * MIB);
    }
    let (_, beyond) = run(&mut streams, 5 * GIB, 200 * MIB);
    assert!(beyond >= 64, "{beyond} MiB");
}

#[test]
fn one_random_read_is_enough_to_expect_no_run() {
    let mut streams = streams(64 * GIB);
    for n in 1..=5 {
        run(&mut streams, n * GIB, 16 * MIB);
    }
    let fetched: Vec<u64> =
        (30..40).map(|n| streams.ahead(n * GIB, n * GIB + 128)).map(|(a, b)| (b - a) / MIB).collect();
    assert_eq!(fetched, [15, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn many_streams_share_the_memory() {
    let mut streams = streams(GIB);
    for start in (0..256 * MIB).step_by(1024) {
        let plan = streams.observe(kib(start, start + 1024), 3 << 20);
        streams.waited(plan.stream);
        assert!(plan.ahead.end <= (start + 1024 + 4 * MIB) * KIB, "{plan:?} at {start}");
    }
    let plan = streams.observe(kib(256 * MIB, 257 * MIB), 0);
    assert!(plan.part_bytes >= BLOCK_BYTES);
}

#[test]
fn what_was_refused_is_planned_again() {
    let mut streams = streams(GIB);
    streams.ahead_waiting(MIB, 2 * MIB);
    let plan = streams.read(2 * MIB, 3 * MIB);
    assert_eq!(plan.ahead, kib(3 * MIB, 5 * MIB));
    streams.refused(plan.stream, 4 * MIB * KIB);
    assert_eq!(streams.ahead(3 * MIB, 4 * MIB), (4 * MIB, 6 * MIB));
    streams.refused(plan.stream, 0);
    assert_eq!(streams.ahead(4 * MIB, 5 * MIB), (5 * MIB, 7 * MIB), "never behind the reader");
}

#[test]
fn the_end_of_an_object_brings_what_lies_before_it_once() {
    let tail = |reads: &[Span]| {
        let mut streams = streams(100 * MIB + 5);
        let tails: Vec<_> = reads.iter().map(|(start, end)| streams.read(*start, *end).tail).collect();
        tails.last().copied().flatten()
    };
    let (last, expected) = ((100 * MIB, 100 * MIB + 5), Some(kib(99 * MIB, 100 * MIB)));
    assert_eq!(tail(&[last]), expected);
    assert_eq!(tail(&[(0, 4), last]), expected, "the first bytes tell that it is an archive");
    assert_eq!(tail(&[(0, 4), (50 * MIB, 50 * MIB + 4), last]), None, "at random");
    assert_eq!(tail(&[last, last]), None);
    assert_eq!(tail(&[(99 * MIB + 4, 100 * MIB + 5)]), None, "it reads all of that itself");
    assert_eq!(tail(&[(50 * MIB, 50 * MIB + 4)]), None);
    let mut small =
        Streams::new(Limits { size: 1 << 20, max_window_bytes: 8 << 20, max_part_bytes: 8 << 20 });
    assert_eq!(small.read(MIB - 4, MIB).tail, None);
}

#[test]
fn a_reader_who_is_expected_finds_a_whole_window() {
    let mut streams = streams(GIB);
    let plan = streams.begin(96 << 20);
    assert_eq!((plan.ahead, plan.part_bytes), (kib(0, 96 * MIB), 8 << 20));
    assert_eq!(streams.reading_ahead(), 1);
    let plans: Vec<_> = (0..96 * MIB).step_by(1024).map(|start| streams.ahead(start, start + 1024)).collect();
    assert!(plans[..47].iter().all(|(start, end)| start == end), "nothing twice");
    assert!(plans[47..].iter().any(|(start, end)| start < end), "and then it goes on");
}
