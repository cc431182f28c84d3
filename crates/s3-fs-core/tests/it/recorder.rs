//! A bucket that writes down what it was asked, and a file system over it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluicefs_core::{DirMode, Entry, FileKind, FileSystem, FsConfig, HandleId, InodeNo, Ttl};
use sluicefs_s3_client::testing::MemoryBucket;
use sluicefs_s3_client::{
    Bucket, BucketIdentity, BucketTraits, ByteRange, GetReply, GetRequest, ListPage, ListRequest, ObjectHead,
    ObjectKey, PutRequest, Result, Written,
};

/// How long an answer takes, in paused time.
pub const LATENCY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone)]
pub struct Recorder {
    pub store: MemoryBucket,
    requests: Arc<Mutex<Vec<String>>>,
    traits: BucketTraits,
}

impl Recorder {
    pub fn new(keys: &[&str]) -> Self {
        let store = MemoryBucket::new("b");
        for key in keys {
            store.put(key, key.as_bytes().to_vec());
        }
        Self { store, requests: Arc::default(), traits: BucketTraits::default() }
    }

    /// The requests since the last call, such as `list d/` and `get d/a`.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock())
    }

    pub fn mount(&self) -> Arc<FileSystem> {
        self.mount_with(FsConfig::default())
    }

    pub fn mount_with(&self, config: FsConfig) -> Arc<FileSystem> {
        FileSystem::new(Arc::new(self.clone()), config).unwrap()
    }

    async fn note(&self, request: String) {
        self.requests.lock().push(request);
        tokio::time::sleep(LATENCY).await;
    }
}

#[async_trait]
impl Bucket for Recorder {
    fn identity(&self) -> &BucketIdentity {
        self.store.identity()
    }
    fn traits(&self) -> BucketTraits {
        self.traits
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        self.note(format!("head {key}")).await;
        self.store.head(key).await
    }
    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        self.note(format!("get {}", request.key)).await;
        self.store.get(request).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.requests.lock().push(format!("delete {key}"));
        self.store.delete(key).await
    }
    // At once, so that it overtakes what was asked before.
    async fn put(&self, request: PutRequest) -> Result<Written> {
        self.requests.lock().push(format!("put {}", request.key));
        Bucket::put(&self.store, request).await
    }
    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        // What the store tells is what it had when it was asked.
        let page = self.store.list(request.clone()).await;
        self.note(format!("list {}", request.prefix)).await;
        page
    }
}

pub fn ttl(millis: u64) -> FsConfig {
    let ttl = Ttl::For(Duration::from_millis(millis));
    FsConfig { metadata_ttl: ttl, negative_ttl: ttl, ..FsConfig::default() }
}

/// Looks a path up, name by name.
pub async fn walk(fs: &FileSystem, path: &str) -> sluicefs_core::Result<Entry> {
    let mut entry = fs.getattr(InodeNo::ROOT).await?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        entry = fs.lookup(entry.attr.ino, name).await?;
    }
    Ok(entry)
}

/// The names in a directory, directories with a slash, without the dots.
pub async fn names(fs: &FileSystem, dir: InodeNo, mode: DirMode) -> sluicefs_core::Result<Vec<String>> {
    let handle = fs.open_dir(dir).await?;
    let names = read_names(fs, handle, 0, mode, usize::MAX).await;
    fs.release_dir(handle);
    Ok(names?.into_iter().map(|(name, _)| name).filter(|name| name != "./" && name != "../").collect())
}

/// Up to `limit` names from `offset` on, each with the offset after it.
pub async fn read_names(
    fs: &FileSystem,
    handle: HandleId,
    mut offset: u64,
    mode: DirMode,
    limit: usize,
) -> sluicefs_core::Result<Vec<(String, u64)>> {
    let mut names = Vec::new();
    loop {
        let before = names.len();
        fs.read_dir(handle, offset, mode, &mut |entry| {
            if names.len() == limit {
                return false;
            }
            let slash = if entry.entry.attr.kind == FileKind::Directory { "/" } else { "" };
            names.push((format!("{}{slash}", entry.name), entry.next_offset));
            true
        })
        .await?;
        if names.len() == before || names.len() == limit {
            return Ok(names);
        }
        offset = names.last().unwrap().1;
    }
}

/// The whole content of an open file.
pub async fn content(fs: &FileSystem, handle: HandleId) -> sluicefs_core::Result<String> {
    let data = fs.read(handle, ByteRange::new(0, 1 << 20)).await?;
    Ok(data.slices().map(|slice| String::from_utf8_lossy(slice).into_owned()).collect())
}
