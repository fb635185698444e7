//! The daemon as a whole: built from a configuration, run until it is asked to stop.
//!
//! The only place that knows all parts. Everything that can fail at the start (authorities, addresses, threads)
//! fails before the first token is asked for.

mod entrances;
mod upstreams;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use self::entrances::{bind, bind_all};
use self::upstreams::Upstreams;
pub(crate) use self::upstreams::{Way, name as upstream_name, shares_connections};
use crate::admin::{self, Access, Credentials, Readiness};
use crate::clock::Clock;
use crate::config::{self, Config, Listen};
use crate::descriptors;
use crate::lifecycle::{Stage, Stages, Threads};
use crate::proxy::admission::REFUSALS;
use crate::proxy::listener;
use crate::proxy::route::{Route, Table};
use crate::proxy::seats::Seats;
use crate::proxy::terms::Terms;
use crate::proxy::worker;
use crate::tls::client::{Trust, TrustError};
use crate::tls::reload::Reload;
use crate::tls::server::ServerTlsError;
use crate::token::state_file::OpenError;
use crate::token::{ClientError, DurableState, Refresher, TokenClient, TokenSource};

/// How long threads have to end once everything is cut.
const CUT_TIME: Duration = Duration::from_millis(500);
/// How long a state's write is waited for at the end.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    addresses: Vec<Listen>,
    admin: SocketAddr,
    stages: Stages,
    threads: Threads,
    /// They end when they are told to, and have finished what is under way.
    refreshers: JoinSet<&'static str>,
    /// The admin address and discoveries: they end when they are dropped.
    tasks: JoinSet<&'static str>,
    /// Tells that certificates should be looked at now; none where there are none.
    look_at_certificates: Option<Arc<Notify>>,
    /// How long we go on when we are not ready any more, and how long what is in flight may take then.
    drain_delay: Duration,
    drain: Duration,
    /// The longest that a token request takes, its write included.
    longest_refresh: Duration,
}

/// Why the daemon did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key})")]
    Listen {
        /// Where the address is configured.
        key: &'static str,
        /// The address.
        address: Listen,
        /// Why not.
        source: io::Error,
    },
    /// A credential's client cannot be set up.
    #[error("the credential `{credential}` cannot be set up")]
    Credential {
        /// Its name.
        credential: String,
        /// Why not.
        source: ClientError,
    },
    /// A credential's state cannot be had.
    #[error("the credential `{credential}` has no state to work with")]
    State {
        /// Its name.
        credential: String,
        /// Why not.
        source: OpenError,
    },
    /// An upstream's authorities cannot be used.
    #[error("the upstream {upstream} cannot be set up")]
    Trust {
        /// Its address.
        upstream: String,
        /// Why not.
        source: TrustError,
    },
    /// An upstream's address cannot be used.
    #[error("the upstream {upstream} cannot be set up")]
    Upstream {
        /// Its address.
        upstream: String,
        /// Why not.
        source: io::Error,
    },
    /// Callers cannot be served over TLS.
    #[error("TLS towards callers cannot be set up")]
    ServerTls(#[from] ServerTlsError),
    /// The system refuses a thread or a socket.
    #[error("the system refused a thread or a socket")]
    System(#[from] io::Error),
}

impl StartError {
    /// Whether the configuration, or what it names on this machine, must change.
    pub const fn is_of_the_configuration(&self) -> bool {
        match self {
            Self::Credential { .. } | Self::Trust { .. } | Self::Upstream { .. } | Self::ServerTls(_) => true,
            Self::State { source, .. } => !matches!(source, OpenError::Held { .. }),
            Self::Listen { .. } | Self::System(_) => false,
        }
    }

    /// What would mend it, where that is known.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Listen { address: Listen::Unix(_), .. } => Some(
                "stop what listens there, or name another path, in a folder that the daemon's user may write to",
            ),
            Self::State { source, .. } => Some(source.help()),
            _ => None,
        }
    }
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
        let (_, sources) = credentials(config, &trust, clock, |_| Ok(DurableState::in_memory(clock)))?;
        config.server.tls.as_ref().map(Reload::new).transpose()?;
        routes(config, &trust, &sources, clock, &Seats::new(0)).map(|_| ())
    }

    /// Binds, builds and starts everything.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing keeps running then.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let clock = Clock::system();
        let trust = Trust::default();
        let instance = format!("bearerd-{:08x}", fastrand::u32(..));
        let (refreshers, sources) =
            credentials(config, &trust, clock, |credential| DurableState::open(credential, clock))?;
        let descriptors = descriptors::share_out(config, REFUSALS);
        let seats = Seats::new(descriptors.upstreams);
        let (table, upstreams) = routes(config, &trust, &sources, clock, &seats)?;
        let (upstreams, discoveries) = upstreams.into_parts();
        let reload = config.server.tls.as_ref().map(Reload::new).transpose()?;
        let (mut entrances, addresses) = bind_all(&config.server)?;
        entrances.tls = reload.as_ref().map(Reload::current);
        let admin = bind("admin.listen", config.admin.listen)?;

        let limits = &config.server.limits;
        let shared = Arc::new(Terms::new(config, table, instance, clock));
        let stages = Stages::new();
        let mut threads = Threads::new(config.server.workers + 1);
        let workers = (0..config.server.workers)
            .map(|index| {
                let (shared, upstreams) = (Arc::clone(&shared), upstreams.clone());
                worker::spawn(index, shared, upstreams, limits.clone(), stages.watch(), &mut threads)
            })
            .collect::<io::Result<Vec<_>>>()?;
        for address in &addresses {
            let is_tls = matches!(address, Listen::Tcp(_)) && reload.is_some();
            info!(%address, tls = is_tls, "listening");
        }
        let bounds = (limits.clone(), descriptors.callers);
        listener::spawn(entrances, workers, bounds, stages.watch(), &mut threads)?;

        let operators: Vec<_> = refreshers.iter().map(Refresher::operator).collect();
        let (mut refreshing, mut tasks) = (JoinSet::new(), JoinSet::new());
        for refresher in refreshers {
            let mut stage = stages.watch();
            refreshing.spawn(async move {
                let cut = async move {
                    // Without whoever moves the stage on there is nobody to go on for.
                    let _ = stage.wait_for(|stage| *stage == Stage::Cut).await;
                };
                refresher.run(cut).await;
                "a refresher"
            });
        }
        let required = config.credentials.iter().map(|credential| credential.required);
        let operated = Credentials::new(
            Access::new(&config.admin, admin.address),
            sources.iter().cloned().zip(operators).collect(),
        );
        let (discoveries, discovered): (Vec<_>, Vec<_>) = discoveries.into_iter().unzip();
        for discovery in discoveries {
            tasks.spawn(async move {
                discovery.run().await;
                "a discovery"
            });
        }
        let credentials = sources.into_iter().zip(required).collect();
        let readiness = Readiness::new(credentials, discovered, stages.watch());
        let admin_address = admin.address;
        let admin = TcpListener::from_std(admin.into_socket())?;
        info!(address = %admin_address, "admin listening");
        tasks.spawn(async move {
            if let Err(error) = admin::serve(admin, readiness, operated).await {
                error!(%error, "admin address failed");
            }
            "the admin address"
        });
        let look_at_certificates = reload.map(|reload| {
            let asked = Arc::new(Notify::new());
            let asking = Arc::clone(&asked);
            tasks.spawn(async move {
                reload.run(asked).await;
                "the reloading of certificates"
            });
            asking
        });
        let config::Server { drain_delay, drain, .. } = config.server;
        let longest = config.credentials.iter().map(|credential| credential.longest_request()).max();
        Ok(Self {
            addresses,
            admin: admin_address,
            stages,
            threads,
            refreshers: refreshing,
            tasks,
            look_at_certificates,
            drain_delay,
            drain,
            longest_refresh: longest.unwrap_or_default() + WRITE_TIME,
        })
    }

    /// Where callers connect.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// The operator's address.
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// How certificates are looked at before their time, where there are some.
    pub fn look_at_certificates(&self) -> Option<Arc<Notify>> {
        self.look_at_certificates.clone()
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
        tokio::select! {
            thread = self.threads.one_ended() => Died(format!("the thread {thread}")),
            Some(task) = self.refreshers.join_next() => Died(task.map_or_else(|error| error.to_string(), str::to_owned)),
            Some(task) = self.tasks.join_next() => Died(task.map_or_else(|error| error.to_string(), str::to_owned)),
        }
    }

    /// Is not ready any more, and after `drain_delay` takes no more connections; finishes what is in flight within
    /// `drain`, and cuts the rest; cuts at once when `hurry` resolves. A refresh token that is being used then is waited
    /// for, and what it brought is written.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let finished = async {
            if !self.drain_delay.is_zero() {
                info!(delay = ?self.drain_delay, "not ready any more");
                self.stages.enter(Stage::Leaving);
                tokio::time::sleep(self.drain_delay).await;
            }
            info!("draining");
            self.stages.enter(Stage::Draining);
            if timeout(self.drain, self.threads.all_ended()).await.is_err() {
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
        let mut finished = pin!(async { while self.refreshers.join_next().await.is_some() {} });
        if timeout(CUT_TIME, finished.as_mut()).await.is_err() {
            info!("waiting for what a refresh token brings, which would be lost otherwise");
            if timeout(self.longest_refresh, finished).await.is_err() {
                warn!("a token request or its write did not come to an end");
            }
        }
        info!("stopped");
    }
}

fn credentials(
    config: &Config,
    trust: &Trust,
    clock: Clock,
    open: impl Fn(&config::Credential) -> Result<DurableState, OpenError>,
) -> Result<(Vec<Refresher<TokenClient>>, Vec<TokenSource>), StartError> {
    config
        .credentials
        .iter()
        .map(|credential| {
            let endpoint = TokenClient::new(credential, trust)
                .map_err(|source| StartError::Credential { credential: credential.name.clone(), source })?;
            let durable = open(credential)
                .map_err(|source| StartError::State { credential: credential.name.clone(), source })?;
            Ok(Refresher::new(Arc::clone(credential), endpoint, durable, clock))
        })
        .collect()
}

/// The routing table, and the upstreams that its routes lead to.
fn routes<'c>(
    config: &'c Config,
    trust: &'c Trust,
    sources: &'c [TokenSource],
    clock: Clock,
    descriptors: &Arc<Seats>,
) -> Result<(Table, Upstreams<'c>), StartError> {
    let mut table = Table::default();
    let asks_for_names = config.routes.iter().any(|route| !route.callers.is_empty());
    let mut upstreams = Upstreams::new(trust, sources, clock, Arc::clone(descriptors));
    for route in &config.routes {
        let upstream = upstreams.of(route)?;
        let token = route
            .credential
            .as_ref()
            .and_then(|credential| sources.iter().find(|source| source.name() == credential.name).cloned());
        let entry = Route::new(route, upstream, token, asks_for_names);
        table.add(route.host.as_deref(), &route.path, entry);
    }
    Ok((table, upstreams))
}
