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
pub(in crate::token) mod fuzzing;
pub(super) mod inspect;
pub(super) mod lock;
pub(super) mod record;

use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use self::file::{
    Found, Identity, Look, Memory, OpenError, SaveError, State, StateFile, StateKey, StateKeys, Warning,
};
use super::limiter::LATCH_MAX;
use crate::backoff::Backoff;
use crate::causes::in_one_line;
use crate::clock::{Clock, Moment};
use crate::config;
use crate::config::{Credential, StatePlace};
use crate::telemetry::throttle::OnChange;

/// How long the disk is waited for. One that has hung so long is not waited for again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The waits after failed writes.
const RETRY: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };

/// A state and its place.
#[derive(Debug)]
pub struct DurableState {
    credential: String,
    clock: Clock,
    state: State,
    place: Place,
    keeps_tokens: bool,
    /// What was written last, as far as it would be written without a key.
    written: Memory,
    /// Whether the disk has less than `state`.
    is_behind: bool,
    /// Why the disk is behind.
    trouble: OnChange<Option<String>>,
    retry: Option<Retry>,
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

/// The next attempt at a write that has failed.
#[derive(Clone, Copy, Debug)]
struct Retry {
    /// How many have been made since the first.
    times: u32,
    at: Moment,
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
            written: Memory::default(),
            is_behind: false,
            trouble: OnChange::default(),
            retry: None,
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
        let state = found.state.unwrap_or_default().belonging_to(credential);
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
            written: state.memory,
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
        let look = |place: &StatePlace| {
            let look = Look::at(&place.path, identity_of(credential), keys_of(place), clock)?;
            Ok(Look { state: look.state.belonging_to(credential), ..look })
        };
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
        self.trouble.current().as_deref()
    }

    /// When writing it is to be tried again, if it is.
    pub fn retry_at(&self) -> Option<Moment> {
        self.retry.map(|retry| retry.at)
    }

    /// The same place with another state, which is on disk with the next save.
    pub(super) fn replaced(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// This place with a state from elsewhere, which the next write puts on disk: a state in memory is later than any file.
    #[must_use]
    pub fn succeeding(self, state: State) -> Self {
        let is_behind = !matches!(self.place, Place::Memory);
        Self { state, is_behind, ..self }
    }

    /// The state for another configuration of the same account ([`Credential::shares_state_with`]).
    #[must_use]
    pub fn belonging_to(self, credential: &Credential) -> Self {
        Self { state: self.state.belonging_to(credential), ..self }
    }

    /// Closes the file, so that another credential can open it. The state stays in memory.
    pub(super) fn give_up_place(&mut self) {
        self.place = Place::Memory;
    }

    /// Replaces the state, here and on disk. Comes back once it is durable, or is known not to be.
    ///
    /// # Cancel safety
    ///
    /// What was being written is written.
    pub async fn save(&mut self, state: State) {
        self.state = state;
        self.is_behind = self.keeps_tokens || self.state.memory != self.written;
        self.write().await;
    }

    /// The same, unless someone has put another file there: that is left for [`Self::read_again`].
    ///
    /// # Cancel safety
    ///
    /// What was being written is written.
    pub async fn save_unless_replaced(&mut self, state: State) {
        self.state = state;
        self.is_behind = self.keeps_tokens || self.state.memory != self.written;
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
            self.written = self.state.memory;
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

    /// Takes why the last write failed, if it did: logs trouble that begins, changes or ends.
    fn note(&mut self, error: Option<String>) {
        let times = self.retry.map_or(0, |retry| retry.times.saturating_add(1));
        let retry = Retry { times, at: self.clock.now() + RETRY.step(times) };
        self.retry = error.is_some().then_some(retry);
        if !self.trouble.changes_to(error) {
            return;
        }
        let credential = &self.credential;
        match self.trouble.current() {
            Some(error) => error!(
                credential,
                error,
                a_restart_loses_the_grant = self.state.refresh_token.is_some(),
                "state is not durable and kept in memory"
            ),
            None => info!(credential, "state is durable again"),
        }
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

/// The account that the state belongs to. [`State::belonging_to`] removes the tokens of another principal.
fn identity_of(credential: &Credential) -> Identity {
    Identity::of(&[credential.state_identity().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::token::access_token::{AccessToken, Generation};
    use crate::token::limiter::{Barrier, Blocked};

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
        let memory = Memory { failures: 3, ..Memory::default() };

        durable.save(State { memory, ..State::default() }).await;
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
        durable.save(State { memory: Memory { blocked, ..Memory::default() }, ..State::default() }).await;
        drop(durable);

        let restored = open(&path).state().memory.blocked.unwrap();
        assert!(restored.until.until(until) < Duration::from_secs(10), "{restored:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_key_the_file_is_written_only_when_the_memory_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.state");
        let mut durable = open(&path);
        durable.save(State { rotations: 1, ..State::default() }).await;
        assert!(!path.exists());

        let memory = Memory { failures: 3, ..Memory::default() };
        durable.save(State { memory, ..State::default() }).await;
        drop(durable);

        assert_eq!(open(&path).state().memory, memory);
    }

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    /// A state with both tokens, kept for one configuration and opened for another: whether each token is there.
    fn reopened(before: &str, after: &str) -> (bool, bool) {
        let folder = tempfile::tempdir().unwrap();
        let place = format!("state_key = \"{KEY}\"\nstate_file = \"{}\"", folder.path().join("s").display());
        let credential =
            |lines: &str| fixture::config("", &format!("{lines}\n{place}"), "x").credentials.remove(0);
        let (clock, credential, other) = (Clock::system(), credential(before), credential(after));
        let lifetime = Duration::from_hours(1);
        let token = AccessToken::new("a", Generation::NONE.next(), clock.now(), lifetime, Vec::new());
        let kept = State {
            access_token: Some(token.unwrap()),
            identity: Some(credential.token_identity()),
            refresh_token: Some("r".into()),
            fallback: credential.fallback_identity(),
            memory: Memory { failures: 3, ..Memory::default() },
            ..State::default()
        };
        let DurableState { place, .. } = DurableState::open(&credential, clock).unwrap();
        let Place::Idle(mut file) = place else { panic!("it has a file") };
        file.save(&kept).unwrap();
        drop(file);

        let looked_at = DurableState::look(&other, clock).unwrap().unwrap().state;
        let opened = DurableState::open(&other, clock).unwrap().state().clone();
        let handed = DurableState::in_memory(clock).replaced(kept).belonging_to(&other).state().clone();
        let has = |state: &State| (state.access_token.is_some(), state.refresh_token.is_some());
        assert_eq!((has(&looked_at), has(&handed)), (has(&opened), has(&opened)));
        assert_eq!(opened.memory.failures, 3, "what the server asked for is the account's");
        has(&opened)
    }

    #[test]
    fn the_tokens_of_another_principal_are_not_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let ([pem, _], _) = fixture::keys::p256();
        let key = rcgen::KeyPair::from_pem(&pem).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let key_file = file("key", &pem);
        let certificate = |name: &str| {
            let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            let path = file(name, &certificate.self_signed(&key).unwrap().pem());
            format!("client_certificate = \"{path}\"\nclient_key = \"{key_file}\"")
        };
        let bearer = |sub: &str| {
            let key = format!("key = {{ file = \"{key_file}\" }}, alg = \"ES256\"");
            format!("grant = \"jwt_bearer\"\nassertion = {{ {key}, sub = \"{sub}\" }}")
        };
        let password =
            |name: &str| format!("grant = \"password\"\nusername = \"{name}\"\npassword = {{ env = \"S\" }}");
        let renamed = |name: &str| format!("audience = \"a\"\nrequest_fields = {{ audience = \"{name}\" }}");
        let post = "client_auth = \"client_secret_post\"".to_owned();
        for (before, after) in [
            (bearer("a"), bearer("b")),
            (password("a"), password("b")),
            (String::new(), post),
            (String::new(), "extra = { tenant = \"2\" }".to_owned()),
            ("extra = { tenant = \"1\" }".to_owned(), "extra = { tenant = \"2\" }".to_owned()),
            (renamed("for"), renamed("whom")),
            (String::new(), "scopes = [\"a\"]".to_owned()),
            (certificate("one"), certificate("two")),
            (String::new(), certificate("one")),
        ] {
            assert_eq!(reopened(&before, &after), (false, true), "{before} became {after}");
            assert_eq!(reopened(&after, &before), (false, true), "{after} became {before}");
            assert_eq!(reopened(&after, &after), (true, true), "{after}");
        }
        let fallback = |name: &str| {
            let password = password(name).replace("grant = ", "fallback = ");
            format!("grant = \"refresh_token\"\n{password}")
        };
        assert_eq!(reopened(&fallback("a"), &fallback("b")), (false, false), "nor what it brought");
        assert_eq!(reopened(&fallback("a"), "grant = \"refresh_token\""), (false, false));
        assert_eq!(reopened(&fallback("a"), &fallback("a")), (true, true));
    }

    #[test]
    fn a_change_of_how_tokens_are_asked_for_keeps_them() {
        for after in [
            "client_secret = \"rotated\"",
            "client_secret_next = \"y\"",
            "basic_encoding = \"form\"",
            "request_format = \"json\"",
            "fields = { access_token = \"t\" }",
            "proxy = \"http://localhost:3128\"",
            "refresh_margin = \"30s\"",
        ] {
            assert_eq!(reopened("", after), (true, true), "{after}");
        }
    }
}
