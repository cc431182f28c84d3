//! What is known of a file, for people.

use std::path::Path;

use serde_json::Value;

use crate::status::size;

/// Some lines about `file`, as its mount answered.
pub(super) fn of_file(file: &Path, answer: &Value) -> String {
    let read = &answer["read"];
    if read.is_null() {
        return format!(
            "{}: nothing of it was read through this mount lately. What the kernel's page cache or the disk gave by itself is not seen here.",
            file.display()
        );
    }
    let n = |value: &Value| value.as_u64().unwrap_or_default();
    let ms = |value: &Value| value.as_f64().unwrap_or_default();
    let blocks = &read["blocks"];
    let mut lines = vec![
        format!("{} ({})", file.display(), size(&read["size_bytes"])),
        format!(
            "  read {}: {} reads of up to {}, {} in all; {} of them went on with none before",
            read["pattern"].as_str().unwrap_or_default(),
            n(&read["reads"]),
            size(&read["largest_read_bytes"]),
            size(&read["read_bytes"]),
            n(&read["jumps"]),
        ),
        format!(
            "  blocks wanted: {} in memory, {} on their way, {} to be asked for (hit rate {:.0} %)",
            n(&blocks["ready"]),
            n(&blocks["awaited"]),
            n(&blocks["missed"]),
            read["hit_rate"].as_f64().unwrap_or_default() * 100.0,
        ),
        format!(
            "  served by: {} requests with {} from the store, {} from the cache on disk",
            n(&read["gets"]),
            size(&read["fetched_bytes"]),
            size(&read["disk_bytes"]),
        ),
        format!(
            "  waits: {} reads, {:.0} ms on average, {:.0} ms at most; first byte of the store after {:.0} ms on average, {:.0} ms at most",
            n(&read["waits"]["count"]),
            ms(&read["waits"]["mean_ms"]),
            ms(&read["waits"]["longest_ms"]),
            ms(&read["first_byte"]["mean_ms"]),
            ms(&read["first_byte"]["longest_ms"]),
        ),
    ];
    let advice: Vec<&str> =
        answer["advice"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match advice.as_slice() {
        [] => lines.push("  nothing to change".to_owned()),
        advice => {
            lines.push("  to change:".to_owned());
            lines.extend(advice.iter().map(|advice| format!("  - {advice}")));
        }
    }
    lines.join("\n")
}
