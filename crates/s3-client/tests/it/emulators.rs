//! Temporary credentials end to end: the services that hand them out, as canned servers that check what they are asked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use sluicefs_s3_client::config::{Secret, StaticKeys};
use sluicefs_s3_client::{AwsBucket, Bucket, ClientConfig, CredentialSource, GetRequest, ObjectKey};

use crate::canned::{Canned, Reply, Request, Transport, error, reply};
use crate::default_chain::{BUCKET, NO_IMDS, PAGE, home, run, s3, signers};
use crate::tls::Authority;

/// An hour from now, as XML and JSON have it.
fn in_an_hour() -> String {
    from_now(Duration::from_secs(3600))
}

/// So near that it is time to renew, and far enough that the credentials still work.
fn in_a_minute() -> String {
    from_now(Duration::from_secs(60))
}

fn from_now(time: Duration) -> String {
    DateTime::from(SystemTime::now() + time).fmt(Format::DateTime).unwrap()
}

/// The value of a field of a form or a query, decoded as far as these tests need it.
fn field(form: &str, name: &str) -> Option<String> {
    let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.replace("%3A", ":").replace("%2F", "/"))
}

const ROLE: &str = "arn:aws:iam::123456789012:role/reader";

/// STS: gives `AK<n>` for the n-th question with the token in `token_file`, and then rotates that token, as a kubelet does.
async fn sts(token_file: &Path, expiry: fn() -> String) -> Canned {
    let (served, token_file) = (AtomicU32::new(0), token_file.to_owned());
    Canned::start(move |request| {
        let asked = |name| field(&request.body, name);
        assert_eq!(asked("Action").as_deref(), Some("AssumeRoleWithWebIdentity"));
        assert_eq!(asked("RoleArn").as_deref(), Some(ROLE));
        assert_eq!(asked("RoleSessionName").as_deref(), Some("pod-7"));
        assert!(request.header("authorization").is_none(), "the token is the only proof");
        if asked("WebIdentityToken") != Some(std::fs::read_to_string(&token_file).unwrap()) {
            return error(400, "InvalidIdentityToken", "");
        }
        let n = served.fetch_add(1, Ordering::Relaxed) + 1;
        std::fs::write(&token_file, format!("token-{}", n + 1)).unwrap();
        let xml = format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>AK{n}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t{n}</SessionToken>\
             <Expiration>{}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
            expiry()
        );
        reply(200, "Content-Type: text/xml", xml)
    })
    .await
}

/// Lists twice as a web identity; who signed, and what was said.
async fn as_web_identity(
    expiry: fn() -> String,
    allow: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> (Vec<String>, String) {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "token-1").unwrap();
    let (sts, server) = (sts(token.path(), expiry).await, s3(allow).await);
    let sts_url = sts.url();
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().unwrap()),
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_ROLE_SESSION_NAME", "pod-7"),
        ("AWS_ENDPOINT_URL_STS", sts_url.as_str()),
        ("AWS_REGION", "eu-west-1"),
        NO_IMDS,
    ];
    let config = ClientConfig { endpoint_url: Some(server.url()), ..ClientConfig::default() };
    let said = run(&config, home("", "").path(), &variables).await;
    (signers(&server), said)
}

#[tokio::test]
async fn a_web_identity_is_the_role_it_assumes() {
    let session = |request: &Request| request.header("x-amz-security-token") == Some("t1");
    let (signers, said) = as_web_identity(in_an_hour, session).await;
    assert_eq!((signers, said.as_str()), (vec!["AK1@eu-west-1".to_owned(); 2], "ok"));
}

#[tokio::test]
async fn a_role_that_is_about_to_end_is_not_assumed_anew_for_each_request() {
    let (signers, said) = as_web_identity(in_a_minute, |_| true).await;
    assert_eq!((signers, said.as_str()), (vec!["AK1@eu-west-1".to_owned(); 2], "ok"));
}

#[tokio::test]
async fn a_role_that_is_refused_is_assumed_again_with_the_token_of_that_day() {
    let session = |request: &Request| request.header("x-amz-security-token") == Some("t2");
    let (signers, said) = as_web_identity(in_an_hour, session).await;
    let expected = ["AK1@eu-west-1", "AK2@eu-west-1", "AK2@eu-west-1"].map(str::to_owned).to_vec();
    assert_eq!((signers, said.as_str()), (expected, "ok"));
}

#[tokio::test]
async fn a_role_that_must_not_be_assumed_is_told() {
    let token = tempfile::NamedTempFile::new().unwrap();
    let sts = Canned::start(|_| {
        let body = "<ErrorResponse><Error><Code>AccessDenied</Code>\
                    <Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>";
        reply(403, "Content-Type: text/xml", body)
    })
    .await;
    let (sts_url, server) = (sts.url(), s3(|_| true).await);
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().unwrap()),
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_ENDPOINT_URL_STS", sts_url.as_str()),
        ("AWS_REGION", "eu-west-1"),
        NO_IMDS,
    ];
    let config = ClientConfig { endpoint_url: Some(server.url()), ..ClientConfig::default() };
    let said = run(&config, home("", "").path(), &variables).await;
    assert!(said.contains("web identity token: ") && said.contains("Not authorized to perform"), "{said}");
    assert!(server.requests().is_empty(), "nobody else's credentials are tried");
}

#[tokio::test]
async fn a_pod_identity_is_asked_for_with_the_token_of_that_day() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "token-1").unwrap();
    let (served, token_file) = (AtomicU32::new(0), token.path().to_owned());
    let agent = Canned::start(move |request| {
        let expected = std::fs::read_to_string(&token_file).unwrap();
        if request.header("authorization") != Some(&expected) || request.target != "/v1/credentials" {
            return reply(401, "", "");
        }
        let n = served.fetch_add(1, Ordering::Relaxed) + 1;
        std::fs::write(&token_file, format!("token-{}", n + 1)).unwrap();
        let keys = format!(
            "{{\"AccessKeyId\":\"AK{n}\",\"SecretAccessKey\":\"s\",\"Token\":\"t{n}\",\"Expiration\":\"{}\"}}",
            in_an_hour()
        );
        reply(200, "Content-Type: application/json", keys)
    })
    .await;
    let server = s3(|request| request.header("x-amz-security-token") == Some("t2")).await;
    let full_uri = format!("{}/v1/credentials", agent.url());
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", full_uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path().to_str().unwrap()),
        NO_IMDS,
    ];
    let config = ClientConfig { endpoint_url: Some(server.url()), ..ClientConfig::default() };
    assert_eq!(run(&config, home("", "").path(), &variables).await, "ok");
    assert_eq!(signers(&server), ["AK1@us-east-1", "AK2@us-east-1", "AK2@us-east-1"]);
}

#[tokio::test]
async fn a_person_signed_on_once_reads_as_the_role_of_the_profile() {
    let portal = Canned::start(|request| {
        let (path, query) = request.target.split_once('?').unwrap();
        assert_eq!(path, "/federation/credentials");
        assert_eq!(field(query, "role_name").as_deref(), Some("reader"));
        assert_eq!(field(query, "account_id").as_deref(), Some("123456789012"));
        if request.header("x-amz-sso_bearer_token") != Some("of-the-browser") {
            return reply(401, "", "");
        }
        let keys = "{\"roleCredentials\":{\"accessKeyId\":\"AKSSO\",\"secretAccessKey\":\"s\",\"sessionToken\":\"t\",\"expiration\":4070908800000}}";
        reply(200, "Content-Type: application/json", keys)
    })
    .await;
    let server = s3(|request| request.header("x-amz-security-token") == Some("t")).await;
    let home = home(
        "[profile work]\nregion = eu-west-2\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = reader\n\
         [sso-session corp]\nsso_region = eu-west-2\nsso_start_url = https://corp.example.test/start\n",
        "",
    );
    // Where `aws sso login` leaves its token: the SHA-1 of the session's name.
    let cache = home.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    let token = format!("{{\"accessToken\":\"of-the-browser\",\"expiresAt\":\"{}\"}}", in_an_hour());
    std::fs::write(cache.join("ee0bfd2552fbd840c02cc48b6e823320543c450f.json"), token).unwrap();
    let config = ClientConfig {
        profile: Some("work".into()),
        endpoint_url: Some(server.url()),
        ..ClientConfig::default()
    };
    let portal_url = portal.url();
    let variables = [("AWS_ENDPOINT_URL_SSO", portal_url.as_str()), NO_IMDS];
    assert_eq!(run(&config, home.path(), &variables).await, "ok");
    assert_eq!(signers(&server), ["AKSSO@eu-west-2"; 2]);
}

#[tokio::test]
async fn a_directory_bucket_is_read_within_a_session() {
    const OBJECT: &str = "ETag: \"e1\"\nLast-Modified: Fri, 14 Jul 2017 02:40:00 GMT";
    let sessions = Arc::new(AtomicU32::new(0));
    let opened = Arc::clone(&sessions);
    let server = Canned::start(move |request| {
        let is_session = request.target.split(['?', '&']).any(|part| part.trim_end_matches('=') == "session");
        match (is_session, request.signer()) {
            (true, Some("AKLONG")) => {
                let n = opened.fetch_add(1, Ordering::Relaxed) + 1;
                let xml = format!(
                    "<CreateSessionResult><Credentials><AccessKeyId>AKSESSION{n}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                     <SessionToken>session-{n}</SessionToken><Expiration>{}</Expiration></Credentials></CreateSessionResult>",
                    in_an_hour()
                );
                reply(200, "Content-Type: application/xml", xml)
            }
            (false, Some("AKSESSION1")) if request.header("x-amz-s3session-token") == Some("session-1") => {
                reply(200, OBJECT, "hello")
            }
            _ => error(403, "AccessDenied", ""),
        }
    })
    .await;
    let keys = StaticKeys {
        access_key_id: "AKLONG".into(),
        secret_access_key: Secret::new("secret"),
        session_token: None,
    };
    let config = ClientConfig {
        region: Some("us-east-1".into()),
        endpoint_url: Some(server.url()),
        credentials: CredentialSource::Static(keys),
        ..ClientConfig::default()
    };
    let bucket = AwsBucket::connect("fast--use1-az4--x-s3", &config).await.unwrap();
    assert!(!bucket.traits().ordered_listing);
    let key = ObjectKey::new("k").unwrap();
    for _ in 0..3 {
        bucket.get(GetRequest { key: key.clone(), range: None, if_match: None }).await.unwrap();
    }
    assert_eq!(sessions.load(Ordering::Relaxed), 1, "one session serves many requests");
    // Signed for the service of its own.
    let read = server.requests().pop().unwrap();
    let scope =
        read.header("authorization").unwrap().split("Credential=").nth(1).unwrap().split(',').next().unwrap();
    assert!(scope.ends_with("/us-east-1/s3express/aws4_request"), "{scope}");
}

#[tokio::test]
async fn a_multi_region_access_point_is_signed_for_all_regions() {
    // Its host follows from its ARN, whatever the endpoint; so the server stands behind a proxy.
    let authority = Authority::new();
    let tls = authority.acceptor("mfzwi23gnjvgw.mrap.accesspoint.s3-global.amazonaws.com", |_| {});
    let answer = |_: &Request| -> Reply { reply(200, "Content-Type: application/xml", PAGE) };
    let server = Canned::start_over(Transport::Tunnel(tls), answer).await;
    let config = ClientConfig {
        region: Some("eu-west-1".into()),
        ca_bundle: Some(authority.bundle()),
        ..ClientConfig::default()
    };
    let proxy = server.url();
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKENV"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("HTTPS_PROXY", proxy.as_str()),
        (BUCKET, "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap"),
        NO_IMDS,
    ];
    assert_eq!(run(&config, home("", "").path(), &variables).await, "ok");
    for request in server.requests() {
        let authorization = request.header("authorization").unwrap();
        assert!(authorization.starts_with("AWS4-ECDSA-P256-SHA256 Credential=AKENV/"), "{authorization}");
        assert!(authorization.contains("x-amz-region-set"), "the set is signed: {authorization}");
        assert_eq!(request.header("x-amz-region-set"), Some("*"));
    }
    assert_eq!(server.requests().len(), 2);
}
