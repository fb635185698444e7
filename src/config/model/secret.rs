//! Secrets and their sources.
//!
//! A secret is written as `{ env = "NAME" }`, `{ file = "/path" }` or, with a warning, a plain string. The value is a
//! [`SecretString`], which is wiped when dropped and never printed. Each read opens the file anew, so that a replaced
//! file and a swapped symlink take effect.

use std::io;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::environment::Environment;
use super::signing_key::{self, KeyError, SigningAlgorithm, SigningKey};
use super::small_file;

/// Largest file of a secret: larger than any key or token.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The source of a secret.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// An environment variable.
    Environment(String),
    /// A file; a relative path starts at the folder of the configuration.
    File(PathBuf),
    /// The configuration.
    Plain(SecretString),
}

/// The form that the value of a secret must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretForm {
    /// Any text.
    Text,
    /// A private key for an algorithm.
    PrivateKey(SigningAlgorithm),
    /// A private key for an algorithm, and its certificate.
    CertifiedKey(SigningAlgorithm),
    /// An assertion, such as a JWT: visible ASCII.
    Assertion,
    /// The value of a header field (RFC 9110 §5.5).
    FieldValue,
}

/// A secret, readable when the configuration was read.
#[derive(Clone, Debug)]
pub struct Secret {
    /// The source.
    pub(in crate::config) source: SecretSource,
    value: SecretString,
}

impl Eq for Secret {}

/// Two secrets are equal if their sources are, and their values were when the configurations were read.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let is_same_source = match (&self.source, &other.source) {
            (SecretSource::Environment(one), SecretSource::Environment(two)) => one == two,
            (SecretSource::File(one), SecretSource::File(two)) => one == two,
            (SecretSource::Plain(_), SecretSource::Plain(_)) => true,
            _ => false,
        };
        is_same_source && self.value.expose_secret() == other.value.expose_secret()
    }
}

/// A secret cannot be read. Messages name the variable or file, never the value.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The value of the environment variable is not text.
    #[error("the environment variable {0} is not UTF-8")]
    VariableNotText(String),
    /// The file cannot be read, or is not a regular file.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not text.
    #[error("{} is not UTF-8", .0.display())]
    NotText(PathBuf),
    /// The file is larger than any secret.
    #[error("{} has more than 64 KiB", .0.display())]
    TooLarge(PathBuf),
    /// The value is empty.
    #[error("{0} is empty")]
    Empty(String),
    /// The value is not a key of the needed kind.
    #[error("{place} is not usable")]
    NotAKey {
        /// The file or variable.
        place: String,
        /// The cause.
        source: KeyError,
    },
    /// The value is not an assertion.
    #[error("{0} holds no assertion: a JWT, in one line without blanks")]
    NotAnAssertion(String),
    /// The value cannot stand in a header field.
    #[error("{0} is not the value of a header field: one line of text without blanks at its ends")]
    NotAFieldValue(String),
}

impl Secret {
    /// Reads the secret for the first time. Relative paths start at `folder`.
    pub fn load(
        source: &SecretSource,
        folder: &Path,
        environment: &Environment,
    ) -> Result<Self, SecretError> {
        let (source, value) = match source {
            SecretSource::Environment(name) => {
                let not_read = if environment.is_not_text(name) {
                    SecretError::VariableNotText
                } else {
                    SecretError::NotSet
                };
                let value = environment.get(name).ok_or_else(|| not_read(name.clone()))?;
                (source.clone(), SecretString::from(value.to_owned()))
            }
            SecretSource::File(path) => {
                let path = folder.join(path);
                let value = read_file(&path)?;
                (SecretSource::File(path), value)
            }
            SecretSource::Plain(value) => (source.clone(), value.clone()),
        };
        let secret = Self { source, value };
        if secret.value.expose_secret().is_empty() {
            return Err(SecretError::Empty(secret.place()));
        }
        Ok(secret)
    }

    /// The current value: a file is read again, other sources keep their value.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match &self.source {
            SecretSource::File(path) => read_file(path),
            SecretSource::Environment(_) | SecretSource::Plain(_) => Ok(self.value.clone()),
        }
    }

    /// Reads the current value, which must have this form.
    ///
    /// # Errors
    ///
    /// [`SecretError`] if the secret cannot be read, or has another form.
    pub fn read_as(&self, form: SecretForm) -> Result<SecretString, SecretError> {
        let value = self.read()?;
        self.check(&value, form)?;
        Ok(value)
    }

    /// Checks that the value at the time when the configuration was read has this form.
    ///
    /// # Errors
    ///
    /// [`SecretError`] if the value has another form.
    pub fn check_initial(&self, form: SecretForm) -> Result<(), SecretError> {
        self.check(&self.value, form)
    }

    fn check(&self, value: &SecretString, form: SecretForm) -> Result<(), SecretError> {
        let text = value.expose_secret();
        match form {
            SecretForm::Text => Ok(()),
            SecretForm::PrivateKey(algorithm) => self.usable(SigningKey::from_pem(value, algorithm)),
            SecretForm::CertifiedKey(algorithm) => self
                .usable(SigningKey::from_pem(value, algorithm).and_then(|_| signing_key::thumbprint(value))),
            SecretForm::Assertion if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(()),
            SecretForm::Assertion => Err(SecretError::NotAnAssertion(self.place())),
            SecretForm::FieldValue if is_field_value(text) => Ok(()),
            SecretForm::FieldValue => Err(SecretError::NotAFieldValue(self.place())),
        }
    }

    fn usable<T>(&self, key: Result<T, KeyError>) -> Result<(), SecretError> {
        key.map(drop).map_err(|source| SecretError::NotAKey { place: self.place(), source })
    }

    /// The secret with its current value, or with the value that it has here if it cannot be read.
    #[must_use]
    pub(in crate::config) fn read_again(&self, form: SecretForm) -> Self {
        let value = self.read_as(form).unwrap_or_else(|_| self.value.clone());
        Self { source: self.source.clone(), value }
    }

    /// Whether the value can change while the daemon runs.
    pub fn may_change(&self) -> bool {
        matches!(self.source, SecretSource::File(_))
    }

    /// Whether the value stands in the configuration itself.
    pub fn is_plain(&self) -> bool {
        matches!(self.source, SecretSource::Plain(_))
    }

    /// The source, for messages.
    pub fn place(&self) -> String {
        match &self.source {
            SecretSource::Environment(name) => format!("the environment variable {name}"),
            SecretSource::File(path) => path.display().to_string(),
            SecretSource::Plain(_) => "this secret".to_owned(),
        }
    }

    /// The value at the time when the configuration was read.
    pub fn initial(&self) -> &SecretString {
        &self.value
    }
}

/// RFC 9110 §5.5: no white space at its ends.
fn is_field_value(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && HeaderValue::from_str(text).is_ok()
}

/// Reads a file without one newline at the end, which `echo` and editors write.
fn read_file(path: &Path) -> Result<SecretString, SecretError> {
    let content = small_file::read(path, MAX_SECRET_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => SecretError::TooLarge(path.to_owned()),
        _ => SecretError::Unreadable { path: path.to_owned(), source },
    })?;
    let mut text = String::from_utf8(content).map_err(|_| SecretError::NotText(path.to_owned()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(SecretError::Empty(path.display().to_string()));
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &[u8]) -> Result<String, SecretError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), content).unwrap();
        let source = SecretSource::File("secret".into());
        Secret::load(&source, folder.path(), &Environment::from([]))
            .map(|secret| secret.initial().expose_secret().to_owned())
    }

    #[test]
    fn one_newline_at_the_end_of_a_file_is_dropped() {
        assert_eq!(from_file(b"s3cret\n").unwrap(), "s3cret");
        assert_eq!(from_file(b"s3cret\r\n").unwrap(), "s3cret");
        assert_eq!(from_file(b"s3cret\n\n").unwrap(), "s3cret\n");
        assert_eq!(from_file(b" s3cret ").unwrap(), " s3cret ");
    }

    #[test]
    fn an_empty_binary_or_huge_file_is_refused() {
        assert!(matches!(from_file(b"\n"), Err(SecretError::Empty(_))));
        assert!(matches!(from_file(b"\xff\xfe"), Err(SecretError::NotText(_))));
        assert!(matches!(from_file(&vec![b'a'; 70_000]), Err(SecretError::TooLarge(_))));
    }

    #[test]
    fn a_missing_variable_or_file_is_named() {
        let load = |source| {
            Secret::load(&source, Path::new("/nowhere"), &Environment::from([])).unwrap_err().to_string()
        };

        assert_eq!(
            load(SecretSource::Environment("CXONE_SECRET".into())),
            "the environment variable CXONE_SECRET is not set"
        );
        assert_eq!(load(SecretSource::File("gone".into())), "cannot read /nowhere/gone");
    }

    #[test]
    fn a_swapped_symlink_takes_effect_at_the_next_read() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("secret");
        for version in ["old", "new"] {
            std::fs::write(folder.path().join(version), version).unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("old"), &link).unwrap();
        let secret =
            Secret::load(&SecretSource::File(link.clone()), folder.path(), &Environment::from([])).unwrap();
        assert_eq!(secret.read().unwrap().expose_secret(), "old");

        let swapped = folder.path().join("swapped");
        std::os::unix::fs::symlink(folder.path().join("new"), &swapped).unwrap();
        std::fs::rename(&swapped, &link).unwrap();

        assert_eq!(secret.read().unwrap().expose_secret(), "new");
        assert_eq!(secret.initial().expose_secret(), "old");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::load(
            &SecretSource::Plain(SecretString::from("hunter2".to_owned())),
            Path::new("/"),
            &Environment::from([]),
        )
        .unwrap();

        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
