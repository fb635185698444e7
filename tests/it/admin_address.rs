//! The admin address: over TLS, over a unix socket, with a token of the daemon's own, and what a reload changes of it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::harness::tls_caller::{TlsCaller, connect};
use testkit::pki::{Issued, Pki};
use tokio::net::TcpStream;

use crate::harness::{Process, Setup, World, daemon, eventually, spawn};
use testkit::harness::setup::CLIENT_ID;
use testkit::harness::world::assert_absent;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const TOKEN: &str = "0perat0r-token-of-the-admin-address";
const ROOMY: &str = "quota = { requests = 1000, per = \"1s\" }";
const TLS: &str = "tls = { certificate = \"admin.pem\", private_key = \"admin-key.pem\" }";
const WITH_TOKEN: &str = "token = { env = \"ADMIN_TOKEN\" }";
const JSON: (&str, &str) = ("content-type", "application/json");

/// A client of the admin address.
struct Operator {
    http: reqwest::Client,
    base: String,
}

type Answer = (u16, reqwest::header::HeaderMap, Value);

impl Operator {
    fn plain(address: SocketAddr) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, base: format!("http://{address}") }
    }

    fn tls(address: SocketAddr, caller: &TlsCaller) -> Self {
        let tls = (*caller.config(&[b"http/1.1"])).clone();
        let http = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap();
        Self { http, base: format!("https://localhost:{}", address.port()) }
    }

    fn unix(socket: &Path) -> Self {
        let http = reqwest::Client::builder().no_proxy().unix_socket(socket).build().unwrap();
        Self { http, base: "http://localhost".to_owned() }
    }

    async fn try_ask(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> reqwest::Result<Answer> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.base)).body(body.to_owned());
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok((status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn ask(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let (status, _, body) = self.try_ask(method, path, fields, "").await.unwrap();
        (status, body)
    }

    /// The status and the code of a POST without a body.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
        let (status, body) = self.ask("POST", path, fields).await;
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }
}

async fn ended(mut process: Process) -> (i32, String) {
    let status = process.ended().await;
    let output = process.output();
    assert_absent(&output, TOKEN);
    (status.code().unwrap(), output)
}

/// The last address that the daemon has begun to listen on.
fn last_address(world: &World) -> String {
    let events = world.process.events("admin listening");
    events.last().unwrap()["address"].as_str().unwrap().to_owned()
}

fn with_certificate(setup: Setup, issued: &Issued) -> Setup {
    setup.file("admin.pem", &issued.certificate).file("admin-key.pem", &issued.key)
}

/// A world whose admin address speaks TLS, its authority, and an operator who trusts it.
async fn tls_world(lines: &str) -> (World, Pki, TlsCaller) {
    let pki = Pki::new(&["localhost"]).unwrap();
    let setup =
        daemon().admin(&format!("{TLS}\n{lines}")).credential(ROOMY).environment("ADMIN_TOKEN", TOKEN);
    let setup = with_certificate(setup, pki.server()).file("clients.pem", pki.authority_pem());
    let world = setup.without_token().start().await;
    let caller = TlsCaller::trusting(pki.authority());
    (world, pki, caller)
}

async fn ready(operator: &Operator) {
    eventually("ready", async || operator.ask("GET", "/readyz", &[]).await.0 == 200).await;
}

#[tokio::test]
async fn operators_and_commands_speak_https_with_the_admin_address() {
    let (world, pki, caller) = tls_world(&format!("listen = \"0.0.0.0:0\"\n{WITH_TOKEN}")).await;
    assert_eq!(world.process.event("admin listening").await["tls"], true);
    let operator = Operator::tls(world.admin, &caller);
    ready(&operator).await;
    let right = format!("Bearer {TOKEN}");
    assert_eq!(operator.post("/credentials/api/refresh", &[("authorization", &right)]).await.0, 200);
    assert_eq!(operator.post("/credentials/api/refresh", &[]).await.0, 401);
    let local = SocketAddr::from(([127, 0, 0, 1], world.admin.port()));
    let in_clear = Operator::plain(local).try_ask("GET", "/livez", &[], "").await;
    assert!(in_clear.is_err(), "{in_clear:?}");
    // HTTP/2 is not offered.
    let stream = connect(local, caller.config(&[b"h2", b"http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));

    // The certificate in the configuration is trusted by any name, and its scheme is that of the address.
    let (by_address, by_url) = (local.to_string(), format!("https://{local}"));
    for admin in [&by_address, &by_url] {
        for arguments in [&["health", "--admin", admin][..], &["refresh", "api", "--admin", admin]] {
            let (code, output) = ended(world.command(arguments)).await;
            assert_eq!(code, 0, "{arguments:?} {output}");
        }
    }
    // Without the configuration, the system's authorities count, or those of SSL_CERT_FILE.
    let elsewhere = tempfile::tempdir().unwrap();
    let authority = elsewhere.path().join("ca.pem");
    fs::write(&authority, pki.authority_pem()).unwrap();
    let trusting = [("SSL_CERT_FILE".to_owned(), authority.display().to_string())];
    let by_name = format!("https://localhost:{}", local.port());
    for (admin, environment, expected) in
        [(&by_name, &trusting[..], 0), (&by_name, &[], 1), (&by_url, &trusting, 1)]
    {
        let (code, output) = ended(spawn(&["health", "--admin", admin], environment, elsewhere.path())).await;
        assert_eq!(code == 0, expected == 0, "{admin} {code} {output}");
    }
    world.finish().await;
}

#[tokio::test]
async fn guesses_over_tls_lock_their_address_out() {
    let (world, _, caller) = tls_world(WITH_TOKEN).await;
    let operator = Operator::tls(world.admin, &caller);
    ready(&operator).await;
    for _ in 0..10 {
        let (status, _) = operator.post("/reload", &[("authorization", "Bearer wrong")]).await;
        assert_eq!(status, 401);
    }
    let right = format!("Bearer {TOKEN}");
    for shown in ["Bearer wrong", &right] {
        assert_eq!(operator.post("/reload", &[("authorization", shown)]).await.0, 429);
    }
    assert_eq!(operator.ask("GET", "/livez", &[]).await.0, 200);
    world.finish().await;
}

/// The certificate that the admin address shows.
async fn shown(address: SocketAddr, caller: &TlsCaller) -> Vec<u8> {
    let stream = connect(address, caller.config(&[])).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_renewed_admin_certificate_and_a_new_client_ca_are_taken_up() {
    let (world, pki, caller) = tls_world("").await;
    let operator = Operator::tls(world.admin, &caller);
    ready(&operator).await;
    let renewed = pki.another_server(&["localhost"], None).unwrap();
    for (name, content) in [("admin.pem", &renewed.certificate), ("admin-key.pem", &renewed.key)] {
        fs::write(world.folder().join(name), content).unwrap();
    }
    let new = renewed.der().0[0].to_vec();
    eventually("the renewed certificate", async || shown(world.admin, &caller).await == new).await;
    assert_eq!(world.process.event("server certificate reloaded").await["key"], "admin.tls");

    // From the reload on, also a connection that was open must show a certificate.
    assert_eq!(operator.ask("GET", "/livez", &[]).await.0, 200);
    world.configure(|text| {
        text.replace(
            "private_key = \"admin-key.pem\"",
            "private_key = \"admin-key.pem\", client_ca = \"clients.pem\"",
        )
    });
    assert_eq!(world.reload().await["settings"], "admin.tls");
    eventually("no operator without a certificate", async || {
        operator.try_ask("GET", "/livez", &[], "").await.is_err()
    })
    .await;
    let client = pki.client("operator", &[], None).unwrap();
    let showing = Operator::tls(world.admin, &caller.clone().showing(&client));
    assert_eq!(showing.ask("GET", "/livez", &[]).await.0, 200);
    assert_eq!(showing.post("/reload", &[]).await.0, 200);

    for (name, content) in [("client.pem", &client.certificate), ("client-key.pem", &client.key)] {
        fs::write(world.folder().join(name), content).unwrap();
    }
    let admin = world.admin.to_string();
    let (code, output) = ended(world.command(&["health", "--admin", &admin])).await;
    assert_eq!(code, 1, "{output}");
    world.process.event("admin TLS handshake failed").await;
    let certificate = ["--client-certificate", "client.pem", "--client-key", "client-key.pem"];
    let (code, output) =
        ended(world.command(&[&["health", "--admin", &admin], &certificate[..]].concat())).await;
    assert_eq!((code, output.as_str()), (0, "ok\n"));
    world.finish().await;
}

#[tokio::test]
async fn check_and_run_refuse_a_token_in_the_clear_and_a_socket_twice() {
    let folder = tempfile::tempdir().unwrap();
    let route = "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n";
    let environment = [("ADMIN_TOKEN".to_owned(), TOKEN.to_owned())];
    for (config, said, of_run) in [
        (
            format!("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"0.0.0.0:0\"\n{WITH_TOKEN}\n"),
            "`admin.token` would cross the network in the clear",
            78,
        ),
        (
            "[server]\nlisten = \"unix:b.sock\"\n[admin]\nlisten = \"unix:./b.sock\"\n".to_owned(),
            "`admin.listen` and `server.listen` are the same",
            78,
        ),
        (
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"unix:none/b.sock\"\n".to_owned(),
            "cannot listen on unix:",
            1,
        ),
        (
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[health]\nlisten = \"unix:none/b.sock\"\n".to_owned(),
            "(health.listen)",
            1,
        ),
    ] {
        fs::write(folder.path().join("proxy.toml"), format!("{config}{route}")).unwrap();
        for command in ["check", "run"] {
            let (code, output) = ended(spawn(&[command], &environment, folder.path())).await;
            // Nothing of the configuration is wrong where a folder is missing.
            let expected = if command == "run" { of_run } else { 78 };
            assert!(code == expected && output.contains(said), "{command} {code} {output}");
        }
    }
}

#[tokio::test]
async fn the_admin_address_may_be_a_private_unix_socket() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("admin.sock");
    // A daemon that was killed has left its socket.
    drop(UnixListener::bind(&socket).unwrap());
    let lines = format!("listen = \"unix:{}\"\n{WITH_TOKEN}", socket.display());
    let setup = daemon().admin(&lines).credential(ROOMY).environment("ADMIN_TOKEN", TOKEN);
    let mut world = setup.without_token().start().await;
    let operator = Operator::unix(&socket);
    ready(&operator).await;
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    // The mode of the file admits the client; a token that is shown must be right.
    let right = format!("Bearer {TOKEN}");
    assert_eq!(operator.post("/credentials/api/refresh", &[]).await.0, 200);
    assert_eq!(operator.post("/credentials/api/refresh", &[("authorization", &right)]).await.0, 200);
    let (status, code) =
        operator.post("/credentials/api/refresh", &[("authorization", "Bearer wrong")]).await;
    assert_eq!((status, code.as_str()), (401, "admin_token_wrong"));
    assert_eq!(operator.post("/reload", &[("host", "rebind.evil.test")]).await.0, 421);
    let refused = world.process.event("operator refused").await;
    assert!(refused["client_address"].is_null(), "{refused}");

    let by_flag = format!("unix:{}", socket.display());
    for arguments in [&["health"][..], &["health", "--ready"], &["refresh", "api"]] {
        for admin in [&[][..], &["--admin", &by_flag]] {
            let (code, output) = ended(world.command(&[arguments, admin].concat())).await;
            assert_eq!(code, 0, "{arguments:?} {output}");
        }
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let (code, output) = ended(spawn(&["health", "--admin", &by_flag], &[], elsewhere.path())).await;
    assert_eq!(code, 0, "{output}");

    let (code, output) = ended(world.another()).await;
    assert!(code == 1 && output.contains("another process listens on it"), "{output}");
    world.process.signal(Signal::TERM);
    assert!(world.process.ended().await.success());
    assert!(!socket.exists(), "the socket is removed at the end");
    for admin in [&[][..], &["--admin", &by_flag]] {
        let (code, output) = ended(world.command(&[&["health"], admin].concat())).await;
        assert!(code == 69 && output.contains("does not answer"), "{code} {output}");
    }
    world.check();
}

#[tokio::test]
async fn a_reload_moves_the_admin_address_and_cuts_no_request() {
    let world = daemon().credential(ROOMY).start().await;
    let before = Operator::plain(world.admin);
    let socket = world.folder().join("admin.sock");
    let listen = "[admin]\nlisten = \"127.0.0.1:0\"";
    world.configure(|text| text.replace(listen, "[admin]\nlisten = \"unix:admin.sock\""));

    // The reload's own response comes over the old address.
    let (status, reloaded) = before.ask("POST", "/reload", &[]).await;

    assert_eq!((status, &reloaded["settings"]), (200, &json!(["admin.listen"])), "{reloaded}");
    assert_eq!(reloaded["restart_needed"], json!([]));
    let after = Operator::unix(&socket);
    assert_eq!(after.ask("GET", "/readyz", &[]).await.0, 200);
    eventually("the old address closed", async || TcpStream::connect(world.admin).await.is_err()).await;

    // An address that cannot be bound changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_at = format!("[admin]\nlisten = \"{}\"", taken.local_addr().unwrap());
    world.configure(|text| text.replace("[admin]\nlisten = \"unix:admin.sock\"", &taken_at));
    assert!(world.reload_in_vain().await.contains("(admin.listen)"));
    assert_eq!(after.ask("GET", "/readyz", &[]).await.0, 200);

    world.configure(|text| text.replace(&taken_at, listen));
    world.reload().await;
    let address: SocketAddr = last_address(&world).parse().unwrap();
    assert_eq!(Operator::plain(address).ask("GET", "/readyz", &[]).await.0, 200);
    eventually("the socket removed", async || !socket.exists()).await;
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

/// A folder for a state.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self(folder)
    }

    fn state_dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn token_file(&self) -> PathBuf {
        self.state_dir().join("admin.token")
    }

    fn token(&self) -> String {
        fs::read_to_string(self.token_file()).unwrap().trim_end().to_owned()
    }

    /// A credential that accepts grants and has none yet.
    fn setup(&self) -> Setup {
        daemon()
            .server(&format!("state_dir = \"{}\"", self.state_dir().display()))
            .environment("STATE_KEY", KEY)
            .credential("state_key = { env = \"STATE_KEY\" }\ngrant = \"refresh_token\"")
            .credential(ROOMY)
            .without_token()
    }
}

async fn hand_over(operator: &Operator, world: &World, fields: &[(&str, &str)]) -> (u16, String) {
    let grant = json!({
        "refresh_token": world.authorization.authorize(), "client_id": CLIENT_ID,
        "token_url": world.authorization.token_url(),
    });
    let fields = [&[JSON], fields].concat();
    let answer = operator.try_ask("POST", "/credentials/api/grant", &fields, &grant.to_string()).await;
    let (status, _, body) = answer.unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn replacing_a_grant_needs_the_token_that_the_daemon_keeps_beside_the_state() {
    let place = Place::new();
    let mut world = place.setup().start().await;
    let operator = Operator::plain(world.admin);
    let token = place.token();
    assert_eq!(fs::metadata(place.token_file()).unwrap().permissions().mode() & 0o777, 0o600);
    let wrong = ("authorization", "Bearer wrong");
    assert_eq!(hand_over(&operator, &world, &[]).await, (401, "admin_token_required".to_owned()));
    assert_eq!(hand_over(&operator, &world, &[wrong]).await, (401, "admin_token_wrong".to_owned()));
    let shown = format!("Bearer {token}");
    assert_eq!(hand_over(&operator, &world, &[("authorization", &shown)]).await.0, 204);
    eventually("ready", async || operator.ask("GET", "/readyz", &[]).await.0 == 200).await;
    // Other operations need no token, and a wrong one is refused.
    for (method, path) in
        [("GET", "/credentials/api"), ("POST", "/credentials/api/refresh"), ("POST", "/reload")]
    {
        assert_eq!(operator.ask(method, path, &[]).await.0, 200, "{path}");
        assert_eq!(operator.ask(method, path, &[wrong]).await.0, 401, "{path}");
    }
    let admin = world.admin.to_string();
    let (code, output) = ended(world.command(&["refresh", "api", "--admin", &admin])).await;
    assert_eq!(code, 0, "{output}");

    // The token stays over a restart.
    world.process.signal(Signal::TERM);
    world.process.ended().await;
    world.start_again().await;
    assert_eq!(place.token(), token);
    let operator = Operator::plain(world.admin);
    assert_eq!(hand_over(&operator, &world, &[("authorization", &shown)]).await.0, 204);
    // After the file was removed, a reload makes another one.
    fs::remove_file(place.token_file()).unwrap();
    world.reload().await;
    assert_ne!(place.token(), token);
    assert_eq!(hand_over(&operator, &world, &[("authorization", &shown)]).await.0, 401);
    let new = format!("Bearer {}", place.token());
    assert_eq!(hand_over(&operator, &world, &[("authorization", &new)]).await.0, 204);
    for secret in [token, place.token()] {
        assert_absent(&world.process.output(), &secret);
    }
    world.finish().await;
}

#[tokio::test]
async fn an_unsuitable_token_file_is_replaced_or_refused_with_a_remedy() {
    let place = Place::new();
    let known = "a-token-that-every-user-could-read";
    fs::write(place.token_file(), known).unwrap();
    fs::set_permissions(place.token_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let mut world = place.setup().start().await;
    let replaced = world.process.event("admin token replaced: other users could access its file").await;
    assert_eq!(replaced["mode"], "0644");
    let operator = Operator::plain(world.admin);
    let shown = format!("Bearer {known}");
    assert_eq!(hand_over(&operator, &world, &[("authorization", &shown)]).await.0, 401);
    world.process.signal(Signal::TERM);
    world.process.ended().await;

    let target = place.0.path().join("target");
    fs::write(&target, known).unwrap();
    fs::remove_file(place.token_file()).unwrap();
    symlink(&target, place.token_file()).unwrap();
    for (command, said) in [("check", "it is a symlink"), ("run", "it is a symlink")] {
        let (code, output) = ended(world.command(&[command])).await;
        assert!(
            code == 78 && output.contains(said) && output.contains("remove it"),
            "{command} {code} {output}"
        );
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), known);
    world.check();
}

#[tokio::test]
async fn the_token_may_be_a_basic_password_and_browsers_are_asked_for_one() {
    let world = daemon().admin(WITH_TOKEN).environment("ADMIN_TOKEN", TOKEN).start().await;
    let operator = Operator::plain(world.admin);
    let page = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    for (fields, expected) in [
        (vec![], "Bearer"),
        (vec![("accept", "*/*")], "Bearer"),
        (vec![page], "Basic realm=\"bearerd\", Bearer"),
        (vec![page, ("authorization", "Basic eDp5")], "Basic realm=\"bearerd\", Bearer"),
    ] {
        let (status, headers, _) = operator.try_ask("GET", "/credentials", &fields, "").await.unwrap();
        assert_eq!((status, headers["www-authenticate"].to_str().unwrap()), (401, expected), "{fields:?}");
    }
    let request =
        operator.http.get(format!("{}/credentials", operator.base)).basic_auth("anyone", Some(TOKEN));
    assert_eq!(request.send().await.unwrap().status(), 200);
    world.finish().await;
}

/// Every path of both addresses refuses what pages of other sites cause.
#[tokio::test]
async fn a_page_of_another_site_is_refused_at_every_path() {
    let world = daemon().health("listen = \"127.0.0.1:0\"").start().await;
    let health = world.process.logged_address("health checks listening").await;
    let admin = [
        "/credentials",
        "/credentials/",
        "/credentials/api",
        "/credentials/api/refresh",
        "/credentials/api/grant",
        "/credentials/x/y",
        "/reload",
    ];
    let both = ["/livez", "/readyz", "/readyz?verbose", "/metrics", "/", "/status", "/events", "/other"];
    let at = |address: SocketAddr| Operator::plain(address);
    let paths = admin.iter().chain(&both).map(|path| (at(world.admin), *path));
    let asked = world.authorization.requests();
    for (operator, path) in paths.chain(both.iter().map(|path| (at(health), *path))) {
        for field in [
            ("origin", "http://evil.test"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            for method in ["GET", "POST", "OPTIONS"] {
                let (status, headers, body) = operator.try_ask(method, path, &[field], "").await.unwrap();
                assert_eq!(
                    (status, &body["code"]),
                    (403, &json!("browser_request")),
                    "{method} {path} {field:?}"
                );
                assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control")));
            }
        }
    }
    // After DNS rebinding, nothing but health itself is told.
    let rebound = [("host", "rebind.evil.test")];
    for path in admin.iter().chain(&["/readyz?verbose", "/metrics"]) {
        assert_eq!(at(world.admin).ask("POST", path, &rebound).await.0 / 100, 4, "{path}");
        let (_, body) = at(world.admin).ask("GET", path, &rebound).await;
        assert_eq!(body["code"], "host_not_allowed", "{path}");
    }
    assert_eq!(world.authorization.requests(), asked);
    world.finish().await;
}

#[tokio::test]
async fn the_address_of_health_checks_serves_nothing_else() {
    let lines = format!("{WITH_TOKEN}\nmetrics_token = true");
    let world = daemon()
        .health("listen = \"0.0.0.0:0\"")
        .admin(&lines)
        .environment("ADMIN_TOKEN", TOKEN)
        .start()
        .await;
    let address = world.process.logged_address("health checks listening").await;
    let address = SocketAddr::from(([127, 0, 0, 1], address.port()));
    let probe = Operator::plain(address);
    for host in ["bearerd.internal", "10.1.2.3:9091", "localhost"] {
        for path in ["/livez", "/readyz", "/readyz?verbose"] {
            let answer = probe.ask("GET", path, &[("host", host)]).await;
            assert_eq!(answer, (200, json!("ok\n")), "{host} {path}");
        }
    }
    let right = format!("Bearer {TOKEN}");
    let shown = [("authorization", right.as_str())];
    for path in ["/", "/status", "/credentials", "/credentials/api/refresh", "/reload", "/livez/"] {
        for method in ["GET", "POST"] {
            let (status, body) = probe.ask(method, path, &shown).await;
            assert_eq!((status, &body["code"]), (404, &json!("path_not_found")), "{method} {path}");
        }
    }
    for operator in [&probe, &Operator::plain(world.admin)] {
        assert_eq!(operator.ask("GET", "/metrics", &[]).await.0, 401);
        assert_ne!(operator.ask("GET", "/metrics", &shown).await.0, 401);
    }
    // A reload moves it, and ends it.
    let socket = world.folder().join("health.sock");
    world.configure(|text| {
        text.replace("[health]\nlisten = \"0.0.0.0:0\"", "[health]\nlisten = \"unix:health.sock\"")
    });
    assert_eq!(world.reload().await["settings"], "health.listen");
    assert_eq!(Operator::unix(&socket).ask("GET", "/livez", &[]).await.0, 200);
    eventually("the old address closed", async || TcpStream::connect(address).await.is_err()).await;
    world.configure(|text| text.replace("unix:health.sock", ""));
    world.reload().await;
    eventually("the socket removed", async || UnixStream::connect(&socket).is_err()).await;
    world.finish().await;
}

/// A login hands its grant over by the daemon's own token, and says before the browser opens if it cannot read it.
#[tokio::test]
async fn commands_read_the_daemons_own_token_by_themselves() {
    let place = Place::new();
    let world = place
        .setup()
        .credential("grant = \"authorization_code\"\nauthorize_url = \"{authorize_url}\"\nredirect_uri = \"http://127.0.0.1/cb\"")
        .start()
        .await;
    let admin = world.admin.to_string();
    let arguments = ["login", "api", "--no-browser", "--admin", &admin];
    let login = world.command(&arguments);
    let url = || login.output().lines().find(|line| line.starts_with("http")).map(str::to_owned);
    eventually("an address", async || url().is_some() && login.output().contains("Waiting for ")).await;
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
    http.get(url().unwrap()).send().await.unwrap();
    let (code, output) = ended(login).await;
    assert!(code == 0 && output.contains("handed to the daemon at"), "{code} {output}");
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    assert_absent(&output, &place.token());

    let token = place.token();
    fs::remove_file(place.token_file()).unwrap();
    symlink("elsewhere", place.token_file()).unwrap();
    let (code, output) = ended(world.command(&arguments)).await;
    assert!(
        code == 1 && output.contains("it is a symlink") && !output.contains("Open this"),
        "{code} {output}"
    );
    fs::remove_file(place.token_file()).unwrap();
    let (code, output) = ended(world.command(&arguments)).await;
    let says = output.contains("denied access") && output.contains("if `admin.token` is missing");
    assert!(code == 1 && says && !output.contains("Open this"), "{code} {output}");
    assert_absent(&world.process.output(), &token);
    world.finish().await;
}
