//! The directory that journals lie in, one file for each process and bucket.
//!
//! Whoever makes a file, or looks whose writer is dead, holds the lock of the directory meanwhile: a file that was made is locked before anybody looks.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};

use super::record::{Replayed, replay};

/// How the name of every journal ends.
const SUFFIX: &str = ".uploads";

/// A journal is far smaller; nobody else's file is read to its end.
const MAX_JOURNAL_BYTES: u64 = 64 << 20;

/// A directory with the journals of several processes. Cloning shares it.
#[derive(Debug, Clone)]
pub struct JournalDirectory(Arc<OwnedFd>);

/// The lock of the directory.
#[derive(Debug)]
pub(super) struct Locked(#[expect(dead_code, reason = "unlocks when it is closed")] File);

/// The journal of a process that is dead. Its lock is ours now.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) name: String,
    pub(super) says: Replayed,
    _file: File,
}

impl JournalDirectory {
    /// The open directory `directory`, which nobody else should be able to write to.
    pub fn new(directory: OwnedFd) -> Self {
        Self(Arc::new(directory))
    }

    /// Makes a journal that begins with `text`; its name, and the file, locked.
    pub(super) fn make(&self, text: &str) -> io::Result<(String, File)> {
        let _locked = self.lock()?;
        for number in 0.. {
            // A process that was killed may have had our number, and have left its file.
            let name = format!("{}-{number}{SUFFIX}", std::process::id());
            match self.write_new(&name, text) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|file| (name, file)),
            }
        }
        unreachable!("a directory has not so many files")
    }

    /// Makes a journal that says `text`, durably, for the place of the journal `name`: what [`put`](Self::put) puts there.
    pub(super) fn make_beside(&self, name: &str, text: &str) -> io::Result<File> {
        let beside = beside(name);
        // One that was left by a crash is nobody's: this name is ours alone.
        match self.remove(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.write_new(&beside, text)?;
        file.sync_data()?;
        Ok(file)
    }

    /// Puts the journal that was made for that in the place of the journal `name`. Until that is closed nobody else may look for dead ones: the lock
    /// of the directory is held for as long.
    pub(super) fn put(&self, name: &str, _locked: &Locked) -> io::Result<()> {
        Ok(renameat(&*self.0, beside(name), &*self.0, name)?)
    }

    fn write_new(&self, name: &str, text: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&*self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.try_lock()?;
        file.write_all(text.as_bytes())?;
        Ok(file)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&*self.0, name, AtFlags::empty())?)
    }

    /// Makes what was created and removed in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&*self.0)?)
    }

    /// The journals that nobody holds, ours from now on.
    pub(super) fn take_dead(&self) -> io::Result<Vec<Dead>> {
        let _locked = self.lock()?;
        let mut dead = Vec::new();
        for name in self.names()? {
            let file = self.open(&name)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) => dead.push(Dead { says: read(&file)?, name, _file: file }),
            }
        }
        Ok(dead)
    }

    /// What the journals say that somebody holds, those left out that we took from the `dead`.
    pub(super) fn living(&self, dead: &[String]) -> io::Result<Vec<Replayed>> {
        let _locked = self.lock()?;
        let mut living = Vec::new();
        for name in self.names()?.into_iter().filter(|name| !dead.contains(name)) {
            let file = self.open(&name)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => living.push(read(&file)?),
                Err(TryLockError::Error(error)) => return Err(error),
                Ok(()) => {}
            }
        }
        Ok(living)
    }

    /// Waits until nobody else looks at all journals, or makes one.
    pub(super) fn lock(&self) -> io::Result<Locked> {
        // Of its own, since the lock belongs to the open directory and not to whoever asks.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(self.0.as_fd(), ".", flags, Mode::empty())?;
        let directory = File::from(directory);
        directory.lock()?;
        Ok(Locked(directory))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&*self.0)? {
            let entry = entry?;
            names.extend(
                entry.file_name().to_str().ok().filter(|name| name.ends_with(SUFFIX)).map(str::to_owned),
            );
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(&*self.0, name, flags, Mode::empty())?.into())
    }
}

/// How a journal is called before it is put in the place of the journal `name`.
fn beside(name: &str) -> String {
    format!("{name}.new")
}

fn read(file: &File) -> io::Result<Replayed> {
    let mut text = Vec::new();
    file.take(MAX_JOURNAL_BYTES).read_to_end(&mut text)?;
    Ok(replay(&text))
}
