//! Who may operate the daemon, as far as a request can tell.
//!
//! In this order: that the address lets anybody at all, that the request means this daemon and comes from no other
//! site's page, and that it shows the token, if there is one. The health checks are asked none of this.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::token::{Guess, Guesses, Token};
use crate::config;
use crate::http::{Authority, Problem, is_cross_site};

/// Decides who may operate.
#[derive(Debug)]
pub struct Access {
    listen: SocketAddr,
    token: Option<Token>,
    guesses: Guesses,
}

impl Access {
    /// As configured, at the address that is listened on.
    pub fn new(admin: &config::Admin, listen: SocketAddr) -> Self {
        Self { listen, token: admin.token.clone().map(Token::new), guesses: Guesses::new() }
    }

    /// Whether this request may, which came from `peer`.
    ///
    /// # Errors
    ///
    /// The first reason against it.
    pub async fn check(&self, head: &Parts, peer: IpAddr) -> Result<(), Problem> {
        let is_on_loopback = self.listen.ip().to_canonical().is_loopback();
        if self.token.is_none() && !is_on_loopback {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "admin_token_not_set",
                "No admin token is set",
                "This address is not on loopback. Set admin.token in the configuration, and show it in \
                 `Authorization: Bearer`.",
            ));
        }
        let authority = Authority::of(head).map_err(|_| host_not_allowed())?;
        if authority.differs_from(&head.uri) || (is_on_loopback && !self.is_own(authority)) {
            return Err(host_not_allowed());
        }
        // A page of another site must not operate us through a person who can reach us.
        if is_cross_site(&head.headers, authority, false, &[]) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "browser_request",
                "Cross-site browser request",
                "A browser sent this for a page of another site.",
            ));
        }
        match &self.token {
            Some(token) => self.check_token(token, &head.headers, peer).await,
            None => Ok(()),
        }
    }

    /// A browser that was tricked into calling us (DNS rebinding) says another name.
    fn is_own(&self, authority: Authority<'_>) -> bool {
        let is_address =
            |address: IpAddr| address.to_canonical().is_loopback() || address == self.listen.ip();
        authority.host.eq_ignore_ascii_case("localhost") || authority.ip().is_some_and(is_address)
    }

    async fn check_token(&self, token: &Token, headers: &HeaderMap, peer: IpAddr) -> Result<(), Problem> {
        if let Some(wait) = self.guesses.shut_out(peer) {
            return Err(too_many().after(Some(wait)));
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let shown = values.next().and_then(bearer);
        match shown.filter(|_| values.next().is_none()) {
            None => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "admin_token_required",
                "Admin token required",
                "Show the token of admin.token in `Authorization: Bearer`.",
            )),
            Some(shown) if token.is(shown).await => Ok(()),
            Some(_) => Err(match self.guesses.note(peer) {
                Guess::Wrong => Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "admin_token_wrong",
                    "Wrong admin token",
                    "The token that was shown is not that of admin.token.",
                ),
                Guess::TooMany(wait) => too_many().after(Some(wait)),
            }),
        }
    }
}

/// RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
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

fn too_many() -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_wrong_tokens",
        "Too many wrong tokens",
        "Your address has shown too many wrong tokens, and is not listened to for a while.",
    )
}

#[cfg(test)]
mod tests;
