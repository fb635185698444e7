//! Connections to one upstream, kept by one worker.
//!
//! A connection carries one request at a time and is driven by whoever has it: while a request is under way,
//! the request itself polls it, so that there is no task between the two and a caller who leaves takes the
//! upstream connection with it. Between requests it lies idle in here and is looked at when it is wanted again.

use std::cell::RefCell;
use std::collections::VecDeque;
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
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connect::Stream;
use super::forward::ForwardError;
use super::permits::Place;
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
    /// Requests for which there is no place, the first that came in front.
    queue: RefCell<VecDeque<oneshot::Sender<Idle<B>>>>,
}

struct Idle<B: Body + 'static> {
    wire: Wire<B>,
    since: Instant,
    /// Which of the upstream's places it leads to.
    number: u32,
}

/// What a request waited for.
enum Turn<B: Body + 'static> {
    Connection(Idle<B>),
    /// For a new one.
    Place(Place),
}

/// One HTTP/1.1 connection, and the handle by which requests are put into it.
struct Wire<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// Boxed, as it is large and handed from one request to the next.
    connection: Box<Connection<B>>,
}

/// A connection, the place that it takes, and its file descriptor.
struct Connection<B: Body + 'static> {
    http: http1::Connection<TokioIo<Box<dyn Stream>>, B>,
    place: Place,
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
        Rc::new(Self { upstream, idle: RefCell::default(), queue: RefCell::default() })
    }

    /// A connection to this place that has lain idle, or a new one; waits while there are as many as there may be.
    ///
    /// # Errors
    ///
    /// [`ForwardError`] if a new one cannot be made.
    pub async fn lease(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        match self.reuse(destination.number).await {
            Some(lease) => Ok(lease),
            None => match self.upstream.permits.place() {
                Some(place) => self.connect(destination, place).await,
                None => Box::pin(self.wait(destination)).await,
            },
        }
    }

    /// The first connection that another request of this worker gives back, or the place of one that has ended.
    async fn wait(self: &Rc<Self>, destination: &Destination) -> Result<Lease<B>, ForwardError> {
        let permits = &self.upstream.permits;
        let turn = tokio::time::timeout(permits.wait(), self.turn(destination.number)).await;
        match turn.unwrap_or(Err(ForwardError::Overloaded))? {
            Turn::Connection(Idle { wire, number, .. }) => {
                Ok(Lease { wire, pool: Rc::clone(self), number, is_over: false, is_reused: true })
            }
            Turn::Place(place) => self.connect(destination, place).await,
        }
    }

    async fn turn(&self, number: u32) -> Result<Turn<B>, ForwardError> {
        let waiting = self.upstream.permits.queue_up().ok_or(ForwardError::Overloaded)?;
        let mut place = pin!(waiting.place());
        loop {
            let (sender, handed_on) = oneshot::channel();
            self.queue_up(sender);
            tokio::select! {
                biased;
                Ok(idle) = handed_on => if idle.number == number {
                    return Ok(Turn::Connection(idle));
                },
                place = &mut place => return Ok(Turn::Place(place)),
            }
        }
    }

    fn queue_up(&self, request: oneshot::Sender<Idle<B>>) {
        let mut queue = self.queue.borrow_mut();
        queue.retain(|other| !other.is_closed());
        queue.push_back(request);
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

    async fn connect(
        self: &Rc<Self>,
        destination: &Destination,
        place: Place,
    ) -> Result<Lease<B>, ForwardError> {
        let descriptor = self.descriptor()?;
        let stream = destination.connect.connect().await?;
        let (sender, http) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake::<TokioIo<Box<dyn Stream>>, B>(TokioIo::new(stream))
            .await
            .map_err(|error| ForwardError::Protocol(error.to_string()))?;
        let wire = Wire { sender, connection: Box::new(Connection { http, place, _descriptor: descriptor }) };
        let number = destination.number;
        Ok(Lease { wire, pool: Rc::clone(self), number, is_over: false, is_reused: false })
    }

    /// A place for another connection. What the daemon needs for itself is not taken for it.
    fn descriptor(&self) -> Result<Seat, ForwardError> {
        self.upstream.descriptors.take().ok_or(ForwardError::NoDescriptor)
    }

    /// Ends idle connections whose places are waited for on another worker. Comes to no end.
    pub async fn give_way(self: Rc<Self>) {
        let permits = &self.upstream.permits;
        loop {
            let mut wanted = pin!(permits.wanted());
            wanted.as_mut().enable();
            let mut idle = std::mem::take(&mut *self.idle.borrow_mut());
            idle.drain(..permits.waiting().min(idle.len()));
            *self.idle.borrow_mut() = idle;
            wanted.await;
        }
    }

    /// What requests are sent to.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Ends connections that have lain idle for too long, are too old, or lead where the upstream is no more.
    pub fn reap(&self, now: Instant) {
        let number = self.upstream.number();
        let is_of_use = |idle: &Idle<B>| {
            idle.number == number
                && now.duration_since(idle.since) < IDLE_TIMEOUT
                && !idle.wire.connection.place.is_over(now)
        };
        self.idle.borrow_mut().retain(is_of_use);
    }

    fn keep(&self, wire: Wire<B>, number: u32) {
        let now = Instant::now();
        let is_of_use = number == self.upstream.number() && !wire.connection.place.is_over(now);
        // Where descriptors are few, another worker or another upstream may need this one more.
        if !is_of_use || self.upstream.descriptors.are_scarce() {
            return;
        }
        let Some(one) = self.hand_on(Idle { wire, since: now, number }) else { return };
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push(one);
    }

    /// To whoever waits for it here. Where somebody waits on another worker, it ends at the latest after some turns.
    fn hand_on(&self, mut one: Idle<B>) -> Option<Idle<B>> {
        let waiting = self.upstream.permits.waiting();
        if waiting == 0 {
            return Some(one);
        }
        let mut queue = self.queue.borrow_mut();
        queue.retain(|request| !request.is_closed());
        if waiting > queue.len() && !one.wire.connection.place.take_turn() {
            return None;
        }
        while let Some(request) = queue.pop_front() {
            match request.send(one) {
                Ok(()) => break,
                Err(unwanted) => one = unwanted,
            }
        }
        None
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
        Pin::new(&mut self.connection.http).poll(cx).map(|_| ())
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
