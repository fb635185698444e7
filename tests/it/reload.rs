//! Reloads under load.

mod asked;
mod connections;
mod entrances;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use testkit::authorization_server::{Answer, AuthorizationServer};
use testkit::pki::Pki;

use crate::harness::{
    Caller, Http2Caller, Reply, Request, Setup, Upstream, World, daemon, eventually, remains,
};

const ROOMY: &str = "quota = { requests = 1000, per = \"1s\" }";

/// Callers that send one request after another until they are stopped; every answer must be 200.
struct Load {
    tasks: Vec<tokio::task::JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    /// The answers of each caller.
    answered: Vec<Arc<AtomicUsize>>,
}

impl Load {
    fn on(world: &World, callers: usize) -> Self {
        Self::connecting_anew(world, callers, 16)
    }

    /// Starts callers that open a new connection after so many requests in all.
    fn connecting_anew(world: &World, callers: usize, after: usize) -> Self {
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let address = world.address;
        let answered: Vec<_> = (0..callers).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        let tasks = answered.iter().enumerate().map(|(number, answered)| {
            let (is_over, sent, answered) = (Arc::clone(&is_over), Arc::clone(&sent), Arc::clone(answered));
            tokio::spawn(async move {
                let mut caller = AnyCaller::connect(address, number).await;
                while !is_over.load(Ordering::Relaxed) {
                    let request = match number % 3 {
                        0 => Request::get("/slow/30"),
                        1 => Request::post("/echo", b"a body that is sent on"),
                        _ => Request::get("/x"),
                    };
                    let reply = caller.send(&request).await;
                    assert_eq!(reply.status, 200, "{reply:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    if sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(after) {
                        caller = AnyCaller::connect(address, number).await;
                    }
                }
            })
        });
        Self { tasks: tasks.collect(), is_over, sent, answered }
    }

    async fn more(&self, count: usize) {
        let before = self.sent.load(Ordering::Relaxed);
        eventually("more requests", async || self.sent.load(Ordering::Relaxed) >= before + count).await;
    }

    /// Waits for so many more answers to each caller.
    async fn more_of_each(&self, count: usize) {
        let now = || self.answered.iter().map(|one| one.load(Ordering::Relaxed));
        let before: Vec<_> = now().collect();
        let is_enough = || now().zip(&before).all(|(now, before)| now >= before + count);
        eventually("more requests of each", async || is_enough()).await;
    }

    async fn stop(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.sent.load(Ordering::Relaxed)
    }
}

/// A caller of either protocol.
enum AnyCaller {
    Http1(Caller),
    Http2(Http2Caller),
}

impl AnyCaller {
    async fn connect(address: SocketAddr, number: usize) -> Self {
        if number.is_multiple_of(2) {
            Self::Http1(Caller::connect(address).await)
        } else {
            Self::Http2(Http2Caller::connect(address).await)
        }
    }

    async fn send(&mut self, request: &Request) -> Reply {
        match self {
            Self::Http1(caller) => caller.send(request).await,
            Self::Http2(caller) => caller.send(request).await,
        }
    }
}

/// FLT-HUP-01.
#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request_and_leak_nothing() {
    a_hundred_reloads(daemon()).await;
}

#[tokio::test]
async fn reloads_under_load_fail_no_request_over_http_2() {
    a_hundred_reloads(daemon().http2()).await;
}

async fn a_hundred_reloads(setup: Setup) {
    let world =
        setup.quiet().credential(ROOMY).route("[routes.headers]\nset = { x-table = \"t0\" }\n").start().await;
    let upstream = format!("upstream = \"{}\"", world.upstream.url());
    let load = Load::on(&world, 6);
    let mut first = None;

    for round in 1..=100 {
        world.configure(|text| {
            let text =
                text.replace(&format!("x-table = \"t{}\"", round - 1), &format!("x-table = \"t{round}\""));
            // In every second configuration another key of the upstream changes, which replaces its connections.
            let timeout = if round % 2 == 0 { "connect_timeout = \"4s\"\n" } else { "" };
            text.replace("connect_timeout = \"4s\"\n", "").replace(&upstream, &format!("{timeout}{upstream}"))
        });
        world.reload().await;
        load.more(5).await;
        if round == 20 {
            first = Some((world.process.threads_and_descriptors(), world.process.resident_kib()));
        }
    }

    let ((threads, descriptors), kib) = first.unwrap();
    let (threads_after, descriptors_after) = world.process.threads_and_descriptors();
    let kib_after = world.process.resident_kib();
    let sent = load.stop().await;
    // The runtimes' own threads for files and names come and go; a leak would add one at each reload.
    assert!(threads_after <= threads + 8, "{threads} threads became {threads_after}");
    assert!(descriptors_after <= descriptors + 24, "{descriptors} descriptors became {descriptors_after}");
    assert!(kib_after < kib + 4096, "{kib} KiB became {kib_after} with {sent} requests");
    let tables: std::collections::BTreeSet<_> =
        world.upstream.requests().iter().filter_map(|seen| seen.get("x-table").map(str::to_owned)).collect();
    assert!(tables.len() > 90, "most tables were used: {tables:?}");
    assert_eq!(world.authorization.requests(), 1, "the token stays");
    world.finish().await;
}

#[tokio::test]
async fn a_request_is_served_by_one_configuration_from_start_to_end() {
    let world = daemon().quiet().credential(ROOMY).start().await;
    let plain = world.configuration();
    let url = world.upstream.url();
    let table = |number: usize| {
        let upstream = format!("upstream = \"{url}\"");
        plain.replace(&upstream, &format!("upstream = \"{url}/slow/{number}\""))
            + &format!(
                "[routes.headers]\nset = {{ x-table = \"{number}\" }}\nremove = [\"x-not-{number}\"]\n"
            )
    };
    world.configure(|_| table(1));
    world.reload().await;
    let load = Load::on(&world, 4);

    for round in 2..30 {
        world.configure(|_| table(round));
        world.reload().await;
        // Replays are checked too. After two answers each caller has used a live token.
        world.authorization.revoke_all();
        load.more_of_each(2).await;
    }

    load.stop().await;
    for seen in world.upstream.requests() {
        let in_front = seen.target.split('/').nth(2).unwrap();
        assert_eq!(seen.get("x-table"), Some(in_front), "{seen:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn unchanged_parts_keep_their_token_connections_and_breaker() {
    let breaker = "breaker = { failures = 3, percent = 100, window = \"60s\", open = \"60s\" }";
    let world = daemon()
        .server("workers = 1")
        .route("path = \"/kept\"\nstrip_prefix = true")
        .route(&format!(
            "[[routes]]\npath = \"/broken\"\nstrip_prefix = true\nupstream = \"{{upstream}}\"\n\
             credential = \"api\"\nca_file = \"ca.pem\"\n{breaker}\n"
        ))
        .start()
        .await;
    for _ in 0..3 {
        assert_eq!(world.get("/broken/status/503").await.status, 503);
    }
    assert_eq!(world.get("/broken/x").await.code().as_deref(), Some("upstream_unavailable"));
    assert_eq!(world.get("/kept/x").await.status, 200);
    let connections = world.upstream.connections();

    world.configure(|text| {
        text + "[[routes]]\npath = \"/new\"\nupstream = \"https://localhost:1\"\ncredential = \"none\"\n"
    });
    let event = world.reload().await;

    assert_eq!(event["routes"], "2 kept; added: /new");
    assert_eq!((&event["credentials"], &event["listeners"]), (&"1 kept".into(), &"1 kept".into()));
    assert_eq!(world.get("/broken/x").await.code().as_deref(), Some("upstream_unavailable"));
    assert_eq!(world.get("/kept/x").await.status, 200);
    assert_eq!(world.get("/new").await.code().as_deref(), Some("upstream_unreachable"));
    assert_eq!(world.upstream.connections(), connections, "the same connection");
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn connections_to_a_removed_upstream_are_closed() {
    let world = daemon().server("workers = 1").start().await;
    assert_eq!(world.get("/x").await.status, 200);
    let open = || world.process.threads_and_descriptors().1;
    let before = open();

    world.configure(|text| text.replace(&world.upstream.url(), "https://localhost:1"));
    world.reload().await;

    eventually("its descriptor is free", async || open() < before).await;
    world.finish().await;
}

/// FLT-HUP-02.
#[tokio::test]
async fn an_invalid_configuration_changes_nothing_and_is_reported_with_its_place() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let mut world = daemon()
        .secret("{ file = \"secret\" }")
        .file("secret", testkit::harness::setup::CLIENT_SECRET)
        .file("server.pem", &pki.server().certificate)
        .file("server-key.pem", "-----BEGIN PRIVATE KEY-----\nbm9uZQ==\n-----END PRIVATE KEY-----\n")
        .start()
        .await;
    let good = world.configuration();
    let tls = "[server.tls]\ncertificate = \"server.pem\"\nprivate_key = \"server-key.pem\"\n[server.limits]";

    for (bad, problem, place) in [
        (good.replace("[server.limits]", "[server.limits]\nidle_timeuot = \"1s\""), "unknown key", "^^^^^"),
        (good.replace("[[routes]]", "[[routes]\n"), "", "^"),
        (good.replace("{ file = \"secret\" }", "{ file = \"missing\" }"), "cannot read", "^^^^"),
        (good.replace("[server.limits]", tls), "server-key.pem", "^^^^"),
        (good.replace("credential = \"api\"", "credential = \"apu\""), "apu", "^^^"),
    ] {
        world.configure(|_| bad.clone());
        let problems = world.reload_in_vain().await;
        assert!(problems.contains(problem) && problems.contains(place), "{problems}");
        assert!(problems.contains("proxy.toml:"), "{problems}");
        assert_eq!(world.get("/x").await.status, 200);
    }
    std::fs::remove_file(world.folder().join("proxy.toml")).unwrap();
    let problems = world.reload_in_vain().await;
    assert!(problems.contains("cannot read"), "{problems}");
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 1);

    world.process.signal(Signal::TERM);
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

/// A second authorization server, and an API that accepts its tokens only.
struct Elsewhere {
    authorization: AuthorizationServer,
    api: Upstream,
    pki: Pki,
}

const OTHER_SECRET: &str = "the-other-secret";

impl Elsewhere {
    async fn start() -> Self {
        let pki = Pki::new(&["localhost"]).unwrap();
        let authorization = AuthorizationServer::start("other", OTHER_SECRET, None).await.unwrap();
        let tls = pki.server_config(&[b"http/1.1"]).unwrap();
        let api = Upstream::start(Some(tls), authorization.introspection(), true).await;
        Self { authorization, api, pki }
    }

    /// A world's configuration with these peers in the place of its own.
    fn instead(&self, world: &World, text: &str) -> String {
        std::fs::write(world.folder().join("elsewhere.pem"), self.pki.authority_pem()).unwrap();
        text.replace(&world.upstream.url(), &self.api.url())
            .replace("ca_file = \"ca.pem\"", "ca_file = \"elsewhere.pem\"")
            .replace(&world.authorization.token_url(), &self.authorization.token_url())
            .replace(&format!("\"{}\"", testkit::harness::setup::CLIENT_ID), "\"other\"")
            .replace("{ env = \"API_SECRET\" }", "{ file = \"other-secret\" }")
    }
}

/// FLT-HUP-03.
#[tokio::test]
async fn an_old_token_is_never_sent_to_a_new_upstream() {
    let elsewhere = Elsewhere::start().await;
    let world = daemon().quiet().file("other-secret", OTHER_SECRET).credential(ROOMY).start().await;
    let here = world.configuration();
    let there = elsewhere.instead(&world, &here);
    let load = Load::on(&world, 4);

    for round in 0..10 {
        let next = if round % 2 == 0 { &there } else { &here };
        world.configure(|_| next.clone());
        let event = world.reload().await;
        assert_eq!(event["credentials"], "0 kept; changed: api");
        load.more(10).await;
    }

    load.stop().await;
    assert!(!elsewhere.api.requests().is_empty());
    assert_eq!(elsewhere.api.violations(), Vec::<String>::new());
    assert_eq!(elsewhere.api.rejected() + world.upstream.rejected(), 0);
    assert_eq!(elsewhere.authorization.most_at_once(), 1);
    world.finish().await;
}

#[tokio::test]
async fn changed_scopes_are_requested_before_the_new_configuration_applies() {
    let world = daemon().credential("scopes = [\"read\"]").start().await;
    let first = world.authorization.issued();

    world.configure(|text| text.replace("scopes = [\"read\"]", "scopes = [\"read\", \"write\"]"));
    world.reload().await;

    assert_eq!(world.get("/x").await.status, 200);
    let used = world.upstream.requests().pop().unwrap().get("authorization").unwrap().to_owned();
    assert!(!first.iter().any(|old| used.ends_with(old.as_str())));
    assert_eq!(world.authorization.requests(), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_changed_secret_keeps_the_token_until_it_has_brought_another() {
    let world = daemon()
        .secret("{ file = \"secret\" }")
        .file("secret", testkit::harness::setup::CLIENT_SECRET)
        .file("wrong", "not-the-secret")
        .start()
        .await;

    world.configure(|text| text.replace("{ file = \"secret\" }", "{ file = \"wrong\" }"));
    let event = world.reload().await;

    assert_eq!(event["credentials"], "0 kept; changed: api");
    eventually("it was tried", async || world.authorization.requests() == 2).await;
    world.process.event("token refresh failed").await;
    assert_eq!(world.get("/x").await.status, 200, "with the token that is good");

    world.configure(|text| text.replace("{ file = \"wrong\" }", "{ file = \"secret\" }"));
    world.reload().await;
    eventually("not after half a minute", async || world.authorization.issued().len() == 2).await;
    world.finish().await;
}

#[tokio::test]
async fn a_changed_margin_makes_no_token_request() {
    let world = daemon().credential("refresh_margin = \"60s\"").start().await;

    world.configure(|text| {
        text.replace("refresh_margin = \"60s\"", "refresh_margin = \"30s\"\ntimeout = \"2s\"")
    });
    world.reload().await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 1);

    // A revoked token is still replaced.
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 2);
    world.finish().await;
}

/// OA-RA-05.
#[tokio::test]
async fn a_reload_does_not_shorten_what_the_authorization_server_asked_for() {
    let world =
        daemon().without_token().start_after(async |server| server.answer_next(Answer::too_many(3))).await;
    world.process.event("token refresh failed").await;
    // Three seconds, less the time until the daemon received the answer.
    let asked = Duration::from_millis(2500);
    let began = tokio::time::Instant::now();

    for change in ["refresh_margin = \"9s\"", "scopes = [\"x\"]", "scopes = [\"x\"]\nrefresh_margin = \"9s\""]
    {
        world.configure(|text| {
            let mut lines: Vec<_> = text
                .lines()
                .filter(|line| !line.starts_with("scopes") && !line.starts_with("refresh_"))
                .collect();
            let at = lines.iter().position(|line| line.starts_with("client_id")).unwrap();
            lines.insert(at, change);
            lines.join("\n")
        });
        // The new credential waits as the old one did.
        world.process.signal(Signal::HUP);
        remains(change, Duration::from_millis(300), async || world.authorization.requests() == 1).await;
    }

    eventually("the next request", async || world.authorization.requests() > 1).await;
    assert!(began.elapsed() >= asked, "{:?}", began.elapsed());
    world.finish().await;
}

#[tokio::test]
async fn a_reload_does_not_refill_the_quota() {
    let world = daemon().credential("quota = { requests = 4, per = \"600s\" }").start().await;

    for number in 0..8 {
        world.configure(|text| {
            let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("scopes")).collect();
            kept.join("\n").replace("client_id", &format!("scopes = [\"s{number}\"]\nclient_id"))
        });
        world.admin_post("/reload").await;
    }

    assert_eq!(world.authorization.requests(), 4);
    assert_eq!(world.get("/x").await.code().as_deref(), Some("token_quota_exhausted"));
    world.finish().await;
}

/// The authorization server revokes all refresh tokens when one is used twice.
#[tokio::test]
async fn a_one_time_refresh_token_survives_changed_settings_and_a_moved_state() {
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("refresh"), folder.path().join("state"));
    std::fs::create_dir(&state).unwrap();
    let mut world = daemon()
        .server(&format!("state_dir = \"{}\"", state.display()))
        .environment("STATE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
        .credential("state_key = { env = \"STATE_KEY\" }\ngrant = \"refresh_token\"\nmax_rotations = 0")
        .credential(&format!("refresh_token = {{ file = \"{}\" }}\n{ROOMY}", file.display()))
        .start_after(async |server| std::fs::write(&file, server.authorize()).unwrap())
        .await;
    let elsewhere = format!("state_file = \"{}\"\nmax_rotations", folder.path().join("moved").display());
    let settings = [
        ("max_rotations = 0", "max_rotations = 100"),
        ("max_rotations", "scopes = [\"a\"]\nmax_rotations"),
        ("max_rotations", elsewhere.as_str()),
        ("max_rotations", "audience = \"b\"\nmax_rotations"),
    ];

    for (old, new) in settings {
        world.configure(|text| text.replacen(old, new, 1));
        let event = world.reload().await;
        assert_eq!(event["credentials"], "0 kept; changed: api", "{new}");
        assert_eq!(world.get("/x").await.status, 200, "{new}");
        let (status, answer) = world.admin_post("/credentials/api/refresh").await;
        assert_eq!(status, 200, "{new}: {answer}");
    }
    world.kill().await;
    world.start_again().await;
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    assert_eq!(world.admin_post("/credentials/api/refresh").await.0, 200, "from the place where it is now");

    assert_eq!(world.authorization.refresh_tokens().reuses(), 0);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

/// A token is kept wherever the state is, and under whatever key.
#[tokio::test]
async fn another_place_for_the_state_asks_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("state_file = \"{}\"", folder.path().join(name).display());
    let key = "state_key = { env = \"STATE_KEY\" }";
    let mut world = daemon()
        .environment("STATE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
        .credential("required = true")
        .start()
        .await;

    let without = world.configuration();
    for place in [file("a"), format!("{}\n{key}", file("a")), format!("{}\n{key}", file("b"))] {
        world.configure(|_| without.replace("required = true", &format!("required = true\n{place}")));
        let event = world.reload().await;
        assert_eq!(event["credentials"], "0 kept; changed: api", "{place}");
        assert_eq!(world.get("/x").await.status, 200, "{place}");
    }
    world.kill().await;
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200, "from the last place");

    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn another_principal_begins_anew_and_asks_for_its_own_token() {
    let world = daemon()
        .credential("grant = \"password\"\nusername = \"alice\"\npassword = { env = \"API_SECRET\" }")
        .start_after(async |server| server.take_all())
        .await;
    let of_alice = world.authorization.issued();

    world.configure(|text| text.replace("alice", "bob"));
    world.reload().await;

    assert_eq!(world.get("/x").await.status, 200);
    let used = world.upstream.requests().pop().unwrap().get("authorization").unwrap().to_owned();
    assert!(!of_alice.iter().any(|old| used.ends_with(old.as_str())));
    assert_eq!(world.authorization.requests(), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_changed_client_id_is_refused_the_former_clients_refresh_token() {
    let folder = tempfile::tempdir().unwrap();
    let refresh_token = folder.path().join("refresh");
    let world = daemon()
        .server(&format!("state_dir = \"{}\"", folder.path().display()))
        .environment("STATE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
        .credential("state_key = { env = \"STATE_KEY\" }")
        .credential("grant = \"refresh_token\"")
        .credential(&format!("refresh_token = {{ file = \"{}\" }}", refresh_token.display()))
        .start_after(async |server| std::fs::write(&refresh_token, server.authorize()).unwrap())
        .await;
    let good = world.configuration();

    world.configure(|text| text.replace(testkit::harness::setup::CLIENT_ID, "somebody-else"));
    let problems = world.reload_in_vain().await;

    assert!(problems.contains("the state of the credential"), "{problems}");
    assert_eq!(world.get("/x").await.status, 200);
    world.configure(|_| good);
    assert_eq!(world.reload().await["credentials"], "1 kept");
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_changed_client_id_discards_a_state_without_a_refresh_token() {
    let folder = tempfile::tempdir().unwrap();
    let world = daemon()
        .server(&format!("state_dir = \"{}\"", folder.path().display()))
        .environment("STATE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
        .credential("state_key = { env = \"STATE_KEY\" }")
        .start()
        .await;

    world.configure(|text| text.replace(testkit::harness::setup::CLIENT_ID, "somebody-else"));
    world.reload().await;

    let event = world.process.event("state opened with a warning").await;
    assert!(event["warning"].as_str().unwrap().contains("is discarded: an access token"), "{event}");
    // The server does not know the new client, and the token of the former one is not used.
    assert_eq!(world.get("/x").await.status, 503);
    world.finish().await;
}

#[tokio::test]
async fn a_removed_credential_stops_asking_and_a_new_one_has_its_own_token() {
    let elsewhere = Elsewhere::start().await;
    elsewhere.authorization.set_lifetime(2);
    let world = daemon().file("other-secret", OTHER_SECRET).start().await;
    std::fs::write(world.folder().join("elsewhere.pem"), elsewhere.pki.authority_pem()).unwrap();
    let without = world.configuration();
    let more = format!(
        "[credentials.other]\ntoken_url = \"{}\"\nclient_id = \"other\"\nclient_secret = {{ file = \"other-secret\" }}\n\
         {ROOMY}\n[[routes]]\npath = \"/other\"\nupstream = \"{}\"\ncredential = \"other\"\nca_file = \"elsewhere.pem\"\n",
        elsewhere.authorization.token_url(),
        elsewhere.api.url()
    );
    let named = async || {
        let (_, explained) = world.admin_get("/readyz?verbose").await;
        (explained.contains("credential other"), world.admin_post("/credentials/other/refresh").await.0)
    };
    assert_eq!(named().await, (false, 404));

    world.configure(|text| text + &more);
    let event = world.reload().await;
    assert_eq!(event["credentials"], "1 kept; added: other");
    assert_eq!(world.get("/other").await.status, 200, "at once");
    assert_eq!(named().await, (true, 200));
    let before = elsewhere.authorization.requests();
    eventually("it is refreshed", async || elsewhere.authorization.requests() > before).await;

    world.configure(|_| without);
    let event = world.reload().await;
    assert_eq!(event["credentials"], "1 kept; removed: other");
    assert_eq!(named().await, (false, 404));
    let seen = elsewhere.api.requests().len();
    assert_eq!(world.get("/other").await.status, 200, "by the route that is left");
    assert_eq!(elsewhere.api.requests().len(), seen);
    let before = elsewhere.authorization.requests();
    let asked = || elsewhere.authorization.requests();
    remains("asked no more", Duration::from_secs(3), async || asked() == before).await;
    assert_eq!((elsewhere.api.violations(), elsewhere.api.rejected()), (Vec::new(), 0));
    world.finish().await;
}

#[tokio::test]
async fn a_new_credential_without_a_token_is_named_and_stays_ready() {
    let elsewhere = Elsewhere::start().await;
    elsewhere.authorization.answer_next(Answer::too_many(600));
    let world = daemon().file("other-secret", OTHER_SECRET).start().await;
    world.configure(|text| {
        format!(
            "{text}[credentials.other]\ntoken_url = \"{}\"\nclient_id = \"other\"\n\
             client_secret = {{ file = \"other-secret\" }}\n\
             [[routes]]\npath = \"/other\"\nupstream = \"https://localhost:1\"\ncredential = \"other\"\n",
            elsewhere.authorization.token_url()
        )
    });

    let (status, answer) = world.admin_post("/reload").await;

    assert_eq!((status, &answer["without_token"]), (200, &serde_json::json!(["other"])), "{answer}");
    let told = world.process.event("new or changed credentials have no token yet").await;
    assert_eq!(told["credentials"], "other");
    assert_eq!(world.admin_status("/readyz").await, 200, "it serves as much as before");
    let (_, explained) = world.admin_get("/readyz?verbose").await;
    assert!(
        explained.contains("[ ] credential other is unusable: token_endpoint_rate_limited"),
        "{explained}"
    );
    assert_eq!(world.get("/other").await.status, 503);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

/// The sections of a credential `other` with a route `/other`.
fn other_sections(elsewhere: &Elsewhere, world: &World, credential: &str) -> String {
    std::fs::write(world.folder().join("elsewhere.pem"), elsewhere.pki.authority_pem()).unwrap();
    format!(
        "[credentials.other]\ntoken_url = \"{}\"\nclient_id = \"other\"\nclient_secret = {{ file = \"other-secret\" }}\n\
         {credential}\n[[routes]]\npath = \"/other\"\nupstream = \"{}\"\ncredential = \"other\"\nca_file = \"elsewhere.pem\"\n",
        elsewhere.authorization.token_url(),
        elsewhere.api.url()
    )
}

#[tokio::test]
async fn a_credential_stays_in_service_while_a_reload_waits_for_a_token_request() {
    let elsewhere = Elsewhere::start().await;
    let world = daemon()
        .quiet()
        .limits("token_wait = \"500ms\"")
        .file("other-secret", OTHER_SECRET)
        .credential(ROOMY)
        .start()
        .await;
    world.configure(|text| text + &other_sections(&elsewhere, &world, ROOMY));
    world.reload().await;
    assert_eq!(world.get("/other").await.status, 200);
    elsewhere.authorization.hold();
    elsewhere.authorization.revoke_all();
    assert_eq!(world.get("/other").await.status, 503, "its token request is under way");
    assert_eq!(elsewhere.authorization.requests(), 2);

    world.configure(|text| text.replace(ROOMY, &format!("{ROOMY}\nrefresh_margin = \"9s\"")));
    world.process.signal(Signal::HUP);
    remains("the other credential in service", Duration::from_secs(2), async || {
        world.authorization.revoke_all();
        world.get("/x").await.status == 200
    })
    .await;
    assert_eq!(world.process.events("configuration reloaded").len(), 1, "the reload waits");
    elsewhere.authorization.release();

    eventually("the reload", async || world.process.events("configuration reloaded").len() == 2).await;
    assert_eq!(elsewhere.authorization.requests(), 2);
    assert_eq!(world.get("/other").await.status, 200);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_waiting_request_gets_the_token_of_the_changed_credential() {
    let world =
        daemon().without_token().start_after(async |server| server.answer_next(Answer::too_many(3))).await;
    world.process.event("token refresh failed").await;
    let address = world.address;
    let waiting = tokio::spawn(async move { Caller::connect(address).await.send(&Request::get("/x")).await });
    remains("the request waits", Duration::from_millis(300), async || !waiting.is_finished()).await;

    world.configure(|text| text.replace("client_id", "scopes = [\"other\"]\nclient_id"));
    world.reload().await;

    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(world.authorization.requests(), 2);
    world.finish().await;
}

/// The new credential's token is not meant for the upstream of before.
#[tokio::test]
async fn a_waiting_request_does_not_get_the_token_of_another_upstream() {
    let elsewhere = Elsewhere::start().await;
    let world = daemon()
        .without_token()
        .file("other-secret", OTHER_SECRET)
        .start_after(async |server| server.answer_next(Answer::too_many(9)))
        .await;
    world.process.event("token refresh failed").await;
    let address = world.address;
    let waiting = tokio::spawn(async move { Caller::connect(address).await.send(&Request::get("/x")).await });
    remains("the request waits", Duration::from_millis(300), async || !waiting.is_finished()).await;

    world.configure(|text| elsewhere.instead(&world, &text));
    world.reload().await;

    assert_eq!(waiting.await.unwrap().status, 503);
    assert_eq!(world.upstream.requests().len(), 0);
    assert_eq!(world.get("/x").await.status, 200, "by the new route");
    world.finish().await;
}
