//! `[callers.NAME]`.

use std::collections::BTreeMap;

use toml::Spanned;

use super::Texts;
use crate::config::source::key::Entry;
use crate::config::source::problem::Problem;
use crate::config::source::reader::{Reader, Table, Value, Written, tables};
use crate::config::source::shape::{Shape, Shaped, shapes};

tables! {
    /// `[callers.NAME]`.
    section Caller {
        shown networks: Texts,
        shown certificates: Texts,
        hidden key_hash: Texts,
        shown weight: u16,
    }
}

shapes! {
    Callers: <BTreeMap<Spanned<String>, Entry<Caller>>>::shape(),
}

/// `[callers.NAME]`, by name.
#[derive(Debug, Default)]
pub(in crate::config) struct Callers(pub(in crate::config) BTreeMap<Spanned<String>, Entry<Caller>>);

impl Value for Callers {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            return reader.not_a_section(value, path, "[callers.NAME]");
        };
        let is_key = |key: &str| Caller::KEYS.contains(&key);
        if table.iter().any(|(key, value)| is_key(key.get_ref()) && !value.get_ref().is_table()) {
            let help = "write [callers.NAME], with a name of your choice for the application";
            reader.problems.push(Problem::error(value.span(), "a caller needs a name").help(help));
            return None;
        }
        Value::read(value, path, reader).map(Self)
    }
}
