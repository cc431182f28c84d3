//! One sparse file of staged bytes, each at the offset that it has in the file being written.
//!
//! Room is taken and given back by the grain, and holes are punched where bytes are let go, so that a file longer than the room can
//! pass through it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};

use crate::place::{KEPT, Place};

/// What room is counted in, in bytes.
const GRAIN_BYTES: u64 = 128 << 10;

/// The staged bytes of one file. It is removed when this is dropped, and by the next mount if this process is killed, unless it was
/// [kept](Self::keep).
///
/// Reads and writes may go on at the same time; for each byte one call at a time writes or discards it.
#[derive(Debug)]
pub struct StageFile {
    place: Arc<Place>,
    state: Mutex<State>,
    /// Opened with the first byte.
    file: OnceLock<File>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    is_kept: bool,
    taken: Grains,
}

impl StageFile {
    pub(crate) fn new(place: Arc<Place>, path: PathBuf) -> Self {
        let state = State { path, is_kept: false, taken: Grains::default() };
        Self { place, state: Mutex::new(state), file: OnceLock::new() }
    }

    /// Puts `bytes` at `offset`. When it fails, the grains that were empty before are so again.
    ///
    /// # Errors
    /// `StorageFull` if the limit or the disk leaves no room; what the disk answered.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.open()?;
        let new = self.state.lock().taken.missing(offset..offset + bytes.len() as u64);
        if !new.is_empty() {
            self.place.room.take(new.len() as u64 * GRAIN_BYTES, file)?;
            self.state.lock().taken.set(&new);
        }
        file.write_all_at(bytes, offset).inspect_err(|_| {
            for grain in new {
                if let Err(error) = self.discard(grain * GRAIN_BYTES..(grain + 1) * GRAIN_BYTES) {
                    tracing::warn!(%error, "room that was taken on disk and not filled could not be given back");
                }
            }
        })
    }

    /// Reads the bytes at `offset`, which were written, into all of `into`.
    ///
    /// # Errors
    /// `UnexpectedEof` if they were not; what the disk answered.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let file = self.file.get().ok_or(io::ErrorKind::UnexpectedEof)?;
        file.read_exact_at(into, offset)
    }

    /// Lets go of the bytes of `range`: the grains that lie in it whole give their room back and read as zeros.
    ///
    /// # Errors
    /// What the disk answered; the room stays taken then.
    pub fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let Some(file) = self.file.get() else { return Ok(()) };
        for grain in range.start.div_ceil(GRAIN_BYTES)..range.end / GRAIN_BYTES {
            if self.state.lock().taken.has(grain) {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(file, hole, grain * GRAIN_BYTES, GRAIN_BYTES)?;
                self.state.lock().taken.clear(grain);
                self.place.room.give_back(GRAIN_BYTES);
            }
        }
        Ok(())
    }

    /// Makes the bytes durable and the file outlive its mount, also a killed one: afterwards it lies at the path returned until somebody removes it,
    /// and the [stage](crate::StageDir::leftovers) of the next mount tells of it. Its bytes lie at their own offsets; which of them count, and what
    /// they are of, is for the caller to record, before it is told that they are safe.
    ///
    /// # Errors
    /// What the disk answered; the file is not kept then.
    pub fn keep(&self) -> io::Result<PathBuf> {
        self.open()?.sync_all()?;
        let mut state = self.state.lock();
        if !state.is_kept {
            let path = state.path.with_extension(KEPT);
            fs::rename(&state.path, &path)?;
            File::open(&self.place.path)?.sync_all()?;
            (state.path, state.is_kept) = (path, true);
        }
        Ok(state.path.clone())
    }

    fn open(&self) -> io::Result<&File> {
        let state = self.state.lock();
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = create(&state.path)?;
        Ok(self.file.get_or_init(|| file))
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

impl Drop for StageFile {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if self.file.get().is_some()
            && !state.is_kept
            && let Err(error) = fs::remove_file(&state.path)
        {
            tracing::warn!(path = %state.path.display(), %error, "a file of staged bytes could not be removed; the next mount tries again");
        }
        self.place.room.give_back(state.taken.count() * GRAIN_BYTES);
    }
}

/// A set of grains: a bit for each.
#[derive(Debug, Default)]
struct Grains(Vec<u64>);

impl Grains {
    /// Those with bytes of `range` that are not in the set.
    fn missing(&self, range: Range<u64>) -> Vec<u64> {
        let touched = range.start / GRAIN_BYTES..range.end.div_ceil(GRAIN_BYTES);
        touched.filter(|grain| !self.has(*grain)).collect()
    }

    fn has(&self, grain: u64) -> bool {
        self.0.get(grain as usize / 64).is_some_and(|word| word >> (grain % 64) & 1 == 1)
    }

    fn set(&mut self, grains: &[u64]) {
        for grain in grains {
            let word = *grain as usize / 64;
            self.0.resize(self.0.len().max(word + 1), 0);
            self.0[word] |= 1 << (grain % 64);
        }
    }

    fn clear(&mut self, grain: u64) {
        if let Some(word) = self.0.get_mut(grain as usize / 64) {
            *word &= !(1 << (grain % 64));
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StageDir;

    fn stage(limit_grains: u64) -> (tempfile::TempDir, Arc<StageDir>) {
        let cache = tempfile::tempdir().unwrap();
        let stage = StageDir::open(cache.path(), limit_grains * GRAIN_BYTES).unwrap();
        (cache, stage)
    }

    fn grains(count: u64, byte: u8) -> Vec<u8> {
        vec![byte; (count * GRAIN_BYTES) as usize]
    }

    #[test]
    fn bytes_are_where_they_were_put() {
        let (_cache, stage) = stage(4);
        let file = stage.create();
        file.write(GRAIN_BYTES - 2, b"abcd").unwrap();
        let mut read = [0; 6];
        file.read(GRAIN_BYTES - 4, &mut read).unwrap();
        assert_eq!(&read, b"\0\0abcd");
        assert_eq!(stage.used_bytes(), 2 * GRAIN_BYTES);
        file.read(GRAIN_BYTES, &mut read).unwrap_err();
    }

    #[test]
    fn room_is_taken_once_and_given_back() {
        let (_cache, stage) = stage(2);
        let file = stage.create();
        file.write(0, &grains(2, 1)).unwrap();
        file.write(5, &grains(1, 3)).unwrap();
        assert_eq!(stage.used_bytes(), 2 * GRAIN_BYTES);
        let full = file.write(2 * GRAIN_BYTES, &grains(1, 4)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        file.discard(1..2 * GRAIN_BYTES).unwrap();
        assert_eq!(stage.used_bytes(), GRAIN_BYTES, "the second lies in the range whole");
        file.write(2 * GRAIN_BYTES, &grains(1, 4)).unwrap();
        drop(file);
        assert_eq!(stage.used_bytes(), 0);
    }

    #[test]
    fn a_kept_file_outlives_its_stage() {
        let (cache, stage) = stage(2);
        let file = stage.create();
        file.write(3, b"kept").unwrap();
        let path = file.keep().unwrap();
        assert_eq!(file.keep().unwrap(), path);
        file.write(0, b"and").unwrap();
        drop((file, stage));
        assert_eq!(fs::read(&path).unwrap(), b"andkept");
        let next = StageDir::open(cache.path(), 1).unwrap();
        assert_eq!(next.leftovers(), [path]);
    }
}
