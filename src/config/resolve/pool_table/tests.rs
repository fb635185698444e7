//! Tests of `[pools.NAME]`, and of routes that use one.

use std::path::Path;

use crate::config::{Checked, Diagnostics, Environment, parse};

const CREDENTIALS: &str = "[credentials.a]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"a\"\n\
     client_secret = { env = \"SECRET\" }\n[credentials.b]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"b\"\n\
     client_secret = { env = \"SECRET\" }\n";

fn read(text: &str, credential: &str) -> Result<Checked, Box<Diagnostics>> {
    let route =
        format!("[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"{credential}\"\n");
    let text = format!("{CREDENTIALS}{text}\n{route}");
    parse(Path::new("/etc/bearerd/proxy.toml"), text, &Environment::from([("SECRET", "hunter2")]))
}

/// The titles of the problems.
fn refused(text: &str, credential: &str) -> Vec<String> {
    let problems = read(text, credential).unwrap_err();
    problems.problems().iter().map(|problem| problem.title.clone()).collect()
}

#[test]
fn a_route_of_a_pool_has_all_of_its_credentials_in_their_order() {
    let Checked { config, warnings, .. } = read("[pools.p]\ncredentials = [\"b\", \"a\"]", "p").unwrap();

    assert_eq!(warnings.problems().len(), 0, "{warnings}");
    let names = |all: &[std::sync::Arc<crate::config::Credential>]| -> Vec<String> {
        all.iter().map(|one| one.name.clone()).collect()
    };
    assert_eq!(names(config.routes[0].credentials()), ["b", "a"]);
    assert_eq!(config.routes[0].credential.as_ref().unwrap().name, "b");
    assert_eq!(config.pools[0].name, "p");
}

#[test]
fn what_is_wrong_with_a_pool_is_reported_once_and_at_the_pool() {
    for (text, title) in [
        ("[pools.p]", "the pool `p` has no credentials"),
        ("[pools.p]\ncredentials = []", "the pool `p` has no credentials"),
        ("[pools.p]\ncredentials = [\"a\", \"c\"]", "there is no credential `c`"),
        ("[pools.p]\ncredentials = [\"a\", \"b\", \"a\"]", "the same credential twice"),
        ("[pools.p]\ncredentials = [\"a\", 7]", "must be a string"),
        ("[pools]\ncredentials = [\"a\", \"b\"]", "a pool needs a name"),
    ] {
        let problems = refused(text, "p");
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].contains(title), "{text}: {problems:?}");
    }
    let members = "credentials = [\"a\", \"b\"]";
    for (name, title) in [
        ("a", "`a` is the name of a credential too"),
        ("none", "the name `none` is reserved for routes without a credential"),
        ("\"x y\"", "the name of a pool has only letters, digits, `-`, `_` and `.`"),
    ] {
        let problems = refused(&format!("[pools.{name}]\n{members}"), "a");
        assert!(problems.iter().any(|problem| problem == title), "{problems:?}");
    }
}

#[test]
fn credentials_of_different_regions_are_of_different_apis() {
    let genesys = |name: &str, region: &str| {
        format!(
            "[credentials.{name}]\nprovider = \"genesys\"\nregion = \"{region}\"\nclient_id = \"x\"\n\
             client_secret = {{ env = \"SECRET\" }}\n"
        )
    };
    let two = |other: &str| {
        let pool = "[pools.p]\ncredentials = [\"c\", \"d\"]";
        format!("{}{}{pool}", genesys("c", "mypurecloud.ie"), genesys("d", other))
    };

    assert!(read(&two("mypurecloud.ie"), "p").is_ok());
    let problems = refused(&two("usw2.pure.cloud"), "p");
    assert!(problems.iter().any(|title| title.contains("a pool is of one API")), "{problems:?}");
}

#[test]
fn an_unused_pool_is_warned_of_and_the_names_of_pools_are_offered() {
    let warnings = read("[pools.p]\ncredentials = [\"b\"]", "a").unwrap().warnings.to_string();
    assert!(warnings.contains("no route uses the pool `p`"), "{warnings}");

    let problems = read("[pools.p]\ncredentials = [\"b\"]", "q").unwrap_err().to_string();
    assert!(problems.contains("write one of: a, b, p; or \"none\""), "{problems}");
}
