//! A bucket in memory: the reference of what a correct store answers, and the shelf behind the embedded server.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use parking_lot::RwLock;

use crate::bucket::{
    Bucket, BucketIdentity, BucketTraits, GetReply, GetRequest, ListPage, ListRequest, ListedObject,
    ObjectHead, ObjectMeta, StorageClass, Timestamp,
};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ContinuationToken, ETag, KeyPrefix, ObjectKey};

/// Bytes in one piece of a body.
const PIECE_BYTES: u64 = 64 << 10;

/// The bytes of an object.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// `len` bytes computed from their offset and `seed`, so that an object of gigabytes takes no memory.
    Pattern {
        /// Which pattern.
        seed: u64,
        /// How many bytes.
        len: u64,
    },
}

impl Content {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Pattern { len, .. } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of `range`, which must lie inside.
    pub fn slice(&self, range: ByteRange) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.slice(range.start as usize..range.end as usize),
            Self::Pattern { seed, .. } => pattern(*seed, range),
        }
    }

    fn etag(&self) -> ETag {
        let (a, b) = match self {
            Self::Bytes(bytes) => (fnv1a(bytes, 0xcbf2_9ce4_8422_2325), fnv1a(bytes, 0x8422_2325_cbf2_9ce4)),
            Self::Pattern { seed, len } => (splitmix(*seed), splitmix(*len ^ seed.rotate_left(32))),
        };
        ETag::new(&format!("\"{a:016x}{b:016x}\""))
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&'static str> for Content {
    fn from(text: &'static str) -> Self {
        Self::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// The bytes of the pattern `seed` in `range`.
///
/// Each 4096 bytes begin with a number that only they have, and go on with a random piece of one table: bytes from
/// elsewhere, or shifted by one, are wrong bytes. Copying a table makes gigabytes cheap also where the compiler does not optimise.
pub fn pattern(seed: u64, range: ByteRange) -> Bytes {
    let mut out = Vec::with_capacity(range.len() as usize);
    let mut at = range.start;
    while at < range.end {
        let block = at / PATTERN_BLOCK_BYTES;
        let inside = (at % PATTERN_BLOCK_BYTES) as usize;
        let end = ((range.end - block * PATTERN_BLOCK_BYTES).min(PATTERN_BLOCK_BYTES)) as usize;
        let number = splitmix(seed.rotate_left(32) ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let head = number.to_le_bytes();
        if inside < head.len() {
            out.extend_from_slice(&head[inside..end.min(head.len())]);
        }
        let from = inside.max(head.len());
        if from < end {
            let shift = (number >> 32) as usize % (PATTERN_TABLE.len() - PATTERN_BLOCK_BYTES as usize);
            out.extend_from_slice(&PATTERN_TABLE[shift + from..shift + end]);
        }
        at = block * PATTERN_BLOCK_BYTES + end as u64;
    }
    out.into()
}

/// How many bytes of a pattern share a number and a shift.
const PATTERN_BLOCK_BYTES: u64 = 4096;

static PATTERN_TABLE: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..1_u64 << 15).flat_map(|word| splitmix(!word).to_le_bytes()).collect());

fn splitmix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn fnv1a(bytes: &[u8], basis: u64) -> u64 {
    // One word at a time: an ETag here names a version, it need not be anybody's MD5.
    let mut words = bytes.chunks_exact(8);
    let mut hash = basis;
    for word in &mut words {
        hash = (hash ^ u64::from_le_bytes(word.try_into().expect("chunks of eight")))
            .wrapping_mul(0x100_0000_01b3)
            .rotate_left(23);
    }
    for byte in words.remainder() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    splitmix(hash ^ bytes.len() as u64)
}

/// One stored object.
#[derive(Debug, Clone)]
pub struct StoredObject {
    /// Its bytes.
    pub content: Content,
    /// What HEAD tells about it.
    pub head: ObjectHead,
    /// The CRC-64/NVME of all its bytes in base64, where one was stored.
    pub crc64nvme: Option<String>,
}

/// A bucket in memory. Cloning shares it.
#[derive(Debug, Clone)]
pub struct MemoryBucket {
    identity: BucketIdentity,
    objects: Arc<RwLock<BTreeMap<ObjectKey, StoredObject>>>,
}

impl MemoryBucket {
    /// An empty bucket called `name` in messages.
    pub fn new(name: &str) -> Self {
        let identity =
            BucketIdentity { endpoint: Arc::from("memory"), name: Arc::from(format!("memory:{name}")) };
        Self { identity, objects: Arc::default() }
    }

    /// Writes an object and returns its ETag.
    pub fn put(&self, key: &str, content: impl Into<Content>) -> ETag {
        self.put_with(key, content, |_| {})
    }

    /// Writes an object after `edit` changed what HEAD will tell about it.
    pub fn put_with(
        &self,
        key: &str,
        content: impl Into<Content>,
        edit: impl FnOnce(&mut ObjectHead),
    ) -> ETag {
        let content = content.into();
        let etag = content.etag();
        let meta = ObjectMeta {
            size: content.len(),
            etag: Some(etag.clone()),
            last_modified: now(),
            storage_class: StorageClass::Standard,
        };
        let mut head = ObjectHead {
            meta,
            content_type: Some("binary/octet-stream".to_owned()),
            version_id: None,
            encryption: None,
            restored: false,
            user_metadata: Vec::new(),
        };
        edit(&mut head);
        let key = ObjectKey::new(key).expect("tests put legal keys");
        self.objects.write().insert(key, StoredObject { content, head, crc64nvme: None });
        etag
    }

    /// Stores a checksum (base64) with an object, right or wrong; whether there is such an object.
    pub fn set_crc64nvme(&self, key: &str, checksum: &str) -> bool {
        let Ok(key) = ObjectKey::new(key) else { return false };
        match self.objects.write().get_mut(&key) {
            Some(stored) => stored.crc64nvme = Some(checksum.to_owned()),
            None => return false,
        }
        true
    }

    /// Removes an object; whether there was one.
    pub fn remove(&self, key: &str) -> bool {
        ObjectKey::new(key).is_ok_and(|key| self.objects.write().remove(&key).is_some())
    }

    /// The object, if there is one.
    pub fn object(&self, key: &str) -> Option<StoredObject> {
        self.objects.read().get(&ObjectKey::new(key).ok()?).cloned()
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.objects.read().keys().cloned().collect()
    }

    fn find(&self, operation: &'static str, key: &ObjectKey) -> Result<StoredObject> {
        let not_found = || {
            Error::new(ErrorKind::NotFound, operation).with_bucket(&self.identity.name).with_key(key.as_str())
        };
        self.objects.read().get(key).cloned().ok_or_else(not_found)
    }
}

#[expect(clippy::disallowed_methods, reason = "the server's clock is not the file system's")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // S3 keeps whole seconds.
    Timestamp { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

#[async_trait]
impl Bucket for MemoryBucket {
    fn identity(&self) -> &BucketIdentity {
        &self.identity
    }

    fn traits(&self) -> BucketTraits {
        BucketTraits::default()
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        Ok(self.find("head", key)?.head)
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        let error =
            |kind| Error::new(kind, "get").with_bucket(&self.identity.name).with_key(request.key.as_str());
        let StoredObject { content, head, .. } = self.find("get", &request.key)?;
        if request.if_match.is_some() && request.if_match != head.meta.etag {
            return Err(error(ErrorKind::PreconditionFailed).with_status(412));
        }
        if head.meta.storage_class.is_archive() && !head.restored {
            return Err(error(ErrorKind::Archived).with_status(403).with_code("InvalidObjectState"));
        }
        let all = ByteRange::new(0, content.len());
        let range = match request.range {
            None => all,
            Some(range) if range.start >= all.end => {
                return Err(error(ErrorKind::Invalid).with_status(416).with_code("InvalidRange"));
            }
            Some(range) => range.intersect(all),
        };
        let pieces = (range.start..range.end).step_by(PIECE_BYTES as usize);
        let body =
            pieces.map(move |at| Ok(content.slice(ByteRange::from_len(at, PIECE_BYTES).intersect(range))));
        Ok(GetReply { meta: head.meta, range, body: Box::pin(stream::iter(body)) })
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        Ok(list_page(&self.objects.read(), &request))
    }
}

/// ListObjectsV2 over a sorted map; a token is the last name that was given out.
fn list_page(objects: &BTreeMap<ObjectKey, StoredObject>, request: &ListRequest) -> ListPage {
    let prefix = request.prefix.as_str();
    let continued = request.continuation.as_ref().map(|token| token.0.as_str());
    let after = continued.or(request.start_after.as_deref()).unwrap_or_default();
    let mut page = ListPage::default();
    let mut last = String::new();
    let mut from = first_key(prefix, after, continued.is_some() && request.delimiter);
    for count in 0.. {
        let Some((key, stored)) = objects.range((from, Bound::Unbounded)).next() else { return page };
        let Some(rest) = key.as_str().strip_prefix(prefix) else { return page };
        if count == usize::from(request.max_keys) {
            page.next = (count > 0).then_some(ContinuationToken(last));
            return page;
        }
        let slash = if request.delimiter { rest.find('/') } else { None };
        match slash {
            None => {
                page.objects.push(ListedObject { key: key.clone(), meta: stored.head.meta.clone() });
                from = Bound::Excluded(key.clone());
                key.as_str().clone_into(&mut last);
            }
            Some(at) => {
                let common = &key.as_str()[..=prefix.len() + at];
                page.common_prefixes.push(KeyPrefix::new(common));
                from = past(common);
                common.clone_into(&mut last);
            }
        }
    }
    page
}

/// Where a listing begins that has prefix `prefix` and comes after the name `after`.
fn first_key(prefix: &str, after: &str, after_may_be_rolled_up: bool) -> Bound<ObjectKey> {
    if after_may_be_rolled_up && after.len() > prefix.len() && after.ends_with('/') {
        return past(after);
    }
    match ObjectKey::new(if after >= prefix { after } else { prefix }) {
        Ok(key) if after >= prefix => Bound::Excluded(key),
        Ok(key) => Bound::Included(key),
        // Both are empty, or longer than any key.
        Err(_) => Bound::Unbounded,
    }
}

/// After all keys that begin with `common`, which ends in a slash.
fn past(common: &str) -> Bound<ObjectKey> {
    // `0` follows `/` in ASCII, and nothing lies between in UTF-8.
    let next = format!("{}0", &common[..common.len() - 1]);
    Bound::Included(ObjectKey::new(next).expect("as long as the common prefix of a key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_pattern_is_cut_from_the_same_bytes() {
        let whole = pattern(7, ByteRange::new(0, 20_000));
        for start in [0, 1, 7, 8, 9, 4095, 4096, 4100, 12_287] {
            for len in [0, 1, 3, 8, 9, 100, 4096, 5000] {
                let part = pattern(7, ByteRange::from_len(start, len));
                assert!(part == whole[start as usize..(start + len) as usize], "{len} bytes at {start}");
            }
        }
    }

    #[test]
    fn patterns_tell_seeds_and_offsets_apart() {
        let bytes = |seed, start| pattern(seed, ByteRange::from_len(start, 64));
        let far = 1 << 40;
        for (a, b) in [
            ((1, 0), (2, 0)),
            ((1, 0), (1, 1)),
            ((1, 0), (1, 4096)),
            ((1, 100), (1, 4196)),
            ((1, 0), (1, far)),
        ] {
            let (a, b) = (bytes(a.0, a.1), bytes(b.0, b.1));
            let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            assert!(same < 8, "{same} of 64 bytes are equal");
        }
    }
}
