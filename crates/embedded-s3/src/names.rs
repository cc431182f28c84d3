//! Keys on the wire: percent-encoding both ways, and what a request's target asks for.

use hyper::header::HeaderMap;
use hyper::{Method, Uri};
use sluicefs_s3_client::testing::Operation;

/// What a path-style request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) operation: Operation,
    pub(crate) bucket: String,
    /// The key, or the prefix of a listing.
    pub(crate) key: String,
}

impl Target {
    pub(crate) fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        // Only the first slash is the path's own: a key may begin with one.
        let path = uri.path().strip_prefix('/').unwrap_or_default();
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = uri.query().unwrap_or_default();
        let copies = headers.contains_key("x-amz-copy-source");
        let operation =
            if key.is_empty() { of_bucket(method, query) } else { of_object(method, query, copies) };
        let key = match operation {
            Operation::List | Operation::ListUploads => {
                decode(value(query, "prefix").unwrap_or_default(), Plus::Space)
            }
            _ => decode(key, Plus::Plus),
        };
        Self { operation, bucket: decode(bucket, Plus::Plus), key }
    }
}

fn of_bucket(method: &Method, query: &str) -> Operation {
    let has = |name| value(query, name).is_some();
    match *method {
        Method::GET if has("list-type") => Operation::List,
        Method::GET if has("uploads") => Operation::ListUploads,
        Method::POST if has("delete") => Operation::DeleteMany,
        Method::GET | Method::HEAD => Operation::Bucket,
        _ => Operation::Other,
    }
}

fn of_object(method: &Method, query: &str, copies: bool) -> Operation {
    let has = |name| value(query, name).is_some();
    match (method.clone(), has("uploadId")) {
        (Method::GET, false) => Operation::Get,
        (Method::HEAD, _) => Operation::Head,
        (Method::PUT, true) if copies => Operation::CopyPart,
        (Method::PUT, true) => Operation::UploadPart,
        (Method::PUT, false) if copies => Operation::Copy,
        (Method::PUT, false) if has("renameObject") => Operation::Rename,
        (Method::PUT, false) => Operation::Put,
        (Method::POST, true) => Operation::CompleteUpload,
        (Method::POST, false) if has("uploads") => Operation::CreateUpload,
        (Method::DELETE, true) => Operation::AbortUpload,
        (Method::DELETE, false) => Operation::Delete,
        _ => Operation::Other,
    }
}

fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[derive(Clone, Copy)]
enum Plus {
    Plus,
    Space,
}

fn decode(text: &str, plus: Plus) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match (byte, plus) {
            (b'+', Plus::Space) => b' ',
            (b'%', _) => {
                let digit =
                    |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).unwrap_or_default() as u8;
                digit(bytes.next()) << 4 | digit(bytes.next())
            }
            (byte, _) => byte,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A name as `encoding-type=url` has it: form encoding that leaves slashes alone.
pub(crate) fn form_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                out.push(byte.into())
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Undoes the percent-encoding of a path.
pub(crate) fn path_decode(text: &str) -> String {
    decode(text, Plus::Plus)
}

/// Undoes [`form_encode`].
pub(crate) fn form_decode(text: &str) -> String {
    decode(text, Plus::Space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_told_by_method_path_and_query() {
        use Operation::*;
        let mut copies = HeaderMap::new();
        copies.insert("x-amz-copy-source", "b/from".parse().unwrap());
        let of_copy = |uri: &str| Target::of(&Method::PUT, &uri.parse().unwrap(), &copies).operation;
        assert_eq!(of_copy("/b/k"), Copy);
        assert_eq!(of_copy("/b/k?partNumber=1&uploadId=u"), CopyPart);
        for (method, uri, operation, bucket, key) in [
            ("GET", "/b/k", Get, "b", "k"),
            ("GET", "/b//a%20b%2Bc+d/../e", Get, "b", "/a b+c+d/../e"),
            ("HEAD", "/b/k%0A", Head, "b", "k\n"),
            ("GET", "/b/?list-type=2&prefix=a%2Fb+c%2B&delimiter=%2F", List, "b", "a/b c+"),
            ("GET", "/b?list-type=2", List, "b", ""),
            ("HEAD", "/b", Bucket, "b", ""),
            ("PUT", "/b/k", Put, "b", "k"),
            ("DELETE", "/b/k", Delete, "b", "k"),
            ("POST", "/b?delete", DeleteMany, "b", ""),
            ("POST", "/b/k?uploads", CreateUpload, "b", "k"),
            ("PUT", "/b/k?partNumber=1&uploadId=u", UploadPart, "b", "k"),
            ("POST", "/b/k?uploadId=u", CompleteUpload, "b", "k"),
            ("DELETE", "/b/k?uploadId=u", AbortUpload, "b", "k"),
            ("GET", "/b?uploads&prefix=a%2F", ListUploads, "b", "a/"),
            ("PUT", "/b/k?renameObject", Rename, "b", "k"),
            ("POST", "/b/k?select", Other, "b", "k"),
        ] {
            let target = Target::of(&method.parse().unwrap(), &uri.parse().unwrap(), &HeaderMap::new());
            let expected = Target { operation, bucket: bucket.into(), key: key.into() };
            assert_eq!(target, expected, "{method} {uri}");
        }
    }

    #[test]
    fn form_encoding_decodes_back() {
        for name in ["a b+c%41/é\n🦀*~", "plain/name.txt"] {
            assert_eq!(form_decode(&form_encode(name)), name);
        }
        assert_eq!(form_encode("a b+c/d~"), "a+b%2Bc/d%7E");
    }
}
