//! A made-up model in the safetensors format, and a reader of that format.
//!
//! The format (huggingface/safetensors, README "Format"): eight bytes with the length of the header, little-endian; the header, a JSON
//! object that gives each tensor its type, shape and half-open range of bytes after the header; the tensors' bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use serde_json::{Map, Value, json};
use sluicefs_embedded_s3::crc64nvme;
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;

/// How many tensors the model has.
const TENSORS: u64 = 16;

/// The columns of each tensor; two bytes per number.
const COLUMNS: u64 = 4096;

/// One tensor: its name, where it lies after the header, and the checksum of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) range: ByteRange,
}

/// The bytes of a model, and the checksum of each tensor in the order of the file.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) file: Vec<u8>,
    pub(super) checksums: Vec<String>,
}

/// Makes a model of about `size_mib` MiB, telling `progress` how many bytes were added.
///
/// The bytes follow from the seed alone.
pub(super) fn generate(size_mib: u64, seed: u64, mut progress: impl FnMut(u64)) -> Model {
    let tensor_bytes = (size_mib << 20) / TENSORS;
    let tensors: Vec<Tensor> = (0..TENSORS)
        .map(|i| Tensor {
            name: format!("model.layers.{i}.mlp.weight"),
            range: ByteRange::from_len(i * tensor_bytes, tensor_bytes),
        })
        .collect();
    let mut file = header(&tensors);
    let mut checksums = Vec::new();
    for tensor in &tensors {
        let bytes = pattern(seed, tensor.range);
        file.extend_from_slice(&bytes);
        checksums.push(crc64nvme(&Content::Bytes(bytes)));
        progress(tensor.range.len());
    }
    Model { file, checksums }
}

fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    for tensor in tensors {
        let ByteRange { start, end } = tensor.range;
        let shape = [(end - start) / 2 / COLUMNS, COLUMNS];
        entries.insert(
            tensor.name.clone(),
            json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] }),
        );
    }
    let json = Value::Object(entries).to_string();
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(json.as_bytes());
    out
}

/// Larger headers are refused, as the format's own reader does (safetensors, `MAX_HEADER_SIZE`).
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Reads the header as a model server does: the tensors in the order of the file, ranges counted from the file's beginning.
///
/// # Errors
/// What reading gives; `InvalidData` if it is no such header.
pub(super) fn read_header(file: &mut File) -> io::Result<Vec<Tensor>> {
    let invalid =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the model's header {what}"));
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(invalid("is too long"));
    }
    let mut json = vec![0; usize::try_from(length).map_err(|_| invalid("is too long"))?];
    file.read_exact(&mut json)?;
    let entries: Map<String, Value> = serde_json::from_slice(&json).map_err(|_| invalid("is not JSON"))?;
    let first = 8 + length;
    let mut tensors = Vec::new();
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let offset = |i: usize| entry["data_offsets"][i].as_u64().ok_or_else(|| invalid("lacks an offset"));
        tensors.push(Tensor { name, range: ByteRange::new(first + offset(0)?, first + offset(1)?) });
    }
    tensors.sort_by_key(|tensor| tensor.range.start);
    Ok(tensors)
}

/// Reads one tensor in pieces of 1 MiB, telling `progress` how many bytes came.
///
/// # Errors
/// What reading gives; `UnexpectedEof` if the file is too short.
pub(super) fn read_tensor(
    file: &File,
    range: ByteRange,
    progress: impl Fn(u64) -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let len = usize::try_from(range.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let mut offset = range.start;
    for piece in bytes.chunks_mut(1 << 20) {
        file.read_exact_at(piece, offset)?;
        offset += piece.len() as u64;
        progress(piece.len() as u64)?;
    }
    Ok(bytes)
}

/// The checksum of a tensor that was read.
pub(super) fn checksum(bytes: Vec<u8>) -> String {
    crc64nvme(&Content::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_generated_reads_back() {
        let mut written_bytes = 0;
        let model = generate(1, 7, |n| written_bytes += n);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, &model.file).unwrap();
        let mut file = File::open(&path).unwrap();
        let tensors = read_header(&mut file).unwrap();
        assert_eq!((tensors.len() as u64, written_bytes), (TENSORS, 1 << 20));
        let read: Vec<_> =
            tensors.iter().map(|t| checksum(read_tensor(&file, t.range, |_| Ok(())).unwrap())).collect();
        assert_eq!(read, model.checksums);
        assert_eq!(generate(1, 7, |_| ()).file, model.file);
    }

    #[test]
    fn one_wrong_byte_changes_the_checksum() {
        assert_ne!(checksum(vec![1, 2, 3]), checksum(vec![1, 2, 4]));
    }

    #[test]
    fn a_broken_header_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken");
        for bytes in [&b"short"[..], &[255; 16], b"\x02\0\0\0\0\0\0\0xx"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(read_header(&mut File::open(&path).unwrap()).is_err(), "{bytes:?}");
        }
    }
}
