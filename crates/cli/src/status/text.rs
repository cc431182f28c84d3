//! The status of a mount for people.

use serde_json::Value;

/// Some lines about `mount`, as it answered.
pub(super) fn of_mount(mount: &Value) -> String {
    let mut lines = vec![
        format!(
            "{} on {} (process {}, version {}, up {}{})",
            text(&mount["source"]),
            text(&mount["mount_point"]),
            mount["pid"],
            text(&mount["version"]),
            duration(mount["uptime_seconds"].as_u64().unwrap_or_default()),
            if mount["options"]["read_only"] == true { ", read-only" } else { "" },
        ),
        format!(
            "  memory: {} of {}; open: {} files, {} directories",
            size(&mount["memory"]["used_bytes"]),
            size(&mount["memory"]["limit_bytes"]),
            mount["open_files"],
            mount["open_directories"],
        ),
    ];
    lines.push(format!(
        "  preset {}:{}",
        text(&mount["preset"]["name"]),
        settings(&mount["preset"]["settings"])
    ));
    if let Value::Object(pins) = &mount["pins"] {
        lines.push(format!("  pinned: {} objects of at most {}", pins["objects"], pins["limit"]));
    }
    if mount["warm_up"].is_object() {
        lines.push(format!("  {}", warm_up(&mount["warm_up"])));
    }
    if let Value::Object(stage) = &mount["stage"] {
        let limit = match &stage["limit_bytes"] {
            Value::Null => String::new(),
            limit => format!(" of {}", size(limit)),
        };
        lines.push(format!(
            "  staged in {}: {}{limit}",
            text(&stage["directory"]),
            size(&stage["used_bytes"])
        ));
    }
    if let Value::Object(cache) = &mount["disk_cache"] {
        lines.push(format!(
            "  cache on disk: {} read, {} written, {} damaged; {} times the kernel was given a whole file to read by itself",
            size(&cache["read_bytes"]),
            size(&cache["written_bytes"]),
            cache["damaged"],
            cache["passed_through"],
        ));
    }
    lines.extend(list(&mount["files_being_written"]).map(file));
    if mount["queue"]["count"].as_u64() > Some(0) {
        let (count, bytes) = (&mount["queue"]["count"], size(&mount["queue"]["bytes"]));
        lines.push(format!("  closed and not at the store yet: {count} file(s), {bytes}"));
    }
    lines.extend(list(&mount["queue"]["files"]).map(queued));
    let removals = &mount["removals"];
    if removals["pending"] != 0 || removals["failed"] != 0 {
        lines.push(format!(
            "  removals: {} on their way, {} refused by the store",
            removals["pending"], removals["failed"]
        ));
    }
    if mount["lost"]["count"] != 0 {
        lines.push(format!("  {} file(s) are not as they were written last:", mount["lost"]["count"]));
    }
    let lost = |file: &Value| format!("    {}: {}", text(&file["key"]), text(&file["error"]));
    lines.extend(list(&mount["lost"]["latest"]).map(lost));
    lines.join("\n")
}

/// How far the warm-up of a mount is.
pub(super) fn warm_up(warm_up: &Value) -> String {
    let progress = &warm_up["progress"];
    let bytes = |name: &str| progress[name].as_u64().unwrap_or_default();
    let there = Value::from(bytes("fetched_bytes") + bytes("present_bytes"));
    let patterns: Vec<String> = list(&warm_up["patterns"]).map(text).collect();
    let how = match warm_up["state"].as_str() {
        Some("fetching") => {
            format!("{} of {} are in the cache", size(&there), size(&progress["total_bytes"]))
        }
        Some("complete") => {
            format!("complete, {} objects, {}", progress["objects"], size(&progress["total_bytes"]))
        }
        Some("failed") => format!("failed: {}", text(&warm_up["error"])),
        _ => "the bucket is being listed".to_owned(),
    };
    format!("warm-up of {}: {how}", patterns.join(" "))
}

/// Each with its value, and with why it has that where nobody gave it.
fn settings(settings: &Value) -> String {
    let setting = |setting: &Value| {
        let why = match (setting["by"].as_str(), setting["why"].as_str()) {
            (Some("given"), _) => "given".to_owned(),
            (_, why) => why.unwrap_or("?").escape_debug().to_string(),
        };
        format!("\n    {} {} ({why})", text(&setting["setting"]), text(&setting["value"]))
    };
    list(settings).map(setting).collect()
}

fn file(file: &Value) -> String {
    let state = match (&file["error"], file["unsaved"] == true, &file["upload"]) {
        (Value::String(error), ..) => format!("cannot be sent: {}", error.escape_debug()),
        (_, false, _) => "open".to_owned(),
        (_, true, Value::Null) => "being written, nothing sent yet".to_owned(),
        (_, true, upload) => format!(
            "being written, {} sent in {} parts, {} on their way, upload {}",
            size(&file["sent_bytes"]),
            file["sent_parts"],
            file["parts_under_way"],
            text(upload)
        ),
    };
    format!("  {}: {}, {state}", text(&file["key"]), size(&file["size_bytes"]))
}

fn queued(file: &Value) -> String {
    let failed = match &file["error"] {
        Value::String(error) => format!(", failed {} time(s): {}", file["failures"], error.escape_debug()),
        _ => String::new(),
    };
    let remedy = file["remedy"].as_str().map(|remedy| format!("\n      {}", remedy.escape_debug()));
    let (key, state) = (text(&file["key"]), text(&file["state"]));
    format!("    {key}: {}, {state}{failed}{}", size(&file["size_bytes"]), remedy.unwrap_or_default())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Stays on its line, whatever is in a name.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or("?").escape_debug().to_string()
}

/// A number of bytes, in a unit that suits it.
pub(crate) fn size(bytes: &Value) -> String {
    let bytes = bytes.as_u64().unwrap_or_default();
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes / 1024),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

fn duration(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..86_400 => format!("{}h {}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d {}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_tell_what_matters_and_stay_on_their_line() {
        let mount = json!({
            "source": "s3://b", "mount_point": "/m", "pid": 7, "version": "1.0", "uptime_seconds": 3700,
            "options": { "read_only": false },
            "memory": { "used_bytes": 1 << 20, "limit_bytes": 2_u64 << 30 },
            "open_files": 2, "open_directories": 0,
            "stage": { "directory": "/c", "used_bytes": 5, "limit_bytes": null },
            "preset": { "name": "model", "settings": [
                { "setting": "metadata-ttl", "value": "5", "by": "given", "why": null },
                { "setting": "versions", "value": "pinned", "by": "preset", "why": "it is so" },
            ] },
            "pins": { "objects": 3, "limit": 9 },
            "warm_up": { "patterns": ["*.safetensors"], "state": "fetching", "error": null,
                "progress": { "fetched_bytes": 1024, "present_bytes": 1024, "total_bytes": 1 << 20 } },
            "files_being_written": [
                { "key": "a\nb", "size_bytes": 2048, "unsaved": true, "upload": null, "error": null },
                { "key": "c", "size_bytes": 0, "unsaved": true, "upload": "u", "error": null,
                  "sent_bytes": 8 << 20, "sent_parts": 1, "parts_under_way": 2 },
                { "key": "d", "size_bytes": 0, "unsaved": true, "upload": null, "error": "away" },
            ],
            "queue": { "count": 1, "bytes": 3, "files": [
                { "key": "q", "size_bytes": 3, "state": "paused", "failures": 2, "error": "away", "remedy": null },
                { "key": "r", "size_bytes": 3, "state": "conflict", "failures": 1, "error": "new", "remedy": "do" },
            ] },
            "removals": { "pending": 3, "failed": 0 },
            "lost": { "count": 1, "latest": [{ "key": "l", "error": "gone" }] },
        });
        let expected = "\
s3://b on /m (process 7, version 1.0, up 1h 1m)
  memory: 1.0 MiB of 2.0 GiB; open: 2 files, 0 directories
  preset model:
    metadata-ttl 5 (given)
    versions pinned (it is so)
  pinned: 3 objects of at most 9
  warm-up of *.safetensors: 2 KiB of 1.0 MiB are in the cache
  staged in /c: 5 B
  a\\nb: 2 KiB, being written, nothing sent yet
  c: 0 B, being written, 8.0 MiB sent in 1 parts, 2 on their way, upload u
  d: 0 B, cannot be sent: away
  closed and not at the store yet: 1 file(s), 3 B
    q: 3 B, paused, failed 2 time(s): away
    r: 3 B, conflict, failed 1 time(s): new
      do
  removals: 3 on their way, 0 refused by the store
  1 file(s) are not as they were written last:
    l: gone";
        assert_eq!(of_mount(&mount), expected);
    }
}
