//! Looks at a cache from outside a mount: lists, verifies and clears it.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use super::check::{Verified, verify_blocks};
use super::entry::{Entry, Files, Opened, open_if_there};
use super::format::{HEAD_BYTES, Identity, Sealed, read_head};
use super::quota::{Census, Found, census};

/// An object version in the cache.
#[derive(Debug, Clone)]
pub struct CachedObject {
    /// Whose bytes it has; `None` if it is damaged.
    pub identity: Option<Identity>,
    /// What it takes of the disk, in bytes.
    pub disk_bytes: u64,
    /// When it was opened last.
    pub used: SystemTime,
    files: Files,
}

/// The objects in the cache at `directory`, those used longest ago first.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<CachedObject>> {
    let Census { entries, .. } = census(&directory.join("objects"))?;
    let cached = |found: Found| {
        let Found { files, bytes: disk_bytes, used } = found;
        // One that was evicted meanwhile is no longer in it.
        let identity = identity_of(&files)?;
        Ok(identity.map(|identity| CachedObject { identity, disk_bytes, used, files }))
    };
    entries.into_iter().map(cached).filter_map(Result::transpose).collect()
}

/// Reads every block of `object` and holds it against its checksum. What is wrong is taken out of the cache.
///
/// # Errors
/// If its files cannot be read.
pub fn verify(directory: &Path, object: &CachedObject) -> io::Result<Verified> {
    let damaged = Verified { damaged: 1, ..Verified::default() };
    let Some(sealed) = object.identity.clone().and_then(Sealed::new) else {
        object.files.remove_unused()?;
        return Ok(damaged);
    };
    let entry = match Entry::open(&directory.join("objects"), &sealed)? {
        Opened::Entry(entry) => entry,
        Opened::Absent => return Ok(Verified::default()),
        Opened::Damaged => return Ok(damaged),
    };
    verify_blocks(&entry)
}

/// Removes `object` from the cache; false if a mount has it open.
///
/// # Errors
/// If its files cannot be removed.
pub fn clear(object: &CachedObject) -> io::Result<bool> {
    object.files.remove_unused()
}

/// Whose bytes an entry has, `None` inside if it is damaged; `None` if it is gone.
fn identity_of(files: &Files) -> io::Result<Option<Option<Identity>>> {
    let Some(index) = open_if_there(&files.index)? else { return Ok(None) };
    let mut head = vec![0; HEAD_BYTES];
    match index.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(Some(read_head(&head))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(None)),
        Err(error) => Err(error),
    }
}
