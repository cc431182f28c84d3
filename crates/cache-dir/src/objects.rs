//! Objects that were read, kept beyond the mount and shared by all mounts and processes that name the same directory.
//!
//! An object version is an [`Entry`]: a sparse file of its bytes and an index of the blocks that are there. What an index looks like says
//! `format`, which entries stay says `quota`, that all of one is right `check` and `stamp`; `inspect` looks at all of it from outside.

mod check;
mod direct;
mod entry;
mod format;
mod inspect;
mod quota;
mod stamp;

pub use check::{Check, Verified, verify_blocks};
pub use entry::{Entry, Opened, Stored, Way};
pub use format::{BLOCK_BYTES, Identity, Sealed};
pub use inspect::{CachedObject, clear, list, verify};
pub use quota::{Quota, Room};
