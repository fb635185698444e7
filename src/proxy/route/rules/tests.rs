//! Allowed, denied and protected requests, in every spelling.

use http::Request;
use http::request::Parts;
use http::uri::PathAndQuery;
use proptest::prelude::*;

use super::*;
use crate::config::{Environment, parse};
use crate::proxy::route::guard::{Policy, Present, vet};

const GENESYS: &str = "provider = \"genesys\"\nregion = \"mypurecloud.de\"\n";

/// The reason for a refusal, or "ok".
type Verdict = &'static str;

/// A route and the guard in front of it.
struct Gate {
    policy: Policy,
    rules: Rules,
    prefix: Prefix,
}

impl Gate {
    fn new(credential: &str, route: &str) -> Self {
        let upstream =
            if route.contains("upstream =") { "" } else { "upstream = \"https://api.example.com\"" };
        let text = format!(
            "[credentials.c]\nclient_id = \"id\"\nclient_secret = {{ env = \"S\" }}\n{credential}\n\
             [[routes]]\ncredential = \"c\"\n{upstream}\n{route}"
        );
        let environment = Environment::from([("S", "x")]);
        let checked = parse(std::path::Path::new("proxy.toml"), text, &environment);
        let config = checked.unwrap_or_else(|problems| panic!("{problems}")).config;
        let route = &config.routes[0];
        let prefix = if route.strip_prefix { Prefix::new(&route.path) } else { Prefix::default() };
        Self { policy: Policy::new(&config.server, "bearerd-1"), rules: Rules::new(route, false), prefix }
    }

    fn plain(route: &str) -> Self {
        Self::new("token_url = \"https://as.example.com/t\"", route)
    }

    fn verdict(&self, method: &str, path: &str) -> Verdict {
        let Some(head) = head(method, path) else { return "unsendable" };
        let outcome = vet(&head, Present::among(&head.headers), &self.policy)
            .and_then(|target| self.rules.check(&head.method, &target, &self.prefix));
        match outcome {
            Ok(()) => "ok",
            Err(ProxyError::RequestDenied(Denial::NotAllowed)) => "not allowed",
            Err(ProxyError::RequestDenied(Denial::Denied)) => "denied",
            Err(ProxyError::RequestDenied(Denial::Protected)) => "protected",
            Err(error) => error.code(),
        }
    }

    #[track_caller]
    fn assert_verdict(&self, expected: Verdict, requests: &[(&str, &str)]) {
        for (method, path) in requests {
            assert_eq!(self.verdict(method, path), expected, "{method} {path}");
        }
    }

    #[track_caller]
    fn assert_paths(&self, expected: Verdict, method: &str, paths: &[&str]) {
        for path in paths {
            assert_eq!(self.verdict(method, path), expected, "{method} {path}");
        }
    }
}

fn head(method: &str, path: &str) -> Option<Parts> {
    let uri = path.parse::<PathAndQuery>().ok().filter(|_| path.starts_with('/'))?;
    let request = Request::builder().method(method).uri(uri).header("host", "localhost").body(());
    Some(request.ok()?.into_parts().0)
}

#[test]
fn without_rules_every_request_passes() {
    let gate = Gate::plain("");

    gate.assert_paths("ok", "DELETE", &["/", "/x", "/a//b", "/a;b", "/a%2fb", "/a%20"]);
}

#[test]
fn only_allowed_requests_pass() {
    let gate = Gate::plain("allow = [\"GET /api/v2/**\", \"POST /api/v2/users/search\", \"* /ping\"]");

    gate.assert_verdict(
        "ok",
        &[
            ("GET", "/api/v2"),
            ("GET", "/api/v2/"),
            ("GET", "/api/v2/users?x=/y"),
            ("GET", "/%61pi/v%32/a%C3%A9b"),
            ("HEAD", "/api/v2/users"),
            ("POST", "/api/v2/users/search"),
            ("POST", "/api/v2/users/s%65arch?x"),
            ("PATCH", "/ping"),
        ],
    );
    gate.assert_verdict(
        "not allowed",
        &[
            ("GET", "/"),
            ("GET", "/api/v3"),
            ("GET", "/API/v2/users"),
            ("GET", "/x/api/v2"),
            ("POST", "/api/v2/users"),
            ("POST", "/api/v2/users/search/"),
            ("POST", "/api/v2/users/Search"),
            ("POST", "/api/v2/users/search/x"),
            ("get", "/api/v2"),
            ("OPTIONS", "/api/v2"),
            ("GET", "/ping/x"),
            ("GET", "/pin"),
            ("GET", "/ping%21"),
        ],
    );
}

#[test]
fn a_deny_holds_in_every_spelling_whatever_is_allowed() {
    let gate =
        Gate::plain("allow = [\"* /**\"]\ndeny = [\"DELETE /users/*\", \"GET /admin/**\", \"* /a@b\"]");

    gate.assert_verdict(
        "denied",
        &[
            ("DELETE", "/users/7"),
            ("DELETE", "/USERS/7/"),
            ("DELETE", "/%55sers/%37?x"),
            ("DELETE", "/users/"),
            ("delete", "/users/7"),
            ("GET", "/admin"),
            ("HEAD", "/Admin/x/y"),
            ("GET", "/%61dmin/"),
            ("PUT", "/a%40B"),
        ],
    );
    gate.assert_verdict(
        "ok",
        &[
            ("GET", "/users/7"),
            ("DELETE", "/users"),
            ("DELETE", "/users/7/x"),
            ("POST", "/admin"),
            ("GET", "/x/admin"),
            ("GET", "/administrators"),
        ],
    );
}

#[test]
fn ambiguous_paths_are_refused_on_routes_with_rules_or_as_configured() {
    let paths =
        ["/a//b", "//a", "/a;v=1", "/a%2fb", "/a%5cb", "/a%25", "/a%3b", "/a%23", "/a%3f", "/a.", "/a%20"];
    for (route, expected) in [
        ("", "ok"),
        ("encoded = \"\"\ndeny = []", "ok"),
        ("encoded = \"refuse\"", "bad_request"),
        ("allow = [\"* /**\"]", "bad_request"),
        ("deny = [\"GET /x\"]", "bad_request"),
        ("allow = [\"* /**\"]\ndeny = [\"GET /x\"]\nencoded = \"opaque\"", "ok"),
    ] {
        let gate = Gate::plain(route);
        for path in paths {
            assert_eq!(gate.verdict("GET", path), expected, "{route}: {path}");
        }
        assert_eq!(gate.verdict("GET", "/a/b"), "ok");
    }
    let below = |encoded: &str| Gate::plain(&format!("path = \"/a\"\n{encoded}")).verdict("GET", "/a//b");
    assert_eq!((below(""), below("encoded = \"opaque\"")), ("bad_request", "ok"));
}

#[test]
fn an_opaque_escape_is_literal_for_allow_and_ambiguous_for_deny() {
    let gate = Gate::plain(
        "encoded = \"opaque\"\nallow = [\"GET /ids/*\", \"* /x/**\"]\ndeny = [\"* /ids/admin\", \"* /x/*/y\"]",
    );

    gate.assert_paths(
        "ok",
        "GET",
        &["/ids/a%2fb", "/ids/a%252Fb", "/ids/a;b=c", "/ids/%20", "/ids/a%20b", "/x//z"],
    );
    gate.assert_paths("not allowed", "GET", &["/ids/a/b", "/ids//b", "/ids/", "//ids/a", "/ids%2fa"]);
    gate.assert_paths(
        "denied",
        "GET",
        &[
            "/ids/admin;x",
            "/ids/admin%20",
            "/ids/ADMIN.",
            "/ids%2fadmin",
            "/ids%252fadmin",
            "//ids//admin//",
            "/ids/admin%3fx/y",
            "/x;a%2fb/ids/y",
            "/x/a%2fb/y",
            "/x/a;b%2fc/y",
        ],
    );
}

#[test]
fn requests_that_end_the_shared_token_are_refused_on_every_route() {
    let gates = [
        "",
        "allow = [\"* /**\"]",
        "deny = [\"GET /x\"]",
        "encoded = \"opaque\"",
        "upstream = \"https://api.example.com/platform\"",
    ]
    .map(|route| Gate::new(GENESYS, route));
    for gate in &gates {
        gate.assert_verdict(
            "protected",
            &[
                ("DELETE", "/api/v2/tokens/me"),
                ("Delete", "/api/v2/tokens/me"),
                ("DELETE", "/api/v2/tokens/9c2f"),
                ("DELETE", "/platform/api/v2/tokens/me"),
                ("POST", "/api/v2/oauth/clients"),
                ("POST", "/api/v2/oauth/clients/"),
                ("PUT", "/api/v2/oauth/clients/9c2f"),
                ("DELETE", "/api/v2/oauth/clients/9c2f"),
                ("POST", "/api/v2/oauth/clients/9c2f/secret"),
            ],
        );
        gate.assert_verdict(
            "ok",
            &[
                ("GET", "/api/v2/tokens/me"),
                ("HEAD", "/api/v2/tokens/me"),
                ("GET", "/api/v2/oauth/clients"),
                ("POST", "/api/v2/oauth/clients/9c2f/usage/query"),
                ("DELETE", "/api/v2/users/9c2f"),
            ],
        );
    }
    // An encoded space or slash in an identifier is no reason to refuse.
    assert_eq!(gates[0].verdict("DELETE", "/api/v2/flows/datatables/x/rows/a%20b%2Fc"), "ok");
}

#[test]
fn protection_applies_to_the_path_at_the_upstream() {
    for (route, path) in [
        ("upstream = \"https://a.example.com/api/v2\"", "/tokens/me"),
        ("upstream = \"https://a.example.com/api/v2/tokens\"", "/me"),
        ("upstream = \"https://a.example.com/API/%76%32/\"", "/tokens/me"),
        ("path = \"/gen\"\nstrip_prefix = true", "/gen/api/v2/tokens/me"),
        (
            "path = \"/gen/api\"\nstrip_prefix = true\nupstream = \"https://a.example.com/api\"",
            "/gen/api/v2/tokens/me",
        ),
        ("path = \"/t\"\nstrip_prefix = true\nupstream = \"https://a.example.com/api/v2/tokens/me\"", "/t"),
        ("path = \"/api/v2/tokens\"", "/api/v2/tokens/me"),
        ("path = \"/gen\"\nstrip_prefix = true\nencoded = \"opaque\"", "/gen//api%2fv2/tokens;x/me"),
    ] {
        assert_eq!(Gate::new(GENESYS, route).verdict("DELETE", path), "protected", "{route}");
        assert_eq!(Gate::new(GENESYS, route).verdict("GET", path), "ok", "{route}");
    }
    let elsewhere = Gate::new(GENESYS, "path = \"/api/v2/tokens\"\nstrip_prefix = true");
    assert_eq!(elsewhere.verdict("DELETE", "/api/v2/tokens/me"), "ok", "the upstream sees /me");
}

/// A change to a path that some server ignores.
#[derive(Clone, Debug)]
enum Spelling {
    Escape(usize, u8),
    Case(usize),
    Slash(usize),
    EscapedSlash(usize, &'static str),
    Parameter(usize, &'static str),
    Trailing(usize, &'static str),
    End(&'static str),
}

impl Spelling {
    fn any() -> impl Strategy<Value = Self> {
        let at = 0..40_usize;
        prop_oneof![
            (at.clone(), 1..4_u8).prop_map(|(at, times)| Self::Escape(at, times)),
            at.clone().prop_map(Self::Case),
            at.clone().prop_map(Self::Slash),
            (at.clone(), prop::sample::select(vec!["%2f", "%5C", "%252F", "%25255c"]))
                .prop_map(|(at, slash)| Self::EscapedSlash(at, slash)),
            (at.clone(), prop::sample::select(vec![";", ";v=1", "%3Bx", ";a%2fb", "%253b%2f"]))
                .prop_map(|(at, text)| Self::Parameter(at, text)),
            (at, prop::sample::select(vec![".", "%20", "%09", "..%20", "%2520"]))
                .prop_map(|(at, text)| Self::Trailing(at, text)),
            prop::sample::select(vec!["/", "//", "%2f", "?x", "%3fx/y", "%23", "%23/../x", ";"])
                .prop_map(Self::End),
        ]
    }

    /// Rewrites segments, the last of which is followed by `end`.
    fn apply(&self, segments: &mut [String], slashes: &mut [String], end: &mut String) {
        let count = segments.len();
        match self {
            Self::Escape(at, times) => {
                let segment = &mut segments[at % count];
                let plain =
                    (0..segment.len()).rev().find(|index| segment.as_bytes()[*index].is_ascii_alphabetic());
                if let Some(index) = plain.filter(|_| !segment.contains(['%', ';'])) {
                    let escape =
                        format!("%{}{:02x}", "25".repeat(usize::from(*times) - 1), segment.as_bytes()[index]);
                    segment.replace_range(index..=index, &escape);
                }
            }
            Self::Case(at) => {
                let segment = &mut segments[at % count];
                if !segment.contains(['%', ';']) {
                    *segment = segment.to_uppercase();
                }
            }
            Self::Slash(at) => slashes[at % count].push('/'),
            Self::EscapedSlash(at, slash) if at % count > 0 => (*slash).clone_into(&mut slashes[at % count]),
            Self::EscapedSlash(..) => {}
            Self::Parameter(at, text) | Self::Trailing(at, text) => segments[at % count].push_str(text),
            Self::End(text) => end.push_str(text),
        }
    }
}

fn spelt(path: &str, spellings: &[Spelling]) -> String {
    let mut segments: Vec<String> = path[1..].split('/').map(str::to_owned).collect();
    let mut slashes = vec!["/".to_owned(); segments.len()];
    let mut end = String::new();
    for spelling in spellings {
        spelling.apply(&mut segments, &mut slashes, &mut end);
    }
    let mut joined = String::new();
    for (slash, segment) in slashes.iter().zip(&segments) {
        joined.extend([slash.as_str(), segment]);
    }
    joined + &end
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_spelling_bypasses_a_deny(
        spellings in prop::collection::vec(Spelling::any(), 0..6),
        is_preset in any::<bool>(),
    ) {
        let gate = if is_preset {
            Gate::new(GENESYS, "")
        } else {
            Gate::plain("encoded = \"opaque\"\ndeny = [\"DELETE /api/*/tokens/me\"]")
        };
        let path = spelt("/api/v2/tokens/me", &spellings);
        let verdict = gate.verdict("DELETE", &path);
        prop_assert!(verdict != "ok" && verdict != "not allowed", "{}: {}", path, verdict);
    }

    /// An allowed path has the same segments however often a server decodes it.
    #[test]
    fn an_allowed_path_means_the_same_to_every_server(
        path in "(/(users|Users|us%65rs|a%2fb|%25|\\.|b;c|x\\.|[a-z%0-9.;~@]{0,4})){1,5}",
    ) {
        let gate = Gate::plain("allow = [\"GET /users/*\", \"GET /*/users/**\"]");
        if gate.verdict("GET", &path) == "ok" {
            let decoded = percent_encoding::percent_decode_str(&path).collect::<Vec<u8>>();
            let again = percent_encoding::percent_decode(&decoded).collect::<Vec<u8>>();
            prop_assert_eq!(&again, &decoded);
            let count = |path: &[u8]| path.split(|byte| *byte == b'/').count();
            prop_assert_eq!(count(path.as_bytes()), count(&decoded));
            prop_assert!(String::from_utf8_lossy(&decoded).split('/').any(|segment| segment == "users"));
            prop_assert!(!decoded.iter().any(|byte| b";?#\\ \t".contains(byte)));
        }
    }

    #[test]
    fn a_deny_covers_what_an_allow_of_the_same_pattern_matches(
        pattern in "\\* (/(a|B|\\*|\\*\\*)){1,5}/?",
        path in "(/(a|b|B|%61|a%2fb|a;b|a\\.|%2561|)){1,6}",
    ) {
        let pattern: Pattern = pattern.parse().unwrap();
        if matches_as_written(&pattern, &path) {
            prop_assert!(matches_some_interpretation(&pattern.without_slash_at_end(), &path));
        }
    }

    #[test]
    fn the_verdict_does_not_change_on_a_second_check(path in "/[-a-zA-Z0-9%./;:@!$&'()*+,=~_]{0,30}") {
        let gate = Gate::new(GENESYS, "path = \"/a\"\nencoded = \"opaque\"");
        let first = gate.verdict("DELETE", &path);
        prop_assert_eq!(gate.verdict("DELETE", &path), first);
        if first == "ok" {
            let rest = format!("/b{path}");
            prop_assert_ne!(gate.verdict("DELETE", &rest), "bad_request");
        }
    }
}
