//! The paths of the admin address, and those of the address of health checks.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::request::Parts;
use tokio::sync::Semaphore;

use super::access::{Access, Need};
use super::credentials;
use super::credentials::Credentials;
use super::exposition::Exposition;
use super::html;
use super::overview;
use super::overview::Overview;
use super::page;
use super::problem::method_not_allowed;
use super::readiness::Readiness;
use super::reload;
use super::reload::Reloading;
use super::server;
use super::server::{Bounds, Client, Listener, Peer};
use super::stream;
use super::stream::Streams;
use crate::http::Problem;

/// The most requests in progress but those of health checks: fewer than connections, so that there is always a connection
/// that a health check's may replace.
const OPERATIONS: usize = Bounds::FOR_OPERATORS.connections / 2;

const STYLE: &str = include_str!("../../templates/page.css");
const SCRIPT: &str = include_str!("../../templates/page.js");
const ICON: &str = include_str!("../../templates/page.svg");

/// What the admin address serves.
#[derive(Clone, Debug)]
pub struct OperatorAddress {
    /// Health checks.
    pub readiness: Readiness,
    /// Operations on credentials, and who may use them.
    pub credentials: Credentials,
    /// Reloads.
    pub reloading: Reloading,
    /// The whole daemon, as JSON, events and a page.
    pub overview: Overview,
    /// The metrics, if there are any.
    pub exposition: Option<Arc<dyn Exposition>>,
}

/// What the address of health checks serves: to any `Host`, and nothing about credentials.
#[derive(Clone, Debug)]
pub struct HealthAddress {
    /// Health checks.
    pub readiness: Readiness,
    /// Who may read the metrics.
    pub access: Arc<ArcSwap<Access>>,
    /// The metrics, if there are any.
    pub exposition: Option<Arc<dyn Exposition>>,
}

impl OperatorAddress {
    /// Serves the admin address until `until` is ready, and then finishes the requests in flight.
    pub async fn serve(self, listener: Listener, until: impl Future<Output = ()>) {
        let overview = self.overview.clone();
        tokio::select! {
            () = server::serve(listener, self.router(), Bounds::FOR_OPERATORS, until) => {}
            () = overview.sample() => {}
        }
    }

    fn router(self) -> Router {
        let Self { readiness, credentials, reloading, overview, exposition } = self;
        let entrance = Entrance::Operators(credentials.clone());
        let health = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(Checks { readiness, entrance: entrance.clone(), is_verbose: true })
            .layer(from_fn_with_state(entrance.clone(), refuse_other_sites));
        let operated = Router::new()
            .route("/credentials", any(credentials::answer))
            .route("/credentials/", any(credentials::answer))
            .route("/credentials/{*path}", any(credentials::answer))
            .with_state(credentials);
        let reloaded = Router::new().route("/reload", any(reload::answer)).with_state(reloading);
        let others = Router::new()
            .route("/metrics", any(metrics))
            .fallback(not_found)
            .with_state(Metrics { entrance, exposition });
        let streams = Streams::new(overview.clone());
        let seen = Router::new()
            .route("/", any(page::answer))
            .route("/status", any(overview::answer))
            .with_state(overview)
            .merge(Router::new().route("/events", any(stream::answer)).with_state(streams))
            .route("/page.css", get(async || html::part("text/css; charset=utf-8", STYLE)))
            .route("/page.js", get(async || html::part("text/javascript; charset=utf-8", SCRIPT)))
            .route("/page.svg", get(async || html::part("image/svg+xml", ICON)));
        let places = Arc::new(Semaphore::new(OPERATIONS));
        let operations = operated.merge(reloaded).merge(seen).merge(others);
        let operations = operations.layer(from_fn_with_state(places, within_bound));
        health.merge(operations).layer(from_fn(challenge))
    }
}

impl HealthAddress {
    /// Serves the address of health checks until `until` is ready, and then finishes the requests in flight.
    pub async fn serve(self, listener: Listener, until: impl Future<Output = ()>) {
        server::serve(listener, self.router(), Bounds::FOR_HEALTH, until).await;
    }

    fn router(self) -> Router {
        let Self { readiness, access, exposition } = self;
        let entrance = Entrance::Health(access);
        let health = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(Checks { readiness, entrance: entrance.clone(), is_verbose: false })
            .layer(from_fn_with_state(entrance.clone(), refuse_other_sites));
        let others = Router::new()
            .route("/metrics", any(metrics))
            .fallback(not_found)
            .with_state(Metrics { entrance, exposition });
        health.merge(others).layer(from_fn(challenge))
    }
}

/// The address that a request has come to.
#[derive(Clone, Debug)]
enum Entrance {
    Operators(Credentials),
    Health(Arc<ArcSwap<Access>>),
}

impl Entrance {
    fn access(&self) -> Arc<Access> {
        match self {
            Self::Operators(credentials) => credentials.access(),
            Self::Health(access) => access.load_full(),
        }
    }

    /// The paths, which are documented and no secret.
    const fn paths(&self) -> &'static str {
        match self {
            Self::Operators(_) => {
                "This is bearerd's admin address, with the paths /, /livez, /readyz, /readyz?verbose, /status, \
                 /events, /credentials and /reload. Applications connect to server.listen."
            }
            Self::Health(_) => {
                "This is bearerd's address of health checks, with the paths /livez and /readyz. Operators connect to \
                 admin.listen, and applications to server.listen."
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Checks {
    readiness: Readiness,
    entrance: Entrance,
    /// Whether the reasons may be told.
    is_verbose: bool,
}

#[derive(Clone, Debug)]
struct Metrics {
    entrance: Entrance,
    exposition: Option<Arc<dyn Exposition>>,
}

/// Answers a request unless [`OPERATIONS`] others are in progress.
async fn within_bound(State(places): State<Arc<Semaphore>>, request: Request, operation: Next) -> Response {
    match places.try_acquire() {
        Ok(_place) => operation.run(request).await,
        Err(_) => {
            let detail = "Too many operations are in progress at the admin address.";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded", detail);
            problem.after(Some(Duration::from_secs(1))).into()
        }
    }
}

/// Refuses requests that pages of other sites cause.
async fn refuse_other_sites(State(entrance): State<Entrance>, request: Request, answer: Next) -> Response {
    let (head, body) = request.into_parts();
    match entrance.access().check_site(&head) {
        Ok(()) => answer.run(Request::from_parts(head, body)).await,
        Err(problem) => problem.into(),
    }
}

/// Adds the challenge to a 401 (RFC 9110 §11.6.1): a browser asks its user for a password.
async fn challenge(request: Request, answer: Next) -> Response {
    let is_browser = request.uri().path() == "/" || html::is_wanted(request.headers());
    let mut response = answer.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED {
        let schemes = if is_browser { "Basic realm=\"bearerd\", Bearer" } else { "Bearer" };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(schemes));
    }
    response
}

/// Answers 200 whenever the process can answer at all.
async fn livez() -> &'static str {
    "ok\n"
}

/// Answers 404 with the paths that exist.
async fn not_found(State(Metrics { entrance, .. }): State<Metrics>, request: Request<Body>) -> Response {
    let (head, _) = request.into_parts();
    match entrance.access().check_site(&head) {
        Ok(()) => path_not_found(&entrance).into(),
        Err(problem) => problem.into(),
    }
}

fn path_not_found(entrance: &Entrance) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "path_not_found", "Not found", entrance.paths())
}

/// Answers `/metrics`.
async fn metrics(
    State(metrics): State<Metrics>,
    Extension(client): Peer,
    request: Request<Body>,
) -> Response {
    let (head, _) = request.into_parts();
    let answer = metrics.answer(&head, client).await;
    answer.unwrap_or_else(Response::from)
}

impl Metrics {
    async fn answer(&self, head: &Parts, client: Client) -> Result<Response, Problem> {
        self.entrance.access().check(head, client, Need::Metrics).await?;
        let Some(exposition) = &self.exposition else { return Err(path_not_found(&self.entrance)) };
        match head.method {
            Method::GET | Method::HEAD => Ok(exposition.answer(head)),
            _ => Err(method_not_allowed("GET, HEAD")),
        }
    }
}

async fn readyz(
    State(Checks { readiness, entrance, is_verbose }): State<Checks>,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Response {
    let is_ready = readiness.is_ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let asks = |query: &str| query.split('&').any(|pair| pair.starts_with("verbose"));
    let text = if is_verbose && query.as_deref().is_some_and(asks) {
        // The names of credentials are not for pages that have rebound a name of theirs to this address.
        if let Err(problem) = entrance.access().check_host(&request.into_parts().0) {
            return problem.into();
        }
        readiness.explain()
    } else if is_ready {
        "ok\n".to_owned()
    } else {
        "not ready\n".to_owned()
    };
    (status, text).into_response()
}
