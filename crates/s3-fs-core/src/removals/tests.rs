//! Removals against a bucket in memory: when they are sent, and what becomes of those that fail.

use sluicefs_s3_client::ErrorKind;
use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule, When};
use tokio::time::Instant;

use super::*;

/// What became of each name.
type Ends = Arc<Mutex<Vec<(Box<str>, Outcome)>>>;

struct Rig {
    faults: Arc<FaultBucket<MemoryBucket>>,
    removals: Arc<Removals>,
    ends: Ends,
}

/// Over a bucket with so many objects, `0` and so on.
fn rig(objects: usize) -> Rig {
    let bucket = MemoryBucket::new("removals");
    (0..objects).for_each(|n| _ = bucket.put(&n.to_string(), "x"));
    let faults = Arc::new(FaultBucket::new(bucket));
    let ends = Ends::default();
    let heard = Arc::clone(&ends);
    let on_end: OnEnd = Box::new(move |removal, outcome| heard.lock().push((removal.name.clone(), outcome)));
    let removals = Removals::new(Arc::clone(&faults) as Arc<dyn Bucket>, Handle::current(), on_end);
    Rig { faults, removals, ends }
}

impl Rig {
    async fn add(&self, numbers: std::ops::Range<usize>) {
        for n in numbers {
            let removal = Removal { parent: InodeNo::ROOT, name: n.to_string().into() };
            self.removals.add(key(n), removal).await;
        }
    }

    fn left(&self) -> usize {
        self.faults.inner().keys().len()
    }

    fn count(&self, operation: Operation) -> u64 {
        self.faults.requests().of(operation)
    }
}

fn key(n: usize) -> ObjectKey {
    ObjectKey::new(n.to_string()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn objects_wait_a_moment_for_others() {
    let rig = rig(10);
    rig.add(0..10).await;
    assert_eq!((rig.left(), rig.removals.stats().pending), (10, 10));
    let start = Instant::now();
    let mut left = rig.left();
    while left > 0 {
        sleep(DELAY / 10).await;
        left = rig.left();
    }
    assert!(start.elapsed() <= DELAY * 2);
    assert_eq!((rig.count(Operation::DeleteMany), rig.faults.requests().total()), (1, 1));
    assert_eq!(rig.removals.stats(), RemovalStats::default());
}

#[tokio::test(start_paused = true)]
async fn a_full_request_does_not_wait() {
    let rig = rig(2500);
    let start = Instant::now();
    rig.add(0..2500).await;
    rig.removals.flush().await.unwrap();
    assert_eq!((rig.left(), start.elapsed()), (0, Duration::ZERO));
    assert_eq!(rig.count(Operation::DeleteMany), 3);
    assert!(rig.ends.lock().iter().all(|(_, outcome)| *outcome == Outcome::Done));
}

#[tokio::test(start_paused = true)]
async fn who_makes_a_name_anew_waits_for_its_removal_alone() {
    let rig = rig(2);
    rig.add(0..1).await;
    rig.removals.ended(&key(1)).await;
    assert_eq!(rig.left(), 2, "it was not to be removed");
    let start = Instant::now();
    rig.removals.ended(&key(0)).await;
    assert_eq!((rig.left(), start.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_and_told_once() {
    let error = s3::Error::new(ErrorKind::Forbidden, "delete many");
    for (fault, failed) in [(Fault::Fail(error.clone()), 4), (Fault::SomeFail { every: 2, error }, 2)] {
        let rig = rig(4);
        rig.faults.plan().add(Rule::new(fault).on(Operation::DeleteMany).when(When::First(1)));
        rig.add(0..4).await;
        assert_eq!(rig.removals.flush().await.unwrap_err().kind(), crate::ErrorKind::AccessDenied);
        rig.removals.flush().await.unwrap();
        assert_eq!(rig.removals.stats(), RemovalStats { pending: 0, failed });
        let told = rig.ends.lock().iter().filter(|(_, outcome)| *outcome == Outcome::Failed).count();
        assert_eq!((told as u64, rig.left() as u64), (failed, failed));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_wait() {
    let rig = rig(0);
    rig.faults.plan().add(Rule::new(Fault::Latency(Duration::from_secs(60))).on(Operation::DeleteMany));
    rig.add(0..MAX_PENDING).await;
    let start = Instant::now();
    rig.add(MAX_PENDING..MAX_PENDING + 1).await;
    assert!(start.elapsed() >= Duration::from_secs(59), "{:?}", start.elapsed());
}
