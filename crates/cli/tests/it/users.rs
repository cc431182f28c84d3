//! Mounts of an ordinary user, through fusermount3, and who may look into them.
//!
//! `/dev/fuse` is open to everybody on most machines but not in every container, so these tests run in a mount namespace of their own
//! where it is. What is mounted there goes with it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::sandbox::{Outcome, Sandbox, run};

/// `nobody`
const UID: u32 = 65534;

/// Runs a shell script as root where every user may open `/dev/fuse`; `$B` is the binary, `$U` the server, `$T` the target, and `$N` runs a
/// command as another user. `None` if that cannot be had here.
fn with_open_device(sandbox: &Sandbox, script: &str) -> Option<Outcome> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return None;
    }
    let prepare = "mknod device c 10 229 && chmod 666 device && mount --bind device /dev/fuse";
    let inside = |script: &str| {
        let shell = ["--mount", "--propagation", "private", "sh", "-ec", &format!("{prepare}\n{script}")];
        let mut command = sandbox.program("/usr/bin/unshare".as_ref(), shell);
        command
            .env("B", sandbox.path("sluicefs"))
            .env("U", sandbox.server.endpoint_url())
            .env("T", sandbox.target())
            .env("N", format!("setpriv --reuid {UID} --regid {UID} --clear-groups"));
        command
    };
    let possible = run(inside("rm device"));
    if possible.code != Some(0) {
        eprintln!("skipped: no mount namespace with another /dev/fuse here: {}", possible.stderr.trim());
        return None;
    }
    // Another user cannot always reach the directory that the binary was built in.
    let binary = sandbox.path("sluicefs");
    fs::copy(env!("CARGO_BIN_EXE_sluicefs"), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    Some(run(inside(script)))
}

#[test]
fn user_mounts_through_fusermount3() {
    let sandbox = Sandbox::new();
    chown(sandbox.target(), Some(UID), Some(UID)).unwrap();
    let script = r#"
        mkdir of-user && chown 65534 of-user
        $N env XDG_STATE_HOME="$PWD/of-user" "$B" mount --endpoint-url "$U" models "$T"
        trap 'umount -l "$T" 2>/dev/null || true' EXIT
        grep "$T" /proc/mounts
        $N cat "$T/config.json"
        echo; echo "root: $(cat "$T/config.json" 2>&1 || true)"
        $N env HOME=/nonexistent XDG_STATE_HOME="$PWD/of-user" "$B" status --json "$T"
        $N "$B" unmount "$T"
        echo "left: $(grep -c "$T" /proc/mounts || true)""#;
    let Some(outcome) = with_open_device(&sandbox, script) else { return };
    let outcome = outcome.expect_success();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines[0].contains("fuse.sluicefs") && lines[0].contains("user_id=65534"), "{outcome:#?}");
    assert_eq!(lines[1], "{}");
    // Not even root may look in.
    assert!(lines[2].starts_with("root: ") && lines[2].ends_with("Permission denied"), "{outcome:#?}");
    let status: serde_json::Value = serde_json::from_str(lines[3]).unwrap();
    assert_eq!((&status["state"], &status["source"]), (&"serving".into(), &"s3://models".into()));
    assert_eq!(lines[4], "left: 0");
}

#[test]
fn user_needs_a_mount_point_of_his_own() {
    let sandbox = Sandbox::new();
    let script = r#"$N "$B" mount --endpoint-url "$U" models "$T""#;
    let Some(outcome) = with_open_device(&sandbox, script) else { return };
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.stderr.contains("must be writable by the user who mounts"), "{outcome:?}");
}

#[test]
fn user_may_let_others_in_only_where_the_system_allows_it() {
    let sandbox = Sandbox::new();
    chown(sandbox.target(), Some(UID), Some(UID)).unwrap();
    let script = r#"
        : > fuse.conf; mount --bind fuse.conf /etc/fuse.conf
        $N "$B" mount --allow-other --endpoint-url "$U" models "$T" && exit 99
        echo user_allow_other > fuse.conf
        $N "$B" mount --allow-other --endpoint-url "$U" models "$T"
        trap 'umount -l "$T" 2>/dev/null || true' EXIT
        cat "$T/config.json""#;
    let Some(outcome) = with_open_device(&sandbox, script) else { return };
    let outcome = outcome.expect_success();
    assert!(outcome.stderr.contains("user_allow_other") && outcome.stdout == "{}", "{outcome:#?}");
}

#[test]
fn root_lets_others_in_only_if_asked() {
    let sandbox = Sandbox::new();
    let script = r#"
        "$B" mount --endpoint-url "$U" models "$T"
        trap 'umount -l "$T" 2>/dev/null || true' EXIT
        $N cat "$T/config.json" && exit 99
        "$B" unmount "$T"
        "$B" mount --allow-other --endpoint-url "$U" models "$T"
        $N cat "$T/config.json""#;
    let Some(outcome) = with_open_device(&sandbox, script) else { return };
    assert_eq!(outcome.expect_success().stdout, "{}");
}
