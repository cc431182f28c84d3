//! Buckets and checks for tests: a bucket in memory, one that fails on demand, and the contract every bucket keeps.

pub mod contract;
pub mod fault;
pub mod memory;
pub mod plan;

pub use fault::{Fault, FaultBucket};
pub use memory::{Content, MemoryBucket};
pub use plan::{FaultPlan, Operation, RequestCounts, Rule, When};
