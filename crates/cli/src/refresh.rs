//! `sluicefs refresh`: a mount asks the store anew for all that it knows, and takes new versions where it pins them.

use serde_json::json;

use crate::admin::{REFRESH, ask_one};
use crate::args::RefreshArgs;
use crate::failure::Failure;
use crate::logging::Audience;
use crate::state::Choice;
use crate::{note, runtime, say, start_log};

/// Asks the mount, and tells what it did.
///
/// # Errors
/// If there is no such mount, or it does not answer.
pub(crate) fn run(args: &RefreshArgs) -> Result<(), Failure> {
    start_log(&args.ask.logs, Audience::Narrated)?;
    let choice = Choice::new(args.ask.state_dir.as_deref())?;
    let asked = ask_one(&choice, &args.dir, |_| json!({ "ask": REFRESH }), |_| {});
    let (found, answer) = runtime::new()?.block_on(asked)?;
    let at = found.mount.mount_point.display();
    if answer["untold"].as_u64() > Some(0) {
        note(&format!(
            "the kernel was not told of {} names; it may show their old sizes until their time is over",
            answer["untold"]
        ));
    }
    if args.json {
        return say(&answer.to_string());
    }
    let whole = if found.below.as_os_str().is_empty() { "" } else { " as a whole" };
    say(&format!(
        "refreshed {at}{whole}: {} names are looked up anew, {} objects had pinned versions",
        answer["names"], answer["released"]
    ))
}
