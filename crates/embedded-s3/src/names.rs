//! Keys on the wire: percent-encoding both ways, and what a request's target asks for.

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
    pub(crate) fn of(method: &Method, uri: &Uri) -> Self {
        // Only the first slash is the path's own: a key may begin with one.
        let path = uri.path().strip_prefix('/').unwrap_or_default();
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = uri.query().unwrap_or_default();
        let operation = match (method, key.is_empty()) {
            (&Method::GET, true) if value(query, "list-type").is_some() => Operation::List,
            (&Method::GET | &Method::HEAD, true) => Operation::Bucket,
            (&Method::GET, false) => Operation::Get,
            (&Method::HEAD, false) => Operation::Head,
            (&Method::PUT, false) => Operation::Put,
            (&Method::DELETE, false) => Operation::Delete,
            _ => Operation::Other,
        };
        let key = match operation {
            Operation::List => decode(value(query, "prefix").unwrap_or_default(), Plus::Space),
            _ => decode(key, Plus::Plus),
        };
        Self { operation, bucket: decode(bucket, Plus::Plus), key }
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
        for (method, uri, operation, bucket, key) in [
            ("GET", "/b/k", Get, "b", "k"),
            ("GET", "/b//a%20b%2Bc+d/../e", Get, "b", "/a b+c+d/../e"),
            ("HEAD", "/b/k%0A", Head, "b", "k\n"),
            ("GET", "/b/?list-type=2&prefix=a%2Fb+c%2B&delimiter=%2F", List, "b", "a/b c+"),
            ("GET", "/b?list-type=2", List, "b", ""),
            ("HEAD", "/b", Bucket, "b", ""),
            ("PUT", "/b/k", Put, "b", "k"),
            ("DELETE", "/b/k", Delete, "b", "k"),
            ("POST", "/b?delete", Other, "b", ""),
        ] {
            let target = Target::of(&method.parse().unwrap(), &uri.parse().unwrap());
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
