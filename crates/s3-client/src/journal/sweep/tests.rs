//! Dead processes, their neighbours, and what a sweep makes of both.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};

use super::*;
use crate::bucket::{
    BucketIdentity, CompleteUpload, CreateUpload, Payload, Timestamp, UploadPart, WriteCondition,
};
use crate::journal::{JournaledBucket, UploadJournal};
use crate::testing::MemoryBucket;

fn key(key: &str) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

/// The wall clock.
fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the bucket in memory has the real time, too")]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp { secs: since.as_secs() as i64, nanos: 0 }
}

struct State {
    at: tempfile::TempDir,
    store: MemoryBucket,
}

impl State {
    fn new() -> Self {
        Self { at: tempfile::tempdir().unwrap(), store: MemoryBucket::new("models") }
    }

    fn directory(&self) -> JournalDirectory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        JournalDirectory::new(open(self.at.path(), flags, Mode::empty()).unwrap())
    }

    fn journal_of(&self, identity: &BucketIdentity) -> UploadJournal {
        UploadJournal::create(self.directory(), identity.clone(), now).unwrap()
    }

    /// The bucket as one process has it.
    fn process(&self) -> JournaledBucket {
        JournaledBucket::new(Arc::new(self.store.clone()), self.journal_of(self.store.identity()))
    }

    async fn sweep(&self) -> (usize, usize) {
        let swept = sweep(&self.store, &self.directory()).await.unwrap();
        (swept.aborted, swept.left)
    }

    async fn uploads(&self) -> Vec<String> {
        let page = self.store.list_uploads(&KeyPrefix::root(), None).await.unwrap();
        page.uploads.into_iter().map(|meta| meta.key.as_str().to_owned()).collect()
    }

    fn journals(&self) -> usize {
        std::fs::read_dir(self.at.path()).unwrap().count()
    }
}

async fn create(bucket: &dyn Bucket, name: &str) -> UploadId {
    bucket
        .create_upload(CreateUpload { key: key(name), attributes: Default::default(), storage_class: None })
        .await
        .unwrap()
}

#[tokio::test]
async fn what_a_dead_process_had_under_way_is_aborted_and_nothing_of_the_living() {
    let state = State::new();
    let (dead, living) = (state.process(), state.process());
    create(&dead, "a").await;
    create(&dead, "both").await;
    create(&living, "both").await;
    create(&living, "c").await;
    // Somebody who keeps no journal.
    create(&state.store, "a").await;
    assert_eq!(state.sweep().await, (0, 0), "all of them live");
    drop(dead);
    assert_eq!(state.sweep().await, (2, 0));
    assert_eq!(state.uploads().await, ["a", "both", "c"]);
    assert_eq!(state.journals(), 1, "that of the living one");
    drop(living);
    assert_eq!(state.sweep().await, (2, 0));
    assert_eq!((state.uploads().await, state.journals()), (vec!["a".to_owned()], 0));
}

#[tokio::test]
async fn an_upload_whose_name_was_never_known_is_found_by_its_key_and_time() {
    let state = State::new();
    let dead = state.journal_of(state.store.identity());
    dead.begin(&key("a")).unwrap();
    dead.begin(&key("never-created")).unwrap();
    create(&state.store, "a").await;
    create(&state.store, "a/b").await;
    drop(dead);
    let living = state.journal_of(state.store.identity());
    let entry = living.begin(&key("a")).unwrap();
    assert_eq!(state.sweep().await, (0, 1), "it may be the living one's");
    living.created(entry, &UploadId::new("another")).unwrap();
    assert_eq!(state.sweep().await, (1, 0));
    assert_eq!((state.uploads().await, state.journals()), (vec!["a/b".to_owned()], 1));
}

#[tokio::test]
async fn what_was_completed_or_aborted_is_not_looked_for() {
    let state = State::new();
    let process = state.process();
    let (done, aborted) = (create(&process, "done").await, create(&process, "aborted").await);
    let body = Payload::from(bytes::Bytes::from_static(b"x"));
    let part = UploadPart { key: key("done"), upload: done.clone(), number: 1, body };
    let parts = vec![process.upload_part(part).await.unwrap()];
    let complete = CompleteUpload { key: key("done"), upload: done, parts, condition: WriteCondition::Any };
    process.complete_upload(complete).await.unwrap();
    process.abort_upload(&key("aborted"), &aborted).await.unwrap();
    drop(process);
    assert_eq!(state.journals(), 0);
}

#[tokio::test]
async fn the_journal_of_another_bucket_is_left_to_those_who_mount_that() {
    let state = State::new();
    let other = BucketIdentity { endpoint: "memory".into(), name: "memory:other".into() };
    let dead = state.journal_of(&other);
    dead.begin(&key("a")).unwrap();
    drop(dead);
    create(&state.store, "a").await;
    assert_eq!(state.sweep().await, (0, 0));
    assert_eq!((state.uploads().await.len(), state.journals()), (1, 1));
}

#[test]
fn only_what_began_when_the_note_was_written_is_meant() {
    let noted = Entry::begun(key("a"), 10_000);
    let gave_up = Entry { gave_up_at: Some(10_100), ..noted.clone() };
    let upload = |name: &str, id: &str, secs: i64| UploadMeta {
        key: key(name),
        upload: UploadId::new(id),
        initiated: Timestamp { secs, nanos: 0 },
    };
    let listed = [
        upload("a", "long-before", 9_939),
        upload("a", "slow-clock", 9_940),
        upload("a", "soon", 10_160),
        upload("a", "after", 10_900),
        upload("a", "long-after", 10_901),
        upload("a", "living", 10_000),
        upload("b", "other-key", 10_000),
    ];
    let living = |key: &str, upload: Option<&str>| Replayed {
        bucket: None,
        entries: BTreeMap::from([(
            0,
            Entry { upload: upload.map(UploadId::new), ..Entry::begun(self::key(key), 0) },
        )]),
    };
    let meant = |noted: &Entry, others: &[Replayed]| {
        begun_by(noted, &listed, others)
            .map(|ids| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>())
    };
    let names = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
    let others = [living("a", Some("living")), living("b", None)];
    assert_eq!(meant(&noted, &others), names(&["slow-clock", "soon", "after"]));
    assert_eq!(meant(&gave_up, &others), names(&["slow-clock", "soon"]));
    assert_eq!(meant(&noted, &[living("a", None)]), None);
}
