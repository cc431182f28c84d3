//! The gRPC server on the driver's socket.

use std::future::Future;

use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::identity::Identity;
use crate::listener::Listener;
use crate::proto::identity_server::IdentityServer;

/// Why the server stopped before it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("the CSI server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Answers calls on `listener` until `shutdown` completes, then finishes the calls under way and removes the socket.
///
/// Dropping the future stops at once; the socket is removed then too.
///
/// # Errors
/// [`ServeError`] if the transport fails.
pub async fn serve(
    listener: Listener,
    identity: Identity,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let (incoming, _socket_file) = listener.into_parts();
    Server::builder()
        .add_service(IdentityServer::new(identity))
        .serve_with_incoming_shutdown(UnixListenerStream::new(incoming), shutdown)
        .await?;
    Ok(())
}
