//! The HTTP/1.1 server of the admin address, and of the redirect URI of `bearerd login`.
//!
//! The server expects few clients: it closes a connection whose request head does not arrive in time, and accepts no
//! more connections than a limit at once.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower_service::Service;
use tracing::debug;

/// How long the server waits after the system could not accept a connection, mostly for lack of a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The size of the read buffer, and so of the largest request head.
const MAX_BUFFER: usize = 16 * 1024;

/// The address of a request's client.
pub type Peer = Extension<SocketAddr>;

/// The limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most open connections.
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
}

/// Serves until `until` is ready, and then finishes the requests in flight.
///
/// # Cancel safety
///
/// Dropping the future closes the listener and the connections.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, until: impl Future<Output = ()>) {
    let mut connections = JoinSet::new();
    let (open, closing) = watch::channel(());
    let mut until = pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < bounds.connections => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(answer(stream, peer, router.clone(), bounds, closing.clone()));
                }
                Err(error) => {
                    debug!(%error, "admin connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, open));
    while connections.join_next().await.is_some() {}
}

/// Serves a connection until it ends, reaches its age limit, or the server closes.
async fn answer(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    bounds: Bounds,
    mut closing: watch::Receiver<()>,
) {
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().call(request)
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
        let router = Router::new().route("/", get(async |Extension(peer): Peer| peer.ip().to_string()));
        (address, serve(listener, router, bounds, until))
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
    async fn clients_without_a_complete_head_block_others_only_until_the_head_timeout() {
        let (address, serving) = small(pending()).await;
        let callers = async {
            let mut silent = TcpStream::connect(address).await.unwrap();
            let mut slow = TcpStream::connect(address).await.unwrap();
            slow.write_all(b"GET / HT").await.unwrap();
            assert!(ask(address).await.starts_with("HTTP/1.1 200"));
            ended(&mut silent).await;
            ended(&mut slow).await;
        };
        tokio::select! {
            () = serving => unreachable!("nothing ends it"),
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
