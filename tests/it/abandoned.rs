//! Requests that callers abandon while they wait for an upstream connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use testkit::harness::raw::RawPeer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::daemon;

/// Callers at the same time, and the requests of each; fewer than end a connection for its resets.
const CALLERS: usize = 30;
const REQUESTS: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// An API that accepts connections, and never answers a TLS handshake; the number of its connections, all and open.
async fn silent() -> (RawPeer, Arc<[AtomicUsize; 2]>) {
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let counted = Arc::clone(&counts);
    let peer = RawPeer::tcp(move |mut stream| {
        counted.iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
        let counted = Arc::clone(&counted);
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {}
            counted[1].fetch_sub(1, Ordering::Relaxed);
        }
    })
    .await;
    (peer, counts)
}

/// Resets each of its streams after a moment.
async fn resets_streams(address: SocketAddr) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..REQUESTS {
        requests = requests.ready().await.unwrap();
        let request = http::Request::get(format!("http://{address}/x")).body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        assert!(tokio::time::timeout(PAUSE, response).await.is_err(), "there is no connection");
    }
}

/// Leaves after a moment, again and again.
async fn leaves(address: SocketAddr) {
    for _ in 0..REQUESTS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn abandoned_requests_open_no_more_connections_than_wait_at_once() {
    for (http_version, over_http2, most) in
        // A caller that has left is noticed a moment later, when it has come again.
        [("1.1", true, CALLERS), ("1.1", false, 2 * CALLERS), ("auto", true, 1), ("auto", false, 1)]
    {
        let (peer, counts) = silent().await;
        let world = daemon()
            .quiet()
            .unprotected()
            .without_token()
            .server("workers = 1")
            .route(&format!("http_version = \"{http_version}\"\nconnect_timeout = \"60s\""))
            .upstream(format!("https://localhost:{}", peer.address.port()))
            .start()
            .await;

        if over_http2 {
            join_all((0..CALLERS).map(|_| resets_streams(world.address))).await;
        } else {
            join_all((0..CALLERS).map(|_| leaves(world.address))).await;
        }

        let [all, open] = [0, 1].map(|index| counts[index].load(Ordering::Relaxed));
        assert!((1..=most).contains(&all), "{http_version}: {all} connections for {CALLERS} callers");
        assert_eq!(open, all, "{http_version}: an attempt is for whoever waits next");
        world.finish().await;
    }
}
