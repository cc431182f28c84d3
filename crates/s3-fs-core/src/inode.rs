//! Files and directories the kernel knows by number.
//!
//! [`InodeTable`](table::InodeTable) holds one [`Inode`] for each number with lookups, and nothing for names nobody
//! asked for: those stay in listing pages. What the store says of a name is a [`Remote`].

pub(crate) mod negative;
pub(crate) mod table;

use sluicefs_s3_client::{KeyPrefix, ObjectMeta};
use tokio::time::Instant;

use crate::attr::InodeNo;

/// What the store has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remote {
    /// Keys that begin with the name and a slash.
    Directory,
    /// An object of that name.
    File(ObjectMeta),
}

/// A file or directory that the kernel knows, or a directory with such below it.
#[derive(Debug)]
pub(crate) struct Inode {
    /// The directory it is in; the root is its own parent.
    pub(crate) parent: InodeNo,
    /// Its name there; empty for the root.
    pub(crate) name: Box<str>,
    /// How often the kernel looked it up and did not forget it yet.
    pub(crate) lookups: u64,
    /// How many inodes of the table have this as their parent.
    pub(crate) children: u32,
    /// Until when what is known of it may be told without asking again.
    pub(crate) valid_until: Instant,
    /// What it is.
    pub(crate) node: Node,
}

/// What an inode is.
#[derive(Debug)]
pub(crate) enum Node {
    /// A directory: the beginning of the keys below it.
    Directory(KeyPrefix),
    /// A file: the object as last seen.
    File(ObjectMeta),
}
