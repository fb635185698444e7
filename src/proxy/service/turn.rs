//! The turn of a request: a permit out of the budget that the API allows the credential.
//!
//! Each time that a request goes out takes a permit of its own, also a replay and a retry.

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

/// The permits of a worker for each member of each route, those of a budget that `before` has too continued.
pub(super) fn allowances(
    table: &Table,
    before: &[Vec<Option<Rc<Allowance>>>],
) -> Vec<Vec<Option<Rc<Allowance>>>> {
    let mut known: Vec<Rc<Allowance>> = before.iter().flatten().flatten().cloned().collect();
    let mut allowance = |budget: &Budget| {
        let same = known.iter().find(|allowance| allowance.budget().is(budget)).cloned();
        same.unwrap_or_else(|| {
            let new = Rc::new(Allowance::new(budget.clone()));
            known.push(Rc::clone(&new));
            new
        })
    };
    let mut of_member = |member: &Member| member.budget.as_ref().map(&mut allowance);
    table.routes().iter().map(|route| route.members.iter().map(&mut of_member).collect()).collect()
}

/// Holds a permit for a request of this exchange: the one that is held, unless it is over, or one at hand, or one from the
/// ledger. Sets `has_waited` in the last case.
///
/// # Errors
///
/// [`ProxyError::ApiQuotaExhausted`] if the turn of the request does not come in time.
pub(super) async fn hold<'a>(
    held: &mut Option<Permit<'a>>,
    exchange: &mut Exchange,
    allowance: &'a Allowance,
    has_waited: &mut bool,
) -> Result<(), ProxyError> {
    if held.as_ref().is_some_and(|permit| !permit.is_over()) {
        return Ok(());
    }
    let waited = exchange.quota_wait.unwrap_or_default();
    exchange.quota_wait = Some(waited);
    *held = match allowance.take(line(exchange)) {
        Some(permit) => Some(permit),
        None => {
            *has_waited = true;
            Some(Box::pin(wait(exchange, allowance)).await?)
        }
    };
    Ok(())
}

/// The upstream has answered a request with this permit, so long after it was sent.
pub(super) fn answered<B>(permit: Option<&Permit<'_>>, response: &Response<B>, took: Duration) {
    if let Some(permit) = permit {
        permit.answered(response.status(), response.headers(), took);
    }
}

async fn wait<'a>(exchange: &mut Exchange, allowance: &'a Allowance) -> Result<Permit<'a>, ProxyError> {
    let started = Instant::now();
    let permit = allowance.ask(line(exchange)).await;
    let now = Instant::now();
    exchange.quota_wait = exchange.quota_wait.map(|waited| waited + (now - started));
    permit.map_err(|retry_at| ProxyError::ApiQuotaExhausted {
        credential: allowance.budget().name().to_owned(),
        retry_after: retry_at.saturating_duration_since(now),
    })
}

/// The line of a request.
fn line(exchange: &Exchange) -> LineOf<'_> {
    let caller = exchange.identity.as_ref().and_then(|identity| identity.labels.name.as_deref());
    LineOf::new(caller, exchange.caller.names().first().map(String::as_str), exchange.origin())
}
