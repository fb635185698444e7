//! Accepted and refused rules.

use std::path::Path;

use crate::config::{Environment, Route, Rules, parse};

/// A title and a remedy.
type Said = (String, String);

fn read(route: &str) -> Result<(Route, Vec<Said>), Vec<Said>> {
    let text =
        format!("[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n{route}\n");
    let shown = |problems: &crate::config::Diagnostics| {
        let problems = problems.problems().iter();
        problems.map(|one| (one.title.clone(), one.help.clone().unwrap_or_default())).collect()
    };
    match parse(Path::new("proxy.toml"), text, &Environment::from([])) {
        Ok(checked) => Ok((checked.config.routes[0].clone(), shown(&checked.warnings))),
        Err(problems) => Err(shown(&problems)),
    }
}

fn rules(route: &str) -> Rules {
    read(route).unwrap_or_else(|problems| panic!("{problems:?}")).0.rules
}

/// The title and the remedy of the only error.
fn refused(route: &str) -> Said {
    let problems = read(route).err().unwrap_or_else(|| panic!("was accepted: {route}"));
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    problem.clone()
}

#[test]
fn by_default_everything_is_allowed_and_a_401_is_replayed() {
    let (route, warnings) = read("").unwrap();

    assert_eq!(route.rules, Rules::default());
    assert_eq!(route.retry_on, [401]);
    assert!(!route.strip_prefix);
    assert!(warnings.is_empty());
}

#[test]
fn ambiguous_paths_are_refused_with_rules_or_on_request() {
    for (route, refuses) in [
        ("", false),
        ("deny = []", false),
        ("deny = [\"GET /x\"]", true),
        ("allow = [\"GET /x\"]", true),
        ("path = \"/x\"", true),
        ("path = \"/x\"\nencoded = \"opaque\"", false),
        ("allow = [\"GET /x\"]\nencoded = \"opaque\"", false),
        ("encoded = \"refuse\"", true),
        ("encoded = \"\"", false),
    ] {
        assert_eq!(rules(route).refuses_ambiguous, refuses, "{route}");
    }
    assert!(
        refused("encoded = \"decode\"").0.contains("\"refuse\""),
        "{:?}",
        refused("encoded = \"decode\"")
    );
}

#[test]
fn strip_prefix_needs_a_prefix() {
    assert!(read("path = \"/x\"\nstrip_prefix = true").unwrap().0.strip_prefix);
    assert!(!read("strip_prefix = false").unwrap().0.strip_prefix);
    let (said, help) = refused("strip_prefix = true");
    assert!(said.contains("no prefix to strip") && help.contains("`path`"), "{said} {help}");
}

#[test]
fn every_wrong_pattern_is_refused_with_a_remedy() {
    for (pattern, title, help) in [
        ("/api", "a pattern has a method and a path", "\"GET /api/v2/users/*\""),
        ("get /api", "methods are written in capitals", "GET"),
        ("GET /api?x", "a pattern has no query", "with any query"),
        ("GET /a/../b", "`..`", "never forwards"),
        ("GET api", "begins with `/`", "whole path"),
        ("GET /%61", "no `%`", "unescaped"),
        ("GET /***", "whole segments", "`**`"),
        ("GET /a*", "whole segments", "`**`"),
        ("GET //a", "empty segment", "a single `/`"),
        ("GET /a;b", "without `;`", "`*`"),
        ("TRACE /a", "never forwarded", "any method"),
    ] {
        for key in ["allow", "deny"] {
            let (said, remedy) = refused(&format!("{key} = [\"GET /good\", \"{pattern}\"]"));
            assert!(said.contains(title), "{pattern}: {said}");
            assert!(remedy.contains(help), "{pattern}: {remedy}");
        }
    }
    let (said, remedy) = refused("allow = []");
    assert!(said.contains("nothing is allowed") && remedy.contains("GET /**"), "{said} {remedy}");
}

#[test]
fn a_pattern_that_matches_no_request_of_its_route_is_refused() {
    for (route, is_good) in [
        ("path = \"/api\"\nallow = [\"GET /v2/**\"]", false),
        ("path = \"/api\"\nallow = [\"GET /API/**\"]", false),
        ("path = \"/api/v2\"\nallow = [\"GET /api\"]", false),
        ("path = \"/api\"\ndeny = [\"GET /v2/**\"]", false),
        ("path = \"/api\"\ndeny = [\"GET /API/**\"]", true),
        ("path = \"/api\"\nallow = [\"GET /**/v2\"]", true),
        ("path = \"/api\"\nallow = [\"GET /*/v2\", \"GET /api\"]", true),
    ] {
        match read(route) {
            Ok(_) => assert!(is_good, "{route}"),
            Err(problems) => {
                assert!(!is_good, "{route}: {problems:?}");
                assert!(problems[0].0.contains("matches no request of this route"), "{problems:?}");
                assert!(problems[0].1.contains("begin with /api"), "{problems:?}");
            }
        }
    }
}

#[test]
fn an_unknown_method_causes_a_warning() {
    let (_, warnings) = read("deny = [\"DELTE /x\", \"M-SEARCH /x\", \"PATCH /x\"]").unwrap();

    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].1.contains("did you mean DELETE?"), "{warnings:?}");
}

#[test]
fn only_statuses_of_rejected_tokens_are_retried() {
    let (route, _) = read("retry_on = [401, 403, 419, 440, 498, 500]").unwrap();
    assert_eq!(route.retry_on, [401, 403, 419, 440, 498, 500]);
    assert!(read("retry_on = []").unwrap().0.retry_on.is_empty());

    for status in [0, 99, 200, 302, 404, 407, 413, 429, 502, 503, 504, 600] {
        let (said, help) = refused(&format!("retry_on = [401, {status}]"));
        assert_eq!(said, "not a status of a rejected token", "{status}");
        assert!(help.contains("403"), "{help}");
    }
    assert!(refused("retry_on = [\"401\"]").0.contains("routes[0].retry_on"));
}
