//! Why a file operation failed, by what the caller does about it.

use std::fmt;
use std::sync::Arc;

use sluicefs_s3_client as s3;

/// The result of a file operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller does about an error. The FUSE adapter's table gives each its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such file or directory.
    NotFound,
    /// A file where a directory is needed.
    NotADirectory,
    /// A directory where a file is needed.
    IsADirectory,
    /// A name of over 255 bytes.
    NameTooLong,
    /// A name that no key can have: empty, `.`, `..`, with a NUL or a `/`.
    InvalidName,
    /// The store does not allow it.
    AccessDenied,
    /// The object changed since it was opened: open it again to see the new version.
    Stale,
    /// A handle or inode number that was never given out, or was released.
    BadHandle,
    /// No extended attribute of that name.
    NoAttribute,
    /// The object lies in an archive tier: restore it first.
    Archived,
    /// A file or directory of that name is there already.
    Exists,
    /// A directory that is to be removed or replaced has entries.
    NotEmpty,
    /// The mount was told not to allow this change.
    NotPermitted,
    /// The mount changes nothing.
    ReadOnly,
    /// The memory or disk space for written bytes is full.
    NoSpace,
    /// More bytes than an object can have.
    TooLarge,
    /// A request that makes no sense: a directory moved into itself, for example.
    Invalid,
    /// A bucket, or this mount, cannot do that.
    Unsupported,
    /// The store failed after all retries, or gave wrong bytes: the log has the reason.
    Io,
}

/// A failed file operation. Cloning shares it: one failed fetch may answer many readers.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    name: Option<Arc<str>>,
    reason: Option<&'static str>,
    source: Option<s3::Error>,
}

impl Error {
    /// An error of `kind` in `operation`.
    pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Self { kind, operation, name: None, reason: None, source: None }
    }

    /// Names the file, key or attribute.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = Some(Arc::from(name));
        self
    }

    /// Says why, where the kind alone does not.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the store said, if it was asked.
    pub fn store_error(&self) -> Option<&s3::Error> {
        self.source.as_ref()
    }

    /// The error of a LIST that failed at the store.
    ///
    /// A directory without keys is an empty listing; "not found" for a LIST is a broken answer, and must not read as the end of a directory.
    pub(crate) fn from_listing(operation: &'static str, source: s3::Error) -> Self {
        let error = Self::from_store(operation, source);
        if error.kind == ErrorKind::NotFound { Self { kind: ErrorKind::Io, ..error } } else { error }
    }

    /// The error of a request that was to make `name` new: that it is not is no surprise.
    pub(crate) fn from_claim(source: s3::Error, name: &str) -> Self {
        let is_taken = source.kind() == s3::ErrorKind::PreconditionFailed;
        let error = Self::from_store("create", source).with_name(name);
        if is_taken { Self { kind: ErrorKind::Exists, ..error } } else { error }
    }

    /// The error of a file operation that failed at the store.
    pub fn from_store(operation: &'static str, source: s3::Error) -> Self {
        let kind = match source.kind() {
            s3::ErrorKind::NotFound => ErrorKind::NotFound,
            s3::ErrorKind::Forbidden | s3::ErrorKind::NoCredentials | s3::ErrorKind::CredentialsExpired => {
                ErrorKind::AccessDenied
            }
            s3::ErrorKind::PreconditionFailed => ErrorKind::Stale,
            s3::ErrorKind::Archived => ErrorKind::Archived,
            s3::ErrorKind::NoSpace => ErrorKind::NoSpace,
            s3::ErrorKind::TooLarge => ErrorKind::TooLarge,
            s3::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        Self { kind, operation, name: None, reason: None, source: Some(source) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation)?;
        if let Some(name) = &self.name {
            write!(f, " {}", name.escape_debug())?;
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => write!(f, ": {}", self.reason.unwrap_or_else(|| describe(self.kind))),
        }
    }
}

fn describe(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "no such file or directory",
        ErrorKind::NotADirectory => "not a directory",
        ErrorKind::IsADirectory => "is a directory",
        ErrorKind::NameTooLong => "a name has at most 255 bytes",
        ErrorKind::InvalidName => "not a valid name",
        ErrorKind::AccessDenied => "access denied",
        ErrorKind::Stale => "the object changed since it was opened",
        ErrorKind::BadHandle => "not an open file",
        ErrorKind::NoAttribute => "no such attribute",
        ErrorKind::Archived => "the object is archived and must be restored first",
        ErrorKind::Exists => "it exists already",
        ErrorKind::NotEmpty => "the directory is not empty",
        ErrorKind::NotPermitted => "the mount does not allow that",
        ErrorKind::ReadOnly => "the mount is read-only",
        ErrorKind::NoSpace => "no space is left for written bytes",
        ErrorKind::TooLarge => "larger than a file can be here",
        ErrorKind::Invalid => "this makes no sense",
        ErrorKind::Unsupported => "this cannot be done here",
        ErrorKind::Io => "input/output error",
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}
