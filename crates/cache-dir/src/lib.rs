//! A directory of this machine that a mount keeps bytes in: whose it is, how much it holds, what a dead mount left there.
//!
//! [`objects`] are what was read and is kept. [`StageDir`] is a mount's part of it for written bytes that are not at the store yet, [`StageFile`] the bytes of one file. All of this
//! blocks on the disk: call it where that is allowed.
#![forbid(unsafe_code)]

mod file;
mod leftover;
pub mod objects;
mod owned;
mod place;
mod room;
mod stage;

pub use file::StageFile;
pub use leftover::{Leftover, Leftovers};
pub use owned::{CacheDirError, own_directory};
pub use stage::StageDir;
