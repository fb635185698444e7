//! The threats of SECURITY.md, each with a test that exists.

use std::collections::BTreeSet;

use super::markdown::Page;
use crate::tidy::test_names_in;

/// The names in the last column of the tables of threats.
fn named(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let last =
        |row: &str| row.trim_end_matches(" |").rsplit(" | ").next().unwrap().trim_matches('`').to_owned();
    rows.map(last).collect()
}

#[test]
fn every_threat_has_a_test_that_exists() {
    let tests: BTreeSet<String> = ["tests", "src"].into_iter().flat_map(test_names_in).collect();
    let named = named(&Page::named("SECURITY.md").text);
    assert!(named.len() > 30, "{named:?}");
    let unknown: Vec<&String> = named.iter().filter(|name| !tests.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn a_threat_without_a_test_is_found() {
    let rows = "| who | what stops them | test |\n| --- | --- | --- |\n| a | b | `no_such_test` |\n";
    assert_eq!(named(rows), ["no_such_test"]);
}
