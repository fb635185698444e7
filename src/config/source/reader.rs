//! Reads values of the parsed TOML as the types of the [`schema`](super::schema).
//!
//! A value of the wrong type is reported with its place, its key counts as unusable, and reading continues with the
//! next key. No message quotes a value: the value may be a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Problem, Sources};
use super::nearest::nearest;
use super::synonyms::meant_key;

/// A key's value with its place; `None` if the key is absent or unusable.
pub(in crate::config) type Key<T> = Option<Spanned<T>>;

/// The place of a key's value.
pub(in crate::config) trait Placed {
    /// The place; `None` if the key is absent or unusable.
    fn place(&self) -> Option<Range<usize>>;
}

impl<T> Placed for Key<T> {
    fn place(&self) -> Option<Range<usize>> {
        self.as_ref().map(Spanned::span)
    }
}

/// A value of the file with its place.
pub(super) type Written<'v> = Spanned<DeValue<'v>>;

/// A type that a value of the file can be read as.
pub(in crate::config) trait Value: Sized {
    /// Reads the value of the key `path`, such as `server.limits.streams`, or reports why this is impossible.
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self>;
}

/// A table with known keys.
pub(in crate::config) trait Table: Sized {
    /// The known keys.
    const KEYS: &'static [&'static str];

    /// Reads each known key. Other keys of the table are ignored.
    fn from_table(table: &DeTable<'_>, path: &str, reader: &mut Reader<'_>) -> Self;
}

/// Collects problems while values are read.
pub(in crate::config) struct Reader<'a> {
    sources: &'a Sources,
    /// The problems so far.
    pub(in crate::config) problems: Vec<Problem>,
    /// Paths of the keys that are present but unusable, such as `server.limits.replay_body`.
    pub(in crate::config) unusable: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sources: &'a Sources, problems: Vec<Problem>) -> Self {
        Self { sources, problems, unusable: BTreeSet::new() }
    }

    /// Reads a key of the table at `path`.
    pub(super) fn key<T: Value>(&mut self, table: &DeTable<'_>, path: &str, key: &str) -> Key<T> {
        let value = table.get(key)?;
        let path = joined(path, key);
        let known = self.problems.len();
        let mut read = T::read(value, &path, self);
        if read.is_none()
            && let Some(text) = self.as_text(value)
        {
            let problems = self.problems.split_off(known);
            read = T::read(&text, &path, self);
            if read.is_none() {
                self.problems.truncate(known);
                self.problems.extend(problems);
            }
        }
        if read.is_none() {
            self.unusable.insert(path);
        }
        Some(Spanned::new(value.span(), read?))
    }

    /// The text of an environment variable whose value was read as TOML, such as a client id of digits.
    fn as_text(&self, value: &Written<'_>) -> Option<Written<'a>> {
        let text = self.sources.override_at(&value.span())?.value.as_str();
        let parsed = DeValue::parse(text).ok()?;
        // A part of an inline table is not the whole variable.
        let is_whole = !parsed.get_ref().is_table() && !value.get_ref().is_str();
        is_whole.then(|| Spanned::new(value.span(), DeValue::String(text.into())))
    }

    /// Reports a value of another type than its key needs, in the place of that value.
    pub(super) fn mistyped<T>(&mut self, value: &Written<'_>, path: &str, expected: &str) -> Option<T> {
        let found = type_of(value.get_ref());
        self.problems.push(Problem::error(value.span(), format!("`{path}` must be {expected}, not {found}")));
        None
    }

    /// Reports a value of the right type that its key cannot have, in the place of that value.
    pub(super) fn invalid<T>(&mut self, value: &Written<'_>, path: &str, expected: &str) -> Option<T> {
        self.problems.push(Problem::error(value.span(), format!("`{path}` must be {expected}")));
        None
    }

    /// Reads an inline table; a problem in any of its keys makes the whole table unusable.
    pub(super) fn inline_table<T: Table>(&mut self, value: &Written<'_>, path: &str) -> Option<T> {
        let table = value.get_ref().as_table()?;
        let known = self.problems.len();
        for key in table.keys().filter(|key| !T::KEYS.contains(&key.get_ref().as_ref())) {
            let help = match meant_key(T::KEYS, key.get_ref()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys of `{path}` are: {}", T::KEYS.join(", ")),
            };
            let title = format!("unknown key `{}` in `{path}`", key.get_ref());
            self.problems.push(Problem::error(key.span(), title).help(help));
        }
        let read = T::from_table(table, path, self);
        (self.problems.len() == known).then_some(read)
    }

    /// Reads a string that is one of these names.
    pub(super) fn choice<T: Copy>(
        &mut self,
        value: &Written<'_>,
        path: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = value.get_ref().as_str();
        let chosen = text.and_then(|text| choices.iter().find(|(name, _)| *name == text));
        if let Some((_, chosen)) = chosen {
            return Some(*chosen);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let expected = match names.as_slice() {
            [only] => format!("\"{only}\""),
            [one, other] => format!("\"{one}\" or \"{other}\""),
            _ => format!("one of: \"{}\"", names.join("\", \"")),
        };
        let Some(text) = text else { return self.mistyped(value, path, &expected) };
        let problem = Problem::error(value.span(), format!("`{path}` must be {expected}"));
        self.problems.push(match nearest(&names, text, |distance, _| distance <= 2) {
            Some(meant) => problem.help(format!("did you mean \"{meant}\"?")),
            None => problem,
        });
        None
    }

    /// Reads a string by its [`FromStr`].
    pub(super) fn parsed<T: FromStr<Err = String>>(
        &mut self,
        value: &Written<'_>,
        path: &str,
        expected: &str,
    ) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else { return self.mistyped(value, path, expected) };
        text.parse()
            .map_err(|error| self.problems.push(Problem::error(value.span(), format!("`{path}`: {error}"))))
            .ok()
    }

    /// Reads a whole number from 0 to `max`.
    fn number(&mut self, value: &Written<'_>, path: &str, max: u64) -> Option<u64> {
        let expected = format!("a whole number from 0 to {max}");
        let Some(written) = value.get_ref().as_integer() else {
            return self.mistyped(value, path, &expected);
        };
        let number = u64::from_str_radix(written.as_str(), written.radix()).ok();
        number.filter(|number| *number <= max).or_else(|| self.invalid(value, path, &expected))
    }
}

/// The path of a key in the table at `path`.
pub(in crate::config) fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The type of a value, as messages call it.
fn type_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

macro_rules! plain_values {
    ($($type:ty: $expected:literal, $read:expr;)*) => {$(
        impl Value for $type {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                $read(value.get_ref()).or_else(|| reader.mistyped(value, path, $expected))
            }
        }
    )*};
}

plain_values! {
    String: "a string", |value: &DeValue<'_>| value.as_str().map(str::to_owned);
    PathBuf: "the path of a file, as a string", |value: &DeValue<'_>| value.as_str().map(Self::from);
    bool: "true or false", DeValue::as_bool;
}

macro_rules! numbers {
    ($($number:ty: $max:expr,)*) => {$(
        impl Value for $number {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                reader.number(value, path, $max)?.try_into().ok()
            }
        }
    )*};
}

numbers! {
    u8: Self::MAX.into(),
    u16: Self::MAX.into(),
    u32: Self::MAX.into(),
    // TOML has signed integers of 64 bits.
    u64: i64::MAX.cast_unsigned(),
}

/// A wrong entry is reported and left out; a list without a usable entry is unusable unless written empty.
impl<T: Value> Value for Vec<Spanned<T>> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(list) = value.get_ref().as_array() else {
            return reader.mistyped(value, path, "a list in brackets, such as [\"a\", \"b\"] or [401]");
        };
        let mut entries = Self::new();
        for (index, entry) in list.iter().enumerate() {
            let read = T::read(entry, &format!("{path}[{index}]"), reader);
            entries.extend(read.map(|read| Spanned::new(entry.span(), read)));
        }
        (list.is_empty() || !entries.is_empty()).then_some(entries)
    }
}

/// A wrong entry is reported and left out.
impl<T: Value> Value for BTreeMap<Spanned<String>, Spanned<T>> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            return reader.mistyped(value, path, "a table, such as { key = \"value\" }");
        };
        let mut entries = Self::new();
        for (name, entry) in table {
            let read = T::read(entry, &joined(path, name.get_ref()), reader);
            let name = Spanned::new(name.span(), name.get_ref().to_string());
            entries.extend(read.map(|read| (name, Spanned::new(entry.span(), read))));
        }
        Some(entries)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Environment;
    use crate::config::source::diagnostics::Sources;
    use crate::config::source::document::Document;

    /// Reads this text with this environment variable; returns the titles of the problems, and the document.
    fn read(text: &str, variable: &[(&str, &str); 1]) -> (Vec<String>, Document) {
        let sources = Sources::new(Path::new("proxy.toml"), text.to_owned());
        let document = Document::read(sources, &Environment::from(*variable));
        (document.problems.iter().map(|problem| problem.title.clone()).collect(), document)
    }

    const NO_OVERRIDE: &[(&str, &str); 1] = &[("PATH", "")];

    #[test]
    fn a_message_names_the_expected_type_and_never_the_value() {
        for (text, title) in [
            ("server.drain = 20", "`server.drain` must be a duration such as \"30s\", not a number"),
            ("server.drain = \"hunter2\"", "`server.drain`: not a duration: write a number and a unit"),
            ("server.watch = \"hunter2\"", "`server.watch` must be true or false, not a string"),
            ("server.watch = 1979-05-27", "`server.watch` must be true or false, not a date"),
            ("server.workers = 70000", "`server.workers` must be a whole number from 0 to 65535"),
            ("server.workers = -1", "`server.workers` must be a whole number from 0 to 65535"),
            ("server.workers = 1.5", "`server.workers` must be a whole number from 0 to 65535, not a number"),
            ("server.hosts = \"hunter2\"", "`server.hosts` must be a list in brackets, such as"),
            ("credentials.a.extra = []", "`credentials.a.extra` must be a table, such as"),
            ("credentials.a.extra = { x = 1 }", "`credentials.a.extra.x` must be a string, not a number"),
            ("credentials.a.quota = \"hunter2\"", "`credentials.a.quota` must be a table such as { requests"),
            (
                "credentials.a.grant = \"hunter2\"",
                "`credentials.a.grant` must be one of: \"client_credentials\",",
            ),
            (
                "credentials.a.password = 4711",
                "`credentials.a.password` must be { env = \"NAME\" }, { file =",
            ),
            ("credentials.a.password = { env = 1 }", "`credentials.a.password` must be { env = \"NAME\" }, "),
            (
                "credentials.a.password = { env = \"A\", file = \"b\" }",
                "`credentials.a.password` must be either",
            ),
            ("log.format = \"jsn\"", "`log.format` must be one of: \"auto\", \"json\", \"text\""),
        ] {
            let (titles, document) = read(text, NO_OVERRIDE);
            let [only] = titles.as_slice() else { panic!("{text}: {titles:?}") };
            assert!(only.starts_with(title) && !only.contains("hunter2"), "{text}: {only}");
            let key = only.split('`').nth(1).unwrap();
            assert!(document.unusable.iter().any(|path| key.starts_with(path)) || key.contains(".extra."));
        }
        let (_, misspelt) = read("log.format = \"jsn\"", NO_OVERRIDE);
        assert_eq!(misspelt.problems[0].help.as_deref(), Some("did you mean \"json\"?"));
    }

    #[test]
    fn a_wrong_entry_leaves_the_other_entries_of_its_list() {
        let (titles, document) = read("server.hosts = [\"a\", 1, \"b\"]\nserver.origins = [1]", NO_OVERRIDE);

        let server = document.file.server.unwrap().into_inner();
        assert_eq!(titles.len(), 2, "{titles:?}");
        assert_eq!(server.hosts.unwrap().get_ref().len(), 2);
        assert!(server.origins.is_none() && document.unusable.contains("server.origins"));
    }

    #[test]
    fn a_number_in_a_variable_is_text_where_only_text_fits_and_not_inside_a_table() {
        let text = "credentials.a.client_id = \"x\"";
        let (titles, document) = read(text, &[("BEARERD_CREDENTIALS__A__CLIENT_ID", "0x10")]);
        let credential = document.file.credentials.unwrap().into_inner().pop_first().unwrap().1.into_inner();
        assert!(titles.is_empty(), "{titles:?}");
        assert_eq!(credential.client_id.unwrap().get_ref(), "0x10");

        let (titles, _) = read(text, &[("BEARERD_CREDENTIALS__A__ASSERTION", "{ kid = 5 }")]);
        assert_eq!(titles, ["`credentials.a.assertion.kid` must be a string, not a number"]);
        let (titles, _) = read(text, &[("BEARERD_SERVER__WORKERS", "70000")]);
        assert_eq!(titles, ["`server.workers` must be a whole number from 0 to 65535"]);
    }
}
