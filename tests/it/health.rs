//! Health checks have places of their own: no number of other connections to the admin address starves them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};

use crate::harness::{PROMPT, daemon, remains};

/// Checks health ten times a second; returns the longest that an answer has taken.
async fn check(address: SocketAddr, lasts: Duration) -> Duration {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < lasts {
        let asked = Instant::now();
        for path in ["/livez", "/readyz"] {
            // A connection of its own, as a probe has.
            let request = client.get(format!("http://{address}{path}")).header("connection", "close");
            assert_eq!(request.send().await.unwrap().status(), 200);
        }
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    longest
}

/// Opens 200 silent connections a second to this address while its health is checked.
async fn check_beside_silent_connections(address: SocketAddr) {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let silent = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut open = Vec::new();
        while !over.load(Ordering::Relaxed) {
            pace.tick().await;
            open.push(TcpStream::connect(address).await.unwrap());
        }
        open.len()
    });

    let longest = check(address, Duration::from_secs(4)).await;

    is_over.store(true, Ordering::Relaxed);
    let opened = silent.await.unwrap();
    assert!(opened > 400, "{opened} silent connections");
    assert!(longest < PROMPT, "{longest:?} beside {opened} silent connections");
}

#[tokio::test]
async fn two_hundred_silent_connections_a_second_do_not_delay_health_checks() {
    let world = daemon().quiet().health("listen = \"127.0.0.1:0\"").start().await;
    check_beside_silent_connections(world.admin).await;
    check_beside_silent_connections(world.process.logged_address("health checks listening").await).await;
    world.finish().await;
}

#[tokio::test]
async fn operations_in_progress_on_every_connection_do_not_delay_health_checks() {
    let world = daemon().quiet().start().await;
    let head = format!(
        "POST /credentials/api/refresh HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{",
        world.admin
    );
    let mut open = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(world.admin).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }

    let longest = check(world.admin, Duration::from_secs(1)).await;

    // Less than an operation may wait for its body.
    assert!(longest < PROMPT, "{longest:?}");
    // Above the bound a request is refused, and within it nothing is cut.
    let mut answer = [0; 12];
    open[250].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    let is_open = async || open[0].try_read(&mut [0; 1]).is_err();
    remains("the operation", Duration::from_millis(200), is_open).await;
    world.finish().await;
}
