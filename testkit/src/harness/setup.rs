//! How a test describes its daemon: the configuration, the files and the environment, and the peers.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use toml::Value;

use super::configuration::Configuration;
use super::process::{Launch, Process};
use super::upstream::Upstream;
use super::world::World;
use crate::authorization_server::AuthorizationServer;
use crate::pki::{Issued, Pki};

/// The client's id at the authorization server.
pub const CLIENT_ID: &str = "legacy-gateway";
/// The client's secret: characters that form encoding, Basic and base64 change.
pub const CLIENT_SECRET: &str = "s3cr3t:with%+&=/ünïcode====";

/// A key of a configured caller, which neither an API nor an output ever gets.
pub const CALLER_KEY: &str = "Zq7Kk2vX9mT4wB1sN8dRf3hLpYc6eJg0uAoViQ5xEzM";
/// The hash of [`CALLER_KEY`] in a configuration.
pub const CALLER_KEY_HASH: &str = "sha256:60a540207c99e5430dd6b1d1685f075ab7e598c44c3d5e1b711e3cad22b5b183";

/// Credentials of the scheme `Basic` with [`CALLER_KEY`] as the password.
pub fn caller_basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("caller:{CALLER_KEY}")))
}

/// The description of a daemon and its peers; what it does not say has the harness's default.
#[derive(Debug)]
#[must_use = "a setup does nothing until it is started"]
pub struct Setup {
    binary: PathBuf,
    configuration: Configuration,
    files: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    log_level: &'static str,
    upstream_url: Option<String>,
    token_url: Option<String>,
    is_protected: bool,
    token_lifetime: u64,
    waits_until_ready: bool,
    secret: String,
    accepts_unknown_tokens: bool,
    /// What the API offers besides HTTP/1.1.
    alpn: &'static [&'static [u8]],
    descriptors: Option<usize>,
    sockets: Vec<(String, OwnedFd)>,
}

impl Setup {
    /// A daemon with two workers that protects one API with one credential, and logs everything.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            configuration: Configuration::default(),
            files: Vec::new(),
            environment: Vec::new(),
            log_level: "trace",
            upstream_url: None,
            token_url: None,
            is_protected: true,
            token_lifetime: 3600,
            waits_until_ready: true,
            secret: "{ env = \"API_SECRET\" }".to_owned(),
            accepts_unknown_tokens: false,
            alpn: &[],
            descriptors: None,
            sockets: Vec::new(),
        }
    }

    /// Sets keys of `[server]`.
    pub fn server(mut self, lines: &str) -> Self {
        self.configuration.set("server", lines);
        self
    }

    /// Sets keys of `[server.limits]`.
    pub fn limits(mut self, lines: &str) -> Self {
        self.configuration.set("server.limits", lines);
        self
    }

    /// Sets keys of `[health]`.
    pub fn health(mut self, lines: &str) -> Self {
        self.configuration.set("health", lines);
        self
    }

    /// Sets keys of `[admin]`.
    pub fn admin(mut self, lines: &str) -> Self {
        self.configuration.set("admin", lines);
        self
    }

    /// Sets keys of `[credentials.api]`. The authorization server's addresses take the place of `{issuer}` and
    /// `{authorize_url}`; with an `issuer` and no `provider` there is no `token_url`.
    pub fn credential(mut self, lines: &str) -> Self {
        self.configuration.set("credentials.api", lines);
        self
    }

    /// Sets keys of the last route, adds `[[routes]]`, and sets keys of other sections. The API's address takes the place
    /// of `{upstream}`.
    pub fn route(mut self, lines: &str) -> Self {
        self.configuration.add(lines);
        self
    }

    /// Callers speak TLS; the daemon shows them this certificate.
    pub fn tls(mut self, issued: &Issued) -> Self {
        self.configuration
            .set("server.tls", "certificate = \"server.pem\"\nprivate_key = \"server-key.pem\"");
        self.file("server.pem", &issued.certificate).file("server-key.pem", &issued.key)
    }

    /// Callers show a certificate of this authority (PEM).
    pub fn client_ca(mut self, authority: &str) -> Self {
        self.configuration.set("server.tls", "client_ca = \"clients.pem\"");
        self.file("clients.pem", authority)
    }

    /// Writes a file beside the configuration.
    pub fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Sets a variable of the daemon's environment. `SSL_CERT_FILE` takes the place of the route's `ca_file`.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Bounds the daemon's file descriptors.
    pub const fn descriptors(mut self, limit: usize) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Passes a socket with this name as systemd does; the test holds the socket too.
    pub fn socket(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.sockets.push((name.to_owned(), socket.into()));
        self
    }

    /// Logs at level `info`, for tests under load.
    pub const fn quiet(mut self) -> Self {
        self.log_level = "info";
        self
    }

    /// Sends requests to this address in the place of the scripted API's.
    pub fn upstream(mut self, url: String) -> Self {
        self.upstream_url = Some(url);
        self
    }

    /// Asks for tokens at this address in the place of the scripted authorization server's.
    pub fn token_url(mut self, url: String) -> Self {
        self.token_url = Some(url);
        self
    }

    /// The route has no credential.
    pub const fn unprotected(mut self) -> Self {
        self.is_protected = false;
        self
    }

    /// The API speaks HTTP/2 too.
    pub const fn http2(mut self) -> Self {
        self.alpn = &[b"h2"];
        self
    }

    /// The lifetime of tokens, in seconds.
    pub const fn lifetime(mut self, seconds: u64) -> Self {
        self.token_lifetime = seconds;
        self
    }

    /// The value of `client_secret`, in TOML.
    pub fn secret(mut self, source: &str) -> Self {
        source.clone_into(&mut self.secret);
        self
    }

    /// Accepts tokens that the authorization server did not issue.
    pub const fn unchecked_tokens(mut self) -> Self {
        self.accepts_unknown_tokens = true;
        self
    }

    /// Starts without waiting until the daemon is ready.
    pub const fn without_token(mut self) -> Self {
        self.waits_until_ready = false;
        self
    }

    /// Starts the peers and the daemon.
    pub async fn start(self) -> World {
        let pki = Pki::new(&["localhost"]).unwrap();
        self.start_with(pki, async |_| {}).await
    }

    /// Starts; `prepare` is given the authorization server before the daemon starts.
    pub async fn start_after(self, prepare: impl AsyncFnOnce(&AuthorizationServer)) -> World {
        let pki = Pki::new(&["localhost"]).unwrap();
        self.start_with(pki, prepare).await
    }

    /// Starts with the certificate authority of an upstream that the test has started.
    pub async fn start_with(self, pki: Pki, prepare: impl AsyncFnOnce(&AuthorizationServer)) -> World {
        let authorization = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
        authorization.set_lifetime(self.token_lifetime);
        prepare(&authorization).await;
        let alpn = [self.alpn, &[b"http/1.1"]].concat();
        let tls = pki.server_config(&alpn).unwrap();
        let upstream = Upstream::start(Some(tls), authorization.introspection(), self.is_protected).await;

        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
        write("ca.pem", pki.authority_pem());
        write("proxy.toml", &self.configuration(&authorization, &upstream));
        for (name, content) in &self.files {
            write(name, content);
        }
        let mut launch = Launch::new(&self.binary, folder.path())
            .arguments(&["run"])
            .variable("API_SECRET", CLIENT_SECRET)
            .variable("RUST_LOG", self.log_level)
            .environment(&self.environment);
        if let Some(limit) = self.descriptors {
            launch = launch.descriptors(limit);
        }
        for (name, socket) in self.sockets {
            launch = launch.socket(&name, socket);
        }
        let process: Process = launch.start();
        let world =
            World::new(authorization, upstream, process, launch, folder, self.accepts_unknown_tokens).await;
        if self.waits_until_ready {
            world.ready().await;
        }
        world
    }

    fn configuration(&self, authorization: &AuthorizationServer, upstream: &Upstream) -> String {
        let mut configuration = self.configuration.clone();
        configuration.set_default("server", "listen", "127.0.0.1:0");
        configuration.set_default("server", "workers", 2);
        configuration.set("server.limits", "");
        configuration.set_default("admin", "listen", "127.0.0.1:0");
        configuration.set_default("log", "format", "json");
        let upstream_url = self.upstream_url.clone().unwrap_or_else(|| upstream.url());
        configuration.set_route_default("upstream", upstream_url);
        configuration.set_route_default("credential", if self.is_protected { "api" } else { "none" });
        let is_plain = configuration
            .get_route("upstream")
            .and_then(Value::as_str)
            .is_some_and(|url| url.starts_with("http:"));
        let trusts_system = self.environment.iter().any(|(name, _)| name == "SSL_CERT_FILE");
        if !is_plain && !trusts_system {
            configuration.set_route_default("ca_file", "ca.pem");
        }
        if self.is_protected {
            self.complete_credential(&mut configuration, authorization);
        }
        configuration
            .render()
            .replace("{upstream}", &upstream.url())
            .replace("{issuer}", authorization.issuer())
            .replace("{authorize_url}", &authorization.authorize_url())
    }

    fn complete_credential(&self, configuration: &mut Configuration, authorization: &AuthorizationServer) {
        let credential = "credentials.api";
        configuration.set_default(credential, "client_id", CLIENT_ID);
        let has = |configuration: &Configuration, key| configuration.get(credential, key).is_some();
        if !has(configuration, "issuer") || has(configuration, "provider") {
            let token_url = self.token_url.clone().unwrap_or_else(|| authorization.token_url());
            configuration.set_default(credential, "token_url", token_url);
        }
        let without_secret = ["none", "private_key_jwt", "tls_client_auth"];
        let client_auth = configuration.get(credential, "client_auth").and_then(Value::as_str);
        if !client_auth.is_some_and(|auth| without_secret.contains(&auth))
            && !has(configuration, "client_secret")
        {
            configuration.set(credential, &format!("client_secret = {}", self.secret));
        }
    }
}
