//! A credential's state as the refresher uses it: always in memory, and also on disk where a state file is configured.
//!
//! Reading and writing the file is [`Blocking`] work with a bound, so the refresher never hangs with the disk. A state that
//! cannot be written stays in use and is written later; one error tells when the state on disk falls behind, and one message
//! when the disk has caught up. From top to bottom:
//!
//! - [`file`]: opens, reads and saves one state file, whose lock this process holds;
//! - [`inspect`]: reads a state file that another process may hold, for `bearerd check`;
//! - [`mod@format`], [`body`] and [`record`]: the state as bytes, as JSON, and as a value;
//! - [`age`]: how old a state is, across restarts of the machine;
//! - [`atomic_file`], [`lock`] and [`disk`]: replacing a file as a whole, keeping others out, and the system calls for both;
//! - [`mod@error`]: why a state is not opened, not accepted, or not written.

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
use tracing::{error, info, warn};

use self::file::{
    ClearPart, FoundState, Identity, Inspection, OpenError, SaveError, Settings, State, StateFile, StateKey,
    StateKeys, Warning,
};
use super::limiter::{LATCH_MAX, doubled};
use crate::blocking::{Blocking, BlockingError};
use crate::causes::in_one_line;
use crate::clock::{Clock, Moment};
use crate::config;
use crate::config::model::identity::Grant;
use crate::config::{Credential, StatePlace};

/// How long a read or write of the state file is waited for.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after the first failed write; it doubles with each further one, up to [`WRITE_BACKOFF_MAX`].
const WRITE_BACKOFF_FIRST: Duration = Duration::from_secs(1);
const WRITE_BACKOFF_MAX: Duration = Duration::from_mins(1);

/// The state of one credential, in memory and on disk.
#[derive(Debug)]
pub struct DurableState {
    credential: String,
    clock: Clock,
    state: State,
    /// Whether the state is kept on disk; if not, it ends with the process.
    is_on_disk: bool,
    /// The file, unless `disk` works with it. Lost for good if that work has panicked.
    file: Option<Box<StateFile>>,
    disk: Blocking<(Box<StateFile>, DiskResult)>,
    /// Whether tokens are written: only with a key.
    keeps_tokens: bool,
    /// The part of the state that was written last and needs no key.
    written: ClearPart,
    /// Whether the disk has an older state than `state`.
    is_behind: bool,
    trouble: Option<WriteFailure>,
}

/// The result of work on the state file.
#[derive(Debug)]
enum DiskResult {
    Saved(Result<(), SaveError>),
    /// Another file was put in the place of ours; it was not overwritten.
    NotSaved,
    Read(Result<Box<FoundState>, OpenError>),
}

/// Why the disk is behind.
#[derive(Debug)]
struct WriteFailure {
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
            is_on_disk: false,
            file: None,
            disk: Blocking::new(DISK_TIMEOUT),
            keeps_tokens: false,
            written: ClearPart::default(),
            is_behind: false,
            trouble: None,
        }
    }

    /// Opens the state of a credential; one in memory where the credential has no state file. Blocks on the disk.
    ///
    /// A state that is encrypted under a previous key is written again under the current key, so that the previous key can
    /// be removed from the configuration.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where the state file cannot be used.
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
            is_on_disk: true,
            keeps_tokens: file.keeps_tokens(),
            file: Some(Box::new(file)),
            written: state.clear_part(),
            state,
            ..Self::in_memory(clock)
        })
    }

    /// Whether a daemon that starts now could open the state of a credential; `None` if the credential has no state file.
    /// Takes no lock, so a running daemon is not disturbed. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// As of [`DurableState::open`].
    ///
    /// # Panics
    ///
    /// As of [`DurableState::open`].
    pub fn inspect(credential: &Credential, clock: Clock) -> Result<Option<Inspection>, OpenError> {
        let inspect =
            |place: &StatePlace| Inspection::of(&place.path, identity_of(credential), keys_of(place), clock);
        credential.state.as_ref().map(inspect).transpose()
    }

    /// Has the disk hang as in the middle of a write, until the answer is dropped.
    #[cfg(test)]
    pub(super) fn hang(&mut self) -> std::sync::mpsc::SyncSender<()> {
        use futures_util::FutureExt;
        let (release, released) = std::sync::mpsc::sync_channel(1);
        let file = self.file.take().expect("the file is at rest");
        let work = move || {
            let _ = released.recv();
            (file, DiskResult::NotSaved)
        };
        assert!(self.disk.run(work).now_or_never().is_none());
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

    /// When to try the next write, if the last one failed.
    pub fn retry_at(&self) -> Option<Moment> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// This file with another state, which is written with the next save.
    pub(super) fn replaced(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// This file with the state that another one has kept, which is written with the next write: the state in memory is
    /// later than that in any file.
    #[must_use]
    pub fn succeeding(self, before: Self) -> Self {
        Self { state: before.state, is_behind: self.is_on_disk, ..self }
    }

    /// This state without its access token, for a credential that must not use that token any more.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.state.access_token = None;
        self
    }

    /// Whether both would keep the state of one credential, as far as a file can tell.
    pub fn is_of_one(one: &Credential, other: &Credential) -> bool {
        identity_of(one) == identity_of(other)
    }

    /// Replaces the state in memory and on disk. Returns once the state is durable, or is known not to be.
    ///
    /// # Cancel safety
    ///
    /// A write that has begun continues.
    pub async fn save(&mut self, state: State) {
        self.replace(state);
        self.write().await;
    }

    /// Replaces the state in memory, and on disk unless another file was put in the place of ours: that file is left for
    /// [`Self::read_again`].
    ///
    /// # Cancel safety
    ///
    /// A write that has begun continues.
    pub async fn save_unless_replaced(&mut self, state: State) {
        self.replace(state);
        self.write_if(|file| !file.is_replaced()).await;
    }

    fn replace(&mut self, state: State) {
        self.state = state;
        self.is_behind = self.keeps_tokens || self.state.clear_part() != self.written;
    }

    /// Writes the state, if the disk is behind.
    pub async fn write(&mut self) {
        self.write_if(|_| true).await;
    }

    async fn write_if(&mut self, may: impl FnOnce(&StateFile) -> bool + Send + 'static) {
        if !self.is_on_disk {
            return;
        }
        if !self.is_behind {
            // A failed write need not be repeated any more.
            self.note(None);
            return;
        }
        let state = self.state.clone();
        let work = move |file: &mut StateFile| {
            if may(file) { DiskResult::Saved(file.save(&state)) } else { DiskResult::NotSaved }
        };
        let outcome = match self.on_disk(work).await {
            Ok(DiskResult::NotSaved) => return,
            Ok(DiskResult::Saved(Err(error))) => Err(in_one_line(&error)),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_owned()),
        };
        if outcome.is_ok() {
            self.is_behind = false;
            self.written = self.state.clear_part();
        }
        self.note(outcome.err());
    }

    /// Writes the state if the disk is behind, and waits for all work on the file: another process can open the file then.
    pub async fn finish(&mut self) {
        self.write().await;
        // Nobody waits for the result of work that an earlier call gave up.
        let _ = self.settle().await;
    }

    /// The state on disk, where a person may have put another file; `None` if there is none, or none that can be used.
    pub async fn read_again(&mut self) -> Option<State> {
        if !self.is_on_disk {
            return None;
        }
        match self.on_disk(|file| DiskResult::Read(file.read().map(Box::new))).await {
            Ok(DiskResult::Read(Ok(found))) => {
                warn_of(&self.credential, &found);
                found.state
            }
            Ok(DiskResult::Read(Err(error))) => {
                warn!(credential = self.credential, error = in_one_line(&error), "state not read again");
                None
            }
            _ => None,
        }
    }

    async fn on_disk(
        &mut self,
        work: impl FnOnce(&mut StateFile) -> DiskResult + Send + 'static,
    ) -> Result<DiskResult, &'static str> {
        self.settle().await?;
        let mut file = self.file.take().ok_or("the state file is not open any more")?;
        let work = move || {
            let result = work(&mut file);
            (file, result)
        };
        let done = self.disk.run(work).await;
        self.take_back(done)
    }

    /// Waits for earlier work on the file, whose result nobody needs any more.
    async fn settle(&mut self) -> Result<(), &'static str> {
        match self.disk.settle().await {
            Some(done) => self.take_back(done).map(drop),
            None => Ok(()),
        }
    }

    fn take_back(
        &mut self,
        done: Result<(Box<StateFile>, DiskResult), BlockingError>,
    ) -> Result<DiskResult, &'static str> {
        let (file, result) = done.map_err(|error| match error {
            BlockingError::TimedOut => "the disk does not answer",
            BlockingError::Panicked => "the thread that had the state file panicked",
        })?;
        self.file = Some(file);
        Ok(result)
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
        let retry_at = self.clock.now() + doubled(WRITE_BACKOFF_FIRST, times, WRITE_BACKOFF_MAX);
        self.trouble = Some(WriteFailure { error, times, retry_at });
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

fn warn_of(credential: &str, found: &FoundState) {
    for warning in &found.warnings {
        warn!(credential, warning = in_one_line(warning), "state opened with a warning");
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

/// The settings of a token request, secrets included.
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
    async fn a_failed_write_is_repeated_at_growing_intervals() {
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
    async fn a_latch_longer_than_retry_after_max_outlives_a_restart() {
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
    async fn without_a_key_the_file_is_written_only_when_its_part_changes() {
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
