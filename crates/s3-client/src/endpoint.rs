//! Where requests go: endpoint URLs, the one HTTP client with its trust roots and proxies, and the region.
//!
//! The parsing here is pure. [`http_client`] makes the pool of connections that all requests of a bucket share, and
//! [`discover_region`] asks the sources that aws-config knows, instance metadata last and under a limit of its own.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use crate::config::{ClientConfig, CredentialSource};
use crate::error::{Error, ErrorKind, Result};

/// What Amazon itself assumes of a client without a region.
pub(crate) const DEFAULT_REGION: &str = "us-east-1";

/// How a URL encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// The parts of an endpoint URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How it encrypts.
    pub scheme: Scheme,
    /// A host name in lower case, or an address (IPv6 without brackets).
    pub host: String,
    /// The port, if not the scheme's own.
    pub port: Option<u16>,
    /// What every path begins with; empty or `/...` without a slash at the end.
    pub path: String,
}

/// Why a text is no endpoint URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither `http://` nor `https://`.
    #[error("must begin with http:// or https://")]
    Scheme,
    /// Nothing, or no host name.
    #[error("has no valid host")]
    Host,
    /// Not a number to 65535.
    #[error("has an invalid port")]
    Port,
    /// Credentials in a URL end up in logs.
    #[error("must not hold a user name or password")]
    UserInfo,
    /// Neither can be kept in a request to S3.
    #[error("must not hold a query or fragment")]
    Query,
}

impl Endpoint {
    /// Reads `http[s]://host[:port][/path]`.
    ///
    /// # Errors
    /// What part is wrong.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(EndpointError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(EndpointError::Query);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        Ok(Self { scheme, host, port, path: path.trim_end_matches('/').to_owned() })
    }

    /// Whether packets stay on this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether Amazon runs it.
    pub fn is_aws(&self) -> bool {
        is_aws_host(&self.host)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
        })?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

fn split_port(authority: &str) -> Result<(String, Option<u16>), EndpointError> {
    let parse_port = |text: &str| text.parse::<u16>().ok().filter(|p| *p != 0).ok_or(EndpointError::Port);
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(EndpointError::Host)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| EndpointError::Host)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if rest.is_empty() => None,
            None => return Err(EndpointError::Port),
        };
        return Ok((address.to_owned(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (authority, None),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(legal) {
        return Err(EndpointError::Host);
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// Whether a host lies under one of Amazon's suffixes.
pub(crate) fn is_aws_host(host: &str) -> bool {
    [".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"].iter().any(|suffix| host.ends_with(suffix))
}

/// The region that the host of a redirect names: `bucket.s3.eu-west-1.amazonaws.com`, `s3-eu-west-1.amazonaws.com`,
/// `s3.dualstack.eu-west-1.amazonaws.com`. `None` for any other host, so that nobody leads requests away from Amazon.
pub(crate) fn region_of_aws_host(host: &str) -> Option<&str> {
    let suffix =
        [".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"].into_iter().find(|s| host.ends_with(s))?;
    let mut labels = host.strip_suffix(suffix)?.rsplit('.');
    let last = labels.next()?;
    let region = last.strip_prefix("s3-").unwrap_or(last);
    // The global endpoint, `bucket.s3.amazonaws.com`, names none.
    (region.split('-').count() >= 3).then_some(region)
}

/// The `Location` of a redirect, split into what decides whether it may be followed.
pub(crate) fn host_of_location(location: &str) -> Option<String> {
    let end = location.find(['?', '#']).unwrap_or(location.len());
    Endpoint::parse(&location[..end]).ok().map(|endpoint| endpoint.host)
}

/// Makes the pool of connections.
///
/// Trusts the system's certificates and `ca_bundle`; takes proxies from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), as
/// every HTTP client does. Connections are kept for 20 s, as S3 closes idle ones soon after.
///
/// # Errors
/// `BadEndpoint` if `ca_bundle` cannot be read or holds no certificate.
pub(crate) fn http_client(config: &ClientConfig) -> Result<SharedHttpClient> {
    let mut trust = TrustStore::default();
    if let Some(path) = &config.ca_bundle {
        trust.add_pem_certificate(read_ca_bundle(path)?);
    }
    let tls = TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|e| Error::new(ErrorKind::BadEndpoint, "connect").with_source(e))?;
    // The settings differ between S3 and the services that give credentials; each pair gets its own pool.
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .enable_tcp_nodelay(true)
            .pool_idle_timeout(IDLE_CONNECTION)
            .proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        connector.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls.clone()).build()
    }))
}

/// S3 closes an idle connection after some 5 to 20 s; sending on a closed one costs a retry.
const IDLE_CONNECTION: std::time::Duration = std::time::Duration::from_secs(20);

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

/// Which source named the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegionSource {
    Setting,
    Environment,
    Profile,
    InstanceMetadata,
    Default,
}

/// Finds the region to sign for first: the setting, then the sources of aws-config, then `us-east-1`.
pub(crate) async fn discover_region(
    config: &ClientConfig,
    provider: &ProviderConfig,
) -> (String, RegionSource) {
    if let Some(region) = &config.region {
        return (region.clone(), RegionSource::Setting);
    }
    if config.credentials == CredentialSource::DefaultChain {
        if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
            return (region.to_string(), RegionSource::Environment);
        }
        let mut profile = ProfileFileRegionProvider::builder().configure(provider);
        if let Some(name) = &config.profile {
            profile = profile.profile_name(name);
        }
        if let Some(region) = profile.build().region().await {
            return (region.to_string(), RegionSource::Profile);
        }
    }
    if may_ask_instance(config) {
        let imds = ImdsRegionProvider::builder()
            .configure(provider)
            .imds_client(imds_client(config, provider))
            .build();
        if let Ok(Some(region)) = tokio::time::timeout(config.imds_timeout, imds.region()).await {
            return (region.to_string(), RegionSource::InstanceMetadata);
        }
    }
    (DEFAULT_REGION.to_owned(), RegionSource::Default)
}

/// The machine's own region says nothing about a service elsewhere, and a public bucket tells its region by redirect.
fn may_ask_instance(config: &ClientConfig) -> bool {
    config.credentials == CredentialSource::DefaultChain && config.endpoint_url.is_none()
}

/// A client of EC2 instance metadata that gives up early, as most machines have none.
pub(crate) fn imds_client(config: &ClientConfig, provider: &ProviderConfig) -> aws_config::imds::Client {
    aws_config::imds::Client::builder()
        .configure(provider)
        .max_attempts(2)
        .connect_timeout(config.imds_timeout / 2)
        .read_timeout(config.imds_timeout / 2)
        .build()
}

#[cfg(test)]
mod tests;
