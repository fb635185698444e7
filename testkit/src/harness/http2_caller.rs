//! A caller that speaks HTTP/2 and checks every response.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::STEP_TIMEOUT;
use super::caller::{Reply, Socket, assert_identified};
use super::request::{Body, Request, TEST_ID};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One connection; clones share it.
#[derive(Clone, Debug)]
pub struct Http2Caller {
    sender: http2::SendRequest<Full<Bytes>>,
    /// Scheme and authority.
    origin: String,
}

impl Http2Caller {
    /// Connects over TCP, in clear text with prior knowledge (RFC 9113 §3.3).
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), format!("http://{address}")).await
    }

    /// Speaks over a connection that the test made; `origin` is scheme and authority.
    pub async fn over(stream: impl Socket + 'static, origin: String) -> Self {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, origin }
    }

    /// Sends a GET; returns whether the response breaks off.
    pub async fn breaks(&mut self, request: &Request) -> bool {
        let uri = format!("{}{}", self.origin, request.target);
        let request = http::Request::get(uri).body(Full::new(Bytes::new())).unwrap();
        let response = tokio::time::timeout(STEP_TIMEOUT, self.sender.send_request(request)).await;
        let response = response.expect("no answer in time").unwrap();
        response.into_body().collect().await.is_err()
    }

    /// Sends a request and reads the response, which must be complete.
    pub async fn send(&mut self, request: &Request) -> Reply {
        let id = format!("h2-{}", NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let mut built = http::Request::builder()
            .method(request.method)
            .uri(format!("{}{}", self.origin, request.target))
            .header(TEST_ID, &id)
            .header("authorization", "Bearer the-callers-own");
        for (name, value) in &request.fields {
            built = built.header(name, value);
        }
        let body = match &request.body {
            Body::None => Bytes::new(),
            Body::Length(body) => Bytes::from(body.clone()),
            Body::Chunked(chunks) => Bytes::from(chunks.concat()),
        };
        let sending = self.sender.send_request(built.body(Full::new(body)).unwrap());
        let response = tokio::time::timeout(STEP_TIMEOUT, sending).await.expect("no answer in time").unwrap();
        let status = response.status().as_u16();
        let fields = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let fields: Vec<(String, String)> = fields.collect();
        let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
        for forbidden in ["connection", "keep-alive", "transfer-encoding", "alt-svc"] {
            assert!(!fields.iter().any(|(name, _)| name == forbidden), "{forbidden} over HTTP/2");
        }
        let reply = Reply { status, reason: String::new(), fields, body };
        assert!(!reply.text().contains("tok_"), "a token in the body");
        assert_identified(&reply);
        if reply.code().is_none() && !reply.is_stub() {
            assert_eq!(reply.get(TEST_ID), Some(id.as_str()), "the answer to another request");
        }
        reply
    }
}
