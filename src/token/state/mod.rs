//! A credential's state as the refresher has it: in memory always, and on disk where there is a file for it.
//!
//! The disk is waited for on a thread of its own, one step at a time, and not for ever. What cannot be written stays in
//! use and is written later; that it might be lost is said once, loudly, and again when it is over.

pub(super) mod age;
pub(super) mod atomic_file;
pub(super) mod body;
pub(super) mod disk;
pub(super) mod error;
pub mod file;
pub(super) mod format;
#[cfg(feature = "fuzzing")]
pub(in crate::token) mod fuzzing;
pub(super) mod inspect;
pub(super) mod lock;
pub(super) mod record;

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use self::file::{
    ClearPart, Found, Identity, Look, OpenError, SaveError, Settings, State, StateFile, StateKey, StateKeys,
    Warning,
};
use super::limiter::{LATCH_MAX, doubled};
use crate::causes::in_one_line;
use crate::clock::{Clock, Moment};
use crate::config;
use crate::config::model::identity::Grant;
use crate::config::{Credential, StatePlace};

/// How long the disk is waited for. One that has hung so long is not waited for again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first wait after a failed write, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// A state and its place.
#[derive(Debug)]
pub struct DurableState {
    credential: String,
    clock: Clock,
    state: State,
    place: Place,
    keeps_tokens: bool,
    /// What was written last, as far as it would be written without a key.
    written: ClearPart,
    /// Whether the disk has less than `state`.
    is_behind: bool,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
enum Place {
    /// Nowhere: it lives as long as the process.
    Memory,
    Idle(Box<StateFile>),
    Busy {
        work: JoinHandle<(Box<StateFile>, Done)>,
        hangs: bool,
    },
    /// The thread that had it panicked.
    Lost,
}

#[derive(Debug)]
enum Done {
    Saved(Result<(), SaveError>),
    /// Not saved, so that what someone has put there can be looked at.
    LeftAlone,
    Read(Result<Box<Found>, OpenError>),
}

/// Why the disk is behind.
#[derive(Debug)]
struct Trouble {
    error: String,
    times: u32,
    retry_at: Moment,
}

impl DurableState {
    /// A state that ends with the process.
    pub fn in_memory(clock: Clock) -> Self {
        Self {
            credential: String::new(),
            clock,
            state: State::default(),
            place: Place::Memory,
            keeps_tokens: false,
            written: ClearPart::default(),
            is_behind: false,
            trouble: None,
        }
    }

    /// The state of a credential, found on disk if it keeps one there. Waits for the disk.
    ///
    /// One that is under a previous key is written anew under the current one, so that the previous can go.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where there is a place for it that cannot be used.
    pub fn open(credential: &Credential, clock: Clock) -> Result<Self, OpenError> {
        let Some(place) = &credential.state else {
            return Ok(Self::in_memory(clock));
        };
        let identity = identity_of(credential);
        let longest_wait = credential.retry_after_max.max(LATCH_MAX);
        let (mut file, found) = StateFile::open(&place.path, identity, keys_of(place), longest_wait, clock)?;
        warn_of(&credential.name, &found);
        let state = found.state.unwrap_or_default();
        if found.warnings.iter().any(|warning| matches!(warning, Warning::OldKey)) {
            match file.save(&state) {
                Ok(()) => info!(
                    credential = credential.name,
                    "state encrypted anew under state_key, state_key_previous can go"
                ),
                Err(error) => {
                    warn!(
                        credential = credential.name,
                        error = in_one_line(&error),
                        "state not encrypted anew"
                    );
                }
            }
        }
        Ok(Self {
            credential: credential.name.clone(),
            keeps_tokens: file.keeps_tokens(),
            written: state.clear_part(),
            state,
            place: Place::Idle(Box::new(file)),
            ..Self::in_memory(clock)
        })
    }

    /// Whether a daemon that starts now could open the state of a credential; `None` if it keeps none. Waits for the
    /// disk, and not for a daemon that has the state.
    ///
    /// # Errors
    ///
    /// [`OpenError`], as it would.
    ///
    /// # Panics
    ///
    /// As [`DurableState::open`].
    pub fn look(credential: &Credential, clock: Clock) -> Result<Option<Look>, OpenError> {
        let look = |place: &StatePlace| Look::at(&place.path, identity_of(credential), keys_of(place), clock);
        credential.state.as_ref().map(look).transpose()
    }

    /// As if the disk hung in the middle of a write, until this is dropped.
    #[cfg(test)]
    pub(super) fn hang(&mut self) -> std::sync::mpsc::SyncSender<()> {
        let (release, released) = std::sync::mpsc::sync_channel(1);
        let Place::Idle(file) = std::mem::replace(&mut self.place, Place::Lost) else { panic!("{self:?}") };
        let work = tokio::task::spawn_blocking(move || {
            let _ = released.recv();
            (file, Done::LeftAlone)
        });
        self.place = Place::Busy { work, hangs: false };
        release
    }

    /// The state as it should be on disk.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Whether the state is on disk as it is, tokens included.
    pub const fn is_durable(&self) -> bool {
        self.keeps_tokens && !self.is_behind
    }

    /// Why the disk is behind, if it is.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.error.as_str())
    }

    /// When writing it is to be tried again, if it is.
    pub fn retry_at(&self) -> Option<Moment> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// The same place with another state, which is on disk with the next save.
    pub(super) fn replaced(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// The same place with what was kept elsewhere, which is on disk with the next write: what a process has in memory
    /// is later than anything in a file.
    #[must_use]
    pub fn succeeding(self, before: Self) -> Self {
        let is_behind = !matches!(self.place, Place::Memory);
        Self { state: before.state, is_behind, ..self }
    }

    /// The same without its access token, which is of no use for what the credential is now.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.state.access_token = None;
        self
    }

    /// Whether both would keep the state of one credential, as far as a file can tell.
    pub fn is_of_one(one: &Credential, other: &Credential) -> bool {
        identity_of(one) == identity_of(other)
    }

    /// Replaces the state, here and on disk. Comes back once it is durable, or is known not to be.
    ///
    /// # Cancel safety
    ///
    /// What was being written is written.
    pub async fn save(&mut self, state: State) {
        self.state = state;
        self.is_behind = self.keeps_tokens || self.state.clear_part() != self.written;
        self.write().await;
    }

    /// The same, unless someone has put another file there: that is left for [`Self::read_again`].
    ///
    /// # Cancel safety
    ///
    /// What was being written is written.
    pub async fn save_unless_replaced(&mut self, state: State) {
        self.state = state;
        self.is_behind = self.keeps_tokens || self.state.clear_part() != self.written;
        self.write_if(|file| !file.is_replaced()).await;
    }

    /// Writes the state, if the disk is behind.
    pub async fn write(&mut self) {
        self.write_if(|_| true).await;
    }

    async fn write_if(&mut self, may: impl FnOnce(&StateFile) -> bool + Send + 'static) {
        if matches!(self.place, Place::Memory) {
            return;
        }
        if !self.is_behind {
            // What could not be written need not be any more.
            self.note(None);
            return;
        }
        let state = self.state.clone();
        let work = move |file: &mut StateFile| {
            if may(file) { Done::Saved(file.save(&state)) } else { Done::LeftAlone }
        };
        let outcome = match self.on_disk(work).await {
            Ok(Done::LeftAlone) => return,
            Ok(Done::Saved(Err(error))) => Err(in_one_line(&error)),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_owned()),
        };
        if outcome.is_ok() {
            self.is_behind = false;
            self.written = self.state.clear_part();
        }
        self.note(outcome.err());
    }

    /// Writes what is behind and waits for what is being done: whoever opens the file then finds it free.
    pub async fn finish(&mut self) {
        self.write().await;
        // Whatever came of it was not waited for before either.
        let _ = self.settle().await;
    }

    /// What is on disk now: someone may have put another file there.
    pub async fn read_again(&mut self) -> Option<State> {
        if matches!(self.place, Place::Memory) {
            return None;
        }
        match self.on_disk(|file| Done::Read(file.read().map(Box::new))).await {
            Ok(Done::Read(Ok(found))) => {
                warn_of(&self.credential, &found);
                found.state
            }
            Ok(Done::Read(Err(error))) => {
                warn!(credential = self.credential, error = in_one_line(&error), "state not read again");
                None
            }
            _ => None,
        }
    }

    async fn on_disk(
        &mut self,
        work: impl FnOnce(&mut StateFile) -> Done + Send + 'static,
    ) -> Result<Done, &'static str> {
        self.settle().await?;
        self.place = match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Idle(mut file) => {
                let work = tokio::task::spawn_blocking(move || {
                    let done = work(&mut file);
                    (file, done)
                });
                Place::Busy { work, hangs: false }
            }
            other => other,
        };
        self.settle().await?.ok_or("the state file is not open any more")
    }

    /// Waits for what is being done on disk.
    async fn settle(&mut self) -> Result<Option<Done>, &'static str> {
        let Place::Busy { work, hangs } = &mut self.place else {
            return Ok(None);
        };
        let patience = if *hangs { Duration::ZERO } else { PATIENCE };
        match tokio::time::timeout(patience, work).await {
            Ok(Ok((file, done))) => {
                self.place = Place::Idle(file);
                Ok(Some(done))
            }
            Ok(Err(_)) => {
                self.place = Place::Lost;
                Err("the thread that had the state file panicked")
            }
            Err(_) => {
                *hangs = true;
                Err("the disk does not answer")
            }
        }
    }

    /// Tells of trouble that was not there before, and of its end.
    fn note(&mut self, error: Option<String>) {
        let before = self.trouble.take();
        let Some(error) = error else {
            if before.is_some() {
                info!(credential = self.credential, "state is durable again");
            }
            return;
        };
        let is_new = before.as_ref().is_none_or(|before| before.error != error);
        let times = before.map_or(0, |before| before.times.saturating_add(1));
        if is_new {
            let has_grant = self.state.refresh_token.is_some();
            error!(
                credential = self.credential,
                error,
                a_restart_loses_the_grant = has_grant,
                "state is not durable and kept in memory"
            );
        }
        let retry_at = self.clock.now() + doubled(RETRY_FIRST, times, RETRY_MAX);
        self.trouble = Some(Trouble { error, times, retry_at });
    }
}

/// # Panics
///
/// If a key is none, which is checked with the configuration.
fn keys_of(place: &StatePlace) -> StateKeys {
    let parsed = |key: &config::Secret| {
        StateKey::parse(key.initial()).expect("a state key is checked with the configuration")
    };
    place.key.as_ref().map_or_else(StateKeys::none, |key| {
        StateKeys::new(parsed(key), place.previous_keys.iter().map(parsed).collect())
    })
}

fn warn_of(credential: &str, found: &Found) {
    for warning in &found.warnings {
        warn!(credential, warning = in_one_line(warning), "state is odd");
    }
}

/// Whose state it is.
fn identity_of(credential: &Credential) -> Identity {
    let username = match &credential.identity.grant {
        Grant::Password { username, .. } => username.as_str(),
        _ => "",
    };
    let parts = [
        credential.name.as_str(),
        credential.token_url.as_str(),
        &credential.identity.client_id,
        credential.identity.grant.name(),
        username,
    ];
    Identity::of(&parts.map(str::as_bytes))
}

/// What a token request is made of, secrets included.
pub(super) fn settings(
    credential: &Credential,
    identity: &config::Identity<secrecy::SecretString>,
) -> Settings {
    let parameters = &credential.parameters;
    let mut parts: Vec<&str> = vec!["scopes"];
    parts.extend(credential.scopes.iter().map(String::as_str));
    parts.extend(["audience", parameters.audience.as_deref().unwrap_or_default(), "resources"]);
    parts.extend(parameters.resources.iter().map(String::as_str));
    parts.push("extra");
    parts.extend(parameters.extra.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
    parts.push("secrets");
    parts.extend(identity.secrets().into_iter().map(ExposeSecret::expose_secret));
    Settings::of(&parts.into_iter().map(str::as_bytes).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::token::limiter::{Barrier, Blocked, Snapshot};

    fn open(path: &std::path::Path) -> DurableState {
        let line = format!("state_file = \"{}\"\nretry_after_max = \"10s\"", path.display());
        DurableState::open(&fixture::config("", &line, "x").credentials[0], Clock::tokio()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_tried_again_later_and_later_until_it_need_not_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.state");
        let mut durable = open(&path);
        // No file can take the name of a folder.
        std::fs::create_dir(&path).unwrap();
        let limiter = Snapshot { failures: 3, ..Snapshot::default() };

        durable.save(State { limiter, ..State::default() }).await;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let wait = durable.clock.now().until(durable.retry_at().unwrap());
            assert_eq!(wait, Duration::from_secs(seconds));
            durable.write().await;
        }
        durable.save(State::default()).await;

        assert_eq!(durable.retry_at(), None, "without a key there is nothing to write any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_latch_that_is_longer_than_any_retry_after_may_be_is_not_cut_by_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.state");
        let mut durable = open(&path);
        let until = durable.clock.now() + Duration::from_mins(4);
        let blocked = Some(Blocked { until, by: Barrier::Latch });
        durable
            .save(State { limiter: Snapshot { blocked, ..Snapshot::default() }, ..State::default() })
            .await;
        drop(durable);

        let restored = open(&path).state().limiter.blocked.unwrap();
        assert!(restored.until.until(until) < Duration::from_secs(10), "{restored:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_key_the_file_is_written_only_when_the_memory_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.state");
        let mut durable = open(&path);
        durable.save(State { rotations: 1, ..State::default() }).await;
        assert!(!path.exists());

        let limiter = Snapshot { failures: 3, ..Snapshot::default() };
        durable.save(State { limiter, ..State::default() }).await;
        drop(durable);

        assert_eq!(open(&path).state().limiter, limiter);
    }
}
