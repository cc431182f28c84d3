//! Keeps what directories' listings told, for look-ups and for the next reader.
//!
//! Answers only while fresh; the names of directories are also kept as hints of where a tree walk goes next, and a wrong hint costs
//! one request.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::walk::Walk;
use super::{Fragment, Listing, Named};
use crate::attr::InodeNo;
use crate::error::Result;
use crate::resolve::Siblings;

/// At most so many names are kept for directories that nobody has open: about 25 MB.
const MAX_NAMES: usize = 200_000;

/// At most so many directories are kept.
const MAX_DIRECTORIES: usize = 4_096;

/// At most so many single pages of one directory: the newest.
const MAX_FRAGMENTS: usize = 16;

/// Adding up the kept names each time would make a walk of many directories quadratic.
const INSERTS_BETWEEN_TRIMS: usize = 64;

/// What is remembered of directories' names.
#[derive(Debug, Default)]
pub(crate) struct ListingCache(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    directories: FxHashMap<InodeNo, Directory>,
    /// Oldest first.
    order: VecDeque<InodeNo>,
    inserts: usize,
}

#[derive(Debug, Default)]
struct Directory {
    listing: Option<Arc<Listing>>,
    fragments: VecDeque<Arc<Fragment>>,
    /// The page that is being fetched for look-ups, and the key it begins after.
    flight: Option<(Option<String>, Flight)>,
    siblings: Siblings,
    walk: Walk,
}

/// A page under way, for all who wait for it.
pub(crate) type Flight = Shared<BoxFuture<'static, Result<Arc<Fragment>>>>;

impl ListingCache {
    /// What a listing not older than `ttl` says of `name`: when it was seen, and what it is or that it is absent.
    pub(crate) fn find(
        &self,
        dir: InodeNo,
        name: &str,
        now: Instant,
        ttl: Duration,
    ) -> Option<(Instant, Option<Named>)> {
        let mut state = self.0.lock();
        let directory = state.directories.get_mut(&dir)?;
        let fresh = |(at, _): &(Instant, _)| *at + ttl > now;
        if let Some(found) = directory.listing.as_ref().and_then(|listing| listing.find(name)).filter(fresh) {
            return Some(found);
        }
        let found =
            directory.fragments.iter().rev().find_map(|fragment| fragment.find(name).filter(fresh))?;
        directory.siblings.page_answered(now);
        Some(found)
    }

    /// The page that answers for `name` in `dir`, if none is under way: the key that it begins after.
    pub(crate) fn page_of(&self, dir: InodeNo, name: &str) -> Option<Option<String>> {
        let state = self.0.lock();
        let directory = state.directories.get(&dir).filter(|directory| directory.flight.is_none())?;
        let page = directory.fragments.iter().rev().find(|fragment| fragment.find(name).is_some())?;
        Some(page.after().map(str::to_owned))
    }

    /// This mount made the directory `dir`, in which nothing was at `at`.
    pub(crate) fn made(&self, dir: InodeNo, at: Instant) {
        self.with(dir, |directory| {
            directory.listing = None;
            directory.fragments = VecDeque::from([Arc::new(Fragment::empty(at))]);
        });
    }

    /// A listing of `dir` that was begun less than `ttl` ago.
    pub(crate) fn fresh_listing(&self, dir: InodeNo, now: Instant, ttl: Duration) -> Option<Arc<Listing>> {
        let state = self.0.lock();
        let listing = state.directories.get(&dir)?.listing.as_ref()?;
        let is_usable = listing.started + ttl > now && !listing.has_failed() && listing.is_from_the_start();
        is_usable.then(|| Arc::clone(listing))
    }

    /// Keeps `listing` in place of an older one.
    pub(crate) fn insert_listing(&self, dir: InodeNo, listing: Arc<Listing>) {
        self.with(dir, |directory| {
            directory.listing = Some(listing);
            directory.fragments.clear();
        });
    }

    /// Nothing that was told of `dir` is to be believed any more.
    pub(crate) fn forget(&self, dir: InodeNo) {
        let mut state = self.0.lock();
        if let Some(directory) = state.directories.get_mut(&dir) {
            directory.listing = None;
            directory.fragments.clear();
        }
    }

    /// Nothing that was told of any directory is to be believed any more. What look-ups have been like is still known.
    pub(crate) fn clear(&self) {
        for directory in self.0.lock().directories.values_mut() {
            directory.listing = None;
            directory.fragments.clear();
            // Those who wait for it get it; whoever comes now asks anew.
            directory.flight = None;
        }
    }

    /// Nobody has `dir` open for now: a listing too large to keep, or no longer whole, is let go.
    pub(crate) fn closed(&self, dir: InodeNo) {
        let mut state = self.0.lock();
        let Some(directory) = state.directories.get_mut(&dir) else { return };
        let is_whole = directory.listing.as_ref().is_none_or(|listing| listing.is_from_the_start());
        if !is_whole || directory.len() > MAX_NAMES {
            directory.listing = None;
        }
    }

    /// The page of `dir` after the key `after` that is under way, or else the one that `fetch` begins.
    pub(crate) fn flight(
        &self,
        dir: InodeNo,
        after: &Option<String>,
        fetch: impl FnOnce() -> Flight,
    ) -> Flight {
        self.with(dir, |directory| match &directory.flight {
            Some((same, flight)) if same == after => flight.clone(),
            _ => directory.flight.insert((after.clone(), fetch())).1.clone(),
        })
    }

    /// Keeps the page that was under way, or nothing if it failed.
    pub(crate) fn landed(&self, dir: InodeNo, after: &Option<String>, fragment: Option<Arc<Fragment>>) {
        self.with(dir, |directory| {
            if directory.flight.as_ref().is_some_and(|(same, _)| same == after) {
                directory.flight = None;
            }
            let Some(fragment) = fragment else { return };
            directory.siblings.page_came(fragment.is_last());
            directory.fragments.push_back(fragment);
            if directory.fragments.len() > MAX_FRAGMENTS {
                directory.fragments.pop_front();
            }
        });
    }

    /// What the look-ups in `dir` have been like.
    pub(crate) fn siblings<R>(&self, dir: InodeNo, act: impl FnOnce(&mut Siblings) -> R) -> R {
        self.with(dir, |directory| act(&mut directory.siblings))
    }

    /// Notes that the directory `name` of `parent` is being read; returns the siblings worth listing now.
    pub(crate) fn walked(&self, parent: InodeNo, name: &str) -> Vec<Box<str>> {
        let mut state = self.0.lock();
        let Some(directory) = state.directories.get_mut(&parent) else { return Vec::new() };
        let Some(listing) = &directory.listing else { return Vec::new() };
        directory.walk.visited(name, |after, count| listing.directories_after(after, count))
    }

    fn with<R>(&self, dir: InodeNo, act: impl FnOnce(&mut Directory) -> R) -> R {
        let mut state = self.0.lock();
        let state = &mut *state;
        let directory = state.directories.entry(dir).or_insert_with(|| {
            state.order.push_back(dir);
            Directory::default()
        });
        let result = act(directory);
        state.inserts += 1;
        if state.inserts.is_multiple_of(INSERTS_BETWEEN_TRIMS) || state.order.len() > MAX_DIRECTORIES {
            state.trim(dir);
        }
        result
    }
}

impl State {
    /// Drops the oldest directories until the rest fit; `newest` stays.
    fn trim(&mut self, newest: InodeNo) {
        let mut names: usize = self.directories.values().map(Directory::len).sum();
        while self.order.len() > 1 && (names > MAX_NAMES || self.order.len() > MAX_DIRECTORIES) {
            let oldest = self.order.pop_front().expect("more than one");
            if oldest == newest {
                self.order.push_back(oldest);
                continue;
            }
            names -= self.directories.remove(&oldest).map_or(0, |directory| directory.len());
        }
    }
}

impl Directory {
    fn len(&self) -> usize {
        let fragments: usize = self.fragments.iter().map(|fragment| fragment.len()).sum();
        fragments + self.listing.as_ref().map_or(0, |listing| listing.len())
    }
}
