//! A protected API: a request with a live access token is answered by a script, every other request with 401.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::authorization_server::Introspection;
use crate::server::{Body, Server, whole};

/// An API that runs until it is dropped.
#[derive(Debug)]
pub struct Api<S> {
    server: Server,
    scheme: &'static str,
    shared: Arc<Answering<S>>,
}

/// Answers the requests of an API.
#[derive(Debug)]
pub(crate) struct Answering<S> {
    script: S,
    rejected: AtomicUsize,
}

/// The steps of an API at a request, in the order of the methods.
///
/// An error resets the connection, or the HTTP/2 stream.
pub trait Script: Send + Sync + 'static {
    /// Records a request before its token is looked at.
    fn record(&self, _head: &Parts) {}

    /// The tokens of which a request must carry one; `None` if it needs none.
    fn tokens(&self, head: &Parts) -> Option<&Introspection>;

    /// Answers a request that carries a live token, or needs none.
    fn answer(&self, head: &Parts, body: Incoming)
    -> impl Future<Output = io::Result<Response<Body>>> + Send;

    /// Answers a request without a live token.
    fn reject(
        &self,
        _head: &Parts,
        body: Incoming,
    ) -> impl Future<Output = io::Result<Response<Body>>> + Send {
        async {
            body.collect().await.map_err(io::Error::other)?;
            Ok(invalid_token())
        }
    }

    /// Adds fields to an answer.
    fn complete(&self, _head: &Parts, _response: &mut Response<Body>) {}
}

impl<S: Script> Api<S> {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn listen(tls: Option<Arc<ServerConfig>>, script: S) -> io::Result<Self> {
        Self::serve(TcpListener::bind("127.0.0.1:0").await?, tls, script)
    }

    /// Accepts connections from a listener.
    ///
    /// # Errors
    ///
    /// If the listener has no address.
    pub fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, script: S) -> io::Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Answering::new(script));
        let answering = Arc::clone(&shared);
        let server = Server::serve(listener, tls, move |request| {
            let shared = Arc::clone(&answering);
            async move { shared.answer(request).await }
        })?;
        Ok(Self { server, scheme, shared })
    }

    /// Scheme, host and port.
    pub fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.server.address().port())
    }

    /// How many requests had no live token.
    pub fn rejected(&self) -> usize {
        self.shared.rejected.load(Ordering::Relaxed)
    }

    /// How many connections the API has accepted.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// How many of its connections are open.
    pub fn open_connections(&self) -> usize {
        self.server.open_connections()
    }

    /// The script of the API.
    pub fn script(&self) -> &S {
        &self.shared.script
    }
}

impl<S: Script> Answering<S> {
    pub(crate) const fn new(script: S) -> Self {
        Self { script, rejected: AtomicUsize::new(0) }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let Self { script, rejected } = self;
        let (head, body) = request.into_parts();
        script.record(&head);
        let is_authorized = script.tokens(&head).is_none_or(|tokens| tokens.is_authorized(&head.headers));
        let mut response = if is_authorized {
            script.answer(&head, body).await?
        } else {
            rejected.fetch_add(1, Ordering::Relaxed);
            script.reject(&head, body).await?
        };
        script.complete(&head, &mut response);
        Ok(response)
    }
}

/// 401 with the challenge of RFC 6750 §3.1 for a token that has ended or was revoked.
pub fn invalid_token() -> Response<Body> {
    let mut response = Response::new(whole("{\"error\":\"invalid_token\"}"));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

/// Answers each request with a description of it, in JSON.
#[derive(Debug)]
pub struct Describe {
    /// The tokens of which a request must carry one.
    pub tokens: Introspection,
}

impl Script for Describe {
    fn tokens(&self, _: &Parts) -> Option<&Introspection> {
        Some(&self.tokens)
    }

    async fn answer(&self, head: &Parts, body: Incoming) -> io::Result<Response<Body>> {
        let length = body.collect().await.map_err(io::Error::other)?.to_bytes().len();
        let description = serde_json::json!({
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "body_bytes": length,
            "message": "this request carried a live token",
        });
        Ok(Response::new(whole(format!("{description}\n"))))
    }

    fn complete(&self, _: &Parts, response: &mut Response<Body>) {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
}
