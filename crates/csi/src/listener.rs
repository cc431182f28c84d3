//! The unix socket that the driver listens on, and its file.
//!
//! Whoever can connect can ask for mounts as root, so nobody but the owner ever can: the file gets its mode between `bind` and `listen`, when a
//! connection is still refused. A file in the way is removed only if it is a socket that nobody listens on.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

/// Where the driver listens: CSI's `unix:///path/to/csi.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

/// Why a text names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Another transport than a unix socket.
    #[error("{0:?} is not a unix socket: write unix:///path/to/csi.sock")]
    Scheme(String),
    /// A path relative to whatever directory the process runs in.
    #[error("the socket's path {0:?} is not absolute: write unix:///path/to/csi.sock, with three slashes")]
    Relative(String),
}

impl Endpoint {
    /// The path of the socket's file.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl std::str::FromStr for Endpoint {
    type Err = InvalidEndpoint;

    /// Takes `unix:///path`, `unix:/path` and `/path`, the forms that the Kubernetes sidecars take.
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let path = match text.split_once(':') {
            Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(InvalidEndpoint::Scheme(text.to_owned()));
            }
            _ => text,
        };
        if path.starts_with('/') {
            Ok(Self(PathBuf::from(path)))
        } else {
            Err(InvalidEndpoint::Relative(path.to_owned()))
        }
    }
}

/// Why the driver cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A file that is no socket is in the way; it is left alone.
    #[error("{} exists and is not a socket: remove it, or choose another endpoint", .0.display())]
    NotASocket(PathBuf),
    /// Another process answers there.
    #[error("another process listens on {}: stop it, or choose another endpoint", .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot listen on {}: {source}", path.display())]
    Io {
        /// The socket's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that accepts connections of its owner alone. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    file: SocketFile,
}

/// Connections that may wait to be accepted; the kubelet opens one per call.
const BACKLOG: i32 = 64;

impl Listener {
    /// Listens on `endpoint` with mode 0600, in place of a stale socket if there is one.
    ///
    /// Call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`] names the path and what is in the way.
    pub fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        let path = endpoint.path();
        make_way(path)?;
        let io = |source: io::Error| ListenError::Io { path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|e| io(e.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|e| io(e.into()))?;
        rustix::net::bind(&socket, &address).map_err(|e| io(e.into()))?;
        let file = SocketFile::of(path).map_err(io)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
        rustix::net::listen(&socket, BACKLOG).map_err(|e| io(e.into()))?;
        let socket = UnixListener::from_std(StdListener::from(socket)).map_err(io)?;
        Ok(Self { socket, file })
    }

    pub(crate) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.socket, self.file)
    }
}

/// The socket's file, removed on drop unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the driver's socket");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn make_way(path: &Path) -> Result<(), ListenError> {
    let io = |source: io::Error| ListenError::Io { path: path.to_owned(), source };
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if !meta.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a driver that is gone");
            std::fs::remove_file(path).map_err(io)
        }
        Ok(_) => Err(ListenError::InUse(path.to_owned())),
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_absolute_paths_of_unix_sockets() {
        for text in ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock"] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.path().to_owned()), Ok("/csi/csi.sock".into()));
        }
        for text in ["tcp://127.0.0.1:1", "unix://csi.sock", "csi.sock", ""] {
            assert!(text.parse::<Endpoint>().is_err(), "{text:?}");
        }
    }
}
