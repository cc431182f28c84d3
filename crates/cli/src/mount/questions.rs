//! What a mount answers at its admin socket.

use std::io;
use std::sync::Arc;

use serde_json::{Value, json};
use sluicefs_core::FileSystem;

use crate::admin::{Answers, Progress};
use crate::snapshot::Snapshots;

/// How a mount is.
pub(crate) const STATUS: &str = "status";
/// That it asks the store anew for all that it knows.
pub(crate) const REFRESH: &str = "refresh";

/// A mount that can be asked.
#[derive(Debug)]
pub(super) struct Questions {
    pub(super) fs: Arc<FileSystem>,
    pub(super) snapshots: Snapshots,
}

impl Answers for Questions {
    async fn answer(&self, question: &Value, _progress: &mut Progress) -> io::Result<Value> {
        Ok(match question["ask"].as_str() {
            Some(STATUS) => self.snapshots.status(),
            Some(REFRESH) => self.refresh().await,
            _ => {
                json!({ "error": format!("{} is not known to this mount, which is of version {}", question["ask"], env!("CARGO_PKG_VERSION")) })
            }
        })
    }
}

impl Questions {
    async fn refresh(&self) -> Value {
        let refreshed = self.fs.refresh().await;
        tracing::info!(?refreshed, "names and versions are asked for anew");
        json!({ "released": refreshed.released, "names": refreshed.names, "untold": refreshed.untold })
    }
}
