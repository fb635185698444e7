//! `[pools.NAME]`.

use std::collections::BTreeMap;

use toml::Spanned;

use super::Texts;
use crate::config::source::key::Entry;
use crate::config::source::problem::Problem;
use crate::config::source::reader::{Reader, Table, Value, Written, tables};
use crate::config::source::shape::{Shape, Shaped, shapes};

tables! {
    /// `[pools.NAME]`.
    section Pool {
        shown credentials: Texts,
    }
}

shapes! {
    Pools: <BTreeMap<Spanned<String>, Entry<Pool>>>::shape(),
}

/// `[pools.NAME]`, by name.
#[derive(Debug, Default)]
pub(in crate::config) struct Pools(pub(in crate::config) BTreeMap<Spanned<String>, Entry<Pool>>);

impl Value for Pools {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            return reader.not_a_section(value, path, "[pools.NAME]");
        };
        let is_key = |key: &str| Pool::KEYS.contains(&key);
        if table.iter().any(|(key, value)| is_key(key.get_ref()) && !value.get_ref().is_table()) {
            let help = "write [pools.NAME], with a name of your choice that routes use as `credential`";
            reader.problems.push(Problem::error(value.span(), "a pool needs a name").help(help));
            return None;
        }
        Value::read(value, path, reader).map(Self)
    }
}
