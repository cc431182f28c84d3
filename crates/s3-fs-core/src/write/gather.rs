//! Brings the bytes of a file together from wherever they are: memory, disk, the old object, nowhere.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use sluicefs_cache_dir::StageFile;
use sluicefs_s3_client::ByteRange;

use super::content::Piece;
use super::draft::Base;
use super::engine::WriteEngine;
use super::stage::{BLOCK_BYTES, shared};
use crate::budget::{BUFFER_BYTES, Budget, Reservation};
use crate::error::{Error, ErrorKind, Result};
use crate::read::ReadData;

/// What pieces that are not in memory are read from.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) base: Option<Base>,
    pub(super) file: Option<Arc<StageFile>>,
}

/// For each block of the file that is needed, which of its bytes are.
type Needed = BTreeMap<u64, ByteRange>;

/// Blocks that were read from disk: where their bytes begin, and these.
type Blocks = BTreeMap<u64, (u64, Bytes)>;

impl WriteEngine {
    /// The bytes of `pieces`, of one part or one read.
    ///
    /// # Errors
    /// `Stale` if the old object was replaced; `Io` if the disk fails; what the store answers.
    pub(super) async fn gather(&self, pieces: Vec<Piece>, sources: &Sources) -> Result<ReadData> {
        // Before memory for what is on disk: who waits for that may hold this, and not the other way round.
        let room = self.old_bytes.room(&pieces).await;
        let on_disk = self.read_from_disk(needed(&pieces), sources.file.as_ref()).await?;
        let mut data = ReadData::default();
        for piece in pieces {
            match piece {
                Piece::Staged(bytes) => bytes.into_iter().for_each(|bytes| data.push(bytes)),
                Piece::OnDisk(range) => blocks_of(range).for_each(|(index, part)| {
                    let (start, bytes) = &on_disk[&index];
                    data.push(bytes.slice((part.start - start) as usize..(part.end - start) as usize));
                }),
                Piece::Hole(len) => data.push_zeros(len),
                Piece::Base(range) => {
                    let base = sources.base.as_ref().expect("a file with bytes of the old object has one");
                    let room = room.as_ref().expect("it was taken for these");
                    room.read(base, range, |bytes| data.push(bytes)).await?;
                }
            }
        }
        Ok(data)
    }

    async fn read_from_disk(&self, needed: Needed, file: Option<&Arc<StageFile>>) -> Result<Blocks> {
        if needed.is_empty() {
            return Ok(Blocks::new());
        }
        let file = Arc::clone(file.expect("a file with bytes on disk has a file there"));
        // All of it at once: two who each hold a part of what they need could wait for each other.
        let memory = self.loading.reserve(needed.len() as u32 * Budget::cost_units(BUFFER_BYTES)).await;
        let read = self.runtime.spawn_blocking(move || read_blocks(needed, &file, memory)).await;
        read.unwrap_or_else(|_ended| Err(io::ErrorKind::Interrupted.into())).map_err(|error| {
            tracing::error!(%error, "bytes that were staged on disk cannot be read back");
            Error::new(ErrorKind::Io, "read")
        })
    }
}

fn read_blocks(needed: Needed, file: &StageFile, mut memory: Reservation) -> io::Result<Blocks> {
    let read = |(index, range): (u64, ByteRange)| {
        let mut block = memory.buffer(BUFFER_BYTES);
        block.read_into(range.len() as usize, |into| file.read(range.start, into))?;
        Ok((index, (range.start, shared(Arc::new(block)))))
    };
    needed.into_iter().map(read).collect()
}

/// The blocks on disk of `pieces`, and the bytes of each from the first that is needed to the last.
fn needed(pieces: &[Piece]) -> Needed {
    let mut needed = Needed::new();
    for piece in pieces {
        let Piece::OnDisk(range) = piece else { continue };
        for (index, part) in blocks_of(*range) {
            let whole = needed.entry(index).or_insert(part);
            *whole = ByteRange::new(whole.start.min(part.start), whole.end.max(part.end));
        }
    }
    needed
}

/// The blocks with bytes of `range`, and which of its bytes they have.
fn blocks_of(range: ByteRange) -> impl Iterator<Item = (u64, ByteRange)> {
    let indices = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
    indices.map(move |index| (index, range.intersect(ByteRange::from_len(index * BLOCK_BYTES, BLOCK_BYTES))))
}
