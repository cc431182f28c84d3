//! Writes past the kernel's cache, where the file system and the bytes allow it: what goes to the disk and is not read soon then costs no copy and
//! takes nobody's memory.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

/// Disks of today take bytes from, and to, multiples of this.
const ALIGNMENT: u64 = 4096;

/// A second descriptor of a file, for such writes. It is opened at the first one.
#[derive(Debug, Default)]
pub(super) struct Direct {
    file: OnceLock<Option<File>>,
    is_refused: AtomicBool,
}

impl Direct {
    /// Writes `slices`, one after the other, at `offset` of `file`.
    ///
    /// # Errors
    /// What the system refused.
    pub(super) fn write_all(&self, file: &File, slices: &[&[u8]], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.of(file, slices, offset) {
            match write_all_at(direct, slices, offset) {
                // Larger sectors, or a file system that changed its mind: nothing is lost, since the same bytes go the other way.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                written => return written,
            }
        }
        write_all_at(file, slices, offset)
    }

    fn of(&self, file: &File, slices: &[&[u8]], offset: u64) -> Option<&File> {
        let is_aligned =
            |slice: &&[u8]| (slice.as_ptr() as u64 | slice.len() as u64).is_multiple_of(ALIGNMENT);
        if self.is_refused.load(Ordering::Relaxed)
            || !offset.is_multiple_of(ALIGNMENT)
            || !slices.iter().all(is_aligned)
        {
            return None;
        }
        self.file.get_or_init(|| reopen(file).ok()).as_ref()
    }
}

/// The same file once more, whatever its name is by now.
fn reopen(file: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path)
}

/// Writes `slices`, one after the other, at `offset` of `file`.
///
/// # Errors
/// What the system refused.
pub(super) fn write_all_at(file: &File, slices: &[&[u8]], mut offset: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match rustix::io::pwritev(file, slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(error) => {
                let error = io::Error::from(error);
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_written_past_the_cache_is_read_through_it() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct::default();
        file.set_len(1 << 20).unwrap();
        let bytes: Vec<u8> = (0..3 * ALIGNMENT).map(|i| (i % 251) as u8).collect();
        let start = bytes.as_ptr().align_offset(ALIGNMENT as usize);
        let (one, two) = (&bytes[start..][..ALIGNMENT as usize], &bytes[1..][..100]);
        // The second is not aligned, and nor is the place of the third.
        for (slices, offset) in [(&[one, one][..], 2 * ALIGNMENT), (&[one, two], 8 * ALIGNMENT), (&[one], 5)]
        {
            direct.write_all(&file, slices, offset).unwrap();
            let expected = slices.concat();
            let mut found = vec![0; expected.len()];
            file.read_exact_at(&mut found, offset).unwrap();
            assert_eq!(found, expected, "{offset}");
        }
    }

    #[test]
    fn a_disk_that_is_full_says_so_either_way() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = Direct::default().write_all(&full, &[b"x"], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
