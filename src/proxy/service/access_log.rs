//! The access log: one entry for each exchange of a request and a response.
//!
//! An exchange begins with the request head and ends when hyper has the last byte of the response, or when either side
//! aborts. An entry holds no query, no field value and no body, because they may contain secrets.

use std::net::IpAddr;
use std::rc::Rc;

use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Version};
use tokio::time::Instant;
use tracing::{Level, info, warn};

use crate::proxy::downstream::progress::{Progress, Stalled};
use crate::proxy::downstream::protocol::End;
use crate::proxy::downstream::state::ClientConnection;
use crate::proxy::error::ProxyError;
use crate::token::Generation;

const TARGET: &str = "bearerd::access";
const CALLER_STALLED: &str = "the caller stopped reading the response";

/// An exchange in progress. Dropping it writes the log entry.
#[derive(Debug)]
pub struct Exchange {
    caller: Rc<ClientConnection>,
    pace: Rc<Progress>,
    /// The client's address according to a trusted proxy.
    client_address: Option<IpAddr>,
    started: Instant,
    method: Method,
    path: Option<PathAndQuery>,
    version: Version,
    logs_success: bool,
    outcome: Outcome,
}

/// The result so far.
#[derive(Debug, Default)]
struct Outcome {
    route: Option<String>,
    status: Option<StatusCode>,
    code: Option<&'static str>,
    error: Option<String>,
    generation: Option<Generation>,
    is_replayed: bool,
    retries: u32,
    why_401: Option<&'static str>,
    is_complete: bool,
    bytes: u64,
}

impl Exchange {
    /// Begins an exchange. `client_address` is the client's address according to a trusted proxy; `logs_success` is
    /// whether every exchange is logged, or only failures.
    pub fn begin<B>(
        request: &Request<B>,
        caller: Rc<ClientConnection>,
        pace: Rc<Progress>,
        client_address: Option<IpAddr>,
        logs_success: bool,
    ) -> Self {
        caller.request_begun();
        pace.begin(None);
        Self {
            caller,
            pace,
            client_address,
            started: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            logs_success,
            outcome: Outcome::default(),
        }
    }

    /// The connection that the request came on.
    pub fn caller(&self) -> &Rc<ClientConnection> {
        &self.caller
    }

    /// The client's address: according to a trusted proxy, else the peer's. `None` for a Unix socket.
    pub fn origin(&self) -> Option<IpAddr> {
        self.client_address.or_else(|| self.caller.peer().ip())
    }

    /// The progress of the response.
    pub fn pace(&self) -> &Progress {
        &self.pace
    }

    /// The protocol version of the request.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Records the route.
    pub fn routed(&mut self, route: &str) {
        if self.logs_success {
            self.outcome.route = Some(route.to_owned());
        }
    }

    /// Records an attempt to send the request, with the generation of its token.
    pub fn sent(&mut self, generation: Option<Generation>) {
        self.outcome.generation = generation;
        self.pace.sent();
    }

    /// Records a replay with another token.
    pub fn replayed(&mut self) {
        self.outcome.is_replayed = true;
    }

    /// Records a retry after a 429.
    pub fn retried(&mut self) {
        self.outcome.retries += 1;
    }

    /// Records the reason why the upstream's 401 goes to the caller.
    pub fn passed_401(&mut self, why: &'static str) {
        self.outcome.why_401 = Some(why);
    }

    /// Records the status of the response.
    pub fn responded(&mut self, status: StatusCode) {
        self.outcome.status = Some(status);
    }

    /// Records an error response.
    pub fn failed(&mut self, error: &ProxyError) {
        self.outcome.status = Some(error.status());
        self.outcome.code = Some(error.code());
        self.outcome.error = Some(error.explain());
    }

    /// Records that hyper has so many more bytes of the response body.
    pub fn sent_bytes(&mut self, bytes: usize) {
        self.outcome.bytes += bytes as u64;
    }

    /// Records that hyper has the whole response.
    pub fn completed(&mut self) {
        self.outcome.is_complete = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.pace.awaits_nobody();
        self.caller.request_ended();
        if self.outcome.status.is_none() {
            self.outcome.error =
                Some("the caller disconnected, or its connection was cut, before a response".to_owned());
        }
        if let (Some(why), None) = (self.stalled(), &self.outcome.error) {
            // hyper may have the whole response, but the caller did not read it.
            self.outcome.is_complete = false;
            self.outcome.error = Some(why.to_owned());
        }
        let is_failure =
            self.outcome.status.is_some_and(|status| status.is_server_error()) && self.outcome.code.is_some();
        if is_failure && tracing::enabled!(target: TARGET, Level::WARN) {
            self.write(true);
        } else if self.logs_success && tracing::enabled!(target: TARGET, Level::INFO) {
            self.write(false);
        }
    }
}

impl Exchange {
    /// Which side stalled, if a stall ended the response.
    fn stalled(&self) -> Option<&'static str> {
        match self.pace.stalled() {
            Some(Stalled::Upstream) => Some("the upstream stopped sending its response"),
            Some(Stalled::Caller) => Some(CALLER_STALLED),
            None => (self.caller.wanted_end() == Some(End::WriteTimeout)).then_some(CALLER_STALLED),
        }
    }

    fn write(&self, is_failure: bool) {
        let path = self.path.as_ref().map_or("*", PathAndQuery::path);
        // Rounded to microseconds.
        let duration_ms = (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        let Outcome {
            route,
            status,
            code,
            error,
            generation,
            is_replayed,
            retries,
            why_401,
            is_complete,
            bytes,
        } = &self.outcome;
        let names = self.caller.names();
        let certificate = (!names.is_empty()).then(|| names.join(", "));
        macro_rules! write {
            ($level:ident) => {
                $level!(
                    target: TARGET,
                    peer = %self.caller.peer().host(),
                    caller = self.client_address.map(tracing::field::display),
                    certificate = certificate.as_deref(),
                    method = %self.method,
                    path,
                    version = ?self.version,
                    route = route.as_deref(),
                    status = status.map(|status| status.as_u16()),
                    code = *code,
                    error = error.as_deref(),
                    generation = generation.map(Generation::number),
                    replayed = *is_replayed,
                    retries = *retries,
                    why_401 = *why_401,
                    complete = *is_complete,
                    bytes = *bytes,
                    duration_ms,
                    "request"
                )
            };
        }
        if is_failure {
            write!(warn);
        } else {
            write!(info);
        }
    }
}
