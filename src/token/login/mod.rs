//! A person's login: the authorization code is exchanged for tokens, whose response is checked as the refresh loop would.
//!
//! The result becomes the credential's new state where no daemon runs, or is handed over to a running daemon.

pub mod authorization;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use tracing::warn;

use self::authorization::{Attempt, NonceCheck};
use super::access_token::AccessToken;
use super::client_secrets::ClientSecrets;
use super::endpoint::TokenEndpoint;
use super::endpoint::redact::redacted;
use super::endpoint::validate;
use super::endpoint::warnings::ResponseWarnings;
use super::error::TokenError;
use super::operator::GrantOrigin;
use super::refresh_token_end::RefreshTokenEnd;
use super::rotation;
use super::state::file::{RequestMark, State};
use crate::clock::{Clock, Moment, wall_clock};
use crate::config::{Credential, Identity};

/// The tokens of a login, sufficient for a daemon.
#[derive(Debug)]
pub struct LoginGrant {
    refresh_token: SecretString,
    /// The refresh token's lifetime; zero where it never ends, and `None` where the server did not say.
    refresh_lifetime: Option<Duration>,
    token: AccessToken,
    /// The access token's lifetime; `None` where the server did not say.
    lifetime: Option<Duration>,
    /// The granted scopes; `None` where the server did not say.
    scopes: Option<Vec<String>>,
    /// The secrets that must not be quoted from the response.
    secrets: Vec<SecretString>,
    /// The client secret that the server accepted.
    client_secrets: ClientSecrets,
}

/// Why a login failed.
#[derive(Debug, Error)]
pub enum LoginError {
    /// The server issued no usable token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Without a refresh token the person would have to log in again when the access token expires.
    #[error("the server sent no refresh token, and nothing was stored")]
    NoRefreshToken,
    /// The tokens may be another person's.
    #[error("the ID token is of another login: its `nonce` is another, or missing; nothing was stored")]
    OtherNonce,
}

/// Exchanges the authorization code of an attempt for tokens.
///
/// # Errors
///
/// [`LoginError`]. Nothing of the response is used then.
pub async fn exchange<E: TokenEndpoint>(
    credential: &Credential,
    endpoint: &E,
    attempt: &Attempt,
    code: SecretString,
    clock: Clock,
) -> Result<LoginGrant, LoginError> {
    let identity = Identity { grant: attempt.grant(code), ..credential.identity.initial() };
    let sent = clock.now();
    let mut client_secrets = ClientSecrets::default();
    let response = client_secrets.ask(credential, endpoint, &identity).await?;
    check_nonce(attempt, response.id_token.as_ref(), &credential.name)?;
    let now = wall_clock();
    let token = validate::first_token(&response, credential, sent, now)?;
    let lifetime = validate::lifetime(&response, credential, now)?.filter(|lifetime| !lifetime.is_zero());
    ResponseWarnings::default().of_grant(&response, credential, now);
    let refresh_lifetime = response.refresh_lifetime;
    let refresh_token = response.refresh_token.ok_or(LoginError::NoRefreshToken)?;
    let mut secrets: Vec<SecretString> = identity.secrets().into_iter().cloned().collect();
    secrets.extend([refresh_token.clone(), SecretString::from(response.access_token.as_str())]);
    let scopes = response.scopes;
    Ok(LoginGrant { refresh_token, refresh_lifetime, token, lifetime, scopes, secrets, client_secrets })
}

/// Checks the nonce of the ID token. Only the access token is needed, so an ID token that is missing or illegible causes a
/// warning.
fn check_nonce(
    attempt: &Attempt,
    id_token: Option<&SecretString>,
    credential: &str,
) -> Result<(), LoginError> {
    match attempt.check_id_token(id_token) {
        NonceCheck::Passed => {}
        NonceCheck::NoIdToken => {
            warn!(
                credential,
                "`openid` was requested and the server sent no ID token, whose nonce is unchecked"
            );
        }
        NonceCheck::Illegible => {
            warn!(credential, "the ID token is no legible JWT, and its nonce is unchecked");
        }
        NonceCheck::OtherNonce => return Err(LoginError::OtherNonce),
    }
    Ok(())
}

impl LoginGrant {
    /// The credential's new state, the same as that of a daemon to which the grant is handed over.
    pub fn state(&self, credential: &Credential, before: &State) -> State {
        let generation = before.generation.next();
        let identity = credential.identity.initial();
        let mut state = State {
            generation,
            access_token: Some(self.token.with_generation(generation)),
            identity: Some(credential.token_identity()),
            request: Some(RequestMark::of(credential.request_identity(&identity))),
            limiter: before.limiter.authorized(),
            ..before.clone()
        };
        self.client_secrets.remember(&mut state);
        let end = RefreshTokenEnd::first(self.refresh_lifetime, self.token.issued());
        rotation::adopt(&mut state, self.refresh_token.clone(), end, &identity);
        state
    }

    /// The grant as JSON with its origin, for a running daemon. The lifetime is the rest of it at the moment `now`.
    pub fn handed_over(&self, credential: &Credential, now: Moment) -> SecretString {
        let mut json = serde_json::json!(GrantOrigin::of(credential));
        json["refresh_token"] = self.refresh_token.expose_secret().into();
        json["access_token"] = self.token.as_str().into();
        let left = |lifetime: Duration| lifetime.saturating_sub(self.token.issued().until(now)).as_secs();
        if let Some(lifetime) = self.lifetime {
            json["expires_in"] = left(lifetime).into();
        }
        if let Some(lifetime) = self.refresh_lifetime.filter(|lifetime| !lifetime.is_zero()) {
            json["refresh_expires_in"] = left(lifetime).max(1).into();
        }
        if let Some(scopes) = &self.scopes {
            json["scope"] = scopes.join(" ").into();
        }
        SecretString::from(json.to_string())
    }

    /// The granted scopes, redacted; `None` means as requested.
    pub fn scopes(&self) -> Option<Vec<String>> {
        let scopes = self.scopes.as_ref()?;
        Some(scopes.iter().map(|scope| redacted(scope, &self.secrets)).collect())
    }

    /// The tenant that the access token names, redacted.
    pub fn tenant(&self) -> Option<String> {
        self.token.tenant().map(|tenant| redacted(&tenant, &self.secrets))
    }

    /// The access token's lifetime; `None` where the server did not say.
    pub const fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::token::access_token::Generation;
    use crate::token::limiter::{Barrier, Blocked, Snapshot};
    use crate::token::state::file::RefreshTokenHash;

    fn credential() -> Credential {
        let lines = "grant = \"authorization_code\"\nauthorize_url = \"https://as.test/a\"\nstate_file = \"s\"\n\
                     state_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"\nclient_secret_next = \"y\"";
        Credential::clone(&fixture::config("", lines, "x").credentials[0])
    }

    fn brought(refresh_token: &str, now: Moment) -> LoginGrant {
        LoginGrant {
            refresh_token: SecretString::from(refresh_token),
            refresh_lifetime: Some(Duration::from_mins(30)),
            lifetime: None,
            scopes: None,
            secrets: Vec::new(),
            client_secrets: ClientSecrets::default(),
            token: AccessToken::new("a", Generation::NONE.next(), now, Duration::from_mins(1), Vec::new())
                .unwrap(),
        }
    }

    #[test]
    fn a_login_resets_the_old_grants_failures_and_keeps_the_servers_wait() {
        let clock = Clock::system();
        let now = clock.now();
        let refused = ["old", "older"].map(|token| RefreshTokenHash::of(&SecretString::from(token)));
        let blocked = |by| Some(Blocked { until: now + Duration::from_mins(5), by });
        let before = |by| State {
            rotations: 5,
            refused: refused.to_vec(),
            limiter: Snapshot {
                blocked: blocked(by),
                failures: 7,
                rejections: 3,
                quota_full_at: now + Duration::from_secs(9),
                ..Snapshot::default()
            },
            ..State::default()
        };
        let state = |by, token| brought(token, now).state(&credential(), &before(by));

        let throttled = state(Barrier::RetryAfter, "new");
        assert_eq!(throttled.limiter.blocked, blocked(Barrier::RetryAfter));
        assert_eq!(throttled.limiter.quota_full_at, now + Duration::from_secs(9));
        assert_eq!(
            (throttled.limiter.failures, throttled.limiter.rejections, throttled.rotations),
            (0, 0, 0)
        );
        assert_eq!(throttled.refused, refused);
        assert_eq!(throttled.refresh_token_end.unwrap().at, now + Duration::from_mins(30));
        for by in [Barrier::Latch, Barrier::Backoff, Barrier::Breaker] {
            assert_eq!(state(by, "new").limiter.blocked, None);
        }
        // The server has just given it out: it is good again.
        assert_eq!(state(Barrier::Latch, "old").refused, refused[1..]);
    }
}
