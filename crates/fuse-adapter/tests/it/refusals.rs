//! What programs see of a file after the store refused what they wrote.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use sluicefs_core::{Ended, FsConfig};
use sluicefs_s3_client::testing::{Fault, FaultBucket, Operation, Rule, When};
use sluicefs_s3_client::{Error, ErrorKind};

use crate::support::{TestMount, bucket};

#[test]
fn what_was_refused_is_not_in_the_file() {
    let store = bucket(&[("f", "stored"), ("g", "stored")]);
    let faults = Arc::new(FaultBucket::new(store));
    let refused = Fault::Fail(Error::new(ErrorKind::Forbidden, "put"));
    faults.plan().add(Rule::new(refused).on(Operation::Put).when(When::Always));
    let mount =
        TestMount::with(Arc::clone(&faults) as _, FsConfig::default(), |config| config.read_only = false);
    let mut tries = 0;
    for (name, was_read) in [("f", true), ("g", false)] {
        let path = mount.join(name);
        if was_read {
            assert_eq!(fs::read_to_string(&path).unwrap(), "stored");
        }
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"WRITES", 0).unwrap();
        assert!(file.sync_all().is_err());
        drop(file);
        // One try each by fsync and close, and a last one in the background; until that has failed, this mount shows what was written.
        tries += 3;
        while faults.requests().of(Operation::Put) < tries {
            std::thread::yield_now();
        }
        mount.runtime().block_on(mount.fs.finish(Ended::Unmounted, Duration::from_secs(60)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "stored", "{name}");
    }
}
