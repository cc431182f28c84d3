//! One object version on disk: a sparse file with its bytes at their own places, and an index of the blocks that are there.
//!
//! Any number of processes read and fill an entry at the same time, without talking to each other: the bytes of a version never change, a
//! block's bytes are written before its checksum, and whoever reads a block checks it. Each user holds a shared lock on the index, so that
//! nothing is evicted that somebody has open.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::direct::{Direct, write_all_at};
use super::format::{BLOCK_BYTES, HEAD_BYTES, Identity, RECORD_BYTES, Sealed, read_head};
use super::stamp::{STAMP_BYTES, Stamp};

/// Only the owner reads and writes what is cached.
const MODE: u32 = 0o600;

/// Where the stamp is in an index: at the end of its head.
const STAMP_AT: u64 = (HEAD_BYTES - STAMP_BYTES) as u64;

/// So many records are read at a time.
pub(super) const RECORDS_AT_ONCE: u32 = 8192;

/// How often an entry that vanishes while it is being opened is looked for again.
const MAX_OPENS: usize = 3;

/// An entry of the cache that is open.
#[derive(Debug)]
pub struct Entry {
    sealed: Sealed,
    data: File,
    /// Its shared lock is that of this entry.
    index: File,
    direct: Direct,
}

/// A block as it was found on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// These are its bytes.
    Right,
    /// What is there is not what was written. It counts as absent from now on.
    Wrong,
}

/// How bytes go to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Past the kernel's cache, where the file system allows it and the bytes lie at multiples of 4096 in memory: at the speed of the disk, and
    /// without a copy.
    Past,
    /// Through the kernel's cache, which takes a lot at once.
    Through,
}

/// What opening an entry came to.
#[derive(Debug)]
pub enum Opened {
    /// Here it is.
    Entry(Arc<Entry>),
    /// There is none, or it is just being evicted.
    Absent,
    /// Its head is not its own; it was removed.
    Damaged,
}

impl Entry {
    /// Opens the entry of `sealed` below the directory `objects`, if there is one.
    ///
    /// # Errors
    /// What the system refused.
    pub fn open(objects: &Path, sealed: &Sealed) -> io::Result<Opened> {
        let files = Files::of(objects, sealed.name());
        for _ in 0..MAX_OPENS {
            let Some(index) = open_if_there(&files.index)? else { return Ok(Opened::Absent) };
            if rustix::fs::flock(&index, FlockOperation::NonBlockingLockShared).is_err() {
                return Ok(Opened::Absent);
            }
            if index.metadata()?.nlink() == 0 {
                // It was evicted between the two calls above.
                continue;
            }
            let mut head = vec![0; HEAD_BYTES];
            let is_whole = index.read_exact_at(&mut head, 0).is_ok();
            if !is_whole || read_head(&head).as_ref() != Some(&sealed.identity) {
                drop(index);
                files.remove_unused()?;
                return Ok(Opened::Damaged);
            }
            let Some(data) = open_if_there(&files.data)? else {
                // Whoever was evicting it was killed in the middle.
                drop(index);
                files.remove_unused()?;
                return Ok(Opened::Absent);
            };
            // What was cut off is missing, and what was added is not the object's.
            set_len(&data, sealed.identity.size)?;
            set_len(&index, sealed.identity.index_bytes())?;
            touch(&index)?;
            return Ok(Opened::Entry(Arc::new(Self {
                sealed: sealed.clone(),
                data,
                index,
                direct: Direct::default(),
            })));
        }
        Ok(Opened::Absent)
    }

    /// Opens the entry of `sealed`, which is made if there is none. `None` if it is being evicted.
    ///
    /// # Errors
    /// What the system refused; `StorageFull` among that.
    pub fn open_or_create(objects: &Path, sealed: &Sealed) -> io::Result<Option<Arc<Self>>> {
        for _ in 0..MAX_OPENS {
            if let Opened::Entry(entry) = Self::open(objects, sealed)? {
                return Ok(Some(entry));
            }
            let files = Files::of(objects, sealed.name());
            files.create(sealed)?;
        }
        Ok(None)
    }

    /// Removes the entry of `sealed` below the directory `objects`; false if somebody has it open.
    ///
    /// # Errors
    /// What the system refused.
    pub fn remove(objects: &Path, sealed: &Sealed) -> io::Result<bool> {
        Files::of(objects, sealed.name()).remove_unused()
    }

    /// Whose bytes these are.
    pub fn identity(&self) -> &Identity {
        &self.sealed.identity
    }

    /// The checksums of the blocks from `first` on, 0 for those that are absent. As fresh as what other processes wrote.
    ///
    /// # Errors
    /// What the system refused.
    pub fn records(&self, first: u32, count: u32) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; count as usize * RECORD_BYTES as usize];
        let mut len = 0;
        while len < bytes.len() {
            match self.index.read_at(&mut bytes[len..], record_offset(first) + len as u64)? {
                // Cut by somebody: what is not there is absent.
                0 => break,
                n => len += n,
            }
        }
        Ok(bytes
            .chunks_exact(RECORD_BYTES as usize)
            .map(|record| u64::from_le_bytes(*record.first_chunk().expect("eight bytes")))
            .collect())
    }

    /// Whether all blocks are there, right or not.
    ///
    /// # Errors
    /// What the system refused.
    pub fn is_whole(&self) -> io::Result<bool> {
        let mut blocks = 0..u32::try_from(self.sealed.identity.blocks()).map_err(io::Error::other)?;
        while let Some(first) = blocks.next() {
            let count = (blocks.end - first).min(RECORDS_AT_ONCE);
            if self.records(first, count)?.contains(&0) {
                return Ok(false);
            }
            blocks.start = first + count;
        }
        Ok(true)
    }

    /// Whether all blocks were found right, and nobody has written to the data since: whoever reads the file then reads the object.
    ///
    /// # Errors
    /// What the system refused.
    pub fn is_proven(&self) -> io::Result<bool> {
        let mut bytes = [0; STAMP_BYTES];
        match self.index.read_exact_at(&mut bytes, STAMP_AT) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        let stamp = Stamp::decode(&bytes, &self.sealed);
        // A check in another process may have noted it just after a block was found wrong.
        Ok(stamp.is_some() && stamp == Some(self.stamp()?) && self.is_whole()?)
    }

    /// How long it takes until a [check](super::Check) can prove it: until what is written to the data from then on must show in its times. Zero if that is
    /// so already.
    ///
    /// # Errors
    /// What the system refused.
    pub fn settles_in(&self) -> io::Result<Duration> {
        let stamp = self.stamp()?;
        // It is changed as far as that time goes, and nothing else: no use of it, which the other times tell.
        rustix::fs::fchmod(&self.index, Mode::from_raw_mode(MODE))?;
        Ok(stamp.settles_in(&self.index.metadata()?))
    }

    /// What the data is now.
    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp::of(&self.data.metadata()?))
    }

    /// Notes that the data was right as it was at `stamp`, once it is durable; false if somebody wrote to it since.
    pub(super) fn prove(&self, stamp: Stamp) -> io::Result<bool> {
        self.data.sync_all()?;
        let is_same = self.stamp()? == stamp;
        if is_same {
            self.index.write_all_at(&stamp.encode(&self.sealed), STAMP_AT)?;
        }
        Ok(is_same)
    }

    /// Reads block `index` into `bytes`, which has its length, and holds it against its `record`.
    ///
    /// # Errors
    /// What the system refused.
    pub fn read(&self, index: u32, record: u64, bytes: &mut [u8]) -> io::Result<Stored> {
        let is_whole = match self.data.read_exact_at(bytes, u64::from(index) * BLOCK_BYTES) {
            // Cut by somebody: what is not there is not what was written.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            read => read.map(|()| true)?,
        };
        if is_whole && self.sealed.record(index, bytes) == record {
            return Ok(Stored::Right);
        }
        // What a disk loses by itself shows in no time of the file.
        self.index.write_all_at(&[0; STAMP_BYTES], STAMP_AT)?;
        self.index.write_all_at(&0_u64.to_le_bytes(), record_offset(index))?;
        Ok(Stored::Wrong)
    }

    /// Writes the blocks from `first` on, unless they are all there. Returns how many bytes were written.
    ///
    /// # Errors
    /// What the system refused; `StorageFull` among that.
    pub fn write(&self, first: u32, blocks: &[&[u8]], way: Way) -> io::Result<u64> {
        let is_block = |(index, bytes): (u32, &&[u8])| bytes.len() == self.sealed.identity.block_len(index);
        debug_assert!((first..).zip(blocks).all(is_block), "a block is kept whole");
        let records: Vec<u64> =
            (first..).zip(blocks).map(|(index, bytes)| self.sealed.record(index, bytes)).collect();
        if self.records(first, blocks.len() as u32)? == records {
            return Ok(0);
        }
        let offset = u64::from(first) * BLOCK_BYTES;
        match way {
            Way::Past => self.direct.write_all(&self.data, blocks, offset)?,
            Way::Through => write_all_at(&self.data, blocks, offset)?,
        }
        let records: Vec<u8> = records.into_iter().flat_map(u64::to_le_bytes).collect();
        self.index.write_all_at(&records, record_offset(first))?;
        Ok(blocks.iter().map(|bytes| bytes.len() as u64).sum())
    }
}

/// Its data file. Only of one that [is proven](Entry::is_proven) it has the bytes of the object.
impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.data.as_fd()
    }
}

fn record_offset(index: u32) -> u64 {
    HEAD_BYTES as u64 + RECORD_BYTES * u64::from(index)
}

/// The two files of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) data: PathBuf,
    pub(super) index: PathBuf,
}

impl Files {
    /// Those of the entry `name`: spread over 256 directories.
    pub(super) fn of(objects: &Path, name: &str) -> Self {
        let directory = objects.join(&name[..2]);
        Self { data: directory.join(format!("{name}.data")), index: directory.join(format!("{name}.index")) }
    }

    fn create(&self, sealed: &Sealed) -> io::Result<()> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let directory = self.index.parent().expect("it lies in a directory");
        if let Err(error) = DirBuilder::new().mode(0o700).create(directory)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        open_options().create(true).open(&self.data)?;
        // An index is there whole or not at all.
        let (draft, index) = loop {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let draft = directory.join(format!("{}.{}.{serial}.new", sealed.name(), std::process::id()));
            match open_options().create_new(true).open(&draft) {
                Ok(index) => break (draft, index),
                // Of a process that died, or of another container.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let made = index
            .write_all_at(&sealed.head(), 0)
            .and_then(|()| index.set_len(sealed.identity.index_bytes()))
            .and_then(|()| std::fs::hard_link(&draft, &self.index));
        std::fs::remove_file(&draft)?;
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the entry if nobody has it open; returns whether it is gone.
    pub(super) fn remove_unused(&self) -> io::Result<bool> {
        let Some(index) = open_if_there(&self.index)? else { return Ok(true) };
        if rustix::fs::flock(&index, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        if index.metadata()?.nlink() > 0 {
            self.remove()?;
        }
        Ok(true)
    }

    /// The data goes first: an index without data is seen to be none, data without an index would be in nobody's way.
    fn remove(&self) -> io::Result<()> {
        for path in [&self.data, &self.index] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MODE).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

pub(super) fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match open_options().open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn set_len(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() == len { Ok(()) } else { file.set_len(len) }
}

/// The time of an index is that of its last use.
fn touch(index: &File) -> io::Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::futimens(index, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::format::example;

    #[test]
    fn an_entry_whose_eviction_was_cut_short_is_absent() {
        let objects = tempfile::tempdir().unwrap();
        let sealed = example("a", 7);
        let entry = Entry::open_or_create(objects.path(), &sealed).unwrap().unwrap();
        entry.write(0, &[b"content"], Way::Past).unwrap();
        drop(entry);
        std::fs::remove_file(Files::of(objects.path(), sealed.name()).data).unwrap();
        assert!(matches!(Entry::open(objects.path(), &sealed).unwrap(), Opened::Absent));
        assert!(!Files::of(objects.path(), sealed.name()).index.exists(), "it is nobody's");
        let again = Entry::open_or_create(objects.path(), &sealed).unwrap().unwrap();
        assert_eq!(again.records(0, 1).unwrap(), [0]);
    }
}
