//! Per-worker copies of frequently sent header values.
//!
//! A header value counts its references. Each worker has copies of its own, so that the count does not move between
//! processor caches with every request.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use crate::config::TokenScheme;
use crate::proxy::auth::authorize::Authorization;
use crate::proxy::upstream::Destination;
use crate::token::AccessToken;

/// A token, and its header value with this scheme.
#[derive(Debug)]
struct CachedToken {
    token: Arc<AccessToken>,
    scheme: TokenScheme,
    value: HeaderValue,
}

/// Copies of the token and `Host` values that were sent recently.
#[derive(Debug, Default)]
pub struct HeaderCache {
    /// Keyed by scheme and by the token's address, which the token's own reference keeps from being used for another one.
    tokens: Rc<RefCell<Vec<CachedToken>>>,
    /// By upstream index, each with the number of the destination that the value is for.
    hosts: RefCell<Vec<Option<(u32, HeaderValue)>>>,
}

impl HeaderCache {
    /// The value for requests with this token.
    pub fn authorization(&self, token: &Arc<AccessToken>, scheme: &TokenScheme) -> Authorization {
        let (generation, fingerprint) = (token.generation(), token.fingerprint());
        let mut tokens = self.tokens.borrow_mut();
        let is_it = |known: &&CachedToken| Arc::ptr_eq(&known.token, token) && known.scheme == *scheme;
        if let Some(known) = tokens.iter().find(is_it) {
            return Authorization { value: known.value.clone(), generation, fingerprint };
        }
        let value = token.header_value(scheme.prefix());
        tokens.push(CachedToken { token: Arc::clone(token), scheme: scheme.clone(), value: value.clone() });
        Authorization { value, generation, fingerprint }
    }

    /// The `Host` for a destination of the upstream with this index.
    pub fn host(&self, upstream: usize, destination: &Destination) -> HeaderValue {
        let mut hosts = self.hosts.borrow_mut();
        if hosts.len() <= upstream {
            hosts.resize(upstream + 1, None);
        }
        match &hosts[upstream] {
            Some((number, host)) if *number == destination.revision => host.clone(),
            _ => hosts[upstream].insert((destination.revision, copy(&destination.host))).1.clone(),
        }
    }

    /// A cache for another table's upstreams that shares the tokens: requests of both tables may be in flight.
    #[must_use]
    pub fn for_another_table(&self) -> Self {
        Self { tokens: Rc::clone(&self.tokens), hosts: RefCell::default() }
    }

    /// Drops all tokens, so that replaced ones do not stay in memory. The next request copies the current one again.
    pub fn forget_tokens(&self) {
        self.tokens.borrow_mut().clear();
    }
}

/// A copy that shares no memory with the value.
fn copy(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::token::Generation;

    /// A first-generation token with this value.
    fn token(value: &str) -> Arc<AccessToken> {
        let (now, lifetime) = (Clock::system().now(), Duration::from_hours(1));
        Arc::new(AccessToken::new(value, Generation::NONE.next(), now, lifetime, Vec::new()).unwrap())
    }

    #[test]
    fn tokens_of_one_generation_are_told_apart() {
        let cache = HeaderCache::default();
        let (one, other) = (token("one"), token("other"));
        for _ in 0..2 {
            for (token, value) in [(&one, "Bearer one"), (&other, "Bearer other")] {
                let Authorization { value: sent, generation, .. } =
                    cache.authorization(token, &TokenScheme::Bearer);
                assert_eq!((sent.to_str().unwrap(), generation), (value, token.generation()));
                assert!(sent.is_sensitive());
                assert_ne!(sent.as_bytes().as_ptr(), token.authorization().as_bytes().as_ptr());
            }
        }
        assert_eq!(cache.tokens.borrow().len(), 2);
    }

    #[test]
    fn a_token_has_a_value_for_each_scheme() {
        let cache = HeaderCache::default();
        let token = token("one");
        for _ in 0..2 {
            for (scheme, value) in [("Bearer", "Bearer one"), ("Token", "Token one"), ("", "one")] {
                // As after a reload, equal schemes are different values.
                let sent = cache.authorization(&token, &TokenScheme::new(scheme)).value;
                assert!(sent == value && sent.is_sensitive(), "{scheme}");
            }
        }
        assert_eq!(cache.tokens.borrow().len(), 3);
    }

    #[test]
    fn a_replaced_token_stays_in_memory_only_until_the_cache_forgets_it() {
        let cache = HeaderCache::default();
        let token = token("one");
        cache.authorization(&token, &TokenScheme::Bearer);
        let held = Arc::downgrade(&token);
        drop(token);
        assert!(held.upgrade().is_some());
        cache.for_another_table().forget_tokens();
        assert!(held.upgrade().is_none());
    }
}
