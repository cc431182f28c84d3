//! What the options of a mount say about written objects, seen in the bucket.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sluicefs_embedded_s3::Operation;
use sluicefs_s3_client::{ObjectHead, StorageClass};

use crate::sandbox::{Sandbox, run};
use crate::writer::Writer;

fn written(sandbox: &Sandbox, key: &str) -> ObjectHead {
    fs::write(sandbox.target().join(key), "{}").unwrap();
    sandbox.bucket.object(key).unwrap().head
}

#[test]
fn objects_have_the_type_of_their_name_and_the_class_that_was_asked_for() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&["--storage-class", "STANDARD_IA"])).expect_success();
    let head = written(&sandbox, "new.json");
    assert_eq!(head.content_type.as_deref(), Some("application/json"));
    assert_eq!(head.meta.storage_class, StorageClass::StandardIa);
}

#[test]
fn as_mount_s3_types_are_inferred_when_asked_for() {
    for option in [None, Some("--infer-content-type")] {
        let sandbox = Sandbox::new();
        let (program, url, target) =
            (sandbox.path("mount-s3"), sandbox.server.endpoint_url(), sandbox.target());
        symlink(Path::new(env!("CARGO_BIN_EXE_sluicefs")), &program).unwrap();
        let line = ["models", target.to_str().unwrap(), "--endpoint-url", &url];
        run(sandbox.program(&program, line.into_iter().chain(option))).expect_success();
        let inferred = written(&sandbox, "new.json").content_type.as_deref() == Some("application/json");
        assert_eq!(inferred, option.is_some(), "{option:?}");
    }
}

#[test]
fn a_file_is_sent_in_parts_of_the_size_that_was_asked_for() {
    let sandbox = Sandbox::new();
    run(sandbox.mount(&["--write-part-size", "5242880", "--upload-checksums", "crc32c"])).expect_success();
    // Not by this process: another test's child has a copy of its open files, and closing that would send what is written so far.
    drop(Writer::start(&sandbox.target().join("large"), 0..11));
    assert_eq!(sandbox.bucket.object("large").unwrap().content.len(), 11 << 20);
    assert_eq!(sandbox.server.requests().of(Operation::UploadPart), 3);
}
