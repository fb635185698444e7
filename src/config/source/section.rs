//! The sections of `proxy.toml`: their names, their keys, and the keys that are reserved for later versions.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Problem;
use super::nearest::nearest_key;
use super::reader::Table;
use super::schema::{Admin, Credential, File, Limits, Log, Route, Server, Tls};

/// A section of the file.
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

    /// The header, as messages write it.
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

    /// The keys of the section.
    pub const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Root => File::KEYS,
            Self::Server => Server::KEYS,
            Self::Tls => Tls::KEYS,
            Self::Limits => Limits::KEYS,
            Self::Admin => Admin::KEYS,
            Self::Credential => Credential::KEYS,
            Self::Route => Route::KEYS,
            Self::Log => Log::KEYS,
        }
    }

    /// Keys that are reserved for a later version. The daemon refuses them: ignoring one would be dangerous.
    pub const fn planned(self) -> &'static [&'static str] {
        match self {
            Self::Root => &["audit", "webhooks", "tracing", "shared"],
            Self::Admin => &["metrics_token"],
            Self::Route => &["rewrite_links"],
            Self::Server | Self::Limits | Self::Credential | Self::Tls | Self::Log => &[],
        }
    }

    /// The key of this section that an unknown key probably stands for.
    pub(in crate::config) fn nearest(self, key: &str) -> Option<&'static str> {
        nearest_key(self.keys(), key)
    }

    /// What to write instead of an unknown key.
    pub(in crate::config) fn hint(self, key: &str) -> String {
        if let Some(meant) = self.nearest(key) {
            return format!("did you mean `{meant}`?");
        }
        match Self::ALL.into_iter().find(|other| other.keys().contains(&key)) {
            Some(other) => format!("`{key}` belongs to {}", other.header()),
            None => format!("the keys of {} are: {}", self.header(), self.keys().join(", ")),
        }
    }
}

/// A key that is reserved for a later version.
pub(in crate::config) fn not_supported(key: &str, place: Range<usize>) -> Problem {
    Problem::error(place, format!("`{key}` is not supported yet by this version"))
        .help("remove the key: this version would ignore it")
}

/// Calls `visit` for each value below the root that must be a section, with its path; outer sections come first.
pub(in crate::config) fn for_each_section<'i>(
    root: &mut DeTable<'i>,
    visit: &mut dyn FnMut(Section, &str, &mut Spanned<DeValue<'i>>),
) {
    for (key, value) in root.iter_mut() {
        match key.get_ref().as_ref() {
            "server" => {
                visit(Section::Server, "server", value);
                let DeValue::Table(server) = value.get_mut() else { continue };
                for (key, section) in [("tls", Section::Tls), ("limits", Section::Limits)] {
                    if let Some(value) = server.get_mut(key) {
                        visit(section, &format!("server.{key}"), value);
                    }
                }
            }
            "admin" => visit(Section::Admin, "admin", value),
            "log" => visit(Section::Log, "log", value),
            "credentials" => {
                let DeValue::Table(credentials) = value.get_mut() else { continue };
                for (name, value) in credentials.iter_mut() {
                    visit(Section::Credential, &format!("credentials.{}", name.get_ref()), value);
                }
            }
            "routes" => {
                let DeValue::Array(routes) = value.get_mut() else { continue };
                for (index, value) in routes.iter_mut().enumerate() {
                    visit(Section::Route, &format!("routes[{index}]"), value);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_keys_and_none_of_them_is_planned() {
        for section in Section::ALL {
            assert!(!section.keys().is_empty(), "{section:?}");
            for planned in section.planned() {
                assert!(!section.keys().contains(planned), "{planned} is built");
            }
        }
        assert!(Section::Limits.keys().contains(&"replay_body"));
    }
}
