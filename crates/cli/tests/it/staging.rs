//! `--cache`: whose directory it must be, and what is left in it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::sandbox::{Foreground, Listen, Sandbox, run};
use crate::writer::Writer;

/// Mounts with the least memory, and `cache` for more.
fn start(sandbox: &Sandbox, cache: &Path) -> Foreground {
    let options = ["--foreground", "--memory-target=128", "--cache", cache.to_str().unwrap()];
    let mut mount = Foreground::start(sandbox.mount(&options), Listen::Stderr);
    mount.wait_for(" mounted");
    mount
}

fn stages(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.join("stage")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path("shared");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).unwrap();
    let outcome = run(sandbox.mount(&["--cache", cache.to_str().unwrap()]));
    assert_ne!(outcome.code, Some(0));
    assert!(outcome.stderr.contains("chmod go-w"), "{outcome:?}");
    assert!(!sandbox.is_mounted());
}

#[test]
fn a_directory_in_the_mount_point_is_refused() {
    let sandbox = Sandbox::new();
    let outcome = run(sandbox.mount(&["--cache", sandbox.target().join("cache").to_str().unwrap()]));
    assert_ne!(outcome.code, Some(0));
    assert!(outcome.stderr.contains("choose a directory outside of it"), "{outcome:?}");
}

#[test]
fn what_a_killed_mount_left_is_removed_by_the_next() {
    let sandbox = Sandbox::new();
    let cache = sandbox.path("cache");
    let mut mount = start(&sandbox, &cache);
    // Every other MiB: nothing of it can be sent.
    let writer = Writer::start(&sandbox.target().join("f"), (0..60).map(|at| 2 * at));
    let left = stages(&cache);
    assert_eq!(left.len(), 1);
    assert!(fs::read_dir(&left[0]).unwrap().count() > 1, "more than the lock is there");
    mount.signal(Signal::KILL);
    mount.wait();
    drop(writer);

    let mut mount = start(&sandbox, &cache);
    assert!(!left[0].exists());
    assert_eq!(stages(&cache).len(), 1);
    mount.signal(Signal::TERM);
    assert_eq!(mount.wait().code(), Some(0));
    assert_eq!(stages(&cache).len(), 0, "a mount that ends leaves nothing");
}
