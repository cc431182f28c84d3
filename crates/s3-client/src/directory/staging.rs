//! Files in the making: written in a directory of their own at the root, and moved to their place at once when they are whole.
//!
//! The directory is there only while something is being written. It is no part of the bucket: no key names it, no listing shows it.

use std::fs::File;
use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, linkat, mkdirat, openat, renameat, renameat_with, unlinkat,
};

use super::place::{Root, STAGING, is_absence};

/// Somebody who ends writing takes the directory away under somebody who begins; nobody meets that so often.
const MAX_TRIES: u32 = 100;

/// What to do where the name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    /// Fail with `AlreadyExists`.
    Keep,
}

/// A file without a place yet. It is removed when dropped before it has one.
pub(super) struct Staged<'a> {
    root: &'a Root,
    directory: OwnedFd,
    name: String,
    pub(super) file: File,
    is_placed: bool,
}

/// Makes something in the staging directory, which is made if it is not there.
pub(super) fn within<T>(root: &Root, make: impl Fn(&OwnedFd) -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        match mkdirat(root.directory(), STAGING, Mode::RWXU).map_err(io::Error::from) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(cause),
            _ => {}
        }
        let made = root.open_directory(STAGING).and_then(|directory| make(&directory));
        tries += 1;
        match made {
            Err(cause) if is_absence(&cause) && tries < MAX_TRIES => {}
            made => return made,
        }
    }
}

/// Takes the staging directory away, if nothing is in it any more.
pub(super) fn tidy(root: &Root) {
    // Whoever still writes keeps it.
    let _ = unlinkat(root.directory(), STAGING, AtFlags::REMOVEDIR);
}

impl<'a> Staged<'a> {
    pub(super) fn new(root: &'a Root) -> io::Result<Self> {
        let name = root.fresh_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (directory, file) = within(root, |directory| {
            // As any program makes a file; the mask of the process is applied to it.
            let file = openat(directory, &name, flags, Mode::from_raw_mode(0o666))?;
            Ok((directory.try_clone()?, File::from(file)))
        })?;
        Ok(Self { root, directory, name, file, is_placed: false })
    }

    /// Moves the file into an open directory.
    pub(super) fn place_in(&mut self, directory: &OwnedFd, name: &str, existing: Existing) -> io::Result<()> {
        move_file((&self.directory, &self.name), (directory, name), existing)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.is_placed {
            // What stays in the directory wastes room and does no harm.
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
        tidy(self.root);
    }
}

/// Moves a file from one name to another, each in an open directory.
pub(super) fn move_file(
    (from, name): (impl AsFd, &str),
    (to, new_name): (&OwnedFd, &str),
    existing: Existing,
) -> io::Result<()> {
    if existing == Existing::Replace {
        return Ok(renameat(from, name, to, new_name)?);
    }
    match renameat_with(&from, name, to, new_name, RenameFlags::NOREPLACE).map_err(io::Error::from) {
        // Some file systems know no flags; a second name does the same, and the first is given up.
        Err(cause) if matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            linkat(&from, name, to, new_name, AtFlags::empty())?;
            Ok(unlinkat(from, name, AtFlags::empty())?)
        }
        moved => moved,
    }
}
