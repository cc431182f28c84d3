//! ListObjectsV2: names decoded once, and no page taken for whole that is not.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;

use super::fields::with_owner;
use super::head::{storage_class, timestamp};
use super::watch::WatchAnswer;
use super::{AwsBucket, Sent, Session};
use crate::bucket::{ListPage, ListRequest, ListedObject, ObjectMeta};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ContinuationToken, ETag, KeyPrefix, ObjectKey};

impl AwsBucket {
    pub(super) async fn list_once(&self, session: &Session, request: &ListRequest) -> Result<ListPage> {
        let start_after = request.start_after.clone().filter(|_| self.traits.ordered_listing);
        let call = with_owner!(self.settings, session.client.list_objects_v2())
            // XML 1.0 has no control characters; without this, one such key makes a page that cannot be parsed.
            .encoding_type(EncodingType::Url)
            .max_keys(i32::from(request.max_keys))
            .set_prefix(Some(request.prefix.as_str().to_owned()).filter(|prefix| !prefix.is_empty()))
            .set_delimiter(request.delimiter.then(|| "/".to_owned()))
            .set_continuation_token(request.continuation.as_ref().map(|token| token.0.clone()))
            .set_start_after(start_after.filter(|_| request.continuation.is_none()))
            .customize()
            .interceptor(WatchAnswer::named("ListBucketResult"));
        let output = call.send().await.sent("list", session, self)?;
        to_page(&output, request.max_keys)
    }
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, "list").with_message(message)
}

fn to_page(output: &ListObjectsV2Output, max_keys: u16) -> Result<ListPage> {
    check_counts(output, max_keys)?;
    // A server that does not encode does not say that it did.
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let decode = |text: &str| if encoded { decode_name(text) } else { Some(text.to_owned()) };
    let mut page = ListPage { next: next_token(output)?, ..ListPage::default() };
    for object in output.contents() {
        let name = object.key().ok_or_else(|| corrupt("an entry has no key"))?;
        let Some(key) = decode(name).and_then(|name| ObjectKey::new(name).ok()) else {
            tracing::warn!(name, "a listed name is no legal key (UTF-8 of 1 to 1024 bytes) and is left out");
            continue;
        };
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        let meta = ObjectMeta {
            size: size.ok_or_else(|| corrupt("an entry has no size").with_key(key.as_str()))?,
            etag: object.e_tag().filter(|etag| !etag.is_empty()).map(ETag::new),
            last_modified: timestamp(object.last_modified()),
            storage_class: storage_class(object.storage_class().map(|class| class.as_str())),
        };
        page.objects.push(ListedObject { key, meta });
    }
    for common in output.common_prefixes() {
        let name = common.prefix().ok_or_else(|| corrupt("a common prefix has no name"))?;
        match decode(name) {
            Some(prefix) => page.common_prefixes.push(KeyPrefix::new(prefix)),
            None => tracing::warn!(name, "a listed prefix is not UTF-8 and is left out"),
        }
    }
    Ok(page)
}

fn check_counts(output: &ListObjectsV2Output, max_keys: u16) -> Result<()> {
    let (objects, prefixes) = (output.contents().len(), output.common_prefixes().len());
    let seen = objects + prefixes;
    if seen > usize::from(max_keys) {
        return Err(corrupt(format!("the page holds {seen} names, {max_keys} were asked for")));
    }
    // Some servers count keys alone, Amazon counts common prefixes too.
    let counts = |count: i32| usize::try_from(count).is_ok_and(|count| count == seen || count == objects);
    match output.key_count() {
        Some(count) if !counts(count) => {
            Err(corrupt(format!("the page says {count} names and holds {seen}")))
        }
        _ => Ok(()),
    }
}

fn next_token(output: &ListObjectsV2Output) -> Result<Option<ContinuationToken>> {
    match (output.is_truncated(), output.next_continuation_token()) {
        (None, _) => Err(corrupt("the page does not say whether it is the last (IsTruncated)")),
        (Some(false), _) => Ok(None),
        (Some(true), Some(token)) if !token.is_empty() => Ok(Some(ContinuationToken(token.to_owned()))),
        (Some(true), _) => Err(corrupt("the page is not the last but says nothing of the next")),
    }
}

/// Undoes `encoding-type=url`, which is form encoding: `+` is a space. `None` for a broken escape or what is not UTF-8.
pub(super) fn decode_name(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{CommonPrefix, Object};

    use super::*;

    #[test]
    fn names_are_decoded_exactly_once() {
        for (encoded, name) in [
            ("plain/a.txt", Some("plain/a.txt")),
            ("a+b%2Bc%20d", Some("a b+c d")),
            ("100%2525", Some("100%25")),
            ("%0A%01%F0%9F%A6%80", Some("\n\u{1}🦀")),
            ("a%2F%2fb", Some("a//b")),
            ("%C3%A9é", Some("éé")),
            ("%", None),
            ("%4", None),
            ("%zz", None),
            ("%+1", None),
            ("%FF", None),
        ] {
            assert_eq!(decode_name(encoded).as_deref(), name, "{encoded}");
        }
    }

    /// As Amazon encodes: letters, digits and a few marks stay, a space becomes `+`.
    fn encode_name(name: &str) -> String {
        let encode = |byte: u8| match byte {
            b' ' => "+".to_owned(),
            b'-' | b'.' | b'_' | b'*' | b'/' => char::from(byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        name.bytes().map(encode).collect()
    }

    proptest::proptest! {
        #[test]
        fn every_name_survives_the_encoding(name in "(?s).{0,40}") {
            proptest::prop_assert_eq!(decode_name(&encode_name(&name)), Some(name));
        }

        #[test]
        fn no_text_breaks_the_decoder(text in "[a-f0-9%+]{0,20}|.{0,20}") {
            // `None` or a name, never a panic; and a text without escapes stays as it is.
            let decoded = decode_name(&text);
            if !text.contains(['%', '+']) {
                proptest::prop_assert_eq!(decoded, Some(text));
            }
        }
    }

    fn object(key: &str) -> Object {
        Object::builder().key(key).size(1).build()
    }

    fn check(output: ListObjectsV2Output, expected: Result<(usize, usize, Option<&str>), &str>) {
        match (to_page(&output, 3), expected) {
            (Ok(page), Ok(expected)) => assert_eq!(
                (page.objects.len(), page.common_prefixes.len(), page.next.as_ref().map(|t| t.0.as_str())),
                expected
            ),
            (Err(error), Err(part)) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains(part), "{error} lacks {part}");
            }
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn pages_that_contradict_themselves_are_corrupt() {
        let page = || ListObjectsV2Output::builder().is_truncated(false);
        let prefix = || CommonPrefix::builder().prefix("p/").build();
        check(page().build(), Ok((0, 0, None)));
        check(page().contents(object("a")).common_prefixes(prefix()).key_count(2).build(), Ok((1, 1, None)));
        check(page().contents(object("a")).common_prefixes(prefix()).key_count(1).build(), Ok((1, 1, None)));
        check(page().contents(object("a")).key_count(3).build(), Err("says 3 names and holds 1"));
        let four = page().set_contents(Some(vec![object("a"); 4]));
        check(four.build(), Err("holds 4 names, 3 were asked for"));
        check(ListObjectsV2Output::builder().build(), Err("IsTruncated"));
        check(page().is_truncated(true).build(), Err("nothing of the next"));
        check(page().is_truncated(true).next_continuation_token("").build(), Err("nothing of the next"));
        check(page().is_truncated(true).next_continuation_token("t").build(), Ok((0, 0, Some("t"))));
        check(page().next_continuation_token("t").build(), Ok((0, 0, None)));
        check(page().contents(Object::builder().key("a").build()).build(), Err("no size"));
        check(page().contents(Object::builder().size(1).build()).build(), Err("no key"));
    }

    #[test]
    fn what_a_server_leaves_out_stays_out() {
        let output = ListObjectsV2Output::builder().is_truncated(false).contents(object("a+b")).build();
        let page = to_page(&output, 1).unwrap();
        let listed = &page.objects[0];
        assert_eq!(listed.key.as_str(), "a+b", "not encoded, so not decoded");
        assert_eq!(listed.meta.etag, None);
        assert_eq!(listed.meta.storage_class, crate::StorageClass::Standard);
    }

    #[test]
    fn names_that_are_no_keys_are_left_out() {
        let output = ListObjectsV2Output::builder()
            .is_truncated(false)
            .encoding_type(EncodingType::Url)
            .contents(object("%FF"))
            .contents(object("ok"))
            .key_count(2)
            .build();
        let keys: Vec<_> =
            to_page(&output, 2).unwrap().objects.into_iter().map(|o| o.key.to_string()).collect();
        assert_eq!(keys, ["ok"]);
    }
}
