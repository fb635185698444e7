//! The credentials: the plan for each at a reload, and the tasks that keep their tokens fresh.
//!
//! A credential without a difference is left alone. A credential that shares tokens
//! ([`config::Credential::shares_tokens_with`]) keeps its token, its store and its limiter. Any other credential begins
//! anew with a store of its own, so that an old token never reaches a new upstream; a credential that shares the state
//! ([`config::Credential::shares_state_with`]) inherits the refresh token, the quota and `Retry-After`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::error;

use super::StartError;
use crate::causes::in_one_line;
use crate::clock::Clock;
use crate::config;
use crate::config::StatePlace;
use crate::judged_as::JudgedAs;
use crate::lifecycle::Stage;
use crate::telemetry::Events;
use crate::tls::client::Trust;
use crate::token::replicas::{Shared, SharedRecord};
use crate::token::{DurableState, Operator, Refresher, TokenClient, TokenSource};

type Config = Arc<config::Credential>;
type OneRefresher = Refresher<TokenClient>;

/// A credential that is served. Its refresher's task ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(super) struct Credential {
    /// As it is configured.
    pub(super) config: Config,
    /// Its tokens as requests see them.
    pub(super) source: TokenSource,
    /// Its operations for operators.
    pub(super) operator: Operator,
    /// Takes the refresher out of its task. A refresher that nobody receives goes on.
    leaving: mpsc::Sender<Leave>,
}

/// The channel into which the refresher's task sends the refresher between two token requests.
type Leave = oneshot::Sender<OneRefresher>;

/// Why a refresher's task ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The task was asked to end.
    Asked,
    /// The daemon stops.
    OfItself,
}

/// The plan for a credential of the next configuration, before anything of it runs.
pub(super) struct Plan {
    pub(super) source: TokenSource,
    pub(super) step: Step,
}

/// How a credential of the next configuration begins.
pub(super) enum Step {
    /// The credential is unchanged.
    Keep,
    /// The refresher continues with other settings.
    Renew { client: Box<TokenClient>, place: Place },
    /// The credential begins anew, or for the first time.
    Begin {
        /// The refresher, without a state.
        refresher: Box<OneRefresher>,
        place: Place,
        /// Whether it inherits the state of the previous credential of its name.
        inherits: bool,
    },
}

/// The place of a credential's state after the reload.
pub(super) enum Place {
    /// The place of the previous credential of its name.
    Same,
    /// Another place, which is open.
    Opened(Box<DurableState>),
    /// The place of the previous credential with this name, which has to close its state first.
    Vacated(String),
}

/// The plans for all credentials, where `before` are those in force. Opens states, and so waits for the disk.
///
/// # Errors
///
/// [`StartError`] if a credential cannot be set up; nothing has changed then.
pub(super) fn plan(
    after: &[Config],
    before: &[(Config, TokenSource)],
    trust: &Trust,
    sinks: (&Events, Option<&Shared>),
    clock: Clock,
) -> Result<Vec<Plan>, StartError> {
    after.iter().map(|config| plan_one(config, before, trust, sinks, clock)).collect()
}

fn plan_one(
    config: &Config,
    before: &[(Config, TokenSource)],
    trust: &Trust,
    (events, shared): (&Events, Option<&Shared>),
    clock: Clock,
) -> Result<Plan, StartError> {
    let same_name = before.iter().find(|(other, _)| other.name == config.name);
    if let Some((_, source)) = same_name.filter(|(other, _)| other == config) {
        return Ok(Plan { source: source.clone(), step: Step::Keep });
    }
    let client = client(config, trust)?;
    let account = same_name.filter(|(other, _)| other.shares_state_with(config));
    let place = match account {
        Some((other, _)) if other.state == config.state => Place::Same,
        _ => place(config, before, clock)?,
    };
    if let Some((_, source)) = account.filter(|(other, _)| other.shares_tokens_with(config)) {
        return Ok(Plan { source: source.clone(), step: Step::Renew { client: Box::new(client), place } });
    }
    let no_state = DurableState::in_memory(clock);
    let (refresher, source) = Refresher::new(Arc::clone(config), client, no_state, clock);
    let record = shared.map(|shared| SharedRecord::new(shared.clone(), config, clock));
    let refresher = Box::new(refresher.recorded_by(events).sharing(record));
    let step = Step::Begin { refresher, place, inherits: account.is_some() };
    Ok(Plan { source, step })
}

/// The place of a credential's state, opened if no previous credential has it.
fn place(config: &Config, before: &[(Config, TokenSource)], clock: Clock) -> Result<Place, StartError> {
    let no_state = |source| StartError::State { credential: config.name.clone(), source };
    let path = |config: &Config| config.state.as_ref().map(|StatePlace { path, .. }| path.clone());
    match before.iter().find(|(other, _)| path(other).is_some() && path(other) == path(config)) {
        Some((holder, _)) => {
            DurableState::inspect(config, clock, JudgedAs::ThisUser).map_err(no_state)?;
            Ok(Place::Vacated(holder.name.clone()))
        }
        None => Ok(Place::Opened(Box::new(DurableState::open(config, clock).map_err(no_state)?))),
    }
}

/// The client of a credential's token endpoint.
pub(super) fn client(config: &config::Credential, trust: &Trust) -> Result<TokenClient, StartError> {
    TokenClient::new(config, trust)
        .map_err(|source| StartError::Credential { credential: config.name.clone(), source })
}

/// The tasks of all refreshers.
#[derive(Debug)]
pub(super) struct Refreshers {
    tasks: JoinSet<Ended>,
    stage: watch::Receiver<Stage>,
}

impl Refreshers {
    /// No refreshers so far. At [`Stage::Cut`] each ends after the token request under way.
    pub(super) fn new(stage: watch::Receiver<Stage>) -> Self {
        Self { tasks: JoinSet::new(), stage }
    }

    /// Keeps a credential's token fresh until the last clone of the returned credential is dropped. The
    /// refresher then finishes a token request that is under way, and ends.
    pub(super) fn start(
        &mut self,
        config: Config,
        refresher: OneRefresher,
        source: TokenSource,
    ) -> Credential {
        let (leaving, asked) = mpsc::channel(1);
        let operator = refresher.operator();
        self.tasks.spawn(keep_fresh(Box::new(refresher), asked, self.stage.clone()));
        Credential { config, source, operator, leaving }
    }

    /// Waits until a refresher ends that was not asked to.
    ///
    /// # Cancel safety
    ///
    /// No end is lost.
    pub(super) async fn one_died(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ended::Asked)) => {}
                Some(Ok(Ended::OfItself)) => return "a refresher".to_owned(),
                Some(Err(error)) => return error.to_string(),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until all have ended.
    pub(super) async fn all_ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Boxed: a future keeps each argument twice, and there may be a thousand credentials.
async fn keep_fresh(
    mut refresher: Box<OneRefresher>,
    mut leaving: mpsc::Receiver<oneshot::Sender<OneRefresher>>,
    stage: watch::Receiver<Stage>,
) -> Ended {
    loop {
        let mut asked = None;
        let mut watched = stage.clone();
        let cut = async move {
            // An error means that the daemon is gone.
            let _ = watched.wait_for(|stage| *stage == Stage::Cut).await;
        };
        let leave_off = async { asked = Some(leaving.recv().await) };
        refresher.run_until(cut, leave_off).await;
        match asked {
            None => return Ended::OfItself,
            // The last `Credential` was dropped: the configuration no longer has this credential.
            Some(None) => return Ended::Asked,
            Some(Some(receiver)) => match receiver.send(*refresher) {
                Ok(()) => return Ended::Asked,
                Err(unwanted) => *refresher = unwanted,
            },
        }
    }
}

impl Credential {
    /// Whether the task of the credential's refresher has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.leaving.is_closed()
    }

    /// Takes the credential's refresher out of its task, between two token requests. Returns `None` if the
    /// task has ended, or if the refresher does not leave within the time `within`; the refresher then stays
    /// in service.
    pub(super) async fn hand_out(&self, within: Duration) -> Option<OneRefresher> {
        let (sender, mut refresher) = oneshot::channel();
        let request = async {
            self.leaving.send(sender).await.ok()?;
            (&mut refresher).await.ok()
        };
        if let Ok(outcome) = tokio::time::timeout(within, request).await {
            return outcome;
        }
        // A refresher that was sent at the last moment must not be lost.
        refresher.close();
        refresher.try_recv().ok()
    }
}

impl Plan {
    /// The refresher and the source of a credential that begins anew in a place of its own, as each does at the start.
    pub(super) fn begun(self) -> Option<(OneRefresher, TokenSource)> {
        let Step::Begin { refresher, place: Place::Opened(durable), .. } = self.step else { return None };
        Some((refresher.with_state(*durable), self.source))
    }

    /// The previous credentials whose refreshers are needed: its own to continue with, and the holder of its place.
    pub(super) fn needs(&self) -> impl Iterator<Item = &str> {
        let own = match &self.step {
            Step::Keep | Step::Begin { inherits: false, .. } => None,
            Step::Renew { .. } | Step::Begin { inherits: true, .. } => Some(self.source.name()),
        };
        own.into_iter().chain(self.vacated())
    }

    /// The previous credential that has to close its state, because this one gets its place.
    pub(super) fn vacated(&self) -> Option<&str> {
        match &self.step {
            Step::Renew { place: Place::Vacated(holder), .. }
            | Step::Begin { place: Place::Vacated(holder), .. } => Some(holder),
            Step::Keep | Step::Renew { .. } | Step::Begin { .. } => None,
        }
    }
}

/// Waits for a moment at which none of these credentials has a token request under way.
pub(super) async fn all_idle(credentials: &[Credential]) {
    while let Some(busy) = credentials.iter().find(|one| !one.source.is_idle()) {
        busy.source.idle().await;
    }
}

impl Place {
    /// Gives a refresher, between two requests, other settings and this place.
    pub(super) async fn renew(
        self,
        refresher: OneRefresher,
        client: TokenClient,
        config: &Config,
        clock: Clock,
    ) -> OneRefresher {
        let refresher = refresher.renewed(Arc::clone(config), client);
        match self.opened(config, clock).await {
            None => refresher,
            Some(place) => refresher.moved_to(place).await,
        }
    }

    /// The state of a credential that begins anew, inherited from a previous refresher if there is one.
    pub(super) async fn state(
        self,
        previous: Option<OneRefresher>,
        config: &Config,
        clock: Clock,
    ) -> DurableState {
        let inherited = previous.map(OneRefresher::into_state);
        match (self.opened(config, clock).await, inherited) {
            (None, Some(inherited)) => inherited.belonging_to(config),
            (Some(place), Some(inherited)) => {
                let state = inherited.state().clone();
                let mut state = place.succeeding(inherited, state).belonging_to(config);
                state.write().await;
                state
            }
            (Some(place), None) => place,
            (None, None) => reopened(config, clock).await,
        }
    }

    /// The opened place; none if the previous credential's place stays.
    async fn opened(self, config: &Config, clock: Clock) -> Option<DurableState> {
        match self {
            Self::Same => None,
            Self::Opened(opened) => Some(*opened),
            Self::Vacated(_) => Some(reopened(config, clock).await),
        }
    }
}

/// Opens a place that was usable a moment ago. If that fails, an error is logged and the state is kept in memory.
async fn reopened(config: &Config, clock: Clock) -> DurableState {
    let wanted = Arc::clone(config);
    let opening = tokio::task::spawn_blocking(move || DurableState::open(&wanted, clock));
    let error = match opening.await {
        Ok(Ok(opened)) => return opened,
        Ok(Err(refused)) => in_one_line(&refused),
        Err(panicked) => panicked.to_string(),
    };
    let help = "reload once more, or restart";
    error!(credential = config.name, error, help, "state not opened and kept in memory");
    DurableState::in_memory(clock)
}

#[cfg(test)]
mod tests;
