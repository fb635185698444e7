//! Well-behaved callers over HTTP/1.1 or HTTP/2, in clear text or over TLS.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use testkit::harness::request::TEST_ID;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::world::{SEGMENT, World};

/// Longer than any answer takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A connection of any kind.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A connection that is closed when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    authority: String,
    scheme: &'static str,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A response's head, and the part of its body that arrived.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The request's id, as the answer says.
    pub(crate) id: Option<String>,
    /// The code of bearerd's own problem details.
    pub(crate) code: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) is_complete: bool,
    pub(crate) took: Duration,
}

/// A unique request id.
pub(crate) fn new_id() -> String {
    format!("load-{}", NEXT_ID.fetch_add(1, Ordering::Relaxed))
}

/// A connection to the daemon; a slow one has small buffers, as over a network.
pub(crate) async fn connect(world: &World, version: Version, is_slow: bool) -> io::Result<Box<dyn Socket>> {
    let socket = TcpSocket::new_v4()?;
    if is_slow {
        socket.set_recv_buffer_size(4096)?;
        SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    }
    let stream = socket.connect(world.address).await?;
    stream.set_nodelay(true)?;
    let Some(config) = &world.tls else { return Ok(Box::new(stream)) };
    let mut config = (**config).clone();
    let protocol: &[u8] = if version == Version::Http1 { b"http/1.1" } else { b"h2" };
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    Ok(Box::new(connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?))
}

/// The certificate that the daemon shows, DER.
pub(crate) async fn certificate(world: &World) -> io::Result<Vec<u8>> {
    let config = world.tls.clone().expect("callers speak TLS");
    let stream = TcpStream::connect(world.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

impl Connection {
    pub(crate) async fn open(world: &World, version: Version) -> io::Result<Self> {
        let authority = format!("localhost:{}", world.address.port());
        let scheme = if world.tls.is_some() { "https" } else { "http" };
        Self::over(connect(world, version, false).await?, version, authority, scheme).await
    }

    pub(crate) async fn over(
        socket: Box<dyn Socket>,
        version: Version,
        authority: String,
        scheme: &'static str,
    ) -> io::Result<Self> {
        let io = TokioIo::new(socket);
        let (sender, task) = match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                (Sender::Http1(sender), tokio::spawn(async { drop(connection.await) }))
            }
            Version::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = handshake.map_err(io::Error::other)?;
                (Sender::Http2(sender), tokio::spawn(async { drop(connection.await) }))
            }
        };
        Ok(Self { sender, authority, scheme, task })
    }

    /// Another sender over the same HTTP/2 connection.
    pub(crate) fn share(&self) -> Option<Self> {
        let Sender::Http2(sender) = &self.sender else { return None };
        let sender = Sender::Http2(sender.clone());
        Some(Self {
            sender,
            authority: self.authority.clone(),
            scheme: self.scheme,
            task: tokio::spawn(async {}),
        })
    }

    /// Whether another request can be sent.
    pub(crate) async fn is_ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Whether the daemon closes the connection within this time.
    pub(crate) async fn is_closed(&mut self, within: Duration) -> bool {
        tokio::time::timeout(within, &mut self.task).await.is_ok()
    }

    /// Sends a request and reads the answer; an error if there is no answer.
    pub(crate) async fn ask(
        &mut self,
        id: &str,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Answer, hyper::Error> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let request = Request::builder().method(method).header(TEST_ID, id);
        // The caller's own token, which must not reach the API.
        let request = request.header("authorization", "Bearer the-callers-own");
        let body = Full::new(body.unwrap_or_default());
        let began = Instant::now();
        let answer = async {
            let response = match &mut self.sender {
                Sender::Http1(sender) => {
                    let request = request.uri(path).header("host", &self.authority);
                    sender.send_request(request.body(body).unwrap()).await?
                }
                Sender::Http2(sender) => {
                    let request = request.uri(format!("{}://{}{path}", self.scheme, self.authority));
                    sender.send_request(request.body(body).unwrap()).await?
                }
            };
            let (head, mut body) = response.into_parts();
            let mut received = Vec::new();
            let is_complete = loop {
                match body.frame().await {
                    None => break true,
                    Some(Err(_)) => break false,
                    Some(Ok(frame)) => received.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                }
            };
            let text = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
            let is_ours = text("content-type").as_deref() == Some("application/problem+json");
            let code = is_ours.then(|| {
                let problem: serde_json::Value = serde_json::from_slice(&received).unwrap_or_default();
                problem["code"].as_str().unwrap_or("unreadable").to_owned()
            });
            let (status, id) = (head.status.as_u16(), text(TEST_ID));
            Ok(Answer { status, id, code, body: received.into(), is_complete, took: began.elapsed() })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.expect("no answer in time")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
