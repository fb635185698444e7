//! The sections of `proxy.toml`: their names and their keys.

use super::problem::Problem;
use super::reader::{Table, UnknownKey};
use super::schema::{
    Admin, Audit, Caller, Credential, File, Health, Limits, Log, Pool, Route, Server, Shared, Tls, Tracing,
    Webhook,
};
use super::synonyms::{meant_key, synonym};

/// A section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the file")]
pub enum Section {
    Root,
    Server,
    Tls,
    Limits,
    Health,
    Admin,
    Caller,
    Shared,
    Credential,
    Pool,
    Route,
    Log,
    Audit,
    Webhook,
    Tracing,
}

impl Section {
    /// Every section.
    pub const ALL: [Self; 15] = [
        Self::Root,
        Self::Server,
        Self::Tls,
        Self::Limits,
        Self::Health,
        Self::Admin,
        Self::Caller,
        Self::Shared,
        Self::Credential,
        Self::Pool,
        Self::Route,
        Self::Log,
        Self::Audit,
        Self::Webhook,
        Self::Tracing,
    ];

    /// The header, as messages write it.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Root => "the top level",
            Self::Server => "[server]",
            Self::Tls => "[server.tls]",
            Self::Limits => "[server.limits]",
            Self::Health => "[health]",
            Self::Admin => "[admin]",
            Self::Caller => "[callers.NAME]",
            Self::Shared => "[shared]",
            Self::Credential => "[credentials.NAME]",
            Self::Pool => "[pools.NAME]",
            Self::Route => "[[routes]]",
            Self::Log => "[log]",
            Self::Audit => "[audit]",
            Self::Webhook => "[[webhooks]]",
            Self::Tracing => "[tracing]",
        }
    }

    /// The keys of the section.
    pub const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Root => File::KEYS,
            Self::Server => Server::KEYS,
            Self::Tls => Tls::KEYS,
            Self::Limits => Limits::KEYS,
            Self::Health => Health::KEYS,
            Self::Admin => Admin::KEYS,
            Self::Caller => Caller::KEYS,
            Self::Shared => Shared::KEYS,
            Self::Credential => Credential::KEYS,
            Self::Pool => Pool::KEYS,
            Self::Route => Route::KEYS,
            Self::Log => Log::KEYS,
            Self::Audit => Audit::KEYS,
            Self::Webhook => Webhook::KEYS,
            Self::Tracing => Tracing::KEYS,
        }
    }

    /// The remedy for an unknown key.
    pub(in crate::config) fn hint(self, key: &str) -> String {
        if let Some(meant) = meant_key(self.keys(), key) {
            return format!("did you mean `{meant}`?");
        }
        if let Some(other) = Self::ALL.into_iter().find(|other| other.keys().contains(&key)) {
            return format!("`{key}` belongs to {}", other.header());
        }
        let elsewhere = |other: Self| synonym(other.keys(), key).map(|meant| (meant, other.header()));
        match Self::ALL.into_iter().find_map(elsewhere) {
            Some((meant, header)) => format!("did you mean `{meant}` in {header}?"),
            None => format!("the keys of {} are: {}", self.header(), self.keys().join(", ")),
        }
    }
}

/// The problem of an unknown key, with a remedy.
pub(super) fn unknown_key(UnknownKey { known, path, key, place }: UnknownKey) -> Problem {
    let section = Section::ALL.into_iter().find(|section| section.keys() == known);
    let (table, help) = match section {
        Some(section @ (Section::Caller | Section::Credential | Section::Pool | Section::Tls)) => {
            (format!("[{path}]"), section.hint(&key))
        }
        Some(section) => (section.header().to_owned(), section.hint(&key)),
        None => (format!("`{path}`"), {
            let keys = || format!("the keys of `{path}` are: {}", known.join(", "));
            meant_key(known, &key).map_or_else(keys, |meant| format!("did you mean `{meant}`?"))
        }),
    };
    Problem::error(place, format!("unknown key `{key}` in {table}")).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_keys() {
        for section in Section::ALL {
            assert!(!section.keys().is_empty(), "{section:?}");
        }
        assert!(Section::Limits.keys().contains(&"replay_body"));
    }
}
