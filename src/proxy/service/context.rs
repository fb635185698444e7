//! The state of an admitted request, shared by all attempts to send it.

use hyper::body::Incoming;

use super::access_log::Exchange;
use super::retry::RetryBudget;
use crate::proxy::auth::authorize::TokenWait;
use crate::proxy::body::replay::{AttemptBody, ReplayBody};
use crate::proxy::route::Route;
use crate::proxy::upstream::Destination;
use crate::proxy::upstream::forward::Answered;
use crate::token::Generation;

/// An admitted request and what is left of its bounds.
pub(super) struct RequestContext<'a> {
    pub route: &'a Route,
    /// The upstream's address when the request arrived; every attempt uses it.
    pub destination: &'a Destination,
    pub request_body: &'a ReplayBody<Incoming>,
    pub exchange: &'a mut Exchange,
    pub token_wait: TokenWait,
    pub retries: RetryBudget,
}

/// The response to one attempt, and the generation of the token that the attempt carried.
pub(super) struct Attempted {
    pub answered: Answered<AttemptBody<Incoming>>,
    /// [`Generation::NONE`] for an attempt without a token.
    pub generation: Generation,
}

impl RequestContext<'_> {
    /// Frees the replay buffer if the attempt that follows is certainly the last one.
    pub(super) fn free_replay_buffer(&self) {
        if self.retries.is_exhausted() {
            self.request_body.free_buffer();
        }
    }
}
