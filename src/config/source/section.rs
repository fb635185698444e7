//! The tables of `proxy.toml` as sets of keys: those that are read, and those that are designed and not built.

use std::ops::Range;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Problem;
use super::schema::{Admin, Credential, File, Limits, Log, Route, Server, Tls};

/// A table of the file, as a set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the file")]
pub enum Section {
    Root,
    Server,
    Tls,
    Limits,
    Admin,
    Credential,
    Route,
    Log,
}

impl Section {
    /// Every section.
    pub const ALL: [Self; 8] = [
        Self::Root,
        Self::Server,
        Self::Tls,
        Self::Limits,
        Self::Admin,
        Self::Credential,
        Self::Route,
        Self::Log,
    ];

    /// How its header is written.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Root => "the top level",
            Self::Server => "[server]",
            Self::Tls => "[server.tls]",
            Self::Limits => "[server.limits]",
            Self::Admin => "[admin]",
            Self::Credential => "[credentials.NAME]",
            Self::Route => "[[routes]]",
            Self::Log => "[log]",
        }
    }

    /// The keys it has.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Root => keys_of::<File>(),
            Self::Server => keys_of::<Server>(),
            Self::Tls => keys_of::<Tls>(),
            Self::Limits => keys_of::<Limits>(),
            Self::Admin => keys_of::<Admin>(),
            Self::Credential => keys_of::<Credential>(),
            Self::Route => keys_of::<Route>(),
            Self::Log => keys_of::<Log>(),
        }
    }

    /// The keys that are designed and not built: refused by name, because ignoring one would be a trap.
    pub const fn planned(self) -> &'static [&'static str] {
        match self {
            Self::Root => &["audit", "webhooks", "tracing", "shared"],
            Self::Admin => &["metrics_token"],
            Self::Route => &["rewrite_links"],
            Self::Server | Self::Limits | Self::Credential | Self::Tls | Self::Log => &[],
        }
    }
}

/// Calls `visit` for each table of the file that is a section, with its path.
pub(in crate::config) fn for_each_section<'i>(
    root: &mut DeTable<'i>,
    visit: &mut dyn FnMut(Section, &str, &mut DeTable<'i>),
) {
    visit(Section::Root, "", root);
    for (key, value) in root.iter_mut() {
        let name: &str = key.get_ref();
        match (name, value.get_mut()) {
            ("server", DeValue::Table(table)) => {
                visit(Section::Server, "server", table);
                if let Some(DeValue::Table(tls)) = table.get_mut("tls").map(Spanned::get_mut) {
                    visit(Section::Tls, "server.tls", tls);
                }
                if let Some(DeValue::Table(limits)) = table.get_mut("limits").map(Spanned::get_mut) {
                    visit(Section::Limits, "server.limits", limits);
                }
            }
            ("admin", DeValue::Table(table)) => visit(Section::Admin, "admin", table),
            ("log", DeValue::Table(table)) => visit(Section::Log, "log", table),
            ("credentials", DeValue::Table(all)) => {
                for (name, value) in all.iter_mut() {
                    if let DeValue::Table(table) = value.get_mut() {
                        visit(Section::Credential, &format!("credentials.{}", name.get_ref()), table);
                    }
                }
            }
            ("routes", DeValue::Array(all)) => {
                for (index, value) in all.iter_mut().enumerate() {
                    if let DeValue::Table(table) = value.get_mut() {
                        visit(Section::Route, &format!("routes[{index}]"), table);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A key that is designed and not built.
pub(in crate::config) fn not_supported(name: &str, place: Range<usize>) -> Problem {
    Problem::error(place, format!("`{name}` is not supported yet by this version"))
        .help("take it out: nothing here would act on it")
}

/// The key of this section that differs the least, if it does not differ much.
pub(in crate::config) fn nearest(section: Section, name: &str) -> Option<&'static str> {
    section
        .keys()
        .iter()
        .map(|key| (strsim::damerau_levenshtein(key, &name.to_ascii_lowercase()), *key))
        .min()
        .filter(|(distance, key)| *distance <= 3 && *distance * 2 < key.len())
        .map(|(_, key)| key)
}

/// The keys of a struct as serde knows them.
fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // Ends with an error by design: no value is made, only the names are asked for.
    let _ = T::deserialize(KeyProbe { keys: &mut keys });
    keys
}

struct KeyProbe<'a> {
    keys: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for KeyProbe<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("only structs have keys"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.keys = fields;
        Err(de::Error::custom("asked for the keys only"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_knows_its_keys() {
        for section in Section::ALL {
            assert!(!section.keys().is_empty(), "{section:?}");
            for planned in section.planned() {
                assert!(!section.keys().contains(planned), "{planned} is built");
            }
        }
        assert!(Section::Limits.keys().contains(&"replay_body"));
    }
}
