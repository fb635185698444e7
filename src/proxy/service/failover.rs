//! The credential of a request on a route with a pool: which one, and another where the upstream refuses it.
//!
//! A 429 or a rejected token of one credential moves the request to another one, if its head and body were kept. Each
//! credential is tried once.

use std::cmp::Reverse;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::Service;
use super::context::{Attempted, RequestContext};
use super::outcome::{RetryCause, Unauthorized};
use super::response;
use crate::clock::Moment;
use crate::http::retry_after;
use crate::proxy::auth::authorize::{no_token, waiter_slot};
use crate::proxy::auth::rejection_hold::Decision;
use crate::proxy::auth::verdict::Verdict;
use crate::proxy::body::replay::AttemptBody;
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::error::ProxyError;
use crate::proxy::quota::budget::Budget;
use crate::proxy::route::member::Member;
use crate::proxy::upstream::forward::Answered;
use crate::proxy::upstream::pool::request::Outgoing;
use crate::token::{TokenSource, Unavailable};

/// How long a credential is left alone after a 429 without `Retry-After`.
const THROTTLED: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is believed.
const MAX_THROTTLED: Duration = Duration::from_hours(1);

impl Service {
    /// Sends a request with the token of one of the route's credentials, and with another's while the upstream refuses it.
    pub(super) async fn send_through_pool(
        &self,
        context: &mut RequestContext<'_>,
        head: Box<Parts>,
        body: AttemptBody<ClientBody>,
    ) -> Result<Answered<AttemptBody<ClientBody>>, ProxyError> {
        let members = &context.route.members;
        let mut tried = Vec::with_capacity(members.len());
        let mut place = match self.next_ready(context, &tried) {
            Some(place) => place,
            None => self.first_usable(context).await?,
        };
        let mut outgoing = Outgoing { head, body };
        // The member that may be used first among those whose budgets are used up, and when.
        let mut exhausted: Option<(Instant, String)> = None;
        loop {
            let member = &members[place];
            tried.push(place);
            context.uses(place);
            let authorization = self.authorize(context, member).await?;
            let attempted = self.attempt(context, outgoing.head, outgoing.body, Some(authorization)).await;
            let attempted = match attempted {
                // What is left of a budget is known a moment later.
                Err(ProxyError::ApiQuotaExhausted { credential, retry_after }) => {
                    let now = Instant::now();
                    let turn = now + retry_after;
                    let sooner = exhausted.take().filter(|(at, _)| *at <= turn);
                    let (turn, credential) = sooner.unwrap_or((turn, credential));
                    let Some(again) = self.next_ready(context, &tried).zip(context.again()) else {
                        let retry_after = turn.saturating_duration_since(now);
                        return Err(ProxyError::ApiQuotaExhausted { credential, retry_after });
                    };
                    (place, outgoing) = again;
                    exhausted = Some((turn, credential));
                    continue;
                }
                attempted => attempted?,
            };
            let Attempted { answered, generation, demanded } = &attempted;
            let response = &answered.response;
            let (verdict, status) = (Verdict::of(response, &context.route.retry_on), response.status());
            let is_throttled = status == StatusCode::TOO_MANY_REQUESTS;
            if matches!(verdict, Verdict::Accepted) {
                member.accepted(*generation, *demanded);
            }
            if is_throttled {
                member.throttled(self.shared.clock.now() + pause(response.headers()));
            }
            let is_rejected = matches!(verdict, Verdict::Rejected);
            let next = if is_throttled || is_rejected { self.next_ready(context, &tried) } else { None };
            let again = next.filter(|_| context.request_body.is_replayable()).zip(context.again());
            let Some((other, again)) = again else {
                return if is_rejected {
                    self.recover(context, member, attempted).await
                } else {
                    Ok(self.retry_throttled(context, attempted).await?.answered)
                };
            };
            if is_rejected {
                // The next request finds the token replaced.
                if member.hold.rejected(*generation, self.shared.clock.now()) == Decision::Refresh {
                    member.source.demand(*generation);
                }
                context.exchange.outcome.unauthorized = Some(Unauthorized::Replayed);
            }
            let cause = if is_rejected { RetryCause::Unauthorized } else { RetryCause::Throttled };
            context.exchange.outcome.retried(cause);
            response::discard(attempted.answered);
            (place, outgoing) = (other, again);
        }
    }

    /// The credential that the upstream may be expected to accept: the one whose budget has most left; in turn where several
    /// have as much, or none has a budget.
    fn next_ready(&self, context: &RequestContext<'_>, tried: &[usize]) -> Option<usize> {
        let members = &context.route.members;
        let now = self.shared.clock.now();
        let turn = &self.turns[context.route.index];
        let start = turn.get();
        let places = (0..members.len()).map(|offset| (start + offset) % members.len());
        let ready = places.filter(|place| !tried.contains(place) && members[*place].check_ready(now).is_ok());
        let left = |place: &usize| members[*place].budget.as_ref().map_or(u32::MAX, Budget::left);
        // The first of several.
        let place = ready.min_by_key(|place| Reverse(left(place)))?;
        turn.set(place + 1);
        Some(place)
    }

    /// The credential to use where none is ready: the one whose throttling or hold ends first, if it has a token; else the one
    /// that first gets a token.
    ///
    /// # Errors
    ///
    /// Without a token in time, the error of the credential that is usable first.
    async fn first_usable(&self, context: &mut RequestContext<'_>) -> Result<usize, ProxyError> {
        let members = &context.route.members;
        let now = self.shared.clock.now();
        let with_token = members.iter().enumerate().filter(|(_, member)| member.source.current().is_some());
        if let Some((place, _)) = with_token.min_by_key(|(_, member)| refused_until(member, now)) {
            return Ok(place);
        }
        let _slot = waiter_slot(&self.shared.token_waiters)?;
        let first = context.exchange.token_wait.spend(|within| first_token(members, within)).await;
        first.map_err(|(source, unavailable)| no_token(source, unavailable))
    }
}

/// Until when the upstream refuses a credential, as far as that is known.
fn refused_until(member: &Member, now: Moment) -> Moment {
    member.hold.seen(now).map_or(Moment::default(), |held| held.until).max(member.throttled_until())
}

/// The place of the credential that first has a usable token.
async fn first_token(members: &[Member], within: Duration) -> Result<usize, (&TokenSource, Unavailable)> {
    let wait = async |(place, member): (usize, &Member)| (place, member.source.wait(within).await.map(drop));
    let mut waiting: FuturesUnordered<_> = members.iter().enumerate().map(wait).collect();
    let mut first = None;
    while let Some((place, outcome)) = waiting.next().await {
        let Err(unavailable) = outcome else { return Ok(place) };
        let soonest = |(_, other): &(usize, Unavailable)| {
            other.retry_after.unwrap_or(Duration::MAX) <= unavailable.retry_after.unwrap_or(Duration::MAX)
        };
        first = first.filter(soonest).or(Some((place, unavailable)));
    }
    let (place, unavailable) = first.expect("a pool has members");
    Err((&members[place].source, unavailable))
}

/// How long a credential is left alone after a 429.
fn pause(headers: &HeaderMap) -> Duration {
    retry_after(headers).map_or(THROTTLED, |asked| asked.min(MAX_THROTTLED))
}
