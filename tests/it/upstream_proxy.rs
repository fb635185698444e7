//! Upstreams behind a forward proxy, and failures of the proxy.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use testkit::pki::Pki;

use crate::harness::{Request, World, daemon, spawn};
use testkit::harness::connect_proxy::{ConnectProxy, Does};
use testkit::harness::world::assert_absent;

const PASSWORD: &str = "pr0xy-passw0rd";

fn url(proxy: &ConnectProxy) -> String {
    format!("http://user:{PASSWORD}@127.0.0.1:{}", proxy.port())
}

/// Checks that the proxy's password is in no output and in no tunnel, and that the proxy sees no token.
fn keeps_secrets(world: &World, proxy: &ConnectProxy) {
    for token in world.authorization.issued() {
        assert!(!proxy.has_carried(&token), "the proxy saw a token");
    }
    assert!(!proxy.has_carried(PASSWORD), "the password went through the tunnel");
    for request in world.upstream.requests() {
        assert_eq!(request.get("proxy-authorization"), None);
    }
    says_no_password(&world.process.output());
}

fn says_no_password(output: &str) {
    assert_absent(output, PASSWORD);
    assert!(!output.contains(&STANDARD.encode(format!("user:{PASSWORD}"))), "Basic credentials in: {output}");
}

#[tokio::test]
async fn the_api_is_reached_by_the_configured_proxy_or_the_environments() {
    let proxy = ConnectProxy::start(Does::Lead).await;
    let url = url(&proxy);
    let written = format!("proxy = \"{url}\"");
    for (lines, variables, is_used) in [
        (written.as_str(), vec![], true),
        (&written, vec![("NO_PROXY", "*")], true),
        ("", vec![("HTTPS_PROXY", url.as_str())], true),
        ("", vec![("https_proxy", url.as_str())], true),
        ("", vec![("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "example.com, .localhost")], false),
        ("", vec![("HTTPS_PROXY", url.as_str()), ("no_proxy", "localhost")], false),
        ("", vec![("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "calhost")], true),
        ("proxy = \"\"", vec![("HTTPS_PROXY", url.as_str())], false),
        ("", vec![("HTTP_PROXY", url.as_str()), ("ALL_PROXY", url.as_str())], false),
    ] {
        let setup = daemon().route(lines);
        let setup = variables.iter().fold(setup, |setup, (name, value)| setup.environment(name, value));
        let world = setup.start().await;

        assert_eq!(world.get("/x").await.status, 200);
        assert_eq!(world.send(&Request::post("/echo", b"a body")).await.text(), "a body");

        let asked = proxy.asked();
        assert_eq!(!asked.is_empty(), is_used, "{lines} {variables:?}");
        let host = world.upstream.url().replace("https://", "");
        let authorization =
            format!("proxy-authorization: Basic {}\r\n", STANDARD.encode(format!("user:{PASSWORD}")));
        for head in asked {
            assert!(head.starts_with(&format!("CONNECT {host} HTTP/1.1\r\n")), "{head}");
            assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
            assert!(head.contains(&authorization), "{head}");
            assert_eq!(head.lines().filter(|line| !line.is_empty()).count(), 3, "{head}");
        }
        if is_used {
            keeps_secrets(&world, &proxy);
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn a_401_is_replayed_through_the_same_tunnel() {
    let proxy = ConnectProxy::start(Does::Lead).await;
    let setup = daemon().server("workers = 1").route(&format!("proxy = \"{}\"", url(&proxy)));
    let world = setup.start().await;
    assert_eq!(world.get("/x").await.status, 200);

    world.authorization.revoke_all();
    let reply = world.send(&Request::post("/echo", b"once more")).await;

    assert_eq!((reply.status, reply.text()), (200, "once more".to_owned()));
    assert_eq!(world.upstream.rejected(), 1);
    assert_eq!(proxy.asked().len(), 1, "the connection was kept");
    keeps_secrets(&world, &proxy);
    world.finish().await;
}

#[tokio::test]
async fn an_https_proxys_certificate_is_verified() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let proxy = ConnectProxy::start_tls(pki.server_config(&[b"http/1.1"]).unwrap()).await;
    let other = Pki::new(&["localhost"]).unwrap();
    let impostor = ConnectProxy::start_tls(other.server_config(&[b"http/1.1"]).unwrap()).await;
    let world = daemon()
        .route(&format!("proxy = \"https://user:{PASSWORD}@localhost:{}\"", proxy.port()))
        .route(&format!(
            "[[routes]]\npath = \"/impostor\"\nupstream = \"{{upstream}}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n\
             proxy = \"https://user:{PASSWORD}@localhost:{}\"\n",
            impostor.port()
        ))
        .start_with(pki, async |_| {})
        .await;

    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(proxy.asked().len(), 1);
    keeps_secrets(&world, &proxy);

    let reply = world.get("/impostor").await;
    assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_unreachable")));
    assert_eq!(reply.get("proxy-status"), Some("bearerd; error=tls_certificate_error"));
    assert!(impostor.asked().is_empty(), "nothing is said to a proxy that is not the one");
    world.finish().await;
}

#[tokio::test]
async fn routes_with_different_proxies_share_no_connection() {
    let one = ConnectProxy::start(Does::Lead).await;
    let other = ConnectProxy::start(Does::Lead).await;
    let route = |path: &str, proxy: &str| {
        format!(
            "[[routes]]\npath = \"/{path}\"\nupstream = \"{{upstream}}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n{proxy}\n"
        )
    };
    let world = daemon()
        .server("workers = 1")
        .route(&format!("proxy = \"{}\"", url(&one)))
        .route(&route("same", &format!("proxy = \"{}\"", url(&one))))
        .route(&route("other", &format!("proxy = \"{}\"", url(&other))))
        .route(&route("none", ""))
        .start()
        .await;

    for path in ["/x", "/same", "/other", "/none"] {
        assert_eq!(world.get(path).await.status, 200);
    }

    assert_eq!((one.asked().len(), other.asked().len()), (1, 1));
    assert_eq!(world.upstream.connections(), 3);
    world.finish().await;
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_is_named_as_the_cause() {
    const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>";
    let cases = [
        (
            Does::Say("HTTP/1.1 407 No\r\nproxy-authenticate: Basic realm=\"x\"\r\n\r\n"),
            "http_request_denied",
        ),
        (Does::Say("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"), "http_request_denied"),
        (Does::Say("HTTP/1.1 302 Found\r\nlocation: https://login.test/\r\n\r\n"), "http_request_denied"),
        (Does::Say("HTTP/1.1 502 Bad Gateway\r\n\r\n<html>"), "destination_unavailable"),
        (Does::Say("HTTP/1.1 504 Gateway Timeout\r\n\r\n"), "connection_timeout"),
        (Does::Say("<html><body>captive portal</body></html>\r\n\r\n"), "http_protocol_error"),
        (Does::SayMuch(100_000), "http_protocol_error"),
        (Does::Say(html), "http_protocol_error"),
        (Does::Say(""), "connection_terminated"),
        (Does::Say("HTTP/1.1 200 O"), "connection_terminated"),
        (Does::Say(OK), "connection_terminated"),
        (Does::SayLater(OK, "<html><body>captive portal</body></html>"), "connection_terminated"),
        (Does::Hang(""), "connection_timeout"),
        (Does::Hang(OK), "connection_timeout"),
    ];
    let mut proxies = Vec::new();
    for (does, _) in cases {
        proxies.push(ConnectProxy::start(does).await);
    }
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ports = proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port()));
    let addresses: Vec<String> =
        ports.chain([format!("127.0.0.1:{refusing}"), "nowhere.invalid:3128".to_owned()]).collect();
    let expected = cases.iter().map(|(_, error)| *error).chain(["connection_refused", "dns_error"]);
    let routes = addresses.iter().enumerate().fold(String::new(), |mut routes, (case, address)| {
        let is_hanging = matches!(cases.get(case), Some((Does::Hang(_), _)));
        let timeout = if is_hanging { "500ms" } else { "15s" };
        write!(
            routes,
            "[[routes]]\npath = \"/case{case}\"\nupstream = \"{{upstream}}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n\
             connect_timeout = \"{timeout}\"\nproxy = \"http://user:{PASSWORD}@{address}\"\n"
        )
        .unwrap();
        routes
    });
    let world = daemon().route(&routes).start().await;

    for (case, expected) in expected.enumerate() {
        let reply = world.get(&format!("/case{case}")).await;
        let place = format!("{:?}: {}", addresses[case], reply.text());
        assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_unreachable")), "{place}");
        assert_eq!(reply.get("proxy-status"), Some(&*format!("bearerd; error={expected}")), "{place}");
        assert!(reply.text().contains("The proxy on the way to the upstream"), "{place}");
        says_no_password(&reply.text());
    }

    assert!(world.upstream.requests().is_empty());
    for event in world.process.events("request") {
        assert!(
            event["error"].as_str().unwrap().starts_with("no connection by way of the proxy: "),
            "{event}"
        );
    }
    let output = world.process.output();
    assert!(output.contains("status 407 (it wants a user and a password in its URL)"), "{output}");
    says_no_password(&output);
    world.finish().await;
}

#[tokio::test]
async fn a_certificate_of_the_proxy_in_the_apis_place_is_refused() {
    // A proxy that intercepts TLS with an untrusted certificate authority.
    let impostor = Pki::new(&["localhost"]).unwrap();
    let opens =
        testkit::harness::raw::RawPeer::tls(impostor.server_config(&[b"http/1.1"]).unwrap(), async |_| {
            panic!("the handshake must not succeed");
        })
        .await;
    let leads_there = opens.address;
    let proxy = testkit::harness::raw::RawPeer::tcp(move |mut near| async move {
        use tokio::io::AsyncWriteExt;
        testkit::harness::raw::read_head(&mut near).await;
        let mut far = tokio::net::TcpStream::connect(leads_there).await.unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    })
    .await;
    let world = daemon().route(&format!("proxy = \"http://{}\"", proxy.address)).start().await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_tls")));
    assert_eq!(reply.get("proxy-status"), Some("bearerd; error=tls_certificate_error"));
    world.finish().await;
}

#[tokio::test]
async fn check_online_uses_the_proxy_and_names_it() {
    let leading = ConnectProxy::start(Does::Lead).await;
    let denying = ConnectProxy::start(Does::Say("HTTP/1.1 407 No\r\n\r\n")).await;
    let world = daemon().start().await;
    let config = std::fs::read_to_string(world.folder().join("proxy.toml")).unwrap();
    let environment = |proxy: &ConnectProxy| {
        [
            ("API_SECRET".to_owned(), testkit::harness::setup::CLIENT_SECRET.to_owned()),
            ("HTTPS_PROXY".to_owned(), url(proxy)),
        ]
    };
    assert!(!config.contains("proxy ="));

    let mut process = spawn(&["check", "--online"], &environment(&leading), &world.folder());
    let code = process.ended().await.code();
    let output = process.output();
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains(&format!("proxy        http://127.0.0.1:{}/\n", leading.port())), "{output}");
    assert!(output.contains(&format!("127.0.0.1:{} (the proxy's)", leading.port())), "{output}");
    assert!(output.contains("tls          1.3"), "{output}");
    assert_eq!(leading.asked().len(), 1);
    says_no_password(&output);

    let mut process = spawn(&["check", "--online"], &environment(&denying), &world.folder());
    let code = process.ended().await.code();
    let output = process.output();
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("no connection by way of the proxy: it answered CONNECT with status 407"),
        "{output}"
    );
    assert!(output.contains("have the proxy allow this host and port"), "{output}");
    says_no_password(&output);
    world.finish().await;
}
