//! Which mount a path that was named is on.

use std::path::{Path, PathBuf};

use super::Mounted;
use crate::failure::{ExitStatus, Failure};

/// The directory that was named.
#[derive(Debug)]
pub(crate) struct Wanted {
    given: PathBuf,
    /// A link to it is the same directory. The last component is not looked at: a mount that hangs would hang us.
    real: PathBuf,
}

impl Wanted {
    /// Looks at nothing that lies on a mount whose mount point is named.
    ///
    /// # Errors
    /// If the path makes no sense.
    pub(crate) fn new(dir: &Path) -> Result<Self, Failure> {
        let given: PathBuf = crate::settings::absolute(dir)?.components().collect();
        let real = match (given.parent(), given.file_name()) {
            (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)).ok(),
            _ => None,
        };
        let real = real.unwrap_or_else(|| given.clone());
        // A link is no mount point, so that following it looks at no mount but the one it leads to.
        let real = real.read_link().map_or(real.clone(), |target| real.with_file_name(target));
        Ok(Self { given, real })
    }

    /// Whether it is this mount point.
    pub(crate) fn is(&self, mount_point: &Path) -> bool {
        mount_point == self.given || mount_point == self.real
    }

    /// Where on `mount` it is, if it is there.
    pub(super) fn found(&self, mount: Mounted) -> Option<Found> {
        let below = [&self.given, &self.real]
            .into_iter()
            .find_map(|dir| dir.strip_prefix(&mount.mount_point).ok())?;
        Some(Found { below: below.to_owned(), mount })
    }

    /// That there is no such mount.
    pub(crate) fn absent(&self) -> Failure {
        let message = format!(
            "no mount of yours at {}; one that was made with another --state-dir, or by another user, is found with that",
            self.given.display()
        );
        Failure::new(ExitStatus::MountPoint, message)
    }
}

/// A mount, and a place on it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) mount: Mounted,
    /// The path from the mount point on; empty for that itself.
    pub(crate) below: PathBuf,
}
