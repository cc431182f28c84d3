//! The stage: a mount's own directory for bytes that were written and are not at the store yet.
//!
//! `CACHE/stage/` has a directory for each mount, which holds the lock of the file `lock` in it as long as it lives. The next mount removes what
//! dead ones left, but for files that were [kept](StageFile::keep): those stay where they are until somebody removes them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::file::StageFile;
use crate::owned::{CacheDirError, failed, lock_file, own_directory};
use crate::place::{LOCK, Place, remove_stage};
use crate::room::Room;

/// A mount's directory for staged bytes. What is in it and was not kept goes with it.
#[derive(Debug)]
pub struct StageDir {
    place: Arc<Place>,
    next: AtomicU64,
    leftovers: Vec<PathBuf>,
}

impl StageDir {
    /// Makes a new stage below the directory `cache`, for at most `limit_bytes`, and removes those of mounts that have died. `cache` and
    /// `cache/stage` are made if they are not there.
    ///
    /// # Errors
    /// [`CacheDirError`] names the directory, what is wrong with it, and the remedy.
    pub fn open(cache: &Path, limit_bytes: u64) -> Result<Arc<Self>, CacheDirError> {
        let stages = cache.join("stage");
        own_directory(cache)?;
        own_directory(&stages)?;
        // Nobody makes a stage while another looks which ones are dead.
        let all = lock_file(&stages.join(LOCK))?;
        all.lock().map_err(failed("lock", &stages.join(LOCK)))?;
        let leftovers = sweep(&stages)?;
        let (path, lock) = make(&stages)?;
        tracing::debug!(path = %path.display(), limit_bytes, kept = leftovers.len(), "staging on disk");
        let place = Place { path, room: Room::new(limit_bytes), lock };
        Ok(Arc::new(Self { place: Arc::new(place), next: AtomicU64::new(0), leftovers }))
    }

    /// A new file, without any bytes. Does no I/O: the file is made on disk with its first byte.
    pub fn create(&self) -> StageFile {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        StageFile::new(Arc::clone(&self.place), self.place.path.join(number.to_string()))
    }

    /// Whether the limit leaves room for `bytes` more. Does no I/O: the disk may be full all the same.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.place.room.has(bytes)
    }

    /// The room that files take, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.place.room.taken_bytes()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Files that mounts kept which have died since, as they were found when this was opened.
    pub fn leftovers(&self) -> &[PathBuf] {
        &self.leftovers
    }
}

/// Makes a directory for a mount and takes its lock.
fn make(stages: &Path) -> Result<(PathBuf, File), CacheDirError> {
    let mut number = 0_u64;
    loop {
        let path = stages.join(format!("{}-{number}", std::process::id()));
        // One that is there may be a living mount's of another container, whose processes have the same numbers.
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            made => {
                made.map_err(failed("make the directory", &path))?;
                own_directory(&path)?;
                let lock = lock_file(&path.join(LOCK))?;
                lock.lock().map_err(failed("lock", &path.join(LOCK)))?;
                return Ok((path, lock));
            }
        }
    }
}

/// Removes what mounts left that have died; returns the files that they kept.
fn sweep(stages: &Path) -> Result<Vec<PathBuf>, CacheDirError> {
    let mut kept = Vec::new();
    let entries = fs::read_dir(stages).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(failed("list", stages))? {
        let path = entry.path();
        if !entry.file_type().map_err(failed("look at", &path))?.is_dir() {
            continue;
        }
        let lock = lock_file(&path.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => kept.extend(remove_stage(&path).map_err(failed("remove", &path))?),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
    }
    kept.sort_unstable();
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_goes_with_its_mount() {
        let cache = tempfile::tempdir().unwrap();
        let stage = StageDir::open(cache.path(), 1 << 20).unwrap();
        let path = stage.path().to_owned();
        let file = stage.create();
        file.write(0, b"bytes").unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 2, "the file, and the lock");
        drop(file);
        drop(stage);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_mount_left_is_removed_and_what_it_kept_is_told() {
        let cache = tempfile::tempdir().unwrap();
        let (dead, alive) = (cache.path().join("stage/1-0"), StageDir::open(cache.path(), 1 << 20).unwrap());
        fs::create_dir(&dead).unwrap();
        for name in ["0", "1", "2.kept", LOCK] {
            fs::write(dead.join(name), "x").unwrap();
        }
        let no_lock = cache.path().join("stage/2-0");
        fs::create_dir(&no_lock).unwrap();
        fs::write(no_lock.join("0"), "x").unwrap();

        let next = StageDir::open(cache.path(), 1 << 20).unwrap();
        assert_eq!(next.leftovers(), [dead.join("2.kept")]);
        assert!(!dead.join("0").exists() && dead.join("2.kept").exists() && !no_lock.exists());
        assert!(alive.path().exists() && alive.path() != next.path(), "a living mount keeps its own");

        fs::remove_file(dead.join("2.kept")).unwrap();
        assert!(StageDir::open(cache.path(), 1 << 20).unwrap().leftovers().is_empty());
        assert!(!dead.exists());
    }
}
