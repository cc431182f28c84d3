//! An address that swallows packets: nobody answers, and nobody refuses.

use std::sync::Arc;
use std::time::Duration;

use sluicefs_s3_client::testing::FaultBucket;
use sluicefs_s3_client::{
    AwsBucket, Bucket, ClientConfig, CredentialSource, Error, ErrorKind, KeyPrefix, ListRequest,
    ReliableBucket, RetryConfig, open,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::canned::{Canned, Transport, reply};

const PAGE: &str =
    "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";

/// A listener whose queue is full, so that the kernel drops every greeting.
struct BlackHole {
    listener: TcpListener,
    queued: Vec<TcpStream>,
}

impl BlackHole {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
            queued.push(stream.unwrap());
        }
        Self { listener, queued }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }
}

async fn bucket(url: String) -> AwsBucket {
    let config = ClientConfig {
        endpoint_url: Some(url),
        credentials: CredentialSource::Anonymous,
        connect_timeout: Duration::from_millis(200),
        ..ClientConfig::default()
    };
    AwsBucket::connect("b", &config).await.unwrap()
}

fn root() -> ListRequest {
    ListRequest::directory(KeyPrefix::root())
}

fn is_connect_timeout(error: &Error) -> bool {
    (error.kind(), error.code()) == (ErrorKind::Transient, Some("ConnectTimeout"))
}

#[tokio::test]
async fn an_address_that_never_answers_is_given_up_at_the_deadline() {
    let hole = BlackHole::new().await;
    let config = RetryConfig {
        backoff_cap: Duration::from_millis(100),
        operation_deadline: Duration::from_secs(1),
        jitter_seed: Some(1),
        ..RetryConfig::default()
    };
    let bucket = ReliableBucket::new(Arc::new(bucket(hole.url()).await), config);
    let start = Instant::now();
    let error = bucket.list(root()).await.unwrap_err();
    assert!(is_connect_timeout(&error) && error.attempts() > 1, "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_mount_says_that_nobody_answers() {
    let hole = BlackHole::new().await;
    let error = open::probe(&bucket(hole.url()).await, &KeyPrefix::root(), Duration::from_secs(10)).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("no connection to the endpoint within") && text.contains(&hole.url()), "{text}");
    assert!(
        text.contains("check the endpoint URL, the network and proxies") && !text.contains('\n'),
        "{text}"
    );
}

#[tokio::test]
async fn an_address_that_answers_again_is_used_again() {
    let hole = BlackHole::new().await;
    let below = Arc::new(FaultBucket::new(bucket(hole.url()).await));
    let config = RetryConfig { backoff_cap: Duration::from_millis(100), ..RetryConfig::default() };
    let bucket = ReliableBucket::new(Arc::clone(&below) as Arc<dyn Bucket>, config);
    let back = async {
        while below.requests().total() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let BlackHole { listener, queued } = hole;
        drop(queued);
        Canned::on(listener, Transport::Plain, |_| reply(200, "", PAGE))
    };
    let (page, _server) = tokio::join!(bucket.list(root()), back);
    page.unwrap();
}
