//! Lists a directory of a bucket and reads the beginning of a file in it, without mounting anything.
//!
//! ```text
//! cargo run -p sluicefs-core --example read_bucket -- file:///usr/share/doc bash/copyright
//! cargo run -p sluicefs-core --example read_bucket -- s3://my-bucket/models llama/config.json
//! ```
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "an example prints what it found and reads its arguments"
)]

use std::error::Error;

use sluicefs_core::{DirMode, FileKind, FileSystem, FsConfig, InodeNo};
use sluicefs_s3_client::open::{BucketUrl, open_checked};
use sluicefs_s3_client::{ByteRange, ClientConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(path)) = (args.next(), args.next()) else {
        return Err("usage: read_bucket <s3://bucket/prefix | file:///dir> <path of a file in it>".into());
    };

    // A bucket with retries, resumed bodies and checked answers; credentials and region are found as the AWS tools do.
    let url = BucketUrl::parse(&url)?;
    let bucket = open_checked(&url, &ClientConfig::default()).await?;

    // The bucket as a tree of files, with read-ahead in at most 64 MiB of memory.
    let mut config = FsConfig { prefix: url.prefix.clone(), ..FsConfig::default() };
    config.read.memory_limit_bytes = 64 << 20;
    let fs = FileSystem::new(bucket, config)?;

    // Down to the directory of the file, listing it on the way.
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let mut ino = InodeNo::ROOT;
    for part in directory.split('/').filter(|part| !part.is_empty()) {
        ino = fs.lookup(ino, part).await?.attr.ino;
    }
    print_directory(&fs, ino).await?;

    let file = fs.lookup(ino, name).await?;
    let opened = fs.open(file.attr.ino).await?;
    let data = fs.read(opened.handle, ByteRange::new(0, 4096)).await?;
    println!("{path}: {} bytes, the first {} of them:", file.attr.size, data.len());
    for slice in data.slices() {
        print!("{}", String::from_utf8_lossy(slice));
    }
    fs.release(opened.handle);
    Ok(())
}

async fn print_directory(fs: &FileSystem, ino: InodeNo) -> Result<(), Box<dyn Error>> {
    let handle = fs.open_dir(ino).await?;
    let mut offset = 0;
    loop {
        let before = offset;
        // Each call gives what is there without waiting for the rest; it takes several to come to the end.
        fs.read_dir(handle, offset, DirMode::Names, &mut |entry| {
            let slash = if entry.entry.attr.kind == FileKind::Directory { "/" } else { "" };
            println!("  {}{slash}", entry.name);
            offset = entry.next_offset;
            true
        })
        .await?;
        if offset == before {
            break;
        }
    }
    fs.release_dir(handle);
    Ok(())
}
