//! The demonstration.

use std::fs;

use rustix::process::Signal;

use crate::sandbox::{Foreground, Listen, Sandbox, is_mounted, run};

#[test]
fn shows_everything_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let outcome = run(sandbox.sluicefs(["demo", "--size", "8"])).expect_success();
    for part in [
        "An S3 server runs at http://127.0.0.1:",
        "every checksum right: 8 MiB in",
        "in the bucket when it is closed: s3://demo/notes/hello.md",
        "What to try next",
        "cleaned up",
    ] {
        assert!(outcome.stdout.contains(part), "{outcome:#?}");
    }
    assert_eq!(outcome.stderr, "");
    let left: Vec<_> = fs::read_dir(sandbox.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["mnt"]);
}

#[test]
fn keep_stays_until_ctrl_c() {
    let sandbox = Sandbox::new();
    let mut demo = Foreground::start(sandbox.sluicefs(["demo", "--keep", "--size", "1"]), Listen::Stdout);
    let line = demo.wait_for("It stays mounted at ");
    let target = line.split_whitespace().find(|word| word.starts_with('/')).unwrap();
    assert!(fs::read_to_string(format!("{target}/llm/config.json")).unwrap().contains("demo"));
    fs::write(format!("{target}/mine.txt"), "mine").unwrap();
    assert_eq!(fs::read_to_string(format!("{target}/mine.txt")).unwrap(), "mine");
    demo.signal(Signal::INT);
    assert_eq!(demo.wait().code(), Some(0));
    assert!(!is_mounted(target.as_ref()));
    assert!(!std::path::Path::new(target).exists());
}

#[test]
fn ctrl_c_in_the_middle_cleans_up() {
    let sandbox = Sandbox::new();
    let mut demo = Foreground::start(sandbox.sluicefs(["demo", "--size", "512"]), Listen::Both);
    demo.wait_for("It is mounted at");
    demo.signal(Signal::INT);
    assert_eq!(demo.wait().code(), Some(1));
    let said = demo.rest();
    assert_eq!(said.trim(), "sluicefs: error: stopped by SIGINT", "and nothing about panics");
    let left: Vec<_> = fs::read_dir(sandbox.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["mnt"]);
}
