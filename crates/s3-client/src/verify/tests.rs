//! Replies that are right and replies that are not, as tables.

use super::*;
use crate::bucket::{ListedObject, StorageClass, Timestamp};
use crate::key::ObjectKey;

fn meta(size: u64, etag: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        size,
        etag: etag.map(ETag::new),
        last_modified: Timestamp { secs: 1, nanos: 0 },
        storage_class: StorageClass::Standard,
    }
}

fn request(range: Option<std::ops::Range<u64>>, if_match: Option<&str>) -> GetRequest {
    GetRequest {
        key: ObjectKey::new("k").unwrap(),
        range: range.map(ByteRange::from),
        if_match: if_match.map(ETag::new),
    }
}

#[test]
fn a_range_is_cut_to_the_object() {
    for (asked, size, given, wanted) in [
        (Some(0..10), 100, 0..10, 0..10),
        (Some(90..200), 100, 90..100, 90..100),
        (None, 100, 0..100, 0..100),
        (None, 0, 0..0, 0..0),
        // Shorter than asked for: the caller asks for the rest.
        (Some(10..90), 100, 10..20, 10..90),
        // The endpoint ignores ranges, but the bytes wanted are its first ones.
        (Some(0..10), 100, 0..100, 0..10),
    ] {
        let got = get_reply(&request(asked.clone(), None), &meta(size, None), given.clone().into());
        assert_eq!(got.unwrap(), ByteRange::from(wanted), "{asked:?} of {size} answered by {given:?}");
    }
}

#[test]
fn replies_of_other_bytes_are_corrupt() {
    for (asked, size, given) in [
        (Some(10..20), 100, 0..10),
        (Some(10..20), 100, 20..30),
        (Some(10..20), 100, 10..30),
        (Some(10..20), 100, 0..100),
        (Some(10..20), 100, 10..10),
        (Some(10..20), 15, 10..20),
        (Some(10..20), 5, 0..5),
        (None, 100, 10..100),
        (None, 100, 0..0),
    ] {
        let error = get_reply(&request(asked.clone(), None), &meta(size, None), given.clone().into())
            .expect_err("must be refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{asked:?} of {size} answered by {given:?}");
    }
}

#[test]
fn another_etag_is_another_version_and_none_is_not_the_store() {
    let check = |asked, got| {
        get_reply(&request(Some(0..10), asked), &meta(100, got), ByteRange::new(0, 10))
            .map_err(|e| e.kind())
            .map(|_| ())
    };
    assert_eq!(check(Some("\"a\""), Some("\"a\"")), Ok(()));
    assert_eq!(check(None, Some("\"a\"")), Ok(()));
    assert_eq!(check(None, None), Ok(()));
    assert_eq!(check(Some("\"a\""), Some("\"b\"")), Err(ErrorKind::PreconditionFailed));
    assert_eq!(check(Some("\"a\""), None), Err(ErrorKind::Corrupt));
}

#[test]
fn without_an_etag_size_and_time_tell_versions_apart() {
    let first = meta(100, None);
    let later = ObjectMeta { last_modified: Timestamp { secs: 2, nanos: 0 }, ..first.clone() };
    assert!(same_version(&first, &first).is_ok());
    for next in [later, meta(99, None)] {
        assert_eq!(same_version(&first, &next).unwrap_err().kind(), ErrorKind::PreconditionFailed);
    }
    let tagged = meta(100, Some("\"a\""));
    let touched = ObjectMeta { last_modified: Timestamp { secs: 2, nanos: 0 }, ..tagged.clone() };
    assert!(same_version(&tagged, &touched).is_ok(), "the ETag names the version, not the time");
}

fn listing(prefix: &str, delimiter: bool) -> ListRequest {
    ListRequest {
        prefix: KeyPrefix::new(prefix),
        delimiter,
        start_after: None,
        continuation: None,
        max_keys: 5,
    }
}

fn page(keys: &[&str], prefixes: &[&str], next: Option<&str>) -> ListPage {
    let object = |key: &&str| ListedObject { key: ObjectKey::new(*key).unwrap(), meta: meta(1, None) };
    ListPage {
        objects: keys.iter().map(object).collect(),
        common_prefixes: prefixes.iter().map(|p| KeyPrefix::new(*p)).collect(),
        next: next.map(|t| ContinuationToken(t.to_owned())),
    }
}

fn check(request: &ListRequest, after: Option<&str>, page: &ListPage) -> Result<(), String> {
    list_page(request, after, true, page).map_err(|e| {
        assert_eq!(e.kind(), ErrorKind::Corrupt);
        e.message().unwrap().to_owned()
    })
}

#[test]
fn whole_pages_pass() {
    let continued = ListRequest { continuation: Some(ContinuationToken("t".into())), ..listing("d/", true) };
    let after_inside = ListRequest { start_after: Some("d/e/f".into()), ..listing("d/", true) };
    for (request, after, page) in [
        (listing("", false), None, page(&["a", "a/b", "b"], &[], None)),
        (listing("d/", true), None, page(&["d/", "d/a", "d/c"], &["d/b/", "d/c/"], Some("t"))),
        (listing("d/", true), None, page(&[], &["d//"], None)),
        (listing("d/", true), None, page(&[], &[], None)),
        (continued, Some("d/a"), page(&["d/b"], &["d/a/"], None)),
        (after_inside, None, page(&["d/ea"], &["d/e/"], None)),
    ] {
        assert_eq!(check(&request, after, &page), Ok(()), "{request:?}");
    }
}

#[test]
fn pages_that_contradict_their_request_are_corrupt() {
    let continued = ListRequest { continuation: Some(ContinuationToken("t".into())), ..listing("d/", true) };
    let after = ListRequest { start_after: Some("d/k".into()), ..listing("d/", true) };
    for (request, last, page, says) in [
        (listing("", false), None, page(&["a", "a"], &[], None), "do not rise"),
        (listing("", false), None, page(&["b", "a"], &[], None), "do not rise"),
        (listing("", true), None, page(&[], &["b/", "a/"], None), "do not rise"),
        (listing("", false), None, page(&["a", "b", "c", "d", "e", "f"], &[], None), "6 entries"),
        (listing("d/", false), None, page(&["d"], &[], None), "does not begin"),
        (listing("d/", true), None, page(&["d/e/f"], &[], None), "not rolled up"),
        (listing("d/", true), None, page(&[], &["e/"], None), "no common prefix"),
        (listing("d/", true), None, page(&[], &["d/"], None), "no common prefix"),
        (listing("d/", true), None, page(&[], &["d/e"], None), "no common prefix"),
        (listing("d/", true), None, page(&[], &["d/e/f/"], None), "no common prefix"),
        (listing("d/", false), None, page(&[], &["d/e/"], None), "no common prefix"),
        (continued.clone(), None, page(&["d/z"], &[], Some("t")), "token"),
        (continued.clone(), Some("d/k"), page(&["d/k"], &[], None), "listed after"),
        (continued, Some("d/k/"), page(&[], &["d/k/"], None), "listed after"),
        (after.clone(), None, page(&["d/k"], &[], None), "listed after"),
        (after, None, page(&[], &["d/j/"], None), "listed after"),
    ] {
        let message = check(&request, last, &page).expect_err("must be refused");
        assert!(message.contains(says), "{message:?} should say {says:?}");
    }
}

#[test]
fn unordered_stores_may_list_in_any_order() {
    let request = listing("", false);
    assert!(list_page(&request, None, false, &page(&["b", "a"], &[], None)).is_ok());
    assert!(list_page(&request, None, false, &page(&["b"; 6], &[], None)).is_err(), "but not any number");
}

#[test]
fn the_trail_knows_where_a_listing_stopped() {
    let mut trail = PageTrail::default();
    let first = listing("", true);
    trail.note(&first, &page(&["a", "c"], &["b/"], Some("one")));
    let second = ListRequest { continuation: Some(ContinuationToken("one".into())), ..first.clone() };
    assert_eq!(trail.before(&second), Some("c"));
    assert_eq!(trail.before(&ListRequest { delimiter: false, ..second.clone() }), None);
    trail.note(&second, &page(&[], &[], Some("two")));
    let third = ListRequest { continuation: Some(ContinuationToken("two".into())), ..first.clone() };
    assert_eq!(trail.before(&third), Some("c"), "an empty page goes on from the one before");
    for n in 0..2 * TRAIL_LISTINGS {
        trail.note(&first, &page(&["x"], &[], Some(&format!("token {n}"))));
    }
    assert_eq!((trail.last.len(), trail.order.len()), (TRAIL_LISTINGS, TRAIL_LISTINGS));
}
