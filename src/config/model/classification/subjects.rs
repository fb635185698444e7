//! The secrets whose content decides on whose behalf a token is issued: new content is used at once.

use secrecy::{ExposeSecret, SecretString};

use crate::config::model::identity::{Assertion, ClientAuth, Grant, Identity};

impl<S> Grant<S> {
    /// The secret that stands for the principal, if the grant has one; new content is used at once.
    pub const fn subject(&self) -> Option<&S> {
        match self {
            Self::RefreshToken(token) => token.as_ref(),
            Self::TokenExchange { subject_token, subject_token_type: _ } => Some(subject_token),
            Self::JwtBearer(assertion) => assertion.subject(),
            Self::ClientCredentials | Self::Password { .. } | Self::AuthorizationCode { .. } => None,
        }
    }
}

impl<S> Assertion<S> {
    /// An assertion that another process makes: its content names the principal.
    const fn subject(&self) -> Option<&S> {
        match self {
            Self::File(assertion) => Some(assertion),
            Self::Signed(_) => None,
        }
    }
}

impl<S> Identity<S> {
    /// The secrets that stand for the principal: of the grant in use, and of the client.
    pub fn subjects(&self, is_on_fallback: bool) -> impl Iterator<Item = &S> {
        let of_client = match &self.client_auth {
            ClientAuth::PrivateKeyJwt(assertion) => assertion.subject(),
            _ => None,
        };
        self.grant_in_use(is_on_fallback).subject().into_iter().chain(of_client)
    }
}

impl Identity<SecretString> {
    /// Whether the secrets of both that stand for the principal are equal.
    pub fn has_subjects_of(&self, other: &Self, is_on_fallback: bool) -> bool {
        let exposed = self.subjects(is_on_fallback).map(ExposeSecret::expose_secret);
        exposed.eq(other.subjects(is_on_fallback).map(ExposeSecret::expose_secret))
    }
}
