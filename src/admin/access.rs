//! Who may operate the daemon, as far as a request can tell.
//!
//! In this order: that the address lets anybody at all, that the request means this daemon and comes from no other
//! site's page, and that it shows the token, if there is one. The health checks are asked none of this.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, StatusCode};

use super::problem::Problem;
use super::token::{Guess, Guesses, Token};
use crate::config;

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
        let authority = authority(head).ok_or_else(host_not_allowed)?;
        if is_on_loopback && !self.is_own(host_of(authority)) {
            return Err(host_not_allowed());
        }
        check_browser(&head.headers, authority)?;
        match &self.token {
            Some(token) => self.check_token(token, &head.headers, peer).await,
            None => Ok(()),
        }
    }

    /// A browser that was tricked into calling us (DNS rebinding) says another name.
    fn is_own(&self, host: &str) -> bool {
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let address = match v6 {
            Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
            None => host.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        };
        let is_address =
            |address: IpAddr| address.to_canonical().is_loopback() || address == self.listen.ip();
        host.eq_ignore_ascii_case("localhost") || address.is_some_and(is_address)
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

/// Where the request wants to go: what its one `Host` says, and a whole URL in its place no other.
fn authority(head: &Parts) -> Option<&str> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    let names_another = head.uri.authority().is_some_and(|other| !other.as_str().eq_ignore_ascii_case(host));
    (hosts.next().is_none() && !names_another).then_some(host)
}

/// Without the port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// A page of another site must not operate us through a person who can reach us.
fn check_browser(headers: &HeaderMap, authority: &str) -> Result<(), Problem> {
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_some_and(|(scheme, rest)| {
            matches!(scheme, "http" | "https") && rest.eq_ignore_ascii_case(authority)
        })
    };
    let is_from_here = |site: &HeaderValue| site == "none" || site == "same-origin";
    if headers.get_all(ORIGIN).iter().all(is_own) && headers.get_all(SEC_FETCH_SITE).iter().all(is_from_here)
    {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "browser_request",
        "Cross-site browser request",
        "A browser sent this for a page of another site.",
    ))
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
