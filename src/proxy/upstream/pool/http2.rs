//! HTTP/2 connections of a worker, which its requests share.
//!
//! A request takes a [`StreamSlot`] on a connection and opens its stream with it. A task drives each connection. A
//! connection that has expired, ended, received GOAWAY or not answered a ping leaves the list and gives up its place: it
//! takes no new streams, and ends with the last of its streams.
//!
//! A connection that may have died silently is asked by a ping, and takes no streams until the answer: when a request
//! timed out, or is about to be sent after a silence. A silent stream alone is no reason for a ping: some servers end a
//! connection with many pings.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use http::uri::{Authority, Scheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::connection::{ConnectionGuard, Lifetime, MAX_BUFFER, Place};
use super::outcome::StreamError;
use super::queue::Queue;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::joined_writes::JoinedWrites;
use crate::proxy::limits::slots::Reservation;
use crate::proxy::upstream::connect::socket::Stream;
use crate::proxy::upstream::connect::tls;
use crate::proxy::upstream::destination::Destination;

/// Concurrent streams on one connection, if the upstream does not allow fewer.
const MAX_STREAMS: usize = 100;
/// The flow-control window of a stream, in bytes: bounds what a slow caller keeps in memory.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The flow-control window of a connection, in bytes: enough for all streams, so slow callers do not block others.
#[expect(clippy::cast_possible_truncation, reason = "a hundred")]
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;
/// h2 counts up to 256 bytes for each unread DATA frame that is smaller, and ends the connection beyond this budget. Two
/// unread streams with frames of one byte stay within the budget.
const SMALL_FRAMES_BUDGET: usize = 2 * 256 * STREAM_WINDOW as usize;
/// Streams that were reset and for which frames may still arrive.
const MAX_RESET_STREAMS: usize = 256;
/// The stream limit before the SETTINGS of the upstream have arrived, which no upstream sends.
const NO_SETTINGS: usize = usize::MAX - 1;
/// The silence of an upstream after which the next request waits for the answer to a ping.
const LONG_SILENCE: Duration = Duration::from_secs(5);
/// The silence after which the timeout of a request leads to a ping.
const SHORT_SILENCE: Duration = Duration::from_secs(1);
/// The wait for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait for the last frames to be written on a connection without streams.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections of one worker to one upstream that take streams.
pub(super) struct Connections {
    /// The oldest first.
    all: RefCell<Vec<Listed>>,
    queue: Rc<Queue>,
}

struct Listed {
    connection: Rc<Connection>,
    _place: Place,
}

/// A connection as its streams see it.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    lifetime: Lifetime,
    streams: Cell<usize>,
    state: Rc<State>,
    /// Dropped with the last reference, which tells the task to close the connection.
    _in_use: oneshot::Sender<()>,
}

/// Shared by a connection and its task.
struct State {
    health: Cell<Health>,
    /// When something was received last.
    heard: Rc<Cell<Instant>>,
    /// Notified when the health becomes [`Health::Asked`].
    asked: Notify,
    queue: Rc<Queue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Good,
    /// A ping is on its way.
    Asked,
    /// The connection has ended, or a ping was not answered.
    Dead,
}

/// The right to open one stream on a connection.
pub(super) struct StreamSlot {
    pub(super) connection: Rc<Connection>,
    pub(super) sender: SendRequest<Bytes>,
    /// Whether an earlier request has used the connection.
    pub(super) is_reused: bool,
}

impl Connections {
    pub(super) fn new(queue: Rc<Queue>) -> Self {
        Self { all: RefCell::default(), queue }
    }

    /// A slot on a connection to this revision of the destination.
    pub(super) fn find(&self, revision: u32) -> Option<StreamSlot> {
        let mut all = self.all.borrow_mut();
        if all.is_empty() {
            return None;
        }
        let now = Instant::now();
        let mut at = 0;
        while let Some(Listed { connection, .. }) = all.get(at) {
            match connection.sender(revision, now) {
                // Streams in progress go on.
                None => drop(all.remove(at)),
                Some(sender) if connection.has_room(now) => return Some(connection.slot(sender)),
                Some(_) => at += 1,
            }
        }
        None
    }

    /// Whether there is a connection, and whether one takes no streams for the moment.
    pub(super) fn are_any(&self) -> (bool, bool) {
        let all = self.all.borrow();
        (!all.is_empty(), all.iter().any(|listed| listed.connection.is_pending()))
    }

    /// Starts HTTP/2 on a new stream, and waits for the SETTINGS of the upstream.
    pub(super) async fn open(
        &self,
        stream: Box<dyn Stream>,
        destination: &Destination,
        lifetime: Lifetime,
        guard: ConnectionGuard,
    ) -> Result<Rc<Connection>, ForwardError> {
        let heard = Rc::new(Cell::new(Instant::now()));
        let refusal = Rc::<RefCell<Option<ForwardError>>>::default();
        let failed = |error: h2::Error| {
            let terminated = || ForwardError::Terminated(StreamError::from(error).to_string());
            refusal.take().unwrap_or_else(terminated)
        };
        let io = JoinedWrites::new(Heard { stream, at: Rc::clone(&heard), refusal: Rc::clone(&refusal) });
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .initial_max_send_streams(NO_SETTINGS)
            .max_header_list_size(u32::try_from(MAX_BUFFER).unwrap_or(u32::MAX))
            .max_send_buffer_size(MAX_BUFFER)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .handshake::<_, Bytes>(io.clone())
            .await
            .map_err(failed)?;
        let mut connection = Box::new(connection);
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(match ended {
                Ok(()) => ForwardError::Terminated(StreamError::Closed.to_string()),
                Err(error) => failed(error),
            })),
            Poll::Pending if sender.current_max_send_streams() == NO_SETTINGS => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        let queue = Rc::clone(&self.queue);
        let state = Rc::new(State { health: Cell::new(Health::Good), heard, asked: Notify::new(), queue });
        let (in_use, unused) = oneshot::channel();
        let scheme = if destination.origin.starts_with("https:") { Scheme::HTTPS } else { Scheme::HTTP };
        let opened = Rc::new(Connection {
            sender,
            scheme,
            authority: Authority::try_from(destination.host.as_bytes())
                .map_err(|_| ForwardError::Protocol("the upstream's name is no authority".to_owned()))?,
            lifetime,
            streams: Cell::new(0),
            state: Rc::clone(&state),
            _in_use: in_use,
        });
        let ConnectionGuard { place, descriptor } = guard;
        let driver = Driver { state, _descriptor: descriptor };
        let pings = connection.ping_pong();
        tokio::task::spawn_local(async move { driver.run(connection, io, pings, unused).await });
        self.all.borrow_mut().push(Listed { connection: Rc::clone(&opened), _place: place });
        Ok(opened)
    }

    pub(super) fn close_all(&self) {
        drop(self.all.take());
    }

    pub(super) fn reap(&self, revision: u32, now: Instant) {
        self.all.borrow_mut().retain(|listed| listed.connection.sender(revision, now).is_some());
    }
}

impl Connection {
    /// The first slot of a new connection.
    pub(super) fn first_slot(self: &Rc<Self>) -> StreamSlot {
        self.slot(self.sender.clone())
    }

    fn slot(self: &Rc<Self>, sender: SendRequest<Bytes>) -> StreamSlot {
        self.streams.set(self.streams.get() + 1);
        StreamSlot { connection: Rc::clone(self), sender, is_reused: self.lifetime.begin_use() }
    }

    /// A sender for one stream; `None` if the connection takes no more streams.
    fn sender(&self, revision: u32, now: Instant) -> Option<SendRequest<Bytes>> {
        if !self.lifetime.allows(revision, now) {
            return None;
        }
        let mut sender = self.sender.clone();
        if self.lifetime.is_just_made(now) {
            return Some(sender);
        }
        let is_idle_too_long = self.streams.get() == 0 && self.lifetime.is_idle_too_long(now);
        if self.state.health.get() == Health::Dead || is_idle_too_long {
            return None;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let has_failed = matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_)));
        (!has_failed).then_some(sender)
    }

    /// Whether a stream may be opened now. After a long silence, the connection is asked first.
    fn has_room(&self, now: Instant) -> bool {
        if self.streams.get() >= self.sender.current_max_send_streams().min(MAX_STREAMS) {
            return false;
        }
        if now.saturating_duration_since(self.state.heard.get()) >= LONG_SILENCE {
            self.state.ask();
        }
        self.state.health.get() != Health::Asked
    }

    /// Whether the connection waits for the answer to a ping, or for an upstream that allows no streams yet.
    fn is_pending(&self) -> bool {
        self.state.health.get() == Health::Asked || self.sender.current_max_send_streams() == 0
    }

    /// Notes that a request had no answer in time.
    pub(super) fn timed_out(&self) {
        if self.state.heard.get().elapsed() >= SHORT_SILENCE {
            self.state.ask();
        }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let Connection { streams, lifetime, state, .. } = &*self.connection;
        streams.set(streams.get() - 1);
        if streams.get() == 0 {
            lifetime.idle_since.set(Instant::now());
        }
        state.queue.wake();
    }
}

impl State {
    fn ask(&self) {
        if self.health.get() == Health::Good {
            self.health.set(Health::Asked);
            self.asked.notify_one();
        }
    }

    fn set(&self, health: Health) {
        self.health.set(health);
        self.queue.wake_all();
    }
}

/// The task of a connection.
struct Driver {
    state: Rc<State>,
    _descriptor: Reservation,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.state.set(Health::Dead);
    }
}

impl Driver {
    /// Sends and receives until the connection ends or is no longer used.
    async fn run(
        self,
        mut connection: Box<h2::client::Connection<JoinedWrites<Heard>, Bytes>>,
        io: JoinedWrites<Heard>,
        pings: Option<PingPong>,
        unused: oneshot::Receiver<()>,
    ) {
        let mut asking = pin!(self.ping_when_asked(pings));
        let mut driven = pin!(poll_fn(|cx| {
            let _ = asking.as_mut().poll(cx);
            io.poll(cx, |cx| Pin::new(&mut connection).poll(cx))
        }));
        tokio::select! {
            biased;
            ended = driven.as_mut() => {
                if let Err(error) = ended {
                    debug!(error = %StreamError::from(error), "upstream connection ended");
                }
                return;
            }
            _ = unused => {}
        }
        // Writes pending RST_STREAM frames; h2 then sends GOAWAY and ends.
        let _ = timeout(CLOSE_TIMEOUT, driven).await;
    }

    /// Sends a ping each time one is asked for, until one is not answered.
    async fn ping_when_asked(&self, pings: Option<PingPong>) {
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            self.state.asked.notified().await;
            if !matches!(timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
                debug!("upstream connection did not answer a ping");
                self.state.set(Health::Dead);
                return std::future::pending().await;
            }
            self.state.set(Health::Good);
        }
    }
}

/// A byte stream that notes when it received something, and an error by which TLS ends it, which h2 does not pass on.
struct Heard {
    stream: Box<dyn Stream>,
    at: Rc<Cell<Instant>>,
    refusal: Rc<RefCell<Option<ForwardError>>>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.at.set(Instant::now());
        if let Err(error) = &read {
            *self.refusal.borrow_mut() = tls::refusal(error);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
