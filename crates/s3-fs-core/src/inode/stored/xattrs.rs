//! Extended attributes as one header: JSON of names and base64 values, percent-encoded.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Extended attributes by name.
pub(crate) type XattrMap = BTreeMap<String, Vec<u8>>;

/// Reads the header; what makes no sense is left out.
pub(super) fn parse(text: &str) -> XattrMap {
    let Some(json) = decode(text) else { return XattrMap::new() };
    let encoded: BTreeMap<String, String> = serde_json::from_str(&json).unwrap_or_default();
    let decode = |(name, value): (String, String)| Some((name, STANDARD.decode(value).ok()?));
    encoded.into_iter().filter_map(decode).collect()
}

/// Writes the header.
pub(super) fn text(xattrs: &XattrMap) -> String {
    let encoded: BTreeMap<&str, String> =
        xattrs.iter().map(|(name, value)| (name.as_str(), STANDARD.encode(value))).collect();
    let json = serde_json::to_string(&encoded).expect("strings are JSON");
    let mut text = String::new();
    for byte in json.bytes() {
        match byte {
            b'-' | b'_' | b'.' | b'~' => text.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => text.push(byte.into()),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Takes percent-encoding off; `None` for what is none.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = match first {
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                rest = &after[2..];
                u8::from_str_radix(digits, 16).ok()?
            }
            _ => {
                rest = after;
                *first
            }
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_and_value_come_back() {
        let xattrs = XattrMap::from_iter([
            ("user.plain".to_owned(), b"text".to_vec()),
            ("user.\"odd, {name}: \u{e9}".to_owned(), vec![0, 255, 10]),
            ("user.empty".to_owned(), Vec::new()),
        ]);
        let text = text(&xattrs);
        assert!(text.is_ascii() && !text.contains(['"', ' ', '\n']), "{text}");
        assert_eq!(parse(&text), xattrs);
    }

    #[test]
    fn what_others_wrote_is_read_and_nonsense_is_not() {
        let a = XattrMap::from_iter([("user.a".to_owned(), b"v".to_vec())]);
        assert_eq!(parse("%7b%22user.a%22%3a%22dg%3d%3d%22%7d"), a);
        assert_eq!(parse("%7B%22user.a%22%3A%22dg%3D%3D%22%2C%22user.b%22%3A%22?%22%7D"), a);
        for nonsense in ["", "%", "%7", "%zz", "{", "[]", "%FF"] {
            assert_eq!(parse(nonsense), XattrMap::new(), "{nonsense}");
        }
    }
}
