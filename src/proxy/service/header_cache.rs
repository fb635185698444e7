//! What a worker has for itself of the values that all workers send.
//!
//! A value counts who has it. With one that all workers share, that count goes from one processor to the next with
//! every request.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderValue;

use crate::proxy::auth::authorize::Authorization;
use crate::proxy::upstream::Destination;
use crate::token::AccessToken;

/// A token, and the value of the field that shows it.
type Sent = (Arc<AccessToken>, HeaderValue);

/// Copies of what has been sent lately.
#[derive(Debug, Default)]
pub struct Copies {
    /// The token itself says whose copy it is, and stays as long as that: nothing else can be at its place.
    tokens: Rc<RefCell<Vec<Sent>>>,
    /// By the upstream's index, with the number of the place that it is for.
    hosts: RefCell<Vec<Option<(u32, HeaderValue)>>>,
}

impl Copies {
    /// What a request is sent with that has this token.
    pub fn authorization(&self, token: &Arc<AccessToken>) -> Authorization {
        let generation = token.generation();
        let mut tokens = self.tokens.borrow_mut();
        if let Some((_, value)) = tokens.iter().find(|(known, _)| Arc::ptr_eq(known, token)) {
            return Authorization { value: value.clone(), generation };
        }
        let value = copy(token.authorization());
        tokens.push((Arc::clone(token), value.clone()));
        Authorization { value, generation }
    }

    /// `Host` for a place of the upstream with this index.
    pub fn host(&self, upstream: usize, place: &Destination) -> HeaderValue {
        let mut hosts = self.hosts.borrow_mut();
        if hosts.len() <= upstream {
            hosts.resize(upstream + 1, None);
        }
        match &hosts[upstream] {
            Some((number, host)) if *number == place.revision => host.clone(),
            _ => hosts[upstream].insert((place.revision, copy(&place.host))).1.clone(),
        }
    }

    /// For another table's upstreams, and with the same tokens: requests of both may be under way.
    #[must_use]
    pub fn for_another_table(&self) -> Self {
        Self { tokens: Rc::clone(&self.tokens), hosts: RefCell::default() }
    }

    /// Lets go of all tokens: of those that are replaced nothing stays, and of the others a request makes a new copy.
    pub fn forget_tokens(&self) {
        self.tokens.borrow_mut().clear();
    }
}

/// The same in memory of its own.
fn copy(value: &HeaderValue) -> HeaderValue {
    let mut own = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    own.set_sensitive(value.is_sensitive());
    own
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::token::Generation;

    /// The token of this name as the only one of its credential.
    fn current(name: &str) -> Arc<AccessToken> {
        let (now, lifetime) = (Clock::system().now(), Duration::from_hours(1));
        Arc::new(AccessToken::new(name, Generation::NONE.next(), now, lifetime, Vec::new()).unwrap())
    }

    #[test]
    fn each_token_is_sent_as_it_is_although_others_have_its_generation() {
        let copies = Copies::default();
        let (one, other) = (current("one"), current("other"));
        for _ in 0..2 {
            for (token, value) in [(&one, "Bearer one"), (&other, "Bearer other")] {
                let Authorization { value: sent, generation } = copies.authorization(token);
                assert_eq!((sent.to_str().unwrap(), generation), (value, token.generation()));
                assert!(sent.is_sensitive());
                assert_ne!(sent.as_bytes().as_ptr(), token.authorization().as_bytes().as_ptr());
            }
        }
        assert_eq!(copies.tokens.borrow().len(), 2);
    }

    #[test]
    fn a_token_that_was_replaced_is_in_memory_no_longer_than_it_is_remembered() {
        let copies = Copies::default();
        let token = current("one");
        copies.authorization(&token);
        let held = Arc::downgrade(&token);
        drop(token);
        assert!(held.upgrade().is_some());
        copies.for_another_table().forget_tokens();
        assert!(held.upgrade().is_none());
    }
}
