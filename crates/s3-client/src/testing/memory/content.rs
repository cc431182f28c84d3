//! The bytes of stored objects: given, computed from their offset, or joined from parts of either.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use crate::checksum::{Checksum, ChecksumAlgorithm, md5_etag};
use crate::key::{ByteRange, ETag};

/// Bytes that are looked at in one go.
const PIECE_BYTES: u64 = 64 << 10;

/// Of more bytes than this, joined from others, no digest is computed.
const MAX_DIGESTED_BYTES: u64 = 256 << 20;

/// The bytes of an object.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// `len` bytes computed from their offset and `seed`, so that an object of gigabytes takes no memory.
    Pattern {
        /// Which pattern.
        seed: u64,
        /// How many bytes.
        len: u64,
    },
    /// Parts of others, one after the other.
    Joined(Joined),
}

impl Content {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern { len, .. } => *len,
            Self::Joined(joined) => joined.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, which must lie inside.
    pub fn slice(&self, range: ByteRange) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.slice(range.start as usize..range.end as usize),
            Self::Pattern { seed, .. } => pattern(*seed, range),
            Self::Joined(joined) => joined.slice(range),
        }
    }

    /// Parts of other contents, one after the other. They are shared, not copied.
    pub fn join<'a>(parts: impl IntoIterator<Item = (&'a Content, ByteRange)>) -> Self {
        let mut sections: Vec<Section> = Vec::new();
        for (content, range) in parts {
            let at = sections.last().map_or(0, |last| last.end);
            if range.is_empty() {
                continue;
            }
            content.sections(range).for_each(|mut section| {
                section.end += at;
                sections.push(section);
            });
        }
        Self::Joined(Joined(sections.into()))
    }

    /// What `range` consists of, positions counted from its start.
    fn sections(&self, range: ByteRange) -> Box<dyn Iterator<Item = Section> + '_> {
        match self {
            Self::Joined(joined) => Box::new(joined.sections(range)),
            leaf => Box::new(std::iter::once(Section { end: range.len(), content: leaf.clone(), range })),
        }
    }

    /// All bytes in pieces of moderate size.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> + '_ {
        let all = ByteRange::new(0, self.len());
        (0..all.end)
            .step_by(PIECE_BYTES as usize)
            .map(move |at| self.slice(ByteRange::from_len(at, PIECE_BYTES).intersect(all)))
    }

    /// What comes to bytes that are few enough to be gone through one by one.
    pub(super) fn crc64nvme(&self) -> Option<Checksum> {
        (self.len() <= MAX_DIGESTED_BYTES).then(|| {
            let pieces: Vec<_> = self.pieces().collect();
            Checksum::of(ChecksumAlgorithm::Crc64Nvme, &pieces)
        })
    }

    /// What S3 would say: the MD5. That of a pattern is made up, as is that of what is joined of gigabytes, since computing it takes long.
    pub(super) fn md5_etag(&self) -> ETag {
        match self {
            Self::Pattern { .. } => self.opaque_etag(),
            Self::Bytes(bytes) => md5_etag([bytes]),
            Self::Joined(_) if self.len() > MAX_DIGESTED_BYTES => self.opaque_etag(),
            Self::Joined(_) => {
                let pieces: Vec<Bytes> = self.pieces().collect();
                md5_etag(&pieces)
            }
        }
    }

    /// A name of the bytes that is nobody's MD5, as encrypted objects have it.
    pub(super) fn opaque_etag(&self) -> ETag {
        let (a, b) = match self {
            Self::Pattern { seed, len } => (splitmix(*seed), splitmix(*len ^ seed.rotate_left(32))),
            Self::Joined(joined) if joined.len() > MAX_DIGESTED_BYTES => {
                let start = (joined.len(), joined.0.len() as u64);
                joined.0.iter().fold(start, |(a, b), Section { end, content, range }| {
                    let part = content.opaque_etag().to_string();
                    (fnv1a(part.as_bytes(), a ^ end), fnv1a(part.as_bytes(), b.rotate_left(7) ^ range.start))
                })
            }
            _ => self.pieces().fold((0xcbf2_9ce4_8422_2325, 0x8422_2325_cbf2_9ce4), |(a, b), piece| {
                (fnv1a(&piece, a), fnv1a(&piece, b))
            }),
        };
        ETag::new(&format!("\"{a:016x}{b:016x}\""))
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&'static str> for Content {
    fn from(text: &'static str) -> Self {
        Self::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Parts of contents, one after the other; none of them is empty or joined itself.
#[derive(Debug, Clone)]
pub struct Joined(Arc<[Section]>);

#[derive(Debug, Clone)]
struct Section {
    /// Where it ends in the whole.
    end: u64,
    content: Content,
    /// Which bytes of `content` it is.
    range: ByteRange,
}

impl Joined {
    fn len(&self) -> u64 {
        self.0.last().map_or(0, |last| last.end)
    }

    fn slice(&self, range: ByteRange) -> Bytes {
        let mut pieces: Vec<Bytes> =
            self.sections(range).map(|section| section.content.slice(section.range)).collect();
        if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat().into() }
    }

    fn sections(&self, range: ByteRange) -> impl Iterator<Item = Section> + '_ {
        let first = self.0.partition_point(|section| section.end <= range.start);
        self.0[first..].iter().map_while(move |section| {
            let begin = section.end - section.range.len();
            let wanted = ByteRange::new(begin, section.end).intersect(range);
            let inside = ByteRange::from_len(section.range.start + (wanted.start - begin), wanted.len());
            let content = section.content.clone();
            (!wanted.is_empty()).then_some(Section { end: wanted.end - range.start, content, range: inside })
        })
    }
}

/// The bytes of the pattern `seed` in `range`.
///
/// Each 4096 bytes begin with a number that only they have, and go on with a random piece of one table: bytes from
/// elsewhere, or shifted by one, are wrong bytes. Copying a table makes gigabytes cheap also where the compiler does not optimise.
pub fn pattern(seed: u64, range: ByteRange) -> Bytes {
    let mut out = Vec::with_capacity(range.len() as usize);
    let mut at = range.start;
    while at < range.end {
        let block = at / PATTERN_BLOCK_BYTES;
        let inside = (at % PATTERN_BLOCK_BYTES) as usize;
        let end = ((range.end - block * PATTERN_BLOCK_BYTES).min(PATTERN_BLOCK_BYTES)) as usize;
        let number = splitmix(seed.rotate_left(32) ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let head = number.to_le_bytes();
        if inside < head.len() {
            out.extend_from_slice(&head[inside..end.min(head.len())]);
        }
        let from = inside.max(head.len());
        if from < end {
            let shift = (number >> 32) as usize % (PATTERN_TABLE.len() - PATTERN_BLOCK_BYTES as usize);
            out.extend_from_slice(&PATTERN_TABLE[shift + from..shift + end]);
        }
        at = block * PATTERN_BLOCK_BYTES + end as u64;
    }
    out.into()
}

/// How many bytes of a pattern share a number and a shift.
const PATTERN_BLOCK_BYTES: u64 = 4096;

static PATTERN_TABLE: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..1_u64 << 15).flat_map(|word| splitmix(!word).to_le_bytes()).collect());

fn splitmix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fnv1a(bytes: &[u8], basis: u64) -> u64 {
    // One word at a time: an ETag here names a version, it need not be anybody's MD5.
    let mut words = bytes.chunks_exact(8);
    let mut hash = basis;
    for word in &mut words {
        hash = (hash ^ u64::from_le_bytes(word.try_into().expect("chunks of eight")))
            .wrapping_mul(0x100_0000_01b3)
            .rotate_left(23);
    }
    for byte in words.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    splitmix(hash ^ bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_pattern_is_cut_from_the_same_bytes() {
        let whole = pattern(7, ByteRange::new(0, 20_000));
        for start in [0, 1, 7, 8, 9, 4095, 4096, 4100, 12_287] {
            for len in [0, 1, 3, 8, 9, 100, 4096, 5000] {
                let part = pattern(7, ByteRange::from_len(start, len));
                assert!(part == whole[start as usize..(start + len) as usize], "{len} bytes at {start}");
            }
        }
    }

    #[test]
    fn patterns_tell_seeds_and_offsets_apart() {
        let bytes = |seed, start| pattern(seed, ByteRange::from_len(start, 64));
        let far = 1 << 40;
        for (a, b) in [
            ((1, 0), (2, 0)),
            ((1, 0), (1, 1)),
            ((1, 0), (1, 4096)),
            ((1, 100), (1, 4196)),
            ((1, 0), (1, far)),
        ] {
            let (a, b) = (bytes(a.0, a.1), bytes(b.0, b.1));
            let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            assert!(same < 8, "{same} of 64 bytes are equal");
        }
    }

    #[test]
    fn joined_parts_read_like_their_bytes() {
        let text = Content::from("0123456789");
        let numbers = Content::Pattern { seed: 1, len: 100_000 };
        let range = |start, end| ByteRange::new(start, end);
        let joined = Content::join([
            (&text, range(2, 5)),
            (&numbers, range(5, 99_000)),
            (&text, range(4, 4)),
            (&text, range(0, 10)),
        ]);
        let again = Content::join([(&joined, range(1, 50)), (&joined, range(90_000, joined.len()))]);
        let bytes = |content: &Content| content.pieces().collect::<Vec<_>>().concat();
        let whole = [b"234", &*pattern(1, range(5, 99_000)), b"0123456789"].concat();
        assert!(bytes(&joined) == whole);
        assert!(bytes(&again) == [&whole[1..50], &whole[90_000..]].concat());
        for (start, end) in [(0, 0), (0, 3), (2, 4), (3, 98_998), (98_990, 99_008), (99_008, 99_008)] {
            assert!(joined.slice(range(start, end)) == whole[start as usize..end as usize], "{start}..{end}");
        }
        assert!(Content::join([]).is_empty());
    }
}
