//! `/metrics`: gathers the metrics of the whole daemon at each scrape.
//!
//! Workers and refreshers only count. Names and labels are made here.

mod callers;
mod credentials;
mod family;
mod pools;
mod quotas;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts as Head;

use self::family::{as_f64, counter, counters, gauge, gauges, is, labels, seconds, status_label, timestamps};
use super::observed::Observed;
use super::process;
use crate::admin::status::SharedStatus;
use crate::admin::{Credentials, Exposition, Parts};
use crate::clock::wall_clock;
use crate::proxy::error::{Overload, ProxyError, TLS_HANDSHAKE_FAILED};
use crate::proxy::upstream::breaker::BreakerState;
use crate::telemetry::event::Name;
use crate::telemetry::metrics::exposition::{Family, Format, Labels};
use crate::telemetry::metrics::traffic::{Key, Retry, RouteTraffic, Unauthorized};
use crate::version;

/// The metrics of a daemon.
#[derive(Debug)]
pub(super) struct Metrics {
    observed: Arc<Observed>,
    credentials: Credentials,
    started: SystemTime,
}

impl Metrics {
    /// The metrics of a daemon that starts now.
    pub(super) fn new(observed: &Arc<Observed>, credentials: &Credentials) -> Self {
        Self { observed: Arc::clone(observed), credentials: credentials.clone(), started: wall_clock() }
    }

    fn families(&self) -> Vec<Family> {
        let mut families = self.of_requests();
        families.extend(self.of_connections());
        families.extend(self.of_upstreams());
        families.extend(credentials::families(&self.credentials, self.started));
        families.extend(quotas::of_apis(&self.observed.budgets(), self.started));
        families.extend(quotas::of_callers(&self.observed.caller_budgets(), self.started));
        families.extend(pools::families(&self.observed.pools()));
        families.extend(self.of_the_daemon());
        families.extend(self.of_replicas());
        families.extend(process::families(self.started));
        families
    }

    fn of_requests(&self) -> Vec<Family> {
        let settings = self.observed.settings();
        let routes = settings.traffic.routes();
        let named: Vec<&Arc<RouteTraffic>> = routes.iter().filter(|route| !route.name().is_empty()).collect();
        let (mut requests, mut attempts) = (Vec::new(), Vec::new());
        let (mut by_status, mut refused) = (BTreeMap::<u16, u64>::new(), BTreeMap::<&str, u64>::new());
        refused.extend(ProxyError::CODES.iter().map(|code| (*code, 0)));
        refused.insert(TLS_HANDSHAKE_FAILED, settings.traffic.failed_handshakes());
        let overloaded = ProxyError::Overloaded(Overload::Connections).code();
        refused.insert(overloaded, settings.traffic.refused_connections());
        for route in &routes {
            for (key, buckets) in route.requests() {
                *by_status.entry(key.status).or_default() += buckets.count();
                if let Some(code) = key.code {
                    *refused.entry(code).or_default() += buckets.count();
                }
                requests.push((request_labels(route, key), buckets));
            }
            attempts.extend(
                route.attempts().into_iter().map(|(key, buckets)| (request_labels(route, key), buckets)),
            );
        }
        let by_caller = callers::requests(&settings, by_status);
        let unauthorized = named.iter().flat_map(|route| {
            Unauthorized::ALL.iter().map(|outcome| {
                let labels = labels([("route", route.name()), ("outcome", outcome.as_str())]);
                (labels, as_f64(route.unauthorized_total(*outcome)))
            })
        });
        let retries = named.iter().flat_map(|route| {
            Retry::ALL.iter().map(|cause| {
                let labels = labels([("route", route.name()), ("cause", cause.as_str())]);
                (labels, as_f64(route.retries_total(*cause)))
            })
        });
        let refused = refused.into_iter().map(|(code, count)| (labels([("code", code)]), as_f64(count)));
        vec![
            seconds(self.started, "http_server_request_duration", "Duration of callers' requests.", requests),
            gauge("http_server_active_requests", "Requests in progress.", as_f64(settings.traffic.active())),
            seconds(
                self.started,
                "http_client_request_duration",
                "Duration of attempts to send a request to its upstream, until the response head.",
                attempts,
            ),
            counters("bearerd_caller_requests", "Requests, by caller.", by_caller),
            counters(
                "bearerd_refused_requests",
                "Error responses of bearerd itself, failed TLS handshakes and refused connections, by code.",
                refused.collect(),
            ),
            counters(
                "bearerd_upstream_unauthorized",
                "Responses by which an upstream rejected the token, by what became of the request.",
                unauthorized.collect(),
            ),
            counters(
                "bearerd_upstream_retries",
                "Requests that were sent again, by cause.",
                retries.collect(),
            ),
            gauge(
                "bearerd_replay_bytes",
                "Bytes of request bodies that are kept for a replay.",
                as_f64(settings.body_limits.budget.taken()),
            ),
            gauge(
                "bearerd_replay_bytes_limit",
                "The most bytes of request bodies that are kept for a replay.",
                as_f64(settings.limits.replay_total),
            ),
        ]
    }

    fn of_connections(&self) -> Vec<Family> {
        vec![
            gauge("bearerd_connections", "Connections of callers.", as_f64(self.observed.connections())),
            gauge(
                "bearerd_connections_limit",
                "The most connections of callers.",
                as_f64(self.observed.connections_limit()),
            ),
        ]
    }

    fn of_upstreams(&self) -> Vec<Family> {
        let (mut states, mut connections, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        // Routes with different settings may have upstreams of one origin.
        let mut origins = BTreeMap::<String, (Vec<String>, usize, usize)>::new();
        for upstream in self.observed.upstreams() {
            let (breakers, open, queued) = origins.entry(upstream.origin.unwrap_or_default()).or_default();
            breakers.push(upstream.breaker);
            *open += upstream.connections;
            *queued += upstream.waiting;
        }
        for (origin, (breakers, open, queued)) in origins {
            // The state that most requests suffer from.
            let shown =
                BreakerState::ALL.iter().rev().find(|state| breakers.iter().any(|one| one == state.as_str()));
            for state in BreakerState::ALL {
                let labels = labels([("upstream", &origin), ("state", state.as_str())]);
                states.push((labels, is(shown == Some(&state))));
            }
            connections.push((labels([("upstream", &origin)]), as_f64(open)));
            waiting.push((labels([("upstream", &origin)]), as_f64(queued)));
        }
        vec![
            gauges(
                "bearerd_upstream_breaker_state",
                "The state of the circuit breaker: 1 for the one it is in.",
                states,
            ),
            gauges("bearerd_upstream_connections", "Connections to the upstream.", connections),
            gauges(
                "bearerd_upstream_waiting",
                "Requests that wait for a connection to the upstream.",
                waiting,
            ),
        ]
    }

    fn of_the_daemon(&self) -> Vec<Family> {
        let configuration = self.observed.configuration();
        let (successful, at) = configuration
            .last_reload
            .as_ref()
            .map_or((true, configuration.loaded_at), |reload| (reload.successful, reload.at));
        let certificates = self.observed.certificates().into_iter().filter_map(|one| {
            let end = one.expires_at?;
            let labels = vec![("use", Cow::Owned(one.purpose)), ("name", Cow::Owned(one.name))];
            Some((labels, end.seconds()))
        });
        let events = self.credentials.events();
        let events =
            Name::ALL.iter().map(|name| (labels([("event", name.as_str())]), as_f64(events.recorded(*name))));
        let audit = self.observed.audit();
        let (mut deliveries, mut queues, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
        for webhook in self.observed.webhook_status() {
            let name = &*webhook.name;
            for (outcome, count) in webhook.outcomes() {
                deliveries.push((labels([("webhook", name), ("outcome", outcome)]), as_f64(count)));
            }
            queues.push((labels([("webhook", name)]), as_f64(webhook.queued)));
            dropped.push((labels([("webhook", name)]), as_f64(webhook.dropped)));
        }
        let dropped_lines = self.observed.dropped_lines();
        let build = labels([("version", version::VERSION), ("commit", version::COMMIT)]);
        vec![
            gauge(
                "bearerd_config_last_reload_successful",
                "Whether the last reload of the configuration succeeded; 1 before the first.",
                is(successful),
            ),
            timestamps(
                "bearerd_config_last_reload_timestamp",
                "When the configuration was last loaded, or its reload failed.",
                vec![(Labels::new(), at.seconds())],
            ),
            timestamps(
                "bearerd_certificate_expiry_timestamp",
                "When the certificate ends.",
                certificates.collect(),
            ),
            counters("bearerd_audit_events", "Events, by name.", events.collect()),
            counter(
                "bearerd_audit_failures",
                "Events that the audit trail has lost.",
                as_f64(audit.failures),
            ),
            counters(
                "bearerd_webhook_deliveries",
                "Deliveries to webhooks that ended, by outcome.",
                deliveries,
            ),
            gauges("bearerd_webhook_queue", "Events that wait to be delivered.", queues),
            counters("bearerd_webhook_dropped", "Events that were given up, by webhook.", dropped),
            counter(
                "bearerd_log_lines_dropped",
                "Lines of the log that were not written.",
                as_f64(dropped_lines),
            ),
            gauges("bearerd_build_info", "The version of bearerd; always 1.", vec![(build, 1.0)]),
        ]
    }
}

impl Metrics {
    /// What replicas share; without `[shared]`, no series.
    fn of_replicas(&self) -> Vec<Family> {
        let shared = self.observed.shared();
        let one = |value: Option<f64>| value.map(|value| (Labels::new(), value)).into_iter().collect();
        let of = |read: fn(&SharedStatus) -> u64| one(shared.as_ref().map(|shared| as_f64(read(shared))));
        let is_reachable = shared.as_ref().and_then(|shared| shared.reachable).map(is);
        vec![
            gauges("bearerd_shared_reachable", "Whether the shared store is reachable.", one(is_reachable)),
            gauges("bearerd_shared_replicas", "Replicas that share the store.", of(|shared| shared.replicas)),
            counters(
                "bearerd_shared_adopted",
                "Tokens and waits of other replicas that this one uses.",
                of(|shared| shared.adopted),
            ),
            counters(
                "bearerd_shared_won",
                "Token responses that this replica shared.",
                of(|shared| shared.won),
            ),
            counters(
                "bearerd_shared_conflicts",
                "Writes that another replica preceded.",
                of(|shared| shared.conflicts),
            ),
            counters(
                "bearerd_shared_repairs",
                "Records that this replica gave back to the store.",
                of(|shared| shared.repairs),
            ),
            counters(
                "bearerd_shared_unconfirmed",
                "Writes that no other server of the store confirmed in time.",
                of(|shared| shared.unconfirmed),
            ),
            counters(
                "bearerd_shared_corrupt",
                "Values in the store that no replica has written so.",
                of(|shared| shared.corrupt),
            ),
        ]
    }
}

impl Exposition for Metrics {
    fn answer(&self, request: &Head) -> Response {
        let accept: Vec<&str> =
            request.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let format = Format::preferred(&accept.join(","));
        let mut response = Response::new(Body::from(format.write(self.families())));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn request_labels(route: &RouteTraffic, key: Key) -> Labels {
    let mut labels = labels([("http_request_method", key.method.as_str())]);
    if !route.name().is_empty() {
        labels.push(("http_route", Cow::Owned(route.name().to_owned())));
    }
    labels.extend(status_label(key.status));
    labels.extend(key.code.map(|code| ("error_type", Cow::Borrowed(code))));
    labels
}
