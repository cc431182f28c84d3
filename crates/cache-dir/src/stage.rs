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
use crate::leftover::Leftovers;
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
        for path in all_in(&stages)? {
            let Looked::Dead(_lock) = look_at(&path)? else { continue };
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

    /// Takes over the files that mounts kept which have died since, from the stages that are `looked_at`: those whose record, at its path, is
    /// `mine`. No other mount finds them while any of them is held. Those of living mounts, and of dead ones with nothing of mine, are left alone.
    ///
    /// # Errors
    /// What the disk answered when all stages were looked for; what it answers for one of them is among the [`Leftovers`].
    pub fn take_leftovers(
        &self,
        looked_at: impl Fn(&Path) -> bool,
        mine: impl Fn(&Path, &[u8]) -> bool,
    ) -> Result<Leftovers, CacheDirError> {
        let all = lock_file(&self.stages.join(LOCK))?;
        all.lock().map_err(failed("lock", &self.stages.join(LOCK)))?;
        let mut taken = Leftovers::default();
        let others = all_in(&self.stages)?.into_iter().filter(|path| *path != self.place.path);
        for path in others.filter(|path| looked_at(path)) {
            match look_at(&path) {
                Ok(Looked::Dead(lock)) => {
                    taken.take(Place { path, room: Arc::clone(&self.place.room), lock }, &mine);
                }
                Ok(Looked::Held) => taken.held.push(path),
                Ok(Looked::Gone) => {}
                Err(error) => taken.fail(&path, error),
            }
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

/// What is in `stages`, in order.
fn all_in(stages: &Path) -> Result<Vec<PathBuf>, CacheDirError> {
    let entries = fs::read_dir(stages).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut all: Vec<_> = entries.map_err(failed("list", stages))?.iter().map(fs::DirEntry::path).collect();
    all.sort_unstable();
    Ok(all)
}

/// Whose a stage is.
#[derive(Debug)]
enum Looked {
    /// A mount's that has died; its lock is ours now.
    Dead(File),
    /// A mount's that lives, or is dying.
    Held,
    /// Nobody's: it is no stage, or that of a mount which has just ended.
    Gone,
}

fn look_at(path: &Path) -> Result<Looked, CacheDirError> {
    if !path.is_dir() {
        return Ok(Looked::Gone);
    }
    let lock = match lock_file(&path.join(LOCK)) {
        Err(CacheDirError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Looked::Gone);
        }
        opened => opened?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(Looked::Dead(lock)),
        Err(TryLockError::WouldBlock) => Ok(Looked::Held),
        Err(TryLockError::Error(error)) => Err(failed("lock", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Leftover;

    fn leftovers(stage: &StageDir, mine: impl Fn(&[u8]) -> bool) -> Vec<Leftover> {
        let taken = stage.take_leftovers(|_| true, |_, record| mine(record)).unwrap();
        assert!(taken.failed.is_empty(), "{taken:?}");
        taken.files
    }

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
        assert!(matches!(look_at(&gone), Ok(Looked::Gone)));
        assert!(matches!(look_at(stage.path()), Ok(Looked::Held)), "it lives");
        // Its lock was opened before, and its own mount had removed it by the time that it could be taken.
        fs::create_dir(&gone).unwrap();
        let Ok(Looked::Dead(lock)) = look_at(&gone) else { panic!("nobody holds it") };
        fs::remove_dir_all(&gone).unwrap();
        remove_stage(&gone).unwrap();
        let place = Place { path: gone, room: Arc::clone(&stage.place.room), lock };
        let mut taken = Leftovers::default();
        taken.take(place, |_, _| true);
        assert!(taken.files.is_empty() && taken.failed.is_empty());
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

        assert!(leftovers(&next, |_| false).is_empty());
        let taken = leftovers(&next, |record| record == b"x");
        assert_eq!(taken.iter().map(|left| left.file.path()).collect::<Vec<_>>(), [dead.join("2.kept")]);
        let third = StageDir::open(cache.path(), 1 << 20).unwrap();
        assert!(leftovers(&third, |_| true).is_empty(), "they are somebody's");
        drop(taken);
        let again = leftovers(&third, |_| true);
        assert_eq!(again.len(), 1, "nobody let go of it");
        again[0].file.let_go().unwrap();
        drop(again);
        assert!(!dead.exists());
    }

    #[test]
    fn what_cannot_be_read_keeps_nothing_else_from_being_taken_over() {
        let cache = tempfile::tempdir().unwrap();
        let next = StageDir::open(cache.path(), 1 << 20).unwrap();
        let (dead, unreadable) = (cache.path().join("stage/1-0"), cache.path().join("stage/2-0"));
        fs::create_dir(&dead).unwrap();
        // A record that is a directory, one that is fine, and a lock that is a directory.
        fs::create_dir(dead.join("1.record")).unwrap();
        for name in ["1.kept", "2.kept", "2.record"] {
            fs::write(dead.join(name), "x").unwrap();
        }
        fs::create_dir_all(unreadable.join(LOCK)).unwrap();
        let living = StageDir::open(&cache.path().join("other"), 1 << 20).unwrap();
        assert!(living.take_leftovers(|_| true, |_, _| true).unwrap().held.is_empty(), "not its own");
        let taken = next.take_leftovers(|_| true, |_, _| true).unwrap();
        let [file] = &taken.files[..] else { panic!("{taken:?}") };
        assert_eq!(file.file.path(), dead.join("2.kept"));
        assert_eq!(taken.failed.iter().map(|(stage, _)| stage).collect::<Vec<_>>(), [&dead, &unreadable]);
        drop(taken);
        let held = lock_file(&dead.join(LOCK)).unwrap();
        held.lock().unwrap();
        let again = next.take_leftovers(|stage| stage == dead, |_, _| true).unwrap();
        assert_eq!((again.held, again.failed.len(), again.files.len()), (vec![dead], 0, 0));
    }
}
