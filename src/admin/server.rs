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
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower_service::Service;

/// How long the system has before it is asked for another connection that it had no descriptor for.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a request comes from.
pub type Peer = Extension<SocketAddr>;

/// What its callers may use up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// How long a request's head is waited for, the pause before it included.
    pub head_timeout: Duration,
}

impl Bounds {
    /// More than health checks, scrapers and operators need.
    pub const FOR_OPERATORS: Self = Self { connections: 256, head_timeout: Duration::from_secs(30) };
}

/// Serves until this is ready, and until what is being asked then is answered.
///
/// # Cancel safety
///
/// Dropping it closes the listener and the connections.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, until: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    // Ends with the future, and all connections with it.
    let mut connections = JoinSet::new();
    let mut until = pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < bounds.connections => match accepted {
                Ok((stream, peer)) => {
                    let router = router.clone();
                    let answer = service_fn(move |mut request: Request<Incoming>| {
                        request.extensions_mut().insert(peer);
                        router.clone().call(request)
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(bounds.head_timeout)
                        .serve_connection(TokioIo::new(stream), answer);
                    connections.spawn(graceful.watch(connection));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    const SOON: Duration = Duration::from_secs(5);

    /// A server for two connections, and its address.
    async fn small(until: impl Future<Output = ()>) -> (SocketAddr, impl Future<Output = ()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds { connections: 2, head_timeout: Duration::from_millis(100) };
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
