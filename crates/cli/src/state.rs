//! The state directory: what a mount leaves behind so that the next one knows of it if this one is killed.
//!
//! What lies in it tells which objects are being written and where to reach the mount, and decides what the next mount removes from the bucket.
//! So it must be ours, and nobody else may be able to write to it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::{Access, AtFlags, Dir, Mode, OFlags, accessat, fchmod, fstat, open, openat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::geteuid;
use sluicefs_s3_client::journal::{JournalDirectory, JournaledBucket, UploadJournal, sweep};
use sluicefs_s3_client::{Bucket, Timestamp};
use time::UtcDateTime;

use crate::failure::Failure;

/// Where root's mounts keep it.
const OF_ROOT: &str = "/var/lib/sluicefs";

/// So many may wait to be heard.
const BACKLOG: i32 = 16;

/// What lies there is shorter.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Which directory to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The one that was asked for: without it nothing is mounted.
    Given(PathBuf),
    /// The usual one. Where it cannot be had, as in a container that is read-only, the mount does without.
    Usual(PathBuf),
    /// There is none: no home is known.
    Homeless,
}

impl Choice {
    /// What the option and the environment say.
    ///
    /// # Errors
    /// If the path makes no sense.
    pub(crate) fn new(given: Option<&Path>) -> Result<Self, Failure> {
        if let Some(given) = given {
            return Ok(Self::Given(crate::settings::absolute(given)?));
        }
        let around = Around {
            is_root: geteuid().is_root(),
            state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::var_os("HOME"),
        };
        Ok(around.usual().map_or(Self::Homeless, Self::Usual))
    }

    /// Opens the directory, which is made if it is not there; `None`, and a warning in the log, if it cannot be had and nobody asked for it.
    ///
    /// # Errors
    /// If the one that was asked for cannot be used.
    pub(crate) fn open(&self) -> Result<Option<Directory>, Failure> {
        let opened = match self {
            Self::Given(path) | Self::Usual(path) => Directory::open(path),
            Self::Homeless => Err("has no place: neither HOME nor XDG_STATE_HOME is set".to_owned()),
        };
        match opened {
            Ok(directory) => Ok(Some(directory)),
            Err(why) => self.do_without(&why).map(|()| None),
        }
    }

    /// The same for who only looks at what mounts left there: one that is not there is not made, and `None` without a word.
    ///
    /// # Errors
    /// If what is there cannot be used.
    pub(crate) fn open_existing(&self) -> Result<Option<Directory>, Failure> {
        match self {
            Self::Given(path) | Self::Usual(path) if path.symlink_metadata().is_ok() => {
                let failed = |why| Failure::failed(format!("the state directory {} {why}", path.display()));
                Directory::open(path).map(Some).map_err(failed)
            }
            Self::Given(_) | Self::Usual(_) | Self::Homeless => Ok(None),
        }
    }

    /// The directory cannot be used, for the reason that ends the sentence.
    ///
    /// # Errors
    /// If somebody asked for it.
    pub(crate) fn do_without(&self, why: &str) -> Result<(), Failure> {
        let path = match self {
            Self::Given(path) => {
                return Err(Failure::failed(format!("the state directory {} {why}", path.display())));
            }
            Self::Usual(path) => path.as_path(),
            Self::Homeless => Path::new("~"),
        };
        tracing::warn!(
            "the state directory {} {why}. The mount does without: `sluicefs status` does not find it, and if it is killed, unfinished uploads stay at the store until `sluicefs uploads abort` removes them; --state-dir names another directory",
            path.display()
        );
        Ok(())
    }
}

/// What the usual place follows from.
#[derive(Debug, Clone, Default)]
struct Around {
    is_root: bool,
    state_home: Option<OsString>,
    home: Option<OsString>,
}

impl Around {
    /// As the XDG Base Directory Specification has it, for all but root.
    fn usual(self) -> Option<PathBuf> {
        if self.is_root {
            return Some(OF_ROOT.into());
        }
        // "If an implementation encounters a relative path it should consider the path invalid and ignore it."
        let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
        let of_home = || Some(self.home.and_then(absolute)?.join(".local/state"));
        Some(self.state_home.and_then(absolute).or_else(of_home)?.join("sluicefs"))
    }
}

/// An open state directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory(Arc<OwnedFd>);

impl Directory {
    /// Why not, as the end of a sentence that begins with the directory.
    fn open(path: &Path) -> Result<Self, String> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| format!("cannot be made: {error}"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => "is a symbolic link".to_owned(),
            error => format!("cannot be opened: {error}"),
        })?;
        let stat = fstat(&directory).map_err(|error| format!("cannot be looked at: {error}"))?;
        if stat.st_uid != geteuid().as_raw() {
            return Err(format!("belongs to the user {}, not to us", stat.st_uid));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err("can be written to by others: chmod go-w".to_owned());
        }
        accessat(&directory, ".", Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|error| format!("cannot be written to: {error}"))?;
        Ok(Self(Arc::new(directory)))
    }

    /// Listens on a new socket called `name`, which its owner alone may open.
    ///
    /// # Errors
    /// `AddrInUse` if there is something of that name; what the system answered.
    pub(crate) fn listen(&self, name: &str) -> io::Result<UnixListener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode that the socket has when it is bound (unix(7)): others find it closed from the beginning.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(self.path_of(name))?)?;
        listen(&socket, BACKLOG)?;
        Ok(socket.into())
    }

    /// A path to what is called `name`, for this process: it is short, whatever the directory is called, as a socket's must be.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }

    /// Makes the file `name`, or replaces what it says.
    ///
    /// # Errors
    /// What the system answered.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        File::from(openat(&*self.0, name, flags, Mode::RUSR | Mode::WUSR)?).write_all(text.as_bytes())
    }

    /// What the file `name` says.
    ///
    /// # Errors
    /// What the system answered.
    pub(crate) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut text = Vec::new();
        let file = File::from(openat(&*self.0, name, flags, Mode::empty())?);
        file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        Ok(text)
    }

    /// The names that end in `suffix`.
    ///
    /// # Errors
    /// What the system answered.
    pub(crate) fn names(&self, suffix: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&*self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok().filter(|name| name.ends_with(suffix));
            names.extend(name.map(str::to_owned));
        }
        Ok(names)
    }

    /// Removes the file `name`.
    ///
    /// # Errors
    /// What the system answered.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&*self.0, name, AtFlags::empty())?)
    }

    fn journals(&self) -> io::Result<JournalDirectory> {
        Ok(JournalDirectory::new(self.0.try_clone()?))
    }

    /// `bucket`, its uploads noted here.
    ///
    /// # Errors
    /// If no file can be made in the directory.
    pub(crate) fn journaled(&self, bucket: &Arc<dyn Bucket>) -> io::Result<Arc<dyn Bucket>> {
        let journal = UploadJournal::create(self.journals()?, bucket.identity().clone(), now)?;
        Ok(Arc::new(JournaledBucket::new(Arc::clone(bucket), journal)))
    }

    /// Aborts what mounts of `bucket` that were killed left at the store, and says so in the log.
    pub(crate) async fn clean_up(self, bucket: Arc<dyn Bucket>) {
        let swept = match self.journals() {
            Ok(journals) => sweep(&*bucket, &journals).await,
            Err(error) => Err(error),
        };
        match swept {
            Ok(swept) if swept == Default::default() => {}
            Ok(swept) => tracing::info!(
                aborted = swept.aborted,
                left = swept.left,
                "cleaned up after a mount that was killed: uploads that it had not finished"
            ),
            Err(error) => tracing::warn!(%error, "the journals of mounts that were killed cannot be read"),
        }
    }
}

fn now() -> Timestamp {
    let now = UtcDateTime::now();
    Timestamp { secs: now.unix_timestamp(), nanos: now.nanosecond() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_usual_place_is_that_of_the_user() {
        let some = |text: &str| Some(OsString::from(text));
        let user = Around { home: some("/home/u"), ..Around::default() };
        for (around, expected) in [
            (Around { is_root: true, ..user.clone() }, Some("/var/lib/sluicefs")),
            (user.clone(), Some("/home/u/.local/state/sluicefs")),
            (Around { state_home: some("/s"), ..user.clone() }, Some("/s/sluicefs")),
            (Around { state_home: some("relative"), ..user.clone() }, Some("/home/u/.local/state/sluicefs")),
            (Around { home: some(""), ..user }, None),
            (Around::default(), None),
        ] {
            assert_eq!(around.clone().usual().as_deref(), expected.map(Path::new), "{around:?}");
        }
    }

    #[test]
    fn a_directory_that_others_could_write_to_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/state");
        Directory::open(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let refused = |path: &Path, part: &str| {
            let why = Directory::open(path).unwrap_err();
            assert!(why.contains(part), "{why}");
        };
        symlink(&path, root.path().join("link")).unwrap();
        refused(&root.path().join("link"), "symbolic link");
        for mode in [0o720, 0o702, 0o777] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            refused(&path, "chmod go-w");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        Directory::open(&path).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            refused(&path, "user 65534");
        }
        refused(Path::new("/proc/nothing/here"), "cannot be made");
    }
}
