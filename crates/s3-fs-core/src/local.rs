//! What this mount itself did to names, until what the store tells is newer.
//!
//! A listing that was requested before a file was removed still has it; one requested before a file was created does not have it yet, and a file
//! that is being written is in none. Each name that this mount changed is remembered with the time when the store had acknowledged the change:
//! answers to requests that were sent later know better, all others are corrected here.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::attr::InodeNo;
use crate::inode::Remote;

/// At most so many names are remembered; then the oldest directories are forgotten, and their listings with them.
const MAX_NAMES: usize = 100_000;

/// Names that this mount changed, by directory.
#[derive(Debug, Default)]
pub(crate) struct LocalNames(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    directories: FxHashMap<InodeNo, BTreeMap<Box<str>, Local>>,
    /// Directories in the order in which they were first changed.
    order: VecDeque<InodeNo>,
    names: usize,
    serials: u64,
}

#[derive(Debug, Clone)]
struct Local {
    /// What the name stands for; `None`: nothing, it was removed.
    remote: Option<Remote>,
    /// Since when the store knows; `None`: it does not.
    known: Option<Instant>,
    /// Names that no listing has are read in the order of these.
    serial: u64,
}

/// A name that is here though a listing may not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) serial: u64,
    pub(crate) name: Box<str>,
    pub(crate) remote: Remote,
}

impl LocalNames {
    /// Notes that `name` in `dir` stands for `remote` or, if `None`, for nothing any more; the store knows since `known`, or does not.
    ///
    /// Returns directories that were forgotten for it: what listings told about them is not to be believed any longer.
    pub(crate) fn set(
        &self,
        dir: InodeNo,
        name: &str,
        remote: Option<Remote>,
        known: Option<Instant>,
    ) -> Vec<InodeNo> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let names = state.directories.entry(dir).or_insert_with(|| {
            state.order.push_back(dir);
            BTreeMap::new()
        });
        state.serials += 1;
        let serial = names.get(name).map_or(state.serials, |local| local.serial);
        let new = names.insert(Box::from(name), Local { remote, known, serial }).is_none();
        state.names += usize::from(new);
        state.forget_oldest(dir)
    }

    /// The directory `dir` is new: nothing is known of names in it.
    pub(crate) fn clear(&self, dir: InodeNo) {
        let state = &mut *self.0.lock();
        if let Some(names) = state.directories.remove(&dir) {
            state.names -= names.len();
            state.order.retain(|other| *other != dir);
        }
    }

    /// The store knows since `known` that `name` in `dir` was removed; `None`: it was not, and what the store says counts again.
    pub(crate) fn removal_ended(&self, dir: InodeNo, name: &str, known: Option<Instant>) {
        let state = &mut *self.0.lock();
        let Some(names) = state.directories.get_mut(&dir) else { return };
        match names.get_mut(name) {
            Some(local) if local.remote.is_none() && local.known.is_none() => local.known = known,
            // It was made anew.
            _ => return,
        }
        if known.is_none() {
            names.remove(name);
            state.names -= 1;
        }
    }

    /// What `name` in `dir` stands for, if an answer to a request sent at `seen` cannot know it.
    pub(crate) fn correct(&self, dir: InodeNo, name: &str, seen: Instant) -> Option<Option<Remote>> {
        let state = self.0.lock();
        let local = state.directories.get(&dir)?.get(name)?;
        local.known.is_none_or(|known| seen <= known).then(|| local.remote.clone())
    }

    /// Whether `dir` has names that the store does not know of.
    pub(crate) fn has_unknown(&self, dir: InodeNo) -> bool {
        let state = self.0.lock();
        let mut names = state.directories.get(&dir).into_iter().flat_map(BTreeMap::values);
        names.any(|local| local.remote.is_some() && local.known.is_none())
    }

    /// Names of `dir` with a serial number over `after`, in their order, that a listing requested at `seen` may lack.
    pub(crate) fn extras(&self, dir: InodeNo, after: u64, seen: Instant) -> Vec<Extra> {
        let state = self.0.lock();
        let names = state.directories.get(&dir).into_iter().flatten();
        let mut extras: Vec<Extra> = names
            .filter(|(_, local)| local.serial > after && local.known.is_none_or(|known| seen <= known))
            .filter_map(|(name, local)| {
                Some(Extra { serial: local.serial, name: name.clone(), remote: local.remote.clone()? })
            })
            .collect();
        extras.sort_unstable_by_key(|extra| extra.serial);
        extras
    }
}

impl State {
    fn forget_oldest(&mut self, but: InodeNo) -> Vec<InodeNo> {
        let mut forgotten = Vec::new();
        let mut kept = 0;
        while self.names > MAX_NAMES && kept < self.order.len() {
            let oldest = self.order.pop_front().expect("it was counted");
            let names = &self.directories[&oldest];
            if oldest == but || names.values().any(|local| local.known.is_none()) {
                self.order.push_back(oldest);
                kept += 1;
                continue;
            }
            self.names -= names.len();
            self.directories.remove(&oldest);
            forgotten.push(oldest);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DIR: InodeNo = InodeNo(7);

    #[tokio::test(start_paused = true)]
    async fn only_answers_from_before_a_change_are_corrected() {
        let local = LocalNames::default();
        let now = Instant::now();
        let (before, after) = (now - Duration::from_millis(1), now + Duration::from_millis(1));
        local.set(DIR, "removed", None, Some(now));
        local.set(DIR, "written", Some(Remote::Directory), None);
        assert_eq!(local.correct(DIR, "removed", before), Some(None));
        assert_eq!(local.correct(DIR, "removed", after), None);
        for seen in [before, after] {
            assert_eq!(local.correct(DIR, "written", seen), Some(Some(Remote::Directory)));
        }
        assert_eq!(local.correct(DIR, "other", before), None);
        assert_eq!(local.correct(InodeNo(8), "removed", before), None);
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_listings_lack_keep_their_order() {
        let local = LocalNames::default();
        let now = Instant::now();
        for name in ["z", "a", "m"] {
            local.set(DIR, name, Some(Remote::Directory), None);
        }
        local.set(DIR, "gone", None, Some(now));
        local.set(DIR, "z", Some(Remote::Directory), Some(now));
        let names = |after, seen| -> Vec<String> {
            local.extras(DIR, after, seen).into_iter().map(|extra| extra.name.into()).collect()
        };
        assert_eq!(names(0, now), ["z", "a", "m"]);
        assert_eq!(names(1, now), ["a", "m"]);
        assert_eq!(names(0, now + Duration::from_secs(1)), ["a", "m"], "the listing has z by then");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_directories_are_forgotten_but_not_what_the_store_does_not_know() {
        let local = LocalNames::default();
        let now = Instant::now();
        local.set(InodeNo(1), "open", Some(Remote::Directory), None);
        local.set(InodeNo(2), "done", None, Some(now));
        let mut forgotten = Vec::new();
        for n in 0..MAX_NAMES as u64 {
            forgotten.extend(local.set(DIR, &n.to_string(), None, Some(now)));
        }
        assert_eq!(forgotten, [InodeNo(2)]);
        assert!(local.has_unknown(InodeNo(1)));
    }
}
