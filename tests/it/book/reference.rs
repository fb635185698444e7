//! The reference of all keys is generated from the schema of the configuration.
//!
//! `BLESS=1 cargo test --test it the_reference` writes it anew.

use std::fmt::Write as _;

use bearerd::config::source::json_schema::schema;
use serde_json::{Map, Value};

use super::markdown::root;

const REFERENCE: &str = "docs/configure/reference.md";
/// The version since which there are keys. A key that comes later is in [`LATER`].
const FIRST: &str = "0.2.0";
/// Keys by path, and the version since which they exist.
const LATER: [(&str, &str); 0] = [];

const HEAD: &str = "\
# Configuration reference

Every key of `proxy.toml`. This page is generated from the schema that `bearerd schema` prints; `proxy.toml` in the
repository shows the same keys in their place. [Routes](routes.md), [Token requests](token-requests.md) and
[Recipes](recipes.md) show how keys work together, and `bearerd check --print` shows a configuration with all defaults.

## Values

| type | written as |
| --- | --- |
| text, list, table, boolean, number | as in TOML |
| duration | a number with a unit: `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"1h\"`; `\"0s\"` is none |
| size | a number of bytes with or without a unit: `\"512\"`, `\"64KiB\"`, `\"1MiB\"` |
| secret | `{ env = \"NAME\" }`, `{ file = \"PATH\" }` or, with a warning of `bearerd check`, text |
| path | text; relative to the folder of the file |

Environment variables `BEARERD_<SECTION>__<KEY>` (two underscores) override keys, but not those of routes:
`BEARERD_SERVER__LISTEN=127.0.0.1:9000`, `BEARERD_CREDENTIALS__API__CLIENT_ID=…`. Lists and tables are written as in TOML:
`BEARERD_SERVER__HOSTS='[\"gateway.internal\"]'`.
";

/// The page as it must be.
fn page() -> String {
    let schema = schema();
    let mut page = HEAD.to_owned();
    for (name, section) in schema["properties"].as_object().unwrap() {
        let (title, table) = match (name.as_str(), section["type"].as_str()) {
            ("callers" | "credentials" | "pools", _) => {
                (format!("[{name}.NAME]"), &section["additionalProperties"])
            }
            (name, Some("array")) => (format!("[[{name}]]"), &section["items"]),
            (name, _) => (format!("[{name}]"), section),
        };
        write!(page, "\n## `{title}`\n").unwrap();
        describe(&mut page, section);
        keys(&mut page, name, table["properties"].as_object().unwrap());
    }
    page
}

fn keys(page: &mut String, path: &str, keys: &Map<String, Value>) {
    for (key, value) in keys {
        let path = format!("{path}.{key}");
        write!(page, "\n### `{path}`\n").unwrap();
        let default =
            value.get("default").map_or("none".to_owned(), |default| format!("`{}`", toml_of(default)));
        let since = LATER.iter().find(|(later, _)| *later == path).map_or(FIRST, |(_, version)| version);
        write!(page, "\n{}; default: {default}; since {since}.\n", kind(value)).unwrap();
        describe(page, value);
        if let Some(below) = table_within(value) {
            self::keys(page, &path, below);
        }
    }
}

/// The members of a table, also where another form may stand in its place.
fn table_within(value: &Value) -> Option<&Map<String, Value>> {
    let alternatives = value["anyOf"].as_array().into_iter().flatten();
    std::iter::once(value).chain(alternatives).find_map(|value| value["properties"].as_object())
}

fn describe(page: &mut String, value: &Value) {
    if let Some(text) = value["description"].as_str() {
        page.push('\n');
        let mut length = 0;
        for word in text.split_whitespace() {
            let word = escaped(word);
            if length > 0 && length + 1 + word.chars().count() > 120 {
                page.push('\n');
                length = 0;
            } else if length > 0 {
                page.push(' ');
                length += 1;
            }
            page.push_str(&word);
            length += word.chars().count();
        }
        page.push('\n');
    }
}

/// A word in which nothing is taken for Markdown.
fn escaped(word: &str) -> String {
    if word.contains('`') { word.to_owned() } else { word.replace('*', "\\*").replace('<', "&lt;") }
}

fn kind(value: &Value) -> String {
    if let Some(names) = value["enum"].as_array() {
        let names: Vec<String> = names.iter().map(|name| format!("`{}`", toml_of(name))).collect();
        return format!("One of {}", names.join(", "));
    }
    if value["$ref"].is_string() {
        return "Secret".to_owned();
    }
    if let Some(alternatives) = value["anyOf"].as_array() {
        let mut kinds: Vec<String> = alternatives.iter().map(kind).collect();
        for kind in kinds.iter_mut().skip(1) {
            *kind = kind[..1].to_lowercase() + &kind[1..];
        }
        return kinds.join(" or ");
    }
    let range = |name: &str| value[name].as_f64();
    match (value["type"].as_str(), value["pattern"].as_str()) {
        (Some("string"), Some("^[0-9]")) => "Size".to_owned(),
        (Some("string"), Some(_)) => "Duration".to_owned(),
        (Some("string"), None) => "Text".to_owned(),
        (Some("boolean"), _) => "Boolean".to_owned(),
        (Some("integer"), _) => format!("Number from 0 to {}", range("maximum").unwrap()),
        (Some("number"), _) => "Number from 0 to 1".to_owned(),
        (Some("array"), _) => format!("List of {}", kind(&value["items"]).to_lowercase()),
        (Some("object"), _) => match &value["additionalProperties"] {
            Value::Object(_) => {
                format!("Table of {} by name", kind(&value["additionalProperties"]).to_lowercase())
            }
            _ => "Table".to_owned(),
        },
        _ => "Text, number, boolean or list".to_owned(),
    }
}

fn toml_of(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(key, value)| format!("{key} = {}", toml_of(value)));
            let members: Vec<String> = members.collect();
            if members.is_empty() { "{ }".to_owned() } else { format!("{{ {} }}", members.join(", ")) }
        }
        Value::Array(entries) => {
            format!("[{}]", entries.iter().map(toml_of).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[test]
fn the_reference_is_the_one_that_the_schema_gives() {
    let path = root().join(REFERENCE);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let differs = written.lines().zip(page().lines().map(str::to_owned)).find(|(is, should)| is != should);
    assert!(written == page(), "{REFERENCE} differs: run with BLESS=1; first: {differs:?}");
}
