//! Buckets and checks for tests: a bucket in memory, one that fails on demand, the contract every bucket keeps, and servers of others.

pub mod body;
pub mod contract;
pub mod fault;
pub mod memory;
pub mod outside;
pub mod plan;

pub use fault::{Fault, FaultBucket};
pub use memory::{Content, MemoryBucket};
pub use outside::OutsideServer;
pub use plan::{FaultPlan, Operation, RequestCounts, Rule, When};
