//! The file system without FUSE: over buckets in memory, with every request written down.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub, reason = "test code")]

mod acknowledged;
mod attributes;
mod changes;
mod damage;
mod directories;
mod hidden;
mod loaders;
mod lookups;
mod model;
mod open_files;
mod pinning;
mod recorder;
