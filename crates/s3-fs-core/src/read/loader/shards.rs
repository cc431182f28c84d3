//! Which file of a model comes after another.

/// What stands between the number of a shard and how many there are, as the writers of Hugging Face and llama.cpp name them.
const OF: &str = "-of-";

/// What the weights of models are written as. Data sets come in shards too, which are read in any order.
const EXTENSIONS: [&str; 5] = [".safetensors", ".bin", ".gguf", ".pt", ".pth"];

/// The most digits of a shard's number.
const MAX_DIGITS: usize = 6;

/// The name of the shard after `name`, which is one of several as in `model-00001-of-00004.safetensors`; `None` for the last one, and
/// for all other files.
pub(crate) fn next_shard(name: &str) -> Option<String> {
    if !EXTENSIONS.iter().any(|extension| name.ends_with(extension)) {
        return None;
    }
    let (before, after) = name.rsplit_once(OF)?;
    let digits = before.bytes().rev().take_while(u8::is_ascii_digit).count();
    let count_digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let (stem, number) = before.split_at(before.len() - digits);
    if digits == 0 || digits > MAX_DIGITS || count_digits != digits || !stem.ends_with('-') {
        return None;
    }
    let (number, count): (u32, u32) = (number.parse().ok()?, after[..count_digits].parse().ok()?);
    (number < count).then(|| format!("{stem}{:0digits$}{OF}{after}", number + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_each_other_by_number() {
        for (name, next) in [
            ("model-00001-of-00004.safetensors", Some("model-00002-of-00004.safetensors")),
            ("model-00009-of-00010.safetensors", Some("model-00010-of-00010.safetensors")),
            ("model-00004-of-00004.safetensors", None),
            ("model-00005-of-00004.safetensors", None),
            ("pytorch_model-1-of-2.bin", Some("pytorch_model-2-of-2.bin")),
            ("a-of-b-00001-of-00002.gguf", Some("a-of-b-00002-of-00002.gguf")),
            ("m-00001-of-00002-00001-of-00003.pt", Some("m-00001-of-00002-00002-of-00003.pt")),
            ("train-00001-of-00512.parquet", None),
            ("m-00001-of-00002", None),
            ("model.safetensors", None),
            ("model-00001-of-4.safetensors", None),
            (".bin", None),
            ("model00001-of-00004.safetensors", None),
            ("-of-.bin", None),
            ("-1-of-2.bin", Some("-2-of-2.bin")),
            ("m-0000001-of-0000002.bin", None),
            ("m-\u{661}-of-\u{662}.bin", None),
        ] {
            assert_eq!(next_shard(name).as_deref(), next, "{name}");
        }
    }
}
