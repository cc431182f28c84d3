//! Real mounts of buckets in memory, used as programs use them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; real programs run on the real clock, and the environment tells where servers are"
)]

mod attributes;
mod directories;
mod economy;
mod lengths;
mod lifecycle;
mod links;
mod loading;
mod outside;
mod passthrough;
mod programs;
mod read_only;
mod reading;
mod refusals;
mod server;
mod staging;
mod stuck;
mod support;
mod traffic;
mod versions;
mod writing;
mod xattrs;
