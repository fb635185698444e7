//! New content of `ca_file`, `client_certificate` and `client_key` is taken up without a reload, and the token stays.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustix::process::Signal;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::AsyncWriteExt;

use crate::harness::{Setup, Upstream, World, daemon, eventually, remains, spawn};
use testkit::authorization_server::AuthorizationServer;
use testkit::harness::raw::{RawPeer, read_head};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::pki::{Issued, Pki};

const RELOADED: &str = "certificates reloaded";
const KEPT: &str = "certificates not reloaded, kept the last ones";
const DAY: Duration = Duration::from_hours(24);

/// How a file gets new content.
#[derive(Clone, Copy, Debug)]
enum Way {
    Rename,
    InPlace,
    /// As in Kubernetes: the file is a symlink through a symlink to a folder, and that one is replaced.
    Swap,
}

const WAYS: [Way; 3] = [Way::Rename, Way::InPlace, Way::Swap];

/// Gives files of a folder new content, all of them in one of the ways.
fn put(folder: &Path, way: Way, files: &[(&str, &str)]) {
    if matches!(way, Way::Swap) {
        let version = folder.join("version");
        std::fs::create_dir(&version).unwrap();
        for (name, content) in files {
            std::fs::write(version.join(name), content).unwrap();
        }
        symlink(&version, folder.join("..data")).unwrap();
        for (name, _) in files {
            symlink(Path::new("..data").join(name), folder.join("link")).unwrap();
            std::fs::rename(folder.join("link"), folder.join(name)).unwrap();
        }
        return;
    }
    for (name, content) in files {
        let path = folder.join(name);
        match way {
            Way::Rename => {
                std::fs::write(folder.join("new"), content).unwrap();
                std::fs::rename(folder.join("new"), path).unwrap();
            }
            Way::InPlace | Way::Swap => std::fs::write(path, content).unwrap(),
        }
    }
}

/// Waits until the daemon has logged this event so often.
async fn told(world: &World, message: &str, times: usize) -> serde_json::Value {
    let missing = format!("{message}, {times} times");
    eventually(&missing, async || world.process.events(message).len() >= times).await;
    let events = world.process.events(message);
    assert_eq!(events.len(), times, "{message}: {events:?}");
    events[times - 1].clone()
}

#[tokio::test]
async fn a_routes_authorities_are_taken_up_and_the_old_connections_end() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let own = pki.authority_pem().to_owned();
    let other = Pki::new(&["localhost"]).unwrap().authority_pem().to_owned();
    let world = daemon().quiet().server("workers = 1").start_with(pki, async |_| {}).await;
    assert_eq!(world.get("/x").await.status, 200);
    let requests = world.authorization.requests();

    for (index, (way, content, status)) in
        [(Way::Rename, &other, 502), (Way::InPlace, &own, 200), (Way::Swap, &other, 502)]
            .into_iter()
            .enumerate()
    {
        put(&world.folder(), way, &[("ca.pem", content)]);
        let event = told(&world, RELOADED, index + 1).await;
        assert_eq!(event["keys"], "routes.ca_file (/)", "{event}");
        let reply = world.get("/x").await;
        assert_eq!(reply.status, status, "{way:?}: {}", reply.text());
        if status == 502 {
            assert_eq!(reply.code().as_deref(), Some("upstream_tls"));
            eventually("no old connection", async || world.upstream.open_connections() == 0).await;
        }
    }

    assert_eq!(world.token_requests_since(requests), 0);
    world.finish().await;
}

/// An API that asks for a certificate of `clients`, and the certificates that it was shown.
async fn demanding(pki: &Pki, clients: &Pki) -> (RawPeer, Arc<Mutex<Vec<CertificateDer<'static>>>>) {
    let (tls, shown) = recording(pki, clients);
    let peer = RawPeer::tls(tls, |mut stream| async move {
        loop {
            let head = String::from_utf8(read_head(&mut stream).await).unwrap();
            let Some(id) = head.lines().find(|line| line.starts_with("x-test-id")) else { return };
            let answer = format!("HTTP/1.1 200 OK\r\n{id}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (peer, shown)
}

#[tokio::test]
async fn a_route_shows_its_certificate_to_the_api_and_takes_up_a_renewed_one() {
    let (pki, clients) = (Pki::new(&["api.test"]).unwrap(), Pki::new(&["clients"]).unwrap());
    let (peer, shown) = demanding(&pki, &clients).await;
    let first = clients.client("billing", &[], None).unwrap();
    let next = clients.client("billing", &[], None).unwrap();
    let other = clients.client("shipping", &[], None).unwrap();
    let url = format!("https://localhost:{}", peer.address.port());
    let route = |path: &str, keys: &str| {
        format!(
            "[[routes]]\npath = \"{path}\"\nupstream = \"{url}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n{keys}\n"
        )
    };
    let other_keys =
        "client_certificate = \"other.pem\"\nclient_key = \"other-key.pem\"\nserver_name = \"api.test\"";
    let world = daemon()
        .quiet()
        .server("workers = 1")
        .upstream(url.clone())
        .route("server_name = \"API.test\"\nclient_certificate = \"client.pem\"\nclient_key = \"client-key.pem\"")
        .route(&route("/other", other_keys))
        .route(&route("/bare", "server_name = \"api.test\""))
        .route(&route("/misnamed", &other_keys.replace("api.test", "localhost")))
        .file("client.pem", &first.certificate)
        .file("client-key.pem", &first.key)
        .file("other.pem", &other.certificate)
        .file("other-key.pem", &other.key)
        .start_with(pki, async |_| {})
        .await;
    let requests = world.authorization.requests();
    let last = || shown.lock().unwrap().last().cloned();

    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(last(), Some(first.der().0[0].clone()));
    assert_eq!(world.get("/other").await.status, 200);
    assert_eq!(last(), Some(other.der().0[0].clone()), "no connection of the other route");
    let misnamed = world.get("/misnamed").await;
    assert_eq!((misnamed.status, misnamed.code().as_deref()), (502, Some("upstream_tls")));
    // Over TLS 1.3 the server refuses a client without a certificate after the handshake.
    assert_eq!(world.get("/bare").await.status, 502);

    put(&world.folder(), Way::Rename, &pair(&next));
    let event = told(&world, RELOADED, 1).await;
    assert_eq!(event["keys"], "routes.client_certificate (/)", "{event}");
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(last(), Some(next.der().0[0].clone()));
    assert_eq!(world.token_requests_since(requests), 0);
    world.finish().await;
}

/// A world with this authorization server, which speaks TLS, and an API that accepts its tokens.
async fn world(setup: Setup, pki: Pki, server: &AuthorizationServer) -> (World, Upstream) {
    let api = Upstream::start(None, server.introspection(), true).await;
    let world = setup
        .quiet()
        .without_token()
        .upstream(api.url())
        .credential("ca_file = \"issuer.pem\"")
        .file("issuer.pem", pki.authority_pem())
        .token_url(server.token_url())
        .start_with(pki, async |_| {})
        .await;
    world.ready().await;
    (world, api)
}

#[tokio::test]
async fn a_credentials_authorities_are_taken_up_without_a_token_request() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let tls = pki.server_config(&[b"http/1.1"]).unwrap();
    let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, Some(tls)).await.unwrap();
    let (own, other) = (pki.authority_pem().to_owned(), Pki::new(&["x"]).unwrap().authority_pem().to_owned());
    server.take_all();
    let setup = daemon().secret("{ file = \"secret\" }").file("secret", "the first of two secrets");
    let (world, _api) = world(setup, pki, &server).await;
    // A secret that was replaced before is not asked with again.
    put(&world.folder(), Way::InPlace, &[("secret", "the second of two secrets")]);
    assert_eq!(world.admin_post("/credentials/api/refresh").await.0, 200);

    let contents = [format!("{own}{other}"), format!("{other}{own}"), other.clone()];
    for (index, (way, content)) in WAYS.into_iter().zip(&contents).enumerate() {
        put(&world.folder(), way, &[("issuer.pem", content)]);
        let event = told(&world, RELOADED, index + 1).await;
        assert_eq!(event["keys"], "credentials.api.ca_file", "{way:?}");
        assert_eq!(world.get("/x").await.status, 200);
        assert_eq!(server.requests(), 2, "{way:?}");
    }

    assert_eq!(world.admin_post("/credentials/api/refresh").await.0, 503, "the server is not trusted");
    let failed = world.process.event("token refresh failed").await;
    assert!(failed["error"].as_str().unwrap().contains("invalid peer certificate"), "{failed}");
    assert_eq!(world.get("/x").await.status, 200, "with the token from before");
    world.finish().await;
}

/// Records the certificates that clients show.
#[derive(Debug)]
struct Recording {
    verifier: Arc<dyn ClientCertVerifier>,
    shown: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

impl ClientCertVerifier for Recording {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.shown.lock().unwrap().push(shown.clone().into_owned());
        self.verifier.verify_client_cert(shown, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// An authorization server that asks for a certificate of its authority, and the certificates that it was shown.
struct Certified {
    world: World,
    api: Upstream,
    server: AuthorizationServer,
    /// Issues the certificates of clients.
    clients: Pki,
    shown: Arc<Mutex<Vec<CertificateDer<'static>>>>,
}

/// A server that asks for a certificate of `clients` and records it.
fn recording(pki: &Pki, clients: &Pki) -> (Arc<ServerConfig>, Arc<Mutex<Vec<CertificateDer<'static>>>>) {
    let mut roots = RootCertStore::empty();
    roots.add(clients.authority().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let shown = Arc::default();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = Recording { verifier: verifier.build().unwrap(), shown: Arc::clone(&shown) };
    let (chain, key) = pki.server().der();
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(tls), shown)
}

async fn certified(setup: Setup, first: impl FnOnce(&Pki) -> Issued) -> Certified {
    let (pki, clients) = (Pki::new(&["localhost"]).unwrap(), Pki::new(&["clients"]).unwrap());
    let (tls, shown) = recording(&pki, &clients);
    let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, Some(tls)).await.unwrap();
    server.take_all();
    let issued = first(&clients);
    let setup = setup
        .credential("client_auth = \"tls_client_auth\"")
        .credential("client_certificate = \"client.pem\"\nclient_key = \"client-key.pem\"")
        .file("client.pem", &issued.certificate)
        .file("client-key.pem", &issued.key);
    let (world, api) = world(setup, pki, &server).await;
    Certified { world, api, server, clients, shown }
}

impl Certified {
    fn last_shown(&self) -> CertificateDer<'static> {
        self.shown.lock().unwrap().last().unwrap().clone()
    }

    fn folder(&self) -> PathBuf {
        self.world.folder()
    }

    async fn generation(&self) -> u64 {
        let (_, body) = self.world.admin_get("/credentials/api").await;
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["generation"].as_u64().unwrap()
    }
}

fn pair(issued: &Issued) -> [(&'static str, &str); 2] {
    [("client.pem", &issued.certificate), ("client-key.pem", &issued.key)]
}

#[tokio::test]
async fn a_renewed_client_certificate_is_used_at_once_and_the_token_stays() {
    let certified = certified(daemon(), |clients| clients.client("billing", &[], None).unwrap()).await;
    for (index, way) in WAYS.into_iter().enumerate() {
        let issued = certified.clients.client("billing", &[], None).unwrap();
        certified.server.hold();
        put(&certified.folder(), way, &pair(&issued));

        let event = told(&certified.world, RELOADED, index + 1).await;
        assert_eq!(event["keys"], "credentials.api.client_certificate", "{way:?}");
        eventually("a request with it", async || certified.server.requests() == index + 2).await;
        assert_eq!(certified.last_shown(), issued.der().0[0], "{way:?}");
        assert_eq!(certified.generation().await, u64::try_from(index + 1).unwrap(), "the token from before");
        assert_eq!(certified.world.get("/x").await.status, 200, "{way:?}");
        certified.server.release();
        let next = u64::try_from(index + 2).unwrap();
        eventually("the next token", async || certified.generation().await == next).await;
    }
    certified.world.finish().await;
}

#[tokio::test]
async fn a_certificate_of_another_subject_begins_anew_once_it_has_a_token() {
    let certified = certified(daemon(), |clients| clients.client("billing", &[], None).unwrap()).await;
    let issued = certified.clients.client("shipping", &[], None).unwrap();
    certified.server.hold();
    put(&certified.folder(), Way::Rename, &pair(&issued));

    eventually("a request with it", async || certified.server.requests() == 2).await;
    assert_eq!(certified.last_shown(), issued.der().0[0]);
    assert_eq!(certified.world.get("/x").await.status, 200, "with the token from before");
    certified.server.release();
    told(&certified.world, RELOADED, 1).await;
    certified.server.introspection().revoke(&certified.server.issued()[0]);
    assert_eq!(certified.world.get("/x").await.status, 200, "with the new principal's token");
    assert_eq!((certified.server.requests(), certified.api.rejected()), (2, 0));
    certified.world.finish().await;
}

#[tokio::test]
async fn half_a_pair_or_a_broken_file_changes_nothing_and_is_reported_once() {
    let certified = certified(daemon(), |clients| clients.client("billing", &[], None).unwrap()).await;
    let (world, clients) = (&certified.world, &certified.clients);
    let next = clients.client("billing", &[], None).unwrap();
    let ended = clients.client("billing", &[], Some(SystemTime::now() - DAY)).unwrap();
    let key = KeyPair::generate().unwrap().serialize_pem();
    let folder = certified.folder();

    for (index, (files, why)) in [
        (
            [("client.pem", &next.certificate), ("issuer.pem", &String::new())],
            "is not the key of the certificate",
        ),
        ([("client.pem", &ended.certificate), ("client-key.pem", &ended.key)], "has expired"),
        ([("client.pem", &"none".to_owned()), ("client-key.pem", &key)], "holds no certificate in PEM form"),
    ]
    .into_iter()
    .enumerate()
    {
        put(&folder, Way::Rename, &files.map(|(name, content)| (name, content.as_str())));
        // The first has two files, and so two complaints.
        told(world, KEPT, index + 2).await;
        let complaints = world.process.events(KEPT);
        let is_told = |event: &serde_json::Value| event["error"].as_str().unwrap().contains(why);
        assert!(complaints.iter().any(is_told), "{why}: {complaints:?}");
        assert!(complaints.iter().all(|event| !event.to_string().contains("MIGHAg")), "{complaints:?}");
    }
    remains("no further complaint", Duration::from_millis(4500), async || {
        world.process.events(KEPT).len() == 4
    })
    .await;
    assert_eq!(certified.server.requests(), 1, "nothing was taken up");
    assert_eq!(world.get("/x").await.status, 200);

    put(&folder, Way::Rename, &pair(&next));
    told(world, RELOADED, 1).await;
    eventually("a request with it", async || certified.server.requests() == 2).await;
    assert_eq!(certified.last_shown(), next.der().0[0]);
    certified.world.finish().await;
}

/// A changed configuration file is for SIGHUP, and a certificate does not bring it into force.
#[tokio::test]
async fn new_certificates_bring_no_changed_configuration_into_force() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let content = format!("{}{}", pki.authority_pem(), pki.authority_pem());
    let world = daemon().quiet().start_with(pki, async |_| {}).await;
    world.configure(|text| text.replace("[[routes]]", "[[routes]]\ndeny = [\"* /**\"]"));
    assert_eq!(world.get("/x").await.status, 200);

    put(&world.folder(), Way::Rename, &[("ca.pem", &content)]);
    told(&world, RELOADED, 1).await;

    assert_eq!(world.get("/x").await.status, 200);
    world.reload().await;
    assert_eq!(world.get("/x").await.status, 403);
    world.finish().await;
}

#[tokio::test]
async fn a_new_certificate_that_ends_soon_is_taken_up_with_a_warning() {
    let certified = certified(daemon(), |clients| clients.client("billing", &[], None).unwrap()).await;
    let soon = certified.clients.client("billing", &[], Some(SystemTime::now() + 3 * DAY)).unwrap();
    put(&certified.folder(), Way::Rename, &pair(&soon));

    told(&certified.world, RELOADED, 1).await;
    let warning = certified.world.process.event("reloaded certificates end soon or are not valid").await;
    assert!(warning["dates"].as_str().unwrap().starts_with("`CN=billing` expires on "), "{warning}");
    certified.world.finish().await;
}

/// A self-signed certificate with these dates, in days from now.
fn dated(name: &str, from: i64, to: i64) -> (String, String) {
    let moment = |days: i64| {
        let length = DAY * u32::try_from(days.unsigned_abs()).unwrap();
        if days < 0 { SystemTime::now() - length } else { SystemTime::now() + length }
    };
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (moment(from).into(), moment(to).into());
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn check_and_run_warn_of_certificates_that_end_soon_have_ended_or_are_early() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    for (name, from, to) in
        [("good", -9, 99), ("soon", -9, 13), ("ended", -9, -1), ("early", 2, 99), ("server", -9, 12)]
    {
        let (certificate, key) = dated(name, from, to);
        write(&format!("{name}.pem"), &certificate);
        write(&format!("{name}-key.pem"), &key);
    }
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    write("some.pem", &(read("good.pem") + &read("ended.pem") + &read("soon.pem")));
    let config = |certificate: &str, ca: &str, client: &str, client_ca: &str| {
        write(
            "proxy.toml",
            &format!(
                "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[server.tls]\n\
                 certificate = \"{certificate}.pem\"\nprivate_key = \"{certificate}-key.pem\"\n\
                 client_ca = \"{client_ca}.pem\"\n\
                 [credentials.c]\ntoken_url = \"https://127.0.0.1:9/t\"\nclient_id = \"id\"\n\
                 client_auth = \"tls_client_auth\"\nca_file = \"{ca}.pem\"\n\
                 client_certificate = \"{client}.pem\"\nclient_key = \"{client}-key.pem\"\n\
                 [[routes]]\nupstream = \"https://127.0.0.1:9\"\ncredential = \"c\"\nca_file = \"{ca}.pem\"\n"
            ),
        );
    };
    let date = |days: u32| jiff::Timestamp::try_from(SystemTime::now() + DAY * days).unwrap().to_string();

    config("good", "good", "good", "good");
    let mut check = spawn(&["check"], &[], folder.path());
    assert_eq!(check.ended().await.code(), Some(0));
    assert!(!check.output().contains("warning"), "{}", check.output());

    config("server", "some", "soon", "early");
    let mut check = spawn(&["check"], &[], folder.path());
    assert_eq!(check.ended().await.code(), Some(0));
    let output = check.output();
    let texts = [
        format!("`certificate`: `CN=server` expires on {}", &date(12)[..10]),
        format!("`client_ca`: `CN=early` is not valid before {}", &date(2)[..10]),
        "`ca_file`: `CN=ended` expired on ".to_owned(),
        format!("`CN=soon` expires on {}", &date(13)[..10]),
        format!("`client_certificate`: `CN=soon` expires on {}", &date(13)[..10]),
    ];
    for text in &texts {
        assert!(output.contains(text), "{text}: {output}");
    }
    assert!(output.contains("5 warnings") && output.contains("proxy.toml:14:"), "{output}");

    let mut run = spawn(&["run"], &[("RUST_LOG".to_owned(), "info".to_owned())], folder.path());
    run.logged_address("admin listening").await;
    for text in &texts {
        assert!(run.output().contains(text), "{text}: {}", run.output());
    }
    config("good", "good", "ended", "good");
    run.signal(Signal::HUP);
    eventually("a warning", async || run.output().contains("`client_certificate`: `CN=ended` expired on "))
        .await;
    run.signal(Signal::TERM);
    assert_eq!(run.ended().await.code(), Some(0));
}
