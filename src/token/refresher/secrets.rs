//! A credential's identity with its current secrets, which are read again before each token request.
//!
//! A secret that cannot be read keeps its last value, and does not prevent the other secrets from being read.
//! A secret's file may be on a file system that hangs, so reading a secret is [`Blocking`] work with a bound.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use secrecy::SecretString;
use tracing::{info, warn};

use crate::blocking::Blocking;
use crate::causes::in_one_line;
use crate::config::model::identity::{Grant, KeyedSecret};
use crate::config::model::secret::{Secret, SecretError, SecretForm};
use crate::config::{Credential, Identity, IdentityDigest};
use crate::telemetry::throttle::OnChange;
use crate::token::error::TokenError;

/// How long a token request waits for its secrets to be read.
const SECRET_READ_TIMEOUT: Duration = Duration::from_secs(3);

type Values = Identity<SecretString>;
/// Reads a secret; may block.
type Read = fn(&Secret, SecretForm) -> Result<SecretString, SecretError>;

/// A credential's identity with its secrets.
#[derive(Debug)]
pub(crate) struct CurrentIdentity {
    credential: Arc<Credential>,
    value: Values,
    /// The digests of the credential with this value, computed once.
    token_identity: IdentityDigest,
    request_identity: IdentityDigest,
    /// The secrets that can change, one for each path of a configuration key.
    secrets: Vec<CurrentSecret>,
}

/// A secret that can change.
#[derive(Debug)]
struct CurrentSecret {
    key: Cow<'static, str>,
    secret: Secret,
    form: SecretForm,
    read: Read,
    value: SecretString,
    reading: Blocking<Result<SecretString, SecretError>>,
    /// Why the last reading failed.
    trouble: OnChange<Option<String>>,
}

impl CurrentIdentity {
    /// The identity as it was when the configuration was read.
    pub(crate) fn new(credential: Arc<Credential>) -> Self {
        Self::read_by(Secret::read_as, credential)
    }

    fn read_by(read: Read, credential: Arc<Credential>) -> Self {
        let value = credential.identity.initial();
        let mut secrets: Vec<CurrentSecret> = Vec::new();
        for keyed in credential.identity.keyed_secrets() {
            let (key, KeyedSecret { secret, form, .. }) = (keyed.path(), keyed);
            if secret.may_change() && !secrets.iter().any(|other| other.key == key) {
                secrets.push(CurrentSecret {
                    key,
                    secret: secret.clone(),
                    form,
                    read,
                    value: secret.initial().clone(),
                    reading: Blocking::new(SECRET_READ_TIMEOUT),
                    trouble: OnChange::default(),
                });
            }
        }
        Self {
            token_identity: credential.token_identity(),
            request_identity: credential.request_identity(&value),
            secrets,
            credential,
            value,
        }
    }

    /// The identity as it was read last.
    pub(crate) const fn value(&self) -> &Values {
        &self.value
    }

    /// The principal and the rights of the credential's access tokens ([`Credential::token_identity`]).
    pub(crate) const fn token_identity(&self) -> IdentityDigest {
        self.token_identity
    }

    /// The content of a token request with the current secrets ([`Credential::request_identity`]).
    pub(crate) const fn request_identity(&self) -> IdentityDigest {
        self.request_identity
    }

    /// Whether a token request of this grant may use up a refresh token.
    pub(crate) const fn has_refresh_token(&self) -> bool {
        matches!(self.value.grant, Grant::RefreshToken(_))
    }

    /// Whether a secret can change while the daemon runs.
    pub(crate) const fn may_change(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Why the request of this identity cannot be made: the file of its assertion cannot be read, and the last content has
    /// probably expired.
    pub(crate) fn obstacle(&self, identity: &Values) -> Option<TokenError> {
        let sends = |key: &str| identity.keyed_secrets().iter().any(|sent| sent.path() == key);
        let mut assertions = self.secrets.iter().filter(|secret| secret.form == SecretForm::Assertion);
        let error =
            assertions.find_map(|secret| secret.trouble.current().clone().filter(|_| sends(&secret.key)));
        error.map(TokenError::AssertionFile)
    }

    /// Reads again the secrets that can change. Returns whether the value of a secret has changed.
    ///
    /// # Cancel safety
    ///
    /// A reading that is under way is taken up by the next call.
    pub(crate) async fn read_again(&mut self) -> bool {
        let credential = &self.credential.name;
        join_all(self.secrets.iter_mut().map(|secret| secret.read_again(credential))).await;
        let secrets = &self.secrets;
        let read = self.credential.identity.map(|keyed| {
            let path = keyed.path();
            let current = secrets.iter().find(|current| current.key == path);
            current.map_or_else(|| keyed.secret.initial(), |current| &current.value).clone()
        });
        let is_changed = !read.has_secrets_of(&self.value);
        if is_changed {
            self.value = read;
            self.request_identity = self.credential.request_identity(&self.value);
        }
        is_changed
    }
}

impl CurrentSecret {
    async fn read_again(&mut self, credential: &str) {
        let (read, secret, form) = (self.read, self.secret.clone(), self.form);
        let failure = match self.reading.run(move || read(&secret, form)).await {
            Ok(Ok(value)) => {
                self.value = value;
                None
            }
            Ok(Err(error)) => Some(in_one_line(&error)),
            Err(error) => Some(format!("reading the secret {error}")),
        };
        self.note(credential, failure);
    }

    /// Logs when a secret becomes unreadable, when the reason changes, and when the secret is readable again.
    fn note(&mut self, credential: &str, trouble: Option<String>) {
        if !self.trouble.changes_to(trouble) {
            return;
        }
        let key = &*self.key;
        match self.trouble.current() {
            Some(error) if self.form == SecretForm::Assertion => {
                warn!(credential, key, error, "assertion not readable");
            }
            Some(error) => warn!(credential, key, error, "secret not readable, kept the last one"),
            None => info!(credential, key, "secret readable again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Barrier;

    use secrecy::ExposeSecret;

    use super::*;
    use crate::config::fixture;

    fn value(identity: &CurrentIdentity) -> &str {
        identity.value().secrets()[0].expose_secret()
    }

    fn credential_with(file: &Path) -> Arc<Credential> {
        let secret = format!("client_secret = {{ file = \"{}\" }}", file.display());
        Arc::clone(&fixture::config("", &secret, "").credentials[0])
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_leaves_the_last_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "first").unwrap();
        let mut secret = CurrentIdentity::new(credential_with(&file));
        assert!(!secret.read_again().await);

        std::fs::remove_file(&file).unwrap();
        assert!(!secret.read_again().await);
        assert_eq!(value(&secret), "first");
        let trouble = secret.secrets[0].trouble.current();
        assert!(trouble.as_ref().is_some_and(|trouble| trouble.contains("No such file")));

        std::fs::write(&file, "second").unwrap();
        assert!(secret.read_again().await);
        assert_eq!(value(&secret), "second");
        assert_eq!(secret.secrets[0].trouble.current(), &None);
    }

    /// Time is moved by hand: it does not move by itself while a thread hangs.
    #[tokio::test(start_paused = true)]
    async fn a_reading_that_hangs_is_waited_for_once_and_not_repeated() {
        static HANGING: Barrier = Barrier::new(2);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "first").unwrap();
        let hang: Read = |secret, form| {
            let before = secret.read_as(form);
            HANGING.wait();
            before
        };
        let mut secret = CurrentIdentity::read_by(hang, credential_with(&file));
        std::fs::write(&file, "second").unwrap();

        let (is_changed, ()) = tokio::join!(secret.read_again(), tokio::time::advance(SECRET_READ_TIMEOUT));
        assert!(!is_changed);
        for _ in 0..100 {
            assert!(!secret.read_again().await);
        }
        assert_eq!(value(&secret), "first");

        // Lets one go: a second one would hang for ever, and this test with it.
        HANGING.wait();
        while !secret.read_again().await {
            tokio::task::yield_now().await;
        }
        assert_eq!(value(&secret), "second");
        assert!(!secret.secrets[0].reading.is_running());
    }
    #[tokio::test]
    async fn a_file_that_cannot_be_read_keeps_no_other_secret_from_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let (current, next) = (folder.path().join("current"), folder.path().join("next"));
        for (file, content) in [(&current, "first"), (&next, "second")] {
            std::fs::write(file, content).unwrap();
        }
        let lines = format!(
            "client_secret = {{ file = \"{}\" }}\nclient_secret_next = {{ file = \"{}\" }}",
            current.display(),
            next.display()
        );
        let mut secrets = CurrentIdentity::new(Arc::clone(&fixture::config("", &lines, "").credentials[0]));
        let values = |secrets: &CurrentIdentity| {
            let values = secrets.value().secrets();
            values.iter().map(|value| value.expose_secret().to_owned()).collect::<Vec<_>>()
        };
        let troubled = |secrets: &CurrentIdentity| {
            let troubled = secrets.secrets.iter().filter(|one| one.trouble.current().is_some());
            troubled.map(|one| one.key.to_string()).collect::<Vec<_>>()
        };

        for (lost, kept, key, expected) in [
            (&current, &next, "client_secret", ["first", "third"]),
            (&next, &current, "client_secret_next", ["third", "third"]),
        ] {
            std::fs::remove_file(lost).unwrap();
            std::fs::write(kept, "third").unwrap();
            assert!(secrets.read_again().await, "{key}");
            assert_eq!(values(&secrets), expected);
            assert_eq!(troubled(&secrets), [key]);
            std::fs::write(lost, expected[0]).unwrap();
        }
    }

    /// A file without a private key is handled like an unreadable file.
    #[tokio::test]
    async fn a_key_that_is_none_keeps_the_last_one_beside_a_changed_secret() {
        let folder = tempfile::tempdir().unwrap();
        let (key, subject) = (folder.path().join("key"), folder.path().join("subject"));
        let ([pem, _], _) = fixture::keys::p256();
        std::fs::write(&key, &pem).unwrap();
        std::fs::write(&subject, "first").unwrap();
        let lines = format!(
            "client_auth = \"private_key_jwt\"\nassertion = {{ key = {{ file = \"{}\" }}, alg = \"ES256\" }}\n\
             grant = \"token_exchange\"\nsubject_token = {{ file = \"{}\" }}",
            key.display(),
            subject.display()
        );
        let mut secrets = CurrentIdentity::new(Arc::clone(&fixture::config("", &lines, "").credentials[0]));

        std::fs::write(&key, "no key").unwrap();
        std::fs::write(&subject, "second").unwrap();

        assert!(secrets.read_again().await);
        let values = secrets.value().secrets();
        assert_eq!(values[0].expose_secret().trim_end(), pem.trim_end());
        assert_eq!(values[1].expose_secret(), "second");
        assert_eq!(secrets.secrets[0].key, "assertion.key");
        assert!(secrets.secrets[0].trouble.current().is_some());
    }
}
