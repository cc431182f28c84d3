//! The project's own checks, test runner and benchmarks: `cargo xtask <command>`.
//!
//! It depends on none of the crates it checks, so it builds in seconds and works when they do not.
#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a tool for developers prints, reads the environment and measures real time"
)]

mod bench;
mod ci;
mod command;
mod licences;
mod models;
mod reference;
mod suites;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Checks, tests and measures SluiceFS.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Checks the invariants of docs/ARCHITECTURE.md on the text of the repository.
    Tidy,
    /// Formatting, lints, tidy and unit tests: before each commit.
    Check,
    /// All tests of the workspace, with the outside S3 servers they use.
    Test {
        /// Given to `cargo test`, such as `-p sluicefs-core` or `-- resolve`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything that must pass before a change lands.
    Ci,
    /// Writes docs/CLI.md from the command line's own help.
    Docs,
    /// Measures a release build side by side with Mountpoint.
    Bench(bench::Bench),
    /// Measures how models load from a mount, or what damage does to disk caches, side by side with other programs.
    Models(models::Models),
    /// Runs outside test suites and everyday programs on a mount of a release build.
    Suites(suites::Suites),
}

fn main() -> ExitCode {
    let Err(error) = run(Args::parse().task) else { return ExitCode::SUCCESS };
    // The causes on one line: a back-trace of this program would bury what it ran.
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

fn run(task: Task) -> Result<()> {
    let root = workspace::root();
    match task {
        Task::Tidy => tidy::run(&root),
        Task::Check => ci::check(&root),
        Task::Test { args } => ci::test(&root, &args),
        Task::Ci => ci::ci(&root),
        Task::Docs => reference::write(&root),
        Task::Bench(bench) => bench.run(&root),
        Task::Models(models) => models.run(&root),
        Task::Suites(suites) => suites.run(&root),
    }
}
