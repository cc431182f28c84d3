//! The lines of a journal, and what a whole one says.
//!
//! A process that is killed, or a machine that loses power, may leave a line that is cut or garbled. Such a line says nothing; all others count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bucket::{BucketIdentity, UploadId};
use crate::key::ObjectKey;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Record {
    /// The first line: which bucket the others are about.
    Bucket { endpoint: String, name: String },
    /// An upload of `key` is about to be created, at `at` by the local clock (seconds since 1970).
    Begin { entry: u64, key: String, at: i64 },
    /// The store calls it `upload`.
    Created { entry: u64, upload: String },
    /// The request to create it was given up at `at` by the local clock: whether there is one, nobody knows.
    GaveUp { entry: u64, at: i64 },
    /// It was completed or aborted, or the store refused to create it.
    End { entry: u64 },
}

/// An upload that was begun and did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: ObjectKey,
    /// When it was begun by the local clock, in seconds since 1970.
    pub(super) at: i64,
    /// When creating it was given up, by the same clock, if it was.
    pub(super) gave_up_at: Option<i64>,
    /// Its name at the store, once that is known.
    pub(super) upload: Option<UploadId>,
}

impl Entry {
    /// One that is being created since `at`.
    pub(super) fn begun(key: ObjectKey, at: i64) -> Self {
        Self { key, at, gave_up_at: None, upload: None }
    }
}

/// What a journal says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// The bucket, if the first line is whole.
    pub(super) bucket: Option<BucketIdentity>,
    /// The uploads that did not end.
    pub(super) entries: BTreeMap<u64, Entry>,
}

impl Record {
    pub(super) fn bucket(identity: &BucketIdentity) -> Self {
        Self::Bucket { endpoint: identity.endpoint.to_string(), name: identity.name.to_string() }
    }

    /// The line, its end included.
    pub(super) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("strings and numbers are JSON");
        line.push('\n');
        line
    }
}

/// The lines that say all of `entries` anew.
pub(super) fn rewritten(identity: &BucketIdentity, entries: &BTreeMap<u64, Entry>) -> String {
    let mut text = Record::bucket(identity).line();
    for (&entry, Entry { key, at, gave_up_at, upload }) in entries {
        text.push_str(&Record::Begin { entry, key: key.as_str().to_owned(), at: *at }.line());
        if let Some(at) = *gave_up_at {
            text.push_str(&Record::GaveUp { entry, at }.line());
        }
        if let Some(upload) = upload {
            text.push_str(&Record::Created { entry, upload: upload.as_str().to_owned() }.line());
        }
    }
    text
}

/// What the lines of `text` say, those left out that make no sense.
pub(super) fn replay(text: &[u8]) -> Replayed {
    let mut replayed = Replayed::default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(record) = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok()) else {
            continue;
        };
        match record {
            Record::Bucket { endpoint, name } => {
                replayed.bucket = Some(BucketIdentity { endpoint: endpoint.into(), name: name.into() });
            }
            Record::Begin { entry, key, at } => {
                if let Ok(key) = ObjectKey::new(key) {
                    replayed.entries.insert(entry, Entry::begun(key, at));
                }
            }
            Record::Created { entry, upload } => {
                if let Some(entry) = replayed.entries.get_mut(&entry) {
                    entry.upload = Some(UploadId::new(upload));
                }
            }
            Record::GaveUp { entry, at } => {
                if let Some(entry) = replayed.entries.get_mut(&entry) {
                    entry.gave_up_at = Some(at);
                }
            }
            Record::End { entry } => {
                replayed.entries.remove(&entry);
            }
        }
    }
    replayed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> BucketIdentity {
        BucketIdentity { endpoint: "http://s3".into(), name: "s3://models".into() }
    }

    fn entry(key: &str, at: i64, upload: Option<&str>) -> Entry {
        Entry { upload: upload.map(UploadId::new), ..Entry::begun(ObjectKey::new(key).unwrap(), at) }
    }

    #[test]
    fn what_did_not_end_is_left() {
        let lines = [
            Record::bucket(&identity()),
            Record::Begin { entry: 1, key: "a\nb".to_owned(), at: 10 },
            Record::Begin { entry: 2, key: "c".to_owned(), at: 11 },
            Record::Created { entry: 1, upload: "one".to_owned() },
            Record::Begin { entry: 3, key: "d".to_owned(), at: 12 },
            Record::Created { entry: 3, upload: "three".to_owned() },
            Record::End { entry: 3 },
            Record::GaveUp { entry: 2, at: 13 },
        ];
        let text: String = lines.iter().map(Record::line).collect();
        let entries = BTreeMap::from([
            (1, entry("a\nb", 10, Some("one"))),
            (2, Entry { gave_up_at: Some(13), ..entry("c", 11, None) }),
        ]);
        let expected = Replayed { bucket: Some(identity()), entries };
        assert_eq!(replay(text.as_bytes()), expected);
        assert_eq!(replay(rewritten(&identity(), &expected.entries).as_bytes()), expected);
    }

    #[test]
    fn a_line_that_is_cut_or_garbled_says_nothing() {
        let begin = Record::Begin { entry: 1, key: "a".to_owned(), at: 10 }.line();
        let created = Record::Created { entry: 1, upload: "one".to_owned() }.line();
        for cut in 0..created.len() {
            let text = format!("{begin}{}", &created[..cut]);
            assert_eq!(replay(text.as_bytes()).entries[&1], entry("a", 10, None), "{cut}");
        }
        let zeros = [begin.as_bytes(), &[0; 4096], b"\n", created.as_bytes()].concat();
        assert_eq!(replay(&zeros).entries[&1], entry("a", 10, Some("one")));
        assert_eq!(replay(b"{\"begin\":{\"entry\":1,\"key\":\"\",\"at\":0}}\n\xff\n"), Replayed::default());
    }
}
