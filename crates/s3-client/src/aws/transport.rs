//! Requests that got no answer: what broke, from the chain of causes that the HTTP stack gives.
//!
//! The types of the inner causes belong to crates below the SDK, so the names of the stages are read from their texts; the
//! integration tests break each stage for real and would notice other words.
//!
//! Most of these are `Transient`, since a server that restarts refuses connections too. The code tells a mount-time probe what
//! to say: see [`TransportKind::code`].

use std::error::Error as StdError;
use std::io;

use crate::error::{Error, ErrorKind, FIRST_BYTE_TIMEOUT};

/// The stage at which a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransportKind {
    Dns,
    Refused,
    Unreachable,
    ConnectTimeout,
    FirstByteTimeout,
    Certificate,
    TlsHandshake,
    Proxy,
    HeadersTooLarge,
    NotHttp,
    Broken,
}

impl TransportKind {
    /// What [`Error::code`](crate::Error::code) says.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Dns => "DnsFailure",
            Self::Refused => "ConnectionRefused",
            Self::Unreachable => "HostUnreachable",
            Self::ConnectTimeout => "ConnectTimeout",
            Self::FirstByteTimeout => FIRST_BYTE_TIMEOUT,
            Self::Certificate => "UntrustedCertificate",
            Self::TlsHandshake => "TlsHandshake",
            Self::Proxy => "ProxyFailure",
            Self::HeadersTooLarge => "HeadersTooLarge",
            Self::NotHttp => "NotHttp",
            Self::Broken => "ConnectionBroken",
        }
    }

    fn error_kind(self) -> ErrorKind {
        match self {
            // None of them heals by asking again.
            Self::Certificate | Self::TlsHandshake | Self::HeadersTooLarge => ErrorKind::BadEndpoint,
            _ => ErrorKind::Transient,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Dns => "the host name of the endpoint cannot be resolved",
            Self::Refused => "the endpoint refuses connections",
            Self::Unreachable => "there is no route to the endpoint",
            Self::ConnectTimeout => "no connection to the endpoint within the connect limit",
            Self::FirstByteTimeout => "no answer within the first-byte limit",
            Self::Certificate => "the endpoint's certificate is not trusted",
            Self::TlsHandshake => "no TLS with this endpoint; is it an http:// one?",
            Self::Proxy => "the proxy from HTTPS_PROXY or HTTP_PROXY does not let the request through",
            Self::HeadersTooLarge => {
                "the answer has more headers than any S3 sends, over 64 KiB or a hundred; check the endpoint URL, and proxies on the way"
            }
            Self::NotHttp => "the endpoint does not speak HTTP",
            Self::Broken => "the connection broke",
        }
    }
}

/// A request without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransportFault {
    kind: Option<TransportKind>,
    detail: String,
}

impl TransportFault {
    /// Reads the chain of causes.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        let causes = causes(error);
        Self { kind: kind_of(&causes), detail: causes.last().map(|c| c.text.clone()).unwrap_or_default() }
    }

    /// The stage, if it is known.
    pub(crate) fn kind(&self) -> Option<TransportKind> {
        self.kind
    }

    /// As the caller sees it; an unknown stage counts as a broken connection.
    pub(crate) fn to_error(&self, operation: &'static str) -> Error {
        let kind = self.kind.unwrap_or(TransportKind::Broken);
        let message = match kind {
            TransportKind::Refused | TransportKind::ConnectTimeout | TransportKind::FirstByteTimeout => {
                kind.message().to_owned()
            }
            TransportKind::Certificate => {
                format!("{}; {}: {}", kind.message(), certificate_remedy(&self.detail), self.detail)
            }
            _ => format!("{}: {}", kind.message(), self.detail),
        };
        Error::new(kind.error_kind(), operation).with_code(kind.code()).with_message(message)
    }
}

/// What helps, by the words of the TLS library.
fn certificate_remedy(detail: &str) -> &'static str {
    let detail = detail.to_ascii_lowercase();
    if detail.contains("notvalidforname") || detail.contains("not valid for name") {
        "it is for other names: check the host of the endpoint URL"
    } else if detail.contains("notvalidyet") || detail.contains("not valid yet") {
        "it is not valid yet: check the clock of this machine"
    } else if detail.contains("expired") {
        "it has expired: renew it there, or check the clock of this machine"
    } else {
        "add its authority with --ca-bundle"
    }
}

struct Cause {
    text: String,
    io: Option<io::ErrorKind>,
}

/// Each cause once, outermost first. An `io::Error` hides its payload from `source`, so it is unwrapped by hand.
fn causes(error: &(dyn StdError + 'static)) -> Vec<Cause> {
    const MAX_CAUSES: usize = 32;
    let mut out = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next.filter(|_| out.len() < MAX_CAUSES) {
        let io = error.downcast_ref::<io::Error>();
        out.push(Cause { text: error.to_string(), io: io.map(io::Error::kind) });
        next = match io {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    out
}

fn kind_of(causes: &[Cause]) -> Option<TransportKind> {
    let says = |part: &str| causes.iter().any(|c| c.text.to_ascii_lowercase().contains(part));
    let io = |kind| causes.iter().any(|c| c.io == Some(kind));
    let kind = if says("message head is too large") || says("bytes of headers") {
        TransportKind::HeadersTooLarge
    } else if says("invalid peer certificate") || says("certificate") {
        TransportKind::Certificate
    } else if says("dns error") || says("failed to lookup address") {
        TransportKind::Dns
    } else if says("connect timeout") {
        TransportKind::ConnectTimeout
    } else if says("read timeout") {
        TransportKind::FirstByteTimeout
    } else if says("proxy") || says("tunnel") {
        TransportKind::Proxy
    } else if io(io::ErrorKind::ConnectionRefused) {
        TransportKind::Refused
    } else if io(io::ErrorKind::HostUnreachable) || io(io::ErrorKind::NetworkUnreachable) {
        TransportKind::Unreachable
    } else if io(io::ErrorKind::TimedOut) {
        TransportKind::ConnectTimeout
    } else if says("tls handshake")
        && !io(io::ErrorKind::ConnectionReset)
        && !io(io::ErrorKind::UnexpectedEof)
    {
        TransportKind::TlsHandshake
    } else if says("invalid http") || says("parse error") {
        TransportKind::NotHttp
    } else if BROKEN.into_iter().any(io)
        || says("connection closed")
        || says("connection error")
        || says("incomplete")
    {
        TransportKind::Broken
    } else {
        return None;
    };
    Some(kind)
}

const BROKEN: [io::ErrorKind; 4] = [
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::ConnectionAborted,
    io::ErrorKind::BrokenPipe,
    io::ErrorKind::UnexpectedEof,
];
