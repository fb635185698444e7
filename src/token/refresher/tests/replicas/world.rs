//! Replicas of one credential, their store, and a strict authorization server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};

use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::super::*;
use crate::config::WhenAway;
use crate::config::model::identity::Grant;
use crate::config::model::state_key::StateKey;
use crate::telemetry::Events;
use crate::token::replicas::simulated::Simulated;
use crate::token::replicas::{Settings, Shared as SharedHandle, SharedRecord, SharedStatus};

/// Without `[shared]`, the configuration wants a state file, which no replica opens here.
pub(super) const ROTATING: &str = "grant = \"refresh_token\"\nrefresh_token = \"first\"\nstate_file = \"/nowhere/s\"\n\
                        state_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"";
/// The latency of the store, in one direction.
pub(super) const NEAR: Duration = Duration::from_millis(5);

/// An authorization server that notices every refresh token that is used twice.
#[derive(Clone, Debug)]
pub(super) struct Authorization(Arc<Mutex<Ledger>>);

#[derive(Debug)]
pub(super) struct Ledger {
    /// How long a used refresh token is still accepted.
    pub(super) grace: Duration,
    pub(super) lifetime: u64,
    /// The shortest and the longest time of a request.
    pub(super) takes: (Duration, Duration),
    pub(super) current: String,
    pub(super) previous: Option<(String, Instant)>,
    pub(super) is_revoked: bool,
    pub(super) requests: u64,
    /// The uses of a refresh token that had been used, beyond the grace.
    pub(super) reuses: u64,
    /// How often each refresh token was received.
    pub(super) received: HashMap<String, u64>,
    pub(super) failure: Option<TokenError>,
    pub(super) issued: u64,
}

impl Authorization {
    pub(super) fn new(lifetime: u64, grace: Duration) -> Self {
        Self(Arc::new(Mutex::new(Ledger {
            grace,
            lifetime,
            takes: (Duration::from_millis(20), Duration::from_millis(400)),
            current: "first".to_owned(),
            previous: None,
            is_revoked: false,
            requests: 0,
            reuses: 0,
            received: HashMap::new(),
            failure: None,
            issued: 0,
        })))
    }

    pub(super) fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.0.lock().unwrap()
    }

    pub(super) fn requests(&self) -> u64 {
        self.ledger().requests
    }
}

impl Ledger {
    pub(super) fn answer(&mut self, refresh_token: Option<&str>) -> Result<TokenResponse, TokenError> {
        self.requests += 1;
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        let Some(sent) = refresh_token else { return Ok(grant(&token, self.lifetime)) };
        *self.received.entry(sent.to_owned()).or_default() += 1;
        let is_repeated = self
            .previous
            .as_ref()
            .is_some_and(|(previous, at)| previous == sent && at.elapsed() < self.grace);
        if self.is_revoked || (sent != self.current && !is_repeated) {
            if !self.is_revoked && sent != self.current {
                self.reuses += 1;
                // A strict server ends the whole family.
                self.is_revoked = true;
            }
            return Err(invalid_grant());
        }
        if !is_repeated {
            self.previous = Some((
                std::mem::replace(&mut self.current, format!("refresh-{}", self.issued)),
                Instant::now(),
            ));
        }
        Ok(TokenResponse { refresh_token: Some(self.current.clone().into()), ..grant(&token, self.lifetime) })
    }
}

impl TokenEndpoint for Authorization {
    async fn request(
        &self,
        _: &Credential,
        identity: &Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let sent = match &identity.grant {
            Grant::RefreshToken(token) => token.as_ref().map(|token| token.expose_secret().to_owned()),
            _ => None,
        };
        let (least, most) = self.ledger().takes;
        let way = || (least + most.saturating_sub(least).mul_f64(fastrand::f64())) / 2;
        sleep(way()).await;
        let answer = self.ledger().answer(sent.as_deref());
        sleep(way()).await;
        answer
    }
}

/// Replicas of one credential.
pub(super) struct World {
    pub(super) store: Simulated,
    pub(super) server: Authorization,
    pub(super) credential: Arc<Credential>,
    pub(super) key: SecretString,
    pub(super) previous_keys: Vec<SecretString>,
    pub(super) when_away: WhenAway,
    pub(super) loses_answer: f64,
    pub(super) replicas: Vec<Replica>,
    pub(super) named: AtomicU64,
    pub(super) clock: Clock,
    pub(super) begun: Instant,
}

/// One replica, as a process.
pub(super) struct Replica {
    pub(super) source: TokenSource,
    pub(super) shared: SharedHandle,
    pub(super) stopped: watch::Sender<bool>,
    /// Whether the network to the store is cut.
    pub(super) cut: Arc<AtomicBool>,
    pub(super) tasks: [JoinHandle<()>; 2],
}

impl Drop for Replica {
    /// Ends the replica as `kill -9` does.
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl World {
    pub(super) fn new(lines: &str, server: Authorization) -> Self {
        Self {
            store: Simulated::new(),
            server,
            credential: credential(lines),
            key: StateKey::generate(),
            previous_keys: Vec::new(),
            when_away: WhenAway::Stop,
            loses_answer: 0.0,
            replicas: Vec::new(),
            named: AtomicU64::new(0),
            clock: Clock::tokio(),
            begun: Instant::now(),
        }
    }

    /// Starts a replica that knows nothing.
    pub(super) fn begin(&self) -> Replica {
        let clock = self.clock;
        let (stopped, is_stopped) = watch::channel(false);
        let cut = Arc::new(AtomicBool::new(false));
        let link = self.store.link(is_stopped.clone(), Arc::clone(&cut), NEAR, self.loses_answer);
        let parse = |key: &SecretString| StateKey::parse(key).unwrap();
        let keys = std::iter::once(&self.key).chain(&self.previous_keys).map(parse).collect();
        let settings = Settings { keys, expected_replicas: 0, when_away: self.when_away };
        let name = format!("replica-{}", self.named.fetch_add(1, Ordering::Relaxed));
        let shared = SharedHandle::new(Box::new(link), settings, name, Events::default(), clock);
        let record = SharedRecord::new(shared.clone(), &self.credential, clock);
        let (refresher, source) = Refresher::new(
            Arc::clone(&self.credential),
            self.server.clone(),
            DurableState::in_memory(clock),
            clock,
        );
        let runs = stoppable(refresher.sharing(Some(record)).run(std::future::pending()), is_stopped.clone());
        let beats = stoppable(shared.clone().beat(), is_stopped);
        #[expect(clippy::disallowed_methods, reason = "ends with the replica")]
        let tasks = [tokio::spawn(runs), tokio::spawn(beats)];
        Replica { source, shared, stopped, cut, tasks }
    }

    pub(super) fn start(&mut self, replicas: usize) {
        for _ in 0..replicas {
            let replica = self.begin();
            self.replicas.push(replica);
        }
    }

    /// The tokens in use.
    pub(super) fn tokens(&self) -> Vec<Option<String>> {
        self.replicas.iter().map(Replica::token).collect()
    }

    /// Asserts that all replicas use one token.
    pub(super) fn assert_agreed(&self) {
        let tokens = self.tokens();
        assert!(tokens.iter().all(|token| token.is_some() && *token == tokens[0]), "{tokens:?}");
    }

    pub(super) fn reuses(&self) -> u64 {
        self.server.ledger().reuses
    }

    pub(super) fn sum(&self, of: impl Fn(&SharedStatus) -> u64) -> u64 {
        self.replicas.iter().map(|replica| of(&replica.shared.status())).sum()
    }
}

impl Replica {
    pub(super) fn token(&self) -> Option<String> {
        self.source.current().map(|token| token.as_str().to_owned())
    }

    pub(super) fn generation(&self) -> Generation {
        self.source.generation()
    }
}

/// Runs a process, but not while it is stopped.
pub(super) async fn stoppable(process: impl Future<Output = ()>, mut stopped: watch::Receiver<bool>) {
    let mut process = std::pin::pin!(process);
    loop {
        tokio::select! {
            biased;
            () = becomes(&mut stopped, true) => {}
            () = &mut process => return,
        }
        becomes(&mut stopped, false).await;
    }
}

pub(super) async fn becomes(stopped: &mut watch::Receiver<bool>, wanted: bool) {
    let _ = stopped.wait_for(|stopped| *stopped == wanted).await;
}
