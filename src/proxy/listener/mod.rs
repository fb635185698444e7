//! Accepts client connections on one thread, and hands each to the worker with the fewest.
//!
//! A listening socket for each worker would spread a few connections unevenly, and a worker that stops would lose the
//! connections that the system has queued.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::warn;

use super::limits::admission::AdmissionControl;
use super::peer::{Networks, Peer};
use super::worker::{Accepted, Socket, WorkerHandle};
use crate::config::Limits;
use crate::lifecycle::{Stage, Threads};
use crate::systemd::sockets::PassedListener;
use crate::telemetry::metrics::traffic::Traffic;
use crate::telemetry::throttle::Throttle;
use crate::unix_socket::SocketFile;

/// The pause after the system refused a connection, most likely for lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// The most that the system buffers of a response beyond the client's receive window, in bytes.
const MAX_UNSENT_BYTES: u32 = 64 * 1024;
/// How long a client may be silent before the system probes the connection, and the time between two probes. A connection
/// whose probes stay unanswered for `write_timeout` is reset, also that of a silent WebSocket or event stream.
const TCP_KEEPALIVE_TIME: Duration = Duration::from_mins(1);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Connections that the system may queue to be accepted.
pub const LISTEN_BACKLOG: i32 = 1024;

/// Binds an address. The socket does not block.
///
/// # Errors
///
/// The system's error, such as that the port is in use.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart need not wait for the system to forget connections of the last run.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    prepare(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// Sets what accepted sockets inherit, and makes the socket not block.
fn prepare(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Data that a client does not read stays in the proxy, where it is counted.
    socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(TCP_KEEPALIVE_TIME).with_interval(TCP_KEEPALIVE_INTERVAL),
    )
}

/// A socket that clients connect to.
#[derive(Debug)]
pub struct ListenSocket {
    /// The number of the listening socket, which is never used again.
    pub number: u32,
    /// The bound socket.
    pub socket: BoundSocket,
    /// Whether systemd holds the socket too. When the daemon stops, the connections that the system has queued are then
    /// left to the next process.
    pub is_held: bool,
}

/// A bound socket.
#[derive(Debug)]
pub enum BoundSocket {
    /// An address of the network.
    Tcp(std::net::TcpListener),
    /// A unix socket; without its file if another process made it.
    Unix(std::os::unix::net::UnixListener, Option<SocketFile>),
}

impl BoundSocket {
    /// Prepares a socket that another process has bound.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn of(passed: PassedListener) -> io::Result<Self> {
        match passed {
            PassedListener::Tcp(socket) => {
                prepare(&SockRef::from(&socket))?;
                Ok(Self::Tcp(socket))
            }
            PassedListener::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Ok(Self::Unix(socket, None))
            }
        }
    }
}

/// The configuration for accepting connections.
#[derive(Debug)]
pub struct Settings {
    /// The networks by which addresses are judged.
    pub networks: Networks,
    /// The TLS configuration of network connections, if they speak TLS; each uses the one current at accept.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// The limits on client connections.
    pub limits: Limits,
    /// The most connections that there are descriptors for.
    pub most_connections: usize,
    /// Where refused connections are counted.
    pub traffic: Arc<Traffic>,
}

/// A reload of the listener.
#[derive(Debug)]
pub struct Change {
    /// The new settings.
    pub settings: Settings,
    /// The numbers of the listening sockets that stay, before and from now on. All other listening sockets are closed.
    pub stay: HashMap<u32, u32>,
    /// New listening sockets.
    pub open: Vec<ListenSocket>,
    /// The outcome: an error if the system refuses a socket.
    pub done: oneshot::Sender<io::Result<()>>,
}

/// Accepts from all listening sockets until the daemon stops.
///
/// # Errors
///
/// The system refuses a thread.
pub fn spawn(
    listen_sockets: Vec<ListenSocket>,
    workers: Vec<WorkerHandle>,
    settings: Settings,
    stage: watch::Receiver<Stage>,
    mut changes: mpsc::Receiver<Change>,
    threads: &mut Threads,
) -> io::Result<()> {
    threads.spawn("listener".to_owned(), move |beats| {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(beats.during(async move {
            let mut listener = Listener::new(workers, settings, stage);
            listener.open(listen_sockets)?;
            loop {
                tokio::select! {
                    closed = listener.accepting.join_next() => if closed.is_none() {
                        return Ok(());
                    },
                    Some(change) = changes.recv() => listener.change(change),
                }
            }
        }))
    })
}

/// All listening sockets, each with a task that accepts from it. The workers' queues close when the last task has ended.
struct Listener {
    dispatcher: Rc<Dispatcher>,
    states: Vec<watch::Sender<SocketState>>,
    accepting: JoinSet<()>,
    stage: watch::Receiver<Stage>,
}

/// The state that the task of a listening socket watches.
#[derive(Clone, Copy, Debug)]
struct SocketState {
    number: u32,
    is_open: bool,
    /// How long the system waits for a client to acknowledge data.
    write_timeout: Duration,
}

impl Listener {
    fn new(workers: Vec<WorkerHandle>, settings: Settings, stage: watch::Receiver<Stage>) -> Self {
        let admission =
            AdmissionControl::new(&settings.limits, settings.most_connections, Arc::clone(&settings.traffic));
        let settings = RefCell::new(Rc::new(settings));
        let dispatcher = Rc::new(Dispatcher { workers, settings, admission, failures: Throttle::default() });
        Self { dispatcher, states: Vec::new(), accepting: JoinSet::new(), stage }
    }

    fn open(&mut self, listen_sockets: Vec<ListenSocket>) -> io::Result<()> {
        let write_timeout = self.dispatcher.settings().limits.write_timeout;
        for ListenSocket { number, socket, is_held } in listen_sockets {
            let (sender, mut watched) = watch::channel(SocketState { number, is_open: true, write_timeout });
            watched.mark_changed();
            let (dispatcher, stage) = (Rc::clone(&self.dispatcher), self.stage.clone());
            let socket = Open::new(socket)?;
            self.accepting
                .spawn_local(async move { dispatcher.accept_from(socket, is_held, watched, stage).await });
            self.states.push(sender);
        }
        Ok(())
    }

    /// Makes a change without a pause: no connection is accepted or refused meanwhile.
    fn change(&mut self, Change { settings, stay, open, done }: Change) {
        let write_timeout = settings.limits.write_timeout;
        self.dispatcher.admission.change(&settings.limits, settings.most_connections);
        *self.dispatcher.settings.borrow_mut() = Rc::new(settings);
        self.states.retain(|state| {
            let before = state.borrow().number;
            let after = stay.get(&before);
            let (number, is_open) = (*after.unwrap_or(&before), after.is_some());
            state.send_replace(SocketState { number, is_open, write_timeout });
            is_open
        });
        // Fails only where nobody waits.
        let _ = done.send(self.open(open));
    }
}

/// Admits accepted connections and hands them to workers.
struct Dispatcher {
    workers: Vec<WorkerHandle>,
    settings: RefCell<Rc<Settings>>,
    admission: AdmissionControl,
    failures: Throttle,
}

/// A socket that connections are accepted from.
enum Open {
    Tcp(TcpListener),
    Unix(UnixListener, Option<SocketFile>),
}

/// An accepted socket, not blocking, and its client's address on the network.
type Connection = (Socket, Option<SocketAddr>);

impl Open {
    fn new(socket: BoundSocket) -> io::Result<Self> {
        Ok(match socket {
            BoundSocket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            BoundSocket::Unix(socket, file) => Self::Unix(UnixListener::from_std(socket)?, file),
        })
    }

    async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                Ok((Socket::Tcp(socket.into_std()?), Some(address)))
            }
            Self::Unix(listener, _) => Ok((Socket::Unix(listener.accept().await?.0.into_std()?), None)),
        }
    }

    /// Bounds how long the system waits for a client to acknowledge data, for sockets accepted from now on.
    fn set_write_timeout(&self, timeout: Duration) {
        if let Self::Tcp(listener) = self
            && let Err(error) = SockRef::from(listener).set_tcp_user_timeout(Some(timeout))
        {
            warn!(%error, "write_timeout is not known to the system");
        }
    }

    /// Closes the socket to new clients. The returned function accepts the next queued connection.
    fn close(self) -> io::Result<Box<dyn Fn() -> io::Result<Connection>>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (socket, address) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok((Socket::Tcp(socket), Some(address)))
                })
            }
            Self::Unix(listener, file) => {
                drop(file);
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (socket, _) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok((Socket::Unix(socket), None))
                })
            }
        })
    }
}

/// Resolves when a listening socket is to be closed; calls `changed` at any other change.
async fn closed(state: &mut watch::Receiver<SocketState>, mut changed: impl FnMut(SocketState)) {
    while state.changed().await.is_ok() {
        let now = *state.borrow_and_update();
        if !now.is_open {
            return;
        }
        changed(now);
    }
}

impl Dispatcher {
    fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Accepts from a listening socket until the listening socket is closed or the daemon drains.
    async fn accept_from(
        &self,
        socket: Open,
        is_held: bool,
        mut watched: watch::Receiver<SocketState>,
        mut stage: watch::Receiver<Stage>,
    ) {
        let latest = watched.clone();
        let number = || latest.borrow().number;
        loop {
            let accepted = tokio::select! {
                biased;
                // The socket stays open, and the next process accepts the queued connections.
                _ = stage.wait_for(|stage| *stage >= Stage::Draining) => if is_held { return } else { break },
                () = closed(&mut watched, |state| socket.set_write_timeout(state.write_timeout)) => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok(connection) => self.dispatch(connection, number()).await,
                // The client has left already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if let Some(count) = self.failures.happened() {
                        warn!(%error, count, "connection not accepted");
                    }
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        // The clients of queued connections see them as open, and may have sent a request.
        if let Ok(accept_queued) = socket.close() {
            while let Ok(connection) = accept_queued() {
                self.dispatch(connection, number()).await;
            }
        }
    }

    async fn dispatch(&self, (socket, address): Connection, listen_socket: u32) {
        let settings = self.settings();
        let mut peer = address.map_or(Peer::UNIX, |address| settings.networks.judge(address));
        peer.listen_socket = listen_socket;
        let admitted = match self.admission.admit(&peer) {
            Ok(admitted) => admitted,
            Err(overload) => {
                let tcp = if let Socket::Tcp(socket) = socket { Some(socket) } else { None };
                return self.admission.refuse(tcp, overload);
            }
        };
        let socket = match (socket, &settings.tls) {
            (Socket::Tcp(socket), Some(tls)) => Socket::Tls(socket, tls.load_full()),
            (socket, _) => socket,
        };
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load()) {
            worker.hand_over(Accepted { socket, peer, admitted }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_probes_accepted_connections_that_are_silent() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();

        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), TCP_KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), TCP_KEEPALIVE_INTERVAL);
    }
}
