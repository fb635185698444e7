//! Sending a request to its upstream: one attempt, or several where the route retries a 429.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use http::request::Parts;
use tokio::time::Instant;

use super::Service;
use super::context::{Attempted, RequestContext, TokenChoice};
use super::outcome::RetryCause;
use super::response;
use crate::proxy::auth::authorize::{Authorization, usable_token};
use crate::proxy::body::replay::{AttemptBody, BodyError};
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::error::ProxyError;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::route::member::Member;
use crate::proxy::upstream::forward::{Failure, HeadWait, forward};
use crate::proxy::upstream::pool::request::Outgoing;

impl Service {
    /// Sends the request, and again after a 429 while `context.retries` allows it.
    pub(super) async fn send(
        &self,
        context: &mut RequestContext<'_>,
        head: Box<Parts>,
        body: AttemptBody<ClientBody>,
        authorization: Option<Authorization>,
    ) -> Result<Attempted, ProxyError> {
        if context.retries.is_exhausted() {
            return self.attempt(context, head, body, authorization).await;
        }
        Box::pin(self.send_with_retries(context, head, body, authorization)).await
    }

    async fn send_with_retries(
        &self,
        context: &mut RequestContext<'_>,
        head: Box<Parts>,
        body: AttemptBody<ClientBody>,
        authorization: Option<Authorization>,
    ) -> Result<Attempted, ProxyError> {
        let first = self.attempt(context, head, body, authorization).await?;
        self.retry_throttled(context, first).await
    }

    /// Sends the request again after a 429, while `context.retries` allows it.
    pub(super) async fn retry_throttled(
        &self,
        context: &mut RequestContext<'_>,
        mut attempted: Attempted,
    ) -> Result<Attempted, ProxyError> {
        loop {
            if !context.request_body.is_replayable() {
                return Ok(attempted);
            }
            let Some(wait) = context.retries.wait(&attempted.answered.response) else { return Ok(attempted) };
            let Some(again) = context.again() else { return Ok(attempted) };
            response::discard(attempted.answered);
            tokio::time::sleep(wait).await;
            context.exchange.outcome.retried(RetryCause::Throttled);
            // The token may have expired during the wait.
            let authorization = match context.member {
                Some(member) => Some(self.authorize(context, member).await?),
                None => None,
            };
            attempted = self.attempt(context, again.head, again.body, authorization).await?;
        }
    }

    /// Sends the request once, with a token that has not expired when it is sent.
    ///
    /// A request that a reused connection did not carry is sent on another one; a request that an HTTP/2 upstream
    /// refused unprocessed (RFC 9113 §8.7) is sent once more, over HTTP/1.1 if the upstream requires that (§7). An idempotent request on a reused connection that closed
    /// without an answer is sent once more on a new one, where the route has `retry_stale`.
    pub(super) async fn attempt(
        &self,
        context: &mut RequestContext<'_>,
        head: Box<Parts>,
        body: AttemptBody<ClientBody>,
        mut authorization: Option<Authorization>,
    ) -> Result<Attempted, ProxyError> {
        let route = context.route;
        let pool = &self.pools[route.upstream.index];
        let destination = context.destination;
        let origin = &destination.origin;
        let mut request = Outgoing { head, body };
        let mut was_refused = false;
        let mut has_waited = false;
        let mut needs_new = false;
        let place = context.exchange.outcome.member;
        let mut turn = self.allowances.turn(route.index, place, context.exchange);
        loop {
            if !turn.has_come() {
                turn.come(context.exchange, &mut has_waited).await?;
            }
            let breaker = &route.upstream.breaker;
            let admitted = breaker.admit(&pool.successes)?;
            context.exchange.begin_attempt(&mut request.head, destination);
            let now = Instant::now();
            let mut leasing = pin!(async move {
                if needs_new {
                    Box::pin(pool.lease_new(destination)).await
                } else {
                    pool.lease(destination, now).await
                }
            });
            let (leased, waited) = match poll!(leasing.as_mut()) {
                Poll::Ready(leased) => (leased, Duration::ZERO),
                Poll::Pending => {
                    has_waited = true;
                    context.exchange.awaits_upstream(now);
                    let leased = leasing.await;
                    (leased, context.exchange.awaited_upstream())
                }
            };
            let lease = match leased {
                Ok(lease) => lease,
                // The breaker has counted each attempt to connect.
                Err(error) => return Err(failed(context, error, waited)),
            };
            if has_waited && !turn.has_come() {
                turn.come(context.exchange, &mut has_waited).await?;
            }
            if let (Some(member), true) = (context.member, has_waited) {
                // The token may have expired while the request waited, for a connection or on one that did not carry it.
                authorization = Some(self.authorize(context, member).await?);
            }
            let generation = authorization.as_ref().map(|authorization| authorization.generation);
            if let Some(authorization) = &authorization {
                request.head.headers.insert(&route.fields.token_field, authorization.value.clone());
            }
            let begun = if has_waited { Instant::now() } else { now };
            context.exchange.sent(authorization.as_ref(), begun);
            let demanded = context.member.map(|member| member.source.demanded()).unwrap_or_default();
            let exchange = &*context.exchange;
            let mut relay_interim = |interim| self.relay_interim(interim, route, destination, exchange);
            let wait = HeadWait { progress: &exchange.progress, begun, timeout: route.timeout };
            let (body, may_switch) = (context.request_body, context.may_switch);
            turn.used();
            let forwarded = forward(lease, request, body, wait, may_switch, &mut relay_interim).await;
            let duration = context.exchange.awaited_upstream();
            match forwarded {
                Ok(answered) => {
                    turn.answered(&answered.response, duration);
                    context.exchange.attempted(Ok(answered.response.status()), duration);
                    admitted.record_response(answered.response.status(), &route.retry_on, origin);
                    let generation = generation.unwrap_or_default();
                    return Ok(Attempted { answered, generation, demanded });
                }
                Err(Failure::Unsent(unsent)) => {
                    context.exchange.outcome.was_not_sent();
                    (request, has_waited) = (unsent, true);
                }
                Err(Failure::Refused(again, error))
                    if !was_refused
                        && (!matches!(error, ForwardError::Http1Required)
                            || pool.require_http1(destination)) =>
                {
                    failed(context, error, duration);
                    context.exchange.outcome.retried(RetryCause::RefusedStream);
                    (request, was_refused, has_waited, turn) = (again, true, true, turn.again());
                }
                Err(Failure::Stale(error)) => match context.resend() {
                    Some(again) => {
                        failed(context, error, duration);
                        context.exchange.outcome.retried(RetryCause::StaleConnection);
                        (request, has_waited, needs_new, turn) = (again, true, true, turn.again());
                    }
                    None => return Err(failed(context, admitted.record_error(error, origin), duration)),
                },
                Err(Failure::Upstream(error) | Failure::Refused(_, error)) => {
                    return Err(failed(context, admitted.record_error(error, origin), duration));
                }
                Err(Failure::Caller(fault)) => {
                    let error = self.body_error(fault);
                    context.exchange.end_attempt(Err(error.code()));
                    return Err(error);
                }
            }
        }
    }

    /// The token of `member` that the attempt carries, as the value of the route's field: the current one (see
    /// [`usable_token`]), unless the previous one is chosen and usable. After another renewal, the previous token is another
    /// one than was chosen, and perhaps the one that was rejected.
    pub(super) async fn authorize(
        &self,
        context: &mut RequestContext<'_>,
        member: &Member,
    ) -> Result<Authorization, ProxyError> {
        let scheme = &context.route.token_scheme;
        let previous = match context.token_choice {
            TokenChoice::OfRoute if member.hold.prefers_previous(|| self.shared.clock.now()) => {
                member.previous_token()
            }
            TokenChoice::Previous(chosen) => {
                member.previous_token().filter(|token| token.generation() == chosen)
            }
            TokenChoice::OfRoute | TokenChoice::Current => None,
        };
        if let Some(token) = previous {
            return Ok(self.header_cache.authorization(&token, scheme));
        }
        let wait = &mut context.exchange.token_wait;
        let token = usable_token(&member.source, wait, &self.shared.token_waiters).await?;
        Ok(self.header_cache.authorization(&token, scheme))
    }

    /// The response to a caller whose request body failed.
    pub(super) fn body_error(&self, fault: BodyError) -> ProxyError {
        match fault {
            BodyError::Stalled => ProxyError::RequestTimeout,
            BodyError::TooLarge => {
                ProxyError::BodyTooLarge { limit: self.shared.body_limits.body_bytes.unwrap_or(0) }
            }
            BodyError::Incomplete => ProxyError::BadRequest("the body is malformed or incomplete"),
            BodyError::Superseded => ForwardError::Terminated("the attempt was superseded".to_owned()).into(),
        }
    }
}

/// Counts an attempt that the upstream did not answer, and returns the error.
fn failed(context: &mut RequestContext<'_>, error: ForwardError, duration: Duration) -> ProxyError {
    let error = ProxyError::from(error);
    context.exchange.attempted(Err(error.code()), duration);
    error
}
