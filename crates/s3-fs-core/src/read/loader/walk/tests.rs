//! Readers by name and others, and what is fetched ahead of them. Units: MiB, unless said otherwise.

use super::*;

const MIB: u64 = 1 << 20;
const BOUNDS: Bounds = Bounds { window: 32 * MIB, part: 8 * MIB };
/// What lies before the tensors.
const HEADER: u64 = MIB;

fn mib(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start * MIB, end * MIB)
}

/// Layers of a small, a medium and a large tensor, named in that order, where all small ones come first in the file, then all medium ones.
fn mixed(layers: u64, lens: [u64; 3]) -> (Vec<ByteRange>, u64) {
    let [small, medium, _] = lens;
    let starts = [0, layers * small, layers * (small + medium)];
    let tensor = |n: u64| {
        let (layer, kind) = (n / 3, (n % 3) as usize);
        let start = HEADER + starts[kind] + layer * lens[kind];
        ByteRange::new(start, start + lens[kind])
    };
    let tensors: Vec<ByteRange> = (0..3 * layers).map(tensor).collect();
    let size = tensors.iter().map(|range| range.end).max().expect("there are tensors");
    (tensors, size)
}

fn walk(layers: u64) -> (Vec<ByteRange>, Walk) {
    let (tensors, size) = mixed(layers, [MIB / 4, 2 * MIB, 8 * MIB]);
    let walk = Walk::new(&tensors, size).expect("they do not lie by name");
    (tensors, walk)
}

/// Reads a tensor as Linux does for one who reads in order, and returns what was planned; `None` if one of the reads was not the walk's.
fn read(walk: &mut Walk, tensor: ByteRange) -> Option<Vec<Part>> {
    let pieces = (tensor.start..tensor.end).step_by(MIB as usize);
    let pieces = pieces.map(|start| ByteRange::new(start, (start + MIB).min(tensor.end)));
    let planned: Vec<Option<Vec<Part>>> = pieces.map(|piece| walk.observe(piece, BOUNDS)).collect();
    planned.into_iter().collect::<Option<Vec<_>>>().map(|planned| planned.concat())
}

fn bytes_of(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.range.len()).sum()
}

/// Whether `parts`, each of which is a request, have all of `range`.
fn covers(parts: &[Part], range: ByteRange) -> bool {
    let mut ranges: Vec<ByteRange> = parts.iter().map(|part| part.range).collect();
    ranges.sort_by_key(|range| range.start);
    let mut at = range.start;
    for part in ranges {
        if part.start <= at {
            at = at.max(part.end);
        }
    }
    at >= range.end
}

#[test]
fn who_begins_with_the_first_name_is_followed_at_once() {
    let (tensors, mut walk) = walk(64);
    // Another one lies first in the file.
    let moved: Vec<ByteRange> = tensors.iter().rev().copied().collect();
    let mut by_moved = Walk::new(&moved, moved[0].end).expect("they lie against their names");
    assert!(by_moved.observe(mib(0, 1), BOUNDS).is_none(), "the header");
    let planned = by_moved.observe(ByteRange::from_len(moved[0].start, MIB), BOUNDS).expect("it is known");
    assert!(by_moved.is_followed());
    assert!(covers(&planned, ByteRange::new(moved[0].start + MIB, moved[0].end)));
    assert!(covers(&planned, moved[1]) && covers(&planned, moved[2]), "{planned:?}");

    // Where the first name lies first, that proves nothing.
    assert!(walk.observe(mib(0, 1), BOUNDS).is_none());
    assert!(read(&mut walk, tensors[0]).is_none());
    assert!(!walk.is_followed());
}

#[test]
fn two_steps_from_name_to_name_prove_the_order() {
    let (tensors, mut walk) = walk(64);
    let begun: Vec<bool> = tensors[..6].iter().map(|tensor| read(&mut walk, *tensor).is_some()).collect();
    let at = begun.iter().position(|is_known| *is_known).expect("it is known");
    assert!(at <= 3, "{begun:?}");
    assert!(begun[at..].iter().all(|is_known| *is_known), "{begun:?}");
    assert!(walk.is_by_name());
}

#[test]
fn everything_is_planned_before_it_is_read_and_once() {
    let (tensors, mut walk) = walk(64);
    let mut planned = walk.begin(BOUNDS);
    assert!(bytes_of(&planned) <= BOUNDS.window + MIB, "{}", bytes_of(&planned));
    let mut read_bytes = 0;
    for tensor in &tensors {
        assert!(covers(&planned, *tensor), "{tensor:?} is read and was not planned");
        planned.extend(read(&mut walk, *tensor).expect("it is followed"));
        read_bytes += tensor.len();
        let ahead = bytes_of(&planned) - read_bytes.min(bytes_of(&planned));
        assert!(ahead <= BOUNDS.window * 3 / 2, "{ahead} ahead");
    }
    assert!(!walk.is_followed(), "it is at the end");
    let total: u64 = tensors.iter().map(ByteRange::len).sum();
    assert_eq!(bytes_of(&planned), total, "these tensors share no block");
    let requests = planned.len() as u64;
    // Three regions in each plan of half a window and more.
    assert!(requests <= total / MIB / 3, "{requests} requests for {} MiB", total / MIB);
}

#[test]
fn requests_come_in_the_order_of_the_walk() {
    let (tensors, mut walk) = walk(64);
    let planned = walk.begin(BOUNDS);
    assert!(planned.is_sorted_by_key(|part| part.at));
    assert!(planned[0].range.start <= tensors[0].start && planned[0].range.end >= tensors[0].end);
    assert!(planned.iter().all(|part| part.range.len() <= BOUNDS.part * 3 / 2), "{planned:?}");
}

#[test]
fn pieces_are_joined_and_cut() {
    let part = |start: u64, end: u64, at: u64| Part { range: mib(start, end), at: at * MIB };
    for (pieces, expected) in [
        (vec![], vec![]),
        (vec![part(0, 2, 0), part(2, 4, 9)], vec![part(0, 4, 0)]),
        (vec![part(10, 11, 5), part(0, 1, 9)], vec![part(10, 11, 5), part(0, 1, 9)]),
        (vec![part(0, 20, 0)], vec![part(0, 8, 0), part(8, 16, 8), part(16, 20, 16)]),
        (vec![part(5, 20, 0)], vec![part(5, 16, 0), part(16, 20, 11)]),
        (vec![part(3, 20, 0)], vec![part(3, 8, 0), part(8, 16, 5), part(16, 20, 13)]),
        (vec![part(0, 6, 7), part(5, 10, 1)], vec![part(0, 8, 1), part(8, 10, 4)]),
    ] {
        assert_eq!(requests(pieces.clone(), 8 * MIB), expected, "{pieces:?}");
    }
}

#[test]
fn what_the_kernel_reads_beyond_a_tensor_moves_nobody() {
    let (tensors, mut walk) = walk(64);
    walk.begin(BOUNDS);
    for n in 0..30 {
        assert!(read(&mut walk, tensors[n]).is_some());
        // The next ones in the file are three names later, and so on.
        let beyond = ByteRange::from_len(tensors[n].end, 2 * MIB);
        let planned = walk.observe(beyond, BOUNDS);
        let at = tensors[..=n].iter().map(ByteRange::len).sum::<u64>();
        let place = walk.place.as_ref().expect("it is followed");
        assert!(
            place.next <= at + SKIP_BYTES + 2 * MIB,
            "at tensor {n}: {place:?} instead of {at}, {planned:?}"
        );
    }
}

#[test]
fn small_tensors_may_be_skipped() {
    // The kernel has the next four of the small ones in pages around the one that was read.
    let (tensors, mut walk) = walk(64);
    let seen = |n: &usize| !n.is_multiple_of(3) || n.is_multiple_of(15);
    let visible: Vec<usize> = (0..tensors.len()).filter(seen).collect();
    let known = visible.iter().map(|n| read(&mut walk, tensors[*n]).is_some());
    let unknown = known.collect::<Vec<bool>>().iter().filter(|is_known| !**is_known).count();
    assert!(unknown <= 4, "{unknown} tensors were unknown");
}

#[test]
fn reads_around_a_page_fault_show_the_order_too() {
    let (tensors, mut walk) = walk(64);
    let mut known = Vec::new();
    for tensor in &tensors[..12] {
        // Half of what is read lies before the page that was touched.
        let around = ByteRange::new(tensor.start.saturating_sub(MIB / 2), tensor.start + MIB / 2);
        known.push(walk.observe(around, BOUNDS).is_some());
    }
    assert!(known[4..].iter().all(|is_known| *is_known), "{known:?}");
}

#[test]
fn ranks_that_read_slices_of_the_same_tensors_are_one_reader() {
    let (tensors, mut walk) = walk(64);
    walk.begin(BOUNDS);
    let mut planned = 0;
    for tensor in &tensors {
        for slice in (0..4).rev() {
            let len = tensor.len() / 4;
            let slice = ByteRange::from_len(tensor.start + slice * len, len);
            planned += bytes_of(&walk.observe(slice, BOUNDS).expect("it is followed"));
        }
    }
    assert!(!walk.is_given_up);
    assert!(planned <= tensors.iter().map(ByteRange::len).sum());
}

#[test]
fn who_reads_a_slice_of_each_tensor_alone_is_given_up() {
    let (tensors, mut walk) = walk(64);
    walk.begin(BOUNDS);
    let followed = tensors.iter().take_while(|tensor| {
        walk.observe(ByteRange::from_len(tensor.start, tensor.len() / 8), BOUNDS).is_some()
    });
    let bytes: u64 = followed.map(ByteRange::len).sum();
    assert!(bytes < 2 * JUDGED_BYTES, "{bytes}");
}

#[test]
fn readers_in_order_and_at_random_are_not_the_walks() {
    let (tensors, mut walk) = walk(64);
    let end = tensors.iter().map(|range| range.end).max().expect("there are tensors");
    for start in (0..end).step_by(MIB as usize) {
        let range = ByteRange::new(start, (start + MIB).min(end));
        assert!(walk.observe(range, BOUNDS).is_none(), "at {start}");
    }
    let (_, mut walk) = self::walk(64);
    let mut followed = 0;
    for n in 0..1000 {
        let start = n * 7919 % (end / MIB) * MIB;
        followed += u32::from(walk.observe(ByteRange::from_len(start, 4096), BOUNDS).is_some());
    }
    assert!(followed <= 100, "{followed} of 1000 random reads");
}

#[test]
fn requests_in_any_order_of_who_reads_in_order_are_not_the_walks() {
    // Where the next tensor in the file is three names later; large tensors, many requests at once.
    let (tensors, size) = mixed(64, [MIB, 24 * MIB, 40 * MIB]);
    let mut walk = Walk::new(&tensors, size).expect("they do not lie by name");
    for batch in (0..size).step_by(16 << 20) {
        let starts: Vec<u64> = (batch..(batch + 16 * MIB).min(size)).step_by(MIB as usize).collect();
        for n in 0..starts.len() {
            let start = starts[n * 7 % starts.len()];
            assert!(
                walk.observe(ByteRange::new(start, (start + MIB).min(size)), BOUNDS).is_none(),
                "at {start}"
            );
        }
    }
    // Several threads, each of which takes the next tensor in the file.
    let (mut by_offset, mut walk) = (tensors.clone(), Walk::new(&tensors, size).expect("the same"));
    by_offset.sort_by_key(|range| range.start);
    for tensor in by_offset {
        assert!(walk.observe(ByteRange::from_len(tensor.start, MIB), BOUNDS).is_none(), "{tensor:?}");
    }
}

#[test]
fn who_comes_far_behind_is_a_stream_and_moves_nobody() {
    let (tensors, mut walk) = walk(64);
    walk.begin(BOUNDS);
    for (n, tensor) in tensors.iter().enumerate() {
        assert!(read(&mut walk, *tensor).is_some(), "{n}");
        if n >= 30 {
            assert!(read(&mut walk, tensors[n - 30]).is_none(), "{n}");
        }
    }
    assert!(!walk.is_followed() && walk.moves == 0 && !walk.is_given_up);
    // One who begins when the first has come to the end is followed like that.
    let known = tensors[..6].iter().filter(|tensor| read(&mut walk, **tensor).is_some()).count();
    assert!(known >= 2, "{known}");
    assert!(walk.is_followed());
}

#[test]
fn a_reader_who_jumps_is_found_again_and_in_the_end_let_go() {
    let (tensors, mut walk) = walk(256);
    walk.begin(BOUNDS);
    let mut lost = 0;
    // Thirty tensors of each hundred.
    for tensor in tensors.iter().enumerate().filter(|(n, _)| n % 100 < 30).map(|(_, tensor)| tensor) {
        lost += u32::from(read(&mut walk, *tensor).is_none());
    }
    assert!(lost > 0);
    assert!(walk.moves > MAX_MOVES && walk.is_given_up, "{lost} of the tensors were unknown");
}

#[test]
fn what_was_refused_is_planned_again() {
    let (tensors, mut walk) = walk(64);
    let planned = walk.begin(BOUNDS);
    let refused = planned[2];
    walk.refused(refused.at);
    let again = read(&mut walk, tensors[0]).expect("it is followed");
    assert!(again.iter().any(|part| part.at <= refused.at && covers(&again, refused.range)), "{again:?}");
    walk.refused(0);
    let place = walk.place.as_ref().expect("it is followed");
    assert_eq!(place.planned, place.next, "never behind the reader");
}

#[test]
fn tensors_that_lie_by_name_need_no_walk() {
    let tensors = [mib(1, 2), mib(2, 3), mib(3, 9)];
    assert!(Walk::new(&tensors, 9 * MIB).is_none());
    assert!(Walk::new(&[], 9 * MIB).is_none());
    assert!(Walk::new(&[mib(2, 3), mib(1, 2)], 9 * MIB).is_some());
}

#[test]
fn a_window_of_one_block_is_enough_to_go_on() {
    let (tensors, mut walk) = walk(4);
    let bounds = Bounds { window: BLOCK_BYTES, part: BLOCK_BYTES };
    walk.begin(bounds);
    for tensor in &tensors {
        for start in (tensor.start..tensor.end).step_by(BLOCK_BYTES as usize) {
            let planned =
                walk.observe(ByteRange::from_len(start, BLOCK_BYTES), bounds).expect("it is followed");
            assert!(bytes_of(&planned) <= 2 * BLOCK_BYTES, "{planned:?}");
        }
    }
}
