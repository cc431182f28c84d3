//! That the short way sends what the SDK would send, and is left where it would not.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
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

    fn credentials(&self) -> Option<&Credentials> {
        self.session.credentials.as_ref().map(|held| &held.credentials)
    }

    async fn learn(&self) -> Option<LeanGet> {
        let http = &self.bucket.template.http;
        let made_up = |wanted: &Wanted<'_>| self.bucket.sdk_get(&self.session, wanted);
        LeanGet::learn(http, self.credentials(), now(), made_up).await
    }

    async fn sdks_request(&self, wanted: &Wanted<'_>) -> HttpRequest {
        let call = self.bucket.sdk_get(&self.session, wanted);
        let seen = record(&self.bucket.template.http, self.credentials(), now(), call, wanted.mode).await;
        seen.expect("the SDK can put this request together").0
    }
}

fn wanted(key: &str) -> Wanted<'_> {
    Wanted { key, range: None, if_match: None, mode: ChecksumMode::Omit }
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
        let learnt = Fixture::new(name, &config).await.learn().await;
        assert!(learnt.is_some(), "{name} with {config:?}");
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
        assert!(Fixture::new(name, &config(None)).await.learn().await.is_none(), "{name}");
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
    let lean = fixture.learn().await.unwrap();
    let every_ascii: String = (1..=127).map(char::from).collect();
    for key in
        ["k", "a/b", "/a", "//", ".", "..", "a/../b", "a//b/", "\u{1f600}/\u{e9}", "%2F%", &every_ascii]
    {
        for wanted in [
            wanted(key),
            Wanted { range: Some("bytes=0-131071".to_owned()), ..wanted(key) },
            Wanted { if_match: Some("\"abc-3\"".to_owned()), mode: ChecksumMode::Ask, ..wanted(key) },
        ] {
            let ours = lean.pattern.request(&wanted, fixture.credentials(), now()).unwrap();
            let sdks = fixture.sdks_request(&wanted).await;
            assert!(
                is_same(&ours, &sdks),
                "{:?} {:?}\n{:?} {:?}",
                ours.uri(),
                ours.headers(),
                sdks.uri(),
                sdks.headers()
            );
        }
    }
}

#[tokio::test]
async fn secrets_stay_out_of_debug_output() {
    let config = ClientConfig { sse_customer_key: Some(SseCustomerKey::new([7; 32])), ..config(None) };
    let fixture = Fixture::new("bucket", &config).await;
    let lean = fixture.learn().await.unwrap();
    let request = lean.pattern.request(&wanted("k"), fixture.credentials(), now()).unwrap();
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
