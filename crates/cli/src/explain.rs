//! `sluicefs explain`: how a file of a mount is read, how that is served, and what would make it faster.

mod text;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::admin::{EXPLAIN, ask_one};
use crate::args::ExplainArgs;
use crate::failure::Failure;
use crate::logging::Audience;
use crate::settings::absolute;
use crate::state::Choice;
use crate::{runtime, say, start_log};

/// Prints what the mount knows of a file.
///
/// # Errors
/// If the file is in no mount of this user's that answers.
pub(crate) fn run(args: &ExplainArgs) -> Result<(), Failure> {
    start_log(&args.ask.logs, Audience::Narrated)?;
    let file: PathBuf = absolute(&args.file)?.components().collect();
    let choice = Choice::new(args.ask.state_dir.as_deref())?;
    let mut answer = ask(&choice, &file)?;
    // A link in the mount stands for another file. The mount has just answered, so looking for that hangs nowhere.
    if answer["read"].is_null()
        && let Ok(real) = file.canonicalize()
        && real != file
    {
        answer = ask(&choice, &real)?;
    }
    if args.json {
        return say(&answer.to_string());
    }
    say(&text::of_file(&file, &answer))
}

/// What the mount that `file` lies in says of it.
fn ask(choice: &Choice, file: &Path) -> Result<Value, Failure> {
    let asked = ask_one(
        choice,
        file,
        |found| json!({ "ask": EXPLAIN, "path": found.below.to_string_lossy() }),
        |_| {},
    );
    runtime::new()?.block_on(asked).map(|(_, answer)| answer)
}
