//! A worker: one thread that carries requests, from a caller's socket to the upstream and back.
//!
//! Workers share nothing that changes. Each has a single-threaded runtime, its own connections to callers and
//! to upstreams, and a sweep that ends connections which take too long. A request never leaves the worker its
//! connection was given to.

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

use self::snapshot::{Change, Current};
use super::downstream::connection;
use super::downstream::connection::Serve;
use super::downstream::io::ClientStream;
use super::downstream::protocol::End;
use super::downstream::state::ClientConnection;
use super::downstream::tls;
use super::downstream::wrong_protocol::WrongProtocolLog;
use super::limits::admission::Place;
use super::peer::Peer;
use super::service::Service;
use super::service::settings::Terms;
use super::upstream::Upstream;
use super::upstream::pool::Pool;
use crate::config::Limits;
use crate::lifecycle::{Stage, Threads};

/// The longest time between two looks at the connections.
const SWEEP_MAX: Duration = Duration::from_millis(500);
const SWEEP_MIN: Duration = Duration::from_millis(10);
/// How long connections have to end once they are cut.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Connections handed over and not yet taken.
const BACKLOG: usize = 1024;

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, not blocking.
    pub socket: Socket,
    /// Where it comes from.
    pub peer: Peer,
    /// Its share of the connections that there may be.
    pub place: Place,
}

/// A caller's socket, and what is spoken on it.
#[derive(Debug)]
pub enum Socket {
    /// HTTP.
    Tcp(std::net::TcpStream),
    /// HTTP over TLS.
    Tls(std::net::TcpStream, Arc<ServerConfig>),
    /// HTTP.
    Unix(std::os::unix::net::UnixStream),
}

/// How the listener reaches a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    connections: mpsc::Sender<Accepted>,
    load: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// How many connections it has.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Gives it a connection; waits while it is behind.
    pub async fn hand_over(&self, accepted: Accepted) {
        self.load.fetch_add(1, Ordering::Relaxed);
        if self.connections.send(accepted).await.is_err() {
            self.load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Starts a worker's thread. It ends when `stage` says so and its connections have ended.
///
/// # Errors
///
/// If the system refuses a thread.
pub fn spawn(
    index: usize,
    (shared, upstreams, limits): (Arc<Terms>, Vec<Arc<Upstream>>, Limits),
    stage: watch::Receiver<Stage>,
    changes: mpsc::Receiver<Change>,
    threads: &mut Threads,
) -> io::Result<WorkerHandle> {
    let (connections, accepted) = mpsc::channel(BACKLOG);
    let load = Arc::new(AtomicUsize::new(0));
    let handle = WorkerHandle { connections, load: Arc::clone(&load) };
    threads.spawn(format!("worker-{index}"), move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let pools = upstreams.into_iter().map(Pool::new).collect();
        let worker = Worker::new(Service::new(shared, pools), limits, load);
        runtime.block_on(worker.run(accepted, stage, changes));
        // Not waiting for a name that is still being looked up.
        runtime.shutdown_background();
        Ok(())
    })?;
    Ok(handle)
}

/// A worker on its own thread.
pub struct Worker {
    current: Rc<Current>,
    callers: Rc<Callers>,
    load: Arc<AtomicUsize>,
}

/// The connections of a worker.
struct Callers {
    all: RefCell<Vec<Rc<ClientConnection>>>,
    /// The time of the last sweep: exact enough for time-outs, and free to read.
    now: Rc<Cell<Instant>>,
    gone: Notify,
    is_draining: Cell<bool>,
    wrong_protocol: Rc<WrongProtocolLog>,
}

impl Worker {
    /// A worker without connections. `load` counts those it has and those on their way.
    pub fn new(service: Service, limits: Limits, load: Arc<AtomicUsize>) -> Self {
        let callers = Callers {
            all: RefCell::default(),
            now: Rc::new(Cell::new(Instant::now())),
            gone: Notify::new(),
            is_draining: Cell::new(false),
            wrong_protocol: Rc::default(),
        };
        Self { current: Rc::new(Current::new(service, limits)), callers: Rc::new(callers), load }
    }

    /// Serves connections until the daemon stops: takes new ones, lets those it has finish, then cuts.
    pub async fn run(
        self,
        mut accepted: mpsc::Receiver<Accepted>,
        mut stage: watch::Receiver<Stage>,
        mut next: mpsc::Receiver<Change>,
    ) {
        let mut sweep = self.sweeps();
        self.current.give_way();
        let mut more_may_come = true;
        while more_may_come || !self.callers.all.borrow().is_empty() {
            tokio::select! {
                connection = accepted.recv(), if more_may_come => match connection {
                    Some(connection) => self.take(connection),
                    // The listener is gone, and with it whatever would bring connections.
                    None => more_may_come = false,
                },
                () = self.callers.gone.notified() => {}
                _ = sweep.tick() => self.sweep(),
                Some(change) = next.recv() => {
                    self.change(change);
                    sweep = self.sweeps();
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

    /// Every connection, those to come included, ends when what is in flight on it is answered.
    pub(super) fn drain(&self) {
        self.callers.is_draining.set(true);
        self.callers.now.set(Instant::now());
        for caller in self.callers.all.borrow().iter() {
            caller.end(End::Gracefully);
        }
    }

    /// Serves by something else from now on, and by nothing of what was before once this returns.
    fn change(&self, change: Change) {
        let Change { terms, upstreams, limits, entrances, done } = change;
        self.current.change(terms, upstreams, limits);
        self.current.keep_entrances(entrances);
        for caller in self.callers.all.borrow().iter() {
            self.current.judge(caller);
        }
        // Without whoever waits for it, it is so all the same.
        let _ = done.send(());
    }

    /// Every connection ends now, after what can be said in a moment.
    async fn cut(&self) {
        let left = self.callers.all.borrow().len();
        if left == 0 {
            return;
        }
        warn!(connections = left, "connections were cut");
        for caller in self.callers.all.borrow().iter() {
            caller.end(End::Cut);
        }
        let all_gone = async {
            while !self.callers.all.borrow().is_empty() {
                self.callers.gone.notified().await;
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, all_gone).await;
    }

    fn take(&self, accepted: Accepted) {
        let Accepted { socket, peer, place } = accepted;
        let tcp = |socket: std::net::TcpStream| {
            socket.set_nodelay(true)?;
            TcpStream::from_std(socket)
        };
        let taken = match socket {
            Socket::Tcp(socket) => tcp(socket).map(|stream| self.serve(Box::new(stream), peer, place)),
            Socket::Tls(socket, config) => {
                tcp(socket).map(|stream| self.serve_tls(stream, peer, place, config))
            }
            Socket::Unix(socket) => {
                UnixStream::from_std(socket).map(|stream| self.serve(Box::new(stream), peer, place))
            }
        };
        if let Err(error) = taken {
            debug!(%peer, %error, "connection failed");
            self.load.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Serves one connection in a task of its own.
    pub fn serve(&self, stream: Box<dyn ClientStream>, peer: Peer, place: Place) {
        self.spawn(peer, place, |caller, current| connection::serve(stream, caller, current));
    }

    /// The same over TLS.
    fn serve_tls(&self, stream: TcpStream, peer: Peer, place: Place, config: Arc<ServerConfig>) {
        self.spawn(peer, place, |caller, current| async move {
            if let Some(stream) = tls::accept(stream, config, &caller).await {
                connection::serve(stream, caller, current).await;
            }
        });
    }

    fn spawn<F>(
        &self,
        peer: Peer,
        place: Place,
        serve: impl FnOnce(Rc<ClientConnection>, Rc<Current>) -> F + 'static,
    ) where
        F: Future<Output = ()> + 'static,
    {
        let age = self.current.limits().connection_age;
        let log = Rc::clone(&self.callers.wrong_protocol);
        let caller = ClientConnection::new(peer, Rc::clone(&self.callers.now), age, log);
        self.current.judge(&caller);
        self.callers.all.borrow_mut().push(Rc::clone(&caller));
        if self.callers.is_draining.get() {
            caller.end(End::Gracefully);
        }
        let leaving = Leaving {
            caller: Rc::clone(&caller),
            callers: Rc::clone(&self.callers),
            load: Arc::clone(&self.load),
            _place: place,
        };
        let current = Rc::clone(&self.current);
        tokio::task::spawn_local(async move {
            // Dropped with the task, and so even where the task panics.
            let _leaving = leaving;
            caller.set_task(&std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
            // Made in here: a future that is handed over has its room twice.
            serve(caller, current).await;
        });
    }

    /// How many connections it has.
    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.callers.all.borrow().len()
    }

    /// How many of them wait for a request with nothing but their sockets.
    #[cfg(test)]
    pub(super) fn parked(&self) -> usize {
        self.callers.all.borrow().iter().filter(|caller| caller.is_parked()).count()
    }

    /// Nothing but the sweeps of [`Worker::run`], for connections that come from elsewhere.
    #[cfg(test)]
    pub(super) async fn keep_sweeping(&self) {
        let mut sweep = self.sweeps();
        loop {
            sweep.tick().await;
            self.sweep();
        }
    }

    fn sweep(&self) {
        let now = Instant::now();
        let limits = self.current.limits();
        self.callers.now.set(now);
        for caller in self.callers.all.borrow().iter() {
            caller.sweep(&limits);
        }
        self.current.sweep(now);
    }

    /// Often enough for the shortest time-out to be kept within a tenth.
    fn sweeps(&self) -> Interval {
        let Limits { tls_timeout, header_timeout, idle_timeout, write_timeout, connection_age, .. } =
            &*self.current.limits();
        let shortest = tls_timeout.min(header_timeout).min(idle_timeout).min(write_timeout);
        let shortest = connection_age.as_ref().map_or(shortest, |age| age.min(shortest));
        let mut sweeps = tokio::time::interval((*shortest / 10).clamp(SWEEP_MIN, SWEEP_MAX));
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweeps
    }
}

/// Takes a connection off the list when its task ends.
struct Leaving {
    caller: Rc<ClientConnection>,
    callers: Rc<Callers>,
    load: Arc<AtomicUsize>,
    _place: Place,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut all = self.callers.all.borrow_mut();
        if let Some(index) = all.iter().position(|caller| Rc::ptr_eq(caller, &self.caller)) {
            all.swap_remove(index);
        }
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.callers.gone.notify_one();
    }
}
