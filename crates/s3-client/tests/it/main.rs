//! The client against servers over the wire.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, say what they skip, and are told by the environment where servers are"
)]

mod black_hole;
mod canned;
mod default_chain;
mod embedded;
mod emulators;
mod faults;
mod outside;
mod tls;
mod wire;
mod write_faults;
mod write_wire;
