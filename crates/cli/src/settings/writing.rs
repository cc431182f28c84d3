//! What the options about writing mean: to the client, which sends, and to the file system, which decides when.

use sluicefs_core::{Exclusive, OnConflict, ReadConfig, WriteBack, WriteConfig};
use sluicefs_s3_client::StorageClass;
use sluicefs_s3_client::config::{Encryption, UploadChecksums, WriteConfig as StoredConfig};

use crate::args::{ChecksumArg, ExclArg, MountArgs, OnConflictArg, SseArg, WriteBackArg, WritingArgs};
use crate::failure::Failure;

/// What is stored with every object that is written.
///
/// # Errors
/// If options contradict each other.
pub(crate) fn stored_config(args: &WritingArgs) -> Result<StoredConfig, Failure> {
    Ok(StoredConfig {
        upload_checksums: args.upload_checksums.map_or(UploadChecksums::default(), |sums| match sums {
            ChecksumArg::Crc64nvme => UploadChecksums::Crc64Nvme,
            ChecksumArg::Crc32c => UploadChecksums::Crc32c,
            ChecksumArg::Off => UploadChecksums::Off,
        }),
        storage_class: args.storage_class.clone(),
        encryption: encryption(args)?,
        acl: args.acl.clone(),
        tags: args.tags.clone(),
    })
}

fn encryption(args: &WritingArgs) -> Result<Option<Encryption>, Failure> {
    let key_id = args.sse_kms_key_id.clone();
    match args.sse {
        Some(SseArg::Aes256) if key_id.is_some() => Err(Failure::usage(
            "--sse-kms-key-id is for --sse aws:kms and --sse aws:kms:dsse, not for AES256",
        )),
        Some(SseArg::Aes256 | SseArg::KmsTwice) if args.sse_bucket_key.is_some() => {
            Err(Failure::usage("--sse-bucket-key is for --sse aws:kms alone"))
        }
        Some(SseArg::Aes256) => Ok(Some(Encryption::Aes256)),
        Some(SseArg::Kms) => Ok(Some(Encryption::Kms { key_id, bucket_key: args.sse_bucket_key })),
        Some(SseArg::KmsTwice) => Ok(Some(Encryption::KmsTwice { key_id })),
        None => Ok(None),
    }
}

/// How files are written, in `memory_limit_bytes`.
pub(super) fn write_config(args: &MountArgs, memory_limit_bytes: u64) -> WriteConfig {
    let (writing, defaults) = (&args.writing, WriteConfig::default());
    WriteConfig {
        memory_limit_bytes,
        part_size_bytes: part_size_bytes(args),
        on_conflict: writing.on_conflict.map_or(defaults.on_conflict, |what| match what {
            OnConflictArg::Fail => OnConflict::Fail,
            OnConflictArg::Overwrite => OnConflict::Overwrite,
        }),
        exclusive: writing.excl.map_or(defaults.exclusive, |when| match when {
            ExclArg::AtOpen => Exclusive::AtOpen,
            ExclArg::AtClose => Exclusive::AtClose,
        }),
        max_renamed_objects: writing.max_renamed_objects.unwrap_or(defaults.max_renamed_objects),
        infer_content_type: !writing.no_content_type,
        delete_behind: writing.delete_behind,
        write_back: writing.write_back.map_or(defaults.write_back, |when| match when {
            WriteBackArg::Off => WriteBack::Off,
            WriteBackArg::Async => WriteBack::Async,
        }),
        storage_class: writing.storage_class.as_deref().map_or(defaults.storage_class, StorageClass::parse),
    }
}

fn part_size_bytes(args: &MountArgs) -> u64 {
    let default = WriteConfig::default().part_size_bytes;
    args.writing.write_part_size.or(args.reading.part_size).unwrap_or(default)
}

/// What of `memory_bytes` is for written bytes: one of `shares`, and room for four parts.
///
/// # Errors
/// If so little is left for reading that it cannot work.
pub(super) fn memory_bytes(args: &MountArgs, memory_bytes: u64, shares: u64) -> Result<u64, Failure> {
    if args.files.read_only {
        return Ok(0);
    }
    let parts = part_size_bytes(args).saturating_mul(4);
    let most = memory_bytes.saturating_sub(ReadConfig::MIN_MEMORY_BYTES);
    if parts > most {
        let least = parts.saturating_add(ReadConfig::MIN_MEMORY_BYTES).div_ceil(1 << 20);
        return Err(Failure::usage(format!(
            "{} MiB of memory are too few for uploads in parts of {} bytes; use --memory-target {least} or more, smaller parts, or --read-only",
            memory_bytes >> 20,
            part_size_bytes(args),
        )));
    }
    Ok((memory_bytes / shares).max(parts).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::{client, fs, parse};

    #[test]
    fn what_is_stored_with_objects_reaches_the_client() {
        let config = client(&[
            "--upload-checksums=crc32c",
            "--storage-class=STANDARD_IA",
            "--sse=aws:kms",
            "--sse-kms-key-id=arn:aws:kms:eu-west-1:1:key/2",
            "--sse-bucket-key=true",
            "--acl=bucket-owner-full-control",
            "--tag=team=models",
            "--tag=empty=",
        ])
        .unwrap();
        let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            config.write,
            StoredConfig {
                upload_checksums: UploadChecksums::Crc32c,
                storage_class: Some("STANDARD_IA".to_owned()),
                encryption: Some(Encryption::Kms {
                    key_id: Some("arn:aws:kms:eu-west-1:1:key/2".to_owned()),
                    bucket_key: Some(true),
                }),
                acl: Some("bucket-owner-full-control".to_owned()),
                tags: vec![tag("team", "models"), tag("empty", "")],
            }
        );
        assert_eq!(client(&[]).unwrap().write, StoredConfig::default());
    }

    #[test]
    fn each_encryption_and_checksum_has_its_word() {
        for (word, expected) in [
            ("AES256", Encryption::Aes256),
            ("aws:kms", Encryption::Kms { key_id: None, bucket_key: None }),
            ("aws:kms:dsse", Encryption::KmsTwice { key_id: None }),
        ] {
            assert_eq!(client(&["--sse", word]).unwrap().write.encryption, Some(expected));
        }
        for (word, expected) in [
            ("crc64nvme", UploadChecksums::Crc64Nvme),
            ("crc32c", UploadChecksums::Crc32c),
            ("off", UploadChecksums::Off),
        ] {
            assert_eq!(client(&["--upload-checksums", word]).unwrap().write.upload_checksums, expected);
        }
    }

    #[test]
    fn keys_without_their_encryption_are_refused() {
        for (options, part) in [
            (&["--sse=AES256", "--sse-kms-key-id=k"][..], "aws:kms"),
            (&["--sse=aws:kms:dsse", "--sse-bucket-key=true"], "aws:kms alone"),
            (&["--storage-class=ONE ZONE"], "storage class"),
        ] {
            let refused = client(options).unwrap_err();
            assert!(refused.message.contains(part), "{refused}");
        }
    }

    #[test]
    fn how_files_are_written_reaches_the_file_system() {
        let write = fs(&[
            "--on-conflict=overwrite",
            "--excl=at-close",
            "--max-renamed-objects=7",
            "--storage-class=GLACIER_IR",
            "--no-content-type",
        ])
        .unwrap()
        .write;
        assert_eq!((write.on_conflict, write.exclusive), (OnConflict::Overwrite, Exclusive::AtClose));
        assert_eq!((write.max_renamed_objects, write.storage_class), (7, StorageClass::GlacierIr));
        assert!(!write.infer_content_type);
        let write = fs(&[]).unwrap().write;
        assert_eq!(write, WriteConfig { memory_limit_bytes: 128 << 20, ..WriteConfig::default() });
    }

    #[test]
    fn one_part_size_is_for_both_unless_one_is_told() {
        let sizes = |options: &[&str]| {
            let config = fs(options).unwrap();
            (config.read.part_size_bytes, config.write.part_size_bytes)
        };
        assert_eq!(sizes(&["--part-size=6291456"]), (6 << 20, 6 << 20));
        assert_eq!(sizes(&["--part-size=6291456", "--write-part-size=5242880"]), (6 << 20, 5 << 20));
        assert_eq!(sizes(&["--write-part-size=67108864"]), (8 << 20, 64 << 20));
    }

    #[test]
    fn large_parts_take_memory_from_reading_while_there_is_enough() {
        let memory =
            |options: &[&str]| memory_bytes(&parse(options), 512 << 20, 4).map_err(|failure| failure.message);
        assert_eq!(memory(&[]), Ok(128 << 20));
        assert_eq!(memory(&["--write-part-size=67108864"]), Ok(256 << 20));
        assert_eq!(memory(&["--write-part-size=67108864", "--read-only"]), Ok(0));
        let refused = memory(&["--write-part-size=134217728"]).unwrap_err();
        assert!(refused.contains("--memory-target 544"), "{refused}");
    }
}
