//! Readiness: whether a load balancer should send traffic to this daemon.
//!
//! The daemon is ready once every `required` credential has had its first token, and has discovered its API's address
//! if a route needs that, until the daemon is asked to stop. A token endpoint that fails later does not matter: other
//! instances use the same one.

use std::fmt::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::lifecycle::Stage;
use crate::token::TokenSource;
use crate::token::api_discovery::DiscoverySource;

/// Whether the daemon is ready.
#[derive(Clone, Debug)]
pub struct Readiness {
    counted: Arc<ArcSwap<Counted>>,
    stage: watch::Receiver<Stage>,
}

/// The state that readiness depends on.
#[derive(Debug)]
struct Counted {
    credentials: Vec<(TokenSource, bool)>,
    discoveries: Vec<DiscoverySource>,
    /// Whether the daemon was ready with an earlier configuration: a reload never withdraws readiness.
    has_been_ready: bool,
}

impl Readiness {
    /// Readiness by these credentials, each with whether it is required, and their discoveries.
    pub fn new(
        credentials: Vec<(TokenSource, bool)>,
        discoveries: Vec<DiscoverySource>,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        let counted = Counted { credentials, discoveries, has_been_ready: false };
        Self { counted: Arc::new(ArcSwap::from_pointee(counted)), stage }
    }

    /// Depends on other credentials and discoveries from now on.
    pub fn change(&self, credentials: Vec<(TokenSource, bool)>, discoveries: Vec<DiscoverySource>) {
        let has_been_ready = self.counted.load().is_ready();
        self.counted.store(Arc::new(Counted { credentials, discoveries, has_been_ready }));
    }

    /// Whether the daemon is ready.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.counted.load().is_ready()
    }

    /// The reasons, a line each: `[+]` good, `[-]` prevents readiness, `[ ]` irrelevant to readiness.
    pub fn explain(&self) -> String {
        let mut text = self.counted.load().explain();
        let _ = if self.is_draining() {
            writeln!(text, "[-] shutting down")
        } else {
            writeln!(text, "[+] accepting connections")
        };
        text
    }

    fn is_draining(&self) -> bool {
        *self.stage.borrow() != Stage::Running
    }
}

impl Counted {
    fn is_ready(&self) -> bool {
        self.has_been_ready
            || self.credentials.iter().all(|(source, required)| !required || source.has_had_a_token())
                && self.discoveries.iter().all(|one| one.has_found() || !self.is_required(one))
    }

    fn explain(&self) -> String {
        let mut text = String::new();
        for (source, required) in &self.credentials {
            let (mark, state) = match (source.current(), source.has_had_a_token(), required) {
                (Some(_), _, _) if source.is_rejected() => ("[ ]", "has a token that an API rejected"),
                (Some(_), _, _) => ("[+]", "has a valid token"),
                (None, true, _) => ("[ ]", "had a token that has expired"),
                (None, false, true) if self.has_been_ready => {
                    ("[ ]", "waits for its first token since a reload")
                }
                (None, false, true) => ("[-]", "waits for its first token"),
                (None, false, false) => ("[ ]", "waits for its first token, and is not required"),
            };
            let why =
                source.failure().map(|error| format!("; the last token request failed: {}", error.outcome()));
            let _ = writeln!(text, "{mark} credential {} {state}{}", source.name(), why.unwrap_or_default());
        }
        for discovery in &self.discoveries {
            let (mark, state) = match (discovery.has_found(), self.is_required(discovery)) {
                (true, _) if discovery.failure().is_some() => ("[ ]", "discovered its API earlier"),
                (true, _) => ("[+]", "has discovered its API"),
                (false, true) if self.has_been_ready => ("[ ]", "has not discovered its API since a reload"),
                (false, true) => ("[-]", "has not discovered its API yet"),
                (false, false) => ("[ ]", "has not discovered its API yet, and is not required"),
            };
            let why =
                discovery.failure().map(|error| format!("; the last discovery failed: {}", error.outcome()));
            let name = discovery.credential();
            let _ = writeln!(text, "{mark} credential {name} {state}{}", why.unwrap_or_default());
        }
        text
    }

    fn is_required(&self, discovery: &DiscoverySource) -> bool {
        let mut credentials = self.credentials.iter();
        credentials.any(|(source, required)| *required && source.name() == discovery.credential())
    }
}
