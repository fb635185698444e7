//! `[[routes]]`: requests, their upstream and their credential.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use toml::Spanned;
use url::Url;

use super::api_discovery::DISCOVER;
use super::region::REGION;
use super::{Names, Resolver, duration};
use crate::config::model::credential::{Credential, HttpVersion};
use crate::config::model::hosts::{as_sent, is_host};
use crate::config::model::route::{
    Address, Destination, Forwarded, LinkField, RewrittenLinks, Route, Upstream,
};
use crate::config::source::choice::{RewrittenLink, Upgrade};
use crate::config::source::diagnostics::Problem;
use crate::config::source::key::{Entry, Key};
use crate::config::source::schema::{self, Routes};

const UPSTREAM_HELP: &str = "write the address of the API, such as \"https://api.example.com\"";

/// Host and path of a route.
type Scope = (Option<String>, String);

/// What tells a route from the others.
struct OwnName {
    name: String,
    host: Option<String>,
    path: String,
}

/// The name of an earlier route.
struct TakenName {
    /// The place of the route among the routes, from 1 on.
    number: usize,
    place: Range<usize>,
    /// Whether the name is configured.
    is_written: bool,
}

impl Resolver<'_> {
    /// The routes, if each is usable.
    pub(super) fn routes(
        &mut self,
        routes: Key<Routes>,
        names: Option<&Names>,
        credentials: &[Arc<Credential>],
    ) -> Option<Vec<Route>> {
        let mut are_names_known = !matches!(routes, Key::Refused);
        let routes = routes.or_default().0;
        if routes.is_empty() && are_names_known {
            let help = "add [[routes]] with `upstream` and `credential`: a route says where requests go";
            self.error(None, "there are no [[routes]]", help);
        }
        let mut seen: BTreeMap<Scope, (usize, Range<usize>)> = BTreeMap::new();
        let mut taken = BTreeMap::new();
        let mut used = BTreeSet::new();
        let mut usable = Vec::new();
        let written = routes.len();
        for (index, route) in routes.into_iter().enumerate() {
            let Some(route) = route else {
                are_names_known = false;
                continue;
            };
            let place = route.span();
            let route = route.into_inner();
            let pool = route.credential.usable().and_then(|name| self.pool_named(name.get_ref()));
            let is_known =
                |name: &String| name == "none" || names.is_some_and(|names| names.contains_key(name));
            let is_usable = |name: &Spanned<String>| match pool {
                Some(entry) => entry.pool.is_some(),
                None => is_known(name.get_ref()),
            };
            are_names_known &= route.credential.usable().is_some_and(is_usable);
            used.extend(pool.into_iter().flat_map(|pool| pool.credentials.iter().cloned()));
            used.extend(route.credential.usable().map(|name| name.get_ref().clone()));
            let host = route.host.read_or(None, |host| self.host(host).map(Some));
            let path = route.path.read_or("/".to_owned(), |path| self.path(path));
            if let (Some(host), Some(path)) = (&host, &path)
                && let Some((first, other)) =
                    seen.insert((host.clone(), path.clone()), (index + 1, place.clone()))
            {
                let help = "change `path` or `host`, or remove a route: each request must have one route";
                let title = format!("the same host and path as route {first}");
                self.problems.push(Problem::error(place.clone(), title).and_at(other).help(help));
            }
            let scope = host.zip(path.clone());
            let name = self.route_name(&route.name, index + 1, &place, scope.as_ref(), &mut taken);
            let own = name.zip(scope).map(|(name, (host, path))| OwnName { name, host, path });
            usable.extend(self.route(&place, route, path.as_deref(), own, (names, credentials)));
        }
        self.warn_of_unused_pools(are_names_known, &used);
        let is_unused = |name: &String| are_names_known && !used.contains(name);
        for (name, place) in names.into_iter().flatten().filter(|(name, _)| is_unused(name)) {
            let Some(place) = place else { continue };
            let title = format!("no route uses the credential `{name}`");
            let help = format!(
                "write credential = \"{name}\" in a route, or remove the credential: the daemon gets tokens for it"
            );
            self.warning(place.clone(), title, help);
        }
        (usable.len() == written).then_some(usable)
    }

    /// The name of a route: the configured one, or else host and path. It is no other route's.
    fn route_name(
        &mut self,
        name: &Key<String>,
        number: usize,
        owner: &Range<usize>,
        scope: Option<&Scope>,
        taken: &mut BTreeMap<String, TakenName>,
    ) -> Option<String> {
        let written = name.usable().filter(|name| !name.get_ref().is_empty());
        let name = match (name, written) {
            (_, Some(name)) if is_route_name(name.get_ref()) => name.get_ref().clone(),
            (_, Some(name)) => {
                let title = "not a name of a route";
                let help = "write at most 100 letters, digits, blanks and punctuation marks of ASCII, without a \
                            blank at an end";
                return self.refuse(name.span(), title, help);
            }
            (Key::Refused, None) => return None,
            (_, None) => {
                scope.map(|(host, path)| format!("{}{path}", host.as_deref().unwrap_or_default()))?
            }
        };
        let place = written.map_or_else(|| owner.clone(), Spanned::span);
        let this = TakenName { number, place: place.clone(), is_written: written.is_some() };
        // Two routes without names that have the same host and path are reported as such.
        if let Some(other) = taken.insert(name.clone(), this)
            && (other.is_written || written.is_some())
        {
            let help =
                "change `name`: each route needs its own, and without the key, host and path are the name";
            let title = format!("the same name as route {}", other.number);
            self.problems.push(Problem::error(place, title).and_at(other.place).help(help));
        }
        Some(name)
    }

    fn route(
        &mut self,
        owner: &Range<usize>,
        mut route: schema::Route,
        prefix: Option<&str>,
        own: Option<OwnName>,
        (names, credentials): (Option<&Names>, &[Arc<Credential>]),
    ) -> Option<Route> {
        let upstream = self.required(owner, "upstream", &route.upstream, UPSTREAM_HELP);
        let first = route.credential.usable().map(|name| self.first_credential(name));
        let upstream = upstream.and_then(|upstream| self.upstream(upstream, first.as_ref(), names));
        let help = "write a name from [credentials.NAME], whose token requests get, or \"none\"";
        let written = self.required(owner, "credential", &route.credential, help);
        let pool = written.and_then(|name| self.pool_named(name.get_ref())).map(|entry| entry.pool.clone());
        let credential = match (written, &pool) {
            // An unusable pool has been reported.
            (_, Some(pool)) => pool.as_ref().map(|pool| pool.credentials.first().cloned()),
            (Some(name), None) => self.credential_of(name, names, credentials),
            (None, None) => None,
        };
        if let (Some(Destination::Discovered), Some(place), Some(credential)) =
            (&upstream, route.upstream.place(), &credential)
        {
            self.discovered(place, credential.as_deref());
        }
        if let (Some(Destination::Written(address)), Some(text)) = (&upstream, route.upstream.usable()) {
            self.refuse_own_upstream(&text.span(), address);
            let of_pool = pool.iter().flatten().flat_map(|pool| pool.credentials.iter().skip(1));
            for credential in credential.iter().flatten().chain(of_pool) {
                self.compare_clouds(&text.span(), address.authority.host(), credential);
            }
            self.warn_of_placeholder_in_url(text);
        }
        let is_http = matches!(&upstream, Some(Destination::Written(at)) if at.scheme == Scheme::HTTP);
        let (roots, ca_file) = self.roots(&route.ca_file, &route.system_roots, is_http);
        let (client_certificate, server_name) = self.identities(&route, is_http);
        let proxy = self.proxy(route.proxy.take(), "upstream", is_http);
        let rules = self.rules(&mut route, prefix);
        let protection = self.protection(&mut route);
        let (allows_websocket, http_version) = self.upgrade(route.upgrade, route.http_version);
        let has_credential = !matches!(credential, Some(None));
        let token_field =
            self.token_field(route.token_field.take(), route.token_scheme.take(), has_credential);
        // The parts that may be absent come last, so that the others are checked in any case.
        Some(Route {
            strip_prefix: self.strip_prefix(route.strip_prefix, prefix),
            fields: self.fields(
                route.headers,
                &rules,
                credential.as_ref().and_then(Option::as_ref),
                &token_field.name,
            ),
            token_field,
            rules,
            retry_on: self.retry_on(route.retry_on),
            allows_websocket,
            retry_429: self.retry_429(route.retry_429),
            retry_stale: route.retry_stale.or(true),
            timeout: self.positive(route.timeout, 60),
            connect_timeout: self.positive(route.connect_timeout, 5),
            read_timeout: Some(duration(route.read_timeout, 5 * 60)).filter(|time| !time.is_zero()),
            callers: self.admitted(route.callers),
            forwarded: route.forwarded.or(Forwarded::None),
            via: route.via.or_default(),
            host_header: self.host_header(route.host_header),
            rewrite_cookies: route.rewrite_cookies.or_default(),
            rewrite_links: rewritten_links(route.rewrite_links),
            body_timeout: route.body_timeout.usable().map(|time| time.get_ref().0),
            body_rate: route.body_rate.usable().map(|rate| rate.get_ref().0),
            protection,
            host: own.as_ref()?.host.clone(),
            path: own.as_ref()?.path.clone(),
            name: own?.name,
            upstream: Upstream {
                destination: upstream?,
                roots,
                ca_file,
                client_certificate,
                server_name,
                proxy,
                http_version,
            },
            credential: credential?,
            pool: pool.flatten(),
        })
    }

    /// Whether WebSocket is allowed, and the HTTP version: a WebSocket needs HTTP/1.1.
    fn upgrade(
        &mut self,
        upgrade: Key<Vec<Entry<Upgrade>>>,
        http_version: Key<HttpVersion>,
    ) -> (bool, HttpVersion) {
        if upgrade.or_default().is_empty() {
            return (false, http_version.or(HttpVersion::Auto));
        }
        if let Some(version) =
            http_version.usable().filter(|version| *version.get_ref() == HttpVersion::Http2)
        {
            let help = "remove `http_version` or `upgrade`; add another route for paths that need HTTP/2";
            self.error(version.span(), "a WebSocket begins in HTTP/1.1", help);
        }
        (true, HttpVersion::Http1)
    }

    fn host(&mut self, host: &Spanned<String>) -> Option<String> {
        let text = as_sent(host.get_ref());
        let help = "write the name or address that callers use, without scheme, port or path";
        if is_host(&text) { Some(text) } else { self.refuse(host.span(), "not a host name", help) }
    }

    fn path(&mut self, path: &Spanned<String>) -> Option<String> {
        let text = path.get_ref();
        if text == "/" {
            return Some("/".to_owned());
        }
        let help = "write a prefix that starts with `/`, without `*`, query, `%`, `..` or empty segment";
        plain_path(text).or_else(|| self.refuse(path.span(), "not a path prefix", help))
    }

    fn upstream(
        &mut self,
        text: &Spanned<String>,
        credential: Option<&Spanned<String>>,
        names: Option<&Names>,
    ) -> Option<Destination> {
        match text.get_ref().as_str() {
            DISCOVER => return Some(Destination::Discovered),
            REGION => return self.upstream_of_region(&text.span(), credential, names),
            _ => {}
        }
        let url = self.endpoint(text)?;
        if url.query().is_some() {
            return self.refuse(text.span(), "an upstream has no query", "remove the part from `?` on");
        }
        let address = address_of(&url);
        let address =
            address.or_else(|| self.refuse(text.span(), "not the address of an API", UPSTREAM_HELP));
        address.map(Destination::Written)
    }

    /// The credential of a route; `Some(None)` for none.
    #[expect(clippy::option_option, reason = "the outer is whether the key is usable, the inner its value")]
    fn credential_of(
        &mut self,
        name: &Spanned<String>,
        names: Option<&Names>,
        credentials: &[Arc<Credential>],
    ) -> Option<Option<Arc<Credential>>> {
        let text = name.get_ref();
        if text == "none" {
            return Some(None);
        }
        // What the name stands for is unknown where a section is unusable.
        let (names, pools) = (names?, self.pools.as_ref()?);
        if !names.contains_key(text) {
            let known: Vec<&str> = names.keys().chain(pools.keys()).map(String::as_str).collect();
            let help = if known.is_empty() {
                format!("add [credentials.{text}], or write \"none\"")
            } else {
                format!("write one of: {}; or \"none\"", known.join(", "))
            };
            return self.refuse(name.span(), format!("there is no credential `{text}`"), help);
        }
        // An unusable credential has been reported.
        credentials.iter().find(|one| one.name == *text).cloned().map(Some)
    }
}

/// Whether a text is the name of a route: in labels, log lines and on terminals it stands as it is written.
fn is_route_name(text: &str) -> bool {
    let is_printable = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
    text.chars().count() <= 100 && text.trim() == text && text.chars().all(is_printable)
}

fn rewritten_links(links: Key<Vec<Entry<RewrittenLink>>>) -> RewrittenLinks {
    let Some(links) = links.into_usable() else { return RewrittenLinks::default() };
    let mut rewritten = RewrittenLinks { fields: Vec::new(), json: false };
    for link in links.into_inner().into_iter().flatten() {
        let field = match link.into_inner() {
            RewrittenLink::Json => {
                rewritten.json = true;
                continue;
            }
            RewrittenLink::Location => LinkField::Location,
            RewrittenLink::Link => LinkField::Link,
            RewrittenLink::ContentLocation => LinkField::ContentLocation,
            RewrittenLink::OperationLocation => LinkField::OperationLocation,
            RewrittenLink::Refresh => LinkField::Refresh,
        };
        if !rewritten.fields.contains(&field) {
            rewritten.fields.push(field);
        }
    }
    rewritten
}

fn address_of(url: &Url) -> Option<Address> {
    let scheme = if url.scheme() == "https" { Scheme::HTTPS } else { Scheme::HTTP };
    let host = url.host_str().unwrap_or_default();
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let authority = Authority::from_str(&authority).ok()?;
    Some(Address { scheme, authority, path: url.path().trim_end_matches('/').to_owned() })
}

/// A path below the root that all servers interpret alike, without a slash at the end.
pub(super) fn plain_path(text: &str) -> Option<String> {
    let is_plain = |segment: &str| {
        !segment.is_empty()
            && segment != "."
            && segment != ".."
            && segment.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#%;*\"<>".contains(&byte))
    };
    let rest = text.strip_prefix('/')?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    rest.split('/').all(is_plain).then(|| format!("/{rest}"))
}
