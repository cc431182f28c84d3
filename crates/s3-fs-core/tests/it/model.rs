//! The tree against a reference model: random operations and changes behind the mount's back, compared after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use sluicefs_core::{DirMode, ErrorKind, FileKind, FileSystem, HandleId, InodeNo};

use crate::recorder::{Recorder, content, names, walk};

/// Few names, so that files, directories, markers and siblings collide often; `-` and `.` sort before the slash, `0` after it.
const NAMES: [&str; 6] = ["a", "a-b", "a.c", "a0", "b", ".."];

#[derive(Debug, Clone)]
enum Op {
    Put(String, u8),
    Remove(String),
    Stat(String),
    Read(String),
    Hold(String),
    List(String),
    Forget(String),
    PassTime(u64),
}

fn key() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(&NAMES[..]);
    let parts = prop::collection::vec(name(), 1..4);
    (parts, prop::bool::weighted(0.1))
        .prop_map(|(parts, marker)| parts.join("/") + if marker { "/" } else { "" })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (key(), any::<u8>()).prop_map(|(key, byte)| Op::Put(key, byte)),
        2 => key().prop_map(Op::Remove),
        3 => key().prop_map(Op::Stat),
        3 => key().prop_map(Op::Read),
        2 => key().prop_map(Op::Hold),
        2 => key().prop_map(Op::List),
        1 => key().prop_map(Op::Forget),
        1 => (0..1500u64).prop_map(Op::PassTime),
    ]
}

/// What a mount of these keys shows.
#[derive(Debug, Default)]
struct Model {
    files: BTreeMap<String, Vec<u8>>,
    directories: BTreeSet<String>,
}

impl Model {
    fn of(keys: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut model = Self::default();
        for (key, bytes) in keys {
            let mut parts: Vec<&str> = key.split('/').collect();
            let file = parts.pop().unwrap();
            // Directories above an illegal part are shown, what is below is not.
            let legal = parts.iter().position(|part| matches!(*part, "" | "." | "..")).unwrap_or(parts.len());
            for end in 1..=legal {
                model.directories.insert(parts[..end].join("/"));
            }
            if legal == parts.len() && !matches!(file, "" | "." | "..") {
                model.files.insert(key.clone(), bytes.clone());
            }
        }
        let directories = &model.directories;
        model.files.retain(|key, _| !directories.contains(key));
        model
    }

    fn names(&self, dir: &str) -> BTreeSet<String> {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let below =
            |path: &String| path.strip_prefix(&prefix).filter(|rest| !rest.contains('/')).map(str::to_owned);
        let files = self.files.keys().filter_map(below);
        let directories = self.directories.iter().filter_map(below).map(|name| name + "/");
        files.chain(directories).collect()
    }
}

/// Compares every path and directory of the model with the mount.
async fn compare(fs: &FileSystem, model: &Model) {
    for (path, bytes) in &model.files {
        let entry = walk(fs, path).await.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!((entry.attr.kind, entry.attr.size), (FileKind::File, bytes.len() as u64), "{path}");
    }
    for dir in model.directories.iter().map(String::as_str).chain([""]) {
        let ino = walk(fs, dir).await.unwrap_or_else(|e| panic!("{dir}/: {e}")).attr.ino;
        let shown = names(fs, ino, DirMode::Lookup).await.unwrap_or_else(|e| panic!("{dir}/: {e}"));
        let set: BTreeSet<String> = shown.iter().cloned().collect();
        assert_eq!(set.len(), shown.len(), "a name twice in {dir:?}");
        assert_eq!(set, model.names(dir), "in {dir:?}");
    }
}

/// What the kernel was given: it keeps pages by number, and handles that stay open.
#[derive(Debug, Default)]
struct Kernel {
    pages: BTreeMap<InodeNo, String>,
    held: Vec<(HandleId, InodeNo)>,
}

impl Kernel {
    /// Reads through `handle`, and notes what came.
    async fn read(
        &mut self,
        fs: &FileSystem,
        handle: HandleId,
        ino: InodeNo,
    ) -> sluicefs_core::Result<String> {
        let read = content(fs, handle).await?;
        let page = self.pages.entry(ino).or_insert_with(|| read.clone());
        assert_eq!(*page, read, "two versions under the number {ino:?}");
        Ok(read)
    }

    /// Handles that were opened long ago read what they read first, or nothing.
    async fn read_held(&mut self, fs: &FileSystem) {
        for (handle, ino) in self.held.clone() {
            if let Err(error) = self.read(fs, handle, ino).await {
                assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
            }
        }
    }

    fn forget(&mut self, fs: &FileSystem, ino: InodeNo) {
        if ino != InodeNo::ROOT && self.held.iter().all(|(_, held)| *held != ino) {
            self.pages.remove(&ino);
            fs.forget(ino, 1_000_000);
        }
    }
}

async fn step(
    fs: &FileSystem,
    bucket: &Recorder,
    (keys, kernel): (&mut BTreeMap<String, Vec<u8>>, &mut Kernel),
    op: &Op,
) {
    let settle = || tokio::time::advance(Duration::from_secs(2));
    match op {
        Op::Put(key, byte) => {
            let bytes = vec![*byte; usize::from(*byte) + 1];
            bucket.store.put(key, bytes.clone());
            keys.insert(key.clone(), bytes);
            settle().await;
        }
        Op::Remove(key) => {
            bucket.store.remove(key);
            keys.remove(key);
            settle().await;
        }
        Op::PassTime(ms) => tokio::time::advance(Duration::from_millis(*ms)).await,
        Op::Stat(path) => check_stat(fs, &Model::of(keys), path.trim_end_matches('/')).await,
        Op::Read(path) => {
            if let Some((handle, _)) =
                check_read(fs, &Model::of(keys), kernel, path.trim_end_matches('/')).await
            {
                fs.release(handle);
            }
        }
        Op::Hold(path) => {
            let opened = check_read(fs, &Model::of(keys), kernel, path.trim_end_matches('/')).await;
            kernel.held.extend(opened);
        }
        Op::List(path) => {
            let model = Model::of(keys);
            let path = path.trim_end_matches('/');
            if model.directories.contains(path) {
                let ino = walk(fs, path).await.unwrap().attr.ino;
                let shown: BTreeSet<String> =
                    names(fs, ino, DirMode::Names).await.unwrap().into_iter().collect();
                assert_eq!(shown, model.names(path), "in {path:?}");
            }
        }
        Op::Forget(path) => {
            if let Ok(entry) = walk(fs, path.trim_end_matches('/')).await {
                kernel.forget(fs, entry.attr.ino);
            }
        }
    }
}

async fn check_stat(fs: &FileSystem, model: &Model, path: &str) {
    match walk(fs, path).await {
        Ok(entry) if entry.attr.kind == FileKind::File => {
            assert_eq!(
                model.files.get(path).map(|bytes| bytes.len() as u64),
                Some(entry.attr.size),
                "{path}"
            );
        }
        Ok(_) => assert!(model.directories.contains(path), "{path} should be no directory"),
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory), "{path}: {e}");
            assert!(!model.files.contains_key(path) && !model.directories.contains(path), "{path}: {e}");
        }
    }
}

/// Opens a file and reads it; the handle, still open, if there is such a file.
async fn check_read(
    fs: &FileSystem,
    model: &Model,
    kernel: &mut Kernel,
    path: &str,
) -> Option<(HandleId, InodeNo)> {
    let expected = model.files.get(path)?;
    let mut ino = walk(fs, path).await.unwrap().attr.ino;
    let opened = match fs.open(ino).await {
        Err(error) if error.kind() == ErrorKind::Stale => {
            // As the kernel does.
            ino = walk(fs, path).await.unwrap().attr.ino;
            fs.open(ino).await
        }
        opened => opened,
    };
    let handle = opened.unwrap().handle;
    let read = kernel.read(fs, handle, ino).await.unwrap();
    assert_eq!(read.as_bytes(), String::from_utf8_lossy(expected).as_bytes(), "{path}");
    Some((handle, ino))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_shows_what_the_keys_say(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bucket = Recorder::new(&[]);
            let fs = bucket.mount();
            let (mut keys, mut kernel) = (BTreeMap::new(), Kernel::default());
            for op in &ops {
                step(&fs, &bucket, (&mut keys, &mut kernel), op).await;
                compare(&fs, &Model::of(&keys)).await;
                kernel.read_held(&fs).await;
            }
        });
    }
}
