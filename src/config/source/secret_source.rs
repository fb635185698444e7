//! The source of a secret: `{ env = "NAME" }`, `{ file = "path" }`, or the secret itself.

use std::path::PathBuf;

use secrecy::SecretString;
use toml::Spanned;

use super::key::Key;
use super::problem::Problem;
use super::reader::{Reader, Value, Written, tables};
use crate::config::model::secret::SecretSource;

tables! {
    /// The source of a secret.
    plain Source {
        shown env: String,
        shown file: PathBuf,
    }
}

impl Value for SecretSource {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "{ env = \"NAME\" }, { file = \"path\" } or a string";
        if let Some(text) = reader.text(value) {
            return Some(Self::Plain(SecretString::from(text)));
        }
        let unknown = reader.unknown.len();
        match reader.inline_table(value, path, EXPECTED)? {
            Source { env: Key::Written(name), file: Key::Absent } => variable(&name, path, reader),
            Source { env: Key::Absent, file: Key::Written(file) } => Some(Self::File(file.into_inner())),
            Source { env: Key::Written(_), file: Key::Written(_) } => {
                reader.invalid(value, path, "either `env` or `file`, not both")
            }
            // An unknown key may be meant for one of the two.
            Source { env: Key::Absent, file: Key::Absent } if reader.unknown.len() == unknown => {
                reader.invalid(value, path, EXPECTED)
            }
            _ => None,
        }
    }
}

/// The source of a secret in the variable with this name. A text that is no name may hold the secret itself.
fn variable(name: &Spanned<String>, path: &str, reader: &mut Reader<'_>) -> Option<SecretSource> {
    let (place, name) = (name.span(), name.get_ref().as_str());
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if is_name(name) {
        return Some(SecretSource::Environment(name.to_owned()));
    }
    let reference = name
        .strip_prefix('$')
        .map(|name| name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name));
    let (title, help) = match (name.split_once('='), reference) {
        (Some(_), _) => (
            "has a name and a value in `env`",
            "write the name only, and set the variable in the daemon's environment",
        ),
        (None, Some(reference)) if is_name(reference) => (
            "has a reference to a variable in `env`",
            "write the name only, without `$` and braces: bearerd reads the variable itself",
        ),
        (None, _) if name.is_empty() => ("has an empty `env`", "write the name of an environment variable"),
        _ => (
            "has a text in `env` that is not the name of an environment variable",
            "write the name of a variable that holds the secret, such as \"API_CLIENT_SECRET\"",
        ),
    };
    reader.problems.push(Problem::error(place, format!("`{path}` {title}")).help(help));
    None
}
