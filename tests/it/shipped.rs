//! The shipped configuration agrees with the binary.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use bearerd::config::source::section::Section;
use bearerd::config::{Config, Environment, parse};

fn shipped() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml")).unwrap()
}

fn resolved(text: &str) -> Config {
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let environment =
        Environment::from([("API_CLIENT_SECRET", "x"), ("API_STATE_KEY", key), ("ADMIN_TOKEN", "x")]);
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
    let checked = parse(&folder.path().join("proxy.toml"), text.to_owned(), &environment);
    checked.unwrap_or_else(|problems| panic!("{problems}")).config
}

/// A commented-out key: `#key = value`.
fn is_commented_key(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// Keys without a default, whose line shows an example.
fn is_example(line: &str) -> bool {
    ["#host = ", "#allow = ", "#ca_file = ", "#proxy = ", "#token = "].iter().any(|key| line.starts_with(key))
}

/// A commented-out section: an example up to the next empty line.
fn is_commented_section(line: &str) -> bool {
    line.starts_with("#[")
}

/// The file with commented-out keys uncommented: keys that show a default, or all keys.
fn uncommented(with_examples: bool) -> String {
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
fn shape(config: &Config) -> String {
    format!("{config:#?}")
}

#[test]
fn the_shipped_configuration_is_valid_and_its_comments_show_the_defaults() {
    let as_shipped = resolved(&shipped());
    assert_eq!(shape(&resolved(&uncommented(false))), shape(&as_shipped));
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
        (Section::Admin, keys(table["admin"].as_table().unwrap())),
        (Section::Credential, credential_keys),
        (Section::Route, keys(route)),
        (Section::Log, keys(table["log"].as_table().unwrap())),
    ] {
        let known: BTreeSet<String> = section.keys().iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(shown, known, "{section:?}");
    }
}
