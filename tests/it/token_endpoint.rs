//! The token endpoint: first tokens, unusual answers and outages, and how often the endpoint is asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use testkit::authorization_server::{Answer, AuthorizationServer};
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::harness::{PROMPT, Request, World, daemon, eventually, remains};
use testkit::harness::raw::{RawPeer, read_head, reset};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};

fn fixed(status: u16, fields: &[(&'static str, &str)], body: &str) -> Answer {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Answer::Fixed { status, fields, body: body.to_owned() }
}

#[tokio::test]
async fn a_request_before_the_first_token_waits_for_it() {
    let world = daemon().without_token().start_after(async |server| server.hold()).await;
    let request = world.get("/x");
    let release = async {
        remains("not sent", Duration::from_millis(300), async || world.upstream.request_count() == 0).await;
        world.authorization.release();
    };

    let (reply, ()) = tokio::join!(request, release);

    assert_eq!(reply.status, 200);
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_first_token_that_does_not_come_in_time_is_reported() {
    let world = daemon()
        .without_token()
        .limits("token_wait = \"300ms\"")
        .start_after(async |server| server.hold())
        .await;
    assert_eq!(world.admin_status("/readyz").await, 503);
    assert_eq!(world.admin_status("/livez").await, 200);

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("waiting_for_first_token")));
    assert_eq!(reply.get("retry-after"), Some("1"));
    world.authorization.release();
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn the_request_is_a_form_with_one_client_authentication() {
    let basic = daemon().credential("scopes = [\"a:read\", \"b\"]").start().await;
    let asked = &basic.authorization.asked()[0];
    assert_eq!(asked.raw, "grant_type=client_credentials&scope=a%3Aread+b");
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(asked.headers["accept"], "application/json");
    assert!(asked.headers["authorization"].to_str().unwrap().starts_with("Basic "));
    basic.finish().await;

    let post = daemon().credential("client_auth = \"client_secret_post\"").start().await;
    let asked = &post.authorization.asked()[0];
    assert!(!asked.headers.contains_key("authorization"));
    let secret: String = url::form_urlencoded::byte_serialize(CLIENT_SECRET.as_bytes()).collect();
    assert_eq!(
        asked.raw,
        format!("grant_type=client_credentials&client_id={CLIENT_ID}&client_secret={secret}")
    );
    post.finish().await;
}

/// Each transient answer is retried while the caller waits.
#[tokio::test]
async fn a_transient_answer_is_retried_after_the_backoff() {
    let huge = format!("{{\"access_token\":\"{}\"}}", "x".repeat(70_000));
    let answers = [
        fixed(200, &[], ""),
        fixed(200, &[("content-type", "text/html")], "<html>all is well</html>"),
        fixed(200, &[], "{\"access_token\":\"tok_trunc"),
        fixed(200, &[], "{\"token_type\":\"bearer\"}"),
        fixed(200, &[], "{\"error\":\"server_error\"}"),
        fixed(400, &[], "{\"error\":\"temporarily_unavailable\"}"),
        fixed(200, &[], &huge),
        fixed(200, &[], "{\"access_token\":\"a b\"}"),
        fixed(200, &[], "{\"access_token\":\"a\\r\\nx-injected: y\"}"),
        fixed(200, &[], "{\"access_token\":\"x\",\"access_token\":\"y\"}"),
        fixed(200, &[], "{\"access_token\":\"x\",\"expires_in\":-1}"),
        fixed(200, &[], "{\"access_token\":\"x\",\"expires_in\":\"soon\"}"),
        fixed(200, &[], "{\"access_token\":\"x\",\"token_type\":\"mac\"}"),
        fixed(200, &[("content-encoding", "gzip")], "\u{1f}\u{8b}\u{8}"),
        fixed(204, &[], ""),
        fixed(206, &[], "{\"access_token\":\"x\"}"),
        fixed(500, &[], ""),
        fixed(502, &[], "<html>"),
        fixed(503, &[], ""),
        fixed(504, &[], ""),
        fixed(429, &[("retry-after", "1")], ""),
        fixed(400, &[("retry-after", "1")], "{\"error\":\"invalid_client\"}"),
        fixed(503, &[("retry-after", "1")], ""),
        Answer::Hangup,
    ];
    for answer in answers {
        let world =
            daemon().without_token().start_after(async |server| server.answer_next(answer.clone())).await;

        let reply = world.get("/x").await;

        assert_eq!(reply.status, 200, "{answer:?}: {}", reply.text());
        assert_eq!(world.authorization.requests(), 2, "{answer:?}");
        let asked = world.authorization.asked();
        let gap = asked[1].at - asked[0].at;
        assert!(gap >= Duration::from_millis(450), "{answer:?}: asked again after {gap:?}");
        world.finish().await;
    }
}

/// Each permanent rejection is reported at once and not retried.
#[tokio::test]
async fn a_rejection_is_reported_at_once_and_not_retried() {
    let answers = [
        fixed(400, &[], "{\"error\":\"invalid_client\"}"),
        fixed(401, &[], "{\"error\":\"invalid_client\",\"error_description\":\"who?\\r\\nforged: line\"}"),
        fixed(400, &[], "{\"error\":\"unauthorized_client\"}"),
        fixed(400, &[], "{\"error\":\"unsupported_grant_type\"}"),
        fixed(400, &[], "{\"error\":\"invalid_scope\"}"),
        fixed(400, &[], "{\"error\":\"invalid_grant\"}"),
        fixed(200, &[], "{\"error\":\"invalid_grant\"}"),
        fixed(200, &[], "error=invalid_grant&error_description=gone"),
        fixed(400, &[], "{\"error\":\"invalid_request\"}"),
        fixed(403, &[], "<html>forbidden</html>"),
        fixed(404, &[], ""),
        fixed(302, &[("location", "https://elsewhere.test/token")], ""),
    ];
    for answer in answers {
        let world = daemon()
            .without_token()
            .credential("basic_encoding = \"raw\"")
            .start_after(async |server| server.answer_next(answer.clone()))
            .await;
        eventually("the refusal", async || world.authorization.requests() == 1).await;
        let started = Instant::now();

        let reply = world.get("/x").await;

        assert_eq!((reply.status, reply.code().as_deref()), (503, Some("client_rejected")), "{answer:?}");
        assert_eq!(reply.get("retry-after"), None, "waiting does not help");
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        remains("one token request", Duration::from_millis(300), async || {
            world.authorization.requests() == 1
        })
        .await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_rate_limit_in_a_400_is_a_rate_limit() {
    let body = "{\"error\":\"invalid_request\",\"error_description\":\"rate limit exceeded; try later\"}";
    let world = daemon()
        .without_token()
        .credential("retry_after_max = \"1s\"")
        .start_after(async |server| server.answer_next(fixed(400, &[], body)))
        .await;
    eventually("the refusal", async || world.authorization.requests() == 1).await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_rate_limited")));
    let wait: u64 = reply.get("retry-after").unwrap().parse().unwrap();
    assert!((58..=62).contains(&wait), "{wait}");
    world.finish().await;
}

#[tokio::test]
async fn a_rate_limit_without_a_time_is_a_rate_limit() {
    let world = daemon()
        .without_token()
        .limits("token_wait = \"100ms\"")
        .start_after(async |server| server.answer_next(fixed(429, &[], "")))
        .await;
    world.process.event("token refresh failed").await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_rate_limited")));
    let wait: u64 = reply.get("retry-after").unwrap().parse().unwrap();
    assert!((58..=62).contains(&wait), "{wait}");
    world.finish().await;
}

/// An ingress answers like this while the authorization server restarts, and a firewall when it pleases.
#[tokio::test]
async fn an_unknown_error_while_a_token_is_held_is_retried_after_the_backoff() {
    let world = daemon().quiet().lifetime(8).start().await;
    let before = world.authorization.requests();
    world.authorization.answer_next(fixed(404, &[], "default backend - 404"));
    world.authorization.answer_next(fixed(403, &[], "<html>blocked</html>"));

    eventually("a new token", async || world.authorization.requests() == before + 3).await;

    let asked = world.authorization.asked();
    assert!(asked[before + 2].at - asked[before].at < Duration::from_secs(4), "a latch lasts 30 s");
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn the_configured_error_codes_and_token_types_are_those_of_the_server() {
    let world = daemon()
        .without_token()
        .credential("token_types = [\"N_A\"]\nerrors = { throttled = [\"busy\"] }")
        .start_after(async |server| server.answer_next(fixed(400, &[], "{\"error\":\"busy\"}")))
        .await;
    eventually("the refusal", async || world.authorization.requests() == 1).await;

    assert_eq!(world.get("/x").await.code().as_deref(), Some("token_endpoint_rate_limited"));
    world.finish().await;

    let token = "{\"access_token\":\"t\",\"token_type\":\"n_a\",\"expires_in\":60}";
    let world = daemon()
        .without_token()
        .credential("token_types = [\"N_A\"]")
        .start_after(async |server| server.answer_next(fixed(200, &[], token)))
        .await;
    world.process.event("token refreshed").await;
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_retry_after_is_clamped_to_the_configured_maximum() {
    let world = daemon()
        .without_token()
        .credential("retry_after_max = \"1s\"")
        .start_after(async |server| server.answer_next(Answer::too_many(31_536_000)))
        .await;

    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_redirect_of_the_token_endpoint_is_not_followed() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let elsewhere = RawPeer::tcp(move |_| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("http://{}/token", elsewhere.address);
        let world = daemon()
            .without_token()
            .start_after(async |server| server.answer_next(fixed(status, &[("location", &location)], "")))
            .await;
        eventually("the redirect", async || world.authorization.requests() == 1).await;
        assert_eq!(world.get("/x").await.code().as_deref(), Some("client_rejected"));
        world.finish().await;
    }
    assert_eq!(seen.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_token_of_six_seconds_is_replaced_before_it_expires() {
    let world = daemon().quiet().lifetime(6).start().await;
    let mut caller = world.caller().await;
    for requests in 2..=4 {
        world.authorization.hold();
        eventually("a refresh", async || {
            assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
            world.authorization.requests() == requests
        })
        .await;
        // No request waits for the pending refresh.
        for _ in 0..10 {
            assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
        }
        assert_eq!(world.authorization.issued().len(), requests - 1);
        world.authorization.release();
        eventually("the token", async || world.authorization.issued().len() == requests).await;
    }

    assert_eq!(world.upstream.rejected(), 0);
    let asked = world.authorization.asked();
    let gaps = asked.windows(2).map(|pair| pair[1].at - pair[0].at);
    assert!(gaps.min() >= Some(Duration::from_secs(2)));
    world.finish().await;
}

#[tokio::test]
async fn without_the_endpoint_a_token_is_used_until_its_end_and_not_longer() {
    let world = daemon().quiet().lifetime(5).limits("token_wait = \"200ms\"").start().await;
    // The daemon refreshes from second 4 on; all attempts fail.
    for _ in 0..8 {
        world.authorization.answer_next(Answer::Hangup);
    }
    let mut caller = world.caller().await;
    let (token, tokens) = (world.authorization.issued().remove(0), world.authorization.introspection());
    // For the daemon, the lifetime begins when the request for the token is sent.
    let latency = world.process.event("token refreshed").await["latency_ms"].as_f64().unwrap();
    let earliest = Duration::from_secs_f64(latency / 1000.0) + Duration::from_millis(100);
    let reply = loop {
        let was_live = tokens.remaining(&token) > Duration::ZERO;
        let reply = caller.send(&Request::get("/x")).await;
        if reply.status != 200 {
            let remaining = tokens.remaining(&token);
            assert!(remaining < earliest, "refused {remaining:?} before the end");
            break reply;
        }
        assert!(was_live, "answered after the end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    assert!(reply.get("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(world.upstream.rejected(), 0, "a stale token was never sent");

    // The daemon recovers by itself.
    eventually("more attempts", async || world.authorization.requests() >= 5).await;
    world.authorization.forget_queue();
    eventually("recovery", async || world.get("/x").await.status == 200).await;
    world.process.event("credential recovered").await;
    world.finish().await;
}

#[tokio::test]
async fn a_retry_after_while_the_token_is_valid_is_obeyed_and_fails_no_request() {
    let world = daemon().quiet().lifetime(8).start().await;
    let before = world.authorization.requests();
    world.authorization.answer_next(Answer::too_many(1));
    let started = Instant::now();
    let mut caller = world.caller().await;
    while started.elapsed() < Duration::from_secs(9) {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200, "{:?}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked = world.authorization.asked();
    let gap = asked[before + 1].at - asked[before].at;
    assert!(gap >= Duration::from_secs(1), "{gap:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_rejected_token_is_audited_once_even_under_a_retry_after() {
    let world = daemon().start().await;
    world.authorization.answer_next(Answer::too_many(600));
    world.authorization.revoke_all();

    for _ in 0..3 {
        assert_eq!(world.get("/x").await.code().as_deref(), Some("token_endpoint_rate_limited"));
    }

    world.process.event("token rejected upstream").await;
    let events = world.process.events("token rejected upstream");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (events[0]["event"].as_str(), events[0]["generation"].as_u64()),
        (Some("token.rejected"), Some(1))
    );
    assert!(events[0]["fingerprint"].as_str().is_some_and(|print| print.len() == 16));
    world.finish().await;
}

#[tokio::test]
async fn a_token_rejected_during_a_rejection_hold_is_audited_at_once() {
    let world = daemon()
        .lifetime(8)
        .limits("token_wait = \"200ms\"")
        .credential("basic_encoding = \"raw\"")
        .start()
        .await;
    // The scheduled refresh is rejected at second 6, and the rejection hold lasts until after the token's end.
    world.authorization.answer_next(fixed(401, &[], "{\"error\":\"invalid_client\"}"));
    world.process.event("token refresh failed").await;
    assert!(world.process.events("token rejected upstream").is_empty());
    world.authorization.revoke_all();

    assert_eq!(world.get("/x").await.code().as_deref(), Some("client_rejected"));

    world.process.event("token rejected upstream").await;
    assert_eq!(world.authorization.requests(), 2);
    world.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_at_the_start_is_retried() {
    let reserved = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let world = daemon()
        .without_token()
        .limits("token_wait = \"200ms\"")
        .token_url(format!("http://{address}/token"))
        .start()
        .await;
    let reply = world.get("/x").await;
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    assert_eq!(world.admin_status("/readyz").await, 503);

    // A forwarder to the scripted server listens on the address.
    let target = world.authorization.token_url();
    let target = target.trim_start_matches("http://").trim_end_matches("/token").to_owned();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let forwarding = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    assert_eq!(world.get("/x").await.status, 200);
    forwarding.abort();
    world.finish().await;
}

#[tokio::test]
async fn an_endpoint_whose_name_does_not_resolve_is_unavailable() {
    let world = daemon()
        .without_token()
        .limits("token_wait = \"300ms\"")
        .token_url("https://no-such-host.invalid/token".to_owned())
        .start()
        .await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    let failed = world.process.event("token refresh failed").await;
    assert_eq!(
        (failed["outcome"].as_str(), failed["needs_person"].as_bool()),
        (Some("network"), Some(false))
    );
    world.finish().await;
}

/// Peers that keep a connection and send nothing, too little, or too much.
#[tokio::test]
async fn an_endpoint_that_stalls_times_out() {
    let silent = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let dripping = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let endless_head = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        while stream.write_all(b"x-more: and more\r\n").await.is_ok() {}
    })
    .await;
    let endless_body = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"5\r\n     \r\n").await.is_ok() {}
    })
    .await;
    let resetting = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"access_token\":\"tok_half")
            .await;
        // Time for the daemon to read the bytes before the reset.
        tokio::time::sleep(Duration::from_millis(50)).await;
        reset(&stream);
    })
    .await;
    let old = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"{\"access_token\":\"tok_http09\"}").await;
    })
    .await;
    let promising = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)).await;
        std::future::pending::<()>().await;
    })
    .await;
    let switching = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: token\r\n\r\n";
        let _ = stream.write_all(format!("{head}{{\"access_token\":\"tok_switched\"}}").as_bytes()).await;
    })
    .await;
    // A gzip body that would be a gigabyte of blanks.
    let packed = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n";
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xc1\x01\x0d\0\0\0\xc2\xa0").await;
    })
    .await;
    for peer in
        [&silent, &dripping, &endless_head, &endless_body, &resetting, &old, &promising, &switching, &packed]
    {
        let world = daemon()
            .quiet()
            .without_token()
            .limits("token_wait = \"1500ms\"")
            .credential("timeout = \"500ms\"")
            .token_url(format!("http://{}/token", peer.address))
            .start()
            .await;
        let (started, before) = (Instant::now(), world.process.resident_kib());

        let reply = world.get("/x").await;

        assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
        world.process.event("token refresh failed").await;
        let grown = world.process.resident_kib().saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} KiB more");
        world.finish().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_sends_100_continue_without_end_times_out() {
    let promising = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let promises = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
        // Without a pause a debug build would read for seconds before it checks the time.
        while stream.write_all(&promises).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let world = daemon()
        .quiet()
        .without_token()
        .credential("timeout = \"500ms\"")
        .token_url(format!("http://{}/token", promising.address))
        .start()
        .await;
    let before = world.process.resident_kib();

    world.process.event("token refresh failed").await;
    drop(promising);
    eventually("its health", async || world.admin_status("/livez").await == 200).await;

    let grown = world.process.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    world.finish().await;
}

#[tokio::test]
async fn no_byte_is_sent_to_an_endpoint_with_a_bad_certificate() {
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    let shown = |pki: &Pki| pki.server_config(&[b"http/1.1"]).unwrap();
    let elsewhere = Pki::new(&["login.evil.test"]).unwrap();
    let ended = Pki::ending(&["localhost"], yesterday).unwrap();
    let cases = [
        ("another authority", shown(&Pki::new(&["localhost"]).unwrap()), Pki::new(&["localhost"]).unwrap()),
        ("another name", shown(&elsewhere), elsewhere),
        ("ended", shown(&ended), ended),
    ];
    for (what, certificate, trusted) in cases {
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        let imposter = RawPeer::tls(certificate, move |mut stream| {
            let counter = Arc::clone(&counter);
            async move {
                let mut byte = [0; 1];
                if stream.read(&mut byte).await.unwrap_or(0) > 0 {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
        .await;
        let world = daemon()
            .without_token()
            .limits("token_wait = \"500ms\"")
            .credential("ca_file = \"ca.pem\"")
            .token_url(format!("https://localhost:{}/token", imposter.address.port()))
            .start_with(trusted, async |_| {})
            .await;

        let reply = world.get("/x").await;

        assert_eq!(
            (reply.status, reply.code().as_deref()),
            (503, Some("token_endpoint_unavailable")),
            "{what}"
        );
        assert_eq!(
            seen.load(Ordering::Relaxed),
            0,
            "something was sent before the certificate was checked: {what}"
        );
        world.finish().await;
    }
}

#[tokio::test]
async fn the_token_endpoints_own_certificate_authority_is_used() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let tls = pki.server_config(&[b"http/1.1"]).unwrap();
    let secure = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, Some(tls)).await.unwrap();
    let setup = daemon().without_token().credential("ca_file = \"ca.pem\"").token_url(secure.token_url());
    let world = setup.start_with(pki, async |_| {}).await;

    eventually("ready", async || world.admin_status("/readyz").await == 200).await;

    assert_eq!(secure.requests(), 1);
    for token in secure.issued() {
        assert!(!world.process.output().contains(&token));
    }
    world.finish().await;
}

/// Token endpoint and upstream without a `ca_file`.
#[tokio::test]
async fn the_systems_certificate_authorities_are_the_default() {
    let world = daemon().environment("SSL_CERT_FILE", "ca.pem").start().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;

    let pki = Pki::new(&["localhost"]).unwrap();
    let tls = pki.server_config(&[b"http/1.1"]).unwrap();
    let secure = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, Some(tls)).await.unwrap();
    let setup = daemon().environment("SSL_CERT_FILE", "ca.pem").token_url(secure.token_url());
    let world = setup.start_with(pki, async |_| {}).await;
    assert_eq!(secure.requests(), 1);
    world.finish().await;
}

/// One of both servers has a certificate of an authority of the system, and the other one of a private authority.
#[tokio::test]
async fn system_roots_adds_the_authorities_of_ca_file_to_those_of_the_system() {
    for (system_roots, api_is_private) in [(true, true), (true, false), (false, true), (false, false)] {
        let [private, system] = [(); 2].map(|()| Pki::new(&["localhost"]).unwrap());
        let (private_pem, system_pem) =
            (private.authority_pem().to_owned(), system.authority_pem().to_owned());
        let (of_api, of_tokens) = if api_is_private { (private, system) } else { (system, private) };
        let tls = of_tokens.server_config(&[b"http/1.1"]).unwrap();
        let secure = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, Some(tls)).await.unwrap();
        let keys = format!("ca_file = \"private.pem\"\nsystem_roots = {system_roots}\n");
        let world = daemon()
            .environment("SSL_CERT_FILE", "system.pem")
            .file("system.pem", &system_pem)
            .file("private.pem", &private_pem)
            .unchecked_tokens()
            .without_token()
            .credential(&keys)
            .token_url(secure.token_url())
            .route(&keys)
            .start_with(of_api, async |_| {})
            .await;

        if api_is_private && !system_roots {
            let failed = world.process.event("token refresh failed").await;
            assert_eq!(failed["outcome"], "network", "{failed}");
        } else {
            world.ready().await;
            let reply = world.get("/x").await;
            // The API does not know the tokens of this server.
            let expected = if system_roots { (401, None) } else { (502, Some("upstream_tls")) };
            assert_eq!((reply.status, reply.code().as_deref()), expected);
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn no_certificate_authorities_are_needed_without_tls() {
    let world = daemon()
        .environment("SSL_CERT_FILE", "none.pem")
        .environment("SSL_CERT_DIR", "none")
        .upstream("http://127.0.0.1:9".to_owned())
        .start()
        .await;
    assert_eq!(world.get("/x").await.code().as_deref(), Some("upstream_unreachable"));
    world.finish().await;
}

#[tokio::test]
async fn a_token_without_the_required_scopes_is_not_used() {
    let world = daemon()
        .without_token()
        .credential("scopes = [\"a\", \"b\"]\nrequire_scopes = true")
        .start_after(async |server| {
            server.answer_next(fixed(200, &[], "{\"access_token\":\"{token}\",\"scope\":\"a\"}"));
        })
        .await;
    eventually("the grant", async || world.authorization.requests() == 1).await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("scope_missing")));
    assert!(world.upstream.requests().is_empty());
    world.finish().await;
}

/// An unusual answer is reported when it begins, and not again while it lasts.
#[tokio::test]
async fn an_unusual_accepted_answer_is_warned_of_once() {
    let odd = |scope: &str| {
        let body = format!("{{\"access_token\":\"{{token}}\",\"expires_in\":3600,\"scope\":\"{scope}\"}}");
        fixed(200, &[("content-type", "text/html")], &body)
    };
    let world = daemon()
        .credential("scopes = [\"a\", \"b\", \"openid\"]\nrequire_scopes = [\"a\"]\nretry_after_max = \"1s\"")
        .credential("quota = { requests = 100, per = \"1s\" }")
        .start_after(async |server| server.answer_next(odd("a")))
        .await;
    let warned = |message: &str| {
        let events = world.process.events(message);
        assert!(
            events.iter().all(|event| event["level"] == "WARN" && event["credential"] == "api"),
            "{events:?}"
        );
        events
    };
    for answers in [
        vec![odd("a")],
        vec![Answer::too_many(600), odd("a")],
        vec![Answer::too_many(700), odd("a")],
        vec![Answer::Lifetime(3600)],
        vec![odd("c a")],
    ] {
        let before = world.authorization.requests();
        let expected = answers.len();
        for answer in answers {
            world.authorization.answer_next(answer);
        }
        world.authorization.revoke_all();
        eventually("a token", async || world.get("/x").await.status == 200).await;
        assert_eq!(world.token_requests_since(before), expected);
    }
    eventually("the last", async || world.process.events("token refreshed").len() == 6).await;

    assert_eq!(warned("token answer was JSON and its Content-Type was not").len(), 2);
    let scopes = warned("fewer scopes were granted than asked for");
    assert_eq!(scopes.iter().map(|event| event["scopes"].as_str().unwrap()).collect::<Vec<_>>(), ["b", "b"]);
    let waits = warned("Retry-After was longer than retry_after_max");
    assert_eq!(waits.len(), 1);
    assert_eq!(
        (waits[0]["asked_seconds"].as_u64(), waits[0]["retry_after_max_seconds"].as_u64()),
        (Some(600), Some(1))
    );
    world.finish().await;
}

#[tokio::test]
async fn an_opaque_token_is_not_used_where_a_jwt_is_expected() {
    let good = "{\"access_token\":\"e30.e30.{token}\"}";
    let world = daemon()
        .without_token()
        .unchecked_tokens()
        .credential("expect_jwt = true")
        .start_after(async |server| server.answer_next(fixed(200, &[], good)))
        .await;
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    world.authorization.answer_next(fixed(200, &[], "{\"access_token\":\"opaque\"}"));
    // A 401 forces a refresh, and the opaque token is refused.
    let reply = world.get("/x").await;
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    let failed = world.process.event("token refresh failed").await;
    assert!(failed["error"].as_str().unwrap().contains("form of a JWT"), "{failed}");
    world.finish().await;
}

/// A JWT that expires in so many seconds, by the wall clock plus an offset.
fn jwt_until(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let payload = format!("{{\"exp\":{}}}", now.saturating_add_signed(seconds));
    format!("e30.{}.{{token}}", URL_SAFE_NO_PAD.encode(payload))
}

/// The server's `Date` counts for its tokens, and a deviating clock is reported once.
#[tokio::test]
async fn a_jwt_ends_at_the_earlier_of_exp_and_expires_in() {
    for (exp, expires_in, server_ahead, expected) in [
        (100, ",\"expires_in\":3600", 0, Some(90..=100)),
        (3600, ",\"expires_in\":100", 0, Some(100..=100)),
        (700, "", 0, Some(690..=700)),
        (4100, ",\"expires_in\":5000", 4000, Some(90..=100)),
        (0, ",\"expires_in\":3600", 0, None),
    ] {
        let body = format!("{{\"access_token\":\"{}\"{expires_in}}}", jwt_until(exp));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(server_ahead));
        let answer = fixed(200, &[("content-type", "application/json"), ("date", &date)], &body);
        let world = daemon()
            .without_token()
            .unchecked_tokens()
            .credential("expect_jwt = true")
            .start_after(async |server| server.answer_next(answer))
            .await;
        match expected {
            Some(expected) => {
                let refreshed = world.process.event("token refreshed").await;
                let lifetime = refreshed["lifetime_seconds"].as_u64().unwrap();
                assert!(expected.contains(&lifetime), "{exp} {expires_in}: {lifetime}");
            }
            None => {
                let failed = world.process.event("token refresh failed").await;
                assert!(failed["error"].as_str().unwrap().contains("has ended already"), "{failed}");
            }
        }
        let skews = world.process.events("clock differs from the authorization server's");
        assert_eq!(skews.len(), usize::from(server_ahead > 60), "{skews:?}");
        assert!(skews.iter().all(|skew| skew["ours"] == "behind" && skew["level"] == "WARN"), "{skews:?}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_changed_secret_is_tried_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "not-the-secret").unwrap();
    let world =
        daemon().without_token().secret(&format!("{{ file = \"{}\" }}", file.display())).start().await;
    eventually("the refusal", async || world.authorization.requests() == 1).await;
    assert_eq!(world.get("/x").await.code().as_deref(), Some("client_rejected"));

    // As in Kubernetes: a new file, and a rename over the old one.
    std::fs::write(folder.path().join("new"), format!("{CLIENT_SECRET}\n")).unwrap();
    std::fs::rename(folder.path().join("new"), &file).unwrap();

    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    assert_eq!(world.authorization.requests(), 2);
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn an_unreadable_secret_file_leaves_the_last_secret_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, CLIENT_SECRET).unwrap();
    let world = daemon()
        .credential("quota = { requests = 100, per = \"1s\" }")
        .secret(&format!("{{ file = \"{}\" }}", file.display()))
        .start()
        .await;
    // Opening a pipe would block until a writer opens it.
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::fs::rename(&pipe, &file).unwrap();

    for _ in 0..3 {
        world.authorization.revoke_all();
        let started = Instant::now();
        assert_eq!(world.get("/x").await.status, 200);
        assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    }
    let warning = world.process.event("secret not readable, kept the last one").await;
    assert!(warning["error"].as_str().unwrap().contains("not a regular file"), "{warning}");
    assert_eq!(world.process.events("secret not readable, kept the last one").len(), 1);

    std::fs::write(folder.path().join("new"), CLIENT_SECRET).unwrap();
    std::fs::rename(folder.path().join("new"), &file).unwrap();
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    world.process.event("secret readable again").await;
    world.finish().await;
}

#[tokio::test]
async fn unusual_lifetimes_are_interpreted() {
    let body = |expires: &str| format!("{{\"access_token\":\"{{token}}\",\"expires_in\":{expires}}}");
    for (expires, seconds) in [
        ("\"3600\"", 3600),
        ("3.6e3", 3600),
        ("0", 300),
        ("null", 300),
        ("1e308", 31_536_000),
        (&"9".repeat(400), 31_536_000),
    ] {
        let world = daemon()
            .without_token()
            .start_after(async |server| server.answer_next(fixed(200, &[], &body(expires))))
            .await;
        assert_eq!(world.get("/x").await.status, 200, "{expires}");
        let refreshed = world.process.event("token refreshed").await;
        assert_eq!(refreshed["lifetime_seconds"], seconds, "{expires}");
        remains("one token request", Duration::from_millis(100), async || {
            world.authorization.requests() == 1
        })
        .await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_hanging_endpoint_does_not_delay_another() {
    let silent = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let more = format!(
        "[credentials.other]\ntoken_url = \"http://{}/token\"\nclient_id = \"x\"\n\
         client_secret = {{ env = \"API_SECRET\" }}\nrequired = false\n\
         [[routes]]\npath = \"/other\"\nupstream = \"{{upstream}}\"\ncredential = \"other\"\nca_file = \"ca.pem\"\n",
        silent.address
    );
    let world = daemon().route(&more).limits("token_wait = \"300ms\"").start().await;

    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.get("/other/x").await.code().as_deref(), Some("waiting_for_first_token"));
    assert_eq!(world.get("/x").await.status, 200);
    let (status, text) = world.admin_get("/readyz?verbose").await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("[+] credential api is valid"), "{text}");
    let other = "[ ] credential other is acquiring: waiting_for_first_token, and is not required";
    assert!(text.contains(other), "{text}");
    world.finish().await;
}

#[tokio::test]
async fn two_hundred_credentials_refresh_independently() {
    let others = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
    others.set_delay(Duration::from_millis(300));
    let silent = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let more: String = (0..200)
        .map(|number| {
            let is_silent = number % 10 == 0;
            let token_url =
                if is_silent { format!("http://{}/token", silent.address) } else { others.token_url() };
            format!(
                "[credentials.c{number}]\ntoken_url = \"{token_url}\"\nclient_id = \"{CLIENT_ID}\"\n\
                 client_secret = {{ env = \"API_SECRET\" }}\nrequired = {}\n\
                 [[routes]]\npath = \"/{number}\"\nupstream = \"{{upstream}}\"\ncredential = \"c{number}\"\nca_file = \"ca.pem\"\n",
                !is_silent
            )
        })
        .collect::<Vec<_>>()
        .concat();
    let began = Instant::now();

    let world = daemon().quiet().unchecked_tokens().route(&more).start().await;

    // In sequence the refreshes would take a minute, and each of the silent endpoints ten seconds.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(others.requests(), 180);
    let tokens: BTreeSet<String> = others.issued().into_iter().collect();
    assert_eq!(tokens.len(), 180);
    for (path, code) in [("/1/x", None), ("/199/x", None), ("/x", None)] {
        assert_eq!(world.get(path).await.code().as_deref(), code, "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn readyz_names_the_reason_for_a_missing_token() {
    let world = daemon().start().await;
    world.authorization.answer_next(fixed(401, &[], "{\"error\":\"invalid_client\"}"));
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.code().as_deref(), Some("client_rejected"));

    let (status, text) = world.admin_get("/readyz?verbose").await;

    assert_eq!(status, 200, "{text}");
    assert!(text.contains("[ ] credential api is unusable: client_rejected\n"), "{text}");
    world.finish().await;
}

#[tokio::test]
async fn a_route_without_a_credential_sends_no_token() {
    let world: World = daemon().unprotected().without_token().start().await;

    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 0);
    world.finish().await;
}
