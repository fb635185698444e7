//! A small HTTP server on loopback, with or without TLS (and HTTP/2 where that agrees on it), whose every request goes to one function.

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

/// The body of an answer, whole or in pieces.
pub type Body = BoxBody<Bytes, io::Error>;

/// The function, and the stream below: whatever they are, hyper's servers are compiled for them once.
type Answer = Arc<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = io::Result<Response<Body>>> + Send>>;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1 and answers requests with `answer`.
    ///
    /// # Errors
    ///
    /// If no port is to be had.
    pub async fn start<A, F>(tls: Option<Arc<ServerConfig>>, answer: A) -> io::Result<Self>
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
    {
        let answer: Answer = Arc::new(move |request| Box::pin(answer(request)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tls = tls.map(TlsAcceptor::from);
        let accepted = Arc::new(AtomicUsize::new(0));
        let connections = Arc::clone(&accepted);
        let accepting = async move {
            // Ends with the task that holds it, and all connections with it.
            let mut serving = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                accepted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nodelay(true);
                let (tls, answer) = (tls.clone(), Arc::clone(&answer));
                serving.spawn(async move {
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

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves one connection; an answer that is an error resets it, or its stream.
async fn serve(stream: Box<dyn Stream>, is_http2: bool, answer: Answer) {
    let stream = TokioIo::new(stream);
    let answer = service_fn(move |request| answer(request));
    let _ = if is_http2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(stream, answer).await
    } else {
        http1::Builder::new().serve_connection(stream, answer).await
    };
}

/// A body that is there as a whole.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A status with a JSON body; as RFC 6749 §5.1 has it, never cached.
pub fn json(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
