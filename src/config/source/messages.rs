//! serde's and the TOML parser's messages in the words of the file, without the values they quote.
//!
//! The value may be a secret, or hold one; the line is shown anyway, with what is secret starred out.

/// What the value of a key must be, from serde's message: "`drain` must be a string, not a number".
pub(in crate::config) fn of(path: &str, message: &str) -> String {
    let message = one_line(message);
    if let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .or_else(|| message.strip_prefix("invalid length "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        let (found, expected) = (kind(found), expectation(expected));
        let is_said = found.is_empty() || message.starts_with("invalid value") || expected.contains(found);
        let found = if is_said { String::new() } else { format!(", not {found}") };
        return format!("`{path}` must be {expected}{found}");
    }
    match message.split_once(", expected ") {
        Some((unknown, known)) if unknown.starts_with("unknown variant") => {
            format!("`{path}` must be {}", known.replacen("one of ", "one of: ", 1))
        }
        Some((unknown, known)) if unknown.starts_with("unknown field") => {
            format!("`{path}` has a key too many; it has {}", known.trim_start_matches("one of "))
        }
        _ => match message.strip_prefix("missing field ") {
            Some(field) => format!("`{path}` lacks {field}"),
            None => format!("`{path}`: {message}"),
        },
    }
}

/// A message of several lines as one; what the parser would have taken instead says less.
pub(in crate::config) fn one_line(message: &str) -> String {
    let unquoted = "string values must be quoted";
    let message = if message.starts_with(unquoted) { unquoted } else { message };
    message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The kind of a value, without the value behind it.
fn kind(found: &str) -> &'static str {
    let kinds = [
        ("string", "a string"),
        ("integer", "a number"),
        ("floating point", "a number"),
        ("boolean", "true or false"),
        ("sequence", "a list"),
        ("map", "a table"),
    ];
    kinds.into_iter().find(|(name, _)| found.starts_with(name)).map_or("", |(_, kind)| kind)
}

fn expectation(expected: &str) -> &str {
    match expected {
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "a nonzero u32" => "a whole number from 1 to 4294967295",
        "a boolean" => "true or false",
        "a sequence" => "a list in brackets, such as [\"a\", \"b\"] or [401]",
        "a map" => "a table, such as { key = \"value\" }",
        "path string" => "the path of a file, as a string",
        "struct WrittenRetry429" => "a table such as { attempts = 3, max_wait = \"10s\" }",
        "struct Rate" => "a table such as { requests = 10, per = \"60s\" }",
        other if other.starts_with("string or table") || other.starts_with("enum ") => "a string",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_what_is_expected_and_never_the_value() {
        for (said, shown) in [
            ("invalid type: integer `20`, expected a string", "`key` must be a string, not a number"),
            (
                "invalid type: string \"hunter2, expected x\", expected a boolean",
                "`key` must be true or false, not a string",
            ),
            ("invalid value: integer `70000`, expected u16", "`key` must be a whole number from 0 to 65535"),
            ("unknown variant `hunter2`, expected one of `a`, `b`", "`key` must be one of: `a`, `b`"),
            ("unknown variant `hunter2`, expected `raw` or `form`", "`key` must be `raw` or `form`"),
            (
                "invalid type: integer `403`, expected a sequence",
                "`key` must be a list in brackets, such as [\"a\", \"b\"] or [401], not a number",
            ),
            (
                "invalid type: sequence, expected a map",
                "`key` must be a table, such as { key = \"value\" }, not a list",
            ),
            ("missing field `per`", "`key` lacks `per`"),
            ("not a duration\nwrite \"30s\"", "`key`: not a duration, write \"30s\""),
        ] {
            assert_eq!(of("key", said), shown);
        }
    }
}
