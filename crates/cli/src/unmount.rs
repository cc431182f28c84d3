//! `sluicefs unmount`: takes a mount away, living or dead.

use sluicefs_fuse_mount::{UnmountMode, clear_dead, unmount};

use crate::args::UnmountArgs;
use crate::failure::Failure;

/// Unmounts. A mount whose server has died is taken away too, whether or not somebody still holds files of it.
///
/// # Errors
/// If nothing of FUSE is mounted there, or it is in use and `--lazy` was not given.
pub(crate) fn run(args: &UnmountArgs) -> Result<(), Failure> {
    if clear_dead(&args.dir)? {
        return Ok(());
    }
    let mode = if args.lazy { UnmountMode::Lazy } else { UnmountMode::Graceful };
    Ok(unmount(&args.dir, mode)?)
}
