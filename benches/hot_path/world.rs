//! One worker with everything it needs, built from a configuration as the daemon is.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bearerd::clock::Clock;
use bearerd::config::{self, Config, Environment};
use bearerd::proxy::budget::Budget;
use bearerd::proxy::guard::Policy;
use bearerd::proxy::pool::{Pool, Upstream};
use bearerd::proxy::replay::Allowance;
use bearerd::proxy::route::{Route, Table};
use bearerd::proxy::service::{Service, Shared};
use bearerd::proxy::unauthorized::Hold;
use bearerd::proxy::worker::Worker;
use bearerd::token::{DurableState, Refresher, TokenSource};
use http::HeaderValue;

use super::pipe::{End, pipe};
use super::upstream::{Api, Issuer, Tokens};

/// How we are called in `Via`.
const INSTANCE: &str = "bearerd-00000000";

/// A worker, and what its upstream goes by.
pub struct World {
    pub tokens: Arc<Tokens>,
    worker: Worker,
}

impl World {
    /// A world whose API takes requests that end like this.
    pub fn new(config: &Config, request_end: &'static [u8]) -> Self {
        let clock = Clock::system();
        let tokens = Arc::<Tokens>::default();
        let credential = Arc::clone(&config.credentials[0]);
        let (refresher, source) =
            Refresher::new(credential, Issuer(Arc::clone(&tokens)), DurableState::in_memory(clock), clock);
        tokio::task::spawn_local(refresher.run(std::future::pending()));
        let upstream = Arc::new(Upstream {
            index: 0,
            origin: "https://api.example.com".to_owned(),
            connect: Box::new(Api { tokens: Arc::clone(&tokens), request_end }),
            connect_timeout: Duration::from_secs(5),
        });
        let limits = config.server.limits.clone();
        let shared = Shared {
            policy: Policy::new(&config.server, INSTANCE),
            table: table(config, &upstream, &source),
            instance: INSTANCE.to_owned(),
            allowance: Allowance {
                body_bytes: limits.body_bytes,
                replay_body: limits.replay_body,
                budget: Arc::new(Budget::new(limits.replay_total)),
                body_timeout: Some(limits.body_timeout),
            },
            token_wait: limits.token_wait,
            access_log: false,
            clock,
        };
        let service = Service::new(Arc::new(shared), vec![Pool::new(upstream)]);
        Self { tokens, worker: Worker::new(service, limits, Arc::default()) }
    }

    /// A caller's end of a new connection.
    pub fn connection(&self) -> End {
        let (near, far) = pipe();
        self.worker.serve(far, SocketAddr::from(([127, 0, 0, 1], 1)), true);
        near
    }
}

/// The defaults, with so many routes (`/`, or `/00` and so on) and a quota that is never used up.
pub fn configuration(routes: usize) -> Config {
    let credential = "[credentials.c]\ntoken_url = \"https://as.example.com/token\"\nclient_id = \"c\"\n\
        client_secret = { env = \"SECRET\" }\nquota = { requests = 1000000, per = \"1s\" }\n";
    let routes = (0..routes).map(|number| {
        let path = if routes == 1 { "/".to_owned() } else { format!("/{number:02}") };
        format!("[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\npath = \"{path}\"\n")
    });
    let text = std::iter::once(credential.to_owned()).chain(routes).collect::<String>();
    config::parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "s")])).unwrap().config
}

fn table(config: &Config, upstream: &Arc<Upstream>, source: &TokenSource) -> Table {
    let mut table = Table::default();
    for route in &config.routes {
        let entry = Route {
            name: route.path.clone(),
            is_catch_all: route.path == "/",
            upstream: Arc::clone(upstream),
            host: HeaderValue::from_static("api.example.com"),
            path_in_front: String::new(),
            token: Some(source.clone()),
            hold: Hold::default(),
            timeout: route.timeout,
            login_stub: Vec::new(),
        };
        table.add(None, &route.path, entry);
    }
    table
}
