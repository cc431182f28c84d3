//! The stage: a mount's own directory for bytes that were written and are not at the store yet.
//!
//! `CACHE/stage/` has a directory for each mount, which holds the lock of the file `lock` in it as long as it lives. The next mount removes what
//! dead ones left, but for files that were [kept](StageFile::keep): those are [taken over](StageDir::take_leftovers) by a mount that knows what
//! to do with them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::file::StageFile;
use crate::leftover::{self, Leftover};
use crate::owned::{CacheDirError, failed, lock_file, own_directory};
use crate::place::{LOCK, Place, remove_stage};
use crate::room::Room;

/// A mount's directory for staged bytes. What is in it and was not kept goes with it.
#[derive(Debug)]
pub struct StageDir {
    place: Arc<Place>,
    next: AtomicU64,
    stages: PathBuf,
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
        for (path, _lock) in dead(&stages)? {
            remove_stage(&path).map_err(failed("remove", &path))?;
        }
        let (path, lock) = make(&stages)?;
        tracing::debug!(path = %path.display(), limit_bytes, "staging on disk");
        let place = Place { path, room: Arc::new(Room::new(limit_bytes)), lock };
        Ok(Arc::new(Self { place: Arc::new(place), next: AtomicU64::new(0), stages }))
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

    /// Takes over the files that mounts kept which have died since, those whose record is `mine`: no other mount finds them while any of them is
    /// held. Those of living mounts, and of dead ones with nothing of mine, are left alone.
    ///
    /// # Errors
    /// What the disk answered.
    pub fn take_leftovers(&self, mine: impl Fn(&[u8]) -> bool) -> Result<Vec<Leftover>, CacheDirError> {
        let all = lock_file(&self.stages.join(LOCK))?;
        all.lock().map_err(failed("lock", &self.stages.join(LOCK)))?;
        let mut taken = Vec::new();
        for (path, lock) in dead(&self.stages)? {
            let place = Place { path: path.clone(), room: Arc::clone(&self.place.room), lock };
            taken.extend(leftover::take(place, &mine).map_err(failed("take over", &path))?);
        }
        Ok(taken)
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

/// The stages of mounts that have died, and their locks, which are ours now.
fn dead(stages: &Path) -> Result<Vec<(PathBuf, File)>, CacheDirError> {
    let mut dead = Vec::new();
    let entries = fs::read_dir(stages).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for entry in entries.map_err(failed("list", stages))? {
        let path = entry.path();
        if let Some(lock) = lock_of_dead(&path)? {
            dead.push((path, lock));
        }
    }
    dead.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    Ok(dead)
}

/// The lock of the stage `path`, which is ours now; `None` if it is a living mount's, or no stage, or that of a mount which has just ended.
fn lock_of_dead(path: &Path) -> Result<Option<File>, CacheDirError> {
    if !path.is_dir() {
        return Ok(None);
    }
    let lock = match lock_file(&path.join(LOCK)) {
        Err(CacheDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed("lock", path)(error)),
    }
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
    fn a_stage_that_goes_while_others_look_is_nobodys() {
        let cache = tempfile::tempdir().unwrap();
        let stage = StageDir::open(cache.path(), 1 << 20).unwrap();
        let gone = stage.path().with_file_name("1-0");
        assert!(lock_of_dead(&gone).unwrap().is_none());
        assert!(lock_of_dead(stage.path()).unwrap().is_none(), "it lives");
        // Its lock was opened before, and its own mount had removed it by the time that it could be taken.
        fs::create_dir(&gone).unwrap();
        let lock = lock_of_dead(&gone).unwrap().unwrap();
        fs::remove_dir_all(&gone).unwrap();
        remove_stage(&gone).unwrap();
        let place = Place { path: gone, room: Arc::clone(&stage.place.room), lock };
        assert!(leftover::take(place, |_| true).unwrap().is_empty());
    }

    #[test]
    fn what_a_dead_mount_left_is_removed_and_what_it_kept_is_told() {
        let cache = tempfile::tempdir().unwrap();
        let (dead, alive) = (cache.path().join("stage/1-0"), StageDir::open(cache.path(), 1 << 20).unwrap());
        fs::create_dir(&dead).unwrap();
        for name in ["0", "1", "2.kept", "2.record", "3.kept", "4.record", "2.new", LOCK] {
            fs::write(dead.join(name), "x").unwrap();
        }
        let no_lock = cache.path().join("stage/2-0");
        fs::create_dir(&no_lock).unwrap();
        fs::write(no_lock.join("0"), "x").unwrap();
        let living = alive.create();
        living.write(0, b"of the living").unwrap();
        living.keep(b"x").unwrap();

        let next = StageDir::open(cache.path(), 1 << 20).unwrap();
        assert!(alive.path().exists() && alive.path() != next.path(), "a living mount keeps its own");
        let names =
            || fs::read_dir(&dead).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = names().collect();
        left.sort_unstable();
        assert_eq!(
            left,
            ["2.kept", "2.record", LOCK],
            "a file without a record was told to nobody to be safe"
        );
        assert!(!no_lock.exists());

        assert!(next.take_leftovers(|_| false).unwrap().is_empty());
        let taken = next.take_leftovers(|record| record == b"x").unwrap();
        assert_eq!(taken.iter().map(|left| left.file.path()).collect::<Vec<_>>(), [dead.join("2.kept")]);
        let third = StageDir::open(cache.path(), 1 << 20).unwrap();
        assert!(third.take_leftovers(|_| true).unwrap().is_empty(), "they are somebody's");
        drop(taken);
        let again = third.take_leftovers(|_| true).unwrap();
        assert_eq!(again.len(), 1, "nobody let go of it");
        again[0].file.let_go().unwrap();
        drop(again);
        assert!(!dead.exists());
    }
}
