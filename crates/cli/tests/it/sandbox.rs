//! What every test starts from: a directory of its own, an S3 server in this process, and guards that leave nothing behind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use sluicefs_embedded_s3::{EmbeddedS3, EmbeddedS3Config, MemoryBucket, Unsigned};
use sluicefs_fuse_mount::{MountState, MountTable, UnmountMode, mount_state, unmount};
use sluicefs_s3_client::{Bucket, KeyPrefix};

/// Far longer than anything here takes, however busy the machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The text that no log may hold.
pub(crate) const SECRET: &str = "canary-of-the-secret-key";

/// A directory to mount on and an S3 server that holds one bucket, `models`. Dropping it unmounts, and ends what serves the mount.
pub(crate) struct Sandbox {
    pub(crate) server: EmbeddedS3,
    /// What the server has.
    pub(crate) bucket: MemoryBucket,
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bucket = MemoryBucket::new("models");
        bucket.put("config.json", "{}");
        bucket.put("dir/a b", "spaces");
        let config = EmbeddedS3Config {
            access_key_id: "AKIACANARY".to_owned(),
            secret_access_key: SECRET.to_owned(),
            unsigned: Unsigned::Refused,
            ..EmbeddedS3Config::new([("models", bucket.clone())])
        };
        let server = runtime.block_on(EmbeddedS3::start(config)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        // Another user must get through to the mount point.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        Self { server, bucket, dir, runtime }
    }

    /// How many uploads in parts are under way.
    pub(crate) fn uploads(&self) -> usize {
        let page = self.runtime.block_on(self.bucket.list_uploads(&KeyPrefix::root(), None)).unwrap();
        page.uploads.len()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("mnt")
    }

    /// The binary, with the credentials of the server and nothing else of this machine's configuration.
    pub(crate) fn sluicefs<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.program(Path::new(env!("CARGO_BIN_EXE_sluicefs")), args)
    }

    pub(crate) fn program<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .env("AWS_ACCESS_KEY_ID", "AKIACANARY")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            // Nobody listens on port 1; on EC2 the real one would answer.
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
            .current_dir(self.dir.path());
        command
    }

    /// `mount --endpoint-url <the server> [options] models <target>`
    pub(crate) fn mount(&self, options: &[&str]) -> Command {
        let mut command = self.sluicefs(["mount", "--endpoint-url", &self.server.endpoint_url()]);
        command.arg("--state-dir").arg(self.path("state")).args(options).arg("models").arg(self.target());
        command
    }

    pub(crate) fn is_mounted(&self) -> bool {
        is_mounted(&self.target())
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(crate) fn stop_server(&mut self) {
        self.runtime.block_on(self.server.stop());
    }

    pub(crate) fn restart_server(&mut self) {
        self.runtime.block_on(self.server.restart()).unwrap();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let table = MountTable::read().unwrap();
        let below = |path: &Path| path.starts_with(self.dir.path());
        let points = table.iter().map(|entry| entry.mount_point.as_path()).filter(|point| below(point));
        // A mount may lie on another one.
        let points: BTreeSet<PathBuf> = points.map(Path::to_owned).chain([self.target()]).collect();
        let pids: Vec<Pid> = points.iter().flat_map(|point| serving(point)).collect();
        for point in points {
            while is_mounted(&point) && unmount(&point, UnmountMode::Lazy).is_ok() {}
        }
        for pid in pids {
            if !has_ended(pid, Duration::from_secs(10)) && kill_process(pid, Signal::KILL).is_ok() {
                eprintln!("killed {pid:?}, which had not ended after its mount was gone");
            }
        }
    }
}

pub(crate) fn is_mounted(target: &Path) -> bool {
    let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
    MountTable::read().unwrap().top(&target).is_some()
}

pub(crate) fn is_dead(target: &Path) -> bool {
    matches!(mount_state(target), Ok(MountState::Dead { .. }))
}

/// The processes called `sluicefs` that have `target` on their command line.
pub(crate) fn serving(target: &Path) -> Vec<Pid> {
    let wanted = target.to_str().unwrap();
    let is_ours = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        exe.file_name() == Some(OsStr::new("sluicefs"))
            && line.split(|b| *b == 0).any(|arg| arg == wanted.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(is_ours).filter_map(Pid::from_raw).collect()
}

/// Waits until the process has ended; false if it takes longer than `limit`.
pub(crate) fn has_ended(pid: Pid, limit: Duration) -> bool {
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// Runs to the end, output included: a process in the background that kept the pipes would be noticed.
pub(crate) fn run(mut command: Command) -> Outcome {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (send, done) = sync_channel(1);
    std::thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = done.recv_timeout(LIMIT) else {
        let _ = kill_process(pid, Signal::KILL);
        panic!("{command:?} hangs");
    };
    Outcome::from(output.unwrap())
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Outcome {
    #[track_caller]
    pub(crate) fn expect_success(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }
}

/// A process in the foreground, killed when dropped.
pub(crate) struct Foreground {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Foreground {
    /// Starts `command` and listens to `which` of its outputs.
    pub(crate) fn start(mut command: Command, which: Listen) -> Self {
        let (output, writer) = std::io::pipe().unwrap();
        let (stdout, stderr) = match which {
            Listen::Stdout => (writer.into(), Stdio::inherit()),
            Listen::Stderr => (Stdio::null(), writer.into()),
            Listen::Both => (writer.try_clone().unwrap().into(), writer.into()),
        };
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
        // It holds ends of the pipe.
        drop(command);
        let (send, lines) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                drop(send.try_send(line));
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line with `text` in it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no {text:?} in {:#?}", self.seen),
            }
        }
    }

    /// What it says until it ends.
    pub(crate) fn rest(&self) -> String {
        self.lines.iter().collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        assert!(has_ended(self.pid(), LIMIT), "it does not end: {:#?}", self.seen);
        self.child.wait().unwrap()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Which output of a process a test reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Listen {
    Stdout,
    Stderr,
    Both,
}
