//! Mounts that are killed, and what the next one makes of it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::sandbox::{Foreground, Listen, Sandbox, run};

/// With which a few dozen MiB cannot be written without an upload being begun.
const LITTLE_MEMORY: &str = "--memory-target=128";

fn start(command: Command) -> Foreground {
    let mut mount = Foreground::start(command, Listen::Stderr);
    mount.wait_for(" mounted");
    mount
}

/// A program that writes so much of the file `name` that its upload is begun, and does not close it while its input goes on.
///
/// This process does not have the file open: a child that it starts would close its copy of that, which makes what was written durable.
fn begin_upload(sandbox: &Sandbox, target: &Path, name: &str) -> Child {
    let before = sandbox.uploads();
    let output = File::create(target.join(name)).unwrap();
    let mut writer =
        Command::new("cat").stdin(Stdio::piped()).stdout(output).stderr(Stdio::null()).spawn().unwrap();
    let input = writer.stdin.as_mut().unwrap();
    let is_begun = (0..200).any(|_| {
        input.write_all(&vec![7; 1 << 20]).unwrap();
        sandbox.uploads() > before
    });
    assert!(is_begun, "200 MiB were written, and no upload was begun");
    writer
}

#[test]
fn uploads_of_a_killed_mount_are_aborted_by_the_next_one_and_nobody_elses() {
    let sandbox = Sandbox::new();
    let neighbour = sandbox.path("neighbour");
    fs::create_dir(&neighbour).unwrap();
    let state = sandbox.path("state");
    let mut living = start(sandbox.sluicefs([
        "mount".as_ref(),
        "-f".as_ref(),
        LITTLE_MEMORY.as_ref(),
        "--endpoint-url".as_ref(),
        sandbox.server.endpoint_url().as_ref(),
        "--state-dir".as_ref(),
        state.as_os_str(),
        "models".as_ref(),
        neighbour.as_os_str(),
    ]));
    let mut theirs = begin_upload(&sandbox, &neighbour, "same");
    let mut killed = start(sandbox.mount(&["-f", LITTLE_MEMORY]));
    let mut ours = begin_upload(&sandbox, &sandbox.target(), "same");
    assert_eq!(sandbox.uploads(), 2);
    killed.signal(Signal::KILL);
    killed.wait();
    drop(ours.stdin.take());
    ours.wait().unwrap();

    let mut next = start(sandbox.mount(&["-f", LITTLE_MEMORY]));
    next.wait_for("cleaned up");
    assert_eq!(sandbox.uploads(), 1);
    // The neighbour's goes on as if nothing had been.
    drop(theirs.stdin.take());
    assert!(theirs.wait().unwrap().success());
    assert!(sandbox.bucket.object("same").unwrap().content.len() > 8 << 20);
    living.signal(Signal::TERM);
    assert_eq!(living.wait().code(), Some(0));
    next.signal(Signal::TERM);
    assert_eq!(next.wait().code(), Some(0));
    let left = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<_> = left.map(|path| (fs::read_to_string(&path), path)).collect();
    assert!(left.is_empty(), "something is left to remember: {left:?}");
}

#[test]
fn a_state_directory_that_others_can_write_to_is_refused() {
    let sandbox = Sandbox::new();
    let state = sandbox.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, PermissionsExt::from_mode(0o777)).unwrap();
    let refused = run(sandbox.mount(&[]));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("chmod go-w"), "{refused:?}");
    assert!(!sandbox.is_mounted());
}

#[test]
fn a_mount_without_a_state_directory_says_what_is_lost() {
    let sandbox = Sandbox::new();
    // As in a container that is read-only.
    let script = r#"mount -t tmpfs -o ro none /var/lib && exec "$@""#;
    let program = ["--mount", "--propagation", "private", "sh", "-ec", script, "sh"];
    let mut command = sandbox.program("/usr/bin/unshare".as_ref(), program);
    command.arg(env!("CARGO_BIN_EXE_sluicefs")).args(["mount", "-f", "--endpoint-url"]);
    command.arg(sandbox.server.endpoint_url()).arg("models").arg(sandbox.target());
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount over /var/lib");
        return;
    }
    let mut mount = Foreground::start(command, Listen::Stderr);
    let line = mount.wait_for("state directory");
    assert!(line.contains("WARN") && line.contains("uploads stay at the store"), "{line}");
    mount.wait_for(" mounted");
    mount.signal(Signal::TERM);
    assert_eq!(mount.wait().code(), Some(0));
}
