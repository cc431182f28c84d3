//! The binary under the name `mount-s3`.

use std::fs;
use std::path::{Path, PathBuf};

use sluicefs_embedded_s3::Operation;

use crate::sandbox::{Sandbox, run};

fn mount_s3(sandbox: &Sandbox) -> PathBuf {
    let link = sandbox.path("mount-s3");
    std::os::unix::fs::symlink(Path::new(env!("CARGO_BIN_EXE_sluicefs")), &link).unwrap();
    link
}

#[test]
fn takes_the_line_of_mount_s3() {
    let sandbox = Sandbox::new();
    let (program, url, target) = (mount_s3(&sandbox), sandbox.server.endpoint_url(), sandbox.target());
    let target = target.to_str().unwrap();
    let args = [
        "models",
        target,
        "--endpoint-url",
        &url,
        "--force-path-style",
        "--allow-delete",
        "--allow-overwrite",
    ];
    let outcome = run(sandbox.program(&program, args)).expect_success();
    assert!(!outcome.stderr.contains("no effect"), "{outcome:?}");
    let file = sandbox.target().join("config.json");
    assert_eq!(fs::read_to_string(&file).unwrap(), "{}");
    fs::write(&file, "new").unwrap();
    fs::remove_file(&file).unwrap();
}

#[test]
fn refuses_to_delete_and_overwrite_unless_allowed() {
    let sandbox = Sandbox::new();
    let (program, url, target) = (mount_s3(&sandbox), sandbox.server.endpoint_url(), sandbox.target());
    run(sandbox.program(&program, ["--endpoint-url", &url, "models", target.to_str().unwrap()]))
        .expect_success();
    let file = target.join("config.json");
    assert_eq!(fs::remove_file(&file).unwrap_err().raw_os_error(), Some(1), "EPERM");
    assert_eq!(fs::write(&file, "new").unwrap_err().raw_os_error(), Some(1), "EPERM");
    fs::write(target.join("new"), "allowed").unwrap();
    assert_eq!(fs::read_to_string(target.join("new")).unwrap(), "allowed");
}

/// Its default is to ask for names each time, ours to believe them for a second.
#[test]
fn names_are_not_believed_by_default() {
    let sandbox = Sandbox::new();
    let (program, url, target) = (mount_s3(&sandbox), sandbox.server.endpoint_url(), sandbox.target());
    run(sandbox.program(&program, ["--endpoint-url", &url, "models", target.to_str().unwrap()]))
        .expect_success();
    let requests = || {
        [Operation::Head, Operation::List].map(|kind| sandbox.server.requests().of(kind)).iter().sum::<u64>()
    };
    fs::metadata(target.join("config.json")).unwrap();
    let before = requests();
    fs::metadata(target.join("config.json")).unwrap();
    assert!(requests() > before);
}

#[test]
fn takes_fstab_options() {
    let sandbox = Sandbox::new();
    let (program, target) = (mount_s3(&sandbox), sandbox.target());
    let options = format!(
        "ro,_netdev,nofail,endpoint-url={},file-mode=0400,x-systemd.automount",
        sandbox.server.endpoint_url()
    );
    run(sandbox.program(&program, ["s3://models/dir/", target.to_str().unwrap(), "-o", &options]))
        .expect_success();
    assert_eq!(fs::read_to_string(target.join("a b")).unwrap(), "spaces");
}

#[test]
fn refuses_what_it_cannot_keep() {
    let sandbox = Sandbox::new();
    let program = mount_s3(&sandbox);
    let outcome = run(sandbox.program(&program, ["--cache-xz", "shared", "models", "/nowhere"]));
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("--cache-xz is not in this version"), "{outcome:?}");
}
