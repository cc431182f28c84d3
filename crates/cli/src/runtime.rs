//! The tokio runtime of a command.

use tokio::runtime::{Builder, Runtime};

use crate::failure::Failure;

/// A runtime with as many workers as the machine has cores, but at least two: one that computes a checksum must not hold up the one that
/// answers the kernel.
///
/// # Errors
/// If threads cannot be started.
pub(crate) fn new() -> Result<Runtime, Failure> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, MAX_WORKERS))
        .thread_name("sluicefs")
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))
}

/// A 200 Gbit/s instance is kept busy by fewer; the rest of the cores are for those who read.
const MAX_WORKERS: usize = 16;
