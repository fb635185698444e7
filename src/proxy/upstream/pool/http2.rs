//! HTTP/2 connections of a worker, which its requests share.
//!
//! A request takes a [`StreamSlot`] on a connection and opens its stream with it. A task drives each connection. A
//! connection that has expired, ended or received GOAWAY leaves the list and takes no new streams; the connection ends
//! with the last of its streams.

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
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::connection::{ConnectionGuard, Lifetime, MAX_BUFFER};
use super::outcome::StreamError;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::upstream::connect::socket::Stream;
use crate::proxy::upstream::destination::{Destination, Upstream};

/// Concurrent streams on one connection, if the upstream does not allow fewer.
const MAX_STREAMS: usize = 100;
/// Connections of a worker to one upstream. When all are full, a request waits on one of them.
const MAX_CONNECTIONS: usize = 16;
/// The flow-control window of a stream, in bytes: bounds what a slow caller keeps in memory.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The flow-control window of a connection, in bytes: enough for all streams, so slow callers do not block others.
#[expect(clippy::cast_possible_truncation, reason = "a hundred")]
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;
/// Streams that were reset and for which frames may still arrive.
const MAX_RESET_STREAMS: usize = 256;
/// The time between pings on a connection with streams.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// The wait for the answer to a ping; on a new connection, also for the SETTINGS of the upstream.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for the SETTINGS of new connections; longer than one connection may take.
pub(super) const SETTINGS_TIMEOUT: Duration = Duration::from_secs(11);
/// The wait for the last frames to be written on a connection without streams.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections of one worker to one upstream.
pub(super) struct Connections {
    /// The oldest first.
    all: RefCell<Vec<Rc<Connection>>>,
    /// Whether new connections are not added to the list.
    is_retired: Cell<bool>,
    /// Notified when a connection has received SETTINGS or has ended.
    changed: Rc<Notify>,
    /// Notified when a connection has no streams and a request waits for a connection permit.
    pub(super) idle_while_contended: Rc<Notify>,
}

/// A connection as its streams see it.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    lifetime: Lifetime,
    state: Rc<State>,
    upstream: Arc<Upstream>,
    idle_while_contended: Rc<Notify>,
    /// Dropped with the last reference, which tells the task to close the connection.
    _in_use: oneshot::Sender<()>,
}

/// Shared by a connection and its task.
#[derive(Default)]
struct State {
    streams: Cell<usize>,
    /// Whether the SETTINGS of the upstream have arrived.
    has_settings: Cell<bool>,
    has_ended: Cell<bool>,
}

/// The right to open one stream on a connection.
pub(super) struct StreamSlot {
    pub(super) connection: Rc<Connection>,
    pub(super) sender: SendRequest<Bytes>,
}

/// Whether there is a slot for a stream.
pub(super) enum Availability {
    Slot(StreamSlot),
    /// A new connection may have slots as soon as the SETTINGS of the upstream arrive.
    AwaitingSettings,
    Full,
}

impl Connections {
    pub(super) fn new(changed: Rc<Notify>) -> Self {
        let (all, idle_while_contended) = (RefCell::default(), Rc::default());
        Self { all, is_retired: Cell::new(false), changed, idle_while_contended }
    }

    /// A slot on a connection to this revision of the destination. If `is_contended`, requests wait for a connection
    /// permit, and a connection takes only a limited number of further streams.
    pub(super) fn find(&self, revision: u32, is_contended: bool) -> Availability {
        let mut all = self.all.borrow_mut();
        let now = Instant::now();
        let mut is_awaiting_settings = false;
        let mut at = 0;
        while let Some(connection) = all.get(at) {
            let Some(sender) = connection.stream_sender(revision, now) else {
                // Streams in progress go on.
                all.remove(at);
                continue;
            };
            if connection.state.streams.get() < connection.max_streams() {
                let slot = StreamSlot::new(Rc::clone(connection), sender);
                if is_contended && !connection.lifetime.count_contended_request() {
                    all.remove(at);
                }
                return Availability::Slot(slot);
            }
            is_awaiting_settings |= !connection.state.has_settings.get();
            at += 1;
        }
        if is_awaiting_settings { Availability::AwaitingSettings } else { Availability::Full }
    }

    /// A slot on the connection with the fewest streams, although all are full: h2 queues the request until a stream
    /// ends, within the response timeout of the route.
    pub(super) fn least_used(&self, revision: u32) -> Option<StreamSlot> {
        let all = self.all.borrow();
        let now = Instant::now();
        let open = all.iter().filter(|connection| connection.takes_streams(revision, now));
        let connection = open.min_by_key(|connection| connection.state.streams.get())?;
        Some(StreamSlot::new(Rc::clone(connection), connection.sender.clone()))
    }

    /// Whether the worker may have another connection.
    pub(super) fn may_grow(&self) -> bool {
        self.all.borrow().len() < MAX_CONNECTIONS
    }

    /// Closes up to `count` idle connections.
    pub(super) fn close_idle(&self, mut count: usize) {
        self.all.borrow_mut().retain(|connection| {
            let state = &connection.state;
            let closes = count > 0 && state.has_settings.get() && state.streams.get() == 0;
            count -= usize::from(closes);
            !closes
        });
    }

    /// Starts HTTP/2 on a new stream; the first slot is the caller's.
    pub(super) async fn open(
        &self,
        stream: Box<dyn Stream>,
        destination: &Destination,
        upstream: &Arc<Upstream>,
        guard: ConnectionGuard,
    ) -> Result<StreamSlot, ForwardError> {
        let (sender, mut connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(MAX_BUFFER).unwrap_or(u32::MAX))
            .max_send_buffer_size(MAX_BUFFER)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ForwardError::Terminated(StreamError::from(error).to_string()))?;
        let state = Rc::<State>::default();
        let (in_use, unused) = oneshot::channel();
        let scheme = if destination.origin.starts_with("https:") { Scheme::HTTPS } else { Scheme::HTTP };
        let opened = Rc::new(Connection {
            sender: sender.clone(),
            scheme,
            authority: Authority::try_from(destination.host.as_bytes())
                .map_err(|_| ForwardError::Protocol("the upstream's name is no authority".to_owned()))?,
            lifetime: guard.lifetime(destination.revision),
            state: Rc::clone(&state),
            upstream: Arc::clone(upstream),
            idle_while_contended: Rc::clone(&self.idle_while_contended),
            _in_use: in_use,
        });
        let changed = Rc::clone(&self.changed);
        let mut driver = Driver { state, changed, pings: connection.ping_pong(), _guard: guard };
        tokio::task::spawn_local(async move { driver.run(connection, unused).await });
        let mut all = self.all.borrow_mut();
        if all.len() < MAX_CONNECTIONS && !self.is_retired.get() {
            all.push(Rc::clone(&opened));
        }
        Ok(StreamSlot::new(opened, sender))
    }

    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        drop(self.all.take());
    }

    pub(super) fn reap(&self, revision: u32, now: Instant) {
        self.all.borrow_mut().retain(|connection| {
            let is_idle = connection.state.streams.get() == 0 && connection.lifetime.is_idle_too_long(now);
            !is_idle && connection.takes_streams(revision, now)
        });
    }
}

impl Connection {
    fn takes_streams(&self, revision: u32, now: Instant) -> bool {
        !self.state.has_ended.get() && self.lifetime.allows(revision, now)
    }

    /// A sender for one stream; `None` if the connection takes no more streams.
    fn stream_sender(&self, revision: u32, now: Instant) -> Option<SendRequest<Bytes>> {
        if !self.takes_streams(revision, now) {
            return None;
        }
        let mut sender = self.sender.clone();
        let mut cx = Context::from_waker(Waker::noop());
        let has_failed = matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_)));
        (!has_failed).then_some(sender)
    }

    /// How many streams may be open: one before the SETTINGS of the upstream have arrived.
    fn max_streams(&self) -> usize {
        if !self.state.has_settings.get() {
            return 1;
        }
        self.sender.current_max_send_streams().min(MAX_STREAMS)
    }
}

impl StreamSlot {
    fn new(connection: Rc<Connection>, sender: SendRequest<Bytes>) -> Self {
        let streams = &connection.state.streams;
        streams.set(streams.get() + 1);
        Self { connection, sender }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let state = &self.connection.state;
        state.streams.set(state.streams.get() - 1);
        if state.streams.get() == 0 {
            self.connection.lifetime.idle_since.set(Instant::now());
            if self.connection.upstream.permits.waiters() > 0 {
                self.connection.idle_while_contended.notify_one();
            }
        }
    }
}

/// The task of a connection.
struct Driver {
    state: Rc<State>,
    changed: Rc<Notify>,
    pings: Option<PingPong>,
    _guard: ConnectionGuard,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.state.has_ended.set(true);
        self.changed.notify_waiters();
    }
}

impl Driver {
    /// Sends and receives until the connection ends, answers no ping, or is no longer used.
    async fn run(
        &mut self,
        connection: h2::client::Connection<Box<dyn Stream>, Bytes>,
        unused: oneshot::Receiver<()>,
    ) {
        let mut connection = pin!(connection);
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(error = %StreamError::from(error), "upstream connection ended");
                }
                return;
            }
            () = Self::ping(self.pings.as_mut(), &self.state, &self.changed) => {
                debug!("upstream connection did not answer");
                return;
            }
            _ = unused => {}
        }
        // Writes pending RST_STREAM frames; h2 then sends GOAWAY and ends.
        let _ = timeout(CLOSE_TIMEOUT, connection).await;
    }

    /// Sends pings while the connection has streams; returns when one is not answered. The first answer shows that the
    /// SETTINGS of the upstream have arrived.
    async fn ping(pings: Option<&mut PingPong>, state: &State, changed: &Notify) {
        let Some(pings) = pings else {
            return std::future::pending().await;
        };
        loop {
            if !state.has_settings.get() || state.streams.get() > 0 {
                let answer = timeout(PING_TIMEOUT, pings.ping(Ping::opaque()));
                if !matches!(answer.await, Ok(Ok(_))) {
                    return;
                }
                if !state.has_settings.replace(true) {
                    changed.notify_waiters();
                }
            }
            tokio::time::sleep(PING_INTERVAL).await;
        }
    }
}
