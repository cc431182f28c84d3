//! Which objects a warm-up is about.

use futures::stream::{self, StreamExt};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use sluicefs_s3_client::{Bucket, ErrorKind, KeyPrefix, ListRequest, ListedObject, ObjectKey};

use super::job::OBJECTS_AT_ONCE;
use crate::failure::Failure;

/// Which objects are meant.
#[derive(Debug)]
pub(crate) struct Chosen {
    prefix: KeyPrefix,
    /// The object of this key, if it is there, and not only what is below it.
    namesake: Option<ObjectKey>,
    include: Option<GlobSet>,
    list: Option<Vec<ObjectKey>>,
}

impl Chosen {
    /// What is below `prefix`, or the object of that name where no slash ends it: of that the keys that match a pattern of `include`, if there is
    /// one; or the keys in `list`.
    ///
    /// # Errors
    /// If a pattern or a key makes no sense.
    pub(crate) fn new(
        (prefix, is_directory): (KeyPrefix, bool),
        include: &[String],
        list: Option<&str>,
    ) -> Result<Self, Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
        let namesake = prefix.as_str().strip_suffix('/').filter(|_| !is_directory);
        let namesake = namesake.map(ObjectKey::new).transpose().map_err(|error| usage(&error))?;
        let include = (!include.is_empty()).then(|| globs(include)).transpose()?;
        let list = list.map(|text| keys_of(text, &prefix)).transpose()?;
        Ok(Self { prefix, namesake, include, list })
    }

    /// Below which all of it is.
    pub(super) fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    fn includes(&self, key: &ObjectKey) -> bool {
        let below = key.as_str().strip_prefix(self.prefix.as_str()).unwrap_or(key.as_str());
        self.include.as_ref().is_none_or(|globs| globs.is_match(below))
    }

    /// The objects, as the bucket has them.
    ///
    /// # Errors
    /// What the store answered; an object of the list that is not there.
    pub(crate) async fn objects(&self, bucket: &dyn Bucket) -> Result<Vec<ListedObject>, Failure> {
        if let Some(keys) = &self.list {
            let keys: Vec<&ObjectKey> = keys.iter().filter(|key| self.includes(key)).collect();
            let heads = stream::iter(0..keys.len()).map(|index| head(bucket, keys[index]));
            let heads = heads.buffered(OBJECTS_AT_ONCE);
            let heads: Vec<_> = heads.collect().await;
            let found = heads.into_iter().map(|head| {
                let (key, head) = head?;
                head.ok_or_else(|| {
                    Failure::failed(format!("there is no object {}/{key}", bucket.identity().name))
                })
            });
            return found.collect();
        }
        let mut objects = Vec::new();
        if let Some(key) = &self.namesake {
            objects.extend(head(bucket, key).await?.1);
        }
        let mut request = ListRequest { delimiter: false, ..ListRequest::directory(self.prefix.clone()) };
        loop {
            let page = bucket.list(request.clone()).await.map_err(|error| Failure::store(&error))?;
            objects.extend(page.objects.into_iter().filter(|object| self.includes(&object.key)));
            match page.next {
                Some(next) => request.continuation = Some(next),
                None => return Ok(objects),
            }
        }
    }
}

/// What the store says of an object; `None` if there is none.
async fn head<'a>(
    bucket: &dyn Bucket,
    key: &'a ObjectKey,
) -> Result<(&'a ObjectKey, Option<ListedObject>), Failure> {
    match bucket.head(key).await {
        Ok(head) => Ok((key, Some(ListedObject { key: key.clone(), meta: head.meta }))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok((key, None)),
        Err(error) => Err(Failure::store(&error)),
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, Failure> {
    let usage = |error: globset::Error| Failure::usage(format!("a pattern makes no sense: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        // As in a shell: a star stays within one directory, two do not; a pattern without a slash is of names in any directory.
        let anywhere = if pattern.contains('/') { pattern.clone() } else { format!("**/{pattern}") };
        set.add(GlobBuilder::new(&anywhere).literal_separator(true).build().map_err(usage)?);
    }
    set.build().map_err(usage)
}

/// The keys in a list, one in each line; empty lines count for nothing.
fn keys_of(text: &str, prefix: &KeyPrefix) -> Result<Vec<ObjectKey>, Failure> {
    let key = |line: &str| {
        ObjectKey::new(format!("{}{line}", prefix.as_str()))
            .map_err(|error| Failure::usage(format!("--from-list: {error}")))
    };
    text.lines().filter(|line| !line.is_empty()).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, key, is_included) in [
            ("*.safetensors", "model.safetensors", true),
            ("*.safetensors", "deep/er/model.safetensors", true),
            ("*.safetensors", "model.bin", false),
            ("deep/*", "deep/model", true),
            ("deep/*", "deep/er/model", false),
            ("deep/**", "deep/er/model", true),
            ("model-0000?-of-2", "model-00001-of-2", true),
            ("{a,b}.json", "x/b.json", true),
        ] {
            assert_eq!(globs(&[pattern.to_owned()]).unwrap().is_match(key), is_included, "{pattern} {key}");
        }
        assert!(globs(&["[".to_owned()]).is_err());
    }

    #[test]
    fn a_list_has_keys_below_the_directory() {
        let keys = keys_of("a b\n\nc/d\r\n", &KeyPrefix::new("p/")).unwrap();
        assert_eq!(keys.iter().map(ObjectKey::as_str).collect::<Vec<_>>(), ["p/a b", "p/c/d"]);
    }
}
