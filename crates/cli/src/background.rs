//! Mounting in the background: the process starts itself again, and waits until that child says how it went.
//!
//! The child is a fresh program (no fork of threads), leads a session of its own, and writes one line to its standard output, which is a
//! pipe to the parent: [`Report`]. Then it lets go of the terminal. The parent turns the line into its exit code.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::compat::Personality;
use crate::failure::{ExitStatus, Failure};
use crate::note;

/// How mounting went, as the child tells its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// The mount answers; what it is to do before it is ready may take any time.
    Mounted,
    /// It is ready, though perhaps something went wrong.
    Ready(Option<String>),
    /// It failed, and nothing is mounted.
    Failed(Failure),
}

impl Report {
    fn encode(&self) -> String {
        match self {
            Self::Mounted => "mounted\n".to_owned(),
            Self::Ready(None) => "ready\n".to_owned(),
            Self::Ready(Some(wrong)) => format!("ready {}\n", Failure::failed(wrong)),
            Self::Failed(failure) => format!("failed {} {failure}\n", failure.status as u8),
        }
    }

    fn decode(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        match line {
            "mounted" => return Some(Self::Mounted),
            "ready" => return Some(Self::Ready(None)),
            _ => {}
        }
        if let Some(wrong) = line.strip_prefix("ready ") {
            return Some(Self::Ready(Some(wrong.to_owned())));
        }
        let (code, message) = line.strip_prefix("failed ")?.split_once(' ')?;
        Some(Self::Failed(Failure::new(ExitStatus::from_code(code.parse().ok()?)?, message)))
    }
}

/// The probes of the bucket have 10 s, mounting and the first answer take far less; past this the child hangs.
const STARTUP_LIMIT: Duration = Duration::from_secs(30);

/// How long a child that hangs may take to unmount and end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Starts this program again with `args` (its own, with `argv[0]`) as a mount in the background of `target`.
///
/// Returns when the mount answers.
///
/// # Errors
/// What the child reports, or that it could not be started; nothing is left mounted then.
pub(crate) fn mount(personality: Personality, args: &[OsString], target: &Path) -> Result<(), Failure> {
    let mut child = spawn(personality, args)
        .map_err(|error| Failure::failed(format!("cannot start the process in the background: {error}")))?;
    let mut reports =
        Reports { pipe: child.stdout.take().expect("its standard output is a pipe"), text: Vec::new() };
    let mut line = reports.next(Some(STARTUP_LIMIT));
    if matches!(&line, Ok(Some(line)) if Report::decode(line) == Some(Report::Mounted)) {
        // From here on it may be long, and whoever is tired of waiting may leave: the mount stays.
        line = reports.next(None);
    }
    match line {
        Ok(Some(line)) => match Report::decode(&line) {
            Some(Report::Ready(None)) => Ok(()),
            Some(Report::Ready(Some(wrong))) => {
                note(&format!("note: mounted, but {wrong}"));
                Ok(())
            }
            Some(Report::Failed(failure)) => {
                // It is about to end; collecting it makes sure that it let go of everything.
                wait(&mut child)?;
                Err(failure)
            }
            Some(Report::Mounted) | None => {
                Err(stop(&mut child, target, "it died before the mount was ready"))
            }
        },
        Ok(None) => Err(stop(&mut child, target, "the mount did not answer within 30 seconds")),
        Err(error) => Err(stop(&mut child, target, &error.to_string())),
    }
}

fn spawn(personality: Personality, args: &[OsString]) -> io::Result<Child> {
    let (program, rest) = args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    // The hidden options go where no "--" can be before them.
    let (subcommand, rest) = match personality {
        Personality::Sluicefs => rest.split_at(rest.len().min(1)),
        Personality::MountHelper | Personality::MountS3 => rest.split_at(0),
    };
    Command::new(std::env::current_exe()?)
        .arg0(program)
        .args(subcommand)
        .args(["--foreground", "--report-to-parent"])
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}

/// What a child says, line by line.
#[derive(Debug)]
struct Reports {
    pipe: ChildStdout,
    /// What came and was not given out yet.
    text: Vec<u8>,
}

impl Reports {
    /// The next line, or what came before the end; `None` if it takes longer than `limit`.
    fn next(&mut self, limit: Option<Duration>) -> io::Result<Option<String>> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let end = loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                break end + 1;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if !wait_readable(&self.pipe, left)? {
                return Ok(None);
            }
            let mut buffer = [0; 4096];
            match self.pipe.read(&mut buffer)? {
                0 => break self.text.len(),
                n => self.text.extend_from_slice(&buffer[..n]),
            }
        };
        let line: Vec<u8> = self.text.drain(..end).collect();
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }
}

fn wait_readable(pipe: &ChildStdout, limit: Option<Duration>) -> io::Result<bool> {
    let timeout = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    let fd = pipe.as_fd();
    loop {
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends a child that did not report, and takes away what it may have mounted.
fn stop(child: &mut Child, target: &Path, reason: &str) -> Failure {
    let mut message = format!("mounting in the background failed: {reason}; --foreground --debug shows more");
    let status = match end(child) {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    message.push_str(&format!(" ({status})"));
    if let Err(error) = sluicefs_fuse_mount::clear_dead(target) {
        message.push_str(&format!("; cleaning up: {error}"));
    }
    Failure::failed(message)
}

/// SIGTERM, which unmounts, and SIGKILL if that takes too long.
fn end(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    let pid = Pid::from_child(child);
    kill_process(pid, Signal::TERM)?;
    // A descriptor of the process becomes readable when it ends (pidfd_open(2)).
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let timeout = Timespec::try_from(STOP_LIMIT).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout))? == 0 {
        child.kill()?;
    }
    child.wait()
}

fn wait(child: &mut Child) -> Result<(), Failure> {
    child.wait().map_err(|error| {
        Failure::failed(format!("cannot wait for the process in the background: {error}"))
    })?;
    Ok(())
}

/// In the child: leaves the session of the terminal, so that closing that does not end the mount.
pub(crate) fn leave_session() -> Result<(), Failure> {
    rustix::process::setsid()
        .map_err(|error| Failure::failed(format!("cannot begin a session in the background: {error}")))?;
    Ok(())
}

/// In the child: the process that waits for it.
#[derive(Debug)]
pub(crate) struct Parent(Option<File>);

impl Parent {
    /// The parent at the other end of standard output.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub(crate) fn connect() -> Result<Self, Failure> {
        let pipe = io::stdout().as_fd().try_clone_to_owned();
        let pipe = pipe.map_err(|error| Failure::failed(format!("cannot reach the parent: {error}")))?;
        Ok(Self(Some(pipe.into())))
    }

    /// Tells the parent how it went; after the first report but [`Report::Mounted`] none counts. A parent that is gone does not matter: the
    /// mount is there.
    pub(crate) fn report(&mut self, report: &Report) {
        let Some(pipe) = &mut self.0 else { return };
        let written = pipe.write_all(report.encode().as_bytes());
        if *report != Report::Mounted {
            self.0 = None;
        }
        if let Err(error) = written {
            tracing::debug!(%error, "the process that started the mount is gone");
        }
    }
}

/// In the child: lets go of the parent's terminal, pipes and directory. The way to report stays.
///
/// # Errors
/// If there is no `/dev/null`.
pub(crate) fn detach() -> Result<(), Failure> {
    let detach = || -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // A directory must stay unmountable even if the mount was started in it.
        std::env::set_current_dir("/")
    };
    detach().map_err(|error| Failure::failed(format!("cannot detach from the terminal: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_pipe_on_one_line() {
        let failed = |message: &str| Report::Failed(Failure::new(ExitStatus::Store, message));
        for (report, decoded) in [
            (Report::Mounted, Report::Mounted),
            (Report::Ready(None), Report::Ready(None)),
            (Report::Ready(Some("a\nb".to_owned())), Report::Ready(Some("a\\nb".to_owned()))),
            (failed("no such bucket: check"), failed("no such bucket: check")),
            (failed("a\nb"), failed("a\\nb")),
        ] {
            let line = report.encode();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(Report::decode(&line), Some(decoded));
        }
        for broken in ["", "rea", "ready", "failed 3", "failed 0 x\n", "failed x y\n"] {
            assert_eq!(Report::decode(broken), None, "{broken:?}");
        }
    }
}
