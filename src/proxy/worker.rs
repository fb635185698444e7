//! A worker: one thread that carries requests, from a caller's socket to the upstream and back.
//!
//! Workers share nothing that changes. Each has a single-threaded runtime, its own connections to callers and
//! to upstreams, and a sweep that ends connections which take too long. A request never leaves the worker its
//! connection was given to.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::caller::{Caller, End};
use super::caller_io::CallerStream;
use super::connection;
use super::pool::Pool;
use super::service::{Service, Shared};
use super::upstream::Upstream;
use crate::config::Limits;
use crate::lifecycle::{Stage, Threads};

/// The longest time between two looks at the connections.
const SWEEP_MAX: Duration = Duration::from_millis(500);
const SWEEP_MIN: Duration = Duration::from_millis(10);
/// Connections handed over and not yet taken.
const BACKLOG: usize = 1024;

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, not blocking.
    pub socket: std::net::TcpStream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Whether requests from there are answered.
    pub is_allowed: bool,
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
    shared: Arc<Shared>,
    upstreams: Vec<Arc<Upstream>>,
    limits: Limits,
    stage: watch::Receiver<Stage>,
    threads: &mut Threads,
) -> io::Result<WorkerHandle> {
    let (connections, accepted) = mpsc::channel(BACKLOG);
    let load = Arc::new(AtomicUsize::new(0));
    let handle = WorkerHandle { connections, load: Arc::clone(&load) };
    threads.spawn(format!("worker-{index}"), move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let pools = upstreams.into_iter().map(Pool::new).collect();
        let worker = Worker::new(Service::new(shared, pools), limits, load);
        runtime.block_on(worker.run(accepted, stage));
        // Not waiting for a name that is still being looked up.
        runtime.shutdown_background();
        Ok(())
    })?;
    Ok(handle)
}

/// A worker on its own thread.
pub struct Worker {
    service: Rc<Service>,
    limits: Rc<Limits>,
    callers: Rc<Callers>,
    load: Arc<AtomicUsize>,
}

/// The connections of a worker.
struct Callers {
    all: RefCell<Vec<Rc<Caller>>>,
    /// The time of the last sweep: exact enough for time-outs, and free to read.
    now: Rc<Cell<Instant>>,
    gone: Notify,
    is_draining: Cell<bool>,
}

impl Worker {
    /// A worker without connections. `load` counts those it has and those on their way.
    pub fn new(service: Service, limits: Limits, load: Arc<AtomicUsize>) -> Self {
        let callers = Callers {
            all: RefCell::default(),
            now: Rc::new(Cell::new(Instant::now())),
            gone: Notify::new(),
            is_draining: Cell::new(false),
        };
        Self { service: Rc::new(service), limits: Rc::new(limits), callers: Rc::new(callers), load }
    }

    /// Serves connections until the daemon stops: takes new ones, lets those it has finish, then cuts.
    pub async fn run(self, mut accepted: mpsc::Receiver<Accepted>, mut stage: watch::Receiver<Stage>) {
        let mut sweep = tokio::time::interval(self.sweep_interval());
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for pool in self.service.pools() {
            tokio::task::spawn_local(Rc::clone(pool).give_way());
        }
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
                changed = stage.changed() => {
                    let stage = changed.map_or(Stage::Cut, |()| *stage.borrow());
                    match stage {
                        Stage::Running => {}
                        Stage::Draining => self.drain(),
                        Stage::Cut => {
                            let left = self.callers.all.borrow().len();
                            if left > 0 {
                                warn!(connections = left, "connections were cut");
                            }
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Every connection, those to come included, ends when what is in flight on it is answered.
    fn drain(&self) {
        self.callers.is_draining.set(true);
        for caller in self.callers.all.borrow().iter() {
            caller.end(End::Gracefully);
        }
    }

    fn take(&self, accepted: Accepted) {
        let Accepted { socket, peer, is_allowed } = accepted;
        let stream = socket.set_nodelay(true).and_then(|()| TcpStream::from_std(socket));
        match stream {
            Ok(stream) => self.serve(stream, peer, is_allowed),
            Err(error) => {
                debug!(%peer, %error, "connection failed");
                self.load.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Serves one connection in a task of its own.
    pub fn serve<S>(&self, stream: S, peer: SocketAddr, is_allowed: bool)
    where
        S: CallerStream + 'static,
    {
        let caller = Caller::new(peer, is_allowed, Rc::clone(&self.callers.now));
        self.callers.all.borrow_mut().push(Rc::clone(&caller));
        if self.callers.is_draining.get() {
            caller.end(End::Gracefully);
        }
        let leaving = Leaving {
            caller: Rc::clone(&caller),
            callers: Rc::clone(&self.callers),
            load: Arc::clone(&self.load),
        };
        let (service, limits) = (Rc::clone(&self.service), Rc::clone(&self.limits));
        tokio::task::spawn_local(async move {
            // Dropped with the task, and so even where the task panics.
            let _leaving = leaving;
            connection::serve(stream, caller, service, limits).await;
        });
    }

    /// Nothing but the sweeps of [`Worker::run`], for connections that come from elsewhere.
    #[cfg(test)]
    pub(super) async fn keep_sweeping(&self) {
        let mut sweep = tokio::time::interval(self.sweep_interval());
        loop {
            sweep.tick().await;
            self.sweep();
        }
    }

    fn sweep(&self) {
        let now = Instant::now();
        self.callers.now.set(now);
        for caller in self.callers.all.borrow().iter() {
            caller.sweep(&self.limits);
        }
        for pool in self.service.pools() {
            pool.reap(now);
            pool.upstream().breaker.tick();
        }
    }

    /// Often enough for the shortest time-out to be kept within a tenth.
    fn sweep_interval(&self) -> Duration {
        let shortest = self.limits.header_timeout.min(self.limits.idle_timeout);
        (shortest / 10).clamp(SWEEP_MIN, SWEEP_MAX)
    }
}

/// Takes a connection off the list when its task ends.
struct Leaving {
    caller: Rc<Caller>,
    callers: Rc<Callers>,
    load: Arc<AtomicUsize>,
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
