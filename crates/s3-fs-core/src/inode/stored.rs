//! Attributes kept in the metadata of objects, in the words of other programs.
//!
//! | header | s3fs | rclone |
//! |---|---|---|
//! | `x-amz-meta-mode` | all of `st_mode`, decimal | all of `st_mode`, octal |
//! | `x-amz-meta-uid`, `-gid` | decimal | decimal |
//! | `x-amz-meta-mtime` | seconds, perhaps with nine decimals | the same |
//! | `x-amz-meta-atime`, `-ctime` | the same | not used: rclone's atime is of another form |
//! | `x-amz-meta-rdev` | ours: hexadecimal | hexadecimal |
//! | `x-amz-meta-xattr` | JSON of names and base64, percent-encoded | the same, ours |
//!
//! (s3fs-fuse, `metaheader.cpp` and `s3fs_xml.cpp`; rclone, "Metadata" of its local and S3 backends.) Reading is lenient: what makes no
//! sense is as if it were not there. All other metadata of an object stay as they are.

mod xattrs;

use sluicefs_s3_client::Timestamp;
use sluicefs_s3_client::bucket::MAX_METADATA_BYTES;

use super::GivenAttr;
use crate::attr::{Attr, FileKind};
use crate::config::Attributes;

pub(crate) use xattrs::XattrMap;

/// Metadata of an object, by name without `x-amz-meta-`.
pub(crate) type Metadata = Vec<(String, String)>;

/// What a file that becomes an object takes along.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Metadata of ours.
    pub(crate) metadata: Metadata,
    /// Its time is not that of its last write: somebody has set it.
    pub(crate) has_given_time: bool,
}

impl Carried {
    /// Whether an object that was begun with `earlier` must be described anew: times that follow from writing alone are not worth that.
    pub(crate) fn differs_from(&self, earlier: &Self) -> bool {
        let lasting = |carried: &Self| {
            let is_time =
                |name: &str| matches!(name, "atime" | "ctime") || (name == "mtime" && !self.has_given_time);
            let kept = carried.metadata.iter().filter(|(name, _)| !is_time(name));
            kept.cloned().collect::<Vec<_>>()
        };
        lasting(self) != lasting(earlier)
    }
}

/// What the metadata of an object say about it as a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// What it is, if that is said.
    pub(crate) kind: Option<FileKind>,
    pub(crate) given: GivenAttr,
    pub(crate) xattrs: XattrMap,
}

impl Stored {
    /// Reads them.
    pub(crate) fn read(format: Attributes, metadata: &[(String, String)]) -> Self {
        let find = |name: &str| metadata.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim());
        let number = |name| find(name).and_then(|value| value.parse().ok());
        let radix = if format == Attributes::Rclone { 8 } else { 10 };
        let mode = find("mode").and_then(|mode| u32::from_str_radix(mode, radix).ok());
        let all = format == Attributes::S3fs;
        let time = |name| find(name).and_then(parse_time);
        Self {
            kind: mode.and_then(FileKind::of_mode),
            given: GivenAttr {
                mode: mode.map(|mode| (mode & 0o7777) as u16),
                uid: number("uid"),
                gid: number("gid"),
                atime: time("atime").filter(|_| all),
                mtime: time("mtime"),
                ctime: time("ctime").filter(|_| all),
                names: None,
                rdev: find("rdev").and_then(|rdev| u32::from_str_radix(rdev, 16).ok()),
            },
            xattrs: find("xattr").map(xattrs::parse).unwrap_or_default(),
        }
    }
}

/// Writes the attributes `attr` and `xattrs`.
pub(crate) fn write(format: Attributes, attr: &Attr, xattrs: &XattrMap) -> Metadata {
    let mode = attr.kind.mode_bits() | u32::from(attr.mode);
    let mut metadata = Vec::new();
    let mut add = |name: &str, value: String| metadata.push((name.to_owned(), value));
    match format {
        Attributes::None => return metadata,
        Attributes::S3fs => {
            add("mode", mode.to_string());
            add("atime", time_text(attr.atime));
            add("ctime", time_text(attr.ctime));
        }
        Attributes::Rclone => add("mode", format!("{mode:o}")),
    }
    add("mtime", time_text(attr.mtime));
    add("uid", attr.uid.to_string());
    add("gid", attr.gid.to_string());
    if attr.rdev != 0 {
        add("rdev", format!("{:x}", attr.rdev));
    }
    if !xattrs.is_empty() {
        add("xattr", xattrs::text(xattrs));
    }
    metadata
}

/// The metadata `all` of an object with `ours` in place of what said the same before.
pub(crate) fn replace(mut all: Metadata, ours: Metadata) -> Metadata {
    if !ours.is_empty() {
        all.retain(|(name, _)| !OURS.contains(&name.as_str()));
        all.extend(ours);
    }
    all
}

/// Whether both say the same of an object as a file.
pub(crate) fn say_the_same(one: &Metadata, other: &Metadata) -> bool {
    OURS.iter().all(|name| {
        let find = |all: &Metadata| all.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        find(one) == find(other)
    })
}

/// The same as far as a store takes so much: the times that programs miss least are left out first. `None` if it does not take the rest.
pub(crate) fn fitted(all: &Metadata, mut ours: Metadata) -> Option<Metadata> {
    let fits = |metadata: &Metadata| {
        metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= MAX_METADATA_BYTES
    };
    if ours.is_empty() {
        return Some(all.clone());
    }
    for least in LEAST_MISSED {
        let whole = replace(all.clone(), ours.clone());
        if fits(&whole) {
            return Some(whole);
        }
        ours.retain(|(name, _)| name != least);
    }
    Some(replace(all.clone(), ours)).filter(fits)
}

const LEAST_MISSED: [&str; 2] = ["atime", "ctime"];

const OURS: [&str; 8] = ["mode", "uid", "gid", "atime", "mtime", "ctime", "rdev", "xattr"];

fn time_text(time: Timestamp) -> String {
    match time.nanos {
        0 => time.secs.to_string(),
        nanos => format!("{}.{nanos:09}", time.secs),
    }
}

/// Seconds since the epoch, perhaps with decimals. Before the epoch, whole seconds and decimals count in opposite directions, as
/// [`time_text`] writes them.
fn parse_time(text: &str) -> Option<Timestamp> {
    let (secs, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.bytes().any(|byte| !byte.is_ascii_digit()) {
        return None;
    }
    let nanos: String = decimals.chars().chain("000000000".chars()).take(9).collect();
    Some(Timestamp { secs: secs.parse().ok()?, nanos: nanos.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::InodeNo;

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn time(secs: i64, nanos: u32) -> Timestamp {
        Timestamp { secs, nanos }
    }

    fn attr() -> Attr {
        Attr {
            ino: InodeNo(7),
            kind: FileKind::Symlink,
            size: 3,
            atime: time(1, 0),
            mtime: time(1_700_000_000, 5),
            ctime: time(3, 0),
            mode: 0o4755,
            nlink: 1,
            uid: 10,
            gid: 20,
            rdev: 0,
        }
    }

    #[test]
    fn each_program_finds_its_own_words() {
        let xattrs = XattrMap::from_iter([("user.a".to_owned(), b"v".to_vec())]);
        let s3fs = write(Attributes::S3fs, &attr(), &xattrs);
        let expected = [
            ("mode", "43501"),
            ("atime", "1"),
            ("ctime", "3"),
            ("mtime", "1700000000.000000005"),
            ("uid", "10"),
            ("gid", "20"),
            ("xattr", "%7B%22user.a%22%3A%22dg%3D%3D%22%7D"),
        ];
        assert_eq!(s3fs, metadata(&expected));
        let rclone = write(Attributes::Rclone, &attr(), &XattrMap::new());
        let expected = [("mode", "124755"), ("mtime", "1700000000.000000005"), ("uid", "10"), ("gid", "20")];
        assert_eq!(rclone, metadata(&expected));
        for (format, written) in [(Attributes::S3fs, s3fs), (Attributes::Rclone, rclone)] {
            let read = Stored::read(format, &written);
            assert_eq!((read.kind, read.given.mode), (Some(FileKind::Symlink), Some(0o4755)));
            assert_eq!((read.given.uid, read.given.mtime), (Some(10), Some(attr().mtime)));
            assert_eq!(read.given.ctime.is_some(), format == Attributes::S3fs);
        }
    }

    #[test]
    fn what_makes_no_sense_is_as_if_it_were_not_there() {
        let odd = [
            ("mode", "rw-r--r--"),
            ("uid", "-1"),
            ("mtime", "yesterday"),
            ("atime", "1.x"),
            ("xattr", "%7B"),
        ];
        assert_eq!(Stored::read(Attributes::S3fs, &metadata(&odd)), Stored::default());
        let read = Stored::read(Attributes::S3fs, &metadata(&[("mode", "420"), ("mtime", "12.5")]));
        assert_eq!((read.kind, read.given.mode), (None, Some(0o644)), "no type in the mode");
        assert_eq!(read.given.mtime, Some(time(12, 500_000_000)));
    }

    #[test]
    fn other_metadata_stay_and_two_kilobytes_are_the_limit() {
        let all = metadata(&[("author", "me"), ("mode", "1"), ("ctime", "1")]);
        let merged = replace(all.clone(), metadata(&[("mode", "2")]));
        assert_eq!(merged, metadata(&[("author", "me"), ("mode", "2")]));
        assert_eq!(replace(all.clone(), Vec::new()), all);
        let fitted = |len: usize, ours: &[(&str, &str)]| {
            let all = metadata(&[("name", &"x".repeat(len)), ("mode", "1")]);
            let fitted = fitted(&all, metadata(ours))?;
            Some(fitted.iter().skip(1).map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "))
        };
        let ours = [("mode", "1"), ("atime", "1"), ("ctime", "1")];
        for (len, expected) in [
            (2027, Some("mode atime ctime")),
            (2028, Some("mode ctime")),
            (2033, Some("mode ctime")),
            (2034, Some("mode")),
            (2039, Some("mode")),
            (2040, None),
        ] {
            assert_eq!(fitted(len, &ours).as_deref(), expected, "{len}");
        }
    }
}
