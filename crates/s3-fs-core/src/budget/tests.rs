//! What the budget promises: never more than the limit, buffers reused, waiters in order.

use std::time::Duration;

use super::*;

const FULL: u32 = 33;

#[test]
fn a_full_buffer_costs_its_bytes_and_one_page() {
    assert_eq!(Budget::cost_units(BUFFER_BYTES), FULL);
    assert_eq!(Budget::cost_units(100_000), FULL);
    assert_eq!(Budget::cost_units(1), 1);
    assert_eq!(Budget::cost_units(BUFFER_BYTES / 2), 17);
}

#[test]
fn buffers_are_reused_and_never_exceed_the_limit() {
    let budget = Budget::new(4 * u64::from(FULL) * 4096);
    for _ in 0..100 {
        let mut promise = budget.try_reserve(2 * FULL, 0).expect("half of it is free");
        let mut a = promise.buffer(BUFFER_BYTES);
        let b = promise.buffer(BUFFER_BYTES);
        assert_eq!(a.fill(&vec![7; BUFFER_BYTES + 5]), BUFFER_BYTES);
        assert!(a.is_full() && !b.is_full());
        assert!(budget.try_reserve(3 * FULL, 0).is_none());
        assert!(budget.try_reserve(FULL, 2 * FULL).is_none(), "must leave what is to be spared");
    }
    assert_eq!(budget.idle_buffers(), 2);
    assert_eq!(budget.in_use_bytes(), 2 * u64::from(FULL) * 4096);
    assert_eq!(budget.promised_bytes(), 0);
}

#[test]
fn full_buffers_begin_where_a_disk_takes_them_also_when_they_are_used_again() {
    let budget = Budget::new(2 * u64::from(FULL) * 4096);
    for round in 0..3 {
        let mut promise = budget.try_reserve(FULL, 0).expect("it was given back");
        let mut buffer = promise.buffer(BUFFER_BYTES);
        buffer.fill(&vec![round; BUFFER_BYTES]);
        assert!(buffer.bytes().as_ptr().addr().is_multiple_of(4096), "{round}");
        assert!(buffer.bytes() == vec![round; BUFFER_BYTES], "{round}");
    }
    assert_eq!(budget.in_use_bytes(), u64::from(FULL) * 4096);
}

#[test]
fn odd_sizes_take_the_place_of_idle_buffers() {
    let limit = 2 * u64::from(FULL) * 4096;
    let budget = Budget::new(limit);
    let mut promise = budget.try_reserve(2 * FULL, 0).expect("all of it");
    let full = [promise.buffer(BUFFER_BYTES), promise.buffer(BUFFER_BYTES)];
    drop(full);
    let mut promise = budget.try_reserve(2 * 17, 0).expect("all is free");
    let _small = [promise.buffer(BUFFER_BYTES / 2), promise.buffer(BUFFER_BYTES / 2)];
    assert!(budget.in_use_bytes() <= limit && budget.peak_bytes() <= limit);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_order_and_not_overtaken() {
    let budget = Budget::new(4 * u64::from(FULL) * 4096);
    let mut held = budget.try_reserve(4 * FULL, 0).expect("all of it");
    let mut large = Box::pin(budget.reserve(3 * FULL));
    let early = tokio::time::timeout(Duration::from_secs(1), &mut large).await;
    assert!(early.is_err(), "nothing is free");
    assert!(budget.is_short());

    drop(held.split(2 * FULL));
    assert!(budget.try_reserve(FULL, 0).is_none(), "what is released is the waiter's");
    drop(held.split(FULL));
    let large = large.await;
    assert_eq!(large.units(), 3 * FULL);
    assert!(!budget.is_short());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_waiter_gives_back_what_it_had_gathered() {
    let budget = Budget::new(2 * u64::from(FULL) * 4096);
    let mut held = budget.try_reserve(2 * FULL, 0).expect("all of it");
    let mut waiter = Box::pin(budget.reserve(2 * FULL));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut waiter).await.is_err());
    drop(held.split(FULL));
    drop(waiter);
    assert!(!budget.is_short());
    assert!(budget.try_reserve(FULL, 0).is_some());
}
