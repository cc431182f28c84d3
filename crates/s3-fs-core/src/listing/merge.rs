//! Turns pages of keys and common prefixes into names of files, links and directories.
//!
//! Three difficulties live here. (1) A file `a`, a link `a.rclonelink` and a directory `a/` may all be listed, pages apart; the directory
//! wins, else the file: both are held back until the listing has come to `a/`. (2) Parts of keys that cannot be file names (`a//b`, `..`, over 255 bytes)
//! must never reach the kernel. (3) Buckets that do not sort their listings are sure of nothing before the end.

use sluicefs_s3_client::{BucketTraits, KeyPrefix, ListPage, ListedObject};

use super::Named;
use crate::attr::FileKind;
use crate::inode::Remote;
use crate::link::LinkKeys;
use crate::path::{self, IllegalName};

/// A name that cannot be shown, to be reported once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// The key of a file or link whose name something else has.
    Shadowed(Box<str>),
    /// Not a file name.
    Illegal(Box<str>, IllegalName),
}

/// What one page added.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// Names now sure, in the order of [`path::name_order`].
    pub(crate) names: Vec<Named>,
    /// All names settled by this key are given out; `None` at the end of the directory.
    pub(crate) upto: Option<Box<str>>,
    /// Names that were left out.
    pub(crate) hidden: Vec<Hidden>,
    /// The page has any key at all, if only that of the directory itself or one that cannot be shown.
    pub(crate) has_keys: bool,
}

/// Merges the pages of one listing, in order.
#[derive(Debug)]
pub(crate) struct Merger {
    prefix: KeyPrefix,
    links: LinkKeys,
    ordered: bool,
    /// Names that a later key may still change.
    held_back: Vec<Named>,
    /// The last key or common prefix so far; stays empty in a bucket that does not sort.
    watermark: Box<str>,
}

impl Merger {
    /// Begins with the first page of `prefix`.
    pub(crate) fn new(prefix: KeyPrefix, traits: BucketTraits, links: LinkKeys) -> Self {
        let ordered = traits.ordered_listing;
        Self { prefix, links, ordered, held_back: Vec::new(), watermark: Box::from("") }
    }

    /// What it lists.
    pub(crate) fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    /// Takes the next page.
    pub(crate) fn push(&mut self, page: ListPage) -> Merged {
        let prefix = self.prefix.clone();
        let strip = |key: &str| key.strip_prefix(prefix.as_str()).map(Box::<str>::from);
        let last_key = page.objects.last().map(|object| object.key.as_str());
        let last_prefix = page.common_prefixes.last().map(KeyPrefix::as_str);
        if let Some(last) = last_key.max(last_prefix).and_then(strip).filter(|_| self.ordered) {
            self.watermark = last;
        }
        let is_last = page.next.is_none();
        let has_keys = !page.objects.is_empty() || !page.common_prefixes.is_empty();
        let mut merged = Merged { has_keys, ..Merged::default() };

        let files = page
            .objects
            .into_iter()
            .filter_map(|ListedObject { key, meta }| strip(key.as_str()).map(|name| (name, meta)));
        for (name, meta) in files {
            // The key of the directory itself is no name in it.
            if !name.is_empty() {
                let (name, kind) = self.links.name_of(&name);
                self.hold(Box::from(name), Remote::Object(kind, meta), &mut merged.hidden);
            }
        }
        for common in &page.common_prefixes {
            if let Some(name) = strip(common.as_str()) {
                self.hold(
                    Box::from(name.strip_suffix('/').unwrap_or(&name)),
                    Remote::Directory,
                    &mut merged.hidden,
                );
            }
        }
        // Two sorted runs follow each other here: the sort takes linear time.
        self.held_back.sort_by(|a, b| path::name_order(&a.name, &b.name).then_with(|| rank(a).cmp(&rank(b))));
        let links = self.links;
        self.held_back.dedup_by(|later, kept| {
            let same = later.name == kept.name;
            if same && later.remote != Remote::Directory {
                let key = format!("{}{}", later.name, links.suffix(later.remote.kind()));
                merged.hidden.push(Hidden::Shadowed(key.into()));
            }
            same
        });

        let settled = if is_last {
            self.held_back.len()
        } else {
            self.held_back.partition_point(|named| path::is_settled(&named.name, &self.watermark))
        };
        let rest = self.held_back.split_off(settled);
        merged.names = std::mem::replace(&mut self.held_back, rest);
        merged.upto = (!is_last).then(|| self.watermark.clone());
        merged
    }

    fn hold(&mut self, name: Box<str>, remote: Remote, hidden: &mut Vec<Hidden>) {
        match path::check_name(&name) {
            Ok(()) => self.held_back.push(Named { name, remote }),
            Err(reason) => hidden.push(Hidden::Illegal(name, reason)),
        }
    }
}

/// Of those with one name, the first is shown.
fn rank(named: &Named) -> u8 {
    match named.remote.kind() {
        FileKind::Directory => 0,
        FileKind::Symlink => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use sluicefs_s3_client::{ContinuationToken, ObjectKey, ObjectMeta, StorageClass, Timestamp};

    use super::*;

    fn page(keys: &[&str], next: bool) -> ListPage {
        let mut page = ListPage { next: next.then(|| ContinuationToken("t".into())), ..ListPage::default() };
        for key in keys {
            if key.ends_with('/') && *key != "d/" {
                page.common_prefixes.push(KeyPrefix::new(*key));
            } else {
                let meta = ObjectMeta {
                    size: 1,
                    etag: None,
                    last_modified: Timestamp::default(),
                    storage_class: StorageClass::Standard,
                };
                page.objects.push(ListedObject { key: ObjectKey::new(*key).unwrap(), meta });
            }
        }
        page
    }

    /// Merges pages of `d/` and prints each page's names (`/` after directories), watermark and hidden names.
    fn check(ordered: bool, pages: &[&[&str]], expected: &[&str]) {
        let mut merger = Merger::new(
            KeyPrefix::new("d/"),
            BucketTraits { ordered_listing: ordered, ..BucketTraits::default() },
            LinkKeys::Suffixed,
        );
        let mut seen = Vec::new();
        for (i, keys) in pages.iter().enumerate() {
            let merged = merger.push(page(keys, i + 1 < pages.len()));
            let names = merged.names.iter().map(|n| match n.remote {
                Remote::Directory => format!("{}/", n.name),
                Remote::Object(FileKind::Symlink, _) => format!("{}@", n.name),
                Remote::Object(..) => n.name.to_string(),
            });
            let hidden = merged.hidden.iter().map(|h| match h {
                Hidden::Shadowed(name) => format!("shadowed:{name}"),
                Hidden::Illegal(name, reason) => format!("illegal:{name}:{reason:?}"),
            });
            let upto = merged.upto.map_or("end".to_owned(), |upto| format!("<={upto}"));
            assert_eq!(merged.has_keys, !keys.is_empty());
            seen.push(names.chain(hidden).chain([upto]).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn one_page_gives_names_in_order() {
        check(true, &[&["d/", "d/b", "d/a/", "d/c/"]], &["a/ b c/ end"]);
        check(true, &[&[]], &["end"]);
    }

    #[test]
    fn a_file_waits_until_its_directory_would_have_come() {
        check(true, &[&["d/a"], &["d/a-b"], &["d/b"]], &["<=a", "<=a-b", "a-b a b end"]);
        check(true, &[&["d/a", "d/b"], &["d/c"]], &["a <=b", "b c end"]);
    }

    #[test]
    fn a_directory_shadows_a_file_even_pages_later() {
        check(true, &[&["d/a"], &["d/a-b", "d/a/"], &["d/b"]], &["<=a", "a-b a/ shadowed:a <=a/", "b end"]);
        check(true, &[&["d/a", "d/a/"]], &["a/ shadowed:a end"]);
    }

    #[test]
    fn a_link_has_its_name_without_the_suffix_and_gives_way_to_files_and_directories() {
        check(true, &[&["d/a.rclonelink", "d/b"]], &["a@ b end"]);
        check(true, &[&["d/a.rclonelink"], &["d/a.txt", "d/b"]], &["<=a.rclonelink", "a.txt a@ b end"]);
        check(true, &[&["d/a", "d/a-b", "d/a.rclonelink"]], &["a-b a shadowed:a.rclonelink end"]);
        check(
            true,
            &[&["d/a", "d/a.rclonelink"], &["d/a/"]],
            &["shadowed:a.rclonelink <=a.rclonelink", "a/ shadowed:a end"],
        );
        check(false, &[&["d/a.rclonelink"], &["d/a"]], &["<=", "a shadowed:a.rclonelink end"]);
    }

    #[test]
    fn names_that_are_no_file_names_are_left_out() {
        check(
            true,
            &[&["d/.", "d/x", "d/../", "d//"]],
            &["x illegal:.:Dots illegal:..:Dots illegal::Empty end"],
        );
        let long = format!("d/{}", "n".repeat(256));
        let hidden = format!("illegal:{}:TooLong end", "n".repeat(256));
        check(true, &[&[&long]], &[&hidden]);
    }

    #[test]
    fn an_unordered_bucket_is_sure_of_nothing_before_its_end() {
        check(false, &[&["d/b", "d/a"], &["d/a/", "d/c"]], &["<=", "a/ b c shadowed:a end"]);
    }

    #[test]
    fn an_unordered_bucket_may_name_a_directory_twice() {
        check(false, &[&["d/a/"], &["d/a/", "d/b"]], &["<=", "a/ b end"]);
    }
}
