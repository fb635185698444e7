//! The operator's token: read again at each use, compared in constant time, and protected against guessing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::warn;

use crate::blocking::Blocking;
use crate::causes::in_one_line;
use crate::config::Secret;
use crate::config::model::secret::SecretError;
use crate::network::client_network;
use crate::telemetry::throttle::OnChange;

/// How long a request waits for the token to be read.
const TOKEN_READ_TIMEOUT: Duration = Duration::from_secs(3);
/// The wrong tokens that one network may send at once, and the time until it may send one more.
const GUESSES: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");
const GUESS_EVERY: Duration = Duration::from_secs(6);
/// The most networks that are remembered.
const MOST_ADDRESSES: usize = 4096;

/// The operator's token.
#[derive(Debug)]
pub(super) struct Token {
    /// The secret of the configuration; `None` for the daemon's own token, which stays as it is.
    secret: Option<Secret>,
    current: tokio::sync::Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    value: SecretString,
    reading: Blocking<Result<SecretString, SecretError>>,
    /// Why the last reading failed.
    trouble: OnChange<Option<String>>,
}

impl Token {
    /// The token with the value of the configuration.
    pub(super) fn new(secret: Secret) -> Self {
        let value = secret.initial().clone();
        Self::with(Some(secret), value)
    }

    /// The daemon's own token.
    pub(super) fn own(value: SecretString) -> Self {
        Self::with(None, value)
    }

    /// Whether the token is one of the configuration, and not the daemon's own.
    pub(super) const fn is_configured(&self) -> bool {
        self.secret.is_some()
    }

    fn with(secret: Option<Secret>, value: SecretString) -> Self {
        let current =
            Current { value, reading: Blocking::new(TOKEN_READ_TIMEOUT), trouble: OnChange::default() };
        Self { secret, current: tokio::sync::Mutex::new(current) }
    }

    /// Whether this is the token. The comparison takes constant time.
    pub(super) async fn is(&self, shown: &str) -> bool {
        let value = self.read_again().await;
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        verify_slices_are_equal(hash(value.expose_secret()).as_ref(), hash(shown).as_ref()).is_ok()
    }

    /// The present value, or the last one if the present one cannot be read.
    async fn read_again(&self) -> SecretString {
        let mut current = self.current.lock().await;
        let Some(secret) = self.secret.clone().filter(Secret::may_change) else {
            return current.value.clone();
        };
        let trouble = match current.reading.run(move || secret.read()).await {
            Ok(Ok(value)) => {
                current.value = value;
                None
            }
            Ok(Err(error)) => Some(in_one_line(&error)),
            Err(error) => Some(format!("reading the token {error}")),
        };
        if current.trouble.begins(trouble) {
            warn!(error = current.trouble.current(), "admin token not readable, kept the last one");
        }
        current.value.clone()
    }
}

/// Counts wrong tokens, by network.
#[derive(Debug)]
pub(super) struct Guesses {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    /// The networks that are locked out, and until when.
    locked_out: Mutex<HashMap<IpAddr, Instant>>,
}

impl Guesses {
    /// No wrong tokens yet.
    pub(super) fn new() -> Self {
        let quota = Quota::with_period(GUESS_EVERY).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
        let limiter = DefaultKeyedRateLimiter::hashmap(quota.allow_burst(GUESSES));
        Self { limiter, locked_out: Mutex::default() }
    }

    /// How long this address stays locked out. The right token is refused too meanwhile, or guessing could go on.
    pub(super) fn locked_out(&self, address: IpAddr) -> Option<Duration> {
        let locked_out = self.locked_out.lock().unwrap_or_else(PoisonError::into_inner);
        let left = locked_out.get(&client_network(address))?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    /// Counts a wrong token. Returns how long its network is locked out now, if it is.
    pub(super) fn note(&self, address: IpAddr) -> Option<Duration> {
        let network = client_network(address);
        if self.limiter.len() >= MOST_ADDRESSES {
            self.limiter.retain_recent();
        }
        let not_until = self.limiter.check_key(&network).err()?;
        let wait = not_until.wait_time_from(DefaultClock::default().now());
        let mut locked_out = self.locked_out.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if locked_out.len() >= MOST_ADDRESSES {
            locked_out.retain(|_, until| *until > now);
        }
        if locked_out.len() < MOST_ADDRESSES {
            locked_out.insert(network, now + wait);
        }
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Environment;
    use crate::config::model::secret::SecretSource;

    fn in_file(path: &Path) -> Token {
        let source = SecretSource::File(path.to_owned());
        Token::new(Secret::load(&source, Path::new(""), &Environment::from([])).unwrap())
    }

    #[tokio::test]
    async fn a_changed_token_counts_at_once_and_an_unreadable_one_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "first\n").unwrap();
        let token = in_file(&file);
        assert!(token.is("first").await);
        for wrong in ["", "firs", "first ", "FIRST", "second"] {
            assert!(!token.is(wrong).await, "{wrong:?}");
        }

        std::fs::write(&file, "second").unwrap();
        assert!(token.is("second").await && !token.is("first").await);

        std::fs::remove_file(&file).unwrap();
        assert!(token.is("second").await && !token.is("first").await);
        assert!(!format!("{token:?}").contains("second"));
    }

    #[tokio::test]
    async fn guessing_is_limited_for_each_network_by_itself() {
        let guesses = Guesses::new();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for _ in 0..GUESSES.get() {
            assert_eq!(guesses.note(address("192.0.2.1")), None);
        }
        assert_eq!(guesses.locked_out(address("192.0.2.1")), None, "up to here the right one is taken");

        let wait = guesses.note(address("::ffff:192.0.2.1")).unwrap();

        assert!(wait <= GUESS_EVERY && wait > GUESS_EVERY / 2, "{wait:?}");
        assert!(guesses.locked_out(address("192.0.2.1")).is_some_and(|left| left <= GUESS_EVERY));
        assert_eq!(guesses.locked_out(address("192.0.2.2")), None);
        assert_eq!(guesses.note(address("192.0.2.2")), None);
    }
}
