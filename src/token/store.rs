//! The store of a credential's current token: written by one task, read by every request without a lock.
//!
//! [`Store::new`] returns the only [`Writer`]; a [`Store`] can only read. An expired token is never returned, whether the
//! refresher has replaced it in time or not.
//!
//! After a scheduled renewal the store keeps the previous token for [`PREVIOUS_WINDOW`], for APIs that learn of a new token
//! late.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};

use super::access_token::{AccessToken, Generation};
use crate::clock::{Clock, Moment};

/// How long after a scheduled renewal the previous token may be used.
const PREVIOUS_WINDOW: Duration = Duration::from_mins(1);

/// Reads a credential's tokens.
#[derive(Clone, Debug)]
pub struct Store {
    tokens: Arc<Tokens>,
    clock: Clock,
}

/// Replaces a credential's current token. Only the refresher has one.
#[derive(Debug)]
pub struct Writer {
    tokens: Arc<Tokens>,
    clock: Clock,
    /// Whether the next token may stand for another principal than the current one.
    begins_anew: bool,
}

#[derive(Debug, Default)]
struct Tokens {
    current: ArcSwapOption<AccessToken>,
    previous: ArcSwapOption<Previous>,
}

/// The token before a scheduled renewal.
#[derive(Debug)]
struct Previous {
    token: Arc<AccessToken>,
    /// The end of the window, at the latest the token's own end.
    until: Moment,
}

/// What becomes of the previous token when a token is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// The token was due: the token before it becomes the previous one.
    Scheduled,
    /// The token before it was rejected, or an operator asked: a previous token stays for the rest of its window.
    Forced,
    /// The token may stand for another principal: no previous token stays.
    Anew,
}

/// A token that was usable when it was read.
///
/// Must not be kept across an `await`: beyond eight of them on a thread, each one changes a reference count that all threads
/// share.
#[derive(Debug)]
pub struct Current(Guard<Option<Arc<AccessToken>>>);

impl Store {
    /// An empty store, and its writer.
    pub fn new(clock: Clock) -> (Writer, Self) {
        let tokens = Arc::new(Tokens::default());
        (Writer { tokens: Arc::clone(&tokens), clock, begins_anew: false }, Self { tokens, clock })
    }

    /// The token, unless it is missing or expired. Takes no lock and changes no reference count.
    pub fn usable(&self) -> Option<Current> {
        let guard = self.tokens.current.load();
        let is_usable = guard.as_ref().is_some_and(|token| token.is_usable(self.clock.now()));
        is_usable.then_some(Current(guard))
    }

    /// The token before the latest scheduled renewal, within the window after that and until the token's own end.
    pub fn previous(&self) -> Option<Arc<AccessToken>> {
        let previous = self.tokens.previous.load();
        let is_usable = |previous: &&Arc<Previous>| self.clock.now() < previous.until;
        previous.as_ref().filter(is_usable).map(|previous| Arc::clone(&previous.token))
    }

    /// The latest token, expired or not.
    pub fn latest(&self) -> Option<Arc<AccessToken>> {
        self.tokens.current.load_full()
    }

    /// The latest token's generation.
    pub fn generation(&self) -> Generation {
        self.tokens.current.load().as_ref().map_or(Generation::NONE, |token| token.generation())
    }
}

impl Writer {
    /// Replaces the current token. The same token again, with another end, leaves a previous one as it is.
    pub fn publish(&mut self, token: AccessToken, succession: Succession) {
        let begins_anew = std::mem::take(&mut self.begins_anew);
        let succession = if begins_anew { Succession::Anew } else { succession };
        let Tokens { current, previous } = &*self.tokens;
        let replaced = current.load_full().filter(|replaced| replaced.generation() < token.generation());
        // Before the current token: whoever reads the new token finds the token that it replaced.
        match (succession, replaced) {
            (Succession::Scheduled, Some(token)) => {
                let until = (self.clock.now() + PREVIOUS_WINDOW).min(token.expires());
                previous.store(Some(Arc::new(Previous { token, until })));
            }
            (Succession::Anew, _) => previous.store(None),
            (Succession::Scheduled | Succession::Forced, _) => {}
        }
        current.store(Some(Arc::new(token)));
    }

    /// Notes that the next token may stand for another principal: it is published [anew](Succession::Anew).
    pub const fn begin_anew(&mut self) {
        self.begins_anew = true;
    }

    /// Until when the previous token may be used, if there is one.
    pub fn previous_until(&self) -> Option<Moment> {
        self.tokens.previous.load().as_ref().map(|previous| previous.until)
    }

    /// Drops the previous token if its time is up.
    pub fn drop_ended(&mut self) {
        if self.previous_until().is_some_and(|until| until <= self.clock.now()) {
            self.tokens.previous.store(None);
        }
    }
}

impl std::ops::Deref for Current {
    type Target = Arc<AccessToken>;

    fn deref(&self) -> &Arc<AccessToken> {
        // `Store::usable` makes none without a token.
        self.0.as_ref().expect("a current token holds a token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(clock: Clock, generation: u64, seconds: u64) -> AccessToken {
        let generation = Generation::from_number(generation);
        let lifetime = Duration::from_secs(seconds);
        AccessToken::new(&format!("t{generation}"), generation, clock.now(), lifetime, Vec::new()).unwrap()
    }

    fn previous(store: &Store) -> Option<u64> {
        store.previous().map(|token| token.generation().number())
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_is_never_returned() {
        let clock = Clock::tokio();
        let (mut writer, store) = Store::new(clock);
        assert!(store.usable().is_none());

        writer.publish(token(clock, 1, 5), Succession::Scheduled);
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(store.usable().is_some());

        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(store.usable().is_none());
        assert_eq!(store.generation(), Generation::NONE.next());
    }

    #[tokio::test(start_paused = true)]
    async fn the_previous_token_is_kept_for_its_window_or_until_its_end() {
        let clock = Clock::tokio();
        for (lifetime, kept) in [(3600, PREVIOUS_WINDOW), (10, Duration::from_secs(10))] {
            let (mut writer, store) = Store::new(clock);
            writer.publish(token(clock, 1, lifetime), Succession::Scheduled);
            assert_eq!((previous(&store), writer.previous_until()), (None, None));
            writer.publish(token(clock, 2, 3600), Succession::Scheduled);
            let ended = Arc::downgrade(&store.previous().unwrap());

            tokio::time::advance(kept.saturating_sub(Duration::from_millis(1))).await;
            writer.drop_ended();
            assert_eq!(previous(&store), Some(1), "{lifetime}");

            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(previous(&store), None, "{lifetime}");
            writer.drop_ended();
            assert!(ended.upgrade().is_none(), "the token is still in memory");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_renewal_leaves_no_previous_token_and_keeps_one_of_the_schedule() {
        let clock = Clock::tokio();
        let (mut writer, store) = Store::new(clock);
        writer.publish(token(clock, 1, 3600), Succession::Scheduled);
        writer.publish(token(clock, 2, 3600), Succession::Forced);
        assert_eq!(previous(&store), None);
        writer.publish(token(clock, 3, 3600), Succession::Scheduled);
        writer.publish(token(clock, 4, 3600), Succession::Forced);
        assert_eq!(previous(&store), Some(2));
        // The same token again.
        writer.publish(token(clock, 4, 7200), Succession::Scheduled);
        assert_eq!(previous(&store), Some(2));

        writer.publish(token(clock, 5, 3600), Succession::Anew);
        assert_eq!(previous(&store), None);
    }
}
