//! Whether a directory that is not empty is the beginning of a rename that was cut short.

use std::collections::BTreeMap;

use futures::{TryStreamExt, stream};
use sluicefs_s3_client::fingerprint::{Likeness, likeness};
use sluicefs_s3_client::{self as s3, BodyStream, GetRequest, ObjectKey, ObjectMeta};

use super::directory::{Move, key_below};
use crate::error::{Error, Result};
use crate::filesystem::FileSystem;

/// So many pairs of objects are compared at once.
const COMPARED_AT_ONCE: usize = 8;

impl FileSystem {
    /// A target that is not empty is the beginning of this very rename, if everything in it is a copy of what is here or was here. At least
    /// one file must be among that: every two directories have equal markers.
    ///
    /// # Errors
    /// `not_empty` if it is something else.
    pub(super) async fn must_be_continued(
        &self,
        objects: &BTreeMap<String, ObjectMeta>,
        (old, new): Move<'_>,
        not_empty: Error,
    ) -> Result<()> {
        let there = self.all_below(new).await?;
        let Some(pairs) = may_be_copies(objects, &there) else { return Err(not_empty) };
        let unlike = pairs.iter().filter(|(_, here, there)| here.etag.is_none() || here.etag != there.etag);
        let keys: Vec<_> =
            unlike.map(|(name, ..)| Ok((key_below(old, name)?, key_below(new, name)?))).collect();
        let compare = |(here, there)| async move { self.is_copied(&here, &there).await };
        let compared = stream::iter(keys).map_ok(compare).try_buffer_unordered(COMPARED_AT_ONCE);
        if !compared.try_all(|is_copied| async move { is_copied }).await? {
            return Err(not_empty);
        }
        tracing::info!(from = %old, to = %new, copies = pairs.len(), "a rename that was interrupted goes on");
        Ok(())
    }

    /// Whether two objects of one size have the same bytes. A copy's ETag is another one where the object was made of parts or is encrypted; a
    /// store that keeps no checksum either must send both.
    async fn is_copied(&self, here: &ObjectKey, there: &ObjectKey) -> Result<bool> {
        let head = |key: ObjectKey| async move {
            let head = self.bucket.head_with_checksum(&key).await;
            head.map_err(|error| Error::from_store("rename", error).with_name(key.as_str()))
        };
        let (one, other) = futures::try_join!(head(here.clone()), head(there.clone()))?;
        match likeness(&one, &other) {
            Likeness::Same => return Ok(true),
            Likeness::Different => return Ok(false),
            Likeness::Unknown => {}
        }
        tracing::info!(key = %here, copy = %there, size = one.0.meta.size, "reading both to see whether one is the other's copy");
        let get = |key: ObjectKey, meta: ObjectMeta| async move {
            let request = GetRequest { key, range: None, if_match: meta.etag };
            Ok::<_, s3::Error>(self.bucket.get(request).await?.body)
        };
        let same = async {
            let bodies = (get(here.clone(), one.0.meta), get(there.clone(), other.0.meta));
            let (one, other) = futures::try_join!(bodies.0, bodies.1)?;
            are_same(one, other).await
        };
        same.await.map_err(|error| Error::from_store("rename", error).with_name(there.as_str()))
    }
}

/// The pairs of objects that must be one another's copies for `there` to be the beginning of moving `here`: all that is there, or all that is
/// still to be moved. `None` if names and sizes forbid it.
fn may_be_copies<'a>(
    here: &'a BTreeMap<String, ObjectMeta>,
    there: &'a BTreeMap<String, ObjectMeta>,
) -> Option<Vec<(&'a str, &'a ObjectMeta, &'a ObjectMeta)>> {
    let pair = |(name, copy): (&'a String, &'a ObjectMeta)| {
        let object = here.get(name).filter(|object| object.size == copy.size)?;
        Some((name.as_str(), object, copy))
    };
    let pairs: Vec<_> = there.iter().filter_map(pair).collect();
    let whole = pairs.len() == there.len() || pairs.len() == here.len();
    (whole && pairs.iter().any(|(name, ..)| is_file(name))).then_some(pairs)
}

/// Whether two bodies have the same bytes, however they are cut.
async fn are_same(mut one: BodyStream, mut other: BodyStream) -> s3::Result<bool> {
    let mut left = (bytes::Bytes::new(), bytes::Bytes::new());
    loop {
        if left.0.is_empty() {
            left.0 = one.try_next().await?.unwrap_or_default();
        }
        if left.1.is_empty() {
            left.1 = other.try_next().await?.unwrap_or_default();
        }
        let len = left.0.len().min(left.1.len());
        if left.0.split_to(len) != left.1.split_to(len) {
            return Ok(false);
        }
        if len == 0 {
            return Ok(left.0.is_empty() && left.1.is_empty());
        }
    }
}

/// Whether an object below a directory is a file, and not the marker of a directory.
pub(super) fn is_file(name: &str) -> bool {
    !name.is_empty() && !name.ends_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: &[&'static str]) -> BodyStream {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok(bytes::Bytes::from_static(piece.as_bytes()))).collect();
        Box::pin(stream::iter(pieces))
    }

    #[tokio::test]
    async fn bodies_are_compared_however_they_are_cut() {
        for (one, other, same) in [
            (&["some ", "text"][..], &["some text"][..], true),
            (&["so", "me ", "text"], &["some te", "xt"], true),
            (&[], &[], true),
            (&["text"], &["Text"], false),
            (&["some ", "text"], &["some ", "texts"], false),
            (&["some ", "text"], &["some "], false),
            (&[], &["text"], false),
        ] {
            assert_eq!(are_same(body(one), body(other)).await.unwrap(), same, "{one:?} {other:?}");
        }
    }
}
