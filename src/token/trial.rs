//! One token request outside the refresh loop, for `bearerd check --online`.
//!
//! The request is made by the credential's own client, with its certificate authorities, proxy and time-outs, and its response
//! is checked as the refresher would check it. Nothing is published. The result holds no token and no secret.

use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::client_secrets::ClientSecrets;
pub use super::client_secrets::WhichSecret;
use super::endpoint::TokenEndpoint;
use super::endpoint::redact::redacted;
use super::endpoint::response::TokenResponse;
use super::endpoint::validate;
pub use super::endpoint::validate::not_granted;
pub use super::endpoint::warnings::MAX_SKEW;
use super::error::TokenError;
use super::jwt;
use super::rotation::{GrantChoice, Rotation};
use super::state::DurableState;
use crate::clock::{Clock, wall_clock};
use crate::config::{BasicEncoding, Credential};
use crate::judged_as::JudgedAs;

/// The result of a trial request.
#[derive(Debug)]
pub struct Trial {
    /// The time from the request to the end of its response.
    pub took: Duration,
    /// The client secret that the server accepted, if any.
    pub secret_in_use: WhichSecret,
    /// Whether the server accepted client id and secret form-encoded only.
    pub needs_form_encoding: bool,
    /// The grant, if there is one.
    pub granted: Option<Granted>,
    /// Why requests would receive no token, if so.
    pub failure: Option<TokenError>,
}

/// A server's grant, redacted.
#[derive(Debug)]
pub struct Granted {
    /// The granted scopes; `None` means as requested.
    pub scopes: Option<Vec<String>>,
    /// The lifetime by the response, or by the token's `exp` where that counts; `None` if neither says.
    pub lifetime: Option<Duration>,
    /// The token's claims, if it is a legible JWT.
    pub claims: Option<jwt::Claims>,
    /// The tenant in those claims, not redacted: for a request, and not to be shown.
    pub tenant: Option<String>,
    /// Whether the response's Content-Type is one of JSON.
    pub is_labelled_json: bool,
    /// Whether the lifetime was longer than a year and was shortened: the server may mean milliseconds.
    pub lifetime_was_cut: bool,
    /// The server's clock, and ours.
    pub clocks: Option<(SystemTime, SystemTime)>,
}

/// The grant of a credential's next request, for a credential with refresh tokens.
#[derive(Debug)]
pub enum NextGrant {
    /// A refresh token, which the request would use up.
    RefreshToken {
        /// How often in a row the server has refused it, perhaps in passing.
        refusals: u32,
    },
    /// The fallback, and why.
    Fallback(TokenError),
}

/// The grant that a credential with refresh tokens would use now, by its configuration and its state on disk. Makes no
/// request.
///
/// # Errors
///
/// Why no grant may be used until a person acts.
pub fn next_grant(credential: &Credential, clock: Clock) -> Result<NextGrant, TokenError> {
    // `bearerd check` reports a state that cannot be opened elsewhere.
    let inspection = DurableState::inspect(credential, clock, JudgedAs::FolderOwner).ok().flatten();
    let state = inspection.map(|inspection| inspection.state).unwrap_or_default();
    match Rotation::new(credential).choose(&credential.identity.initial(), &state, false)? {
        GrantChoice::Fallback { why } => Ok(NextGrant::Fallback(why)),
        GrantChoice::RefreshToken(in_use) => Ok(NextGrant::RefreshToken { refusals: in_use.refusals() }),
        GrantChoice::Configured => Ok(NextGrant::RefreshToken { refusals: 0 }),
    }
}

/// Makes one token request and, as the refresher does, further ones with `client_secret_next` and in the other encoding of
/// HTTP Basic if the server refuses the client.
pub async fn trial<E: TokenEndpoint>(credential: &Credential, endpoint: &E, clock: Clock) -> Trial {
    let identity = credential.identity.initial();
    let sent = clock.now();
    let mut secrets = ClientSecrets::default();
    let answer = secrets.ask(credential, endpoint, &identity).await;
    let took = sent.until(clock.now());
    let secret_in_use = secrets.in_use();
    let needs_form_encoding = secrets.encoding_in_use() == Some(BasicEncoding::Form);
    let grant = match answer {
        Ok(grant) => grant,
        Err(failure) => {
            return Trial { took, secret_in_use, needs_form_encoding, granted: None, failure: Some(failure) };
        }
    };
    let mut secrets: Vec<SecretString> = identity.secrets().into_iter().cloned().collect();
    secrets.push(SecretString::from(grant.access_token.as_str()));
    let now = wall_clock();
    let lifetime = validate::lifetime(&grant, credential, now).ok().flatten();
    let failure = validate::first_token(&grant, credential, sent, now).err();
    let granted = Some(shown(&grant, &secrets, lifetime, now));
    Trial { took, secret_in_use, needs_form_encoding, granted, failure }
}

/// Redacts a response: a server may echo secrets and the token in any member.
fn shown(
    grant: &TokenResponse,
    secrets: &[SecretString],
    lifetime: Option<Duration>,
    now: SystemTime,
) -> Granted {
    let printable = |words: String| redacted(&words, secrets);
    let scopes = grant.scopes.clone().map(|scopes| scopes.into_iter().map(printable).collect());
    let claims = jwt::claims(&grant.access_token);
    let tenant = claims.as_ref().and_then(|claims| claims.tenant.clone());
    let claims = claims.map(|claims| jwt::Claims {
        iss: claims.iss.map(printable),
        aud: claims.aud.into_iter().map(printable).collect(),
        tenant: claims.tenant.map(printable),
    });
    Granted {
        scopes,
        lifetime: lifetime.filter(|lifetime| !lifetime.is_zero()),
        claims,
        tenant,
        is_labelled_json: grant.is_labelled_json,
        lifetime_was_cut: grant.lifetime_was_cut,
        clocks: grant.server_time.map(|theirs| (theirs, now)),
    }
}
