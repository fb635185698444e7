//! Recovery from a rejected token: another token, and a replay of the request with it.

use std::sync::Arc;

use super::Service;
use super::context::{Attempted, RequestContext, TokenChoice};
use super::outcome::{RetryCause, Unauthorized};
use super::response;
use crate::proxy::auth::authorize::{Authorization, no_token, waiter_slot};
use crate::proxy::auth::rejection_hold::Decision;
use crate::proxy::auth::verdict::Verdict;
use crate::proxy::body::replay::AttemptBody;
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::error::ProxyError;
use crate::proxy::route::member::Member;
use crate::proxy::upstream::forward::Answered;
use crate::proxy::upstream::pool::request::Outgoing;
use crate::token::{AccessToken, Generation, NotReplaced};

/// The end of a recovery, or what is left to do.
enum Step {
    /// This response goes to the caller.
    Respond(Answered<AttemptBody<ClientBody>>),
    /// Another token is needed than the rejected one.
    Replace { answered: Answered<AttemptBody<ClientBody>>, rejected: Generation },
}

impl Service {
    /// Replays a request whose token the response `first` rejected, if there is another token and the body is
    /// replayable. Returns the last replay's response, otherwise the first one.
    ///
    /// A request is replayed once. Only where a scheduled renewal has left two usable tokens and the upstream rejects both,
    /// a forced refresh and a second replay follow.
    ///
    /// # Errors
    ///
    /// [`ProxyError`] if no other token could be had in time, or the replay failed.
    pub(super) async fn recover(
        &self,
        context: &mut RequestContext<'_>,
        member: &Member,
        first: Attempted,
    ) -> Result<Answered<AttemptBody<ClientBody>>, ProxyError> {
        let step = match member.previous_token().zip(member.source.current().as_deref().cloned()) {
            Some(pair) => self.try_other(context, member, first, pair).await?,
            None => Step::Replace { answered: first.answered, rejected: first.generation },
        };
        match step {
            Step::Respond(answered) => Ok(answered),
            Step::Replace { answered, rejected } => self.replace(context, member, answered, rejected).await,
        }
    }

    /// Replays a request with the other token of a scheduled renewal: an API may learn of a new token late, on all or some of
    /// its nodes. Forces no refresh.
    async fn try_other(
        &self,
        context: &mut RequestContext<'_>,
        member: &Member,
        first: Attempted,
        (previous, current): (Arc<AccessToken>, Arc<AccessToken>),
    ) -> Result<Step, ProxyError> {
        let hold = &member.hold;
        let Attempted { answered, generation, .. } = first;
        let is_current_rejected = generation == current.generation();
        if !is_current_rejected && generation != previous.generation() {
            return Ok(Step::Replace { answered, rejected: generation });
        }
        let (other, choice) = if is_current_rejected {
            (&previous, TokenChoice::Previous(previous.generation()))
        } else {
            (&current, TokenChoice::Current)
        };
        let other = self.header_cache.authorization(other, &context.route.token_scheme);
        let Some(again) = context.again() else {
            context.exchange.outcome.unauthorized = Some(Unauthorized::BodyNotKept);
            self.reject_unreplayable(member, is_current_rejected, current.generation());
            return Ok(Step::Respond(answered));
        };
        drop((previous, current));
        let replayed = self.replay(context, answered, again, other, choice).await?;
        match Verdict::of(&replayed.answered.response, &context.route.retry_on) {
            Verdict::Accepted => {
                member.accepted(replayed.generation, replayed.demanded);
                if replayed.generation < generation {
                    hold.prefer_previous(self.shared.clock.now());
                } else {
                    hold.prefer_current();
                }
            }
            Verdict::Unknown => {}
            Verdict::Rejected => {
                hold.prefer_current();
                let rejected = generation.max(replayed.generation);
                return Ok(Step::Replace { answered: replayed.answered, rejected });
            }
        }
        context.exchange.outcome.unauthorized = Some(if replayed.generation < generation {
            Unauthorized::PreviousToken
        } else {
            Unauthorized::Replayed
        });
        Ok(Step::Respond(replayed.answered))
    }

    /// Prepares for the next request, where this one cannot be replayed: the next one carries the other token of a scheduled
    /// renewal. If the route has just rejected both, a refresh is forced.
    fn reject_unreplayable(&self, member: &Member, is_current_rejected: bool, current: Generation) {
        let Member { source, hold, .. } = member;
        let now = self.shared.clock.now();
        if is_current_rejected {
            hold.prefer_previous(now);
        } else if hold.prefers_previous(|| now) {
            hold.prefer_current();
            if hold.rejected(current, now) == Decision::Refresh {
                source.demand(current);
            }
        }
    }

    /// Replays a request with a token in place of the rejected one: a newer one, or a requested one.
    async fn replace(
        &self,
        context: &mut RequestContext<'_>,
        member: &Member,
        answered: Answered<AttemptBody<ClientBody>>,
        rejected: Generation,
    ) -> Result<Answered<AttemptBody<ClientBody>>, ProxyError> {
        let Member { source, hold, .. } = member;
        let newer = source.current().filter(|token| token.generation() > rejected);
        let was_requested = newer.is_none();
        let authorization: Authorization = match newer {
            Some(token) => self.header_cache.authorization(&token, &context.route.token_scheme),
            None => match self.replacement(context, member, rejected).await? {
                Some(authorization) => authorization,
                None => return Ok(answered),
            },
        };
        // The body may have outgrown the replay buffer during the wait. The next request has the new token.
        let Some(again) = context.again() else {
            context.exchange.outcome.unauthorized = Some(Unauthorized::BodyNotKept);
            return Ok(answered);
        };
        context.free_replay_buffer();
        let replayed = self.replay(context, answered, again, authorization, TokenChoice::Current).await?;
        // The upstream may have accepted the rejected token again meanwhile: then this is that token.
        let is_another = replayed.generation > rejected;
        let verdict = Verdict::of(&replayed.answered.response, &context.route.retry_on);
        context.exchange.outcome.unauthorized = Some(match verdict {
            Verdict::Accepted | Verdict::Unknown => Unauthorized::Replayed,
            Verdict::Rejected if is_another => Unauthorized::FreshTokenRejected,
            Verdict::Rejected => Unauthorized::SameTokenAgain,
        });
        match verdict {
            Verdict::Accepted => {
                if was_requested && is_another {
                    hold.replay_accepted(rejected, replayed.generation, self.shared.clock.now());
                }
                member.accepted(replayed.generation, replayed.demanded);
            }
            Verdict::Rejected if is_another && was_requested => {
                hold.replay_rejected(self.shared.clock.now());
            }
            Verdict::Rejected | Verdict::Unknown => {}
        }
        Ok(replayed.answered)
    }

    /// Sends a request again, with another token.
    async fn replay(
        &self,
        context: &mut RequestContext<'_>,
        answered: Answered<AttemptBody<ClientBody>>,
        Outgoing { head, body }: Outgoing<AttemptBody<ClientBody>>,
        authorization: Authorization,
        choice: TokenChoice,
    ) -> Result<Attempted, ProxyError> {
        response::discard(answered);
        context.exchange.outcome.retried(RetryCause::Unauthorized);
        context.token_choice = choice;
        self.send(context, head, body, Some(authorization)).await
    }

    /// Requests a token in place of the rejected one and waits for it; `None` if the 401 goes to the caller.
    async fn replacement(
        &self,
        context: &mut RequestContext<'_>,
        member: &Member,
        rejected: Generation,
    ) -> Result<Option<Authorization>, ProxyError> {
        let Member { source, hold, .. } = member;
        if hold.rejected(rejected, self.shared.clock.now()) == Decision::Pass {
            context.exchange.outcome.unauthorized = Some(Unauthorized::Held);
            return Ok(None);
        }
        if !context.request_body.is_replayable() {
            source.demand(rejected);
            context.exchange.outcome.unauthorized = Some(Unauthorized::BodyNotKept);
            return Ok(None);
        }
        // Without a slot to wait in, the request still triggers the refresh for the requests after it.
        let slot = waiter_slot(&self.shared.token_waiters);
        let _slot = slot.inspect_err(|_| source.demand(rejected))?;
        match context.exchange.token_wait.spend_on(source, |within| source.replace(rejected, within)).await {
            Ok(token) => Ok(Some(self.header_cache.authorization(&token, &context.route.token_scheme))),
            Err(NotReplaced::Unchanged) => {
                hold.same_token_again(rejected, self.shared.clock.now());
                context.exchange.outcome.unauthorized = Some(Unauthorized::SameTokenAgain);
                Ok(None)
            }
            Err(NotReplaced::Unavailable(unavailable)) => {
                hold.not_replaced(rejected);
                Err(no_token(source, unavailable))
            }
        }
    }
}
