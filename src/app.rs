//! The daemon as a whole: built from a configuration, run until it is asked to stop.
//!
//! The only place that knows all parts. Everything that can fail at the start (authorities, addresses, threads)
//! fails before the first token is asked for.

mod upstreams;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use self::upstreams::Upstreams;
pub(crate) use self::upstreams::{Way, name as upstream_name, shares_connections};
use crate::admin::{self, Access, Credentials, Readiness};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::lifecycle::{Stage, Stages, Threads};
use crate::proxy::budget::Budget;
use crate::proxy::guard::Policy;
use crate::proxy::listener::{self, Bound};
use crate::proxy::prefix::Prefix;
use crate::proxy::replay::Allowance;
use crate::proxy::route::{Route, Table};
use crate::proxy::rules::Rules;
use crate::proxy::service::Shared;
use crate::proxy::unauthorized::Hold;
use crate::proxy::worker;
use crate::tls::client::{Trust, TrustError};
use crate::token::state_file::{OpenError, Refusal};
use crate::token::{ClientError, DurableState, Refresher, TokenClient, TokenSource};

/// How long a state's write is waited for at the end.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// A daemon that serves.
#[derive(Debug)]
pub struct Daemon {
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
    stages: Stages,
    threads: Threads,
    /// They end when they are told to, and have finished what is under way.
    refreshers: JoinSet<&'static str>,
    /// The admin address and discoveries: they end when they are dropped.
    tasks: JoinSet<&'static str>,
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
        address: SocketAddr,
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
    /// The system refuses a thread or a socket.
    #[error("the system refused a thread or a socket")]
    System(#[from] io::Error),
}

impl StartError {
    /// Whether the configuration, or what it names on this machine, must change.
    pub const fn is_of_the_configuration(&self) -> bool {
        match self {
            Self::Credential { .. } | Self::Trust { .. } | Self::Upstream { .. } => true,
            Self::State { source, .. } => !matches!(source, OpenError::Held { .. }),
            Self::Listen { .. } | Self::System(_) => false,
        }
    }

    /// What would mend it, where that is known.
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::State { source: OpenError::Folder { .. }, .. } => Some(
                "make the folder of server.state_dir or state_file, for the daemon's user alone: mkdir -m 700",
            ),
            Self::State { source: OpenError::Held { .. }, .. } => {
                Some("stop the other process, or give this one a state_file of its own")
            }
            Self::State { source: OpenError::Refused { source: Refusal::OtherKey, .. }, .. } => Some(
                "add the key that it was written under as state_key_previous; the state is written anew under state_key",
            ),
            Self::State { source: OpenError::Refused { source: Refusal::NoKey, .. }, .. } => {
                Some("set state_key to the key that it was written under")
            }
            Self::State { source: OpenError::Refused { .. }, .. } => Some(
                "put a good copy there, or move the file away and configure a new refresh_token if the grant is one",
            ),
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
        routes(config, &trust, &sources, clock).map(|_| ())
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
        let (table, upstreams) = routes(config, &trust, &sources, clock)?;
        let (upstreams, discoveries) = upstreams.into_parts();
        let bound = config.server.listen.iter().map(|address| bind("server.listen", *address));
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let admin = bind("admin.listen", config.admin.listen)?;

        let limits = &config.server.limits;
        let shared = Arc::new(Shared {
            policy: Policy::new(&config.server, &instance),
            table,
            instance,
            allowance: Allowance {
                body_bytes: limits.body_bytes,
                replay_body: limits.replay_body,
                budget: Arc::new(Budget::new(limits.replay_total)),
                body_timeout: Some(limits.body_timeout),
            },
            token_wait: limits.token_wait,
            access_log: config.log.access,
            clock,
        });
        let stages = Stages::new();
        let mut threads = Threads::new(config.server.workers + 1);
        let workers = (0..config.server.workers)
            .map(|index| {
                let (shared, upstreams) = (Arc::clone(&shared), upstreams.clone());
                worker::spawn(index, shared, upstreams, limits.clone(), stages.watch(), &mut threads)
            })
            .collect::<io::Result<Vec<_>>>()?;
        let addresses = bound.iter().map(|bound| bound.address).collect::<Vec<_>>();
        for address in &addresses {
            info!(%address, "listening");
        }
        listener::spawn(bound, workers, config.server.allow_from.clone(), stages.watch(), &mut threads)?;

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
        let drain = config.server.drain;
        let longest = config.credentials.iter().map(|credential| credential.longest_request()).max();
        Ok(Self {
            addresses,
            admin: admin_address,
            stages,
            threads,
            refreshers: refreshing,
            tasks,
            drain,
            longest_refresh: longest.unwrap_or_default() + WRITE_TIME,
        })
    }

    /// Where callers connect.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The operator's address.
    pub const fn admin(&self) -> SocketAddr {
        self.admin
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

    /// Takes no more connections, finishes what is in flight within `drain`, and cuts the rest; cuts at once
    /// when `hurry` resolves. A refresh token that is being used then is waited for, and what it brought is written.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        info!("draining");
        self.stages.enter(Stage::Draining);
        tokio::select! {
            () = self.threads.all_ended() => {}
            () = tokio::time::sleep(self.drain) => warn!("drain time is up"),
            () = hurry => warn!("asked to stop at once"),
        }
        self.stages.enter(Stage::Cut);
        self.threads.all_ended().await;
        let finished = async { while self.refreshers.join_next().await.is_some() {} };
        if tokio::time::timeout(self.longest_refresh, finished).await.is_err() {
            warn!("a token request or its write did not come to an end");
        }
        info!("stopped");
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<Bound, StartError> {
    listener::bind(address).map_err(|source| StartError::Listen { key, address, source })
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
) -> Result<(Table, Upstreams<'c>), StartError> {
    let mut table = Table::default();
    let mut upstreams = Upstreams::new(trust, sources, clock);
    for route in &config.routes {
        let upstream = upstreams.of(route)?;
        let token = route
            .credential
            .as_ref()
            .and_then(|credential| sources.iter().find(|source| source.name() == credential.name).cloned());
        let entry = Route {
            name: format!("{}{}", route.host.as_deref().unwrap_or_default(), route.path),
            rules: Rules::new(route),
            prefix: if route.strip_prefix { Prefix::new(&route.path) } else { Prefix::default() },
            fields: route.fields.clone(),
            retry_on: route.retry_on.clone(),
            upstream,
            path_in_front: route.upstream.destination.path().to_owned(),
            token,
            hold: Hold::default(),
            timeout: route.timeout,
            allows_websocket: route.allows_websocket,
            login_stub: route.credential.as_ref().map_or_else(Vec::new, |one| one.login_stub.clone()),
        };
        table.add(route.host.as_deref(), &route.path, entry);
    }
    Ok((table, upstreams))
}
