//! What is noted beside the bytes of a file that were acknowledged before the store had them: all that making its object takes.

use serde::{Deserialize, Serialize};
use sluicefs_s3_client::bucket::STORED_HEADERS;
use sluicefs_s3_client::{
    BucketIdentity, ByteRange, ETag, Fingerprint, ObjectAttributes, ObjectKey, Timestamp,
};

/// Which form this is: what a later version wrote is not read.
const FORMAT: u32 = 1;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    format: u32,
    endpoint: String,
    bucket: String,
    key: String,
    /// Of two records of one key in one stage the later counts. No two mounts give the same.
    pub(crate) serial: u64,
    /// That of the record of which this takes the place, perhaps in another mount's stage.
    pub(crate) supersedes: Option<u64>,
    /// By the local clock: seconds since 1970, nanoseconds.
    modified: (i64, u32),
    size: u64,
    /// What was written, half-open; the file beside has these bytes at these offsets.
    written: Vec<(u64, u64)>,
    /// So much of the object is part of the file where nothing was written.
    base_len: u64,
    /// The object whose bytes those are, and its length.
    base: Option<(Option<ETag>, u64)>,
    /// The object that is replaced and of which nothing is left.
    replaces: Option<ETag>,
    /// Nothing may be there.
    must_be_new: bool,
    /// What the object will be known by that was about to be made of it, where its bytes alone do not tell.
    pub(crate) attempted: Option<Fingerprint>,
    /// That was about to be made of an earlier content: if it was, this is a change of that.
    pub(crate) is_attempt_older: bool,
    /// What the object will be known by that was about to be made of a later content: if it was, this is nobody's any more.
    pub(crate) superseded_by: Option<Fingerprint>,
    /// It is being removed: if the object is gone, nobody else did that.
    pub(crate) is_leaving: bool,
    /// Besides the bytes, if that is known.
    attributes: Option<Attributes>,
    /// Metadata that describe it as a file, where these are kept.
    described: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attributes {
    content_type: Option<String>,
    user_metadata: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

/// What a file is, as far as it is noted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Noted {
    pub(crate) size: u64,
    pub(crate) written: Vec<ByteRange>,
    pub(crate) base_len: u64,
    /// Version and length of the object that it is a change of.
    pub(crate) base: Option<(Option<ETag>, u64)>,
    pub(crate) replaces: Option<ETag>,
    pub(crate) must_be_new: bool,
    pub(crate) modified: Timestamp,
    pub(crate) attributes: Option<ObjectAttributes>,
    pub(crate) described: Vec<(String, String)>,
}

impl Record {
    pub(super) fn new(bucket: &BucketIdentity, key: &ObjectKey, serial: u64, noted: Noted) -> Self {
        let attributes = noted.attributes.map(|attributes| Attributes {
            content_type: attributes.content_type,
            user_metadata: attributes.user_metadata,
            headers: attributes.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        });
        Self {
            format: FORMAT,
            endpoint: bucket.endpoint.to_string(),
            bucket: bucket.name.to_string(),
            key: key.as_str().to_owned(),
            serial,
            supersedes: None,
            modified: (noted.modified.secs, noted.modified.nanos),
            size: noted.size,
            written: noted.written.iter().map(|range| (range.start, range.end)).collect(),
            base_len: noted.base_len,
            base: noted.base,
            replaces: noted.replaces,
            must_be_new: noted.must_be_new,
            attempted: None,
            is_attempt_older: false,
            superseded_by: None,
            is_leaving: false,
            attributes,
            described: noted.described,
        }
    }

    /// Whether the store had an object of the name before, of which this is another content.
    pub(crate) fn had_object(&self) -> bool {
        self.base.is_some() || self.replaces.is_some()
    }

    /// Reads one; `None` if it makes no sense.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(text).ok()?;
        let is_whole = record.format == FORMAT && record.written.iter().all(|(start, end)| start < end);
        (is_whole && ObjectKey::new(record.key.as_str()).is_ok()).then_some(record)
    }

    /// As it is written.
    pub(super) fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    /// Whether it is about an object of this bucket.
    pub(crate) fn is_of(&self, bucket: &BucketIdentity) -> bool {
        *self.endpoint == *bucket.endpoint && *self.bucket == *bucket.name
    }

    /// Where the object is to be.
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(self.key.as_str()).expect("it was checked when it was read, or was one before")
    }

    /// The file has another name, under which the object that it is a change of is this version.
    pub(super) fn move_to(&mut self, key: &ObjectKey, version: Option<ETag>) {
        key.as_str().clone_into(&mut self.key);
        // The new name may stand for another type.
        self.attributes = None;
        (self.attempted, self.is_attempt_older, self.superseded_by) = (None, false, None);
        if self.replaces.is_some() {
            self.replaces.clone_from(&version);
        }
        if let Some((base, _)) = &mut self.base {
            *base = version;
        }
    }

    /// The store has an earlier content of it in this version and length, which it is a change of.
    pub(super) fn is_change_of(&mut self, version: Option<ETag>, size: u64) {
        self.base = Some((version, size));
        (self.attempted, self.is_attempt_older) = (None, false);
    }

    /// It is described by other metadata.
    pub(super) fn describe(&mut self, described: Vec<(String, String)>) {
        self.described = described;
    }

    /// What it says of the file.
    pub(crate) fn noted(&self) -> Noted {
        let stored = |name: &String| STORED_HEADERS.into_iter().find(|stored| *stored == *name);
        Noted {
            size: self.size,
            written: self.written.iter().map(|(start, end)| ByteRange::new(*start, *end)).collect(),
            base_len: self.base_len,
            base: self.base.clone(),
            replaces: self.replaces.clone(),
            must_be_new: self.must_be_new,
            modified: Timestamp { secs: self.modified.0, nanos: self.modified.1 },
            attributes: self.attributes.as_ref().map(|attributes| ObjectAttributes {
                content_type: attributes.content_type.clone(),
                user_metadata: attributes.user_metadata.clone(),
                headers: (attributes.headers.iter())
                    .filter_map(|(name, value)| Some((stored(name)?, value.clone())))
                    .collect(),
            }),
            described: self.described.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> BucketIdentity {
        BucketIdentity { endpoint: "e".into(), name: name.into() }
    }

    #[test]
    fn a_record_says_what_was_noted() {
        let noted = Noted {
            size: 10,
            written: vec![ByteRange::new(2, 4), ByteRange::new(6, 10)],
            base_len: 3,
            base: Some((Some(ETag::new("\"v\"")), 7)),
            modified: Timestamp { secs: 5, nanos: 6 },
            attributes: Some(ObjectAttributes {
                content_type: Some("text/plain".to_owned()),
                user_metadata: vec![("a".to_owned(), "b".to_owned())],
                headers: vec![("expires", "never".to_owned())],
            }),
            described: vec![("mode".to_owned(), "33188".to_owned())],
            ..Noted::default()
        };
        let key = ObjectKey::new("a\nb").unwrap();
        let mut record = Record::new(&identity("b"), &key, 3, noted.clone());
        let read = Record::parse(&record.text()).unwrap();
        assert_eq!((&read, read.key()), (&record, key));
        assert!(read.is_of(&identity("b")) && !read.is_of(&identity("c")));
        assert_eq!(format!("{:?}", read.noted()), format!("{noted:?}"));
        record.move_to(&ObjectKey::new("c").unwrap(), Some(ETag::new("\"w\"")));
        assert_eq!((record.key().as_str(), record.noted().base), ("c", Some((Some(ETag::new("\"w\"")), 7))));
    }

    #[test]
    fn what_makes_no_sense_is_no_record() {
        let key = ObjectKey::new("k").unwrap();
        let good = String::from_utf8(Record::new(&identity("b"), &key, 0, Noted::default()).text()).unwrap();
        for bad in [
            String::new(),
            good[..good.len() - 1].to_owned(),
            good.replace("\"format\":1", "\"format\":2"),
            good.replace("\"key\":\"k\"", "\"key\":\"\""),
            good.replace("\"written\":[]", "\"written\":[[5,5]]"),
        ] {
            assert!(bad != good && Record::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
