//! The daemon's side of the admin address and of the address of health checks: opens them, and updates them after a
//! reload.
//!
//! Everything that can fail is in [`prepare`]. A reload that changes an address or its TLS opens a new server before the
//! old one ends: the old server finishes the requests in flight, the reload's own among them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::StartError;
use super::certificates::{Certificates, ShownTo};
use super::credentials::Credential;
use super::listen_sockets::{ADMIN, HEALTH, PassedToAdmin, bind, explain};
use super::metrics::Metrics;
use super::observed::Observed;
use super::upstreams::Discoveries;
use crate::admin;
use crate::admin::server::Listener;
use crate::admin::token_file;
use crate::admin::token_file::OwnToken;
use crate::admin::{
    Access, Credentials, Exposition, HealthAddress, OperatorAddress, Overview, Readiness, Reloading,
};
use crate::config::{Config, Listen};
use crate::judged_as::JudgedAs;
use crate::lifecycle::Stage;
use crate::proxy::listener::BoundSocket;
use crate::reload::Reloads;
use crate::telemetry::Events;
use crate::tls::reload::{CurrentCertificate, Reload};
use crate::unix_socket::SocketFile;

/// The open addresses and the state that they serve.
#[derive(Debug)]
pub(super) struct AdminAddress {
    admin: Entrance,
    health: Option<Entrance>,
    /// The daemon's own token.
    token: Option<SecretString>,
    operators: OperatorAddress,
    checks: HealthAddress,
    /// Serve the addresses; a server whose address has changed ends after its last response.
    servers: JoinSet<()>,
}

/// An address that is served.
#[derive(Debug)]
struct Entrance {
    place: Place,
    certificates: Certificates,
    /// Ends the server when dropped.
    _serving: oneshot::Sender<()>,
}

/// A bound socket, kept to open another server on it.
#[derive(Debug)]
struct Place {
    /// The address as configured.
    configured: Listen,
    /// The address with the port that the system chose.
    address: Listen,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Option<Arc<SocketFile>>),
}

/// An address that is about to be served.
#[derive(Debug)]
struct Next {
    place: Place,
    listener: Listener,
    certificates: Certificates,
    keeper: Option<Reload>,
}

/// Everything of a configuration that could fail.
#[derive(Debug)]
pub(super) struct Prepared {
    /// `None` if the address is served already.
    admin: Option<Next>,
    health: Health,
    token: Option<SecretString>,
}

#[derive(Debug)]
enum Health {
    Stays,
    Ends,
    Begins(Box<Next>),
}

/// The open addresses of operators and health checks.
pub(super) enum Open<'a> {
    /// None, but sockets may have been passed.
    Nothing(PassedToAdmin),
    /// Those of a running daemon.
    Both(&'a AdminAddress),
}

/// Binds the addresses that are not open yet, and reads the daemon's own token or makes it. `others` are the open addresses
/// of the daemon.
///
/// # Errors
///
/// [`StartError`]; nothing has changed but the file of the token.
pub(super) fn prepare(
    config: &Config,
    before: Open<'_>,
    token: Option<SecretString>,
    others: &[Listen],
) -> Result<Prepared, StartError> {
    let (before, passed) = match before {
        Open::Nothing(passed) => (None, passed),
        Open::Both(before) => (Some(before), PassedToAdmin::default()),
    };
    let mut own = others.to_vec();
    own.extend(before.into_iter().flat_map(AdminAddress::addresses));
    let open = before.map(|before| &before.admin);
    let bind = |key, listen, passed: Option<_>| {
        passed.map_or_else(|| bind(key, listen).map_err(|error| explain(error, &own)), Ok)
    };
    let bind_admin = || bind(ADMIN, &config.admin.listen, passed.operators);
    let admin = next(&config.admin.listen, config.admin.tls.as_ref(), open, bind_admin)?;
    let open = before.and_then(|before| before.health.as_ref());
    let health = match &config.health.listen {
        None => Health::Ends,
        Some(listen) => match next(listen, None, open, || bind(HEALTH, listen, passed.checks))? {
            Some(next) => Health::Begins(Box::new(next)),
            None => Health::Stays,
        },
    };
    Ok(Prepared { admin, health, token })
}

/// The address to serve; `None` if it is served already.
fn next(
    listen: &Listen,
    tls: Option<&crate::config::ServerTls>,
    open: Option<&Entrance>,
    bind: impl FnOnce() -> Result<(BoundSocket, Listen), StartError>,
) -> Result<Option<Next>, StartError> {
    let stays = open.filter(|open| open.place.configured == *listen);
    let (certificates, keeper) = match (open, stays) {
        (None, _) => Certificates::new(ShownTo::Operators, tls)?,
        (Some(open), None) => open.certificates.anew(tls)?,
        (Some(open), Some(_)) => match open.certificates.next(tls)? {
            Some(changed) => changed,
            None => return Ok(None),
        },
    };
    let place = match stays {
        Some(open) => open.place.try_clone()?,
        None => {
            let (socket, address) = bind()?;
            let socket = match socket {
                BoundSocket::Tcp(socket) => Socket::Tcp(socket),
                BoundSocket::Unix(socket, file) => Socket::Unix(socket, file.map(Arc::new)),
            };
            Place { configured: listen.clone(), address, socket }
        }
    };
    let listener = place.listener(&certificates)?;
    Ok(Some(Next { place, listener, certificates, keeper }))
}

/// The daemon's own token, read from its file or made; `None` with a configured token, or without a state.
///
/// # Errors
///
/// [`StartError::AdminToken`].
pub(super) fn own_token(config: &Config) -> Result<Option<SecretString>, StartError> {
    let Some(path) = &config.admin.token_file else { return Ok(None) };
    let OwnToken { secret, replaced, not_written } =
        token_file::open_or_create(path).map_err(refused(path))?;
    if let Some(mode) = replaced {
        let mode = format!("{mode:04o}");
        warn!(file = %path.display(), mode, "admin token replaced: other users could access its file");
    }
    if let Some(error) = not_written {
        error!(file = %path.display(), %error, "admin token not written: no grant can be handed over until a reload");
    }
    Ok(Some(secret))
}

/// Whether [`own_token`] could return a token. Changes nothing.
///
/// # Errors
///
/// [`StartError::AdminToken`].
pub(super) fn check_own_token(config: &Config) -> Result<(), StartError> {
    let Some(path) = &config.admin.token_file else { return Ok(()) };
    token_file::check(path, JudgedAs::FolderOwner).map_err(refused(path))
}

fn refused(path: &Path) -> impl FnOnce(token_file::TokenFileError) -> StartError {
    move |source| StartError::AdminToken { path: path.to_owned(), source }
}

impl Place {
    fn try_clone(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Socket::Tcp(socket) => Socket::Tcp(socket.try_clone()?),
            Socket::Unix(socket, file) => Socket::Unix(socket.try_clone()?, file.clone()),
        };
        Ok(Self { configured: self.configured.clone(), address: self.address.clone(), socket })
    }

    fn listener(&self, certificates: &Certificates) -> io::Result<Listener> {
        Ok(match &self.socket {
            Socket::Tcp(socket) => {
                Listener::Tcp(TcpListener::from_std(socket.try_clone()?)?, certificates.current())
            }
            Socket::Unix(socket, _) => Listener::Unix(UnixListener::from_std(socket.try_clone()?)?),
        })
    }
}

impl Next {
    /// Begins to serve, with `serve` and a signal to end.
    fn begin<F: Future<Output = ()> + Send + 'static>(
        self,
        (servers, tasks): (&mut JoinSet<()>, &mut JoinSet<&'static str>),
        serve: impl FnOnce(Listener, oneshot::Receiver<()>) -> F,
    ) -> Entrance {
        let Self { place, listener, mut certificates, keeper } = self;
        certificates.keep(keeper, tasks);
        let (serving, ended) = oneshot::channel();
        servers.spawn(serve(listener, ended));
        Entrance { place, certificates, _serving: serving }
    }
}

impl AdminAddress {
    /// Starts to serve the admin address, and that of health checks.
    pub(super) fn open(
        Prepared { admin, health, token }: Prepared,
        config: &Config,
        (credentials, discoveries): (&[Credential], &Discoveries),
        stage: watch::Receiver<Stage>,
        reloads: Option<Reloads>,
        (events, observed): (&Events, &Arc<Observed>),
        tasks: &mut JoinSet<&'static str>,
    ) -> Result<Self, StartError> {
        let Some(admin) = admin else { return Err(io::Error::other("no admin address").into()) };
        let access = Access::new(&config.admin, &admin.place.address, token.as_ref());
        let health_address = match &health {
            Health::Begins(next) => &next.place.address,
            Health::Stays | Health::Ends => &admin.place.address,
        };
        let of_health = Access::of_health(&config.admin, health_address, token.as_ref());
        let of_health = Arc::new(ArcSwap::from_pointee(of_health.with_guesses_of(&access)));
        let all = operated(credentials);
        let quotas = Arc::<Observed>::clone(observed);
        let operated = Credentials::new(access, all.clone(), stage.clone(), events.clone(), quotas);
        let exposition: Arc<dyn Exposition> = Arc::new(Metrics::new(observed, &operated));
        let exposition = Some(exposition);
        let readiness = Readiness::new(all, discoveries.sources(), stage);
        let parts: Arc<dyn admin::Parts> = Arc::<Observed>::clone(observed);
        let operators = OperatorAddress {
            readiness: readiness.clone(),
            reloading: Reloading::new(operated.clone(), reloads),
            overview: Overview::new(operated.clone(), readiness.clone(), parts),
            credentials: operated,
            exposition: exposition.clone(),
        };
        let checks = HealthAddress { readiness, access: of_health, exposition };
        let mut servers = JoinSet::new();
        let admin = serve_operators(&operators, admin, (&mut servers, tasks));
        let health = match health {
            Health::Begins(next) => Some(serve_checks(&checks, *next, (&mut servers, tasks))),
            Health::Stays | Health::Ends => None,
        };
        Ok(Self { admin, health, token, operators, checks, servers })
    }

    /// The address of operators.
    pub(super) const fn address(&self) -> &Listen {
        &self.admin.place.address
    }

    /// Serves other credentials and discoveries from now on, at the prepared addresses.
    pub(super) fn change(
        &mut self,
        Prepared { admin, health, token }: Prepared,
        (before, after): (&Config, &Config),
        (credentials, discoveries): (&[Credential], &Discoveries),
        tasks: &mut JoinSet<&'static str>,
    ) {
        let is_token_unchanged =
            before.admin.token == after.admin.token && expose(self.token.as_ref()) == expose(token.as_ref());
        self.token = token;
        let address = admin.as_ref().map_or(&self.admin.place.address, |next| &next.place.address);
        let mut access = Access::new(&after.admin, address, self.token.as_ref());
        // With an unchanged token, the lock-outs of addresses that sent wrong tokens stay.
        if is_token_unchanged {
            access = access.with_guesses_of(&self.operators.credentials.access());
        }
        let health_address = match (&health, &self.health) {
            (Health::Begins(next), _) => &next.place.address,
            (_, Some(open)) => &open.place.address,
            (_, None) => address,
        };
        let of_health = Access::of_health(&after.admin, health_address, self.token.as_ref());
        self.checks.access.store(Arc::new(of_health.with_guesses_of(&access)));
        self.operators.credentials.change(access, operated(credentials));
        self.operators.readiness.change(operated(credentials), discoveries.sources());

        if let Some(next) = admin {
            self.admin.certificates.end();
            self.admin = serve_operators(&self.operators, next, (&mut self.servers, tasks));
        } else {
            self.admin.certificates.asked.notify_one();
        }
        match health {
            Health::Stays => {}
            Health::Ends => self.health = None,
            Health::Begins(next) => {
                self.health = Some(serve_checks(&self.checks, *next, (&mut self.servers, tasks)));
            }
        }
    }

    /// The certificate that is shown to operators.
    pub(super) fn certificate(&self) -> Option<CurrentCertificate> {
        self.admin.certificates.certificate()
    }

    /// The daemon's own token.
    pub(super) const fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// The open addresses.
    pub(super) fn addresses(&self) -> Vec<Listen> {
        let entrances = std::iter::once(&self.admin).chain(&self.health);
        entrances.map(|entrance| entrance.place.address.clone()).collect()
    }

    /// Makes the daemon read the certificate again at once when notified.
    pub(super) fn look_at_certificates(&self) -> Arc<tokio::sync::Notify> {
        Arc::clone(&self.admin.certificates.asked)
    }

    /// Waits until a server ends unexpectedly, and says so.
    ///
    /// # Cancel safety
    ///
    /// No end is lost.
    pub(super) async fn one_died(&mut self) -> String {
        loop {
            match self.servers.join_next().await {
                // The address has changed.
                Some(Ok(())) => {}
                Some(Err(error)) => return format!("the admin address: {error}"),
                None => std::future::pending::<()>().await,
            }
        }
    }
}

type Tasks<'t> = (&'t mut JoinSet<()>, &'t mut JoinSet<&'static str>);

fn serve_operators(served: &OperatorAddress, next: Next, tasks: Tasks<'_>) -> Entrance {
    let is_tls = next.certificates.current().is_some();
    info!(address = %next.place.address, tls = is_tls, "admin listening");
    let served = served.clone();
    next.begin(tasks, |listener, end| async move {
        served.serve(listener, async { drop(end.await) }).await;
    })
}

fn serve_checks(served: &HealthAddress, next: Next, tasks: Tasks<'_>) -> Entrance {
    info!(address = %next.place.address, "health checks listening");
    let served = served.clone();
    next.begin(tasks, |listener, end| async move {
        served.serve(listener, async { drop(end.await) }).await;
    })
}

fn expose(token: Option<&SecretString>) -> Option<&str> {
    token.map(ExposeSecret::expose_secret)
}

fn operated(credentials: &[Credential]) -> Vec<(crate::token::TokenSource, crate::token::Operator)> {
    credentials.iter().map(|one| (one.source.clone(), one.operator.clone())).collect()
}
