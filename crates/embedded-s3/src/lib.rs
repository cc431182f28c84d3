//! A small S3 server in the process: for the demo and for tests.
//!
//! [`MemoryBucket`]s stand behind the wire protocol of the `s3s` crate, so that neither the protocol nor the client that is tested
//! against it are this project's own. In front of it stands a layer that breaks single requests byte by byte on demand:
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! use sluicefs_embedded_s3::{EmbeddedS3, EmbeddedS3Config, Operation, Rule, WireFault, When};
//! use sluicefs_s3_client::testing::MemoryBucket;
//!
//! let models = MemoryBucket::new("models");
//! models.put("config.json", "{}");
//! let mut server = EmbeddedS3::start(EmbeddedS3Config::new([("models", models)])).await?;
//! server.faults().add(Rule::new(WireFault::Reset(1)).on(Operation::Get).when(When::First(1)));
//! // ... requests to server.endpoint_url() ...
//! assert_eq!(server.requests().of(Operation::Get), 0);
//! server.stop().await;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod names;
mod server;
mod store;
mod wire;

pub use server::{EmbeddedS3, EmbeddedS3Config, RequestRecord, Traffic, Unsigned};
pub use sluicefs_s3_client::testing::{FaultPlan, MemoryBucket, Operation, RequestCounts, Rule, When};
pub use store::crc64nvme;
pub use wire::WireFault;
