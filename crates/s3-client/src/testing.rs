//! Buckets and checks for tests: a bucket in memory, one that fails on demand, and the contract every bucket keeps.

pub mod memory;

pub use memory::{Content, MemoryBucket};
