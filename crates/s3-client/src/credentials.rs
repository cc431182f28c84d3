//! Who signs: the chain of credential sources, and a cache that can be told that its credentials no longer work.
//!
//! The SDK's own cache knows only the printed expiry; a token that was revoked or rotated early would fail until then. Here
//! [`CredentialCache::invalidate`] drops what the server refused, renewal begins five minutes before the expiry, and only one request at
//! a time asks the sources. Which source answered is logged, secrets never are.

mod chain;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_async::time::SharedTimeSource;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::error::{Error, ErrorKind, Result};

pub(crate) use chain::default_chain;

/// Renew this long before the expiry, so that no request is signed with a token that dies on the way.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// After a renewal, whether it failed or brought the same, use what still works for this long before the next try: a metadata service
/// hands out old credentials until shortly before their end.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// The expiry is kept away from by this much: clocks differ, requests wait in queues.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// Credentials and the name of the source that gave them.
pub(crate) type Found = (Credentials, &'static str);

/// Asks the sources anew. Every call reads files and tokens again: they are rotated underneath a mount.
pub(crate) type Load = Box<dyn Fn() -> BoxFuture<'static, Result<Found, CredentialsError>> + Send + Sync>;

/// Credentials in use.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) credentials: Credentials,
    source: &'static str,
    generation: u64,
}

/// The credentials of one bucket, renewed in time.
pub(crate) struct CredentialCache {
    load: Load,
    time: SharedTimeSource,
    current: ArcSwapOption<Held>,
    generation: AtomicU64,
    pause_until: Mutex<Option<SystemTime>>,
    /// One permit: the right to ask the sources.
    turn: Semaphore,
}

#[derive(Debug, PartialEq, Eq)]
enum Freshness {
    Fresh,
    /// Still works, should be renewed.
    Aging,
    Expired,
}

/// Judges credentials that expire at `expiry` (`None`: never).
fn freshness(expiry: Option<SystemTime>, now: SystemTime) -> Freshness {
    let left = match expiry.map(|expiry| expiry.duration_since(now)) {
        None => return Freshness::Fresh,
        Some(Err(_)) => return Freshness::Expired,
        Some(Ok(left)) => left,
    };
    match left {
        _ if left <= EXPIRY_MARGIN => Freshness::Expired,
        _ if left <= RENEW_BEFORE => Freshness::Aging,
        _ => Freshness::Fresh,
    }
}

impl CredentialCache {
    /// A cache that has asked nobody yet.
    pub(crate) fn new(load: Load, time: SharedTimeSource) -> Self {
        Self {
            load,
            time,
            current: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            pause_until: Mutex::new(None),
            turn: Semaphore::new(1),
        }
    }

    /// A cache of keys that the caller gave.
    pub(crate) fn of_keys(credentials: Credentials, time: SharedTimeSource) -> Self {
        Self::new(
            Box::new(move || {
                let credentials = credentials.clone();
                Box::pin(async move { Ok((credentials, "given keys")) })
            }),
            time,
        )
    }

    /// Credentials that should work now.
    ///
    /// Cancel-safe: whoever waits next goes on asking.
    ///
    /// # Errors
    /// `NoCredentials` if no source has any; `Transient` if a source that should have some failed.
    pub(crate) async fn get(&self) -> Result<Arc<Held>> {
        let now = self.time.now();
        if let Some(held) = self.current.load_full() {
            match freshness(held.credentials.expiry(), now) {
                Freshness::Fresh => return Ok(held),
                Freshness::Aging => return Ok(self.renew_early(held, now).await),
                Freshness::Expired => {}
            }
        }
        let _turn = self.turn.acquire().await.expect("the semaphore is never closed");
        // Whoever had the turn before may have found some.
        if let Some(held) = self.current.load_full()
            && freshness(held.credentials.expiry(), now) != Freshness::Expired
        {
            return Ok(held);
        }
        self.ask().await.map_err(to_error)
    }

    /// Drops credentials that the server refused, unless newer ones are here already.
    pub(crate) fn invalidate(&self, refused: &Arc<Held>) {
        let current = self.current.load();
        if current.as_ref().is_some_and(|held| held.generation == refused.generation) {
            self.current.store(None);
        }
    }

    async fn renew_early(&self, held: Arc<Held>, now: SystemTime) -> Arc<Held> {
        if self.pause_until.lock().is_some_and(|until| now < until) {
            return held;
        }
        let Ok(_turn) = self.turn.try_acquire() else { return held };
        match self.ask().await {
            Ok(renewed) => renewed,
            Err(error) => {
                tracing::warn!(error = %chain::explain(&error), source = held.source, "credentials could not be renewed, the old ones still work");
                held
            }
        }
    }

    /// Asks the sources; the caller has the turn.
    async fn ask(&self) -> Result<Arc<Held>, CredentialsError> {
        *self.pause_until.lock() = Some(self.time.now() + RENEWAL_PAUSE);
        let (credentials, source) = (self.load)().await?;
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        if generation == 1 {
            tracing::info!(source, expires = credentials.expiry().is_some(), "found credentials");
        } else {
            tracing::debug!(source, generation, "renewed credentials");
        }
        let held = Arc::new(Held { credentials, source, generation });
        self.current.store(Some(Arc::clone(&held)));
        Ok(held)
    }
}

impl ProvideCredentials for CredentialCache {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            match self.get().await {
                Ok(held) => Ok(held.credentials.clone()),
                Err(error) => Err(CredentialsError::provider_error(error)),
            }
        })
    }
}

impl fmt::Debug for CredentialCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        f.debug_struct("CredentialCache")
            .field("source", &current.as_ref().map(|held| held.source))
            .finish_non_exhaustive()
    }
}

fn to_error(error: CredentialsError) -> Error {
    let text = chain::explain(&error);
    let (kind, message) = match &error {
        CredentialsError::CredentialsNotLoaded(_) => (
            ErrorKind::NoCredentials,
            format!(
                "no credentials found ({text}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile, or read a public bucket unsigned (--no-sign-request)"
            ),
        ),
        CredentialsError::InvalidConfiguration(_) => {
            (ErrorKind::NoCredentials, format!("the configured credentials cannot be used: {text}"))
        }
        _ => (ErrorKind::Transient, format!("a source of credentials failed: {text}")),
    };
    Error::new(kind, "credentials").with_message(message).with_source(error)
}

#[cfg(test)]
mod tests;
