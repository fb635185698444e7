//! HTTP/2 connections, each shared by requests of its worker and driven by a task of its own.
//!
//! A request gets a [`Place`] and opens its stream by it. A connection takes no new streams once it is old, going away
//! or dead; it ends when it is in no list any more and the last of its streams has ended.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use http::uri::{Authority, Scheme};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::connection::{Held, IDLE_TIMEOUT, MAX_BUFFER};
use super::outcome::Broken;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::upstream::connect::socket::Stream;
use crate::proxy::upstream::destination::{Destination, Upstream};
use crate::proxy::upstream::permits::Turns;

/// Streams of one connection, if the upstream does not want fewer.
const STREAMS: usize = 100;
/// Connections of a worker to one upstream; what finds all of them full waits on one of them.
const MAX_CONNECTIONS: usize = 16;
/// What an answer may be ahead of its caller: together with our own buffer the most that a slow reader holds.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Enough for each stream, so that slow readers hold up nobody else.
#[expect(clippy::cast_possible_truncation, reason = "a hundred")]
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;
/// Streams that were reset and of which something may still arrive.
const MAX_RESETS: usize = 256;
/// A connection is asked whether it is alive so often, while it has streams.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// And has so long to answer; a new one, to say what it allows.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for new connections to say what they allow.
pub(super) const SETTLED_WITHIN: Duration = Duration::from_secs(11);
/// What is still to be written when nobody uses a connection any more.
const FAREWELL: Duration = Duration::from_secs(1);

/// A worker's connections to one upstream, the oldest first.
pub(super) struct Connections {
    all: RefCell<Vec<Rc<Connection>>>,
    /// Whether none is kept for later requests.
    is_retired: Cell<bool>,
    changed: Rc<Notify>,
    idle_and_wanted: Rc<Notify>,
}

/// A connection as its streams see it.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// Which of the upstream's places it leads to.
    number: u32,
    state: Rc<State>,
    upstream: Arc<Upstream>,
    /// Told when it has no streams and somebody waits for its place.
    idle_and_wanted: Rc<Notify>,
    /// When it is given no more streams.
    ends: Instant,
    /// Tells the task that nobody is left; by being dropped.
    _last: oneshot::Sender<()>,
}

/// What the connection's task knows and its streams need.
struct State {
    streams: Cell<usize>,
    /// Whether the upstream has said what it allows.
    is_settled: Cell<bool>,
    is_over: Cell<bool>,
    /// Streams begun while somebody waits for its place.
    turns: Turns,
    idle_since: Cell<Instant>,
}

/// Room for a stream on a connection.
pub(super) struct Place {
    pub(super) connection: Rc<Connection>,
    pub(super) sender: SendRequest<Bytes>,
}

/// What there is for a request.
pub(super) enum Found {
    /// Room.
    Place(Place),
    /// A connection that has not said yet how much room it has.
    Settling,
    /// None.
    Full,
}

impl Connections {
    pub(super) fn new(changed: Rc<Notify>) -> Self {
        Self {
            all: RefCell::default(),
            is_retired: Cell::new(false),
            changed,
            idle_and_wanted: Rc::default(),
        }
    }

    /// Resolves when one is idle and somebody waits for its place.
    pub(super) async fn idle_and_wanted(&self) {
        self.idle_and_wanted.notified().await;
    }

    /// Room on a connection to this place, if there is some. One whose place is wanted by another worker ends after
    /// some turns.
    pub(super) fn find(&self, number: u32, is_wanted: bool) -> Found {
        let mut all = self.all.borrow_mut();
        let now = Instant::now();
        let mut is_settling = false;
        let mut at = 0;
        while let Some(connection) = all.get(at) {
            let Some(sender) = connection.open_sender(number, now) else {
                // Those who use it go on.
                all.remove(at);
                continue;
            };
            if connection.state.streams.get() < connection.room() {
                let place = Place::new(Rc::clone(connection), sender);
                if is_wanted && !connection.state.turns.take() {
                    all.remove(at);
                }
                return Found::Place(place);
            }
            is_settling |= !connection.state.is_settled.get();
            at += 1;
        }
        if is_settling { Found::Settling } else { Found::Full }
    }

    /// Room where there is none: h2 keeps the request until there is, in order; the route's time-out counts.
    pub(super) fn least_used(&self, number: u32) -> Option<Place> {
        let all = self.all.borrow();
        let now = Instant::now();
        let open = all.iter().filter(|connection| connection.takes_streams(number, now));
        let connection = open.min_by_key(|connection| connection.state.streams.get())?;
        Some(Place::new(Rc::clone(connection), connection.sender.clone()))
    }

    /// Whether the worker may have one more.
    pub(super) fn may_grow(&self) -> bool {
        self.all.borrow().len() < MAX_CONNECTIONS
    }

    /// Takes out as many of the idle ones as are waited for elsewhere.
    pub(super) fn give_way(&self, mut waiting: usize) {
        self.all.borrow_mut().retain(|connection| {
            let goes =
                waiting > 0 && connection.state.is_settled.get() && connection.state.streams.get() == 0;
            waiting -= usize::from(goes);
            !goes
        });
    }

    /// Begins HTTP/2 on a new stream, with room for whoever made it.
    pub(super) async fn open(
        &self,
        stream: Box<dyn Stream>,
        destination: &Destination,
        upstream: &Arc<Upstream>,
        held: Held,
    ) -> Result<Place, ForwardError> {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_BUFFER).unwrap_or(u32::MAX))
            .max_send_buffer_size(MAX_BUFFER)
            .max_concurrent_reset_streams(MAX_RESETS)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ForwardError::Terminated(Broken::from(error).to_string()))?;
        let now = Instant::now();
        let state = Rc::new(State {
            streams: Cell::new(0),
            is_settled: Cell::new(false),
            is_over: Cell::new(false),
            turns: Turns::default(),
            idle_since: Cell::new(now),
        });
        let (last, nobody_left) = oneshot::channel();
        let scheme = if destination.origin.starts_with("https:") { Scheme::HTTPS } else { Scheme::HTTP };
        let opened = Rc::new(Connection {
            sender: sender.clone(),
            scheme,
            authority: Authority::try_from(destination.host.as_bytes())
                .map_err(|_| ForwardError::Protocol("the upstream's name is no authority".to_owned()))?,
            number: destination.number,
            state: Rc::clone(&state),
            upstream: Arc::clone(upstream),
            idle_and_wanted: Rc::clone(&self.idle_and_wanted),
            ends: held.place.ends(),
            _last: last,
        });
        let changed = Rc::clone(&self.changed);
        let driver = Driver { state, changed, pings: connection.ping_pong(), _held: held };
        tokio::task::spawn_local(async move {
            let mut driver = driver;
            driver.run(connection, nobody_left).await;
        });
        let mut all = self.all.borrow_mut();
        if all.len() < MAX_CONNECTIONS && !self.is_retired.get() {
            all.push(Rc::clone(&opened));
        }
        Ok(Place::new(opened, sender))
    }

    /// Takes all out, those who use them go on; keeps none from now on.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        drop(self.all.take());
    }

    /// Takes those out that lie idle, are over or old, or lead elsewhere.
    pub(super) fn reap(&self, number: u32, now: Instant) {
        self.all.borrow_mut().retain(|connection| {
            let state = &connection.state;
            let is_idle = state.streams.get() == 0
                && now.saturating_duration_since(state.idle_since.get()) >= IDLE_TIMEOUT;
            !is_idle && connection.takes_streams(number, now)
        });
    }
}

impl Connection {
    fn takes_streams(&self, number: u32, now: Instant) -> bool {
        self.number == number && !self.state.is_over.get() && now < self.ends
    }

    /// A handle for one stream, unless the upstream takes no more.
    fn open_sender(&self, number: u32, now: Instant) -> Option<SendRequest<Bytes>> {
        if !self.takes_streams(number, now) {
            return None;
        }
        let mut sender = self.sender.clone();
        let mut cx = Context::from_waker(Waker::noop());
        match sender.poll_ready(&mut cx) {
            Poll::Ready(Err(_)) => None,
            Poll::Ready(Ok(())) | Poll::Pending => Some(sender),
        }
    }

    /// How many streams it may have: one until the upstream has said what it allows.
    fn room(&self) -> usize {
        if self.state.is_settled.get() { self.sender.current_max_send_streams().min(STREAMS) } else { 1 }
    }
}

impl Place {
    fn new(connection: Rc<Connection>, sender: SendRequest<Bytes>) -> Self {
        let streams = &connection.state.streams;
        streams.set(streams.get() + 1);
        Self { connection, sender }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let state = &self.connection.state;
        state.streams.set(state.streams.get() - 1);
        if state.streams.get() == 0 {
            state.idle_since.set(Instant::now());
            if self.connection.upstream.permits.waiting() > 0 {
                self.connection.idle_and_wanted.notify_one();
            }
        }
    }
}

/// What drives a connection.
struct Driver {
    state: Rc<State>,
    changed: Rc<Notify>,
    pings: Option<PingPong>,
    _held: Held,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.state.is_over.set(true);
        self.changed.notify_waiters();
    }
}

impl Driver {
    /// Moves bytes in both directions until the connection ends, or nobody is left to use it.
    async fn run<S>(
        &mut self,
        connection: h2::client::Connection<S, Bytes>,
        nobody_left: oneshot::Receiver<()>,
    ) where
        S: Stream,
    {
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(error = %Broken::from(error), "upstream connection ended");
                }
                return;
            }
            () = Self::ask(self.pings.as_mut(), &self.state, &self.changed) => {
                debug!("upstream connection did not answer");
                return;
            }
            _ = nobody_left => {}
        }
        // Resets that are still to be written; h2 then says goodbye by itself.
        let _ = tokio::time::timeout(FAREWELL, connection).await;
    }

    /// Asks now and then whether the upstream is there; ends when it is not. The first answer comes behind its settings.
    async fn ask(pings: Option<&mut PingPong>, state: &State, changed: &Notify) {
        let Some(pings) = pings else {
            return std::future::pending().await;
        };
        loop {
            if !state.is_settled.get() || state.streams.get() > 0 {
                let answer = tokio::time::timeout(PING_TIMEOUT, pings.ping(Ping::opaque()));
                if !matches!(answer.await, Ok(Ok(_))) {
                    return;
                }
                if !state.is_settled.replace(true) {
                    changed.notify_waiters();
                }
            }
            tokio::time::sleep(PING_INTERVAL).await;
        }
    }
}
