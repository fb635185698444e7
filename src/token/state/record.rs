//! The content of a credential's state, and the hashes in it.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use secrecy::{ExposeSecret, SecretString};

use crate::config::{Credential, IdentityDigest};
use crate::token::access_token::{AccessToken, Generation};
use crate::token::limiter::Snapshot;
use crate::token::refresh_token_end::RefreshTokenEnd;

/// Everything about a credential that outlives a restart. Moments are those of the clock that the file was opened with.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The refresh token in use, where the server issues refresh tokens. No other copy exists.
    pub refresh_token: Option<SecretString>,
    /// The configured refresh token from which `refresh_token` was rotated. A configured token with another lineage takes
    /// precedence over `refresh_token`.
    pub lineage: Option<Lineage>,
    /// Refresh tokens that the server has refused, the latest last.
    pub refused: Vec<RefreshTokenHash>,
    /// The requests so far with a refresh token that neither succeeded nor had it condemned.
    pub doubt: Option<Doubt>,
    /// The principal of the fallback grant, where that grant has brought the refresh token.
    pub fallback: Option<IdentityDigest>,
    /// When the refresh token ends, if that is known.
    pub refresh_token_end: Option<RefreshTokenEnd>,
    /// How often the refresh token has been replaced since a person last authorized the client.
    pub rotations: u64,
    /// The generation of the latest access token.
    pub generation: Generation,
    /// The latest access token, while it is usable.
    pub access_token: Option<AccessToken>,
    /// The principal and the rights that `access_token` was issued for.
    pub identity: Option<IdentityDigest>,
    /// The content of the latest token request that was answered.
    pub request: Option<RequestMark>,
    /// The client secret that the server accepted last, where two are configured.
    pub client_secret: Option<ClientSecretHash>,
    /// Whether that client secret was `client_secret_next`.
    pub uses_next_secret: bool,
    /// The token limiter's snapshot.
    pub limiter: Snapshot,
    /// The number of the shared record that this state was, or is to become; 0 without replicas.
    pub shared: u64,
}

impl State {
    /// The state without the tokens of another principal: without an access token that was issued for another identity, and
    /// without a refresh token that another fallback grant brought.
    #[must_use]
    pub fn belonging_to(mut self, credential: &Credential) -> Self {
        if self.identity != Some(credential.token_identity()) {
            self.access_token = None;
        }
        if self.is_of_other_fallback(credential) {
            (self.refresh_token, self.lineage, self.fallback) = (None, None, None);
            self.refresh_token_end = None;
            self.rotations = 0;
        }
        self
    }

    /// Whether the refresh token was brought by a fallback grant for another principal than the configured one.
    pub fn is_of_other_fallback(&self, credential: &Credential) -> bool {
        self.fallback.is_some() && self.fallback != credential.fallback_identity()
    }

    /// Whether the state has a refresh token that the server has not refused.
    pub fn has_live_refresh_token(&self) -> bool {
        let token = self.refresh_token.as_ref();
        token.is_some_and(|token| !self.refused.contains(&RefreshTokenHash::of(token)))
    }

    /// Lists what the state holds, for a warning.
    pub(super) fn contents(&self) -> String {
        let parts = [
            self.access_token.is_some().then_some("an access token"),
            self.refresh_token.is_some().then_some("a refused refresh token"),
            Some("the waits, the failures and the used quota of its token endpoint"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// The part that is written without a key.
    pub const fn clear_part(&self) -> ClearPart {
        ClearPart { limiter: self.limiter, uses_next_secret: self.uses_next_secret, request: self.request }
    }
}

/// What became of the requests with one refresh token, while it is open whether the server still accepts the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The refresh token.
    pub token: RefreshTokenHash,
    /// Whether the latest request has no answer: under way, cut by the end of the process, or ended without one.
    pub is_unanswered: bool,
    /// How often in a row the server has refused the token, perhaps in passing.
    pub refusals: u32,
    /// Whether the latest request is under way, or its process has ended in the middle.
    pub is_under_way: bool,
}

impl Doubt {
    /// The doubt while a first request with this token is under way.
    pub const fn of_request(token: RefreshTokenHash) -> Self {
        Self { token, is_unanswered: true, refusals: 0, is_under_way: true }
    }
}

/// The part of a [`State`] that is written without a key: nothing in it is secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClearPart {
    /// The token limiter's snapshot.
    pub limiter: Snapshot,
    /// Whether the client secret that the server accepted last was `client_secret_next`.
    pub uses_next_secret: bool,
    /// The content of the latest token request that was answered.
    pub request: Option<RequestMark>,
}

/// The content of a token request, secrets included, as 16 bits of its hash. Another content has another mark, but for one in
/// 65,536; the mark tells nothing more about the secrets, so that it may be written in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestMark(pub(super) u16);

impl RequestMark {
    /// The mark of a request ([`Credential::request_identity`]).
    pub fn of(request: IdentityDigest) -> Self {
        let [first, second, ..] = *request.as_bytes();
        Self(u16::from_be_bytes([first, second]))
    }
}

/// The credential that a state belongs to: a hash of what identifies a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity([u8; 32]);

/// A SHA-256 hash of a secret for one purpose, written only where it is encrypted and not shown by `Debug`.
macro_rules! hash_of_secret {
    ($(#[$doc:meta])* $name:ident, $purpose:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The hash of this secret.
            pub fn of(secret: &SecretString) -> Self {
                Self(hash($purpose, &[secret.expose_secret().as_bytes()]))
            }

            pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub(super) const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

hash_of_secret! {
    /// The configured refresh token from which later ones were rotated.
    Lineage, "bearerd: first refresh token"
}

hash_of_secret! {
    /// A refresh token that was refused or is in doubt.
    RefreshTokenHash, "bearerd: refused refresh token"
}

hash_of_secret! {
    /// A client secret.
    ClientSecretHash, "bearerd: client secret in use"
}

impl Identity {
    /// The identity that consists of these parts; for a credential, [`Credential::state_identity`].
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash("bearerd: identity of a credential", parts))
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Hashes each part with its length before it: two different lists of parts never hash the same bytes.
fn hash(purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(purpose.as_bytes());
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    std::array::from_fn(|at| digest.as_ref()[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_same_in_every_version_and_differs_with_every_part() {
        let identity = Identity::of(&[b"api", b"https://as.example.com/token", b"client"]);

        assert_eq!(identity.0[..8], [88, 15, 194, 13, 54, 124, 117, 148]);
        let others: [&[&[u8]]; 4] = [
            &[b"api", b"https://as.example.com/token"],
            &[b"api", b"https://as.example.com/tokenclient"],
            &[b"api", b"https://as.example.com/token", b"client", b""],
            &[b"apih", b"ttps://as.example.com/token", b"client"],
        ];
        for other in others {
            assert_ne!(Identity::of(other), identity);
        }
    }
}
