//! The JSON Schema of `proxy.toml`, for editors and for checks in other programs.

use serde_json::{Map, Value, json};

use super::schema::File;
use super::shape::{Property, Shape, Shaped};
use super::shipped;
use super::shipped::ShippedKey;

/// A part of what is no duration fails: without a number, or without a unit.
const DURATION: &str = "[0-9].*[A-Za-zµ]";
/// Likewise for sizes, which need no unit.
const SIZE: &str = "^[0-9]";

/// The schema (2020-12).
pub fn schema() -> Value {
    let keys = shipped::keys();
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("bearerd: proxy.toml"));
    schema.extend(of(&File::shape(), "", &keys));
    schema.insert("$defs".to_owned(), json!({ "secret": secret() }));
    Value::Object(schema)
}

fn secret() -> Value {
    let source = |key: &str, description: &str| {
        json!({
            "type": "object",
            "properties": { key: { "type": "string", "description": description, "minLength": 1 } },
            "required": [key],
            "additionalProperties": false,
        })
    };
    json!({
        "anyOf": [
            source("env", "The name of an environment variable that holds the secret."),
            source("file", "The path of a file that holds the secret."),
            { "type": "string", "description": "The secret in clear text, of which `bearerd check` warns." },
        ]
    })
}

/// The schema of a value at this path.
fn of(shape: &Shape, path: &str, keys: &[ShippedKey]) -> Map<String, Value> {
    let value = match shape {
        Shape::Text => json!({ "type": "string" }),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Whole(max) => json!({ "type": "integer", "minimum": 0, "maximum": max }),
        Shape::Share => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        Shape::Duration => json!({ "type": "string", "pattern": DURATION }),
        Shape::Size => json!({ "type": "string", "pattern": SIZE }),
        Shape::Choice(names) => json!({ "enum": names }),
        Shape::Secret => json!({ "$ref": "#/$defs/secret" }),
        Shape::Claim => json!({ "type": ["string", "number", "boolean", "array"] }),
        Shape::List(entry) => json!({ "type": "array", "items": of(entry, path, keys) }),
        Shape::Map(entry) => json!({ "type": "object", "additionalProperties": of(entry, path, keys) }),
        Shape::OneOf(shapes) => {
            let shapes: Vec<_> = shapes.iter().map(|shape| of(shape, path, keys)).collect();
            json!({ "anyOf": shapes })
        }
        Shape::Table(own) => {
            let properties: Map<String, Value> = own
                .iter()
                .map(|Property { key, shape, .. }| {
                    ((*key).to_owned(), Value::Object(property(shape, path, key, keys)))
                })
                .collect();
            let mut table =
                json!({ "type": "object", "properties": properties, "additionalProperties": false });
            // Variables can set the keys that other tables need.
            if path == "routes" {
                table["required"] = json!(["upstream", "credential"]);
            }
            table
        }
    };
    match value {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// The schema of a key, with its description and its default.
fn property(shape: &Shape, table: &str, key: &str, keys: &[ShippedKey]) -> Map<String, Value> {
    let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
    let mut schema = Map::new();
    schema
        .extend(shipped::description(&path, keys).map(|text| ("description".to_owned(), Value::from(text))));
    schema.extend(of(shape, &path, keys));
    let shipped = keys.iter().find(|shipped| shipped.path == path && shipped.is_default);
    let default =
        shipped.and_then(|shipped| toml::from_str::<Value>(&format!("value = {}", shipped.value)).ok());
    schema.extend(default.map(|default| ("default".to_owned(), default["value"].clone())));
    schema
}
