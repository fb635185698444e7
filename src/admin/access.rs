//! Authorizes requests to the operator's API. Health checks need no authorization.
//!
//! The checks in their order: beyond loopback a token must be configured; `Host` must name this daemon; no page of
//! another site may have caused the request; and the request must carry the token, if one is configured.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::token::{Guesses, Token};
use crate::config;
use crate::http::{Authority, Problem, is_cross_site};

/// Decides which requests may use the operator's API.
#[derive(Debug)]
pub struct Access {
    listen: SocketAddr,
    token: Option<Token>,
    guesses: Guesses,
}

impl Access {
    /// The configured access, for the address `listen`.
    pub fn new(admin: &config::Admin, listen: SocketAddr) -> Self {
        Self { listen, token: admin.token.clone().map(Token::new), guesses: Guesses::new() }
    }

    /// Checks a request from the client `peer`.
    ///
    /// # Errors
    ///
    /// The first check that fails.
    pub async fn check(&self, head: &Parts, peer: IpAddr) -> Result<(), Problem> {
        let is_on_loopback = self.listen.ip().to_canonical().is_loopback();
        if self.token.is_none() && !is_on_loopback {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "admin_token_not_set",
                "No admin token is set",
                "The admin address listens beyond loopback. Set admin.token in the configuration, and send it in \
                 `Authorization: Bearer`.",
            ));
        }
        let authority = Authority::of(head).map_err(|_| host_not_allowed())?;
        if authority.differs_from(&head.uri) || (is_on_loopback && !self.is_own(authority)) {
            return Err(host_not_allowed());
        }
        // A page of another site must not use the API through the browser of an operator.
        if is_cross_site(&head.headers, authority, false, &[]) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "browser_request",
                "Cross-site browser request",
                "A page of another site caused this browser request.",
            ));
        }
        match &self.token {
            Some(token) => self.check_token(token, &head.headers, peer).await,
            None => Ok(()),
        }
    }

    /// Whether `Host` names this daemon, or a request of HTTP/1.0 has none. After DNS rebinding a browser sends the
    /// attacker's name.
    fn is_own(&self, authority: Authority<'_>) -> bool {
        let is_address =
            |address: IpAddr| address.to_canonical().is_loopback() || address == self.listen.ip();
        let host = authority.host;
        host.is_empty() || host.eq_ignore_ascii_case("localhost") || authority.ip().is_some_and(is_address)
    }

    async fn check_token(&self, token: &Token, headers: &HeaderMap, peer: IpAddr) -> Result<(), Problem> {
        if let Some(wait) = self.guesses.locked_out(peer) {
            return Err(too_many(wait));
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let shown = values.next().and_then(bearer);
        match shown.filter(|_| values.next().is_none()) {
            None => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "admin_token_required",
                "Admin token required",
                "Send the token of admin.token in `Authorization: Bearer`.",
            )),
            Some(shown) if token.is(shown).await => Ok(()),
            Some(_) => Err(self.guesses.note(peer).map_or_else(wrong_token, too_many)),
        }
    }
}

/// The token of a `Bearer` field (RFC 6750 §2.1); the scheme is case-insensitive (RFC 9110 §11.1).
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
}

fn host_not_allowed() -> Problem {
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "host_not_allowed",
        "Host not allowed",
        "Call the admin address as localhost, or by the address it listens on.",
    )
}

fn wrong_token() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "admin_token_wrong",
        "Wrong admin token",
        "The token is not that of admin.token.",
    )
}

fn too_many(wait: Duration) -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_wrong_tokens",
        "Too many wrong tokens",
        "Your address sent too many wrong tokens, and is locked out for a while.",
    )
    .after(Some(wait))
}

#[cfg(test)]
mod tests;
