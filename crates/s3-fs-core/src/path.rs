//! Names and keys: which key a name in a directory stands for, which names can be files at all, and their order.

use std::cmp::Ordering;
use std::fmt;

use sluicefs_s3_client::{KeyPrefix, ObjectKey};

use crate::error::ErrorKind;

/// The longest file name (Linux, `NAME_MAX`), in bytes. A longer one must never reach the kernel: CVE-2026-31694.
pub(crate) const NAME_MAX_BYTES: usize = 255;

/// Why part of a key cannot be a file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IllegalName {
    /// `a//b` has a nameless part.
    Empty,
    /// `.` and `..` mean directories.
    Dots,
    /// The kernel's strings end at a NUL.
    Nul,
    /// Over [`NAME_MAX_BYTES`].
    TooLong,
}

impl fmt::Display for IllegalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "has an empty part between two slashes",
            Self::Dots => "has a part \".\" or \"..\"",
            Self::Nul => "has a NUL character",
            Self::TooLong => "has a part of over 255 bytes",
        })
    }
}

/// Whether `name` can be the name of a file or directory.
pub(crate) fn check_name(name: &str) -> Result<(), IllegalName> {
    match name {
        "" => Err(IllegalName::Empty),
        "." | ".." => Err(IllegalName::Dots),
        _ if name.len() > NAME_MAX_BYTES => Err(IllegalName::TooLong),
        _ if name.contains('\0') => Err(IllegalName::Nul),
        _ => Ok(()),
    }
}

/// Whether a file or directory may be called `name` from now on; the error's kind if not.
pub(crate) fn check_new_name(name: &str) -> Result<(), ErrorKind> {
    check_name(name).map_err(|reason| match reason {
        IllegalName::TooLong => ErrorKind::NameTooLong,
        IllegalName::Dots => ErrorKind::Exists,
        IllegalName::Empty | IllegalName::Nul => ErrorKind::InvalidName,
    })
}

/// The key of the file `name` in the directory `prefix`; `None` if it would be longer than any key.
pub(crate) fn file_key(prefix: &KeyPrefix, name: &str) -> Option<ObjectKey> {
    key_with(prefix, name, "")
}

/// The key that is `name` with `suffix` in the directory `prefix`; `None` if it would be longer than any key.
pub(crate) fn key_with(prefix: &KeyPrefix, name: &str, suffix: &str) -> Option<ObjectKey> {
    ObjectKey::new(format!("{}{name}{suffix}", prefix.as_str())).ok()
}

/// The prefix of the directory `name` in the directory `prefix`.
pub(crate) fn directory_prefix(prefix: &KeyPrefix, name: &str) -> KeyPrefix {
    KeyPrefix::new(format!("{}{name}/", prefix.as_str()))
}

/// The order in which a sorted listing can be sure of names.
///
/// `a` is a file if the key `a` exists and a directory if a key begins with `a/`; between the two lie `a-b` and
/// `a.txt`. Only at `a/` is it known what `a` is, so names are ordered as if each ended in a slash.
pub(crate) fn name_order(a: &str, b: &str) -> Ordering {
    a.bytes().chain([b'/']).cmp(b.bytes().chain([b'/']))
}

/// Whether a sorted listing that has come to `watermark` (a key without its directory's prefix) is sure of `name`.
pub(crate) fn is_settled(name: &str, watermark: &str) -> bool {
    name.bytes().chain([b'/']).cmp(watermark.bytes()) != Ordering::Greater
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_file_names_are_told_apart() {
        for (name, expected) in [
            ("", Err(IllegalName::Empty)),
            (".", Err(IllegalName::Dots)),
            ("..", Err(IllegalName::Dots)),
            ("a\0b", Err(IllegalName::Nul)),
            ("...", Ok(())),
            (" ", Ok(())),
            ("new\nline", Ok(())),
        ] {
            assert_eq!(check_name(name), expected, "{name:?}");
        }
        assert_eq!(check_name(&"é".repeat(127)), Ok(()));
        assert_eq!(check_name(&"é".repeat(128)), Err(IllegalName::TooLong));
    }

    #[test]
    fn a_name_is_settled_where_its_directory_would_be_listed() {
        for (name, watermark, settled) in [
            ("a", "a", false),
            ("a", "a-b", false),
            ("a", "a.txt", false),
            ("a", "a/", true),
            ("a", "a0", true),
            ("a", "b", true),
            ("a.txt", "a/", true),
            ("a0", "a/", false),
        ] {
            assert_eq!(is_settled(name, watermark), settled, "{name:?} at {watermark:?}");
        }
    }

    #[test]
    fn names_are_ordered_by_where_they_are_settled() {
        let mut names = ["b", "a0", "a", "a.txt", "a-b"];
        names.sort_by(|a, b| name_order(a, b));
        assert_eq!(names, ["a-b", "a.txt", "a", "a0", "b"]);
    }

    #[test]
    fn keys_longer_than_any_key_are_none() {
        let prefix = KeyPrefix::new("d/".repeat(500));
        assert_eq!(file_key(&prefix, "name").unwrap().as_str().len(), 1004);
        assert_eq!(file_key(&prefix, &"n".repeat(25)), None);
    }
}
