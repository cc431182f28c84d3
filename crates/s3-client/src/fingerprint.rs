//! Whether an object is what a request wrote whose answer was lost.
//!
//! Size and digest must agree: the ETag where it is an MD5, else a checksum that the store keeps. What cannot be proven is not ours.

use serde::{Deserialize, Serialize};

use crate::bucket::{ObjectHead, Part, Payload};
use crate::checksum::{
    Checksum, ChecksumAlgorithm, StoredChecksum, composite_checksum, md5_etag, multipart_etag,
};
use crate::key::ETag;

/// An object as the store describes it.
pub type Found = (ObjectHead, Option<StoredChecksum>);

/// What an object that was to be written can be known by; also by another process, to which it was handed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    size: u64,
    /// The ETag where ETags are MD5s.
    etag: Option<ETag>,
    /// Checksums of the whole, by whatever algorithm is known.
    whole: Vec<Checksum>,
    /// The checksum of the parts' checksums, and how many parts there are.
    of_parts: Option<(Checksum, usize)>,
}

impl Fingerprint {
    /// That of an object written in one request. Reads all of `body`, at some 0.5 GB/s.
    pub fn of_bytes(body: &Payload) -> Self {
        let sum = |algorithm| Checksum::of(algorithm, body.pieces());
        Self {
            size: body.len(),
            etag: Some(md5_etag(body.pieces())),
            whole: [ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme].map(sum).into(),
            of_parts: None,
        }
    }

    /// That of an object made of `parts`.
    pub fn of_parts(parts: &[Part]) -> Self {
        let sums: Option<Vec<Checksum>> = parts.iter().map(|part| part.checksum).collect();
        Self {
            size: parts.iter().map(|part| part.size).sum(),
            etag: multipart_etag(parts.iter().map(|part| &part.etag)),
            whole: Part::joined_checksum(parts).into_iter().collect(),
            of_parts: sums.and_then(|sums| composite_checksum(&sums)).map(|sum| (sum, parts.len())),
        }
    }

    /// How many bytes the object has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is the object that [`head_with_checksum`](crate::Bucket::head_with_checksum) described.
    pub fn is_of(&self, head: &ObjectHead, checksum: Option<&StoredChecksum>) -> bool {
        let same_etag = || self.etag.is_some() && head.meta.etag == self.etag;
        let same_sum = || match checksum {
            Some(StoredChecksum::Whole(sum)) => self.whole.contains(sum),
            Some(StoredChecksum::OfParts(sum, count)) => self.of_parts == Some((*sum, usize::from(*count))),
            None => false,
        };
        head.meta.size == self.size && (same_etag() || same_sum())
    }
}

/// What a store tells of the bytes of two objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// They are the same.
    Same,
    /// They are not.
    Different,
    /// It tells too little; whoever must know reads both.
    Unknown,
}

/// Whether two objects have the same bytes, by all that [`head_with_checksum`](crate::Bucket::head_with_checksum) told of each.
///
/// ETags alone prove no difference: that of a copy is another one if the object was made of parts or is encrypted.
pub fn likeness(one: &Found, other: &Found) -> Likeness {
    if one.0.meta.size != other.0.meta.size {
        return Likeness::Different;
    }
    let md5 = |(head, _): &Found| head.meta.etag.clone().filter(|etag| etag.as_md5().is_some());
    if md5(one).is_some() && md5(one) == md5(other) {
        return Likeness::Same;
    }
    match (one.1, other.1) {
        (Some(StoredChecksum::Whole(one)), Some(StoredChecksum::Whole(other))) if one == other => {
            Likeness::Same
        }
        (Some(StoredChecksum::Whole(one)), Some(StoredChecksum::Whole(other)))
            if one.algorithm() == other.algorithm() =>
        {
            Likeness::Different
        }
        _ => Likeness::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bucket::{ObjectMeta, StorageClass, Timestamp};
    use crate::checksum::ChecksumAlgorithm::{Crc32c, Crc64Nvme};

    fn found(size: u64, etag: Option<ETag>, checksum: Option<StoredChecksum>) -> Found {
        let meta = ObjectMeta {
            size,
            etag,
            last_modified: Timestamp::default(),
            storage_class: StorageClass::Standard,
        };
        (ObjectHead::of(meta), checksum)
    }

    fn sum(algorithm: ChecksumAlgorithm, text: &'static str) -> Checksum {
        Checksum::of(algorithm, [&Bytes::from_static(text.as_bytes())])
    }

    fn opaque() -> Option<ETag> {
        Some(ETag::new("\"0123456789abcdef0123456789abcdef\""))
    }

    #[test]
    fn bytes_are_ours_by_md5_or_checksum_alone() {
        let body = Payload::from(Bytes::from_static(b"text"));
        let md5 = || Some(md5_etag(body.pieces()));
        let whole = |text| Some(StoredChecksum::Whole(sum(Crc64Nvme, text)));
        for (found, ours) in [
            (found(4, md5(), None), true),
            (found(5, md5(), None), false),
            (found(4, None, None), false),
            (found(4, opaque(), None), false),
            (found(4, opaque(), whole("text")), true),
            (found(4, opaque(), whole("TEXT")), false),
            (found(4, opaque(), Some(StoredChecksum::OfParts(sum(Crc32c, "text"), 1))), false),
        ] {
            assert_eq!(Fingerprint::of_bytes(&body).is_of(&found.0, found.1.as_ref()), ours, "{found:?}");
        }
    }

    #[test]
    fn parts_are_ours_by_etags_or_checksums() {
        let part = |number, text: &'static str, algorithm| Part {
            number,
            etag: md5_etag([&Bytes::from_static(text.as_bytes())]),
            size: text.len() as u64,
            checksum: Some(sum(algorithm, text)),
        };
        let parts = |algorithm| [part(1, "some ", algorithm), part(2, "text", algorithm)];
        let etag = multipart_etag(parts(Crc32c).iter().map(|part| &part.etag));
        let whole = Some(StoredChecksum::Whole(sum(Crc64Nvme, "some text")));
        let composite = |count| {
            let sums = [sum(Crc32c, "some "), sum(Crc32c, "text")];
            Some(StoredChecksum::OfParts(composite_checksum(&sums).unwrap(), count))
        };
        for (found, algorithm, ours) in [
            (found(9, etag.clone(), None), Crc32c, true),
            (found(8, etag, None), Crc32c, false),
            (found(9, opaque(), whole), Crc64Nvme, true),
            (found(9, opaque(), whole), Crc32c, false),
            (found(9, opaque(), composite(2)), Crc32c, true),
            (found(9, opaque(), composite(3)), Crc32c, false),
            (found(9, opaque(), None), Crc64Nvme, false),
        ] {
            let known = Fingerprint::of_parts(&parts(algorithm)).is_of(&found.0, found.1.as_ref());
            assert_eq!(known, ours, "{found:?}");
        }
    }

    #[test]
    fn objects_are_alike_by_what_proves_it() {
        use Likeness::{Different, Same, Unknown};
        let md5 = Some(md5_etag([&Bytes::from_static(b"text")]));
        let whole = |algorithm, text| Some(StoredChecksum::Whole(sum(algorithm, text)));
        let text = whole(Crc64Nvme, "text");
        let joined = Some(ETag::new("\"0123456789abcdef0123456789abcdef-2\""));
        for (one, other, expected) in [
            (found(4, md5.clone(), None), found(4, md5.clone(), None), Same),
            (found(4, md5.clone(), text), found(4, joined.clone(), text), Same),
            (found(4, md5.clone(), text), found(4, joined.clone(), whole(Crc64Nvme, "TEXT")), Different),
            (found(4, md5.clone(), text), found(4, joined.clone(), whole(Crc32c, "text")), Unknown),
            (found(4, md5.clone(), None), found(4, joined.clone(), None), Unknown),
            // The parts may have other sizes.
            (found(4, joined.clone(), None), found(4, joined, None), Unknown),
            (found(4, None, None), found(4, None, None), Unknown),
            // An encrypted copy has another ETag.
            (found(4, md5.clone(), None), found(4, opaque(), None), Unknown),
            (found(5, md5.clone(), text), found(4, md5, text), Different),
        ] {
            assert_eq!(likeness(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(likeness(&other, &one), expected, "{other:?} {one:?}");
        }
    }
}
