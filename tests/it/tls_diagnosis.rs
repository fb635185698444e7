//! What an operator reads about a TLS failure: cause and remedy, alike of the token endpoint and of an upstream.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Request, daemon, eventually, spawn};
use testkit::harness::raw::{RawPeer, read_head};

const DAY: Duration = Duration::from_hours(24);

/// A peer with a name, and what is said about it.
struct Case {
    name: &'static str,
    peer: RawPeer,
    /// The certificate authority that is trusted, PEM.
    authority: String,
    words: Vec<String>,
    help: &'static str,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), certificate)
}

async fn serves(certificate: CertificateDer<'static>, key: &KeyPair, alpn: &[&[u8]]) -> RawPeer {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    // Without the check that key and certificate fit, which reads the certificate.
    let certified = CertifiedKey::new(vec![certificate], key);
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    RawPeer::tls(Arc::new(config), |mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

/// A server with a certificate of a trusted authority, adjusted.
async fn issued(
    name: &'static str,
    adjust: impl FnOnce(&mut CertificateParams),
    words: &[&str],
    help: &'static str,
) -> Case {
    let (issuer, authority) = authority(name);
    let mut params = params("server");
    adjust(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
    let words = words.iter().map(|words| (*words).to_owned()).collect();
    Case { name, peer: serves(certificate, &key, &[]).await, authority, words, help }
}

/// A peer that reads the first bytes and answers with these.
async fn says(name: &'static str, bytes: &'static [u8], words: &str, help: &'static str) -> Case {
    let peer = RawPeer::tcp(move |mut stream| async move {
        let _ = stream.read_buf(&mut Vec::new()).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    Case { name, peer, authority: authority("any").1, words: vec![words.to_owned()], help }
}

/// The certificate as one of version 1: its version number is a byte of its own.
fn as_version_1(certificate: &CertificateDer<'_>) -> CertificateDer<'static> {
    let mut bytes = certificate.to_vec();
    let version = [0xa0, 3, 2, 1, 2];
    let at = bytes.windows(version.len()).position(|window| window == version).unwrap();
    bytes[at + 4] = 0;
    CertificateDer::from(bytes)
}

/// Servers with a wrong certificate.
async fn certificates() -> Vec<Case> {
    let now = SystemTime::now();
    let date = |moment| jiff::Timestamp::try_from(moment).unwrap().to_string()[..10].to_owned();
    let mut cases = vec![
        issued(
            "expired",
            |params| params.not_after = (now - DAY).into(),
            &[&format!("certificate expired on {}", date(now - DAY))],
            "have the server's operator renew it",
        )
        .await,
        issued(
            "early",
            |params| params.not_before = (now + DAY).into(),
            &[&format!("certificate not valid before {}", date(now + DAY))],
            "set the clock of this machine",
        )
        .await,
        issued(
            "name",
            |params| {
                params.subject_alt_names =
                    CertificateParams::new(["a.test".into(), "b.test".into()]).unwrap().subject_alt_names;
            },
            &["not valid for name \"localhost\"", "a.test", "b.test"],
            "write a host name that the certificate has",
        )
        .await,
        issued(
            "purpose",
            |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            &["the server's certificate is not for servers"],
            "`serverAuth`",
        )
        .await,
    ];
    let mut unknown =
        issued("unknown", |_| {}, &["UnknownIssuer", "not of a trusted authority"], "set `ca_file`").await;
    unknown.authority = authority("another").1;
    let mut other =
        issued("other-key", |_| {}, &["BadSignature", "but with another key"], "replace `ca_file`").await;
    other.authority = authority("other-key").1;
    cases.extend([unknown, other]);

    let key = KeyPair::generate().unwrap();
    let mut own = params("own");
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = own.self_signed(&key).unwrap();
    cases.push(Case {
        name: "authority",
        peer: serves(own.der().clone(), &key, &[]).await,
        authority: own.pem(),
        words: vec!["CaUsedAsEndEntity".to_owned(), "(CA:TRUE) as its own".to_owned()],
        help: "have the server use a certificate that is no authority",
    });
    let (issuer, authority) = authority("version");
    let certificate = params("server").signed_by(&key, &issuer).unwrap();
    cases.push(Case {
        name: "version-1",
        peer: serves(as_version_1(certificate.der()), &key, &[]).await,
        authority,
        words: vec!["UnsupportedCertVersion".to_owned(), "of X.509 version 1".to_owned()],
        help: "have it issued as version 3",
    });
    cases
}

/// Peers that refuse the handshake or speak another protocol.
async fn refusals() -> Vec<Case> {
    vec![
        says(
            "alert",
            b"\x15\x03\x03\0\x02\x02\x28",
            "demands a client certificate",
            "enable TLS 1.3, or TLS 1.2",
        )
        .await,
        says("old", b"\x15\x03\x01\0\x02\x02\x46", "neither TLS 1.2 nor TLS 1.3", "enable TLS 1.2 or later")
            .await,
        says(
            "demands",
            b"\x15\x03\x03\0\x02\x02\x74",
            "demands a client certificate",
            "`client_certificate`",
        )
        .await,
        says(
            "refuses",
            b"\x15\x03\x03\0\x02\x02\x30",
            "refuses the client certificate",
            "compare `client_cert",
        )
        .await,
        says("sni", b"\x15\x03\x03\0\x02\x02\x70", "does not know the host name", "check the host name")
            .await,
        says("mac", b"\x15\x03\x03\0\x02\x02\x14", "damaged on the way", "look for a device on the way")
            .await,
        says("internal", b"\x15\x03\x03\0\x02\x02\x50", "internal error", "see the server's log").await,
        says("alpn", b"\x15\x03\x03\0\x02\x02\x78", "none of the HTTP versions", "set `http_version`").await,
        says(
            "plain",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "does not speak TLS on this port",
            "write the port on which the server speaks TLS",
        )
        .await,
        says("ssh", b"SSH-2.0-OpenSSH_9.9\r\n", "does not speak TLS on this port", "write the port").await,
    ]
}

#[tokio::test]
async fn both_legs_say_why_tls_failed_and_what_to_do() {
    let mut cases = certificates().await;
    cases.extend(refusals().await);
    let folder = tempfile::tempdir().unwrap();
    let mut config = String::new();
    for Case { name, peer, authority, .. } in &cases {
        std::fs::write(folder.path().join(format!("{name}.pem")), authority).unwrap();
        let url = format!("https://localhost:{}", peer.address.port());
        let _ = write!(
            config,
            "[credentials.{name}]\ntoken_url = \"{url}/t\"\nclient_id = \"id\"\nclient_secret = {{ env = \"S\" }}\n\
             ca_file = \"{name}.pem\"\n\
             [[routes]]\npath = \"/{name}\"\nupstream = \"{url}\"\ncredential = \"{name}\"\nca_file = \"{name}.pem\"\n"
        );
    }
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();

    let mut check = spawn(&["check", "--online"], &[("S".to_owned(), "hunter2".to_owned())], folder.path());
    assert_eq!(check.ended().await.code(), Some(1));

    let output = check.output();
    for Case { name, peer, words, help, .. } in &cases {
        let port = peer.address.port();
        for peer in
            [format!("credential `{name}`: FAILED"), format!("upstream https://localhost:{port}: FAILED")]
        {
            let report = output.split("\n\n").find(|report| report.starts_with(&peer));
            let report = report.unwrap_or_else(|| panic!("{peer}: {output}"));
            for words in words {
                assert!(report.contains(words), "{words}: {report}");
            }
            let advice = report.split_once("help: ").unwrap().1;
            assert!(advice.contains(help), "{help}: {report}");
            assert_eq!(report.matches(help).count(), 1, "{report}");
        }
    }
}

#[tokio::test]
async fn log_and_problem_name_the_cause_of_a_tls_failure() {
    let case = issued("expired", |params| params.not_after = (SystemTime::now() - DAY).into(), &[], "").await;
    let url = format!("https://localhost:{}", case.peer.address.port());
    let world = daemon()
        .quiet()
        .without_token()
        .upstream(url.clone())
        .credential("ca_file = \"own.pem\"")
        .route("ca_file = \"own.pem\"\ncredential = \"none\"")
        .file("own.pem", &case.authority)
        .token_url(format!("{url}/t"))
        .start()
        .await;
    let failed = world.process.event("token refresh failed").await;
    let reply = world.get("/x").await;
    eventually("the log", async || !world.process.events("request").is_empty()).await;
    let request = world.process.events("request").swap_remove(0);

    for text in [&failed["error"], &request["error"]] {
        let text = text.as_str().unwrap();
        assert!(
            text.contains("certificate expired on ") && text.contains("has expired; have the server's"),
            "{text}"
        );
    }
    assert!(
        reply.text().contains("TLS with the upstream failed: the server's certificate has expired."),
        "{}",
        reply.text()
    );
    world.finish().await;
}

/// In TLS 1.3 the server's demand arrives after the handshake, in the place of a response.
#[tokio::test]
async fn a_client_certificate_that_is_demanded_after_the_handshake_is_named() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let tls = pki.server_config_for(&[b"http/1.1"], Some(pki.authority())).unwrap();
    let peer = RawPeer::tls(tls, |mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let url = format!("https://localhost:{}", peer.address.port());
    let world = daemon()
        .quiet()
        .without_token()
        .upstream(url.clone())
        .credential("ca_file = \"ca.pem\"")
        .route("credential = \"none\"")
        .token_url(format!("{url}/t"))
        .start_with(pki, async |_| {})
        .await;

    let failed = world.process.event("token refresh failed").await;
    assert_eq!(world.get("/x").await.status, 502);
    eventually("the log", async || !world.process.events("request").is_empty()).await;
    let request = world.process.events("request").swap_remove(0);

    for text in [&failed["error"], &request["error"]] {
        let text = text.as_str().unwrap();
        assert!(text.contains("the server demands a client certificate; set `client_certificate`"), "{text}");
    }
    world.finish().await;
}

/// In TLS 1.3 the server refuses after the client's side of the handshake is complete.
#[tokio::test]
async fn an_api_that_demands_a_client_certificate_after_the_handshake_is_named() {
    for (http_version, offered) in [("1.1", &b"http/1.1"[..]), ("auto", b"h2"), ("2", b"h2")] {
        let pki = Pki::new(&["localhost"]).unwrap();
        let tls = pki.server_config_for(&[offered], Some(pki.authority())).unwrap();
        let peer = RawPeer::tls(tls, |mut stream| async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let world = daemon()
            .quiet()
            .unprotected()
            .without_token()
            .route(&format!("http_version = \"{http_version}\""))
            .upstream(format!("https://localhost:{}", peer.address.port()))
            .start_with(pki, async |_| {})
            .await;
        for method in ["GET", "POST"] {
            let reply = world.send(&Request::get("/x").method(method)).await;
            assert_eq!(
                (reply.status, reply.code().as_deref()),
                (502, Some("upstream_tls")),
                "{http_version}"
            );
            assert!(reply.text().contains("Set `client_certificate`"), "{}", reply.text());
            assert_eq!(reply.get("proxy-status"), Some("bearerd; error=tls_alert_received"));
        }
        // The log is read by a thread of its own.
        let said = "CertificateRequired: the server demands a client certificate; set";
        eventually("the line of the log", async || world.process.output().contains(said)).await;
        world.finish().await;
    }
}
