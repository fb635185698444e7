//! Which of a client's two secrets a token request uses, so that a secret can be replaced without a gap.
//!
//! The secret that the server accepted last is used. When the server refuses it, the other is tried once, at once; after both
//! were refused, each request that the latch admits tries the other one. A change of either secret starts this over. The
//! state remembers the accepted secret by its hash where the state is encrypted, and otherwise by its key in the
//! configuration.

use secrecy::SecretString;

use super::endpoint::TokenEndpoint;
use super::endpoint::response::TokenResponse;
use super::error::TokenError;
use super::state::file::{ClientSecretHash, State};
use crate::config::{Credential, Identity};

/// One of the two client secrets, by its key in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhichSecret {
    /// `client_secret`.
    #[default]
    Current,
    /// `client_secret_next`.
    Next,
}

/// Chooses the client secret of each token request.
#[derive(Debug, Default)]
pub(super) struct ClientSecrets {
    /// The secret to send.
    candidate: WhichSecret,
    /// The key of the secret that the server accepted last.
    in_use: WhichSecret,
    /// The hash of that secret: its key may have another value by now.
    accepted: Option<ClientSecretHash>,
    /// Whether both have been tried since a success or a change.
    is_other_tried: bool,
}

impl WhichSecret {
    /// The key in the configuration.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Current => "client_secret",
            Self::Next => "client_secret_next",
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Current => Self::Next,
            Self::Next => Self::Current,
        }
    }
}

impl ClientSecrets {
    /// Continues from a state. In the middle of a series of rejections both secrets have been tried.
    pub(super) fn resume(&mut self, state: &State, identity: &Identity<SecretString>, is_rejected: bool) {
        self.accepted = state.client_secret;
        self.in_use = if state.uses_next_secret { WhichSecret::Next } else { WhichSecret::Current };
        self.candidate = match self.accepted {
            Some(_) => self.key_of_accepted(identity),
            None => self.in_use,
        };
        self.is_other_tried = is_rejected;
    }

    /// The identity with the secret to send.
    pub(super) fn identity(&self, configured: &Identity<SecretString>) -> Identity<SecretString> {
        let next = configured.with_next_secret().filter(|_| self.candidate == WhichSecret::Next);
        next.unwrap_or_else(|| configured.clone())
    }

    /// The server has refused the client with this secret. Answers whether to try the other secret at once.
    pub(super) fn refused(&mut self, configured: &Identity<SecretString>) -> bool {
        let has_other = hash_of(configured, WhichSecret::Next)
            .is_some_and(|next| Some(next) != hash_of(configured, WhichSecret::Current));
        if !has_other {
            return false;
        }
        self.candidate = self.candidate.other();
        !std::mem::replace(&mut self.is_other_tried, true)
    }

    /// The server has accepted the secret that was sent. Answers which, if it is not the one accepted before.
    pub(super) fn worked(&mut self, configured: &Identity<SecretString>) -> Option<WhichSecret> {
        let has_next = configured.client_secret_next.is_some();
        let worked = if has_next { self.candidate } else { WhichSecret::Current };
        self.candidate = worked;
        self.accepted = hash_of(configured, worked).filter(|_| has_next);
        self.is_other_tried = false;
        let before = std::mem::replace(&mut self.in_use, worked);
        (before != worked).then_some(worked)
    }

    /// One of the secrets has changed.
    pub(super) fn changed(&mut self, configured: &Identity<SecretString>) {
        self.candidate = self.key_of_accepted(configured);
        self.is_other_tried = false;
    }

    /// Makes one token request outside the refresh loop, and a second one with the other secret if the server refuses the
    /// client with the first.
    ///
    /// # Errors
    ///
    /// The failure of the last request.
    pub(super) async fn ask<E: TokenEndpoint>(
        &mut self,
        credential: &Credential,
        endpoint: &E,
        configured: &Identity<SecretString>,
    ) -> Result<TokenResponse, TokenError> {
        let mut outcome = endpoint.request(credential, &self.identity(configured), None).await;
        if outcome.as_ref().err().is_some_and(TokenError::refuses_client) && self.refused(configured) {
            outcome = endpoint.request(credential, &self.identity(configured), None).await;
        }
        if outcome.is_ok() {
            self.worked(configured);
        }
        outcome
    }

    /// The secret that the server accepted last.
    pub(super) const fn in_use(&self) -> WhichSecret {
        self.in_use
    }

    /// Records in the state which secret was accepted.
    pub(super) const fn remember(&self, state: &mut State) {
        state.client_secret = self.accepted;
        state.uses_next_secret = matches!(self.in_use, WhichSecret::Next);
    }

    /// The key that the accepted secret has now; `client_secret` if it is gone.
    fn key_of_accepted(&self, configured: &Identity<SecretString>) -> WhichSecret {
        let is_at = |which| self.accepted.is_some() && self.accepted == hash_of(configured, which);
        if is_at(WhichSecret::Next) && !is_at(WhichSecret::Current) {
            WhichSecret::Next
        } else {
            WhichSecret::Current
        }
    }
}

fn hash_of(identity: &Identity<SecretString>, which: WhichSecret) -> Option<ClientSecretHash> {
    let secret = match which {
        WhichSecret::Current => identity.client_auth.secret(),
        WhichSecret::Next => identity.client_secret_next.as_ref(),
    };
    secret.map(ClientSecretHash::of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    fn identity(current: &str, next: &str) -> Identity<SecretString> {
        let lines = format!("client_secret = \"{current}\"\nclient_secret_next = \"{next}\"");
        fixture::config("", &lines, "").credentials[0].identity.initial()
    }

    fn asked_with(secrets: &ClientSecrets, identity: &Identity<SecretString>) -> String {
        use secrecy::ExposeSecret;
        let identity = secrets.identity(identity);
        identity.client_auth.secret().unwrap().expose_secret().to_owned()
    }

    #[test]
    fn the_other_secret_is_tried_once_at_once_and_then_both_alternate() {
        let identity = identity("a", "b");
        let mut secrets = ClientSecrets::default();

        let tried: Vec<(String, bool)> =
            (0..6).map(|_| (asked_with(&secrets, &identity), secrets.refused(&identity))).collect();

        let expected = [("a", true), ("b", false), ("a", false), ("b", false), ("a", false), ("b", false)];
        assert_eq!(tried, expected.map(|(secret, at_once)| (secret.to_owned(), at_once)));
    }

    #[test]
    fn the_accepted_secret_is_found_under_whichever_key_it_has() {
        let before = identity("a", "b");
        let mut secrets = ClientSecrets::default();
        assert!(secrets.refused(&before));
        assert_eq!(secrets.worked(&before), Some(WhichSecret::Next));
        let mut state = State::default();
        secrets.remember(&mut state);

        for (now, found) in [
            (identity("a", "b"), "b"),
            // Promoted; beside a third; and gone.
            (identity("b", "c"), "b"),
            (identity("b", "b"), "b"),
            (identity("c", "b"), "b"),
            (identity("c", "d"), "c"),
        ] {
            let mut resumed = ClientSecrets::default();
            resumed.resume(&state, &now, false);
            assert_eq!(asked_with(&resumed, &now), found);
            let mut running = ClientSecrets::default();
            running.refused(&before);
            running.worked(&before);
            running.changed(&now);
            assert_eq!(asked_with(&running, &now), found);
        }
        // In clear only the key's name is known.
        state.client_secret = None;
        secrets.resume(&state, &before, false);
        assert_eq!(asked_with(&secrets, &before), "b");
    }

    #[test]
    fn two_equal_secrets_count_as_one() {
        let mut secrets = ClientSecrets::default();
        assert!(!secrets.refused(&identity("a", "a")));
        let alone = fixture::config("", "", "a").credentials[0].identity.initial();
        assert!(!secrets.refused(&alone));
        assert_eq!(secrets.worked(&alone), None);
    }

    #[test]
    fn a_restart_between_rejections_does_not_try_the_other_secret_at_once() {
        let identity = identity("a", "b");
        let mut secrets = ClientSecrets::default();
        secrets.resume(&State::default(), &identity, true);

        assert!(!secrets.refused(&identity));
        assert_eq!(asked_with(&secrets, &identity), "b");
    }
}
