//! What counts as proven, and what ends that.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::objects::format::{Sealed, example};
use crate::objects::{Opened, Stored, Way};

const SIZE: u64 = 2 * BLOCK_BYTES + 5;

struct Rig {
    objects: TempDir,
    sealed: Sealed,
}

impl Rig {
    /// An object of which `blocks` are there.
    fn new(blocks: u32) -> Self {
        let rig = Self { objects: TempDir::new().unwrap(), sealed: example("a", SIZE) };
        let entry = Entry::open_or_create(rig.objects.path(), &rig.sealed).unwrap().unwrap();
        for index in 0..blocks {
            entry.write(index, &[&vec![7; entry.identity().block_len(index)]], Way::Through).unwrap();
        }
        rig
    }

    fn open(&self) -> Arc<Entry> {
        match Entry::open(self.objects.path(), &self.sealed).unwrap() {
            Opened::Entry(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the entry has settled, and checks it.
    fn verify(&self) -> Verified {
        let entry = self.open();
        while !entry.settles_in().unwrap().is_zero() {}
        verify_blocks(&entry).unwrap()
    }

    fn data(&self) -> PathBuf {
        let shelf = fs::read_dir(self.objects.path()).unwrap().next().unwrap().unwrap().path();
        let files = fs::read_dir(shelf).unwrap().map(|file| file.unwrap().path());
        files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "data")).unwrap()
    }
}

fn overwrite(path: &Path) {
    let mut byte = [0];
    let file = File::options().read(true).write(true).open(path).unwrap();
    file.read_exact_at(&mut byte, 200_000).unwrap();
    file.write_all_at(&byte, 200_000).unwrap();
}

#[test]
fn what_is_whole_and_right_is_proven_for_all_who_open_it_later() {
    let rig = Rig::new(3);
    assert!(!rig.open().is_proven().unwrap());
    let expected = Verified { right_blocks: 3, right_bytes: SIZE, damaged: 0, is_proven: true };
    assert_eq!(rig.verify(), expected);
    assert!(rig.open().is_proven().unwrap());
    assert_eq!(rig.verify(), expected);
}

#[test]
fn a_block_that_is_found_wrong_ends_it_although_no_time_of_the_data_moved() {
    let rig = Rig::new(3);
    assert!(rig.verify().is_proven);
    let entry = rig.open();
    let mut bytes = vec![0; entry.identity().block_len(1)];
    assert_eq!(entry.read(1, 1, &mut bytes).unwrap(), Stored::Wrong, "that is not its record");
    assert!(!rig.open().is_proven().unwrap());
}

#[test]
fn what_is_not_whole_is_not_proven() {
    let rig = Rig::new(2);
    assert!(!rig.verify().is_proven);
    assert!(!rig.open().is_proven().unwrap());
}

#[test]
fn what_was_just_written_is_not_proven_yet() {
    let rig = Rig::new(3);
    overwrite(&rig.data());
    let verified = verify_blocks(&rig.open()).unwrap();
    assert_eq!((verified.right_bytes, verified.is_proven), (SIZE, false));
}

#[test]
fn a_write_in_the_middle_of_a_check_shows() {
    let rig = Rig::new(3);
    let entry = rig.open();
    while !entry.settles_in().unwrap().is_zero() {}
    let mut check = Check::new(entry).unwrap();
    assert!(check.go_on(1).unwrap());
    overwrite(&rig.data());
    while check.go_on(1).unwrap() {}
    assert!(!check.end().unwrap().is_proven);
}

type Act = fn(&Path);

#[test]
fn whatever_is_done_to_the_data_ends_it() {
    let acts: [(&str, Act); 5] = [
        ("written to, the same byte", overwrite),
        ("made longer", |path| File::options().write(true).open(path).unwrap().set_len(SIZE + 1).unwrap()),
        ("cut", |path| File::options().write(true).open(path).unwrap().set_len(SIZE - 1).unwrap()),
        ("replaced by a copy", |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(copy, path).unwrap();
        }),
        ("written to with its times put back", |path| {
            let times = fs::metadata(path).unwrap();
            overwrite(path);
            let times = fs::FileTimes::new()
                .set_modified(times.modified().unwrap())
                .set_accessed(times.accessed().unwrap());
            File::options().write(true).open(path).unwrap().set_times(times).unwrap();
        }),
    ];
    for (what, act) in acts {
        let rig = Rig::new(3);
        assert!(rig.verify().is_proven);
        act(&rig.data());
        assert!(!rig.open().is_proven().unwrap(), "{what}");
    }
}
