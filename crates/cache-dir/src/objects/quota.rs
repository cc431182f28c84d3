//! How much of the disk the objects may take: one count for all processes that share its directory.
//!
//! The count lies in a file that whoever changes it locks. A process takes room in pieces, so that the lock is rare, and notes in a lease of its
//! own what it took and may not have written yet: what a killed process had not used is found when the room is counted anew. When there is no
//! more, the entries that were used longest ago go.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;

use super::entry::{Files, open_if_there, open_options};
use crate::own_directory;

/// The least room that the cache may be given.
pub(super) const MIN_LIMIT_BYTES: u64 = 4 << 20;

/// The least and most room taken at a time: a lock and a look at the file system for each are nothing beside writing it.
const MIN_PIECE_BYTES: u64 = 256 << 10;
const MAX_PIECE_BYTES: u64 = 64 << 20;

/// So much of a file system stays free for others: a twentieth, and 4 GiB of large ones.
const RESERVE_SHARE: u64 = 20;
const MAX_RESERVE_BYTES: u64 = 4 << 30;

/// Evicting goes on until so much more is free, a share of what is there: looking through all entries is for more than one piece.
const EVICT_SHARE: u64 = 16;

/// A file without its other half is swept when it is that old: younger, somebody may just be making the entry.
const HALF_MADE_FOR: Duration = Duration::from_secs(600);

/// The room for objects in one directory, as one process sees it.
#[derive(Debug)]
pub struct Quota {
    root: PathBuf,
    limit: u64,
    piece: u64,
    held: Mutex<Held>,
    lease: Lease,
}

/// What this process took of the count, and the disk does not show yet.
#[derive(Debug, Default)]
struct Held {
    /// What is left of the piece that was taken last, in bytes.
    left: u64,
    /// What somebody is about to write, in bytes.
    promised: u64,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.left + self.promised
    }
}

/// Room that was taken. Keep it until the disk shows what it was taken for.
#[derive(Debug)]
#[must_use = "it counts until it is dropped"]
pub struct Room<'a> {
    held: &'a Mutex<Held>,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.held.lock().promised -= self.bytes;
    }
}

/// A file that is locked for as long as this process may hold room: it says how much at most.
#[derive(Debug)]
struct Lease {
    path: PathBuf,
    file: File,
}

impl Lease {
    fn new(leases: &Path) -> io::Result<Self> {
        own_directory(leases).map_err(io::Error::other)?;
        for serial in 0_u32.. {
            let path = leases.join(format!("{}.{serial}", std::process::id()));
            match open_options().create_new(true).open(&path) {
                Ok(file) => {
                    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                    return Ok(Self { path, file });
                }
                // Of another mount in this process, or of a process that died, or lives in another container.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // One that stays is swept by whoever counts next: nobody has it locked.
        drop(std::fs::remove_file(&self.path));
    }
}

/// What one look through the entries found.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// What all files take of the disk, in bytes.
    pub(super) bytes: u64,
    /// The entries, those used longest ago first.
    pub(super) entries: Vec<Found>,
}

/// An entry that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) files: Files,
    /// What it takes of the disk, in bytes.
    pub(super) bytes: u64,
    /// When it was used last.
    pub(super) used: SystemTime,
}

impl Quota {
    /// The room of the objects in `root`, limited to `limit` bytes by this process.
    ///
    /// # Errors
    /// What the system refused.
    pub fn open(root: &Path, limit: u64) -> io::Result<Self> {
        let disk = rustix::fs::statvfs(root)?;
        let limit = limit.min(disk.f_blocks * disk.f_frsize).max(MIN_LIMIT_BYTES);
        let piece = (limit / 64).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES);
        let count = locked_count(root)?;
        // Whoever counts sweeps leases that nobody holds, so one is made while nobody counts.
        let lease = Lease::new(&root.join("leases"))?;
        let quota = Self { root: root.to_owned(), limit, piece, held: Mutex::default(), lease };
        // A process that was killed may have left the count wrong; counting is cheap beside a mount.
        count.set(quota.census()?.bytes + quota.leased(0)?)?;
        Ok(quota)
    }

    /// Takes `bytes` of room for a file that will need them; `None` if there is none: then all entries were looked through, so do not ask again
    /// at once.
    ///
    /// # Errors
    /// What the system refused.
    pub fn take(&self, bytes: u64) -> io::Result<Option<Room<'_>>> {
        let mut held = self.held.lock();
        if held.left < bytes {
            let wanted = bytes.max(self.piece) - held.left;
            if !self.take_piece(&locked_count(&self.root)?, held.bytes(), wanted)? {
                return Ok(None);
            }
            held.left += wanted;
        }
        held.left -= bytes;
        held.promised += bytes;
        Ok(Some(Room { held: &self.held, bytes }))
    }

    /// Takes `wanted` bytes of the count for this process, which holds `held` already.
    fn take_piece(&self, count: &Count, held: u64, wanted: u64) -> io::Result<bool> {
        let is_taken = self.count_piece(count, held, wanted)?;
        // Until the next piece it only becomes less.
        set_word(&self.lease.file, held + if is_taken { wanted } else { 0 })?;
        Ok(is_taken)
    }

    fn count_piece(&self, count: &Count, held: u64, wanted: u64) -> io::Result<bool> {
        let used = match count.get()? {
            Some(used) => used,
            None => self.census()?.bytes + self.leased(held)?,
        };
        let lacking = (used + wanted).saturating_sub(self.limit).max(self.lacking_on_disk(wanted)?);
        if lacking == 0 {
            count.set(used + wanted)?;
            return Ok(true);
        }
        let census = self.census()?;
        let used = census.bytes + self.leased(held)?;
        let lacking = (used + wanted).saturating_sub(self.limit).max(self.lacking_on_disk(wanted)?);
        let wanted_free = if lacking == 0 { 0 } else { lacking + used / EVICT_SHARE };
        let Evicted { freed, refused } = evict(census, wanted_free);
        let is_enough = freed >= lacking;
        count.set(used - freed + if is_enough { wanted } else { 0 })?;
        match refused {
            Some(error) if !is_enough => Err(error),
            _ => Ok(is_enough),
        }
    }

    /// How much must go before `wanted` bytes leave the file system its reserve.
    fn lacking_on_disk(&self, wanted: u64) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        let reserve = (disk.f_blocks * disk.f_frsize / RESERVE_SHARE).min(MAX_RESERVE_BYTES);
        Ok((wanted + reserve).saturating_sub(disk.f_bavail * disk.f_frsize))
    }

    /// What the processes that live may have taken and not used yet, `held` by this one. Leases of dead ones are swept.
    fn leased(&self, held: u64) -> io::Result<u64> {
        let mut leased = held;
        for lease in std::fs::read_dir(self.root.join("leases"))? {
            let path = lease?.path();
            if path == self.lease.path {
                continue;
            }
            let Some(file) = open_if_there(&path)? else { continue };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => remove_if_there(&path)?,
                // Nothing was taken on it yet. It is not said, since that takes a block, which a full disk has not.
                Err(_) if file.metadata()?.len() == 0 => {}
                // What a damaged one said was about that.
                Err(_) => leased += get_word(&file)?.unwrap_or(self.piece),
            }
        }
        Ok(leased)
    }

    /// Looks through all entries, and sweeps what was left half made.
    pub(super) fn census(&self) -> io::Result<Census> {
        census(&self.root.join("objects"))
    }
}

/// The count of the cache in `root`, once nobody else has it.
fn locked_count(root: &Path) -> io::Result<Count> {
    let file = open_options().create(true).open(root.join("quota"))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    Ok(Count(file))
}

/// The count in its file, which is locked for as long as this lives.
#[derive(Debug)]
struct Count(File);

impl Count {
    /// `None` if it is damaged, or was never made.
    fn get(&self) -> io::Result<Option<u64>> {
        get_word(&self.0)
    }

    fn set(&self, used: u64) -> io::Result<()> {
        set_word(&self.0, used)
    }
}

/// The number in `file`; `None` if it is damaged, or was never put there.
fn get_word(file: &File) -> io::Result<Option<u64>> {
    let mut bytes = [0; 16];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("sixteen bytes"));
    Ok((word(0) == !word(8)).then_some(word(0)))
}

fn set_word(file: &File, word: u64) -> io::Result<()> {
    let mut bytes = word.to_le_bytes().to_vec();
    bytes.extend((!word).to_le_bytes());
    file.write_all_at(&bytes, 0)
}

/// What evicting came to.
#[derive(Debug, Default)]
struct Evicted {
    /// So many bytes are free now.
    freed: u64,
    /// Why some entry could not be removed.
    refused: Option<io::Error>,
}

/// Removes entries that nobody has open, those used longest ago first, until `wanted` bytes are free.
fn evict(census: Census, wanted: u64) -> Evicted {
    let mut evicted = Evicted::default();
    for entry in census.entries {
        if evicted.freed >= wanted {
            break;
        }
        match entry.files.remove_unused() {
            Ok(true) => evicted.freed += entry.bytes,
            Ok(false) => {}
            // One that cannot go must not keep the others.
            Err(error) => _ = evicted.refused.get_or_insert(error),
        }
    }
    evicted
}

/// Looks through all entries below `objects`. What others put there is counted and left alone.
pub(super) fn census(objects: &Path) -> io::Result<Census> {
    let of_root = std::fs::symlink_metadata(objects).map_or(0, |metadata| metadata.blocks() * 512);
    let mut census = Census { bytes: of_root, entries: Vec::new() };
    #[expect(clippy::disallowed_methods, reason = "files have the time of day")]
    let now = SystemTime::now();
    for directory in files_in(objects)? {
        let directory = directory?;
        census.bytes += directory.metadata().map_or(0, |metadata| metadata.blocks() * 512);
        for file in files_in(&directory.path())? {
            let file = file?;
            // It may be gone by now, like its directory above.
            let Ok(metadata) = file.metadata() else { continue };
            let (path, bytes) = (file.path(), metadata.blocks() * 512);
            if !metadata.is_file() {
                census.bytes += bytes;
                continue;
            }
            let used = metadata.modified()?;
            let data = path.with_extension("data");
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("index") => {
                    let of_data =
                        std::fs::symlink_metadata(&data).map_or(0, |metadata| metadata.blocks() * 512);
                    let files = Files { data, index: path };
                    census.bytes += bytes + of_data;
                    census.entries.push(Found { files, bytes: bytes + of_data, used });
                }
                Some("data") if path.with_extension("index").exists() => {}
                _ => {
                    // The clock of the file system and ours are the same but for a moment.
                    let age = now.duration_since(used).unwrap_or_default();
                    if age > HALF_MADE_FOR { remove_if_there(&path)? } else { census.bytes += bytes }
                }
            }
        }
    }
    census.entries.sort_by_key(|entry| entry.used);
    Ok(census)
}

/// What is in the directory `path`: nothing, if there is none.
fn files_in(path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<std::fs::DirEntry>>>> {
    match std::fs::read_dir(path) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Box::new(std::iter::empty()))
        }
        Err(error) => Err(error),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
