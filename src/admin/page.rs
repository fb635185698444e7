//! The page at `/`: the daemon's status for people.
//!
//! The server renders the whole page. With scripting, the page follows `/events`; without, a link loads it again.

mod drawing;
mod findings;

use askama::Template;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::{Request, StatusCode};
use jiff::Timestamp;

use self::drawing::{Sparkline, icon};
use self::findings::{FindingView, When};
use super::attention::shown_to;
use super::html;
use super::overview::Overview;
use super::server::Peer;
use super::status::{
    Caller, Certificate, Configuration, Credential, Event, Pool, PoolMember, Route, SharedStatus, Status,
    Time, Upstream, Webhook,
};
use super::words::{counted, milliseconds, relative, span};
use crate::config::model::certificate::EXPIRY_WARNING;

/// How many events the page lists, of all credentials together.
const EVENTS: usize = 20;

#[derive(Template)]
#[template(path = "page.html")]
struct Page {
    version: String,
    commit: Option<String>,
    instance: String,
    headline: Headline,
    uptime: String,
    ready: bool,
    draining: bool,
    rendered: When,
    attention: Vec<FindingView>,
    credentials: Vec<CredentialView>,
    pools: Vec<PoolView>,
    callers: Vec<Caller>,
    upstreams: Vec<UpstreamView>,
    routes: Vec<RouteView>,
    certificates: Vec<CertificateView>,
    webhooks: Vec<Webhook>,
    events: Vec<EventView>,
    configuration: ConfigurationView,
    shared: Option<SharedStatus>,
    audit_events: u64,
    audit_failures: u64,
}

/// The state of everything, in one sentence.
struct Headline {
    /// `valid`, `acquiring`, `degraded` or `unusable`, which chooses colour and shape.
    state: &'static str,
    icon: &'static str,
    text: String,
    /// How many credentials are in which state, if not all are in one.
    counts: Option<String>,
}

struct CredentialView {
    seen: Credential,
    icon: &'static str,
    since: Option<When>,
    left: Option<TimeLeft>,
    next: Option<(&'static str, When)>,
    not_before: Option<When>,
    /// Until when the API wants no requests.
    blocked: Option<When>,
    success: Option<String>,
    latency: Option<String>,
    last_latency: Option<String>,
    rotations: Option<Rotations>,
    refresh_token_end: Option<When>,
    /// The latest error, while the credential is not well.
    error: Option<ErrorView>,
    is_well: bool,
}

/// The rest of a token's lifetime.
struct TimeLeft {
    /// From 0 to 100.
    percent: u64,
    words: String,
    is_short: bool,
    end: When,
}

struct Rotations {
    used: u64,
    limit: u64,
    is_near: bool,
    is_reached: bool,
}

struct ErrorView {
    at: Option<When>,
    outcome: String,
    detail: String,
}

struct UpstreamView {
    origin: String,
    breaker: String,
    icon: &'static str,
    until: Option<When>,
    connections: usize,
    waiting: usize,
}

struct RouteView {
    seen: Route,
    held_until: Option<When>,
    p50: String,
    p99: String,
    sparkline: Option<Sparkline>,
}

struct PoolView {
    name: String,
    members: Vec<PoolMemberView>,
}

struct PoolMemberView {
    seen: PoolMember,
    icon: &'static str,
    until: Option<When>,
}

struct CertificateView {
    purpose: &'static str,
    name: String,
    icon: &'static str,
    end: Option<When>,
    words: &'static str,
}

struct EventView {
    at: When,
    credential: String,
    event: String,
    detail: Option<String>,
}

struct ConfigurationView {
    file: Option<String>,
    loaded: When,
    reload: Option<(bool, When, Option<String>)>,
}

/// Answers `/`.
pub(super) async fn answer(
    State(overview): State<Overview>,
    Extension(client): Peer,
    request: Request<Body>,
) -> Response {
    let (head, _) = request.into_parts();
    match overview.admit(&head, client).await {
        Ok(()) => {
            let (status, medians) = overview.status_with_medians();
            html::page(StatusCode::OK, &Page::new(status, &medians, Time::now()))
        }
        Err(problem) => problem.into(),
    }
}

impl Page {
    fn new(status: Status, medians: &[Vec<Option<f64>>], now: Time) -> Self {
        let headline = Headline::of(&status);
        let events = latest_events(&status.credentials, now);
        let routes = status.routes.into_iter().enumerate();
        Self {
            headline,
            events,
            uptime: span(status.started_at.until(now)),
            rendered: When { exact: now.to_string(), words: clock_time(now) },
            attention: findings::views(status.attention, &status.credentials, now),
            credentials: status.credentials.into_iter().map(|one| CredentialView::new(one, now)).collect(),
            pools: status.pools.into_iter().map(|one| PoolView::new(one, now)).collect(),
            callers: status.callers,
            upstreams: status.upstreams.into_iter().map(|one| UpstreamView::new(one, now)).collect(),
            routes: routes
                .map(|(at, route)| RouteView::new(route, medians.get(at).map_or(&[], Vec::as_slice), now))
                .collect(),
            certificates: status.certificates.into_iter().map(|one| CertificateView::new(one, now)).collect(),
            webhooks: status.webhooks,
            configuration: ConfigurationView::new(status.configuration, now),
            shared: status.shared,
            audit_events: status.audit.events,
            audit_failures: status.audit.failures,
            version: status.version,
            commit: status.commit,
            instance: status.instance,
            ready: status.ready,
            draining: status.draining,
        }
    }
}

impl Headline {
    fn of(status: &Status) -> Self {
        let of_state = |state: &str| status.credentials.iter().filter(|one| one.state == state).count();
        let persons = status.credentials.iter().filter(|one| one.needs_person).count();
        let unusable = status.attention.iter().filter(|one| one.is_unusable()).count();
        let all = status.credentials.len();
        let (state, text) = if status.draining {
            ("degraded", "Stopping: requests in flight are being finished".to_owned())
        } else if persons > 0 {
            let verb = if persons == 1 { "needs" } else { "need" };
            ("unusable", format!("{} {verb} a person", counted(persons, "credential")))
        } else if of_state("unusable") > 0 {
            ("unusable", of_all(of_state("unusable"), all, "unusable"))
        } else if unusable > 0 {
            ("unusable", needs_attention(status.attention.len()))
        } else if of_state("degraded") > 0 {
            ("degraded", of_all(of_state("degraded"), all, "degraded"))
        } else if !status.attention.is_empty() {
            ("degraded", needs_attention(status.attention.len()))
        } else if of_state("acquiring") > 0 {
            ("acquiring", "Waiting for the first token".to_owned())
        } else if all == 0 {
            ("valid", "No credentials are configured".to_owned())
        } else if all == 1 {
            ("valid", "The credential is valid".to_owned())
        } else {
            ("valid", format!("All {all} credentials are valid"))
        };
        let counts = ["unusable", "degraded", "acquiring", "valid"].map(|state| (of_state(state), state));
        let counts: Vec<_> = counts.iter().filter(|(count, _)| *count > 0).collect();
        let words = counts.iter().map(|(count, state)| format!("{count} {state}")).collect::<Vec<_>>();
        let counts = (counts.len() > 1).then(|| words.join(" · "));
        Self { state, icon: icon(state), text, counts }
    }
}

fn of_all(count: usize, all: usize, state: &str) -> String {
    match all {
        1 => format!("The credential is {state}"),
        _ => format!("{count} of {all} credentials {state}"),
    }
}

fn needs_attention(findings: usize) -> String {
    match findings {
        1 => "One thing needs attention".to_owned(),
        count => format!("{count} things need attention"),
    }
}

impl CredentialView {
    fn new(seen: Credential, now: Time) -> Self {
        let next = match (seen.request_under_way_since, seen.next_attempt_at, seen.next_refresh_at) {
            (Some(since), ..) => Some(("Token request", When::under_way(since, now))),
            (None, Some(at), _) => Some(("Next attempt", When::coming(at, now))),
            (None, None, Some(at)) => Some(("Next refresh", When::coming(at, now))),
            (None, None, None) => None,
        };
        let rotations = (seen.max_rotations > 0 || seen.rotations > 0).then(|| Rotations {
            used: seen.rotations,
            limit: seen.max_rotations,
            is_reached: seen.max_rotations > 0 && seen.rotations >= seen.max_rotations,
            is_near: seen.max_rotations > 0
                && seen.max_rotations.saturating_sub(seen.rotations) <= seen.max_rotations.div_ceil(5),
        });
        let is_well = seen.is_well();
        let error = seen.last_error.as_ref().filter(|_| seen.state != "valid");
        let error = error.map(|error| ErrorView {
            at: error.at.map(|at| When::past(at, now)),
            outcome: error.outcome.clone(),
            detail: error.detail.clone(),
        });
        Self {
            icon: icon(&seen.state),
            since: seen.since.map(|since| When { exact: since.to_string(), words: span(since.until(now)) }),
            left: TimeLeft::of(&seen, now),
            next,
            not_before: seen.not_before.map(|at| When::coming(at, now)),
            blocked: seen
                .api_quota
                .as_ref()
                .and_then(|quota| quota.blocked_until)
                .map(|at| When::coming(at, now)),
            success: seen.success_rate.map(|rate| format!("{:.0} %", rate * 100.0)),
            latency: seen.average_latency_ms.map(milliseconds),
            last_latency: seen.last_latency_ms.map(milliseconds),
            rotations,
            refresh_token_end: seen.refresh_token_expires_at.map(|at| When::past(at, now)),
            error,
            is_well,
            seen,
        }
    }
}

impl TimeLeft {
    fn of(credential: &Credential, now: Time) -> Option<Self> {
        let end = credential.expires_at?;
        let all = credential.issued_at?.until(end);
        let left = now.until(end);
        let percent = (left.as_millis() * 100).checked_div(all.as_millis()).unwrap_or_default().min(100);
        let words = if left.is_zero() {
            format!("ended {}", relative(end, now))
        } else {
            format!("{} of {} left", span(left), span(all))
        };
        Some(Self {
            percent: u64::try_from(percent).unwrap_or_default(),
            words,
            is_short: percent < 10,
            end: When::past(end, now),
        })
    }
}

impl UpstreamView {
    fn new(upstream: Upstream, now: Time) -> Self {
        let state = match upstream.breaker.as_str() {
            "closed" => "valid",
            "open" => "unusable",
            _ => "degraded",
        };
        Self {
            origin: upstream.origin.unwrap_or_else(|| "not discovered yet".to_owned()),
            icon: icon(state),
            until: upstream.breaker_until.map(|until| When::coming(until, now)),
            breaker: upstream.breaker,
            connections: upstream.connections,
            waiting: upstream.waiting,
        }
    }
}

impl RouteView {
    fn new(seen: Route, medians: &[Option<f64>], now: Time) -> Self {
        let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), milliseconds);
        let held_until = seen.hold.as_ref().and_then(|hold| hold.until).map(|until| When::coming(until, now));
        Self {
            held_until,
            p50: text(seen.p50_ms),
            p99: text(seen.p99_ms),
            sparkline: Sparkline::of(medians),
            seen,
        }
    }
}

impl PoolView {
    fn new(pool: Pool, now: Time) -> Self {
        let member = |seen: PoolMember| PoolMemberView {
            icon: icon(if seen.usable { "valid" } else { "degraded" }),
            until: seen.until.map(|until| When::coming(until, now)),
            seen,
        };
        Self { name: pool.name, members: pool.members.into_iter().map(member).collect() }
    }
}

impl CertificateView {
    fn new(certificate: Certificate, now: Time) -> Self {
        let left = certificate.expires_at.map(|end| now.until(end));
        let (state, words) = match left {
            Some(left) if left.is_zero() => ("unusable", "ended"),
            Some(left) if left <= EXPIRY_WARNING => ("degraded", "ends soon"),
            Some(_) => ("valid", "valid"),
            None => ("acquiring", "without an end"),
        };
        let purpose = shown_to(&certificate.purpose);
        let end = certificate.expires_at.map(|end| When::past(end, now));
        Self { purpose, name: certificate.name, icon: icon(state), end, words }
    }
}

impl ConfigurationView {
    fn new(configuration: Configuration, now: Time) -> Self {
        let Configuration { file, loaded_at, last_reload } = configuration;
        let reload = last_reload.map(|reload| (reload.successful, When::past(reload.at, now), reload.detail));
        Self { file, loaded: When::past(loaded_at, now), reload }
    }
}

/// The latest events of all credentials, the newest first.
fn latest_events(credentials: &[Credential], now: Time) -> Vec<EventView> {
    let all = credentials.iter().flat_map(|one| one.events.iter().map(move |event| (&one.name, event)));
    let mut all: Vec<(&String, &Event)> = all.collect();
    all.sort_by_key(|(_, event)| std::cmp::Reverse(event.at));
    all.truncate(EVENTS);
    let view = |(name, event): (&String, &Event)| EventView {
        at: When::past(event.at, now),
        credential: name.clone(),
        event: event.event.clone(),
        detail: event.detail.clone(),
    };
    all.into_iter().map(view).collect()
}

/// The time of the day in UTC, to the second.
fn clock_time(time: Time) -> String {
    let seconds = Timestamp::from_second(time.0.as_second()).unwrap_or_default();
    let text = seconds.to_string();
    let (_, clock) = text.trim_end_matches('Z').split_once('T').unwrap_or_default();
    format!("{clock} UTC")
}

#[cfg(test)]
mod tests;
