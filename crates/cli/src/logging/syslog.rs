//! Lines for the system log: one datagram to `/dev/log` each (RFC 3164, as syslog(3) sends them).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Facility "daemon" (RFC 3164, 4.1.1), times eight.
const FACILITY: u8 = 3 << 3;

/// A connection to the system log of this machine.
#[derive(Debug)]
pub(super) struct Syslog(Arc<UnixDatagram>);

impl Syslog {
    /// Connects to `/dev/log`.
    pub(super) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect("/dev/log")?;
        // A log that is stuck must not hold up a reader.
        socket.set_nonblocking(true)?;
        Ok(Self(Arc::new(socket)))
    }
}

/// One line on its way.
#[derive(Debug)]
pub(super) struct Line {
    socket: Arc<UnixDatagram>,
    level: Level,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { socket: Arc::clone(&self.0), level: Level::INFO }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { socket: Arc::clone(&self.0), level: *meta.level() }
    }
}

impl io::Write for Line {
    /// The formatter writes each line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.socket.send(&datagram(self.level, std::process::id(), line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn datagram(level: Level, pid: u32, line: &[u8]) -> Vec<u8> {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    let mut out = format!("<{}>sluicefs[{pid}]: ", FACILITY | severity).into_bytes();
    out.extend_from_slice(line.trim_ascii());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_carry_priority_name_and_pid() {
        assert_eq!(datagram(Level::WARN, 7, b" WARN x: slow\n"), b"<28>sluicefs[7]: WARN x: slow");
        assert_eq!(datagram(Level::INFO, 7, b"up\n"), b"<30>sluicefs[7]: up");
    }
}
