//! One sending of a request as its route has it: again after a 429, where that is wanted.

use http::request::Parts;
use hyper::body::Incoming;

use super::response;
use super::{Outcome, Passage, Service};
use crate::proxy::auth::authorize::{Authorization, authorize};
use crate::proxy::body::replay::Attempt;
use crate::proxy::error::ProxyError;

impl Service {
    /// Sends the request, and again where the route has that done after a 429.
    pub(super) async fn send(
        &self,
        passage: &mut Passage<'_>,
        head: Box<Parts>,
        body: Attempt<Incoming>,
        authorization: Option<Authorization>,
    ) -> Result<Outcome, ProxyError> {
        if passage.retries.are_over() {
            return self.attempt(passage, head, body, authorization).await;
        }
        Box::pin(self.send_patiently(passage, head, body, authorization)).await
    }

    async fn send_patiently(
        &self,
        passage: &mut Passage<'_>,
        mut head: Box<Parts>,
        mut body: Attempt<Incoming>,
        mut authorization: Option<Authorization>,
    ) -> Result<Outcome, ProxyError> {
        loop {
            let again = head.clone();
            let outcome = self.attempt(passage, head, body, authorization).await?;
            if !passage.payload.is_replayable() {
                return Ok(outcome);
            }
            let Some(wait) = passage.retries.wait(&outcome.answered.response) else { return Ok(outcome) };
            let Some(next) = passage.payload.again() else { return Ok(outcome) };
            response::discard(outcome.answered);
            tokio::time::sleep(wait).await;
            passage.exchange.retried();
            // The wait may have outlasted the token.
            authorization = match &passage.route.token {
                Some(source) => {
                    let waiters = &self.shared.token_waiters;
                    let token = authorize(source, &mut passage.patience, waiters).await?;
                    Some(self.copies.authorization(&token))
                }
                None => None,
            };
            (head, body) = (again, next);
        }
    }
}
