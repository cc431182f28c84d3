//! Percent-encoding, as headers with keys and tags in them need it.

/// Encodes all but the unreserved characters of RFC 3986 and slashes, which separate a bucket from a key.
pub(super) fn encode_path(text: &str) -> String {
    encode(text, b"-_.~/")
}

/// Encodes all but the unreserved characters of RFC 3986.
pub(super) fn encode_value(text: &str) -> String {
    encode(text, b"-_.~")
}

fn encode(text: &str, plain: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_means_something_is_encoded() {
        assert_eq!(encode_path("a b+c%41/d//é?#&=\n~"), "a%20b%2Bc%2541/d//%C3%A9%3F%23%26%3D%0A~");
        assert_eq!(encode_value("a/b=c&d"), "a%2Fb%3Dc%26d");
    }
}
