//! Where one mount stages: its directory, its share of the disk, and the lock that says that it lives.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::room::Room;

/// The file that is locked.
pub(crate) const LOCK: &str = "lock";

/// The extension of files that outlive their mount, and of what is said about each.
pub(crate) const KEPT: &str = "kept";
pub(crate) const RECORD: &str = "record";

/// A file of which more is to be said is not kept.
pub(crate) const MAX_RECORD_BYTES: usize = 64 << 20;

/// A mount's directory, for as long as somebody uses it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// That of the mount that uses it.
    pub(crate) room: Arc<Room>,
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

/// Removes the stage `path`, whose lock is held, but for the files that were kept and their records.
///
/// A file whose record was not finished was told to nobody to be safe.
pub(crate) fn remove_stage(path: &Path) -> io::Result<()> {
    match remove_unkept(path) {
        // Its own mount was just ending, and was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn remove_unkept(path: &Path) -> io::Result<()> {
    let mut is_empty = true;
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let partner = match file.extension() {
            Some(extension) if extension == KEPT => Some(file.with_extension(RECORD)),
            Some(extension) if extension == RECORD => Some(file.with_extension(KEPT)),
            _ => None,
        };
        if partner.is_some_and(|partner| partner.exists()) {
            is_empty = false;
        } else if !file.ends_with(LOCK) {
            fs::remove_file(&file)?;
        }
    }
    if is_empty {
        fs::remove_file(path.join(LOCK))?;
        fs::remove_dir(path)?;
    }
    Ok(())
}
