//! The `sluicefs` binary as a user meets it: started as a process, against real servers and real mounts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::allow_attributes_without_reason,
    reason = "a test fails by panicking, and says why it was skipped"
)]

mod background;
mod cache;
mod compat;
mod crash;
mod demo;
mod errors;
mod explain;
mod foreground;
mod help;
mod kills;
mod presets;
mod rm;
mod sandbox;
mod staging;
mod status;
mod strain;
mod uploads;
mod users;
mod warm;
mod write_back;
mod writer;
mod writing;
