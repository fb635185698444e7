//! The rows of docs/understand/http.md in which bearerd, nginx and `HAProxy` differ, by real requests.

use testkit::harness::raw::{RawPeer, read_head};
use tokio::io::AsyncWriteExt;

use crate::harness::{World, daemon};

/// Chunks of one byte with an extension of a thousand bytes each.
fn extended_chunks(count: usize) -> String {
    format!("1;{}\r\nx\r\n", "e".repeat(998)).repeat(count) + "0\r\n\r\n"
}

/// Sends these bytes over a connection of their own; the status and the code of the answer.
async fn told(world: &World, request: &[u8]) -> (u16, Option<String>) {
    let mut caller = world.caller().await;
    let _ = caller.try_write(request).await;
    let reply = caller.read().await.unwrap();
    (reply.status, reply.code())
}

fn get(target: &[u8]) -> Vec<u8> {
    [b"GET ", target, b" HTTP/1.1\r\nhost: localhost\r\n\r\n"].concat()
}

#[tokio::test]
async fn requests_are_passed_or_refused_as_documented() {
    let world = daemon().quiet().start().await;
    let post = |chunks: usize| {
        let head = "POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
        [head.as_bytes(), extended_chunks(chunks).as_bytes()].concat()
    };
    let long = |length: usize| get(format!("/x?{}", "a".repeat(length - 3)).as_bytes());
    let expect =
        |value: &str| format!("GET /x HTTP/1.1\r\nhost: localhost\r\nexpect:{value}\r\n\r\n").into_bytes();
    for (name, request, status, code) in [
        ("a quotation mark", get(b"/x?a=\"b"), 400, Some("bad_request")),
        ("<", get(b"/x?a=<b"), 400, Some("bad_request")),
        (">", get(b"/x?a=>b"), 400, Some("bad_request")),
        ("Latin-1", get(b"/x?a=\xfc"), 400, Some("bad_request")),
        ("UTF-8 in a query", get("/x?a=\u{fc}".as_bytes()), 200, None),
        ("UTF-8 in a path", get("/x\u{fc}".as_bytes()), 200, None),
        ("braces", get(b"/x?a={}^|`"), 200, None),
        ("a target of 60,000 bytes", long(60_000), 200, None),
        ("a target of 66,000 bytes", long(66_000), 431, Some("header_too_large")),
        ("chunk extensions", post(10), 200, None),
        ("chunk extensions beyond the limit", post(20), 400, Some("bad_request")),
        ("an empty Expect", expect(""), 200, None),
        ("another Expect", expect(" x"), 417, Some("expectation_failed")),
        ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), 400, Some("bad_request")),
        ("OPTIONS / of HTTP/1.0", b"OPTIONS / HTTP/1.0\r\n\r\n".to_vec(), 200, None),
        ("HTTP/1.1 without Host", b"GET /x HTTP/1.1\r\n\r\n".to_vec(), 400, Some("bad_request")),
    ] {
        assert_eq!(told(&world, &request).await, (status, code.map(str::to_owned)), "{name}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_response_with_too_many_chunk_extensions_breaks_off() {
    for (chunks, is_whole) in [(10, true), (20, false)] {
        let peer = RawPeer::tcp(move |mut stream| async move {
            while !read_head(&mut stream).await.is_empty() {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(format!("{head}{}", extended_chunks(chunks)).as_bytes()).await;
            }
        })
        .await;
        let url = format!("http://{}", peer.address);
        let world = daemon().quiet().unprotected().without_token().upstream(url).start().await;
        let mut caller = world.caller().await;
        caller.write(&get(b"/x")).await;
        let answer = caller.read().await;
        match answer {
            Ok(reply) => assert!(is_whole && reply.text() == "x".repeat(chunks), "{}", reply.text()),
            Err(incomplete) => {
                let received = String::from_utf8(incomplete.received).unwrap();
                assert!(!is_whole && !received.ends_with("0\r\n\r\n"), "{received}");
            }
        }
        world.finish().await;
    }
}
