//! The scripted API: does what a request's path says, and records every request that should not have come.
//!
//! [`answers`] lists the paths. A request without a live token is answered with 401; the field `x-when-rejected` says how:
//! `late` (after the body was read, the default), `early` (at once; the body is read), `early-close` (at once; the
//! connection is closed), `early-reset` (at once; the body is not read). `x-rejected-with` names another status.

pub mod answers;
pub mod attempts;
mod invariants;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use self::attempts::{Attempts, Outcome};
use super::request::TEST_ID;
use crate::api::{Api, Script};
use crate::authorization_server::Introspection;
use crate::server::Body;

/// The field by which a test tells configurations apart: a number that the daemon sets.
pub const ROUND: &str = "x-round";

/// The scripted API.
pub type Upstream = Api<Scripted>;

/// The script: what is answered, and what is recorded.
#[derive(Debug)]
#[must_use = "a script does nothing until it is served"]
pub struct Scripted {
    /// `localhost` and the API's port: the only `Host` that may come.
    host: String,
    /// Path prefixes, and the tokens that requests below them need.
    tokens: Vec<(&'static str, Introspection)>,
    records: Records,
    /// How many percent of the requests are reset.
    resets: AtomicU32,
    count: AtomicUsize,
    round: AtomicUsize,
    violations: Mutex<Vec<String>>,
    /// How long after its issue each node learns of a token that is issued from the given moment on.
    nodes: Mutex<(Instant, Vec<Duration>)>,
    turn: AtomicUsize,
    rejected_by_late_nodes: AtomicUsize,
    /// Whether requests of `/held` are answered.
    is_released: watch::Sender<bool>,
}

/// What is recorded of requests.
#[derive(Debug)]
enum Records {
    /// All of it, for tests that look at them.
    Requests(Mutex<Vec<Seen>>),
    /// How often each came and what it was answered, for tests under load.
    Attempts(Attempts),
}

/// A request as the API received it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The version of HTTP.
    pub version: Version,
    /// The fields, in lower case.
    pub fields: Vec<(String, String)>,
}

impl Seen {
    /// The first field of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

impl Scripted {
    /// A script for the API at this port that needs no token and records requests.
    pub fn new(port: u16) -> Self {
        Self {
            host: format!("localhost:{port}"),
            tokens: Vec::new(),
            records: Records::Requests(Mutex::default()),
            resets: AtomicU32::new(0),
            count: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            violations: Mutex::default(),
            nodes: Mutex::new((Instant::now(), Vec::new())),
            turn: AtomicUsize::new(0),
            rejected_by_late_nodes: AtomicUsize::new(0),
            is_released: watch::Sender::new(false),
        }
    }

    /// Requests below this path need one of these tokens. The longest prefix counts, and the script's paths begin behind
    /// it.
    pub fn protect(mut self, prefix: &'static str, tokens: Introspection) -> Self {
        self.tokens.push((prefix, tokens));
        self.tokens.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        self
    }

    /// Records attempts in the place of requests.
    pub fn with_attempts(mut self) -> Self {
        self.records = Records::Attempts(Attempts::default());
        self
    }

    /// The tokens that a request needs, and its path as the script reads it.
    fn protection<'a>(&self, path: &'a str) -> (Option<&Introspection>, &'a str) {
        let mut below = self
            .tokens
            .iter()
            .filter_map(|(prefix, tokens)| path.strip_prefix(prefix).map(|rest| (Some(tokens), rest)));
        below.next().unwrap_or((None, path))
    }

    /// Whether the node in turn does not know this request's token yet.
    fn is_late(&self, head: &Parts) -> bool {
        let (since, nodes) = &*self.nodes.lock().unwrap();
        let (Some(tokens), false) = (self.protection(head.uri.path()).0, nodes.is_empty()) else {
            return false;
        };
        let delay = nodes[self.turn.fetch_add(1, Ordering::Relaxed) % nodes.len()];
        tokens.age(invariants::token(head)) < delay.min(since.elapsed())
    }

    fn violation(&self, head: &Parts, text: &str) {
        self.violations.lock().unwrap().push(format!("{text}: {} {}", head.method, head.uri));
    }

    fn outcome(&self, head: &Parts, outcome: Outcome) {
        if let Records::Attempts(attempts) = &self.records {
            attempts.end(id(head), outcome);
        }
    }
}

impl Script for Scripted {
    fn record(&self, head: &Parts) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let round = head.headers.get(ROUND).and_then(|round| round.to_str().ok()?.parse().ok());
        self.round.store(round.unwrap_or(0), Ordering::Relaxed);
        let (tokens, _) = self.protection(head.uri.path());
        for violation in invariants::violations(head, &self.host, tokens) {
            self.violation(head, &violation);
        }
        match &self.records {
            Records::Requests(requests) => requests.lock().unwrap().push(seen(head)),
            Records::Attempts(attempts) => {
                let (id, token) = (id(head), invariants::token(head));
                if let Err(violation) = attempts.begin(id, token, tokens, head.method.is_idempotent()) {
                    self.violation(head, &format!("{violation} ({id})"));
                }
            }
        }
    }

    fn tokens(&self, head: &Parts) -> Option<&Introspection> {
        self.protection(head.uri.path()).0
    }

    async fn answer(&self, head: &Parts, body: Incoming) -> io::Result<Response<Body>> {
        if self.is_late(head) {
            self.rejected_by_late_nodes.fetch_add(1, Ordering::Relaxed);
            return self.reject(head, body).await;
        }
        let is_reset = fastrand::u32(..100) < self.resets.load(Ordering::Relaxed);
        if is_reset {
            self.outcome(head, Outcome::Reset);
            if fastrand::bool() {
                return Err(io::Error::other("reset before the answer"));
            }
        }
        let (_, path) = self.protection(head.uri.path());
        if path.starts_with("/held") {
            let _ = self.is_released.subscribe().wait_for(|is_released| *is_released).await;
        }
        let mut response = answers::answer(head, path, body, self.earlier(head)).await?;
        if is_reset {
            response = response.map(|body| answers::cut(body).boxed());
        } else {
            self.outcome(head, Outcome::Answered);
        }
        Ok(response)
    }

    async fn reject(&self, head: &Parts, body: Incoming) -> io::Result<Response<Body>> {
        self.outcome(head, Outcome::Rejected);
        answers::reject(head, body).await
    }

    fn complete(&self, head: &Parts, response: &mut Response<Body>) {
        let fields = response.headers_mut();
        if let Some(id) = head.headers.get(TEST_ID) {
            fields.insert(TEST_ID, id.clone());
        }
        fields.insert("server", HeaderValue::from_static("scripted"));
        // Fields that concern one connection, or lead callers elsewhere: they must end at the proxy.
        fields.insert("alt-svc", HeaderValue::from_static("h3=\":443\""));
        fields.insert("keep-alive", HeaderValue::from_static("timeout=5"));
    }
}

impl Scripted {
    /// How many requests of this target came before this one.
    fn earlier(&self, head: &Parts) -> usize {
        let Records::Requests(requests) = &self.records else { return 0 };
        let requests = requests.lock().unwrap();
        requests.iter().filter(|seen| head.uri == seen.target.as_str()).count().saturating_sub(1)
    }
}

/// The request's id; empty if it has none.
fn id(head: &Parts) -> &str {
    head.headers.get(TEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

fn seen(head: &Parts) -> Seen {
    let fields = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    Seen {
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        version: head.version,
        fields: fields.collect(),
    }
}

impl Upstream {
    /// Starts on a free port; requests need one of `tokens` if the API is protected.
    pub async fn start(tls: Option<Arc<ServerConfig>>, tokens: Introspection, is_protected: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script = Scripted::new(listener.local_addr().unwrap().port());
        let script = if is_protected { script.protect("", tokens) } else { script };
        Self::serve(listener, tls, script).unwrap()
    }

    /// All requests that came.
    ///
    /// # Panics
    ///
    /// If the script records attempts.
    pub fn requests(&self) -> Vec<Seen> {
        let Records::Requests(requests) = &self.script().records else { panic!("attempts are recorded") };
        requests.lock().unwrap().clone()
    }

    /// How many requests came.
    pub fn request_count(&self) -> usize {
        self.script().count.load(Ordering::Relaxed)
    }

    /// The invariants that requests broke.
    pub fn violations(&self) -> Vec<String> {
        self.script().violations.lock().unwrap().clone()
    }

    /// Resets so many percent of the requests from now on.
    pub fn reset(&self, percent: u32) {
        self.script().resets.store(percent, Ordering::Relaxed);
    }

    /// From now on the API has so many nodes, which take requests with a live token in turn. Each node rejects a token that is
    /// issued from now on until so long after its issue.
    pub fn set_nodes(&self, delays: &[Duration]) {
        *self.script().nodes.lock().unwrap() = (Instant::now(), delays.to_vec());
        self.script().turn.store(0, Ordering::Relaxed);
    }

    /// How many requests a node rejected because it did not know the token yet.
    pub fn rejected_by_late_nodes(&self) -> usize {
        self.script().rejected_by_late_nodes.load(Ordering::Relaxed)
    }

    /// Answers requests of `/held`, the earlier ones too.
    pub fn release(&self) {
        self.script().is_released.send_replace(true);
    }

    /// The number that the latest request had in [`ROUND`].
    pub fn round(&self) -> usize {
        self.script().round.load(Ordering::Relaxed)
    }

    /// The outcomes of a request's attempts. The caller has its answer, so another attempt is a violation.
    ///
    /// # Panics
    ///
    /// If the script records requests.
    pub fn settle(&self, id: &str) -> Vec<Outcome> {
        let Records::Attempts(attempts) = &self.script().records else { panic!("requests are recorded") };
        attempts.settle(id)
    }
}
