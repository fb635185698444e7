//! The daemon's parts as `/status` shows them: upstreams, routes, certificates, and the configuration in force.

mod quotas;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::StatusCode;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::certificates::Certificates;
use super::pools;
use super::reports::Reports;
use super::upstreams::InForce;
use crate::admin::status::{
    Audit, Caller, Certificate, Configuration, Failure, Hold, LastReload, Pool, SharedStatus, Time, Upstream,
    Webhook,
};
use crate::admin::{Histogram, Parts, RouteFigures};
use crate::clock::{WallTimes, wall_clock};
use crate::config::model::certificate;
use crate::config::{Config, Route};
use crate::peer_text::printable;
use crate::proxy::route::member::Member;
use crate::proxy::service::settings::ServiceSettings;
use crate::proxy::upstream::Upstream as Connected;
use crate::proxy::worker::ConnectionCounter;
use crate::reload::Outcome;
use crate::telemetry::Events;
use crate::telemetry::audit::AuditCounters;
use crate::telemetry::event::Name;
use crate::telemetry::log::DroppedLines;
use crate::telemetry::metrics::histogram::{Buckets, native_bounds};
use crate::telemetry::metrics::traffic::{Retry, RouteTraffic, Unauthorized};
use crate::tls::reload::CurrentCertificate;
use crate::token::replicas::Shared;
use crate::webhooks::{WebhookStatus, Webhooks};

/// What operators see of the configuration in force.
#[derive(Debug)]
pub(super) struct Observed {
    in_force: ArcSwap<InForceParts>,
    /// The certificate that is shown to operators.
    admin_certificate: ArcSwapOption<ArcSwap<CertifiedKey>>,
    configuration: ArcSwap<Configuration>,
    /// The most connections of callers.
    connections_limit: AtomicUsize,
    workers: Vec<ConnectionCounter>,
    dropped_lines: OnceLock<DroppedLines>,
    events: Events,
    audit: Arc<AuditCounters>,
    webhooks: Arc<Webhooks>,
    shared: Option<Shared>,
}

#[derive(Debug)]
struct InForceParts {
    config: Arc<Config>,
    settings: Arc<ServiceSettings>,
    upstreams: Vec<Arc<Connected>>,
    certificate: Option<CurrentCertificate>,
}

impl Observed {
    /// The parts of a daemon that starts now.
    pub(super) fn new(
        config: &Arc<Config>,
        settings: &Arc<ServiceSettings>,
        upstreams: &InForce,
        certificates: &Certificates,
        workers: Vec<ConnectionCounter>,
        (events, reports, shared): (&Events, &Reports, Option<Shared>),
    ) -> Arc<Self> {
        let configuration = Configuration { file: None, loaded_at: Time::now(), last_reload: None };
        Arc::new(Self {
            in_force: ArcSwap::from_pointee(InForceParts::new(config, settings, upstreams, certificates)),
            admin_certificate: ArcSwapOption::empty(),
            configuration: ArcSwap::from_pointee(configuration),
            connections_limit: AtomicUsize::new(0),
            workers,
            dropped_lines: OnceLock::new(),
            events: events.clone(),
            audit: Arc::clone(reports.audit_counters()),
            webhooks: Arc::clone(reports.webhooks()),
            shared,
        })
    }

    /// The settings that all workers share.
    pub(super) fn settings(&self) -> Arc<ServiceSettings> {
        Arc::clone(&self.in_force.load().settings)
    }

    /// How many connections callers have.
    pub(super) fn connections(&self) -> usize {
        self.workers.iter().map(ConnectionCounter::count).sum()
    }

    /// How many lines of the log were dropped.
    pub(super) fn dropped_lines(&self) -> usize {
        self.dropped_lines.get().map_or(0, DroppedLines::count)
    }

    /// Shows how many lines of the log were dropped. Only the first call has an effect.
    pub(super) fn show_dropped_lines(&self, dropped: DroppedLines) {
        let _ = self.dropped_lines.set(dropped);
    }

    /// The most connections of callers.
    pub(super) fn connections_limit(&self) -> usize {
        self.connections_limit.load(Ordering::Relaxed)
    }

    /// Notes the most connections of callers.
    pub(super) fn set_connections_limit(&self, limit: usize) {
        self.connections_limit.store(limit, Ordering::Relaxed);
    }

    /// Names the file of the configuration.
    pub(super) fn configured_by(&self, file: &Path) {
        let file = Some(file.display().to_string());
        self.configuration.rcu(|before| Configuration { file: file.clone(), ..(**before).clone() });
    }

    /// Notes the outcome of a reload.
    pub(super) fn reload_ended(&self, outcome: &Outcome) {
        let at = Time::now();
        let detail = outcome.as_ref().err().map(|not| not.problems.trim_end().to_owned());
        let last_reload = Some(LastReload { at, successful: outcome.is_ok(), detail });
        self.configuration.rcu(|before| Configuration {
            file: before.file.clone(),
            loaded_at: if outcome.is_ok() { at } else { before.loaded_at },
            last_reload: last_reload.clone(),
        });
    }

    /// Notes the certificate that is shown to operators from now on.
    pub(super) fn show_admin_certificate(&self, certificate: Option<CurrentCertificate>) {
        self.admin_certificate.store(certificate);
    }

    /// Shows what is in force from now on.
    pub(super) fn change(
        &self,
        config: &Arc<Config>,
        settings: &Arc<ServiceSettings>,
        upstreams: &InForce,
        certificates: &Certificates,
    ) {
        let parts = InForceParts::new(config, settings, upstreams, certificates);
        self.in_force.store(Arc::new(parts));
    }
}

impl InForceParts {
    fn new(
        config: &Arc<Config>,
        settings: &Arc<ServiceSettings>,
        in_force: &InForce,
        certificates: &Certificates,
    ) -> Self {
        let mut upstreams: Vec<Arc<Connected>> = Vec::new();
        for upstream in &in_force.all {
            // Another upstream may fill the place of an unused index.
            if !upstreams.iter().any(|known| Arc::ptr_eq(known, upstream)) {
                upstreams.push(Arc::clone(upstream));
            }
        }
        let (config, settings) = (Arc::clone(config), Arc::clone(settings));
        Self { config, settings, upstreams, certificate: certificates.certificate() }
    }
}

impl Observed {
    /// The webhooks with all their counts.
    pub(super) fn webhook_status(&self) -> Vec<WebhookStatus> {
        self.webhooks.status()
    }
}

impl Parts for Observed {
    fn configuration(&self) -> Configuration {
        (**self.configuration.load()).clone()
    }

    fn callers(&self) -> Vec<Caller> {
        self.shown_callers()
    }

    fn pools(&self) -> Vec<Pool> {
        let in_force = self.in_force.load();
        pools::shown(&in_force.config, &in_force.settings)
    }

    fn upstreams(&self) -> Vec<Upstream> {
        let in_force = self.in_force.load();
        let times = WallTimes::now(in_force.settings.clock);
        let upstream = |one: &Arc<Connected>| {
            let (breaker, wait) = one.breaker.seen();
            Upstream {
                origin: one.current().map(|destination| destination.origin.clone()),
                breaker: breaker.as_str().to_owned(),
                breaker_until: wait.and_then(|wait| Time::new(wall_clock().checked_add(wait)?)),
                connections: one.gauges.connections.get(),
                waiting: one.gauges.waiting.get(),
                last_error: one.breaker.failure().map(|failure| Failure {
                    at: Time::new(times.at(failure.at)),
                    outcome: failure.code().into_owned(),
                    detail: printable(&failure.detail()),
                }),
            }
        };
        in_force.upstreams.iter().map(upstream).collect()
    }

    fn routes(&self) -> Vec<RouteFigures> {
        let in_force = self.in_force.load();
        let InForceParts { config, settings, .. } = &**in_force;
        let times = WallTimes::now(settings.clock);
        let hold = |route: &Route| {
            let route = settings.table.find(route.host.as_deref(), &route.path)?;
            let held_member =
                |member: &Member| Some((member.hold.seen(times.moment())?, member.source.name().to_owned()));
            let (held, credential) = route.members.iter().find_map(held_member)?;
            Some(Hold {
                credential,
                since: Time::new(times.at(held.since)),
                until: Time::new(times.at(held.until)),
                outcome: held.cause.as_str().to_owned(),
                status_codes: route.retry_on.iter().map(StatusCode::as_u16).collect(),
            })
        };
        let counts = |route: &Route| figures(&settings.traffic.route(&route.name), hold(route));
        config.routes.iter().map(counts).collect()
    }

    fn certificates(&self) -> Vec<Certificate> {
        let in_force = self.in_force.load();
        let InForceParts { config, certificate: server, .. } = &**in_force;
        let admin = self.admin_certificate.load_full();
        let of_servers = [("server", server.as_ref()), ("admin", admin.as_ref())];
        let servers = of_servers.into_iter().filter_map(|(purpose, current)| {
            let key = current?.load_full();
            let names = certificate::names(key.cert.first()?);
            let host = names.iter().find_map(|name| name.strip_prefix("DNS:"));
            let name = host.or_else(|| names.first().map(String::as_str)).unwrap_or_default();
            Some(shown(purpose, name, &key.cert))
        });
        let clients = config.credentials.iter().filter_map(|credential| {
            let certificate = credential.client_certificate.as_ref()?;
            Some(shown("client", &credential.name, &certificate.chain))
        });
        let upstream_clients = config.routes.iter().filter_map(|route| {
            let certificate = route.upstream.client_certificate.as_ref()?;
            Some(shown("upstream_client", &route.name, &certificate.chain))
        });
        servers.chain(clients).chain(upstream_clients).collect()
    }

    fn shared(&self) -> Option<SharedStatus> {
        self.shared.as_ref().map(Shared::status)
    }

    fn audit(&self) -> Audit {
        let events = Name::ALL.iter().map(|name| self.events.recorded(*name)).sum();
        Audit { events, failures: self.audit.failures() }
    }

    fn webhooks(&self) -> Vec<Webhook> {
        let webhook = |one: WebhookStatus| Webhook {
            name: one.name,
            origin: one.origin,
            delivered: one.delivered,
            failed: one.failed + one.gone,
            queued: one.queued,
        };
        self.webhook_status().into_iter().map(webhook).collect()
    }
}

/// The counts of a route.
fn figures(route: &RouteTraffic, hold: Option<Hold>) -> RouteFigures {
    let mut sum = Buckets::default();
    let mut errors = 0;
    for (key, buckets) in route.requests() {
        let is_error = key.status == 0 || key.status >= 500;
        errors += if is_error { buckets.count() } else { 0 };
        sum.add(&buckets);
    }
    RouteFigures {
        name: route.name().to_owned(),
        requests: sum.count(),
        errors,
        unauthorized: Unauthorized::ALL.iter().map(|outcome| route.unauthorized_total(*outcome)).sum(),
        replays: route.retries_total(Retry::Unauthorized),
        latency: Histogram { bounds: native_bounds(), counts: sum.native_counts().to_vec() },
        hold,
    }
}

/// A certificate, which is valid until the first of its chain ends.
fn shown(purpose: &str, name: &str, chain: &[CertificateDer<'_>]) -> Certificate {
    let end = chain.iter().filter_map(certificate::end).min();
    Certificate { purpose: purpose.to_owned(), name: name.to_owned(), expires_at: end.and_then(Time::new) }
}
