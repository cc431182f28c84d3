//! Reading a directory: an open directory is a place in a [`Listing`](crate::listing::Listing).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::attr::InodeNo;
use crate::listing::{Listing, Reading};

/// `.` and `..` come before the names of the listing.
pub(crate) const DOT_ENTRIES: u64 = 2;

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirHandle {
    /// The directory.
    pub(crate) ino: InodeNo,
    /// The directory it is in.
    pub(crate) parent: InodeNo,
    listing: Mutex<Reading>,
}

impl DirHandle {
    pub(crate) fn new(ino: InodeNo, parent: InodeNo, listing: Arc<Listing>) -> Self {
        Self { ino, parent, listing: Mutex::new(Reading::new(listing)) }
    }

    /// The listing that offsets of this handle count in.
    pub(crate) fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.listing.lock())
    }

    /// Goes on with another listing: the directory was rewound, or the old one has let go of the place to go on at.
    pub(crate) fn rewind(&self, listing: Arc<Listing>) {
        *self.listing.lock() = Reading::new(listing);
    }
}
