//! Secrets: where they are written, and reading them without showing them.
//!
//! A secret stands in `proxy.toml` as `{ env = "NAME" }`, `{ file = "/path" }` or, with a warning, a plain
//! string. The value lives in a [`SecretString`], which is wiped when dropped and never printed. A file is
//! opened anew at each reading, so a replaced file and a swapped symlink are both seen.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use thiserror::Error;

use super::signing_key::KeyError;
use super::small_file;
use crate::config::environment::Environment;

/// Larger than any key or token, small enough to read at once.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A secret as written: where its value is.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// In this environment variable.
    Environment(String),
    /// In this file; a relative path starts at the configuration's folder.
    File(PathBuf),
    /// In the configuration itself.
    Plain(SecretString),
}

/// A secret whose value was there when the configuration was read.
#[derive(Clone, Debug)]
pub struct Secret {
    source: SecretSource,
    value: SecretString,
}

impl Eq for Secret {}

/// Whether both are in the same place, and were the same when their configurations were read.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let is_in_one_place = match (&self.source, &other.source) {
            (SecretSource::Environment(one), SecretSource::Environment(two)) => one == two,
            (SecretSource::File(one), SecretSource::File(two)) => one == two,
            (SecretSource::Plain(_), SecretSource::Plain(_)) => true,
            _ => false,
        };
        is_in_one_place && self.value.expose_secret() == other.value.expose_secret()
    }
}

/// Why a secret could not be had. Names the variable or file, never the value.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The environment variable is not set.
    #[error("the environment variable {0} is not set")]
    NotSet(String),
    /// The file cannot be read, or is none (a pipe, a folder).
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not text, or far too large for a secret.
    #[error("{} holds no text of at most 64 KiB", .0.display())]
    NotText(PathBuf),
    /// The value has no characters.
    #[error("{0} is empty")]
    Empty(String),
    /// The value is not the key that is needed.
    #[error("{place} is not usable")]
    NotAKey {
        /// The file or variable.
        place: String,
        /// Why not.
        source: KeyError,
    },
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
                let value = environment.get(name).ok_or_else(|| SecretError::NotSet(name.clone()))?;
                (source.clone(), SecretString::from(value.to_owned()))
            }
            SecretSource::File(path) => {
                let path = folder.join(path);
                let value = read_file(&path)?;
                (SecretSource::File(path), value)
            }
            SecretSource::Plain(value) => (source.clone(), value.clone()),
        };
        if value.expose_secret().is_empty() {
            return Err(SecretError::Empty(place(&source)));
        }
        Ok(Self { source, value })
    }

    /// The value as of now: a file is read again, anything else is as it was.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match &self.source {
            SecretSource::File(path) => {
                let value = read_file(path)?;
                if value.expose_secret().is_empty() {
                    return Err(SecretError::Empty(path.display().to_string()));
                }
                Ok(value)
            }
            SecretSource::Environment(_) | SecretSource::Plain(_) => Ok(self.value.clone()),
        }
    }

    /// Whether the value can change while the daemon runs.
    pub fn may_change(&self) -> bool {
        matches!(self.source, SecretSource::File(_))
    }

    /// Where it is, for a person.
    pub fn place(&self) -> String {
        place(&self.source)
    }

    /// The place of the secret.
    pub(in crate::config) const fn source(&self) -> &SecretSource {
        &self.source
    }

    /// The value it had when the configuration was read.
    pub fn initial(&self) -> &SecretString {
        &self.value
    }
}

fn place(source: &SecretSource) -> String {
    match source {
        SecretSource::Environment(name) => format!("the environment variable {name}"),
        SecretSource::File(path) => path.display().to_string(),
        SecretSource::Plain(_) => "this secret".to_owned(),
    }
}

/// Reads a whole file and drops one newline at its end, as `echo` and editors leave it there.
fn read_file(path: &Path) -> Result<SecretString, SecretError> {
    let content = small_file::read(path, MAX_FILE_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => SecretError::NotText(path.to_owned()),
        _ => SecretError::Unreadable { path: path.to_owned(), source },
    })?;
    let mut text = String::from_utf8(content).map_err(|_| SecretError::NotText(path.to_owned()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(SecretString::from(text))
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

/// Refuses each wrong type itself: serde's own message would quote the value.
struct SourceVisitor;

const EXPECTED: &str = "a secret is { env = \"NAME\" }, { file = \"path\" } or a string";

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = SecretSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ env = \"NAME\" }, { file = \"path\" } or a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretSource, E> {
        Ok(SecretSource::Plain(SecretString::from(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
        let wrong = || de::Error::custom(EXPECTED);
        let key: String = map.next_key()?.ok_or_else(wrong)?;
        let source = match key.as_str() {
            "env" => SecretSource::Environment(map.next_value().map_err(|_| wrong())?),
            "file" => SecretSource::File(map.next_value().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        if map.next_key::<String>()?.is_some() {
            return Err(de::Error::custom("a secret has one place: `env` or `file`, not both"));
        }
        Ok(source)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretSource, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<SecretSource, A::Error> {
        Err(de::Error::custom(EXPECTED))
    }
}

/// Several secrets, or one without the brackets.
#[derive(Clone, Debug)]
pub struct SecretSources(pub Vec<SecretSource>);

impl<'de> Deserialize<'de> for SecretSources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourcesVisitor)
    }
}

/// Leaves all but a list to [`SourceVisitor`].
struct SourcesVisitor;

impl<'de> Visitor<'de> for SourcesVisitor {
    type Value = SecretSources;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ env = \"NAME\" }, { file = \"path\" } or a list of these")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<SecretSources, A::Error> {
        let mut all = Vec::new();
        while let Some(source) = items.next_element()? {
            all.push(source);
        }
        Ok(SecretSources(all))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretSources, E> {
        SourceVisitor.visit_str(text).map(one)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretSources, A::Error> {
        SourceVisitor.visit_map(map).map(one)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretSources, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretSources, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretSources, E> {
        Err(E::custom(EXPECTED))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretSources, E> {
        Err(E::custom(EXPECTED))
    }
}

fn one(source: SecretSource) -> SecretSources {
    SecretSources(vec![source])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &[u8]) -> Result<String, SecretError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), content).unwrap();
        let source = SecretSource::File("secret".into());
        Secret::load(&source, folder.path(), &Environment::empty())
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
    fn an_empty_binary_or_huge_file_is_no_secret() {
        assert!(matches!(from_file(b"\n"), Err(SecretError::Empty(_))));
        assert!(matches!(from_file(b"\xff\xfe"), Err(SecretError::NotText(_))));
        assert!(matches!(from_file(&vec![b'a'; 70_000]), Err(SecretError::NotText(_))));
    }

    #[test]
    fn a_missing_variable_or_file_is_named() {
        let load = |source| {
            Secret::load(&source, Path::new("/nowhere"), &Environment::empty()).unwrap_err().to_string()
        };

        assert_eq!(
            load(SecretSource::Environment("CXONE_SECRET".into())),
            "the environment variable CXONE_SECRET is not set"
        );
        assert_eq!(load(SecretSource::File("gone".into())), "cannot read /nowhere/gone");
    }

    #[test]
    fn a_file_is_read_anew_through_a_swapped_symlink() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("secret");
        for version in ["old", "new"] {
            std::fs::write(folder.path().join(version), version).unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("old"), &link).unwrap();
        let secret =
            Secret::load(&SecretSource::File(link.clone()), folder.path(), &Environment::empty()).unwrap();
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
            &Environment::empty(),
        )
        .unwrap();

        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
