//! Codes, events, exit codes and messages of the log: each has a heading, and each heading is one.

use std::collections::BTreeSet;

use bearerd::documentation::{of_code, of_exit_code};
use bearerd::proxy::error::ProxyError;
use bearerd::telemetry::event::Name;
use bearerd::token::Reason;
use bearerd::token::status::TOKEN_REJECTED;

use super::markdown::{Page, anchors, headings};
use crate::tidy::production_sources;

const TROUBLESHOOTING: &str = "docs/operate/troubleshooting.md";
const MESSAGES: &str = "docs/operate/messages.md";

/// The calls that take the code of a problem as their first literal.
const PROBLEMS: [&str; 3] = ["Problem::new(", "not_found(", "unprocessable("];
/// The macros whose last literal is a message of the log.
const LOG: [&str; 3] = ["error!(", "warn!(", "info!("];

/// The arguments of each call in a source.
fn arguments<'s>(source: &'s str, call: &'s str) -> impl Iterator<Item = &'s str> {
    let places = source.match_indices(call);
    // Not the end of a longer name, and not the definition of a function.
    let whole = places.filter(|(at, _)| {
        let before = &source[..*at];
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with("fn ")
    });
    whole.map(move |(at, _)| {
        let start = at + call.len();
        let (mut depth, mut is_text, mut is_escaped) = (1, false, false);
        let end = source[start..].char_indices().find(|(_, c)| {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' if is_text => is_escaped = true,
                '"' => is_text = !is_text,
                '(' if !is_text => depth += 1,
                ')' if !is_text => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        &source[start..start + end.map_or(0, |(at, _)| at)]
    })
}

/// The literals of text in arguments.
fn literals(arguments: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = arguments;
    while let Some((_, text)) = rest.split_once('"') {
        let mut is_escaped = false;
        let end = text.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        let Some(end) = end else { break };
        found.push(text[..end].to_owned());
        rest = &text[end + 1..];
    }
    found
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn codes_in(source: &str) -> Vec<String> {
    let calls = PROBLEMS.into_iter().flat_map(|call| arguments(source, call));
    let first = |arguments: &str| literals(arguments).into_iter().next();
    calls.filter_map(first).filter(|text| is_code(text)).collect()
}

fn messages_in(source: &str) -> Vec<String> {
    let calls = LOG.into_iter().flat_map(|call| arguments(source, call));
    let last = |arguments: &str| literals(arguments).pop();
    calls.filter_map(last).map(|message| message.replace("{}", "…")).collect()
}

fn in_sources(folder: &str, found: fn(&str) -> Vec<String>) -> BTreeSet<String> {
    let production = |text: &str| text.split("\n#[cfg(test)]").next().unwrap().to_owned();
    production_sources(folder).flat_map(|(_, text)| found(&production(&text))).collect()
}

/// The names of the headings of the third level, below those of the second that the filter accepts.
fn named(page: &Page, is_meant: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut is_inside = false;
    let mut found = BTreeSet::new();
    for (_, level, title) in headings(&page.text) {
        match level {
            2 => is_inside = is_meant(&title),
            3 if is_inside => {
                // A message may have backticks of its own.
                let bare = title.strip_prefix('`').and_then(|title| title.strip_suffix('`'));
                let name = bare.filter(|name| !name.contains('`')).unwrap_or(&title);
                assert!(found.insert(name.to_owned()), "{name} is there twice");
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_code_has_a_heading_in_troubleshooting_and_back() {
    let page = Page::named(TROUBLESHOOTING);
    let callers = ProxyError::CODES.iter().map(|code| (*code).to_owned());
    let reasons = Reason::ALL.into_iter().map(|reason| reason.code().to_owned());
    let operators = in_sources("src/admin", codes_in);
    assert!(operators.len() > 15, "{operators:?}");
    let codes: BTreeSet<String> =
        callers.chain(reasons).chain(operators).chain([TOKEN_REJECTED.to_owned()]).collect();

    assert_eq!(named(&page, |section| section.starts_with("Errors ")), codes);

    let anchors = anchors(&page.text);
    for code in codes {
        let (_, anchor) = of_code(&code)
            .split_once('#')
            .map(|(file, anchor)| (file.to_owned(), anchor.to_owned()))
            .unwrap();
        assert!(of_code(&code).contains(TROUBLESHOOTING), "{code}");
        assert!(anchors.contains(&anchor), "{anchor}");
    }
}

#[test]
fn every_exit_code_has_a_heading_and_back() {
    let source = include_str!("../../../src/cli/exit_code.rs");
    let codes =
        source.lines().filter_map(|line| line.strip_suffix(';')?.rsplit_once("u8 = ")?.1.parse::<u8>().ok());
    let codes: BTreeSet<String> = codes.map(|code| format!("Exit code {code}")).collect();
    assert!(codes.contains("Exit code 78"), "{codes:?}");

    let page = Page::named(TROUBLESHOOTING);
    assert_eq!(named(&page, |section| section == "Exit codes"), codes);
    assert!(anchors(&page.text).contains(of_exit_code(78).split_once('#').unwrap().1));
}

#[test]
fn every_event_has_a_heading_and_its_message_and_back() {
    let page = Page::named(MESSAGES);
    let names: BTreeSet<String> = Name::ALL.iter().map(|name| name.as_str().to_owned()).collect();
    assert_eq!(named(&page, |section| section == "Events"), names);
    for name in Name::ALL {
        let entry = format!("### `{}`\n\n“{}”.", name.as_str(), name.message());
        assert!(page.text.contains(&entry), "{entry}");
    }
}

#[test]
fn every_message_of_the_log_has_a_heading_and_back() {
    let messages = in_sources("src", messages_in);
    assert!(messages.len() > 80, "{messages:?}");
    assert_eq!(named(&Page::named(MESSAGES), |section| section != "Events"), messages);
}

#[test]
fn codes_and_messages_are_found_in_sources() {
    let source = "fn not_found(code: &str) {}\nfn f() { warn!(a = g(\"x)\"), \"it \\\"broke\\\"\"); debug!(\"no\"); \
                  Problem::new(status, \"new_code\", \"Title\"); my_info!(\"no\"); not_found(\"gone\", d); }";
    assert_eq!(messages_in(source), ["it \\\"broke\\\""]);
    assert_eq!(codes_in(source), ["new_code", "gone"]);
    let page = Page::new("x.md", "## Errors\n\n### `a_b`\n\n## Other\n\n### `c`\n");
    assert_eq!(named(&page, |section| section == "Errors"), BTreeSet::from(["a_b".to_owned()]));
}
