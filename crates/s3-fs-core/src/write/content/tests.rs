//! Random writes, cuts and sent parts against an array of bytes.

use std::sync::Arc;

use proptest::prelude::*;
use sluicefs_s3_client::ETag;

use super::*;
use crate::budget::Budget;

const PART: u64 = 512 << 10;
/// Unit of offsets and lengths: odd, so that nothing falls on a block's edge but by chance.
const STEP: u64 = 40_961;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64, u8),
    Append(u64, u8),
    Truncate(u64),
    Send,
    Release,
    Spill,
    Unshelve,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..60, 1_u64..20, any::<u8>()).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
        (1_u64..40, any::<u8>()).prop_map(|(len, byte)| Step::Append(len, byte)),
        (0_u64..80).prop_map(Step::Truncate),
        Just(Step::Send),
        Just(Step::Release),
        Just(Step::Spill),
        Just(Step::Unshelve),
    ]
}

/// What a store says of a part.
fn stored(index: u64, size: u64) -> Part {
    Part { number: index as u16 + 1, etag: ETag::new("\"x\""), size, checksum: None }
}

/// The file as a program sees it, and what the store got.
struct Model {
    base: Vec<u8>,
    bytes: Vec<u8>,
    parts: BTreeMap<u64, Vec<u8>>,
}

struct Subject {
    content: Content,
    budget: Arc<Budget>,
    schedule: PartSchedule,
    disk: Vec<u8>,
}

impl Subject {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Released> {
        let units = self.content.cost_units(ByteRange::from_len(offset, data.len() as u64));
        let mut memory = self.budget.try_reserve(units, 0);
        self.content.write(offset, data, &mut memory)
    }

    fn read(&self, range: ByteRange, base: &[u8]) -> Result<Vec<u8>, Released> {
        let mut all = Vec::new();
        for piece in self.content.pieces(range)? {
            match piece {
                Piece::Staged(bytes) => all.extend(bytes.concat()),
                Piece::OnDisk(range) => all.extend(&self.disk[range.start as usize..range.end as usize]),
                Piece::Base(range) => all.extend(&base[range.start as usize..range.end as usize]),
                Piece::Hole(len) => all.resize(all.len() + len as usize, 0),
            }
        }
        Ok(all)
    }
}

fn apply(subject: &mut Subject, model: &mut Model, step: &Step) {
    let size = subject.content.size();
    match *step {
        Step::Write(at, len, byte) => write(subject, model, at * STEP, &vec![byte; (len * STEP) as usize]),
        Step::Append(len, byte) => write(subject, model, size, &vec![byte; (len * STEP) as usize]),
        Step::Truncate(to) => {
            if subject.content.truncate(to * STEP).is_ok() {
                model.bytes.resize((to * STEP) as usize, 0);
            }
        }
        Step::Send => {
            while let Some(index) = subject.content.next_to_send() {
                let part = subject.schedule.range(index);
                let body = subject.read(part, &model.base).expect("what is sent was not let go");
                subject.content.sending(index);
                model.parts.insert(index, body.clone());
                let part = stored(index, body.len() as u64);
                assert!(subject.content.sent(index, part), "nothing was written meanwhile");
            }
        }
        Step::Release => _ = subject.content.release_one(),
        Step::Unshelve => _ = subject.content.release_shelved(),
        Step::Spill => {
            let mut leaving = subject.content.shelve_one();
            leaving.extend(if leaving.is_empty() { subject.content.leaving(PART) } else { Vec::new() });
            for range in subject.content.take_dead() {
                let end = subject.disk.len().min(range.end as usize);
                subject.disk[end.min(range.start as usize)..end].fill(0xdd);
            }
            for (offset, bytes) in leaving.iter().flat_map(Leaving::pieces) {
                let end = offset as usize + bytes.len();
                subject.disk.resize(subject.disk.len().max(end), 0xee);
                subject.disk[offset as usize..end].copy_from_slice(bytes);
            }
            subject.content.left(&leaving);
        }
    }
}

fn write(subject: &mut Subject, model: &mut Model, at: u64, data: &[u8]) {
    if subject.write(at, data).is_ok() {
        let end = at as usize + data.len();
        model.bytes.resize(model.bytes.len().max(end), 0);
        model.bytes[at as usize..end].copy_from_slice(data);
    }
}

/// The object that the plan makes.
fn object(subject: &Subject, model: &Model) -> Vec<u8> {
    let size = subject.content.size();
    let Plan::Parts(parts) = subject.content.plan(true) else {
        return subject.read(ByteRange::new(0, size), &model.base).expect("a whole file is all here");
    };
    let mut object = Vec::new();
    for part in parts {
        let range = part.range.start as usize..part.range.end as usize;
        match part.from {
            plan::Source::Sent => object.extend(&model.parts[&part.index]),
            plan::Source::Copied => object.extend(&model.base[range]),
            plan::Source::Here => {
                object.extend(
                    subject.read(part.range, &model.base).expect("what is planned to be sent is here"),
                );
            }
        }
    }
    object
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_is_what_was_written(
        base in 0_u64..60,
        steps in prop::collection::vec(step(), 1..24),
        probe in (0_u64..80, 0_u64..30),
    ) {
        let base: Vec<u8> = (0..base * STEP).map(|at| (at / 7) as u8).collect();
        let schedule = PartSchedule::new(PART, PART);
        let content = Content::new(schedule, base.len() as u64);
        let mut subject = Subject { content, budget: Budget::new(64 << 20), schedule, disk: Vec::new() };
        let mut model = Model { bytes: base.clone(), base, parts: BTreeMap::new() };
        for step in &steps {
            apply(&mut subject, &mut model, step);
            prop_assert_eq!(subject.content.size(), model.bytes.len() as u64);
            let probe = ByteRange::from_len(probe.0 * STEP, probe.1 * STEP);
            let probe = probe.intersect(ByteRange::new(0, subject.content.size()));
            if !probe.is_empty() && let Ok(read) = subject.read(probe, &model.base) {
                prop_assert!(read == model.bytes[probe.start as usize..probe.end as usize], "read {probe} after {step:?}");
            }
            prop_assert!(object(&subject, &model) == model.bytes, "the object after {step:?}");
        }
    }
}

#[test]
fn parts_are_sent_once_writing_went_past_them() {
    let schedule = PartSchedule::new(PART, PART);
    let mut subject = Subject {
        content: Content::new(schedule, 0),
        budget: Budget::new(64 << 20),
        schedule,
        disk: Vec::new(),
    };
    subject.write(0, &vec![1; PART as usize]).unwrap();
    assert_eq!(subject.content.next_to_send(), None, "it may be the whole file");
    subject.write(PART, b"x").unwrap();
    assert_eq!(subject.content.next_to_send(), Some(0));
    subject.content.sending(0);
    assert_eq!(subject.content.next_to_send(), None);
    subject.write(5, b"changed").unwrap();
    let part = stored(0, PART);
    assert!(!subject.content.sent(0, part), "the part was written to while it was under way");
}

fn filled(size: u64) -> Subject {
    let schedule = PartSchedule::new(PART, PART);
    let mut subject = Subject {
        content: Content::new(schedule, 0),
        budget: Budget::new(64 << 20),
        schedule,
        disk: Vec::new(),
    };
    subject.write(0, &vec![1; size as usize]).unwrap();
    subject
}

#[test]
fn a_part_that_is_written_again_waits_for_the_request_that_has_the_old_bytes() {
    let mut subject = filled(PART + 1);
    subject.content.sending(0);
    subject.write(0, &vec![2; PART as usize + 1]).unwrap();
    assert_eq!(
        subject.content.next_to_send(),
        None,
        "which of two requests the store obeys last, nobody knows"
    );
    assert_eq!(subject.content.parts_under_way(), 1, "the object is not made before it has ended");
    assert!(!subject.content.sent(0, stored(0, PART)), "it has the old bytes");
    assert_eq!(subject.content.next_to_send(), Some(0));
}

#[test]
fn a_last_part_is_sent_again_when_the_file_grows_behind_it() {
    for grow in [true, false] {
        let mut subject = filled(PART + 7);
        subject.content.sending(1);
        subject.content.sent(1, stored(1, 7));
        match grow {
            true => subject.content.truncate(3 * PART).unwrap(),
            false => subject.write(2 * PART + 5, b"x").unwrap(),
        }
        assert!(subject.content.sent_part(1).is_none());
    }
}

#[test]
fn what_was_let_go_is_never_replaced_by_the_old_object() {
    let schedule = PartSchedule::new(PART, PART);
    let content = Content::new(schedule, 4 * PART);
    let mut subject = Subject { content, budget: Budget::new(64 << 20), schedule, disk: Vec::new() };
    subject.write(PART, &vec![2; 2 * PART as usize + 1]).unwrap();
    subject.content.sending(1);
    assert!(subject.content.sent(1, stored(1, PART)) && subject.content.release_one());
    assert!(!subject.content.upload_lost(), "some of it is nowhere any more");
    let Plan::Parts(parts) = subject.content.plan(true) else { panic!("parts") };
    assert!(parts.iter().any(|part| part.index == 1 && part.from == plan::Source::Here), "{parts:?}");
    assert!(subject.content.pieces(schedule.range(1)).is_err(), "so that it fails");
}

#[test]
fn what_was_made_after_all_leaves_no_part_to_let_go_of() {
    let mut subject = filled(2 * PART + 1);
    subject.content.sending(1);
    assert!(subject.content.sent(1, stored(1, PART)));
    for leaving in subject.content.shelve_one() {
        subject.content.left(&[leaving]);
    }
    subject.content.made_after_all();
    assert!(!subject.content.release_shelved(), "no upload has it");
    assert!(subject.content.pieces(ByteRange::new(0, 2 * PART)).is_ok());
}

#[test]
fn bytes_that_are_lost_with_their_upload_are_made_good_by_writing_them_again() {
    for cut_first in [true, false] {
        let mut subject = filled(2 * PART + 1);
        subject.content.sending(1);
        assert!(subject.content.sent(1, stored(1, PART)) && subject.content.release_one());
        assert!(!subject.content.upload_lost());
        assert!(subject.content.pieces(ByteRange::new(0, 2 * PART)).is_err());
        if cut_first {
            subject.content.truncate(0).unwrap();
        }
        subject.write(0, &vec![3; 2 * PART as usize]).unwrap();
        assert!(subject.content.pieces(ByteRange::new(0, 2 * PART)).is_ok());
    }
}

#[test]
fn a_short_last_part_that_was_let_go_can_be_cut_off() {
    let mut subject = filled(PART + 7);
    subject.content.sending(1);
    assert!(subject.content.sent(1, stored(1, 7)) && subject.content.release_one());
    subject.content.truncate(0).unwrap();
    assert_eq!(subject.content.size(), 0);
}
