//! An issuer whose discovery document names an organization's API.

use std::sync::{Arc, Mutex};

use crate::server::{Body, Server, json, whole};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use rustls::ServerConfig;

/// The response of the issuer.
#[derive(Clone, Debug)]
pub enum Says {
    /// A document with this `api_endpoint`.
    Api(String),
    /// A status and a body.
    Status(u16, String),
    /// HTML with status 200.
    Html,
    /// A redirect to this location; `/right` has a good document.
    Redirect(String),
    /// No answer.
    Hangs,
    /// No answer: the connection is closed.
    HangsUp,
}

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The path and the query.
    pub target: String,
    /// The fields.
    pub headers: HeaderMap,
}

/// An issuer that runs until it is dropped.
#[derive(Debug)]
pub struct Issuer {
    server: Server,
    scheme: &'static str,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Issuer {
    /// Starts an issuer that is reached by http.
    pub async fn start(says: Says) -> Self {
        Self::start_with(None, says).await
    }

    /// Starts an issuer, with TLS or without.
    pub async fn start_with(tls: Option<Arc<ServerConfig>>, says: Says) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (says, asked) = (Arc::new(Mutex::new(says)), Arc::new(Mutex::new(Vec::new())));
        let (told, noted) = (Arc::clone(&says), Arc::clone(&asked));
        let server = Server::start(tls, move |request| {
            let (told, noted) = (Arc::clone(&told), Arc::clone(&noted));
            async move { answer(&request, &told, &noted).await }
        })
        .await
        .unwrap();
        Self { server, scheme, says, asked }
    }

    /// Scheme, host and port.
    pub fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.server.address().port())
    }

    /// Changes the answer.
    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// All requests that were received.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    request: &Request<Incoming>,
    says: &Mutex<Says>,
    asked: &Mutex<Vec<Asked>>,
) -> std::io::Result<Response<Body>> {
    asked
        .lock()
        .unwrap()
        .push(Asked { target: request.uri().to_string(), headers: request.headers().clone() });
    if request.uri().path() == "/right" {
        return Ok(document("http://127.0.0.1:1"));
    }
    let says = says.lock().unwrap().clone();
    Ok(match says {
        Says::Api(api) => document(&api),
        Says::Status(status, body) => json(status, body),
        Says::Html => {
            let mut response = Response::new(whole("<html><body>maintenance</body></html>"));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            response
        }
        Says::Redirect(location) => {
            let mut response = json(302, "");
            response.headers_mut().insert(LOCATION, location.parse().unwrap());
            response
        }
        Says::Hangs => std::future::pending().await,
        Says::HangsUp => return Err(std::io::Error::other("told to hang up")),
    })
}

fn document(api: &str) -> Response<Body> {
    json(200, serde_json::json!({ "issuer": "x", "api_endpoint": api, "area": "na1" }).to_string())
}
