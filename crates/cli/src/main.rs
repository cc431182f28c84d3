//! The `sluicefs` command: reads arguments and environment, prints, and exits; everything else is in the crates below.
//!
//! Under the name `mount-s3` it is that command, see `compat.rs`.
#![forbid(unsafe_code)]
#![allow(rustdoc::bare_urls, reason = "the docs of arguments are help texts, and printed as they are")]

mod admin;
mod advice;
mod args;
mod background;
mod cache;
mod compat;
mod csi;
mod demo;
mod explain;
mod failure;
mod logging;
mod memory;
mod mount;
mod open_files;
mod preset;
mod reference;
mod refresh;
mod rm;
mod runtime;
mod settings;
mod signals;
mod snapshot;
mod state;
mod status;
mod store;
mod unmount;
mod uploads;
mod warm;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{FromArgMatches, Parser};

use args::{Cli, Command, LogArgs};
use compat::{CompatCli, Personality};
use failure::Failure;
use logging::Audience;
use mount::Invocation;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let personality = Personality::of(args.first().map(OsString::as_os_str));
    let result = match personality {
        Personality::Sluicefs => {
            let matches = reference::command().get_matches_from(&args);
            run(Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()), &args)
        }
        Personality::MountHelper | Personality::MountS3 => run_mount_s3(personality, args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A mount in the background has told its parent.
            if !failure.message.is_empty() {
                note(&format!("error: {failure}"));
            }
            failure.status.into()
        }
    }
}

fn run(cli: Cli, args: &[OsString]) -> Result<(), Failure> {
    match cli.command {
        Command::Mount(mount) => mount::run(&mount, Invocation { personality: Personality::Sluicefs, args }),
        Command::Unmount(unmount) => unmount::run(&unmount),
        Command::Status(status) => status::run(&status),
        Command::Refresh(refresh) => refresh::run(&refresh),
        Command::Explain(explain) => explain::run(&explain),
        Command::Rm(rm) => rm::run(&rm),
        Command::Uploads(uploads) => uploads::run(&uploads.command),
        Command::Warm(warm) => warm::run(&warm),
        Command::Cache(cache) => cache::run(&cache.command),
        Command::Demo(demo) => {
            start_log(&demo.logs, Audience::Narrated)?;
            demo::run(&demo)
        }
        Command::Csi(csi) => {
            start_log(&csi.logs, Audience::Terminal)?;
            csi::run(&csi)
        }
        Command::Completions(completions) => reference::completions(&completions),
        Command::DocsMarkdown => reference::markdown(),
    }
}

fn run_mount_s3(personality: Personality, args: Vec<OsString>) -> Result<(), Failure> {
    let args = compat::expand_fstab_options(args)?;
    let (mount, notes) = CompatCli::parse_from(&args).into_mount()?;
    if !mount.process.report_to_parent {
        notes.iter().for_each(|text| note(&format!("note: {text}")));
    }
    mount::run(&mount, Invocation { personality, args: &args })
}

/// Starts the log of a command in the foreground.
fn start_log(args: &LogArgs, audience: Audience) -> Result<(), Failure> {
    logging::init(args, audience, log_filter(Personality::Sluicefs))?;
    Ok(())
}

/// The filter of the log that the environment asks for.
fn log_filter(personality: Personality) -> Option<OsString> {
    personality.log_variables().iter().find_map(std::env::var_os)
}

/// Prints a line of what was asked for.
///
/// # Errors
/// If standard output is closed; without a message if its reader has seen enough.
fn say(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::failed(""),
        _ => Failure::failed(format!("cannot print: {error}")),
    })
}

/// Tells the person at the terminal. If nobody can be told, nobody is.
fn note(text: &str) {
    drop(writeln!(io::stderr(), "sluicefs: {text}"));
}
