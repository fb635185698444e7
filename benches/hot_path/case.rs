//! The cases: what is sent, over how many connections, and what must come of it.

use futures_util::future::join_all;

use super::caller::{Http1, Http2};
use super::world::World;

/// Callers whose tokens die together.
const BURST: usize = 8;
/// What a request without a body ends with, and one with the body of [`post`].
const HEAD_END: &[u8] = b"\r\n\r\n";
const BODY_END: &[u8] = b"x!";

/// What is counted.
#[derive(Clone, Copy)]
pub enum Case {
    /// A GET of 1 KiB, over one connection.
    Get,
    /// A POST of 1 KiB, which is kept for a replay.
    Post,
    /// A burst of GETs whose token is dead: each sees a 401, one asks for a token, each is sent again.
    Replay,
    /// A GET by HTTP/2.
    Http2,
    /// A GET, with a hundred routes.
    Routes,
}

/// By its name.
pub fn named(name: &str) -> Case {
    match name {
        "get" => Case::Get,
        "post" => Case::Post,
        "replay" => Case::Replay,
        "http2" => Case::Http2,
        "routes" => Case::Routes,
        _ => panic!("no such case: get, post, replay, http2, routes"),
    }
}

impl Case {
    /// Answers so many requests.
    pub async fn run(self, requests: usize) {
        match self {
            Self::Get => one_by_one(&World::new(1, HEAD_END), requests, &get("/api/v2/users/me")).await,
            Self::Routes => one_by_one(&World::new(100, HEAD_END), requests, &get("/57/v2/users/me")).await,
            Self::Post => one_by_one(&World::new(1, BODY_END), requests, &post()).await,
            Self::Replay => in_bursts(&World::new(1, HEAD_END), requests).await,
            Self::Http2 => {
                let world = World::new(1, HEAD_END);
                let mut caller = Http2::new(world.connection());
                for _ in 0..requests {
                    caller.request().await;
                }
                assert_eq!(world.tokens.issued(), 1);
            }
        }
    }
}

async fn one_by_one(world: &World, requests: usize, request: &[u8]) {
    let caller = Http1::new(world.connection());
    for _ in 0..requests {
        caller.request(request).await;
    }
    assert_eq!(world.tokens.issued(), 1);
}

async fn in_bursts(world: &World, requests: usize) {
    let callers = (0..BURST).map(|_| Http1::new(world.connection())).collect::<Vec<_>>();
    let request = get("/api/v2/users/me");
    let bursts = requests.div_ceil(BURST);
    for _ in 0..bursts {
        world.tokens.revoke();
        join_all(callers.iter().map(|caller| caller.request(&request))).await;
    }
    // The first burst has no token yet, and waits for it.
    assert_eq!(world.tokens.issued(), bursts as u64);
}

/// The fields that a small client sends.
fn get(path: &str) -> Vec<u8> {
    format!(
        "GET {path}?expand=presence HTTP/1.1\r\nhost: localhost\r\nuser-agent: client/1.0\r\n\
         accept: application/json\r\naccept-encoding: gzip\r\n\r\n"
    )
    .into_bytes()
}

fn post() -> Vec<u8> {
    let mut request = "POST /api/v2/conversations HTTP/1.1\r\nhost: localhost\r\nuser-agent: client/1.0\r\n\
        accept: application/json\r\ncontent-type: application/json\r\ncontent-length: 1024\r\n\r\n"
        .to_owned()
        .into_bytes();
    request.resize(request.len() + 1023, b'x');
    request.push(b'!');
    request
}
