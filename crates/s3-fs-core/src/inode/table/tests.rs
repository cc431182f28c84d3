//! Numbers of names whose objects change, with a kernel that has what a test says.

use parking_lot::Mutex;
use sluicefs_s3_client::{ETag, StorageClass, Timestamp};

use super::*;

/// Versions of which the kernel has bytes, as a test says.
#[derive(Debug, Default)]
struct Delivered {
    etags: Mutex<FxHashMap<InodeNo, ETag>>,
    forgotten: Mutex<Vec<InodeNo>>,
}

impl Versions for Delivered {
    fn follow(&self, ino: InodeNo, seen: &ObjectMeta) -> Follow {
        match self.etags.lock().get(&ino) {
            None => Follow::Free,
            Some(etag) if Some(etag) == seen.etag.as_ref() => Follow::Same,
            Some(_) => Follow::Parts,
        }
    }

    fn move_on(&self, ino: InodeNo, _seen: &ObjectMeta) -> bool {
        !self.etags.lock().contains_key(&ino)
    }

    fn commit(&self, ino: InodeNo, written: &ObjectMeta) {
        self.etags.lock().insert(ino, written.etag.clone().unwrap());
    }

    fn forget(&self, ino: InodeNo) {
        self.etags.lock().remove(&ino);
        self.forgotten.lock().push(ino);
    }
}

fn version(etag: &str) -> ObjectMeta {
    ObjectMeta {
        size: 1,
        etag: Some(ETag::new(etag)),
        last_modified: Timestamp { secs: 0, nanos: 0 },
        storage_class: StorageClass::Standard,
    }
}

struct Subject {
    table: InodeTable,
    kernel: Arc<Delivered>,
    /// Each word of the store is newer than the one before.
    now: Instant,
}

impl Subject {
    fn new() -> Self {
        let kernel = Arc::<Delivered>::default();
        let table = InodeTable::new(&FsConfig::default(), Arc::clone(&kernel) as _);
        Self { table, kernel, now: Instant::now() }
    }

    /// The store says that `a` has this version.
    fn lookup(&mut self, etag: &str) -> InodeNo {
        self.now += Duration::from_secs(1);
        let mut ino = None;
        let accept = |entry: Entry| ino.replace(entry.attr.ino).is_none();
        let name = (InodeNo::ROOT, "a");
        self.table
            .apply(name, (&Remote::Object(FileKind::File, version(etag)), None), (self.now, self.now), accept)
            .unwrap();
        ino.unwrap()
    }

    /// The kernel gets bytes of this version.
    fn deliver(&self, ino: InodeNo, etag: &str) {
        self.kernel.etags.lock().insert(ino, ETag::new(etag));
    }

    fn number(&self) -> InodeNo {
        self.table.number_of(InodeNo::ROOT, "a", FileKind::File)
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_nobody_read_leaves_the_number_to_the_next() {
    let mut subject = Subject::new();
    let ino = subject.lookup("1");
    assert_eq!(subject.lookup("2"), ino);
    subject.deliver(ino, "2");
    assert_eq!(subject.lookup("2"), ino);
    assert_ne!(subject.lookup("3"), ino);
    assert!(subject.table.known("test", ino).unwrap().is_replaced);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_here_keeps_its_number() {
    let mut subject = Subject::new();
    let ino = subject.lookup("1");
    subject.deliver(ino, "1");
    subject.table.commit(ino, version("2"), subject.now);
    assert_eq!(subject.lookup("2"), ino);
    assert_eq!(subject.table.known("test", ino).unwrap().meta, Some(version("2")));
}

#[tokio::test(start_paused = true)]
async fn who_writes_through_an_old_number_gets_the_name_back() {
    let mut subject = Subject::new();
    let old = subject.lookup("1");
    subject.deliver(old, "1");
    let outside = subject.lookup("2");
    subject.table.commit(old, version("3"), subject.now);
    assert_eq!(subject.number(), old);
    assert_eq!(subject.lookup("3"), old);
    assert!(subject.table.current("test", old).is_ok());
    assert_eq!(subject.table.current("test", outside).unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test(start_paused = true)]
async fn an_older_word_of_the_store_does_not_bring_an_old_version_back() {
    let mut subject = Subject::new();
    let ino = subject.lookup("1");
    subject.deliver(ino, "1");
    let before = subject.now;
    subject.now += Duration::from_secs(1);
    assert_eq!(
        subject.table.refresh(ino, (&Remote::Object(FileKind::File, version("2")), None), subject.now),
        Change::Replaced
    );
    let new = subject.number();
    assert_ne!(new, ino);
    subject.now = before;
    let at = before + Duration::from_millis(1);
    let mut told = None;
    let accept = |entry: Entry| told.replace(entry).is_none();
    let name = (InodeNo::ROOT, "a");
    subject
        .table
        .apply(name, (&Remote::Object(FileKind::File, version("1")), None), (at, at), accept)
        .unwrap();
    assert_eq!(told.unwrap().attr.ino, new);
    assert_eq!(subject.table.known("test", new).unwrap().meta, Some(version("2")));
}

#[tokio::test(start_paused = true)]
async fn forgotten_numbers_are_forgotten_by_all() {
    let mut subject = Subject::new();
    let old = subject.lookup("1");
    subject.deliver(old, "1");
    let new = subject.lookup("2");
    for ino in [old, new] {
        subject.table.forget(ino, 1);
    }
    assert_eq!(*subject.kernel.forgotten.lock(), [old, new]);
    assert_eq!(subject.table.len(), 1);
    assert_eq!(subject.number(), new, "the name keeps it");
}

#[tokio::test(start_paused = true)]
async fn another_length_gets_another_number_unless_a_read_found_it() {
    let longer = ObjectMeta { size: 2, ..version("2") };
    for found_by_a_read in [false, true] {
        let mut subject = Subject::new();
        let ino = subject.lookup("1");
        subject.now += Duration::from_secs(1);
        if found_by_a_read {
            assert!(subject.table.move_on(ino, &longer, subject.now));
            assert_eq!(subject.number(), ino);
        } else {
            assert_eq!(
                subject.table.refresh(
                    ino,
                    (&Remote::Object(FileKind::File, longer.clone()), None),
                    subject.now
                ),
                Change::Replaced
            );
            assert_ne!(subject.number(), ino);
            // Who opened the old number and read nothing still gets what there is.
            assert!(subject.table.move_on(ino, &longer, subject.now));
        }
        assert_eq!(subject.table.known("test", ino).unwrap().attr.size, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_file_does_not_become_what_comes_after_it() {
    let mut subject = Subject::new();
    let ino = subject.lookup("1");
    subject.table.remove(ino);
    assert!(!subject.table.move_on(ino, &version("2"), subject.now));
}

#[test]
fn what_was_written_here_keeps_its_version_and_time_where_listings_name_none() {
    let mut subject = Subject::new();
    let ino = subject.lookup("old");
    let own = ObjectMeta { last_modified: Timestamp { secs: 100, nanos: 5 }, ..version("own") };
    subject.table.commit(ino, own.clone(), subject.now);
    subject.kernel.etags.lock().clear();
    let listed = |secs, etag: Option<&str>| {
        let (etag, last_modified) = (etag.map(ETag::new), Timestamp { secs, nanos: 0 });
        Remote::Object(FileKind::File, ObjectMeta { etag, last_modified, ..version("") })
    };
    for secs in [100, 101, 107] {
        assert_eq!(subject.table.refresh(ino, (&listed(secs, None), None), subject.now), Change::None);
        assert_eq!(subject.table.known("test", ino).unwrap().meta, Some(own.clone()), "{secs}");
    }
    assert_eq!(
        subject.table.refresh(ino, (&listed(107, Some("other")), None), subject.now),
        Change::NewVersion
    );
}

/// The directory that had the first number was moved away, and goes before the one that was made in its place.
#[tokio::test(start_paused = true)]
async fn a_name_keeps_its_number_when_whoever_had_the_first_one_is_forgotten() {
    let table = Subject::new().table;
    let now = Instant::now();
    let make = |name| table.create((InodeNo::ROOT, name), &Remote::Directory, (now, now)).unwrap().attr.ino;
    let moved = make("red");
    table.rename(moved, (InodeNo::ROOT, "blue"), now).unwrap();
    let made = make("red");
    assert_ne!(made, moved);
    table.forget(moved, 1);
    assert!(table.known("test", moved).is_err());
    assert_eq!(table.number_of(InodeNo::ROOT, "red", FileKind::Directory), made);
}

#[tokio::test(start_paused = true)]
async fn what_was_renamed_over_another_file_keeps_its_number_when_that_is_removed() {
    let table = Subject::new().table;
    let now = Instant::now();
    let file = Remote::Object(FileKind::File, version("1"));
    let make = |name| table.create((InodeNo::ROOT, name), &file, (now, now)).unwrap().attr.ino;
    let (moved, replaced) = (make("a"), make("b"));
    table.rename(moved, (InodeNo::ROOT, "b"), now).unwrap();
    table.remove(replaced);
    assert_eq!(table.number_of(InodeNo::ROOT, "b", FileKind::File), moved);
}
