//! What LIST pages told about the names in a directory.
//!
//! A [`Listing`] is one walk through a directory's pages. It grows in the background, a few pages ahead of its readers, and is
//! shared by everyone who reads the directory meanwhile; its pages also answer look-ups. [`cache`] keeps listings and single pages while
//! they are fresh; [`merge`] turns what a page says about keys into what it says about names.

pub(crate) mod cache;
pub(crate) mod merge;
pub(crate) mod walk;

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
use crate::path;

/// How many pages a listing may be ahead of its reader: enough that the next is always under way, few enough that attributes are still
/// believed when the reader comes to them, and that an abandoned listing of a huge directory costs little.
const PAGES_AHEAD: usize = 2;

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
    /// Pages some reader has come to.
    pages_read: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    pages: Vec<Arc<Page>>,
    end: Option<End>,
    /// Some key begins with the prefix, so that the directory exists, even if nothing in it can be shown.
    has_keys: bool,
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
}

/// Told once for each name that cannot be shown.
pub(crate) type OnHidden = Arc<dyn Fn(&KeyPrefix, &Hidden) + Send + Sync>;

impl Listing {
    /// Begins to list the directory `prefix`.
    pub(crate) fn start(
        bucket: Arc<dyn Bucket>,
        prefix: KeyPrefix,
        runtime: &Handle,
        on_hidden: OnHidden,
    ) -> Arc<Self> {
        let listing = Arc::new(Self {
            started: Instant::now(),
            state: Mutex::default(),
            grown: Notify::new(),
            allowance: Arc::new(Semaphore::new(PAGES_AHEAD)),
            pages_read: AtomicUsize::new(0),
        });
        let allowance = Arc::clone(&listing.allowance);
        runtime.spawn(grow(Arc::downgrade(&listing), allowance, bucket, prefix, on_hidden));
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
        let state = self.state.lock();
        let number = state.pages.partition_point(|page| page.end_index() <= index);
        if let Some(page) = state.pages.get(number) {
            let newly_read =
                (number + 1).saturating_sub(self.pages_read.fetch_max(number + 1, Ordering::Relaxed));
            self.allowance.add_permits(newly_read);
            return Some(Ok(At::Page(Arc::clone(page), (index - page.first_index) as usize)));
        }
        match &state.end {
            Some(End::Complete) => Some(Ok(At::End)),
            Some(End::Failed(error)) => Some(Err(error.clone())),
            None => {
                // Pages may be empty; a reader that came to the end of what is there has read them all.
                let newly_read = state
                    .pages
                    .len()
                    .saturating_sub(self.pages_read.fetch_max(state.pages.len(), Ordering::Relaxed));
                self.allowance.add_permits(newly_read);
                None
            }
        }
    }

    /// What the listing says of `name`, if it has come that far, and when it was seen.
    pub(crate) fn find(&self, name: &str) -> Option<(Instant, Option<Named>)> {
        let state = self.state.lock();
        let settled =
            |page: &Arc<Page>| page.upto.as_deref().is_some_and(|upto| !path::is_settled(name, upto));
        let page = state.pages.get(state.pages.partition_point(settled))?;
        page.find(name).map(|found| (page.at, found.cloned()))
    }

    /// Directories that follow `name`, in order, at most `count`.
    pub(crate) fn directories_after(&self, name: &str, count: usize) -> Vec<Box<str>> {
        let state = self.state.lock();
        let first = state
            .pages
            .partition_point(|p| p.upto.as_deref().is_some_and(|upto| !path::is_settled(name, upto)));
        let following = state.pages[first..].iter().flat_map(|page| &page.names);
        following
            .filter(|named| named.remote == Remote::Directory && path::name_order(&named.name, name).is_gt())
            .take(count)
            .map(|named| named.name.clone())
            .collect()
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

    /// How many names it has so far.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().pages.last().map_or(0, |page| page.end_index() as usize)
    }

    fn add(&self, page: merge::Merged, at: Instant) {
        let mut state = self.state.lock();
        let first_index = state.pages.last().map_or(0, |page| page.end_index());
        state.has_keys |= page.has_keys;
        if page.upto.is_none() {
            state.end = Some(End::Complete);
        }
        state.pages.push(Arc::new(Page { names: page.names, upto: page.upto, at, first_index }));
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
    prefix: KeyPrefix,
    on_hidden: OnHidden,
) {
    let mut merger = Merger::new(prefix.clone(), bucket.traits());
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
        prefix: &KeyPrefix,
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
        let mut merger = Merger::new(prefix.clone(), bucket.traits());
        let merged = merger.push(reply);
        merged.hidden.iter().for_each(|hidden| on_hidden(prefix, hidden));
        let page = Page { names: merged.names, upto: merged.upto, at, first_index: 0 };
        Ok(Self { page, after: after.map(Box::from) })
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
