//! One client connection as the worker sees it: the peer, the protocol state and its age, and how it is to end.
//!
//! The connection's socket, its requests and the worker's sweep share a [`ClientConnection`]. Events only note what
//! happened, without a timer. The sweep visits every connection a few times a second and ends those past a deadline.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use super::early_resets::EarlyResets;
use super::interim::InterimBytes;
use super::progress::{Progress, Task};
use super::protocol::{End, Http1, Http2, Protocol};
use super::since::Since;
use super::stream::{Noticed, StreamObserver};
use super::wrong_protocol::{Spoken, WrongProtocolLog};
use crate::config::{HalfClosed, Limits};
use crate::proxy::body::unread::UnreadBodies;
use crate::proxy::callers::OfConnection;
use crate::proxy::error::ProxyError;
use crate::proxy::peer::Peer;
use crate::telemetry::metrics::traffic::{Key, Meter, MethodLabel};

/// The largest write over HTTP/2 that may hold no response: acknowledgements of PING and SETTINGS, in bytes.
const MAX_CONTROL_FRAME_BYTES: usize = 128;

/// A client connection.
#[derive(Debug)]
pub struct ClientConnection {
    /// The peer, judged by the configuration in force.
    pub peer: Cell<Peer>,
    /// The names in the client certificate, empty without one; set once TLS is negotiated.
    certificate_names: OnceCell<Vec<String>>,
    /// The configured callers by certificate and address; `None` until a request needs them.
    callers: Cell<Option<OfConnection>>,
    /// The time of the worker's last sweep.
    clock: Rc<Cell<Instant>>,
    pub(in crate::proxy) protocol: Cell<Protocol>,
    /// Since when `protocol` lasts, or since when its deadline was last extended.
    since: Since,
    /// When `connection_age` is reached.
    expires: Option<Instant>,
    /// Whether the client reads nothing of what is ready to be written, and since when.
    is_blocked: Cell<bool>,
    blocked_since: Since,
    /// Whether the client may still be sending part of a request that nobody will read.
    pub has_unread: Cell<bool>,
    /// Whether a response broke off, and only the end of the connection can show that to the client.
    pub is_truncated: Cell<bool>,
    end: Cell<Option<End>>,
    /// The stream while hyper speaks HTTP/1 on it, and what becomes of a client that shuts down its sending side.
    observed: RefCell<Option<(StreamObserver, HalfClosed)>>,
    /// The HTTP/2 streams that the client reset before their responses.
    early_resets: EarlyResets,
    /// The responses under way; over HTTP/1 one, which is used again for each request.
    progress: RefCell<Vec<Rc<Progress>>>,
    /// Interim responses over HTTP/1.1 that are to be written.
    pub(super) interim: InterimBytes,
    /// Request bodies of this connection that upstreams do not read.
    pub unread_bodies: UnreadBodies,
    wrong_protocol: Rc<WrongProtocolLog>,
    meter: Rc<Meter>,
    /// The task to wake when the connection is to end.
    pub task: Task,
}

/// Ends the observation of a client's stream when dropped.
pub struct Observation<'a>(&'a ClientConnection);

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        self.0.observed.take();
    }
}

impl ClientConnection {
    /// A connection that was just accepted, to be used for at most `age`; `clock` is the time of the worker's last sweep.
    pub fn new(
        peer: Peer,
        clock: Rc<Cell<Instant>>,
        age: Option<Duration>,
        wrong_protocol: Rc<WrongProtocolLog>,
        meter: Rc<Meter>,
    ) -> Rc<Self> {
        let now = clock.get();
        // Up to a tenth sooner, so that connections made together are not all replaced together.
        let expires = age.map(|age| now + age.mul_f64(1.0 - fastrand::f64() / 10.0));
        Rc::new(Self {
            peer: Cell::new(peer),
            certificate_names: OnceCell::new(),
            callers: Cell::new(None),
            clock,
            protocol: Cell::new(Protocol::Silent),
            since: Since::default(),
            expires,
            is_blocked: Cell::new(false),
            blocked_since: Since::default(),
            has_unread: Cell::new(false),
            is_truncated: Cell::new(false),
            end: Cell::new(None),
            observed: RefCell::default(),
            early_resets: EarlyResets::new(now),
            progress: RefCell::default(),
            interim: InterimBytes::default(),
            unread_bodies: UnreadBodies::default(),
            wrong_protocol,
            meter,
            task: Task::default(),
        })
    }

    /// Counts a request that was refused before its head was complete.
    pub fn refused(&self, error: &ProxyError) {
        let (method, status) = (MethodLabel::OTHER, error.status().as_u16());
        self.meter.refused_early(Key { method, status, code: Some(error.code()) }, self.lasted());
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failed(&self) {
        self.meter.handshake_failed();
    }

    /// Logs that the client speaks another protocol than the port at this address.
    pub fn report_wrong_protocol(&self, spoken: Spoken, address: Option<SocketAddr>) {
        self.wrong_protocol.report(spoken, address, &self.peer.get());
    }

    /// The TLS handshake begins.
    pub fn tls_begun(&self) {
        self.protocol.set(Protocol::Handshake);
    }

    /// TLS is negotiated, with these names in the client's certificate. The time for the first head begins.
    pub fn tls_negotiated(&self, names: Vec<String>) {
        let _ = self.certificate_names.set(names);
        self.enter(Protocol::Silent);
    }

    /// Whether the connection is one over TLS.
    pub fn is_tls(&self) -> bool {
        self.certificate_names.get().is_some()
    }

    /// The names in the client's certificate; none without a certificate.
    pub fn names(&self) -> &[String] {
        self.certificate_names.get().map_or(&[], Vec::as_slice)
    }

    /// The peer is judged by another configuration.
    pub fn judged(&self, peer: Peer) {
        self.peer.set(peer);
        self.callers.set(None);
    }

    /// The callers by certificate and address: what `look_up` has made of the names in the certificate, once for each
    /// configuration.
    pub fn identified(&self, look_up: impl FnOnce(&[String]) -> OfConnection) -> OfConnection {
        if let Some(known) = self.callers.get() {
            return known;
        }
        let found = look_up(self.names());
        self.callers.set(Some(found));
        found
    }

    /// The first bytes are those of HTTP/1, whose responses the connection's one task writes.
    pub fn speaks_http1(&self) {
        if self.protocol.get() == Protocol::FirstBytes {
            self.protocol.set(Protocol::Http1(Http1::Head));
        }
        if let Some(waker) = self.task.waker() {
            self.begin_progress().task.set(&waker);
        }
    }

    /// Lets the sweep end the connection once the client has left in the middle of an exchange, also where hyper does not
    /// read the stream: bytes of a next request, or a stray line end, have arrived before the end.
    #[must_use]
    pub fn observe(&self, stream: StreamObserver, half_closed: HalfClosed) -> Observation<'_> {
        *self.observed.borrow_mut() = Some((stream, half_closed));
        Observation(self)
    }

    /// How the client has left in the middle of an exchange, if it has.
    fn left(&self) -> Option<End> {
        let observed = self.observed.borrow();
        let (stream, half_closed) = observed.as_ref()?;
        match stream.noticed()? {
            Noticed::HalfClosed if *half_closed != HalfClosed::Abort => None,
            Noticed::TimedOut if self.is_blocked.get() => Some(End::WriteTimeout),
            Noticed::HalfClosed | Noticed::Closed | Noticed::TimedOut => Some(End::ClientLeft),
        }
    }

    /// An HTTP/2 stream has ended, which began at that time; ends the connection after too many resets before a response.
    pub fn stream_ended(&self, began: Instant, is_answered: bool) {
        if is_answered {
            self.early_resets.answered();
        } else if self.early_resets.is_one_too_many(began, self.clock.get()) {
            self.end(End::TooManyResets);
        }
    }

    /// The time of the worker's last sweep.
    pub fn now(&self) -> Instant {
        self.clock.get()
    }

    /// The first bytes are those of HTTP/2; the client may have this number of concurrent streams.
    pub fn speaks_http2(&self, streams: u32) {
        self.early_resets.set_streams(streams);
        self.protocol.set(Protocol::Http2(Http2::Opening));
    }

    fn is_http2(&self) -> bool {
        matches!(self.protocol.get(), Protocol::Http2(_))
    }

    /// The connection waits for its next request with nothing but its socket, until bytes arrive.
    pub fn park(&self) {
        if self.protocol.get() == Protocol::Http1(Http1::Idle) {
            self.protocol.set(Protocol::Http1(Http1::Parked));
        }
    }

    /// Bytes have arrived.
    pub fn received(&self) {
        match self.protocol.get() {
            // The time for the first head counts from the beginning of the connection.
            Protocol::Silent => self.protocol.set(Protocol::FirstBytes),
            Protocol::Http1(Http1::Idle | Http1::Parked) => self.enter(Protocol::Http1(Http1::Head)),
            _ => {}
        }
    }

    /// The progress of a response that is about to begin.
    pub fn begin_progress(&self) -> Rc<Progress> {
        let mut all = self.progress.borrow_mut();
        match all.first() {
            Some(only) if !self.is_http2() => Rc::clone(only),
            _ => {
                let progress = Rc::<Progress>::default();
                all.push(Rc::clone(&progress));
                progress
            }
        }
    }

    /// Removes the progress of a response that has ended.
    pub fn forget_progress(&self, progress: &Rc<Progress>) {
        let mut all = self.progress.borrow_mut();
        if let Some(index) = all.iter().position(|other| Rc::ptr_eq(other, progress)) {
            all.swap_remove(index);
        }
    }

    /// Sends an interim response to a request, before its response.
    pub fn send_interim(&self, progress: &Progress, interim: Response<()>) {
        progress.interim.push(interim, &self.interim);
    }

    /// There are bytes to write, and the socket takes none.
    pub fn write_blocked(&self) {
        self.interim.set_flushed(false);
        if !self.is_blocked.replace(true) {
            self.blocked_since.begin();
        }
    }

    /// The socket has failed. The system ends a connection whose client takes no bytes for `write_timeout`, as [`sweep`] does.
    ///
    /// [`sweep`]: Self::sweep
    pub fn failed(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut && self.is_blocked.get() {
            self.end(End::WriteTimeout);
        }
    }

    /// The socket took this number of bytes: a connection on which a response is still written is not idle.
    pub fn written(&self, bytes: usize) {
        self.interim.set_flushed(false);
        self.is_blocked.set(false);
        if bytes > MAX_CONTROL_FRAME_BYTES && self.protocol.get().is_idle() {
            self.since.begin();
        }
    }

    /// The socket took everything written so far.
    pub fn flushed(&self) {
        self.interim.set_flushed(true);
        self.is_blocked.set(false);
        if self.protocol.get() == Protocol::Http1(Http1::Serving(0)) {
            self.enter(Protocol::Http1(Http1::Idle));
        }
    }

    /// A request's head is complete.
    pub fn request_begun(&self) {
        self.enter(self.protocol.get().request_begun());
    }

    /// A request's response is handed over or given up.
    pub fn request_ended(&self) {
        let before = self.protocol.get();
        let after = before.request_ended();
        if after != before {
            self.enter(after);
        }
    }

    /// Whether what is written may be part of a response; otherwise hyper writes a refusal of its own.
    pub fn is_responding(&self) -> bool {
        matches!(self.protocol.get(), Protocol::Http1(Http1::Serving(_)) | Protocol::Http2(_))
    }

    /// Whether part of a request's head has arrived.
    pub fn has_partial_head(&self) -> bool {
        matches!(self.protocol.get(), Protocol::FirstBytes | Protocol::Http1(Http1::Head))
    }

    /// Begins the lingering close if the client may still be sending; returns whether that is so.
    pub fn linger(&self) -> bool {
        let has_unread = self.has_unread.get();
        if has_unread && self.protocol.get() != Protocol::Lingering {
            self.enter(Protocol::Lingering);
        }
        has_unread
    }

    /// Ends the connection; a later call may only replace [`End::Gracefully`].
    pub fn end(&self, end: End) {
        if self.end.get().is_some_and(|before| before != End::Gracefully) {
            return;
        }
        self.end.set(Some(end));
        if matches!(self.protocol.get(), Protocol::Handshake | Protocol::Silent | Protocol::Http2(_)) {
            self.since.begin();
        }
        // First the streams, so that their last responses go out before the connection ends.
        if end == End::Cut {
            self.progress.borrow().iter().for_each(|progress| progress.task.wake());
        }
        self.task.wake();
    }

    /// How the connection is to end, if it is.
    pub fn wanted_end(&self) -> Option<End> {
        self.end.get()
    }

    /// Whether the next response is the connection's last.
    pub fn is_ending(&self) -> bool {
        self.is_expired() || self.end.get().is_some()
    }

    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| self.clock.get() >= expires)
    }

    /// Whether the connection can be closed without losing a request, as far as the proxy can know.
    pub fn is_quiet(&self) -> bool {
        let protocol = self.protocol.get();
        protocol.is_idle() && protocol.is_quiet(self.lasted())
    }

    /// Ends the connection if a deadline has passed. `system_now` is the time that no suspension has been taken from.
    pub fn sweep(&self, limits: &Limits, system_now: Instant) {
        let now = self.clock.get();
        let is_blocked = self.is_blocked.get();
        self.since.sweep(now);
        if is_blocked && self.blocked_since.sweep(now) >= limits.write_timeout {
            return self.end(End::WriteTimeout);
        }
        let stream_timeout = self.is_http2().then_some(limits.write_timeout);
        for progress in &*self.progress.borrow() {
            if is_blocked {
                progress.excuse();
            }
            progress.sweep(now, system_now, stream_timeout);
        }
        let protocol = self.protocol.get();
        if matches!(protocol, Protocol::Http1(Http1::Serving(_)))
            && let Some(end) = self.left()
        {
            return self.end(end);
        }
        // The next response of an HTTP/1 connection that is not idle has `Connection: close`.
        if self.end.get().is_none() && self.is_expired() && protocol.may_expire(self.lasted()) {
            self.end(End::Gracefully);
        }
        let is_ending = self.end.get().is_some();
        if protocol.is_due(self.lasted(), is_ending) {
            self.task.wake();
        }
        if let Some((allowed, end)) = protocol.deadline(limits, is_ending)
            && self.lasted() >= allowed
        {
            self.end(end);
        }
    }

    /// How long the connection had been in its present state at the last sweep.
    fn lasted(&self) -> Duration {
        self.since.lasted(self.clock.get())
    }

    fn enter(&self, protocol: Protocol) {
        self.protocol.set(protocol);
        self.since.begin();
    }
}
