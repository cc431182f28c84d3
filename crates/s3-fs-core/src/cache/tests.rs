//! The cache alone: who gets a claim, what is given up first, and how requests are cut.
#![expect(clippy::single_range_in_vec_init, reason = "a list of one range of blocks is meant")]

use std::time::Duration;

use super::*;
use crate::budget::{BUFFER_BYTES, Budget};
use crate::error::{Error, ErrorKind};

const SIZE: u64 = 1000 * BLOCK_BYTES;
const FULL: u64 = 33 * 4096;

fn cache(blocks: u64, history_blocks: u64) -> BlockCache {
    BlockCache::new(Budget::new(blocks * FULL), history_blocks * BLOCK_BYTES)
}

fn want(version: &VersionEntry, now: Range<u32>) -> Want<'_> {
    let ahead = now.end..now.end;
    Want { version, size: SIZE, now, ahead, part_blocks: 8 }
}

fn want_ahead(version: &VersionEntry, now: Range<u32>, ahead: Range<u32>) -> Want<'_> {
    Want { ahead, ..want(version, now) }
}

/// What a read got: which blocks are ready, the ranges claimed, where memory for reading ahead ran out.
#[derive(Debug)]
struct Seen {
    ready: Vec<bool>,
    claims: Vec<Claim>,
    refused_from: Option<u32>,
    found: Vec<Found>,
}

fn get(cache: &BlockCache, want: &Want<'_>) -> Option<Seen> {
    match cache.get(want, None).expect("no block failed") {
        Got::NoMemory => None,
        Got::Blocks { found, claims, refused_from, .. } => {
            let ready = found.iter().map(|f| matches!(f, Found::Ready(_))).collect();
            Some(Seen { ready, claims, refused_from, found })
        }
    }
}

fn blocks(claims: &[Claim]) -> Vec<Range<u32>> {
    claims.iter().map(|claim| blocks_of(claim.range())).collect()
}

fn fill(claim: &mut Claim) {
    while !claim.range().is_empty() {
        let mut buffer = claim.buffer(0);
        buffer.fill(&[1; BUFFER_BYTES]);
        claim.fill(Arc::new(Block::new(buffer)));
    }
}

/// Reads blocks, and brings what is missing.
fn read(cache: &BlockCache, want: &Want<'_>) -> Seen {
    let mut seen = get(cache, want).expect("there is memory");
    seen.claims.iter_mut().for_each(fill);
    seen
}

fn is_ready(cache: &BlockCache, version: &VersionEntry, index: u32) -> bool {
    let table = cache.shared.table.lock();
    !table.is_missing(version.id, index)
}

fn ready_of(cache: &BlockCache, version: &VersionEntry, indices: Range<u32>) -> Vec<u32> {
    indices.filter(|index| is_ready(cache, version, *index)).collect()
}

#[test]
fn requests_are_cut_at_multiples_of_a_part() {
    for (missing, now, expected) in [
        (vec![0..8], 0..1, vec![0..8]),
        (vec![0..20], 0..1, vec![0..8, 8..16, 16..20]),
        // A short beginning joins the next part; a longer one stands alone.
        (vec![5..20], 5..6, vec![5..16, 16..20]),
        (vec![3..20], 3..4, vec![3..8, 8..16, 16..20]),
        // What a reader waits for is one request, if it is not long.
        (vec![3..19], 3..19, vec![3..19]),
        (vec![3..20], 3..20, vec![3..8, 8..16, 16..20]),
        // Holes part requests.
        (vec![0..2, 4..6], 0..6, vec![0..2, 4..6]),
        (vec![], 0..1, vec![]),
    ] {
        let indices: Vec<u32> = missing.iter().cloned().flatten().collect();
        assert_eq!(runs(&indices, &now, 8), expected, "missing {missing:?}, wanted now {now:?}");
    }
}

#[test]
fn a_missing_block_is_claimed_once() {
    let cache = cache(100, 100);
    let version = cache.add_version();
    let mut first = get(&cache, &want_ahead(&version, 0..2, 2..16)).expect("there is memory");
    assert_eq!(blocks(&first.claims), [0..8, 8..16]);
    let second = get(&cache, &want_ahead(&version, 1..3, 3..18)).expect("there is memory");
    assert_eq!(blocks(&second.claims), [16..18]);
    first.claims.iter_mut().for_each(fill);
    assert_eq!(get(&cache, &want(&version, 0..16)).expect("there is memory").ready, [true; 16]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_claim_is_claimed_again() {
    let cache = cache(100, 100);
    let version = cache.add_version();
    let mut first = get(&cache, &want(&version, 0..4)).expect("there is memory");
    let second = get(&cache, &want(&version, 0..4)).expect("there is memory");
    assert!(second.claims.is_empty());
    let mut claim = first.claims.pop().expect("one claim");
    let mut buffer = claim.buffer(0);
    buffer.fill(&[1; BUFFER_BYTES]);
    claim.fill(Arc::new(Block::new(buffer)));
    drop(claim);
    let mut landings = Vec::new();
    for found in second.found {
        let Found::Filling(pending) = found else { panic!("nothing was ready") };
        landings.push(matches!(pending.wait().await, Landing::Abandoned));
    }
    assert_eq!(landings, [false, true, true, true]);
    assert_eq!(blocks(&get(&cache, &want(&version, 0..4)).expect("there is memory").claims), [1..4]);
}

#[test]
fn a_block_that_could_not_be_read_is_filled_from_elsewhere() {
    let cache = cache(4, 4);
    let version = cache.add_version();
    let mut seen = get(&cache, &want(&version, 0..4)).expect("there is memory");
    let claim = &mut seen.claims[0];
    for _ in 0..8 {
        assert_eq!(claim.fill_by(|_| Err("broken disk")).err(), Some("broken disk"));
        assert!(!claim.fill_by(|_| Ok::<_, ()>(false)).unwrap());
    }
    assert_eq!(claim.range().len(), 4 * BLOCK_BYTES);
    fill(claim);
    assert_eq!(ready_of(&cache, &version, 0..4), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_forgotten_in_time_and_in_number() {
    let cache = BlockCache::new(Budget::new(1 << 30), 0);
    let version = cache.add_version();
    let fail = |index: u32| {
        let mut seen = get(&cache, &want(&version, index..index + 1)).expect("there is memory");
        seen.claims.pop().expect("it was missing").fail(&Error::new(ErrorKind::Io, "read"));
    };
    fail(1);
    assert!(cache.get(&want(&version, 0..2), None).is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(blocks(&get(&cache, &want(&version, 0..2)).expect("there is memory").claims), [0..2]);

    (10..900).for_each(fail);
    assert!(cache.get(&want(&version, 10..11), None).is_err());
    let other = cache.add_version();
    for index in 0..500 {
        let mut seen = get(&cache, &want(&other, index..index + 1)).expect("there is memory");
        seen.claims.pop().expect("it was missing").fail(&Error::new(ErrorKind::Io, "read"));
    }
    assert!(cache.get(&want(&version, 10..11), None).is_ok(), "only the last failures are remembered");
}

#[test]
fn what_was_read_is_given_up_before_what_was_not() {
    let cache = cache(20, 100);
    let version = cache.add_version();
    read(&cache, &want_ahead(&version, 0..4, 4..12));
    // Memory is left for six; the four that were read go next, oldest first.
    read(&cache, &want(&version, 100..108));
    read(&cache, &want(&version, 200..202));
    assert_eq!(ready_of(&cache, &version, 0..12), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    // Then those of 100.., and at last, for a reader who waits, what was fetched ahead.
    read(&cache, &want(&version, 300..316));
    assert_eq!(ready_of(&cache, &version, 0..12), [8, 9, 10, 11]);
    assert!(ready_of(&cache, &version, 100..108).is_empty());
}

#[test]
fn a_block_read_again_gets_a_second_round() {
    let cache = cache(8, 100);
    let version = cache.add_version();
    read(&cache, &want(&version, 0..8));
    read(&cache, &want(&version, 0..1));
    read(&cache, &want(&version, 20..21));
    assert_eq!(ready_of(&cache, &version, 0..8), [0, 2, 3, 4, 5, 6, 7]);
    read(&cache, &want(&version, 30..37));
    assert!(ready_of(&cache, &version, 0..8).is_empty(), "one round, not for ever");
}

#[test]
fn reading_ahead_takes_nothing_that_another_reader_expects() {
    let cache = cache(32, 100);
    let version = cache.add_version();
    read(&cache, &want_ahead(&version, 0..1, 1..24));
    let other = cache.add_version();
    let seen = read(&cache, &want_ahead(&other, 0..1, 1..24));
    // One for the reader; ahead of it an eighth of all memory stays free for readers who wait.
    assert_eq!((seen.refused_from, ready_of(&cache, &other, 0..24)), (Some(1), vec![0]));
    assert_eq!(ready_of(&cache, &version, 1..24).len(), 23);

    cache.abandon(&version, 0..12);
    let seen = read(&cache, &want_ahead(&other, 0..1, 1..24));
    assert_eq!(seen.refused_from, Some(16), "what was abandoned is free to take");
    assert_eq!(ready_of(&cache, &version, 12..24).len(), 12);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_came_for_is_free_to_take_after_a_while() {
    let cache = cache(16, 100);
    let version = cache.add_version();
    read(&cache, &want_ahead(&version, 0..1, 1..13));
    let other = cache.add_version();
    let refused = |at: u32| read(&cache, &want_ahead(&other, at..at + 1, at + 1..at + 8)).refused_from;
    assert_eq!(refused(0), Some(1));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(refused(100), None);
}

#[test]
fn only_a_little_of_what_was_read_stays_when_memory_is_wanted() {
    let cache = cache(1000, 10);
    let version = cache.add_version();
    for at in (0..800).step_by(8) {
        read(&cache, &want(&version, at..at + 8));
    }
    assert!(cache.ready_blocks() <= 18, "{} blocks", cache.ready_blocks());
    assert!(cache.shared.budget.in_use_bytes() <= 18 * FULL, "memory was used again");
}

#[test]
fn evicted_neighbours_of_a_missing_block_come_along() {
    let cache = cache(100, 100);
    let version = cache.add_version();
    // Planned up to block 40, but none of it is there any more.
    let seen = get(&cache, &want_ahead(&version, 10..11, 40..40)).expect("there is memory");
    assert_eq!(blocks(&seen.claims), [10..16]);
    let seen = get(&cache, &want_ahead(&version, 50..51, 51..51)).expect("there is memory");
    assert_eq!(blocks(&seen.claims), [50..51]);
}

/// Claims blocks in the background and fills them; whether there was memory.
fn begin(cache: &BlockCache, version: &VersionEntry, blocks: Range<u32>) -> bool {
    let claims = cache.claim_ahead((version, SIZE), blocks, Urgency::Background);
    claims.map(|mut claims| claims.iter_mut().for_each(fill)).is_some()
}

#[test]
fn what_is_fetched_in_the_background_takes_what_is_free_and_goes_first() {
    let cache = cache(40, 100);
    let (read_now, begun) = (cache.add_version(), cache.add_version());
    read(&cache, &want_ahead(&read_now, 0..1, 1..17));
    // A quarter stays free.
    assert!(!begin(&cache, &begun, 0..20), "blocks fetched ahead of a reader do not give way");
    assert!(begin(&cache, &begun, 0..10));
    let seen = read(&cache, &want_ahead(&read_now, 1..2, 17..34));
    assert_eq!(seen.refused_from, None, "who reads ahead takes its place");
    let left = ready_of(&cache, &begun, 0..10);
    assert!(left.len() < 10, "{left:?}");
    assert_eq!(ready_of(&cache, &read_now, 2..17).len(), 15, "nothing else was given up");
}

#[test]
fn what_was_begun_in_the_background_stays_when_its_reader_has_come() {
    let cache = cache(40, 100);
    let (read_now, begun) = (cache.add_version(), cache.add_version());
    assert!(begin(&cache, &begun, 0..10));
    let under_way = cache.claim_ahead((&begun, SIZE), 10..20, Urgency::Background).expect("there is memory");
    cache.expect(&begun);
    under_way.into_iter().for_each(|mut claim| fill(&mut claim));
    let seen = read(&cache, &want_ahead(&read_now, 0..1, 1..17));
    assert!(seen.refused_from.is_some());
    assert_eq!(ready_of(&cache, &begun, 0..20).len(), 20);
}

#[test]
fn who_only_looks_reads_nothing() {
    let cache = cache(40, 100);
    let version = cache.add_version();
    assert!(begin(&cache, &version, 0..4));
    assert!(cache.peek(&version, 0..4).is_some_and(|blocks| blocks.len() == 4));
    assert!(cache.peek(&version, 3..5).is_none(), "one of them is missing");
    let reader = cache.add_version();
    read(&cache, &want_ahead(&reader, 0..1, 1..33));
    assert!(cache.peek(&version, 0..4).is_none(), "they went first all the same");
}

#[test]
fn blocks_go_with_their_version() {
    let cache = cache(100, 100);
    let (a, b) = (cache.add_version(), cache.add_version());
    read(&cache, &want(&a, 0..4));
    read(&cache, &want(&b, 0..3));
    drop(a);
    assert_eq!(cache.ready_blocks(), 3);
    assert_eq!(cache.shared.budget.promised_bytes(), 3 * FULL);
}

#[tokio::test(start_paused = true)]
async fn a_reader_without_memory_is_promised_all_it_needs() {
    let cache = cache(8, 100);
    let version = cache.add_version();
    let held = read(&cache, &want(&version, 0..8));
    let held = get(&cache, &want(&version, 0..8)).map(|seen| (held, seen)).expect("all is there");
    let next = want(&version, 20..24);
    assert!(get(&cache, &next).is_none(), "all memory is held by a reader");
    let mut memory = Box::pin(cache.wait_for_memory(&next));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut memory).await.is_err());
    drop(held);
    let memory = memory.await;
    let Got::Blocks { claims, .. } = cache.get(&next, Some(memory)).expect("no block failed") else {
        panic!("memory was promised");
    };
    assert_eq!(blocks(&claims), [20..24]);
}
