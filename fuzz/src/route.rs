//! Any host and target: which route a request takes, what is sent on, and where a `Location` to it leads.

use std::sync::{Arc, OnceLock};

use bearerd::config::{self, LinkField};
use bearerd::proxy::limits::slots::Slots;
use bearerd::proxy::message::links::through_proxy;
use bearerd::proxy::route::guard::{Policy, Present, vet};
use bearerd::proxy::route::{Route, Table};
use bearerd::proxy::upstream::connect::{Connect, Connecting};
use bearerd::proxy::upstream::{Destination, Upstream};
use http::header::{HeaderMap, HeaderValue, LOCATION};
use http::{Request, Uri};

use super::{checked, policy};

const ORIGIN: &str = "https://api.example.com";
/// Host, path, what is in front of paths at the API, and whether the path is stripped.
const ROUTES: [(&str, &str, &str, bool); 7] = [
    ("", "/", "", false),
    ("", "/api", "/base", true),
    ("", "/api/v2/users", "/v2", false),
    ("", "/api/v2", "", true),
    ("a.test", "/a~b", "", true),
    ("a.test", "/", "/deep/er", false),
    ("b.test", "/api", "", false),
];

static WORLD: OnceLock<(Policy, Table)> = OnceLock::new();

#[derive(Debug)]
struct Nowhere;

impl Connect for Nowhere {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(std::future::pending())
    }

    fn may_speak_http2(&self) -> bool {
        false
    }
}

fn nowhere() -> Destination {
    let host = HeaderValue::from_static("api.example.com");
    Destination::new(ORIGIN.to_owned(), host, Box::new(Nowhere))
}

fn world() -> (Policy, Table) {
    let routes = ROUTES.map(|(host, path, in_front, is_stripped)| {
        let host = if host.is_empty() { String::new() } else { format!("host = \"{host}\"\n") };
        format!(
            "[[routes]]\n{host}path = \"{path}\"\nupstream = \"{ORIGIN}{in_front}\"\ncredential = \"none\"\n\
             strip_prefix = {is_stripped}\n"
        )
    });
    let mut table = Table::default();
    for (index, route) in checked(&routes.concat()).config.routes.iter().enumerate() {
        let upstream = Arc::new(Upstream::written(index, nowhere(), Slots::new(1)));
        let config::Route { host, path, .. } = route;
        table.add(host.as_deref(), path, Route::new(route, upstream, [], false));
    }
    (policy("hosts = [\"*\"]"), table)
}

/// With letters, digits and `-._~` as they are.
fn plain(path: &str) -> String {
    let mut rest = path.as_bytes();
    let mut plain = Vec::new();
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("digits");
                Some(u8::from_str_radix(digits, 16).expect("digits"))
            }
            _ => None,
        };
        match escaped {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                plain.push(byte);
                rest = &after[2..];
            }
            _ => plain.push(*first),
        }
    }
    String::from_utf8(plain).expect("only ASCII was put in")
}

/// By a look at each route.
fn expected(host: &str, path: &str) -> (&'static str, &'static str, &'static str, bool) {
    let leads = |(own, prefix, ..): &(&str, &str, &str, bool)| {
        let is_host = own.is_empty() || own.eq_ignore_ascii_case(host);
        let rest = path.strip_prefix(prefix.trim_end_matches('/'));
        is_host && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let found =
        ROUTES.into_iter().filter(leads).max_by_key(|(host, prefix, ..)| (!host.is_empty(), prefix.len()));
    found.expect("the root takes all")
}

pub fn run(input: &[u8]) {
    // A line of the host, a line of the target.
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Some((host, target)) = text.split_once('\n') else { return };
    let Ok(request) = Request::builder().uri(target).header("host", host).body(()) else { return };
    let head = request.into_parts().0;
    let (policy, table) = WORLD.get_or_init(world);
    let Ok(vetted) = vet(&head, Present::among(&head.headers), policy) else { return };

    let own = plain(vetted.path);
    let (host, path, in_front, is_stripped) = expected(vetted.host, &own);
    let route = table.route(&vetted).expect("the root takes all");
    assert_eq!(route.name, format!("{host}{path}"));

    // The caller's own bytes behind the upstream's path, in the place of the prefix where that is stripped.
    let Ok(sent) = route.target(head.uri.path_and_query(), &nowhere()) else { return };
    assert_eq!(sent.query(), head.uri.query());
    let rest = sent.path().strip_prefix(in_front).expect("the upstream's path comes first");
    assert!(vetted.path.ends_with(rest) || rest == "/");
    let stripped = if is_stripped { path.trim_end_matches('/') } else { "" };
    assert_eq!(format!("{stripped}{}", plain(rest)).trim_end_matches('/'), own.trim_end_matches('/'));

    // Whoever is sent there comes to the same place again, and never past the proxy.
    let location = HeaderValue::try_from(format!("{ORIGIN}{sent}")).expect("it was a target");
    let mut headers = HeaderMap::from_iter([(LOCATION, location.clone())]);
    through_proxy(&mut headers, &[LinkField::Location], &[ORIGIN], in_front, stripped);
    if headers[LOCATION] == location {
        assert!(rest.starts_with("//") || sent.as_str().contains('\\'), "not led back: {sent}");
        return;
    }
    let back = Uri::try_from(headers[LOCATION].as_bytes()).expect("a path");
    assert_eq!(back.authority(), None);
    assert_eq!(back.query(), head.uri.query());
    assert_eq!(plain(back.path()).trim_end_matches('/'), own.trim_end_matches('/'));
}
