//! What is made from the definition of the command line: shell completions and the reference in `docs/CLI.md`.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs, MOUNT_EXAMPLES};
use crate::failure::Failure;
use crate::preset;

/// The command line with everything that its help tells.
pub(crate) fn command() -> clap::Command {
    let help = format!("{}\n\n{MOUNT_EXAMPLES}", preset::help());
    Cli::command().mut_subcommand("mount", |mount| mount.after_help(help.clone()).after_long_help(help))
}

/// Prints the completions for a shell.
///
/// # Errors
/// If standard output is closed.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "sluicefs", &mut script);
    print(&script)
}

/// Prints the reference as Markdown.
///
/// # Errors
/// If standard output is closed.
pub(crate) fn markdown() -> Result<(), Failure> {
    let options = clap_markdown::MarkdownOptions::new()
        .title("The command line of sluicefs".to_owned())
        .show_footer(false);
    print(clap_markdown::help_markdown_command_custom(&command(), &options).as_bytes())
}

fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::failed(format!("cannot print: {error}"))),
    }
}
