//! The daemon as a whole: built from a configuration, run until it is asked to stop, and changed to another one meanwhile.
//!
//! The only place that knows all parts. Everything that can fail at the start (authorities, addresses, threads)
//! fails before the first token is asked for; at a reload, before anything is changed.

mod admin;
mod certificates;
mod credentials;
mod differences;
mod entrances;
mod error;
mod reload;
mod table;
mod upstreams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

use self::admin::AdminAddress;
use self::certificates::Certificates;
use self::credentials::{Credential, Fate, Origin, Refreshers, client, fates};
use self::entrances::{Entrances, bind};
pub use self::error::StartError;
use self::table::{Common, Previous, Served, serve};
use self::upstreams::{Discoveries, InForce};
pub(crate) use self::upstreams::{Way, name as upstream_name, shares_connections};
use crate::clock::Clock;
use crate::config;
use crate::config::{Config, Listen};
use crate::descriptors;
use crate::lifecycle::{Stage, Stages, Threads};
use crate::proxy::limits::admission::REFUSALS;
use crate::proxy::limits::slots::Seats;
use crate::proxy::listener;
use crate::proxy::listener::House;
use crate::proxy::peer::Networks;
use crate::proxy::service::settings::Terms;
use crate::proxy::worker;
use crate::proxy::worker::snapshot;
use crate::reload::Reloads;
use crate::tls::client::Trust;
use crate::token::{DurableState, Refresher};

/// How long threads have to end once everything is cut.
const CUT_TIME: Duration = Duration::from_millis(500);
/// How long a state's write is waited for at the end.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    /// What is in force.
    config: Arc<Config>,
    clock: Clock,
    credentials: Vec<Credential>,
    terms: Arc<Terms>,
    upstreams: InForce,
    discoveries: Discoveries,
    entrances: Entrances,
    /// What of the descriptors connections of callers may take, and those to upstreams.
    most_connections: usize,
    seats: Arc<Seats>,
    certificates: Certificates,
    admin: AdminAddress,
    workers: Vec<mpsc::Sender<snapshot::Change>>,
    listener: mpsc::Sender<listener::Change>,
    stages: Stages,
    threads: Threads,
    /// They end when they are told to, and have finished what is under way.
    refreshers: Refreshers,
    /// The admin address, discoveries, certificates: they end when they are dropped.
    tasks: JoinSet<&'static str>,
}

/// A part of the daemon ended that should not have.
#[derive(Debug, Error)]
#[error("{0} ended unexpectedly")]
pub struct Died(String);

impl Daemon {
    /// Builds everything and starts nothing: whether [`Daemon::start`] would come as far as binding.
    ///
    /// # Errors
    ///
    /// [`StartError`], and never that an address is taken.
    pub fn try_out(config: &Config) -> Result<(), StartError> {
        let trust = Trust::default();
        let clock = Clock::system();
        let mut sources = Vec::new();
        for credential in &config.credentials {
            let client = client(credential, &trust)?;
            let durable = DurableState::in_memory(clock);
            sources.push(Refresher::new(Arc::clone(credential), client, durable, clock).1);
        }
        Certificates::try_out(config.server.tls.as_ref())?;
        let common = Common { clock, descriptors: &Seats::new(0) };
        let previous = Previous { upstreams: &InForce::default(), table: None };
        serve(config, &trust, &sources, common, previous).map(|_| ())
    }

    /// Binds, builds and starts everything; whoever wants a reload at the admin address tells so by `reloads`.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing keeps running then.
    pub fn start(config: &Config, reloads: Option<Reloads>) -> Result<Self, StartError> {
        let config = Arc::new(config.clone());
        let clock = Clock::system();
        let trust = Trust::default();
        let instance = format!("bearerd-{:08x}", fastrand::u32(..));
        let mut built = Vec::new();
        for (credential, fate) in
            config.credentials.iter().zip(fates(&config.credentials, &[], &trust, clock)?)
        {
            // There is none before that anything could come from.
            if let Fate::New(client, Origin::Opened(durable)) = fate {
                built.push(Refresher::new(Arc::clone(credential), *client, *durable, clock));
            }
        }
        let sources: Vec<_> = built.iter().map(|(_, source)| source.clone()).collect();
        let shares = descriptors::share_out(&config, REFUSALS);
        let seats = Seats::new(shares.upstreams);
        let common = Common { clock, descriptors: &seats };
        let previous = Previous { upstreams: &InForce::default(), table: None };
        let served = serve(&config, &trust, &sources, common, previous)?;
        let Served { table, upstreams, discoveries, .. } = served;
        let (certificates, keeper) = Certificates::new(config.server.tls.as_ref())?;
        let way = Entrances::default().to(&config.server, false)?;
        let admin = bind("admin.listen", config.admin.listen)?;

        let terms = Arc::new(Terms::new(&config, table, instance, clock));
        let stages = Stages::new();
        let mut threads = Threads::new(config.server.workers + 1);
        let (mut handles, mut workers) = (Vec::new(), Vec::new());
        for index in 0..config.server.workers {
            let served = (Arc::clone(&terms), upstreams.all.clone(), config.server.limits.clone());
            let (changing, changes) = mpsc::channel(1);
            handles.push(worker::spawn(index, served, stages.watch(), changes, &mut threads)?);
            workers.push(changing);
        }
        for address in &way.addresses {
            tell_listening(address, certificates.current().is_some());
        }
        let house = house(&config, &certificates, shares.callers);
        let (listener, changes) = mpsc::channel(1);
        listener::spawn(way.new, handles, house, (stages.watch(), changes), &mut threads)?;

        let (mut refreshers, mut tasks) = (Refreshers::new(stages.watch()), JoinSet::new());
        let credentials: Vec<_> = built
            .into_iter()
            .zip(&config.credentials)
            .map(|((refresher, source), config)| refreshers.start(Arc::clone(config), refresher, source))
            .collect();
        let discoveries = Discoveries::default().going_on(&[], discoveries, &mut tasks);
        let mut certificates = certificates;
        certificates.keep(keeper, &mut tasks);
        let admin = AdminAddress::open(
            admin,
            &config,
            (&credentials, &discoveries),
            stages.watch(),
            reloads,
            &mut tasks,
        )?;
        Ok(Self {
            config,
            clock,
            credentials,
            terms,
            upstreams,
            discoveries,
            entrances: way.after,
            most_connections: shares.callers,
            seats,
            certificates,
            admin,
            workers,
            listener,
            stages,
            threads,
            refreshers,
            tasks,
        })
    }

    /// Where callers connect.
    pub fn addresses(&self) -> Vec<Listen> {
        self.entrances.addresses()
    }

    /// The operator's address.
    pub const fn admin(&self) -> SocketAddr {
        self.admin.address
    }

    /// What is in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How certificates are looked at before their time.
    pub fn look_at_certificates(&self) -> Arc<tokio::sync::Notify> {
        self.certificates.asked()
    }

    /// Serves until something ends it; never comes back otherwise.
    ///
    /// # Errors
    ///
    /// Always: which part it was.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops nothing.
    pub async fn died(&mut self) -> Died {
        loop {
            tokio::select! {
                thread = self.threads.one_ended() => return Died(format!("the thread {thread}")),
                which = self.refreshers.one_died() => return Died(which),
                Some(task) = self.tasks.join_next() => match task {
                    Ok(which) => return Died(which.to_owned()),
                    // Of something that another configuration does not have.
                    Err(error) if JoinError::is_cancelled(&error) => {}
                    Err(error) => return Died(error.to_string()),
                },
            }
        }
    }

    /// Is not ready any more, and after `drain_delay` takes no more connections; finishes what is in flight within
    /// `drain`, and cuts the rest; cuts at once when `hurry` resolves. A refresh token that is being used then is waited
    /// for, and what it brought is written.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let config::Server { drain_delay, drain, .. } = self.config.server;
        let finished = async {
            if !drain_delay.is_zero() {
                info!(delay = ?drain_delay, "not ready any more");
                self.stages.enter(Stage::Leaving);
                tokio::time::sleep(drain_delay).await;
            }
            info!("draining");
            self.stages.enter(Stage::Draining);
            if timeout(drain, self.threads.all_ended()).await.is_err() {
                warn!("drain time is up");
            }
        };
        tokio::select! {
            () = finished => {}
            () = hurry => warn!("asked to stop at once"),
        }
        self.stages.enter(Stage::Cutting);
        if timeout(CUT_TIME, self.threads.all_ended()).await.is_err() {
            warn!("a thread did not end");
        }
        // Not sooner: who waited for a token has to learn why there will be none.
        self.stages.enter(Stage::Cut);
        if timeout(CUT_TIME, self.refreshers.all_ended()).await.is_err() {
            info!("waiting for what a refresh token brings, which would be lost otherwise");
            if timeout(self.longest_refresh(), self.refreshers.all_ended()).await.is_err() {
                warn!("a token request or its write did not come to an end");
            }
        }
        info!("stopped");
    }

    /// The longest that a token request takes, its write included.
    fn longest_refresh(&self) -> Duration {
        let longest = self.config.credentials.iter().map(|credential| credential.longest_request()).max();
        longest.unwrap_or_default() + WRITE_TIME
    }
}

/// Who is let in.
fn house(config: &Config, certificates: &Certificates, most_connections: usize) -> House {
    let server = &config.server;
    House {
        networks: Networks::of(server),
        tls: certificates.current(),
        limits: server.limits.clone(),
        most_connections,
    }
}

fn tell_listening(address: &Listen, speaks_tls: bool) {
    info!(%address, tls = matches!(address, Listen::Tcp(_)) && speaks_tls, "listening");
}
