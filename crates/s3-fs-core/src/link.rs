//! Symbolic links: which keys stand for them, and which targets are let through.
//!
//! A link called `name` is the object `name.rclonelink`, whose bytes are the target (rclone, `--links`): a listing tells it from a file. Who
//! writes to the bucket chooses targets, and whoever follows one does so with rights of their own, so a target that leads out of the mount is
//! refused unless the settings let it through. That is judged by the words of the target alone: names below the mount's root are
//! directories or links that were judged in the same way.

use crate::attr::FileKind;
use crate::config::{Attributes, FsConfig, Symlinks};
use crate::path;

/// The end of the keys of links (rclone, `fs.LinkSuffix`).
pub(crate) const LINK_SUFFIX: &str = ".rclonelink";

/// The longest target (Linux, `PATH_MAX` less the NUL at its end), in bytes.
pub(crate) const MAX_TARGET_BYTES: u64 = 4095;

/// How the keys of objects tell links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKeys {
    /// By [`LINK_SUFFIX`].
    Suffixed,
    /// Not at all.
    Plain,
}

impl LinkKeys {
    /// Those of a mount with these settings.
    pub(crate) fn of(config: &FsConfig) -> Self {
        match (config.symlinks, config.attributes) {
            (Symlinks::None, _) | (_, Attributes::S3fs) => Self::Plain,
            (Symlinks::Inside | Symlinks::Any, Attributes::None | Attributes::Rclone) => Self::Suffixed,
        }
    }

    /// The name that the last component of a key stands for, and what it is as far as the key tells.
    pub(crate) fn name_of(self, component: &str) -> (&str, FileKind) {
        match component.strip_suffix(LINK_SUFFIX) {
            Some(name) if self == Self::Suffixed && is_link_name(name) => (name, FileKind::Symlink),
            _ => (component, FileKind::File),
        }
    }

    /// What ends the key of something of this kind.
    pub(crate) fn suffix(self, kind: FileKind) -> &'static str {
        if self == Self::Suffixed && kind == FileKind::Symlink { LINK_SUFFIX } else { "" }
    }
}

/// An object whose name is nothing but the suffix is a file, and so is one that would stand for `..`.
fn is_link_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
}

/// Why a target is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It may lead out of the mount.
    Outside,
    /// It is no path, for this reason.
    NoPath(&'static str),
}

/// Whether a link in a directory `depth` levels below the mount's root may have this target.
///
/// `..` counts at the beginning alone: after a name it would go up from wherever that name leads, which the words do not tell.
pub(crate) fn check_target(target: &[u8], depth: usize, allowed: Symlinks) -> Result<(), Refused> {
    if target.is_empty() {
        return Err(Refused::NoPath("it is empty"));
    }
    if target.len() as u64 > MAX_TARGET_BYTES {
        return Err(Refused::NoPath("it has over 4095 bytes"));
    }
    if target.contains(&0) {
        return Err(Refused::NoPath("it has a NUL character"));
    }
    if allowed == Symlinks::Any {
        return Ok(());
    }
    if target.starts_with(b"/") {
        return Err(Refused::Outside);
    }
    let (mut ups, mut has_name) = (0, false);
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if has_name || ups == depth => return Err(Refused::Outside),
            b".." => ups += 1,
            _ => has_name = true,
        }
    }
    Ok(())
}

/// Whether a file cannot have this name, because its key would stand for a link.
pub(crate) fn is_reserved(name: &str, keys: LinkKeys) -> bool {
    path::check_name(name).is_ok() && keys.name_of(name).1 == FileKind::Symlink
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_inside_the_mount_are_let_through() {
        let outside = Err(Refused::Outside);
        for (target, depth, expected) in [
            ("file", 0, Ok(())),
            ("./a//b/", 0, Ok(())),
            ("../file", 1, Ok(())),
            ("../../blobs/x", 2, Ok(())),
            (".././../x", 2, Ok(())),
            ("...", 0, Ok(())),
            ("..", 0, outside),
            ("../file", 0, outside),
            ("../../x", 1, outside),
            ("a/../b", 1, outside),
            ("a/..", 3, outside),
            ("/", 3, outside),
            ("/mnt/file", 3, outside),
        ] {
            assert_eq!(
                check_target(target.as_bytes(), depth, Symlinks::Inside),
                expected,
                "{target} at {depth}"
            );
            assert_eq!(check_target(target.as_bytes(), depth, Symlinks::Any), Ok(()), "{target}");
        }
    }

    #[test]
    fn what_is_no_path_is_never_let_through() {
        let long = vec![b'x'; MAX_TARGET_BYTES as usize + 1];
        for target in [&b""[..], b"a\0b", &long] {
            for allowed in [Symlinks::Inside, Symlinks::Any] {
                assert!(matches!(check_target(target, 9, allowed), Err(Refused::NoPath(_))), "{allowed:?}");
            }
        }
        assert_eq!(check_target(&long[1..], 0, Symlinks::Inside), Ok(()));
        assert_eq!(check_target(b"\xff", 0, Symlinks::Inside), Ok(()), "paths are bytes");
    }

    #[test]
    fn keys_with_the_suffix_are_links() {
        for (component, name, kind) in [
            ("a.rclonelink", "a", FileKind::Symlink),
            ("a", "a", FileKind::File),
            ("a.rclonelink.rclonelink", "a.rclonelink", FileKind::Symlink),
            (".rclonelink", ".rclonelink", FileKind::File),
            ("...rclonelink", "...rclonelink", FileKind::File),
        ] {
            assert_eq!(LinkKeys::Suffixed.name_of(component), (name, kind), "{component}");
            assert_eq!(LinkKeys::Plain.name_of(component), (component, FileKind::File));
            assert_eq!(is_reserved(component, LinkKeys::Suffixed), kind == FileKind::Symlink);
        }
    }
}
