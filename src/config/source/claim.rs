//! The value of a claim of a JWT.

use toml::de::DeValue;

use super::reader::{Reader, Value, Written};

/// The value of a claim.
#[derive(Debug)]
pub(in crate::config) struct Claim(pub(in crate::config) serde_json::Value);

impl Value for Claim {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        json(value, path, reader).map(Self)
    }
}

/// A value without tables, dates and numbers that JSON does not have. Reports each other part.
fn json(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<serde_json::Value> {
    const EXPECTED: &str = "a string, a number, true, false, or a list of these";
    let number = match value.get_ref() {
        DeValue::String(text) => return Some(serde_json::Value::from(&**text)),
        DeValue::Boolean(is) => return Some(serde_json::Value::from(*is)),
        DeValue::Array(list) => {
            let entries = list.iter().enumerate();
            let entries: Vec<_> =
                entries.map(|(index, entry)| json(entry, &format!("{path}[{index}]"), reader)).collect();
            return entries.into_iter().collect();
        }
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(Into::into),
        DeValue::Float(number) => number.as_str().parse().ok().and_then(serde_json::Number::from_f64),
        DeValue::Datetime(_) | DeValue::Table(_) => return reader.mistyped(value, path, EXPECTED),
    };
    number
        .map(serde_json::Value::Number)
        .or_else(|| reader.invalid(value, path, "a number that JSON has: neither infinite nor too large"))
}
