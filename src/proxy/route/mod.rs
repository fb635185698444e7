//! Routing: by host, then by the longest path prefix on segment boundaries.
//!
//! Unreserved characters are decoded for the comparison (RFC 3986 §6.2.2.2), so that `/%61pi` matches `/api`; the path
//! is forwarded as received. A lookup hashes once for each prefix length in use, however many routes there are.

pub mod guard;
pub mod lenient_path;
pub mod member;
mod percent;
pub mod prefix;
pub mod rules;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, StatusCode};

use self::guard::Target;
use self::member::Member;
use self::prefix::Prefix;
use self::rules::Rules;
use super::message::field_rules::FieldRules;
use super::quota::budget::Budget;
use super::upstream::{Destination, Upstream};
use crate::config::{self, Admitted, Forwarded, Retry429, RewrittenLinks, TokenScheme};
use crate::token::TokenSource;

/// A route as requests use it.
#[derive(Debug)]
pub struct Route {
    /// The place in the table, in the order of [`Table::routes`].
    pub index: usize,
    /// The name in logs, metrics and traces.
    pub name: String,
    /// The allowed, denied and protected requests.
    pub rules: Rules,
    /// The prefix stripped from each path.
    pub prefix: Prefix,
    /// The rules for header fields.
    pub fields: FieldRules,
    /// The scheme of the token.
    pub token_scheme: TokenScheme,
    /// The `Host` and the origin that the API knows itself by, if they are not those of its address.
    pub host: Option<HostHeader>,
    /// The upstream of the requests.
    pub upstream: Arc<Upstream>,
    /// The base path of a configured upstream; empty or `/…` without a trailing slash.
    pub base_path: String,
    /// The credentials, of which a request uses one: several for a pool, none for `credential = "none"`.
    pub members: Vec<Member>,
    /// The name of the pool that the credentials are of; `None` without one.
    pub pool: Option<String>,
    /// Statuses that mean a rejected token.
    pub retry_on: Vec<StatusCode>,
    /// The retries after a 429.
    pub retry_429: Retry429,
    /// Whether an idempotent request whose reused connection closed without an answer is sent once more.
    pub retry_stale: bool,
    /// Longest time from the end of the request to the response head.
    pub timeout: Duration,
    /// Whether callers may switch to WebSocket.
    pub allows_websocket: bool,
    /// Longest pause between two chunks of the response body; `None` is unlimited.
    pub read_timeout: Option<Duration>,
    /// Paths of OAuth logins that get a synthetic response.
    pub login_stub: Vec<String>,
    /// The scopes in the synthetic response to a login that asks for none, separated by blanks.
    pub login_scopes: String,
    /// The callers that may use the route.
    pub callers: Admitted,
    /// The fields that tell the upstream of the caller.
    pub forwarded: Forwarded,
    /// Whether cookies of the API become cookies of the proxy.
    pub rewrite_cookies: bool,
    /// Links to the API that become links to the proxy.
    pub rewrite_links: RewrittenLinks,
    /// The prefix of the paths on the proxy; empty for the root.
    pub path: String,
    /// Longest pause of a request body, in the place of the server's; zero for none.
    pub body_timeout: Option<Duration>,
    /// Least bytes a second of a request body, in the place of the server's; 0 for none.
    pub body_rate: Option<u64>,
}

/// The configured `Host` of an upstream.
#[derive(Debug)]
pub struct HostHeader {
    /// The value of the field.
    pub value: HeaderValue,
    /// The origin in the API's own links.
    pub origin: String,
}

impl HostHeader {
    fn new(host: &Authority, destination: &config::Destination) -> Self {
        let scheme = match destination {
            config::Destination::Written(address) => address.scheme.as_str(),
            config::Destination::Discovered => "https",
        };
        let value = HeaderValue::try_from(host.as_str()).expect("an authority is visible ASCII");
        Self { value, origin: format!("{scheme}://{host}") }
    }
}

impl Route {
    /// A route as configured. `must_be_plain` as in [`Rules::new`].
    pub fn new(
        route: &config::Route,
        upstream: Arc<Upstream>,
        members: impl IntoIterator<Item = (TokenSource, Option<Budget>)>,
        must_be_plain: bool,
    ) -> Self {
        Self {
            index: 0,
            name: route.name.clone(),
            rules: Rules::new(route, must_be_plain),
            prefix: if route.strip_prefix { Prefix::new(&route.path) } else { Prefix::default() },
            fields: FieldRules::new(&route.fields, route.via, &route.token_field.name),
            token_scheme: route.token_field.scheme.clone(),
            host: route.host_header.as_ref().map(|host| HostHeader::new(host, &route.upstream.destination)),
            retry_on: route.retry_on.clone(),
            retry_429: route.retry_429.clone(),
            retry_stale: route.retry_stale,
            upstream,
            base_path: route.upstream.destination.path().to_owned(),
            members: members.into_iter().map(|(source, budget)| Member::new(&source, budget)).collect(),
            pool: route.pool.as_ref().map(|pool| pool.name.clone()),
            timeout: route.timeout,
            read_timeout: route.read_timeout,
            allows_websocket: route.allows_websocket,
            login_stub: route.credential.as_ref().map_or_else(Vec::new, |one| one.login_stub.clone()),
            login_scopes: route.credential.as_ref().map_or_else(String::new, |one| one.scopes.join(" ")),
            callers: route.callers.clone(),
            forwarded: route.forwarded,
            rewrite_cookies: route.rewrite_cookies,
            rewrite_links: route.rewrite_links.clone(),
            path: route.path.trim_end_matches('/').to_owned(),
            body_timeout: route.body_timeout,
            body_rate: route.body_rate,
        }
    }

    /// Takes over what the route `before` has learnt of its credentials, and its demands for later tokens, for each
    /// credential that both routes have.
    #[must_use]
    pub fn with_records_of(mut self, before: Option<&Self>) -> Self {
        for member in &mut self.members {
            let known =
                before.and_then(|before| before.members.iter().find(|one| one.source.is(&member.source)));
            if let Some(known) = known {
                member.clone_from(known);
            }
        }
        self
    }

    /// The names of the pool and each of its credentials; none without a pool.
    pub fn pool_members(&self) -> impl Iterator<Item = (String, String)> {
        let names = |pool: &String| {
            let member = move |member: &Member| (pool.clone(), member.source.name().to_owned());
            self.members.iter().map(member).collect::<Vec<_>>()
        };
        self.pool.iter().flat_map(names)
    }

    /// Whether a caller may use the route whose certificate has these names, and that is `proven` to be the configured one of
    /// this name.
    pub fn admits<'n>(&self, names: &[String], proven: impl FnOnce() -> Option<&'n str>) -> bool {
        let Admitted { certificates, named } = &self.callers;
        self.callers.is_everyone()
            || names.iter().any(|name| certificates.contains(name))
            || (!named.is_empty() && proven().is_some_and(|name| named.iter().any(|own| own == name)))
    }

    /// Whether a request is an OAuth login for the stub. Ignores case, empty segments and the stripped prefix: a login
    /// that a lenient server would accept contains a secret and must not be forwarded.
    pub fn is_login(&self, method: &Method, path: &str) -> bool {
        if self.login_stub.is_empty() || *method != Method::POST {
            return false;
        }
        let segments = |path: &'_ str| -> Vec<String> {
            path.split('/').filter(|segment| !segment.is_empty()).map(str::to_ascii_lowercase).collect()
        };
        let is_stub = |path: &str| {
            let called = segments(&normalized(path));
            self.login_stub.iter().any(|stub| segments(stub) == called)
        };
        is_stub(path) || (!self.prefix.text().is_empty() && is_stub(self.prefix.strip(path)))
    }

    /// The base path at the upstream: of the discovered address, else of the configured one.
    pub fn base_path<'a>(&'a self, destination: &'a Destination) -> &'a str {
        if destination.base_path.is_empty() { &self.base_path } else { &destination.base_path }
    }

    /// The path and query for the upstream: the caller's own bytes, with the base path in place of the stripped prefix.
    /// Fails if the result is too long for a request target.
    pub fn target(
        &self,
        path_and_query: Option<&PathAndQuery>,
        destination: &Destination,
    ) -> Result<PathAndQuery, http::Error> {
        let own = path_and_query.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let base_path = self.base_path(destination);
        if base_path.is_empty() && self.prefix.text().is_empty() {
            return Ok(own);
        }
        let (path, query) = own.as_str().split_at(own.path().len());
        let rest = self.prefix.strip(path);
        let slash = if rest.is_empty() && base_path.is_empty() { "/" } else { "" };
        Ok(PathAndQuery::try_from(format!("{base_path}{slash}{rest}{query}"))?)
    }
}

/// The routing table. A request uses one table throughout, even across a reload.
#[derive(Debug, Default)]
pub struct Table {
    routes: Vec<Route>,
    hosts: HashMap<String, Prefixes>,
    any_host: Prefixes,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct Prefixes {
    /// Indices of routes by prefix; the root is the empty prefix.
    routes: HashMap<String, usize>,
    /// The numbers of segments of the prefixes, in descending order.
    lengths: Vec<usize>,
}

impl Table {
    /// Adds a route with its host and prefix as configured.
    pub fn add(&mut self, host: Option<&str>, prefix: &str, route: Route) {
        let prefixes = match host {
            Some(host) => self.hosts.entry(host.to_owned()).or_default(),
            None => &mut self.any_host,
        };
        let index = self.routes.len();
        prefixes.add(prefix, index);
        self.routes.push(Route { index, ..route });
    }

    /// The route with exactly this host and prefix.
    pub fn find(&self, host: Option<&str>, prefix: &str) -> Option<&Route> {
        let prefixes = host.map_or(Some(&self.any_host), |host| self.hosts.get(host))?;
        prefixes.routes.get(key_of(prefix)).map(|index| &self.routes[*index])
    }

    /// The place of a route of this table in the configuration.
    pub fn position(&self, route: &Route) -> Option<usize> {
        self.routes.iter().position(|own| std::ptr::eq(own, route))
    }

    /// Every route.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The route of a request.
    pub fn route(&self, target: &Target<'_>) -> Option<&Route> {
        let path = normalized(target.path);
        let has_upper_case = || target.host.bytes().any(|byte| byte.is_ascii_uppercase());
        let of_host = match self.hosts.get(target.host) {
            None if !self.hosts.is_empty() && has_upper_case() => {
                self.hosts.get(&target.host.to_ascii_lowercase())
            }
            prefixes => prefixes,
        };
        let index = of_host.and_then(|prefixes| prefixes.longest(&path));
        index.or_else(|| self.any_host.longest(&path)).map(|index| &self.routes[index])
    }
}

impl Prefixes {
    fn add(&mut self, prefix: &str, index: usize) {
        let key = key_of(prefix);
        let length = key.matches('/').count();
        self.routes.insert(key.to_owned(), index);
        if let Err(at) = self.lengths.binary_search_by(|other| length.cmp(other)) {
            self.lengths.insert(at, length);
        }
    }

    fn longest(&self, path: &str) -> Option<usize> {
        let with_length = |&length: &usize| self.routes.get(first_segments(path, length)?).copied();
        self.lengths.iter().find_map(with_length)
    }
}

/// The key of a prefix in [`Prefixes::routes`].
fn key_of(prefix: &str) -> &str {
    if prefix == "/" { "" } else { prefix }
}

/// The first `count` segments of a path; `None` if it has fewer.
fn first_segments(path: &str, count: usize) -> Option<&str> {
    if count == 0 {
        return Some("");
    }
    // A slash begins each segment: the slash after `count` segments ends the last of them.
    match path.match_indices('/').nth(count) {
        Some((end, _)) => Some(&path[..end]),
        None => (path.matches('/').count() == count).then_some(path),
    }
}

/// The path with unreserved characters decoded.
fn normalized(path: &str) -> Cow<'_, str> {
    if path.contains('%') { Cow::Owned(percent::normalized(path).collect()) } else { Cow::Borrowed(path) }
}

#[cfg(test)]
mod tests {
    use super::guard::Present;
    use super::*;
    use crate::proxy::limits::slots::Slots;
    use crate::proxy::upstream::fixture;

    fn nowhere(base_path: &str) -> Destination {
        let base_path = base_path.to_owned();
        Destination { base_path, ..fixture::destination(false, || Box::pin(std::future::pending())) }
    }

    fn route(name: &str) -> Route {
        Route {
            index: 0,
            name: name.to_owned(),
            rules: Rules::default(),
            prefix: Prefix::default(),
            fields: FieldRules::default(),
            retry_on: Vec::new(),
            retry_429: Retry429::default(),
            retry_stale: true,
            upstream: Arc::new(Upstream::written(0, nowhere(""), Slots::new(1))),
            base_path: String::new(),
            members: Vec::new(),
            pool: None,
            timeout: Duration::from_secs(1),
            allows_websocket: false,
            read_timeout: None,
            login_stub: Vec::new(),
            login_scopes: String::new(),
            callers: Admitted::default(),
            forwarded: Forwarded::None,
            token_scheme: TokenScheme::default(),
            host: None,
            rewrite_cookies: false,
            rewrite_links: RewrittenLinks::default(),
            path: String::new(),
            body_timeout: None,
            body_rate: None,
        }
    }

    fn table(routes: &[(Option<&str>, &str)]) -> Table {
        let mut table = Table::default();
        for (host, prefix) in routes {
            let name = format!("{}{prefix}", host.unwrap_or_default());
            table.add(*host, prefix, route(&name));
        }
        table
    }

    fn found<'t>(table: &'t Table, host: &str, path: &str) -> Option<&'t str> {
        table
            .route(&Target { host, path, is_ambiguous: false, fields: Present::default() })
            .map(|route| route.name.as_str())
    }

    #[test]
    fn the_longest_prefix_wins_on_segment_boundaries() {
        let table = table(&[(None, "/"), (None, "/api"), (None, "/api/v2/users"), (None, "/other")]);

        for (path, name) in [
            ("/", "/"),
            ("/x", "/"),
            ("/api", "/api"),
            ("/api/", "/api"),
            ("/apix", "/"),
            ("/api/v2", "/api"),
            ("/api/v2/users", "/api/v2/users"),
            ("/api/v2/users/7", "/api/v2/users"),
            ("/api/v2/usersx", "/api"),
            ("/other/x", "/other"),
        ] {
            assert_eq!(found(&table, "h", path), Some(name), "{path}");
        }
    }

    #[test]
    fn an_exact_host_wins_over_any_host_whatever_the_prefix() {
        let table = table(&[(None, "/api/v2"), (Some("a.test"), "/"), (Some("b.test"), "/api")]);

        assert_eq!(found(&table, "a.test", "/api/v2"), Some("a.test/"));
        assert_eq!(found(&table, "A.Test", "/api/v2"), Some("a.test/"));
        assert_eq!(found(&table, "b.test", "/api/v2"), Some("b.test/api"));
        assert_eq!(found(&table, "c.test", "/api/v2"), Some("/api/v2"));
        assert_eq!(found(&table, "c.test", "/x"), None);
    }

    #[test]
    fn a_host_without_a_matching_prefix_falls_back_to_any_host() {
        let table = table(&[(Some("a.test"), "/api"), (None, "/")]);

        assert_eq!(found(&table, "a.test", "/x"), Some("/"));
    }

    #[test]
    fn unreserved_characters_match_encoded_or_not() {
        let table = table(&[(None, "/api"), (None, "/a~b")]);

        assert_eq!(found(&table, "h", "/%61pi/x"), Some("/api"));
        assert_eq!(found(&table, "h", "/a%7Eb"), Some("/a~b"));
        assert_eq!(found(&table, "h", "/api%2Fx"), None);
        assert_eq!(found(&table, "h", "/%"), None);
        assert_eq!(found(&table, "h", "/%6"), None);
    }

    #[test]
    fn a_login_is_a_post_to_a_stub_in_any_lenient_spelling() {
        let mut route = route("r");
        assert!(!route.is_login(&Method::POST, "/oauth/token"));
        route.login_stub = vec!["/x".to_owned(), "/oauth/token".to_owned()];

        for path in
            ["/oauth/token", "/oauth/token/", "/OAuth/Token", "/%6fauth/token", "//oauth//token", "/x"]
        {
            assert!(route.is_login(&Method::POST, path), "{path}");
        }
        for path in ["/", "/oauth", "/oauth/token/x", "/oauth/tokens", "/api/oauth/token"] {
            assert!(!route.is_login(&Method::POST, path), "{path}");
        }
        assert!(!route.is_login(&Method::GET, "/oauth/token"));

        route.prefix = Prefix::new("/gen");
        assert!(route.is_login(&Method::POST, "/gen/oauth/token"));
        assert!(route.is_login(&Method::POST, "/oauth/token"));
        assert!(!route.is_login(&Method::POST, "/gen/gen/oauth/token"));
    }

    #[test]
    fn a_caller_needs_one_of_the_certificate_names_or_to_be_proven_one_of_the_named() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut route = route("r");
        let admits = |route: &Route, others: &[&str], proven| route.admits(&names(others), || proven);
        assert!(admits(&route, &[], None) && admits(&route, &["CN=x"], Some("crm")));
        route.callers.certificates = names(&["CN=billing", "DNS:billing.internal"]);

        assert!(admits(&route, &["CN=x", "DNS:billing.internal"], None));
        for others in [&[][..], &["CN=Billing"], &["CN=billing2"], &["DNS:billing"], &["CN=billing, CN=x"]] {
            assert!(!admits(&route, others, Some("billing")), "{others:?}");
        }

        route.callers.named = names(&["billing", "crm"]);
        assert!(admits(&route, &[], Some("crm")) && admits(&route, &["CN=billing"], None));
        assert!(!admits(&route, &["CN=x"], Some("desk")) && !admits(&route, &[], None));
    }

    #[test]
    fn the_target_has_the_callers_own_bytes() {
        let mut route = route("r");
        let given = PathAndQuery::from_static("/%61pi/x?q=%2F&r=1");
        let sent = |route: &Route, found: &str| route.target(Some(&given), &nowhere(found)).unwrap();
        assert_eq!(sent(&route, ""), given);
        assert_eq!(sent(&route, "/found"), "/found/%61pi/x?q=%2F&r=1");

        route.base_path = "/base".to_owned();
        assert_eq!(sent(&route, ""), "/base/%61pi/x?q=%2F&r=1");
    }

    #[test]
    fn the_base_path_replaces_a_stripped_prefix() {
        let mut route = route("r");
        route.prefix = Prefix::new("/api");
        let target =
            |route: &Route, path| route.target(Some(&PathAndQuery::from_static(path)), &nowhere("")).unwrap();

        for (path, rest) in [
            ("/api/x/%2F?q=/a/b", "/x/%2F?q=/a/b"),
            ("/%61pi/x", "/x"),
            ("/api/", "/"),
            ("/api", "/"),
            ("/api?q=/a/b", "/?q=/a/b"),
        ] {
            assert_eq!(target(&route, path), rest, "{path}");
        }
        route.base_path = "/base".to_owned();
        for (path, expected) in
            [("/api/x?q", "/base/x?q"), ("/api/", "/base/"), ("/api", "/base"), ("/api?q=/", "/base?q=/")]
        {
            assert_eq!(target(&route, path), expected, "{path}");
        }
    }
}
