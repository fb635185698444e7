//! The client's secret as of now: read again before each token request, where it may have changed.
//!
//! A file is read aside from the loop, and not waited for long: it may be on a file system that hangs. Whatever
//! goes wrong, the last secret stays in use. There is one reading at a time, so that what hangs costs one thread
//! and not one for each attempt.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::causes::in_one_line;
use crate::config::Credential;
use crate::config::secret::SecretError;

/// How long a token request waits for a reading. One that has hung so long is not waited for again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Reads a credential's secret; may hang.
type Read = fn(&Credential) -> Result<SecretString, SecretError>;

/// A credential's client secret.
#[derive(Debug)]
pub struct CurrentSecret {
    credential: Arc<Credential>,
    read: Read,
    value: SecretString,
    /// One that has not come back in time.
    reading: Option<JoinHandle<Result<SecretString, SecretError>>>,
    /// Why the last reading brought nothing.
    trouble: Option<String>,
}

impl CurrentSecret {
    /// The secret as it was when the configuration was read.
    pub fn new(credential: Arc<Credential>) -> Self {
        Self::read_by(|credential| credential.client_secret.read(), credential)
    }

    fn read_by(read: Read, credential: Arc<Credential>) -> Self {
        let value = credential.client_secret.initial().clone();
        Self { credential, read, value, reading: None, trouble: None }
    }

    /// The secret that was read last.
    pub const fn value(&self) -> &SecretString {
        &self.value
    }

    /// Reads the secret again where it may have changed; answers whether it did.
    ///
    /// # Cancel safety
    ///
    /// A reading that is under way is taken up by the next call.
    pub async fn read_again(&mut self) -> bool {
        if !self.credential.client_secret.may_change() {
            return false;
        }
        let patience = if self.reading.is_some() { Duration::ZERO } else { PATIENCE };
        let reading = self.reading.get_or_insert_with(|| {
            let (read, credential) = (self.read, Arc::clone(&self.credential));
            tokio::task::spawn_blocking(move || read(&credential))
        });
        let Ok(read) = tokio::time::timeout(patience, reading).await else {
            self.note(Some("reading it does not come to an end".to_owned()));
            return false;
        };
        self.reading = None;
        match read {
            Ok(Ok(secret)) => {
                self.note(None);
                let is_changed = secret.expose_secret() != self.value.expose_secret();
                self.value = secret;
                is_changed
            }
            Ok(Err(error)) => {
                self.note(Some(in_one_line(&error)));
                false
            }
            Err(_) => {
                self.note(Some("reading it panicked".to_owned()));
                false
            }
        }
    }

    /// Tells of trouble that was not there before, and of its end.
    fn note(&mut self, trouble: Option<String>) {
        if trouble == self.trouble {
            return;
        }
        let credential = &self.credential.name;
        match &trouble {
            Some(error) => warn!(credential, error, "secret not readable, kept the last one"),
            None => info!(credential, "secret readable again"),
        }
        self.trouble = trouble;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Barrier;

    use super::*;
    use crate::config::fixture;

    fn credential_with(file: &Path) -> Arc<Credential> {
        let secret = format!("client_secret = {{ file = \"{}\" }}", file.display());
        Arc::clone(&fixture::config("", &secret, "").credentials[0])
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_leaves_the_last_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "first").unwrap();
        let mut secret = CurrentSecret::new(credential_with(&file));
        assert!(!secret.read_again().await);

        std::fs::remove_file(&file).unwrap();
        assert!(!secret.read_again().await);
        assert_eq!(secret.value().expose_secret(), "first");
        assert!(secret.trouble.as_ref().is_some_and(|trouble| trouble.contains("No such file")));

        std::fs::write(&file, "second").unwrap();
        assert!(secret.read_again().await);
        assert_eq!(secret.value().expose_secret(), "second");
        assert_eq!(secret.trouble, None);
    }

    /// Time is moved by hand: it does not move by itself while a thread hangs.
    #[tokio::test(start_paused = true)]
    async fn a_reading_that_hangs_is_waited_for_once_and_not_started_again() {
        static HANGING: Barrier = Barrier::new(2);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "first").unwrap();
        let hang: Read = |credential| {
            let before = credential.client_secret.read();
            HANGING.wait();
            before
        };
        let mut secret = CurrentSecret::read_by(hang, credential_with(&file));
        std::fs::write(&file, "second").unwrap();

        let (is_changed, ()) = tokio::join!(secret.read_again(), tokio::time::advance(PATIENCE));
        assert!(!is_changed);
        for _ in 0..100 {
            assert!(!secret.read_again().await);
        }
        assert_eq!(secret.value().expose_secret(), "first");

        // Lets one go: a second one would hang for ever, and this test with it.
        HANGING.wait();
        let reading = secret.reading.as_ref().unwrap();
        while !reading.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(secret.read_again().await);
        assert_eq!(secret.value().expose_secret(), "second");
        assert!(secret.reading.is_none());
    }
}
