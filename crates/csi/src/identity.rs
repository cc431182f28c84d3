//! The identity service: who this driver is, what it can do, whether it works.

use std::collections::HashMap;
use std::fmt;

use tonic::{Request, Response, Status};

use crate::proto::identity_server;
use crate::proto::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    ProbeRequest, ProbeResponse,
};

/// The driver's name in `CSIDriver`, `PersistentVolume.spec.csi.driver` and the kubelet's directories.
///
/// CSI asks for domain name notation and at most 63 characters.
pub const DRIVER_NAME: &str = "csi.sluicefs.dev";

/// What `Probe` tells the node agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Volumes can be served.
    Ready,
    /// Not yet; ask again.
    Starting,
    /// Something this driver needs is missing, in words for the operator. The agent may restart the container.
    Broken(String),
}

/// Answers the three calls of the identity service.
pub struct Identity {
    readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
}

impl Identity {
    /// An identity service whose `Probe` answers what `readiness` returns at that moment.
    ///
    /// `readiness` is called on the runtime's threads and must not block.
    pub fn new(readiness: impl Fn() -> Readiness + Send + Sync + 'static) -> Self {
        Self { readiness: Box::new(readiness) }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    /// None: the only optional capabilities of a plugin are the controller's, topology and expansion, and none of them is served.
    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities: Vec::new() }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        match (self.readiness)() {
            Readiness::Ready => Ok(Response::new(ProbeResponse { ready: Some(true) })),
            Readiness::Starting => Ok(Response::new(ProbeResponse { ready: Some(false) })),
            // The code that the specification gives to "missing dependencies".
            Readiness::Broken(reason) => Err(Status::failed_precondition(reason)),
        }
    }
}
