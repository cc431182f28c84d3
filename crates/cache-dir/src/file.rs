//! One sparse file of staged bytes, each at the offset that it has in the file being written.
//!
//! Room is taken and given back by the grain, and holes are punched where bytes are let go, so that a file longer than the room can
//! pass through it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};

use crate::place::{KEPT, MAX_RECORD_BYTES, Place, RECORD};

/// What room is counted in, in bytes.
const GRAIN_BYTES: u64 = 128 << 10;

/// So much is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// The staged bytes of one file. It is removed when this is dropped, and by the next mount if this process is killed, unless it was
/// [kept](Self::keep). What is kept does not change any more.
///
/// Reads and writes may go on at the same time; for each byte one call at a time writes or discards it.
#[derive(Debug)]
pub struct StageFile {
    place: Arc<Place>,
    /// Nobody waits for the disk with this.
    state: Mutex<State>,
    /// Held by who makes it kept, amends what is said of it, or lets go of it.
    keeping: Mutex<()>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    is_kept: bool,
    taken: Grains,
    /// It is there: made with its first byte.
    is_made: bool,
    /// Open from its first byte on. One that is kept is opened when it is read: there may be more of them than files that can be open.
    file: Option<Arc<File>>,
}

impl StageFile {
    pub(crate) fn new(place: Arc<Place>, path: PathBuf) -> Self {
        let state = State { path, is_kept: false, taken: Grains::default(), is_made: false, file: None };
        Self { place, state: Mutex::new(state), keeping: Mutex::default() }
    }

    /// One that a dead mount kept.
    pub(crate) fn of_dead(place: Arc<Place>, path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).open(&path)?;
        let taken = Grains::first((file.metadata()?.blocks() * 512).div_ceil(GRAIN_BYTES));
        place.room.take_held(taken.count() * GRAIN_BYTES);
        let state = State { path, is_kept: true, taken, is_made: true, file: None };
        Ok(Self { place, state: Mutex::new(state), keeping: Mutex::default() })
    }

    /// Puts `bytes` at `offset`. When it fails, the grains that were empty before are so again.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is kept; `StorageFull` if the limit or the disk leaves no room; what the disk answered.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.is_kept() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file that is kept does not change"));
        }
        let file = &*self.open()?;
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
        if !self.state.lock().is_made {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.open()?.read_exact_at(into, offset)
    }

    /// Puts the bytes of `ranges`, which `other` has, at the same places here.
    ///
    /// # Errors
    /// As [`write`](Self::write) and [`read`](Self::read).
    pub fn copy(&self, other: &Self, ranges: impl IntoIterator<Item = Range<u64>>) -> io::Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        for range in ranges {
            for at in (range.start..range.end).step_by(COPY_BYTES) {
                let bytes = &mut buffer[..(range.end - at).min(COPY_BYTES as u64) as usize];
                other.read(at, bytes)?;
                self.write(at, bytes)?;
            }
        }
        Ok(())
    }

    /// Lets go of the bytes of `range`: the grains that lie in it whole give their room back and read as zeros. Of a file that is kept none are.
    ///
    /// # Errors
    /// What the disk answered; the room stays taken then.
    pub fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let file = {
            let state = self.state.lock();
            state.file.clone().filter(|_| !state.is_kept)
        };
        let Some(file) = file else { return Ok(()) };
        for grain in range.start.div_ceil(GRAIN_BYTES)..range.end / GRAIN_BYTES {
            if self.state.lock().taken.has(grain) {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&*file, hole, grain * GRAIN_BYTES, GRAIN_BYTES)?;
                self.state.lock().taken.clear(grain);
                self.place.room.give_back(GRAIN_BYTES);
            }
        }
        Ok(())
    }

    /// Makes the bytes and `record`, which says what they are, durable: when this returns, both outlive the mount, also a killed one, as a
    /// [`Leftover`](crate::Leftover) for the next.
    ///
    /// # Errors
    /// What the disk answered; whether the file is kept then is not known before it is [let go](Self::let_go).
    pub fn keep(&self, record: &[u8]) -> io::Result<()> {
        let _turn = self.keeping.lock();
        self.open()?.sync_all()?;
        let (path, kept) = (self.path(), self.path().with_extension(KEPT));
        if path != kept {
            fs::rename(&path, &kept)?;
            self.state.lock().path.clone_from(&kept);
        }
        put_record(&kept, record)?;
        let closed = {
            let mut state = self.state.lock();
            state.is_kept = true;
            state.file.take()
        };
        drop(closed);
        // Until here a crash may leave either; a failure here leaves what is kept for now.
        self.sync_directory()
    }

    /// Gives a file that is kept another record. One that was let go meanwhile stays so.
    ///
    /// # Errors
    /// What the disk answered; the record is the old one or the new one then.
    pub fn amend(&self, record: &[u8]) -> io::Result<()> {
        let _turn = self.keeping.lock();
        if !self.is_kept() {
            return Ok(());
        }
        put_record(&self.path(), record)?;
        self.sync_directory()
    }

    /// Whether it outlives its mount.
    pub fn is_kept(&self) -> bool {
        self.state.lock().is_kept
    }

    /// What was kept is safe elsewhere, or nobody's any more: when this returns, no mount will find it. Its bytes can be read as long as this is there.
    ///
    /// # Errors
    /// What the disk answered; it may be found then.
    pub fn let_go(&self) -> io::Result<()> {
        let _turn = self.keeping.lock();
        if self.is_kept() {
            fs::remove_file(self.path().with_extension(RECORD))?;
            self.state.lock().is_kept = false;
            self.sync_directory()?;
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.state.lock().path.clone()
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.place.path)?.sync_all()
    }

    /// The open file, which is made if it is not there.
    fn open(&self) -> io::Result<Arc<File>> {
        let mut state = self.state.lock();
        if let Some(file) = &state.file {
            return Ok(Arc::clone(file));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!state.is_kept).create_new(!state.is_made).mode(0o600);
        let file = Arc::new(options.open(&state.path)?);
        state.is_made = true;
        if !state.is_kept {
            state.file = Some(Arc::clone(&file));
        }
        Ok(file)
    }
}

/// Says `record` of the file `path`, which is kept: as a whole, or what was said before stays.
fn put_record(path: &Path, record: &[u8]) -> io::Result<()> {
    if record.len() > MAX_RECORD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "too much is to be said of a file that is to be kept",
        ));
    }
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(record)?;
    file.sync_all()?;
    fs::rename(&beside, path.with_extension(RECORD))
}

impl Drop for StageFile {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.is_made
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
    /// So many, from the first on.
    fn first(count: u64) -> Self {
        let mut grains = Self::default();
        grains.set(&(0..count).collect::<Vec<_>>());
        grains
    }

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
    fn a_kept_file_outlives_its_stage_and_does_not_change() {
        let (cache, stage) = stage(4);
        let file = stage.create();
        file.write(3, b"kept").unwrap();
        file.keep(b"first").unwrap();
        file.keep(b"second").unwrap();
        let path = file.path();
        assert_eq!(file.write(0, b"and").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        file.discard(0..GRAIN_BYTES).unwrap();
        drop((file, stage));
        assert_eq!(fs::read(&path).unwrap(), b"\0\0\0kept");

        let next = StageDir::open(cache.path(), 1).unwrap();
        let found = next.take_leftovers(|_| true, |_, _| true).unwrap();
        let [left] = &found.files[..] else { panic!("{found:?}") };
        let mut read = [0; 4];
        left.file.read(3, &mut read).unwrap();
        assert_eq!((&left.record[..], &read), (&b"second"[..], b"kept"));
        assert_eq!(next.used_bytes(), GRAIN_BYTES, "it takes room, beyond the limit if need be");
        left.file.let_go().unwrap();
        drop((found, next));
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn a_kept_file_takes_no_descriptor_and_can_be_read_and_written_on_when_it_was_let_go() {
        let (_cache, stage) = stage(4);
        let file = stage.create();
        file.write(0, b"kept").unwrap();
        let weak = Arc::downgrade(&file.open().unwrap());
        file.keep(b"record").unwrap();
        assert_eq!(weak.strong_count(), 0);
        let mut read = [0; 4];
        file.read(0, &mut read).unwrap();
        assert_eq!(&read, b"kept");
        file.let_go().unwrap();
        file.write(1, b"new").unwrap();
        file.read(0, &mut read).unwrap();
        assert_eq!(&read, b"knew");
        let path = file.path();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_kept_can_be_copied_and_what_was_let_go_is_gone_with_its_file() {
        let (cache, stage) = stage(4);
        let (file, copy) = (stage.create(), stage.create());
        file.write(0, &grains(2, 7)).unwrap();
        file.keep(b"record").unwrap();
        copy.copy(&file, [1..4, GRAIN_BYTES..GRAIN_BYTES + 1]).unwrap();
        let mut read = [9; 5];
        copy.read(0, &mut read).unwrap();
        assert_eq!(read, [0, 7, 7, 7, 0]);
        file.let_go().unwrap();
        file.read(0, &mut read).unwrap();
        assert_eq!(read, [7; 5]);
        drop((file, copy, stage));
        assert_eq!(fs::read_dir(cache.path().join("stage")).unwrap().count(), 1, "the lock of all");
    }
}
