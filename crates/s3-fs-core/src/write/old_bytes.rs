//! Memory for the bytes of old objects that become part of a new one.
//!
//! What is read of old objects lies in the memory for reading until it is sent. Readers let go of what they hold before they wait for memory; a
//! part that is put together cannot. So all parts together get a share of that memory, and each of them takes all that it will need
//! before it begins.

use std::sync::Arc;

use bytes::Bytes;
use sluicefs_s3_client::ByteRange;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::content::Piece;
use super::draft::Base;
use crate::cache::{BLOCK_BYTES, blocks_of};
use crate::error::{Error, ErrorKind, Result};

/// The share of the memory for reading that bytes of old objects may take while they are sent: one in so many.
const SHARE: u64 = 2;

/// The memory for bytes of old objects.
#[derive(Debug)]
pub(super) struct OldBytes {
    blocks: u32,
    free: Arc<Semaphore>,
}

impl OldBytes {
    /// A share of `read_memory_bytes`.
    pub(super) fn new(read_memory_bytes: u64) -> Self {
        let blocks = u32::try_from(read_memory_bytes / SHARE / BLOCK_BYTES).unwrap_or(u32::MAX);
        Self { blocks, free: Arc::new(Semaphore::new(blocks as usize)) }
    }

    /// Waits for room for the bytes of old objects among `pieces`; `None` if there are none. Cancel-safe.
    pub(super) async fn room(&self, pieces: &[Piece]) -> Option<Room> {
        let blocks_of_base = |piece: &Piece| match piece {
            Piece::Base(range) => blocks_of(*range).len() as u32,
            Piece::Staged(_) | Piece::OnDisk(_) | Piece::Hole(_) => 0,
        };
        let blocks: u32 = pieces.iter().map(blocks_of_base).sum();
        if blocks == 0 {
            return None;
        }
        let free = Arc::clone(&self.free);
        let permit = free.acquire_many_owned(blocks.min(self.blocks)).await.expect("it is never closed");
        Some(Room { permit: Arc::new(permit), fits: blocks <= self.blocks })
    }
}

/// Room for the bytes of old objects of one part or one read.
pub(super) struct Room {
    permit: Arc<OwnedSemaphorePermit>,
    /// There can be so much; if not, what is read is copied out of the memory for reading.
    fits: bool,
}

/// Bytes of an old object, with the room that they take.
struct Held {
    bytes: Bytes,
    _room: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    /// Reads `range` of `base` and hands the bytes to `take`, in order.
    ///
    /// # Errors
    /// `Stale` if the object was replaced; what the store answers.
    pub(super) async fn read(
        &self,
        base: &Base,
        mut range: ByteRange,
        mut take: impl FnMut(Bytes),
    ) -> Result<()> {
        while !range.is_empty() {
            let read = base.object.read(range).await?;
            if read.is_empty() {
                return Err(Error::new(ErrorKind::Stale, "read"));
            }
            range = ByteRange::new(range.start + read.len() as u64, range.end);
            for bytes in read.into_bytes() {
                let bytes = if self.fits { bytes } else { Bytes::copy_from_slice(&bytes) };
                take(Bytes::from_owner(Held { bytes, _room: Arc::clone(&self.permit) }));
            }
        }
        Ok(())
    }
}
