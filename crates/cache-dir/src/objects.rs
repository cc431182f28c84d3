//! Objects that were read, kept beyond the mount and shared by all mounts and processes that name the same directory.
//!
//! An object version is an [`Entry`]: a sparse file of its bytes and an index of the blocks that are there. What an index looks like says
//! `format`, which entries stay says `quota`; `inspect` looks at all of it from outside.

mod direct;
mod entry;
mod format;
mod inspect;
mod quota;

pub use entry::{Entry, Opened, Stored, Way};
pub use format::{BLOCK_BYTES, Identity, Sealed};
pub use inspect::{CachedObject, Verified, clear, list, verify, verify_blocks};
pub use quota::{Quota, Room};
