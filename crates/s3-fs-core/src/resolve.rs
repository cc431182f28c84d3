//! Finds out what one name is, with the fewest requests that are correct.
//!
//! One LIST of the keys that begin with the name tells whether it is a file, a symbolic link or a directory. From the second such
//! question in a directory within a second on, a page of the directory's own listing is fetched instead: it answers for the siblings too.

use std::time::Duration;

use sluicefs_s3_client::{Bucket, KeyPrefix, ListRequest, ObjectKey, ObjectMeta};
use tokio::time::Instant;

use crate::attr::FileKind;
use crate::error::{Error, Result};
use crate::inode::Remote;
use crate::link::{self, LinkKeys};
use crate::path;

/// Look-ups closer together than this are taken for one program going through a directory.
const BURST: Duration = Duration::from_secs(1);

/// After so many pages it is judged whether they answer enough.
const TRIAL_PAGES: u32 = 4;

/// A page of a thousand names must answer at least so many look-ups to be worth fetching.
const WORTHWHILE_ANSWERS: u32 = 2;

/// So many names are asked for at once: enough to see past `model-00001`... to `model/`.
const DIRECT_KEYS: u16 = 100;

/// How to find out about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Ask for this name alone.
    Direct,
    /// Fetch the directory's first page.
    FirstPage,
    /// Fetch the page after this key, which comes shortly before the name.
    PageAfter(String),
}

/// What look-ups in one directory have been like: decides whether pages of its listing pay.
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    last: Option<Instant>,
    pages: u32,
    answers: u32,
    /// The first page was not the last: names are looked for near their place.
    is_large: bool,
}

impl Siblings {
    /// How to find out about `name`, of which nothing is known.
    pub(crate) fn plan(&mut self, name: &str, now: Instant) -> Plan {
        let in_burst = self.last.is_some_and(|last| now.saturating_duration_since(last) < BURST);
        self.last = Some(now);
        if !in_burst {
            (self.pages, self.answers) = (0, 0);
            return Plan::Direct;
        }
        if self.pages >= TRIAL_PAGES && self.answers < WORTHWHILE_ANSWERS * self.pages {
            return Plan::Direct;
        }
        match (self.is_large, stem(name)) {
            (false, _) => Plan::FirstPage,
            (true, Some(stem)) => Plan::PageAfter(stem),
            (true, None) => Plan::Direct,
        }
    }

    /// A page was fetched for a look-up.
    pub(crate) fn page_came(&mut self, is_last: bool) {
        self.pages += 1;
        self.is_large |= !is_last;
    }

    /// A page that was fetched for one name answered for another.
    pub(crate) fn page_answered(&mut self, now: Instant) {
        self.answers += 1;
        self.last = Some(now);
    }
}

/// The name without its last character: in the order of keys it comes shortly before the name.
fn stem(name: &str) -> Option<String> {
    let (last, _) = name.char_indices().next_back()?;
    (last > 0).then(|| name[..last].to_owned())
}

/// Asks the store about `name` alone.
///
/// # Errors
/// What the store answered but "not found".
pub(crate) async fn resolve(
    bucket: &dyn Bucket,
    (prefix, links): (&KeyPrefix, LinkKeys),
    name: &str,
) -> Result<Option<Remote>> {
    let Some(key) = path::file_key(prefix, name) else { return Ok(None) };
    // What could not be the name of a file has no key either, or that of a link.
    let file_key = (!link::is_reserved(name, links)).then_some(&key);
    let link_key = match links.suffix(FileKind::Symlink) {
        "" => None,
        suffix => path::key_with(prefix, name, suffix),
    };
    let directory = path::directory_prefix(prefix, name);
    if !bucket.traits().ordered_listing {
        // Directory buckets list only prefixes that end in a delimiter.
        let (file, link, is_directory) = tokio::join!(
            object(bucket, file_key),
            object(bucket, link_key.as_ref()),
            has_keys(bucket, &directory)
        );
        if is_directory? {
            return Ok(Some(Remote::Directory));
        }
        return match file? {
            Some(meta) => Ok(Some(Remote::Object(FileKind::File, meta))),
            None => Ok(link?.map(|meta| Remote::Object(FileKind::Symlink, meta))),
        };
    }
    let request =
        ListRequest { max_keys: DIRECT_KEYS, ..ListRequest::directory(KeyPrefix::new(key.as_str())) };
    let page = bucket.list(request).await;
    let page = page.map_err(|error| Error::from_listing("lookup", error).with_name(key.as_str()))?;
    if page.common_prefixes.contains(&directory) {
        return Ok(Some(Remote::Directory));
    }
    let last = page
        .objects
        .last()
        .map(|object| object.key.as_str())
        .max(page.common_prefixes.last().map(KeyPrefix::as_str));
    let came_to = |key: &str| page.next.is_none() || last.is_some_and(|last| last > key);
    if !came_to(directory.as_str()) && has_keys(bucket, &directory).await? {
        return Ok(Some(Remote::Directory));
    }
    let came_to_link = link_key.as_ref().is_none_or(|key| came_to(key.as_str()));
    let listed = |key: Option<&ObjectKey>| {
        page.objects.iter().find(|object| Some(&object.key) == key).map(|object| object.meta.clone())
    };
    if let Some(meta) = listed(file_key) {
        return Ok(Some(Remote::Object(FileKind::File, meta)));
    }
    let link = match listed(link_key.as_ref()) {
        None if !came_to_link => object(bucket, link_key.as_ref()).await?,
        listed => listed,
    };
    Ok(link.map(|meta| Remote::Object(FileKind::Symlink, meta)))
}

/// The object `key`, if there is such a key and one of that key.
async fn object(bucket: &dyn Bucket, key: Option<&ObjectKey>) -> Result<Option<ObjectMeta>> {
    let Some(key) = key else { return Ok(None) };
    match bucket.head(key).await {
        Ok(head) => Ok(Some(head.meta)),
        Err(error) if error.kind() == sluicefs_s3_client::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::from_store("lookup", error).with_name(key.as_str())),
    }
}

async fn has_keys(bucket: &dyn Bucket, prefix: &KeyPrefix) -> Result<bool> {
    let request = ListRequest { delimiter: false, max_keys: 1, ..ListRequest::directory(prefix.clone()) };
    let page = bucket.list(request).await;
    let page = page.map_err(|error| Error::from_listing("lookup", error).with_name(prefix.as_str()))?;
    Ok(!page.objects.is_empty() || !page.common_prefixes.is_empty())
}

#[cfg(test)]
mod tests {
    use sluicefs_s3_client::testing::MemoryBucket;

    use super::*;

    async fn check(keys: &[&str], name: &str, expected: &str) {
        let bucket = MemoryBucket::new("b");
        for key in keys {
            bucket.put(key, "x");
        }
        let place = (&KeyPrefix::new("d/"), LinkKeys::Suffixed);
        let found = resolve(&bucket, place, name).await.unwrap();
        let found = match found {
            None => "absent",
            Some(Remote::Directory) => "directory",
            Some(Remote::Object(FileKind::Symlink, _)) => "link",
            Some(Remote::Object(..)) => "file",
        };
        assert_eq!(found, expected, "{name:?} among {keys:?}");
    }

    #[tokio::test]
    async fn a_name_is_a_file_a_directory_or_absent() {
        check(&["d/a"], "a", "file").await;
        check(&["d/a/b"], "a", "directory").await;
        check(&["d/a/"], "a", "directory").await;
        check(&["d/a", "d/a-b", "d/a/b"], "a", "directory").await;
        check(&["d/ab", "d/a-b", "e/a"], "a", "absent").await;
        check(&["d/a//"], "a", "directory").await;
        check(&["d/a.rclonelink"], "a", "link").await;
        check(&["d/a.rclonelink"], "a.rclonelink", "absent").await;
        check(&["d/a", "d/a.rclonelink"], "a", "file").await;
        check(&["d/a.rclonelink", "d/a/b"], "a", "directory").await;
    }

    #[tokio::test]
    async fn a_directory_is_seen_behind_many_names_that_begin_alike() {
        let keys: Vec<String> =
            (0..300).map(|i| format!("d/a-{i:03}")).chain(["d/a".into(), "d/a/b".into()]).collect();
        let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        check(&keys, "a", "directory").await;
        check(&keys[..301], "a", "file").await;
        keys.truncate(300);
        check(&keys, "a", "absent").await;
        keys.push("d/a.rclonelink");
        check(&keys, "a", "link").await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_look_up_of_a_burst_asks_for_a_page() {
        let mut siblings = Siblings::default();
        let now = Instant::now();
        assert_eq!(siblings.plan("f1", now), Plan::Direct);
        assert_eq!(siblings.plan("f2", now), Plan::FirstPage);
        siblings.page_came(false);
        assert_eq!(siblings.plan("f9", now), Plan::PageAfter("f".into()));
        assert_eq!(siblings.plan("x", now), Plan::Direct);
        assert_eq!(siblings.plan("f3", now + BURST * 2), Plan::Direct);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_answer_nobody_are_given_up() {
        let mut siblings = Siblings::default();
        let now = Instant::now();
        siblings.plan("f0", now);
        for _ in 0..TRIAL_PAGES {
            assert_ne!(siblings.plan("f1", now), Plan::Direct);
            siblings.page_came(false);
        }
        assert_eq!(siblings.plan("f2", now), Plan::Direct);
        (0..TRIAL_PAGES * WORTHWHILE_ANSWERS).for_each(|_| siblings.page_answered(now));
        assert_ne!(siblings.plan("f3", now), Plan::Direct);
    }
}
