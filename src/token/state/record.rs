//! What a credential must not forget, and whose it is.

use aws_lc_rs::digest::{Context, SHA256};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::Moment;
use crate::config::{Credential, IdentityDigest};
use crate::token::access_token::{AccessToken, Generation};
use crate::token::limiter::Blocked;

/// All that outlives a restart. The moments in it are those of the clock the file was opened with.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The grant, where the server hands out refresh tokens: the only copy there may be.
    pub refresh_token: Option<SecretString>,
    /// Which configured refresh token it goes back to; a configured one that is another wins over it.
    pub lineage: Option<Lineage>,
    /// Refresh tokens that the server does not take any more, the latest last.
    pub refused: Vec<Refused>,
    /// Where the refresh token was brought by the fallback grant: the principal of that grant.
    pub fallback: Option<IdentityDigest>,
    /// How often the refresh token has been replaced since someone logged in.
    pub rotations: u64,
    /// The latest access token's generation.
    pub generation: Generation,
    /// The latest access token, while it is usable.
    pub access_token: Option<AccessToken>,
    /// On whose behalf it was issued, and with which rights.
    pub identity: Option<IdentityDigest>,
    /// The content of the latest token request that was answered.
    pub request: Option<IdentityDigest>,
    /// Which client secret worked last, where there are two.
    pub client_secret: Option<SecretMark>,
    /// What the answers so far demand. The only part that is written without a key.
    pub memory: Memory,
}

impl State {
    /// The state without the tokens of another principal: without an access token that was issued for another identity, and
    /// without a refresh token that another fallback grant brought.
    #[must_use]
    pub fn belonging_to(mut self, credential: &Credential) -> Self {
        if self.identity != Some(credential.token_identity()) {
            self.access_token = None;
        }
        if self.fallback.is_some() && self.fallback != credential.fallback_identity() {
            (self.refresh_token, self.lineage, self.fallback) = (None, None, None);
            self.rotations = 0;
        }
        self
    }
}

/// What a limiter must not forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Until when token requests are kept back, and by what.
    pub blocked: Option<Blocked>,
    /// Failures in a row.
    pub failures: u32,
    /// Rejections in a row.
    pub rejections: u32,
    /// When the quota is whole again.
    pub quota_whole_again: Moment,
    /// When the part of it for forced requests is.
    pub forced_quota_whole_again: Moment,
    /// Whether the client secret that worked last was `client_secret_next`.
    pub uses_next_secret: bool,
}

/// Whose state it is: a hash of what makes a credential the one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity([u8; 32]);

impl Identity {
    /// The identity that consists of these parts; for a credential, [`Credential::state_identity`].
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash("bearerd: identity of a credential", parts))
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Which configured refresh token later ones go back to: a hash of it, kept where it is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Lineage([u8; 32]);

impl Lineage {
    /// The lineage that begins with this token.
    pub fn of(configured: &SecretString) -> Self {
        Self(hash("bearerd: first refresh token", &[configured.expose_secret().as_bytes()]))
    }

    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lineage").finish_non_exhaustive()
    }
}

/// A refresh token that was refused: a hash of it, kept where it is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Refused([u8; 32]);

impl Refused {
    /// That one.
    pub fn of(token: &SecretString) -> Self {
        Self(hash("bearerd: refused refresh token", &[token.expose_secret().as_bytes()]))
    }

    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refused").finish_non_exhaustive()
    }
}

/// A client secret: a hash of it, kept where it is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretMark([u8; 32]);

impl SecretMark {
    /// That of this one.
    pub fn of(secret: &SecretString) -> Self {
        Self(hash("bearerd: client secret in use", &[secret.expose_secret().as_bytes()]))
    }

    pub(super) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SecretMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretMark").finish_non_exhaustive()
    }
}

/// Each part with its length before it, so that no two lists of parts run into the same bytes.
fn hash(what: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(what.as_bytes());
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
