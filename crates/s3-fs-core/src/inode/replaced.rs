//! The numbers of names whose objects were replaced while the kernel had bytes of them.
//!
//! A name's first number is a hash of it and needs no memory. Once another version of its object has to be told apart from the one the
//! kernel has bytes of, the name gets a further number, and that is remembered here, also when the kernel forgets it.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use sluicefs_s3_client::ObjectMeta;
use tokio::time::Instant;

use crate::attr::{FileKind, InodeNo};

/// At most so many names are remembered. The oldest then goes back to its first number, unless that is still in use.
const MAX_NAMES: usize = 16_384;

/// What a name stands for now.
#[derive(Debug)]
pub(super) struct Successor {
    /// Its number.
    pub(super) ino: InodeNo,
    /// Its object as it was when the number was given: the look-up that comes next need not ask again.
    pub(super) object: Option<(FileKind, ObjectMeta)>,
    /// Until when that may be told.
    pub(super) valid_until: Instant,
}

/// From the first number of a name to its present one.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    names: FxHashMap<InodeNo, (u64, Successor)>,
    /// First numbers, in the order in which they came; the serial says whether a place is still the name's.
    order: VecDeque<(u64, InodeNo)>,
    serial: u64,
}

impl Replaced {
    /// What the name with this first number stands for now, if it has another number.
    pub(super) fn get(&self, first: InodeNo) -> Option<&Successor> {
        // Most mounts never see an object replaced while it is read.
        if self.names.is_empty() { None } else { self.names.get(&first).map(|(_, successor)| successor) }
    }

    /// What is known of their objects may not be told any more.
    pub(super) fn expire_all(&mut self, over: Instant) {
        self.names.values_mut().for_each(|(_, successor)| successor.valid_until = over);
    }

    /// Gives the name with this first number another one.
    pub(super) fn insert(&mut self, first: InodeNo, successor: Successor) {
        self.serial += 1;
        let serial = self.names.get(&first).map_or(self.serial, |(serial, _)| *serial);
        if self.names.insert(first, (serial, successor)).is_none() {
            self.order.push_back((serial, first));
        }
        while self.names.len() > MAX_NAMES
            && let Some((serial, oldest)) = self.order.pop_front()
        {
            if self.names.get(&oldest).is_some_and(|(current, _)| *current == serial) {
                self.names.remove(&oldest);
            }
        }
        if self.order.len() > 2 * MAX_NAMES {
            self.order
                .retain(|(serial, name)| self.names.get(name).is_some_and(|(current, _)| current == serial));
        }
    }

    /// The name with this first number is gone, or has its first number again.
    pub(super) fn remove(&mut self, first: InodeNo) {
        // Its place in the order stays until it is reached.
        self.names.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use sluicefs_s3_client::{StorageClass, Timestamp};

    use super::*;

    fn successor(number: u64) -> Successor {
        let meta = ObjectMeta {
            size: 0,
            etag: None,
            last_modified: Timestamp { secs: 0, nanos: 0 },
            storage_class: StorageClass::Standard,
        };
        Successor { ino: InodeNo(number), object: Some((FileKind::File, meta)), valid_until: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_has_the_number_it_was_given_last() {
        let mut replaced = Replaced::default();
        assert!(replaced.get(InodeNo(7)).is_none());
        for number in [100, 200] {
            replaced.insert(InodeNo(7), successor(number));
            assert_eq!(replaced.get(InodeNo(7)).map(|now| now.ino), Some(InodeNo(number)));
        }
        assert_eq!(replaced.order.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_replaced_names_pushes_out_the_oldest() {
        let mut replaced = Replaced::default();
        for first in 0..MAX_NAMES as u64 + 10 {
            replaced.insert(InodeNo(first), successor(first + 1));
        }
        assert_eq!((replaced.names.len(), replaced.order.len()), (MAX_NAMES, MAX_NAMES));
        assert!(replaced.get(InodeNo(9)).is_none());
        assert!(replaced.get(InodeNo(10)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_come_and_go_push_nobody_out() {
        let mut replaced = Replaced::default();
        replaced.insert(InodeNo(1), successor(2));
        for round in 0..5 * MAX_NAMES as u64 {
            replaced.insert(InodeNo(7), successor(round));
            replaced.remove(InodeNo(7));
        }
        assert!(replaced.get(InodeNo(1)).is_some());
        assert!(replaced.order.len() <= 2 * MAX_NAMES);
    }
}
