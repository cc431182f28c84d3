//! Headers as programs write them, and as somebody who means harm would.

use proptest::prelude::*;

use super::*;

/// A header of `json` in its frame.
pub(in crate::read) fn framed(json: &str) -> Vec<u8> {
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(json.as_bytes());
    head
}

fn tensor(name: &str, start: u64, end: u64) -> String {
    format!(
        r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
        end.wrapping_sub(start)
    )
}

fn parse_json(json: &str, data_bytes: u64) -> Result<Vec<(u64, u64)>, Broken> {
    let head = framed(json);
    let data = head.len() as u64;
    let ranges = parse(&head, data + data_bytes)?;
    Ok(ranges.iter().map(|range| (range.start - data, range.end - data)).collect())
}

#[test]
fn tensors_come_by_name_and_count_from_the_end_of_the_header() {
    let metadata = r#""__metadata__":{"format":"pt","deep":[[{}]]}"#;
    let json =
        format!("{{{},{metadata},{},{}}}   ", tensor("b", 0, 10), tensor("a", 10, 30), tensor("c", 30, 30));
    assert_eq!(parse_json(&json, 30).unwrap(), [(10, 30), (0, 10)], "c is empty");
    assert_eq!(parse_json("{}", 0).unwrap(), []);
    // The order of bytes, as in the library that writes and walks these files.
    let json = format!("{{{},{},{}}}", tensor("l.10", 0, 1), tensor("l.2", 1, 2), tensor("l.é", 2, 3));
    assert_eq!(parse_json(&json, 3).unwrap(), [(0, 1), (1, 2), (2, 3)]);
}

#[test]
fn what_does_not_fit_the_file_is_refused() {
    for json in [
        format!("{{{}}}", tensor("a", 0, 31)),
        format!("{{{}}}", tensor("a", 11, 10)),
        format!("{{{}}}", tensor("a", u64::MAX, u64::MAX)),
        format!("{{{},{}}}", tensor("a", 0, 1), tensor("b", 0, u64::MAX - 7)),
    ] {
        assert!(matches!(parse_json(&json, 30), Err(Broken::Outside(..))), "{json}");
    }
    let overlap = format!("{{{},{}}}", tensor("a", 0, 20), tensor("b", 10, 30));
    assert!(matches!(parse_json(&overlap, 30), Err(Broken::Overlap)));
    let twice = format!("{{{},{}}}", tensor("a", 0, 1), tensor("a", 1, 2));
    assert!(matches!(parse_json(&twice, 30), Err(Broken::Duplicate)));
}

#[test]
fn what_is_no_header_is_refused() {
    let deep = format!(r#"{{"a":{}"#, "[".repeat(1 << 20));
    let deep_metadata = format!(r#"{{"__metadata__":{}{}"#, "[".repeat(1 << 20), "]".repeat(1 << 19));
    let cut = &tensor("a", 0, 1)[..20];
    for json in [
        "{",
        "{}x",
        "[]",
        "{\"\u{0}\":1}",
        r#"{"a":{}}"#,
        r#"{"a":{"data_offsets":[0]}}"#,
        r#"{"a":{"data_offsets":[0,1,2]}}"#,
        r#"{"a":{"data_offsets":[-1,2]}}"#,
        r#"{"a":{"data_offsets":[0,1e3]}}"#,
        r#"{"a":{"data_offsets":[0,18446744073709551616]}}"#,
        &format!("{{{cut}"),
        &deep,
        &deep_metadata,
    ] {
        assert!(matches!(parse_json(json, 30), Err(Broken::Json(_))), "{:.60}", json);
    }
    let many: Vec<String> = (0..=MAX_TENSORS).map(|n| tensor(&n.to_string(), 0, 0)).collect();
    assert!(matches!(parse_json(&format!("{{{}}}", many.join(",")), 0), Err(Broken::Json(_))));
}

#[test]
fn a_header_is_found_by_its_first_bytes() {
    let head = |length: u64, next: &[u8]| [&length.to_le_bytes()[..], next].concat();
    for (first, size, expected) in [
        (head(100, b"{\"a"), 1000, Some(Some(108))),
        (head(2, b"{}"), 10, Some(Some(10))),
        (head(3, b"{}"), 10, Some(None)),
        (head(u64::MAX, b"{"), 1000, Some(None)),
        (head(MAX_HEADER_BYTES, b"{"), u64::MAX, Some(Some(MAX_HEADER_BYTES + 8))),
        (head(MAX_HEADER_BYTES + 1, b"{"), u64::MAX, Some(None)),
        (head(100, b" {"), 1000, None),
        (head(100, b""), 1000, None),
        (b"GGUF".to_vec(), 1000, None),
        (Vec::new(), 0, None),
    ] {
        let found = find(&first, size).map(|found| found.ok().map(|range| range.end));
        assert_eq!(found, expected, "{first:?} of {size}");
    }
}

proptest! {
    /// Whatever the bytes are, what comes out lies in the file.
    #[test]
    fn no_header_leads_out_of_the_file(bytes in prop::collection::vec(any::<u8>(), 0..200), size in 0..300_u64) {
        let size = size + bytes.len() as u64 + 8;
        let head = [&(bytes.len() as u64).to_le_bytes()[..], &bytes].concat();
        if let Ok(ranges) = parse(&head, size) {
            prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
        }
    }

    /// The same for JSON that is right but for a few bytes.
    #[test]
    fn no_damaged_header_leads_out_of_the_file(
        offsets in prop::collection::vec((0..400_u64, 0..400_u64), 1..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let tensors: Vec<String> = offsets.iter().enumerate().map(|(n, (a, b))| tensor(&n.to_string(), *a, *b)).collect();
        let mut head = framed(&format!("{{{}}}", tensors.join(",")));
        for (at, byte) in damage {
            let at = at.index(head.len());
            head[at] = byte;
        }
        let size = head.len() as u64 + 300;
        if let Some(Ok(range)) = find(&head, size) && range.end <= head.len() as u64
            && let Ok(ranges) = parse(&head[..range.end as usize], size)
        {
            prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
        }
    }
}
