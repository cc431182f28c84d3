//! `sluicefs status`: what the mounts of this user are doing, asked through their admin sockets.

mod text;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::admin::{Answer, Asked, ask_all};
use crate::args::StatusArgs;
use crate::failure::{ExitStatus, Failure};
use crate::logging::Audience;
use crate::snapshot;
use crate::state::Choice;
use crate::{note, runtime, say, start_log};

/// Prints the status of all mounts, or of one.
///
/// # Errors
/// If the state directory cannot be used, nothing is mounted at the directory that was named, or a mount is dead or does not answer.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    start_log(&args.logs, Audience::Narrated)?;
    let choice = Choice::new(args.state_dir.as_deref())?;
    let wanted = args.dir.as_deref().map(Wanted::new).transpose()?;
    let mut mounts = match choice.open_existing()? {
        Some(directory) => runtime::new()?
            .block_on(ask_all(&directory, &json!({ "ask": snapshot::STATUS }), |mount| {
                wanted.as_ref().is_none_or(|wanted| wanted.is(&mount.mount_point))
            }))
            .map_err(|error| Failure::failed(format!("the state directory cannot be read: {error}")))?,
        None => Vec::new(),
    };
    mounts.sort_by(|one, other| one.mount.mount_point.cmp(&other.mount.mount_point));
    for asked in &mounts {
        show(asked, args.json)?;
    }
    match (&wanted, mounts.as_slice()) {
        (Some(wanted), []) => {
            let message = format!(
                "no mount of yours at {}; one that was made with another --state-dir, or by another user, is found with that",
                wanted.given.display()
            );
            Err(Failure::new(ExitStatus::MountPoint, message))
        }
        (None, []) if !args.json => {
            note("nothing is mounted");
            Ok(())
        }
        (_, mounts) => all_well(mounts),
    }
}

fn show(asked: &Asked, as_json: bool) -> Result<(), Failure> {
    match (&asked.answer, as_json) {
        (Answer::Said(mount), true) => say(&mount.to_string()),
        (Answer::Said(mount), false) => say(&text::of_mount(mount)),
        (Answer::Dead | Answer::Silent(_), true) => say(&asked.as_json().to_string()),
        // The errors tell.
        (Answer::Dead | Answer::Silent(_), false) => Ok(()),
    }
}

/// Tells each mount that is not well, the last of them as the error.
fn all_well(mounts: &[Asked]) -> Result<(), Failure> {
    let mut ill: Vec<String> = mounts.iter().filter_map(what_is_wrong).collect();
    let Some(last) = ill.pop() else { return Ok(()) };
    ill.iter().for_each(|message| note(&format!("error: {message}")));
    Err(Failure::new(ExitStatus::MountPoint, last))
}

fn what_is_wrong(asked: &Asked) -> Option<String> {
    let (at, pid) = (asked.mount.mount_point.display(), asked.mount.pid);
    match &asked.answer {
        Answer::Said(_) => None,
        Answer::Dead => Some(format!(
            "the mount of {} at {at} is dead: its process {pid} was killed; mount it again, or run: sluicefs unmount {at}",
            asked.mount.source
        )),
        Answer::Silent(why) => Some(format!(
            "the mount of {} at {at} does not answer: its process {pid} {why}",
            asked.mount.source
        )),
    }
}

/// The directory that was named.
struct Wanted {
    given: PathBuf,
    /// A link to it is the same directory. The last component is not looked at: a mount that hangs would hang us.
    real: PathBuf,
}

impl Wanted {
    fn new(dir: &Path) -> Result<Self, Failure> {
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

    fn is(&self, mount_point: &Path) -> bool {
        mount_point == self.given || mount_point == self.real
    }
}

impl Asked {
    fn as_json(&self) -> Value {
        let state = match self.answer {
            Answer::Said(_) => "serving",
            Answer::Dead => "dead",
            Answer::Silent(_) => "silent",
        };
        json!({
            "state": state,
            "mount_point": self.mount.mount_point.to_string_lossy(),
            "source": self.mount.source,
            "pid": self.mount.pid,
        })
    }
}
