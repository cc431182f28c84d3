//! Listings of a directory in the order of its keys, page by page.
//!
//! S3 sorts whole keys, so `a.txt` comes before what is in `a`: a directory takes its place by its name with the slash. A walk opens the
//! directories that its page needs and no others. The names of a large directory are kept for the pages after it.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, statat};

use super::hidden::Hidden;
use super::place::{Root, STAGING, is_absence, marker_meta, meta_of_file};
use crate::bucket::{ListPage, ListedObject, MAX_PAGE_KEYS, ObjectMeta};
use crate::key::{KeyPrefix, MAX_KEY_BYTES, ObjectKey};

/// How many large directories are remembered between the pages of their listings.
const MAX_SNAPSHOTS: usize = 4;
/// The names of a directory with more are read anew for each page; one takes some 40 bytes.
const MAX_SNAPSHOT_NAMES: usize = 1_000_000;

/// The names of a directory in order, those of directories with their slash.
type Names = Arc<[Box<str>]>;

/// The names of large directories whose listings are under way.
#[derive(Default)]
pub(super) struct Snapshots {
    next: AtomicU64,
    /// By listing and directory, the newest first.
    held: Mutex<VecDeque<(u64, Box<str>, Names)>>,
}

impl Snapshots {
    /// The number of a new listing.
    pub(super) fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The listing is over.
    pub(super) fn forget(&self, listing: u64) {
        self.held.lock().retain(|(id, ..)| *id != listing);
    }

    fn find(&self, listing: u64, directory: &str) -> Option<Names> {
        let held = self.held.lock();
        held.iter()
            .find(|(id, of, _)| *id == listing && **of == *directory)
            .map(|(.., names)| Arc::clone(names))
    }

    fn keep(&self, listing: u64, directory: &str, names: &Names) {
        if (usize::from(MAX_PAGE_KEYS)..=MAX_SNAPSHOT_NAMES).contains(&names.len()) {
            let mut held = self.held.lock();
            held.truncate(MAX_SNAPSHOTS - 1);
            held.push_front((listing, Box::from(directory), Arc::clone(names)));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.lock().len()
    }
}

/// One page in the making.
pub(super) struct Walk<'a> {
    root: &'a Root,
    hidden: &'a Hidden,
    snapshots: &'a Snapshots,
    listing: u64,
    pub(super) delimiter: bool,
    pub(super) max_names: usize,
    after: String,
    /// Whether `after` was given out already, with all keys below it.
    continued: bool,
    page: ListPage,
    last: String,
}

/// `Break` once the page is full and more follows.
type Flow = ControlFlow<()>;

/// The directory that cannot be read, and why.
type Failure = (String, io::Error);

impl<'a> Walk<'a> {
    pub(super) fn new(root: &'a Root, hidden: &'a Hidden, snapshots: &'a Snapshots, listing: u64) -> Self {
        Self {
            root,
            hidden,
            snapshots,
            listing,
            delimiter: false,
            max_names: usize::from(MAX_PAGE_KEYS),
            after: String::new(),
            continued: false,
            page: ListPage::default(),
            last: String::new(),
        }
    }

    /// Only keys after this one.
    pub(super) fn start_after(&mut self, key: &str) {
        key.clone_into(&mut self.after);
    }

    /// Only names after this one, which was the last of the page before.
    pub(super) fn go_on_after(&mut self, name: &str) {
        name.clone_into(&mut self.after);
        self.continued = true;
    }

    /// The page of names that begin with `prefix`, and the last of them if more follow.
    pub(super) fn run(mut self, prefix: &str) -> Result<(ListPage, Option<String>), Failure> {
        let (directory, stem) = prefix.split_at(prefix.rfind('/').map_or(0, |at| at + 1));
        let is_path = directory.is_empty() || super::Place::of(directory).is_some();
        let full = is_path && self.directory(directory, stem)?.is_break();
        Ok((self.page, full.then_some(self.last)))
    }

    /// The names in `directory` that begin with `stem`.
    fn directory(&mut self, directory: &str, stem: &str) -> Result<Flow, Failure> {
        let failed = |cause| (directory.to_owned(), cause);
        let opened = match self.root.open_directory(directory) {
            Ok(opened) => opened,
            Err(cause) if is_absence(&cause) => return Ok(Flow::Continue(())),
            Err(cause) => return Err(failed(cause)),
        };
        let names = self.names(directory, &opened).map_err(failed)?;
        if names.is_empty() && stem.is_empty() && !directory.is_empty() {
            let meta = marker_meta(&opened).map_err(failed)?;
            return Ok(if directory > self.after.as_str() {
                self.emit_object(directory, meta)
            } else {
                Flow::Continue(())
            });
        }
        let from = first_after(&names, directory, &self.after);
        for name in names[from..].iter().filter(|name| name.starts_with(stem)) {
            if self.name(directory, &opened, name)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }

    fn name(&mut self, directory: &str, opened: &OwnedFd, name: &str) -> Result<Flow, Failure> {
        let path = format!("{directory}{name}");
        if !name.ends_with('/') {
            return match self.stat(opened, &path, name) {
                Ok(meta) => Ok(self.emit_object(&path, meta)),
                // It went in between.
                Err(cause) if is_absence(&cause) => Ok(Flow::Continue(())),
                Err(cause) => Err((path, cause)),
            };
        }
        if !self.delimiter {
            return self.directory(&path, "");
        }
        let skipped = self.after.starts_with(&path) && (self.continued || !self.has_more(&path)?);
        Ok(if skipped { Flow::Continue(()) } else { self.emit_prefix(&path) })
    }

    /// Whether there is a key in `directory` after `self.after`.
    fn has_more(&self, directory: &str) -> Result<bool, Failure> {
        let mut inner = Walk::new(self.root, self.hidden, self.snapshots, self.listing);
        inner.max_names = 1;
        inner.start_after(&self.after);
        Ok(!inner.run(directory)?.0.objects.is_empty())
    }

    fn stat(&self, opened: &OwnedFd, path: &str, name: &str) -> io::Result<ObjectMeta> {
        let stat = statat(opened, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => self.root.stat_file(path),
            _ => meta_of_file(&stat),
        }
    }

    fn emit_object(&mut self, key: &str, meta: ObjectMeta) -> Flow {
        let Ok(key) = ObjectKey::new(key) else { return Flow::Continue(()) };
        self.room(key.as_str())?;
        self.page.objects.push(ListedObject { key, meta });
        Flow::Continue(())
    }

    fn emit_prefix(&mut self, prefix: &str) -> Flow {
        self.room(prefix)?;
        self.page.common_prefixes.push(KeyPrefix::new(prefix));
        Flow::Continue(())
    }

    fn room(&mut self, name: &str) -> Flow {
        if self.page.objects.len() + self.page.common_prefixes.len() == self.max_names {
            return Flow::Break(());
        }
        name.clone_into(&mut self.last);
        Flow::Continue(())
    }

    fn names(&self, directory: &str, opened: &OwnedFd) -> io::Result<Names> {
        if self.continued
            && let Some(names) = self.snapshots.find(self.listing, directory)
        {
            return Ok(names);
        }
        let mut names = Vec::new();
        each_name(self.root, directory, opened, self.hidden, |name| {
            names.push(name.into_boxed_str());
            Flow::Continue(())
        })?;
        names.sort_unstable();
        let names = Names::from(names);
        self.snapshots.keep(self.listing, directory, &names);
        Ok(names)
    }
}

/// Where the names begin that have keys after `after`.
fn first_after(names: &[Box<str>], directory: &str, after: &str) -> usize {
    match after.strip_prefix(directory) {
        Some(rest) => names
            .partition_point(|name| **name <= *rest && !(name.ends_with('/') && rest.starts_with(&**name))),
        None if after < directory => 0,
        None => names.len(),
    }
}

/// Whether a directory holds nothing that a bucket shows.
pub(super) fn is_empty(root: &Root, directory: &str, opened: &OwnedFd, hidden: &Hidden) -> io::Result<bool> {
    let mut empty = true;
    each_name(root, &format!("{directory}/"), opened, hidden, |_| {
        empty = false;
        Flow::Break(())
    })?;
    Ok(empty)
}

/// Calls `each` with the names in a directory that a bucket shows, in no order, those of directories with their slash.
fn each_name(
    root: &Root,
    directory: &str,
    opened: &OwnedFd,
    hidden: &Hidden,
    mut each: impl FnMut(String) -> Flow,
) -> io::Result<()> {
    let mut entries = Dir::read_from(opened)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if matches!(bytes, b"." | b"..") || (directory.is_empty() && bytes == STAGING.as_bytes()) {
            continue;
        }
        let shown = match std::str::from_utf8(bytes) {
            Ok(name) => shown(root, directory, opened, name, entry.file_type())?,
            Err(_) => Err("its name is no UTF-8"),
        };
        match shown {
            Ok(name) if each(name.clone()).is_break() => return Ok(()),
            Ok(_) => {}
            Err(reason) => hidden.report(directory, bytes, reason),
        }
    }
    Ok(())
}

/// The name as a bucket shows it, or why it does not.
fn shown(
    root: &Root,
    directory: &str,
    opened: &OwnedFd,
    name: &str,
    file_type: FileType,
) -> io::Result<Result<String, &'static str>> {
    if directory.len() + name.len() > MAX_KEY_BYTES {
        return Ok(Err("its path is longer than a key may be"));
    }
    // Some file systems do not tell in their directories.
    let file_type = match file_type {
        FileType::Unknown => match statat(opened, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            // It went in between, which the next look at it tells.
            Err(_) => FileType::RegularFile,
        },
        known => known,
    };
    Ok(match file_type {
        FileType::RegularFile => Ok(name.to_owned()),
        FileType::Directory => Ok(format!("{name}/")),
        FileType::Symlink => match root.stat_file(&format!("{directory}{name}")) {
            Ok(_) => Ok(name.to_owned()),
            Err(cause) if is_absence(&cause) || cause.kind() == io::ErrorKind::PermissionDenied => {
                Err("the link leads to no regular file inside the directory")
            }
            Err(cause) => return Err(cause),
        },
        _ => Err("it is no regular file"),
    })
}
