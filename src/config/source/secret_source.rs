//! Where a secret comes from, as it is written.

use secrecy::SecretString;
use toml::de::DeValue;

use super::diagnostics::Problem;
use super::reader::{Reader, Value, Written};
use crate::config::model::secret::SecretSource;

impl Value for SecretSource {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "{ env = \"NAME\" }, { file = \"path\" } or a string";
        let table = match value.get_ref() {
            DeValue::String(text) => return Some(Self::Plain(SecretString::from(text.to_string()))),
            DeValue::Table(table) => table,
            _ => return reader.mistyped(value, path, EXPECTED),
        };
        let text = |key| table.get(key).and_then(|value: &Written<'_>| value.get_ref().as_str());
        match (text("env"), text("file")) {
            (Some(name), None) if table.len() == 1 => variable(name, value, path, reader),
            (None, Some(file)) if table.len() == 1 => Some(Self::File(file.into())),
            (Some(_), Some(_)) => reader.invalid(value, path, "either `env` or `file`, not both"),
            _ => reader.invalid(value, path, EXPECTED),
        }
    }
}

/// The source of a secret in the variable with this name. A text that is no name may hold the secret itself.
fn variable(name: &str, value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<SecretSource> {
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
    reader.problems.push(Problem::error(value.span(), format!("`{path}` {title}")).help(help));
    None
}
