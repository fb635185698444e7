//! Listeners over a reload: unchanged, added, removed, or failing to bind.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use testkit::pki::Pki;
use tokio::net::{TcpStream, UnixStream};

use super::Load;
use crate::harness::{Caller, Http2Caller, Request, STEP_TIMEOUT, World, daemon, eventually};
use testkit::harness::tls_caller::{self, TlsCaller};

const ONE: &str = "listen = \"127.0.0.1:0\"";

fn listen(world: &World, addresses: &str) {
    world.configure(|text| {
        let lines = text.lines().map(|line| {
            // The first line is the callers' address, the second the operator's.
            if line.starts_with("listen") { format!("listen = {addresses}") } else { line.to_owned() }
        });
        let mut all: Vec<_> = lines.collect();
        let admin = all.iter().rposition(|line| line.starts_with("listen")).unwrap();
        ONE.clone_into(&mut all[admin]);
        all.join("\n") + "\n"
    });
}

/// The address that the daemon logged last.
fn latest(world: &World) -> SocketAddr {
    world.process.events("listening").pop().unwrap()["address"].as_str().unwrap().parse().unwrap()
}

/// A caller at this address with another name for the daemon.
async fn caller_at(address: SocketAddr) -> Caller {
    Caller::over(TcpStream::connect(address).await.unwrap(), "localhost")
}

async fn is_refused(address: SocketAddr) -> bool {
    Caller::try_connect(address).await.is_none()
}

/// FLT-HUP-04.
#[tokio::test]
async fn an_unchanged_listener_refuses_no_connection_while_others_change() {
    let world = daemon().quiet().start().await;
    let load = Load::connecting_anew(&world, 4, 1);
    let mut last: Option<SocketAddr> = None;

    for round in 0..20 {
        let host = if round % 2 == 0 { "127.0.0.2" } else { "127.0.0.3" };
        listen(&world, &format!("[\"127.0.0.1:0\", \"{host}:0\"]"));
        let event = world.reload().await;
        assert!(event["listeners"].as_str().unwrap().starts_with("1 kept; added: "), "{event}");
        let new = latest(&world);
        let mut caller = caller_at(new).await;
        for _ in 0..3 {
            assert_eq!(caller.send(&Request::get("/x")).await.status, 200, "on one connection");
        }
        if let Some(old) = last.replace(new) {
            eventually("the one of before is closed", async || is_refused(old).await).await;
        }
        load.more(10).await;
    }

    assert!(load.stop().await > 200);
    world.finish().await;
}

#[tokio::test]
async fn requests_of_a_removed_listener_are_answered_before_it_closes() {
    let world = daemon().server("listen = [\"127.0.0.1:0\", \"127.0.0.2:0\"]").start().await;
    let address = latest(&world);
    let (mut idle, mut slow) = (caller_at(address).await, caller_at(address).await);
    let mut http2 =
        Http2Caller::over(TcpStream::connect(address).await.unwrap(), "http://localhost".to_owned()).await;
    let mut stays = world.caller().await;
    for caller in [&mut idle, &mut stays] {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    }
    let slow = tokio::spawn(async move {
        let reply = slow.send(&Request::get("/slow/1000")).await;
        (reply, slow)
    });
    let slow_http2 = tokio::spawn(async move { http2.send(&Request::get("/slow/1000")).await });
    eventually("they are under way", async || world.upstream.requests().len() == 4).await;

    listen(&world, "[\"127.0.0.1:0\"]");
    let event = world.reload().await;

    assert_eq!(event["listeners"], "1 kept; removed: 127.0.0.2:0");
    assert!(idle.is_closed().await);
    let (reply, mut slow) = slow.await.unwrap();
    assert_eq!((reply.status, slow_http2.await.unwrap().status), (200, 200));
    assert!(slow.is_closed().await);
    eventually("nobody comes in there", async || is_refused(address).await).await;
    assert_eq!(stays.send(&Request::get("/x")).await.status, 200, "the other one's callers stay");
    world.finish().await;
}

#[tokio::test]
async fn a_listener_that_cannot_bind_changes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let world =
        daemon().environment("STATE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").start().await;
    let taken = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = taken.local_addr().unwrap();
    listen(&world, &format!("[\"127.0.0.1:0\", \"127.0.0.4:0\", \"{address}\"]"));
    world.configure(|text| {
        let file = state.path().join("api.state");
        text.replace("client_id", &format!("state_file = \"{}\"\nclient_id", file.display()))
            .replace("client_id", "state_key = { env = \"STATE_KEY\" }\nscopes = [\"other\"]\nclient_id")
            + "[routes.headers]\nset = { x-table = \"2\" }\n"
    });

    for _ in 0..2 {
        let problems = world.reload_in_vain().await;
        assert!(problems.contains(&format!("cannot listen on {address} (server.listen)")), "{problems}");
    }
    let (status, problem) = world.admin_post("/reload").await;
    assert_eq!((status, &problem["code"]), (409, &"configuration_not_applied".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("cannot listen on"), "{problem}");

    assert_eq!(world.process.events("listening").len(), 1);
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.upstream.requests()[0].get("x-table"), None);
    assert_eq!(world.authorization.requests(), 1);

    drop(taken);
    let event = world.reload().await;
    assert_eq!(event["listeners"], format!("1 kept; added: 127.0.0.4:0, {address}"));
    assert_eq!(caller_at(address).await.send(&Request::get("/x")).await.status, 200);
    assert_eq!(world.upstream.requests()[1].get("x-table"), Some("2"));
    world.finish().await;
}

#[tokio::test]
async fn an_address_that_conflicts_with_the_daemons_own_port_is_reported() {
    let world = daemon().start().await;
    let port = world.address.port();

    listen(&world, &format!("\"0.0.0.0:{port}\""));
    world.configure(|text| {
        text.replacen("[server]", "[server]\nhosts = [\"localhost\"]\nallow_from = [\"127.0.0.0/8\"]", 1)
    });
    let problems = world.reload_in_vain().await;

    let why =
        format!("cannot listen on 0.0.0.0:{port} (server.listen) while bearerd listens on 127.0.0.1:{port}");
    assert!(problems.contains(&why) && problems.contains("restart"), "{problems}");
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_unix_socket_is_created_and_removed_by_a_reload() {
    let world = daemon().start().await;
    let path = world.folder().join("socket");
    let connect = async || UnixStream::connect(&path).await;

    listen(&world, &format!("[\"127.0.0.1:0\", \"unix:{}\"]", path.display()));
    world.reload().await;
    let mut caller = Caller::over(connect().await.unwrap(), "localhost");
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);

    listen(&world, "\"127.0.0.1:0\"");
    world.reload().await;
    assert!(caller.is_closed().await);
    eventually("its file is gone", async || !path.exists()).await;
    assert!(connect().await.is_err());
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_reload_switches_a_listener_to_tls_and_back() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let trusting = TlsCaller::trusting(pki.authority());
    let nobody = trusting.config(&[b"http/1.1"]);
    let showing = trusting.showing(&pki.client("billing", &[], None).unwrap());
    let world = daemon()
        .file("server.pem", &pki.server().certificate)
        .file("server-key.pem", &pki.server().key)
        .file("clients.pem", pki.authority_pem())
        .start()
        .await;
    let mut plain = world.caller().await;
    assert_eq!(plain.send(&Request::get("/x")).await.status, 200);
    let section = "[server.tls]\ncertificate = \"server.pem\"\nprivate_key = \"server-key.pem\"\n";

    world.configure(|text| text.replace("[server.limits]", &format!("{section}[server.limits]")));
    let event = world.reload().await;
    assert_eq!((&event["listeners"], &event["settings"]), (&"1 kept".into(), &"server.tls".into()));
    assert!(plain.is_closed().await, "what was said in clear text is over");
    let over_tls = async |config| {
        let stream = tls_caller::connect(world.address, config).await.ok()?;
        Caller::over(stream, "localhost").try_send(&Request::get("/x")).await.ok().map(|reply| reply.status)
    };
    assert_eq!(over_tls(Arc::clone(&nobody)).await, Some(200));
    let mut anonymous =
        Caller::over(tls_caller::connect(world.address, Arc::clone(&nobody)).await.unwrap(), "localhost");
    assert_eq!(anonymous.send(&Request::get("/x")).await.status, 200);

    world.configure(|text| text.replace("[server.limits]", "client_ca = \"clients.pem\"\n[server.limits]"));
    world.reload().await;
    assert!(anonymous.is_closed().await, "who has shown no certificate is not known");
    assert_eq!(over_tls(nobody).await, None);
    assert_eq!(over_tls(showing.config(&[b"http/1.1"])).await, Some(200));

    world.configure(|text| text.replace(section, "").replace("client_ca = \"clients.pem\"\n", ""));
    world.reload().await;
    assert_eq!(world.get("/x").await.status, 200, "in clear text again");
    world.finish().await;
}

#[tokio::test]
async fn a_silent_connection_follows_a_reload() {
    let world = daemon().start().await;
    let mut silent = world.caller().await;

    world.configure(|text| text + "[routes.headers]\nset = { x-table = \"2\" }\n");
    world.reload().await;

    let reply = tokio::time::timeout(STEP_TIMEOUT, silent.send(&Request::get("/x"))).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(world.upstream.requests()[0].get("x-table"), Some("2"));
    world.finish().await;
}
