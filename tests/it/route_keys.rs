//! Keys of a route that say how its API wants to be asked: `token_field`, `token_scheme`, `host_header`, `body_timeout`
//! and `body_rate`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;

use crate::harness::{Caller, Request, World, daemon};
use testkit::harness::raw::{RawPeer, read_head};

/// An API that records the heads of requests, and rejects the first token that it sees; other requests are redirected to
/// its public name.
async fn recording(rejects: bool) -> (RawPeer, Arc<Mutex<Vec<String>>>) {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let recorded = Arc::clone(&heads);
    let peer = RawPeer::tcp(move |mut stream| {
        let recorded = Arc::clone(&recorded);
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let number = {
                    let mut heads = recorded.lock().unwrap();
                    heads.push(String::from_utf8(head).unwrap());
                    heads.len()
                };
                let answer = if rejects && number == 1 {
                    "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"
                } else {
                    "HTTP/1.1 302 Found\r\nlocation: http://public.example.com/v2/x\r\ncontent-length: 2\r\n\r\nok"
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (peer, heads)
}

async fn ask(world: &World, fields: &str) -> (u16, String) {
    let mut caller: Caller = world.caller().await;
    caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", world.address).as_bytes()).await;
    let reply = caller.read().await.unwrap();
    let location = reply.get("location").unwrap_or_default().to_owned();
    (reply.status, reply.code().unwrap_or(location))
}

/// The values of a field in a head.
fn values(head: &str, name: &str) -> Vec<String> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.filter(|(field, _)| *field == name).map(|(_, value)| value.to_owned()).collect()
}

#[tokio::test]
async fn the_token_goes_into_the_routes_field_with_its_scheme_also_in_a_replay() {
    for (keys, name, prefix) in [
        ("token_field = \"X-Access-Token\"\ntoken_scheme = \"\"", "x-access-token", ""),
        ("token_field = \"X_Access_Token\"", "x_access_token", "Bearer "),
        ("token_scheme = \"Token\"", "authorization", "Token "),
    ] {
        let (peer, heads) = recording(true).await;
        let world = daemon().route(keys).upstream(format!("http://{}", peer.address)).start().await;
        let fields = "authorization: Bearer theirs\r\nX-Access-Token: theirs\r\nX_ACCESS_TOKEN: theirs\r\n\
                      x.access-token: theirs\r\n";
        assert_eq!(ask(&world, fields).await.0, 302, "{keys}");
        let issued = world.authorization.issued();
        let heads = heads.lock().unwrap().clone();
        assert_eq!((heads.len(), issued.len()), (2, 2), "{keys}");
        for (head, token) in heads.iter().zip(&issued) {
            assert_eq!(values(head, name), [format!("{prefix}{token}")], "{keys}");
            assert_eq!(head.contains("theirs"), name == "authorization", "{head}");
            assert_eq!(head.matches("authorization").count(), usize::from(name == "authorization"), "{head}");
        }
        if name != "authorization" {
            let (status, code) = ask(&world, "connection: close, X_Access_Token\r\n").await;
            assert_eq!((status, code.as_str()), (400, "bad_request"), "{keys}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn host_header_is_the_apis_name_in_requests_and_in_its_links() {
    let (peer, heads) = recording(false).await;
    let world = daemon()
        .unprotected()
        .without_token()
        .route("host_header = \"public.example.com\"")
        .upstream(format!("http://{}", peer.address))
        .start()
        .await;
    assert_eq!(ask(&world, "").await, (302, "/v2/x".to_owned()));
    assert_eq!(values(&heads.lock().unwrap()[0], "host"), ["public.example.com"]);
    world.finish().await;
}

#[tokio::test]
async fn host_header_is_the_authority_over_http_2() {
    let peer = RawPeer::tcp(|stream| async move {
        let answer = |request: http::Request<Incoming>| async move {
            let hosts = request.headers().get_all("host").iter().count();
            let text = format!("{} {hosts}", request.uri().authority().unwrap());
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        };
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    })
    .await;
    let world = daemon()
        .unprotected()
        .without_token()
        .route("http_version = \"2\"\nhost_header = \"public.example.com:444\"")
        .upstream(format!("http://{}", peer.address))
        .start()
        .await;
    let mut caller = world.caller().await;
    for _ in 0..2 {
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        assert_eq!(caller.read().await.unwrap().text(), "public.example.com:444 0");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_route_may_wait_longer_or_shorter_for_a_body_than_the_server() {
    let routes = "path = \"/patient\"\nbody_timeout = \"0s\"\nbody_rate = \"0\"\n[[routes]]\npath = \"/hasty\"\n\
                  body_timeout = \"300ms\"\nupstream = \"{upstream}\"\ncredential = \"api\"\nca_file = \"ca.pem\"";
    let world = daemon().limits("body_timeout = \"1s\"").route(routes).start().await;
    for (path, status) in [("/patient/echo", 200), ("/hasty/echo", 408)] {
        let mut caller = world.caller().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nx-test-id: a\r\ncontent-length: 5\r\n\r\nhe",
            world.address
        );
        caller.write(head.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(if status == 200 { 1800 } else { 600 })).await;
        let _ = caller.try_write(b"llo").await;
        assert_eq!(caller.read().await.unwrap().status, status, "{path}");
    }
    assert_eq!(world.send(&Request::post("/hasty/x", b"hello")).await.status, 200);
    world.finish().await;
}
