//! Which of a client's two secrets a token request uses, so that a secret can be replaced without a gap, and in which
//! encoding HTTP Basic sends it, where `basic_encoding` is "auto".
//!
//! The secret and the encoding that the server accepted last are used; at first, `client_secret` as it is. When the server
//! refuses the client, each other combination is tried once, at once: first the other encoding if none was accepted yet, or
//! else the other secret. After all were refused, each request that the latch admits tries the next one. A change of a
//! secret starts this over. The state remembers the accepted secret by its hash where the state is encrypted, and otherwise
//! by its key in the configuration. The encoding is learnt again after a restart.

use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use super::endpoint::TokenEndpoint;
use super::endpoint::response::TokenResponse;
use super::error::TokenError;
use super::state::file::{ClientSecretHash, State};
use crate::config::model::identity::ClientAuth;
use crate::config::{BasicEncoding, Credential, Identity};

/// One of the two client secrets, by its key in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhichSecret {
    /// `client_secret`.
    #[default]
    Current,
    /// `client_secret_next`.
    Next,
}

/// A secret in an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    secret: WhichSecret,
    /// The encoding of HTTP Basic.
    encoding: BasicEncoding,
}

/// Chooses the client secret of each token request.
#[derive(Debug)]
pub(super) struct ClientSecrets {
    /// The secret to send, and how.
    candidate: Candidate,
    /// The key of the secret that the server accepted last.
    in_use: WhichSecret,
    /// The hash of that secret: its key may have another value by now.
    accepted: Option<ClientSecretHash>,
    /// The encoding that the server accepted last.
    accepted_encoding: Option<BasicEncoding>,
    /// How many candidates have been refused since a success or a change.
    refused: usize,
}

impl Default for ClientSecrets {
    fn default() -> Self {
        Self {
            candidate: Candidate { secret: WhichSecret::Current, encoding: BasicEncoding::Raw },
            in_use: WhichSecret::Current,
            accepted: None,
            accepted_encoding: None,
            refused: 0,
        }
    }
}

impl WhichSecret {
    /// The key in the configuration.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Current => "client_secret",
            Self::Next => "client_secret_next",
        }
    }
}

impl ClientSecrets {
    /// Continues from a state. In the middle of a series of rejections all candidates have been tried.
    pub(super) fn resume(&mut self, state: &State, identity: &Identity<SecretString>, is_rejected: bool) {
        self.accepted = state.client_secret;
        self.in_use = if state.uses_next_secret { WhichSecret::Next } else { WhichSecret::Current };
        self.candidate.secret = match self.accepted {
            Some(_) => self.key_of_accepted(identity),
            None => self.in_use,
        };
        self.refused = if is_rejected { usize::MAX } else { 0 };
    }

    /// The identity with the secret to send.
    pub(super) fn identity(&self, configured: &Identity<SecretString>) -> Identity<SecretString> {
        let next = configured.with_next_secret().filter(|_| self.candidate.secret == WhichSecret::Next);
        let identity = next.unwrap_or_else(|| configured.clone());
        match configured.client_auth {
            ClientAuth::Basic { encoding: BasicEncoding::Auto, .. } => {
                identity.with_encoding(self.candidate.encoding)
            }
            _ => identity,
        }
    }

    /// The server has refused the client with this candidate. Answers whether to try another one at once.
    pub(super) fn refused(&mut self, configured: &Identity<SecretString>) -> bool {
        let candidates = self.candidates(configured);
        if candidates.len() < 2 {
            return false;
        }
        let sent = candidates.iter().position(|candidate| *candidate == self.candidate);
        let next = sent.map_or(0, |sent| (sent + 1) % candidates.len());
        self.candidate = candidates.get(next).copied().unwrap_or(self.candidate);
        self.refused = self.refused.saturating_add(1);
        self.refused < candidates.len()
    }

    /// The different ways to authenticate, in the order of their trial.
    fn candidates(&self, configured: &Identity<SecretString>) -> Vec<Candidate> {
        let has_next = hash_of(configured, WhichSecret::Next)
            .is_some_and(|next| Some(next) != hash_of(configured, WhichSecret::Current));
        let known = self.accepted_encoding;
        let first = known.unwrap_or(BasicEncoding::Raw);
        let other = if first == BasicEncoding::Raw { BasicEncoding::Form } else { BasicEncoding::Raw };
        let (current, next) = (WhichSecret::Current, WhichSecret::Next);
        let order = match known {
            Some(_) => [(current, first), (next, first), (current, other), (next, other)],
            None => [(current, first), (current, other), (next, first), (next, other)],
        };
        let order = order.map(|(secret, encoding)| Candidate { secret, encoding }).into_iter();
        let is_possible = |candidate: &Candidate| {
            (candidate.secret == current || has_next)
                && (candidate.encoding == first || depends_on_encoding(configured, candidate.secret))
        };
        order.filter(is_possible).collect()
    }

    /// The server has accepted the secret that was sent. Answers which, if it is not the one accepted before.
    pub(super) fn worked(&mut self, configured: &Identity<SecretString>) -> Option<WhichSecret> {
        let has_next = configured.client_secret_next.is_some();
        let worked = if has_next { self.candidate.secret } else { WhichSecret::Current };
        self.candidate.secret = worked;
        self.accepted = hash_of(configured, worked).filter(|_| has_next);
        if depends_on_encoding(configured, worked) {
            self.accepted_encoding = Some(self.candidate.encoding);
        }
        self.refused = 0;
        let before = std::mem::replace(&mut self.in_use, worked);
        (before != worked).then_some(worked)
    }

    /// One of the secrets has changed.
    pub(super) fn changed(&mut self, configured: &Identity<SecretString>) {
        let encoding = self.accepted_encoding.unwrap_or(BasicEncoding::Raw);
        self.candidate = Candidate { secret: self.key_of_accepted(configured), encoding };
        self.refused = 0;
    }

    /// Makes one token request outside the refresh loop, and further ones with each other candidate if the server refuses
    /// the client.
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
        while outcome.as_ref().err().is_some_and(TokenError::refuses_client) && self.refused(configured) {
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

    /// The encoding that the server has accepted, if another one would have been different.
    pub(super) const fn encoding_in_use(&self) -> Option<BasicEncoding> {
        self.accepted_encoding
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

/// Whether HTTP Basic sends this secret differently in each encoding, and the configuration leaves it open.
fn depends_on_encoding(configured: &Identity<SecretString>, which: WhichSecret) -> bool {
    let ClientAuth::Basic { secret, encoding: BasicEncoding::Auto } = &configured.client_auth else {
        return false;
    };
    let secret = match which {
        WhichSecret::Current => Some(secret),
        WhichSecret::Next => configured.client_secret_next.as_ref(),
    };
    let changes = |text: &str| {
        let encoded = form_urlencoded::byte_serialize(text.as_bytes());
        !encoded.flat_map(str::bytes).eq(text.bytes())
    };
    changes(&configured.client_id) || secret.is_some_and(|secret| changes(secret.expose_secret()))
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

    /// The secret and the first character of the encoding of each request that is refused, and whether another one follows
    /// at once.
    fn refusals(
        secrets: &mut ClientSecrets,
        identity: &Identity<SecretString>,
        count: usize,
    ) -> Vec<(String, char, bool)> {
        let refusal = |_| {
            let sent = secrets.identity(identity);
            let ClientAuth::Basic { secret, encoding } = &sent.client_auth else { panic!() };
            let encoding = if *encoding == BasicEncoding::Form { 'f' } else { 'r' };
            (secret.expose_secret().to_owned(), encoding, secrets.refused(identity))
        };
        (0..count).map(refusal).collect()
    }

    fn rows(rows: &[(&str, char, bool)]) -> Vec<(String, char, bool)> {
        rows.iter().map(|(secret, encoding, at_once)| ((*secret).to_owned(), *encoding, *at_once)).collect()
    }

    #[test]
    fn each_secret_is_tried_once_in_each_encoding_that_differs() {
        for (current, next, expected) in [
            ("a%", "a%", &[("a%", 'r', true), ("a%", 'f', false), ("a%", 'r', false)][..]),
            ("a%", "b", &[("a%", 'r', true), ("a%", 'f', true), ("b", 'r', false), ("a%", 'r', false)]),
            ("a", "b%", &[("a", 'r', true), ("b%", 'r', true), ("b%", 'f', false), ("a", 'r', false)]),
            (
                "a%",
                "b%",
                &[
                    ("a%", 'r', true),
                    ("a%", 'f', true),
                    ("b%", 'r', true),
                    ("b%", 'f', false),
                    ("a%", 'r', false),
                ],
            ),
        ] {
            let tried = refusals(&mut ClientSecrets::default(), &identity(current, next), expected.len());
            assert_eq!(tried, rows(expected));
        }
    }

    #[test]
    fn an_encoding_that_was_accepted_is_kept_and_the_other_secret_comes_first() {
        let identity = identity("a%", "b%");
        let mut secrets = ClientSecrets::default();
        assert_eq!(refusals(&mut secrets, &identity, 1), rows(&[("a%", 'r', true)]));
        assert_eq!(secrets.worked(&identity), None);
        assert_eq!(secrets.encoding_in_use(), Some(BasicEncoding::Form));

        let expected = [("a%", 'f', true), ("b%", 'f', true), ("a%", 'r', true), ("b%", 'r', false)];
        assert_eq!(refusals(&mut secrets, &identity, 4), rows(&expected));
        // A change of a secret does not change what the server expects.
        secrets.changed(&identity);
        assert_eq!(refusals(&mut secrets, &identity, 1), rows(&[("a%", 'f', true)]));
    }

    #[test]
    fn a_configured_encoding_and_a_secret_without_special_characters_are_sent_once() {
        for (lines, encoding) in [
            ("basic_encoding = \"raw\"", BasicEncoding::Raw),
            ("basic_encoding = \"form\"", BasicEncoding::Form),
        ] {
            let pinned = fixture::config("", lines, "a%").credentials[0].identity.initial();
            let mut secrets = ClientSecrets::default();
            let sent = secrets.identity(&pinned).client_auth;
            assert!(matches!(sent, ClientAuth::Basic { encoding: sent, .. } if sent == encoding));
            assert!(!secrets.refused(&pinned));
            secrets.worked(&pinned);
            assert_eq!(secrets.encoding_in_use(), None);
        }
        for (lines, secret, differs) in [
            ("", "plain-_.*", false),
            ("", "with space", true),
            ("client_id = \"i:d\"", "plain", true),
            ("client_auth = \"client_secret_post\"", "a%", false),
        ] {
            let identity = fixture::config("", lines, secret).credentials[0].identity.initial();
            assert_eq!(ClientSecrets::default().refused(&identity), differs, "{lines} {secret}");
        }
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
