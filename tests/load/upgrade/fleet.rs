//! Instances of one configuration, each at its own addresses, with an authorization server and an API.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use testkit::authorization_server::AuthorizationServer;
use testkit::harness::process::Launch;
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::upstream::Scripted;
use testkit::harness::{Process, Upstream, eventually};
use testkit::pki::Pki;

use crate::report::Report;

/// What instances have in common.
pub(super) struct Fleet {
    /// Lines of `[server]`.
    server: String,
    issuer: AuthorizationServer,
    pub(super) api: Upstream,
    folder: TempDir,
    binary: PathBuf,
    started: usize,
}

/// The addresses of an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) health: SocketAddr,
}

impl Place {
    /// Addresses on loopback that nothing else uses.
    pub(super) fn free() -> Self {
        let [address, health] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        Self { address: address.local_addr().unwrap(), health: health.local_addr().unwrap() }
    }

    /// Whether `/readyz` answers 200.
    pub(super) async fn is_ready(self) -> bool {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://{}/readyz", self.health)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }
}

pub(super) struct Instance {
    pub(super) place: Place,
    process: Process,
}

impl Fleet {
    pub(super) async fn start(bearerd: &Path, server: String) -> Self {
        let pki = Pki::new(&["localhost"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), pki.authority_pem()).unwrap();
        let issuer = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
        let tls = pki.server_config(&[b"http/1.1"]).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script = Scripted::new(listener.local_addr().unwrap().port()).with_attempts();
        let api = Upstream::serve(listener, Some(tls), script.protect("", issuer.introspection())).unwrap();
        Self { server, issuer, api, folder, binary: bearerd.to_owned(), started: 0 }
    }

    /// Starts an instance with another binary than the instances before, and waits until the instance is ready.
    pub(super) async fn instance(&mut self, place: Place) -> Instance {
        self.started += 1;
        let binary = self.folder.path().join(format!("bearerd-{}", self.started));
        std::fs::hard_link(&self.binary, &binary)
            .or_else(|_| std::fs::copy(&self.binary, &binary).map(drop))
            .unwrap();
        let file = format!("{}.toml", self.started);
        let text = format!(
            "[server]\nlisten = \"{}\"\nhosts = [\"localhost\"]\n{}\n[health]\nlisten = \"{}\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n\
             [credentials.client]\ntoken_url = \"{}\"\nclient_id = \"{CLIENT_ID}\"\n\
             client_secret = {{ env = \"API_SECRET\" }}\n\
             [[routes]]\nupstream = \"{}\"\nca_file = \"ca.pem\"\ncredential = \"client\"\n",
            place.address,
            self.server,
            place.health,
            self.issuer.token_url(),
            self.api.url(),
        );
        std::fs::write(self.folder.path().join(&file), text).unwrap();
        let process = Launch::new(&binary, self.folder.path())
            .arguments(&["run", "-c", &file])
            .variable("API_SECRET", CLIENT_SECRET)
            .output_file(self.folder.path().join(format!("{}.log", self.started)))
            .start();
        let instance = Instance { place, process };
        eventually("ready", async || place.is_ready().await).await;
        instance
    }

    pub(super) fn finish(self, report: &mut Report) {
        report.none("requests to the API kept the invariants", &self.api.violations());
    }
}

impl Instance {
    /// Sends SIGTERM.
    pub(super) fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for the end, at most this long; `None` if the instance runs on. Returns the exit code, and whether the instance
    /// has answered requests.
    pub(super) async fn end(&mut self, within: Duration) -> Option<(Option<i32>, bool)> {
        let status = tokio::time::timeout(within, self.process.ended()).await.ok()?;
        let has_served = self.process.output().contains("\"message\":\"request\"");
        Some((status.code(), has_served))
    }
}
