//! The case of field names over HTTP/1.1.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use testkit::harness::raw::{RawPeer, read_head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Http2Caller, Request, World, daemon};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-LENGTH: 2\r\nX-tEsT-iD: h2-1\r\nSet-COOKIE: a=1\r\n\
                      set-cookie: b=2\r\nETag: \"x\"\r\n\r\nok";
const REJECTION: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";

/// An API whose answers have names in mixed case.
struct Api {
    peer: RawPeer,
    heads: Arc<Mutex<Vec<String>>>,
    /// Whether the next token is rejected.
    rejects: Arc<AtomicBool>,
}

impl Api {
    async fn start() -> Self {
        let (heads, rejects) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (seen, is_rejected) = (Arc::clone(&heads), Arc::clone(&rejects));
        let peer = RawPeer::tcp(move |mut stream| {
            let (seen, is_rejected) = (Arc::clone(&seen), Arc::clone(&is_rejected));
            async move {
                loop {
                    let head = read_head(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                    let answer = if is_rejected.swap(false, Ordering::Relaxed) { REJECTION } else { ANSWER };
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        })
        .await;
        Self { peer, heads, rejects }
    }

    /// How many requests there were, and the head of the last one.
    fn last(&self) -> (usize, String) {
        let heads = self.heads.lock().unwrap();
        (heads.len(), heads.last().cloned().unwrap_or_default())
    }
}

/// Sends a request with names in mixed case; returns the whole answer.
async fn exchange(world: &World) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let request = "GET /x HTTP/1.1\r\nHOST: localhost\r\nSOAPAction: a\r\nx-lower: b\r\nX-Two: 1\r\nx-TWO: 2\r\n\
                   CONNECTION: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn has_lines(head: &str, lines: &[&str]) {
    for line in lines {
        assert!(head.contains(&format!("\r\n{line}")), "{line:?} is missing: {head}");
    }
}

#[tokio::test]
async fn field_names_are_in_lower_case_or_as_they_arrived() {
    let api = Api::start().await;
    let url = format!("http://{}", api.peer.address);
    let world = daemon().quiet().upstream(url).start().await;

    let answer = exchange(&world).await;
    let lower = ["host: ", "soapaction: a\r\n", "x-lower: b\r\n", "x-two: 1\r\n", "x-two: 2\r\n"];
    has_lines(&api.last().1, &[&lower[..], &["authorization: Bearer "]].concat());
    has_lines(&answer, &["content-length: 2\r\n", "set-cookie: a=1\r\n", "etag: ", "via: ", "date: "]);

    world.configure(|text| text.replacen("[server]\n", "[server]\nheader_case = \"preserve\"\n", 1));
    world.reload().await;
    for rejects in [false, false, true] {
        let before = api.last().0;
        api.rejects.store(rejects, Ordering::Relaxed);
        let answer = exchange(&world).await;
        let as_sent = ["HOST: ", "SOAPAction: a\r\n", "x-lower: b\r\n", "X-Two: 1\r\n", "x-TWO: 2\r\n"];
        // Names that bearerd adds have the usual capitals.
        has_lines(&api.last().1, &[&as_sent[..], &["Authorization: Bearer ", "Cdn-Loop: "]].concat());
        assert_eq!(api.last().0 - before, 1 + usize::from(rejects), "a replay keeps the names too");
        let as_sent = ["Content-LENGTH: 2\r\n", "Set-COOKIE: a=1\r\n", "set-cookie: b=2\r\n", "ETag: "];
        has_lines(&answer, &[&as_sent[..], &["Via: ", "Date: ", "Connection: close\r\n"]].concat());
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    }

    let mut caller = Http2Caller::connect(world.address).await;
    assert!(!caller.breaks(&Request::get("/http2")).await);
    has_lines(&api.last().1, &["Host: ", "Authorization: Bearer ", "Cdn-Loop: "]);
    assert!(api.last().1.starts_with("GET /http2 "));
    world.finish().await;
}
