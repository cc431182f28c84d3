//! What outlives a process that is killed: a note of each upload in parts that it had under way, so that the next one removes them.
//!
//! [`JournaledBucket`] is a bucket around another one that writes the key of an upload down before it is created, and its name at the store after.
//! Each process appends to a file of its own in a [`JournalDirectory`] and holds a lock on it, which ends with the process however that
//! dies. [`sweep`] takes the files that nobody holds, and aborts what they name: never an upload that a living process noted.

mod bucket;
mod directory;
mod file;
mod record;
mod sweep;

pub use bucket::JournaledBucket;
pub use directory::JournalDirectory;
pub use file::UploadJournal;
pub use sweep::{Swept, sweep};
