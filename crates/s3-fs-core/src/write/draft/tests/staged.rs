//! Drafts with a directory for what memory cannot hold.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sluicefs_cache_dir::StageDir;

use super::*;
use crate::config::WriteBack;
use crate::write::Record;

struct Staged {
    rig: Rig,
    stage: Arc<StageDir>,
    _cache: tempfile::TempDir,
}

/// Memory for `memory` bytes and room on disk for `limit`, in parts of `part`.
fn staged(memory_and_part: (u64, u64), limit: u64) -> Staged {
    staged_with(memory_and_part, limit, WriteBack::Off)
}

fn staged_with((memory, part): (u64, u64), limit: u64, write_back: WriteBack) -> Staged {
    let cache = tempfile::tempdir().unwrap();
    let stage = StageDir::open(cache.path(), limit).unwrap();
    let config = WriteConfig {
        memory_limit_bytes: memory,
        part_size_bytes: part,
        write_back,
        ..WriteConfig::default()
    };
    let rig = staged_rig(config, Some(Arc::clone(&stage)));
    Staged { rig, stage, _cache: cache }
}

impl Staged {
    /// Waits until nothing is staged on disk any more.
    async fn emptied(&self) {
        timeout(Duration::from_secs(10), async {
            while self.stage.used_bytes() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the room comes back");
    }
}

async fn read_all(draft: &Draft) -> Vec<u8> {
    let mut all = Vec::new();
    while (all.len() as u64) < draft.attributes().0 {
        all.extend(read(draft, all.len() as u64, MIB).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_writes_may_be_larger_than_memory() {
    let staged = staged((24 * MIB, 5 * MIB), 1 << 30);
    let draft = staged.rig.create("scattered");
    let mut expected = vec![0; 99 * MIB as usize];
    for at in (0..99).rev().step_by(2) {
        let range = ByteRange::from_len(at * MIB, MIB);
        draft.write(range.start, &pattern(at, range)).await.unwrap();
        expected[range.start as usize..range.end as usize].copy_from_slice(&pattern(at, range));
    }
    assert!(staged.stage.used_bytes() > 20 * MIB, "memory holds less than was written");
    assert!(read_all(&draft).await == expected);
    draft.commit().await.unwrap();
    assert!(staged.rig.stored("scattered").await == expected);
    staged.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_can_be_read_and_changed() {
    let staged = staged((40 * MIB, 8 * MIB), 1 << 30);
    let draft = staged.rig.create("f");
    let mut expected = pattern(8, ByteRange::new(0, 120 * MIB)).to_vec();
    fill(&draft, 8, ByteRange::new(0, 120 * MIB)).await;
    draft.parts_ended().await;
    assert!(read_all(&draft).await == expected);
    draft.write(20 * MIB, b"changed").await.unwrap();
    expected[20 * MIB as usize..20 * MIB as usize + 7].copy_from_slice(b"changed");
    draft.commit().await.unwrap();
    assert!(staged.rig.stored("f").await == expected);
    assert_eq!(
        staged.rig.count(Operation::UploadPart),
        16,
        "the part that was changed was sent again, no other"
    );
    staged.emptied().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_order_may_be_longer_than_the_disk_has_room() {
    let staged = staged((40 * MIB, 8 * MIB), 32 * MIB);
    let draft = staged.rig.create("f");
    fill(&draft, 9, ByteRange::new(0, 160 * MIB)).await;
    draft.commit().await.unwrap();
    assert!(staged.rig.stored("f").await == pattern(9, ByteRange::new(0, 160 * MIB)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stage_fails_the_write_and_loses_nothing() {
    let staged = staged((24 * MIB, 5 * MIB), 16 * MIB);
    let draft = staged.rig.create("scattered");
    let mut expected = Vec::new();
    let error = loop {
        let at = expected.len() as u64;
        match draft.write(at + MIB, &pattern(at, ByteRange::new(0, MIB))).await {
            Ok(()) => {
                expected.resize(expected.len() + MIB as usize, 0);
                expected.extend(pattern(at, ByteRange::new(0, MIB)));
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(expected.len() as u64 > 2 * 24 * MIB, "memory and disk were used: {}", expected.len());
    assert!(read_all(&draft).await == expected);
    draft.commit().await.unwrap();
    assert!(staged.rig.stored("scattered").await == expected);
    staged.emptied().await;
    draft.write(0, b"goes on").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_that_memory_cannot_hold_is_kept_on_disk() {
    let staged = staged((24 * MIB, 5 * MIB), 1 << 30);
    staged.rig.bucket.put("f", Stored::Pattern { seed: 3, len: 50 * MIB });
    let draft = staged.rig.open("f").await;
    draft.orphan().await;
    assert!(draft.hold().await.unwrap());
    staged.rig.bucket.remove("f");
    assert!(read_all(&draft).await == pattern(3, ByteRange::new(0, 50 * MIB)));
}

/// Random numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

const KIB: u64 = 1 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn files_are_what_was_written_whatever_is_on_disk() {
    for seed in 0..3 {
        exercise(seed, WriteBack::Off).await;
        exercise(seed, WriteBack::Async).await;
    }
}

/// What `fsx` does, to two files at once that share a memory for less than one of them.
async fn exercise(seed: u64, write_back: WriteBack) {
    let staged = staged_with((4 * MIB, 256 * KIB), 512 * MIB, write_back);
    let mut random = Random(seed);
    let keys = ["a", "b"];
    let files = keys.map(|key| staged.rig.create(key));
    let (mut models, mut saved) = ([Vec::<u8>::new(), Vec::new()], [Vec::<u8>::new(), Vec::new()]);
    for step in 0..300_u64 {
        let which = random.below(2) as usize;
        let (draft, model) = (&files[which], &mut models[which]);
        let (at, len) = (random.below(8 * MIB), 1 + random.below(400 * KIB));
        match random.below(22) {
            0 => draft.commit().await.unwrap(),
            1 => {
                draft.truncate(at).await.unwrap();
                model.resize(at as usize, 0);
            }
            2..8 => {
                let end = model.len().min((at + len) as usize);
                let expected = &model[end.min(at as usize)..end];
                assert!(read(draft, at, len).await == expected, "seed {seed}, step {step}: {at}+{len}");
            }
            20.. if write_back == WriteBack::Async => {
                assert!(draft.save().await, "seed {seed}, step {step}");
                saved[which].clone_from(model);
            }
            choice => {
                // Many in order, so that parts are sent.
                let at = if choice > 13 { model.len() as u64 % (12 * MIB) } else { at };
                let data = pattern(seed ^ step, ByteRange::from_len(at, len));
                draft.write(at, &data).await.unwrap();
                model.resize(model.len().max((at + len) as usize), 0);
                model[at as usize..(at + len) as usize].copy_from_slice(&data);
            }
        }
        if files[which].has_saved() {
            assert!(after_a_crash(&staged, keys[which]).await == saved[which], "seed {seed}, step {step}");
        }
    }
    for ((draft, model), key) in files.iter().zip(&models).zip(keys) {
        assert!(read_all(draft).await == *model, "seed {seed}");
        draft.commit().await.unwrap();
        assert!(staged.rig.stored(key).await == *model, "seed {seed}");
    }
}

/// With files acknowledged on disk.
fn written_back() -> Staged {
    staged_with((24 * MIB, 5 * MIB), 1 << 30, WriteBack::Async)
}

/// What a mount would find of the object `key` that came after a crash now.
async fn after_a_crash(staged: &Staged, key: &str) -> Vec<u8> {
    let entries = std::fs::read_dir(staged.stage.path()).unwrap().map(|entry| entry.unwrap().path());
    let records = entries.filter(|path| path.extension().is_some_and(|found| found == "record"));
    let parsed = |path: PathBuf| (Record::parse(&std::fs::read(&path).unwrap()).unwrap(), path);
    let found: Vec<_> = records.map(parsed).filter(|(record, _)| record.key().as_str() == key).collect();
    let [(record, path)] = &found[..] else { panic!("one record: {found:?}") };
    let noted = record.noted();
    let mut content = match noted.base {
        Some(_) => staged.rig.stored(key).await[..noted.base_len as usize].to_vec(),
        None => Vec::new(),
    };
    content.resize(noted.size as usize, 0);
    let file = File::open(path.with_extension("kept")).unwrap();
    for range in noted.written {
        file.read_exact_at(&mut content[range.start as usize..range.end as usize], range.start).unwrap();
    }
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_stays_as_it_was_while_the_file_is_written_on() {
    let staged = written_back();
    let draft = staged.rig.create("f");
    let mut expected = vec![0; 60 * MIB as usize];
    let write = async |seed: u64, first: u64, expected: &mut Vec<u8>| {
        for at in (first..60).step_by(2) {
            let range = ByteRange::from_len(at * MIB, MIB);
            draft.write(range.start, &pattern(seed, range)).await.unwrap();
            expected[range.start as usize..range.end as usize].copy_from_slice(&pattern(seed, range));
        }
    };
    write(1, 1, &mut expected).await;
    assert!(draft.save().await && draft.is_saved());
    assert!(after_a_crash(&staged, "f").await == expected);
    let saved = expected.clone();
    // More than memory holds, over what was saved and beside it.
    write(2, 1, &mut expected).await;
    write(3, 0, &mut expected).await;
    assert!(draft.has_saved() && !draft.is_saved());
    assert!(after_a_crash(&staged, "f").await == saved, "what was saved has changed");
    assert!(read_all(&draft).await == expected);
    draft.truncate(50 * MIB).await.unwrap();
    expected.truncate(50 * MIB as usize);
    assert!(after_a_crash(&staged, "f").await == saved);
    assert!(draft.save().await);
    assert!(after_a_crash(&staged, "f").await == expected && read_all(&draft).await == expected);
    draft.commit().await.unwrap();
    assert!(staged.rig.stored("f").await == expected);
    staged.emptied().await;
    assert_eq!(std::fs::read_dir(staged.stage.path()).unwrap().count(), 1, "the lock alone is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_to_nothing_replaces_what_was_there_and_nothing_else_when_it_is_sent_late() {
    let staged = written_back();
    for (theirs, expected) in [(false, Ok(())), (true, Err(ErrorKind::Stale))] {
        staged.rig.bucket.put("f", "old");
        let draft = staged.rig.open("f").await;
        draft.truncate(0).await.unwrap();
        draft.write(0, b"ours").await.unwrap();
        assert!(draft.save().await);
        if theirs {
            staged.rig.bucket.put("f", "theirs");
        }
        assert_eq!(draft.commit_saved().await.map_err(|error| error.kind()), expected);
        assert_eq!(draft.has_saved(), theirs, "what is not sent is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_after_it_was_saved_is_not_sent_before_it_is_closed() {
    let staged = written_back();
    let draft = staged.rig.create("f");
    draft.write(0, b"closed").await.unwrap();
    assert!(draft.save().await);
    draft.write(6, b", and not").await.unwrap();
    draft.commit_saved().await.unwrap();
    assert!(staged.rig.bucket.object("f").is_none());
    assert!(draft.save().await);
    draft.commit_saved().await.unwrap();
    assert_eq!(staged.rig.stored("f").await, "closed, and not");
}

/// Somebody else wants memory.
async fn press(draft: &Arc<Draft>) {
    let is_moving = draft.spill_any(&mut draft.state.lock());
    while draft.state.lock().on_disk.is_moving {
        tokio::task::yield_now().await;
    }
    assert!(is_moving || draft.is_saved(), "what is not on disk can go there");
}

#[tokio::test]
async fn a_file_that_was_cut_and_saved_anew_is_what_was_written_last() {
    for cut in [0, 300 * KIB] {
        for saved_before in [true, false] {
            let staged = written_back();
            let draft = staged.rig.create("f");
            fill(&draft, 1, ByteRange::new(0, 2 * MIB)).await;
            match saved_before {
                true => assert!(draft.save().await),
                false => press(&draft).await,
            }
            draft.truncate(cut).await.unwrap();
            draft.write(cut, &pattern(2, ByteRange::new(cut, 2 * MIB))).await.unwrap();
            let expected =
                [pattern(1, ByteRange::new(0, cut)), pattern(2, ByteRange::new(cut, 2 * MIB))].concat();
            assert!(draft.save().await);
            press(&draft).await;
            assert!(read_all(&draft).await == expected, "{cut}");
            assert!(after_a_crash(&staged, "f").await == expected, "{cut}");
            draft.write(2 * MIB, b"more").await.unwrap();
            press(&draft).await;
            assert!(draft.save().await);
            draft.commit_saved().await.unwrap();
            assert!(staged.rig.stored("f").await == [&expected[..], b"more"].concat(), "{cut}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_is_made_of_bytes_wherever_they_go_meanwhile() {
    for saved in [true, false] {
        let staged = staged_with((200 * MIB, 5 * MIB), 1 << 30, WriteBack::Async);
        let latency = Fault::Latency(Duration::from_secs(1));
        staged.rig.faults.plan().add(Rule::new(latency).on(Operation::UploadPart));
        let draft = staged.rig.create("f");
        // Backwards, so that nothing is sent before it must be.
        for at in (0..60).rev() {
            fill(&draft, 3, ByteRange::from_len(at * MIB, MIB)).await;
        }
        let mut expected = pattern(3, ByteRange::new(0, 60 * MIB)).to_vec();
        if saved {
            assert!(draft.save().await);
            draft.write(52 * MIB, b"newer").await.unwrap();
            expected[52 * MIB as usize..52 * MIB as usize + 5].copy_from_slice(b"newer");
        }
        let meanwhile = async {
            while staged.rig.count(Operation::UploadPart) < 8 {
                tokio::task::yield_now().await;
            }
            press(&draft).await;
        };
        let (made, ()) = tokio::join!(draft.commit(), meanwhile);
        made.unwrap();
        assert!(staged.rig.stored("f").await == expected, "saved: {saved}");
    }
}
