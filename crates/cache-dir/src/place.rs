//! Where one mount stages: its directory, its share of the disk, and the lock that says that it lives.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::room::Room;

/// The file that is locked.
pub(crate) const LOCK: &str = "lock";

/// The extension of files that outlive their mount.
pub(crate) const KEPT: &str = "kept";

/// A mount's directory, for as long as somebody uses it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) room: Room,
    #[expect(dead_code, reason = "locked until it is closed")]
    pub(crate) lock: File,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = remove_stage(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a stage could not be removed; the next mount tries again");
        }
    }
}

/// Removes the stage `path`, whose lock is held, but for the files that were kept; returns those.
pub(crate) fn remove_stage(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        match file.extension() {
            Some(extension) if extension == KEPT => kept.push(file),
            _ if file.ends_with(LOCK) => {}
            _ => fs::remove_file(&file)?,
        }
    }
    if kept.is_empty() {
        fs::remove_file(path.join(LOCK))?;
        fs::remove_dir(path)?;
    }
    Ok(kept)
}
