//! Another configuration in the place of the one in force, as a whole or not at all.
//!
//! First all is built that can fail: clients, states, upstreams, certificates, sockets. Then refreshers that go on with
//! other settings are taken out of their tasks, between two token requests; that too can be given up. Credentials that
//! begin anew get their first token while requests still go by the table of before. Only then everything is swapped:
//! workers first, then who lets callers in, then what operators see.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::certificates::Certificates;
use super::credentials::{Credential, Fate, Place, all_idle, fates};
use super::differences::{differences, keep_until_restart, keeps_routes_of};
use super::entrances::{Entrances, Transition};
use super::table::{Before, Served, serve};
use super::upstreams::Resources;
use super::{Daemon, StartError, listener_settings, log_listening};
use crate::config::Config;
use crate::descriptors;
use crate::proxy::limits::admission::MAX_REFUSALS;
use crate::proxy::listener;
use crate::proxy::service::settings::ServiceSettings;
use crate::proxy::worker::snapshot;
use crate::proxy::worker::snapshot::Configuration;
use crate::reload::Reloaded;
use crate::tls::client::Trust;
use crate::token::{DurableState, Refresher, TokenClient, TokenSource};

/// How long the disk is waited for.
const DISK: Duration = Duration::from_secs(15);
/// How long refreshers without a token request under way may take to leave their tasks.
const HAND_OUT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long credentials that begin anew may take to their first token before the rest is not kept back any more.
const WARM_UP: Duration = Duration::from_secs(10);

/// A credential of the next configuration, before anything of it runs.
struct Next {
    source: TokenSource,
    fate: Prepared,
}

enum Prepared {
    Stays,
    Renewed(Box<TokenClient>, Place),
    New { refresher: Box<Refresher<TokenClient>>, place: Place, inherits: bool },
}

impl Next {
    /// The previous credentials whose refreshers are needed: its own to go on with, and the holder of its place.
    fn taken_from(&self) -> impl Iterator<Item = &str> {
        let goes_on = match &self.fate {
            Prepared::Stays => false,
            Prepared::Renewed(..) => true,
            Prepared::New { inherits, .. } => *inherits,
        };
        goes_on.then(|| self.source.name()).into_iter().chain(self.vacated())
    }

    /// The previous credential that has to give up its place for this one.
    fn vacated(&self) -> Option<&str> {
        match &self.fate {
            Prepared::Renewed(_, Place::Vacated(holder))
            | Prepared::New { place: Place::Vacated(holder), .. } => Some(holder),
            Prepared::Stays | Prepared::Renewed(..) | Prepared::New { .. } => None,
        }
    }
}

impl Daemon {
    /// Serves by another configuration from now on.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing has changed then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the daemon between two configurations: all that it can do then is to stop.
    pub async fn reload(&mut self, mut config: Config) -> Result<Reloaded, StartError> {
        let restart_needed = keep_until_restart(&self.config, &mut config);
        let config = Arc::new(config);
        let trust = Arc::new(Trust::default());
        let nexts = self.prepare(&config, &trust).await?;
        let sources: Vec<_> = nexts.iter().map(|next| next.source.clone()).collect();
        let resources =
            Resources { trust: &trust, sources: &sources, clock: self.clock, descriptors: &self.descriptors };
        let before = Before { upstreams: &self.upstreams, table: Some(&self.service_settings.table) };
        let served = serve(&config, resources, &before)?;
        let certificates = self.certificates.next(config.server.tls.as_ref())?;
        let next_certificates = certificates.as_ref().map(|(next, _)| next);
        let begin_anew = next_certificates.is_some_and(|next| next.ask_otherwise_than(&self.certificates));
        let way = self.entrances.to(&config.server, begin_anew)?;
        let taken_out = self.take_out(&nexts).await?;

        // From here on nothing fails any more.
        let mut reloaded = differences(&self.config, &config);
        let (credentials, new) = self.go_on(&config, nexts, taken_out).await;
        let Served { table, upstreams, discoveries, discovered } = served;
        let discoveries = self.discoveries.continued_with(discovered, discoveries, &mut self.tasks);
        reloaded.without_token = warm_up(&new).await;
        let service_settings =
            ServiceSettings::new(&config, table, self.service_settings.instance.clone(), self.clock);
        let service_settings = Arc::new(service_settings.with_counters_of(&self.service_settings));
        self.resize(&config);
        self.change_workers(&config, &service_settings, &upstreams.all, &way.after).await?;
        self.change_certificates(certificates);
        self.change_entrances(&config, way).await?;
        service_settings.resize(&config.server.limits);
        self.admin.change((&self.config, &config), &credentials, &discoveries);

        self.discoveries.end_without(&discoveries);
        // With its last `Credential`, the refresher of a removed or replaced credential ends.
        (self.credentials, self.discoveries) = (credentials, discoveries);
        (self.service_settings, self.upstreams, self.config) = (service_settings, upstreams, config);
        Ok(Reloaded { restart_needed, ..reloaded })
    }

    /// What becomes of each credential, as far as that can be said without touching one.
    async fn prepare(&self, config: &Arc<Config>, trust: &Arc<Trust>) -> Result<Vec<Next>, StartError> {
        let before: Vec<_> = self.credentials.iter().map(|one| Arc::clone(&one.config)).collect();
        let (next, trust, clock) = (Arc::clone(config), Arc::clone(trust), self.clock);
        let work = move || fates(&next.credentials, &before, &trust, clock);
        let done = tokio::time::timeout(DISK, tokio::task::spawn_blocking(work)).await;
        let fates = done.map_err(|_| StartError::Disk)?.map_err(io::Error::other)??;
        let prepared = config.credentials.iter().zip(fates).map(|(config, fate)| {
            let source = || self.credential(&config.name).map(|one| one.source.clone());
            match (fate, source()) {
                (Fate::Stays, Some(source)) => Some(Next { source, fate: Prepared::Stays }),
                (Fate::Renewed(client, place), Some(source)) => {
                    Some(Next { source, fate: Prepared::Renewed(client, place) })
                }
                (Fate::New { client, place, inherits }, _) => {
                    let nothing = DurableState::in_memory(self.clock);
                    let (refresher, source) =
                        Refresher::new(Arc::clone(config), *client, nothing, self.clock);
                    let refresher = Box::new(refresher);
                    Some(Next { source, fate: Prepared::New { refresher, place, inherits } })
                }
                (Fate::Stays | Fate::Renewed(..), None) => None,
            }
        });
        Ok(prepared.flatten().collect())
    }

    fn credential(&self, name: &str) -> Option<&Credential> {
        self.credentials.iter().find(|one| one.config.name == name)
    }

    /// Takes the refreshers out of their tasks that go on otherwise, or have something that another needs. Requests are
    /// served with their tokens meanwhile.
    ///
    /// All leave together, at a moment at which none of them makes a token request; each one stays in service until then.
    /// Only if there is no such moment within the time of the longest request, each one leaves after its own request.
    async fn take_out(
        &mut self,
        nexts: &[Next],
    ) -> Result<HashMap<String, Refresher<TokenClient>>, StartError> {
        let names: HashSet<&str> = nexts.iter().flat_map(Next::taken_from).collect();
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

    /// As if nothing had been.
    fn put_back(&mut self, taken_out: HashMap<String, Refresher<TokenClient>>) {
        for (name, refresher) in taken_out {
            if let Some(at) = self.credentials.iter().position(|one| one.config.name == name) {
                let Credential { config, source, .. } = self.credentials[at].clone();
                self.credentials[at] = self.refreshers.start(config, refresher, source);
            }
        }
    }

    /// Starts what begins anew and what goes on; answers all, and the sources of those that begin anew.
    async fn go_on(
        &mut self,
        config: &Config,
        nexts: Vec<Next>,
        mut taken_out: HashMap<String, Refresher<TokenClient>>,
    ) -> (Vec<Credential>, Vec<TokenSource>) {
        let (mut credentials, mut new) = (Vec::new(), Vec::new());
        for next in &nexts {
            self.let_requests_follow(config, next);
        }
        for holder in nexts.iter().filter_map(Next::vacated) {
            if let Some(refresher) = taken_out.get_mut(holder) {
                refresher.give_up_place();
            }
        }
        for (config, Next { source, fate }) in config.credentials.iter().zip(nexts) {
            let credential = match fate {
                Prepared::Stays => self.credential(&config.name).cloned(),
                Prepared::Renewed(client, place) => match taken_out.remove(&config.name) {
                    Some(refresher) => {
                        let refresher = place.renew(refresher, *client, config, self.clock).await;
                        Some(self.refreshers.start(Arc::clone(config), refresher, source))
                    }
                    None => None,
                },
                Prepared::New { refresher, place, inherits } => {
                    let heir_of = taken_out.remove(&config.name).filter(|_| inherits);
                    let state = place.state(heir_of, config, self.clock).await;
                    new.push(source.clone());
                    Some(self.refreshers.start(Arc::clone(config), refresher.with_state(state), source))
                }
            };
            credentials.extend(credential);
        }
        (credentials, new)
    }

    /// Lets requests that wait for a token of a credential that begins anew wait for its new token, if no other than the new
    /// configuration's own routes and upstreams can receive that token.
    fn let_requests_follow(&self, config: &Config, next: &Next) {
        let before = self.credential(next.source.name()).filter(|before| !before.source.is(&next.source));
        if let Some(before) = before
            && keeps_routes_of(next.source.name(), &self.config, config)
        {
            before.source.succeeded_by(&next.source);
        }
    }

    /// Shares out descriptors anew, if something that counts for that is otherwise.
    fn resize(&mut self, config: &Config) {
        let counts = |config: &Config| {
            (config.server.listen.len(), config.credentials.len(), config.server.limits.connections)
        };
        if counts(config) != counts(&self.config) {
            let shares = descriptors::share_out(config, MAX_REFUSALS);
            self.most_connections = shares.callers;
            self.descriptors.resize(shares.upstreams);
        }
    }

    async fn change_workers(
        &self,
        config: &Config,
        service_settings: &Arc<ServiceSettings>,
        upstreams: &[Arc<crate::proxy::upstream::Upstream>],
        entrances: &Entrances,
    ) -> Result<(), StartError> {
        let mut all_done = Vec::new();
        for worker in &self.workers {
            let (done, is_done) = oneshot::channel();
            let (service_settings, upstreams) = (Arc::clone(service_settings), upstreams.to_vec());
            let configuration =
                Configuration { service_settings, upstreams, limits: config.server.limits.clone() };
            let change = snapshot::Change { configuration, entrances: entrances.numbers(), done };
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
            None => self.certificates.asked().notify_one(),
            Some((mut next, keeper)) => {
                next.keep(keeper, &mut self.tasks);
                self.certificates.end();
                self.certificates = next;
            }
        }
    }

    async fn change_entrances(&mut self, config: &Config, transition: Transition) -> Result<(), StartError> {
        let Transition { after, stay, new, addresses } = transition;
        for address in &addresses {
            log_listening(address, self.certificates.current().is_some());
        }
        let (done, is_done) = oneshot::channel();
        let settings = listener_settings(config, &self.certificates, self.most_connections);
        let change = listener::Change { settings, stay, open: new, done };
        self.listener.send(change).await.map_err(io::Error::other)?;
        self.entrances = after;
        match is_done.await.map_err(io::Error::other)? {
            Ok(()) => {}
            // They are bound: what is left to go wrong is the system's own memory.
            Err(error) => warn!(%error, "entrance not opened"),
        }
        Ok(())
    }
}

/// Waits until those that begin anew have a token, or it is known that waiting does not help; names those without one.
async fn warm_up(new: &[TokenSource]) -> Vec<String> {
    let waits = new.iter().map(|source| async move {
        let is_without = source.wait(WARM_UP).await.is_err();
        is_without.then(|| source.name().to_owned())
    });
    join_all(waits).await.into_iter().flatten().collect()
}
