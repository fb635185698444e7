//! Recovery from a rejected token: another token, and a replay of the request with it.

use http::request::Parts;
use hyper::body::Incoming;

use super::Service;
use super::context::{Attempted, RequestContext};
use super::response;
use crate::proxy::auth::authorize::{Authorization, no_token, waiter_slot};
use crate::proxy::auth::rejection_hold::Decision;
use crate::proxy::auth::verdict::Verdict;
use crate::proxy::body::replay::AttemptBody;
use crate::proxy::error::ProxyError;
use crate::proxy::upstream::forward::Answered;
use crate::token::{Generation, NotReplaced, TokenSource};

/// `why_401` where the request body is not in the replay buffer.
const BODY_NOT_KEPT: &str = "body_not_kept";

impl Service {
    /// Replays a request whose token the response `first` rejected, if there is another token and the body is
    /// replayable. Returns the replay's response, otherwise the first one.
    ///
    /// # Errors
    ///
    /// [`ProxyError`] if no other token could be had in time, or the replay failed.
    pub(super) async fn recover(
        &self,
        context: &mut RequestContext<'_>,
        source: &TokenSource,
        first: Attempted,
        head: Box<Parts>,
    ) -> Result<Answered<AttemptBody<Incoming>>, ProxyError> {
        let hold = &context.route.hold;
        let Attempted { answered, generation } = first;
        let newer = source.current().filter(|token| token.generation() > generation);
        let was_requested = newer.is_none();
        let authorization: Authorization = match newer {
            Some(token) => self.header_cache.authorization(&token),
            None => match self.replacement(context, source, generation).await? {
                Some(authorization) => authorization,
                None => return Ok(answered),
            },
        };
        // The body may have outgrown the replay buffer during the wait. The next request has the new token.
        let Some(body) = context.request_body.replay() else {
            context.exchange.outcome.why_401 = Some(BODY_NOT_KEPT);
            return Ok(answered);
        };
        context.free_replay_buffer();
        response::discard(answered);

        context.exchange.outcome.is_replayed = true;
        let replayed = self.send(context, head, body, Some(authorization)).await?;
        match Verdict::of(&replayed.answered.response, &context.route.retry_on) {
            Verdict::Accepted if was_requested => {
                hold.replay_accepted(generation, replayed.generation, self.shared.clock.now());
            }
            Verdict::Accepted => hold.accepted(replayed.generation),
            Verdict::Rejected => {
                context.exchange.outcome.why_401 = Some("fresh_token_rejected");
                if was_requested {
                    hold.replay_rejected(self.shared.clock.now());
                }
            }
            Verdict::Unknown => {}
        }
        Ok(replayed.answered)
    }

    /// Requests a token in place of the rejected one and waits for it; `None` if the 401 goes to the caller.
    async fn replacement(
        &self,
        context: &mut RequestContext<'_>,
        source: &TokenSource,
        rejected: Generation,
    ) -> Result<Option<Authorization>, ProxyError> {
        let hold = &context.route.hold;
        if hold.rejected(rejected, self.shared.clock.now()) == Decision::Pass {
            context.exchange.outcome.why_401 = Some("held");
            return Ok(None);
        }
        if !context.request_body.is_replayable() {
            source.demand(rejected);
            context.exchange.outcome.why_401 = Some(BODY_NOT_KEPT);
            return Ok(None);
        }
        // Without a slot to wait in, the request still triggers the refresh for the requests after it.
        let slot = waiter_slot(&self.shared.token_waiters);
        let _slot = slot.inspect_err(|_| source.demand(rejected))?;
        match context.token_wait.spend(|within| source.replace(rejected, within)).await {
            Ok(token) => Ok(Some(self.header_cache.authorization(&token))),
            Err(NotReplaced::Unchanged) => {
                hold.not_replaced(rejected);
                hold.replay_rejected(self.shared.clock.now());
                context.exchange.outcome.why_401 = Some("same_token_again");
                Ok(None)
            }
            Err(NotReplaced::Unavailable(unavailable)) => {
                hold.not_replaced(rejected);
                Err(no_token(source, unavailable))
            }
        }
    }
}
