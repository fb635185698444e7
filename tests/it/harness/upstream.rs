//! A protected API that does as the path of a request says, and notes every request that should not have come.
//!
//! | path | answer |
//! | --- | --- |
//! | `/echo…` | the request's body |
//! | `/forbidden` | 401, whatever the token |
//! | `/scope` | 401 with `insufficient_scope` |
//! | `/status/N` | status N |
//! | `/slow/MS` | 200 after so many milliseconds |
//! | `/throttled/N…` | 429 to the first N requests of this target, with `Retry-After` as `x-retry-after` says; then the body |
//! | `/trickle/N` | N pieces, 20 ms apart |
//! | `/big/N` | N bytes |
//! | `/hang` | nothing, ever |
//! | `/hangup` | the connection is closed before the head |
//! | `/break/length`, `/break/chunked` | the connection is closed in the middle of the body |
//! | anything else | 200 and a few words |
//!
//! A token that is not live is answered with 401. `x-when-rejected` says how: `late` (after the body was read),
//! `early` (at once; the body is read all the same), `early-close` (at once; the connection is closed), `early-reset` (at
//! once; the body is left); and
//! `x-rejected-with` with which status instead.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bearerd::demo::authorization_server::Introspection;
use bearerd::demo::server::{Body, Server, whole};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use rustls::ServerConfig;

use super::caller::REQUEST_ID;

#[derive(Debug)]
pub struct Upstream {
    server: Server,
    scheme: &'static str,
    notes: Arc<Notes>,
}

#[derive(Debug)]
struct Notes {
    tokens: Introspection,
    /// Whether requests must carry a token.
    is_protected: bool,
    violations: Mutex<Vec<String>>,
    requests: Mutex<Vec<Seen>>,
    rejected: AtomicUsize,
    port: AtomicUsize,
}

/// A request as the API saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub version: http::Version,
    pub fields: Vec<(String, String)>,
}

impl Seen {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

impl Upstream {
    /// Starts one at a free port.
    pub async fn start(tls: Option<Arc<ServerConfig>>, tokens: Introspection, is_protected: bool) -> Self {
        let notes = Arc::new(Notes {
            tokens,
            is_protected,
            violations: Mutex::default(),
            requests: Mutex::default(),
            rejected: AtomicUsize::new(0),
            port: AtomicUsize::new(0),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let answering = Arc::clone(&notes);
        let server = Server::start(tls, move |request| {
            let notes = Arc::clone(&answering);
            async move { notes.answer(request).await }
        })
        .await
        .unwrap();
        notes.port.store(server.address().port().into(), Ordering::Relaxed);
        Self { server, scheme, notes }
    }

    pub fn url(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.server.address().port())
    }

    /// How many requests were answered with 401 for their token.
    pub fn rejected(&self) -> usize {
        self.notes.rejected.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// All requests that came.
    pub fn requests(&self) -> Vec<Seen> {
        self.notes.requests.lock().unwrap().clone()
    }

    /// What should never have come.
    pub fn violations(&self) -> Vec<String> {
        self.notes.violations.lock().unwrap().clone()
    }
}

impl Notes {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        self.check(&head);
        let before =
            self.requests.lock().unwrap().iter().filter(|seen| head.uri == seen.target.as_str()).count();
        let fields = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        self.requests.lock().unwrap().push(Seen {
            method: head.method.to_string(),
            target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            version: head.version,
            fields: fields.collect(),
        });
        let mut response = if self.is_protected && !self.tokens.is_authorized(&head.headers) {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            reject(&head, body).await?
        } else {
            perform(&head, body, before).await?
        };
        let fields = response.headers_mut();
        if let Some(id) = head.headers.get(REQUEST_ID) {
            fields.insert(REQUEST_ID, id.clone());
        }
        fields.insert("server", HeaderValue::from_static("scripted"));
        // Hop-by-hop and misleading fields that must end at the proxy.
        fields.insert("alt-svc", HeaderValue::from_static("h3=\":443\""));
        fields.insert("keep-alive", HeaderValue::from_static("timeout=5"));
        Ok(response)
    }

    /// The invariants that a request shows.
    fn check(&self, head: &Parts) {
        let violation = |text: String| {
            self.violations.lock().unwrap().push(format!("{text}: {} {}", head.method, head.uri));
        };
        let tokens: Vec<&HeaderValue> = head.headers.get_all(AUTHORIZATION).iter().collect();
        match (tokens.as_slice(), self.is_protected) {
            ([], false) => {}
            ([only], true) => {
                let token = only.to_str().unwrap_or_default().strip_prefix("Bearer ").unwrap_or_default();
                if !self.tokens.was_issued(token) {
                    violation("I1/I2: not a token of ours".to_owned());
                }
                // A moment for the way here.
                if let Some(ago) =
                    self.tokens.ended_ago(token).filter(|ago| *ago > Duration::from_millis(300))
                {
                    violation(format!("I1: a token that ended {ago:?} ago"));
                }
            }
            (tokens, _) => violation(format!("I1: {} tokens", tokens.len())),
        }
        let host = format!("localhost:{}", self.port.load(Ordering::Relaxed));
        let hosts: Vec<&HeaderValue> = head.headers.get_all(HOST).iter().collect();
        let authority = head.uri.authority().map(http::uri::Authority::as_str);
        let is_good = match (head.version, hosts.as_slice()) {
            (http::Version::HTTP_2, []) => {
                authority == Some(&host) && matches!(head.uri.scheme_str(), Some("https"))
            }
            (http::Version::HTTP_2, _) => false,
            (_, [only]) => authority.is_none() && *only == host.as_str(),
            _ => false,
        };
        if !is_good {
            violation(format!("I3: Host is {hosts:?}, the authority {authority:?}"));
        }
        let lengths = head.headers.get_all(CONTENT_LENGTH).iter().count();
        let encodings = head.headers.get_all(TRANSFER_ENCODING).iter().count();
        if lengths + encodings > 1 {
            violation(format!("I4: {lengths} Content-Length, {encodings} Transfer-Encoding"));
        }
        for name in
            ["connection", "keep-alive", "te", "upgrade", "expect", "proxy-authorization", "forwarded"]
        {
            let value = head.headers.get(name).map(HeaderValue::as_bytes);
            let asks_for_trailers = match name {
                "te" => value == Some(b"trailers"),
                "connection" => value == Some(b"te") && head.version == http::Version::HTTP_11,
                _ => false,
            };
            if value.is_some() && !asks_for_trailers {
                violation(format!("{name} was passed on"));
            }
        }
        if head.headers.keys().any(|name| name.as_str().starts_with("x-forwarded-")) {
            violation("X-Forwarded-* was passed on".to_owned());
        }
        if !head.headers.contains_key("via") {
            violation("no Via".to_owned());
        }
    }
}

async fn reject(head: &Parts, body: Incoming) -> io::Result<Response<Body>> {
    let mut response = Response::new(whole("{\"error\":\"invalid_token\"}"));
    let status = head.headers.get("x-rejected-with").and_then(|status| status.to_str().ok()?.parse().ok());
    *response.status_mut() = status.unwrap_or(StatusCode::UNAUTHORIZED);
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
    match head.headers.get("x-when-rejected").map(HeaderValue::as_bytes) {
        Some(b"early") => {
            tokio::spawn(async move {
                let _ = body.collect().await;
            });
        }
        // The body is dropped: over HTTP/2 its stream is reset without an error.
        Some(b"early-reset") => {}
        Some(b"early-close") => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {
            body.collect().await.map_err(io::Error::other)?;
        }
    }
    Ok(response)
}

async fn perform(head: &Parts, body: Incoming, before: usize) -> io::Result<Response<Body>> {
    let path = head.uri.path();
    let mut segments = path.trim_start_matches('/').split('/');
    let (action, argument) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let number = argument.parse::<u64>().unwrap_or(0);
    let mut response = match action {
        "echo" => {
            let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let length = HeaderValue::from(bytes.len());
            let mut response = Response::new(whole(bytes));
            response.headers_mut().insert("x-body-bytes", length);
            return Ok(response);
        }
        "hang" => std::future::pending().await,
        "hangup" => return Err(io::Error::other("told to hang up")),
        "break" => {
            let pieces = vec![Ok(Bytes::from_static(b"half of it")), Err(io::Error::other("told to break"))];
            let mut response = Response::new(slowly(pieces, Duration::from_millis(20)));
            if argument == "length" {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("1000"));
            }
            response
        }
        "throttled" => {
            let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let is_throttled = before < usize::try_from(number).unwrap();
            let mut response =
                Response::new(whole(if is_throttled { Bytes::from("slow down") } else { bytes }));
            if is_throttled {
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                if let Some(wait) = head.headers.get("x-retry-after") {
                    response.headers_mut().insert("retry-after", wait.clone());
                }
            }
            return Ok(response);
        }
        "trickle" => {
            let pieces = (0..number).map(|piece| Ok(Bytes::from(format!("piece {piece}\n"))));
            Response::new(slowly(pieces.collect(), Duration::from_millis(20)))
        }
        "big" => Response::new(whole(vec![b'x'; usize::try_from(number).unwrap()])),
        "forbidden" | "scope" => {
            let challenge = if action == "scope" {
                "Bearer error=\"insufficient_scope\""
            } else {
                "Bearer realm=\"api\""
            };
            let mut response = Response::new(whole("{\"error\":\"forbidden\"}"));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            response
        }
        "status" => {
            let status =
                u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok()).unwrap();
            let mut response = Response::new(whole(if status == 204 { "" } else { "as told" }));
            *response.status_mut() = status;
            response
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            Response::new(whole("at last"))
        }
        _ => Response::new(whole("welcome")),
    };
    response.headers_mut().insert("x-seen-path", HeaderValue::from_str(path).unwrap());
    body.collect().await.map_err(io::Error::other)?;
    Ok(response)
}

/// A body of pieces with a pause before each.
fn slowly(pieces: Vec<io::Result<Bytes>>, pause: Duration) -> Body {
    let stream = futures_util::stream::unfold(pieces.into_iter(), move |mut pieces| async move {
        let piece = pieces.next()?;
        tokio::time::sleep(pause).await;
        Some((piece.map(Frame::data), pieces))
    });
    StreamBody::new(stream).boxed()
}
