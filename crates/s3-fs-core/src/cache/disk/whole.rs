//! An object of the cache as a whole: what of it is absent, whether it is right, and how it is filled and removed by one who waits.
//!
//! All of this blocks on the disk.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use sluicefs_cache_dir::objects::{Entry, Way, verify_blocks};
use sluicefs_s3_client::{ByteRange, ETag};

use super::{DiskObject, OpenEntry};
use crate::cache::blocks_of;

/// So many checksums of an index are read at a time.
const RECORDS_AT_ONCE: u32 = 8192;

impl DiskObject {
    /// The runs of blocks that are not on disk; `None` if nothing of the object is ever kept.
    pub(crate) fn absent(&self, etag: &ETag) -> io::Result<Option<Vec<Range<u32>>>> {
        let Some(sealed) = self.sealed(Some(etag)) else { return Ok(None) };
        let blocks = blocks_of(ByteRange::new(0, self.size)).end;
        let Some(open) = self.find(sealed) else { return Ok(Some(runs(0..blocks))) };
        let mut absent = Vec::new();
        for first in (0..blocks).step_by(RECORDS_AT_ONCE as usize) {
            let records = open.entry.records(first, RECORDS_AT_ONCE.min(blocks - first))?;
            absent.extend((first..).zip(records).filter(|(_, record)| *record == 0).map(|(index, _)| index));
        }
        Ok(Some(runs(absent)))
    }

    /// Whether any of `blocks`, of which there are few, is not on disk.
    pub(crate) fn lacks(&self, etag: &ETag, blocks: Range<u32>) -> io::Result<bool> {
        let open = self.entry_of(etag);
        open.map_or(Ok(true), |open| Ok(open.entry.records(blocks.start, blocks.len() as u32)?.contains(&0)))
    }

    /// How many bytes on disk are right, by their checksums. What is wrong is absent from now on.
    pub(crate) fn right_bytes(&self, etag: &ETag) -> io::Result<u64> {
        let open = self.entry_of(etag);
        open.map_or(Ok(0), |open| Ok(verify_blocks(&open.entry)?.right_bytes))
    }

    fn entry_of(&self, etag: &ETag) -> Option<Arc<OpenEntry>> {
        self.find(self.sealed(Some(etag))?)
    }

    /// Writes the blocks from `first` on now; false if there is no room for them.
    pub(crate) fn keep_now(&self, etag: &ETag, first: u32, blocks: &[&[u8]]) -> io::Result<bool> {
        self.sealed(Some(etag)).map_or(Ok(false), |sealed| self.write(sealed, first, blocks, Way::Through))
    }

    /// Removes the object from the disk; false if somebody has it open.
    pub(crate) fn remove(&self, etag: &ETag) -> io::Result<bool> {
        self.sealed(Some(etag)).map_or(Ok(true), |sealed| Entry::remove(&self.cache.objects, sealed))
    }
}

/// Indices that rise, as runs of neighbours.
fn runs(indices: impl IntoIterator<Item = u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for index in indices {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run() {
        for (indices, expected) in [
            (vec![], vec![]),
            (vec![0, 2], vec![0..1, 2..3]),
            (vec![0, 1, 2, 5, 7, 8], vec![0..3, 5..6, 7..9]),
        ] {
            assert_eq!(runs(indices), expected);
        }
    }
}
