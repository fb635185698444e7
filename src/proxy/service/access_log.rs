//! One request and its answer, as the access log tells of them.
//!
//! An exchange begins with the request's head and ends when the last byte of the answer is handed over, or when
//! either side gives up. What is written holds no query, no field value and no body: they may be secrets.

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
const NOT_TAKEN: &str = "the caller took nothing of the answer for too long";

/// A request that is being answered.
#[derive(Debug)]
pub struct Exchange {
    caller: Rc<ClientConnection>,
    pace: Rc<Progress>,
    /// For whom a trusted proxy calls.
    original: Option<IpAddr>,
    started: Instant,
    method: Method,
    path: Option<PathAndQuery>,
    version: Version,
    writes_all: bool,
    outcome: Outcome,
}

/// What has become of the request so far.
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
    /// Begins with a request's head. `original`: for whom a trusted proxy calls. `writes_all`: tell of every exchange
    /// and not of failures only.
    pub fn begin<B>(
        request: &Request<B>,
        caller: Rc<ClientConnection>,
        pace: Rc<Progress>,
        original: Option<IpAddr>,
        writes_all: bool,
    ) -> Self {
        caller.request_begun();
        pace.begin(None);
        Self {
            caller,
            pace,
            original,
            started: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            version: request.version(),
            writes_all,
            outcome: Outcome::default(),
        }
    }

    /// Who sent it.
    pub fn caller(&self) -> &Rc<ClientConnection> {
        &self.caller
    }

    /// Where it comes from, as far as that is known.
    pub fn origin(&self) -> Option<IpAddr> {
        self.original.or_else(|| self.caller.peer().ip())
    }

    /// How its answer gets on.
    pub fn pace(&self) -> &Progress {
        &self.pace
    }

    /// The protocol it came in.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// A route was found for it.
    pub fn routed(&mut self, route: &str) {
        if self.writes_all {
            self.outcome.route = Some(route.to_owned());
        }
    }

    /// It is sent with this token.
    pub fn sent(&mut self, generation: Option<Generation>) {
        self.outcome.generation = generation;
        self.pace.sent();
    }

    /// It is sent for the second time, with another token.
    pub fn replayed(&mut self) {
        self.outcome.is_replayed = true;
    }

    /// It is sent again after a 429.
    pub fn retried(&mut self) {
        self.outcome.retries += 1;
    }

    /// It is answered with the API's 401, for this reason.
    pub fn passed_401(&mut self, why: &'static str) {
        self.outcome.why_401 = Some(why);
    }

    /// It is answered with this status.
    pub fn answered(&mut self, status: StatusCode) {
        self.outcome.status = Some(status);
    }

    /// It is answered by ourselves.
    pub fn failed(&mut self, error: &ProxyError) {
        self.outcome.status = Some(error.status());
        self.outcome.code = Some(error.code());
        self.outcome.error = Some(error.explain());
    }

    /// So many bytes of the answer's body were handed over.
    pub fn sent_bytes(&mut self, bytes: usize) {
        self.outcome.bytes += bytes as u64;
    }

    /// The answer was handed over to its end.
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
                Some("the caller left, or its connection was cut, before an answer".to_owned());
        }
        if let (Some(why), None) = (self.who_stalled(), &self.outcome.error) {
            // Handed over to its end it may have been; it was not taken.
            self.outcome.is_complete = false;
            self.outcome.error = Some(why.to_owned());
        }
        let is_failure =
            self.outcome.status.is_some_and(|status| status.is_server_error()) && self.outcome.code.is_some();
        if is_failure && tracing::enabled!(target: TARGET, Level::WARN) {
            self.write(true);
        } else if self.writes_all && tracing::enabled!(target: TARGET, Level::INFO) {
            self.write(false);
        }
    }
}

impl Exchange {
    /// For whom the answer waited in vain, if that is why it broke off.
    fn who_stalled(&self) -> Option<&'static str> {
        match self.pace.stalled() {
            Some(Stalled::Upstream) => Some("the upstream's answer stopped coming"),
            Some(Stalled::Caller) => Some(NOT_TAKEN),
            None => (self.caller.wanted_end() == Some(End::WriteTimeout)).then_some(NOT_TAKEN),
        }
    }

    fn write(&self, is_failure: bool) {
        let path = self.path.as_ref().map_or("*", PathAndQuery::path);
        // To a microsecond.
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
                    caller = self.original.map(tracing::field::display),
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
