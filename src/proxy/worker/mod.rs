//! A worker: one thread that serves client connections and forwards their requests.
//!
//! Workers share no mutable state but counters. Each has a single-threaded runtime, its own connections to clients and
//! to upstreams, and a sweep that ends connections past a deadline. A request never leaves its connection's worker.

pub mod snapshot;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{debug, warn};

use self::snapshot::{Change, Configuration, Snapshot};
use super::downstream::connection;
use super::downstream::protocol::End;
use super::downstream::serve::Serve;
use super::downstream::state::ClientConnection;
use super::downstream::stream::SharedStream;
use super::downstream::tls;
use super::downstream::wrong_protocol::WrongProtocolLog;
use super::limits::admission::Admitted;
use super::peer::Peer;
use super::suspension::MAX_LATENESS;
use crate::config::Limits;
use crate::lifecycle::{Stage, Threads};
use crate::telemetry::access;

/// The bounds of the time between two sweeps.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_millis(500);
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// How much time passes on the sweeps' clock in a suspension of any length. Not zero, so that timeouts pass in a process that
/// rarely gets a processor.
const SUSPENSION: Duration = Duration::from_millis(100);
/// How long connections may write their last responses once they are cut.
const CUT_TIMEOUT: Duration = Duration::from_millis(100);
/// Connections that may wait for a worker to take them.
const HANDOVER_QUEUE: usize = 1024;

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, not blocking.
    pub socket: Socket,
    /// The other end of the connection.
    pub peer: Peer,
    /// The connection's slots.
    pub admitted: Admitted,
}

/// A client's socket, and the protocol spoken on it.
#[derive(Debug)]
pub enum Socket {
    /// HTTP.
    Tcp(std::net::TcpStream),
    /// HTTP over TLS.
    Tls(std::net::TcpStream, Arc<ServerConfig>),
    /// HTTP.
    Unix(std::os::unix::net::UnixStream),
}

/// The listener's access to a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    connections: mpsc::Sender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// Counts the connections of a worker.
#[derive(Clone, Debug)]
pub struct ConnectionCounter(Arc<AtomicUsize>);

impl ConnectionCounter {
    /// How many connections the worker has, those handed over included.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl WorkerHandle {
    /// How many connections the worker has, those handed over included.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Counts the worker's connections. Unlike a handle, a counter does not keep the worker waiting for connections.
    pub fn counter(&self) -> ConnectionCounter {
        ConnectionCounter(Arc::clone(&self.load))
    }

    /// Hands over a connection; waits while the worker's queue is full.
    pub async fn hand_over(&self, accepted: Accepted) {
        self.load.fetch_add(1, Ordering::Relaxed);
        if self.connections.send(accepted).await.is_err() {
            self.load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Starts a worker's thread, which ends after a drain or a cut.
///
/// # Errors
///
/// The system refuses a thread.
pub fn spawn(
    index: usize,
    configuration: Configuration,
    stage: watch::Receiver<Stage>,
    changes: mpsc::Receiver<Change>,
    threads: &mut Threads,
) -> io::Result<WorkerHandle> {
    let (connections, accepted) = mpsc::channel(HANDOVER_QUEUE);
    let load = Arc::new(AtomicUsize::new(0));
    let handle = WorkerHandle { connections, load: Arc::clone(&load) };
    threads.spawn(format!("worker-{index}"), move |beats| {
        let mut builder = Builder::new_current_thread();
        // The threads that look up the names of upstreams.
        builder.thread_name("lookup");
        builder.enable_all().on_thread_park(access::hand_over);
        let runtime = builder.build_local(LocalOptions::default())?;
        runtime.block_on(beats.during(Worker::new(configuration, load).run(accepted, stage, changes)));
        // A DNS lookup that hangs on a blocking thread must not delay the end.
        runtime.shutdown_background();
        Ok(())
    })?;
    Ok(handle)
}

/// A worker on its own thread.
pub struct Worker {
    snapshot: Rc<Snapshot>,
    pub(super) connections: Rc<Connections>,
}

/// The client connections of a worker.
pub(super) struct Connections {
    pub(super) all: RefCell<Vec<Rc<ClientConnection>>>,
    /// The time of the last sweep, less the time in which the process was suspended: exact enough for timeouts, and free to
    /// read.
    clock: Rc<Cell<Instant>>,
    /// When the clock was last set.
    clock_set: Cell<Instant>,
    /// Notified when a connection has ended.
    ended: Notify,
    is_draining: Cell<bool>,
    wrong_protocol: Rc<WrongProtocolLog>,
    /// How many connections there are, those handed over included.
    load: Arc<AtomicUsize>,
}

impl Worker {
    /// A worker without connections. `load` counts its connections, those handed over included.
    pub fn new(configuration: Configuration, load: Arc<AtomicUsize>) -> Self {
        let now = Instant::now();
        let connections = Connections {
            all: RefCell::default(),
            clock: Rc::new(Cell::new(now)),
            clock_set: Cell::new(now),
            ended: Notify::new(),
            is_draining: Cell::new(false),
            wrong_protocol: Rc::default(),
            load,
        };
        Self { snapshot: Rc::new(Snapshot::new(configuration)), connections: Rc::new(connections) }
    }

    /// Serves connections until the daemon stops: takes new ones, then lets all finish, then cuts the rest.
    pub async fn run(
        self,
        mut accepted: mpsc::Receiver<Accepted>,
        mut stage: watch::Receiver<Stage>,
        mut reloads: mpsc::Receiver<Change>,
    ) {
        let mut sweeps = self.sweeps();
        let mut more_may_come = true;
        while more_may_come || !self.connections.all.borrow().is_empty() {
            tokio::select! {
                connection = accepted.recv(), if more_may_come => match connection {
                    Some(connection) => self.take(connection),
                    // The listener has ended.
                    None => more_may_come = false,
                },
                () = self.connections.ended.notified() => {}
                _ = sweeps.tick() => self.sweep(),
                Some(change) = reloads.recv() => {
                    self.change(change);
                    sweeps = self.sweeps();
                }
                changed = stage.changed() => {
                    let stage = changed.map_or(Stage::Cut, |()| *stage.borrow());
                    match stage {
                        Stage::Running | Stage::Leaving => {}
                        Stage::Draining => self.drain(),
                        Stage::Cutting | Stage::Cut => return self.cut().await,
                    }
                }
            }
        }
    }

    /// Ends every connection gracefully, those still to come included.
    pub(super) fn drain(&self) {
        self.connections.is_draining.set(true);
        self.connections.set_clock(Instant::now());
        for client in self.connections.all.borrow().iter() {
            client.end(End::Gracefully);
        }
    }

    /// Puts another configuration in force, for new requests of all connections.
    fn change(&self, Change { configuration, listen_sockets, done }: Change) {
        self.snapshot.change(configuration, listen_sockets);
        for client in self.connections.all.borrow().iter() {
            self.snapshot.judge(client);
        }
        // Fails only where nobody waits.
        let _ = done.send(());
    }

    /// Ends every connection now, after responses that can be written within [`CUT_TIMEOUT`].
    async fn cut(&self) {
        let left = self.connections.all.borrow().len();
        if left == 0 {
            return;
        }
        warn!(connections = left, "connections were cut");
        for client in self.connections.all.borrow().iter() {
            client.end(End::Cut);
        }
        let all_ended = async {
            while !self.connections.all.borrow().is_empty() {
                self.connections.ended.notified().await;
            }
        };
        let _ = tokio::time::timeout(CUT_TIMEOUT, all_ended).await;
    }

    fn take(&self, Accepted { socket, peer, admitted }: Accepted) {
        let tcp = |socket: std::net::TcpStream| {
            socket.set_nodelay(true)?;
            TcpStream::from_std(socket)
        };
        let taken = match socket {
            Socket::Tcp(socket) => {
                tcp(socket).map(|stream| self.serve(SharedStream::new(stream), peer, admitted))
            }
            Socket::Tls(socket, config) => tcp(socket).map(|stream| {
                self.spawn(peer, admitted, |client, snapshot| async move {
                    if let Some(stream) = tls::accept(stream, config, &client).await {
                        connection::serve(stream, client, snapshot).await;
                    }
                });
            }),
            Socket::Unix(socket) => UnixStream::from_std(socket)
                .map(|stream| self.serve(SharedStream::new(stream), peer, admitted)),
        };
        if let Err(error) = taken {
            debug!(%peer, %error, "connection failed");
            self.connections.load.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Serves one connection in a task of its own.
    pub fn serve(&self, stream: SharedStream, peer: Peer, admitted: Admitted) {
        self.spawn(peer, admitted, |client, snapshot| connection::serve(stream, client, snapshot));
    }

    fn spawn<F>(
        &self,
        peer: Peer,
        admitted: Admitted,
        serve: impl FnOnce(Rc<ClientConnection>, Rc<Snapshot>) -> F + 'static,
    ) where
        F: Future<Output = ()> + 'static,
    {
        let connections = Rc::clone(&self.connections);
        let client = ClientConnection::new(
            peer,
            Rc::clone(&connections.clock),
            self.snapshot.limits().connection_age,
            Rc::clone(&connections.wrong_protocol),
            self.snapshot.meter(),
        );
        self.snapshot.judge(&client);
        connections.all.borrow_mut().push(Rc::clone(&client));
        if connections.is_draining.get() {
            client.end(End::Gracefully);
        }
        let registration = Registration { client: Rc::clone(&client), connections, _admitted: admitted };
        let snapshot = Rc::clone(&self.snapshot);
        tokio::task::spawn_local(async move {
            // Dropped with the task, even if the task panics.
            let _registration = registration;
            client.task.set(&std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
            // Created here: a future that is moved into another takes its size twice.
            serve(client, snapshot).await;
        });
    }

    /// Ends connections past a deadline, to clients and to upstreams.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let limits = self.snapshot.limits();
        self.connections.set_clock(now);
        for client in self.connections.all.borrow().iter() {
            client.sweep(&limits, now);
        }
        self.snapshot.sweep(now);
    }

    /// The times of the sweeps: often enough that the shortest time-out is up within a fifth of its time, and never early.
    pub(super) fn sweeps(&self) -> Interval {
        let Limits { tls_timeout, header_timeout, idle_timeout, write_timeout, connection_age, .. } =
            &*self.snapshot.limits();
        let shortest = tls_timeout.min(header_timeout).min(idle_timeout).min(write_timeout);
        let shortest = connection_age.as_ref().map_or(shortest, |age| age.min(shortest));
        let shortest = &self.snapshot.shortest_timeout().map_or(*shortest, |timeout| timeout.min(*shortest));
        let period = (*shortest / 10).clamp(SWEEP_INTERVAL_MIN, SWEEP_INTERVAL_MAX);
        let mut sweeps = tokio::time::interval(period);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweeps
    }
}

impl Connections {
    /// Sets the clock forward to `now`. A suspension counts for little: clients and upstreams may have sent what the process
    /// could not read.
    fn set_clock(&self, now: Instant) {
        let passed = now.duration_since(self.clock_set.replace(now));
        let counted = if passed < MAX_LATENESS { passed } else { SUSPENSION };
        self.clock.set(self.clock.get() + counted);
    }
}

/// A connection's entry in the list of its worker, removed when dropped.
struct Registration {
    client: Rc<ClientConnection>,
    connections: Rc<Connections>,
    _admitted: Admitted,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut all = self.connections.all.borrow_mut();
        if let Some(index) = all.iter().position(|client| Rc::ptr_eq(client, &self.client)) {
            all.swap_remove(index);
        }
        self.connections.load.fetch_sub(1, Ordering::Relaxed);
        self.connections.ended.notify_one();
    }
}
