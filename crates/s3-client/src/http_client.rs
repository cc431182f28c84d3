//! The HTTP client: trust roots, proxies, and one pool of connections for all requests of a bucket.
//!
//! Proxies come from the environment, as every HTTP client takes them (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`). This
//! machine and the link-local addresses of instance metadata are never asked for through one: no proxy could reach them.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use crate::config::ClientConfig;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};

/// S3 closes an idle connection after some 5 to 20 s; sending on a closed one costs a retry.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// Makes the client. It trusts the system's certificates and those of the CA bundle.
///
/// # Errors
/// `BadEndpoint` if the CA bundle cannot be read or holds no certificate.
pub(crate) fn http_client(config: &ClientConfig) -> Result<SharedHttpClient> {
    let mut trust = TrustStore::default();
    if let Some(path) = &config.ca_bundle {
        trust.add_pem_certificate(read_ca_bundle(path)?);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|e| Error::new(ErrorKind::BadEndpoint, "connect").with_source(e))?;
    let direct = pool(tls.clone(), ProxyConfig::disabled());
    let proxied = pool(tls, ProxyConfig::from_env());
    Ok(SharedHttpClient::new(Routes { direct, proxied }))
}

/// A pool of connections per pair of limits: those of S3 differ from those of the services that give credentials.
fn pool(tls: TlsContext, proxies: ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .enable_tcp_nodelay(true)
            .pool_idle_timeout(IDLE_CONNECTION)
            .proxy_config(proxies.clone());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls.clone()).build()
    })
}

fn read_ca_bundle(path: &Path) -> Result<Vec<u8>> {
    let error = |reason: String| {
        let message = format!("the CA bundle {} {reason}", path.display());
        Error::new(ErrorKind::BadEndpoint, "connect").with_message(message)
    };
    let pem = std::fs::read(path).map_err(|e| error(format!("cannot be read: {e}")).with_source(e))?;
    // The TLS library would skip what is no certificate, and then trust nothing that the file was meant to add.
    if !pem.windows(27).any(|w| w == b"-----BEGIN CERTIFICATE-----") {
        return Err(error("holds no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(pem)
}

/// The two ways out.
#[derive(Debug)]
struct Routes<T> {
    direct: T,
    proxied: T,
}

impl HttpClient for Routes<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Routes {
            direct: self.direct.http_connector(settings, components),
            proxied: self.proxied.http_connector(settings, components),
        })
    }
}

impl HttpConnector for Routes<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if is_local(request.uri()) { self.direct.call(request) } else { self.proxied.call(request) }
    }
}

/// Whether no proxy could reach the host of a request.
fn is_local(uri: &str) -> bool {
    let end = uri.find(['?', '#']).unwrap_or(uri.len());
    let Ok(endpoint) = Endpoint::parse(&uri[..end]) else { return false };
    let link_local = match endpoint.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_link_local(),
        // fd00:ec2::254 is instance metadata, fd00:ec2::23 EKS pod identity.
        Ok(IpAddr::V6(ip)) => ip.is_unicast_link_local() || ip.segments()[..2] == [0xfd00, 0x0ec2],
        Err(_) => false,
    };
    link_local || endpoint.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_proxy_can_reach_is_asked_directly() {
        for (uri, local) in [
            ("http://169.254.169.254/latest/api/token", true),
            ("http://169.254.170.23/v1/credentials", true),
            ("http://[fd00:ec2::254]/latest/", true),
            ("http://127.0.0.1:9000/bucket?list-type=2&prefix=a%2Fb", true),
            ("http://localhost:9000/bucket/a:b@c", true),
            ("https://bucket.s3.eu-west-1.amazonaws.com/?list-type=2", false),
            ("http://10.0.0.7:9000/", false),
            ("http://[fd00:beef::1]/", false),
        ] {
            assert_eq!(is_local(uri), local, "{uri}");
        }
    }

    #[test]
    fn a_ca_bundle_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config =
            |path: &Path| ClientConfig { ca_bundle: Some(path.to_owned()), ..ClientConfig::default() };
        let error = http_client(&config(file.path())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadEndpoint);
        assert!(error.to_string().contains("no PEM certificate"), "{error}");
        let error = http_client(&config(Path::new("/nonexistent.pem"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent.pem cannot be read"), "{error}");
    }
}
