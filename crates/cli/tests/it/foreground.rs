//! Mounts in the foreground, and signals.

use std::fs;

use rustix::process::Signal;

use crate::sandbox::{Foreground, Listen, Sandbox, run};
use crate::writer::Writer;

fn start(sandbox: &Sandbox) -> Foreground {
    let mut mount = Foreground::start(sandbox.mount(&["--foreground"]), Listen::Stderr);
    mount.wait_for(" mounted");
    mount
}

#[test]
fn serves_until_sigterm_or_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let sandbox = Sandbox::new();
        let mut mount = start(&sandbox);
        assert_eq!(fs::read_to_string(sandbox.target().join("config.json")).unwrap(), "{}");
        mount.signal(signal);
        assert_eq!(mount.wait().code(), Some(0));
        assert!(!sandbox.is_mounted());
    }
}

#[test]
fn ends_when_somebody_else_unmounts() {
    let sandbox = Sandbox::new();
    let mut mount = start(&sandbox);
    run(sandbox.sluicefs(["unmount".as_ref(), sandbox.target().as_os_str()])).expect_success();
    assert_eq!(mount.wait().code(), Some(0));
}

#[test]
fn busy_mount_is_unmounted_lazily_after_the_grace() {
    let sandbox = Sandbox::new();
    let mut mount = start(&sandbox);
    let file = fs::File::open(sandbox.target().join("config.json")).unwrap();
    mount.signal(Signal::TERM);
    mount.wait_for("unmounting lazily");
    assert_eq!(mount.wait().code(), Some(0));
    assert!(!sandbox.is_mounted());
    drop(file);
}

#[test]
fn second_signal_ends_the_grace() {
    let sandbox = Sandbox::new();
    let mut mount = start(&sandbox);
    let file = fs::File::open(sandbox.target().join("config.json")).unwrap();
    mount.signal(Signal::TERM);
    mount.wait_for("unmounting");
    mount.signal(Signal::INT);
    mount.wait_for("at once");
    assert_eq!(mount.wait().code(), Some(0));
    assert!(!sandbox.is_mounted());
    drop(file);
}

/// What a program had not finished writing is nothing, not half a file.
#[test]
fn unfinished_files_are_named_and_leave_nothing_behind() {
    let sandbox = Sandbox::new();
    let mut mount = start(&sandbox);
    // Two parts are on their way by then.
    let writer = Writer::start(&sandbox.target().join("half"), 0..20);
    fs::write(sandbox.target().join("whole"), "saved").unwrap();
    mount.signal(Signal::TERM);
    mount.wait_for("unmounting");
    mount.signal(Signal::INT);
    mount.wait_for("neither closed nor synced");
    assert_eq!(mount.wait().code(), Some(1));
    drop(writer);
    assert!(sandbox.bucket.object("half").is_none());
    assert!(sandbox.bucket.object("whole").is_some());
    assert_eq!(sandbox.uploads(), 0);
}

#[test]
fn signal_before_the_bucket_answers_mounts_nothing() {
    let sandbox = Sandbox::new();
    // It accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let target = sandbox.target();
    let args = ["mount", "-f", "--endpoint-url", &url, "models", target.to_str().unwrap()];
    let mut mount = Foreground::start(sandbox.sluicefs(args), Listen::Stderr);
    let _connection = silent.accept().unwrap();
    mount.signal(Signal::TERM);
    mount.wait_for("before anything was mounted");
    assert_eq!(mount.wait().code(), Some(1));
    assert!(!sandbox.is_mounted());
}

#[test]
fn csi_serves_on_its_socket_until_sigterm() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("csi.sock");
    let endpoint = format!("unix://{}", socket.display());
    let mut driver = Foreground::start(sandbox.sluicefs(["csi", "--endpoint", &endpoint]), Listen::Stderr);
    driver.wait_for("serving CSI");
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
    driver.signal(Signal::TERM);
    assert_eq!(driver.wait().code(), Some(0));
    assert!(!socket.exists());
}
