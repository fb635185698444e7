//! `bearerd schema` and the committed `proxy.schema.json`.

use std::path::PathBuf;
use std::process::Command;

use bearerd::config::source::json_schema::schema;
use bearerd::config::source::section::Section;
use serde_json::Value;

use crate::book::markdown::{Page, guides, root};
use crate::harness::BEARERD;
use crate::shipped::{recipes, shipped, uncommented};

/// Refresh the file with `cargo run -- schema > proxy.schema.json`.
#[test]
fn the_committed_schema_is_that_of_the_binary() {
    let committed = std::fs::read_to_string(root().join("proxy.schema.json")).unwrap();
    let printed = Command::new(BEARERD).arg("schema").env_clear().output().unwrap();
    assert!(printed.status.success() && printed.stderr.is_empty(), "{printed:?}");
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), committed, "write it again with `bearerd schema`");
}

/// The properties of the schema at these keys.
fn properties<'s>(schema: &'s Value, path: &[&str]) -> &'s serde_json::Map<String, Value> {
    let inner = path.iter().fold(schema, |schema, key| match *key {
        "*" => {
            schema.get("additionalProperties").filter(|inner| inner.is_object()).unwrap_or(&schema["items"])
        }
        key => &schema["properties"][key],
    });
    inner["properties"].as_object().unwrap_or_else(|| panic!("{path:?}: {inner}"))
}

#[test]
fn every_key_has_a_type_and_a_description() {
    let schema = schema();
    for (section, path) in [
        (Section::Root, &[][..]),
        (Section::Server, &["server"]),
        (Section::Tls, &["server", "tls"]),
        (Section::Limits, &["server", "limits"]),
        (Section::Admin, &["admin"]),
        (Section::Caller, &["callers", "*"]),
        (Section::Credential, &["credentials", "*"]),
        (Section::Pool, &["pools", "*"]),
        (Section::Route, &["routes", "*"]),
        (Section::Audit, &["audit"]),
        (Section::Webhook, &["webhooks", "*"]),
        (Section::Log, &["log"]),
        (Section::Tracing, &["tracing"]),
    ] {
        let properties = properties(&schema, path);
        assert_eq!(properties.len(), section.keys().len(), "{section:?}");
        for key in section.keys() {
            let property = &properties[*key];
            let description = property["description"].as_str().unwrap_or_default();
            assert!(description.len() > 15, "{section:?} {key}: {description:?}");
            let has_form = ["type", "enum", "anyOf", "$ref"].iter().any(|form| property.get(form).is_some());
            assert!(has_form, "{section:?} {key}: {property}");
        }
    }
    let server = properties(&schema, &["server"]);
    assert_eq!(server["drain"]["default"], "20s");
    assert_eq!(server["half_closed"]["enum"], serde_json::json!(["abort", "answer"]));
    assert_eq!(properties(&schema, &["credentials", "*"])["max_rotations"]["default"], 0);
    assert!(properties(&schema, &["routes", "*"])["body_rate"].get("default").is_none());
}

/// Checks a value by the keywords that the schema uses; returns the places of mistakes.
fn mistakes(schema: &Value, root: &Value, value: &Value, place: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, rule) in schema.as_object().unwrap() {
        let is_met = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" => true,
            // Of these patterns, the part that matters here.
            "pattern" => value.as_str().is_none_or(|text| text.bytes().any(|byte| byte.is_ascii_digit())),
            "$ref" => {
                let definition = root.pointer(&rule.as_str().unwrap()[1..]).unwrap();
                found.extend(mistakes(definition, root, value, place));
                true
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|one| has_type(value, one.as_str().unwrap())),
                one => has_type(value, one.as_str().unwrap()),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "anyOf" => {
                rule.as_array().unwrap().iter().any(|one| mistakes(one, root, value, place).is_empty())
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
            "required" => value.as_object().is_none_or(|table| {
                rule.as_array().unwrap().iter().all(|key| table.contains_key(key.as_str().unwrap()))
            }),
            "items" => {
                let entries = value.as_array().into_iter().flatten().enumerate();
                found.extend(
                    entries.flat_map(|(at, entry)| mistakes(rule, root, entry, &format!("{place}[{at}]"))),
                );
                true
            }
            "properties" => {
                for (key, entry) in value.as_object().into_iter().flatten() {
                    let Some(rule) = rule.get(key) else { continue };
                    found.extend(mistakes(rule, root, entry, &format!("{place}.{key}")));
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let others = value.as_object().into_iter().flatten();
                for (key, entry) in
                    others.filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)))
                {
                    match rule {
                        Value::Bool(false) => found.push(format!("{place}.{key}: unknown")),
                        rule => found.extend(mistakes(rule, root, entry, &format!("{place}.{key}"))),
                    }
                }
                true
            }
            other => panic!("the test does not know {other}"),
        };
        if !is_met {
            found.push(format!("{place}: {keyword} {rule}"));
        }
    }
    found
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the test does not know the type {other}"),
    }
}

fn mistakes_of(text: &str) -> Vec<String> {
    let schema = schema();
    let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    mistakes(&schema, &schema, &value, "")
}

/// The blocks of TOML in the documentation, with their file.
fn blocks() -> Vec<(PathBuf, String)> {
    let of_page = |page: Page| {
        let blocks = page.blocks().into_iter().filter(|block| block.is("toml"));
        blocks.map(move |block| (page.path.clone(), block.text)).collect::<Vec<_>>()
    };
    guides().into_iter().flat_map(of_page).collect()
}

#[test]
fn the_schema_accepts_the_shipped_file_the_recipes_and_the_documentation() {
    assert!(shipped().starts_with("#:schema ./proxy.schema.json\n"));
    for text in [shipped(), uncommented(false), uncommented(true)] {
        assert_eq!(mistakes_of(&text), [""; 0]);
    }
    for (path, text) in recipes() {
        assert_eq!(mistakes_of(&text), [""; 0], "{}", path.display());
    }
    let blocks = blocks();
    assert!(blocks.len() > 5, "{blocks:?}");
    for (path, text) in blocks {
        // A part of a credential.
        let is_part = !text.trim_start().starts_with('[');
        let text = if is_part { format!("[credentials.x]\n{text}") } else { text };
        assert_eq!(mistakes_of(&text), [""; 0], "{}: {text}", path.display());
    }
}

#[test]
fn the_schema_refuses_unknown_keys_and_values_of_another_form() {
    let route = "[[routes]]\nupstream = \"https://a.test\"\ncredential = \"none\"\n";
    for text in [
        "[server]\nhost = \"x\"",
        "[sever]\n",
        "[server]\nworkers = 70000",
        "[server]\nworkers = -1",
        "[server]\ndrain = 20",
        "[server]\ndrain = \"soon\"",
        "[server]\nhalf_closed = \"maybe\"",
        "[server]\nhosts = \"a\"",
        "[admin]\ntoken = { env = \"A\", file = \"b\" }",
        "[admin]\ntoken = { evn = \"A\" }",
        "[credentials.a]\nassertion = { keys = 1 }",
        "[[routes]]\nupstream = \"https://a.test\"",
        &format!("{route}breaker = \"on\""),
        &format!("{route}breaker = {{ failure = 1 }}"),
        &format!("{route}retry_on = [\"401\"]"),
    ] {
        assert!(!mistakes_of(text).is_empty(), "{text}");
    }
    assert_eq!(mistakes_of(&format!("{route}breaker = \"off\"")), [""; 0]);
}
