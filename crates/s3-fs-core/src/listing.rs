//! What LIST pages told about the names in a directory.
//!
//! A [`Listing`] is one walk through a directory's pages. It grows in the background, a few pages ahead of its readers, and is
//! shared by everyone who reads the directory meanwhile; its pages also answer look-ups. [`cache`] keeps listings and single pages while
//! they are fresh; [`merge`] turns what a page says about keys into what it says about names.

pub(crate) mod cache;
pub(crate) mod merge;
pub(crate) mod walk;

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sluicefs_s3_client::{Bucket, KeyPrefix, ListPage, ListRequest};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use self::merge::{Hidden, Merger};
use crate::error::{Error, Result};
use crate::inode::Remote;
use crate::link::LinkKeys;
use crate::path;

/// How many pages a listing may be ahead of its reader: enough that the next is always under way, few enough that attributes are still
/// believed when the reader comes to them, and that an abandoned listing of a huge directory costs little.
const PAGES_AHEAD: usize = 2;

/// At most so many names are kept of a listing that one reader goes through: about 25 MB. Programs that go back do so by a few.
pub(crate) const MAX_NAMES_KEPT: u64 = 200_000;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: Box<str>,
    pub(crate) remote: Remote,
}

/// A run of names of one directory, in the order of [`path::name_order`], and how far it is sure of them.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) names: Vec<Named>,
    /// The page is sure of names settled by this key; `None`: of all that follow.
    upto: Option<Box<str>>,
    /// When its request was sent.
    pub(crate) at: Instant,
    /// How many names the pages before it have.
    first_index: u64,
}

impl Page {
    /// What the page says of `name`: present, absent (`Some(None)`), or nothing.
    ///
    /// That the page begins early enough is for the caller to know.
    fn find(&self, name: &str) -> Option<Option<&Named>> {
        if self.upto.as_deref().is_some_and(|upto| !path::is_settled(name, upto)) {
            return None;
        }
        let found = self.names.binary_search_by(|named| path::name_order(&named.name, name));
        Some(found.ok().map(|at| &self.names[at]))
    }

    fn end_index(&self) -> u64 {
        self.first_index + self.names.len() as u64
    }
}

/// One walk through all names of a directory.
#[derive(Debug)]
pub(crate) struct Listing {
    /// When it was begun: no name in it was seen earlier.
    pub(crate) started: Instant,
    state: Mutex<State>,
    /// Told whenever a page was added or the end was reached.
    grown: Notify,
    /// One permit for each page that may be fetched.
    allowance: Arc<Semaphore>,
    /// Pages some reader has come to, those let go of included.
    pages_read: AtomicUsize,
    /// How many have it open.
    readers: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    pages: VecDeque<Arc<Page>>,
    gone: Gone,
    end: Option<End>,
    /// Some key begins with the prefix, so that the directory exists, even if nothing in it can be shown.
    has_keys: bool,
}

/// The pages before those that are kept.
#[derive(Debug, Default)]
struct Gone {
    pages: usize,
    names: u64,
    /// The last of them was sure of names settled by this key.
    upto: Option<Box<str>>,
}

impl State {
    /// The first page that may say something of `name`.
    fn page_of(&self, name: &str) -> usize {
        let settled =
            |page: &Arc<Page>| page.upto.as_deref().is_some_and(|upto| !path::is_settled(name, upto));
        self.pages.partition_point(settled)
    }

    /// Lets go of pages before the one numbered `read`, until the names left are few enough.
    fn shed(&mut self, read: usize, max_names: u64) {
        let end = self.pages.back().map_or(0, |page| page.end_index());
        while self.gone.pages < read && end - self.gone.names > max_names {
            let Some(page) = self.pages.pop_front() else { return };
            self.gone = Gone { pages: self.gone.pages + 1, names: page.end_index(), upto: page.upto.clone() };
        }
    }
}

#[derive(Debug, Clone)]
enum End {
    Complete,
    Failed(Error),
}

/// What a reader finds at an index.
#[derive(Debug)]
pub(crate) enum At {
    /// The page with that index, and the place in it.
    Page(Arc<Page>, usize),
    /// The directory has fewer names.
    End,
    /// The page was let go of.
    Gone,
}

/// A listing that somebody has open, for as long as this lives.
///
/// Two readers keep all pages for each other. One alone has no use for those far behind, and without this, reading a directory of ten
/// million names would take a gigabyte.
#[derive(Debug)]
pub(crate) struct Reading(Arc<Listing>);

impl Reading {
    /// Opens `listing`.
    pub(crate) fn new(listing: Arc<Listing>) -> Self {
        listing.readers.fetch_add(1, Ordering::Relaxed);
        Self(listing)
    }
}

impl Deref for Reading {
    type Target = Arc<Listing>;

    fn deref(&self) -> &Arc<Listing> {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Told once for each name that cannot be shown.
pub(crate) type OnHidden = Arc<dyn Fn(&KeyPrefix, &Hidden) + Send + Sync>;

impl Listing {
    /// Begins to list the directory `prefix`.
    pub(crate) fn start(
        bucket: Arc<dyn Bucket>,
        (prefix, links): (KeyPrefix, LinkKeys),
        runtime: &Handle,
        on_hidden: OnHidden,
    ) -> Arc<Self> {
        let listing = Arc::new(Self {
            started: Instant::now(),
            state: Mutex::default(),
            grown: Notify::new(),
            allowance: Arc::new(Semaphore::new(PAGES_AHEAD)),
            pages_read: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
        });
        let allowance = Arc::clone(&listing.allowance);
        let merger = Merger::new(prefix, bucket.traits(), links);
        runtime.spawn(grow(Arc::downgrade(&listing), allowance, bucket, merger, on_hidden));
        listing
    }

    /// The name at `index`, waiting for its page if need be.
    ///
    /// # Errors
    /// Why the page could not be had.
    pub(crate) async fn at(&self, index: u64) -> Result<At> {
        loop {
            let grown = self.grown.notified();
            match self.poll_at(index) {
                Some(result) => return result,
                None => grown.await,
            }
        }
    }

    /// As [`Listing::at`], but `None` where that would wait.
    pub(crate) fn poll_at(&self, index: u64) -> Option<Result<At>> {
        let mut state = self.state.lock();
        if index < state.gone.names {
            return Some(Ok(At::Gone));
        }
        let number = state.pages.partition_point(|page| page.end_index() <= index);
        if let Some(page) = state.pages.get(number).map(Arc::clone) {
            let number = state.gone.pages + number;
            self.came_to(&mut state, number + 1);
            let place = (index - page.first_index) as usize;
            return Some(Ok(At::Page(page, place)));
        }
        match state.end.clone() {
            Some(End::Complete) => Some(Ok(At::End)),
            Some(End::Failed(error)) => Some(Err(error)),
            None => {
                // Pages may be empty; a reader that came to the end of what is there has read them all.
                let all = state.gone.pages + state.pages.len();
                self.came_to(&mut state, all);
                None
            }
        }
    }

    /// A reader has come to the last of the first `pages` pages: as many more may be fetched as are new, and those far behind it let go.
    fn came_to(&self, state: &mut State, pages: usize) {
        let newly_read = pages.saturating_sub(self.pages_read.fetch_max(pages, Ordering::Relaxed));
        self.allowance.add_permits(newly_read);
        if self.readers.load(Ordering::Relaxed) == 1 {
            state.shed(pages.saturating_sub(1), MAX_NAMES_KEPT);
        }
    }

    /// What the listing says of `name`, if it has come that far, and when it was seen.
    pub(crate) fn find(&self, name: &str) -> Option<(Instant, Option<Named>)> {
        let state = self.state.lock();
        if state.gone.upto.as_deref().is_some_and(|upto| path::is_settled(name, upto)) {
            return None;
        }
        let page = state.pages.get(state.page_of(name))?;
        page.find(name).map(|found| (page.at, found.cloned()))
    }

    /// Directories that follow `name`, in order, at most `count`.
    pub(crate) fn directories_after(&self, name: &str, count: usize) -> Vec<Box<str>> {
        let state = self.state.lock();
        let following = state.pages.range(state.page_of(name)..).flat_map(|page| &page.names);
        following
            .filter(|named| named.remote == Remote::Directory && path::name_order(&named.name, name).is_gt())
            .take(count)
            .map(|named| named.name.clone())
            .collect()
    }

    /// Whether it still has all names that it ever had, for a reader who begins at the first.
    pub(crate) fn is_from_the_start(&self) -> bool {
        self.state.lock().gone.pages == 0
    }

    /// Whether the whole directory was listed and no key was found: then there is no such directory.
    pub(crate) fn is_absent(&self) -> bool {
        let state = self.state.lock();
        matches!(state.end, Some(End::Complete)) && !state.has_keys
    }

    /// Whether it ended in an error.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.state.lock().end, Some(End::Failed(_)))
    }

    /// Whether a reader has come to its first page.
    pub(crate) fn was_read(&self) -> bool {
        self.pages_read.load(Ordering::Relaxed) > 0
    }

    /// How many names it has now.
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.pages.back().map_or(0, |page| (page.end_index() - state.gone.names) as usize)
    }

    fn add(&self, page: merge::Merged, at: Instant) {
        let mut state = self.state.lock();
        let first_index = state.pages.back().map_or(state.gone.names, |page| page.end_index());
        state.has_keys |= page.has_keys;
        if page.upto.is_none() {
            state.end = Some(End::Complete);
        }
        state.pages.push_back(Arc::new(Page { names: page.names, upto: page.upto, at, first_index }));
        drop(state);
        self.grown.notify_waiters();
    }

    fn fail(&self, error: Error) {
        self.state.lock().end = Some(End::Failed(error));
        self.grown.notify_waiters();
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        // Ends the task that waits to fetch the next page.
        self.allowance.close();
    }
}

/// Fetches page after page as readers allow, until the end, an error, or nobody is interested any more.
async fn grow(
    listing: Weak<Listing>,
    allowance: Arc<Semaphore>,
    bucket: Arc<dyn Bucket>,
    mut merger: Merger,
    on_hidden: OnHidden,
) {
    let prefix = merger.prefix().clone();
    let mut request = ListRequest::directory(prefix.clone());
    while let Ok(permit) = allowance.acquire().await {
        permit.forget();
        let at = Instant::now();
        let reply = bucket.list(request.clone()).await;
        let Some(listing) = listing.upgrade() else { return };
        let page: ListPage = match reply {
            Ok(page) => page,
            Err(error) => {
                return listing.fail(Error::from_listing("readdir", error).with_name(prefix.as_str()));
            }
        };
        request.continuation = page.next.clone();
        let merged = merger.push(page);
        merged.hidden.iter().for_each(|hidden| on_hidden(&prefix, hidden));
        listing.add(merged, at);
        if request.continuation.is_none() {
            return;
        }
    }
}

/// One page of a directory that was fetched for the sake of look-ups.
#[derive(Debug)]
pub(crate) struct Fragment {
    page: Page,
    /// Names after this (as keys) are in the page; `None`: from the first.
    after: Option<Box<str>>,
}

impl Fragment {
    /// Fetches the page of `prefix` that follows the key `prefix` + `after`.
    ///
    /// # Errors
    /// Why it could not be had.
    pub(crate) async fn fetch(
        bucket: &dyn Bucket,
        (prefix, links): (&KeyPrefix, LinkKeys),
        after: Option<&str>,
        on_hidden: &OnHidden,
    ) -> Result<Self> {
        let at = Instant::now();
        let start_after = after.map(|after| format!("{}{after}", prefix.as_str()));
        let request = ListRequest { start_after, ..ListRequest::directory(prefix.clone()) };
        let reply = bucket
            .list(request)
            .await
            .map_err(|e| Error::from_listing("lookup", e).with_name(prefix.as_str()))?;
        let mut merger = Merger::new(prefix.clone(), bucket.traits(), links);
        let merged = merger.push(reply);
        merged.hidden.iter().for_each(|hidden| on_hidden(prefix, hidden));
        let page = Page { names: merged.names, upto: merged.upto, at, first_index: 0 };
        Ok(Self { page, after: after.map(Box::from) })
    }

    /// The only page of a directory in which nothing was at `at`.
    pub(crate) fn empty(at: Instant) -> Self {
        Self { page: Page { names: Vec::new(), upto: None, at, first_index: 0 }, after: None }
    }

    /// Names after this (as keys) are in the page; `None`: from the first.
    pub(crate) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// What the page says of `name`, if it is about it, and when it was seen.
    pub(crate) fn find(&self, name: &str) -> Option<(Instant, Option<Named>)> {
        if self.after.as_deref().is_some_and(|after| name <= after) {
            return None;
        }
        self.page.find(name).map(|found| (self.page.at, found.cloned()))
    }

    /// How many names it has.
    pub(crate) fn len(&self) -> usize {
        self.page.names.len()
    }

    /// Whether it is sure of every name to the end of the directory.
    pub(crate) fn is_last(&self) -> bool {
        self.page.upto.is_none()
    }
}
