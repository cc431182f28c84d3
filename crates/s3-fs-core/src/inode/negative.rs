//! Names known to be absent, for a while.

use std::collections::VecDeque;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::attr::InodeNo;

/// At most so many absent names are remembered: a flood of look-ups of random names must not grow the process.
const MAX_NAMES: usize = 65_536;

type Name = (InodeNo, Box<str>);

/// Remembers absent names until they expire or newer ones push them out.
#[derive(Debug, Default)]
pub(crate) struct NegativeCache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    until: FxHashMap<Name, Instant>,
    /// In the order of insertion; a name inserted twice is in it twice.
    order: VecDeque<Name>,
}

impl NegativeCache {
    /// Remembers that `name` is not in `parent`, until `until`.
    pub(crate) fn insert(&self, parent: InodeNo, name: &str, until: Instant) {
        let mut state = self.0.lock();
        let key: Name = (parent, Box::from(name));
        if state.until.insert(key.clone(), until).is_none() {
            state.order.push_back(key);
        }
        while state.order.len() > MAX_NAMES {
            if let Some(oldest) = state.order.pop_front() {
                state.until.remove(&oldest);
            }
        }
    }

    /// Until when `name` is known to be absent from `parent`, if it still is at `now`.
    pub(crate) fn get(&self, parent: InodeNo, name: &str, now: Instant) -> Option<Instant> {
        let state = self.0.lock();
        if state.until.is_empty() {
            return None;
        }
        state.until.get(&(parent, Box::from(name))).copied().filter(|until| *until > now)
    }

    /// Forgets that `name` is absent: it was seen.
    pub(crate) fn remove(&self, parent: InodeNo, name: &str) {
        let mut state = self.0.lock();
        if !state.until.is_empty() {
            // Its place in the order stays, and counts until it is reached.
            state.until.remove(&(parent, Box::from(name)));
        }
    }

    /// Forgets all that is known to be absent from `parent`.
    pub(crate) fn forget(&self, parent: InodeNo) {
        let mut state = self.0.lock();
        if !state.until.is_empty() {
            state.until.retain(|name, _| name.0 != parent);
        }
    }

    /// Forgets all names, and returns those that were known to be absent at `now`.
    pub(crate) fn drain(&self, now: Instant) -> Vec<(InodeNo, Box<str>)> {
        let State { until, .. } = std::mem::take(&mut *self.0.lock());
        until.into_iter().filter(|(_, until)| *until > now).map(|(name, _)| name).collect()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().order.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_absent_until_it_expires_or_is_seen() {
        let cache = NegativeCache::default();
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        cache.insert(InodeNo::ROOT, "a", until);
        cache.insert(InodeNo::ROOT, "b", until);
        assert_eq!(cache.get(InodeNo::ROOT, "a", now), Some(until));
        assert_eq!(cache.get(InodeNo(7), "a", now), None);
        assert_eq!(cache.get(InodeNo::ROOT, "a", until), None);
        cache.remove(InodeNo::ROOT, "b");
        assert_eq!(cache.get(InodeNo::ROOT, "b", now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_names_pushes_out_the_oldest() {
        let cache = NegativeCache::default();
        let now = Instant::now();
        for i in 0..MAX_NAMES + 10 {
            cache.insert(InodeNo::ROOT, &i.to_string(), now + Duration::from_secs(1));
        }
        assert_eq!(cache.len(), MAX_NAMES);
        assert_eq!(cache.get(InodeNo::ROOT, "9", now), None);
        assert!(cache.get(InodeNo::ROOT, "10", now).is_some());
    }
}
