//! What bytes come to: the CRCs of S3's checksum headers, and the MD5s that its ETags are made of.
//!
//! Pure functions. A CRC of a whole object is combined from those of its parts, so that no byte is read twice.

use std::fmt;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as CrcDigest, checksum_combine};
use md5::{Digest as _, Md5};

use serde::{Deserialize, Serialize};

use crate::key::ETag;

/// How a checksum is computed. Both take some 0.05 s of a CPU per GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    /// `x-amz-checksum-crc32c`
    Crc32c,
    /// `x-amz-checksum-crc64nvme`
    Crc64Nvme,
}

impl ChecksumAlgorithm {
    fn crc(self) -> CrcAlgorithm {
        match self {
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
            Self::Crc64Nvme => CrcAlgorithm::Crc64Nvme,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
        }
    }
}

/// The checksum of some bytes. It prints in base64, as its header has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    value: u64,
}

impl Checksum {
    /// Computes that of `pieces`, one after the other.
    pub fn of<'a>(algorithm: ChecksumAlgorithm, pieces: impl IntoIterator<Item = &'a Bytes>) -> Self {
        let mut digest = CrcDigest::new(algorithm.crc());
        pieces.into_iter().for_each(|piece| digest.update(piece));
        Self { algorithm, value: digest.finalize() }
    }

    /// Reads the base64 of a header; `None` if it is not one of this algorithm.
    pub fn parse(algorithm: ChecksumAlgorithm, text: &str) -> Option<Self> {
        let bytes = aws_smithy_types::base64::decode(text).ok()?;
        if bytes.len() != algorithm.size() {
            return None;
        }
        Some(Self { algorithm, value: bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) })
    }

    /// How it was computed.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Its bytes, the highest first.
    pub fn to_bytes(&self) -> Bytes {
        let bytes = self.value.to_be_bytes();
        Bytes::copy_from_slice(&bytes[bytes.len() - self.algorithm.size()..])
    }

    /// That of these bytes and then `len` bytes whose checksum is `next`; `None` if they were computed in different ways.
    #[must_use]
    pub fn then(self, next: Self, len: u64) -> Option<Self> {
        let value = || checksum_combine(self.algorithm.crc(), self.value, next.value, len);
        (self.algorithm == next.algorithm).then(|| Self { value: value(), ..self })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&aws_smithy_types::base64::encode(self.to_bytes()))
    }
}

/// What a store keeps of an object's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredChecksum {
    /// The checksum of all of them.
    Whole(Checksum),
    /// That of the checksums of so many parts.
    OfParts(Checksum, u16),
}

impl StoredChecksum {
    /// Reads the header of an object: `rosUhgp5mIg=`, or `4waSgw==-3` for one of parts.
    pub fn parse(algorithm: ChecksumAlgorithm, text: &str) -> Option<Self> {
        match text.split_once('-') {
            None => Checksum::parse(algorithm, text).map(Self::Whole),
            Some((sum, parts)) => Some(Self::OfParts(Checksum::parse(algorithm, sum)?, parts.parse().ok()?)),
        }
    }
}

/// The checksum of the checksums of an object's parts; `None` if there are none, or computed in different ways.
pub fn composite_checksum(parts: &[Checksum]) -> Option<Checksum> {
    let algorithm = parts.first()?.algorithm();
    let bytes: Vec<Bytes> = parts.iter().map(Checksum::to_bytes).collect();
    parts.iter().all(|part| part.algorithm() == algorithm).then(|| Checksum::of(algorithm, &bytes))
}

/// The ETag that S3 gives to an object of these bytes that was written in one request, unless it was encrypted with a key of KMS
/// or the customer's.
pub fn md5_etag<'a>(pieces: impl IntoIterator<Item = &'a Bytes>) -> ETag {
    let mut digest = Md5::new();
    pieces.into_iter().for_each(|piece| digest.update(piece));
    ETag::of_md5(digest.finalize().into())
}

/// The ETag that S3 gives to an object made of parts with these ETags; `None` if they are no MD5s.
pub fn multipart_etag<'a>(parts: impl IntoIterator<Item = &'a ETag>) -> Option<ETag> {
    let (mut digest, mut count) = (Md5::new(), 0_u16);
    for part in parts {
        digest.update(part.as_md5()?);
        count = count.checked_add(1)?;
    }
    Some(ETag::of_parts(digest.finalize().into(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(algorithm: ChecksumAlgorithm, text: &'static str) -> Checksum {
        Checksum::of(algorithm, [&Bytes::from_static(text.as_bytes())])
    }

    #[test]
    fn checksums_are_those_of_the_catalogue() {
        // The check values of CRC-32/ISCSI (e3069283) and CRC-64/NVME (ae8b14860a799888).
        for (algorithm, expected) in
            [(ChecksumAlgorithm::Crc32c, "4waSgw=="), (ChecksumAlgorithm::Crc64Nvme, "rosUhgp5mIg=")]
        {
            let sum = crc(algorithm, "123456789");
            assert_eq!(sum.to_string(), expected);
            assert_eq!(Checksum::parse(algorithm, expected), Some(sum));
            for bad in ["", "AAAA", "not base64", "AAAAAAAAAAAAAAAA"] {
                assert_eq!(Checksum::parse(algorithm, bad), None, "{bad}");
            }
        }
    }

    #[test]
    fn parts_combine_to_the_whole() {
        for algorithm in [ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme] {
            let whole = crc(algorithm, "123456789");
            for at in 0..=9 {
                let (head, tail) = "123456789".split_at(at);
                let combined = crc(algorithm, head).then(crc(algorithm, tail), tail.len() as u64);
                assert_eq!(combined, Some(whole), "{at}");
            }
        }
        let (a, b) = (crc(ChecksumAlgorithm::Crc32c, "a"), crc(ChecksumAlgorithm::Crc64Nvme, "b"));
        assert_eq!(a.then(b, 1), None);
    }

    #[test]
    fn stored_checksums_tell_wholes_from_parts() {
        let sum = crc(ChecksumAlgorithm::Crc32c, "123456789");
        let parse = |text| StoredChecksum::parse(ChecksumAlgorithm::Crc32c, text);
        assert_eq!(parse("4waSgw=="), Some(StoredChecksum::Whole(sum)));
        assert_eq!(parse("4waSgw==-3"), Some(StoredChecksum::OfParts(sum, 3)));
        for bad in ["4waSgw==-", "4waSgw==-x", "-3", ""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let of_its_bytes =
            Checksum::of(ChecksumAlgorithm::Crc32c, [&Bytes::from_static(b"\xe3\x06\x92\x83")]);
        assert_eq!(composite_checksum(&[sum]), Some(of_its_bytes));
        assert_eq!(composite_checksum(&[]), None);
    }

    #[test]
    fn etags_are_those_of_s3() {
        // From hashlib: md5("abc"), and md5 of the digests of "abc" and "d".
        let part = |text: &'static str| md5_etag([&Bytes::from_static(text.as_bytes())]);
        assert_eq!(part("abc").to_string(), "\"900150983cd24fb0d6963f7d28e17f72\"");
        assert_eq!(md5_etag([]).to_string(), "\"d41d8cd98f00b204e9800998ecf8427e\"");
        let whole = multipart_etag([&part("abc"), &part("d")]).unwrap();
        assert_eq!(whole.to_string(), "\"26b10a702bd95f42e3c2737f5975aa20-2\"");
        assert_eq!(multipart_etag([&ETag::new("\"opaque\"")]), None);
        assert_eq!(multipart_etag([&whole]), None);
    }
}
