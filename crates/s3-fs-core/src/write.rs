//! Writing files: bytes staged by offset, sent in parts while the file is written, and made an object on flush.
//!
//! [`Draft`] is one file being written. [`content`] knows where each of its bytes is, [`plan`] how to make an object of them with the fewest bytes on
//! the wire; both are pure. `upload` talks to the store, `spill` moves to disk what memory cannot hold, and `gather` brings bytes together from wherever
//! they are.

mod content;
mod copy;
mod doubt;
mod draft;
mod engine;
mod gather;
mod lost;
mod moves;
mod old_bytes;
mod plan;
mod queue;
mod ranges;
mod record;
mod schedule;
mod spill;
mod stage;
mod status;
mod upload;
mod writers;

pub(crate) use copy::{copy_error, fitted};
pub(crate) use draft::{Draft, LosingName, Paused};
pub(crate) use engine::{DirectoryMove, WriteEngine};
pub use lost::LostFile;
pub(crate) use moves::Stay;
pub(crate) use queue::UploadQueue;
pub use queue::{QueuedFile, QueuedState};
pub(crate) use record::Record;
pub use status::{FileBeingWritten, WriteStatus};
pub(crate) use writers::{Writer, Writers};
