//! `sluicefs rm`: removes an object, or everything below a directory, without mounting the bucket.
//!
//! A directory is listed a thousand names at a time and removed a thousand names at a time, the next page being listed while the last one
//! is removed: two requests per thousand objects. Nothing is asked; what could not be removed is named.

use indicatif::{ProgressBar, ProgressStyle};
use sluicefs_s3_client::config::WriteConfig;
use sluicefs_s3_client::open::Location;
use sluicefs_s3_client::{
    Bucket, BucketUrl, Error as StoreError, ErrorKind, KeyPrefix, ListPage, ListRequest, ObjectKey,
};

use crate::args::RmArgs;
use crate::failure::Failure;
use crate::logging::Audience;
use crate::store::Source;
use crate::{note, runtime, say, start_log};

/// Removes.
///
/// # Errors
/// If the URL names nothing that can be removed so, nothing is there, the bucket cannot be asked, or an object could not be removed.
pub(crate) fn run(args: &RmArgs) -> Result<(), Failure> {
    start_log(&args.logs, Audience::Narrated)?;
    let target = Target::parse(&args.url, args.recursive)?;
    let source = Source::new(&args.url, &args.store, WriteConfig::default())?;
    let action = if args.dry_run { Action::Tell } else { Action::Remove };
    runtime::new()?.block_on(async {
        let bucket = source.open().await?;
        let removal = Removal::new(&*bucket, action);
        let result = match &target {
            Target::Object(key) => removal.object(key).await,
            Target::Directory { namesake, prefix } => removal.directory(namesake.as_ref(), prefix).await,
        };
        result.and_then(|tally| tally.tell(&args.url, action))
    })
}

/// What the URL means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Object(ObjectKey),
    /// All keys that begin with `prefix`, and the object whose key that is without its last slash, where the URL had none.
    Directory {
        namesake: Option<ObjectKey>,
        prefix: KeyPrefix,
    },
}

impl Target {
    fn parse(text: &str, recursive: bool) -> Result<Self, Failure> {
        let url = BucketUrl::parse(text).map_err(|error| Failure::usage(error.to_string()))?;
        if !matches!(url.location, Location::S3 { .. }) {
            return Err(Failure::usage(format!("{url} is no bucket at S3; write s3://bucket/key")));
        }
        let is_directory = url.prefix.is_root() || text.ends_with('/');
        let key = url.prefix.as_str().strip_suffix('/').filter(|_| !is_directory);
        let key = key.map(ObjectKey::new).transpose().map_err(|error| Failure::usage(error.to_string()))?;
        match (key, recursive) {
            (Some(key), false) => Ok(Self::Object(key)),
            (None, false) => Err(needs_recursive(text)),
            (namesake, true) => Ok(Self::Directory { namesake, prefix: url.prefix }),
        }
    }
}

fn needs_recursive(what: &str) -> Failure {
    Failure::usage(format!("{what} is a directory; give -r to remove it with everything below it"))
}

/// What to do about each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Remove,
    Tell,
}

/// What became of the objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    done: u64,
    failed: u64,
}

impl Tally {
    fn tell(self, url: &str, action: Action) -> Result<(), Failure> {
        let Self { done, failed } = self;
        let objects = if done == 1 { "object" } else { "objects" };
        match action {
            Action::Tell => say(&format!("{done} {objects} would be removed"))?,
            Action::Remove => say(&format!("removed {done} {objects}"))?,
        }
        match (failed, done) {
            (0, 0) => Err(Failure::failed(format!("there is nothing at {url}"))),
            (0, _) => Ok(()),
            _ => Err(Failure::failed(format!(
                "{failed} of {} objects at {url} could not be removed",
                failed + done
            ))),
        }
    }
}

/// A removal under way.
#[derive(Debug)]
struct Removal<'a> {
    bucket: &'a dyn Bucket,
    action: Action,
    bar: ProgressBar,
}

impl<'a> Removal<'a> {
    fn new(bucket: &'a dyn Bucket, action: Action) -> Self {
        let style = ProgressStyle::with_template("{spinner} {pos} objects removed, {per_sec}")
            .expect("the template is right");
        // It draws itself on terminals alone.
        Self { bucket, action, bar: ProgressBar::new_spinner().with_style(style) }
    }

    async fn object(&self, key: &ObjectKey) -> Result<Tally, Failure> {
        if self.is_there(key).await? {
            return self.batch(std::slice::from_ref(key)).await;
        }
        let name = format!("{}/{key}", self.bucket.identity().name);
        let below = ListRequest {
            max_keys: 1,
            ..ListRequest::directory(sluicefs_s3_client::open::directory_prefix(key.as_str()))
        };
        let page = self.bucket.list(below).await.map_err(|error| Failure::store(&error))?;
        if page.objects.is_empty() && page.common_prefixes.is_empty() {
            Err(Failure::failed(format!("there is no object {name}")))
        } else {
            Err(needs_recursive(&name))
        }
    }

    async fn directory(&self, namesake: Option<&ObjectKey>, prefix: &KeyPrefix) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        if let Some(key) = namesake
            && self.is_there(key).await?
        {
            tally = self.batch(std::slice::from_ref(key)).await?;
        }
        let mut next = Some(self.bucket.list(all_below(prefix)).await);
        while let Some(page) = next {
            let page = page.map_err(|error| given_up(tally, &error))?;
            let (done, following) = tokio::join!(self.page(&page), self.page_after(&page, prefix));
            let done = done.map_err(|failure| after(tally, failure))?;
            tally = Tally { done: tally.done + done.done, failed: tally.failed + done.failed };
            next = following;
        }
        self.bar.finish_and_clear();
        Ok(tally)
    }

    async fn is_there(&self, key: &ObjectKey) -> Result<bool, Failure> {
        match self.bucket.head(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Failure::store(&error)),
        }
    }

    async fn page_after(&self, page: &ListPage, prefix: &KeyPrefix) -> Option<Result<ListPage, StoreError>> {
        let continuation = Some(page.next.clone()?);
        Some(self.bucket.list(ListRequest { continuation, ..all_below(prefix) }).await)
    }

    async fn page(&self, page: &ListPage) -> Result<Tally, Failure> {
        let keys: Vec<ObjectKey> = page.objects.iter().map(|object| object.key.clone()).collect();
        self.batch(&keys).await
    }

    /// Removes at most a thousand objects, the most that one page lists.
    async fn batch(&self, keys: &[ObjectKey]) -> Result<Tally, Failure> {
        if keys.is_empty() {
            return Ok(Tally::default());
        }
        if self.action == Action::Tell {
            keys.iter().try_for_each(|key| say(&format!("{}/{key}", self.bucket.identity().name)))?;
            return Ok(Tally { done: keys.len() as u64, failed: 0 });
        }
        let failed = self.bucket.delete_many(keys).await.map_err(|error| Failure::store(&error))?;
        for (key, error) in &failed {
            let name = format!("{}/{key}", self.bucket.identity().name);
            self.bar.suspend(|| note(&format!("not removed: {name}: {error}")));
        }
        let done = (keys.len() - failed.len()) as u64;
        self.bar.inc(done);
        Ok(Tally { done, failed: failed.len() as u64 })
    }
}

fn all_below(prefix: &KeyPrefix) -> ListRequest {
    ListRequest { delimiter: false, ..ListRequest::directory(prefix.clone()) }
}

fn given_up(tally: Tally, error: &StoreError) -> Failure {
    after(tally, Failure::store(error))
}

/// The failure that ended it, and how far it had come.
fn after(tally: Tally, failure: Failure) -> Failure {
    let message = format!("{} (after {} objects were removed)", failure.message, tally.done);
    Failure { message, ..failure }
}

#[cfg(test)]
mod tests {
    use sluicefs_s3_client::testing::{Fault, FaultBucket, MemoryBucket, Operation, Rule, When};

    use super::*;
    use crate::failure::ExitStatus;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[test]
    fn a_url_is_an_object_or_with_r_a_directory() {
        let directory = |namesake: Option<&str>, prefix: &str| Target::Directory {
            namesake: namesake.map(key),
            prefix: KeyPrefix::new(prefix),
        };
        for (url, expected) in [
            ("s3://b/a/c", Ok(Target::Object(key("a/c")))),
            ("s3://b/a/c d%20?", Ok(Target::Object(key("a/c d%20?")))),
            ("s3://b/a/", Err(ExitStatus::Usage)),
            ("s3://b/", Err(ExitStatus::Usage)),
            ("b", Err(ExitStatus::Usage)),
            ("file:///tmp/a", Err(ExitStatus::Usage)),
        ] {
            assert_eq!(Target::parse(url, false).map_err(|failure| failure.status), expected, "{url}");
        }
        for (url, expected) in [
            ("s3://b/a/c", Ok(directory(Some("a/c"), "a/c/"))),
            ("s3://b/a/", Ok(directory(None, "a/"))),
            ("s3://b/a//", Ok(directory(None, "a//"))),
            ("s3://b", Ok(directory(None, ""))),
            ("file:///tmp/a/", Err(ExitStatus::Usage)),
        ] {
            assert_eq!(Target::parse(url, true).map_err(|failure| failure.status), expected, "{url}");
        }
    }

    /// 2,500 objects below `dir/` and one beside it.
    fn bucket() -> MemoryBucket {
        let bucket = MemoryBucket::new("rm");
        for i in 0..2500 {
            bucket.put(&format!("dir/{i:04}"), "x");
        }
        bucket.put("dir-other", "kept");
        bucket
    }

    #[tokio::test]
    async fn what_could_not_be_removed_is_counted_and_stays() {
        let denied = StoreError::new(ErrorKind::Forbidden, "delete");
        let bucket = FaultBucket::new(bucket())
            .with(Rule::new(Fault::SomeFail { every: 100, error: denied }).on(Operation::DeleteMany));
        let removal = Removal::new(&bucket, Action::Remove);
        let tally = removal.directory(None, &KeyPrefix::new("dir/")).await.unwrap();
        assert_eq!(tally, Tally { done: 2475, failed: 25 });
        assert_eq!(bucket.inner().keys().len(), 26);
        let failure = tally.tell("s3://b/dir/", Action::Remove).unwrap_err();
        assert_eq!(failure.status, ExitStatus::Failed);
        assert!(failure.message.contains("25 of 2500 objects"), "{failure}");
    }

    #[tokio::test]
    async fn a_failure_on_the_way_tells_how_far_it_came() {
        let broken = StoreError::new(ErrorKind::Forbidden, "delete many");
        for operation in [Operation::DeleteMany, Operation::List] {
            let fault = Rule::new(Fault::Fail(broken.clone())).on(operation).when(When::Nth(3));
            let bucket = FaultBucket::new(bucket()).with(fault);
            let removal = Removal::new(&bucket, Action::Remove);
            let failure = removal.directory(None, &KeyPrefix::new("dir/")).await.unwrap_err();
            assert_eq!(failure.status, ExitStatus::Store);
            assert!(failure.message.contains("after 2000 objects"), "{operation:?}: {failure}");
        }
    }
}
