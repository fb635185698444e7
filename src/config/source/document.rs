//! The text of `proxy.toml` with the overrides of the environment, read as a [`File`].
//!
//! The path of a key that is present but wrong is remembered, so that no later check reports the key as missing.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Problem, Sources};
use super::overrides;
use super::reader::{Reader, Table, joined};
use super::schema::File;
use super::section::{Section, not_supported};
use super::synonyms::meant_key;
use crate::config::model::environment::Environment;

/// The readable part of a configuration, and the problems of the rest.
#[derive(Debug)]
pub(in crate::config) struct Document {
    /// The file without its unusable keys.
    pub(in crate::config) file: File,
    /// The texts that places point into.
    pub(in crate::config) sources: Sources,
    /// The problems.
    pub(in crate::config) problems: Vec<Problem>,
    /// Paths of the keys that are present but unusable, such as `server.limits.replay_body`.
    pub(in crate::config) unusable: BTreeSet<String>,
    /// Whether the text is TOML. If not, the problems say why, and there is nothing else.
    pub(in crate::config) is_toml: bool,
}

impl Document {
    /// Parses the text, applies the environment's overrides, and reads each key.
    pub(in crate::config) fn read(mut sources: Sources, environment: &Environment) -> Self {
        let text = sources.text().to_owned();
        let (root, errors) = DeTable::parse_recoverable(&text);
        let syntax_error =
            |error: &toml::de::Error| Problem::error(error.span(), format!("not TOML: {}", error.message()));
        let problems: Vec<Problem> = errors.iter().map(syntax_error).collect();
        if !problems.is_empty() {
            // Of a text that is not TOML, a key or a value could be a part of a secret: nothing of it is named.
            return Self {
                file: File::default(),
                sources,
                problems,
                unusable: BTreeSet::new(),
                is_toml: false,
            };
        }
        let mut problems = problems;
        let mut root = root.into_inner();
        overrides::apply(&mut root, &mut sources, environment, &mut problems);

        let mut reader = Reader::new(&sources, problems);
        check_credentials(&mut root, &mut reader);
        check_routes(&mut root, &mut reader);
        remove_unknown_keys(Section::Root, "", &mut root, &mut reader);
        check_sections(&mut root, &mut reader);
        let file = File::from_table(&root, "", &mut reader);
        let Reader { problems, unusable, .. } = reader;
        Self { file, sources, problems, unusable, is_toml: true }
    }
}

/// Reports `credentials` that is not a table of tables.
fn check_credentials(root: &mut DeTable<'_>, reader: &mut Reader<'_>) {
    let Some(credentials) = root.get_mut("credentials") else { return };
    let place = credentials.span();
    let DeValue::Table(all) = credentials.get_mut() else {
        replace_by_table("credentials", Section::Credential.header(), credentials, reader);
        return;
    };
    let is_key = |key: &str| Section::Credential.keys().contains(&key);
    if all.iter().any(|(key, value)| is_key(key.get_ref()) && !value.get_ref().is_table()) {
        all.clear();
        reader.problems.push(Problem::error(place, "a credential needs a name").help(
            "write [credentials.NAME], with a name of your choice, and that name in `credential` of the routes",
        ));
        reader.unusable.insert("credentials".to_owned());
    }
}

/// Reports `routes` that is not a list. A single `[routes]` is checked as if it were `[[routes]]`.
fn check_routes(root: &mut DeTable<'_>, reader: &mut Reader<'_>) {
    let Some(routes) = root.get_mut("routes").filter(|routes| !routes.get_ref().is_array()) else { return };
    let place = routes.span();
    let single = std::mem::replace(routes.get_mut(), DeValue::Boolean(false));
    let single = single.is_table().then(|| Spanned::new(place.clone(), single));
    *routes.get_mut() = DeValue::Array(single.into_iter().collect());
    reader.problems.push(
        Problem::error(place, "`routes` must be a list of tables")
            .help("write [[routes]], with two brackets, once for each route"),
    );
    reader.unusable.insert("routes".to_owned());
}

/// Checks each section below the root, outer sections first.
fn check_sections(root: &mut DeTable<'_>, reader: &mut Reader<'_>) {
    for (key, value) in root.iter_mut() {
        match key.get_ref().as_ref() {
            "server" => {
                check_section(Section::Server, "server", value, reader);
                let DeValue::Table(server) = value.get_mut() else { continue };
                for (key, section) in [("tls", Section::Tls), ("limits", Section::Limits)] {
                    if let Some(value) = server.get_mut(key) {
                        check_section(section, &format!("server.{key}"), value, reader);
                    }
                }
            }
            "admin" => check_section(Section::Admin, "admin", value, reader),
            "log" => check_section(Section::Log, "log", value, reader),
            "credentials" => {
                let DeValue::Table(credentials) = value.get_mut() else { continue };
                for (name, value) in credentials.iter_mut() {
                    check_section(Section::Credential, &joined("credentials", name.get_ref()), value, reader);
                }
            }
            "routes" => {
                let DeValue::Array(routes) = value.get_mut() else { continue };
                for (index, value) in routes.iter_mut().enumerate() {
                    check_section(Section::Route, &format!("routes[{index}]"), value, reader);
                }
            }
            _ => {}
        }
    }
}

/// Reports a section that is not a table, or the section's unknown keys.
fn check_section(section: Section, path: &str, value: &mut Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
    if let DeValue::Table(table) = value.get_mut() {
        remove_unknown_keys(section, path, table, reader);
        return;
    }
    let header = if section == Section::Route { "[[routes]]".to_owned() } else { format!("[{path}]") };
    replace_by_table(path, &header, value, reader);
    reader.unusable.extend(section.keys().iter().map(|key| joined(path, key)));
}

/// Reports a value that must be a table, and replaces it by an empty one.
fn replace_by_table(path: &str, header: &str, value: &mut Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
    reader.problems.push(
        Problem::error(value.span(), format!("`{path}` must be a table"))
            .help(format!("write {header} on a line of its own, and its keys below")),
    );
    *value.get_mut() = DeValue::Table(DeTable::new());
    reader.unusable.insert(path.to_owned());
}

/// Reports and removes each key that the section does not have.
fn remove_unknown_keys(section: Section, path: &str, table: &mut DeTable<'_>, reader: &mut Reader<'_>) {
    let unknown: Vec<(String, Range<usize>)> = table
        .keys()
        .filter(|key| !section.keys().contains(&key.get_ref().as_ref()))
        .map(|key| (key.get_ref().to_string(), key.span()))
        .collect();
    for (key, place) in unknown {
        table.remove(key.as_str());
        reader.unusable.extend(meant_key(section.keys(), &key).map(|meant| joined(path, meant)));
        let header =
            if section == Section::Credential { format!("[{path}]") } else { section.header().to_owned() };
        reader.problems.push(if section.planned().contains(&key.as_str()) {
            not_supported(&key, place)
        } else {
            Problem::error(place, format!("unknown key `{key}` in {header}")).help(section.hint(&key))
        });
    }
}
