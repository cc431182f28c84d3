//! Mounts that cannot be: one line with cause and remedy, soon, and nothing left mounted.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use crate::sandbox::{Outcome, Sandbox, run, serving};

/// The probes end after ten seconds; the rest is for starting two processes on a busy machine.
const SOON: Duration = Duration::from_secs(13);

const STORE: i32 = 3;
const MOUNT_POINT: i32 = 4;

/// The command fails with `code` and one line that holds all of `parts`.
#[track_caller]
fn check(sandbox: &Sandbox, command: Command, code: i32, parts: &[&str]) {
    let started = Instant::now();
    let outcome = run(command);
    let took = started.elapsed();
    assert!(took < SOON, "{took:?}: {outcome:#?}");
    check_line(&outcome, code, parts);
    assert!(serving(&sandbox.target()).is_empty(), "a process is left");
}

#[track_caller]
fn check_line(outcome: &Outcome, code: i32, parts: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:#?}");
    let errors: Vec<_> =
        outcome.stderr.lines().filter(|line| line.starts_with("sluicefs: error: ")).collect();
    assert_eq!((errors.len(), outcome.stderr.lines().count()), (1, 1), "{outcome:#?}");
    for part in parts {
        assert!(errors[0].contains(part), "no {part:?} in {outcome:#?}");
    }
}

#[test]
fn wrong_bucket() {
    let sandbox = Sandbox::new();
    let (url, target) = (sandbox.server.endpoint_url(), sandbox.target());
    let command =
        sandbox.sluicefs(["mount", "--endpoint-url", &url, "no-such-bucket", target.to_str().unwrap()]);
    check(&sandbox, command, STORE, &["s3://no-such-bucket", "no such bucket", "check its name"]);
    assert!(!sandbox.is_mounted());
}

/// As at an endpoint of one region for a bucket of another: whatever a request is signed for, it should have been the other.
#[test]
fn wrong_region_that_redirects_do_not_mend() {
    let sandbox = Sandbox::new();
    let server = RegionDispute::start();
    let target = sandbox.target();
    let command =
        sandbox.sluicefs(["mount", "--endpoint-url", &server.url, "models", target.to_str().unwrap()]);
    check(
        &sandbox,
        command,
        STORE,
        &["s3://models", "the bucket is in region", &server.url, "give --region"],
    );
    assert!(!sandbox.is_mounted());
}

#[test]
fn no_credentials() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.mount(&[]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    check(&sandbox, command, STORE, &["no credentials", "AWS_ACCESS_KEY_ID", "--no-sign-request"]);
    assert!(!sandbox.is_mounted());
}

#[test]
fn wrong_secret_key() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.mount(&[]);
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    check(&sandbox, command, STORE, &["s3://models", "secret key is wrong"]);
}

#[test]
fn forbidden() {
    let sandbox = Sandbox::new();
    check(
        &sandbox,
        sandbox.mount(&["--no-sign-request"]),
        STORE,
        &["s3://models", "access denied", "s3:ListBucket"],
    );
    assert!(!sandbox.is_mounted());
}

#[test]
fn unreachable_endpoint() {
    let mut sandbox = Sandbox::new();
    let url = sandbox.server.endpoint_url();
    sandbox.stop_server();
    check(&sandbox, sandbox.mount(&[]), STORE, &["s3://models", &url, "check the endpoint URL"]);
    assert!(!sandbox.is_mounted());
}

#[test]
fn endpoint_that_never_answers() {
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let target = sandbox.target();
    let command = sandbox.sluicefs(["mount", "--endpoint-url", &url, "models", target.to_str().unwrap()]);
    check(&sandbox, command, STORE, &["s3://models", &url, "check the endpoint URL"]);
    assert!(!sandbox.is_mounted());
}

#[test]
fn target_missing() {
    let sandbox = Sandbox::new();
    fs::remove_dir(sandbox.target()).unwrap();
    check(&sandbox, sandbox.mount(&[]), MOUNT_POINT, &["does not exist", "mkdir -p"]);
    fs::create_dir(sandbox.target()).unwrap();
}

#[test]
fn target_not_a_directory() {
    let sandbox = Sandbox::new();
    fs::remove_dir(sandbox.target()).unwrap();
    fs::write(sandbox.target(), "a file").unwrap();
    check(&sandbox, sandbox.mount(&[]), MOUNT_POINT, &["is not a directory"]);
}

#[test]
fn target_already_mounted() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let pids = serving(&sandbox.target());
    let outcome = run(sandbox.mount(&[]));
    check_line(&outcome, MOUNT_POINT, &["already mounted", "s3://models", "unmount it first"]);
    assert_eq!(serving(&sandbox.target()), pids);
    assert_eq!(fs::read_to_string(sandbox.target().join("config.json")).unwrap(), "{}");
}

#[test]
fn a_directory_and_its_mount_point_lie_apart() {
    let sandbox = Sandbox::new();
    let (data, target) = (sandbox.path("data"), sandbox.target());
    for directory in [data.join("inside"), target.join("below")] {
        fs::create_dir_all(directory).unwrap();
    }
    std::os::unix::fs::symlink(&target, sandbox.path("link")).unwrap();
    let top = data.parent().unwrap();
    for (source, mount_point, part) in [
        (target.clone(), target.clone(), "is the directory"),
        (sandbox.path("link"), target.clone(), "is the directory"),
        (data.clone(), data.join("inside"), "lies in the directory"),
        (top.to_owned(), target.clone(), "lies in the directory"),
        (target.join("below"), target.clone(), "would hide the directory"),
    ] {
        let url = format!("file://{}", source.display());
        let command = sandbox.sluicefs(["mount", &url, mount_point.to_str().unwrap()]);
        check(&sandbox, command, MOUNT_POINT, &["the mount point", part, "choose one outside of it"]);
    }
    // What lies in another directory with the same beginning, or beside the prefix, is apart.
    let url = format!("file://{}", top.display());
    run(sandbox.sluicefs(["mount", "--prefix", "data/", &url, target.to_str().unwrap()])).expect_success();
    assert!(target.join("inside").is_dir());
}

#[test]
fn attributes_that_a_bucket_does_not_keep() {
    let sandbox = Sandbox::new();
    let (data, target) = (sandbox.path("data"), sandbox.target());
    fs::create_dir_all(&data).unwrap();
    for url in [format!("file://{}", data.display()), "memory:".to_owned()] {
        let command = sandbox.sluicefs(["mount", "--attributes", "s3fs", &url, target.to_str().unwrap()]);
        check(&sandbox, command, 2, &[&url, "keeps no metadata", "leave --attributes out"]);
        assert!(!sandbox.is_mounted());
    }
}

#[test]
fn unmount_of_what_is_not_mounted() {
    let sandbox = Sandbox::new();
    let target = sandbox.target();
    let command = sandbox.sluicefs(["unmount".as_ref(), target.as_os_str()]);
    check(&sandbox, command, MOUNT_POINT, &["is not a mount point"]);
}

#[test]
fn settings_that_do_not_fit() {
    let sandbox = Sandbox::new();
    for (options, part) in [
        (&["--memory-target", "1"][..], "use --memory-target 64 or more"),
        (&["--expected-bucket-owner", "me"], "12 digits"),
        (&["--sse-c-key-file", "/no/such/file"], "cannot read the SSE-C key file"),
        (&["--auto-unmount"], "--auto-unmount is not supported"),
    ] {
        check(&sandbox, sandbox.mount(options), 2, &[part]);
    }
}

/// Without `/dev/fuse`, as in a container that was not given it: in a mount namespace with another `/dev`.
#[test]
fn no_fuse_device() {
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec \"$@\"";
    let inside = |sandbox: &Sandbox, program: &[&str]| {
        let shell = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"];
        sandbox.program("/usr/bin/unshare".as_ref(), shell.iter().chain(program))
    };
    let possible = run(inside(&sandbox, &["true"]));
    if possible.code != Some(0) {
        eprintln!("skipped: no mount namespace with another /dev here: {}", possible.stderr.trim());
        return;
    }
    let (binary, url, target) =
        (env!("CARGO_BIN_EXE_sluicefs"), sandbox.server.endpoint_url(), sandbox.target());
    let mount = [binary, "mount", "--endpoint-url", &url, "models", target.to_str().unwrap()];
    for command in [&mount[..], &[binary, "demo", "--size", "1"]] {
        let parts = ["/dev/fuse does not exist", "--device /dev/fuse", "CSI driver"];
        check(&sandbox, inside(&sandbox, command), MOUNT_POINT, &parts);
    }
    assert!(!sandbox.is_mounted());
}

/// A server that always wants requests signed for another region.
struct RegionDispute {
    url: String,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RegionDispute {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                // A client that hangs up early is its own business.
                drop(refuse(connection));
            }
        });
        Self { url, stopping, thread: Some(thread) }
    }
}

fn refuse(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        match connection.read(&mut buffer)? {
            0 => return Ok(()),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let is_signed_for_europe = String::from_utf8_lossy(&request).contains("/eu-west-1/s3/");
    let region = if is_signed_for_europe { "us-east-1" } else { "eu-west-1" };
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>the region is wrong; expecting \
         '{region}'</Message><Region>{region}</Region></Error>"
    );
    let length = body.len();
    let head =
        format!("HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: {length}");
    write!(connection, "{head}\r\nConnection: close\r\n\r\n{body}")
}

impl Drop for RegionDispute {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        drop(TcpStream::connect(self.url.strip_prefix("http://").unwrap()));
        drop(self.thread.take().map(JoinHandle::join));
    }
}
