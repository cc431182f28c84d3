//! Aborts the uploads that dead processes noted and did not end.
//!
//! An upload whose name at the store is known is aborted by that. One whose process died before it knew the name is looked for: it has the key that
//! was noted, it began when that was, and no living process of this machine noted it. Its beginning is by the store's clock, the note by
//! ours, so that a minute of difference is allowed for. What cannot be told apart by all that is an upload of the very same key that
//! another machine began within that time.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::directory::{Dead, JournalDirectory};
use super::record::{Entry, Replayed};
use crate::bucket::{Bucket, UploadId, UploadMeta};
use crate::error::Result;
use crate::key::{KeyPrefix, ObjectKey};

/// By so much the clocks of store and machine may differ, in seconds.
const CLOCK_SKEW_SECS: i64 = 60;
/// A process that did not know the name of an upload by then, in seconds, had given up the request.
const CREATION_SECS: i64 = 15 * 60;
/// So many requests at once.
const CONCURRENT_ABORTS: usize = 16;

/// What became of the uploads of dead processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// So many were aborted.
    pub aborted: usize,
    /// So many are left to the next sweep: the store refused, or a living process may be the one that began them.
    pub left: usize,
}

/// Aborts the uploads in `bucket` that the journals of dead processes name, and removes those journals.
///
/// Dropping the future leaves what is not done to the next sweep.
///
/// # Errors
/// If the directory cannot be read. What the store refuses is logged, and counted in [`Swept`].
pub async fn sweep(bucket: &dyn Bucket, directory: &JournalDirectory) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let all_dead = blocking(directory, JournalDirectory::take_dead).await?;
    let names: Arc<[String]> = all_dead.iter().map(|dead| dead.name.clone()).collect();
    let living = || {
        let names = Arc::clone(&names);
        blocking(directory, move |directory| directory.living(&names))
    };
    for dead in &all_dead {
        let is_of_bucket = dead.says.bucket.as_ref().is_some_and(|of| of == bucket.identity());
        if !is_of_bucket && !dead.says.entries.is_empty() {
            // Whoever mounts that bucket next does it.
            continue;
        }
        let of_one = clear(bucket, dead, living).await?;
        swept.aborted += of_one.aborted;
        swept.left += of_one.left;
        if of_one.left == 0 {
            directory.remove(&dead.name)?;
        }
    }
    Ok(swept)
}

async fn clear<L>(bucket: &dyn Bucket, dead: &Dead, living: impl Fn() -> L) -> io::Result<Swept>
where
    L: Future<Output = io::Result<Vec<Replayed>>>,
{
    let mut swept = Swept::default();
    let (mut uploads, mut nameless) = (BTreeSet::new(), Vec::new());
    for entry in dead.says.entries.values() {
        match &entry.upload {
            Some(upload) => _ = uploads.insert((entry.key.clone(), upload.clone())),
            None => nameless.push(entry.clone()),
        }
    }
    for entry in &nameless {
        match uploads_of(bucket, &entry.key).await {
            Ok(listed) => {
                // After the listing: whatever is listed was noted before.
                match begun_by(entry, &listed, &living().await?) {
                    Some(begun) => uploads.extend(begun.into_iter().map(|id| (entry.key.clone(), id))),
                    None => swept.left += 1,
                }
            }
            Err(error) => {
                tracing::warn!(key = %entry.key, %error, "uploads of a process that was killed could not be listed");
                swept.left += 1;
            }
        }
    }
    let abort = |(key, upload): (ObjectKey, UploadId)| async move {
        let aborted = bucket.abort_upload(&key, &upload).await;
        aborted.inspect_err(|error| {
            tracing::warn!(%key, %upload, %error, "an upload of a process that was killed could not be aborted; its parts are still stored");
        })
    };
    let ended: Vec<Result<()>> =
        stream::iter(uploads).map(abort).buffer_unordered(CONCURRENT_ABORTS).collect().await;
    swept.aborted += ended.iter().filter(|ended| ended.is_ok()).count();
    swept.left += ended.iter().filter(|ended| ended.is_err()).count();
    Ok(swept)
}

/// Those of the `listed` uploads that the process began which wrote `entry` and never knew the name; `None` if a living process, which does
/// not know the name of its own either, may have begun them.
fn begun_by(entry: &Entry, listed: &[UploadMeta], living: &[Replayed]) -> Option<Vec<UploadId>> {
    let given_up = entry.gave_up_at.map(|at| at + CLOCK_SKEW_SECS);
    let began = entry.at - CLOCK_SKEW_SECS..=given_up.unwrap_or(entry.at + CREATION_SECS);
    let living: Vec<&Entry> = living.iter().flat_map(|says| says.entries.values()).collect();
    let is_living = |id: &UploadId| living.iter().any(|other| other.upload.as_ref() == Some(id));
    let candidates = listed.iter().filter(|meta| {
        meta.key == entry.key && began.contains(&meta.initiated.secs) && !is_living(&meta.upload)
    });
    let candidates: Vec<UploadId> = candidates.map(|meta| meta.upload.clone()).collect();
    let is_doubtful = living.iter().any(|other| other.key == entry.key && other.upload.is_none());
    (candidates.is_empty() || !is_doubtful).then_some(candidates)
}

/// All uploads of the object `key`, and maybe others.
async fn uploads_of(bucket: &dyn Bucket, key: &ObjectKey) -> Result<Vec<UploadMeta>> {
    let (prefix, mut marker, mut uploads) = (KeyPrefix::new(key.as_str()), None, Vec::new());
    loop {
        let page = bucket.list_uploads(&prefix, marker).await?;
        uploads.extend(page.uploads.into_iter().filter(|meta| meta.key == *key));
        marker = page.next;
        if marker.is_none() {
            return Ok(uploads);
        }
    }
}

async fn blocking<T: Send + 'static>(
    directory: &JournalDirectory,
    work: impl FnOnce(&JournalDirectory) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let directory = directory.clone();
    let done = tokio::task::spawn_blocking(move || work(&directory)).await;
    done.unwrap_or_else(|ended| Err(io::Error::other(ended)))
}

#[cfg(test)]
mod tests;
