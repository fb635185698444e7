//! States and configurations of earlier versions, which this version reads.
//!
//! `golden` has a folder for each version: `proxy.toml` with a credential of each grant, the state that a daemon of that
//! version wrote for each, and `every-key.toml`, the shipped configuration with every key.
//! `BEARERD_GOLDEN=write cargo test --test it golden` writes the folder of the latest version anew.

use std::fs;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bearerd::clock::Clock;
use bearerd::config;
use bearerd::config::Environment;
use bearerd::token::DurableState;
use bearerd::token::state::file::State;
use http_body_util::BodyExt;
use rustix::process::Signal;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::harness::Internet;
use testkit::server::json as answer;

use crate::harness::{Process, command, eventually};
use crate::shipped::{Setting, uncommented};

const CHANGELOG: &str = include_str!("../../CHANGELOG.md");
const VARIABLES: [(&str, &str); 5] = [
    ("CLIENT_SECRET", "golden-secret"),
    ("NEXT_SECRET", "golden-next-secret"),
    ("SUBJECT_TOKEN", "golden-subject"),
    ("REFRESH_TOKEN", "golden-refresh-0"),
    ("STATE_KEY", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
];
/// The credentials whose state is encrypted; the last two rotate refresh tokens.
const SEALED: [&str; 6] = ["client", "password", "assertion", "exchange", "refresh", "login"];
const ROTATING: [&str; 2] = ["refresh", "login"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden")
}

/// The versions of the changelog, the latest first.
fn released() -> impl Iterator<Item = &'static str> {
    let headings = CHANGELOG.lines().filter_map(|line| line.strip_prefix("## ")?.split(' ').next());
    headings.filter(|version| version.starts_with(|first: char| first.is_ascii_digit()))
}

fn versions() -> Vec<PathBuf> {
    fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A folder with a version's configuration and, as far as there are any, its states.
fn copy_of(version: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(version.join("proxy.toml"), folder.path().join("proxy.toml")).unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(version).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "state") {
            let copy = state.join(entry.file_name().unwrap());
            fs::copy(&entry, &copy).unwrap();
            fs::set_permissions(&copy, Permissions::from_mode(0o600)).unwrap();
        }
    }
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    fs::write(folder.path().join("assertion.pem"), key).unwrap();
    folder
}

/// A daemon with an authorization server that numbers the tokens of each credential.
struct Run {
    process: Process,
    admin: SocketAddr,
    folder: TempDir,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    _internet: Internet,
}

impl Run {
    async fn start(folder: TempDir) -> Self {
        let asked = Arc::new(Mutex::new(Vec::<(String, String)>::new()));
        let record = Arc::clone(&asked);
        let internet = Internet::start(&["login.example.com"], move |request| {
            let record = Arc::clone(&record);
            async move {
                let name = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
                let form = request.into_body().collect().await.unwrap().to_bytes();
                let form = String::from_utf8(form.to_vec()).unwrap();
                let mut asked = record.lock().unwrap();
                asked.push((name.clone(), form));
                let number = asked.iter().filter(|(other, _)| *other == name).count();
                if name == "failing" {
                    return Ok(answer(500, "{}"));
                }
                let mut token =
                    json!({ "access_token": format!("golden-{number}"), "token_type": "Bearer", "expires_in": 3600 });
                if ROTATING.contains(&name.as_str()) {
                    token["refresh_token"] = format!("golden-refresh-{number}").into();
                }
                Ok(answer(200, token.to_string()))
            }
        })
        .await;
        let mut launch = command(&["run"], &internet.environment(folder.path()), folder.path());
        for (name, value) in VARIABLES.into_iter().chain([
            ("BEARERD_SERVER__LISTEN", "127.0.0.1:0"),
            ("BEARERD_ADMIN__LISTEN", "127.0.0.1:0"),
            ("BEARERD_LOG__FORMAT", "json"),
        ]) {
            launch = launch.variable(name, value);
        }
        let process = launch.start();
        let admin = process.logged_address("admin listening").await;
        Self { process, admin, folder, asked, _internet: internet }
    }

    async fn credential(&self, name: &str) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/credentials/{name}", self.admin);
        serde_json::from_slice(&client.get(url).send().await.unwrap().bytes().await.unwrap()).unwrap()
    }

    async fn post(&self, path: &str, body: String) -> u16 {
        let token = fs::read_to_string(self.folder.path().join("state/admin.token")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client.post(format!("http://{}/credentials/{path}", self.admin)).body(body);
        let request = request.header("content-type", "application/json").bearer_auth(token.trim());
        request.send().await.unwrap().status().as_u16()
    }

    /// Requests another token for each credential that can have one.
    async fn refresh_all(&self) {
        for name in ["clear"].into_iter().chain(SEALED) {
            assert_eq!(self.post(&format!("{name}/refresh"), String::new()).await, 200, "{name}");
        }
    }

    /// The forms of a credential's token requests.
    fn asked(&self, name: &str) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(other, _)| other == name).map(|(_, form)| form.clone()).collect()
    }

    /// Stops the daemon; returns its folder and its output.
    async fn stop(mut self) -> (TempDir, String) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.ended().await.code(), Some(0), "{}", self.process.output());
        (self.folder, self.process.output())
    }
}

/// The states as this version reads them, by the names of their credentials.
fn states(folder: &Path) -> Vec<(String, State)> {
    let checked = config::load(&folder.join("proxy.toml"), &Environment::from(VARIABLES)).unwrap();
    let of = |credential: &config::Credential| {
        let state = DurableState::open(credential, Clock::system()).unwrap();
        let state = state.state().clone();
        if SEALED.contains(&credential.name.as_ref()) {
            // Otherwise an upgrade would discard a valid token.
            assert_eq!(state.identity, Some(credential.token_identity()), "{}", credential.name);
        }
        (credential.name.clone(), state)
    };
    checked.config.credentials.iter().map(|credential| of(credential)).collect()
}

async fn write() {
    let version = golden().join(released().next().unwrap());
    let folder = copy_of(&version);
    for entry in fs::read_dir(folder.path().join("state")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let run = Run::start(folder).await;
    let grant = json!({
        "refresh_token": "golden-refresh-0", "client_id": "golden",
        "token_url": "https://login.example.com/login/token"
    });
    assert_eq!(run.post("login/grant", grant.to_string()).await, 204);
    for name in SEALED {
        eventually("a token", async || run.credential(name).await["generation"] == 1).await;
    }
    run.refresh_all().await;
    eventually("two failures", async || run.asked("failing").len() == 2).await;
    let (folder, output) = run.stop().await;
    for name in ["clear", "failing"].into_iter().chain(SEALED) {
        let name = format!("{name}.state");
        let written = folder.path().join("state").join(&name);
        fs::copy(&written, version.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}: {output}"));
    }
    fs::write(version.join("every-key.toml"), uncommented(true)).unwrap();
}

#[tokio::test]
async fn the_states_of_earlier_versions_are_read_whole_and_used() {
    if std::env::var_os("BEARERD_GOLDEN").is_some_and(|value| value == "write") {
        write().await;
    }
    for version in released() {
        assert!(golden().join(version).is_dir(), "{version} has no folder: CONTRIBUTING.md, Releases");
    }
    for version in versions() {
        let folder = copy_of(&version);
        for (name, state) in states(folder.path()) {
            let place = format!("{} of {}", name, version.display());
            match name.as_str() {
                "clear" => assert!(state.request.is_some(), "{place}"),
                "failing" => assert!(state.limiter.failures >= 2, "{place}"),
                _ => assert_eq!(state.generation.number(), 2, "{place}"),
            }
            assert_eq!(state.client_secret.is_some(), name == "password", "{place}");
            assert_eq!(state.lineage.is_some(), name == "refresh", "{place}");
            if ROTATING.contains(&name.as_str()) {
                let token = state.refresh_token.as_ref().map(ExposeSecret::expose_secret);
                assert_eq!((token, state.rotations), (Some("golden-refresh-2"), 2), "{place}");
            }
        }

        let run = Run::start(folder).await;
        run.refresh_all().await;
        for name in SEALED {
            assert!(run.credential(name).await["generation"].as_u64() > Some(2), "{name}");
        }
        for name in ROTATING {
            let forms = run.asked(name);
            assert!(forms[0].contains("refresh_token=golden-refresh-2"), "{forms:?}");
            assert!(forms.iter().all(|form| form.contains("grant_type=refresh_token")), "{forms:?}");
        }
        let (_folder, output) = run.stop().await;
        for fault in ["moved aside", "discarded", "not durable"] {
            assert!(!output.contains(fault), "{output}");
        }
    }
}

#[test]
fn every_key_of_earlier_versions_is_still_known_and_valid() {
    for version in versions() {
        let text = fs::read_to_string(version.join("every-key.toml")).unwrap();
        let checked = Setting::new().parse(&text);
        checked.unwrap_or_else(|problems| panic!("{}: {problems}", version.display()));
    }
}
