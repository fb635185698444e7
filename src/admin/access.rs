//! Authorizes requests to the admin address and to that of health checks.
//!
//! The checks in their order: a token must be known where one is needed; `Host` must name this daemon; no page of another
//! site may have caused the request; and a token must be shown where one is needed. A token that is shown must be right,
//! also where none is needed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap};
use http::request::Parts;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::server::Client;
use super::token::{Guesses, Token};
use crate::config;
use crate::config::Listen;
use crate::http::{Authority, Problem, basic_password, is_cross_site};

/// What a request is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Read the metrics.
    Metrics,
    /// Read the state of the whole daemon: status and page.
    Overview,
    /// Read the state of credentials.
    Read,
    /// Change the state of the daemon.
    Change,
    /// Replace the grant of a credential.
    Grant,
}

/// How the clients of an address reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// By a unix socket, which the system opens to the daemon's own user alone.
    Unix,
    /// From this machine.
    Loopback(IpAddr),
    /// From a network.
    Network,
}

/// Decides which requests are authorized at one address.
#[derive(Debug)]
pub struct Access {
    reach: Reach,
    is_tls: bool,
    /// Whether every `Host` is accepted.
    takes_any_host: bool,
    token: Option<Arc<Token>>,
    /// Whether reading the metrics needs the token.
    metrics_token: bool,
    guesses: Arc<Guesses>,
}

impl Access {
    /// The access to the admin address `listen`, with the daemon's own token if there is one.
    pub fn new(admin: &config::Admin, listen: &Listen, own: Option<&SecretString>) -> Self {
        let reach = Reach::of(listen);
        let is_tls = admin.tls.is_some();
        // The daemon's own token never crosses a network in the clear.
        let own = own.filter(|_| is_tls || reach != Reach::Network);
        let configured = admin.token.clone().map(Token::new);
        Self {
            reach,
            is_tls,
            takes_any_host: reach == Reach::Network,
            token: configured.or_else(|| own.cloned().map(Token::own)).map(Arc::new),
            metrics_token: admin.metrics_token,
            guesses: Arc::new(Guesses::new()),
        }
    }

    /// The access to the metrics at an address of health checks.
    pub fn of_health(admin: &config::Admin, listen: &Listen, own: Option<&SecretString>) -> Self {
        let reach = Reach::of(listen);
        let own = own.filter(|_| reach != Reach::Network);
        let configured = admin.token.clone().map(Token::new);
        Self {
            reach,
            is_tls: false,
            takes_any_host: true,
            token: configured.or_else(|| own.cloned().map(Token::own)).map(Arc::new),
            metrics_token: admin.metrics_token,
            guesses: Arc::new(Guesses::new()),
        }
    }

    /// Goes on with the lock-outs of `other`.
    #[must_use]
    pub fn with_guesses_of(mut self, other: &Self) -> Self {
        self.guesses = Arc::clone(&other.guesses);
        self
    }

    /// Checks a request of this client.
    ///
    /// # Errors
    ///
    /// The first check that fails.
    pub async fn check(&self, head: &Parts, client: Client, need: Need) -> Result<(), Problem> {
        let needs_token = self.needs_token(need);
        if needs_token && self.token.is_none() {
            return Err(token_not_set());
        }
        self.check_host(head)?;
        self.check_site(head)?;
        match &self.token {
            Some(token) => self.check_token(token, &head.headers, client, needs_token).await,
            None => Ok(()),
        }
    }

    /// Whether a request must show a token.
    fn needs_token(&self, need: Need) -> bool {
        match (need, self.reach) {
            (_, Reach::Unix) | (Need::Overview, Reach::Loopback(_)) => false,
            (Need::Metrics, _) => self.metrics_token,
            (_, Reach::Network) => true,
            (Need::Read | Need::Change, Reach::Loopback(_)) => {
                self.token.as_ref().is_some_and(|token| token.is_configured())
            }
            // Without a token there is no state, and no credential that accepts a grant.
            (Need::Grant, Reach::Loopback(_)) => self.token.is_some(),
        }
    }

    /// Checks that `Host` names this daemon, or that a request of HTTP/1.0 has none. After DNS rebinding a browser sends the
    /// attacker's name.
    ///
    /// # Errors
    ///
    /// The request is for another host.
    pub(super) fn check_host(&self, head: &Parts) -> Result<(), Problem> {
        if self.takes_any_host && self.reach != Reach::Network {
            return Ok(());
        }
        let authority = Authority::of(head).map_err(|_| host_not_allowed())?;
        if authority.differs_from(&head.uri) || !(self.takes_any_host || self.is_own(authority)) {
            return Err(host_not_allowed());
        }
        Ok(())
    }

    /// Checks that no page of another site has caused the request: the page would use the address through the browser of
    /// an operator.
    ///
    /// # Errors
    ///
    /// A page of another site has caused the request.
    pub(super) fn check_site(&self, head: &Parts) -> Result<(), Problem> {
        let authority = Authority::of(head).unwrap_or(Authority::NONE);
        if is_cross_site(&head.headers, authority, self.is_tls, &[]) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "browser_request",
                "Cross-site browser request",
                "A page of another site caused this browser request.",
            ));
        }
        Ok(())
    }

    fn is_own(&self, authority: Authority<'_>) -> bool {
        let is_address = |address: IpAddr| {
            address.to_canonical().is_loopback()
                || matches!(self.reach, Reach::Loopback(own) if own == address)
        };
        let host = authority.host;
        host.is_empty() || host.eq_ignore_ascii_case("localhost") || authority.ip().is_some_and(is_address)
    }

    async fn check_token(
        &self,
        token: &Token,
        headers: &HeaderMap,
        client: Client,
        is_needed: bool,
    ) -> Result<(), Problem> {
        let Some(shown) = shown(headers) else {
            return match client.ip().and_then(|ip| self.guesses.locked_out(ip)) {
                _ if !is_needed => Ok(()),
                Some(wait) => Err(too_many(wait)),
                None => Err(token_required(token.is_configured())),
            };
        };
        // Wrong tokens over a unix socket gain nothing: the mode of its file has admitted the client.
        let Some(ip) = client.ip() else {
            return if token.is(&shown).await { Ok(()) } else { Err(wrong_token()) };
        };
        if let Some(wait) = self.guesses.locked_out(ip) {
            return Err(too_many(wait));
        }
        if token.is(&shown).await {
            return Ok(());
        }
        Err(self.guesses.note(ip).map_or_else(wrong_token, too_many))
    }
}

impl Reach {
    fn of(listen: &Listen) -> Self {
        match listen {
            Listen::Unix(_) => Self::Unix,
            Listen::Tcp(address) if listen.is_local() => Self::Loopback(address.ip()),
            Listen::Tcp(_) => Self::Network,
        }
    }
}

/// The token of the one `Authorization` field: that of `Bearer` (RFC 6750 §2.1), or the password of `Basic` (RFC 7617 §2).
/// Schemes are case-insensitive (RFC 9110 §11.1).
fn shown(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Zeroizing::new(rest.trim_start_matches(' ').to_owned()));
    }
    basic_password(value)
}

fn host_not_allowed() -> Problem {
    Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "host_not_allowed",
        "Host not allowed",
        "Call the admin address as localhost, or by the address it listens on.",
    )
}

fn token_not_set() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "admin_token_not_set",
        "No admin token is set",
        "The address listens beyond loopback. Set admin.token and admin.tls in the configuration, and send the token in \
         `Authorization: Bearer`; or let operators use loopback or a unix socket.",
    )
}

fn token_required(is_configured: bool) -> Problem {
    let detail = if is_configured {
        "Send the token of admin.token in `Authorization: Bearer`, or as the password of `Authorization: Basic`."
    } else {
        "Send the token that the daemon keeps in the file admin.token beside its state, in `Authorization: Bearer`; \
         commands of bearerd do, if they run as the daemon's user and with its configuration."
    };
    let title = "Admin token required";
    Problem::new(StatusCode::UNAUTHORIZED, "admin_token_required", title, detail)
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
