//! Mounts in the background: the command returns, the mount stays.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::sandbox::{LIMIT, SECRET, Sandbox, has_ended, is_dead, run, serving};

#[test]
fn mount_read_unmount() {
    let sandbox = Sandbox::new();
    let outcome = run(sandbox.mount(&[])).expect_success();
    assert_eq!(outcome.stdout, "");
    assert_eq!(fs::read_to_string(sandbox.target().join("config.json")).unwrap(), "{}");
    assert_eq!(fs::read_to_string(sandbox.target().join("dir/a b")).unwrap(), "spaces");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(
        mounts.contains(&format!("s3://models {} fuse.sluicefs rw,", sandbox.target().display())),
        "{mounts}"
    );

    let pids = serving(&sandbox.target());
    assert_eq!(pids.len(), 1);
    run(sandbox.sluicefs(["unmount".as_ref(), sandbox.target().as_os_str()])).expect_success();
    assert!(!sandbox.is_mounted());
    assert!(has_ended(pids[0], LIMIT));
}

#[test]
fn sigterm_unmounts_what_runs_in_the_background() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let pids = serving(&sandbox.target());
    kill_process(pids[0], Signal::TERM).unwrap();
    assert!(has_ended(pids[0], LIMIT));
    assert!(!sandbox.is_mounted());
}

#[test]
fn the_process_leaves_terminal_pipes_and_directory() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let pid = serving(&sandbox.target())[0].as_raw_nonzero();
    for fd in 0..3 {
        let file = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        assert_eq!(file, std::path::Path::new("/dev/null"), "{fd}");
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), std::path::Path::new("/"));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name in parentheses: state, parent, process group, session (proc_pid_stat(5)).
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid.to_string());
}

#[test]
fn dead_mount_is_cleaned_by_the_next_one() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let pid = serving(&sandbox.target())[0];
    kill_process(pid, Signal::KILL).unwrap();
    assert!(has_ended(pid, LIMIT));
    assert!(is_dead(&sandbox.target()));
    run(sandbox.mount(&[])).expect_success();
    assert_eq!(fs::read_to_string(sandbox.target().join("config.json")).unwrap(), "{}");
}

#[test]
fn dead_mount_can_be_unmounted() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let pid = serving(&sandbox.target())[0];
    kill_process(pid, Signal::KILL).unwrap();
    assert!(has_ended(pid, LIMIT));
    run(sandbox.sluicefs(["unmount".as_ref(), sandbox.target().as_os_str()])).expect_success();
    assert!(!sandbox.is_mounted());
}

#[test]
fn unmount_of_a_busy_mount_needs_lazy() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&[])).expect_success();
    let file = fs::File::open(sandbox.target().join("config.json")).unwrap();
    let target = sandbox.target();
    let busy = run(sandbox.sluicefs(["unmount".as_ref(), target.as_os_str()]));
    assert_eq!(busy.code, Some(4), "{busy:?}");
    assert!(busy.stderr.contains("in use"), "{busy:?}");
    run(sandbox.sluicefs(["unmount".as_ref(), "--lazy".as_ref(), target.as_os_str()])).expect_success();
    assert!(!sandbox.is_mounted());
    drop(file);
}

#[test]
fn local_directory_and_memory_mount_too() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), "local").unwrap();
    let url = format!("file://{}", source.display());
    let target = sandbox.target();
    run(sandbox.sluicefs(["mount".as_ref(), url.as_ref(), target.as_os_str()])).expect_success();
    assert_eq!(fs::read_to_string(target.join("sub/file")).unwrap(), "local");
    run(sandbox.sluicefs(["unmount".as_ref(), target.as_os_str()])).expect_success();

    run(sandbox.sluicefs(["mount".as_ref(), "memory:".as_ref(), target.as_os_str()])).expect_success();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn prefix_is_the_root_of_the_mount() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&["--prefix", "dir/"])).expect_success();
    let names: Vec<_> = fs::read_dir(sandbox.target()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["a b"]);
}

#[test]
fn owner_and_modes_are_as_asked() {
    use std::os::unix::fs::MetadataExt;
    let sandbox = Sandbox::new();
    run(sandbox.mount(&["--uid", "12", "--gid", "34", "--file-mode", "0440", "--dir-mode", "0550"]))
        .expect_success();
    let file = fs::metadata(sandbox.target().join("config.json")).unwrap();
    let dir = fs::metadata(sandbox.target().join("dir")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (12, 34, 0o440));
    assert_eq!(dir.mode() & 0o7777, 0o550);
}

#[test]
fn logs_go_to_a_file_as_json_and_hold_no_secret() {
    let sandbox = Sandbox::new();
    let logs = sandbox.path("logs");
    fs::create_dir(&logs).unwrap();
    let mut command = sandbox.mount(&["--log-json", "--log-directory", logs.to_str().unwrap()]);
    command.env("SLUICEFS_LOG", "trace").env("AWS_SESSION_TOKEN", "canary-of-the-token");
    run(command).expect_success();
    fs::read(sandbox.target().join("config.json")).unwrap();
    let pid = serving(&sandbox.target())[0];
    run(sandbox.sluicefs(["unmount".as_ref(), sandbox.target().as_os_str()])).expect_success();
    assert!(has_ended(pid, LIMIT));

    let files: Vec<_> = fs::read_dir(&logs).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let text = fs::read_to_string(&files[0]).unwrap();
    assert!(text.contains("\"message\":\"mounted\""), "{text}");
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    for secret in [SECRET, "canary-of-the-token", "Signature="] {
        assert!(!text.contains(secret), "{secret} is in the log");
    }
}
