//! Replaces the configuration in force by another one, as a whole or not at all.
//!
//! First everything that can fail is built: clients, states, upstreams, certificates, sockets. Then refreshers that get
//! other settings are taken out of their tasks, between two token requests; this step can be undone. Credentials that
//! begin anew get their first token while requests still use the previous routing table. Only then the workers change to
//! the new configuration, then the listener, then the admin address.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::admin::{Open, Prepared, own_token, prepare};
use super::certificates::Certificates;
use super::credentials::{Credential, Plan, Step, all_idle, plan};
use super::differences::{differences, keep_until_restart, keeps_routes_of};
use super::listen_sockets::{ListenSockets, Transition};
use super::reports::receivers;
use super::table::{Served, serve};
use super::upstreams::Resources;
use super::{Daemon, StartError, listener_settings, log_listening};
use crate::causes::in_one_line;
use crate::config::Config;
use crate::descriptors;
use crate::proxy::limits::admission::{MAX_REFUSALS, connections};
use crate::proxy::listener;
use crate::proxy::service::settings::ServiceSettings;
use crate::proxy::worker::snapshot;
use crate::proxy::worker::snapshot::Configuration;
use crate::reload::Reloaded;
use crate::tls::client::Trust;
use crate::token::{Refresher, TokenClient, TokenSource};

/// How long opening the states may take.
const DISK_TIMEOUT: Duration = Duration::from_secs(15);
/// How long refreshers that make no token request may take to leave their tasks.
const HAND_OUT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the reload waits for the first tokens of credentials that begin anew.
const FIRST_TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

impl Daemon {
    /// Serves by another configuration from now on.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing has changed then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the daemon between two configurations: it can only stop then.
    pub async fn reload(&mut self, mut config: Config) -> Result<Reloaded, StartError> {
        let restart_needed = keep_until_restart(&self.config, &mut config);
        let config = Arc::new(config);
        let trust = Arc::new(Trust::default());
        let plans = self.plan(&config, &trust).await?;
        let sources: Vec<_> = plans.iter().map(|plan| plan.source.clone()).collect();
        let budgets = self.budgets.plan(&config, &self.events, self.shared.as_ref());
        let resources = Resources {
            trust: &trust,
            sources: &sources,
            budgets: &budgets,
            clock: self.clock,
            descriptors: &self.descriptors,
            workers: config.server.workers,
        };
        let served = serve(&config, resources, &self.upstreams, Some(&self.service_settings.table))?;
        let certificates = self.certificates.next(config.server.tls.as_ref())?;
        let next_certificates = certificates.as_ref().map(|(next, _)| next);
        let begin_anew = next_certificates.is_some_and(|next| next.differs_in_client_ca(&self.certificates));
        let receivers = receivers(&config, &trust)?;
        let transition = self.listen_sockets.to(&config.server, begin_anew)?;
        let admin = self.prepare_admin(&config, &transition.after).await?;
        let taken_out = self.take_out(&plans).await?;

        // From here on nothing fails any more.
        let mut reloaded = differences(&self.config, &config);
        let (credentials, new) = Box::pin(self.carry_out(&config, plans, taken_out)).await;
        let Served { table, upstreams, discoveries, discovered } = served;
        let discoveries = self.discoveries.continued_with(discovered, discoveries, &mut self.tasks);
        reloaded.without_token = without_token(&new).await;
        let service_settings =
            ServiceSettings::new(&config, table, self.service_settings.instance.clone(), self.clock);
        self.reports.change(&config, receivers);
        let service_settings = service_settings
            .with_caller_budgets(budgets.of_callers(&config.callers))
            .with_counters_of(&self.service_settings);
        let service_settings = Arc::new(self.reports.connect(service_settings));
        self.resize(&config);
        self.budgets.change(budgets).await;
        self.change_workers(&service_settings, &upstreams.all, &transition.after).await?;
        self.change_certificates(certificates);
        self.change_listen_sockets(&config, transition).await?;
        service_settings.resize();
        let served = (&credentials[..], &discoveries);
        self.admin.change(admin, (&self.config, &config), served, &mut self.tasks);

        self.events.keep_only(config.credentials.iter().map(|one| one.name.as_str()));
        self.discoveries.end_without(&discoveries);
        // The refresher of a removed or replaced credential ends when the last clone of its `Credential` is
        // dropped.
        (self.credentials, self.discoveries) = (credentials, discoveries);
        (self.service_settings, self.upstreams, self.config) = (service_settings, upstreams, config);
        let Self { config, service_settings, upstreams, certificates, .. } = &*self;
        self.observed.change(config, service_settings, upstreams, certificates);
        self.observed.show_admin_certificate(self.admin.certificate());
        Ok(Reloaded { restart_needed, ..reloaded })
    }

    /// Plans the change of each credential without touching one.
    async fn plan(&self, config: &Arc<Config>, trust: &Arc<Trust>) -> Result<Vec<Plan>, StartError> {
        let before: Vec<_> =
            self.credentials.iter().map(|one| (Arc::clone(&one.config), one.source.clone())).collect();
        let (config, trust, clock) = (Arc::clone(config), Arc::clone(trust), self.clock);
        let (events, shared) = (self.events.clone(), self.shared.clone());
        let planning = tokio::task::spawn_blocking(move || {
            plan(&config.credentials, &before, &trust, (&events, shared.as_ref()), clock)
        });
        let planned = tokio::time::timeout(DISK_TIMEOUT, planning).await;
        planned.map_err(|_| StartError::Disk)?.map_err(io::Error::other)?
    }

    /// Binds the operators' addresses that are not open yet.
    async fn prepare_admin(
        &self,
        config: &Arc<Config>,
        callers: &ListenSockets,
    ) -> Result<Prepared, StartError> {
        let token = match &config.admin.token_file {
            None => Ok(None),
            Some(_) => {
                let read = Arc::clone(config);
                let reading = tokio::task::spawn_blocking(move || own_token(&read));
                match tokio::time::timeout(DISK_TIMEOUT, reading).await {
                    Ok(read) => read.map_err(io::Error::other)?,
                    Err(_) => Err(StartError::Disk),
                }
            }
        };
        let token = match (token, self.admin.token()) {
            // The disk may come back; the token in force is as good.
            (Err(error), Some(token)) if self.config.admin.token_file == config.admin.token_file => {
                warn!(error = in_one_line(&error), "admin token not readable, kept the last one");
                Some(token.clone())
            }
            (token, _) => token?,
        };
        let others = [self.listen_sockets.addresses(), callers.addresses()].concat();
        prepare(config, Open::Both(&self.admin), token, &others)
    }

    fn credential(&self, name: &str) -> Option<&Credential> {
        self.credentials.iter().find(|one| one.config.name == name)
    }

    /// Takes the refreshers that the plans need out of their tasks. Requests are served with their tokens meanwhile.
    ///
    /// All these refreshers leave together, at a moment at which none of them makes a token request. If there
    /// is no such moment within the time of the longest request, each refresher leaves after its own request.
    async fn take_out(
        &mut self,
        plans: &[Plan],
    ) -> Result<HashMap<String, Refresher<TokenClient>>, StartError> {
        let names: HashSet<&str> = plans.iter().flat_map(Plan::needs).collect();
        let longest = self.longest_refresh();
        let deadline = Instant::now() + longest;
        loop {
            let is_needed = |one: &&Credential| names.contains(one.config.name.as_str());
            let needed: Vec<_> = self.credentials.iter().filter(is_needed).cloned().collect();
            if let Some(ended) = needed.iter().find(|one| one.has_ended()) {
                return Err(StartError::Busy(ended.config.name.clone()));
            }
            let are_idle = timeout_at(deadline, all_idle(&needed)).await.is_ok();
            let is_last_attempt = !are_idle || Instant::now() >= deadline;
            let within = if is_last_attempt { longest } else { HAND_OUT_TIMEOUT };
            let handed_out = join_all(needed.iter().map(|one| one.hand_out(within))).await;
            let (mut taken_out, mut busy) = (HashMap::new(), None);
            for (credential, refresher) in needed.iter().zip(handed_out) {
                let name = credential.config.name.clone();
                match refresher {
                    Some(refresher) => drop(taken_out.insert(name, refresher)),
                    None => busy = Some(name),
                }
            }
            let Some(busy) = busy else { return Ok(taken_out) };
            self.put_back(taken_out);
            if is_last_attempt {
                return Err(StartError::Busy(busy));
            }
        }
    }

    /// Undoes [`Daemon::take_out`].
    fn put_back(&mut self, taken_out: HashMap<String, Refresher<TokenClient>>) {
        for (name, refresher) in taken_out {
            if let Some(at) = self.credentials.iter().position(|one| one.config.name == name) {
                let Credential { config, source, .. } = self.credentials[at].clone();
                self.credentials[at] = self.refreshers.start(config, refresher, source);
            }
        }
    }

    /// Carries out the plans. Returns the credentials, and the token sources of those that begin anew.
    async fn carry_out(
        &mut self,
        config: &Config,
        plans: Vec<Plan>,
        mut taken_out: HashMap<String, Refresher<TokenClient>>,
    ) -> (Vec<Credential>, Vec<TokenSource>) {
        let (mut credentials, mut new) = (Vec::new(), Vec::new());
        for plan in &plans {
            self.let_requests_follow(config, plan);
        }
        for holder in plans.iter().filter_map(Plan::vacated) {
            if let Some(refresher) = taken_out.get_mut(holder) {
                refresher.give_up_place();
            }
        }
        for (config, Plan { source, step }) in config.credentials.iter().zip(plans) {
            let credential = match step {
                Step::Keep => self.credential(&config.name).cloned(),
                Step::Renew { client, place } => match taken_out.remove(&config.name) {
                    Some(refresher) => {
                        let refresher = place.renew(refresher, *client, config, self.clock).await;
                        Some(self.refreshers.start(Arc::clone(config), refresher, source))
                    }
                    None => None,
                },
                Step::Begin { mut refresher, place, inherits } => {
                    if let Some(previous) = taken_out.get_mut(&config.name) {
                        refresher.take_orders_of(previous);
                    }
                    let previous = taken_out.remove(&config.name).filter(|_| inherits);
                    let state = place.state(previous, config, self.clock).await;
                    new.push(source.clone());
                    Some(self.refreshers.start(Arc::clone(config), refresher.with_state(state), source))
                }
            };
            credentials.extend(credential);
        }
        (credentials, new)
    }

    /// Lets requests that wait for a token of a credential that begins anew wait for the new token, if the
    /// previous routes send the new token only where the new configuration sends it.
    fn let_requests_follow(&self, config: &Config, plan: &Plan) {
        let before = self.credential(plan.source.name()).filter(|before| !before.source.is(&plan.source));
        if let Some(before) = before
            && keeps_routes_of(plan.source.name(), &self.config, config)
        {
            before.source.succeeded_by(&plan.source);
        }
    }

    /// Divides the descriptors anew if a setting that their division depends on has changed.
    fn resize(&mut self, config: &Config) {
        let counts = |config: &Config| {
            (
                config.server.listen.len(),
                config.health.listen.is_some(),
                config.credentials.len(),
                config.server.limits.connections,
            )
        };
        if counts(config) != counts(&self.config) {
            let shares = descriptors::share_out(config, MAX_REFUSALS);
            self.most_connections = shares.callers;
            self.descriptors.resize(shares.upstreams);
            self.observed.set_connections_limit(connections(&config.server.limits, shares.callers));
        }
    }

    async fn change_workers(
        &self,
        service_settings: &Arc<ServiceSettings>,
        upstreams: &[Arc<crate::proxy::upstream::Upstream>],
        listen_sockets: &ListenSockets,
    ) -> Result<(), StartError> {
        let mut all_done = Vec::new();
        for (index, worker) in self.workers.iter().enumerate() {
            let (done, is_done) = oneshot::channel();
            let (service_settings, upstreams) = (Arc::clone(service_settings), upstreams.to_vec());
            let configuration = Configuration { worker: index, service_settings, upstreams };
            let change = snapshot::Change { configuration, listen_sockets: listen_sockets.numbers(), done };
            worker.send(change).await.map_err(io::Error::other)?;
            all_done.push(is_done);
        }
        for is_done in all_done {
            is_done.await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn change_certificates(&mut self, next: Option<(Certificates, Option<crate::tls::reload::Reload>)>) {
        match next {
            None => self.certificates.asked.notify_one(),
            Some((mut next, keeper)) => {
                next.keep(keeper, &mut self.tasks);
                self.certificates.end();
                self.certificates = next;
            }
        }
    }

    async fn change_listen_sockets(
        &mut self,
        config: &Config,
        transition: Transition,
    ) -> Result<(), StartError> {
        let Transition { after, stay, new, addresses } = transition;
        for address in &addresses {
            log_listening(address, self.certificates.current().is_some());
        }
        let (done, is_done) = oneshot::channel();
        let settings =
            listener_settings(config, &self.certificates, self.most_connections, &self.service_settings);
        let change = listener::Change { settings, stay, open: new, done };
        self.listener.send(change).await.map_err(io::Error::other)?;
        self.listen_sockets = after;
        // All listening sockets are bound: only the system's lack of memory is left as a cause.
        if let Err(error) = is_done.await.map_err(io::Error::other)? {
            warn!(%error, "listening socket not opened");
        }
        Ok(())
    }
}

/// Waits until these credentials have a token, unless waiting does not help. Returns the names of those without one.
async fn without_token(new: &[TokenSource]) -> Vec<String> {
    let waits = new.iter().map(|source| async move {
        let is_without = source.wait(FIRST_TOKEN_TIMEOUT).await.is_err();
        is_without.then(|| source.name().to_owned())
    });
    join_all(waits).await.into_iter().flatten().collect()
}
