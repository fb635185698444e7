//! `rewrite_links` and `rewrite_cookies`: links and cookies of an API become those of the proxy.

use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;

use crate::harness::{Http2Caller, Reply, Request, Setup, World, daemon};
use testkit::harness::raw::{RawPeer, read_head};

/// What the API answers: fields, and the chunks of the body. `{api}` is its own origin.
type Answer = (&'static str, &'static [&'static str]);

/// An API below `/base` that gives one answer, and the heads of its requests.
async fn api(answer: Answer) -> (RawPeer, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let recorded = Arc::clone(&heads);
    let peer = RawPeer::tcp(move |mut stream| {
        let recorded = Arc::clone(&recorded);
        async move {
            let own = format!("http://{}", stream.local_addr().unwrap());
            loop {
                let head = String::from_utf8(read_head(&mut stream).await).unwrap();
                let Some(id) = head.lines().find(|line| line.starts_with("x-test-id")) else { return };
                let (fields, chunks) = answer;
                let fields = fields.replace("{api}", &own);
                let framing =
                    if fields.contains("content-length") { "" } else { "transfer-encoding: chunked\r\n" };
                let status = if fields.contains("content-range") { "206 Partial Content" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\n{id}\r\n{fields}{framing}\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                let is_head = head.starts_with("HEAD");
                recorded.lock().unwrap().push(head);
                if is_head {
                    continue;
                }
                for chunk in chunks {
                    let chunk = chunk.replace("{api}", &own);
                    let chunk =
                        if framing.is_empty() { chunk } else { format!("{:x}\r\n{chunk}\r\n", chunk.len()) };
                    let _ = stream.write_all(chunk.as_bytes()).await;
                    let _ = stream.flush().await;
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                if !framing.is_empty() {
                    let _ = stream.write_all(b"0\r\n\r\n").await;
                }
            }
        }
    })
    .await;
    (peer, heads)
}

async fn world(peer: &RawPeer, keys: &str) -> World {
    let setup: Setup = daemon().unprotected().without_token();
    let route = format!("path = \"/gen\"\nstrip_prefix = true\n{keys}");
    setup.route(&route).upstream(format!("http://{}/base", peer.address)).start().await
}

/// Asks over HTTP/1.1.
async fn ask(world: &World) -> Reply {
    let mut caller = world.caller().await;
    let head = format!(
        "GET /gen/x HTTP/1.1\r\nhost: {}\r\naccept-encoding: gzip\r\nx-test-id: a\r\n\r\n",
        world.address
    );
    caller.write(head.as_bytes()).await;
    caller.read().await.unwrap()
}

const FIELDS: &str = "location: {api}/base/a\r\nlink: <{api}/base/b>; rel=next\r\ncontent-location: /base/c\r\n\
                      operation-location: {api}/base/d\r\nrefresh: 5; url={api}/base/e\r\n\
                      set-cookie: s=1; Domain=api.test; Path=/base/f; Secure; HttpOnly\r\ncontent-length: 2\r\n";

#[tokio::test]
async fn links_in_fields_and_cookies_are_rewritten_where_the_route_says_so() {
    const ALL: &str = "rewrite_links = [\"Location\", \"Link\", \"Content-Location\", \"Operation-Location\", \
                       \"Refresh\"]\nrewrite_cookies = true";
    let (peer, _) = api((FIELDS, &["ok"])).await;
    for (keys, rewritten) in [(ALL, 6), ("", 1), ("rewrite_links = []", 0)] {
        let world = world(&peer, keys).await;
        let reply = ask(&world).await;
        let expected = [
            ("location", "/gen/a"),
            ("link", "</gen/b>; rel=next"),
            ("content-location", "/gen/c"),
            ("operation-location", "/gen/d"),
            ("refresh", "5; url=/gen/e"),
            ("set-cookie", "s=1; Path=/gen/f; HttpOnly"),
        ];
        let are = expected.map(|(name, value)| reply.get(name) == Some(value));
        assert_eq!(are.iter().filter(|is| **is).count(), rewritten, "{keys}: {reply:?}");
        assert!(are.iter().skip(rewritten).all(|is| !is), "{keys}: {reply:?}");
        assert_eq!((reply.text().as_str(), reply.get("content-length")), ("ok", Some("2")));
        world.finish().await;
    }
}

const JSON: &str = "content-type: application/json\r\netag: \"a\"\r\ncontent-digest: x\r\n";

#[tokio::test]
async fn urls_in_json_lead_through_the_proxy_however_the_body_is_split() {
    const CHUNKS: &[&str] =
        &["{\"n\":\"{api}/base/y\",\"m\":[\"{api}", "/base?x\",\"{api}/other\",\"{api}/ba", "sement\"]}"];
    let (peer, heads) = api((JSON, CHUNKS)).await;
    let world = world(&peer, "rewrite_links = [\"json\"]").await;
    let own = format!("http://{}", peer.address);
    let proxy = format!("http://{}/gen", world.address);
    let expected =
        format!("{{\"n\":\"{proxy}/y\",\"m\":[\"{proxy}?x\",\"{own}/other\",\"{own}/basement\"]}}");

    let mut http2 = Http2Caller::connect(world.address).await;
    let request = || Request::get("/gen/x").field("accept-encoding", "gzip, br");
    for reply in [ask(&world).await, http2.send(&request()).await] {
        assert_eq!(reply.text(), expected);
        assert_eq!((reply.get("etag"), reply.get("content-digest")), (Some("W/\"a\""), None));
    }
    let head = http2.send(&request().method("HEAD")).await;
    assert_eq!((head.get("etag"), head.get("content-digest")), (Some("W/\"a\""), None));
    for head in heads.lock().unwrap().iter() {
        assert!(head.contains("accept-encoding: identity\r\n") && !head.contains("gzip"), "{head}");
    }
    drop(http2);
    world.finish().await;
}

#[tokio::test]
async fn a_string_that_never_ends_and_a_known_length_reach_the_caller_whole() {
    let cut = "content-type: application/hal+json\r\ncontent-length: 10\r\n";
    let (peer, _) = api((cut, &["[\"http://1"])).await;
    let world = world(&peer, "rewrite_links = [\"json\"]").await;
    for reply in [ask(&world).await, ask(&world).await] {
        assert_eq!((reply.text().as_str(), reply.get("content-length")), ("[\"http://1", None));
    }
    world.finish().await;
}

#[tokio::test]
async fn parts_encoded_bodies_and_other_types_are_left_alone() {
    for fields in [
        "content-type: application/json\r\ncontent-range: bytes 0-1/9\r\netag: \"a\"\r\n",
        "content-type: application/json\r\ncontent-encoding: x-own\r\netag: \"a\"\r\n",
        "content-type: application/json\r\ncache-control: no-transform\r\netag: \"a\"\r\n",
        "content-type: text/plain\r\netag: \"a\"\r\n",
    ] {
        let (peer, _) = api((fields, &["\"{api}/base/x\""])).await;
        let world = world(&peer, "rewrite_links = [\"json\"]").await;
        let reply = ask(&world).await;
        assert_eq!(reply.text(), format!("\"http://{}/base/x\"", peer.address), "{fields}");
        assert_eq!(reply.get("etag"), Some("\"a\""), "{fields}");
        world.finish().await;
    }
}
