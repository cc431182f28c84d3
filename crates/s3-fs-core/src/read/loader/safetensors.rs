//! Where the tensors of a safetensors file lie, told by its header.
//!
//! The file begins with a length of eight bytes, little-endian; so many bytes of JSON follow, then the tensors, whose offsets count
//! from there (<https://github.com/huggingface/safetensors>, "Format"). Anybody may have stored it: all of it is bounded, and what does
//! not fit the file makes the whole header worthless.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use sluicefs_s3_client::ByteRange;

use crate::read::MAX_READ_BYTES;

/// The length before the header.
const LENGTH_BYTES: u64 = 8;

/// Longer headers are not parsed, though the format allows 100 MB: one of a hundred bytes for each tensor names 80,000 of them.
pub(super) const MAX_HEADER_BYTES: u64 = MAX_READ_BYTES - LENGTH_BYTES;

/// Files of more tensors are read like any other file; the largest models have 100,000 in hundreds of files.
pub(super) const MAX_TENSORS: usize = 1 << 17;

/// The one name in a header that is no tensor's.
const METADATA: &str = "__metadata__";

/// Why a header is of no use.
#[derive(Debug, thiserror::Error)]
pub(in crate::read) enum Broken {
    /// It is not JSON of the right shape, or has too many entries.
    #[error("its header is not that of a safetensors file: {0}")]
    Json(#[from] serde_json::Error),
    /// Its tensors and the file do not fit together.
    #[error("a tensor from {0} to {1}, counted from the end of the header, does not lie in the file")]
    Outside(u64, u64),
    /// Together they are longer than the file.
    #[error("its tensors overlap")]
    Overlap,
    /// Two tensors have one name.
    #[error("two of its tensors have the same name")]
    Duplicate,
    /// The length before it is more than the file has, or than is parsed.
    #[error("a header of {0} bytes is not in the file, or longer than {MAX_HEADER_BYTES} bytes")]
    Length(u64),
}

/// Where the header of a file of `size` bytes that begins with `first` lies, length and all; `None` if it looks like another kind of
/// file.
pub(in crate::read) fn find(first: &[u8], size: u64) -> Option<Result<ByteRange, Broken>> {
    let (length, rest) = first.split_first_chunk::<{ LENGTH_BYTES as usize }>()?;
    if *rest.first()? != b'{' {
        return None;
    }
    let length = u64::from_le_bytes(*length);
    let fits = length <= MAX_HEADER_BYTES && LENGTH_BYTES + length <= size;
    Some(if fits { Ok(ByteRange::new(0, LENGTH_BYTES + length)) } else { Err(Broken::Length(length)) })
}

/// The tensors of a file of `size` bytes, by name, without the empty ones; `head` is what [`find`] found.
pub(in crate::read) fn parse(head: &[u8], size: u64) -> Result<Vec<ByteRange>, Broken> {
    let json = &head[LENGTH_BYTES as usize..];
    let mut tensors = serde_json::from_slice::<Header>(json)?.0;
    tensors.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    if tensors.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Broken::Duplicate);
    }
    let data = head.len() as u64;
    let range = |(_, (start, end)): &(String, (u64, u64))| {
        let is_inside = start <= end && *end <= size - data;
        if is_inside {
            Ok(ByteRange::new(data + start, data + end))
        } else {
            Err(Broken::Outside(*start, *end))
        }
    };
    let ranges = tensors.iter().map(range).collect::<Result<Vec<_>, _>>()?;
    let total = ranges.iter().try_fold(0_u64, |total, range| total.checked_add(range.len()));
    if total.is_none_or(|total| total > size - data) {
        return Err(Broken::Overlap);
    }
    Ok(ranges.into_iter().filter(|range| !range.is_empty()).collect())
}

/// The tensors in the order in which the header tells them.
struct Header(Vec<(String, (u64, u64))>);

#[derive(Deserialize)]
struct Tensor {
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            tensors.push((name, map.next_value::<Tensor>()?.data_offsets));
        }
        Ok(Header(tensors))
    }
}

#[cfg(test)]
mod tests;
