//! Directories that belong to this user alone, made if they are not there.
//!
//! What lies in them is read back as the bytes of files, so nobody else may have put it there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Permission bits by which others than the owner could change what is in a directory.
const OTHERS_WRITE: u32 = 0o022;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheDirError {
    /// Something else than a directory, or a symbolic link to one.
    #[error("{} is not a directory; name another one, or remove it", .0.display())]
    NotADirectory(PathBuf),
    /// Somebody else's.
    #[error("{} belongs to the user {owner}, not to you; name a directory of your own", path.display())]
    NotOurs {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others could put bytes there.
    #[error("others may write to {} (mode {mode:04o}); run: chmod go-w {}", path.display(), path.display())]
    Writable {
        /// Which directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Makes the error of `action` on `path`.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheDirError {
    let path = path.to_owned();
    move |source| CacheDirError::Io { action, path, source }
}

/// Makes the directory `path` if it is not there, and checks that it is this user's alone.
///
/// # Errors
/// [`CacheDirError`] says what is there instead, or what the system refused.
pub fn own_directory(path: &Path) -> Result<(), CacheDirError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    // Whatever else is there is told below.
    made.or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .map_err(failed("make the directory", path))?;
    let found = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if !found.is_dir() {
        return Err(CacheDirError::NotADirectory(path.to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(CacheDirError::NotOurs { path: path.to_owned(), owner: found.uid() });
    }
    let mode = found.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        return Err(CacheDirError::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Opens the file `path` to lock it, made if it is not there.
pub(crate) fn lock_file(path: &Path) -> Result<File, CacheDirError> {
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(failed("open", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_is_made_for_this_user_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        own_directory(&path).unwrap();
        own_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn what_others_may_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        for (mode, is_fine) in [(0o755, true), (0o775, false), (0o757, false), (0o1777, false), (0o500, true)]
        {
            fs::set_permissions(parent.path(), fs::Permissions::from_mode(mode)).unwrap();
            let owned = own_directory(parent.path());
            match owned {
                Ok(()) => assert!(is_fine, "{mode:o}"),
                Err(CacheDirError::Writable { mode: told, .. }) => assert!(!is_fine && told == mode),
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        fs::write(&file, "x").unwrap();
        symlink(parent.path(), &link).unwrap();
        for path in [file, link] {
            assert!(matches!(own_directory(&path), Err(CacheDirError::NotADirectory(_))), "{path:?}");
        }
    }
}
