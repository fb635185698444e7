//! The credentials: what becomes of each with another configuration, and the tasks that keep their tokens fresh.
//!
//! One that is configured as before is left alone. One whose tokens are as good goes on with its token, its state and all
//! that keeps requests back. Any other begins anew, with a store of its own: a token of before never gets to where the
//! new one is sent. What its state knows is handed on if it is the same credential ([`DurableState::is_of_one`]).

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
use crate::lifecycle::Stage;
use crate::tls::client::Trust;
use crate::token::state::file::OpenError;
use crate::token::{DurableState, Operator, Refresher, TokenClient, TokenSource};

type Config = Arc<config::Credential>;
type OneRefresher = Refresher<TokenClient>;

/// A credential that is served.
#[derive(Clone, Debug)]
pub(super) struct Credential {
    /// As it is configured.
    pub(super) config: Config,
    /// Its tokens as requests see them.
    pub(super) source: TokenSource,
    /// By whom orders are given.
    pub(super) operator: Operator,
    leaving: mpsc::Sender<Leave>,
}

/// How a refresher's task is to end, between two requests.
#[derive(Debug)]
enum Leave {
    /// The refresher goes to whoever waits for it; if nobody does any more, it goes on.
    To(oneshot::Sender<OneRefresher>),
    ForGood,
}

/// Why a refresher's task ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to.
    Asked,
    /// The daemon stops; or it did so by itself.
    OfItself,
}

/// What becomes of a credential of the next configuration.
pub(super) enum Fate {
    /// It is as before.
    Stays,
    /// It goes on with other settings.
    Renewed(Box<TokenClient>),
    /// It begins anew, or for the first time.
    New(Box<TokenClient>, Origin),
}

/// Where the state of a new one comes from.
pub(super) enum Origin {
    /// It is there.
    Opened(Box<DurableState>),
    /// From the one before of its name, place and all.
    Handed,
    /// The place is there; what is in it comes from the one before of its name.
    Moved(Box<DurableState>),
    /// The place is that of the one before with this name, who has to give it up.
    Vacated(String),
}

/// What becomes of each credential. Opens states, and so waits for the disk.
///
/// # Errors
///
/// [`StartError`] where one cannot be set up; nothing has changed then.
pub(super) fn fates(
    after: &[Config],
    before: &[Config],
    trust: &Trust,
    clock: Clock,
) -> Result<Vec<Fate>, StartError> {
    after.iter().map(|config| fate(config, before, trust, clock)).collect()
}

fn fate(config: &Config, before: &[Config], trust: &Trust, clock: Clock) -> Result<Fate, StartError> {
    let same_name = before.iter().find(|other| other.name == config.name);
    if same_name == Some(config) {
        return Ok(Fate::Stays);
    }
    let client = Box::new(client(config, trust)?);
    let no_state = |source| StartError::State { credential: config.name.clone(), source };
    if let Some(other) = same_name
        && other.state == config.state
    {
        if other.shares_tokens_with(config) {
            return Ok(Fate::Renewed(client));
        }
        if DurableState::is_of_one(other, config) {
            return Ok(Fate::New(client, Origin::Handed));
        }
    }
    let path = |config: &Config| config.state.as_ref().map(|StatePlace { path, .. }| path.clone());
    let holder = before.iter().find(|other| path(other).is_some() && path(other) == path(config));
    let origin = match holder {
        Some(holder) => {
            DurableState::inspect(config, clock).map_err(no_state)?;
            Origin::Vacated(holder.name.clone())
        }
        None => {
            let opened = Box::new(DurableState::open(config, clock).map_err(no_state)?);
            if same_name.is_some_and(|other| DurableState::is_of_one(other, config)) {
                Origin::Moved(opened)
            } else {
                Origin::Opened(opened)
            }
        }
    };
    Ok(Fate::New(client, origin))
}

/// What asks a credential's token endpoint.
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
    /// None yet. They end when the stage says so, and have finished what is under way.
    pub(super) fn new(stage: watch::Receiver<Stage>) -> Self {
        Self { tasks: JoinSet::new(), stage }
    }

    /// Keeps a credential's token fresh from now on.
    pub(super) fn start(
        &mut self,
        config: Config,
        refresher: OneRefresher,
        source: TokenSource,
    ) -> Credential {
        let (leaving, asked) = mpsc::channel(1);
        let operator = refresher.operator();
        self.tasks.spawn(keep_fresh(refresher, asked, self.stage.clone()));
        Credential { config, source, operator, leaving }
    }

    /// Waits until one has ended that was not asked to; never, if there is none.
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

async fn keep_fresh(
    mut refresher: OneRefresher,
    mut leaving: mpsc::Receiver<Leave>,
    stage: watch::Receiver<Stage>,
) -> Ended {
    loop {
        let mut asked = None;
        let mut watched = stage.clone();
        let cut = async move {
            // Without whoever moves the stage on there is nobody to go on for.
            let _ = watched.wait_for(|stage| *stage == Stage::Cut).await;
        };
        let leave_off = async {
            asked = leaving.recv().await;
            if asked.is_none() {
                std::future::pending::<()>().await;
            }
        };
        refresher = refresher.run_until(cut, leave_off).await;
        match asked {
            None => return Ended::OfItself,
            Some(Leave::ForGood) => return Ended::Asked,
            Some(Leave::To(heir)) => match heir.send(refresher) {
                Ok(()) => return Ended::Asked,
                Err(unwanted) => refresher = unwanted,
            },
        }
    }
}

impl Credential {
    /// Has its refresher end, once a request of it that is under way has.
    pub(super) fn leave(&self) {
        // It has nothing else to do yet, or has ended.
        let _ = self.leaving.try_send(Leave::ForGood);
    }

    /// Takes its refresher out of its task, between two requests.
    ///
    /// # Errors
    ///
    /// [`StartError::Busy`] if that takes too long: it goes on then.
    pub(super) async fn hand_out(&self, within: Duration) -> Result<OneRefresher, StartError> {
        let (heir, handed) = oneshot::channel();
        let handed = async {
            self.leaving.send(Leave::To(heir)).await.ok()?;
            handed.await.ok()
        };
        let handed = tokio::time::timeout(within, handed).await.ok().flatten();
        handed.ok_or_else(|| StartError::Busy(self.config.name.clone()))
    }
}

/// The state of a credential that begins anew, from the refresher of the one before.
pub(super) async fn state_from(
    origin: Origin,
    before: Option<OneRefresher>,
    config: &Config,
    clock: Clock,
) -> DurableState {
    match (origin, before) {
        (Origin::Handed, Some(before)) => before.into_state(),
        (Origin::Moved(opened), Some(before)) => {
            let mut state = opened.succeeding(before.into_state());
            state.write().await;
            state
        }
        (Origin::Opened(opened) | Origin::Moved(opened), _) => *opened,
        (Origin::Vacated(_) | Origin::Handed, before) => reopened(before, config, clock).await,
    }
}

/// The place was good a moment ago. If it is not any more, the state is kept in memory, and an error tells so.
async fn reopened(before: Option<OneRefresher>, config: &Config, clock: Clock) -> DurableState {
    let wanted = Arc::clone(config);
    let opening = tokio::task::spawn_blocking(move || -> Result<DurableState, OpenError> {
        match before {
            Some(before) => before.open_successor_state(&wanted, clock),
            None => DurableState::open(&wanted, clock),
        }
    });
    match opening.await {
        Ok(Ok(opened)) => opened,
        outcome => {
            let error = outcome.map_or_else(
                |panic| panic.to_string(),
                |refused| refused.map_or_else(|error| in_one_line(&error), |_| String::new()),
            );
            let help = "reload once more, or restart";
            error!(credential = config.name, error, help, "state not opened and kept in memory");
            DurableState::in_memory(clock)
        }
    }
}
