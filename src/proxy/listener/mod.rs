//! Where callers connect: one thread accepts, and gives each connection to the worker that has the fewest.
//!
//! Handing out beats a listening socket per worker: few connections are spread evenly, and a worker that stops
//! takes no connections with it that the system had already queued for it.

pub mod unix_socket;

use std::cell::RefCell;
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
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::warn;

use self::unix_socket::SocketFile;
use super::limits::admission::{Admission, Place};
use super::peer::{Networks, Peer};
use super::worker::{Accepted, Socket, WorkerHandle};
use crate::config::Limits;
use crate::lifecycle::{Stage, Threads};
use crate::telemetry::throttle::Throttle;

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

/// A bound place that callers come in by.
#[derive(Debug)]
pub struct Entrance {
    /// Its number, which no other has, now or later.
    pub number: u32,
    /// What is listened on.
    pub socket: Listening,
}

/// What is listened on.
#[derive(Debug)]
pub enum Listening {
    /// An address of the network.
    Tcp(Bound),
    /// A unix socket.
    Unix(unix_socket::Bound),
}

/// Who is let in, and how.
#[derive(Debug)]
pub struct House {
    /// What addresses are worth.
    pub networks: Networks,
    /// What connections of the network speak TLS with, if they do: each with what is current when it is accepted.
    pub tls: Option<Arc<ArcSwap<ServerConfig>>>,
    /// What callers may take.
    pub limits: Limits,
    /// The most connections that there are descriptors for.
    pub most_connections: usize,
}

/// What is listened on from now on, and who is let in.
#[derive(Debug)]
pub struct Change {
    /// Who is let in.
    pub house: House,
    /// The entrances that stay, each with its number from now on. Others are closed.
    pub stay: Vec<(u32, u32)>,
    /// New ones.
    pub open: Vec<Entrance>,
    /// Told when all of it is so, or that the system refuses a socket.
    pub done: oneshot::Sender<io::Result<()>>,
}

/// Accepts from all entrances until the daemon stops.
///
/// # Errors
///
/// If the system refuses a thread.
pub fn spawn(
    entrances: Vec<Entrance>,
    workers: Vec<WorkerHandle>,
    house: House,
    (stage, mut changes): (watch::Receiver<Stage>, mpsc::Receiver<Change>),
    threads: &mut Threads,
) -> io::Result<()> {
    threads.spawn("listener".to_owned(), move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(async move {
            let mut front = Front::new(workers, house, stage);
            front.open(entrances)?;
            loop {
                tokio::select! {
                    closed = front.accepting.join_next() => if closed.is_none() {
                        return Ok(());
                    },
                    Some(change) = changes.recv() => front.change(change),
                }
            }
        })
    })
}

/// All entrances, each with a task that accepts from it; workers learn that there will be no more by its end.
struct Front {
    desk: Rc<Desk>,
    doors: Vec<watch::Sender<Door>>,
    accepting: JoinSet<()>,
    stage: watch::Receiver<Stage>,
}

/// What an entrance's task is told.
#[derive(Clone, Copy, Debug)]
struct Door {
    number: u32,
    is_open: bool,
    /// How long the system waits for a caller to take something.
    write_timeout: Duration,
}

impl Front {
    fn new(workers: Vec<WorkerHandle>, house: House, stage: watch::Receiver<Stage>) -> Self {
        let admission = Admission::new(&house.limits, house.most_connections);
        let house = RefCell::new(Rc::new(house));
        let desk = Rc::new(Desk { workers, house, admission, failures: Throttle::default() });
        Self { desk, doors: Vec::new(), accepting: JoinSet::new(), stage }
    }

    fn open(&mut self, entrances: Vec<Entrance>) -> io::Result<()> {
        let write_timeout = self.desk.house().limits.write_timeout;
        for Entrance { number, socket } in entrances {
            let (sender, mut door) = watch::channel(Door { number, is_open: true, write_timeout });
            door.mark_changed();
            let (desk, stage) = (Rc::clone(&self.desk), self.stage.clone());
            match socket {
                Listening::Tcp(bound) => {
                    let listener = TcpListener::from_std(bound.socket)?;
                    self.accepting.spawn_local(async move { desk.accept_from(listener, door, stage).await });
                }
                Listening::Unix(bound) => {
                    bound.socket.set_nonblocking(true)?;
                    let listener = UnixListener::from_std(bound.socket)?;
                    let file = bound.file;
                    self.accepting.spawn_local(async move {
                        desk.accept_from_unix(listener, file, door, stage).await;
                    });
                }
            }
            self.doors.push(sender);
        }
        Ok(())
    }

    /// From one moment to the next: nobody is accepted in between, and nobody is refused.
    fn change(&mut self, change: Change) {
        let Change { house, stay, open, done } = change;
        let write_timeout = house.limits.write_timeout;
        self.desk.admission.change(&house.limits, house.most_connections);
        *self.desk.house.borrow_mut() = Rc::new(house);
        self.doors.retain(|door| {
            let before = *door.borrow();
            let after = stay.iter().find(|(number, _)| *number == before.number);
            let number = after.map_or(before.number, |(_, after)| *after);
            door.send_replace(Door { number, is_open: after.is_some(), write_timeout });
            after.is_some()
        });
        let outcome = self.open(open);
        // Without whoever waits for it, it is so all the same.
        let _ = done.send(outcome);
    }
}

/// Hands out connections.
struct Desk {
    workers: Vec<WorkerHandle>,
    house: RefCell<Rc<House>>,
    admission: Admission,
    failures: Throttle,
}

/// Resolves when an entrance is to be closed; tells of whatever else is changed.
async fn closed(door: &mut watch::Receiver<Door>, mut changed: impl FnMut(Door)) {
    while door.changed().await.is_ok() {
        let now = *door.borrow_and_update();
        if !now.is_open {
            return;
        }
        changed(now);
    }
}

impl Desk {
    fn house(&self) -> Rc<House> {
        Rc::clone(&self.house.borrow())
    }

    async fn accept_from(
        &self,
        listener: TcpListener,
        mut door: watch::Receiver<Door>,
        mut stage: watch::Receiver<Stage>,
    ) {
        let number = door.clone();
        let number = || number.borrow().number;
        // Accepted sockets have it from this one.
        let obey = |door: Door| {
            if let Err(error) = SockRef::from(&listener).set_tcp_user_timeout(Some(door.write_timeout)) {
                warn!(%error, "write_timeout is not known to the system");
            }
        };
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stage.wait_for(|stage| *stage >= Stage::Draining) => break,
                () = closed(&mut door, obey) => break,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok((socket, peer)) => self.hand_out(socket, peer, number()).await,
                // Of a caller that has left already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => self.recover(&error).await,
            }
        }
        // For their callers these are connected, and may have sent a request.
        if let Ok(listener) = listener.into_std() {
            while let Ok((socket, peer)) = listener.accept() {
                if socket.set_nonblocking(true).is_ok() {
                    self.hand_out(socket, peer, number()).await;
                }
            }
        }
    }

    async fn accept_from_unix(
        &self,
        listener: UnixListener,
        file: SocketFile,
        mut door: watch::Receiver<Door>,
        mut stage: watch::Receiver<Stage>,
    ) {
        let number = door.clone();
        let number = || number.borrow().number;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stage.wait_for(|stage| *stage >= Stage::Draining) => break,
                () = closed(&mut door, |_| {}) => break,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|(stream, _)| stream.into_std()) {
                Ok(socket) => self.hand_out_unix(socket, number()).await,
                Err(error) => self.recover(&error).await,
            }
        }
        // Nobody finds it any more; who has found it is let in.
        drop(file);
        if let Ok(listener) = listener.into_std() {
            while let Ok(socket) = unix_socket::accept(&listener) {
                self.hand_out_unix(socket, number()).await;
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

    async fn hand_out(&self, socket: std::net::TcpStream, peer: SocketAddr, entrance: u32) {
        let house = self.house();
        let peer = house.networks.judge(peer).by(entrance);
        let place = match self.admission.admit(&peer) {
            Ok(place) => place,
            Err(overload) => return self.admission.turn_away(socket, overload),
        };
        let socket = match &house.tls {
            None => Socket::Tcp(socket),
            Some(tls) => Socket::Tls(socket, tls.load_full()),
        };
        self.give(socket, peer, place).await;
    }

    async fn hand_out_unix(&self, socket: std::os::unix::net::UnixStream, entrance: u32) {
        let peer = Peer::UNIX.by(entrance);
        match self.admission.admit(&peer) {
            Ok(place) => self.give(Socket::Unix(socket), peer, place).await,
            Err(overload) => self.admission.tell(overload),
        }
    }

    async fn give(&self, socket: Socket, peer: Peer, place: Place) {
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.load()) {
            worker.hand_over(Accepted { socket, peer, place }).await;
        }
    }
}
