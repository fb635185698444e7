//! Recognises configurations in another format than TOML.
//!
//! The parser would report each line of such a file. One sentence that names the format helps more.

use serde::de::IgnoredAny;
use toml::de::DeTable;

use super::problem::{Problem, Sources};

const AS_TOML: &str = "write a section as [server] on a line of its own and a key as listen = \"127.0.0.1:8080\"; the \
                       proxy.toml that comes with bearerd shows every key";
const AS_VARIABLES: &str =
    "set these variables in the daemon's environment, and name the TOML file with -c FILE";

/// The problem of a file that is not TOML but something else that is well known.
pub(in crate::config) fn other_than_toml(sources: &Sources) -> Option<Problem> {
    let (format, help) = format_of(sources.text())?;
    let title = format!("{} is {format}, not TOML", sources.path().display());
    Some(Problem::error(None, title).help(help))
}

/// The format and the remedy; `None` for TOML, also with errors, and for what is not known.
fn format_of(text: &str) -> Option<(&'static str, &'static str)> {
    let text = text.trim_start_matches('\u{feff}');
    let is_comment = |line: &&str| line.starts_with(['#', ';']) || line.starts_with("//");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_comment(line));
    let lines: Vec<&str> = lines.collect();
    let first = *lines.first()?;
    // Quoted variables are valid TOML, but no key has such a name.
    if is_variable(first) && count(&lines, is_variable) * 2 > lines.len() {
        return Some(("a list of environment variables", AS_VARIABLES));
    }
    if DeTable::parse(text).is_ok() {
        return None;
    }
    let format = if is_json(first, text) {
        "JSON"
    } else if first.starts_with('<') {
        "XML or HTML"
    } else if first.starts_with("-----BEGIN ") {
        "a PEM file"
    } else if is_yaml(&lines) {
        "YAML"
    } else if first.ends_with('{') && !first.contains('=') {
        "a file with blocks in braces, such as nginx and Caddy read"
    } else if is_ini(&lines) {
        "INI, whose values have no quotes"
    } else {
        return None;
    };
    Some((format, AS_TOML))
}

fn count(lines: &[&str], is: impl Fn(&str) -> bool) -> usize {
    lines.iter().filter(|line| is(line)).count()
}

/// `NAME=value` or `export NAME=value`, with a name in upper case.
fn is_variable(line: &str) -> bool {
    let line = line.strip_prefix("export ").unwrap_or(line);
    line.split_once('=').is_some_and(|(name, _)| {
        let name = name.trim_end();
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    })
}

fn is_json(first: &str, text: &str) -> bool {
    let start = text.find('{').map_or("", |at| text[at + 1..].trim_start());
    let is_object = first.starts_with('{') && start.starts_with(['"', '}']);
    is_object || serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A file that begins as YAML does, with more lines of YAML than of TOML.
fn is_yaml(lines: &[&str]) -> bool {
    let is_marker = |line: &str| line == "---" || line.starts_with("%YAML");
    let is_entry = |line: &str| {
        let key = line.trim_start_matches("- ").split_once(':');
        let is_key = key.is_some_and(|(key, rest)| {
            let key = key.trim_matches(['"', '\'']);
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            !key.is_empty() && key.bytes().all(is_name) && (rest.is_empty() || rest.starts_with(' '))
        });
        is_key || line.starts_with("- ")
    };
    let is_toml = |line: &str| line.starts_with('[') || (line.contains('=') && !is_entry(line));
    let is_first = lines.first().is_some_and(|first| is_marker(first) || is_entry(first));
    is_first && count(lines, is_entry) > count(lines, is_toml)
}

/// Sections and keys whose values are words without quotes.
fn is_ini(lines: &[&str]) -> bool {
    let value = |line: &str| line.split_once('=').map(|(_, value)| value.trim().to_owned());
    let is_section = |line: &str| line.starts_with('[') && !line.starts_with("[[") && line.ends_with(']');
    let is_quoted = |line: &str| value(line).is_some_and(|value| value.starts_with(['"', '\'', '[', '{']));
    let is_word = |line: &str| {
        value(line).is_some_and(|value| value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/'))
    };
    lines.iter().all(|line| is_section(line) || value(line).is_some())
        && count(lines, is_quoted) == 0
        && lines.iter().any(|line| is_word(line) && !line.ends_with("true") && !line.ends_with("false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_another_format_is_called_by_its_format() {
        for (text, format) in [
            ("server:\n  listen: 127.0.0.1:8080\ncredentials:\n  a:\n    client_id: x\n", "YAML"),
            ("---\n# all of it\nroutes:\n- path: /\n  upstream: https://api.test/?a=b\n", "YAML"),
            ("\"server\": {listen: \"127.0.0.1:1\"}\n", "YAML"),
            ("- upstream: https://api.test\n  credential: none\n", "YAML"),
            ("{\n  \"server\": { \"listen\": \"127.0.0.1:8080\" }\n}\n", "JSON"),
            ("// a comment\n{ \"server\": {},", "JSON"),
            ("[{\"upstream\": \"https://api.test\"}]", "JSON"),
            ("\u{feff}{}", "JSON"),
            ("[server]\nlisten = 127.0.0.1:8080\n[log]\nlevel = info\n", "INI"),
            ("; a comment\n[credentials]\nclient_id=abc\n", "INI"),
            ("server.listen=localhost\nserver.workers=4\n", "INI"),
            ("CLIENT_ID=abc\nCLIENT_SECRET=hunter2\n", "a list of environment variables"),
            ("# secrets\nexport CLIENT_SECRET=\"hunter2\"\n", "a list of environment variables"),
            ("BEARERD_SERVER__LISTEN='127.0.0.1:1'\n", "a list of environment variables"),
            ("server {\n  listen 8080;\n}\n", "a file with blocks"),
            ("<?xml version=\"1.0\"?>\n<server/>", "XML"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", "a PEM file"),
        ] {
            let found = format_of(text);
            assert!(found.is_some_and(|(found, _)| found.starts_with(format)), "{text}: {found:?}");
        }
    }

    #[test]
    fn toml_with_errors_stays_toml() {
        for text in [
            "",
            "# nothing\n",
            "not TOML",
            "[server]\nlisten: \"127.0.0.1:8080\"\ndrain = \"20s\"\n",
            "listen: \"127.0.0.1:8080\"\n[server]\ndrain = \"20s\"\n",
            "[server]\nlisten = 127.0.0.1:8080\ndrain = \"20s\"\n",
            "[server\nlisten = \"127.0.0.1:8080\"\n",
            "[server]\nworkers = = 3\n",
            "[server]\nwatch = true false\n",
            "[[routes]]\nupstream = https://api.test\n",
            "[log]\nlevel = \"info\"\nlevel = \"warn\"\n",
            "{{ .Values.config }}\n",
        ] {
            assert_eq!(format_of(text), None, "{text}");
        }
    }
}
