//! `sluicefs csi`: the CSI driver as a process, until SIGTERM or SIGINT.

use std::path::Path;

use sluicefs_csi::{DRIVER_NAME, Identity, Listener, Readiness, serve};

use crate::args::CsiArgs;
use crate::failure::Failure;
use crate::runtime;
use crate::signals::Signals;

/// Serves until a signal says stop.
///
/// # Errors
/// If the socket cannot be listened on.
pub(crate) fn run(args: &CsiArgs) -> Result<(), Failure> {
    runtime::new()?.block_on(async {
        let mut signals = Signals::listen()?;
        let listener = Listener::bind(&args.endpoint).map_err(|error| Failure::failed(error.to_string()))?;
        tracing::info!(endpoint = %args.endpoint.path().display(), driver = DRIVER_NAME, "serving CSI");
        let shutdown = async {
            let signal = signals.next().await;
            tracing::info!(signal, "stopping");
        };
        serve(listener, Identity::new(readiness), shutdown)
            .await
            .map_err(|error| Failure::failed(error.to_string()))
    })
}

fn readiness() -> Readiness {
    if Path::new("/dev/fuse").exists() {
        Readiness::Ready
    } else {
        Readiness::Broken(
            "/dev/fuse does not exist: load the module fuse on the node, and give the pod the device"
                .to_owned(),
        )
    }
}
