//! The request's way: guard, route, rules, breaker, authorize, forward, and a replay where a token was dead.
//!
//! Read [`Service::proxy`]; the other stages are the files it names. One service belongs to one worker and is
//! never shared between threads.

pub mod access_log;
mod discovery;
pub(in crate::proxy) mod drain;
pub mod header_cache;
mod login_stub;
pub mod response;
pub mod retry;
mod send;
pub mod settings;
pub mod websocket;

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, TRAILER};
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use self::access_log::Exchange;
use self::drain::unless_cut;
use self::header_cache::Copies;
use self::response::AnswerBody;
use self::retry::Retries;
use self::settings::Terms;
use self::websocket::Handshake;
use super::auth::authorize::{Authorization, authorize, no_token, place_to_wait};
use super::auth::rejection_hold::Decision;
use super::body::replay::{Attempt, Fault, Payload};
use super::downstream::connection::Downstream;
use super::downstream::http2_streams::head_size;
use super::downstream::upgrade::Upgrade;
use super::error::ProxyError;
use super::message::challenge::is_insufficient_scope;
use super::message::forwarded;
use super::message::forwarded::Statement;
use super::message::headers;
use super::message::location;
use super::message::trailers;
use super::message::via::Via;
use super::peer::Peer;
use super::route::Route;
use super::route::guard;
use super::route::guard::Target;
use super::upstream::Destination;
use super::upstream::forward::{Answered, Failure, forward};
use super::upstream::pool::Pool;
use super::upstream::pool::request::Outgoing;
use super::upstream::reconnect;
use crate::proxy::error::upstream::ForwardError;
use crate::token::{Generation, NotReplaced, TokenSource};

/// Why a 401 passes: the body cannot be sent again.
const NOT_KEPT: &str = "body_not_kept";

/// Answers the requests of one worker.
pub struct Service {
    shared: Arc<Terms>,
    via: Via,
    pub(super) copies: Copies,
    pools: Vec<Rc<Pool<Attempt<Incoming>>>>,
}

/// A request that has been let in, on its way to the upstream and perhaps there once more.
struct Passage<'a> {
    route: &'a Route,
    /// Where its upstream was when it came.
    destination: &'a Destination,
    payload: &'a Payload<Incoming>,
    exchange: &'a mut Exchange,
    /// How long it may still wait for tokens, whatever for.
    patience: Duration,
    /// How often it may still be sent again after a 429.
    retries: Retries,
}

/// Whose answer a caller gets.
enum Reply {
    Upstream(Answered<Attempt<Incoming>>),
    /// Ours, to a login of the caller's own; or an upstream's that has switched to another protocol.
    Whole(Response<Bytes>),
}

/// An upstream's answer, and the token it was given for.
struct Outcome {
    answered: Answered<Attempt<Incoming>>,
    generation: Generation,
}

impl Service {
    /// A service with a pool for each upstream, in the order of their indices.
    pub fn new(shared: Arc<Terms>, pools: Vec<Rc<Pool<Attempt<Incoming>>>>) -> Self {
        Self { via: Via::new(&shared.instance), copies: Copies::default(), shared, pools }
    }

    /// The worker's connections to upstreams.
    pub fn pools(&self) -> &[Rc<Pool<Attempt<Incoming>>>] {
        &self.pools
    }

    /// What a caller's address is worth here.
    pub fn judge(&self, peer: Peer) -> Peer {
        self.shared.networks.judge_again(peer)
    }

    /// Answers a request, whatever becomes of it.
    pub fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        downstream: Downstream,
    ) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> {
        let Downstream { connection: caller, progress: pace, upgrade } = downstream;
        let original =
            forwarded::original(&caller.peer(), request.headers(), &self.shared.networks.trusted_proxies);
        let (connection, answering) = (Rc::clone(&caller), Rc::clone(&pace));
        let mut exchange = Exchange::begin(&request, caller, pace, original, self.shared.access_log);
        let (head, body) = request.into_parts();
        let head = Box::new(head);
        let payload = Payload::new(body, &self.shared.allowance).beside(&exchange.caller().backlog);
        // Only what lasts is in the future: it is copied as a whole.
        async move {
            let reply = {
                let proxying = pin!(self.proxy(head, &payload, &mut exchange, &upgrade));
                unless_cut(&connection, &answering, proxying).await
            };
            let response = match reply {
                Ok(Reply::Upstream(answered)) => response::relay(answered, payload, exchange),
                Ok(Reply::Whole(response)) => response::reply(response, payload, exchange),
                Err(error) => response::refuse(&error, payload, exchange),
            };
            Ok(response)
        }
    }

    /// The way of a request, in the order of the arrow.
    async fn proxy(
        &self,
        mut head: Box<Parts>,
        payload: &Payload<Incoming>,
        exchange: &mut Exchange,
        upgrade: &Upgrade,
    ) -> Result<Reply, ProxyError> {
        let version = head.version;
        let (target, route) = self.admit(&head, exchange)?;
        exchange.routed(&route.name);
        exchange.pace().begin(route.read_timeout);
        if route.is_login(&head.method, target.path) {
            login_stub::swallow(payload).await.map_err(|fault| self.blame(fault))?;
            return Ok(Reply::Whole(login_stub::response()));
        }
        route.rules.check(&head.method, &target, &route.prefix)?;
        route.upstream.breaker.check()?;
        let retries = Retries::new(&route.retry_429, &head.method);
        let mut patience = self.shared.token_wait;
        let destination = match route.upstream.current() {
            Some(destination) => destination,
            None => Box::pin(self.discovered(route, &mut patience)).await?,
        };
        let may_switch = route.allows_websocket && payload.is_at_end();
        let handshake = if may_switch { Handshake::of(&head) } else { None };
        let wants_trailers = handshake.is_none() && trailers::are_wanted(&head.headers);
        self.address(&mut head, route, &destination, exchange)?;
        if wants_trailers {
            trailers::ask(&mut head.headers);
        }
        if handshake.is_some() {
            Handshake::ask(&mut head.headers);
        }
        if payload.is_of_unknown_length() {
            headers::frame_in_chunks(&mut head.headers);
        }

        let mut passage = Passage { route, destination: &destination, payload, exchange, patience, retries };
        let mut answered = match &route.token {
            None => {
                if retries.are_over() {
                    payload.forget();
                }
                self.send(&mut passage, head, payload.first(), None).await?.answered
            }
            Some(source) => {
                let again = head.clone();
                let waiters = &self.shared.token_waiters;
                let authorization =
                    self.copies.authorization(&*authorize(source, &mut passage.patience, waiters).await?);
                let first = self.send(&mut passage, head, payload.first(), Some(authorization)).await?;
                match verdict(route, &first.answered) {
                    Verdict::Accepted => {
                        route.hold.accepted(first.generation);
                        first.answered
                    }
                    Verdict::Unknown => first.answered,
                    Verdict::Rejected => Box::pin(self.recover(&mut passage, source, first, again)).await?,
                }
            }
        };

        payload.settle();
        if let (Some(handshake), StatusCode::SWITCHING_PROTOCOLS) = (handshake, answered.response.status()) {
            let caller = passage.exchange.caller();
            let completed = handshake.complete(answered, caller, upgrade, &self.via, self.shared.access_log);
            return Box::pin(completed).await.map(Reply::Whole);
        }
        let received_in = std::mem::replace(answered.response.version_mut(), version);
        let headers = answered.response.headers_mut();
        let trailers = wants_trailers.then(|| trailers::announced(headers)).flatten();
        headers::for_caller(headers, received_in, &self.via);
        headers.extend(trailers.map(|trailers| (TRAILER, trailers)));
        let in_front = route.in_front(&destination);
        location::through_proxy(headers, &destination.origin, in_front, route.prefix.text());
        Ok(Reply::Upstream(answered))
    }

    /// Whether the request may go anywhere, and where.
    fn admit<'r>(&self, head: &'r Parts, exchange: &Exchange) -> Result<(Target<'r>, &Route), ProxyError> {
        if !exchange.caller().peer().is_allowed {
            return Err(ProxyError::CallerNotAllowed);
        }
        if head.version == Version::HTTP_2 && head_size(head) > self.shared.header_bytes {
            return Err(ProxyError::HeaderTooLarge);
        }
        let target = guard::vet(head, &self.shared.policy)?;
        let route = self.shared.table.route(&target).ok_or(ProxyError::RouteNotFound)?;
        if !route.admits(exchange.caller().names()) {
            return Err(ProxyError::CertificateNotAllowed);
        }
        if let Some(limit) = self.shared.allowance.body_bytes {
            let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
            if length.is_some_and(|length: u64| length > limit) {
                return Err(ProxyError::BodyTooLarge { limit });
            }
        }
        Ok((target, route))
    }

    /// Turns a caller's head into the upstream's, all but the token.
    fn address(
        &self,
        head: &mut Parts,
        route: &Route,
        destination: &Destination,
        exchange: &Exchange,
    ) -> Result<(), ProxyError> {
        let statement = Statement::of(route.forwarded, head, exchange.origin(), exchange.caller().is_tls());
        let host = self.copies.host(route.upstream.index, destination);
        headers::for_upstream(&mut head.headers, head.version, host, &self.via, &route.fields);
        if let Some(statement) = statement {
            statement.write(&mut head.headers);
        }
        let target = route
            .target(head.uri.path_and_query(), destination)
            .map_err(|_| ProxyError::BadRequest("the path is too long for the upstream"))?;
        head.uri = Uri::from(target);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        Ok(())
    }

    /// Sends the request once, with a token that has not ended when it goes out.
    async fn attempt(
        &self,
        passage: &mut Passage<'_>,
        head: Box<Parts>,
        body: Attempt<Incoming>,
        mut authorization: Option<Authorization>,
    ) -> Result<Outcome, ProxyError> {
        let route = passage.route;
        let pool = &self.pools[route.upstream.index];
        let origin = &passage.destination.origin;
        let mut request = Outgoing { head, body };
        let mut was_refused = false;
        loop {
            let breaker = &route.upstream.breaker;
            let admitted = breaker.admit(pool.successes())?;
            let lease = match reconnect::lease(pool, passage.destination, breaker).await {
                Ok(lease) => lease,
                Err(error) => return Err(admitted.record_error(error, origin).into()),
            };
            if let (Some(source), false) = (&route.token, lease.is_reused) {
                // Connecting may have outlasted the token.
                let token = authorize(source, &mut passage.patience, &self.shared.token_waiters).await?;
                authorization = Some(self.copies.authorization(&token));
            }
            let generation = authorization.as_ref().map(|authorization| authorization.generation);
            if let Some(authorization) = &authorization {
                request.head.headers.insert(AUTHORIZATION, authorization.value.clone());
            }
            passage.exchange.sent(generation);
            match forward(lease, request, passage.payload, route.timeout).await {
                Ok(answered) => {
                    admitted.record_response(answered.response.status(), &route.retry_on, origin);
                    return Ok(Outcome { answered, generation: generation.unwrap_or_default() });
                }
                Err(Failure::Unsent(unsent)) => request = unsent,
                Err(Failure::Refused(again, _)) if !was_refused => (request, was_refused) = (again, true),
                Err(Failure::Upstream(error) | Failure::Refused(_, error)) => {
                    return Err(admitted.record_error(error, origin).into());
                }
                Err(Failure::Caller(fault)) => return Err(self.blame(fault)),
            }
        }
    }

    /// The answer that counts where the first says that its token is dead: that of a replay, or the first.
    async fn recover(
        &self,
        passage: &mut Passage<'_>,
        source: &TokenSource,
        first: Outcome,
        head: Box<Parts>,
    ) -> Result<Answered<Attempt<Incoming>>, ProxyError> {
        let hold = &passage.route.hold;
        let Outcome { answered, generation } = first;
        let newer = source.current().filter(|token| token.generation() > generation);
        let was_asked_for = newer.is_none();
        let authorization: Authorization = match newer {
            Some(token) => self.copies.authorization(&token),
            None => match self.replacement(passage, source, generation).await? {
                Some(authorization) => authorization,
                None => return Ok(answered),
            },
        };
        // Not kept, or no longer: the 401 passes, and the next request has the new token.
        let Some(body) = passage.payload.again() else {
            passage.exchange.passed_401(NOT_KEPT);
            return Ok(answered);
        };
        if passage.retries.are_over() {
            passage.payload.forget();
        }
        response::discard(answered);

        passage.exchange.replayed();
        let replayed = self.send(passage, head, body, Some(authorization)).await?;
        match verdict(passage.route, &replayed.answered) {
            Verdict::Accepted if was_asked_for => {
                hold.replay_accepted(generation, replayed.generation, self.shared.clock.now());
            }
            Verdict::Accepted => hold.accepted(replayed.generation),
            Verdict::Rejected => {
                passage.exchange.passed_401("fresh_token_rejected");
                if was_asked_for {
                    hold.replay_rejected(self.shared.clock.now());
                }
            }
            Verdict::Unknown => {}
        }
        Ok(replayed.answered)
    }

    /// Another token in the place of a rejected one; `None` if the 401 is the answer.
    async fn replacement(
        &self,
        passage: &mut Passage<'_>,
        source: &TokenSource,
        rejected: Generation,
    ) -> Result<Option<Authorization>, ProxyError> {
        let hold = &passage.route.hold;
        if hold.rejected(rejected, self.shared.clock.now()) == Decision::Pass {
            passage.exchange.passed_401("held");
            return Ok(None);
        }
        if !passage.payload.is_replayable() {
            source.demand(rejected);
            passage.exchange.passed_401(NOT_KEPT);
            return Ok(None);
        }
        // Without a place to wait for it, whoever comes next has it.
        let waiting = place_to_wait(&self.shared.token_waiters);
        let _waiting = waiting.inspect_err(|_| source.demand(rejected))?;
        let began = Instant::now();
        let replaced = source.replace(rejected, passage.patience).await;
        passage.patience = passage.patience.saturating_sub(began.elapsed());
        match replaced {
            Ok(token) => Ok(Some(self.copies.authorization(&token))),
            Err(NotReplaced::Unchanged) => {
                hold.not_replaced(rejected);
                hold.replay_rejected(self.shared.clock.now());
                passage.exchange.passed_401("same_token_again");
                Ok(None)
            }
            Err(NotReplaced::Unavailable(unavailable)) => {
                hold.not_replaced(rejected);
                Err(no_token(source, unavailable))
            }
        }
    }

    /// What a caller is told of its own body.
    fn blame(&self, fault: Fault) -> ProxyError {
        match fault {
            Fault::Stalled => ProxyError::RequestTimeout,
            Fault::TooLarge => {
                ProxyError::BodyTooLarge { limit: self.shared.allowance.body_bytes.unwrap_or(0) }
            }
            Fault::Caller => ProxyError::BadRequest("the body is malformed or broke off"),
            Fault::Superseded => ForwardError::Terminated("the attempt was superseded".to_owned()).into(),
        }
    }
}

/// What an answer says of the token that it was given for.
enum Verdict {
    Accepted,
    Rejected,
    /// A failing server may not have looked at it.
    Unknown,
}

fn verdict(route: &Route, answered: &Answered<Attempt<Incoming>>) -> Verdict {
    match answered.response.status() {
        status if route.retry_on.contains(&status) && !is_insufficient_scope(answered.response.headers()) => {
            Verdict::Rejected
        }
        status if route.retry_on.contains(&status) => Verdict::Accepted,
        // What a 401 that is no reason for another token says of this one, nobody knows.
        status if status.is_server_error() || status == StatusCode::UNAUTHORIZED => Verdict::Unknown,
        _ => Verdict::Accepted,
    }
}
