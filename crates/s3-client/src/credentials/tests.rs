//! The cache against sources that count, and the chain's order.

use std::sync::atomic::AtomicU32;
use std::time::UNIX_EPOCH;

use aws_smithy_async::time::TimeSource;

use super::chain::{Link, first_of};
use super::*;

/// A clock that tests set, in seconds since the epoch.
#[derive(Debug, Clone, Default)]
struct SetClock(Arc<AtomicU64>);

impl TimeSource for SetClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

struct Fixture {
    cache: Arc<CredentialCache>,
    clock: SetClock,
    asked: Arc<AtomicU32>,
    fail: Arc<Mutex<Option<&'static str>>>,
}

/// A source whose credentials live an hour from when they are asked for.
fn fixture() -> Fixture {
    fixture_of(3600)
}

/// A source whose credentials live so many seconds from when they are asked for.
fn fixture_of(life_secs: u64) -> Fixture {
    let (clock, asked) = (SetClock::default(), Arc::new(AtomicU32::new(0)));
    let fail: Arc<Mutex<Option<&'static str>>> = Arc::default();
    let load: Load = {
        let (clock, asked, fail) = (clock.clone(), Arc::clone(&asked), Arc::clone(&fail));
        Box::new(move || {
            let n = asked.fetch_add(1, Ordering::Relaxed) + 1;
            let (expiry, fail) = (clock.now() + Duration::from_secs(life_secs), *fail.lock());
            Box::pin(async move {
                tokio::task::yield_now().await;
                match fail {
                    Some(reason) => Err(CredentialsError::provider_error(reason)),
                    None => Ok((Credentials::new(format!("AK{n}"), "s", None, Some(expiry), "test"), "test")),
                }
            })
        })
    };
    let cache = Arc::new(CredentialCache::new(load, SharedTimeSource::new(clock.clone())));
    Fixture { cache, clock, asked, fail }
}

impl Fixture {
    async fn key(&self) -> String {
        self.cache.get().await.unwrap().credentials.access_key_id().to_owned()
    }

    fn at(&self, secs: u64) {
        self.clock.0.store(secs, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn asks_once_until_renewal_is_due() {
    let f = fixture();
    assert_eq!(f.key().await, "AK1");
    f.at(3600 - 301);
    assert_eq!(f.key().await, "AK1");
    f.at(3600 - 300);
    assert_eq!(f.key().await, "AK2");
}

#[tokio::test]
async fn a_failed_renewal_keeps_what_still_works_and_pauses() {
    let f = fixture();
    f.key().await;
    *f.fail.lock() = Some("STS is down");
    f.at(3400);
    assert_eq!(f.key().await, "AK1");
    assert_eq!(f.key().await, "AK1");
    assert_eq!(f.asked.load(Ordering::Relaxed), 2, "one try, then a pause");
    f.at(3411);
    assert_eq!(f.key().await, "AK1");
    assert_eq!(f.asked.load(Ordering::Relaxed), 3);
    f.at(3595);
    let error = f.cache.get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("STS is down"), "{error}");
}

#[tokio::test]
async fn credentials_that_are_born_old_are_not_asked_for_with_each_request() {
    let f = fixture_of(60);
    for _ in 0..10 {
        assert_eq!(f.key().await, "AK1");
    }
    f.at(9);
    assert_eq!(f.key().await, "AK1");
    f.at(10);
    assert_eq!(f.key().await, "AK2");
    assert_eq!(f.key().await, "AK2");
}

#[tokio::test]
async fn many_callers_ask_the_sources_once() {
    let f = fixture();
    let keys = futures::future::join_all((0..20).map(|_| f.key())).await;
    assert!(keys.iter().all(|k| k == "AK1"), "{keys:?}");
    let held = f.cache.get().await.unwrap();
    // Twenty requests were refused with the same credentials; only the first report counts.
    for _ in 0..20 {
        f.cache.invalidate(&held);
    }
    let keys = futures::future::join_all((0..20).map(|_| f.key())).await;
    assert!(keys.iter().all(|k| k == "AK2"), "{keys:?}");
    f.cache.invalidate(&held);
    assert_eq!(f.key().await, "AK2", "a late report does not drop newer credentials");
}

#[derive(Debug)]
struct Answer(Result<&'static str, fn() -> CredentialsError>);

impl ProvideCredentials for Answer {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(match &self.0 {
            Ok(key) => Ok(Credentials::new(*key, "s", None, None, "test")),
            Err(make) => Err(make()),
        })
    }
}

#[derive(Debug)]
struct Silent;

impl ProvideCredentials for Silent {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(futures::future::pending())
    }
}

fn link(name: &'static str, provider: impl ProvideCredentials + 'static) -> Link {
    Link { name, provider: Box::new(provider), limit: Duration::from_secs(2) }
}

#[tokio::test]
async fn the_first_source_that_is_set_up_wins() {
    let unset: fn() -> CredentialsError = || CredentialsError::not_loaded("not set");
    let links = [
        link("environment", Answer(Err(unset))),
        link("profile", Answer(Ok("AKP"))),
        link("container", Answer(Ok("AKC"))),
    ];
    let (credentials, source) = first_of(&links).await.unwrap();
    assert_eq!((credentials.access_key_id(), source), ("AKP", "profile"));
}

#[tokio::test]
async fn a_source_that_fails_is_not_skipped() {
    let broken: fn() -> CredentialsError = || CredentialsError::provider_error("HTTP 500 from STS");
    let links = [link("web identity token", Answer(Err(broken))), link("container", Answer(Ok("AKC")))];
    let error = to_error(first_of(&links).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("web identity token: HTTP 500 from STS"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn silence_of_instance_metadata_means_no_credentials_within_its_limit() {
    let unset: fn() -> CredentialsError = || CredentialsError::not_loaded("not set");
    let start = tokio::time::Instant::now();
    let error = to_error(
        first_of(&[link("environment", Answer(Err(unset))), link("instance metadata", Silent)])
            .await
            .unwrap_err(),
    );
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    assert_eq!(error.kind(), ErrorKind::NoCredentials);
    let text = error.to_string();
    assert!(text.contains("environment: not set; instance metadata: no answer in 2s"), "{text}");
    assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
}

#[test]
fn freshness_is_judged_by_what_is_left() {
    let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
    for (expiry, now, expected) in [
        (None, 0, Freshness::Fresh),
        (Some(1000), 0, Freshness::Fresh),
        (Some(1000), 699, Freshness::Fresh),
        (Some(1000), 700, Freshness::Aging),
        (Some(1000), 989, Freshness::Aging),
        (Some(1000), 990, Freshness::Expired),
        (Some(1000), 2000, Freshness::Expired),
    ] {
        assert_eq!(freshness(expiry.map(at), at(now)), expected, "{expiry:?} at {now}");
    }
}
