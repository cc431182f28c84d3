//! How a key becomes a file beneath the root, and never one elsewhere.
//!
//! Every component of a path is opened by itself, in the directory that is held open, and without following a link. Only a link at
//! the end of a path is looked at: if it names a regular file by a way that stays inside, that file is meant.

use std::borrow::Cow;
use std::fmt::Write;
use std::io;
use std::path::Path;

use md5::{Digest, Md5};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, fsync, mkdirat, openat, readlinkat, statat,
};

use crate::bucket::{ObjectMeta, StorageClass, Timestamp};
use crate::key::ETag;

/// Links that lead to links are followed so often.
const MAX_LINKS: u32 = 8;

/// The one name at the root that is no key: what is being written lies there.
pub(super) const STAGING: &str = ".sluicefs-staging";

/// The directory of a bucket, held open.
pub(super) struct Root {
    directory: OwnedFd,
    names: Mutex<StdRng>,
}

/// What a key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The file of this path.
    File(&'a str),
    /// The directory of this path, if it is empty.
    Marker(&'a str),
}

impl<'a> Place<'a> {
    /// `None` for a key that no path has: one with an empty component, `.` or `..`, a NUL, or the reserved name.
    pub(super) fn of(key: &'a str) -> Option<Self> {
        let path = key.strip_suffix('/').unwrap_or(key);
        let legal = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
        if !path.split('/').all(legal) || path.split('/').next() == Some(STAGING) {
            return None;
        }
        Some(if path.len() == key.len() { Self::File(path) } else { Self::Marker(path) })
    }
}

/// A regular file that was found.
struct Found {
    directory: OwnedFd,
    name: String,
    stat: Stat,
}

impl Root {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { directory, names: Mutex::new(StdRng::from_os_rng()) })
    }

    /// The root itself.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A name that nothing else has: 32 hexadecimal digits.
    pub(super) fn fresh_name(&self) -> String {
        format!("{:032x}", self.names.lock().random::<u128>())
    }

    /// Opens the directory `path`, with or without a slash at its end, to read it; the root for the empty one.
    pub(super) fn open_directory(&self, path: &str) -> io::Result<OwnedFd> {
        let above = self.walk(parent(path))?;
        let name = if path.is_empty() { "." } else { file_name(path) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(above, name, flags, Mode::empty())?)
    }

    /// Describes the regular file `path`. Opens nothing that would notice it, such as a pipe.
    pub(super) fn stat_file(&self, path: &str) -> io::Result<ObjectMeta> {
        meta_of_file(&self.find(path)?.stat)
    }

    /// Opens the regular file `path` to read it.
    pub(super) fn open_file(&self, path: &str) -> io::Result<(OwnedFd, ObjectMeta)> {
        let found = self.find(path)?;
        // What became a pipe in between is not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&found.directory, &found.name, flags, Mode::empty())?;
        let meta = meta_of_file(&fstat(&file)?)?;
        Ok((file, meta))
    }

    /// Opens the directory `path`, after making what is missing of it. What was made is durable.
    pub(super) fn make_directories(&self, path: &str) -> io::Result<OwnedFd> {
        let mut directory = self.open_directory("")?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            // As any program makes a directory; the mask of the process is applied to it.
            match mkdirat(&directory, name, Mode::from_raw_mode(0o777)).map_err(io::Error::from) {
                Ok(()) => fsync(&directory)?,
                Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
                Err(cause) => return Err(cause),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = openat(&directory, name, flags, Mode::empty())?;
        }
        Ok(directory)
    }

    /// The directory `path`, to look names up in.
    pub(super) fn walk(&self, path: &str) -> io::Result<OwnedFd> {
        let step = |directory: BorrowedFd<'_>, name: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(directory, name, flags, Mode::empty())
        };
        let mut directory = step(self.directory(), ".")?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            directory = step(directory.as_fd(), name)?;
        }
        Ok(directory)
    }

    fn find(&self, path: &str) -> io::Result<Found> {
        let mut path = Cow::Borrowed(path);
        for _ in 0..MAX_LINKS {
            let (above, name) = (parent(&path), file_name(&path));
            let directory = self.walk(above)?;
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => return Ok(Found { directory, name: name.to_owned(), stat }),
                FileType::Symlink => {}
                _ => return Err(absent()),
            }
            let target = readlinkat(&directory, name, Vec::new())?;
            let target = target.to_str().ok().and_then(|target| follow(above, target));
            path = Cow::Owned(target.ok_or_else(absent)?);
        }
        Err(absent())
    }
}

/// Whether an error says that there is no such file: none of that name, none below what is no directory, or none of a name so long.
pub(super) fn is_absence(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
    )
}

fn absent() -> io::Error {
    io::ErrorKind::NotFound.into()
}

pub(super) fn parent(path: &str) -> &str {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.rfind('/').map_or("", |at| &path[..at])
}

pub(super) fn file_name(path: &str) -> &str {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

/// The path that a link in `directory` leads to; `None` if it leads out, or if only the kernel could tell where: `..` behind a name that may be
/// a link itself.
fn follow(directory: &str, target: &str) -> Option<String> {
    if target.starts_with('/') || target.ends_with('/') {
        return None;
    }
    let mut path: Vec<&str> = directory.split('/').filter(|name| !name.is_empty()).collect();
    let mut is_down = false;
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." if is_down => return None,
            ".." => _ = path.pop()?,
            name => {
                is_down = true;
                path.push(name);
            }
        }
    }
    is_down.then(|| path.join("/"))
}

/// What a listing tells about a file; `NotFound` for what is no regular file.
pub(super) fn meta_of_file(stat: &Stat) -> io::Result<ObjectMeta> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(absent());
    }
    Ok(meta_of(stat, u64::try_from(stat.st_size).unwrap_or_default()))
}

/// What a listing tells about an empty directory.
pub(super) fn marker_meta(directory: impl AsFd) -> io::Result<ObjectMeta> {
    Ok(meta_of(&fstat(directory)?, 0))
}

fn meta_of(stat: &Stat, size: u64) -> ObjectMeta {
    let last_modified =
        Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() };
    let etag = etag_of(stat.st_ino, size, last_modified);
    ObjectMeta { size, etag: Some(etag), last_modified, storage_class: StorageClass::Standard }
}

/// A name for one state of a file. It looks like the ETag of an upload in parts, so that nobody takes it for the MD5 of the bytes.
fn etag_of(inode: u64, size: u64, modified: Timestamp) -> ETag {
    let mut hash = Md5::new();
    hash.update(inode.to_le_bytes());
    hash.update(size.to_le_bytes());
    hash.update(modified.secs.to_le_bytes());
    hash.update(modified.nanos.to_le_bytes());
    let mut text = String::with_capacity(36);
    text.push('"');
    for byte in hash.finalize() {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text.push_str("-1\"");
    ETag::new(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_no_path_has_are_nowhere() {
        for (key, expected) in [
            ("a", Some(Place::File("a"))),
            ("a/b.c/d e", Some(Place::File("a/b.c/d e"))),
            ("a/", Some(Place::Marker("a"))),
            ("a/b/", Some(Place::Marker("a/b"))),
            ("...", Some(Place::File("..."))),
            ("/", None),
            ("//", None),
            ("/a", None),
            ("a//", None),
            ("a//b", None),
            ("..", None),
            ("../a", None),
            ("a/../b", None),
            ("a/./b", None),
            ("a/..", None),
            ("./", None),
            ("a\0b", None),
            (".sluicefs-staging", None),
            (".sluicefs-staging/", None),
            (".sluicefs-staging/x", None),
            ("a/.sluicefs-staging", Some(Place::File("a/.sluicefs-staging"))),
        ] {
            assert_eq!(Place::of(key), expected, "{key:?}");
        }
    }

    #[test]
    fn links_are_followed_by_ways_that_stay_inside() {
        for (directory, target, expected) in [
            ("a/b", "c", Some("a/b/c")),
            ("", "c", Some("c")),
            ("a/b", "./c//d", Some("a/b/c/d")),
            ("a/b", "../c", Some("a/c")),
            ("a/b", "../../blobs/x", Some("blobs/x")),
            ("a/b", "../../../etc/passwd", None),
            ("", "../root/a", None),
            ("a", "/etc/passwd", None),
            ("a", "c/../d", None),
            ("a", "..", None),
            ("a", ".", None),
            ("a", "", None),
            ("a", "c/", None),
        ] {
            assert_eq!(follow(directory, target).as_deref(), expected, "{target:?} in {directory:?}");
        }
    }

    #[test]
    fn an_etag_changes_with_each_of_its_reasons() {
        let at = |secs, nanos| Timestamp { secs, nanos };
        let tags = [
            etag_of(1, 2, at(3, 4)),
            etag_of(2, 2, at(3, 4)),
            etag_of(1, 3, at(3, 4)),
            etag_of(1, 2, at(4, 4)),
            etag_of(1, 2, at(3, 5)),
        ];
        for (n, tag) in tags.iter().enumerate() {
            assert!(!tags[..n].contains(tag), "{tag}");
        }
        assert_eq!(etag_of(1, 2, at(3, 4)), tags[0]);
    }
}
