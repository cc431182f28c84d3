//! What the file system says to the kernel of its own accord.
//!
//! A kernel holds attributes that were true when it asked. Where an object is found changed in the middle of a read, it must hear of that
//! before it gets the first byte. A program that uses the file system as a library holds nothing, and needs none of this.

pub use futures::future::BoxFuture;

use crate::attr::InodeNo;

/// Who reads: the kernel behind the FUSE adapter.
pub trait Kernel: Send + Sync {
    /// Makes the kernel doubt the attributes that it holds of `ino`, and those that it was told and has not taken in yet.
    ///
    /// Called from a read; the future resolves when that is done, or to false if it cannot be done in time. It must not wait for a
    /// read: the kernel may hold locks until that is answered.
    fn doubt_attributes(&self, ino: InodeNo) -> BoxFuture<'static, bool>;

    /// Makes the kernel ask again for these names, each in its directory, also where it believes that there is no such name.
    ///
    /// Resolves to how many it was told of, those that it did not know included. Call it from no request of the kernel: it may hold locks until that
    /// is answered.
    fn doubt_names(&self, names: Vec<(InodeNo, Box<str>)>) -> BoxFuture<'static, usize>;

    /// Whether the kernel ends a file where the reply to a read is short, if it has not been told another length since it asked.
    fn ends_files_at_short_replies(&self) -> bool;
}

/// Where the bytes of a read go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Pages that the kernel keeps. It fills what a short reply leaves of them with zeros, up to the length that it believes.
    Pages,
    /// The reader's own memory, which gets as many bytes as there are.
    Reader,
}
