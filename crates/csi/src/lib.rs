//! The SluiceFS driver for the Container Storage Interface (CSI): how Kubernetes asks for mounts.
//!
//! Today it serves the identity service, the part of the interface by which a node agent learns who answers on a socket and whether
//! it works. [`Listener`] owns the socket, [`serve`] the gRPC server on it.
#![forbid(unsafe_code)]

pub mod identity;
mod listener;
pub mod proto;
mod server;

pub use identity::{DRIVER_NAME, Identity, Readiness};
pub use listener::{Endpoint, InvalidEndpoint, ListenError, Listener};
pub use server::{ServeError, serve};
