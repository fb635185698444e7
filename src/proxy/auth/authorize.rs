//! The token for a request: the current one, or the next one if there is none.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use crate::proxy::error::{Overload, ProxyError};
use crate::proxy::limits::slots::{Reservation, Slots};
use crate::telemetry::spans::SpanContext;
use crate::token::{Current, Fingerprint, Generation, TokenSource, Unavailable};

/// The token that a request carries.
#[derive(Clone, Debug)]
pub struct Authorization {
    /// The value of the field that carries the token.
    pub value: HeaderValue,
    /// The token's generation.
    pub generation: Generation,
    /// The token's fingerprint.
    pub fingerprint: Option<Fingerprint>,
}

/// How long a request may wait for tokens, and how long it has.
#[derive(Debug)]
pub struct TokenWait {
    limit: Duration,
    spent: Duration,
    /// The spans of the token requests that the request waited for.
    requests: Vec<SpanContext>,
}

/// A wait, whose duration is counted when it ends or is given up.
struct Waiting<'a> {
    wait: &'a mut TokenWait,
    started: Instant,
}

impl TokenWait {
    /// Allows waits of `limit` in total.
    pub const fn new(limit: Duration) -> Self {
        Self { limit, spent: Duration::ZERO, requests: Vec::new() }
    }

    /// The duration of the waits so far.
    pub const fn spent(&self) -> Duration {
        self.spent
    }

    /// The spans of the token requests that were waited for, if there are traces.
    pub fn requests(&self) -> &[SpanContext] {
        &self.requests
    }

    /// Runs a wait for a token of this source, as [`spend`](Self::spend) does.
    pub async fn spend_on<F: Future>(
        &mut self,
        source: &TokenSource,
        wait: impl FnOnce(Duration) -> F,
    ) -> F::Output {
        let (was_underway, before) = source.token_request();
        let output = self.spend(wait).await;
        let (_, after) = source.token_request();
        self.requests.extend(after.filter(|_| was_underway || before != after));
        output
    }

    /// Runs a wait that is bounded by the time left, and counts the duration of the wait.
    pub async fn spend<F: Future>(&mut self, wait: impl FnOnce(Duration) -> F) -> F::Output {
        let left = self.limit.saturating_sub(self.spent);
        let _waiting = Waiting { wait: self, started: Instant::now() };
        wait(left).await
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.wait.spent += self.started.elapsed();
    }
}

/// A usable token. Waits only if there is none.
///
/// # Errors
///
/// [`ProxyError::NoToken`] if no token is published within `wait`, or waiting cannot help; [`ProxyError::Overloaded`]
/// if too many requests wait already.
pub async fn usable_token(
    source: &TokenSource,
    wait: &mut TokenWait,
    waiters: &Arc<Slots>,
) -> Result<Current, ProxyError> {
    if let Some(token) = source.current() {
        return Ok(token);
    }
    let _slot = waiter_slot(waiters)?;
    let waiting = Box::pin(wait.spend_on(source, |within| source.wait(within)));
    waiting.await.map_err(|unavailable| no_token(source, unavailable))
}

/// A slot among the requests that wait for a token. The number is bounded, because each request holds a connection and
/// a part of its body: [`ProxyError::Overloaded`] if no slot is free.
pub fn waiter_slot(waiters: &Arc<Slots>) -> Result<Reservation, ProxyError> {
    waiters.take(1).ok_or(ProxyError::Overloaded(Overload::TokenWaiters))
}

/// The error for a request that needs a token of this source.
pub fn no_token(source: &TokenSource, unavailable: Unavailable) -> ProxyError {
    ProxyError::NoToken { credential: source.name().to_owned(), unavailable }
}
