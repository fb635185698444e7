//! The path of a request: from the caller to the upstream, and of the response back.
//!
//! Read [`Service::proxy`] first: it calls the stages in their order, and each stage is a file of its own.

mod access_log;
mod admission;
mod context;
mod discovery;
pub(in crate::proxy) mod drain;
pub mod exchange;
mod failover;
mod head;
pub mod header_cache;
mod known_callers;
mod login_stub;
pub mod outcome;
pub mod preview;
mod received;
pub mod refusals;
mod rejected_token;
pub mod response;
pub mod retry;
mod send;
pub mod settings;
mod trace;
mod turn;
pub mod websocket;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};

use self::context::{KeptHead, RequestContext, TokenChoice};
use self::drain::unless_cut;
use self::exchange::{Exchange, ExchangeSettings};
use self::header_cache::HeaderCache;
use self::known_callers::KnownCallers;
use self::outcome::RouteLabels;
use self::received::Received;
use self::refusals::Refusals;
use self::response::ResponseBody;
use self::retry::RetryBudget;
use self::settings::ServiceSettings;
use self::turn::Allowances;
use super::auth::verdict::Verdict;
use super::body::replay::{AttemptBody, ReplayBody};
use super::downstream::serve::{Answer, Downstream};
use super::downstream::upgrade::Upgrade;
use super::error::ProxyError;
use super::message::forwarded;
use super::message::json_links::JsonLinks;
use super::message::loops::LoopMark;
use super::message::via::Via;
use super::route::guard::Present;
use super::upstream::forward::Answered;
use super::upstream::pool::Pool;
use crate::proxy::downstream::request_body::ClientBody;
use crate::telemetry::audit::AuditGate;
use crate::telemetry::metrics::traffic::Meter;

/// Answers the requests of one worker. Never shared between threads.
pub struct Service {
    pub(super) shared: Arc<ServiceSettings>,
    via: Via,
    loop_mark: LoopMark,
    pub(super) header_cache: HeaderCache,
    pub(super) refusals: Refusals,
    pub(super) pools: Vec<Rc<Pool<AttemptBody<ClientBody>>>>,
    /// In the order of [`Route::index`](super::route::Route::index).
    labels: Vec<Rc<RouteLabels>>,
    /// The configured callers; `None` without any.
    callers: Option<KnownCallers>,
    allowances: Allowances,
    pub(super) meter: Rc<Meter>,
    /// The place in its pool of the next credential, of each route.
    turns: Vec<Cell<usize>>,
}

/// The response to a request that was not refused.
enum Reply {
    /// The upstream's, streamed as it arrives, with these links rewritten.
    Upstream(Answered<AttemptBody<ClientBody>>, Option<Box<JsonLinks>>),
    /// Complete: a synthetic response, or the head of a switch to another protocol.
    Complete(Response<Bytes>),
}

impl Service {
    /// A service with a connection pool for each upstream, in the order of [`Upstream::index`].
    ///
    /// [`Upstream::index`]: super::upstream::Upstream::index
    pub fn new(
        shared: Arc<ServiceSettings>,
        worker: usize,
        pools: Vec<Rc<Pool<AttemptBody<ClientBody>>>>,
    ) -> Self {
        let meter = Rc::new(Meter::new(Arc::clone(&shared.traffic), worker));
        let (via, loop_mark) = (Via::new(&shared.instance), LoopMark::new(&shared.instance));
        let labels = shared.table.routes().iter().map(|route| Rc::new(RouteLabels::of(route, &meter)));
        let labels = labels.collect();
        let callers = shared.callers.as_ref().map(|callers| KnownCallers::new(Arc::clone(callers), &meter));
        let refusals = Refusals::new(shared.refused.clone());
        let allowances = Allowances::new(&shared.table, &shared.caller_budgets, None);
        let turns = shared.table.routes().iter().map(|_| Cell::new(worker)).collect();
        let header_cache = HeaderCache::default();
        Self {
            shared,
            via,
            loop_mark,
            header_cache,
            refusals,
            pools,
            labels,
            callers,
            allowances,
            meter,
            turns,
        }
    }

    /// Continues what the worker kept under the configuration `before`.
    #[must_use]
    pub(super) fn continuing(mut self, before: &Self) -> Self {
        self.header_cache = before.header_cache.for_another_table();
        let ServiceSettings { table, caller_budgets, .. } = &*self.shared;
        self.allowances = Allowances::new(table, caller_budgets, Some(&before.allowances));
        self
    }

    /// Forgets what is over.
    pub(super) fn sweep(&self) {
        self.header_cache.forget_tokens();
        self.refusals.hand_over();
        self.allowances.sweep();
    }

    /// Answers a request: with the upstream's response, a synthetic one, or a refusal.
    pub fn answer(
        self: Rc<Self>,
        request: Request<ClientBody>,
        downstream: Downstream,
    ) -> Answer<ResponseBody> {
        let Downstream { connection, progress, upgrade } = downstream;
        let ServiceSettings { networks, body_limits, sampling, limits, .. } = &*self.shared;
        let settings = ExchangeSettings { sampling: *sampling, token_wait: limits.token_wait };
        let client_address =
            forwarded::client_address(&connection.peer.get(), request.headers(), &networks.trusted_proxies);
        let present = Present::among(request.headers());
        let (caller, responding) = (Rc::clone(&connection), Rc::clone(&progress));
        let mut exchange =
            Exchange::begin(&request, present, caller, responding, client_address, settings, &self.meter);
        if let Some(callers) = &self.callers {
            callers.identify(&request, &mut exchange);
        }
        let (mut head, body) = request.into_parts();
        if let Some(spans) = &self.shared.spans {
            exchange.begin_span(spans, &mut head);
        }
        let head = Box::new(head);
        let request_body = ReplayBody::new(body, body_limits).on_connection(&connection.unread_bodies);
        // The future is moved as a whole: it captures only what lasts as long as the request.
        Box::pin(async move {
            let reply = {
                let proxying = pin!(self.proxy(head, present, &request_body, &mut exchange, &upgrade));
                unless_cut(&connection, &progress, proxying).await
            };
            progress.is_answered.set(true);
            let response = match reply {
                Ok(Reply::Upstream(answered, links)) => {
                    response::relay(answered, links, request_body, exchange)
                }
                Ok(Reply::Complete(response)) => response::reply(response, request_body, exchange),
                Err(error) => {
                    self.refusals.add(&exchange, &error);
                    response::refuse(&error, request_body, exchange)
                }
            };
            Ok(response)
        })
    }

    /// The path of one request, stage by stage.
    async fn proxy(
        &self,
        mut head: Box<Parts>,
        present: Present,
        request_body: &ReplayBody<ClientBody>,
        exchange: &mut Exchange,
        upgrade: &Upgrade,
    ) -> Result<Reply, ProxyError> {
        if self.shared.audit_gate.as_ref().is_some_and(AuditGate::is_closed) {
            return Err(ProxyError::AuditUnavailable);
        }
        let peer = exchange.caller.peer.get();
        let caller = exchange.identity.as_ref().map(|identity| identity.caller);
        let (target, route) =
            self.shared.admit(&head, present, peer.is_allowed, exchange.caller.names(), caller)?;
        request_body.limit_pace(route.body_timeout, route.body_rate);
        exchange.routed(&self.labels[route.index]);
        exchange.progress.begin(route.read_timeout);
        if route.is_login(&head.method, target.path) {
            let query = head.uri.query().unwrap_or_default();
            let answer = Box::pin(login_stub::answer(request_body, query, &route.login_scopes));
            return answer.await.map(Reply::Complete).map_err(|fault| self.body_error(fault));
        }
        route.rules.check(&head.method, &target, &route.prefix)?;
        route.upstream.breaker.check()?;
        let retries = RetryBudget::new(&route.retry_429, &head.method);
        let destination = match route.upstream.current() {
            Some(destination) => destination,
            None => Box::pin(self.discovered(route, &mut exchange.token_wait)).await?,
        };
        let received = Received {
            client_address: exchange.origin(),
            request_id: exchange.request_id.value().clone(),
            has_trace: exchange.has_trace(),
            is_tls: exchange.caller.is_tls(),
            has_body: !request_body.is_at_end(),
            is_of_unknown_length: request_body.is_of_unknown_length(),
            fields: target.fields,
        };
        let negotiated = self.rewrite_request(&mut head, received, route, &destination)?;

        let destination = &*destination;
        let may_resend = route.retry_stale && head.method.is_idempotent();
        let may_repeat = may_resend || !route.members.is_empty() || !retries.is_exhausted();
        let kept = may_repeat.then(|| KeptHead::of(&head));
        let token_choice = TokenChoice::OfRoute;
        let mut context = RequestContext {
            route,
            destination,
            head: kept,
            request_body,
            exchange,
            member: route.members.first(),
            token_choice,
            retries,
            may_switch: negotiated.handshake.is_some(),
            may_resend,
        };
        let mut answered = match &*route.members {
            [] => {
                context.free_replay_buffer();
                self.send(&mut context, head, request_body.first(), None).await?.answered
            }
            [member] => {
                let authorization = self.authorize(&mut context, member).await?;
                let first = self.send(&mut context, head, request_body.first(), Some(authorization)).await?;
                match Verdict::of(&first.answered.response, &route.retry_on) {
                    Verdict::Accepted => {
                        member.accepted(first.generation, first.demanded);
                        first.answered
                    }
                    Verdict::Unknown => first.answered,
                    Verdict::Rejected => Box::pin(self.recover(&mut context, member, first)).await?,
                }
            }
            _ => Box::pin(self.send_through_pool(&mut context, head, request_body.first())).await?,
        };

        request_body.response_received();
        let status = answered.response.status();
        if let (Some(handshake), StatusCode::SWITCHING_PROTOCOLS) = (&negotiated.handshake, status) {
            let completed = handshake.complete(answered, context.exchange, upgrade, &self.via);
            return Box::pin(completed).await.map(Reply::Complete);
        }
        let links = self.rewrite_response(&mut answered.response, &negotiated, route, destination);
        Ok(Reply::Upstream(answered, links))
    }
}
