//! The operator's token: read again at each use, compared in constant time, and guessed at only slowly.

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
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use crate::causes::in_one_line;
use crate::config::Secret;
use crate::config::model::secret::SecretError;
use crate::network::client_network;
use crate::telemetry::throttle::OnChange;

/// How long a reading is waited for. One that has hung so long is not waited for again.
const PATIENCE: Duration = Duration::from_secs(3);
/// Wrong tokens that one address may show at once, and how long it takes until it may show one more.
const GUESSES: NonZeroU32 = NonZeroU32::new(10).expect("ten is not zero");
const GUESS_EVERY: Duration = Duration::from_secs(6);
/// Addresses that are remembered; as many have to guess before one is forgotten early.
const MOST_ADDRESSES: usize = 4096;

/// The token, as it is now.
#[derive(Debug)]
pub struct Token {
    secret: Secret,
    current: tokio::sync::Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    value: SecretString,
    /// One that has not come back in time.
    reading: Option<JoinHandle<Result<SecretString, SecretError>>>,
    /// Why the last reading brought nothing.
    trouble: OnChange<Option<String>>,
}

impl Token {
    /// With the value it had when the configuration was read.
    pub fn new(secret: Secret) -> Self {
        let value = secret.initial().clone();
        Self {
            secret,
            current: tokio::sync::Mutex::new(Current { value, reading: None, trouble: OnChange::default() }),
        }
    }

    /// Whether this is it. How long that takes says nothing of it.
    pub async fn is(&self, shown: &str) -> bool {
        let value = self.read_again().await;
        let hash = |text: &str| digest(&SHA256, text.as_bytes());
        verify_slices_are_equal(hash(value.expose_secret()).as_ref(), hash(shown).as_ref()).is_ok()
    }

    /// The value as of now; the last one where it cannot be read.
    async fn read_again(&self) -> SecretString {
        let mut current = self.current.lock().await;
        if !self.secret.may_change() {
            return current.value.clone();
        }
        let patience = if current.reading.is_some() { Duration::ZERO } else { PATIENCE };
        let reading = current.reading.get_or_insert_with(|| {
            let secret = self.secret.clone();
            tokio::task::spawn_blocking(move || secret.read())
        });
        let read = tokio::time::timeout(patience, reading).await;
        if read.is_ok() {
            current.reading = None;
        }
        let trouble = match read {
            Ok(Ok(Ok(value))) => {
                current.value = value;
                None
            }
            Ok(Ok(Err(error))) => Some(in_one_line(&error)),
            Ok(Err(_)) => Some("reading it panicked".to_owned()),
            Err(_) => Some("reading it does not come to an end".to_owned()),
        };
        if current.trouble.begins(trouble) {
            warn!(error = current.trouble.current(), "admin token not readable, kept the last one");
        }
        current.value.clone()
    }
}

/// Who has shown wrong tokens.
#[derive(Debug)]
pub struct Guesses {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    /// Who is not listened to, and until when.
    shut_out: Mutex<HashMap<IpAddr, Instant>>,
}

/// One wrong token more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// The address may try again.
    Wrong,
    /// It is not listened to for this long.
    TooMany(Duration),
}

impl Guesses {
    /// Nobody yet.
    pub fn new() -> Self {
        let quota = Quota::with_period(GUESS_EVERY).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN));
        let limiter = DefaultKeyedRateLimiter::hashmap(quota.allow_burst(GUESSES));
        Self { limiter, shut_out: Mutex::default() }
    }

    /// How long this address is not listened to. The right token is not looked at either: whoever could tell it from
    /// a wrong one meanwhile might go on guessing.
    pub fn shut_out(&self, address: IpAddr) -> Option<Duration> {
        let shut_out = self.shut_out.lock().unwrap_or_else(PoisonError::into_inner);
        let left = shut_out.get(&client_network(address))?.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    /// Notes a wrong token.
    pub fn note(&self, address: IpAddr) -> Guess {
        let network = client_network(address);
        if self.limiter.len() >= MOST_ADDRESSES {
            self.limiter.retain_recent();
        }
        let Err(not_until) = self.limiter.check_key(&network) else {
            return Guess::Wrong;
        };
        let wait = not_until.wait_time_from(DefaultClock::default().now());
        let mut shut_out = self.shut_out.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if shut_out.len() >= MOST_ADDRESSES {
            shut_out.retain(|_, until| *until > now);
        }
        if shut_out.len() < MOST_ADDRESSES {
            shut_out.insert(network, now + wait);
        }
        Guess::TooMany(wait)
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
    async fn a_token_that_was_changed_counts_at_once_and_an_unreadable_one_as_before() {
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
            assert_eq!(guesses.note(address("192.0.2.1")), Guess::Wrong);
        }
        assert_eq!(guesses.shut_out(address("192.0.2.1")), None, "up to here the right one is taken");

        let Guess::TooMany(wait) = guesses.note(address("::ffff:192.0.2.1")) else { panic!() };

        assert!(wait <= GUESS_EVERY && wait > GUESS_EVERY / 2, "{wait:?}");
        assert!(guesses.shut_out(address("192.0.2.1")).is_some_and(|left| left <= GUESS_EVERY));
        assert_eq!(guesses.shut_out(address("192.0.2.2")), None);
        assert_eq!(guesses.note(address("192.0.2.2")), Guess::Wrong);
    }
}
