//! Readiness: whether a load balancer should send traffic to this daemon.
//!
//! The daemon is ready once every `required` credential has had its first token, and has discovered its API's address
//! if a route needs that, until the daemon is asked to stop. A token endpoint that fails later does not matter: other
//! instances use the same one.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::lifecycle::Stage;
use crate::token::api_discovery::DiscoverySource;
use crate::token::{CredentialState, Operator, TokenSource};

/// Whether the daemon is ready.
#[derive(Clone, Debug)]
pub struct Readiness {
    counted: Arc<ArcSwap<Counted>>,
    stage: watch::Receiver<Stage>,
}

/// The state that readiness depends on.
#[derive(Debug)]
struct Counted {
    credentials: Vec<(TokenSource, Operator)>,
    discoveries: Vec<DiscoverySource>,
    /// Whether the daemon was ready with an earlier configuration: a reload never withdraws readiness.
    has_been_ready: bool,
}

impl Readiness {
    /// Readiness by these credentials and their discoveries.
    pub fn new(
        credentials: Vec<(TokenSource, Operator)>,
        discoveries: Vec<DiscoverySource>,
        stage: watch::Receiver<Stage>,
    ) -> Self {
        let counted = Counted { credentials, discoveries, has_been_ready: false };
        Self { counted: Arc::new(ArcSwap::from_pointee(counted)), stage }
    }

    /// Depends on other credentials and discoveries from now on.
    pub fn change(&self, credentials: Vec<(TokenSource, Operator)>, discoveries: Vec<DiscoverySource>) {
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

    /// Whether the daemon is stopping.
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() != Stage::Running
    }

    /// The stage of the daemon.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }
}

impl Counted {
    fn is_ready(&self) -> bool {
        self.has_been_ready
            || self
                .credentials
                .iter()
                .all(|(source, operator)| !operator.credential().required || source.has_had_a_token())
                && self.discoveries.iter().all(|one| one.has_found() || !self.is_required(one))
    }

    fn explain(&self) -> String {
        let mut text = String::new();
        for (source, operator) in &self.credentials {
            let status = operator.status(source);
            let is_required = operator.credential().required;
            let mark = match (status.state, source.has_had_a_token(), is_required) {
                (CredentialState::Valid, ..) => "[+]",
                (_, false, true) if !self.has_been_ready => "[-]",
                _ => "[ ]",
            };
            let state = InWords { state: status.state, reason: status.reason };
            let required = if is_required { "" } else { ", and is not required" };
            let _ = writeln!(text, "{mark} credential {} is {state}{required}", source.name());
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
        credentials.any(|(source, operator)| {
            operator.credential().required && source.name() == discovery.credential()
        })
    }
}

/// A state and its reason, as `degraded: client_rejected`.
struct InWords {
    state: CredentialState,
    reason: Option<&'static str>,
}

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.state.as_str())?;
        self.reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}
