//! Endpoint URLs and the hosts of redirects: pure text, read once and strictly.

use std::fmt;
use std::net::IpAddr;

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

#[cfg(test)]
mod tests;
