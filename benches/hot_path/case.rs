//! The cases: their requests, connections and expected outcomes.

use bearerd::config::Config;
use futures_util::future::join_all;

use super::caller::{Http1, Http2};
use super::world::World;

/// Callers whose token is revoked at the same time.
const BURST: usize = 8;
const ROUTES: usize = 100;
/// The end of a request without a body, and of a request of [`post`].
const HEAD_END: &[u8] = b"\r\n\r\n";
const BODY_END: &[u8] = b"x!";

/// The requests that are counted: in one world, one after the other or in bursts.
pub(crate) struct Case {
    world: World,
    callers: Callers,
}

enum Callers {
    /// These requests in turn.
    One(Http1, Vec<Vec<u8>>),
    /// Bursts with a revoked token: each request gets a 401, one token request follows, and all requests are replayed.
    Burst(Vec<Http1>, Vec<u8>),
    Http2(Http2),
}

/// How many routes a case's configuration has.
pub(crate) fn routes(name: &str) -> usize {
    if name == "routes" { ROUTES } else { 1 }
}

/// A case by its name.
pub(crate) fn named(name: &str, config: &Config) -> Case {
    let world = World::new(config, if name == "post" { BODY_END } else { HEAD_END });
    let http1 = || Http1::new(world.connection());
    let callers = match name {
        "get" | "quota" => Callers::One(http1(), vec![get("/api/v2/users/me")]),
        "post" => Callers::One(http1(), vec![post()]),
        // The cost of finding one route differs between runs, as maps are seeded; the cost of finding all does not.
        "routes" => {
            let path = |route| format!("/{route:02}/v2/users/me");
            Callers::One(http1(), (0..ROUTES).map(|route| get(&path(route))).collect())
        }
        "replay" => Callers::Burst((0..BURST).map(|_| http1()).collect(), get("/api/v2/users/me")),
        "http2" => Callers::Http2(Http2::new(world.connection())),
        _ => panic!("no such case: get, post, replay, http2, routes, quota"),
    };
    Case { world, callers }
}

impl Case {
    /// Answers so many requests.
    pub(crate) async fn run(&mut self, requests: usize) {
        let tokens = &self.world.tokens;
        let issued = tokens.issued();
        match &mut self.callers {
            Callers::One(caller, kinds) => {
                for request in kinds.iter().cycle().take(requests) {
                    caller.request(request).await;
                }
            }
            Callers::Http2(caller) => {
                for _ in 0..requests {
                    caller.request().await;
                }
            }
            Callers::Burst(callers, request) => {
                let bursts = requests / BURST;
                assert_eq!(bursts * BURST, requests, "not whole bursts");
                for _ in 0..bursts {
                    tokens.revoke();
                    join_all(callers.iter().map(|caller| caller.request(request))).await;
                }
                // The first burst waits for the first token.
                assert_eq!(tokens.issued(), issued + bursts as u64);
                return;
            }
        }
        assert_eq!(tokens.issued(), 1);
    }
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
