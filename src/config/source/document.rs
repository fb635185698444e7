//! From the text of `proxy.toml` and the environment to a [`File`], with every problem on the way.
//!
//! A value of the wrong type does not hide the next problem: it is reported, taken out, and reading goes on.
//! What was taken out is remembered, so that nobody is told that a key is missing which is merely wrong.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Problem, Sources};
use super::schema::File;
use super::section::{Section, for_each_section, nearest, not_supported};
use super::{messages, overrides};
use crate::config::model::environment::Environment;

/// What could be read, and what was wrong with the rest.
#[derive(Debug)]
pub(in crate::config) struct Document {
    /// The file without its unusable parts.
    pub(in crate::config) file: File,
    /// The texts that places point into.
    pub(in crate::config) sources: Sources,
    /// What was wrong.
    pub(in crate::config) problems: Vec<Problem>,
    /// Paths of the keys that were there but unusable, such as `server.limits.replay_body`.
    pub(in crate::config) unusable: BTreeSet<String>,
}

impl Document {
    /// Reads the text, then lays the environment's overrides over it.
    pub(in crate::config) fn read(mut sources: Sources, environment: &Environment) -> Self {
        let text = sources.text().to_owned();
        let (root, errors) = DeTable::parse_recoverable(&text);
        let mut problems: Vec<Problem> = errors
            .iter()
            .map(|error| {
                Problem::error(error.span(), format!("not TOML: {}", messages::one_line(error.message())))
            })
            .collect();
        let root_span = root.span();
        let mut root = root.into_inner();
        overrides::apply(&mut root, &mut sources, environment, &mut problems);

        let mut unusable = BTreeSet::new();
        replace_misshapen(&mut root, &mut problems, &mut unusable);
        remove_unknown_keys(&mut root, &mut problems, &mut unusable);
        let file = loop {
            match File::deserialize(toml::Deserializer::from(Spanned::new(root_span.clone(), root.clone()))) {
                Ok(file) => break file,
                Err(error) => {
                    let place = error.span().unwrap_or_default();
                    // A number in the environment may well be meant as text: a client id of digits.
                    if sources.is_override(&place) && overrides::take_as_text(&mut root, &sources, &place) {
                        continue;
                    }
                    let Some(path) = remove_at(&mut root, &place) else {
                        problems.push(Problem::error(place, messages::of("proxy.toml", error.message())));
                        break File::default();
                    };
                    problems.push(Problem::error(place, messages::of(&path, error.message())));
                    unusable.insert(path);
                }
            }
        };
        Self { file, sources, problems, unusable }
    }
}

/// Reports each section that is no table and puts an empty one there, so that it hides nothing else.
fn replace_misshapen(root: &mut DeTable<'_>, problems: &mut Vec<Problem>, unusable: &mut BTreeSet<String>) {
    if let Some(place) = root.get_mut("credentials").and_then(take_nameless) {
        problems.push(
            Problem::error(place, "a credential needs a name")
                .help("write [credentials.NAME], with a name of your choice, and that name in `credential` of the routes"),
        );
        unusable.insert("credentials".to_owned());
    }
    let mut check = |section: Section, path: &str, value: &mut Spanned<DeValue<'_>>| {
        if value.get_ref().is_table() {
            return;
        }
        let header = match section {
            Section::Route => "[[routes]]".to_owned(),
            Section::Root => "[credentials.NAME]".to_owned(),
            _ => format!("[{path}]"),
        };
        problems.push(
            Problem::error(value.span(), format!("`{path}` must be a table"))
                .help(format!("write {header} on a line of its own, and its keys below")),
        );
        *value.get_mut() = DeValue::Table(DeTable::new());
        unusable.insert(path.to_owned());
        // What it may have been meant to say is not missing.
        unusable.extend(section.keys().iter().map(|key| format!("{path}.{key}")));
    };
    for (key, value) in root.iter_mut() {
        match key.get_ref().as_ref() {
            "server" => {
                check(Section::Server, "server", value);
                let DeValue::Table(server) = value.get_mut() else { continue };
                if let Some(tls) = server.get_mut("tls") {
                    check(Section::Tls, "server.tls", tls);
                }
                if let Some(limits) = server.get_mut("limits") {
                    check(Section::Limits, "server.limits", limits);
                }
            }
            "admin" => check(Section::Admin, "admin", value),
            "log" => check(Section::Log, "log", value),
            "credentials" => {
                check(Section::Root, "credentials", value);
                let DeValue::Table(all) = value.get_mut() else { continue };
                for (name, credential) in all.iter_mut() {
                    check(Section::Credential, &format!("credentials.{}", name.get_ref()), credential);
                }
            }
            "routes" => {
                let DeValue::Array(all) = value.get_mut() else { continue };
                for (index, route) in all.iter_mut().enumerate() {
                    check(Section::Route, &format!("routes[{index}]"), route);
                }
            }
            _ => {}
        }
    }
    let routes = root.get_mut("routes").filter(|routes| !routes.get_ref().is_array());
    if let Some(routes) = routes {
        problems.push(
            Problem::error(routes.span(), "`routes` must be a list of tables")
                .help("write [[routes]], with two brackets, once for each route"),
        );
        unusable.insert("routes".to_owned());
        let place = routes.span();
        // One that lacks the brackets is checked all the same.
        let route = std::mem::replace(routes.get_mut(), DeValue::Boolean(false));
        let only = route.is_table().then(|| Spanned::new(place, route));
        *routes.get_mut() = DeValue::Array(only.into_iter().collect());
    }
}

/// Empties a `[credentials]` that holds one credential's keys; answers where it was.
fn take_nameless(credentials: &mut Spanned<DeValue<'_>>) -> Option<Range<usize>> {
    let keys = Section::Credential.keys();
    let is_nameless = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Cow<'_, str> = key.get_ref();
        keys.contains(&key.as_ref()) && !value.get_ref().is_table()
    };
    let DeValue::Table(all) = credentials.get_mut() else { return None };
    if !all.iter().any(is_nameless) {
        return None;
    }
    all.clear();
    Some(credentials.span())
}

/// Reports and takes out each key that is not one of its section's.
fn remove_unknown_keys(root: &mut DeTable<'_>, problems: &mut Vec<Problem>, unusable: &mut BTreeSet<String>) {
    for_each_section(root, &mut |section, path, table| {
        let unknown: Vec<(String, Range<usize>)> = table
            .keys()
            .filter(|key| !section.keys().contains(&key.get_ref().as_ref()))
            .map(|key| (key.get_ref().to_string(), key.span()))
            .collect();
        for (name, place) in unknown {
            table.remove(name.as_str());
            unusable.extend(nearest(section, &name).map(|meant| joined(path, meant)));
            problems.push(unknown_key(section, path, &name, place));
        }
    });
}

fn unknown_key(section: Section, path: &str, name: &str, place: Range<usize>) -> Problem {
    let header = match section {
        Section::Credential => format!("[{path}]"),
        _ => section.header().to_owned(),
    };
    if section.planned().contains(&name) {
        return not_supported(name, place);
    }
    let help =
        suggestion(section, name).unwrap_or_else(|| format!("{header} has: {}", section.keys().join(", ")));
    Problem::error(place, format!("unknown key `{name}` in {header}")).help(help)
}

/// The key that was probably meant: the nearest of this section, or the same name in another.
fn suggestion(section: Section, name: &str) -> Option<String> {
    if let Some(key) = nearest(section, name) {
        return Some(format!("did you mean `{key}`?"));
    }
    let other = Section::ALL.into_iter().find(|other| *other != section && other.keys().contains(&name))?;
    Some(format!("`{name}` belongs to {}", other.header()))
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Takes out the key whose value (or name) is at this place; answers its path.
fn remove_at(root: &mut DeTable<'_>, place: &Range<usize>) -> Option<String> {
    let mut found = None;
    // The innermost section is visited last, so the last one found is the most exact.
    for_each_section(root, &mut |_, path, table| {
        let hit = table.iter().find(|(key, value)| {
            let is_section = value.get_ref().is_table() && !value_contains(value, place);
            !is_section && (contains(&key.span(), place) || value_contains(value, place))
        });
        if let Some((key, _)) = hit {
            let name = key.get_ref().to_string();
            found = Some((path.to_owned(), name));
        }
    });
    let (section_path, name) = found?;
    for_each_section(root, &mut |_, path, table| {
        if path == section_path {
            remove_from(table, &name, place);
        }
    });
    Some(joined(&section_path, &name))
}

/// Takes out a key, or of a list only the entry at this place.
fn remove_from(table: &mut DeTable<'_>, key: &str, place: &Range<usize>) {
    if let Some(DeValue::Array(list)) = table.get_mut(key).map(Spanned::get_mut) {
        let rest: Vec<_> = list.iter().filter(|entry| !value_contains(entry, place)).cloned().collect();
        if !rest.is_empty() && rest.len() < list.len() {
            *list = rest.into_iter().collect();
            return;
        }
    }
    table.remove(key);
}

/// Whether a value, or something inside it, is at this place.
///
/// A table opened by a header has only the header as its own span, so what is inside is asked too.
fn value_contains(value: &Spanned<DeValue<'_>>, place: &Range<usize>) -> bool {
    contains(&value.span(), place)
        || match value.get_ref() {
            DeValue::Table(table) => {
                table.iter().any(|(key, value)| contains(&key.span(), place) || value_contains(value, place))
            }
            DeValue::Array(array) => array.iter().any(|value| value_contains(value, place)),
            _ => false,
        }
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
