//! The token for a request: the current one, or, where there is none, the next.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use crate::proxy::error::{Overload, ProxyError};
use crate::proxy::limits::slots::{Reservation, Slots};
use crate::token::{Current, Generation, TokenSource, Unavailable};

/// What a request is sent with.
#[derive(Clone, Debug)]
pub struct Authorization {
    /// The value of its `Authorization` field.
    pub value: HeaderValue,
    /// The token's generation.
    pub generation: Generation,
}

/// A usable token. Waits only where there is none, and takes that from the request's patience.
///
/// # Errors
///
/// [`ProxyError::NoToken`] if none comes within `patience`; [`ProxyError::Overloaded`] if too many wait already.
pub async fn authorize(
    source: &TokenSource,
    patience: &mut Duration,
    waiters: &Arc<Slots>,
) -> Result<Current, ProxyError> {
    if let Some(token) = source.current() {
        return Ok(token);
    }
    let _waiting = place_to_wait(waiters)?;
    let began = Instant::now();
    let token =
        Box::pin(source.wait(*patience)).await.map_err(|unavailable| no_token(source, unavailable))?;
    *patience = patience.saturating_sub(began.elapsed());
    Ok(token)
}

/// A place among the requests that wait for a token: each keeps its connection, and what was read of its body.
///
/// # Errors
///
/// [`ProxyError::Overloaded`] if there is none.
pub fn place_to_wait(waiters: &Arc<Slots>) -> Result<Reservation, ProxyError> {
    waiters.take(1).ok_or(ProxyError::Overloaded(Overload::TokenWaiters))
}

/// The error for a request that needs a token of this source.
pub fn no_token(source: &TokenSource, unavailable: Unavailable) -> ProxyError {
    ProxyError::NoToken { credential: source.name().to_owned(), unavailable }
}
