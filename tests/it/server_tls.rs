//! Callers over TLS: client certificates, routes for callers, and changed certificate files.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use rustls::HandshakeKind;
use serde_json::Value;
use testkit::pki::{Issued, Pki};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{
    Caller, Http2Caller, PROMPT, Request, STEP_TIMEOUT, Setup, World, daemon, eventually, remains, spawn,
};
use testkit::harness::tls_caller::{TlsCaller, connect};

const DAY: Duration = Duration::from_hours(24);

/// A world whose callers speak TLS, and a caller that trusts its certificate.
async fn world(setup: impl FnOnce(Setup) -> Setup) -> (World, TlsCaller) {
    let pki = Pki::new(&["localhost"]).unwrap();
    let caller = TlsCaller::trusting(pki.authority());
    let setup = setup(daemon().tls(pki.server()));
    (setup.start_with(pki, async |_| {}).await, caller)
}

/// Replaces a file by a rename.
fn replace(folder: &Path, name: &str, content: &str) {
    let new = folder.join("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

/// The certificate that the daemon shows to a new caller.
async fn shown(world: &World, caller: &TlsCaller) -> Vec<u8> {
    let stream = connect(world.address, caller.config(&[])).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(issued: &Issued) -> Vec<u8> {
    issued.der().0[0].to_vec()
}

fn no_key_in(output: &str, issued: &Issued) {
    for line in issued.key.lines().filter(|line| !line.starts_with("-----")) {
        assert!(!output.contains(line), "a key was shown: {output}");
    }
}

#[tokio::test]
async fn callers_over_tls_speak_both_protocols_and_see_no_dead_token() {
    let (world, caller) = world(Setup::quiet).await;
    let mut http1 = caller.connect(world.address).await.unwrap();
    let mut http2 = caller.connect_http2(world.address).await.unwrap();
    let event = world.process.event("listening").await;
    assert_eq!(event["tls"], true, "{event}");

    let body = vec![b'x'; 200_000];
    for _ in 0..2 {
        assert_eq!(http1.send(&Request::post("/echo", &body)).await.body, body);
        assert_eq!(http2.send(&Request::post("/echo", &body)).await.body, body);
        assert_eq!(http1.send(&Request::get("/big/300000")).await.body.len(), 300_000);
        world.authorization.revoke_all();
    }

    assert!(world.upstream.rejected() >= 1, "a token was dead");
    world.finish().await;
}

#[tokio::test]
async fn a_session_is_resumed_in_either_version_and_no_early_data_is_taken() {
    let (world, caller) = world(Setup::quiet).await;
    for version in rustls::ALL_VERSIONS {
        let mut config = (*caller.config_in(&[*version], &[b"http/1.1"])).clone();
        config.enable_early_data = true;
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let stream = connect(world.address, Arc::clone(&config)).await.unwrap();
            let connection = stream.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(version.version));
            assert!(!connection.is_early_data_accepted());
            kinds.push(connection.handshake_kind());
            // Session tickets arrive before the first answer.
            assert_eq!(Caller::over(stream, "localhost").send(&Request::get("/x")).await.status, 200);
        }
        assert!(matches!(kinds[..], [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]), "{kinds:?}");
    }
    world.finish().await;
}

/// RFC 7301 §3.2.
#[tokio::test]
async fn the_version_that_alpn_agreed_on_is_the_only_one_spoken() {
    const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const HTTP1: &[u8] = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (world, caller) = world(Setup::quiet).await;
    let says = async |alpn: &[&[u8]], first: &[u8]| {
        let mut stream = connect(world.address, caller.config(alpn)).await.unwrap();
        stream.write_all(first).await.unwrap();
        let mut answer = Vec::new();
        let reading = tokio::time::timeout(STEP_TIMEOUT, stream.read_to_end(&mut answer));
        reading.await.expect("the connection stays open").unwrap();
        answer
    };

    let answer = says(&[b"h2"], HTTP1).await;
    assert!(answer.starts_with(&[0, 0, 0, 4]) && answer.ends_with(GOAWAY), "{answer:?}");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let answer = says(&[b"http/1.1"], preface).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("ALPN"), "{answer}");
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    let is_refusal = |event: &Value| event["http_response_status_code"] == 400;
    let refused = || world.process.events("request").into_iter().filter(is_refusal).collect::<Vec<_>>();
    eventually("both refusals in the log", async || refused().len() == 2).await;

    // Without ALPN the first bytes decide.
    let stream = connect(world.address, caller.config(&[])).await.unwrap();
    assert_eq!(Caller::over(stream, "localhost").send(&Request::get("/x")).await.status, 200);
    let stream = connect(world.address, caller.config(&[])).await.unwrap();
    let mut http2 = Http2Caller::over(stream, "https://localhost".to_owned()).await;
    assert_eq!(http2.send(&Request::get("/x")).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_refused_or_closed() {
    let (world, _) = world(Setup::quiet).await;
    for plain in ["GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"] {
        let mut caller = Caller::connect(world.address).await;
        caller.write(plain.as_bytes()).await;
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.code().as_deref()), (400, Some("bad_request")), "{plain}");
        assert!(reply.text().contains("https://"), "{}", reply.text());
        assert!(caller.is_closed().await);
    }
    for other in [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], b"\0\0\0", &[22; 300]] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(other).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    let told = world.process.event("caller spoke another protocol than the port").await;
    assert_eq!((&told["spoke"], &told["speaks"]), (&"HTTP".into(), &"TLS".into()), "{told}");
    assert_eq!(told["address"], world.address.to_string(), "{told}");
    assert_eq!(told["help"], "call it by https://", "{told}");
    world.finish().await;
}

#[tokio::test]
async fn tls_on_a_plain_port_is_logged_now_and_then() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let caller = TlsCaller::trusting(pki.authority());
    let world = daemon().quiet().server("workers = 1").start().await;

    for _ in 0..20 {
        assert!(caller.connect(world.address).await.is_err());
    }
    assert_eq!(world.get("/x").await.status, 200);

    let told = world.process.event("caller spoke another protocol than the port").await;
    assert_eq!((&told["spoke"], &told["speaks"]), (&"TLS".into(), &"HTTP".into()), "{told}");
    assert_eq!((&told["address"], &told["peer"]), (&world.address.to_string().into(), &"127.0.0.1".into()));
    assert!(told["help"].as_str().unwrap().contains("http://"), "{told}");
    assert_eq!(world.process.events("caller spoke another protocol than the port").len(), 1);
    world.finish().await;
}

/// SLOW-05.
#[tokio::test]
async fn slow_and_silent_handshakes_delay_nobody_and_are_closed() {
    let (world, caller) = world(|setup| setup.quiet().limits("tls_timeout = \"8s\"")).await;
    // The beginning of a ClientHello of 256 bytes.
    let half = [22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
    let started = Instant::now();
    let mut slow = Vec::new();
    for index in 0..150 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        if index % 3 > 0 {
            stream.write_all(&half[..if index % 3 == 1 { half.len() } else { 1 }]).await.unwrap();
        }
        slow.push(tokio::spawn(async move {
            let (mut reading, mut writing) = stream.into_split();
            let trickle = async {
                for byte in half.iter().skip(1).take(if index % 3 == 2 { 10 } else { 0 }) {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let _ = writing.write_all(&[*byte]).await;
                }
                std::future::pending::<()>().await;
            };
            let mut nothing = Vec::new();
            tokio::select! {
                _ = reading.read_to_end(&mut nothing) => {}
                () = trickle => {}
            }
            (started.elapsed(), nothing)
        }));
    }

    for _ in 0..10 {
        let began = Instant::now();
        let reply = caller.connect(world.address).await.unwrap().send(&Request::get("/x")).await;
        assert_eq!(reply.status, 200);
        assert!(began.elapsed() < PROMPT, "held up for {:?}", began.elapsed());
    }
    for one in slow {
        let (ended, said) = tokio::time::timeout(STEP_TIMEOUT, one).await.expect("stays open").unwrap();
        assert!(ended < Duration::from_secs(8) + PROMPT && said.is_empty(), "{ended:?}: {said:?}");
    }
    eventually("a line for each", async || world.process.events("handshake failed").len() == 150).await;
    let failures = world.process.events("handshake failed");
    assert!(failures.iter().all(|event| event["error"] == "not in time"), "{failures:?}");
    world.finish().await;
}

/// A world that requires client certificates, and their certificate authority.
async fn mutual(setup: impl FnOnce(Setup) -> Setup) -> (World, TlsCaller, Pki) {
    let clients = Pki::new(&["clients"]).unwrap();
    let (world, caller) = world(|with| setup(with.client_ca(clients.authority_pem()))).await;
    (world, caller, clients)
}

/// Whether a caller gets an answer.
async fn is_let_in(world: &World, caller: &TlsCaller) -> bool {
    match caller.connect(world.address).await {
        Err(_) => false,
        // In TLS 1.3 the refusal arrives after the client's handshake is complete.
        Ok(mut caller) => caller.try_send(&Request::get("/x")).await.is_ok(),
    }
}

#[tokio::test]
async fn only_callers_with_a_certificate_of_the_authority_are_accepted() {
    let (world, nobody, clients) = mutual(Setup::quiet).await;
    let now = SystemTime::now();
    let billing = clients.client("billing", &["spiffe://example.org/billing"], None).unwrap();
    let expired = clients.client("billing", &[], Some(now - DAY)).unwrap();
    let server = clients.another_server(&["billing"], None).unwrap();
    let foreign = Pki::new(&["clients"]).unwrap().client("billing", &[], None).unwrap();

    assert!(is_let_in(&world, &nobody.clone().showing(&billing)).await);
    for (other, why) in [(&expired, "Expired"), (&foreign, "certificate")] {
        assert!(!is_let_in(&world, &nobody.clone().showing(other)).await, "{why}");
    }
    assert!(!is_let_in(&world, &nobody).await);
    // rustls accepts a certificate that names no purpose.
    assert!(is_let_in(&world, &nobody.clone().showing(&server)).await);

    let access = world.process.event("request").await;
    assert_eq!(access["caller"], "CN=billing", "{access}");
    eventually("three refusals", async || world.process.events("handshake failed").len() == 3).await;
    let why: Vec<_> =
        world.process.events("handshake failed").iter().map(|e| e["error"].to_string()).collect();
    for expected in ["xpired", "no certificates"] {
        assert!(why.iter().any(|why| why.contains(expected)), "{why:?}");
    }
    assert_eq!(world.upstream.requests().len(), 2);
    no_key_in(&world.process.output(), &billing);
    world.finish().await;
}

#[tokio::test]
async fn a_routes_callers_key_admits_certificates_with_one_of_its_names() {
    let (world, nobody, clients) = mutual(|setup| {
        setup
            .quiet()
            .route("path = \"/pay\"\ncallers = [\"CN=billing\", \"URI:spiffe://example.org/pay\"]")
            .route("[[routes]]\nupstream = \"{upstream}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n")
    })
    .await;
    let client = |name, uris: &[&str]| nobody.clone().showing(&clients.client(name, uris, None).unwrap());
    for (caller, status) in [
        (client("billing", &[]), 200),
        (client("x", &["spiffe://example.org/pay"]), 200),
        (client("billing2", &["spiffe://example.org/payments"]), 403),
        (client("CN=billing", &[]), 403),
        (client("x, CN=billing", &[]), 403),
    ] {
        let mut http1 = caller.connect(world.address).await.unwrap();
        let mut http2 = caller.connect_http2(world.address).await.unwrap();
        assert_eq!(http1.send(&Request::get("/other")).await.status, 200, "a route for all");
        // A path that could be read as the other route's is refused.
        assert_eq!(http2.send(&Request::get("//pay")).await.status, 400);
        for reply in [http1.send(&Request::get("/pay/x")).await, http2.send(&Request::get("/pay/x")).await] {
            assert_eq!(reply.status, status, "{caller:?}");
            assert_eq!(reply.code().as_deref(), (status == 403).then_some("caller_not_allowed"));
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn client_certificates_allow_listening_beyond_loopback() {
    let (world, nobody, clients) =
        mutual(|setup| setup.quiet().server("listen = \"0.0.0.0:0\"\nhosts = [\"localhost\"]")).await;
    let billing = nobody.showing(&clients.client("billing", &[], None).unwrap());
    let address = (std::net::Ipv4Addr::LOCALHOST, world.address.port()).into();

    let reply = billing.connect(address).await.unwrap().send(&Request::get("/x")).await;

    assert_eq!(reply.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_session_does_not_outlive_the_callers_certificate() {
    let (world, nobody, clients) = mutual(Setup::quiet).await;
    let ends = SystemTime::now() + Duration::from_secs(3);
    let billing = clients.client("billing", &[], Some(ends)).unwrap();
    let config = nobody.showing(&billing).config(&[b"http/1.1"]);
    let stream = connect(world.address, Arc::clone(&config)).await.unwrap();
    assert_eq!(Caller::over(stream, "localhost").send(&Request::get("/x")).await.status, 200);

    tokio::time::sleep(Duration::from_secs(3)).await;
    let resumed = connect(world.address, config).await.unwrap();

    assert!(matches!(resumed.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed)));
    assert!(Caller::over(resumed, "localhost").try_send(&Request::get("/x")).await.is_err());
    let event = world.process.event("handshake failed").await;
    assert_eq!(event["error"], "the session's certificate has ended");
    world.finish().await;
}

#[tokio::test]
async fn certificates_are_swapped_under_load_without_a_failed_request() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let caller = TlsCaller::trusting(pki.authority());
    let others: Vec<Issued> = (0..2).map(|_| pki.another_server(&["localhost"], None).unwrap()).collect();
    let setup = daemon().quiet().tls(pki.server());
    let world = setup.start_with(pki, async |_| {}).await;
    let (done, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for index in 0..4 {
        let (caller, done, sent, address) =
            (caller.clone(), Arc::clone(&done), Arc::clone(&sent), world.address);
        load.push(tokio::spawn(async move {
            let mut kept = caller.connect(address).await.unwrap();
            let mut kept_http2 = caller.connect_http2(address).await.unwrap();
            while !done.load(Ordering::Relaxed) {
                assert_eq!(kept.send(&Request::get("/x")).await.status, 200);
                assert_eq!(kept_http2.send(&Request::get("/x")).await.status, 200);
                if index == 0 {
                    let mut new = caller.connect(address).await.unwrap();
                    assert_eq!(new.send(&Request::get("/x")).await.status, 200);
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    // As in Kubernetes: the files are symlinks through a symlink to a folder, and that one is replaced.
    let folder = world.folder();
    for (index, issued) in others.iter().enumerate() {
        let version = folder.join(format!("version-{index}"));
        std::fs::create_dir(&version).unwrap();
        std::fs::write(version.join("server.pem"), &issued.certificate).unwrap();
        std::fs::write(version.join("server-key.pem"), &issued.key).unwrap();
        symlink(&version, folder.join("swapped")).unwrap();
        std::fs::rename(folder.join("swapped"), folder.join("data")).unwrap();
        if index == 0 {
            for name in ["server.pem", "server-key.pem"] {
                symlink(Path::new("data").join(name), folder.join("link")).unwrap();
                std::fs::rename(folder.join("link"), folder.join(name)).unwrap();
            }
        }
        eventually("the new certificate", async || shown(&world, &caller).await == der(issued)).await;
        let before = sent.load(Ordering::Relaxed);
        eventually("more requests", async || sent.load(Ordering::Relaxed) > before + 8).await;
    }

    done.store(true, Ordering::Relaxed);
    for one in load {
        one.await.unwrap();
    }
    eventually("a line for each", async || world.process.events("server certificate reloaded").len() == 2)
        .await;
    let reloaded = world.process.events("server certificate reloaded");
    assert!(reloaded[0]["ends"].as_str().unwrap().starts_with("4096-"), "{reloaded:?}");
    for issued in &others {
        no_key_in(&world.process.output(), issued);
    }
    world.finish().await;
}

#[tokio::test]
async fn mismatched_certificate_files_change_nothing_and_are_reported_once() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let caller = TlsCaller::trusting(pki.authority());
    let first = pki.server().clone();
    let other = pki.another_server(&["localhost"], None).unwrap();
    let ended = pki.another_server(&["localhost"], Some(SystemTime::now() - DAY)).unwrap();
    let world = daemon().quiet().tls(&first).start_with(pki, async |_| {}).await;
    let folder = world.folder();
    let complaints = || world.process.events("server certificate not reloaded, kept the last one");
    let half = &other.key[..other.key.len() / 2];

    for (index, (certificate, key, why)) in [
        (&other.certificate, first.key.as_str(), "is not the key of the certificate"),
        (&other.certificate, half, "holds no private key in PEM form"),
        (&String::new(), &other.key, "holds no certificate in PEM form"),
        (&ended.certificate, &ended.key, "has expired"),
    ]
    .into_iter()
    .enumerate()
    {
        replace(&folder, "server.pem", certificate);
        replace(&folder, "server-key.pem", key);
        // SIGHUP reports the problem at once; otherwise the second check would.
        world.process.signal(Signal::HUP);
        eventually(why, async || complaints().len() > index).await;
        let error = complaints()[index]["error"].to_string();
        assert!(error.contains(why), "{error}");
        assert_eq!(shown(&world, &caller).await, der(&first), "{why}");
    }
    // Two more checks report nothing.
    remains("no further complaint", Duration::from_millis(4500), async || complaints().len() == 4).await;

    replace(&folder, "server.pem", &other.certificate);
    replace(&folder, "server-key.pem", &other.key);
    world.process.signal(Signal::HUP);
    eventually("the good one", async || shown(&world, &caller).await == der(&other)).await;
    no_key_in(&world.process.output(), &other);
    world.finish().await;
}

#[tokio::test]
async fn a_changed_client_authority_ends_old_sessions() {
    let (world, nobody, old) = mutual(Setup::quiet).await;
    let new = Pki::new(&["clients"]).unwrap();
    let of_old = nobody.clone().showing(&old.client("billing", &[], None).unwrap());
    let of_new = nobody.showing(&new.client("billing", &[], None).unwrap());
    let config = of_old.config(&[b"http/1.1"]);
    let mut kept = Caller::over(connect(world.address, Arc::clone(&config)).await.unwrap(), "localhost");
    assert_eq!(kept.send(&Request::get("/x")).await.status, 200);
    assert!(!is_let_in(&world, &of_new).await);

    replace(&world.folder(), "clients.pem", new.authority_pem());
    world.process.signal(Signal::HUP);
    world.process.event("server certificate reloaded").await;

    assert!(is_let_in(&world, &of_new).await);
    assert!(!is_let_in(&world, &of_old).await);
    // A certificate behind an old ticket is verified again and refused.
    if let Ok(stream) = connect(world.address, config).await {
        assert!(Caller::over(stream, "localhost").try_send(&Request::get("/x")).await.is_err());
    }
    assert_eq!(kept.send(&Request::get("/x")).await.status, 200, "a connection that was there stays");
    world.finish().await;
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_over_tls_finish() {
    let (mut world, caller) = world(Setup::quiet).await;
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut http1 = caller.connect(world.address).await.unwrap();
        let mut http2 = caller.connect_http2(world.address).await.unwrap();
        slow.push(tokio::spawn(async move { http1.send(&Request::get("/slow/1000")).await }));
        slow.push(tokio::spawn(async move { http2.send(&Request::get("/slow/1000")).await }));
    }
    let mut idle = caller.connect(world.address).await.unwrap();
    // A handshake that lasts as long as it may.
    let _silent = TcpStream::connect(world.address).await.unwrap();
    eventually("all requests", async || world.upstream.requests().len() >= 10).await;

    world.process.signal(Signal::TERM);

    for one in slow {
        assert_eq!(one.await.unwrap().status, 200);
    }
    assert!(idle.is_closed().await);
    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!(world.process.events("drain timeout expired").is_empty(), "a silent handshake is not waited for");
    world.check();
}

/// The output of `check` for a folder's files.
async fn checked(folder: &Path, tls: &str) -> (Option<i32>, String) {
    let config = format!(
        "[server.tls]\n{tls}\n[[routes]]\nupstream = \"https://127.0.0.1:9\"\ncredential = \"none\"\nca_file = \"ca.pem\"\n"
    );
    std::fs::write(folder.join("proxy.toml"), config).unwrap();
    let mut check = spawn(&["check"], &[], folder);
    let status = check.ended().await;
    (status.code(), check.output())
}

#[tokio::test]
async fn check_reports_errors_of_the_servers_certificate_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::new(&["localhost"]).unwrap();
    let now = SystemTime::now();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    let good = pki.server();
    let soon = pki.another_server(&["localhost"], Some(now + 13 * DAY)).unwrap();
    let ended = pki.another_server(&["localhost"], Some(now - DAY)).unwrap();
    for (name, issued) in [("good", good), ("soon", &soon), ("ended", &ended)] {
        write(&format!("{name}.pem"), &issued.certificate);
        write(&format!("{name}-key.pem"), &issued.key);
    }
    write("ca.pem", pki.authority_pem());
    write("oneline.pem", &good.key.replace('\n', ""));
    write("empty.pem", "");
    let of =
        |certificate: &str, key: &str| format!("certificate = \"{certificate}\"\nprivate_key = \"{key}\"");

    let (code, output) = checked(folder.path(), &of("good.pem", "good-key.pem")).await;
    assert!(code == Some(0) && !output.contains("warning"), "{output}");
    let (code, output) = checked(folder.path(), &of("soon.pem", "soon-key.pem")).await;
    assert!(
        code == Some(0)
            && output.contains("`certificate`: `CN=bearerd demo server` expires on ")
            && output.contains("1 warning"),
        "{output}"
    );
    for (tls, line, said) in [
        (of("good.pem", "soon-key.pem"), 3, "soon-key.pem is not the key of the certificate"),
        (of("ended.pem", "ended-key.pem"), 2, "ended.pem has expired"),
        (of("gone.pem", "good-key.pem"), 2, "gone.pem: No such file"),
        (of("empty.pem", "good-key.pem"), 2, "empty.pem holds no certificate in PEM form"),
        (of("good.pem", "good.pem"), 3, "good.pem holds no private key in PEM form"),
        (of("good.pem", "oneline.pem"), 3, "oneline.pem holds no private key in PEM form"),
        (of("good.pem", "."), 3, "not a regular file"),
        (format!("{}\nclient_ca = \"empty.pem\"", of("good.pem", "good-key.pem")), 4, "holds no certificate"),
        ("certificate = \"good.pem\"".to_owned(), 1, "`private_key` is missing"),
    ] {
        let (code, output) = checked(folder.path(), &tls).await;
        assert_eq!(code, Some(78), "{output}");
        assert!(output.contains(said) && output.contains("help: "), "{output}");
        assert!(output.contains(&format!("proxy.toml:{line}:")), "{output}");
        for issued in [good, &soon, &ended] {
            no_key_in(&output, issued);
        }
        assert!(!output.contains("MIGHAg"), "{output}");
    }
}
