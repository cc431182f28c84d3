//! Texts: help, completions, the reference.

use std::path::Path;
use std::process::Command;

use crate::sandbox::{Outcome, run};

fn sluicefs(args: &[&str]) -> Outcome {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_sluicefs")));
    command.args(args);
    run(command)
}

const FLAGS: [&str; 50] = [
    "--prefix",
    "--region",
    "--endpoint-url",
    "--force-path-style",
    "--transfer-acceleration",
    "--dual-stack",
    "--requester-pays",
    "--bucket-type",
    "--expected-bucket-owner",
    "--no-sign-request",
    "--profile",
    "--ca-bundle",
    "--sse-c-key-file",
    "--user-agent-prefix",
    "--op-timeout",
    "--read-only",
    "--allow-root",
    "--allow-other",
    "--uid",
    "--gid",
    "--dir-mode",
    "--file-mode",
    "--metadata-ttl",
    "--negative-metadata-ttl",
    "--memory-target",
    "--read-part-size",
    "--part-size",
    "--read-ahead-kb",
    "--write-part-size",
    "--upload-checksums",
    "--storage-class",
    "--sse",
    "--sse-kms-key-id",
    "--sse-bucket-key",
    "--acl",
    "--tag",
    "--no-content-type",
    "--on-conflict",
    "--excl",
    "--max-renamed-objects",
    "--foreground",
    "--log-directory",
    "--no-log",
    "--debug",
    "--log-json",
    "-f,",
    "-l,",
    "-d,",
    "--help",
    "--version",
];

#[test]
fn help_names_every_flag() {
    let help = sluicefs(&["mount", "--help"]).expect_success().stdout;
    for flag in FLAGS {
        assert!(help.contains(flag), "{flag}");
    }
    assert!(help.contains("sluicefs mount my-bucket /mnt/models"), "no example in {help}");
    assert!(!help.contains("--report-to-parent"));
}

#[test]
fn help_tells_the_exit_codes() {
    for args in [&["--help"][..], &["-h"]] {
        let help = sluicefs(args).expect_success().stdout;
        assert!(help.contains("Exit codes:") && help.contains("4  a problem with the mount point"), "{help}");
    }
}

#[test]
fn nonsense_is_a_usage_error() {
    for args in
        [&[][..], &["mount"], &["mount", "b", "/d", "--no-such-flag"], &["nonsense"], &["mount", "b/p", "/d"]]
    {
        let outcome = sluicefs(args);
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome:?}");
        assert!(!outcome.stderr.is_empty());
    }
}

#[test]
fn completions_know_commands_and_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let script = sluicefs(&["completions", shell]).expect_success().stdout;
        assert!(script.contains("unmount") && script.contains("endpoint-url"), "{shell}");
    }
}

#[test]
fn reference_covers_commands_and_hides_what_is_hidden() {
    let text = sluicefs(&["docs-markdown"]).expect_success().stdout;
    for part in [
        "## `sluicefs mount`",
        "## `sluicefs unmount`",
        "## `sluicefs uploads abort`",
        "## `sluicefs rm`",
        "## `sluicefs demo`",
        "## `sluicefs csi`",
        "--metadata-ttl",
    ] {
        assert!(text.contains(part), "{part}");
    }
    for part in ["--report-to-parent", "docs-markdown", "--size"] {
        assert!(!text.contains(part), "{part}");
    }
}
