//! Plans of faults: which request is to fail, and how. Shared by [`FaultBucket`](super::FaultBucket) and the embedded server.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// The description of an object.
    Head,
    /// The bytes of an object.
    Get,
    /// A page of a listing.
    List,
    /// Writing an object in one request.
    Put,
    /// Beginning an upload in parts.
    CreateUpload,
    /// Sending a part.
    UploadPart,
    /// Copying a part from an object.
    CopyPart,
    /// Making an object of its parts.
    CompleteUpload,
    /// Throwing an upload away.
    AbortUpload,
    /// A page of the uploads under way.
    ListUploads,
    /// Removing an object.
    Delete,
    /// Removing several objects.
    DeleteMany,
    /// Copying an object.
    Copy,
    /// Moving an object.
    Rename,
    /// Anything about a bucket as a whole.
    Bucket,
    /// Anything else.
    Other,
}

/// Which of the requests that fit a rule meet its fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// Each one.
    Always,
    /// The first so many.
    First(u64),
    /// The one of this number, counted from 1.
    Nth(u64),
    /// Each one with this probability, from the plan's seed.
    Rate(f64),
}

/// Requests, and the fault that they meet.
#[derive(Debug, Clone)]
pub struct Rule<F> {
    operation: Option<Operation>,
    key: Option<String>,
    when: When,
    fault: F,
}

impl<F> Rule<F> {
    /// Every request meets `fault`.
    pub fn new(fault: F) -> Self {
        Self { operation: None, key: None, when: When::Always, fault }
    }

    /// Only requests of this operation.
    #[must_use]
    pub fn on(self, operation: Operation) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Only requests for this key, or for a listing of exactly this prefix.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Only some of them.
    #[must_use]
    pub fn when(self, when: When) -> Self {
        Self { when, ..self }
    }
}

/// A list of rules that may change while requests come in.
#[derive(Debug)]
pub struct FaultPlan<F>(Mutex<State<F>>);

#[derive(Debug)]
struct State<F> {
    /// Each rule with the number of requests that fitted it.
    rules: Vec<(Rule<F>, u64)>,
    rng: StdRng,
}

impl<F> Default for FaultPlan<F> {
    /// No faults; rates draw from seed 0.
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl<F> FaultPlan<F> {
    /// No faults yet; the seed decides what [`When::Rate`] hits.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(State { rules: Vec::new(), rng: StdRng::seed_from_u64(seed) }))
    }

    /// Adds a rule, for the requests from now on.
    pub fn add(&self, rule: Rule<F>) {
        self.0.lock().rules.push((rule, 0));
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.0.lock().rules.clear();
    }
}

impl<F: Clone> FaultPlan<F> {
    /// Counts a request, and returns the faults it meets, in the order of their rules.
    pub fn faults(&self, operation: Operation, key: &str) -> Vec<F> {
        let State { rules, rng } = &mut *self.0.lock();
        let mut faults = Vec::new();
        for (rule, hits) in rules {
            let fits =
                rule.operation.is_none_or(|o| o == operation) && rule.key.as_deref().is_none_or(|k| k == key);
            if !fits {
                continue;
            }
            *hits += 1;
            let meets = match rule.when {
                When::Always => true,
                When::First(n) => *hits <= n,
                When::Nth(n) => *hits == n,
                When::Rate(rate) => rng.random_bool(rate),
            };
            if meets {
                faults.push(rule.fault.clone());
            }
        }
        faults
    }
}

/// How many requests of each kind came.
#[derive(Debug, Default)]
pub struct RequestCounts(Mutex<BTreeMap<Operation, u64>>);

impl RequestCounts {
    /// Counts one.
    pub fn count(&self, operation: Operation) {
        *self.0.lock().entry(operation).or_default() += 1;
    }

    /// Those of one operation.
    pub fn of(&self, operation: Operation) -> u64 {
        self.0.lock().get(&operation).copied().unwrap_or_default()
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.lock().values().sum()
    }

    /// Starts again from zero.
    pub fn reset(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(rule: Rule<()>, requests: &[(Operation, &str)]) -> Vec<usize> {
        let plan = FaultPlan::seeded(1);
        plan.add(rule);
        requests.iter().map(|(operation, key)| plan.faults(*operation, key).len()).collect()
    }

    #[test]
    fn rules_choose_by_operation_key_and_number() {
        use Operation::{Get, Head};
        let requests = [(Get, "a"), (Head, "a"), (Get, "b"), (Get, "a")];
        let rule = || Rule::new(());
        assert_eq!(hits(rule(), &requests), [1, 1, 1, 1]);
        assert_eq!(hits(rule().on(Get), &requests), [1, 0, 1, 1]);
        assert_eq!(hits(rule().on(Get).key("a"), &requests), [1, 0, 0, 1]);
        assert_eq!(hits(rule().on(Get).when(When::Nth(2)), &requests), [0, 0, 1, 0]);
        assert_eq!(hits(rule().on(Get).when(When::First(2)), &requests), [1, 0, 1, 0]);
    }

    #[test]
    fn rates_repeat_with_the_seed() {
        let run = || hits(Rule::new(()).when(When::Rate(0.3)), &[(Operation::Get, "k"); 1000]);
        assert_eq!(run(), run());
        let sum: usize = run().iter().sum();
        assert!((200..400).contains(&sum), "{sum} of 1000 at a rate of 0.3");
    }
}
