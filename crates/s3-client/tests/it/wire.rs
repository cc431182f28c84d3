//! `AwsBucket` against answers written byte for byte: what it makes of them, and what it sends.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use sluicefs_s3_client::config::{AddressingStyle, Secret, SseCustomerKey, StaticKeys};
use sluicefs_s3_client::{
    AwsBucket, Bucket, ByteRange, ClientConfig, CredentialSource, ETag, Error, ErrorKind, GetRequest,
    KeyPrefix, ListRequest, ObjectAttributes, ObjectKey, Payload, PutRequest, StorageClass, WriteCondition,
};

use crate::canned::{Canned, Reply, Request, error, reply};

const OBJECT: &str = "ETag: \"e1\"\nLast-Modified: Fri, 14 Jul 2017 02:40:00 GMT";

fn config(url: &str) -> ClientConfig {
    let keys = StaticKeys {
        access_key_id: "AKIAEXAMPLE".into(),
        secret_access_key: Secret::new("secret"),
        session_token: None,
    };
    ClientConfig {
        endpoint_url: Some(url.to_owned()),
        credentials: CredentialSource::Static(keys),
        first_byte_timeout: Duration::from_secs(5),
        ..ClientConfig::default()
    }
}

async fn bucket(server: &Canned) -> AwsBucket {
    AwsBucket::connect("b", &config(&server.url())).await.unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn get(range: Option<ByteRange>) -> GetRequest {
    GetRequest { key: key("k"), range, if_match: None }
}

fn root() -> ListRequest {
    ListRequest::directory(KeyPrefix::root())
}

async fn read(bucket: &AwsBucket, range: Option<(u64, u64)>) -> Result<(ByteRange, u64, String), Error> {
    let got = bucket.get(get(range.map(|(start, end)| ByteRange::new(start, end)))).await?;
    let body: Vec<_> = got.body.try_collect().await?;
    Ok((got.range, got.meta.size, String::from_utf8(body.concat()).unwrap()))
}

/// Asks for a range (or all) of an object that the server answers with `answer`.
async fn read_canned(
    range: Option<(u64, u64)>,
    answer: impl Fn() -> Reply + Send + Sync + 'static,
) -> Result<(ByteRange, u64, String), Error> {
    let server = Canned::start(move |_| answer()).await;
    read(&bucket(&server).await, range).await
}

#[tokio::test]
async fn a_get_tells_which_bytes_it_holds() {
    let partial = || reply(206, &format!("{OBJECT}\nContent-Range: bytes 2-4/10"), "cde");
    assert_eq!(read_canned(Some((2, 5)), partial).await.unwrap(), (ByteRange::new(2, 5), 10, "cde".into()));
    let whole = || reply(200, OBJECT, "abcdefghij");
    assert_eq!(read_canned(None, whole).await.unwrap(), (ByteRange::new(0, 10), 10, "abcdefghij".into()));
    let empty = || reply(200, OBJECT, "");
    assert_eq!(read_canned(None, empty).await.unwrap(), (ByteRange::new(0, 0), 0, String::new()));
}

#[tokio::test]
async fn an_endpoint_that_ignores_range_serves_the_beginning_alone() {
    let whole = || reply(200, OBJECT, "abcdefghij");
    assert_eq!(read_canned(Some((0, 3)), whole).await.unwrap(), (ByteRange::new(0, 3), 10, "abc".into()));
    let error = read_canned(Some((2, 5)), whole).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("ignores Range"), "{error}");
}

#[tokio::test]
async fn what_is_no_object_is_not_read() {
    for (headers, part) in
        [("Content-Type: text/html", "web page"), ("Content-Type: application/octet-stream", "no ETag")]
    {
        let error = read_canned(None, move || reply(200, headers, "<html>Log in</html>")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(part), "{error}");
    }
    let unranged = read_canned(Some((0, 3)), || reply(206, OBJECT, "abc")).await.unwrap_err();
    assert_eq!(unranged.kind(), ErrorKind::Corrupt, "206 without Content-Range: {unranged}");
}

#[tokio::test]
async fn whole_objects_are_checked_against_their_stored_checksum() {
    // crc32 of "hello" is 0x3610a686.
    let headers = format!("{OBJECT}\nx-amz-checksum-crc32: NhCmhg==\nx-amz-checksum-type: FULL_OBJECT");
    let answer = |body: &'static str, headers: &str| {
        let headers = headers.to_owned();
        move || reply(200, &headers, body)
    };
    assert_eq!(read_canned(None, answer("hello", &headers)).await.unwrap().2, "hello");
    let error = read_canned(None, answer("jello", &headers)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, Some("ChecksumMismatch")), "{error}");
    let composite = headers.replace("NhCmhg==", "NhCmhg==-2").replace("FULL_OBJECT", "COMPOSITE");
    assert_eq!(read_canned(None, answer("jello", &composite)).await.unwrap().2, "jello");
}

#[tokio::test]
async fn checksums_are_asked_for_with_whole_objects_alone() {
    let server = Canned::start(|request| match request.header("range") {
        Some(_) => reply(206, &format!("{OBJECT}\nContent-Range: bytes 0-0/5"), "h"),
        None => reply(200, OBJECT, "hello"),
    })
    .await;
    let bucket = bucket(&server).await;
    read(&bucket, None).await.unwrap();
    read(&bucket, Some((0, 1))).await.unwrap();
    let asked: Vec<_> =
        server.requests().iter().map(|r| r.header("x-amz-checksum-mode").map(str::to_owned)).collect();
    assert_eq!(asked, [Some("ENABLED".to_owned()), None]);
}

#[tokio::test]
async fn a_server_that_refuses_the_checksum_header_is_not_sent_it_again() {
    for refusal in
        [|| error(400, "InvalidArgument", ""), || error(501, "NotImplemented", ""), || reply(400, "", "")]
    {
        let server = Canned::start(move |request| match request.header("x-amz-checksum-mode") {
            Some(_) => refusal(),
            None => reply(200, OBJECT, "hello"),
        })
        .await;
        let bucket = bucket(&server).await;
        for _ in 0..2 {
            assert_eq!(read(&bucket, None).await.unwrap().2, "hello");
        }
        assert_eq!(server.requests().len(), 3, "refused, sent without, sent without");
    }
}

#[tokio::test]
async fn a_request_that_is_wrong_in_itself_stays_wrong() {
    let server = Canned::start(|_| error(400, "InvalidArgument", "")).await;
    let refused = read(&bucket(&server).await, None).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Invalid, Some("InvalidArgument")));
}

#[tokio::test]
async fn a_body_that_breaks_is_told_after_what_came() {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n{}\r\n\r\n", OBJECT.replace('\n', "\r\n"));
    let server = Canned::start(move |_| Reply::Bytes(format!("{head}abc").into_bytes())).await;
    let mut body = bucket(&server).await.get(get(None)).await.unwrap().body;
    assert_eq!(body.try_next().await.unwrap().unwrap(), "abc");
    let error = body.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.to_string().starts_with("get s3://b/k: "), "{error}");
    assert!(body.try_next().await.unwrap().is_none(), "an error ends the body");
}

#[tokio::test]
async fn refusals_keep_their_code_and_request_id() {
    for (status, code, kind) in [
        (404, "NoSuchKey", ErrorKind::NotFound),
        (404, "NoSuchBucket", ErrorKind::NoSuchBucket),
        (403, "AccessDenied", ErrorKind::Forbidden),
        (403, "InvalidObjectState", ErrorKind::Archived),
        (412, "PreconditionFailed", ErrorKind::PreconditionFailed),
        (416, "InvalidRange", ErrorKind::Invalid),
        (503, "SlowDown", ErrorKind::Throttled),
        (500, "InternalError", ErrorKind::Transient),
        (400, "ExpiredToken", ErrorKind::CredentialsExpired),
    ] {
        let got = read_canned(Some((0, 1)), move || error(status, code, "")).await.unwrap_err();
        assert_eq!((got.kind(), got.status(), got.code()), (kind, Some(status), Some(code)), "{got}");
        assert_eq!(got.request_id(), Some("4442587FB7D0A2F9"));
    }
    let busy = read_canned(None, || reply(503, "Retry-After: 7", "")).await.unwrap_err();
    assert_eq!((busy.kind(), busy.retry_after()), (ErrorKind::Throttled, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn head_is_judged_without_a_body() {
    for (status, headers, kind) in [
        (404, "", ErrorKind::NotFound),
        (403, "", ErrorKind::Forbidden),
        (400, "", ErrorKind::Invalid),
        (503, "", ErrorKind::Throttled),
        (500, "", ErrorKind::Transient),
    ] {
        let server = Canned::start(move |_| reply(status, headers, "")).await;
        let error = bucket(&server).await.head(&key("k")).await.unwrap_err();
        assert_eq!((error.kind(), error.status()), (kind, Some(status)), "{error}");
    }
}

#[tokio::test]
async fn head_tells_what_s3_tells() {
    const HEADERS: &str = "ETag: \"e1\"
        Last-Modified: Fri, 14 Jul 2017 02:40:00 GMT
        Content-Type: application/json
        x-amz-storage-class: GLACIER
        x-amz-restore: ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2029 00:00:00 GMT\"
        x-amz-server-side-encryption: aws:kms
        x-amz-version-id: v7
        x-amz-meta-Zone: z
        x-amz-meta-author: me";
    let server = Canned::start(|_| reply(200, HEADERS, "12345")).await;
    let head = bucket(&server).await.head(&key("k")).await.unwrap();
    assert_eq!(
        (head.meta.size, head.meta.etag, head.meta.last_modified.secs),
        (5, Some(ETag::new("\"e1\"")), 1_500_000_000)
    );
    assert_eq!((head.meta.storage_class, head.restored), (StorageClass::Glacier, true));
    assert_eq!(head.content_type.as_deref(), Some("application/json"));
    assert_eq!((head.encryption.as_deref(), head.version_id.as_deref()), (Some("aws:kms"), Some("v7")));
    assert_eq!(head.user_metadata, [("author".into(), "me".into()), ("zone".into(), "z".into())]);
}

#[tokio::test]
async fn the_bucket_is_followed_to_its_region_once() {
    let server = Canned::start(|request| match (request.signed_region(), request.method.as_str()) {
        (Some("eu-west-1"), _) => reply(200, OBJECT, "hello"),
        (_, "HEAD") => reply(301, "x-amz-bucket-region: eu-west-1", ""),
        _ => error(301, "PermanentRedirect", "<Endpoint>elsewhere</Endpoint>"),
    })
    .await;
    let bucket = bucket(&server).await;
    bucket.head(&key("k")).await.unwrap();
    bucket.get(get(None)).await.unwrap();
    let regions: Vec<_> = server.requests().iter().map(|r| r.signed_region().unwrap().to_owned()).collect();
    assert_eq!(regions, ["us-east-1", "eu-west-1", "eu-west-1"]);
}

#[tokio::test]
async fn a_malformed_authorization_header_names_the_region_in_its_body() {
    let server = Canned::start(|request| match request.signed_region() {
        Some("my-region") => reply(200, OBJECT, "hello"),
        _ => error(400, "AuthorizationHeaderMalformed", "<Region>my-region</Region>"),
    })
    .await;
    bucket(&server).await.get(get(None)).await.unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_redirect_without_end_ends() {
    let server = Canned::start(|request| {
        let next = if request.signed_region() == Some("eu-west-1") { "us-west-2" } else { "eu-west-1" };
        reply(301, &format!("x-amz-bucket-region: {next}"), "")
    })
    .await;
    let error = bucket(&server).await.head(&key("k")).await.unwrap_err();
    assert_eq!((error.kind(), error.region()), (ErrorKind::WrongRegion, Some("us-west-2")));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn redirects_to_other_hosts_are_not_followed() {
    let elsewhere = Canned::start(|_| reply(200, OBJECT, "secret")).await;
    for status in [301, 302, 307, 308] {
        for host in [
            &elsewhere.url(),
            "https://b.s3.eu-west-1.amazonaws.com.evil.test",
            "https://evil-s3.eu-west-1-amazonaws.com",
        ] {
            let location = format!("Location: {host}/b/k");
            let server = Canned::start(move |_| reply(status, &location, "")).await;
            let error = bucket(&server).await.get(get(None)).await.unwrap_err();
            assert_eq!(
                (error.kind(), error.status()),
                (ErrorKind::BadEndpoint, Some(status)),
                "{host}: {error}"
            );
            assert_eq!(server.requests().len(), 1);
        }
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_redirect_to_the_same_server_is_followed_once() {
    for status in [307, 308] {
        let server = Canned::start(move |request| match request.target.contains("node=2") {
            true => reply(200, OBJECT, "hello"),
            false => reply(status, "Location: /b/k?node=2", ""),
        })
        .await;
        let bucket = bucket(&server).await;
        bucket.get(get(None)).await.unwrap();
        bucket.head(&key("k")).await.unwrap();
        let body = Payload::from(Bytes::from_static(b"sent twice"));
        let attributes = ObjectAttributes::default();
        let put = PutRequest { key: key("k"), body, attributes, condition: WriteCondition::Any };
        bucket.put(put).await.unwrap();
        let requests = server.requests();
        let seen: Vec<_> =
            requests.iter().map(|r| (r.method.as_str(), r.target.contains("node=2"))).collect();
        let twice = |method| [(method, false), (method, true)];
        assert_eq!(seen, [twice("GET"), twice("HEAD"), twice("PUT")].concat());
        assert_eq!(requests[5].body, "sent twice");
        for pair in requests.chunks(2) {
            let [first, second] =
                pair.iter().map(|r| r.header("authorization").unwrap()).collect::<Vec<_>>()[..]
            else {
                panic!("two of each")
            };
            assert_ne!(first, second, "each is signed for its own URL");
        }
    }
    let server = Canned::start(|_| reply(307, "Location: /b/k?round=and-round", "")).await;
    let error = bucket(&server).await.get(get(None)).await.unwrap_err();
    assert_eq!((error.kind(), server.requests().len()), (ErrorKind::BadEndpoint, 2));
}

#[tokio::test]
async fn a_redirect_within_amazon_tells_the_region() {
    for host in [
        "b.s3.eu-west-1.amazonaws.com",
        "b.s3-eu-west-1.amazonaws.com",
        "s3.dualstack.eu-west-1.amazonaws.com",
    ] {
        let location = format!("Location: https://{host}/k");
        let server = Canned::start(move |request| match request.signed_region() {
            Some("eu-west-1") => reply(200, OBJECT, "hello"),
            _ => reply(307, &location, ""),
        })
        .await;
        // The endpoint stays the one that was configured: only what is signed changes.
        bucket(&server).await.get(get(None)).await.unwrap();
        assert_eq!(server.requests().len(), 2, "{host}");
    }
}

#[tokio::test]
async fn a_wrong_clock_is_set_by_the_server() {
    let skewed = |request: &Request| !request.header("x-amz-date").unwrap().starts_with("20300101");
    let server = Canned::start(move |request| match skewed(request) {
        true => error(403, "RequestTimeTooSkewed", "<ServerTime>2030-01-01T00:00:30Z</ServerTime>"),
        false => reply(200, OBJECT, "hello"),
    })
    .await;
    let bucket = bucket(&server).await;
    let error = bucket.get(get(None)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "to be sent again: {error}");
    bucket.get(get(None)).await.unwrap();
}

const PAGE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult><Name>b</Name><EncodingType>url</EncodingType>\
    <KeyCount>3</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>true</IsTruncated><NextContinuationToken>t/+=</NextContinuationToken>\
    <Contents><Key>a+b%2B%25%0A%01%F0%9F%A6%80</Key><Size>5</Size><ETag>&quot;e1&quot;</ETag><LastModified>2017-07-14T02:40:00.000Z</LastModified><StorageClass>DEEP_ARCHIVE</StorageClass></Contents>\
    <Contents><Key>%2Fdots/../x//y</Key><Size>0</Size></Contents>\
    <CommonPrefixes><Prefix>p+q/</Prefix></CommonPrefixes></ListBucketResult>";

async fn list_canned(page: impl AsRef<str>) -> Result<sluicefs_s3_client::ListPage, Error> {
    let page = page.as_ref().to_owned();
    let server = Canned::start(move |_| reply(200, "Content-Type: application/xml", &page)).await;
    bucket(&server).await.list(root()).await
}

#[tokio::test]
async fn a_page_is_read_and_its_names_decoded_once() {
    let page = list_canned(PAGE).await.unwrap();
    let keys: Vec<_> = page.objects.iter().map(|o| o.key.as_str()).collect();
    assert_eq!(keys, ["a b+%\n\u{1}🦀", "/dots/../x//y"]);
    let first = &page.objects[0].meta;
    assert_eq!((first.size, first.etag.clone()), (5, Some(ETag::new("\"e1\""))));
    assert_eq!((first.last_modified.secs, first.storage_class), (1_500_000_000, StorageClass::DeepArchive));
    assert_eq!(page.objects[1].meta.etag, None);
    assert_eq!(page.common_prefixes, [KeyPrefix::new("p q/")]);
    assert_eq!(page.next.unwrap().0, "t/+=");
}

#[tokio::test]
async fn a_page_cut_anywhere_is_corrupt() {
    // Each cut takes a request; every seventh byte meets each element of the page.
    for len in (0..PAGE.len()).step_by(7) {
        let error = list_canned(&PAGE[..len]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {len}: {error}");
    }
    let bomb = format!("<ListBucketResult>{}", "<a>".repeat(100_000));
    let error = list_canned(bomb).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("nests"), "{error}");
    let error = list_canned("<!doctype html><html>Log in</html>").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("no S3 endpoint"), "{error}");
    let error = list_canned(PAGE.replace("<KeyCount>3", "<KeyCount>9")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("says 9 names"), "{error}");
}

#[tokio::test]
async fn a_listing_that_is_not_found_names_the_bucket_or_doubts_the_endpoint() {
    for (answer, kind) in [
        ((|| error(404, "NoSuchBucket", "")) as fn() -> Reply, ErrorKind::NoSuchBucket),
        (|| reply(404, "", ""), ErrorKind::BadEndpoint),
        (|| reply(404, "Content-Type: text/html", "<html>nothing here</html>"), ErrorKind::BadEndpoint),
    ] {
        let server = Canned::start(move |_| answer()).await;
        let error = bucket(&server).await.list(root()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn a_listing_asks_for_what_is_wanted_and_no_more() {
    let server = Canned::start(|_| reply(200, "", PAGE)).await;
    let settings = ClientConfig {
        requester_pays: true,
        expected_bucket_owner: Some("123456789012".into()),
        user_agent_prefix: Some("pod/7".into()),
        ..config(&server.url())
    };
    let bucket = AwsBucket::connect("b", &settings).await.unwrap();
    let prefix = KeyPrefix::new("a b/");
    let page = bucket.list(ListRequest {
        start_after: Some("a b/c".into()),
        max_keys: 10,
        ..ListRequest::directory(prefix.clone())
    });
    let next = page.await.unwrap().next;
    bucket.list(ListRequest { continuation: next, ..ListRequest::directory(prefix) }).await.unwrap();
    let requests = server.requests();
    let query = |n: usize| {
        requests[n].target.split_once('?').unwrap().1.split('&').map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(
        requests[0].target.starts_with("/b?") || requests[0].target.starts_with("/b/?"),
        "{}",
        requests[0].target
    );
    for part in [
        "list-type=2",
        "encoding-type=url",
        "prefix=a%20b%2F",
        "delimiter=%2F",
        "max-keys=10",
        "start-after=a%20b%2Fc",
    ] {
        assert!(query(0).iter().any(|q| q == part), "{part} in {:?}", query(0));
    }
    assert!(query(1).iter().any(|q| q == "continuation-token=t%2F%2B%3D"), "{:?}", query(1));
    assert!(!query(1).iter().any(|q| q.starts_with("start-after")), "{:?}", query(1));
    let header = |name| requests[0].header(name);
    assert_eq!(header("x-amz-request-payer"), Some("requester"));
    assert_eq!(header("x-amz-expected-bucket-owner"), Some("123456789012"));
    assert!(header("user-agent").unwrap().starts_with("pod/7 sluicefs/"), "{:?}", header("user-agent"));
}

#[tokio::test]
async fn an_sse_c_key_goes_with_every_read() {
    let server = Canned::start(|_| reply(200, OBJECT, "hello")).await;
    let settings =
        ClientConfig { sse_customer_key: Some(SseCustomerKey::new([b'a'; 32])), ..config(&server.url()) };
    let bucket = AwsBucket::connect("b", &settings).await.unwrap();
    bucket.head(&key("k")).await.unwrap();
    bucket.get(get(None)).await.unwrap();
    for request in server.requests() {
        let header = |name: &str| {
            request.header(&format!("x-amz-server-side-encryption-customer-{name}")).map(str::to_owned)
        };
        assert_eq!(header("algorithm").as_deref(), Some("AES256"));
        assert_eq!(header("key").as_deref(), Some("YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="));
        assert_eq!(header("key-MD5").as_deref(), Some("Xsqb0+sHwAbNQ65I395/0w=="));
    }
}

#[tokio::test]
async fn anonymous_requests_are_not_signed() {
    let server = Canned::start(|_| reply(200, OBJECT, "hello")).await;
    let settings = ClientConfig { credentials: CredentialSource::Anonymous, ..config(&server.url()) };
    AwsBucket::connect("b", &settings).await.unwrap().head(&key("k")).await.unwrap();
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn each_request_is_sent_once() {
    let server = Canned::start(|_| error(500, "InternalError", "")).await;
    let bucket = bucket(&server).await;
    assert!(bucket.list(root()).await.is_err());
    assert!(bucket.head(&key("k")).await.is_err());
    assert!(bucket.get(get(Some(ByteRange::new(0, 1)))).await.is_err());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn the_name_goes_where_the_addressing_style_says() {
    let server = Canned::start(|_| reply(200, OBJECT, "")).await;
    let port = server.addr().port();
    for (style, host, target) in [
        (AddressingStyle::Auto, "localhost", "/models/a%20k"),
        (AddressingStyle::Path, "localhost", "/models/a%20k"),
        (AddressingStyle::VirtualHost, "models.localhost", "/a%20k"),
    ] {
        let settings = ClientConfig { addressing: style, ..config(&format!("http://localhost:{port}")) };
        let bucket = AwsBucket::connect("models", &settings).await.unwrap();
        match bucket.head(&key("a k")).await {
            Ok(_) => {}
            // Not every resolver knows names below localhost.
            Err(error) if style == AddressingStyle::VirtualHost && error.code() == Some("DnsFailure") => {
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        let request = server.requests().pop().unwrap();
        assert_eq!(request.header("host").unwrap(), format!("{host}:{port}"));
        assert_eq!(request.target.split('?').next(), Some(target));
    }
}

/// What a listing says about a server that does not answer as one.
async fn list_at(settings: ClientConfig) -> Error {
    AwsBucket::connect("b", &settings).await.unwrap().list(root()).await.unwrap_err()
}

#[tokio::test]
async fn silence_and_noise_are_told_apart() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = Canned::start(|_| Reply::Silence).await;
    let hangs_up = Canned::start(|_| Reply::Bytes(Vec::new())).await;
    let no_http = Canned::start(|_| Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())).await;
    let many_headers = Canned::start(|_| reply(200, &"X-Pad: 0123456789\n".repeat(50_000), PAGE)).await;
    // Ten headers of 7 kB, which the HTTP library would take.
    let padding = format!("X-Pad: {}\n", "0123456789".repeat(700)).repeat(10);
    let (pad, padded) = (padding.clone(), padding);
    let long_headers = Canned::start(move |_| reply(200, &pad, PAGE)).await;
    let refusal = Canned::start(move |_| reply(503, &padded, "")).await;
    for (url, kind, code) in [
        (format!("http://{closed}"), ErrorKind::Transient, "ConnectionRefused"),
        (silent.url(), ErrorKind::Transient, "FirstByteTimeout"),
        (hangs_up.url(), ErrorKind::Transient, "ConnectionBroken"),
        (no_http.url(), ErrorKind::Transient, "NotHttp"),
        (many_headers.url(), ErrorKind::BadEndpoint, "HeadersTooLarge"),
        (long_headers.url(), ErrorKind::BadEndpoint, "HeadersTooLarge"),
        (refusal.url(), ErrorKind::BadEndpoint, "HeadersTooLarge"),
        (no_http.url().replace("http:", "https:"), ErrorKind::BadEndpoint, "TlsHandshake"),
    ] {
        let settings = ClientConfig { first_byte_timeout: Duration::from_millis(300), ..config(&url) };
        let error = list_at(settings).await;
        assert_eq!((error.kind(), error.code()), (kind, Some(code)), "{url}: {error}: {error:?}");
    }
}
