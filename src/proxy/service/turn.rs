//! The turn of a request: a permit out of its caller's own budget, and one out of the budget that the API allows the credential.
//!
//! Each time that a request goes out takes permits of its own, also a replay and a retry.

use std::rc::Rc;
use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use super::exchange::Exchange;
use crate::proxy::error::ProxyError;
use crate::proxy::quota::allowance::{Allowance, Permit};
use crate::proxy::quota::budget::Budget;
use crate::proxy::quota::line::LineOf;
use crate::proxy::route::Table;
use crate::proxy::route::member::Member;

/// The permits of a worker.
pub(super) struct Allowances {
    /// In the order of [`Route::index`](crate::proxy::route::Route::index), and in that of the route's members; `None` for one
    /// without a quota.
    members: Vec<Vec<Option<Rc<Allowance>>>>,
    /// In the order of the callers; `None` for one without a quota. Empty if none has one.
    callers: Vec<Option<Rc<Allowance>>>,
}

impl Allowances {
    /// The permits for each member of each route, and for each caller, those of a budget that `before` has too continued.
    pub(super) fn new(table: &Table, callers: &[Option<Budget>], before: Option<&Self>) -> Self {
        let mut known: Vec<Rc<Allowance>> =
            before.into_iter().flat_map(|before| before.all().cloned()).collect();
        let mut allowance = |budget: &Budget| {
            let same = known.iter().find(|allowance| allowance.budget().is(budget)).cloned();
            same.unwrap_or_else(|| {
                let new = Rc::new(Allowance::new(budget.clone()));
                known.push(Rc::clone(&new));
                new
            })
        };
        let callers = callers.iter().map(|budget| budget.as_ref().map(&mut allowance)).collect();
        let mut of_member = |member: &Member| member.budget.as_ref().map(&mut allowance);
        let of_route = |members: &[Member]| members.iter().map(&mut of_member).collect();
        Self { members: table.routes().iter().map(|route| &*route.members).map(of_route).collect(), callers }
    }

    /// Forgets what is over.
    pub(super) fn sweep(&self) {
        self.all().for_each(|allowance| allowance.sweep());
    }

    /// The turn of a request of this exchange with the credential at this place of the route. Without quotas, it has come.
    pub(super) fn turn(&self, route: usize, place: usize, exchange: &Exchange) -> Turn<'_> {
        let caller = || {
            let caller = exchange.identity.as_ref()?.caller.ok()?.caller;
            self.callers[caller.get()].as_deref()
        };
        let caller = if self.callers.is_empty() { None } else { caller() };
        let credential = self.members[route].get(place).and_then(Option::as_deref);
        Turn { caller: caller.map(Part::new), credential: credential.map(Part::new) }
    }

    fn all(&self) -> impl Iterator<Item = &Rc<Allowance>> {
        self.members.iter().flatten().chain(&self.callers).flatten()
    }
}

/// The permits of one time that a request is sent. Those that were not used go back when they are dropped.
pub(super) struct Turn<'a> {
    /// Of the caller's own budget.
    caller: Option<Part<'a>>,
    /// Of what the API allows the credential.
    credential: Option<Part<'a>>,
}

struct Part<'a> {
    allowance: &'a Allowance,
    permit: Option<Permit<'a>>,
}

impl<'a> Turn<'a> {
    /// Whether the request may go now.
    pub(super) fn has_come(&self) -> bool {
        let is_held = |part: &Option<Part<'_>>| part.as_ref().is_none_or(Part::is_held);
        is_held(&self.caller) && is_held(&self.credential)
    }

    /// Holds permits for a request of this exchange: those that are held, unless they are over, or those at hand, or ones from
    /// the ledgers, the caller's first. Sets `has_waited` in the last case.
    ///
    /// # Errors
    ///
    /// [`ProxyError::CallerQuotaExhausted`] and [`ProxyError::ApiQuotaExhausted`] if the turn of the request does not come in time.
    pub(super) async fn come(
        &mut self,
        exchange: &mut Exchange,
        has_waited: &mut bool,
    ) -> Result<(), ProxyError> {
        // A permit may end while the request waits for the other one.
        while !self.has_come() {
            if let Some(part) = &mut self.caller {
                part.hold(exchange, has_waited).await.map_err(|retry_after| {
                    ProxyError::CallerQuotaExhausted { caller: part.name(), retry_after }
                })?;
            }
            if let Some(part) = &mut self.credential {
                part.hold(exchange, has_waited).await.map_err(|retry_after| {
                    ProxyError::ApiQuotaExhausted { credential: part.name(), retry_after }
                })?;
            }
        }
        Ok(())
    }

    /// The request is sent now.
    pub(super) fn used(&mut self) {
        for part in [&mut self.caller, &mut self.credential].into_iter().flatten() {
            part.permit.iter_mut().for_each(Permit::used);
        }
    }

    /// The turn to send the request once more.
    pub(super) fn again(self) -> Self {
        let again = |part: Part<'a>| Part::new(part.allowance);
        Self { caller: self.caller.map(again), credential: self.credential.map(again) }
    }

    /// The upstream has answered the request, so long after it was sent. What the API says concerns the credential alone.
    pub(super) fn answered<B>(&self, response: &Response<B>, took: Duration) {
        if let Some(permit) = self.credential.as_ref().and_then(|part| part.permit.as_ref()) {
            permit.answered(response.status(), response.headers(), took);
        }
    }
}

impl<'a> Part<'a> {
    const fn new(allowance: &'a Allowance) -> Self {
        Self { allowance, permit: None }
    }

    fn name(&self) -> String {
        self.allowance.budget().name().to_owned()
    }

    fn is_held(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| !permit.is_over())
    }

    /// Holds a permit. An error is the time until the turn of the request.
    async fn hold(&mut self, exchange: &mut Exchange, has_waited: &mut bool) -> Result<(), Duration> {
        if self.is_held() {
            return Ok(());
        }
        exchange.quota_wait.get_or_insert_default();
        let permit = match self.allowance.take(line(exchange)) {
            Some(permit) => permit,
            None => {
                *has_waited = true;
                Box::pin(wait(exchange, self.allowance)).await?
            }
        };
        self.permit = Some(permit);
        Ok(())
    }
}

async fn wait<'a>(exchange: &mut Exchange, allowance: &'a Allowance) -> Result<Permit<'a>, Duration> {
    let started = Instant::now();
    let permit = allowance.ask(line(exchange)).await;
    let now = Instant::now();
    exchange.quota_wait = exchange.quota_wait.map(|waited| waited + (now - started));
    permit.map_err(|retry_at| retry_at.saturating_duration_since(now))
}

/// The line of a request.
fn line(exchange: &Exchange) -> LineOf<'_> {
    let caller = exchange.identity.as_ref().and_then(|identity| identity.labels.name.as_deref());
    LineOf::new(caller, exchange.caller.names().first().map(String::as_str), exchange.origin())
}
