//! The vocabulary of S3: keys, prefixes, ETags and byte ranges as distinct types.
//!
//! A key is any non-empty UTF-8 of at most 1,024 bytes: spaces, `+`, `%`, newlines, `a//b`, a leading `/` and
//! `..` are all legal and all kept. Nothing here maps keys to file names; that is the file system's business.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest key S3 accepts, in bytes of UTF-8 (Amazon S3 User Guide, "Object key naming guidelines").
pub const MAX_KEY_BYTES: usize = 1024;

/// The name of one object: 1 to [`MAX_KEY_BYTES`] bytes of UTF-8, kept exactly as S3 has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(Arc<str>);

/// Why a string cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// S3 has no object without a name.
    #[error("an object key cannot be empty")]
    Empty,
    /// S3 answers `KeyTooLongError`; the length is in bytes.
    #[error("an object key has at most 1024 bytes, this one has {0}")]
    TooLong(usize),
}

impl ObjectKey {
    /// Checks the length of `key` and keeps it unchanged.
    ///
    /// # Errors
    /// [`InvalidKey`] if it is empty or longer than [`MAX_KEY_BYTES`].
    pub fn new(key: impl Into<Arc<str>>) -> Result<Self, InvalidKey> {
        let key = key.into();
        match key.len() {
            0 => Err(InvalidKey::Empty),
            1..=MAX_KEY_BYTES => Ok(Self(key)),
            n => Err(InvalidKey::TooLong(n)),
        }
    }

    /// The key as S3 has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    /// Control characters are escaped, so that a key cannot forge a log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The beginning that all keys of a listing share; empty for the whole bucket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(Arc<str>);

impl KeyPrefix {
    /// Any string is a prefix, whether or not a key begins with it.
    pub fn new(prefix: impl Into<Arc<str>>) -> Self {
        Self(prefix.into())
    }

    /// The prefix of every key.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// The prefix as S3 has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the prefix of every key.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, &self.0)
    }
}

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
    }
    Ok(())
}

/// The server's name for one version of an object's bytes, as sent, quotes kept.
///
/// Equality is equality of the text. The usual forms, an MD5 (`"<32 hex>"`) and a multipart digest
/// (`"<32 hex>-<parts>"`), are held in 18 bytes without an allocation: a mount holds one per known file.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ETag(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    /// `"d41d8cd98f00b204e9800998ecf8427e"`
    Digest([u8; 16]),
    /// `"d41d8cd98f00b204e9800998ecf8427e-3"`
    Multipart([u8; 16], u16),
    Other(Arc<str>),
}

impl From<String> for ETag {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<ETag> for String {
    fn from(etag: ETag) -> Self {
        etag.to_string()
    }
}

impl ETag {
    /// Takes the text of an `ETag` header or listing element.
    pub fn new(text: &str) -> Self {
        Self(Self::compact(text).unwrap_or_else(|| Repr::Other(Arc::from(text))))
    }

    /// `"<digest in hex>"`
    pub(crate) fn of_md5(digest: [u8; 16]) -> Self {
        Self(Repr::Digest(digest))
    }

    /// `"<digest in hex>-<parts>"`
    pub(crate) fn of_parts(digest: [u8; 16], parts: u16) -> Self {
        Self(Repr::Multipart(digest, parts))
    }

    /// The digest, if it has the form of an MD5. (With some kinds of encryption it has and is none.)
    pub(crate) fn as_md5(&self) -> Option<&[u8; 16]> {
        match &self.0 {
            Repr::Digest(digest) => Some(digest),
            _ => None,
        }
    }

    /// Whether it stands for these very bytes. A weak one (`W/"..."`) stands for what is as good, and an empty one for nothing.
    pub fn is_strong(&self) -> bool {
        !matches!(&self.0, Repr::Other(text) if text.starts_with("W/") || text.trim_matches('"').is_empty())
    }

    fn compact(text: &str) -> Option<Repr> {
        let inner = text.strip_prefix('"')?.strip_suffix('"')?;
        let (digest, parts) = match inner.split_once('-') {
            Some((digest, parts)) => (digest, Some(parts)),
            None => (inner, None),
        };
        let digest = lower_hex(digest)?;
        let Some(parts) = parts else { return Some(Repr::Digest(digest)) };
        let count: u16 = parts.parse().ok()?;
        // "+3" and "03" parse as 3 too; only the text that prints back the same may be compacted.
        (count.to_string() == parts).then_some(Repr::Multipart(digest, count))
    }
}

fn lower_hex(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    if text.len() != 32 {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, digest: &[u8; 16]| {
            digest.iter().try_for_each(|b| write!(f, "{b:02x}"))
        };
        match &self.0 {
            Repr::Other(text) => f.write_str(text),
            Repr::Digest(digest) => {
                f.write_str("\"")?;
                hex(f, digest)?;
                f.write_str("\"")
            }
            Repr::Multipart(digest, parts) => {
                f.write_str("\"")?;
                hex(f, digest)?;
                write!(f, "-{parts}\"")
            }
        }
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ETag({self})")
    }
}

/// A half-open range of an object's bytes, `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte; never below `start`.
    pub end: u64,
}

impl ByteRange {
    /// `start..end`; an end below the start gives the empty range at `start`.
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end: end.max(start) }
    }

    /// The `len` bytes from `start` on; saturates at the end of the number range.
    pub fn from_len(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// How many bytes the range has.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes of both ranges; empty (at the later start) if they share none.
    #[must_use]
    pub fn intersect(&self, other: ByteRange) -> ByteRange {
        ByteRange::new(self.start.max(other.start), self.end.min(other.end))
    }
}

impl From<Range<u64>> for ByteRange {
    fn from(range: Range<u64>) -> Self {
        Self::new(range.start, range.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the next page of a listing begins; opaque, made by the bucket that listed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContinuationToken(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_print_as_sent() {
        for text in [
            "\"d41d8cd98f00b204e9800998ecf8427e\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-17\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-017\"",
            "\"d41d8cd98f00b204e9800998ecf8427e-70000\"",
            "\"D41D8CD98F00B204E9800998ECF8427E\"",
            "d41d8cd98f00b204e9800998ecf8427e",
            "W/\"weak\"",
            "",
        ] {
            assert_eq!(ETag::new(text).to_string(), text);
        }
        assert!(size_of::<Option<ETag>>() <= 24, "a listing of a million names holds a million of these");
    }

    #[test]
    fn etags_differ_when_their_texts_do() {
        assert_ne!(
            ETag::new("\"d41d8cd98f00b204e9800998ecf8427e\""),
            ETag::new("d41d8cd98f00b204e9800998ecf8427e")
        );
        assert_eq!(ETag::new("\"x\""), ETag::new("\"x\""));
    }

    #[test]
    fn weak_and_empty_etags_stand_for_no_bytes() {
        for (text, is_strong) in [
            ("\"d41d8cd98f00b204e9800998ecf8427e\"", true),
            ("\"W/\"", true),
            ("other", true),
            ("W/\"d41d8cd98f00b204e9800998ecf8427e\"", false),
            ("\"\"", false),
            ("", false),
        ] {
            assert_eq!(ETag::new(text).is_strong(), is_strong, "{text}");
        }
    }

    #[test]
    fn keys_keep_their_text_and_print_on_one_line() {
        let key = ObjectKey::new("/a//b/../c d+%41\n🦀").unwrap();
        assert_eq!(key.as_str(), "/a//b/../c d+%41\n🦀");
        assert_eq!(key.to_string(), "/a//b/../c d+%41\\n🦀");
        assert_eq!(ObjectKey::new(""), Err(InvalidKey::Empty));
        assert_eq!(ObjectKey::new("x".repeat(1025)), Err(InvalidKey::TooLong(1025)));
    }

    #[test]
    fn ranges_never_have_negative_length() {
        assert!(ByteRange::new(5, 3).is_empty());
        assert_eq!(ByteRange::new(0, 10).intersect(ByteRange::new(5, 20)), ByteRange::new(5, 10));
        assert!(ByteRange::new(0, 5).intersect(ByteRange::new(7, 9)).is_empty());
        assert_eq!(ByteRange::from_len(u64::MAX, 10).len(), 0);
    }
}
