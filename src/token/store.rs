//! The store of a credential's current token: written by one task, read by every request without a lock.
//!
//! [`Store::new`] returns the only [`Writer`]; a [`Store`] can only read. An expired token is never returned, whether the
//! refresher has replaced it in time or not.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::access_token::{AccessToken, Generation};
use crate::clock::Clock;

/// Reads a credential's current token.
#[derive(Clone, Debug)]
pub struct Store {
    current: Arc<ArcSwapOption<AccessToken>>,
    clock: Clock,
}

/// Replaces a credential's current token. Only the refresher has one.
#[derive(Debug)]
pub struct Writer {
    current: Arc<ArcSwapOption<AccessToken>>,
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
        let current = Arc::new(ArcSwapOption::empty());
        (Writer { current: Arc::clone(&current) }, Self { current, clock })
    }

    /// The token, unless it is missing or expired. Takes no lock and changes no reference count.
    pub fn usable(&self) -> Option<Current> {
        let guard = self.current.load();
        let is_usable = guard.as_ref().is_some_and(|token| token.is_usable(self.clock.now()));
        is_usable.then_some(Current(guard))
    }

    /// The latest token, expired or not.
    pub fn latest(&self) -> Option<Arc<AccessToken>> {
        self.current.load_full()
    }

    /// The latest token's generation.
    pub fn generation(&self) -> Generation {
        self.current.load().as_ref().map_or(Generation::NONE, |token| token.generation())
    }
}

impl Writer {
    /// Replaces the current token.
    pub fn publish(&mut self, token: AccessToken) {
        self.current.store(Some(Arc::new(token)));
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
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_is_never_returned() {
        let clock = Clock::tokio();
        let (mut writer, store) = Store::new(clock);
        assert!(store.usable().is_none());

        let token =
            AccessToken::new("t", Generation::NONE.next(), clock.now(), Duration::from_secs(5), Vec::new())
                .unwrap();
        writer.publish(token);
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(store.usable().is_some());

        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(store.usable().is_none());
        assert_eq!(store.generation(), Generation::NONE.next());
    }
}
