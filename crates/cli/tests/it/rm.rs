//! Removing without a mount.

use sluicefs_embedded_s3::Operation;

use crate::sandbox::{Outcome, Sandbox, run};

fn rm(sandbox: &Sandbox, args: &[&str]) -> Outcome {
    let mut command = sandbox.sluicefs(["rm"]);
    command.args(args).args(["--endpoint-url", &sandbox.server.endpoint_url()]);
    run(command)
}

fn keys(sandbox: &Sandbox) -> Vec<String> {
    sandbox.bucket.keys().iter().map(|key| key.as_str().to_owned()).collect()
}

#[test]
fn removes_an_object() {
    let sandbox = Sandbox::new();
    let outcome = rm(&sandbox, &["s3://models/dir/a b"]).expect_success();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("removed 1 object\n", ""));
    assert_eq!(keys(&sandbox), ["config.json"]);
}

#[test]
fn an_object_that_is_not_there_is_an_error() {
    let sandbox = Sandbox::new();
    let outcome = rm(&sandbox, &["s3://models/nothing"]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(outcome.stderr.contains("there is no object s3://models/nothing"), "{outcome:#?}");
    let outcome = rm(&sandbox, &["-r", "s3://models/nothing"]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(outcome.stderr.contains("there is nothing at s3://models/nothing"), "{outcome:#?}");
}

#[test]
fn a_directory_needs_r() {
    let sandbox = Sandbox::new();
    for url in ["s3://models/dir", "s3://models/dir/", "s3://models", "models"] {
        let outcome = rm(&sandbox, &[url]);
        assert_eq!(outcome.code, Some(2), "{outcome:#?}");
        assert!(outcome.stderr.contains("give -r"), "{outcome:#?}");
    }
    assert_eq!(keys(&sandbox), ["config.json", "dir/a b"]);
}

#[test]
fn a_dry_run_names_what_would_go() {
    let sandbox = Sandbox::new();
    let outcome = rm(&sandbox, &["-r", "--dry-run", "s3://models/dir"]).expect_success();
    assert_eq!(outcome.stdout, "s3://models/dir/a b\n1 object would be removed\n");
    assert_eq!(keys(&sandbox).len(), 2);
}

#[test]
fn a_directory_goes_with_its_namesake_and_nothing_else() {
    let sandbox = Sandbox::new();
    for key in ["dir", "dir/", "dir-other", "dir/sub/file"] {
        sandbox.bucket.put(key, "");
    }
    let outcome = rm(&sandbox, &["-r", "s3://models/dir"]).expect_success();
    assert_eq!(outcome.stdout, "removed 4 objects\n");
    assert_eq!(keys(&sandbox), ["config.json", "dir-other"]);
}

#[test]
fn ten_thousand_objects_cost_two_requests_per_thousand() {
    let sandbox = Sandbox::new();
    for i in 0..10_000 {
        sandbox.bucket.put(&format!("many/{i}"), "");
    }
    let outcome = rm(&sandbox, &["-r", "s3://models/many/"]).expect_success();
    assert_eq!(outcome.stdout, "removed 10000 objects\n");
    assert_eq!(keys(&sandbox), ["config.json", "dir/a b"]);
    let requests = sandbox.server.requests();
    assert_eq!(requests.of(Operation::DeleteMany), 10);
    // Ten pages, and the look whether the bucket answers. The mark is 0.02 requests per object.
    assert!(requests.total() <= 25, "{} requests", requests.total());
}
