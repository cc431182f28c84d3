//! Credentials, region and endpoint from the environment, each in a process of its own, since an environment is one per process.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sluicefs_s3_client::{BucketUrl, ClientConfig, open};

use crate::canned::{Canned, Reply, Request, error, reply};

const CONFIG: &str = "SLUICEFS_TEST_CLIENT_CONFIG";
pub(crate) const BUCKET: &str = "SLUICEFS_TEST_BUCKET";
const SAYS: &str = "child says: ";
pub(crate) const PAGE: &str =
    "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";

/// The other process: opens a bucket (`b` unless told) with the settings of its environment, lists it twice and says how that went.
#[test]
#[ignore = "the tests below run it with an environment of its own"]
fn child() {
    let config = std::env::var(CONFIG).expect("run by the tests below");
    let config: ClientConfig = serde_json::from_str(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let url = BucketUrl::parse(&std::env::var(BUCKET).unwrap_or_else(|_| "b".to_owned())).unwrap();
        let bucket = open::connect(&url, &config).await?;
        for _ in 0..2 {
            open::probe(&*bucket, &url.prefix, config.probe_timeout).await?;
        }
        Ok::<_, sluicefs_s3_client::Error>(())
    });
    match outcome {
        Ok(()) => println!("{SAYS}ok"),
        Err(error) => println!("{SAYS}{error}"),
    }
}

/// Runs [`child`] with nothing in its environment but `variables`, and the profile files in `home`.
pub(crate) async fn run(config: &ClientConfig, home: &Path, variables: &[(&str, &str)]) -> String {
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "default_chain::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env(CONFIG, serde_json::to_string(config).unwrap())
        .envs(variables.iter().copied())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), output).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.split_once(SAYS)).map(|(_, said)| said.to_owned());
    said.unwrap_or_else(|| {
        panic!("the child says nothing: {text}{}", String::from_utf8_lossy(&output.stderr))
    })
}

pub(crate) fn home(config: &str, credentials: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/config"), config).unwrap();
    std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
    home
}

/// A bucket that lists for whom the test allows.
pub(crate) async fn s3(allow: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Canned {
    Canned::start(move |request| match allow(request) {
        true => reply(200, "Content-Type: application/xml", PAGE),
        false => error(400, "ExpiredToken", ""),
    })
    .await
}

pub(crate) const NO_IMDS: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");
const KEYS: [(&str, &str); 3] = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "s"), NO_IMDS];

pub(crate) fn signers(server: &Canned) -> Vec<String> {
    server
        .requests()
        .iter()
        .map(|r| format!("{}@{}", r.signer().unwrap_or("-"), r.signed_region().unwrap_or("-")))
        .collect()
}

#[tokio::test]
async fn keys_region_and_endpoint_come_from_the_environment() {
    let (general, s3) = (s3(|_| true).await, s3(|_| true).await);
    let home = home(
        "[default]\nregion = eu-west-3\n",
        "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n",
    );
    let (general_url, s3_url) = (general.url(), s3.url());
    let with = |more: &[(&'static str, &str)]| -> Vec<(&str, String)> {
        KEYS.iter().chain(more).map(|(k, v)| (*k, (*v).to_owned())).collect()
    };
    for (variables, server, expected) in [
        (with(&[("AWS_ENDPOINT_URL", &general_url)]), &general, "AKENV@eu-west-3"),
        (
            with(&[
                ("AWS_ENDPOINT_URL", &general_url),
                ("AWS_ENDPOINT_URL_S3", &s3_url),
                ("AWS_REGION", "eu-west-2"),
            ]),
            &s3,
            "AKENV@eu-west-2",
        ),
    ] {
        let variables: Vec<(&str, &str)> = variables.iter().map(|(k, v)| (*k, v.as_str())).collect();
        assert_eq!(run(&ClientConfig::default(), home.path(), &variables).await, "ok");
        assert_eq!(signers(server), [expected, expected]);
    }
}

#[tokio::test]
async fn a_named_profile_is_the_only_source_of_credentials() {
    let server = s3(|_| true).await;
    let process = "printf '{\"Version\":1,\"AccessKeyId\":\"AKPROC\",\"SecretAccessKey\":\"s\"}'";
    let home = home(
        &format!(
            "[profile models]\nregion = eu-central-1\nendpoint_url = {}\ncredential_process = {process}\n",
            server.url()
        ),
        "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n",
    );
    let config = ClientConfig { profile: Some("models".into()), ..ClientConfig::default() };
    assert_eq!(run(&config, home.path(), &KEYS).await, "ok");
    assert_eq!(signers(&server), ["AKPROC@eu-central-1"; 2]);
    let missing = ClientConfig {
        profile: Some("absent".into()),
        endpoint_url: Some(server.url()),
        ..ClientConfig::default()
    };
    let said = run(&missing, home.path(), &KEYS).await;
    assert!(said.contains("no credentials found (profile: profile `absent` was not defined"), "{said}");
}

#[tokio::test]
async fn an_expired_token_is_fetched_anew_and_the_request_repeated() {
    let served = AtomicU32::new(0);
    let container = Canned::start(move |_| {
        let n = served.fetch_add(1, Ordering::Relaxed) + 1;
        let keys = format!(
            "{{\"AccessKeyId\":\"AK{n}\",\"SecretAccessKey\":\"s\",\"Token\":\"t{n}\",\"Expiration\":\"2099-01-01T00:00:00Z\"}}"
        );
        reply(200, "Content-Type: application/json", keys)
    })
    .await;
    let server = s3(|request| request.header("x-amz-security-token") == Some("t2")).await;
    let config = ClientConfig { endpoint_url: Some(server.url()), ..ClientConfig::default() };
    let full_uri = format!("{}/credentials", container.url());
    let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", full_uri.as_str()), NO_IMDS];
    let home = home("", "");
    assert_eq!(run(&config, home.path(), &variables).await, "ok");
    assert_eq!(signers(&server), ["AK1@us-east-1", "AK2@us-east-1", "AK2@us-east-1"]);
    assert_eq!(container.requests().len(), 2);
}

#[tokio::test]
async fn the_instance_gives_role_and_region() {
    let imds = Canned::start(|request| match request.target.as_str() {
        "/latest/api/token" => reply(200, "x-aws-ec2-metadata-token-ttl-seconds: 21600", "token"),
        "/latest/meta-data/placement/region" => reply(200, "", "ap-south-1"),
        target if target.ends_with("/iam/security-credentials/") => reply(200, "", "node-role"),
        target if target.contains("/iam/security-credentials-extended/") => reply(404, "", ""),
        _ => reply(
            200,
            "Content-Type: application/json",
            "{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"AKROLE\",\"SecretAccessKey\":\"s\",\"Token\":\"t\",\
             \"LastUpdated\":\"2020-01-01T00:00:00Z\",\"Expiration\":\"2099-01-01T00:00:00Z\"}",
        ),
    })
    .await;
    let server = s3(|_| true).await;
    let (imds_url, s3_url) = (imds.url(), server.url());
    // A proxy stands for Amazon, since the region of the instance is not asked for when the endpoint is somebody else's.
    let variables = [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds_url.as_str()),
        ("AWS_ENDPOINT_URL_S3", "http://s3.amazonaws.com"),
        ("HTTP_PROXY", s3_url.as_str()),
    ];
    let home = home("", "");
    assert_eq!(run(&ClientConfig::default(), home.path(), &variables).await, "ok");
    assert_eq!(signers(&server), ["AKROLE@ap-south-1"; 2]);
}

#[tokio::test]
async fn silent_instance_metadata_costs_two_seconds_and_no_more() {
    let imds = Canned::start(|_| Reply::Silence).await;
    let server = s3(|_| true).await;
    let (imds_url, s3_url) = (imds.url(), server.url());
    let variables = [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds_url.as_str()),
        ("AWS_ENDPOINT_URL_S3", "http://s3.amazonaws.com"),
        ("HTTP_PROXY", s3_url.as_str()),
    ];
    let start = std::time::Instant::now();
    let home = home("", "");
    let said = run(&ClientConfig::default(), home.path(), &variables).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // The search for the region waited already; the search for credentials does not wait again.
    assert_eq!(imds.requests().len(), 1, "{:?}", imds.requests());
    assert!(said.contains("no credentials found") && said.contains("AWS_ACCESS_KEY_ID"), "{said}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn proxies_of_the_environment_are_used_but_not_for_this_machine() {
    let proxy = s3(|_| true).await;
    let server = s3(|_| true).await;
    let proxy_url = proxy.url();
    let variables = [&KEYS[..], &[("HTTP_PROXY", proxy_url.as_str())]].concat();
    let home = home("", "");
    let remote =
        ClientConfig { endpoint_url: Some("http://s3.example.test".into()), ..ClientConfig::default() };
    assert_eq!(run(&remote, home.path(), &variables).await, "ok");
    let asked = proxy.requests();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].target.starts_with("http://s3.example.test/b"), "{}", asked[0].target);
    let local = ClientConfig { endpoint_url: Some(server.url()), ..ClientConfig::default() };
    assert_eq!(run(&local, home.path(), &variables).await, "ok");
    assert_eq!((proxy.requests().len(), server.requests().len()), (2, 2));
}

#[tokio::test]
async fn given_keys_inherit_nothing_from_the_environment() {
    use sluicefs_s3_client::CredentialSource;
    use sluicefs_s3_client::config::{Secret, StaticKeys};
    let (decoy, server) = (s3(|_| true).await, s3(|_| true).await);
    let keys = StaticKeys {
        access_key_id: "AKGIVEN".into(),
        secret_access_key: Secret::new("s"),
        session_token: None,
    };
    let config = ClientConfig {
        credentials: CredentialSource::Static(keys),
        endpoint_url: Some(server.url()),
        ..ClientConfig::default()
    };
    let decoy_url = decoy.url();
    let variables =
        [&KEYS[..], &[("AWS_ENDPOINT_URL_S3", decoy_url.as_str()), ("AWS_REGION", "eu-west-2")]].concat();
    let home = home("[default]\nregion = eu-west-3\n", "");
    assert_eq!(run(&config, home.path(), &variables).await, "ok");
    assert_eq!(signers(&server), ["AKGIVEN@us-east-1"; 2]);
    assert!(decoy.requests().is_empty());
}

#[tokio::test]
async fn names_lead_to_their_hosts() {
    // The proxy learns the host and lets nobody through.
    let proxy = Canned::start(|_| reply(502, "", "")).await;
    let proxy_url = proxy.url();
    let home = home("", "");
    let plain = ClientConfig { region: Some("eu-west-1".into()), ..ClientConfig::default() };
    let accelerated = ClientConfig { transfer_acceleration: true, ..plain.clone() };
    let dual = ClientConfig { dual_stack: true, ..plain.clone() };
    let china = ClientConfig { region: Some("cn-north-1".into()), ..ClientConfig::default() };
    let express = ClientConfig { region: Some("us-east-1".into()), ..ClientConfig::default() };
    for (config, bucket, host) in [
        (&plain, "my-models", "my-models.s3.eu-west-1.amazonaws.com"),
        (&plain, "my.models", "s3.eu-west-1.amazonaws.com"),
        (&accelerated, "my-models", "my-models.s3-accelerate.amazonaws.com"),
        (&dual, "my-models", "my-models.s3.dualstack.eu-west-1.amazonaws.com"),
        (&china, "my-models", "my-models.s3.cn-north-1.amazonaws.com.cn"),
        (
            &plain,
            "arn:aws:s3:us-west-2:123456789012:accesspoint/models",
            "models-123456789012.s3-accesspoint.us-west-2.amazonaws.com",
        ),
        (&plain, "models-abc-s3alias", "models-abc-s3alias.s3.eu-west-1.amazonaws.com"),
        (
            &plain,
            "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap",
            "mfzwi23gnjvgw.mrap.accesspoint.s3-global.amazonaws.com",
        ),
        (&express, "fast--use1-az4--x-s3", "fast--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com"),
    ] {
        let seen = proxy.requests().len();
        let variables = [&KEYS[..], &[("HTTPS_PROXY", proxy_url.as_str()), (BUCKET, bucket)]].concat();
        let said = run(config, home.path(), &variables).await;
        let asked: Vec<String> =
            proxy.requests()[seen..].iter().map(|r| format!("{} {}", r.method, r.target)).collect();
        assert_eq!(asked.first(), Some(&format!("CONNECT {host}:443")), "{bucket}: {said}");
        assert!(said.contains("cannot reach") && said.contains("proxy"), "{said}");
    }
}
