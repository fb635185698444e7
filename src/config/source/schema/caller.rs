//! `[callers.NAME]`.

use std::collections::BTreeMap;

use toml::Spanned;

use super::Texts;
use crate::config::source::key::Entry;
use crate::config::source::reader::{Reader, Value, Written, tables};
use crate::config::source::shape::{Shape, Shaped, shapes};
use crate::config::source::units::Duration;

tables! {
    /// `[callers.NAME]`.
    section Caller {
        shown networks: Texts,
        shown certificates: Texts,
        hidden key_hash: Texts,
        shown weight: u16,
        shown quota: Option<CallerQuota>,
    }

    /// `quota` of a caller, unless `""`.
    plain CallerQuota {
        shown requests: u32,
        shown per: Duration,
        shown wait: Duration,
    }
}

shapes! {
    Callers: <BTreeMap<Spanned<String>, Entry<Caller>>>::shape(),
}

optional! {
    CallerQuota: "a table such as { requests = 600, per = \"60s\" }, or \"\"",
}

/// `[callers.NAME]`, by name.
#[derive(Debug, Default)]
pub(in crate::config) struct Callers(pub(in crate::config) BTreeMap<Spanned<String>, Entry<Caller>>);

impl Value for Callers {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const HELP: &str = "write [callers.NAME], with a name of your choice for the application";
        reader.named_tables(value, path, "[callers.NAME]", ("a caller needs a name", HELP)).map(Self)
    }
}
