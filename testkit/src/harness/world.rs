//! The daemon with its two peers, from start to finish.

use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustix::process::Signal;
use tempfile::TempDir;

use super::process::Launch;
use super::setup::{CALLER_KEY, CLIENT_ID, CLIENT_SECRET};
use super::{Caller, Process, Reply, Request, Upstream, eventually};
use crate::authorization_server::AuthorizationServer;

const RELOADED: &str = "configuration reloaded";
const NOT_RELOADED: &str = "configuration not reloaded, kept the last one";

/// A daemon that runs, and its peers.
///
/// A test must [`finish`](World::finish) or [`check`](World::check) its world: dropping an unchecked world panics.
#[derive(Debug)]
pub struct World {
    /// The authorization server.
    pub authorization: AuthorizationServer,
    /// The API.
    pub upstream: Upstream,
    /// The daemon.
    pub process: Process,
    /// The address that callers connect to.
    pub address: SocketAddr,
    /// The operator's address.
    pub admin: SocketAddr,
    launch: Launch,
    /// The output of daemons that were killed.
    earlier_output: String,
    folder: TempDir,
    is_checked: bool,
    accepts_unknown_tokens: bool,
    /// How many credentials may ask for a token at once.
    credentials: usize,
}

impl World {
    pub(super) async fn new(
        authorization: AuthorizationServer,
        upstream: Upstream,
        process: Process,
        launch: Launch,
        folder: TempDir,
        accepts_unknown_tokens: bool,
    ) -> Self {
        let address = process.logged_address("listening").await;
        let admin = process.logged_address("admin listening").await;
        Self {
            authorization,
            upstream,
            process,
            address,
            admin,
            launch,
            earlier_output: String::new(),
            folder,
            is_checked: false,
            accepts_unknown_tokens,
            credentials: 1,
        }
    }

    /// Waits until the daemon is ready.
    pub async fn ready(&self) {
        eventually("ready", async || self.admin_status("/readyz").await == 200).await;
    }

    /// A connection of a caller.
    pub async fn caller(&self) -> Caller {
        Caller::connect(self.address).await
    }

    /// Sends one request over a connection of its own.
    pub async fn send(&self, request: &Request) -> Reply {
        self.caller().await.send(request).await
    }

    /// Sends a GET over a connection of its own.
    pub async fn get(&self, target: &str) -> Reply {
        self.send(&Request::get(target)).await
    }

    /// The status of a GET at the operator's address.
    pub async fn admin_status(&self, path: &str) -> u16 {
        self.admin_get(path).await.0
    }

    /// The status and the body of a GET at the operator's address.
    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("http://{}{path}", self.admin)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The status and the JSON of a POST without a body at the operator's address. The log has the outcome of a reload.
    pub async fn admin_post(&self, path: &str) -> (u16, serde_json::Value) {
        let reloads = self.reloads();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.post(format!("http://{}{path}", self.admin)).send().await.unwrap();
        let status = response.status().as_u16();
        if path == "/reload" && matches!(status, 200 | 409 | 422) {
            eventually("the reload's outcome", async || self.reloads() != reloads).await;
        }
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    /// The configuration file's text.
    pub fn configuration(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("proxy.toml")).unwrap()
    }

    /// Writes the configuration file anew, from its text.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        std::fs::write(self.folder.path().join("proxy.toml"), change(self.configuration())).unwrap();
    }

    /// Sends SIGHUP and waits until the daemon has reloaded its configuration; returns the log event.
    pub async fn reload(&self) -> serde_json::Value {
        self.hang_up(RELOADED).await
    }

    /// Sends SIGHUP and waits until the daemon has refused its configuration; returns the problems.
    pub async fn reload_in_vain(&self) -> String {
        let event = self.hang_up(NOT_RELOADED).await;
        event["problems"].as_str().unwrap().to_owned()
    }

    async fn hang_up(&self, message: &str) -> serde_json::Value {
        let before = self.reloads();
        self.process.signal(Signal::HUP);
        eventually("the reload's outcome", async || self.reloads() != before).await;
        let last = self.process.events(message).pop();
        let expected = usize::from(message != RELOADED);
        assert!(self.reloads()[expected] > before[expected], "{}", self.process.output());
        last.unwrap()
    }

    /// How many reloads succeeded and how many failed, by the log.
    fn reloads(&self) -> [usize; 2] {
        [RELOADED, NOT_RELOADED].map(|message| self.process.events(message).len())
    }

    /// How many token requests came after the first `before`.
    pub fn token_requests_since(&self, before: usize) -> usize {
        self.authorization.requests() - before
    }

    /// The daemon's working directory.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Kills the daemon with SIGKILL.
    pub async fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.ended().await;
        self.earlier_output.push_str(&self.process.output());
    }

    /// Starts another daemon in the place of one that has ended.
    pub async fn start_again(&mut self) {
        self.process = self.another();
        self.address = self.process.logged_address("listening").await;
        self.admin = self.process.logged_address("admin listening").await;
    }

    /// Starts another daemon with the same configuration.
    pub fn another(&self) -> Process {
        self.launch.start()
    }

    /// Starts another command with the daemon's configuration and environment; the test writes its input.
    pub fn command(&self, arguments: &[&str]) -> Process {
        self.launch().arguments(arguments).with_input().start()
    }

    /// The start of the daemon, for another command with its configuration and environment.
    pub fn launch(&self) -> Launch {
        self.launch.clone()
    }

    /// The daemon has so many credentials, each of which may ask for a token at a time.
    #[must_use]
    pub const fn with_credentials(mut self, count: usize) -> Self {
        self.credentials = count;
        self
    }

    /// Stops the daemon, which must end with 0, and checks the invariants.
    pub async fn finish(mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
        self.check();
    }

    /// Checks the invariants, for a test that has stopped the daemon itself.
    pub fn check(mut self) {
        self.is_checked = true;
        let mut violations = self.upstream.violations();
        violations.retain(|violation| !(self.accepts_unknown_tokens && violation.starts_with("I1/I2")));
        assert!(violations.is_empty(), "{violations:#?}");
        let most = self.authorization.most_at_once();
        assert!(most <= self.credentials, "I6: {most} token requests at once");
        let output = std::mem::take(&mut self.earlier_output) + &self.process.output();
        assert!(!output.contains("panicked"), "{output}");
        let mut secrets = self.authorization.issued();
        secrets.extend(self.authorization.refresh_tokens().all().iter().cloned());
        secrets.extend(self.authorization.codes());
        secrets.push(CLIENT_SECRET.to_owned());
        secrets.push("the-callers-own".to_owned());
        secrets.push(CALLER_KEY.to_owned());
        secrets.push(STANDARD.encode(format!("caller:{CALLER_KEY}")));
        assert!(!output.contains(&STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"))), "I8: Basic");
        for secret in &secrets {
            assert_absent(&output, secret);
        }
    }
}

/// I8: the output has no secret, in no encoding.
///
/// # Panics
///
/// If the secret, its first twelve characters, or its form-encoded or base64 text is in the output.
pub fn assert_absent(output: &str, secret: &str) {
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let start: String = secret.chars().take(12).collect();
    for text in [secret, &form, &STANDARD.encode(secret), &URL_SAFE_NO_PAD.encode(secret), &start] {
        if let Some(at) = output.find(text) {
            let line = output[..at].lines().count().max(1);
            let shown = output.lines().nth(line - 1).unwrap();
            panic!("I8: a secret is in the output, line {line}: {shown}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let is_failing = std::thread::panicking();
        assert!(self.is_checked || is_failing, "a world must be finished: its invariants were not checked");
    }
}
