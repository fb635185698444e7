//! The HTTP/1.1 server of the admin address, of health checks, and of the redirect URI of `bearerd login`: over TCP, with
//! or without TLS, or over a unix socket.
//!
//! The server expects few clients: it closes a connection whose request head does not arrive in time, and keeps no more
//! connections than a limit at once. At the limit a new connection takes the place of the one that has been idle for
//! longest, so that idle connections keep nobody out.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;
use tracing::{debug, info};

use crate::causes::in_one_line;
use crate::telemetry::throttle::Throttle;
use crate::tls::reload::CurrentTls;

/// How long the server waits after the system could not accept a connection, mostly for lack of a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection is safe from being replaced after it was accepted or has had a response: enough for a client to
/// send its request, also while others open connections without an end.
const MIN_IDLE_TIME: Duration = Duration::from_millis(100);
/// The size of the read buffer, and so of the largest request head.
const MAX_BUFFER: usize = 16 * 1024;

/// The client of a request.
pub type Peer = Extension<Client>;

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// One with an address.
    Network(SocketAddr),
    /// One of a unix socket.
    Unix,
}

impl Client {
    /// The address; `None` over a unix socket.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Network(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

/// The address without the port, or `unix`.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.ip().fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// A socket to accept connections from.
#[derive(Debug)]
pub enum Listener {
    /// An address of the network, with TLS if there is a configuration of TLS.
    Tcp(TcpListener, Option<CurrentTls>),
    /// A unix socket.
    Unix(UnixListener),
}

/// An accepted connection.
enum Accepted {
    Tcp(TcpStream, SocketAddr, Option<TlsAcceptor>),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Tcp(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(tls.load_full()));
                Accepted::Tcp(stream, address, acceptor)
            }
            Self::Unix(listener) => Accepted::Unix(listener.accept().await?.0),
        })
    }
}

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most open connections. At this limit a new one replaces the one that has been idle for longest.
    pub connections: usize,
    /// The timeout of a request head, with the idle time before it.
    pub head_timeout: Duration,
    /// How long a connection accepts requests.
    pub age: Duration,
    /// How long the last response may take after that.
    pub last_answer: Duration,
}

impl Bounds {
    /// More than health checks and operators need. A reload or a refresh takes a minute at most.
    pub const FOR_OPERATORS: Self = Self {
        connections: 256,
        head_timeout: Duration::from_secs(10),
        age: Duration::from_mins(3),
        last_answer: Duration::from_secs(90),
    };
    /// More than health checks and metrics servers need, whose requests are answered at once.
    pub const FOR_HEALTH: Self = Self {
        connections: 128,
        head_timeout: Duration::from_secs(10),
        age: Duration::from_mins(3),
        last_answer: Duration::from_secs(10),
    };
    /// More than a browser opens for one page.
    pub const FOR_BROWSER: Self = Self {
        connections: 64,
        head_timeout: Duration::from_secs(5),
        age: Duration::from_mins(1),
        last_answer: Duration::from_secs(5),
    };
}

/// The open connections of a server.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    all: HashMap<Id, (AbortHandle, Arc<Activity>)>,
    /// Notified when a connection becomes idle.
    became_idle: Arc<Notify>,
}

/// Whether a connection has a request in flight.
#[derive(Debug)]
struct Activity {
    /// Since when the connection has been idle; `None` with a request in flight.
    idle_since: Mutex<Option<Instant>>,
    became_idle: Arc<Notify>,
}

/// Marks a connection as busy until it is dropped.
struct Busy(Arc<Activity>);

impl Activity {
    fn set(&self, idle_since: Option<Instant>) {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = idle_since;
    }

    fn idle_since(&self) -> Option<Instant> {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: Arc<Self>) -> Busy {
        self.set(None);
        Busy(self)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(Some(Instant::now()));
        self.0.became_idle.notify_one();
    }
}

impl Connections {
    /// The connection that has been idle for longest, and since when.
    fn idlest(&self) -> Option<(Instant, Id)> {
        let idle = self.all.iter().filter_map(|(id, (_, activity))| Some((activity.idle_since()?, *id)));
        idle.min_by_key(|(since, _)| *since)
    }

    /// When one more connection can be added; `None` while all have requests in flight and the limit is reached.
    fn room_at(&self, limit: usize) -> Option<Instant> {
        if self.all.len() < limit {
            return Some(Instant::now());
        }
        self.idlest().map(|(since, _)| since + MIN_IDLE_TIME)
    }

    /// Adds a connection. At the limit, the connection that has been idle for longest ends.
    fn add<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        limit: usize,
        connection: impl FnOnce(Arc<Activity>) -> F,
    ) {
        if self.all.len() >= limit
            && let Some((_, idlest)) = self.idlest()
            && let Some((connection, _)) = self.all.remove(&idlest)
        {
            connection.abort();
        }
        let idle_since = Mutex::new(Some(Instant::now()));
        let activity = Arc::new(Activity { idle_since, became_idle: Arc::clone(&self.became_idle) });
        let task = self.tasks.spawn(connection(Arc::clone(&activity)));
        self.all.insert(task.id(), (task, activity));
    }

    /// Waits until a connection has ended; `false` without one.
    ///
    /// # Cancel safety
    ///
    /// No end is lost.
    async fn one_ended(&mut self) -> bool {
        let id = match self.tasks.join_next_with_id().await {
            None => return false,
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
        };
        self.all.remove(&id);
        true
    }
}

/// Serves until `until` is ready, and then finishes the requests in flight.
///
/// # Cancel safety
///
/// Dropping the future closes the listener and the connections.
pub async fn serve(listener: Listener, router: Router, bounds: Bounds, until: impl Future<Output = ()>) {
    let mut connections = Connections::default();
    let became_idle = Arc::clone(&connections.became_idle);
    let (open, closing) = watch::channel(());
    let failures = Arc::new(Mutex::new(Throttle::default()));
    let mut until = pin!(until);
    loop {
        let room_at = connections.room_at(bounds.connections);
        let has_room = room_at.is_some_and(|room_at| room_at <= Instant::now());
        tokio::select! {
            () = &mut until => break,
            true = connections.one_ended() => {}
            () = became_idle.notified(), if room_at.is_none() => {}
            () = sleep_until(room_at.unwrap_or_else(Instant::now)), if room_at.is_some() && !has_room => {}
            accepted = listener.accept(), if has_room => match accepted {
                Ok(accepted) => {
                    let (router, closing) = (router.clone(), closing.clone());
                    let failures = Arc::clone(&failures);
                    connections.add(bounds.connections, |activity| {
                        let connection = Connection { router, bounds, closing, activity };
                        connection.answer_accepted(accepted, failures)
                    });
                }
                Err(error) => {
                    debug!(%error, "admin connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, open));
    while connections.one_ended().await {}
}

/// What a connection needs besides its socket.
struct Connection {
    router: Router,
    bounds: Bounds,
    closing: watch::Receiver<()>,
    activity: Arc<Activity>,
}

impl Connection {
    /// Serves a connection of TCP, of TLS after its handshake, or of a unix socket.
    async fn answer_accepted(mut self, accepted: Accepted, failures: Arc<Mutex<Throttle>>) {
        let (stream, address, acceptor) = match accepted {
            Accepted::Unix(stream) => return self.answer(stream, Client::Unix).await,
            Accepted::Tcp(stream, address, None) => {
                return self.answer(stream, Client::Network(address)).await;
            }
            Accepted::Tcp(stream, address, Some(acceptor)) => (stream, address, acceptor),
        };
        let handshake = timeout(self.bounds.head_timeout, acceptor.accept(stream));
        let error = tokio::select! {
            _ = self.closing.changed() => return,
            outcome = handshake => match outcome {
                Ok(Ok(stream)) => return self.answer(stream, Client::Network(address)).await,
                Ok(Err(error)) => in_one_line(&error),
                Err(_) => "timed out".to_owned(),
            },
        };
        let count = failures.lock().unwrap_or_else(PoisonError::into_inner).happened();
        if let Some(count) = count {
            info!(peer = %address, error, count, "admin TLS handshake failed");
        }
    }

    /// Serves a connection until it ends, reaches its age limit, or the server closes.
    async fn answer(self, stream: impl AsyncRead + AsyncWrite + Unpin, client: Client) {
        let Self { router, bounds, mut closing, activity } = self;
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(client);
            let busy = Arc::clone(&activity).begin();
            let answer = router.clone().call(request);
            async move {
                let _busy = busy;
                answer.await
            }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(bounds.head_timeout)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(stream), answer)
        );
        tokio::select! {
            _ = connection.as_mut() => return,
            // Resolves when the sender is dropped.
            _ = closing.changed() => {}
            () = tokio::time::sleep(bounds.age) => {}
        }
        connection.as_mut().graceful_shutdown();
        // A client that does not read its response must not delay the end.
        let _ = timeout(bounds.last_answer, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    const SOON: Duration = Duration::from_secs(5);

    /// A server for two connections, and its address.
    async fn small(until: impl Future<Output = ()>) -> (SocketAddr, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let soon = Duration::from_millis(100);
        let bounds = Bounds { connections: 2, head_timeout: soon, age: soon * 3, last_answer: soon };
        let router = Router::new().route("/", get(async |Extension(client): Peer| client.to_string()));
        (address, serve(Listener::Tcp(listener, None), router, bounds, until))
    }

    async fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 512];
        let count = timeout(SOON, stream.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }

    /// Waits until the other side closes.
    async fn ended(stream: &mut TcpStream) {
        let _ = timeout(SOON, stream.read_to_end(&mut Vec::new())).await.expect("it is still open");
    }

    #[tokio::test]
    async fn a_request_carries_the_address_of_its_client() {
        let (address, serving) = small(pending()).await;
        tokio::select! {
            () = serving => unreachable!("nothing ends it"),
            answer = ask(address) => assert!(answer.ends_with("127.0.0.1"), "{answer}"),
        }
    }

    #[tokio::test]
    async fn a_connection_without_a_complete_head_ends_at_the_head_timeout() {
        let (address, serving) = small(pending()).await;
        let callers = async {
            let mut silent = TcpStream::connect(address).await.unwrap();
            let mut slow = TcpStream::connect(address).await.unwrap();
            slow.write_all(b"GET / HT").await.unwrap();
            ended(&mut silent).await;
            ended(&mut slow).await;
        };
        tokio::select! {
            () = serving => unreachable!("nothing ends it"),
            () = callers => {}
        }
    }

    /// Neither connections without a request nor kept-alive ones keep a client out; one with a request in flight stays.
    #[tokio::test]
    async fn a_new_connection_replaces_the_one_that_has_been_idle_for_longest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hour = Duration::from_hours(1);
        let bounds = Bounds { connections: 3, head_timeout: hour, age: hour, last_answer: hour };
        let (release, released) = watch::channel(false);
        let slow = get(async move || {
            let _ = released.clone().wait_for(|is_released| *is_released).await;
            "late"
        });
        let router = Router::new().route("/", get(async || "now")).route("/slow", slow);
        let callers = async {
            let mut busy = TcpStream::connect(address).await.unwrap();
            busy.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut kept = TcpStream::connect(address).await.unwrap();
            kept.write_all(REQUEST).await.unwrap();
            kept.read_exact(&mut [0; 12]).await.unwrap();
            let mut idle = Vec::new();
            for _ in 0..10 {
                idle.push(TcpStream::connect(address).await.unwrap());
                assert!(ask(address).await.starts_with("HTTP/1.1 200"));
            }
            ended(&mut kept).await;
            ended(&mut idle[0]).await;

            release.send_replace(true);
            let mut answer = [0; 512];
            let count = timeout(SOON, busy.read(&mut answer)).await.unwrap().unwrap();
            assert!(answer[..count].ends_with(b"late"), "a request in flight is not cut off");
        };
        tokio::select! {
            () = serve(Listener::Tcp(listener, None), router, bounds, pending()) => unreachable!("nothing ends it"),
            () = callers => {}
        }
    }

    #[tokio::test]
    async fn requests_in_flight_on_all_connections_delay_a_new_one_until_one_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hour = Duration::from_hours(1);
        let bounds = Bounds { connections: 2, head_timeout: hour, age: hour, last_answer: hour };
        let pause = Duration::from_millis(300);
        let router = Router::new().route("/", get(async move || tokio::time::sleep(pause).await));
        let callers = async {
            let begun = Instant::now();
            let (first, second, third) = tokio::join!(ask(address), ask(address), ask(address));
            for answer in [first, second, third] {
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            assert!(begun.elapsed() >= pause * 2);
        };
        tokio::select! {
            () = serve(Listener::Tcp(listener, None), router, bounds, pending()) => unreachable!("nothing ends it"),
            () = callers => {}
        }
    }

    #[tokio::test]
    async fn clients_that_read_no_response_block_others_only_until_the_age_limit() {
        let (address, serving) = small(pending()).await;
        let callers = async {
            let mut greedy = Vec::new();
            for _ in 0..2 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                // Until neither side's socket takes any more.
                while timeout(Duration::from_millis(20), stream.write_all(REQUEST))
                    .await
                    .is_ok_and(|all| all.is_ok())
                {}
                greedy.push(stream);
            }
            assert!(ask(address).await.starts_with("HTTP/1.1 200"));
        };
        tokio::select! {
            () = serving => unreachable!("nothing ends it"),
            () = callers => {}
        }
    }

    #[tokio::test]
    async fn at_the_end_requests_in_flight_are_answered_and_no_connection_is_accepted() {
        let (stop, stopped) = oneshot::channel::<()>();
        let (address, serving) = small(async move { drop(stopped.await) }).await;
        let callers = async {
            let mut resting = TcpStream::connect(address).await.unwrap();
            resting.write_all(REQUEST).await.unwrap();
            resting.read_exact(&mut [0; 12]).await.unwrap();
            drop(stop);
            ended(&mut resting).await;
        };
        timeout(SOON, async { tokio::join!(serving, callers) }).await.expect("it has not ended");
        assert!(TcpStream::connect(address).await.is_err());

        let (_, nothing) = small(ready(())).await;
        timeout(SOON, nothing).await.expect("it has not ended");
    }
}
