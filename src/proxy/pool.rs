//! Connections to one upstream, kept by one worker.
//!
//! A connection carries one request at a time and is driven by whoever has it: while a request is under way,
//! the request itself polls it, so that there is no task between the two and a caller who leaves takes the
//! upstream connection with it. Between requests it lies idle in here and is looked at when it is wanted again.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::connect::Stream;
use super::forward::ForwardError;
use super::seats::Seat;
use super::upstream::{Destination, Upstream};

/// Below what servers and load balancers usually allow a connection to lie idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may lie idle and be taken for open without a look at its socket.
const SETTLED: Duration = Duration::from_millis(500);
/// What a worker keeps for one upstream.
const MAX_IDLE: usize = 64;
/// The largest response head, and how much is read ahead of a slow caller.
const MAX_BUFFER: usize = 64 * 1024;

/// A worker's connections to one upstream.
pub struct Pool<B: Body + 'static> {
    upstream: Arc<Upstream>,
    idle: RefCell<Vec<Idle<B>>>,
}

struct Idle<B: Body + 'static> {
    wire: Wire<B>,
    since: Instant,
    /// Which of the upstream's places it leads to.
    number: u32,
}

/// One HTTP/1.1 connection, and the handle by which requests are put into it.
struct Wire<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// Boxed, as it is large and handed from one request to the next.
    connection: Box<Driven<B>>,
}

/// What moves a connection's bytes, and the file descriptor that it takes.
struct Driven<B: Body + 'static> {
    connection: http1::Connection<TokioIo<Box<dyn Stream>>, B>,
    _descriptor: Seat,
}

/// A connection in use. Dropping it ends the connection; [`Lease::give_back`] keeps it.
pub struct Lease<B: Body + 'static> {
    wire: Wire<B>,
    pool: Rc<Pool<B>>,
    /// Which of the upstream's places it leads to.
    number: u32,
    is_over: bool,
    /// Whether it has carried a request before: its peer may have closed it just now.
    pub is_reused: bool,
}

/// A request that brought no response; with the request itself if nothing of it was sent.
#[derive(Debug)]
pub struct SendError<B> {
    /// What went wrong.
    pub error: hyper::Error,
    /// The request, untouched.
    pub unsent: Option<Box<Request<B>>>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool.
    pub fn new(upstream: Arc<Upstream>) -> Rc<Self> {
        Rc::new(Self { upstream, idle: RefCell::new(Vec::new()) })
    }

    /// A connection to this place that has lain idle, or a new one.
    ///
    /// # Errors
    ///
    /// [`ForwardError`] if a new one cannot be made.
    pub async fn lease(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        match self.reuse(destination.number).await {
            Some(lease) => Ok(lease),
            None => self.connect(destination).await,
        }
    }

    /// A connection that has lain idle and is still good, the last used first.
    async fn reuse(self: &Rc<Self>, number: u32) -> Option<Lease<B>> {
        let idle_since = self.idle.borrow().last()?.since;
        if idle_since.elapsed() > SETTLED {
            // Lets the runtime hear from the system first: it may have been closed, and nobody has looked since.
            tokio::task::yield_now().await;
        }
        loop {
            let Idle { mut wire, number: leads_to, .. } = self.idle.borrow_mut().pop()?;
            if leads_to == number && wire.is_good() {
                return Some(Lease { wire, pool: Rc::clone(self), number, is_over: false, is_reused: true });
            }
        }
    }

    async fn connect(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let descriptor = self.descriptor()?;
        let stream = destination.connect.connect().await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake::<TokioIo<Box<dyn Stream>>, B>(TokioIo::new(stream))
            .await
            .map_err(|error| ForwardError::Protocol(error.to_string()))?;
        let wire = Wire { sender, connection: Box::new(Driven { connection, _descriptor: descriptor }) };
        let number = destination.number;
        Ok(Lease { wire, pool: Rc::clone(self), number, is_over: false, is_reused: false })
    }

    /// A place for another connection. What the daemon needs for itself is not taken for it.
    fn descriptor(&self) -> Result<Seat, ForwardError> {
        self.upstream.descriptors.take().ok_or(ForwardError::NoDescriptor)
    }

    /// Ends connections that have lain idle for too long, or lead where the upstream is no more.
    pub fn reap(&self, now: Instant) {
        let number = self.upstream.number();
        let is_of_use =
            |idle: &Idle<B>| idle.number == number && now.duration_since(idle.since) < IDLE_TIMEOUT;
        self.idle.borrow_mut().retain(is_of_use);
    }

    fn keep(&self, wire: Wire<B>, number: u32) {
        // Where there are few, another worker or another upstream may need it more.
        if number != self.upstream.number() || self.upstream.descriptors.are_scarce() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle { wire, since: Instant::now(), number });
    }
}

impl<B> Wire<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Moves bytes in both directions; ready when the connection has ended.
    ///
    /// What went wrong is told to whoever waits for the response or reads its body.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.connection.connection).poll(cx).map(|_| ())
    }

    /// Whether it is ready for a request: neither closed nor in the middle of something.
    ///
    /// The poll also lets go of the task that used it last, which would otherwise be woken for nothing.
    fn is_good(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // Whatever the task has done so far in its turn: a look that is put off sees nothing.
        let look = pin!(tokio::task::unconstrained(std::future::poll_fn(|cx| self.poll(cx))));
        look.poll(&mut cx).is_pending() && self.sender.is_ready()
    }
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request and waits for the response's head; drives the connection meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the connection in the middle of a request: it must be dropped too.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        let mut response = pin!(self.wire.sender.try_send_request(request));
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = response.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            self.poll(cx);
            response.as_mut().poll(cx)
        })
        .await;
        outcome.map_err(|mut error| {
            let unsent = error.take_message().map(Box::new);
            SendError { error: error.into_error(), unsent }
        })
    }

    /// Moves bytes of the request and the response that are under way.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        self.is_over = self.is_over || self.wire.poll(cx).is_ready();
    }

    /// The response was read to its end: keeps the connection, if the request was sent to its end too.
    pub fn give_back(mut self) {
        if !self.is_over && self.wire.is_good() {
            let Self { wire, pool, number, .. } = self;
            pool.keep(wire, number);
        }
    }
}
