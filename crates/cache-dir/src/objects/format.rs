//! What a cached object looks like on disk: its identity, the head of its index, the checksum of a block.
//!
//! Pure functions. An index is a head of [`HEAD_BYTES`], which says whose bytes these are, and then eight bytes for each block: 0 while the
//! block is absent, else its checksum. The head ends with room for a [stamp](super::stamp). Identity and place go into the checksum, so that a block of another object, of another version or
//! from another place is as wrong as one with a flipped bit.

use std::fmt::Write as _;

use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use sha2::{Digest as _, Sha256};

use super::stamp::STAMP_BYTES;

/// Bytes in a block; the last one of an object may be shorter.
pub const BLOCK_BYTES: u64 = 128 << 10;

/// Where the blocks' checksums begin in an index: one page.
pub(super) const HEAD_BYTES: usize = 4096;

/// Bytes of one block's checksum.
pub(super) const RECORD_BYTES: u64 = 8;

/// The format and its version: another one is another cache.
const MAGIC: [u8; 8] = *b"sluice\0\x01";

/// Magic, checksum of what follows, length of the identity.
const FIXED_BYTES: usize = 8 + 8 + 4;

/// One version of one object, wherever it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The endpoint or kind of store.
    pub endpoint: String,
    /// The bucket as a person writes it: `s3://models`.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// The server's name for the version, quotes included.
    pub etag: String,
    /// The object's length in bytes.
    pub size: u64,
}

impl Identity {
    /// How many blocks the object has.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_BYTES)
    }

    /// How long block `index` is, in bytes.
    pub(super) fn block_len(&self, index: u32) -> usize {
        (self.size - u64::from(index) * BLOCK_BYTES).min(BLOCK_BYTES) as usize
    }

    /// The length of its index in bytes.
    pub fn index_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + RECORD_BYTES * self.blocks()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.size.to_le_bytes().to_vec();
        for text in [&self.endpoint, &self.bucket, &self.key, &self.etag] {
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let size = u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
        let mut text = || {
            let len = u32::from_le_bytes(*bytes.split_off(..4)?.first_chunk()?);
            String::from_utf8(bytes.split_off(..len as usize)?.to_vec()).ok()
        };
        let (endpoint, bucket, key, etag) = (text()?, text()?, text()?, text()?);
        bytes.is_empty().then_some(Self { endpoint, bucket, key, etag, size })
    }
}

/// An identity with what follows from it.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub(super) identity: Identity,
    encoded: Vec<u8>,
    name: String,
    seed: CrcDigest,
}

impl Sealed {
    /// `None` if the identity is too long to be kept, which no S3 server's is.
    pub fn new(identity: Identity) -> Option<Self> {
        let encoded = identity.encode();
        if FIXED_BYTES + encoded.len() > HEAD_BYTES - STAMP_BYTES {
            return None;
        }
        let mut name = String::with_capacity(32);
        for byte in &Sha256::digest(&encoded)[..16] {
            write!(name, "{byte:02x}").expect("a string takes all");
        }
        let mut seed = CrcDigest::new(CrcAlgorithm::Crc64Nvme);
        seed.update(&encoded);
        Some(Self { identity, encoded, name, seed })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The name of its files: the same for the same identity, and for no other but by an accident that the head tells.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The checksum of something that is said of it, other than the bytes of a block.
    pub(super) fn checksum(&self, bytes: &[u8]) -> u64 {
        let mut digest = self.seed;
        digest.update(bytes);
        digest.finalize()
    }

    /// The head of its index, without a stamp.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend(checksum(&self.encoded).to_le_bytes());
        head.extend((self.encoded.len() as u32).to_le_bytes());
        head.extend(&self.encoded);
        head.resize(HEAD_BYTES, 0);
        head
    }

    /// What its block `index` must have in the index, if these are its bytes; never 0.
    pub(super) fn record(&self, index: u32, bytes: &[u8]) -> u64 {
        let mut digest = self.seed;
        digest.update(&index.to_le_bytes());
        digest.update(bytes);
        digest.finalize().max(1)
    }
}

/// Whose index begins with `head`; `None` if it is damaged.
pub(super) fn read_head(head: &[u8]) -> Option<Identity> {
    let rest = head.strip_prefix(&MAGIC)?;
    let (sum, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let encoded = rest.get(..u32::from_le_bytes(*len) as usize)?;
    if checksum(encoded) != u64::from_le_bytes(*sum) {
        return None;
    }
    Identity::decode(encoded)
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut digest = CrcDigest::new(CrcAlgorithm::Crc64Nvme);
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
pub(super) fn example(key: &str, size: u64) -> Sealed {
    let text = str::to_owned;
    let (endpoint, bucket, etag) = (text("http://localhost:9"), text("s3://b"), text("\"e\""));
    Sealed::new(Identity { endpoint, bucket, key: text(key), etag, size }).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_whose_it_is() {
        let sealed = example("models/a.safetensors", 300_000);
        assert_eq!(read_head(&sealed.head()).as_ref(), Some(&sealed.identity));
        assert_eq!(sealed.name().len(), 32);
    }

    #[test]
    fn a_head_with_any_bit_flipped_is_nobodys() {
        let sealed = example("a", 7);
        let used = FIXED_BYTES + sealed.encoded.len();
        for bit in 0..used * 8 {
            let mut head = sealed.head();
            head[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_head(&head), None, "bit {bit}");
        }
        for len in 0..used {
            assert_eq!(read_head(&sealed.head()[..len]), None, "cut to {len}");
        }
    }

    #[test]
    fn a_record_is_of_one_block_of_one_version() {
        let (a, b, longer) = (example("a", 300_000), example("b", 300_000), example("a", 300_001));
        let record = a.record(1, b"bytes");
        assert_eq!(record, a.record(1, b"bytes"));
        for other in
            [a.record(1, b"byteZ"), a.record(0, b"bytes"), b.record(1, b"bytes"), longer.record(1, b"bytes")]
        {
            assert_ne!(record, other);
        }
    }

    #[test]
    fn what_is_too_long_for_a_head_is_not_kept() {
        let identity = Identity { key: "k".repeat(HEAD_BYTES), ..example("", 1).identity };
        assert!(Sealed::new(identity).is_none());
    }
}
