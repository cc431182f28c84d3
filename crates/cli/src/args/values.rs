//! The values of options: times to live, permission bits, sizes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sluicefs_core::Ttl;

/// `--metadata-ttl`: a number of seconds, `indefinite` or `minimal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TtlArg {
    /// For this many seconds.
    Seconds(u64),
    /// Until the mount ends.
    Indefinite,
    /// Not at all: the store is asked each time.
    Minimal,
}

impl TtlArg {
    pub(crate) fn ttl(self) -> Ttl {
        match self {
            Self::Seconds(seconds) => Ttl::For(Duration::from_secs(seconds)),
            Self::Indefinite => Ttl::Forever,
            Self::Minimal => Ttl::For(Duration::ZERO),
        }
    }
}

/// A century: what is longer is a typo or `indefinite`.
const MAX_TTL_SECONDS: u64 = 100 * 365 * 24 * 3600;

impl FromStr for TtlArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "indefinite" => Ok(Self::Indefinite),
            "minimal" => Ok(Self::Minimal),
            _ => match text.parse() {
                Ok(seconds @ 0..=MAX_TTL_SECONDS) => Ok(Self::Seconds(seconds)),
                Ok(_) => Err("that is over a century: write indefinite".to_owned()),
                Err(_) => Err("write a number of seconds, indefinite or minimal".to_owned()),
            },
        }
    }
}

impl fmt::Display for TtlArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(f, "{seconds}"),
            Self::Indefinite => f.write_str("indefinite"),
            Self::Minimal => f.write_str("minimal"),
        }
    }
}

/// Permission bits in octal: `0755`, `755`, `0o755`.
pub(crate) fn mode(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u16::from_str_radix(digits, 8) {
        Ok(mode @ 0..=0o777) if !digits.starts_with('+') => Ok(mode),
        _ => Err("write permission bits in octal, from 0000 to 0777".to_owned()),
    }
}

/// A duration in whole seconds, at least one.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err("write a number of seconds from 1 to 86400".to_owned()),
    }
}

/// A number of MiB, as bytes.
pub(crate) fn mebibytes(text: &str) -> Result<u64, String> {
    // 16 TiB: far above any machine, far below an overflow.
    match text.parse::<u64>() {
        Ok(mebibytes @ 1..=0x100_0000) => Ok(mebibytes << 20),
        _ => Err("write a number of MiB, such as 512".to_owned()),
    }
}

/// The same, or 0.
pub(crate) fn mebibytes_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { mebibytes(text) }
}

/// How long ago: a number with its unit, `30s`, `15m`, `12h`, `7d`, `2w`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let unit_secs = match text.chars().next_back() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 24 * 3600,
        Some('w') => 7 * 24 * 3600,
        _ => return Err(AGE_FORM.to_owned()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| AGE_FORM)?;
    number.checked_mul(unit_secs).map(Duration::from_secs).ok_or_else(|| AGE_FORM.to_owned())
}

const AGE_FORM: &str = "write a number with its unit: 30s, 15m, 12h, 7d or 2w";

/// A tag, `NAME=VALUE`; the value may be empty.
pub(crate) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write a tag as NAME=VALUE".to_owned()),
    }
}

/// The part of a bucket to mount.
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() || text.ends_with('/') {
        Ok(text.to_owned())
    } else {
        Err("a prefix names a directory and ends in \"/\"".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_is_seconds_or_a_word() {
        for (text, expected) in [
            ("0", Some(Ttl::For(Duration::ZERO))),
            ("60", Some(Ttl::For(Duration::from_secs(60)))),
            ("indefinite", Some(Ttl::Forever)),
            ("minimal", Some(Ttl::For(Duration::ZERO))),
            ("-1", None),
            ("1.5", None),
            ("99999999999", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<TtlArg>().ok().map(TtlArg::ttl), expected, "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal_permission_bits() {
        for (text, expected) in [
            ("0755", Some(0o755)),
            ("755", Some(0o755)),
            ("0o640", Some(0o640)),
            ("0", Some(0)),
            ("4755", None),
            ("888", None),
            ("+755", None),
            ("", None),
        ] {
            assert_eq!(mode(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_and_times_have_ends() {
        assert_eq!(mebibytes("512"), Ok(512 << 20));
        assert!(mebibytes("0").is_err() && mebibytes("99999999").is_err() && mebibytes("1G").is_err());
        assert_eq!(seconds("30"), Ok(Duration::from_secs(30)));
        assert!(seconds("0").is_err() && seconds("1m").is_err());
    }

    #[test]
    fn ages_have_units() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("15m", Some(900)),
            ("12h", Some(43_200)),
            ("1d", Some(86_400)),
            ("2w", Some(1_209_600)),
            ("1", None),
            ("d", None),
            ("-1d", None),
            ("1 Tag", None),
            ("99999999999999999999w", None),
            ("9999999999999999999w", None),
            ("", None),
            ("1é", None),
        ] {
            assert_eq!(age(text).ok(), expected.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn tags_have_names() {
        assert_eq!(tag("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(tag("a=").is_ok() && tag("=b").is_err() && tag("ab").is_err());
    }

    #[test]
    fn prefix_ends_in_a_slash() {
        assert!(prefix("").is_ok() && prefix("a/b/").is_ok() && prefix("a").is_err());
    }
}
