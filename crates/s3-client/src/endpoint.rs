//! Where requests go: endpoint URLs, the one HTTP client with its trust roots and proxies, and the region.
//!
//! The parsing here is pure. [`http_client`] makes the pool of connections that all requests of a bucket share, and
//! [`discover_region`] asks the sources that aws-config knows, instance metadata last and under a limit of its own.

mod http;

use std::fmt;
use std::net::IpAddr;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;

use crate::config::{ClientConfig, CredentialSource};

pub(crate) use http::http_client;

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

/// Which source named the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegionSource {
    Setting,
    Environment,
    Profile,
    InstanceMetadata,
    Default,
}

/// Where a search for the region ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRegion {
    pub(crate) name: String,
    pub(crate) source: RegionSource,
    /// Nobody answered at the metadata address; asking there for credentials at once would cost the same wait again.
    pub(crate) imds_silent: bool,
}

/// Finds the region to sign for first: the setting, then (with the default chain) environment, profile and instance metadata, else
/// `us-east-1`. The instance's own region says nothing about an endpoint that is not Amazon's.
pub(crate) async fn discover_region(
    config: &ClientConfig,
    endpoint: Option<&Endpoint>,
    provider: &ProviderConfig,
) -> FoundRegion {
    let found = |name: String, source| FoundRegion { name, source, imds_silent: false };
    if let Some(region) = &config.region {
        return found(region.clone(), RegionSource::Setting);
    }
    if config.credentials != CredentialSource::DefaultChain {
        return found(DEFAULT_REGION.to_owned(), RegionSource::Default);
    }
    if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
        return found(region.to_string(), RegionSource::Environment);
    }
    let mut profile = ProfileFileRegionProvider::builder().configure(provider);
    if let Some(name) = &config.profile {
        profile = profile.profile_name(name);
    }
    if let Some(region) = profile.build().region().await {
        return found(region.to_string(), RegionSource::Profile);
    }
    if endpoint.is_some_and(|endpoint| !endpoint.is_aws()) {
        return found(DEFAULT_REGION.to_owned(), RegionSource::Default);
    }
    let imds = ImdsRegionProvider::builder().configure(provider).imds_client(imds_client(config, provider));
    match tokio::time::timeout(config.imds_timeout, imds.build().region()).await {
        Ok(Some(region)) => found(region.to_string(), RegionSource::InstanceMetadata),
        Ok(None) | Err(_) => {
            FoundRegion { imds_silent: true, ..found(DEFAULT_REGION.to_owned(), RegionSource::Default) }
        }
    }
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
