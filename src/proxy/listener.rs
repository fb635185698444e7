//! Where callers connect: one thread accepts, and gives each connection to the worker that has the fewest.
//!
//! Handing out beats a listening socket per worker: few connections are spread evenly, and a worker that stops
//! takes no connections with it that the system had already queued for it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tracing::warn;

use super::admission::{Admission, Place, Recurring};
use super::peer::{Networks, Peer};
use super::unix_socket::{self, SocketFile};
use super::worker::{Accepted, Socket, WorkerHandle};
use crate::config::Limits;
use crate::lifecycle::{Stage, Threads};

/// After the system refused a connection, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What the system may hold of an answer, in bytes, beyond what its caller has room for.
const UNSENT: u32 = 64 * 1024;
/// Connections that the system may hold ready for us.
const BACKLOG: i32 = 1024;

/// A bound address that nobody accepts from yet.
#[derive(Debug)]
pub struct Bound {
    socket: std::net::TcpListener,
    /// The address, with the port that the system chose where none was given.
    pub address: SocketAddr,
}

impl Bound {
    /// The listening socket, not blocking.
    pub fn into_socket(self) -> std::net::TcpListener {
        self.socket
    }
}

/// Binds an address.
///
/// # Errors
///
/// Whatever the system says, a port in use for example.
pub fn bind(address: SocketAddr) -> io::Result<Bound> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart need not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted sockets have these from it. What a caller does not take stays with us, where it is counted, and not
    // with the system, where it is memory too.
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let socket = std::net::TcpListener::from(socket);
    let address = socket.local_addr()?;
    Ok(Bound { socket, address })
}

/// Binds a unix socket for the daemon's own user.
///
/// # Errors
///
/// Whatever the system says; that it is in use, or that something else is there.
pub fn bind_unix(path: &Path) -> io::Result<unix_socket::Bound> {
    unix_socket::bind(path, BACKLOG)
}

/// What is accepted from, by whom, and how.
#[derive(Debug, Default)]
pub struct Entrances {
    /// Addresses of the network.
    pub tcp: Vec<Bound>,
    /// Unix sockets.
    pub unix: Vec<unix_socket::Bound>,
    /// What addresses are worth.
    pub networks: Networks,
    /// What connections of the network speak TLS with, if they do: each with what is current when it is accepted.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
}

/// Accepts from all addresses until the daemon stops.
///
/// # Errors
///
/// If the system refuses a thread.
pub fn spawn(
    entrances: Entrances,
    workers: Vec<WorkerHandle>,
    (limits, most_connections): (Limits, usize),
    stage: watch::Receiver<Stage>,
    threads: &mut Threads,
) -> io::Result<()> {
    threads.spawn("listener".to_owned(), move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(async move {
            let Entrances { tcp, unix, networks, tls } = entrances;
            let admission = Admission::new(&limits, most_connections);
            let front = Rc::new(Front { workers, networks, tls, admission, failures: Recurring::default() });
            let mut accepting = tokio::task::JoinSet::new();
            for bound in unix {
                bound.socket.set_nonblocking(true)?;
                let listener = UnixListener::from_std(bound.socket)?;
                let (front, stage) = (Rc::clone(&front), stage.clone());
                accepting
                    .spawn_local(async move { front.accept_from_unix(listener, bound.file, stage).await });
            }
            for bound in tcp {
                SockRef::from(&bound.socket).set_tcp_user_timeout(Some(limits.write_timeout))?;
                let listener = TcpListener::from_std(bound.socket)?;
                let (front, stage) = (Rc::clone(&front), stage.clone());
                accepting.spawn_local(async move { front.accept_from(listener, stage).await });
            }
            while accepting.join_next().await.is_some() {}
            Ok(())
        })
    })
}

/// Hands out connections; workers learn that there will be no more by its end.
struct Front {
    workers: Vec<WorkerHandle>,
    networks: Networks,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    admission: Admission,
    failures: Recurring,
}

impl Front {
    async fn accept_from(&self, listener: TcpListener, mut stage: watch::Receiver<Stage>) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stage.wait_for(|stage| *stage >= Stage::Draining) => break,
            };
            match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok((socket, peer)) => self.hand_out(socket, peer).await,
                // Of a caller that has left already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => self.recover(&error).await,
            }
        }
        // For their callers these are connected, and may have sent a request.
        if let Ok(listener) = listener.into_std() {
            while let Ok((socket, peer)) = listener.accept() {
                if socket.set_nonblocking(true).is_ok() {
                    self.hand_out(socket, peer).await;
                }
            }
        }
    }

    async fn accept_from_unix(
        &self,
        listener: UnixListener,
        file: SocketFile,
        mut stage: watch::Receiver<Stage>,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stage.wait_for(|stage| *stage >= Stage::Draining) => break,
            };
            match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(socket) => self.hand_out_unix(socket).await,
                Err(error) => self.recover(&error).await,
            }
        }
        // Nobody finds it any more; who has found it is let in.
        drop(file);
        if let Ok(listener) = listener.into_std() {
            while let Ok(socket) = unix_socket::accept(&listener) {
                self.hand_out_unix(socket).await;
            }
        }
    }

    /// Waits for the system to have descriptors or memory again: at once it would be the same.
    async fn recover(&self, error: &io::Error) {
        if let Some(count) = self.failures.happened() {
            warn!(%error, count, "connection not accepted");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    async fn hand_out(&self, socket: std::net::TcpStream, peer: SocketAddr) {
        let peer = self.networks.judge(peer);
        let place = match self.admission.admit(&peer) {
            Ok(place) => place,
            Err(overload) => return self.admission.turn_away(socket, overload),
        };
        let socket = match &self.tls {
            None => Socket::Tcp(socket),
            Some(tls) => Socket::Tls(socket, tls.load_full()),
        };
        self.give(socket, peer, place).await;
    }

    async fn hand_out_unix(&self, socket: std::os::unix::net::UnixStream) {
        match self.admission.admit(&Peer::UNIX) {
            Ok(place) => self.give(Socket::Unix(socket), Peer::UNIX, place).await,
            Err(overload) => self.admission.tell(overload),
        }
    }

    async fn give(&self, socket: Socket, peer: Peer, place: Place) {
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load()) {
            worker.hand_over(Accepted { socket, peer, place }).await;
        }
    }
}
