//! Which directories are moving, and who must not change anything below them meanwhile.
//!
//! A directory moves by many requests. An object that is made, removed or moved below it between the listing and the last of them would stay
//! behind, come back, or get lost. So whoever changes an object stays below no directory that moves: it waits for the end, and a move
//! waits for those who came first. Changes elsewhere are not concerned.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sluicefs_s3_client::KeyPrefix;
use tokio::sync::Notify;

/// The moves of one mount.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    serial: u64,
    /// What moves, from and to where.
    moving: FxHashMap<u64, [KeyPrefix; 2]>,
    /// The keys that are being changed.
    changing: FxHashMap<u64, Vec<String>>,
}

/// Nothing moves away with the keys, or over them, until this is dropped. Who holds one must not ask for another: a move may be waiting
/// between the two.
#[derive(Debug)]
#[must_use]
pub(crate) struct Stay(#[expect(dead_code, reason = "held until it is dropped")] Guard);

/// Nothing is changed below either prefix until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Moving(#[expect(dead_code, reason = "held until it is dropped")] Guard);

#[derive(Debug)]
struct Guard {
    moves: Arc<Moves>,
    serial: u64,
}

impl Moves {
    /// Waits until no directory moves with any of `keys` in it. Cancel-safe.
    pub(crate) async fn stay(self: &Arc<Self>, keys: &[&str]) -> Stay {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if !keys.iter().any(|key| state.moves(key)) {
                    let serial = state.next();
                    state.changing.insert(serial, keys.iter().map(|key| (*key).to_owned()).collect());
                    return Stay(Guard { moves: Arc::clone(self), serial });
                }
            }
            changed.await;
        }
    }

    /// Begins to move `from` to `to`: waits for another move of either, and for those who change something there. Nobody new may do so from
    /// then on. Cancel-safe.
    pub(crate) async fn begin(self: &Arc<Self>, from: &KeyPrefix, to: &KeyPrefix) -> Moving {
        let mut moving = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if moving.is_none() && ![from, to].into_iter().any(|prefix| state.overlaps(prefix)) {
                    let serial = state.next();
                    state.moving.insert(serial, [from.clone(), to.clone()]);
                    moving = Some(Moving(Guard { moves: Arc::clone(self), serial }));
                }
                let is_below =
                    |key: &String| [from, to].iter().any(|prefix| key.starts_with(prefix.as_str()));
                if !state.changing.values().flatten().any(is_below)
                    && let Some(moving) = moving.take()
                {
                    return moving;
                }
            }
            changed.await;
        }
    }

    /// Whether `key` lies in a directory that moves.
    pub(super) fn moves(&self, key: &str) -> bool {
        self.state.lock().moves(key)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn moves(&self, key: &str) -> bool {
        self.moving.values().flatten().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn overlaps(&self, prefix: &KeyPrefix) -> bool {
        let prefix = prefix.as_str();
        let mut moving = self.moving.values().flatten();
        moving.any(|other| other.as_str().starts_with(prefix) || prefix.starts_with(other.as_str()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.moves.state.lock();
        state.moving.remove(&self.serial);
        state.changing.remove(&self.serial);
        drop(state);
        self.moves.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn prefix(text: &str) -> KeyPrefix {
        KeyPrefix::new(text)
    }

    #[tokio::test]
    async fn what_lies_elsewhere_is_not_concerned() {
        let moves = Arc::<Moves>::default();
        let _moving = moves.begin(&prefix("a/b/"), &prefix("c/")).now_or_never().unwrap();
        for (key, goes_on) in
            [("a/b/x", false), ("c/y/z", false), ("a/bb", true), ("a/x", true), ("cc", true)]
        {
            assert_eq!(moves.stay(&["q", key]).now_or_never().is_some(), goes_on, "{key}");
            assert_eq!(moves.moves(key), !goes_on, "{key}");
        }
        for (from, to, goes_on) in [("a/", "z/", false), ("z/", "c/d/", false), ("a/c/", "z/", true)] {
            assert_eq!(
                moves.begin(&prefix(from), &prefix(to)).now_or_never().is_some(),
                goes_on,
                "{from} {to}"
            );
        }
    }

    #[tokio::test]
    async fn a_move_waits_for_changes_under_way_and_keeps_new_ones_out() {
        let moves = Arc::<Moves>::default();
        let change = moves.stay(&["a/x"]).await;
        let (from, to) = (prefix("a/"), prefix("b/"));
        let mut begin = Box::pin(moves.begin(&from, &to));
        assert!(begin.as_mut().now_or_never().is_none());
        assert!(
            moves.stay(&["a/y"]).now_or_never().is_none(),
            "a move that waits comes before later changes"
        );
        drop(change);
        let moving = begin.await;
        let mut stay = Box::pin(moves.stay(&["b/y"]));
        assert!(stay.as_mut().now_or_never().is_none());
        drop(moving);
        drop(stay.await);
    }

    #[tokio::test]
    async fn a_move_that_is_given_up_leaves_nothing() {
        let moves = Arc::<Moves>::default();
        let change = moves.stay(&["a/x"]).await;
        assert!(moves.begin(&prefix("a/"), &prefix("b/")).now_or_never().is_none());
        assert!(moves.stay(&["a/y"]).now_or_never().is_some());
        drop(change);
        assert!(moves.state.lock().changing.is_empty() && moves.state.lock().moving.is_empty());
    }
}
