//! `bearerd login`: the test acts as the browser and its user.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use reqwest::Url;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::access_token::jwt;
use testkit::authorization_server::{Answer, Consent, IdToken};
use testkit::server::{Server, whole};

use crate::harness::process::Launch;
use crate::harness::{Process, Setup, World, daemon, eventually};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const FREE: &str = "redirect_uri = \"http://127.0.0.1/callback\"";
const AUTHORIZE: &str = "authorize_url = \"{authorize_url}\"";
/// An address without a listener.
const NO_DAEMON: &str = "127.0.0.1:1";

/// A folder for a state.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self(folder)
    }

    fn state_dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn setup(&self) -> Setup {
        daemon()
            .without_token()
            .server(&format!("state_dir = \"{}\"", self.state_dir().display()))
            .environment("STATE_KEY", KEY)
            .credential("grant = \"authorization_code\"\nstate_key = { env = \"STATE_KEY\" }")
            .credential("quota = { requests = 1000, per = \"1s\" }")
    }

    /// A world whose daemon was stopped.
    async fn without_daemon(&self, lines: &[&str]) -> World {
        let setup = lines.iter().fold(self.setup(), |setup, line| setup.credential(line));
        let mut world = setup.start().await;
        world.process.signal(Signal::TERM);
        assert!(world.process.ended().await.success());
        world
    }
}

/// A running `bearerd login`.
struct Login(Process);

impl Login {
    fn start(world: &World, more: &[&str]) -> Self {
        Self::start_at(NO_DAEMON, world, more)
    }

    /// Starts with this configured admin address.
    fn start_at(admin: &str, world: &World, more: &[&str]) -> Self {
        Self(Self::launch(admin, world, more).with_input().start())
    }

    fn launch(admin: &str, world: &World, more: &[&str]) -> Launch {
        let launch = world.launch().variable("BEARERD_ADMIN__LISTEN", admin);
        launch.arguments(&[&["login", "api", "--no-browser"], more].concat())
    }

    /// The printed address, which has a line of its own.
    async fn url(&self) -> Url {
        let mut url = None;
        eventually("an address", async || {
            let output = self.0.output();
            url = output.lines().find(|line| line.starts_with("http")).map(str::to_owned);
            url.is_some() && output.contains("Waiting for ")
        })
        .await;
        Url::parse(&url.unwrap()).unwrap()
    }

    /// The exit code and the output, which has no secret.
    async fn end(mut self, world: &World) -> (i32, String) {
        let code = self.0.ended().await.code().unwrap();
        let output = self.0.output();
        assert!(!output.contains("panicked"), "{output}");
        let mut secrets = world.authorization.issued();
        secrets.extend(world.authorization.refresh_tokens().all().iter().cloned());
        secrets.extend(world.authorization.codes());
        secrets.push(CLIENT_SECRET.to_owned());
        for secret in &secrets {
            assert_absent(&output, secret);
        }
        for asked in world.authorization.asked() {
            let verifier = asked.form.iter().find(|(name, value)| name == "code_verifier" && value.len() > 1);
            if let Some((_, verifier)) = verifier {
                assert_absent(&output, verifier);
            }
        }
        (code, output)
    }
}

fn http() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy();
    builder.redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

async fn open(url: &Url) -> reqwest::Response {
    http().get(url.clone()).send().await.unwrap()
}

/// The address that the authorization server redirects the browser to.
async fn sent_back(url: &Url) -> Url {
    let response = open(url).await;
    assert_eq!(response.status(), 302);
    Url::parse(response.headers()["location"].to_str().unwrap()).unwrap()
}

/// Acts as the browser of a person who consents.
async fn agree(url: &Url) -> reqwest::Response {
    open(&sent_back(url).await).await
}

#[track_caller]
fn says(output: &str, texts: &[&str]) {
    for text in texts {
        assert!(output.contains(text), "no {text:?} in:\n{output}");
    }
}

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> &'a str {
    let mut values = pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(values.next(), None, "{name} twice");
    value
}

#[tokio::test]
async fn a_login_without_a_daemon_is_used_by_the_next_daemon() {
    let place = Place::new();
    let lines = [AUTHORIZE, FREE, "scopes = [\"a\", \"offline_access\"]"];
    let mut world = place.without_daemon(&lines).await;
    let login = Login::start(&world, &[]);
    let url = login.url().await;
    let page = agree(&url).await;

    assert_eq!(page.status(), 200);
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("content-type", "text/html; charset=utf-8"),
    ] {
        assert_eq!(page.headers()[name], value);
    }
    let page = page.text().await.unwrap();
    assert!(page.contains("Close this page") && !page.contains("<script"), "{page}");
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["credential `api`: authorized", "a offline_access (as requested", "lifetime  1h,"]);
    says(&output, &["written to ", "api.state: no daemon runs"]);

    let sent = world.authorization.authorized();
    let asked = world.authorization.asked();
    assert_eq!((sent.len(), asked.len()), (1, 1));
    for (name, expected) in
        [("response_type", "code"), ("scope", "a offline_access"), ("code_challenge_method", "S256")]
    {
        assert_eq!(value(&sent[0], name), expected);
    }
    assert!(value(&sent[0], "state").len() >= 22);
    assert!(!sent[0].iter().any(|(name, _)| name == "nonce"), "there is no ID token to check");
    assert_eq!(value(&asked[0].form, "redirect_uri"), value(&sent[0], "redirect_uri"));

    // The token is used at once; the refresh token is used for the next one.
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 1);
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 2);
    assert_eq!(value(&world.authorization.asked()[1].form, "grant_type"), "refresh_token");
    assert_eq!(world.authorization.refresh_tokens().reuses(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_login_that_uses_the_second_client_secret_tells_the_next_daemon() {
    let place = Place::new();
    let setup = place.setup().credential(AUTHORIZE).credential(FREE);
    let setup = setup.secret("{ env = \"OLD\" }").environment("OLD", "replaced-at-the-platform");
    let mut world = setup.credential("client_secret_next = { env = \"API_SECRET\" }").start().await;
    world.process.signal(Signal::TERM);
    assert!(world.process.ended().await.success());
    let login = Login::start(&world, &[]);
    agree(&login.url().await).await;

    let (code, output) = login.end(&world).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(world.authorization.requests(), 2, "one with each secret");
    world.start_again().await;
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 3, "the one that works, at once");
    world.finish().await;
}

#[tokio::test]
async fn check_says_how_to_log_in_until_a_login_has_happened() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let check = async || Login(world.command(&["check"])).end(&world).await;

    let (code, output) = check().await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["nobody has logged in", "[credentials.api]", "run `bearerd login api`"]);

    let login = Login::start(&world, &[]);
    agree(&login.url().await).await;
    assert_eq!(login.end(&world).await.0, 0);
    let (code, output) = check().await;
    assert_eq!((code, output.contains("logged in")), (0, false), "{output}");
    world.check();
}

#[tokio::test]
async fn a_daemon_without_a_grant_says_how_to_log_in() {
    let place = Place::new();
    let world = place.setup().credential(AUTHORIZE).start().await;
    let (_, shown) = world.admin_get("/credentials/api").await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["grant"], "authorization_code", "as the configuration calls it");
    let event = world.process.event("reauthorization required").await;
    assert!(event["error"].as_str().unwrap().contains("run `bearerd login api`"), "{event}");
    let reply = world.get("/x").await;
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("reauthorization_required")));
    assert!(String::from_utf8_lossy(&reply.body).contains("`bearerd login api`"));
    let shown = http().get(format!("http://{}/credentials/api", world.admin)).send().await.unwrap();
    let shown: Value = serde_json::from_str(&shown.text().await.unwrap()).unwrap();
    assert_eq!((&shown["grant"], &shown["takes_grant"]), (&"authorization_code".into(), &true.into()));
    assert_eq!(world.authorization.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn other_requests_to_the_callback_are_refused_and_do_not_end_the_wait() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let login = Login::start(&world, &[]);
    let back = sent_back(&login.url().await).await;

    let mut other_state = back.clone();
    other_state.query_pairs_mut().clear().append_pair("code", "stolen").append_pair("state", "x");
    let mut no_state = back.clone();
    no_state.set_query(Some("error=access_denied"));
    let mut twice = back.clone();
    twice.query_pairs_mut().append_pair("code", "another");
    let mut elsewhere = back.clone();
    elsewhere.set_path("/callback/");
    for (url, status) in [(&other_state, 400), (&no_state, 400), (&twice, 400), (&elsewhere, 404)] {
        assert_eq!(open(url).await.status(), status, "{url}");
    }
    assert_eq!(http().post(back.clone()).send().await.unwrap().status(), 405);
    assert_eq!(world.authorization.requests(), 0);

    assert_eq!(open(&back).await.status(), 200);
    assert_eq!(login.end(&world).await.0, 0);
    world.check();
}

#[tokio::test]
async fn a_denied_login_ends_with_the_servers_error() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    world.authorization.set_consent(Consent { is_denied: true, ..Consent::default() });
    let login = Login::start(&world, &[]);
    let page = agree(&login.url().await).await.text().await.unwrap();

    assert!(page.contains("The login failed") && !page.contains("said no"), "{page}");
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["says no: access_denied, \"the person?[31m said no\""]);
    assert_eq!(world.authorization.requests(), 0);
    world.check();
}

#[tokio::test]
async fn a_code_that_the_server_rejects_is_reported() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let login = Login::start(&world, &[]);
    let back = sent_back(&login.url().await).await;
    let code = back.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    // Another client used the code first, without the verifier.
    let form = format!("grant_type=authorization_code&code={code}&code_verifier=x");
    let request =
        http().post(world.authorization.token_url()).basic_auth("legacy-gateway", Some(CLIENT_SECRET));
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
    assert_eq!(request.send().await.unwrap().status(), 400);
    open(&back).await;

    let (code, output) = login.end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["rejected the request (status 400): invalid_grant"]);
    world.check();
}

/// The exit code, the output, and whether the next daemon is ready.
async fn refused(lines: &[&str], consent: Consent) -> String {
    let place = Place::new();
    let mut world = place.without_daemon(lines).await;
    world.authorization.set_consent(consent);
    let login = Login::start(&world, &[]);
    agree(&login.url().await).await;
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 1, "{output}");
    let before = world.authorization.requests();
    world.start_again().await;
    assert_eq!(world.get("/x").await.code().as_deref(), Some("reauthorization_required"));
    assert_eq!(world.authorization.requests(), before);
    world.finish().await;
    output
}

#[tokio::test]
async fn a_grant_without_a_refresh_token_is_not_stored() {
    let output = refused(&[AUTHORIZE, FREE], Consent { is_lasting: false, ..Consent::default() }).await;
    says(&output, &["the server sent no refresh token, and nothing was stored", "offline_access"]);
}

#[tokio::test]
async fn a_grant_that_requests_could_not_use_is_not_stored() {
    let less = || Consent { scope: Some("a".to_owned()), ..Consent::default() };
    let scopes = "scopes = [\"a\", \"b\"]\nrequire_scopes = true";
    let output = refused(&[AUTHORIZE, FREE, scopes], less()).await;
    says(&output, &["granted without the required scopes: b", "nothing was stored"]);

    let output = refused(&[AUTHORIZE, FREE, "expect_jwt = true"], Consent::default()).await;
    says(&output, &["does not have the form of a JWT"]);
}

#[tokio::test]
async fn obstacles_are_reported_before_the_browser_opens() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("redirect_uri = \"http://127.0.0.1:{}/\"", taken.local_addr().unwrap().port());
    let closed = "issuer = \"http://127.0.0.1:2\"";
    for (lines, arguments, texts) in [
        (vec![AUTHORIZE, &port], vec![], ["cannot listen on 127.0.0.1:", "register another `redirect_uri`"]),
        (vec![closed, FREE], vec![], ["the issuer does not tell", "check --online"]),
        (
            vec![AUTHORIZE, FREE],
            vec!["--admin", "https://gateway.invalid:1"],
            ["cannot tell whether a daemon is running", "admin.listen"],
        ),
        (
            vec![AUTHORIZE, FREE],
            vec!["--admin", "gateway.invalid:1"],
            ["the grant would be sent to http://gateway.invalid:1 unencrypted", "docker exec"],
        ),
    ] {
        let place = Place::new();
        let world = place.without_daemon(&lines).await;
        let (code, output) = Login::start(&world, &arguments).end(&world).await;
        assert_eq!(code, 1, "{output}");
        says(&output, &texts);
        assert!(!output.contains("Open this address"), "{output}");
        world.check();
    }
}

#[tokio::test]
async fn an_unwritable_state_is_reported_before_the_login() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    fs::remove_dir_all(place.state_dir()).unwrap();

    let (code, output) = Login::start(&world, &[]).end(&world).await;

    assert_eq!(code, 1, "{output}");
    says(&output, &["no daemon answers at http://127.0.0.1:1", "cannot open the folder", "mkdir -m 700"]);
    assert!(!output.contains("Open this address"), "{output}");
    world.check();
}

#[tokio::test]
async fn a_daemon_that_runs_and_does_not_answer_keeps_its_state() {
    let place = Place::new();
    let world = place.setup().credential(AUTHORIZE).credential(FREE).start().await;

    let (code, output) = Login::start(&world, &[]).end(&world).await;

    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &["no daemon answers at", "is in use by process ", "name its admin address with `--admin`"],
    );
    world.finish().await;
}

#[tokio::test]
async fn an_unknown_credential_or_one_without_a_login_is_named() {
    let world = daemon().start().await;
    for (name, texts) in [
        ("nobody", ["the configuration has no credential `nobody`", "its credentials are: api"]),
        ("api", ["the credential `api` has no login", "set grant = \"authorization_code\""]),
    ] {
        let (code, output) = Login(world.command(&["login", name])).end(&world).await;
        assert_eq!(code, 1, "{output}");
        says(&output, &texts);
    }
    world.finish().await;
}

#[tokio::test]
async fn the_wait_for_a_login_times_out() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let (code, output) = Login::start(&world, &["--timeout", "300ms"]).end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["the browser did not return within", "--timeout 15m"]);
    world.check();
}

#[tokio::test]
async fn the_final_address_of_a_browser_elsewhere_can_be_pasted() {
    let place = Place::new();
    for redirect_uri in ["redirect_uri = \"https://app.example.com/callback\"", FREE] {
        let mut world = place.without_daemon(&[AUTHORIZE, redirect_uri]).await;
        let mut login = Login::start(&world, &[]);
        let back = sent_back(&login.url().await).await;
        says(&login.0.output(), &["paste"]);
        for line in [
            "",
            "no address",
            "https://app.example.com/other?code=1",
            &back.as_str().replace("state=", "state=x"),
        ] {
            login.0.type_line(line).await;
        }
        eventually("three of them refused", async || {
            login.0.output().matches("Not the expected address").count() == 3
        })
        .await;
        login.0.type_line(&format!("  {back}\r")).await;

        let (code, output) = login.end(&world).await;
        assert_eq!(code, 0, "{output}");
        world.start_again().await;
        assert_eq!(world.get("/x").await.status, 200);
        world.finish().await;
        fs::remove_dir_all(place.state_dir()).unwrap();
        fs::create_dir(place.state_dir()).unwrap();
    }
}

/// A terminal passes on 4,095 bytes of a line by default.
#[tokio::test]
async fn a_long_address_can_be_pasted_into_a_terminal_which_keeps_its_settings() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = PathBuf::from(OsString::from_vec(ptsname(&terminal, Vec::new()).unwrap().into_bytes()));
    let ours = fs::File::options().read(true).write(true).open(&path).unwrap();
    let is_canonical = || tcgetattr(&ours).unwrap().local_modes.contains(LocalModes::ICANON);
    assert!(is_canonical());
    let start = || Login(Login::launch(NO_DAEMON, &world, &[]).terminal(path.clone()).start());

    // A signal ends the command, and the terminal has its settings back.
    let login = start();
    login.url().await;
    assert!(!is_canonical());
    login.0.signal(Signal::INT);
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["interrupted by SIGINT"]);
    assert!(is_canonical());

    let login = start();
    let mut back = sent_back(&login.url().await).await;
    back.query_pairs_mut().append_pair("session_state", &"x".repeat(9000));
    // The terminal echoes, and takes no more while nobody reads that.
    let echoed = terminal.try_clone().unwrap();
    let reader = std::thread::spawn(move || io::copy(&mut fs::File::from(echoed), &mut io::sink()));
    let typed = format!("wrong\x15{back}\n");
    tokio::task::spawn_blocking(move || fs::File::from(terminal).write_all(typed.as_bytes()).unwrap())
        .await
        .unwrap();

    let (code, output) = login.end(&world).await;
    assert_eq!(code, 0, "{output}");
    assert!(is_canonical());
    drop(ours);
    let _ = reader.join();
    world.check();
}

#[tokio::test]
async fn without_a_terminal_only_a_login_with_a_listener_goes_on() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, "redirect_uri = \"http://localhost:0/cb\""]).await;
    let mut login = Login::start(&world, &[]);
    login.0.end_input();
    let url = login.url().await;
    assert_eq!(agree(&url).await.status(), 200);
    assert_eq!(login.end(&world).await.0, 0);
    world.check();

    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, "redirect_uri = \"https://app.example.com/cb\""]).await;
    let mut login = Login::start(&world, &[]);
    login.url().await;
    login.0.end_input();
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["standard input is closed", "docker exec -it"]);
    world.check();
}

#[tokio::test]
async fn a_client_without_a_secret_discovers_its_endpoints() {
    let place = Place::new();
    let lines = ["issuer = \"{issuer}\"", FREE, "client_auth = \"none\""];
    let mut world = place.without_daemon(&lines).await;
    world.authorization.take_public();
    let iss = Some(world.authorization.issuer().to_owned());
    world.authorization.set_consent(Consent { iss, ..Consent::default() });
    let login = Login::start(&world, &[]);
    agree(&login.url().await).await;
    let (code, output) = login.end(&world).await;

    assert_eq!(code, 0, "{output}");
    assert_eq!(world.authorization.metadata_asked().len(), 1);
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert!(world.authorization.asked().iter().all(|asked| asked.headers.get("authorization").is_none()));
    world.finish().await;
}

/// The login reports what concerns it, and the daemon afterwards what concerns token requests.
#[tokio::test]
async fn methods_that_the_issuer_does_not_list_are_reported_once_and_where_they_are_used() {
    let place = Place::new();
    let mut world = place.without_daemon(&["issuer = \"{issuer}\"", FREE]).await;
    let path = "/.well-known/oauth-authorization-server";
    let document = json!({
        "issuer": world.authorization.issuer(),
        "token_endpoint": world.authorization.token_url(),
        "authorization_endpoint": world.authorization.authorize_url(),
        "grant_types_supported": ["password"],
        "code_challenge_methods_supported": ["plain"],
    });
    world.authorization.set_metadata(path, Answer::status(200, &document.to_string()));
    let login = Login::start(&world, &[]);
    agree(&login.url().await).await;
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(output.matches("metadata does not list").count(), 1, "{output}");
    says(&output, &["does not list refresh_token, authorization_code, PKCE with S256;"]);

    world.start_again().await;
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    let told = world.process.events("issuer's metadata does not list what is configured");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["not_listed"], "refresh_token");
    world.finish().await;
}

#[tokio::test]
async fn an_answer_of_another_issuer_is_refused() {
    let place = Place::new();
    let world = place.without_daemon(&["issuer = \"{issuer}\"", FREE]).await;
    let iss = Some("https://impostor.example.com".to_owned());
    world.authorization.set_consent(Consent { iss, ..Consent::default() });
    let login = Login::start(&world, &[]);
    agree(&login.url().await).await;

    let (code, output) = login.end(&world).await;

    assert_eq!(code, 1, "{output}");
    says(&output, &["another server answered: its `iss` is \"https://impostor.example.com\""]);
    assert_eq!(world.authorization.requests(), 0);
    world.check();
}

#[tokio::test]
async fn an_error_without_the_promised_issuer_is_reported_with_both_facts() {
    for (iss, fact) in [
        (None, "the answer lacks the `iss` that this server says it sends"),
        (Some("https://impostor.example.com"), "its `iss` is \"https://impostor.example.com\""),
    ] {
        let place = Place::new();
        let world = place.without_daemon(&["issuer = \"{issuer}\"", FREE]).await;
        let issuer = world.authorization.issuer().to_owned();
        let promise = json!({
            "issuer": issuer,
            "token_endpoint": world.authorization.token_url(),
            "authorization_endpoint": world.authorization.authorize_url(),
            "authorization_response_iss_parameter_supported": true,
        });
        let path = "/.well-known/oauth-authorization-server";
        world.authorization.set_metadata(path, Answer::status(200, &promise.to_string()));
        let consent = Consent { is_denied: true, iss: iss.map(str::to_owned), ..Consent::default() };
        world.authorization.set_consent(consent);
        let login = Login::start(&world, &[]);
        agree(&login.url().await).await;

        let (code, output) = login.end(&world).await;

        assert_eq!(code, 1, "{output}");
        says(&output, &[fact, "access_denied, \"the person?[31m said no\""]);
        assert_eq!(world.authorization.requests(), 0);
        world.check();
    }
}

#[tokio::test]
async fn a_login_with_openid_sends_a_nonce_and_refuses_another_logins_id_token() {
    let other = jwt(&json!({ "nonce": "of-another-login" }));
    let none = jwt(&json!({ "sub": "a" }));
    for (id_token, code, text) in [
        (IdToken::Good, 0, None),
        (IdToken::Missing, 0, Some("the server sent no ID token")),
        (IdToken::Fixed("a.b.c.d.e".to_owned()), 0, Some("the ID token is no legible JWT")),
        (IdToken::Fixed(other), 1, Some("the ID token is of another login")),
        (IdToken::Fixed(none), 1, Some("the ID token is of another login")),
    ] {
        let place = Place::new();
        let mut world = place.without_daemon(&[AUTHORIZE, FREE, "scopes = [\"openid\", \"a\"]"]).await;
        world.authorization.set_consent(Consent { id_token: id_token.clone(), ..Consent::default() });
        let login = Login::start(&world, &[]);
        agree(&login.url().await).await;

        let (found, output) = login.end(&world).await;

        assert_eq!(found, code, "{id_token:?}: {output}");
        assert_eq!(output.contains("ID token"), text.is_some(), "{output}");
        says(&output, text.as_slice());
        assert_eq!(value(&world.authorization.authorized()[0], "nonce").len(), 43);
        world.start_again().await;
        assert_eq!(world.get("/x").await.status == 200, code == 0);
        world.finish().await;
    }
}

/// A server in the place of a daemon's admin address.
struct Admin {
    server: Server,
    posted: Arc<Mutex<Vec<String>>>,
}

impl Admin {
    /// Starts a server with these statuses for GET and POST, and with the credential of this world.
    async fn start(world: &World, get: u16, post: u16) -> Self {
        let said = json!({
            "takes_grant": true,
            "client_id": CLIENT_ID,
            "token_url": world.authorization.token_url(),
            "detail": "the words of the daemon",
        });
        Self::start_saying(&said, get, post).await
    }

    async fn start_saying(said: &Value, get: u16, post: u16) -> Self {
        let said = said.to_string();
        let posted = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&posted);
        let server = Server::start(None, move |request| {
            let (kept, said) = (Arc::clone(&kept), said.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let status = match (head.method.as_str(), head.uri.path()) {
                    ("GET", "/credentials/api") => get,
                    ("GET", "/credentials/api/grant") => 204,
                    ("POST", "/credentials/api/grant") => {
                        assert_eq!(head.headers["content-type"], "application/json");
                        kept.lock().unwrap().push(String::from_utf8(body.to_vec()).unwrap());
                        post
                    }
                    other => panic!("{other:?}"),
                };
                let mut response = Response::new(whole(said));
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
                Ok(response)
            }
        })
        .await
        .unwrap();
        Self { server, posted }
    }

    fn address(&self) -> String {
        self.server.address().to_string()
    }
}

#[tokio::test]
async fn a_running_daemon_receives_the_grant() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    world.authorization.set_consent(Consent { scope: Some("a b".to_owned()), ..Consent::default() });
    world.authorization.answer_next(Answer::Late(Duration::from_millis(1200)));
    let admin = Admin::start(&world, 200, 204).await;
    let login = Login::start(&world, &["--admin", &admin.address()]);
    agree(&login.url().await).await;
    let (code, output) = login.end(&world).await;

    assert_eq!(code, 0, "{output}");
    says(&output, &["scopes    a b", &format!("handed to the daemon at http://{}", admin.address())]);
    let posted = admin.posted.lock().unwrap().clone();
    let [json] = posted.as_slice() else { panic!("{} grants", posted.len()) };
    let json: Value = serde_json::from_str(json).unwrap();
    let url = world.authorization.token_url();
    let tokens = world.authorization.refresh_tokens();
    assert_eq!(json["refresh_token"].as_str(), tokens.latest());
    assert_eq!(json["access_token"].as_str(), world.authorization.issued().last().map(String::as_str));
    let left = json["expires_in"].as_u64().unwrap();
    assert!((3580..=3598).contains(&left), "{left}");
    assert_eq!(json["scope"], "a b");
    assert_eq!((&json["client_id"], &json["token_url"]), (&CLIENT_ID.into(), &url.into()));
    assert_eq!(
        fs::read_dir(place.state_dir())
            .unwrap()
            .filter(|entry| {
                entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "state")
            })
            .count(),
        0
    );
    world.check();
}

#[tokio::test]
async fn a_daemon_that_would_refuse_the_grant_is_asked_before_the_browser_opens() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let words = "the words of the daemon";
    let origin = |client_id: &str, token_url: &str| json!({ "takes_grant": true, "client_id": client_id, "token_url": token_url, "detail": words });
    let url = world.authorization.token_url();
    let no_grant = json!({ "takes_grant": false, "detail": words });
    let no_origin = json!({ "takes_grant": true, "detail": words });
    for (said, status, texts) in [
        // Success without a declaration that it accepts grants.
        (&no_grant, 200, ["has another grant for the credential `api`", "restart the daemon"]),
        (&no_grant, 404, ["has no credential `api`", "restart the daemon"]),
        (&no_grant, 401, ["denied access: the words of the daemon", "set `admin.token`"]),
        (&no_grant, 403, ["denied access: the words of the daemon", "set `admin.token`"]),
        (&no_grant, 500, ["rejected the grant: the words of the daemon", "bearerd: "]),
        (&origin("other", &url), 200, ["that of the client \"other\" at ", "restart the daemon"]),
        (
            &origin(CLIENT_ID, "https://b.test/t?x=1"),
            200,
            ["that of the client \"legacy-gateway\" at https://b.test/t, and this", "restart the daemon"],
        ),
        (&no_origin, 200, ["that of an unknown client", "restart the daemon"]),
    ] {
        let admin = Admin::start_saying(said, status, 204).await;
        let (code, output) = Login::start(&world, &["--admin", &admin.address()]).end(&world).await;
        assert_eq!(code, 1, "{output}");
        says(&output, &texts);
        assert!(!output.contains("Open this address"), "{output}");
    }
    assert!(world.authorization.authorized().is_empty());
    world.check();
}

#[tokio::test]
async fn a_grant_that_the_daemon_refuses_is_reported() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let admin = Admin::start(&world, 200, 409).await;
    let login = Login::start(&world, &["--admin", &admin.address()]);
    agree(&login.url().await).await;
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["rejected the grant: the words of the daemon"]);
    world.check();
}

#[tokio::test]
async fn a_daemon_that_ends_while_the_person_logs_in_leaves_its_state_to_the_login() {
    let place = Place::new();
    let mut world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let admin = Admin::start(&world, 200, 204).await;
    let login = Login::start_at(&admin.address(), &world, &[]);
    let url = login.url().await;
    drop(admin);
    agree(&url).await;

    let (code, output) = login.end(&world).await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["written to "]);
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_named_admin_address_is_the_only_destination() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let stored = || fs::read_dir(place.state_dir()).unwrap().count();
    let before = stored();

    let (code, output) = Login::start(&world, &["--admin", NO_DAEMON]).end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &["no daemon answers at http://127.0.0.1:1, and nothing was stored", "leave out `--admin`"],
    );
    assert!(!output.contains("Open this address"), "{output}");

    let admin = Admin::start(&world, 200, 204).await;
    let login = Login::start(&world, &["--admin", &admin.address()]);
    let url = login.url().await;
    drop(admin);
    agree(&url).await;
    let (code, output) = login.end(&world).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["no daemon answers at ", "nothing was stored"]);
    assert_eq!(stored(), before);
    world.check();
}

/// The running daemon itself, which a reload has given another client since.
#[tokio::test]
async fn a_daemon_does_not_take_the_grant_of_a_client_that_a_reload_has_replaced() {
    let place = Place::new();
    let world = place.setup().credential(AUTHORIZE).credential(FREE).start().await;
    let login = Login::start_at(&world.admin.to_string(), &world, &[]);
    let url = login.url().await;
    world.configure(|text| text.replace("\"legacy-gateway\"", "\"another-client\""));
    world.reload().await;
    agree(&url).await;

    let (code, output) = login.end(&world).await;

    assert_eq!(code, 1, "{output}");
    says(&output, &["rejected the grant: ", "accepts those of the client \"another-client\" at http://"]);
    let refused = world.process.event("operator refused").await;
    assert_eq!((&refused["status"], &refused["reason"]), (&409.into(), &"grant_of_another_client".into()));
    let (_, shown) = world.admin_get("/credentials/api").await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["client_id"], &shown["token_url"], &shown["state"], &shown["reason"]),
        (
            &"another-client".into(),
            &world.authorization.token_url().into(),
            &"unusable".into(),
            &"reauthorization_required".into()
        )
    );
    world.finish().await;
}

#[tokio::test]
async fn the_state_of_another_client_takes_no_grant_without_a_daemon() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let login = Login::start(&world, &[]);
    agree(&login.url().await).await;
    assert_eq!(login.end(&world).await.0, 0);
    let before = fs::read(place.state_dir().join("api.state")).unwrap();
    world.configure(|text| text.replace("\"legacy-gateway\"", "\"another-client\""));

    let (code, output) = Login::start(&world, &[]).end(&world).await;

    assert_eq!(code, 1, "{output}");
    says(&output, &["bearerd forget"]);
    assert!(!output.contains("Open this address"), "{output}");
    assert_eq!(fs::read(place.state_dir().join("api.state")).unwrap(), before);
    world.check();
}

#[tokio::test]
async fn a_login_of_another_tenant_is_reported() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    for (tenant, warns) in [("first-tenant", false), ("first-tenant", false), ("second-tenant", true)] {
        world.authorization.set_tenant(tenant);
        let login = Login::start(&world, &[]);
        agree(&login.url().await).await;
        let (code, output) = login.end(&world).await;
        assert_eq!(code, 0, "{output}");
        says(&output, &[&format!("tenant    {tenant}")]);
        assert_eq!(output.contains("the previous token is of the tenant first-tenant"), warns, "{output}");
    }
    world.check();
}

/// Anybody on the machine can connect to the callback.
#[tokio::test]
async fn idle_connections_to_the_callback_keep_no_browser_out() {
    let place = Place::new();
    let world = place.without_daemon(&[AUTHORIZE, FREE]).await;
    let login = Login::start(&world, &[]);
    let back = sent_back(&login.url().await).await;
    let port = back.port().unwrap();
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let begun = tokio::time::Instant::now();

    assert_eq!(open(&back).await.status(), 200);

    assert!(begun.elapsed() < Duration::from_secs(4), "not by the timeout of a request head");
    assert_eq!(login.end(&world).await.0, 0);
    drop(idle);
    world.check();
}
