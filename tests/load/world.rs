//! A daemon with its peers: an authorization server for each credential, and the API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use tempfile::TempDir;
use testkit::authorization_server::AuthorizationServer;
use testkit::harness::process::Launch;
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::tls_caller::TlsCaller;
use testkit::harness::upstream::{ROUND, Scripted};
use testkit::harness::{Configuration, Process, Upstream, eventually};
use testkit::pki::{Issued, Pki};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::report::Report;

/// The path of the route whose credential has a person's refresh token, and whose upstream speaks HTTP/2.
pub(crate) const PERSON: &str = "/person";
/// The size of an Ethernet's segments, in bytes. Loopback's have 64 KiB, and the system buffers some dozen of them.
pub(crate) const SEGMENT: u32 = 1400;
/// The size of the API's send buffers, in bytes.
const SEND_BUFFER: u32 = 32 * 1024;

/// How a daemon is configured.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// Lines of `[server]`.
    pub(crate) server: &'static str,
    /// Lines of `[server.limits]`.
    pub(crate) limits: &'static str,
    /// Lines of each credential.
    pub(crate) credential: &'static str,
    /// Lines of each route.
    pub(crate) route: &'static str,
    /// Whether callers speak TLS.
    pub(crate) has_tls: bool,
    /// The lifetime of tokens in seconds; an hour if 0.
    pub(crate) lifetime: u64,
    /// A socket that takes the place of the daemon's own, and that this process holds too.
    pub(crate) socket: Option<std::net::TcpListener>,
}

/// A daemon that runs, and its peers.
#[derive(Debug)]
pub(crate) struct World {
    /// Of the credential with a client secret alone, and of the credential with a person's refresh token.
    pub(crate) issuers: [AuthorizationServer; 2],
    pub(crate) api: Upstream,
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// For callers that speak TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pki: Pki,
    folder: TempDir,
    peers: Peers,
    setup: Setup,
    launch: Launch,
}

impl World {
    pub(crate) async fn start(bearerd: &Path, setup: Setup) -> Self {
        let pki = Pki::new(&["localhost"]).unwrap();
        let (peers, issuers, api) = Peers::start(&pki);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), pki.authority_pem()).unwrap();
        let refresh_token = issuers[1].authorize();
        write_configuration(folder.path(), &setup, &issuers, &api.url(), 0);
        write_certificate(folder.path(), pki.server());
        for issuer in &issuers {
            issuer.set_lifetime(if setup.lifetime == 0 { 3600 } else { setup.lifetime });
        }
        let mut launch = Launch::new(bearerd, folder.path())
            .arguments(&["run", "-c", "proxy.toml"])
            .variable("API_SECRET", CLIENT_SECRET)
            .variable("REFRESH_TOKEN", &refresh_token)
            .variable("STATE_KEY", &STANDARD.encode([7; 32]))
            .output_file(folder.path().join("log"));
        if let Some(socket) = &setup.socket {
            launch = launch.socket("server", socket.try_clone().unwrap());
        }
        let process = launch.start();
        let address = process.logged_address("listening").await;
        let admin = process.logged_address("admin listening").await;
        let tls = setup.has_tls.then(|| TlsCaller::trusting(pki.authority()).config(&[]));
        eventually("ready", async || is_ready(admin).await).await;
        Self { issuers, api, process, address, tls, pki, folder, peers, setup, launch }
    }

    /// Stops the daemon, and starts another one in its place. Returns the exit code of the first.
    pub(crate) async fn restart(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let code = self.ended().await;
        self.process = self.launch.start();
        let admin = self.process.logged_address("admin listening").await;
        eventually("ready", async || is_ready(admin).await).await;
        code
    }

    /// The daemon's resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.process.resident_kib() * 1024
    }

    /// The most resident memory that the daemon has had, in bytes.
    pub(crate) fn most_resident(&self) -> u64 {
        self.process.status("VmHWM:") * 1024
    }

    /// How many threads the daemon has.
    pub(crate) fn threads(&self) -> u64 {
        self.process.status("Threads:")
    }

    /// How many descriptors the daemon has; shown to root alone.
    pub(crate) fn descriptors(&self) -> Option<usize> {
        self.process.descriptors()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// How many lines of the log have this.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.process.output().lines().filter(|line| line.contains(text)).count()
    }

    /// Writes another certificate in the place of the daemon's, and returns the certificate.
    pub(crate) fn renew_certificate(&self) -> Issued {
        let issued = self.pki.another_server(&["localhost"], None).unwrap();
        write_certificate(self.folder.path(), &issued);
        issued
    }

    /// Writes another configuration in the place of the daemon's. The API recognizes requests of that one by [`ROUND`].
    pub(crate) fn write_round(&self, round: usize) {
        write_configuration(self.folder.path(), &self.setup, &self.issuers, &self.api.url(), round);
    }

    /// Waits until the daemon has ended, and returns the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        self.process.ended().await.code()
    }

    /// Stops the daemon, and checks the invariants.
    pub(crate) async fn finish(mut self, report: &mut Report) {
        if self.process.is_running() {
            self.signal(Signal::TERM);
            let code = self.ended().await;
            report.check("SIGTERM ends bearerd with 0", code == Some(0), &format!("{code:?}"));
        }
        report.none("requests to the API kept I1 to I4, and none came too often", &self.api.violations());
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
        let log = self.process.output();
        let mut secrets =
            vec![CLIENT_SECRET.to_owned(), STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"))];
        secrets.extend(self.issuers.iter().flat_map(AuthorizationServer::issued));
        secrets.extend(self.issuers[1].refresh_tokens().all().iter().cloned());
        // The start of a secret counts. A log is long, so each line is first searched for the few starts there are.
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

async fn is_ready(admin: SocketAddr) -> bool {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.get(format!("http://{admin}/readyz")).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

fn write_certificate(folder: &Path, issued: &Issued) {
    std::fs::write(folder.join("server.pem"), &issued.certificate).unwrap();
    std::fs::write(folder.join("server-key.pem"), &issued.key).unwrap();
}

fn write_configuration(
    folder: &Path,
    setup: &Setup,
    issuers: &[AuthorizationServer; 2],
    api: &str,
    round: usize,
) {
    let Setup { server, limits, credential, route, has_tls, .. } = setup;
    let mut configuration = Configuration::default();
    configuration.set("server", "listen = \"127.0.0.1:0\"\nhosts = [\"localhost\", \"127.0.0.1\"]");
    configuration.set("server", server);
    configuration.set("server.limits", limits);
    if *has_tls {
        let files = "certificate = \"server.pem\"\nprivate_key = \"server-key.pem\"";
        configuration.set("server.tls", files);
    }
    configuration.set("admin", "listen = \"127.0.0.1:0\"");
    configuration.set("log", "format = \"json\"");
    for (section, issuer) in ["credentials.client", "credentials.person"].into_iter().zip(issuers) {
        configuration.set_default(section, "token_url", issuer.token_url());
        configuration.set_default(section, "client_id", CLIENT_ID);
        configuration.set(section, "client_secret = { env = \"API_SECRET\" }");
        configuration.set(section, credential);
    }
    configuration.set(
        "credentials.person",
        "grant = \"refresh_token\"\nrefresh_token = { env = \"REFRESH_TOKEN\" }\nstate_file = \"person.state\"\n\
         state_key = { env = \"STATE_KEY\" }",
    );
    let route = format!(
        "upstream = \"{api}\"\nca_file = \"ca.pem\"\nheaders = {{ set = {{ {ROUND} = \"{round}\" }} }}\n{route}\n"
    );
    configuration.add(&format!("credential = \"client\"\nhttp_version = \"1.1\"\n{route}"));
    configuration.add(&format!("[[routes]]\npath = \"{PERSON}\"\ncredential = \"person\"\n{route}"));
    std::fs::write(folder.join("proxy.toml"), configuration.render()).unwrap();
}

/// The thread that the authorization servers and the API run on.
#[derive(Debug)]
struct Peers {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Peers {
    fn start(pki: &Pki) -> (Self, [AuthorizationServer; 2], Upstream) {
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let tls = pki.server_config(&[b"h2", b"http/1.1"]).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
                let person = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
                let api = start_api(tls, &client, &person);
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

fn start_api(tls: Arc<ServerConfig>, client: &AuthorizationServer, person: &AuthorizationServer) -> Upstream {
    let listener = small_buffers();
    let script = Scripted::new(listener.local_addr().unwrap().port())
        .protect("", client.introspection())
        .protect(PERSON, person.introspection())
        .with_attempts();
    Upstream::serve(listener, Some(tls), script).unwrap()
}

/// A listener whose connections buffer little, as a network's do: thousands of answers that are not read would otherwise
/// fill the system's memory for TCP (`net.ipv4.tcp_mem`).
///
/// Connections inherit the options. An end that the API brings about is a reset.
fn small_buffers() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(SEND_BUFFER).unwrap();
    socket.set_zero_linger().unwrap();
    SockRef::from(&socket).set_tcp_mss(SEGMENT).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(4096).unwrap()
}
