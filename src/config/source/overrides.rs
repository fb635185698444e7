//! Environment variables that override keys of the file, such as `BEARERD_SERVER__LISTEN`.
//!
//! Only names with a double underscore count: Kubernetes sets `BEARERD_PORT` and `BEARERD_SERVICE_HOST` for a service
//! called `bearerd`. A value that is valid TOML (a number, a list, an inline table) is read as TOML, another as text.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Sources};
use super::section::Section;
use crate::config::model::environment::Environment;

const PREFIX: &str = "BEARERD_";

/// The sections that variables can set, with their paths in the file. Credentials also have a name in their path.
const SECTIONS: [(Section, &[&str]); 9] = [
    (Section::Limits, &["server", "limits"]),
    (Section::Tls, &["server", "tls"]),
    (Section::Server, &["server"]),
    (Section::Health, &["health"]),
    (Section::Admin, &["admin"]),
    (Section::Shared, &["shared"]),
    (Section::Audit, &["audit"]),
    (Section::Log, &["log"]),
    (Section::Tracing, &["tracing"]),
];

/// Applies each override to the parsed file. A variable that names no key is a problem.
pub(in crate::config) fn apply<'i>(
    root: &mut DeTable<'i>,
    sources: &mut Sources,
    environment: &'i Environment,
    problems: &mut Vec<Problem>,
) {
    // A single underscore may be one of Kubernetes' own variables.
    let is_override = |variable: &&str| variable.starts_with(PREFIX) && variable.contains("__");
    for variable in environment.not_text().filter(is_override) {
        let place = sources.add_override(variable, "");
        problems.push(
            Problem::error(place, format!("the environment variable {variable} is not UTF-8"))
                .help("set the variable to text in UTF-8, or unset it"),
        );
    }
    for (variable, value) in environment.iter() {
        let Some(path) = variable.strip_prefix(PREFIX) else { continue };
        if !path.contains("__") {
            problems.extend(meant(root, variable).map(|meant| {
                Problem::warning(
                    sources.add_override(variable, value),
                    format!("{variable} overrides nothing"),
                )
                .help(format!("write two underscores between the parts of the name: {meant}"))
            }));
            continue;
        }
        let place = sources.add_override(variable, value);
        let parts: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let name;
        let (section, section_path) = match parts.as_slice() {
            ["credentials", part, _, ..] => {
                name = match meant_credentials(root, part).as_slice() {
                    [] => (*part).to_owned(),
                    [only] => (*only).to_owned(),
                    [one, other, ..] => {
                        let title = format!("{variable} fits two credentials: `{one}` and `{other}`");
                        let help = "variables have no upper and lower case, `-` and `.`: rename a credential";
                        problems.push(Problem::error(place, title).help(help));
                        continue;
                    }
                };
                (Section::Credential, &["credentials", &name][..])
            }
            parts => {
                let is_within = |path: &[&str]| parts.len() > path.len() && parts.starts_with(path);
                SECTIONS.into_iter().find(|(_, path)| is_within(path)).unwrap_or((Section::Root, &[]))
            }
        };
        let [key, within @ ..] = &parts[section_path.len()..] else { continue };
        if let Some(problem) = refused(variable, section, key, within, &place) {
            problems.push(problem);
            continue;
        }
        // A section of the wrong type is reported later.
        let Some(table) = table_in(root, section_path, &place) else { continue };
        table.remove(*key);
        table.insert(Spanned::new(place.clone(), Cow::Owned((*key).to_owned())), parsed(value, &place));
    }
}

/// The override that a variable with single underscores was probably meant to be.
fn meant(root: &DeTable<'_>, variable: &str) -> Option<String> {
    let sections = SECTIONS.into_iter().map(|(section, path)| (section, path.join("__")));
    let credentials = credential_names(root).map(|name| {
        let name = name.replace(['-', '.'], "_");
        (Section::Credential, format!("credentials__{name}"))
    });
    sections.chain(credentials).find_map(|(section, path)| {
        let full = |key: &&str| format!("{PREFIX}{}", format!("{path}__{key}").to_ascii_uppercase());
        section.keys().iter().map(full).find(|full| full.replace("__", "_") == variable)
    })
}

/// The reason why a variable overrides nothing.
fn refused(
    variable: &str,
    section: Section,
    key: &str,
    within: &[&str],
    place: &Range<usize>,
) -> Option<Problem> {
    if section == Section::Root {
        let problem = Problem::error(place.clone(), format!("{variable} names no section of the file"));
        return Some(match key {
            "routes" => problem.help("write routes in the file: variables cannot override them"),
            "pools" => problem.help("write pools in the file: variables cannot override them"),
            "callers" => problem.help("write callers in the file: variables cannot override them"),
            _ => problem.help("write BEARERD_<SECTION>__<KEY>, such as BEARERD_SERVER__LISTEN"),
        });
    }
    if !section.keys().contains(&key) {
        let title = format!("{variable} names no key: {} has no `{key}`", section.header());
        return Some(Problem::error(place.clone(), title).help(section.hint(key)));
    }
    let depth: usize = within.iter().map(|name| name.len() + 2).sum();
    let whole = &variable[..variable.len() - depth];
    (!within.is_empty()).then(|| {
        Problem::error(place.clone(), format!("{variable} names a part of `{key}`"))
            .help(format!("set {whole} to the whole value as TOML, such as '{{ env = \"NAME\" }}'"))
    })
}

/// The table at this path, inserted if missing; `None` if the value there is not a table.
fn table_in<'t, 'i>(
    root: &'t mut DeTable<'i>,
    path: &[&str],
    place: &Range<usize>,
) -> Option<&'t mut DeTable<'i>> {
    path.iter().try_fold(root, |table, name| {
        if !table.contains_key(*name) {
            table.insert(
                Spanned::new(place.clone(), Cow::Owned((*name).to_owned())),
                Spanned::new(place.clone(), DeValue::Table(DeTable::new())),
            );
        }
        match table.get_mut(*name).map(Spanned::get_mut) {
            Some(DeValue::Table(inner)) => Some(inner),
            _ => None,
        }
    })
}

/// The credentials that a part of a variable can stand for. Names of variables have no case, no `-` and no `.`.
fn meant_credentials<'t>(root: &'t DeTable<'_>, part: &str) -> Vec<&'t str> {
    let folded = |name: &str| name.to_ascii_lowercase().replace(['-', '.'], "_");
    credential_names(root).filter(|name| folded(name) == folded(part)).collect()
}

fn credential_names<'t>(root: &'t DeTable<'_>) -> impl Iterator<Item = &'t str> {
    let credentials = root.get("credentials").and_then(|all| all.get_ref().as_table());
    credentials.into_iter().flat_map(|all| all.keys()).map(|name| name.get_ref().as_ref())
}

/// The value as TOML, or else as text. Only the whole value has the whole place, and its parts have none of their own.
fn parsed<'i>(value: &'i str, place: &Range<usize>) -> Spanned<DeValue<'i>> {
    let part = place.start..place.start;
    let value = DeValue::parse(value)
        .map_or_else(|_| DeValue::String(Cow::Borrowed(value)), |parsed| placed(parsed.into_inner(), &part));
    Spanned::new(place.clone(), value)
}

/// The value with each of its places replaced.
fn placed<'i>(value: DeValue<'i>, place: &Range<usize>) -> DeValue<'i> {
    let at_place =
        |value: Spanned<DeValue<'i>>| Spanned::new(place.clone(), placed(value.into_inner(), place));
    match value {
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(at_place).collect()),
        DeValue::Table(entries) => DeValue::Table(
            entries
                .into_iter()
                .map(|(key, value)| (Spanned::new(place.clone(), key.into_inner()), at_place(value)))
                .collect(),
        ),
        scalar => scalar,
    }
}
