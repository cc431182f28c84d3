//! A server that answers what a test wrote, byte for byte, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query as sent; a whole URL if sent to a proxy.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The region that the request is signed for.
    pub(crate) fn signed_region(&self) -> Option<&str> {
        // Credential=AKID/20130524/us-east-1/s3/aws4_request
        self.header("authorization")?.split("Credential=").nth(1)?.split('/').nth(2)
    }

    /// The access key id that signed it.
    pub(crate) fn signer(&self) -> Option<&str> {
        self.header("authorization")?.split("Credential=").nth(1)?.split('/').next()
    }
}

/// What to do with a connection after a request.
pub(crate) enum Reply {
    /// Send these bytes, then close.
    Bytes(Vec<u8>),
    /// Say nothing, for as long as the server lives.
    Silence,
}

/// `HTTP/1.1 <status>` with the length of `body`, and `headers` as lines.
pub(crate) fn reply(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let headers: String = headers.lines().map(|line| format!("{}\r\n", line.trim())).collect();
    let head = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    Reply::Bytes([head.as_bytes(), body].concat())
}

/// S3's error document.
pub(crate) fn error(status: u16, code: &str, more: &str) -> Reply {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as told</Message>{more}</Error>");
    reply(status, "Content-Type: application/xml\nx-amz-request-id: 4442587FB7D0A2F9", body)
}

/// What lies between TCP and HTTP.
#[derive(Clone)]
pub(crate) enum Transport {
    Plain,
    Tls(TlsAcceptor),
    /// As `Tls`, behind a proxy's CONNECT, whatever host it names: the server stands for that host.
    Tunnel(TlsAcceptor),
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// The running server; dropping it closes its socket and connections.
pub(crate) struct Canned {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Canned {
    pub(crate) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_over(Transport::Plain, handler).await
    }

    pub(crate) async fn start_over(
        transport: Transport,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), transport, handler)
    }

    /// Serves the connections of `listener`, those that wait already too.
    pub(crate) fn on(
        listener: TcpListener,
        transport: Transport,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (handler, seen): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(accept(stream, transport.clone(), Arc::clone(&handler), Arc::clone(&seen)));
            }
        });
        Self { addr, requests, task }
    }

    /// `http://127.0.0.1:<port>`
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    mut stream: TcpStream,
    transport: Transport,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Request>>>,
) {
    let tls = match transport {
        Transport::Plain => return serve(stream, handler, seen).await,
        Transport::Tls(tls) => tls,
        Transport::Tunnel(tls) => {
            // Nothing follows the request before it is answered, so that no byte of the TLS greeting is read here.
            let mut connect = BufReader::new(stream);
            let Some(request) = read_request(&mut connect).await else { return };
            assert_eq!(request.method, "CONNECT", "{request:?}");
            stream = connect.into_inner();
            if stream.write_all(b"HTTP/1.1 200 X\r\n\r\n").await.is_err() {
                return;
            }
            tls
        }
    };
    // A client that does not trust the certificate hangs up.
    if let Ok(stream) = tls.accept(stream).await {
        serve(stream, handler, seen).await;
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Request>>>,
) {
    let mut stream = BufReader::new(stream);
    let Some(request) = read_request(&mut stream).await else { return };
    let reply = handler(&request);
    seen.lock().push(request);
    match reply {
        // The client may have hung up, having seen enough.
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        Reply::Silence => std::future::pending().await,
    }
}

async fn read_request(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        // What is no HTTP (a TLS greeting) has no line end to wait for.
        let read = stream.read_until(b'\n', &mut line).await.ok()?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        match (read, line.is_empty()) {
            (0, _) => return None,
            (_, true) => break,
            (_, false) if !line.is_ascii() => return Some(Request::default()),
            (_, false) => lines.push(line),
        }
    }
    let mut words = lines.first()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let header = |line: &String| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned()));
    let headers = lines[1..].iter().filter_map(header).collect();
    let mut request = Request { method, target, headers, body: String::new() };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8(body).unwrap();
    Some(request)
}
