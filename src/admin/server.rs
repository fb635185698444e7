//! The server below the admin address, and below the page to which a browser comes back from a login.
//!
//! HTTP/1.1 alone, for few callers: who is slow with a head loses the connection, and whoever comes while there are
//! very many waits.

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

/// How long the system has before it is asked for another connection that it had no descriptor for.
const PAUSE: Duration = Duration::from_millis(100);
/// What is read ahead of a request, and the largest head.
const MAX_BUFFER: usize = 16 * 1024;

/// Where a request comes from.
pub type Peer = Extension<SocketAddr>;

/// What its callers may use up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// How long a request's head is waited for, the pause before it included.
    pub head_timeout: Duration,
    /// How long a connection is used for requests.
    pub age: Duration,
    /// How long it has then for the answer that is under way.
    pub last_answer: Duration,
}

impl Bounds {
    /// More than health checks, scrapers and operators need. A reload or a refresh takes a minute at the most.
    pub const FOR_OPERATORS: Self = Self {
        connections: 256,
        head_timeout: Duration::from_secs(10),
        age: Duration::from_mins(3),
        last_answer: Duration::from_secs(90),
    };
}

/// Serves until this is ready, and until what is being asked then is answered.
///
/// # Cancel safety
///
/// Dropping it closes the listener and the connections.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, until: impl Future<Output = ()>) {
    // Ends with the future, and all connections with it.
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
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    drop((listener, open));
    while connections.join_next().await.is_some() {}
}

/// Answers what comes on a connection until that has ended, is old enough, or nothing more is to come.
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
        // There is never anything but the end to be told.
        _ = closing.changed() => {}
        () = tokio::time::sleep(bounds.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Who does not take its answer is not waited for.
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
    async fn a_request_is_answered_with_where_it_comes_from_known() {
        let (address, serving) = small(pending()).await;
        tokio::select! {
            () = serving => unreachable!("nothing ends it"),
            answer = ask(address) => assert!(answer.ends_with("127.0.0.1"), "{answer}"),
        }
    }

    #[tokio::test]
    async fn callers_without_a_whole_head_keep_others_out_for_no_longer_than_it_is_waited_for() {
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
    async fn who_asks_and_takes_no_answer_keeps_others_out_for_no_longer_than_a_connection_lasts() {
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
    async fn at_its_end_what_is_asked_is_answered_and_nobody_else_is_listened_to() {
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
