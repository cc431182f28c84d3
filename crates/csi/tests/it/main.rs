//! The driver as a node agent meets it: gRPC over its socket.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper_util::rt::TokioIo;
use sluicefs_csi::proto::identity_client::IdentityClient;
use sluicefs_csi::proto::{GetPluginCapabilitiesRequest, GetPluginInfoRequest, ProbeRequest};
use sluicefs_csi::{DRIVER_NAME, Endpoint, Identity, ListenError, Listener, Readiness, serve};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

/// A server on a socket in a directory of its own; both end with it.
struct Driver {
    dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

impl Driver {
    fn start(readiness: impl Fn() -> Readiness + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&endpoint(&dir.path().join("csi.sock"))).unwrap();
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let shutdown = async { drop(stopped.await) };
            serve(listener, Identity::new(readiness), shutdown).await.unwrap();
        });
        Self { dir, stop: Some(stop), tasks }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("csi.sock")
    }

    async fn client(&self) -> IdentityClient<Channel> {
        let path = self.socket();
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = tonic::transport::Endpoint::from_static("http://localhost")
            .connect_with_connector(connect)
            .await
            .unwrap();
        IdentityClient::new(channel)
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.dir
    }
}

fn endpoint(path: &Path) -> Endpoint {
    format!("unix://{}", path.display()).parse().unwrap()
}

#[tokio::test]
async fn tells_its_name_and_version() {
    let driver = Driver::start(|| Readiness::Ready);
    let info = driver.client().await.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.name.as_str(), info.vendor_version.as_str()), (DRIVER_NAME, env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn claims_no_service_that_it_does_not_have() {
    let driver = Driver::start(|| Readiness::Ready);
    let mut client = driver.client().await;
    let reply = client.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap();
    assert!(reply.into_inner().capabilities.is_empty());
}

#[tokio::test]
async fn probe_follows_the_state_of_the_driver() {
    let states = [Readiness::Starting, Readiness::Ready, Readiness::Broken("no /dev/fuse".to_owned())];
    let next = Arc::new(AtomicUsize::new(0));
    let driver = Driver::start(move || states[next.fetch_add(1, Ordering::Relaxed)].clone());
    let mut client = driver.client().await;
    assert_eq!(client.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(false));
    assert_eq!(client.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    let error = client.probe(ProbeRequest {}).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "no /dev/fuse"));
}

#[tokio::test]
async fn socket_is_the_owners_alone_and_goes_with_the_server() {
    let driver = Driver::start(|| Readiness::Ready);
    let meta = std::fs::symlink_metadata(driver.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    drop(driver.client().await);
    let dir = driver.stop().await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("csi.sock");
    // The standard listener leaves its file behind, as a killed driver does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _listener = Listener::bind(&endpoint(&path)).unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn socket_of_a_living_driver_is_left_alone() {
    let driver = Driver::start(|| Readiness::Ready);
    let refused = Listener::bind(&endpoint(&driver.socket()));
    assert!(matches!(refused, Err(ListenError::InUse(_))), "{refused:?}");
    driver.client().await.probe(ProbeRequest {}).await.unwrap();
}

#[tokio::test]
async fn file_that_is_no_socket_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("csi.sock");
    std::fs::write(&path, "precious").unwrap();
    let refused = Listener::bind(&endpoint(&path));
    assert!(matches!(refused, Err(ListenError::NotASocket(_))), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
