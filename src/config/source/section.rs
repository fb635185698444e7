//! The tables of `proxy.toml` as sets of keys: those that are read, and those that are designed and not built.

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};

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
