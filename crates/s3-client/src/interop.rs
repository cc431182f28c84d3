//! Other crates' stores as buckets.

pub mod object_store;
