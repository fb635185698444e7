//! The shipped configuration agrees with the binary.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bearerd::config::source::section::Section;
use bearerd::config::source::shipped::EXAMPLES;
use bearerd::config::{Checked, Config, Diagnostics, Environment, parse};

use crate::recipes::{SECRETS, write_key};

pub(crate) fn shipped() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml")).unwrap()
}

/// The folder and the environment that the shipped configuration and the recipes need.
pub(crate) struct Setting {
    folder: tempfile::TempDir,
    pub(crate) environment: Environment,
}

impl Setting {
    pub(crate) fn new() -> Self {
        const STATE_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        const OWN: [(&str, &str); 6] = [
            ("API_CLIENT_SECRET", "x"),
            ("API_STATE_KEY", STATE_KEY),
            ("ADMIN_TOKEN", "x"),
            ("AUDIT_KEY", STATE_KEY),
            ("WEBHOOK_URL", "https://hooks.example.com/bearerd"),
            ("WEBHOOK_SECRET", STATE_KEY),
        ];
        let all: [_; OWN.len() + SECRETS.len()] =
            std::array::from_fn(|at| OWN.get(at).unwrap_or_else(|| &SECRETS[at - OWN.len()]));
        let environment = Environment::from(all.map(|variable| *variable));
        let folder = tempfile::tempdir().unwrap();
        let pki = testkit::pki::Pki::new(&["localhost"]).unwrap();
        std::fs::create_dir(folder.path().join("certs")).unwrap();
        let client = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        for (name, content) in [
            ("ca.pem", pki.authority_pem().to_owned()),
            ("client.pem", client.cert.pem()),
            ("client-key.pem", client.signing_key.serialize_pem()),
            ("assertion.pem", client.signing_key.serialize_pem()),
            ("server.pem", pki.server().certificate.clone()),
            ("server-key.pem", pki.server().key.clone()),
        ] {
            std::fs::write(folder.path().join("certs").join(name), content).unwrap();
        }
        for (_, recipe) in recipes() {
            write_key(&recipe, folder.path());
        }
        Self { folder, environment }
    }

    pub(crate) fn parse(&self, text: &str) -> Result<Checked, Box<Diagnostics>> {
        parse(&self.folder.path().join("proxy.toml"), text.to_owned(), &self.environment)
    }
}

fn checked(text: &str) -> Checked {
    Setting::new().parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn resolved(text: &str) -> Config {
    checked(text).config
}

/// The warnings of a configuration, each with its line.
fn warnings(text: &str) -> Vec<(String, String)> {
    let warnings = checked(text).warnings;
    let line = |place: usize| text[..place].rfind('\n').map_or(0, |end| end + 1);
    let warnings = warnings.problems().iter().map(|problem| {
        let start = problem.place.clone().map_or(0, |place| line(place.start));
        (problem.title.clone(), text[start..].lines().next().unwrap_or_default().to_owned())
    });
    warnings.collect()
}

/// A commented-out key: `#key = value`.
pub(crate) fn is_commented_key(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Keys without a default, whose line shows an example.
fn is_example(line: &str) -> bool {
    EXAMPLES.iter().any(|key| line.starts_with(key))
}

/// A commented-out section: an example up to the next empty line.
pub(crate) fn is_commented_section(line: &str) -> bool {
    line.starts_with("#[")
}

/// The file with commented-out keys uncommented: keys that show a default, or all keys.
pub(crate) fn uncommented(with_examples: bool) -> String {
    let mut is_in_example = false;
    shipped().lines().fold(String::new(), |mut text, line| {
        is_in_example = is_commented_section(line) || (is_in_example && !line.is_empty());
        let is_shown = match line {
            line if is_commented_section(line) => with_examples,
            line if is_commented_key(line) => with_examples || !(is_example(line) || is_in_example),
            _ => false,
        };
        writeln!(text, "{}", if is_shown { &line[1..] } else { line }).unwrap();
        text
    })
}

/// A resolved configuration as text, without the parts that differ between two readings.
pub(crate) fn shape(config: &Config) -> String {
    format!("{config:#?}")
}

#[test]
fn the_shipped_configuration_is_valid_and_its_comments_show_the_defaults() {
    let as_shipped = resolved(&shipped());
    assert_eq!(shape(&resolved(&uncommented(false))), shape(&as_shipped));
}

/// A user who has filled in the one value sees no warning.
#[test]
fn the_shipped_configuration_warns_of_the_one_value_to_fill_in() {
    let placeholder = ("looks like a placeholder".to_owned(), "client_id = \"your-client-id\"".to_owned());
    assert_eq!(warnings(&shipped()), [placeholder]);
    assert_eq!(warnings(&shipped().replace("your-client-id", "4711")), []);
}

/// The recipes, each with its path.
pub(crate) fn recipes() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let recipes = files.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    recipes.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The recipes name tenants of tutorials, and values to fill in by words that begin with "your-".
#[test]
fn a_recipe_warns_of_values_to_fill_in_and_of_tutorials_only() {
    for (path, text) in recipes() {
        for (title, line) in warnings(&text) {
            let is_expected = match title.as_str() {
                "looks like a placeholder" => line.contains("\"your-") || line.contains("/your-"),
                _ => title.contains(" of tutorials, which "),
            };
            assert!(is_expected, "{}: {title}: {line}", path.display());
        }
    }
}

#[test]
fn the_shipped_configuration_shows_every_key_and_its_examples_are_valid() {
    let all = uncommented(true);
    resolved(&all);

    let table: toml::Table = toml::from_str(&all).unwrap();
    let keys = |table: &toml::Table| table.keys().cloned().collect::<BTreeSet<_>>();
    let server = table["server"].as_table().unwrap();
    let credentials = table["credentials"].as_table().unwrap().values();
    let credential_keys = credentials.flat_map(|credential| keys(credential.as_table().unwrap())).collect();
    let route = table["routes"][0].as_table().unwrap();
    for (section, shown) in [
        (Section::Root, keys(&table)),
        (Section::Server, keys(server)),
        (Section::Tls, keys(server["tls"].as_table().unwrap())),
        (Section::Limits, keys(server["limits"].as_table().unwrap())),
        (Section::Health, keys(table["health"].as_table().unwrap())),
        (Section::Admin, keys(table["admin"].as_table().unwrap())),
        (Section::Caller, keys(table["callers"]["billing"].as_table().unwrap())),
        (Section::Credential, credential_keys),
        (Section::Pool, keys(table["pools"]["genesys"].as_table().unwrap())),
        (Section::Route, keys(route)),
        (Section::Audit, keys(table["audit"].as_table().unwrap())),
        (Section::Webhook, keys(table["webhooks"][0].as_table().unwrap())),
        (Section::Log, keys(table["log"].as_table().unwrap())),
        (Section::Tracing, keys(table["tracing"].as_table().unwrap())),
    ] {
        let known: BTreeSet<String> = section.keys().iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(shown, known, "{section:?}");
    }
}
