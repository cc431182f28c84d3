//! The embedded server as a client sees it that speaks plain HTTP: bytes, faults, stopping and coming back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::io;
use std::time::Duration;

use bytes::Bytes;
use sluicefs_embedded_s3::{
    EmbeddedS3, EmbeddedS3Config, MemoryBucket, Operation, Rule, Unsigned, When, WireFault, crc64nvme,
};
use sluicefs_s3_client::ByteRange;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::testing::memory::pattern;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const SIZE: u64 = 300_000;

async fn server() -> (EmbeddedS3, MemoryBucket) {
    let bucket = MemoryBucket::new("b");
    bucket.put("k", Content::Pattern { seed: 1, len: SIZE });
    let server = EmbeddedS3::start(EmbeddedS3Config::new([("bucket", bucket.clone())])).await.unwrap();
    (server, bucket)
}

fn address(server: &EmbeddedS3) -> String {
    server.endpoint_url().strip_prefix("http://").unwrap().to_owned()
}

/// All that came on a connection of its own until it ended, and how it ended.
struct Reply {
    head: String,
    body: Vec<u8>,
    end: io::Result<usize>,
}

async fn send(server: &EmbeddedS3, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address(server)).await.unwrap();
    let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
    let text = format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", address(server));
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).await;
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let body = bytes.split_off(split);
    Reply { head: String::from_utf8(bytes).unwrap().to_lowercase(), body, end }
}

impl Reply {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or("no reply")
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

fn bytes(range: std::ops::Range<u64>) -> Bytes {
    pattern(1, ByteRange::from(range))
}

#[tokio::test]
async fn serves_objects_ranges_and_conditions() {
    let (server, bucket) = server().await;
    let whole = send(&server, "GET /bucket/k").await;
    assert_eq!((whole.status(), whole.body.len() as u64), ("200", SIZE));
    assert!(whole.body == bytes(0..SIZE));
    let range = send(&server, "GET /bucket/k\nRange: bytes=1000-1999\r\n").await;
    assert_eq!(range.status(), "206");
    assert!(range.head.contains("content-range: bytes 1000-1999/300000"), "{}", range.head);
    assert!(range.body == bytes(1000..2000));
    let etag = bucket.object("k").unwrap().head.meta.etag.unwrap();
    for (request, status) in [
        (format!("GET /bucket/k\nIf-Match: {etag}\r\n"), "200"),
        ("GET /bucket/k\nIf-Match: \"other\"\r\n".to_owned(), "412"),
        (format!("HEAD /bucket/k\nIf-None-Match: {etag}\r\n"), "304"),
        ("GET /bucket/k\nRange: bytes=300000-\r\n".to_owned(), "416"),
        ("GET /bucket/none".to_owned(), "404"),
        ("GET /other/k".to_owned(), "404"),
        ("HEAD /bucket".to_owned(), "200"),
        ("HEAD /bucket/k".to_owned(), "200"),
        ("GET /".to_owned(), "200"),
        ("DELETE /bucket/k".to_owned(), "204"),
        ("HEAD /bucket/k".to_owned(), "404"),
    ] {
        assert_eq!(send(&server, &request).await.status(), status, "{request}");
    }
}

#[tokio::test]
async fn lists_encoded_names_page_by_page() {
    let (server, bucket) = server().await;
    ["d/a b+c", "d/e/f", "d/\n", "z"].into_iter().for_each(|key| _ = bucket.put(key, "x"));
    let first = "GET /bucket?list-type=2&prefix=d%2F&delimiter=%2F&max-keys=2&encoding-type=url";
    let page = send(&server, first).await.text();
    assert!(page.contains("<Key>d/%0A</Key>") && page.contains("<Key>d/a+b%2Bc</Key>"), "{page}");
    assert!(
        page.contains("<IsTruncated>true</IsTruncated>") && page.contains("<KeyCount>2</KeyCount>"),
        "{page}"
    );
    let token = page.split("<NextContinuationToken>").nth(1).unwrap().split('<').next().unwrap();
    let token = token.replace('%', "%25").replace('+', "%2B");
    let page = send(&server, &format!("{first}&continuation-token={token}")).await.text();
    assert!(page.contains("<Prefix>d/e/</Prefix>") && page.contains("<IsTruncated>false"), "{page}");
    assert!(!page.contains("<Key>"), "{page}");
}

#[tokio::test]
async fn stores_what_is_put_and_counts_what_is_asked() {
    let (server, bucket) = server().await;
    let put = send(&server, "PUT /bucket/a%20b\nContent-Length: 0\r\nx-amz-meta-color: red\r\n").await;
    assert_eq!(put.status(), "200", "{}", put.text());
    let stored = bucket.object("a b").unwrap();
    assert_eq!(stored.head.user_metadata, [("color".to_owned(), "red".to_owned())]);
    send(&server, "GET /bucket/k\nRange: bytes=1-2\r\n").await;
    assert_eq!((server.requests().of(Operation::Put), server.requests().total()), (1, 2));
    let last = server.recent_requests().pop().unwrap();
    assert_eq!((last.operation, &*last.key, last.range.as_deref()), (Operation::Get, "k", Some("bytes=1-2")));
    assert_eq!(last.status, Some(206));
}

#[tokio::test]
async fn unsigned_requests_may_be_refused() {
    let bucket = MemoryBucket::new("b");
    bucket.put("k", "x");
    let config =
        EmbeddedS3Config { unsigned: Unsigned::Refused, ..EmbeddedS3Config::new([("bucket", bucket)]) };
    let server = EmbeddedS3::start(config).await.unwrap();
    assert_eq!(send(&server, "GET /bucket/k").await.status(), "403");
}

#[tokio::test]
async fn a_stopped_server_refuses_and_comes_back_on_its_port() {
    let (mut server, _) = server().await;
    let url = server.endpoint_url();
    server.faults().add(Rule::new(WireFault::Stall(10)).when(When::First(1)));
    let mut stalled = TcpStream::connect(address(&server)).await.unwrap();
    stalled.write_all(b"GET /bucket/k HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    stalled.read_exact(&mut byte).await.unwrap();
    server.stop().await;
    // The connection under way ends too.
    let mut rest = Vec::new();
    _ = timeout(Duration::from_secs(10), stalled.read_to_end(&mut rest)).await.expect("closed");
    assert!((rest.len() as u64) < SIZE);
    let refused = TcpStream::connect(address(&server)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    server.restart().await.unwrap();
    assert_eq!(server.endpoint_url(), url);
    assert!(send(&server, "GET /bucket/k").await.body == bytes(0..SIZE));
}

#[tokio::test]
async fn dropping_closes_the_socket() {
    let (server, _) = server().await;
    let address = address(&server);
    let mut open = TcpStream::connect(&address).await.unwrap();
    drop(server);
    let mut rest = Vec::new();
    _ = timeout(Duration::from_secs(10), open.read_to_end(&mut rest)).await.expect("closed");
}

/// One GET of the whole object, or of `range`, that meets `fault`.
async fn faulty(fault: WireFault, range: Option<&str>) -> Reply {
    let (server, _) = server().await;
    server.faults().add(Rule::new(fault).on(Operation::Get));
    let headers = range.map(|range| format!("Range: bytes={range}\r\n")).unwrap_or_default();
    send(&server, &format!("GET /bucket/k\n{headers}")).await
}

#[tokio::test]
async fn connections_break_in_the_middle_of_bodies() {
    let reset = faulty(WireFault::Reset(1000), None).await;
    assert_eq!(reset.end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(reset.body.len() <= 1000);
    let closed = faulty(WireFault::Close(1000), None).await;
    assert!(closed.end.is_ok() && closed.head.contains("content-length: 300000"), "{}", closed.head);
    assert!(closed.body == bytes(0..1000));
    let chunked = faulty(WireFault::ChunkedClose(1000), None).await;
    assert!(chunked.head.contains("chunked") && !chunked.body.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn replies_lie_about_ranges() {
    for (fault, head, body) in [
        (WireFault::ShiftedRange, "bytes 11-20/300000", bytes(11..21)),
        (WireFault::ShiftedBytes, "bytes 10-19/300000", bytes(9..19)),
        (WireFault::ShorterRange, "bytes 10-14/300000", bytes(10..15)),
    ] {
        let reply = faulty(fault.clone(), Some("10-19")).await;
        assert!(reply.head.contains(head), "{fault:?}: {}", reply.head);
        assert_eq!(reply.body, body, "{fault:?}");
    }
    let whole = faulty(WireFault::IgnoredRange, Some("10-19")).await;
    assert_eq!((whole.status(), whole.body.len() as u64), ("200", SIZE));
    assert!(!whole.head.contains("content-range"), "{}", whole.head);
    let flipped = faulty(WireFault::BitFlip(3), Some("10-19")).await;
    let wrong: Vec<u8> = flipped.body.iter().zip(bytes(10..20)).map(|(a, b)| a ^ b).collect();
    assert_eq!(wrong, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn replies_are_replaced_and_spoiled() {
    for (fault, status, says) in [
        (WireFault::slow_down(), "503", "<code>slowdown"),
        (WireFault::Status { status: 429, code: "TooMany", retry_after: Some(7) }, "429", "retry-after: 7"),
        (WireFault::Redirect("eu-west-1"), "301", "x-amz-bucket-region: eu-west-1"),
        (WireFault::expired_token(), "400", "expiredtoken"),
        (WireFault::Html, "200", "<html>"),
        (WireFault::BigHeaders(20_000), "200", "x-padding-4"),
    ] {
        let reply = faulty(fault.clone(), None).await;
        assert_eq!(reply.status(), status, "{fault:?}");
        let all = format!("{}{}", reply.head, String::from_utf8_lossy(&reply.body).to_lowercase());
        assert!(all.contains(says), "{fault:?}: {}", reply.head);
    }
    assert!(!faulty(WireFault::NoETag, None).await.head.contains("etag"));
    let cut = faulty(WireFault::CutBody, None).await;
    assert!(cut.head.contains("content-length: 150000") && cut.body == bytes(0..150_000));
    assert_eq!(faulty(WireFault::Replace("new".into()), None).await.text(), "new");
    assert_eq!(faulty(WireFault::Remove, None).await.status(), "404");
}

#[tokio::test]
async fn the_checksum_of_a_whole_object_comes_when_stored_and_asked_for() {
    let (server, bucket) = server().await;
    // CRC-64/NVME of "123456789" is 0xAE8B14860A799888 (the catalogue's check value).
    assert_eq!(crc64nvme(&Content::from("123456789")), "rosUhgp5mIg=");
    let asking = "GET /bucket/k\nx-amz-checksum-mode: ENABLED\r\n";
    assert!(!send(&server, asking).await.head.contains("x-amz-checksum"));
    assert!(bucket.set_crc64nvme("k", "AAAAAAAAAAA="));
    assert!(send(&server, asking).await.head.contains("x-amz-checksum-crc64nvme: aaaaaaaaaaa="));
    assert!(!send(&server, "GET /bucket/k").await.head.contains("x-amz-checksum"));
    assert!(!send(&server, &format!("{asking}Range: bytes=0-9\r\n")).await.head.contains("x-amz-checksum"));
}
