//! The memory limit holds, whoever reads, and nobody starves below it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Semaphore;

use super::bucket::Net;
use super::*;

const LEAST: u64 = ReadConfig::MIN_MEMORY_BYTES;

fn least_memory() -> ReadConfig {
    ReadConfig { memory_limit_bytes: LEAST, ..ReadConfig::default() }
}

fn quick() -> Net {
    Net { first_byte: Duration::from_millis(5), bytes_per_second: 500_000_000 }
}

#[tokio::test(start_paused = true)]
async fn many_streams_make_progress_in_the_least_memory() {
    let rig = Rig::with_config(ProbeBucket::blank(4096 * MIB).with_net(quick()), least_memory());
    let run = |n: u64| {
        let rig = &rig;
        async move {
            let start = n * 60 * MIB;
            for at in (start..start + 8 * MIB).step_by(MIB as usize) {
                assert!(rig.object.read(ByteRange::new(at, at + MIB)).await.is_ok());
            }
        }
    };
    join_all((0..64).map(run)).await;
    let stats = rig.engine.stats();
    println!("64 streams in 32 MiB: {stats:?}");
    assert!(stats.memory_peak_bytes <= LEAST, "{stats:?}");
    // Some of what was fetched ahead had to give way before it was read, but not most.
    assert!(stats.bytes_fetched < 2 * 64 * 8 * MIB, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn readers_wait_for_memory_that_others_hold() {
    let rig = Rig::with_config(ProbeBucket::new(4096 * MIB), least_memory());
    let mut held = Vec::new();
    for n in 1..=3 {
        held.push(rig.object.read(ByteRange::from_len(n * 64 * MIB, MAX_READ_BYTES)).await.expect("it fits"));
    }
    let object = Arc::clone(&rig.object);
    let mut next = Handle::current().spawn(async move {
        check(&object, ByteRange::from_len(1024 * MIB, MAX_READ_BYTES)).await;
    });
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut next).await.is_err(), "no memory");
    assert!(rig.engine.stats().memory_waits > 0);
    held.pop();
    next.await.expect("reads the right bytes");
    assert!(rig.engine.stats().memory_peak_bytes <= LEAST);
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_the_memory_of_what_lands_for_nobody() {
    // All memory is promised to fetches ahead that have not landed; the reader elsewhere has to wait for them.
    let gate = Arc::new(Semaphore::new(0));
    let rig = Rig::with_config(ProbeBucket::new(4096 * MIB).with_gate(&gate), least_memory());
    let ahead: Vec<_> = (0..3)
        .map(|n| {
            let object = Arc::clone(&rig.object);
            Handle::current()
                .spawn(async move { object.read(ByteRange::from_len(n * 100 * MIB, 8 * MIB)).await })
        })
        .collect();
    settle().await;
    let object = Arc::clone(&rig.object);
    let late = Handle::current()
        .spawn(async move { check(&object, ByteRange::from_len(1024 * MIB, 8 * MIB)).await });
    settle().await;
    assert!(!late.is_finished());
    for reader in &ahead {
        reader.abort();
    }
    gate.add_permits(100_000);
    late.await.expect("reads the right bytes");
    assert!(rig.engine.stats().memory_peak_bytes <= LEAST);
}

#[tokio::test(start_paused = true)]
async fn reading_in_order_uses_memory_again() {
    let rig = Rig::new(ProbeBucket::blank(1024 * MIB));
    for at in (0..1024 * MIB).step_by(MIB as usize) {
        assert!(rig.object.read(ByteRange::new(at, at + MIB)).await.is_ok());
    }
    let stats = rig.engine.stats();
    let history = ReadConfig::default().history_bytes;
    assert!(stats.memory_peak_bytes < history + 2 * 128 * MIB, "{stats:?}");
    assert_eq!(stats.bytes_fetched, 1024 * MIB);
}

#[tokio::test(start_paused = true)]
async fn all_memory_comes_back() {
    let rig = Rig::with_config(ProbeBucket::new(100 * MIB + 5).with_net(quick()), least_memory());
    for at in (0..100 * MIB + 5).step_by(MIB as usize) {
        rig.check(at, at + MIB).await;
    }
    let Rig { engine, version, object, .. } = rig;
    drop((object, version));
    settle().await;
    assert_eq!(engine.cache.ready_blocks(), 0);
    let whole = engine.budget.try_reserve(engine.budget.limit_units(), 0);
    assert!(whole.is_some(), "{engine:?}");
}
