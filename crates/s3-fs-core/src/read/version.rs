//! One version of one object: what an open file is pinned to.

use std::sync::OnceLock;

use sluicefs_s3_client::{self as s3, ETag, ObjectKey, ObjectMeta};

use crate::cache::{BlockCache, VersionEntry};
use crate::error::{Error, Result};

/// The bytes of an object as they were at one time.
///
/// Its blocks stay in the cache as long as somebody holds it, and go when the last holder drops it.
#[derive(Debug)]
pub(crate) struct ObjectVersion {
    key: ObjectKey,
    size: u64,
    etag: OnceLock<ETag>,
    cached: OnceLock<VersionEntry>,
}

impl ObjectVersion {
    /// The version of `key` that has `size` bytes and this ETag. Without one, the first GET decides which version it is.
    pub(crate) fn new(key: ObjectKey, size: u64, etag: Option<ETag>) -> Self {
        let etag = etag.map_or_else(OnceLock::new, OnceLock::from);
        Self { key, size, etag, cached: OnceLock::new() }
    }

    /// The object.
    pub(crate) fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The server's name for the version, once known.
    pub(crate) fn etag(&self) -> Option<&ETag> {
        self.etag.get()
    }

    /// The cache's name for it. All calls must be with the same cache.
    pub(super) fn cached(&self, cache: &BlockCache) -> &VersionEntry {
        self.cached.get_or_init(|| cache.add_version())
    }

    /// Checks that a reply is of this version, and pins its ETag if none is known.
    ///
    /// A reply without an ETag passes: If-Match was sent where one is known, and the length is compared.
    ///
    /// # Errors
    /// `Stale` if the length or the ETag is another.
    pub(super) fn check(&self, meta: &ObjectMeta) -> Result<()> {
        let changed = |was: String, is: String| {
            let error = s3::Error::new(s3::ErrorKind::PreconditionFailed, "get").with_key(self.key.as_str());
            Error::from_store("read", error.with_message(format!("the object changed: {was} is now {is}")))
        };
        if meta.size != self.size {
            return Err(changed(format!("length {}", self.size), meta.size.to_string()));
        }
        let Some(etag) = &meta.etag else { return Ok(()) };
        let pinned = self.etag.get_or_init(|| etag.clone());
        if pinned == etag { Ok(()) } else { Err(changed(format!("ETag {pinned}"), etag.to_string())) }
    }
}
