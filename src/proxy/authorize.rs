//! The token for a request: the current one, or, where there is none, the next.

use std::time::Duration;

use http::HeaderValue;

use super::error::ProxyError;
use crate::token::{Current, Generation, TokenSource, Unavailable};

/// What a request is sent with.
#[derive(Clone, Debug)]
pub struct Authorization {
    /// The value of its `Authorization` field.
    pub value: HeaderValue,
    /// The token's generation.
    pub generation: Generation,
}

impl From<Current> for Authorization {
    fn from(token: Current) -> Self {
        Self { value: token.authorization().clone(), generation: token.generation() }
    }
}

/// A usable token. Waits only where there is none.
///
/// # Errors
///
/// [`ProxyError::NoToken`] if none comes within `wait`.
pub async fn authorize(source: &TokenSource, wait: Duration) -> Result<Authorization, ProxyError> {
    match source.current() {
        Some(token) => Ok(token.into()),
        None => Ok(source.wait(wait).await.map_err(|unavailable| no_token(source, unavailable))?.into()),
    }
}

/// The error for a request that needs a token of this source.
pub fn no_token(source: &TokenSource, unavailable: Unavailable) -> ProxyError {
    ProxyError::NoToken { credential: source.name().to_owned(), unavailable }
}
