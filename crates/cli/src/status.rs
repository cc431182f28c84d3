//! `sluicefs status`: what the mounts of this user are doing, asked through their admin sockets.

mod text;

use serde_json::{Value, json};

pub(crate) use text::size;

use crate::admin::{Answer, Asked, STATUS, Wanted, ask_all};
use crate::args::StatusArgs;
use crate::failure::{ExitStatus, Failure};
use crate::logging::Audience;
use crate::state::Choice;
use crate::{note, runtime, say, start_log};

/// Prints the status of all mounts, or of one.
///
/// # Errors
/// If the state directory cannot be used, nothing is mounted at the directory that was named, or a mount is dead or does not answer.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    start_log(&args.ask.logs, Audience::Narrated)?;
    let choice = Choice::new(args.ask.state_dir.as_deref())?;
    let wanted = args.dir.as_deref().map(Wanted::new).transpose()?;
    let mut mounts = match choice.open_existing()? {
        Some(directory) => runtime::new()?
            .block_on(ask_all(&directory, &json!({ "ask": STATUS }), |mount| {
                wanted.as_ref().is_none_or(|wanted| wanted.is(&mount.mount_point))
            }))
            .map_err(|error| Failure::failed(format!("the state directory cannot be read: {error}")))?,
        None => Vec::new(),
    };
    if args.ready {
        return ready(mounts.first(), wanted.as_ref());
    }
    mounts.sort_by(|one, other| one.mount.mount_point.cmp(&other.mount.mount_point));
    for asked in &mounts {
        show(asked, args.json)?;
    }
    match (&wanted, mounts.as_slice()) {
        (Some(wanted), []) => Err(wanted.absent()),
        (None, []) if !args.json => {
            note("nothing is mounted");
            Ok(())
        }
        (_, mounts) => all_well(mounts),
    }
}

/// Whether the mount that was named can be used.
fn ready(asked: Option<&Asked>, wanted: Option<&Wanted>) -> Result<(), Failure> {
    let why = match asked {
        None => wanted.map(|wanted| wanted.absent().message),
        Some(asked) => match &asked.answer {
            Answer::Said(mount) if mount["ready"] == true => return Ok(()),
            Answer::Said(mount) => {
                let at = asked.mount.mount_point.display();
                Some(format!("the mount at {at} is not ready: {}", text::warm_up(&mount["warm_up"])))
            }
            Answer::Dead | Answer::Silent(_) => asked.what_is_wrong(),
        },
    };
    Err(Failure::failed(why.unwrap_or_default()))
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
    let mut ill: Vec<String> = mounts.iter().filter_map(Asked::what_is_wrong).collect();
    let Some(last) = ill.pop() else { return Ok(()) };
    ill.iter().for_each(|message| note(&format!("error: {message}")));
    Err(Failure::new(ExitStatus::MountPoint, last))
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
