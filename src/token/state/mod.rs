//! A credential's state as the refresher uses it: always in memory, and also on disk where a state file is configured.
//!
//! Reading and writing the file is [`Blocking`] work with a bound, so the refresher never hangs with the disk. A state that
//! cannot be written stays in use and is written later; one error tells when the state on disk falls behind, and one message
//! when the disk has caught up. From top to bottom:
//!
//! - `open`: opens or inspects the state of a credential;
//! - [`mod@file`]: opens, reads and saves one state file, whose lock this process holds;
//! - [`inspect`]: reads a state file that another process may hold, for `bearerd check`;
//! - [`retire`]: takes a state out of use that is damaged, or that `bearerd forget` removes;
//! - [`mod@format`], [`body`] and [`record`]: the state as bytes, as JSON, and as a value;
//! - [`age`]: how old a state is, across restarts of the machine;
//! - [`atomic_file`], [`lock`] and [`disk`]: replacing a file as a whole, keeping others out, and the system calls for both;
//! - [`mod@error`]: why a state is not opened, not accepted, or not written.

pub(in crate::token) mod age;
pub(in crate::token) mod atomic_file;
pub(super) mod body;
pub(super) mod disk;
pub(in crate::token) mod error;
pub mod file;
pub(in crate::token) mod format;
#[cfg(feature = "fuzzing")]
pub(in crate::token) mod fuzzing;
pub(super) mod inspect;
pub(super) mod lock;
mod open;
pub(in crate::token) mod record;
pub(super) mod retire;

use std::path::PathBuf;
use std::time::Duration;

use tracing::{error, info, warn};

use self::file::{ClearPart, FoundState, OpenError, Origin, State, StateFile, Warning};
use crate::backoff::Backoff;
use crate::blocking::{Blocking, BlockingError};
use crate::causes::in_one_line;
use crate::clock::{Clock, Moment};
use crate::config::Credential;
use crate::telemetry::throttle::OnChange;

/// How long a read or write of the state file is waited for.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stopping daemon waits for a hanging write of the state, without which the grant would be lost.
const STOP_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time from a token response to the end of [`DurableState::finish_at_stop`].
pub const LONGEST_WRITE_AT_STOP: Duration = DISK_TIMEOUT.saturating_add(STOP_WRITE_TIMEOUT);
/// Why there is no result of work that panicked.
const PANICKED: &str = "the thread that had the state file panicked";
/// The waits after failed writes.
const WRITE_BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };

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
    disk: Blocking<Box<StateFile>>,
    /// Whether tokens are written: only with a key.
    keeps_tokens: bool,
    /// The part of the state that was written last and needs no key.
    written: ClearPart,
    /// Whether the disk has an older state than `state`.
    is_behind: bool,
    /// Why the disk is behind.
    trouble: OnChange<Option<String>>,
    retry: Option<WriteRetry>,
    /// How many writes have failed.
    failed_writes: u64,
    /// A later state on disk, which a write has found and left.
    left: Option<Box<State>>,
    /// The number of the state that was found when the file was opened, or of the latest write known then, if that is higher.
    opened: u64,
    /// The place that was given up last, and the number of the last write there.
    given_up: Option<(PathBuf, u64)>,
}

/// What a write finds on disk, and does.
enum Look {
    /// Nothing that must stay: the state is written.
    Overwrite,
    /// Another's file, which is left.
    Leave,
    /// A later state of another, which is left.
    Later(Box<State>),
}

/// The next attempt at a write that has failed.
#[derive(Clone, Copy, Debug)]
struct WriteRetry {
    /// Attempts since the first failure.
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
            is_on_disk: false,
            file: None,
            disk: Blocking::new(DISK_TIMEOUT),
            keeps_tokens: false,
            written: ClearPart::default(),
            is_behind: false,
            trouble: OnChange::default(),
            retry: None,
            failed_writes: 0,
            left: None,
            opened: 0,
            given_up: None,
        }
    }

    /// The state as it should be on disk.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Whether the state is on disk as it is, tokens included.
    pub const fn is_durable(&self) -> bool {
        self.keeps_tokens && !self.is_behind
    }

    /// How many writes have failed since the state was opened.
    pub const fn failed_writes(&self) -> u64 {
        self.failed_writes
    }

    /// Why the disk is behind, if it is.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.current().as_deref()
    }

    /// When to try the next write, if the last one failed.
    pub fn retry_at(&self) -> Option<Moment> {
        self.retry.map(|retry| retry.at)
    }

    /// This file with another state, which is written with the next save.
    pub(super) fn replaced(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// This file with the state of a refresher that had `before`, which is written with the next write: a state in memory
    /// is later than that in any file. The exception is a later state at the place that the refresher has just given up,
    /// which a person has put there; it is left for [`Self::take_left`].
    #[must_use]
    pub fn succeeding(self, before: Self, state: State) -> Self {
        let given_up = before.given_up;
        let is_later = self
            .file
            .as_ref()
            .zip(given_up.as_ref())
            .is_some_and(|(file, (path, number))| file.path() == path && self.opened > *number);
        // A state that was left before is still to be taken.
        let left = if is_later { Some(Box::new(self.state)) } else { before.left };
        Self { state, is_behind: self.is_on_disk, left, given_up, ..self }
    }

    /// The state for another configuration of the same account ([`Credential::shares_state_with`]). Warns of a refresh token
    /// that another fallback grant brought, and drops the token.
    #[must_use]
    pub fn belonging_to(self, credential: &Credential) -> Self {
        if self.state.is_of_other_fallback(credential) {
            warn!(credential = credential.name, warning = %Warning::OtherFallback, "refresh token dropped");
        }
        Self { state: self.state.belonging_to(credential), ..self }
    }

    /// Closes the file, so that another credential can open it. The state stays in memory.
    pub(super) fn give_up_place(&mut self) {
        let place = self.file.as_ref().map(|file| (file.path().to_owned(), file.number()));
        self.given_up = place.or_else(|| self.given_up.take());
        (self.is_on_disk, self.is_behind, self.file) = (false, false, None);
        self.disk = Blocking::new(DISK_TIMEOUT);
    }

    /// Replaces the state in memory and on disk. Returns once the state is durable, or is known not to be. A state that a
    /// person has put on disk after our last write is left for [`Self::take_left`], and so is a file of another that cannot
    /// be read now.
    ///
    /// # Cancel safety
    ///
    /// A write that has begun continues.
    pub async fn save(&mut self, state: State) {
        self.keep(state);
        self.write().await;
    }

    /// Replaces the state in memory and on disk, whatever the disk holds.
    ///
    /// # Cancel safety
    ///
    /// A write that has begun continues.
    pub async fn overwrite(&mut self, state: State) {
        self.keep(state);
        self.left = None;
        self.write_if(|_| Ok(Look::Overwrite)).await;
    }

    /// Takes the later state that a write has found on disk and left there.
    pub fn take_left(&mut self) -> Option<State> {
        self.left.take().map(|left| *left)
    }

    /// Replaces the state in memory, and on disk unless another file was put in the place of ours: that file is left for
    /// [`Self::read_again`].
    ///
    /// # Cancel safety
    ///
    /// A write that has begun continues.
    pub async fn save_unless_replaced(&mut self, state: State) {
        self.keep(state);
        self.write_if(|file| Ok(if file.is_replaced() { Look::Leave } else { Look::Overwrite })).await;
    }

    /// Replaces the state in memory alone; the next save writes it.
    pub fn keep(&mut self, state: State) {
        self.state = state;
        self.is_behind = self.keeps_tokens || self.state.clear_part() != self.written;
    }

    /// Writes the state as [`Self::save`] does, if the disk is behind.
    pub async fn write(&mut self) {
        self.write_if(|file| Ok(file.later()?.map_or(Look::Overwrite, |later| Look::Later(Box::new(later)))))
            .await;
    }

    /// Writes the state again if its file, the lock file or the folder has been removed or replaced: until then a second
    /// process could start without the state.
    pub async fn write_if_lost(&mut self) {
        if !self.is_on_disk || self.retry.is_some() {
            return;
        }
        if self.on_disk(|file| file.is_lost()).await == Ok(true) {
            self.is_behind = true;
            self.write().await;
        }
    }

    async fn write_if(
        &mut self,
        look: impl FnOnce(&mut StateFile) -> Result<Look, OpenError> + Send + 'static,
    ) {
        // A later state stays on disk until it is taken.
        if !self.is_on_disk || self.left.is_some() {
            return;
        }
        if !self.is_behind {
            // A failed write need not be repeated any more.
            self.note(None);
            return;
        }
        let state = self.state.clone();
        let work = move |file: &mut StateFile| match look(file) {
            Ok(Look::Overwrite) => {
                Some(file.save(&state).map_err(|error| in_one_line(&error)).map(|()| None))
            }
            Ok(Look::Leave) => None,
            Ok(Look::Later(later)) => Some(Ok(Some(later))),
            Err(error) => Some(Err(in_one_line(&error))),
        };
        let outcome = match self.on_disk(work).await {
            Ok(None) => return,
            Ok(Some(Ok(Some(later)))) => {
                self.left = Some(later);
                return;
            }
            Ok(Some(outcome)) => outcome.map(drop),
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

    /// Writes the state as [`Self::finish`] does, but waits up to 30 s for a disk that hangs.
    pub async fn finish_at_stop(&mut self) {
        let deadline = tokio::time::Instant::now() + STOP_WRITE_TIMEOUT;
        self.finish().await;
        if !self.disk.is_running() {
            return;
        }
        let a_restart_loses_the_grant = self.state.refresh_token.is_some();
        warn!(
            credential = self.credential,
            longest = ?STOP_WRITE_TIMEOUT,
            a_restart_loses_the_grant,
            "waiting for the disk to write the state before the stop"
        );
        let written = tokio::time::timeout_at(deadline, async {
            while let Some(done) = self.disk.ended().await {
                // The next write reports a panic.
                let _ = self.take_back(done);
                self.write().await;
            }
        });
        if written.await.is_err() {
            error!(
                credential = self.credential,
                error = "the disk does not answer",
                a_restart_loses_the_grant,
                "state not written before the stop"
            );
        }
    }

    /// Reads the state on disk, which a person may have replaced; `None` if there is no usable state.
    ///
    /// A state that is older than the state in memory is not returned: a content that this process has had
    /// before (also in a write that failed), or a state of the same lineage whose write number is not later.
    pub async fn read_again(&mut self) -> Option<State> {
        if !self.is_on_disk {
            return None;
        }
        match self.on_disk(StateFile::read).await {
            Ok(Ok(found)) => {
                warn_of(&self.credential, &found);
                let lineage = self.state.lineage;
                let is_older = |state: &State| match found.origin {
                    Origin::Own => true,
                    Origin::Other => lineage.is_some() && state.lineage == lineage,
                    Origin::Later => false,
                };
                found.state.filter(|state| !is_older(state))
            }
            Ok(Err(error)) => {
                warn!(credential = self.credential, error = in_one_line(&error), "state not read again");
                None
            }
            Err(_) => None,
        }
    }

    /// The result of work on the file; the next call waits for work that takes too long, and drops its result.
    async fn on_disk<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut StateFile) -> R + Send + 'static,
    ) -> Result<R, &'static str> {
        self.settle().await?;
        let mut file = self.file.take().ok_or("the state file is not open any more")?;
        let (sender, result) = std::sync::mpsc::sync_channel(1);
        let work = move || {
            let _ = sender.send(work(&mut file));
            file
        };
        let done = self.disk.run(work).await;
        self.take_back(done)?;
        result.try_recv().map_err(|_| PANICKED)
    }

    /// Waits for earlier work on the file.
    async fn settle(&mut self) -> Result<(), &'static str> {
        let done = self.disk.settle().await;
        done.map_or(Ok(()), |done| self.take_back(done))
    }

    fn take_back(&mut self, done: Result<Box<StateFile>, BlockingError>) -> Result<(), &'static str> {
        self.file = Some(done.map_err(|error| match error {
            BlockingError::TimedOut => "the disk does not answer",
            BlockingError::Panicked => PANICKED,
        })?);
        Ok(())
    }

    /// Records why the last write failed, if it did; logs trouble that begins, changes or ends.
    fn note(&mut self, error: Option<String>) {
        let times = self.retry.map_or(0, |retry| retry.times.saturating_add(1));
        let retry = WriteRetry { times, at: self.clock.now() + WRITE_BACKOFF.step(times) };
        self.retry = error.is_some().then_some(retry);
        self.failed_writes += u64::from(error.is_some());
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

fn warn_of(credential: &str, found: &FoundState) {
    for warning in &found.warnings {
        warn!(credential, warning = in_one_line(warning), "state opened with a warning");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;
    use secrecy::SecretString;

    use super::file::{Inspection, RefreshTokenHash, StateRefusal};
    use super::*;
    use crate::config::fixture;
    use crate::judged_as::JudgedAs;
    use crate::token::access_token::{AccessToken, Generation};
    use crate::token::limiter::{Barrier, Blocked, Snapshot};

    impl DurableState {
        /// Has the disk hang as in the middle of a write, until the answer is dropped.
        pub(in crate::token) fn hang(&mut self) -> mpsc::SyncSender<()> {
            let (release, released) = mpsc::sync_channel(1);
            let file = self.file.take().expect("the file is at rest");
            let work = move || {
                let _ = released.recv();
                file
            };
            assert!(self.disk.run(work).now_or_never().is_none());
            release
        }
    }

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
            limiter: Snapshot { failures: 3, ..Snapshot::default() },
            ..State::default()
        };
        let mut file = DurableState::open(&credential, clock).unwrap().file.expect("the state has a file");
        file.save(&kept).unwrap();
        drop(file);

        let Inspection { state: looked_at, warnings, .. } =
            DurableState::inspect(&other, clock, JudgedAs::ThisUser).unwrap().unwrap();
        let opened = DurableState::open(&other, clock).unwrap().state().clone();
        let handed = DurableState::in_memory(clock).replaced(kept).belonging_to(&other).state().clone();
        let has = |state: &State| (state.access_token.is_some(), state.refresh_token.is_some());
        assert_eq!((has(&looked_at), has(&handed)), (has(&opened), has(&opened)));
        let is_warned_of = warnings.iter().any(|warning| matches!(warning, Warning::OtherFallback));
        assert_eq!(is_warned_of, opened.refresh_token.is_none());
        assert_eq!(opened.limiter.failures, 3, "what the server asked for is the account's");
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
    fn a_state_of_another_account_is_discarded_unless_its_refresh_token_may_still_work() {
        let token = || Some(SecretString::from("r"));
        let refused = vec![RefreshTokenHash::of(&token().unwrap())];
        let other = vec![RefreshTokenHash::of(&SecretString::from("s"))];
        for (kept, is_refused) in [
            (State::default(), false),
            (State { refresh_token: token(), refused, ..State::default() }, false),
            (State { refresh_token: token(), refused: other, ..State::default() }, true),
            (State { refresh_token: token(), ..State::default() }, true),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let credential = |lines: &str| {
                let place = format!("state_key = \"{KEY}\"\nstate_file = \"{}\"", path.display());
                fixture::config("", &format!("{lines}\n{place}"), "x").credentials.remove(0)
            };
            let before = credential("grant = \"refresh_token\"");
            let after = credential("");
            let mut file = DurableState::open(&before, Clock::system()).unwrap().file.unwrap();
            file.save(&State { rotations: 7, ..kept }).unwrap();
            drop(file);

            let looked_at = DurableState::inspect(&after, Clock::system(), JudgedAs::ThisUser);
            let opened = DurableState::open(&after, Clock::system());

            if is_refused {
                let (looked_at, opened) = (looked_at.unwrap_err(), opened.unwrap_err());
                assert!(matches!(looked_at, OpenError::Refused(_, StateRefusal::Foreign)));
                assert!(matches!(opened, OpenError::Refused(_, StateRefusal::Foreign)));
            } else {
                let warnings = looked_at.unwrap().unwrap().warnings;
                assert!(matches!(warnings[..], [Warning::Discarded(_)]), "{warnings:?}");
                let state = opened.unwrap().state().clone();
                assert_eq!((state.rotations, state.refresh_token.is_some()), (0, false));
            }
        }
    }

    #[test]
    fn a_damaged_state_prevents_the_start_only_where_a_used_refresh_token_is_configured() {
        let refresh = "grant = \"refresh_token\"";
        for (lines, is_refused) in
            [("", false), (refresh, false), (&format!("{refresh}\nrefresh_token = \"r\""), true)]
        {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            let place = format!("state_key = \"{KEY}\"\nstate_file = \"{}\"", path.display());
            let credential = fixture::config("", &format!("{lines}\n{place}"), "x").credentials.remove(0);
            drop(DurableState::open(&credential, Clock::system()).unwrap());
            std::fs::write(&path, "damaged").unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();

            assert_eq!(
                DurableState::inspect(&credential, Clock::system(), JudgedAs::ThisUser).is_err(),
                is_refused,
                "{lines}"
            );
            assert_eq!(DurableState::open(&credential, Clock::system()).is_err(), is_refused, "{lines}");
            assert_eq!(folder.path().join("s.corrupt-1").exists(), !is_refused, "{lines}");
            assert_eq!(path.exists(), is_refused, "{lines}");
        }
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
