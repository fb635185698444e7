//! A small HTTP server on loopback that answers every request with one function.
//!
//! The server speaks HTTP/1.1 in clear text. Over TLS it speaks what the two sides agree on (ALPN), HTTP/2 included.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// The body of an answer, in one piece or several.
pub type Body = BoxBody<Bytes, io::Error>;

/// The function and the stream are trait objects, so that hyper's servers are compiled once.
type Answer = Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = io::Result<Response<Body>>> + Send>>;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    connections: Arc<Connections>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1 and answers requests with `answer`.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start<A, F>(tls: Option<Arc<ServerConfig>>, answer: A) -> io::Result<Self>
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
    {
        Self::serve(TcpListener::bind("127.0.0.1:0").await?, tls, answer)
    }

    /// Accepts connections from a listener and answers requests with `answer`.
    ///
    /// # Errors
    ///
    /// If the listener has no address.
    pub fn serve<A, F>(listener: TcpListener, tls: Option<Arc<ServerConfig>>, answer: A) -> io::Result<Self>
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
    {
        let answer: Answer = Arc::new(move |request| Box::pin(answer(request)));
        let address = listener.local_addr()?;
        let tls = tls.map(TlsAcceptor::from);
        let connections = Arc::new(Connections::default());
        let counted = Arc::clone(&connections);
        let accepting = async move {
            // Dropped with the task that holds it, and all connections with it.
            let mut serving = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let open = counted.open();
                let _ = stream.set_nodelay(true);
                let (tls, answer) = (tls.clone(), Arc::clone(&answer));
                serving.spawn(async move {
                    let _open = open;
                    match tls {
                        None => serve(Box::new(stream), false, answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                serve(Box::new(stream), is_http2, answer).await;
                            }
                        }
                    }
                });
                while serving.try_join_next().is_some() {}
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the task is owned by the server and ends with it")]
        let accepting = tokio::spawn(accepting);
        Ok(Self { address, connections, accepting })
    }

    /// The address that the server listens on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections the server has accepted.
    pub fn connections(&self) -> usize {
        self.connections.accepted.load(Ordering::Relaxed)
    }

    /// How many of its connections are open.
    pub fn open_connections(&self) -> usize {
        self.connections.open.load(Ordering::Relaxed)
    }
}

/// Counts connections.
#[derive(Debug, Default)]
struct Connections {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// Counts as an open connection until it is dropped.
struct Open(Arc<Connections>);

impl Connections {
    fn open(self: &Arc<Self>) -> Open {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves one connection. An answer that is an error resets the connection, or the HTTP/2 stream.
async fn serve(stream: Box<dyn Stream>, is_http2: bool, answer: Answer) {
    let stream = TokioIo::new(stream);
    let answer = service_fn(move |request| answer(request));
    let _ = if is_http2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await
    } else {
        http1::Builder::new().serve_connection(stream, answer).await
    };
}

/// A body in one piece.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A status with a JSON body that must not be cached (RFC 6749 §5.1).
pub fn json(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
