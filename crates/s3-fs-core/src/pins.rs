//! Which version of each object a mount shows that pins them: the one it saw first.
//!
//! [`PinnedBucket`] is a bucket around another one. What any listing, HEAD or GET tells of an object first is its version from then on, for
//! every request of the mount, however much the kernel or a cache of names has forgotten meanwhile.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use sluicefs_s3_client::{
    Bucket, BucketIdentity, BucketTraits, Error, ErrorKind, GetReply, GetRequest, ListPage, ListRequest,
    ObjectHead, ObjectKey, ObjectMeta, Result,
};

use crate::inode::is_same_version;

/// At most so many objects are pinned: about 100 MB. Further ones cannot be seen, since nothing that was promised is forgotten.
pub(crate) const MAX_PINS: usize = 1 << 20;

/// The versions that a mount has seen.
#[derive(Debug)]
pub(crate) struct Pins {
    /// Seeded anew for each mount. Two keys of one number, which two of a million are in one of thirty million mounts, could make each other stale, and never mix.
    numbers: RandomState,
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    age: Age,
    /// By the number of the key.
    objects: FxHashMap<u64, ObjectMeta>,
}

/// Between which refreshes of the mount a request was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Age(u64);

/// What a sight of an object means.
#[derive(Debug, PartialEq, Eq)]
enum Sight {
    /// It is of the version that counts, or was asked for before that was forgotten.
    Right,
    /// It is of another version than the one seen first, which is this.
    Changed(ObjectMeta),
    /// It is new, and no more can be pinned.
    Full,
}

impl Pins {
    pub(crate) fn new() -> Self {
        Self::with_room_for(MAX_PINS)
    }

    fn with_room_for(max: usize) -> Self {
        Self { numbers: RandomState::new(), max, state: Mutex::default() }
    }

    /// What was seen of `key` first, if anything was.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<ObjectMeta> {
        self.state.lock().objects.get(&self.number(key)).cloned()
    }

    /// How many objects are pinned.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().objects.len()
    }

    /// Forgets all versions: what is asked for from now on pins anew. Returns how many there were.
    pub(crate) fn release(&self) -> usize {
        let state = &mut *self.state.lock();
        state.age.0 += 1;
        std::mem::take(&mut state.objects).len()
    }

    fn number(&self, key: &ObjectKey) -> u64 {
        self.numbers.hash_one(key.as_str())
    }

    fn age(&self) -> Age {
        self.state.lock().age
    }

    /// A request sent at the age `asked` found `key` as `seen`.
    fn see(&self, asked: Age, key: &ObjectKey, seen: &ObjectMeta) -> Sight {
        let number = self.number(key);
        let state = &mut *self.state.lock();
        if asked != state.age {
            // The tree does not believe it either: it was asked for before the refresh.
            return Sight::Right;
        }
        let is_full = state.objects.len() >= self.max;
        match state.objects.get_mut(&number) {
            Some(pinned) if is_same_version(pinned, seen) => {
                // A listing may have had no ETag; then the first answer that has one names the version.
                if pinned.etag.is_none() {
                    pinned.etag.clone_from(&seen.etag);
                }
                Sight::Right
            }
            Some(pinned) => Sight::Changed(pinned.clone()),
            None if is_full => Sight::Full,
            None => {
                state.objects.insert(number, seen.clone());
                Sight::Right
            }
        }
    }
}

/// A bucket in which each object is of the version that was seen first, or stale. It is not written to.
pub(crate) struct PinnedBucket {
    inner: Arc<dyn Bucket>,
    pins: Arc<Pins>,
}

impl PinnedBucket {
    /// `inner` with the versions of `pins`.
    pub(crate) fn new(inner: Arc<dyn Bucket>, pins: Arc<Pins>) -> Self {
        Self { inner, pins }
    }

    /// An answer that describes one object as it is now: stale if that is not the version that counts.
    fn check(&self, operation: &'static str, asked: Age, key: &ObjectKey, seen: &ObjectMeta) -> Result<()> {
        match self.pins.see(asked, key, seen) {
            Sight::Right => Ok(()),
            Sight::Changed(_) => Err(Error::new(ErrorKind::PreconditionFailed, operation)
                .with_key(key.as_str())
                .with_message("the object changed since this mount saw it first; `sluicefs refresh` takes the new version")),
            Sight::Full => Err(self.full(operation)),
        }
    }

    fn full(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::NoSpace, operation).with_message(format!(
            "the versions of {} objects are pinned, and no more can be: mount a prefix that has fewer, or use --versions newest",
            self.pins.max
        ))
    }
}

#[async_trait]
impl Bucket for PinnedBucket {
    fn identity(&self) -> &BucketIdentity {
        self.inner.identity()
    }

    fn traits(&self) -> BucketTraits {
        self.inner.traits()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        let asked = self.pins.age();
        let head = self.inner.head(key).await?;
        self.check("head", asked, key, &head.meta)?;
        Ok(head)
    }

    async fn get(&self, mut request: GetRequest) -> Result<GetReply> {
        let (asked, key) = (self.pins.age(), request.key.clone());
        if request.if_match.is_none() {
            request.if_match = self.pins.get(&key).and_then(|pinned| pinned.etag);
        }
        let reply = self.inner.get(request).await?;
        self.check("get", asked, &key, &reply.meta)?;
        Ok(reply)
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        let asked = self.pins.age();
        let mut page = self.inner.list(request).await?;
        for object in &mut page.objects {
            match self.pins.see(asked, &object.key, &object.meta) {
                Sight::Right => {}
                Sight::Changed(pinned) => object.meta = pinned,
                Sight::Full => return Err(self.full("list")),
            }
        }
        Ok(page)
    }
}

impl fmt::Debug for PinnedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedBucket").field("inner", &self.inner).field("pins", &self.pins.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use sluicefs_s3_client::{ETag, StorageClass, Timestamp};

    use super::*;

    fn meta(etag: &str, secs: i64) -> ObjectMeta {
        ObjectMeta {
            size: 1,
            etag: (!etag.is_empty()).then(|| ETag::new(etag)),
            last_modified: Timestamp { secs, nanos: 0 },
            storage_class: StorageClass::Standard,
        }
    }

    #[test]
    fn what_is_seen_first_counts() {
        let (a, b) = (meta("\"a\"", 1), meta("\"b\"", 2));
        let (nameless, later) = (meta("", 1), meta("", 2));
        let changed = |pinned: &ObjectMeta| Sight::Changed(pinned.clone());
        for (first, then, expected) in [
            (&a, &a, Sight::Right),
            (&a, &b, changed(&a)),
            // Without an ETag on both sides, length and time must do.
            (&nameless, &a, Sight::Right),
            (&nameless, &b, changed(&nameless)),
            (&nameless, &later, changed(&nameless)),
            (&a, &later, changed(&a)),
        ] {
            let (pins, key) = (Pins::new(), ObjectKey::new("k").unwrap());
            assert_eq!(pins.see(Age(0), &key, first), Sight::Right);
            assert_eq!(pins.see(Age(0), &key, then), expected, "{first:?} {then:?}");
        }
    }

    #[test]
    fn the_first_answer_with_an_etag_names_the_version() {
        let (pins, key) = (Pins::new(), ObjectKey::new("k").unwrap());
        let (a, b) = (meta("\"a\"", 1), meta("\"b\"", 1));
        pins.see(Age(0), &key, &meta("", 1));
        assert_eq!(pins.see(Age(0), &key, &a), Sight::Right);
        assert_eq!(pins.see(Age(0), &key, &b), Sight::Changed(a));
    }

    #[test]
    fn an_answer_that_was_asked_for_before_a_refresh_pins_nothing() {
        let (pins, key) = (Pins::new(), ObjectKey::new("k").unwrap());
        let asked = pins.age();
        pins.see(asked, &key, &meta("\"a\"", 1));
        assert_eq!(pins.release(), 1);
        assert_eq!(pins.see(asked, &key, &meta("\"a\"", 1)), Sight::Right);
        assert_eq!(pins.len(), 0);
        assert_eq!(pins.see(pins.age(), &key, &meta("\"b\"", 2)), Sight::Right);
        assert_eq!(pins.get(&key), Some(meta("\"b\"", 2)));
    }

    #[test]
    fn nothing_that_was_promised_is_forgotten_for_something_new() {
        let pins = Pins::with_room_for(1);
        let (one, other) = (ObjectKey::new("1").unwrap(), ObjectKey::new("2").unwrap());
        assert_eq!(pins.see(Age(0), &one, &meta("\"a\"", 1)), Sight::Right);
        assert_eq!(pins.see(Age(0), &other, &meta("\"a\"", 1)), Sight::Full);
        assert_eq!(pins.see(Age(0), &one, &meta("\"a\"", 1)), Sight::Right);
    }
}
