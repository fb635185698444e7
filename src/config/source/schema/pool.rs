//! `[pools.NAME]`.

use std::collections::BTreeMap;

use toml::Spanned;

use super::Texts;
use crate::config::source::key::Entry;
use crate::config::source::reader::{Reader, Value, Written, tables};
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
        const HELP: &str = "write [pools.NAME], with a name of your choice that routes use as `credential`";
        reader.named_tables(value, path, "[pools.NAME]", ("a pool needs a name", HELP)).map(Self)
    }
}
