//! Holds all blocks of an entry against their checksums, and notes in it if all are right.

use std::io;
use std::sync::Arc;

use super::entry::{Entry, RECORDS_AT_ONCE, Stored};
use super::format::BLOCK_BYTES;
use super::stamp::Stamp;

/// What a check found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks whose bytes are right.
    pub right_blocks: u64,
    /// Bytes in those.
    pub right_bytes: u64,
    /// Blocks and entries that were not what had been written; they are out of the cache now.
    pub damaged: u64,
    /// All of it is right, which is noted in it: it [is proven](Entry::is_proven) until somebody changes its data.
    pub is_proven: bool,
}

/// A check of one entry, which may be done piece by piece. What is wrong is absent from then on.
#[derive(Debug)]
pub struct Check {
    entry: Arc<Entry>,
    /// What the data file was before the first block was read, if any write since then shows.
    began_as: Option<Stamp>,
    next: u32,
    verified: Verified,
    block: Vec<u8>,
}

impl Check {
    /// Reads nothing yet. Unless the entry [has settled](Entry::settles_in), nothing will be noted in it.
    ///
    /// # Errors
    /// What the system refused.
    pub fn new(entry: Arc<Entry>) -> io::Result<Self> {
        // In this order: what is written between the two shows at the end.
        let stamp = entry.stamp()?;
        let has_settled = entry.settles_in()?.is_zero() && stamp.size == entry.identity().size;
        let block = vec![0; BLOCK_BYTES as usize];
        Ok(Self {
            entry,
            began_as: has_settled.then_some(stamp),
            next: 0,
            verified: Verified::default(),
            block,
        })
    }

    /// Reads the next `count` blocks; false if there are no more.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn go_on(&mut self, count: u32) -> io::Result<bool> {
        let blocks = u32::try_from(self.entry.identity().blocks()).map_err(io::Error::other)?;
        let end = blocks.min(self.next.saturating_add(count));
        while self.next < end {
            let count = RECORDS_AT_ONCE.min(end - self.next);
            for record in self.entry.records(self.next, count)? {
                if record != 0 {
                    self.read(record)?;
                }
                self.next += 1;
            }
        }
        Ok(end < blocks)
    }

    fn read(&mut self, record: u64) -> io::Result<()> {
        let bytes = &mut self.block[..self.entry.identity().block_len(self.next)];
        match self.entry.read(self.next, record, bytes)? {
            Stored::Right => {
                self.verified.right_blocks += 1;
                self.verified.right_bytes += bytes.len() as u64;
            }
            Stored::Wrong => self.verified.damaged += 1,
        }
        Ok(())
    }

    /// What was found. If all of the object is there and right, that is durable now, and noted.
    ///
    /// # Errors
    /// What the system refused.
    pub fn end(mut self) -> io::Result<Verified> {
        if self.verified.right_bytes == self.entry.identity().size
            && let Some(stamp) = self.began_as
        {
            self.verified.is_proven = self.entry.prove(stamp)?;
        }
        Ok(self.verified)
    }
}

/// Checks all of `entry`.
///
/// # Errors
/// If its files cannot be read.
pub fn verify_blocks(entry: &Arc<Entry>) -> io::Result<Verified> {
    let mut check = Check::new(Arc::clone(entry))?;
    while check.go_on(RECORDS_AT_ONCE)? {}
    check.end()
}

#[cfg(test)]
mod tests;
