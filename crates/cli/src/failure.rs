//! How a command fails: one line that names cause and remedy, and the exit code that scripts branch on.

use std::fmt;
use std::process::ExitCode;

use sluicefs_fuse_mount::MountError;
use sluicefs_s3_client::{Error as StoreError, ErrorKind};

/// The exit codes. They are part of the interface: the text of `--help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line makes no sense. (clap's code for it, too.)
    Usage = 2,
    /// The bucket, the credentials or the endpoint.
    Store = 3,
    /// The mount point, `/dev/fuse`, or the right to mount.
    MountPoint = 4,
}

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:

    0  success
    1  failed for another reason
    2  the command line makes no sense
    3  a problem with the bucket, the credentials or the endpoint
    4  a problem with the mount point, /dev/fuse or the right to mount";

impl ExitStatus {
    /// The status with this number, if there is one; how a background mount tells its parent.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Failed, Self::Usage, Self::Store, Self::MountPoint].into_iter().find(|s| *s as u8 == code)
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: ExitStatus,
    /// One line: cause, then remedy.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, message)
    }

    /// A bucket that cannot be opened. The client's own message names cause and remedy.
    pub(crate) fn store(error: &StoreError) -> Self {
        // Refused before anything was sent: the command line is wrong, not the store.
        let is_usage = error.kind() == ErrorKind::Invalid && error.status().is_none();
        Self::new(if is_usage { ExitStatus::Usage } else { ExitStatus::Store }, error.to_string())
    }
}

impl fmt::Display for Failure {
    /// Stays on one line, whatever a server or a file name put into it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.message.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        Self::new(ExitStatus::MountPoint, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_usage_and_refusals_of_the_server_are_not() {
        let invalid = StoreError::new(ErrorKind::Invalid, "connect");
        for (error, expected) in [
            (invalid.clone(), ExitStatus::Usage),
            (invalid.with_status(400), ExitStatus::Store),
            (StoreError::new(ErrorKind::Forbidden, "list"), ExitStatus::Store),
        ] {
            assert_eq!(Failure::store(&error).status, expected, "{error}");
        }
    }

    #[test]
    fn stays_on_one_line() {
        assert_eq!(Failure::failed("a\nb\u{1b}[31m").to_string(), "a\\nb\\u{1b}[31m");
    }

    #[test]
    fn codes_survive_the_way_to_the_parent() {
        for status in [ExitStatus::Failed, ExitStatus::Usage, ExitStatus::Store, ExitStatus::MountPoint] {
            assert_eq!(ExitStatus::from_code(status as u8), Some(status));
        }
        assert_eq!((ExitStatus::from_code(0), ExitStatus::from_code(77)), (None, None));
    }
}
