//! `sluicefs explain`: what a mount tells of a file that was read.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;
use sluicefs_s3_client::testing::Content;

use crate::sandbox::{Outcome, Sandbox, run};

const LEN: u64 = 40 << 20;

fn explain(sandbox: &Sandbox, file: &Path, args: &[&str]) -> Outcome {
    let mut command = sandbox.sluicefs(["explain"]);
    command.arg("--state-dir").arg(sandbox.path("state")).args(args).arg(file);
    run(command)
}

fn explained(sandbox: &Sandbox, file: &Path) -> Value {
    serde_json::from_str(&explain(sandbox, file, &["--json"]).expect_success().stdout).unwrap()
}

fn model() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.bucket.put("dir/model", Content::Pattern { seed: 7, len: LEN });
    run(sandbox.mount(&["--read-only"])).expect_success();
    sandbox
}

#[test]
fn a_file_that_was_read_is_explained_and_what_to_change() {
    let sandbox = model();
    let file = sandbox.target().join("dir/model");
    assert!(explained(&sandbox, &file)["read"].is_null(), "nothing was read of it");
    assert!(explain(&sandbox, &file, &[]).expect_success().stdout.contains("nothing of it was read"));

    assert_eq!(fs::read(&file).unwrap().len() as u64, LEN);
    let answer = explained(&sandbox, &file);
    let read = &answer["read"];
    assert_eq!((&read["pattern"], &read["size_bytes"]), (&"in order".into(), &LEN.into()));
    assert_eq!(
        (&read["fetched_bytes"], &read["disk_bytes"], &read["failures"]),
        (&LEN.into(), &0.into(), &0.into())
    );
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&read["reads"]) >= 2.0 && number(&read["read_bytes"]) >= LEN as f64, "{read}");
    assert!(number(&read["gets"]) >= 5.0 && read["first_byte"]["count"] == read["gets"], "{read}");
    assert!((0.0..=1.0).contains(&number(&read["hit_rate"])), "{read}");
    assert!(answer["advice"].to_string().contains("--cache"), "{answer}");

    let text = explain(&sandbox, &file, &[]).expect_success().stdout;
    for part in
        ["dir/model (40.0 MiB)", "read in order", "40.0 MiB from the store", "to change:", "--cache DIR"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    // A link from elsewhere stands for the file.
    let link = sandbox.path("link");
    symlink(&file, &link).unwrap();
    assert_eq!(explained(&sandbox, &link)["read"]["size_bytes"], LEN);
}

#[test]
fn a_file_outside_all_mounts_is_refused() {
    let sandbox = model();
    let outcome = explain(&sandbox, &sandbox.path("state"), &[]);
    assert_ne!(outcome.code, Some(0));
    assert!(outcome.stderr.contains("no mount of yours"), "{}", outcome.stderr);
}
