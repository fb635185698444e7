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
use super::{Owner, Resolver, duration, or_default};
use crate::config::model::credential::{Credential, HttpVersion};
use crate::config::model::hosts::{as_sent, is_host};
use crate::config::model::route::{
    Address, Destination, Forwarded, LinkField, RewrittenLinks, Route, Upstream,
};
use crate::config::source::choice::{RewrittenLink, Upgrade};
use crate::config::source::reader::Key;
use crate::config::source::schema;

const UPSTREAM_HELP: &str = "write the address of the API, such as \"https://api.example.com\"";

impl Resolver<'_> {
    /// The routes, if each is usable.
    pub(super) fn routes(
        &mut self,
        routes: Vec<Spanned<schema::Route>>,
        names: &BTreeMap<String, Range<usize>>,
        credentials: &[Arc<Credential>],
    ) -> Option<Vec<Route>> {
        if routes.is_empty() && !self.unusable.contains("routes") {
            let help = "add [[routes]] with `upstream` and `credential`: a route says where requests go";
            self.error(None, "there are no [[routes]]", help);
        }
        let mut seen: BTreeMap<(Option<String>, String), usize> = BTreeMap::new();
        let mut used = BTreeSet::new();
        let mut usable = Vec::new();
        let written = routes.len();
        for (index, route) in routes.into_iter().enumerate() {
            let place = route.span();
            let route = route.into_inner();
            used.extend(route.credential.as_ref().map(|name| name.get_ref().clone()));
            let Some(route) = self.route(index, place.clone(), route, names, credentials) else { continue };
            if let Some(first) = seen.insert((route.host.clone(), route.path.clone()), index + 1) {
                let help = "change `path` or `host`, or remove a route: each request must have one route";
                self.error(place, format!("the same host and path as route {first}"), help);
            }
            usable.push(route);
        }
        let are_all_read =
            usable.len() == written && !self.unusable.iter().any(|path| path.starts_with("routes"));
        for (name, place) in names.iter().filter(|(name, _)| are_all_read && !used.contains(*name)) {
            let title = format!("no route uses the credential `{name}`");
            let help = format!(
                "write credential = \"{name}\" in a route, or remove the credential: the daemon gets tokens for it"
            );
            self.warning(place.clone(), title, help);
        }
        (usable.len() == written).then_some(usable)
    }

    fn route(
        &mut self,
        index: usize,
        place: Range<usize>,
        mut route: schema::Route,
        names: &BTreeMap<String, Range<usize>>,
        credentials: &[Arc<Credential>],
    ) -> Option<Route> {
        let owner = Owner { path: format!("routes[{index}]"), place };
        let host = route.host.take().map(|host| self.host(&host));
        let path = route.path.as_ref().map_or_else(|| Some("/".to_owned()), |path| self.path(path));
        let upstream = self.required(&owner, "upstream", route.upstream.as_ref(), UPSTREAM_HELP);
        let upstream =
            upstream.and_then(|upstream| self.upstream(upstream, route.credential.as_ref(), names));
        let help = "write a name from [credentials.NAME], whose token requests get, or \"none\"";
        let credential = self.required(&owner, "credential", route.credential.as_ref(), help);
        let credential = credential.and_then(|name| self.credential_of(name, names, credentials));
        if let (Some(Destination::Discovered), Some(text), Some(credential)) =
            (&upstream, &route.upstream, &credential)
        {
            self.discovered(text.span(), credential.as_deref());
        }
        if let (Some(Destination::Written(address)), Some(text)) = (&upstream, &route.upstream) {
            self.refuse_own_upstream(&text.span(), address);
            if let Some(Some(credential)) = &credential {
                self.compare_clouds(&text.span(), address.authority.host(), credential);
            }
            self.warn_of_placeholder_in_url(text);
        }
        let is_http = matches!(&upstream, Some(Destination::Written(at)) if at.scheme == Scheme::HTTP);
        let (roots, ca_file) = self.roots(route.ca_file.take(), route.system_roots.take(), is_http);
        let (client_certificate, server_name) = self.identities(&mut route, is_http);
        let proxy = self.proxy(route.proxy.take(), "upstream", is_http);
        let rules = self.rules(&mut route, path.as_deref());
        let protection = self.protection(&mut route);
        let (allows_websocket, http_version) = self.upgrade(route.upgrade, route.http_version);
        let has_credential = !matches!(credential, Some(None));
        let token_field =
            self.token_field(route.token_field.take(), route.token_scheme.take(), has_credential);
        // The parts that may be absent come last, so that the others are checked in any case.
        Some(Route {
            strip_prefix: self.strip_prefix(route.strip_prefix, path.as_deref()),
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
            retry_stale: route.retry_stale.is_none_or(Spanned::into_inner),
            timeout: self.positive(route.timeout, 60),
            connect_timeout: self.positive(route.connect_timeout, 5),
            read_timeout: Some(duration(route.read_timeout, 5 * 60)).filter(|time| !time.is_zero()),
            callers: self.callers(route.callers),
            forwarded: route.forwarded.map_or(Forwarded::None, Spanned::into_inner),
            via: or_default(route.via),
            host_header: self.host_header(route.host_header),
            rewrite_cookies: or_default(route.rewrite_cookies),
            rewrite_links: rewritten_links(route.rewrite_links),
            body_timeout: route.body_timeout.map(|time| time.into_inner().0),
            body_rate: route.body_rate.map(|rate| rate.into_inner().0),
            protection,
            host: if let Some(host) = host { Some(host?) } else { None },
            path: path?,
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
        })
    }

    /// Whether WebSocket is allowed, and the HTTP version: a WebSocket needs HTTP/1.1.
    fn upgrade(
        &mut self,
        upgrade: Key<Vec<Spanned<Upgrade>>>,
        http_version: Key<HttpVersion>,
    ) -> (bool, HttpVersion) {
        let written = http_version.as_ref().map_or(HttpVersion::Auto, |version| *version.get_ref());
        if upgrade.is_none_or(|upgrade| upgrade.get_ref().is_empty()) {
            return (false, written);
        }
        if let Some(version) = http_version.filter(|_| written == HttpVersion::Http2) {
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
        names: &BTreeMap<String, Range<usize>>,
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
        names: &BTreeMap<String, Range<usize>>,
        credentials: &[Arc<Credential>],
    ) -> Option<Option<Arc<Credential>>> {
        let text = name.get_ref();
        if text == "none" {
            return Some(None);
        }
        if self.unusable.contains("credentials") {
            return None;
        }
        if !names.contains_key(text) {
            let known: Vec<&str> = names.keys().map(String::as_str).collect();
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

fn rewritten_links(links: Key<Vec<Spanned<RewrittenLink>>>) -> RewrittenLinks {
    let Some(links) = links else { return RewrittenLinks::default() };
    let mut rewritten = RewrittenLinks { fields: Vec::new(), json: false };
    for link in links.into_inner() {
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
