//! Uploads in parts that nobody ended.

use sluicefs_embedded_s3::{Operation, Rule, WireFault};
use sluicefs_s3_client::{Bucket, CreateUpload, ObjectAttributes, ObjectKey, UploadId};

use crate::sandbox::{Outcome, Sandbox, run};

/// Begins an upload of each of the keys, and leaves it.
fn begin<const N: usize>(sandbox: &Sandbox, keys: [&str; N]) -> [(ObjectKey, UploadId); N] {
    keys.map(|key| {
        let key = ObjectKey::new(key).unwrap();
        let request =
            CreateUpload { key: key.clone(), attributes: ObjectAttributes::default(), storage_class: None };
        let upload = sandbox.block_on(sandbox.bucket.create_upload(request)).unwrap();
        (key, upload)
    })
}

fn uploads(sandbox: &Sandbox, args: &[&str]) -> Outcome {
    let mut command = sandbox.sluicefs(["uploads"]);
    command.args(args).args(["--endpoint-url", &sandbox.server.endpoint_url()]);
    run(command)
}

fn is_there(sandbox: &Sandbox, (key, upload): &(ObjectKey, UploadId)) -> bool {
    sandbox.bucket.has_upload(key, upload)
}

#[test]
fn are_listed_below_a_prefix() {
    let sandbox = Sandbox::new();
    let [inside, outside] = begin(&sandbox, ["dir/a b", "other"]);
    let all = uploads(&sandbox, &["list", "models"]).expect_success();
    assert_eq!((all.stdout.lines().count(), all.stderr.as_str()), (2, ""), "{all:#?}");
    let below = uploads(&sandbox, &["list", "s3://models/dir"]).expect_success().stdout;
    assert!(below.contains(inside.1.as_str()) && below.ends_with("  dir/a b\n"), "{below}");
    assert!(!below.contains(outside.1.as_str()), "{below}");
    let none = uploads(&sandbox, &["list", "models", "--older-than", "1h"]).expect_success();
    assert_eq!(
        (none.stdout.as_str(), none.stderr.as_str()),
        ("", "sluicefs: no such uploads in s3://models\n")
    );
}

#[test]
fn are_listed_for_programs() {
    let sandbox = Sandbox::new();
    let [upload] = begin(&sandbox, ["dir/new\nline"]);
    let listed = uploads(&sandbox, &["list", "--json", "models"]).expect_success().stdout;
    let value: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        (value["key"].as_str(), value["id"].as_str()),
        (Some("dir/new\nline"), Some(upload.1.as_str()))
    );
    assert!(value["age_seconds"].as_u64().unwrap() < 3600 && value["begun"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn that_are_young_are_left_to_their_writers() {
    let sandbox = Sandbox::new();
    let [upload] = begin(&sandbox, ["a"]);
    let outcome = uploads(&sandbox, &["abort", "models"]).expect_success();
    assert_eq!((outcome.stdout.as_str(), is_there(&sandbox, &upload)), ("", true), "{outcome:#?}");
}

#[test]
fn are_aborted_below_a_prefix() {
    let sandbox = Sandbox::new();
    let [first, second, outside] = begin(&sandbox, ["dir/a", "dir/b", "other"]);
    let outcome = uploads(&sandbox, &["abort", "--older-than", "0s", "s3://models/dir/"]).expect_success();
    assert_eq!(outcome.stdout.lines().filter(|line| line.starts_with("aborted ")).count(), 2, "{outcome:#?}");
    assert_eq!([&first, &second, &outside].map(|upload| is_there(&sandbox, upload)), [false, false, true]);
}

#[test]
fn are_aborted_by_id() {
    let sandbox = Sandbox::new();
    let [first, second] = begin(&sandbox, ["same", "same"]);
    let id = second.1.as_str();
    uploads(&sandbox, &["abort", "models", "--id", id]).expect_success();
    assert_eq!([&first, &second].map(|upload| is_there(&sandbox, upload)), [true, false]);
    let again = uploads(&sandbox, &["abort", "models", "--id", id]);
    assert_eq!(again.code, Some(1), "{again:#?}");
    assert!(again.stderr.contains(id) && again.stderr.contains("1 of 1 uploads"), "{again:#?}");
}

#[test]
fn that_cannot_be_aborted_are_named() {
    let sandbox = Sandbox::new();
    let [_, refused] = begin(&sandbox, ["a", "b"]);
    let denied = WireFault::Status { status: 403, code: "AccessDenied", retry_after: None };
    sandbox.server.faults().add(Rule::new(denied).on(Operation::AbortUpload).key("b"));
    let outcome = uploads(&sandbox, &["abort", "models", "--older-than", "0s", "--json"]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(outcome.stderr.contains("s3://models/b"), "{outcome:#?}");
    assert!(outcome.stderr.contains("1 of 2 uploads were not aborted"), "{outcome:#?}");
    let lines: Vec<serde_json::Value> =
        outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!([&lines[0]["aborted"], &lines[1]["aborted"]], [true, false]);
    assert!(is_there(&sandbox, &refused));
}

#[test]
fn of_a_bucket_that_is_not_there_are_an_error() {
    let sandbox = Sandbox::new();
    let outcome = uploads(&sandbox, &["list", "no-such-bucket"]);
    assert_eq!(outcome.code, Some(3), "{outcome:#?}");
    assert!(outcome.stderr.contains("s3://no-such-bucket"), "{outcome:#?}");
}
