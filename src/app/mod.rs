//! The daemon: built from a configuration, reloaded with another one, and stopped.
//!
//! Only this module knows all parts. At the start, everything that can fail (certificate authorities, addresses, threads)
//! fails before the first token request; at a reload, before anything is changed.

mod admin;
mod budgets;
mod certificates;
mod credentials;
mod differences;
mod error;
mod listen_sockets;
mod metrics;
mod observed;
mod pools;
mod process;
mod reload;
mod replicas;
mod reports;
mod status_line;
mod table;
mod traces;
mod upstreams;
mod view;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use self::admin::AdminAddress;
use self::budgets::Budgets;
use self::certificates::{Certificates, ShownTo};
use self::credentials::{Credential, Plan, Refreshers, client, plan};
pub use self::error::StartError;
use self::listen_sockets::{ListenSockets, Passed};
use self::observed::Observed;
#[cfg(feature = "redis")]
pub(crate) use self::replicas::address as store_address;
use self::reports::Reports;
use self::table::{Served, serve};
use self::traces::Traces;
pub(crate) use self::upstreams::{Connector, name as upstream_name, shares_connections};
use self::upstreams::{Discoveries, InForce, Resources};
use crate::clock::Clock;
use crate::config;
use crate::config::{Config, Listen};
use crate::descriptors;
use crate::lifecycle::{Stage, Stages, Threads};
use crate::proxy::limits::admission::{MAX_REFUSALS, connections};
use crate::proxy::limits::slots::Slots;
use crate::proxy::listener;
use crate::proxy::peer::Networks;
use crate::proxy::service::settings::ServiceSettings;
use crate::proxy::worker;
use crate::proxy::worker::WorkerHandle;
use crate::proxy::worker::snapshot;
use crate::proxy::worker::snapshot::Configuration;
use crate::reload::Reloads;
use crate::systemd::sockets::PassedSockets;
use crate::telemetry::event::Name;
use crate::telemetry::{Event, Events};
use crate::tls::client::Trust;
use crate::token::replicas::Shared;
use crate::token::state::LONGEST_WRITE_AT_STOP;
use crate::token::{DurableState, Refresher};

/// How long threads may take to end after the stage `Cutting` or `Cut`.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    config: Arc<Config>,
    clock: Clock,
    credentials: Vec<Credential>,
    service_settings: Arc<ServiceSettings>,
    upstreams: InForce,
    discoveries: Discoveries,
    budgets: Budgets,
    listen_sockets: ListenSockets,
    /// How many descriptors client connections may take.
    most_connections: usize,
    /// The descriptors that upstream connections may take.
    descriptors: Arc<Slots>,
    certificates: Certificates,
    admin: AdminAddress,
    workers: Vec<mpsc::Sender<snapshot::Change>>,
    listener: mpsc::Sender<listener::Change>,
    stages: Stages,
    threads: Threads,
    /// End on request, after the token request under way.
    refreshers: Refreshers,
    /// Serve the admin address, discoveries and certificates; end when dropped.
    tasks: JoinSet<&'static str>,
    /// Outlives every reload.
    events: Events,
    observed: Arc<Observed>,
    reports: Reports,
    /// The store that replicas share. Outlives every reload.
    shared: Option<Shared>,
    /// Outlive every reload.
    traces: Traces,
}

/// A part of the daemon ended unexpectedly.
#[derive(Debug, Error)]
#[error("{0} ended unexpectedly")]
pub struct Died(String);

impl Daemon {
    /// Builds everything up to binding, and starts nothing.
    ///
    /// # Errors
    ///
    /// [`StartError`], except about a TCP address or a state.
    pub fn try_out(config: &Config) -> Result<(), StartError> {
        Certificates::new(ShownTo::Callers, config.server.tls.as_ref())?;
        Certificates::new(ShownTo::Operators, config.admin.tls.as_ref())?;
        admin::check_own_token(config)?;
        listen_sockets::check(config)?;
        reports::check(config)?;
        Self::settings(config, "bearerd").map(|_| ())
    }

    /// Builds the settings of the request path, without tokens and connections. `instance` is the daemon's pseudonym in
    /// header fields.
    ///
    /// # Errors
    ///
    /// [`StartError`] about a credential or an upstream.
    pub fn settings(config: &Config, instance: &str) -> Result<ServiceSettings, StartError> {
        let trust = Trust::default();
        let clock = Clock::system();
        let mut sources = Vec::new();
        for credential in &config.credentials {
            let client = client(credential, &trust)?;
            let durable = DurableState::in_memory(clock);
            sources.push(Refresher::new(Arc::clone(credential), client, durable, clock).1);
        }
        let budgets = Budgets::default().plan(config, &Events::default(), None);
        let resources = Resources {
            trust: &trust,
            sources: &sources,
            budgets: &budgets,
            clock,
            descriptors: &Slots::new(0),
            workers: config.server.workers,
        };
        let served = serve(config, resources, &InForce::default(), None)?;
        let settings = ServiceSettings::new(config, served.table, instance.to_owned(), clock);
        Ok(settings.with_caller_budgets(budgets.of_callers(&config.callers)))
    }

    /// Binds, builds and starts everything. The admin address passes reload requests to `reloads`; `passed` sockets take the
    /// place of those that would be bound.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing keeps running.
    pub fn start(
        config: &Config,
        reloads: Option<Reloads>,
        passed: PassedSockets,
    ) -> Result<Self, StartError> {
        let config = Arc::new(config.clone());
        let passed = Passed::new(passed, &config)?;
        let clock = Clock::system();
        let trust = Trust::default();
        let instance = format!("bearerd-{:08x}", fastrand::u32(..));
        let traces = Traces::start(config.tracing.as_ref(), &instance);
        let events = Events::traced(instance.clone(), traces.spans.clone());
        let mut tasks = JoinSet::new();
        let reports = Reports::start(&config, &trust, &events, &mut tasks)?;
        let shared = replicas::connect(&config, &instance, &events, clock, &mut tasks);
        let plans = plan(&config.credentials, &[], &trust, (&events, shared.as_ref()), clock)?;
        let built: Vec<_> = plans.into_iter().filter_map(Plan::begun).collect();
        let sources: Vec<_> = built.iter().map(|(_, source)| source.clone()).collect();
        let portions = descriptors::share_out(&config, MAX_REFUSALS);
        let descriptors = Slots::new(portions.upstreams);
        let mut budgets = Budgets::default();
        let planned_budgets = budgets.plan(&config, &events, shared.as_ref());
        let resources = Resources {
            trust: &trust,
            sources: &sources,
            budgets: &planned_budgets,
            clock,
            descriptors: &descriptors,
            workers: config.server.workers,
        };
        let served = serve(&config, resources, &InForce::default(), None)?;
        let Served { table, upstreams, discoveries, .. } = served;
        let (mut certificates, keeper) = Certificates::new(ShownTo::Callers, config.server.tls.as_ref())?;
        let transition = passed.callers.to(&config.server, false)?;
        let token = admin::own_token(&config)?;
        let callers = transition.after.addresses();
        let admin = admin::prepare(&config, admin::Open::Nothing(passed.others), token, &callers)?;

        let service_settings = ServiceSettings::new(&config, table, instance, clock)
            .with_caller_budgets(planned_budgets.of_callers(&config.callers))
            .traced(traces.spans.clone());
        let service_settings = Arc::new(reports.connect(service_settings));
        let stages = Stages::default();
        let mut threads = Threads::new(config.server.workers + 1);
        let (handles, workers) =
            start_workers(config.server.workers, &service_settings, &upstreams, &stages, &mut threads)?;
        for address in &transition.addresses {
            log_listening(address, certificates.current().is_some());
        }
        let settings = listener_settings(&config, &certificates, portions.callers, &service_settings);
        let (listener, changes) = mpsc::channel(1);
        let counters = handles.iter().map(WorkerHandle::counter).collect();
        listener::spawn(transition.new, handles, settings, stages.watch(), changes, &mut threads)?;

        budgets.start(planned_budgets);
        let mut refreshers = Refreshers::new(stages.watch());
        let credentials: Vec<_> = built
            .into_iter()
            .zip(&config.credentials)
            .map(|((refresher, source), config)| refreshers.start(Arc::clone(config), refresher, source))
            .collect();
        let discoveries = Discoveries::default().continued_with(Vec::new(), discoveries, &mut tasks);
        certificates.keep(keeper, &mut tasks);
        let observed = Observed::new(
            &config,
            &service_settings,
            &upstreams,
            &certificates,
            counters,
            (&events, &reports, shared.clone()),
        );
        observed.set_connections_limit(connections(&config.server.limits, portions.callers));
        let admin = AdminAddress::open(
            admin,
            &config,
            (&credentials, &discoveries),
            stages.watch(),
            reloads,
            (&events, &observed),
            &mut tasks,
        )?;
        observed.show_admin_certificate(admin.certificate());
        Ok(Self {
            config,
            clock,
            credentials,
            service_settings,
            upstreams,
            discoveries,
            budgets,
            listen_sockets: transition.after,
            most_connections: portions.callers,
            descriptors,
            certificates,
            admin,
            workers,
            listener,
            stages,
            threads,
            refreshers,
            tasks,
            events,
            observed,
            reports,
            shared,
            traces,
        })
    }

    /// Waits until a part of the daemon ends unexpectedly, and names it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops nothing.
    pub async fn died(&mut self) -> Died {
        loop {
            tokio::select! {
                thread = self.threads.one_ended() => return Died(format!("the thread {thread}")),
                which = self.refreshers.one_died() => return Died(which),
                which = self.admin.one_died() => return Died(which),
                which = self.budgets.one_died() => return Died(which),
                Some(task) = self.tasks.join_next() => match task {
                    Ok(which) => return Died(which.to_owned()),
                    // A reload has removed the task.
                    Err(error) if JoinError::is_cancelled(&error) => {}
                    Err(error) => return Died(error.to_string()),
                },
            }
        }
    }

    /// Reports "not ready", accepts no connections after `drain_delay`, finishes the requests in flight within
    /// `drain`, and closes the remaining connections; closes them at once when `hurry` resolves. A token request with
    /// a refresh token is always finished, and its result written.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let config::Server { drain_delay, drain, .. } = self.config.server;
        let finished = async {
            if !drain_delay.is_zero() {
                info!(delay = ?drain_delay, "no longer ready");
                self.stages.enter(Stage::Leaving);
                tokio::time::sleep(drain_delay).await;
            }
            info!("draining");
            self.stages.enter(Stage::Draining);
            if timeout(drain, self.threads.all_ended()).await.is_err() {
                warn!("drain timeout expired");
            }
        };
        tokio::select! {
            () = finished => {}
            () = hurry => warn!("asked to stop immediately"),
        }
        self.cut().await;
        info!("stopped");
        self.events.record_unlogged(Event::now(Name::DaemonStopped));
        self.reports.finish().await;
    }

    /// Closes all connections at once, after a part of the daemon has died. Token requests that use a refresh
    /// token are still finished, and their results written.
    pub async fn abort(mut self) {
        self.cut().await;
        self.reports.finish().await;
    }

    /// Stops everything at once, except token requests that use a refresh token.
    async fn cut(&mut self) {
        self.stages.enter(Stage::Cutting);
        if timeout(CUT_TIMEOUT, self.threads.all_ended()).await.is_err() {
            warn!("a thread did not stop in time");
        }
        self.reports.end_of_requests().await;
        // Only now, so that requests that wait for a token are answered with the reason.
        self.stages.enter(Stage::Cut);
        if timeout(CUT_TIMEOUT, self.refreshers.all_ended()).await.is_err() {
            info!("waiting for token requests that use a refresh token");
            if timeout(self.longest_refresh(), self.refreshers.all_ended()).await.is_err() {
                warn!("a token request or the write of its result did not finish in time");
            }
        }
        self.traces.stop().await;
    }

    /// The longest time that a token request takes, with the write of its result.
    fn longest_refresh(&self) -> Duration {
        let longest = self.config.credentials.iter().map(|credential| credential.longest_request()).max();
        longest.unwrap_or_default() + LONGEST_WRITE_AT_STOP + CUT_TIMEOUT
    }
}

/// The listener's access to each worker, and where each takes another configuration from.
type Workers = (Vec<WorkerHandle>, Vec<mpsc::Sender<snapshot::Change>>);

/// Starts so many workers.
fn start_workers(
    count: usize,
    service_settings: &Arc<ServiceSettings>,
    upstreams: &InForce,
    stages: &Stages,
    threads: &mut Threads,
) -> Result<Workers, StartError> {
    let (mut handles, mut workers) = (Vec::new(), Vec::new());
    for index in 0..count {
        let (service_settings, upstreams) = (Arc::clone(service_settings), upstreams.all.clone());
        let configuration = Configuration { worker: index, service_settings, upstreams };
        let (changing, changes) = mpsc::channel(1);
        handles.push(worker::spawn(index, configuration, stages.watch(), changes, threads)?);
        workers.push(changing);
    }
    Ok((handles, workers))
}

fn listener_settings(
    config: &Config,
    certificates: &Certificates,
    most_connections: usize,
    service_settings: &ServiceSettings,
) -> listener::Settings {
    let server = &config.server;
    listener::Settings {
        networks: Networks::of(server),
        tls: certificates.current(),
        limits: server.limits.clone(),
        most_connections,
        traffic: Arc::clone(&service_settings.traffic),
    }
}

fn log_listening(address: &Listen, speaks_tls: bool) {
    info!(%address, tls = matches!(address, Listen::Tcp(_)) && speaks_tls, "listening");
}

#[cfg(test)]
mod tests;
