//! The demo's protected API: answers whoever has a live token, and 401 to all others.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ServerConfig;

use super::authorization_server::Introspection;
use super::server::{Body, Server, whole};

/// An API that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Api {
    server: Server,
    rejected: Arc<AtomicUsize>,
}

impl Api {
    pub(super) async fn start(tls: Arc<ServerConfig>, tokens: Introspection) -> io::Result<Self> {
        let rejected = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&rejected);
        let server = Server::start(Some(tls), move |request| {
            let (tokens, counter) = (tokens.clone(), Arc::clone(&counter));
            async move { answer(request, &tokens, &counter).await }
        })
        .await?;
        Ok(Self { server, rejected })
    }

    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}", self.server.address().port())
    }

    /// How many requests it answered with 401.
    pub(super) fn rejected(&self) -> usize {
        self.rejected.load(Ordering::Relaxed)
    }
}

async fn answer(
    request: Request<Incoming>,
    tokens: &Introspection,
    rejected: &AtomicUsize,
) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let length = body.collect().await.map_err(io::Error::other)?.to_bytes().len();
    let mut response = if tokens.is_authorized(&head.headers) {
        let said = serde_json::json!({
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "body_bytes": length,
            "message": "a live token came with this request",
        });
        Response::new(whole(format!("{said}\n")))
    } else {
        rejected.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(whole("{\"error\":\"invalid_token\"}\n"));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
        response
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
