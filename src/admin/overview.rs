//! Puts together what operators see of the whole daemon: `/status`, `/events` and the page.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::request::Parts as Head;
use http::{Method, Request, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::access::Need;
use super::attention;
use super::credentials::Credentials;
use super::latency::{Histogram, Latencies, Recent, SAMPLE_INTERVAL};
use super::problem::{json, method_not_allowed};
use super::readiness::Readiness;
use super::server::{Client, Peer};
use super::status::{
    Audit, Caller, Certificate, Configuration, Hold, Pool, Route, SharedStatus, Status, Time, Upstream,
    Webhook,
};
use crate::http::Problem;
use crate::lifecycle::Stage;
use crate::telemetry::Events;
use crate::version;

/// How exact the beginning of a credential's state is.
const STATE_INTERVAL: Duration = Duration::from_secs(1);

/// The parts of the daemon that the overview shows besides credentials, as they are at each call.
pub trait Parts: fmt::Debug + Send + Sync {
    /// The configuration in force.
    fn configuration(&self) -> Configuration;
    /// The configured callers.
    fn callers(&self) -> Vec<Caller>;
    /// The pools that routes use.
    fn pools(&self) -> Vec<Pool>;
    /// The upstreams.
    fn upstreams(&self) -> Vec<Upstream>;
    /// The routes.
    fn routes(&self) -> Vec<RouteFigures>;
    /// The certificates that the daemon shows.
    fn certificates(&self) -> Vec<Certificate>;
    /// The store that replicas share.
    fn shared(&self) -> Option<SharedStatus>;
    /// The audit trail.
    fn audit(&self) -> Audit;
    /// The webhooks.
    fn webhooks(&self) -> Vec<Webhook>;
}

/// The counts of a route since the start.
#[derive(Clone, Debug, Default)]
pub struct RouteFigures {
    /// The name.
    pub name: String,
    /// Requests that were answered or broke off.
    pub requests: u64,
    /// Requests without an answer, or answered with 5xx.
    pub errors: u64,
    /// Responses by which the upstream rejected a token.
    pub unauthorized: u64,
    /// Requests that were sent again with another token.
    pub replays: u64,
    /// The time that requests took.
    pub latency: Histogram,
    /// The rejection hold in force.
    pub hold: Option<Hold>,
}

/// The whole daemon, for operators.
#[derive(Clone, Debug)]
pub struct Overview {
    credentials: Credentials,
    readiness: Readiness,
    parts: Arc<dyn Parts>,
    latencies: Arc<Latencies>,
    started_at: Time,
}

impl Overview {
    /// The overview of a daemon that starts now.
    pub fn new(credentials: Credentials, readiness: Readiness, parts: Arc<dyn Parts>) -> Self {
        Self { credentials, readiness, parts, latencies: Arc::default(), started_at: Time::now() }
    }

    /// The daemon now.
    pub(super) fn status(&self) -> Status {
        self.status_with_medians().0
    }

    /// The daemon now, and the latest medians of each route's latency, in the order of the routes.
    pub(super) fn status_with_medians(&self) -> (Status, Vec<Vec<Option<f64>>>) {
        let (mut routes, mut medians) = (Vec::new(), Vec::new());
        for figures in self.parts.routes() {
            let Recent { median: p50_ms, p99: p99_ms, medians: series } =
                self.latencies.recent(&figures.name, &figures.latency);
            let RouteFigures { name, requests, errors, unauthorized, replays, hold, .. } = figures;
            routes.push(Route { name, requests, errors, unauthorized, replays, p50_ms, p99_ms, hold });
            medians.push(series);
        }
        let mut status = Status {
            version: version::VERSION.to_owned(),
            commit: Some(version::COMMIT).filter(|commit| *commit != "unknown").map(str::to_owned),
            instance: self.events().instance().to_owned(),
            started_at: self.started_at,
            ready: self.readiness.is_ready(),
            draining: self.readiness.is_draining(),
            configuration: self.parts.configuration(),
            attention: Vec::new(),
            credentials: self.credentials.entries(),
            callers: self.parts.callers(),
            pools: self.parts.pools(),
            upstreams: self.parts.upstreams(),
            routes,
            certificates: self.parts.certificates(),
            shared: self.parts.shared(),
            audit: self.parts.audit(),
            webhooks: self.parts.webhooks(),
        };
        status.attention = attention::findings(&status, Time::now());
        (status, medians)
    }

    /// Admits a request that reads the overview.
    ///
    /// # Errors
    ///
    /// The client may not see the overview, or the method is another one.
    pub(super) async fn admit(&self, head: &Head, client: Client) -> Result<(), Problem> {
        self.credentials.access().check(head, client, Need::Overview).await?;
        match head.method {
            Method::GET | Method::HEAD => Ok(()),
            _ => Err(method_not_allowed("GET, HEAD")),
        }
    }

    /// The readers of events.
    pub(super) fn events(&self) -> Events {
        self.credentials.events()
    }

    /// The stage of the daemon.
    pub(super) fn stage(&self) -> watch::Receiver<Stage> {
        self.readiness.stage()
    }

    /// Samples the latencies of routes, and notes when the state of a credential changes. Never returns.
    pub(super) async fn sample(&self) {
        loop {
            let routes = self.parts.routes();
            self.latencies.sample(routes.iter().map(|route| (route.name.as_str(), &route.latency)));
            let next = Instant::now() + SAMPLE_INTERVAL;
            while Instant::now() < next {
                for (source, operator) in self.credentials.all() {
                    operator.note_state(&source);
                }
                tokio::time::sleep(STATE_INTERVAL).await;
            }
        }
    }
}

/// Answers `/status`.
pub(super) async fn answer(
    State(overview): State<Overview>,
    Extension(client): Peer,
    request: Request<Body>,
) -> Response {
    let (head, _) = request.into_parts();
    match overview.admit(&head, client).await {
        Ok(()) => json(StatusCode::OK, &overview.status()),
        Err(problem) => problem.into(),
    }
}
