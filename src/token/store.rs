//! Where the current token is: written by one task, read by every request without a lock.
//!
//! [`Store::new`] hands out the only [`Writer`]; whoever holds a [`Store`] can but read. A token past its end
//! is not handed out, whatever the timers of the writer did meanwhile.

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

/// Replaces a credential's current token. There is one, and the refresher owns it.
#[derive(Debug)]
pub struct Writer {
    current: Arc<ArcSwapOption<AccessToken>>,
}

/// A token that was usable when it was taken; holds it in memory as long as it lives.
///
/// Not to be kept while something is waited for: of more than eight on a thread, each counts a reference that all threads
/// share.
#[derive(Debug)]
pub struct Current(Guard<Option<Arc<AccessToken>>>);

impl Store {
    /// An empty store and the right to write it.
    pub fn new(clock: Clock) -> (Writer, Self) {
        let current = Arc::new(ArcSwapOption::empty());
        (Writer { current: Arc::clone(&current) }, Self { current, clock })
    }

    /// The token, if there is one that has not ended. Takes no lock and counts no reference.
    pub fn usable(&self) -> Option<Current> {
        let guard = self.current.load();
        let is_usable = guard.as_ref().is_some_and(|token| token.is_usable(self.clock.now()));
        is_usable.then_some(Current(guard))
    }

    /// The latest token, ended or not.
    pub fn latest(&self) -> Option<Arc<AccessToken>> {
        self.current.load_full()
    }

    /// The latest token's generation.
    pub fn generation(&self) -> Generation {
        self.current.load().as_ref().map_or(Generation::NONE, |token| token.generation())
    }
}

impl Writer {
    /// Puts a token in the place of the current one.
    pub fn publish(&mut self, token: AccessToken) {
        self.current.store(Some(Arc::new(token)));
    }
}

impl std::ops::Deref for Current {
    type Target = Arc<AccessToken>;

    fn deref(&self) -> &Arc<AccessToken> {
        // Only made where there is one.
        self.0.as_ref().expect("a current token holds a token")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_past_its_end_is_never_handed_out() {
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
