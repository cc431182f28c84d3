//! Files in the making: written in a directory of their own at the root, and moved to their place at once when they are whole.
//!
//! The directory is there only while something is being written. It is no part of the bucket: no key names it, no listing shows it.

use std::fs::{File, TryLockError};
use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, fstat, linkat, mkdirat, openat, renameat,
    renameat_with, unlinkat,
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
        let made = root.open_directory(STAGING).and_then(|directory| {
            // Whoever clears up after the dead waits until what is made here is seen to be alive.
            let lock = File::from(directory.try_clone()?);
            lock.lock_shared()?;
            let made = make(&directory);
            lock.unlock()?;
            made
        });
        tries += 1;
        match made {
            Err(cause) if is_absence(&cause) && tries < MAX_TRIES => {}
            made => return made,
        }
    }
}

/// Removes the files in the making whose writers are dead, and hands all else that is there to `remove_other`. Does nothing
/// while somebody else just makes one.
pub(super) fn clear(root: &Root, remove_other: impl Fn(&str) -> io::Result<()>) -> io::Result<()> {
    let staging = match root.open_directory(STAGING) {
        Err(cause) if is_absence(&cause) => return Ok(()),
        opened => opened?,
    };
    let lock = File::from(staging.try_clone()?);
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(()),
        locked => locked?,
    }
    for entry in Dir::read_from(&staging)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().ok().filter(|name| is_fresh_name(name)) else { continue };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&staging, name, flags, Mode::empty()).map_err(io::Error::from) {
            // It has its place meanwhile.
            Err(cause) if is_absence(&cause) => continue,
            opened => File::from(opened?),
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            remove_other(name)?;
            continue;
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(cause)) => return Err(cause),
            Ok(()) => match unlinkat(&staging, name, AtFlags::empty()).map_err(io::Error::from) {
                Ok(()) => tracing::info!(name, "removed a file in the making whose writer was killed"),
                Err(cause) if is_absence(&cause) => {}
                Err(cause) => return Err(cause),
            },
        }
    }
    Ok(())
}

/// Whether a text is a name that [`Root::fresh_name`] makes: it stands in a path.
pub(super) fn is_fresh_name(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
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
            let file = File::from(openat(directory, &name, flags, Mode::from_raw_mode(0o666))?);
            // The lock ends with the process, however that dies.
            file.try_lock()?;
            Ok((directory.try_clone()?, file))
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
