//! Faults and tricks that could give one caller what belongs to another, or end more than they should.

use tokio::io::AsyncWriteExt;

use crate::harness::raw::{RawPeer, read_head};
use crate::harness::{Http2Caller, Request, Setup};

/// An API of which nothing is checked but what a test looks at.
fn with_upstream(peer: &RawPeer) -> Setup {
    let url = format!("http://localhost:{}", peer.address.port());
    Setup::default().quiet().unprotected().without_token().upstream(url)
}

/// FLT-UP-03.
#[tokio::test]
async fn an_answer_before_the_request_was_read_says_that_the_connection_ends() {
    let early = RawPeer::tcp(|mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
        }
    })
    .await;
    let world = with_upstream(&early).start().await;

    for framing in ["content-length: 65536\r\n\r\n", "transfer-encoding: chunked\r\n\r\n8000\r\n"] {
        let mut caller = world.caller().await;
        caller.write(format!("POST /x HTTP/1.1\r\nhost: {}\r\n{framing}", world.address).as_bytes()).await;
        caller.write(&[b'x'; 1000]).await;
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "early"));
        assert_eq!(reply.get("connection"), Some("close"), "{framing:?}");
        // What follows is body, and never a request.
        let _ = caller.try_write(b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(caller.is_closed().await);
    }
    // Over HTTP/2 it ends its stream alone.
    let mut caller = Http2Caller::connect(world.address).await;
    for _ in 0..3 {
        assert!(!caller.breaks(&Request::get("/x")).await);
    }
    world.finish().await;
}
