//! Turns what the user names into the path that mountinfo knows.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{MountError, Result};

/// The absolute path of `target` without symbolic links, as mountinfo has it.
///
/// Never asks the target itself, only what leads to it: on a dead mount that would fail.
pub(crate) fn resolve(target: &Path) -> Result<PathBuf> {
    let mut path = target.to_owned();
    // As many symbolic links as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let (parent, name) = split(&path);
        let Some(name) = name else {
            return path.canonicalize().map_err(|error| MountError::from_target(target, error));
        };
        let parent = parent.canonicalize().map_err(|error| MountError::from_target(target, error))?;
        let whole = parent.join(name);
        match std::fs::read_link(&whole) {
            Ok(link) => path = parent.join(link),
            // EINVAL: not a symbolic link. ENOTCONN: a dead mount, which is none either.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::NOTCONN)) => {
                return Ok(whole);
            }
            Err(error) => return Err(MountError::from_target(target, error)),
        }
    }
    Err(MountError::Target { target: target.to_owned(), source: io::Error::from(Errno::LOOP) })
}

/// Parent and last name; no name for `/`, `.` and what ends in `..`.
fn split(path: &Path) -> (&Path, Option<&OsStr>) {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    (parent, path.file_name())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn targets_resolve_to_what_mountinfo_says() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("a/b", root.join("link")).unwrap();
        symlink(root.join("link"), root.join("second")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (given, expected) in [
            ("a/b", "a/b"),
            ("a/b/", "a/b"),
            ("a/./b/../b", "a/b"),
            ("a/b/..", "a"),
            ("link", "a/b"),
            ("second", "a/b"),
        ] {
            assert_eq!(resolve(&root.join(given)).unwrap(), root.join(expected), "{given}");
        }
        assert!(matches!(resolve(&root.join("none")), Err(MountError::TargetMissing(_))));
        assert!(matches!(resolve(&root.join("none/x")), Err(MountError::TargetMissing(_))));
        assert!(matches!(resolve(&root.join("loop")), Err(MountError::Target { .. })));
        assert_eq!(resolve(Path::new("/")).unwrap(), Path::new("/"));
        assert_eq!(resolve(Path::new(".")).unwrap(), Path::new(".").canonicalize().unwrap());
    }
}
