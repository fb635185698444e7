//! A daemon with its peers: an authorization server for each credential, and the API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use tempfile::TempDir;
use testkit::authorization_server::AuthorizationServer;
use testkit::harness::process::Launch;
use testkit::harness::raw::{RawPeer, read_head};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::tls_caller::TlsCaller;
use testkit::harness::upstream::{ROUND, Scripted};
use testkit::harness::{Configuration, Process, Upstream, eventually};
use testkit::pki::{Issued, Pki};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::report::Report;

/// The path of the route whose credential has a person's refresh token, and whose upstream speaks HTTP/2.
pub(crate) const PERSON: &str = "/person";
/// The path of the route whose API learns late of a new token, and whose tokens are never revoked.
pub(crate) const LATE: &str = "/late";
/// The path of the route to an API that speaks WebSocket, and echoes.
pub(crate) const CHAT: &str = "/chat";
/// How long after its issue the nodes of the late API learn of a token.
const NODES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(1500)];
/// The size of an Ethernet's segments, in bytes. Loopback's have 64 KiB, and the system buffers some dozen of them.
pub(crate) const SEGMENT: u32 = 1400;
/// The size of the API's send buffers, in bytes.
const SEND_BUFFER: u32 = 32 * 1024;

/// The answer to the handshake of RFC 6455 §1.3.
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

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
    /// The authorization server and the API of [`LATE`].
    pub(crate) late: (AuthorizationServer, Upstream),
    chat: RawPeer,
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
        let (peers, Ready { issuers, api, late, chat }) = Peers::start(&pki);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), pki.authority_pem()).unwrap();
        let refresh_token = issuers[1].authorize();
        let addresses = Addresses::of(&issuers, &api, &late, &chat);
        write_configuration(folder.path(), &setup, &addresses, 0);
        write_certificate(folder.path(), pki.server());
        for issuer in issuers.iter().chain([&late.0]) {
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
        late.1.set_nodes(&NODES);
        Self { issuers, api, late, chat, process, address, tls, pki, folder, peers, setup, launch }
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

    /// How many connections of the daemon to APIs are open.
    pub(crate) fn api_connections(&self) -> usize {
        self.api.open_connections() + self.late.1.open_connections()
    }

    /// How many threads the daemon has.
    pub(crate) fn threads(&self) -> u64 {
        self.process.status("Threads:")
    }

    /// How many of these look up names of APIs, which they do for one connection at a time.
    pub(crate) fn lookups(&self) -> u64 {
        self.process.threads("lookup")
    }

    /// How many read or write files, or look up the names of token endpoints.
    pub(crate) fn blocking_threads(&self) -> u64 {
        self.process.threads("blocking")
    }

    /// How many threads live as long as the daemon.
    pub(crate) fn lasting_threads(&self) -> u64 {
        self.threads().saturating_sub(self.lookups() + self.blocking_threads())
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
        let addresses = Addresses::of(&self.issuers, &self.api, &self.late, &self.chat);
        write_configuration(self.folder.path(), &self.setup, &addresses, round);
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
        let violations = [self.api.violations(), self.late.1.violations()].concat();
        report.none("requests to the API kept I1 to I4, and none came too often", &violations);
        let most =
            self.issuers.iter().chain([&self.late.0]).map(AuthorizationServer::most_at_once).max().unwrap();
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
        secrets.extend(self.issuers.iter().chain([&self.late.0]).flat_map(AuthorizationServer::issued));
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

/// Where the peers listen.
struct Addresses {
    /// The token endpoints of the credentials, in their order.
    token_urls: [String; 3],
    api: String,
    late: String,
    chat: String,
}

impl Addresses {
    fn of(
        issuers: &[AuthorizationServer; 2],
        api: &Upstream,
        late: &(AuthorizationServer, Upstream),
        chat: &RawPeer,
    ) -> Self {
        let token_urls = [&issuers[0], &issuers[1], &late.0].map(AuthorizationServer::token_url);
        Self { token_urls, api: api.url(), late: late.1.url(), chat: format!("http://{}", chat.address) }
    }
}

fn write_configuration(folder: &Path, setup: &Setup, addresses: &Addresses, round: usize) {
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
    let sections = ["credentials.client", "credentials.person", "credentials.late"];
    for (section, token_url) in sections.into_iter().zip(&addresses.token_urls) {
        configuration.set_default(section, "token_url", token_url.clone());
        configuration.set_default(section, "client_id", CLIENT_ID);
        configuration.set(section, "client_secret = { env = \"API_SECRET\" }");
        configuration.set(section, credential);
    }
    configuration.set(
        "credentials.person",
        "grant = \"refresh_token\"\nrefresh_token = { env = \"REFRESH_TOKEN\" }\nstate_file = \"person.state\"\n\
         state_key = { env = \"STATE_KEY\" }",
    );
    let round = format!("headers = {{ set = {{ {ROUND} = \"{round}\" }} }}");
    let route = |api: &str| format!("upstream = \"{api}\"\nca_file = \"ca.pem\"\n{round}\n{route}\n");
    let (late, route) = (route(&addresses.late), route(&addresses.api));
    configuration.add(&format!("credential = \"client\"\nhttp_version = \"1.1\"\n{route}"));
    configuration.add(&format!("[[routes]]\npath = \"{PERSON}\"\ncredential = \"person\"\n{route}"));
    configuration.add(&format!("[[routes]]\npath = \"{LATE}\"\ncredential = \"late\"\n{late}"));
    configuration.add(&format!(
        "[[routes]]\npath = \"{CHAT}\"\ncredential = \"client\"\nupstream = \"{}\"\nupgrade = [\"websocket\"]\n",
        addresses.chat
    ));
    std::fs::write(folder.join("proxy.toml"), configuration.render()).unwrap();
}

/// The peers once they run.
#[derive(Debug)]
struct Ready {
    issuers: [AuthorizationServer; 2],
    api: Upstream,
    late: (AuthorizationServer, Upstream),
    chat: RawPeer,
}

/// The thread that the authorization servers and the APIs run on.
#[derive(Debug)]
struct Peers {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Peers {
    fn start(pki: &Pki) -> (Self, Ready) {
        let (started, ready) = std::sync::mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let tls = pki.server_config(&[b"h2", b"http/1.1"]).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
                let person = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
                let late = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
                let api = start_api(Arc::clone(&tls), &[("", &client), (PERSON, &person)]);
                let late_api = start_api(tls, &[(LATE, &late)]);
                let chat = RawPeer::tcp(echo).await;
                let ready = Ready { issuers: [client, person], api, late: (late, late_api), chat };
                started.send(ready).unwrap();
                let _ = stopped.await;
            });
        });
        let ready = ready.recv().unwrap();
        (Self { thread, stop }, ready)
    }

    fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

/// Switches to WebSocket, and sends back what comes.
async fn echo(mut stream: TcpStream) {
    let head = String::from_utf8_lossy(&read_head(&mut stream).await).to_ascii_lowercase();
    if !head.contains("\r\nauthorization: bearer tok_") {
        return;
    }
    let _ = stream.write_all(SWITCHED).await;
    let (mut reading, mut writing) = stream.split();
    let _ = tokio::io::copy(&mut reading, &mut writing).await;
}

fn start_api(tls: Arc<ServerConfig>, protected: &[(&'static str, &AuthorizationServer)]) -> Upstream {
    let listener = small_buffers();
    let mut script = Scripted::new(listener.local_addr().unwrap().port()).with_attempts();
    for (prefix, issuer) in protected {
        script = script.protect(prefix, issuer.introspection());
    }
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
