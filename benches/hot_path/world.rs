//! One worker with everything it needs, built from a configuration as the daemon is.

use std::path::Path;
use std::sync::Arc;

use bearerd::clock::Clock;
use bearerd::config;
use bearerd::config::{ApiQuota, Config, Environment};
use bearerd::proxy::downstream::stream::SharedStream;
use bearerd::proxy::limits::admission::Admitted;
use bearerd::proxy::limits::slots::Slots;
use bearerd::proxy::peer::Peer;
use bearerd::proxy::quota::budget::{Budget, Rules};
use bearerd::proxy::quota::ledger::{Settings, travel_margin};
use bearerd::proxy::route::{Route, Table};
use bearerd::proxy::service::settings::ServiceSettings;
use bearerd::proxy::upstream::{Destination, Upstream};
use bearerd::proxy::worker::Worker;
use bearerd::proxy::worker::snapshot::Configuration;
use bearerd::token::{DurableState, Refresher};
use http::HeaderValue;

use super::pipe::{End, pipe};
use super::upstream::{Api, Issuer, Tokens};

/// How we are called in `CDN-Loop`.
const INSTANCE: &str = "bearerd-00000000";

/// A worker, and what its upstream goes by.
pub(crate) struct World {
    pub tokens: Arc<Tokens>,
    worker: Worker,
}

impl World {
    /// A world whose API takes requests that end like this.
    pub(crate) fn new(config: &Config, request_end: &'static [u8]) -> Self {
        let clock = Clock::system();
        let tokens = Arc::<Tokens>::default();
        let credential = Arc::clone(&config.credentials[0]);
        let (mut refresher, source) =
            Refresher::new(credential, Issuer(Arc::clone(&tokens)), DurableState::in_memory(clock), clock);
        tokio::task::spawn_local(async move {
            refresher.run_until(std::future::pending(), std::future::pending()).await;
        });
        let destination = Destination::new(
            "https://api.example.com".to_owned(),
            HeaderValue::from_static("api.example.com"),
            Box::new(Api { tokens: Arc::clone(&tokens), request_end }),
        );
        let upstream = Arc::new(Upstream::written(0, destination, Slots::new(1000)));
        let budget = config.credentials[0].api_quota.map(budget);
        let mut table = Table::default();
        for route in &config.routes {
            let credential = [(source.clone(), budget.clone())];
            let entry = Route::new(route, Arc::clone(&upstream), credential, false);
            table.add(None, &route.path, entry);
        }
        let shared = ServiceSettings::new(config, table, INSTANCE.to_owned(), clock);
        let configuration =
            Configuration { worker: 0, service_settings: Arc::new(shared), upstreams: vec![upstream] };
        Self { tokens, worker: Worker::new(configuration, Arc::default()) }
    }

    /// A caller's end of a new connection.
    pub(crate) fn connection(&self) -> End {
        let (near, far) = pipe();
        self.worker.serve(SharedStream::new(far), Peer::UNIX, Admitted::default());
        near
    }
}

/// The budget of a quota, kept on this thread.
fn budget(quota: ApiQuota) -> Budget {
    let ApiQuota { requests, per, wait, .. } = quota;
    let settings = Settings { requests: requests.get(), per, margin: travel_margin(per), wait, workers: 1 };
    let rules = Rules { settings, learns: quota.learn, callers: Vec::new() };
    let (budget, keeper) = Budget::new("c", &rules, Box::new(|_| {}), None);
    tokio::task::spawn_local(keeper.run());
    budget
}

/// The defaults, with so many routes (`/`, or `/00` and so on) and a quota that is never used up.
///
/// With `has_quota`, the API allows more requests than there are.
pub(crate) fn configuration(routes: usize, has_quota: bool) -> Config {
    let quota = if has_quota { "api_quota = { requests = 100000000, per = \"1h\" }\n" } else { "" };
    let credential = "[credentials.c]\ntoken_url = \"https://as.example.com/token\"\nclient_id = \"c\"\n\
        client_secret = { env = \"SECRET\" }\nquota = { requests = 1000000, per = \"1s\" }\n";
    let routes = (0..routes).map(|number| {
        let path = if routes == 1 { "/".to_owned() } else { format!("/{number:02}") };
        format!("[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\npath = \"{path}\"\n")
    });
    let text = std::iter::once(format!("[log]\naccess = false\n{credential}{quota}"))
        .chain(routes)
        .collect::<String>();
    config::parse(Path::new("proxy.toml"), text, &Environment::from([("SECRET", "s")])).unwrap().config
}
