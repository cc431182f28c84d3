//! How much a mount may put on the disk: no more than it was told, and never the last of what is free.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// So much of the disk stays free for others: one part in so many.
const RESERVED_SHARE: u64 = 20;

/// But no more than this.
const MAX_RESERVED_BYTES: u64 = 4 << 30;

/// A limit, and what is taken of it.
#[derive(Debug)]
pub(crate) struct Room {
    limit_bytes: u64,
    taken_bytes: AtomicU64,
}

impl Room {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, taken_bytes: AtomicU64::new(0) }
    }

    /// Whether `bytes` more stay within the limit.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        self.taken_bytes().saturating_add(bytes) <= self.limit_bytes
    }

    /// Takes `bytes`, for `disk` to hold.
    ///
    /// # Errors
    /// `StorageFull` beyond the limit, or if too little of the disk would stay free.
    pub(crate) fn take(&self, bytes: u64, disk: &File) -> io::Result<()> {
        let add = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.limit_bytes);
        let taken = self.taken_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        taken.map_err(|_| {
            io::Error::new(io::ErrorKind::StorageFull, "the limit for staged bytes is reached")
        })?;
        let space =
            rustix::fs::fstatvfs(disk).map_err(io::Error::from).inspect_err(|_| self.give_back(bytes))?;
        let (free, whole) = (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize);
        if !leaves_enough(bytes, free, whole) {
            self.give_back(bytes);
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is nearly full"));
        }
        Ok(())
    }

    /// Takes `bytes` that the disk holds already, whatever the limit is.
    pub(crate) fn take_held(&self, bytes: u64) {
        self.taken_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.taken_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(crate) fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Acquire)
    }
}

/// Whether a disk of `whole` bytes, `free` of them free, may hold `bytes` more.
fn leaves_enough(bytes: u64, free: u64, whole: u64) -> bool {
    let reserved = (whole / RESERVED_SHARE).min(MAX_RESERVED_BYTES);
    free >= bytes.saturating_add(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_disk_is_left_to_others() {
        const GIB: u64 = 1 << 30;
        for (bytes, free, whole, expected) in [
            (1, 100, 100, true),
            (95, 100, 100, true),
            (96, 100, 100, false),
            (GIB, 5 * GIB, 1000 * GIB, true),
            (GIB + 1, 5 * GIB, 1000 * GIB, false),
            (u64::MAX, 100, 100, false),
        ] {
            assert_eq!(leaves_enough(bytes, free, whole), expected, "{bytes} of {free}, {whole}");
        }
    }

    #[test]
    fn what_is_taken_is_counted() {
        let (room, disk) = (Room::new(10), tempfile::tempfile().unwrap());
        room.take(6, &disk).unwrap();
        assert_eq!(room.take(5, &disk).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(room.has(4) && !room.has(5));
        room.give_back(6);
        assert_eq!(room.taken_bytes(), 0);
    }
}
