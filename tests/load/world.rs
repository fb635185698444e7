//! A daemon with its peers: an authorization server for each credential, and the API.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bearerd::demo::authorization_server::AuthorizationServer;
use bearerd::demo::pki::{Issued, Pki};
use rustix::process::{Pid, Signal, kill_process};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::api::{Api, ROUND};
use crate::report::Report;

const CLIENT_ID: &str = "legacy-gateway";
const CLIENT_SECRET: &str = "s3cr3t:with%+&=/characters====";
/// The path below which a person's refresh token is what tokens are asked for with, and HTTP/2 is spoken with the API.
pub const PERSON: &str = "/person";
/// Longer than anything here takes when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a daemon is configured.
#[derive(Debug, Default)]
pub struct Setup {
    /// Lines of `[server]`.
    pub server: &'static str,
    /// Lines of `[server.limits]`.
    pub limits: &'static str,
    /// Lines of each credential.
    pub credential: &'static str,
    /// Lines of each route.
    pub route: &'static str,
    /// Whether callers speak TLS.
    pub has_tls: bool,
    /// Seconds that tokens live; an hour if 0.
    pub lifetime: u64,
}

/// A daemon that runs, and its peers.
#[derive(Debug)]
pub struct World {
    /// Of the clients with a secret alone, and of those with a person's refresh token.
    pub issuers: [AuthorizationServer; 2],
    pub api: Api,
    pub address: SocketAddr,
    /// For callers that speak TLS.
    pub tls: Option<Arc<ClientConfig>>,
    pki: Pki,
    admin: SocketAddr,
    daemon: Child,
    log: PathBuf,
    folder: TempDir,
    peers: Peers,
    setup: Setup,
}

impl World {
    pub async fn start(bearerd: &Path, setup: Setup) -> Self {
        let pki = Pki::new(&["localhost"]).unwrap();
        let (peers, issuers, api) = Peers::start(&pki);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(folder.path().join("ca.pem"), pki.authority_pem()).unwrap();
        let refresh_token = issuers[1].authorize();
        std::fs::write(folder.path().join("proxy.toml"), configuration(&setup, &issuers, &api.url(), 0))
            .unwrap();
        write_certificate(folder.path(), pki.server());
        for issuer in &issuers {
            issuer.set_lifetime(if setup.lifetime == 0 { 3600 } else { setup.lifetime });
        }
        let daemon = Command::new(bearerd)
            .args(["run", "-c", "proxy.toml"])
            .current_dir(folder.path())
            .env_clear()
            .env("API_SECRET", CLIENT_SECRET)
            .env("REFRESH_TOKEN", refresh_token)
            .env("STATE_KEY", STANDARD.encode([7; 32]))
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("out")).unwrap())
            .stderr(File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let address = logged_address(&log, "listening").await;
        let admin = logged_address(&log, "admin listening").await;
        let tls = setup.has_tls.then(|| trusting(&pki));
        let world = Self { issuers, api, address, tls, pki, admin, daemon, log, folder, peers, setup };
        let began = Instant::now();
        while !world.is_ready().await {
            assert!(began.elapsed() < PATIENCE, "bearerd is not ready:\n{}", world.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        world
    }

    async fn is_ready(&self) -> bool {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://{}/readyz", self.admin)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    pub fn id(&self) -> u32 {
        self.daemon.id().expect("it runs")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Its memory in bytes.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// The most memory that it has had.
    pub fn most_resident(&self) -> u64 {
        self.status("VmHWM:") * 1024
    }

    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// How many descriptors it has, which only root may see.
    pub fn descriptors(&self) -> Option<usize> {
        Some(std::fs::read_dir(format!("/proc/{}/fd", self.id())).ok()?.count())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// How many lines of the log have this.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Puts another certificate in the place of the daemon's, and says which.
    pub fn renew_certificate(&self) -> Issued {
        let issued = self.pki.another_server(&["localhost"], None).unwrap();
        write_certificate(self.folder.path(), &issued);
        issued
    }

    /// Puts another configuration in the place of the daemon's: the API sees which, by [`ROUND`].
    pub fn write_round(&self, round: usize) {
        let text = configuration(&self.setup, &self.issuers, &self.api.url(), round);
        std::fs::write(self.folder.path().join("proxy.toml"), text).unwrap();
    }

    /// Waits for its end, and answers the exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let status = tokio::time::timeout(PATIENCE, self.daemon.wait()).await;
        status.expect("bearerd did not end").unwrap().code()
    }

    /// Stops it, and checks what must hold whatever was done.
    pub async fn finish(mut self, report: &mut Report) {
        if self.daemon.id().is_some() {
            self.signal(Signal::TERM);
            let code = self.ended().await;
            report.check("SIGTERM ends bearerd with 0", code == Some(0), &format!("{code:?}"));
        }
        report.none("the API saw what it should (I1 to I4, and no try too many)", &self.api.violations());
        let most = self.issuers.iter().map(AuthorizationServer::most_at_once).max().unwrap();
        let reuses = self.issuers[1].refresh_tokens().reuses();
        report.check(
            "one token request at a time for a credential (I6), no refresh token sent twice (I7)",
            most <= 1 && reuses == 0,
            &format!("{most} at once at the most, {reuses} twice"),
        );
        report.none("no secret is in the log, and no panic (I8)", &self.leaks());
        self.peers.stop();
    }

    fn leaks(&self) -> Vec<String> {
        let log = self.log();
        let mut secrets =
            vec![CLIENT_SECRET.to_owned(), STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"))];
        secrets.extend(self.issuers.iter().flat_map(AuthorizationServer::issued));
        secrets.extend(self.issuers[1].refresh_tokens().all().iter().cloned());
        // What begins as one of them is as bad: a look at each line is quick enough for those few bytes.
        let starts: Vec<&str> = secrets.iter().map(|secret| &secret[..12]).collect();
        let is_leak = |line: &&str| {
            line.contains("panicked")
                || (line.contains("tok_")
                    || line.contains("ref_")
                    || line.contains("s3cr3t")
                    || line.contains(starts[1]))
                    && starts.iter().any(|start| line.contains(start))
        };
        log.lines().filter(is_leak).map(str::to_owned).collect()
    }
}

fn write_certificate(folder: &Path, issued: &Issued) {
    std::fs::write(folder.join("server.pem"), &issued.certificate).unwrap();
    std::fs::write(folder.join("server-key.pem"), &issued.key).unwrap();
}

fn trusting(pki: &Pki) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.authority().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn configuration(setup: &Setup, issuers: &[AuthorizationServer; 2], api: &str, round: usize) -> String {
    let Setup { server, limits, credential, route, has_tls, .. } = setup;
    let tls = if *has_tls {
        "[server.tls]\ncertificate = \"server.pem\"\nprivate_key = \"server-key.pem\"\n"
    } else {
        ""
    };
    let [client, person] = issuers.each_ref().map(AuthorizationServer::token_url);
    let common =
        format!("client_id = \"{CLIENT_ID}\"\nclient_secret = {{ env = \"API_SECRET\" }}\n{credential}\n");
    let route = format!(
        "upstream = \"{api}\"\nca_file = \"ca.pem\"\nheaders = {{ set = {{ {ROUND} = \"{round}\" }} }}\n{route}\n"
    );
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nhosts = [\"localhost\", \"127.0.0.1\"]\n{server}\n{tls}\n\
         [server.limits]\n{limits}\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [log]\nformat = \"json\"\n\
         [credentials.client]\ntoken_url = \"{client}\"\n{common}\n\
         [credentials.person]\ntoken_url = \"{person}\"\n{common}\ngrant = \"refresh_token\"\n\
         refresh_token = {{ env = \"REFRESH_TOKEN\" }}\nstate_file = \"person.state\"\n\
         state_key = {{ env = \"STATE_KEY\" }}\n\
         [[routes]]\ncredential = \"client\"\nhttp_version = \"1.1\"\n{route}\n\
         [[routes]]\npath = \"{PERSON}\"\ncredential = \"person\"\n{route}\n"
    )
}

async fn logged_address(log: &Path, message: &str) -> SocketAddr {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).unwrap();
        let events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        if let Some(event) = events.into_iter().find(|event| event["message"] == message) {
            return event["address"].as_str().unwrap().parse().unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "bearerd did not start:\n{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The thread that the authorization servers and the API run on.
#[derive(Debug)]
struct Peers {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Peers {
    fn start(pki: &Pki) -> (Self, [AuthorizationServer; 2], Api) {
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let tls = pki.server_config(&[b"h2", b"http/1.1"]).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
                let person = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
                let api = Api::start(tls, [client.introspection(), person.introspection()]);
                started.send(([client, person], api)).unwrap();
                let _ = stopped.await;
            });
        });
        let (issuers, api) = ready.recv().unwrap();
        (Self { thread, stop }, issuers, api)
    }

    fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}
