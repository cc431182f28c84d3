//! The mount over servers that were not written here: moto, and s3s-fs.
//!
//! `cargo xtask test` installs them and says where they are. Without that a test prints that it is skipped.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use sluicefs_core::FsConfig;
use sluicefs_s3_client::testing::OutsideServer;
use sluicefs_s3_client::testing::memory::pattern;
use sluicefs_s3_client::testing::outside::{MOTO, S3S_FS};
use sluicefs_s3_client::{BucketUrl, ByteRange, ClientConfig, open};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::{Program, TestMount, doubtful, runtime};

const LEN: u64 = (12 << 20) + 123;
const BUCKET: &str = "models";

/// What a server cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    /// It says that the names in its listings are encoded, and does not encode them.
    EncodedNames,
    /// It takes any secret.
    Signatures,
}

/// A server with a bucket, and what both need.
struct Outside {
    server: OutsideServer,
    skips: &'static [Skip],
    runtime: Runtime,
    _root: TempDir,
}

impl Outside {
    /// Those that are installed.
    fn each() -> Vec<Self> {
        let root = || TempDir::with_prefix("sluicefs-").unwrap();
        let moto = program(MOTO).map(|program| (OutsideServer::moto(&program).unwrap(), root()));
        let s3s_fs = program(S3S_FS).map(|program| {
            let root = root();
            (OutsideServer::s3s_fs(&program, root.path()).unwrap(), root)
        });
        let with = |(server, root), skips| Self { server, skips, runtime: runtime(), _root: root };
        let moto = moto.map(|moto| with(moto, &[Skip::Signatures][..]));
        // It ignores If-Match and lists no ETags; what a mount promises holds all the same.
        let s3s_fs = s3s_fs.map(|s3s_fs| with(s3s_fs, &[Skip::EncodedNames][..]));
        let servers: Vec<_> = [moto, s3s_fs].into_iter().flatten().collect();
        for outside in &servers {
            outside.runtime.block_on(outside.server.create_bucket(BUCKET)).unwrap();
        }
        servers
    }

    fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.runtime.block_on(self.server.put(BUCKET, key, bytes.into())).unwrap();
    }

    fn mount(&self, config: FsConfig) -> TestMount {
        self.mount_as(&self.server.client_config(), config)
    }

    fn mount_to_write(&self) -> TestMount {
        let url = BucketUrl::parse(BUCKET).unwrap();
        let bucket = self.runtime.block_on(open::open(&url, &self.server.client_config())).unwrap();
        TestMount::with(bucket, doubtful(), |config| config.read_only = false)
    }

    /// Mounts through the client that mounts use.
    fn mount_as(&self, client: &ClientConfig, config: FsConfig) -> TestMount {
        let url = BucketUrl::parse(BUCKET).unwrap();
        TestMount::new(self.runtime.block_on(open::open(&url, client)).unwrap(), config)
    }

    fn can(&self, skip: Skip) -> bool {
        !self.skips.contains(&skip)
    }
}

fn program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        println!("skipped: {variable} does not name the server's program; run this by `cargo xtask test`");
    }
    program
}

fn version(seed: u64, len: u64) -> Vec<u8> {
    pattern(seed, ByteRange::new(0, len)).to_vec()
}

#[test]
fn files_are_read_in_order_at_random_and_through_a_mapping() {
    for outside in Outside::each() {
        let model = version(7, LEN);
        outside.put("model.bin", model.clone());
        outside.put("dir/sub/small.txt", "hello");
        outside.put("dir/empty", "");
        let mount = outside.mount(FsConfig::default());
        assert!(fs::read(mount.join("model.bin")).unwrap() == model);
        assert_eq!(fs::read(mount.join("dir/sub/small.txt")).unwrap(), b"hello");
        assert_eq!(fs::read(mount.join("dir/empty")).unwrap(), b"");
        let mount = outside.mount(FsConfig::default());
        let file = File::open(mount.join("model.bin")).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (file, model) = (&file, &model);
                scope.spawn(move || {
                    for step in 0..25 {
                        let offset = (thread * 104_729 + step * 524_287) % (LEN as usize - 70_000);
                        let mut buffer = vec![0; 70_000];
                        file.read_exact_at(&mut buffer, offset as u64).unwrap();
                        assert!(buffer == model[offset..offset + 70_000], "{offset}");
                    }
                });
            }
        });
        let mount = outside.mount(FsConfig::default());
        let program = "import mmap, sys
with open(sys.argv[1], 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
    sys.stdout.buffer.write(m[:])";
        let mut command = Command::new("python3");
        command.args(["-c", program]).arg(mount.join("model.bin"));
        assert!(command.output().unwrap().stdout == model);
    }
}

#[test]
fn a_directory_of_several_pages_lists_each_name_once() {
    for outside in Outside::each() {
        let expected: Vec<String> = (0..1100).map(|n| format!("f{n:05}")).collect();
        for name in &expected {
            outside.put(&format!("d/{name}"), name.as_bytes());
        }
        outside.put("e/f", "");
        let mount = outside.mount(FsConfig::default());
        let listed: Vec<String> = fs::read_dir(mount.join("d"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(listed, expected);
        assert_eq!(fs::read_to_string(mount.join("d/f01099")).unwrap(), "f01099");
        let error = fs::metadata(mount.join("d/f01100")).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
    }
}

#[test]
fn strange_names_work() {
    let odd = [
        "plain",
        "with space",
        "question?mark=1&and#hash",
        "quote\"apostrophe'<angle>&amp;",
        "back\\slash",
        "crab-\u{1f980}",
        "e\u{301}-decomposed",
        "tilde~(parentheses)!*'",
        "colon:semicolon;comma,at@equals=",
        "plus+and%41percent%",
    ];
    for outside in Outside::each() {
        let can = |name: &&str| outside.can(Skip::EncodedNames) || !name.contains(['%', '+']);
        let names: Vec<&str> = odd.into_iter().filter(can).collect();
        for name in &names {
            outside.put(&format!("odd/{name}"), *name);
        }
        let mount = outside.mount(FsConfig::default());
        let listed: BTreeSet<String> = fs::read_dir(mount.join("odd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(listed, names.iter().map(|name| (*name).to_owned()).collect());
        for name in names {
            assert_eq!(fs::read_to_string(mount.join("odd").join(name)).unwrap(), name);
        }
    }
}

#[test]
fn a_reader_keeps_its_version_while_others_read_the_next() {
    for outside in Outside::each() {
        let (old, new) = (version(7, LEN), version(8, LEN));
        outside.put("model.bin", old.clone());
        let mount = outside.mount(FsConfig::default());
        let mut reader = File::open(mount.join("model.bin")).unwrap();
        let mut half = vec![0; LEN as usize / 2];
        reader.read_exact(&mut half).unwrap();
        outside.put("model.bin", new.clone());
        assert!(fs::read(mount.join("model.bin")).unwrap() == new);
        for at in (0..LEN).step_by(100_000) {
            let mut buffer = vec![0; 100_000];
            match reader.read_at(&mut buffer, at) {
                Ok(got) => assert!(buffer[..got] == old[at as usize..][..got], "other bytes at {at}"),
                Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::STALE), "at {at}"),
            }
        }
    }
}

#[test]
fn an_object_replaced_before_its_first_byte_is_read_in_its_new_version() {
    for outside in Outside::each() {
        for (before, after) in [(5000, 100), (100, 5000), (3_000_000, 2_000_000), (2_000_000, 3_000_000)] {
            outside.put("file", version(1, before));
            let mount = outside.mount(doubtful());
            let program = "import sys
with open(sys.argv[1], 'rb') as f:
    print('open', flush=True)
    sys.stdin.readline()
    sys.stdout.buffer.write(f.read())";
            let mut command = Command::new("python3");
            command
                .args(["-c", program])
                .arg(mount.join("file"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut reader = Program(command.spawn().unwrap());
            let mut output = reader.0.stdout.take().unwrap();
            output.read_exact(&mut [0; 5]).unwrap();
            outside.put("file", version(2, after));
            reader.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
            let mut read = Vec::new();
            output.read_to_end(&mut read).unwrap();
            assert!(read == version(2, after), "{before} -> {after}: {} bytes", read.len());
        }
    }
}

#[test]
fn a_deleted_object_is_gone() {
    for outside in Outside::each() {
        outside.put("file", "content");
        let mount = outside.mount(doubtful());
        assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content");
        outside.runtime.block_on(outside.server.delete(BUCKET, "file")).unwrap();
        let error = File::open(mount.join("file")).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOENT));
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_wrong_secret_may_not_read() {
    for outside in Outside::each().into_iter().filter(|outside| outside.can(Skip::Signatures)) {
        outside.put("file", "content");
        let mount = outside.mount_as(&outside.server.client_config_with("wrong"), FsConfig::default());
        let error = fs::read(mount.join("file")).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::ACCESS));
    }
}

#[test]
fn directories_are_made_moved_and_removed() {
    let memory = || {
        let url = BucketUrl::parse("memory:").unwrap();
        let bucket = runtime().block_on(open::open(&url, &ClientConfig::default())).unwrap();
        TestMount::with(bucket, doubtful(), |config| config.read_only = false)
    };
    let outside = Outside::each();
    let mounts = outside.iter().map(Outside::mount_to_write);
    for mount in mounts.chain([memory()]) {
        fs::create_dir(mount.join("empty")).unwrap();
        fs::rename(mount.join("empty"), mount.join("still empty")).unwrap();
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 1);
        fs::remove_dir(mount.join("still empty")).unwrap();
        fs::create_dir_all(mount.join("a/b/c")).unwrap();
        fs::write(mount.join("a/b/file"), "content").unwrap();
        fs::remove_dir(mount.join("a/b/c")).unwrap();
        fs::rename(mount.join("a"), mount.join("moved")).unwrap();
        assert_eq!(fs::read_to_string(mount.join("moved/b/file")).unwrap(), "content");
        assert!(!mount.join("a").exists());
        fs::remove_dir_all(mount.join("moved")).unwrap();
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    }
}
