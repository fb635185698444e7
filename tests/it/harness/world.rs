//! The daemon with its two peers, from start to finish.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bearerd::demo::authorization_server::AuthorizationServer;
use bearerd::demo::pki::{Issued, Pki};
use rustix::process::Signal;
use tempfile::TempDir;

use super::{Caller, Process, Reply, Request, Upstream, eventually};

pub const CLIENT_ID: &str = "legacy-gateway";
/// With what a secret may hold that some encoding changes.
pub const CLIENT_SECRET: &str = "s3cr3t:with%+&=/ünïcode====";

/// How a world differs from the usual one.
#[derive(Debug, Default)]
pub struct Setup {
    server: String,
    tls: String,
    files: Vec<(String, String)>,
    limits: String,
    admin: String,
    credential: String,
    route: String,
    more: String,
    log_level: Option<&'static str>,
    /// Sends requests here instead.
    upstream_url: Option<String>,
    token_url: Option<String>,
    is_unprotected: bool,
    lifetime: Option<u64>,
    waits_for_no_token: bool,
    secret: Option<String>,
    has_unknown_tokens: bool,
    /// What the API offers besides HTTP/1.1.
    alpn: &'static [&'static [u8]],
    environment: Vec<(String, String)>,
    descriptors: Option<usize>,
}

impl Setup {
    /// So many file descriptors at the most.
    pub const fn descriptors(mut self, limit: usize) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Lines of `[server]`.
    pub fn server(mut self, line: &str) -> Self {
        writeln!(self.server, "{line}").unwrap();
        self
    }

    /// Callers speak TLS, and are shown this certificate.
    pub fn tls(mut self, issued: &Issued) -> Self {
        self.tls.push_str("[server.tls]\ncertificate = \"server.pem\"\nprivate_key = \"server-key.pem\"\n");
        self.file("server.pem", &issued.certificate).file("server-key.pem", &issued.key)
    }

    /// And must show one of this authority.
    pub fn client_ca(mut self, authority: &str) -> Self {
        self.tls.push_str("client_ca = \"clients.pem\"\n");
        self.file("clients.pem", authority)
    }

    /// A file beside the configuration.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Lines of `[server.limits]`.
    pub fn limits(mut self, line: &str) -> Self {
        writeln!(self.limits, "{line}").unwrap();
        self
    }

    /// Lines of `[admin]`.
    pub fn admin(mut self, line: &str) -> Self {
        writeln!(self.admin, "{line}").unwrap();
        self
    }

    /// Lines of `[credentials.api]`; `{issuer}` and `{authorize_url}` are replaced, and an `issuer` stands for the
    /// `token_url`.
    pub fn credential(mut self, line: &str) -> Self {
        writeln!(self.credential, "{line}").unwrap();
        self
    }

    /// Lines of the first `[[routes]]`.
    pub fn route(mut self, line: &str) -> Self {
        writeln!(self.route, "{line}").unwrap();
        self
    }

    /// Whatever else; `{upstream}` and `{ca}` are replaced.
    pub fn more(mut self, text: &str) -> Self {
        self.more.push_str(text);
        self
    }

    /// Less of a log than everything, for tests under load.
    pub const fn quiet(mut self) -> Self {
        self.log_level = Some("info");
        self
    }

    pub fn upstream(mut self, url: String) -> Self {
        self.upstream_url = Some(url);
        self
    }

    pub fn token_url(mut self, url: String) -> Self {
        self.token_url = Some(url);
        self
    }

    /// The route has no credential.
    pub const fn unprotected(mut self) -> Self {
        self.is_unprotected = true;
        self
    }

    /// The API speaks HTTP/2 too.
    pub const fn http2(mut self) -> Self {
        self.alpn = &[b"h2"];
        self
    }

    /// Seconds that tokens live.
    pub const fn lifetime(mut self, seconds: u64) -> Self {
        self.lifetime = Some(seconds);
        self
    }

    /// Where the client secret is; as in the file.
    pub fn secret(mut self, source: &str) -> Self {
        self.secret = Some(source.to_owned());
        self
    }

    /// A variable of the daemon's environment; `SSL_CERT_FILE` takes the place of `ca_file`.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The test has tokens made up that the authorization server did not issue.
    pub const fn unchecked_tokens(mut self) -> Self {
        self.has_unknown_tokens = true;
        self
    }

    /// Starts without waiting until there is a token.
    pub const fn without_token(mut self) -> Self {
        self.waits_for_no_token = true;
        self
    }

    pub async fn start(self) -> World {
        let pki = Pki::new(&["localhost"]).unwrap();
        self.start_with(pki, async |_| {}).await
    }

    /// Starts; `prepare` has the authorization server before the daemon does.
    pub async fn start_after(self, prepare: impl AsyncFnOnce(&AuthorizationServer)) -> World {
        let pki = Pki::new(&["localhost"]).unwrap();
        self.start_with(pki, prepare).await
    }

    /// Starts with an authority that an upstream of the test already uses.
    pub async fn start_with(self, pki: Pki, prepare: impl AsyncFnOnce(&AuthorizationServer)) -> World {
        let authorization = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
        authorization.set_lifetime(self.lifetime.unwrap_or(3600));
        prepare(&authorization).await;
        let alpn = [self.alpn, &[b"http/1.1"]].concat();
        let tls = pki.server_config(&alpn).unwrap();
        let upstream = Upstream::start(Some(tls), authorization.introspection(), !self.is_unprotected).await;

        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), pki.authority_pem()).unwrap();
        for (name, content) in &self.files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let config = self.configuration(&authorization, &upstream);
        std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
        let mut environment = vec![
            ("API_SECRET".to_owned(), CLIENT_SECRET.to_owned()),
            ("RUST_LOG".to_owned(), self.log_level.unwrap_or("trace").to_owned()),
        ];
        environment.extend(self.environment);
        let process = match self.descriptors {
            None => Process::spawn(&["run"], &environment, folder.path()),
            Some(limit) => Process::spawn_with_descriptors(limit, &["run"], &environment, folder.path()),
        };
        let address = logged_address(&process, "listening").await;
        let admin = logged_address(&process, "admin listening").await;
        let world = World {
            authorization,
            upstream,
            process,
            environment,
            earlier_output: String::new(),
            address,
            admin,
            folder,
            is_finished: false,
            has_unknown_tokens: self.has_unknown_tokens,
        };
        if !self.waits_for_no_token {
            eventually("ready", async || world.admin_status("/readyz").await == 200).await;
        }
        world
    }

    fn configuration(&self, authorization: &AuthorizationServer, upstream: &Upstream) -> String {
        let token_url = self.token_url.clone().unwrap_or_else(|| authorization.token_url());
        let upstream_url = self.upstream_url.clone().unwrap_or_else(|| upstream.url());
        let Self { server, tls, limits, admin, credential, route, more, .. } = self;
        let route_credential = if self.is_unprotected { "none" } else { "api" };
        let secret = self.secret.as_deref().unwrap_or("{ env = \"API_SECRET\" }");
        let listen = if server.contains("listen") { "" } else { "listen = \"127.0.0.1:0\"" };
        let admin_listen = if admin.contains("listen") { "" } else { "listen = \"127.0.0.1:0\"" };
        let workers = if server.contains("workers") { "" } else { "workers = 2" };
        let is_system = self.environment.iter().any(|(name, _)| name == "SSL_CERT_FILE");
        let ca = if is_system || route.contains("ca_file") || upstream_url.starts_with("http:") {
            ""
        } else {
            "ca_file = \"ca.pem\""
        };
        let credential_section = if self.is_unprotected {
            String::new()
        } else {
            let has_secret =
                !["none", "private_key_jwt", "tls_client_auth"].iter().any(|auth| credential.contains(auth));
            let client_secret = if has_secret { format!("client_secret = {secret}") } else { String::new() };
            let token_url = if credential.contains("issuer = ") && !credential.contains("provider = ") {
                String::new()
            } else {
                format!("token_url = \"{token_url}\"")
            };
            let credential = credential
                .replace("{issuer}", authorization.issuer())
                .replace("{authorize_url}", &authorization.authorize_url());
            format!(
                "[credentials.api]\n{token_url}\nclient_id = \"{CLIENT_ID}\"\n\
                 {client_secret}\n{credential}"
            )
        };
        format!(
            "[server]\n{listen}\n{workers}\n{server}\n{tls}\n[server.limits]\n{limits}\n\
             [admin]\n{admin_listen}\n{admin}\n[log]\nformat = \"json\"\n\
             {credential_section}\n\
             [[routes]]\nupstream = \"{upstream_url}\"\ncredential = \"{route_credential}\"\n{ca}\n{route}\n\
             {}",
            more.replace("{upstream}", &upstream.url()).replace("{ca}", "ca_file = \"ca.pem\"")
        )
    }
}

async fn logged_address(process: &Process, message: &str) -> SocketAddr {
    process.event(message).await["address"].as_str().unwrap().parse().unwrap()
}

/// A daemon that runs, and its peers.
#[derive(Debug)]
pub struct World {
    pub authorization: AuthorizationServer,
    pub upstream: Upstream,
    pub process: Process,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    environment: Vec<(String, String)>,
    /// What daemons before this one have written.
    earlier_output: String,
    folder: TempDir,
    is_finished: bool,
    has_unknown_tokens: bool,
}

impl World {
    /// The usual one.
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    pub async fn caller(&self) -> Caller {
        Caller::connect(self.address).await
    }

    /// Sends one request over a connection of its own.
    pub async fn send(&self, request: &Request) -> Reply {
        self.caller().await.send(request).await
    }

    pub async fn get(&self, target: &str) -> Reply {
        self.send(&Request::get(target)).await
    }

    /// What the admin address answers.
    pub async fn admin_status(&self, path: &str) -> u16 {
        self.admin_get(path).await.0
    }

    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        let response = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .get(format!("http://{}{path}", self.admin))
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// The configuration as it is written.
    pub fn configuration(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("proxy.toml")).unwrap()
    }

    /// Writes another configuration, from the one that is there.
    pub fn configure(&self, change: impl FnOnce(String) -> String) {
        std::fs::write(self.folder.path().join("proxy.toml"), change(self.configuration())).unwrap();
    }

    /// Has the daemon take up its configuration, and waits until it has; answers the event that tells so.
    pub async fn reload(&self) -> serde_json::Value {
        self.hang_up("configuration reloaded").await
    }

    /// Has the daemon try to, and waits until it has given up; answers what it says is wrong.
    pub async fn reload_in_vain(&self) -> String {
        let event = self.hang_up("configuration not reloaded, kept the last one").await;
        event["problems"].as_str().unwrap().to_owned()
    }

    async fn hang_up(&self, message: &str) -> serde_json::Value {
        let outcomes = ["configuration reloaded", "configuration not reloaded, kept the last one"];
        let count = |message: &str| self.process.events(message).len();
        let before = outcomes.map(count);
        self.process.signal(Signal::HUP);
        eventually("an outcome", async || outcomes.map(count) != before).await;
        let expected = outcomes.iter().position(|one| *one == message).unwrap();
        assert!(count(message) > before[expected], "{}", self.process.output());
        self.process.events(message).pop().unwrap()
    }

    /// Sends a request without a body to the admin address.
    pub async fn admin_post(&self, path: &str) -> (u16, serde_json::Value) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.post(format!("http://{}{path}", self.admin)).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    /// How many token requests came since `before`.
    pub fn token_requests_since(&self, before: usize) -> usize {
        self.authorization.requests() - before
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Kills the daemon: it learns nothing of that.
    pub async fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.ended().await;
        self.earlier_output.push_str(&self.process.output());
    }

    /// Starts another daemon in the place of one that has ended.
    pub async fn start_again(&mut self) {
        self.process = self.another();
        self.address = logged_address(&self.process, "listening").await;
        self.admin = logged_address(&self.process, "admin listening").await;
    }

    /// Another daemon with the same configuration.
    pub fn another(&self) -> Process {
        Process::spawn(&["run"], &self.environment, self.folder.path())
    }

    /// Another command with the daemon's configuration and environment, and an input that the test writes.
    pub fn command(&self, arguments: &[&str]) -> Process {
        Process::spawn_with_input(arguments, &self.environment, self.folder.path())
    }

    /// Stops the daemon and checks what must hold in every test.
    pub async fn finish(mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.ended().await;
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
        self.check();
    }

    /// The invariants, for a test that has stopped the daemon itself.
    pub fn check(mut self) {
        self.is_finished = true;
        let mut violations = self.upstream.violations();
        violations.retain(|violation| !(self.has_unknown_tokens && violation.starts_with("I1/I2")));
        assert!(violations.is_empty(), "{violations:#?}");
        assert!(
            self.authorization.most_at_once() <= 1,
            "I6: {} token requests at once",
            self.authorization.most_at_once()
        );
        let output = std::mem::take(&mut self.earlier_output) + &self.process.output();
        assert!(!output.contains("panicked"), "{output}");
        let mut secrets = self.authorization.issued();
        secrets.extend(self.authorization.refresh_tokens().all().iter().cloned());
        secrets.extend(self.authorization.codes());
        secrets.push(CLIENT_SECRET.to_owned());
        secrets.push("the-callers-own".to_owned());
        assert!(!output.contains(&STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"))), "I8: Basic");
        for secret in &secrets {
            search(&output, secret);
        }
    }
}

/// I8: no secret in any output, in any dress.
pub fn search(output: &str, secret: &str) {
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let short: String = secret.chars().take(12).collect();
    for dress in [secret, &form, &STANDARD.encode(secret), &URL_SAFE_NO_PAD.encode(secret), &short] {
        if let Some(at) = output.find(dress) {
            let line = output[..at].lines().count();
            panic!(
                "I8: a secret is in the output, line {line}: {}",
                output.lines().nth(line.max(1) - 1).unwrap()
            );
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let is_failing = std::thread::panicking();
        assert!(
            self.is_finished || is_failing,
            "a world must be finished: its invariants have not been checked"
        );
    }
}
