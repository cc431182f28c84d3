//! That the short way sends what the SDK would send, and is left where it would not.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::aws::get::Reply;
use crate::aws::{AwsBucket, Session};
use crate::config::{AddressingStyle, ClientConfig, CredentialSource, Secret, SseCustomerKey, StaticKeys};

/// 2026-01-02T03:04:05Z
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

fn config(session_token: Option<&str>) -> ClientConfig {
    let keys = StaticKeys {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: Secret::new("secret"),
        session_token: session_token.map(Secret::new),
    };
    ClientConfig {
        region: Some("eu-west-1".to_owned()),
        credentials: CredentialSource::Static(keys),
        ..ClientConfig::default()
    }
}

/// A bucket and what its requests are sent with. Nothing is sent.
struct Fixture {
    bucket: AwsBucket,
    session: Session,
}

impl Fixture {
    async fn new(name: &str, config: &ClientConfig) -> Self {
        let bucket = AwsBucket::connect(name, config).await.unwrap();
        let credentials = match &bucket.credentials {
            Some(cache) => Some(cache.get().await.unwrap()),
            None => None,
        };
        let session = Session::new(&bucket.connection.load_full(), credentials);
        Self { bucket, session }
    }

    async fn learn_get(&self) -> Option<&Lean<GetObject>> {
        self.bucket.lean_get(&self.session).await
    }

    async fn learn_head(&self) -> Option<&Lean<HeadObject>> {
        self.bucket.lean_head(&self.session).await
    }

    async fn sdks_get(&self, wanted: &Wanted<'_>) -> HttpRequest {
        let call = self.bucket.sdk_get(&self.session, wanted);
        let call = call.customize().interceptor(Reply::new(wanted.checksum));
        self.sdks(|settings| async { drop(call.config_override(settings).send().await) }).await
    }

    async fn sdks_head(&self, wanted: &Wanted<'_>) -> HttpRequest {
        let call = self.bucket.sdk_head(&self.session, wanted).customize();
        self.sdks(|settings| async { drop(call.config_override(settings).send().await) }).await
    }

    async fn sdks<F: Future<Output = ()>>(&self, call: impl FnOnce(config::Builder) -> F) -> HttpRequest {
        let seen = record(&self.bucket.template.http, self.session.keys(), now(), call).await;
        seen.expect("the SDK can put this request together").0
    }
}

#[tokio::test]
async fn every_way_to_address_and_pay_for_a_bucket_is_learnt() {
    let endpoint = |url: &str| ClientConfig { endpoint_url: Some(url.to_owned()), ..config(None) };
    for (name, config) in [
        ("bucket", config(None)),
        ("bucket", config(Some("token"))),
        ("bucket", ClientConfig { credentials: CredentialSource::Anonymous, ..config(None) }),
        ("bucket.with.dots", config(None)),
        ("bucket", ClientConfig { addressing: AddressingStyle::Path, ..config(None) }),
        ("bucket", ClientConfig { dual_stack: true, ..config(None) }),
        ("bucket", ClientConfig { transfer_acceleration: true, ..config(None) }),
        ("bucket", endpoint("http://127.0.0.1:9000")),
        ("bucket", endpoint("https://minio.example.com/behind/a/path")),
        ("bucket", ClientConfig { requester_pays: true, ..config(None) }),
        ("bucket", ClientConfig { expected_bucket_owner: Some("123456789012".to_owned()), ..config(None) }),
        ("bucket", ClientConfig { sse_customer_key: Some(SseCustomerKey::new([7; 32])), ..config(None) }),
        ("arn:aws:s3:us-west-2:123456789012:accesspoint/models", config(None)),
    ] {
        let fixture = Fixture::new(name, &config).await;
        assert!(fixture.learn_get().await.is_some(), "GET from {name} with {config:?}");
        assert!(fixture.learn_head().await.is_some(), "HEAD from {name} with {config:?}");
    }
}

#[tokio::test]
async fn what_is_signed_in_another_way_is_left_to_the_sdk() {
    for name in [
        // Signed with a session of the bucket's own.
        "models--euw1-az1--x-s3",
        // Signed with SigV4A.
        "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap",
    ] {
        let fixture = Fixture::new(name, &config(None)).await;
        assert!(fixture.learn_get().await.is_none(), "GET from {name}");
        assert!(fixture.learn_head().await.is_none(), "HEAD from {name}");
    }
}

#[tokio::test]
async fn requests_are_the_sdks_to_the_last_byte() {
    let config = ClientConfig {
        requester_pays: true,
        sse_customer_key: Some(SseCustomerKey::new([7; 32])),
        ..config(Some("token"))
    };
    let fixture = Fixture::new("bucket", &config).await;
    let (get, head) = (fixture.learn_get().await.unwrap(), fixture.learn_head().await.unwrap());
    let check = |ours: HttpRequest, sdks: HttpRequest| {
        assert!(is_same(&ours, &sdks), "{ours:?}\n{sdks:?}");
    };
    let every_ascii: String = (1..=127).map(char::from).collect();
    for key in
        ["k", "a/b", "/a", "//", ".", "..", "a/../b", "a//b/", "\u{1f600}/\u{e9}", "%2F%", &every_ascii]
    {
        let plain = Wanted::new(key);
        let ranged = Wanted { range: Some("bytes=0-131071".to_owned()), ..Wanted::new(key) };
        let if_match = Some("\"abc-3\"".to_owned());
        let checked = Wanted { if_match, checksum: ChecksumMode::Ask, ..Wanted::new(key) };
        for wanted in [&plain, &ranged, &checked] {
            let ours = get.pattern.request("GET", wanted, fixture.session.keys(), now()).unwrap();
            check(ours, fixture.sdks_get(wanted).await);
        }
        for wanted in [&plain, &checked] {
            let ours = head.pattern.request("HEAD", wanted, fixture.session.keys(), now()).unwrap();
            check(ours, fixture.sdks_head(wanted).await);
        }
    }
}

#[tokio::test]
async fn secrets_stay_out_of_debug_output() {
    let config = ClientConfig { sse_customer_key: Some(SseCustomerKey::new([7; 32])), ..config(None) };
    let fixture = Fixture::new("bucket", &config).await;
    let lean = fixture.learn_get().await.unwrap();
    let request = lean.pattern.request("GET", &Wanted::new("k"), fixture.session.keys(), now()).unwrap();
    assert!(request.headers().contains_key("x-amz-server-side-encryption-customer-key"));
    let key = SseCustomerKey::new([7; 32]).to_base64();
    assert!(!format!("{lean:?}").contains(&key), "{lean:?}");
}

#[test]
fn scopes_are_read_from_signatures() {
    let scope = |text: &str| Scope::of(text).map(|scope| (scope.region, scope.service));
    let found = Some(("eu-west-1".to_owned(), "s3".to_owned()));
    assert_eq!(
        scope(
            "AWS4-HMAC-SHA256 Credential=AKID/20260102/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        ),
        found
    );
    assert_eq!(scope("AWS4-HMAC-SHA256 Credential=A/K/20260102/eu-west-1/s3/aws4_request, S=0"), found);
    assert_eq!(scope("AWS4-ECDSA-P256-SHA256 Credential=AKID/20260102/s3/aws4_request, S=0"), None);
    assert_eq!(scope("Basic Zm9v"), None);
}
