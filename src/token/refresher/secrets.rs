//! A credential's identity with its current secrets, which are read again before each token request.
//!
//! A secret's file may be on a file system that hangs, so reading it is [`Blocking`] work with a bound. After any failure
//! the last secrets stay in use.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tracing::{info, warn};

use crate::blocking::Blocking;
use crate::causes::in_one_line;
use crate::config::model::identity::Grant;
use crate::config::model::secret::SecretError;
use crate::config::{Credential, Identity, IdentityDigest};
use crate::telemetry::throttle::OnChange;

/// How long a token request waits for its secrets to be read.
const SECRET_READ_TIMEOUT: Duration = Duration::from_secs(3);

type Values = Identity<SecretString>;
/// Reads a credential's secrets; may block.
type Read = fn(&Credential) -> Result<Values, SecretError>;

/// A credential's identity with its secrets.
#[derive(Debug)]
pub(crate) struct CurrentIdentity {
    credential: Arc<Credential>,
    read: Read,
    value: Values,
    /// The digests of the credential with this value, computed once.
    token_identity: IdentityDigest,
    request_identity: IdentityDigest,
    reading: Blocking<Result<Values, SecretError>>,
    /// Why the last reading failed.
    trouble: OnChange<Option<String>>,
}

impl CurrentIdentity {
    /// The identity as it was when the configuration was read.
    pub(crate) fn new(credential: Arc<Credential>) -> Self {
        Self::read_by(|credential| credential.identity.read(), credential)
    }

    fn read_by(read: Read, credential: Arc<Credential>) -> Self {
        let value = credential.identity.initial();
        Self {
            token_identity: credential.token_identity(),
            request_identity: credential.request_identity(&value),
            reading: Blocking::new(SECRET_READ_TIMEOUT),
            trouble: OnChange::default(),
            credential,
            read,
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
    pub(crate) fn may_change(&self) -> bool {
        self.credential.identity.may_change()
    }

    /// Reads the secrets again where one can change. Answers whether one has.
    ///
    /// # Cancel safety
    ///
    /// A reading that is under way is taken up by the next call.
    pub(crate) async fn read_again(&mut self) -> bool {
        if !self.may_change() {
            return false;
        }
        let (read, credential) = (self.read, Arc::clone(&self.credential));
        let failure = match self.reading.run(move || read(&credential)).await {
            Ok(Ok(read)) => {
                self.note(None);
                let is_changed = !read.has_secrets_of(&self.value);
                self.value = read;
                if is_changed {
                    self.request_identity = self.credential.request_identity(&self.value);
                }
                return is_changed;
            }
            Ok(Err(error)) => in_one_line(&error),
            Err(error) => format!("reading the secret {error}"),
        };
        self.note(Some(failure));
        false
    }

    /// Tells of trouble that was not there before, and of its end.
    fn note(&mut self, trouble: Option<String>) {
        if !self.trouble.changes_to(trouble) {
            return;
        }
        let credential = &self.credential.name;
        match self.trouble.current() {
            Some(error) => warn!(credential, error, "secret not readable, kept the last one"),
            None => info!(credential, "secret readable again"),
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
        assert!(secret.trouble.current().as_ref().is_some_and(|trouble| trouble.contains("No such file")));

        std::fs::write(&file, "second").unwrap();
        assert!(secret.read_again().await);
        assert_eq!(value(&secret), "second");
        assert_eq!(secret.trouble.current(), &None);
    }

    /// Time is moved by hand: it does not move by itself while a thread hangs.
    #[tokio::test(start_paused = true)]
    async fn a_reading_that_hangs_is_waited_for_once_and_not_repeated() {
        static HANGING: Barrier = Barrier::new(2);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "first").unwrap();
        let hang: Read = |credential| {
            let before = credential.identity.read();
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
        assert!(!secret.reading.is_running());
    }
}
