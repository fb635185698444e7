//! `[[routes]]`: which requests go where, with which credential.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use http::uri::{Authority, Scheme};
use toml::Spanned;

use super::api_discovery::DISCOVER;
use super::{Resolver, duration};
use crate::config::model::credential::Credential;
use crate::config::model::forwarded::Forwarded;
use crate::config::model::hosts;
use crate::config::model::http_version::HttpVersion;
use crate::config::model::route::{Address, Destination, Route, Upstream};
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::schema;
use crate::config::source::schema::Upgrade;

impl Resolver<'_> {
    /// All routes, if each is good and there is at least one.
    pub(super) fn routes(
        &mut self,
        routes: Vec<Spanned<schema::Route>>,
        names: &BTreeMap<String, Range<usize>>,
        credentials: &[Arc<Credential>],
    ) -> Option<Vec<Route>> {
        if routes.is_empty() && !self.unusable.contains("routes") {
            self.problems.push(
                Problem::error(None, "there are no [[routes]]")
                    .help("a route says where requests go: [[routes]] with `upstream` and `credential`"),
            );
        }
        let mut seen: BTreeMap<(Option<String>, String), usize> = BTreeMap::new();
        let mut used = BTreeSet::new();
        let mut good = Vec::new();
        let written = routes.len();
        for (index, route) in routes.into_iter().enumerate() {
            let place = route.span();
            let route = route.into_inner();
            used.extend(route.credential.as_ref().map(|name| name.get_ref().clone()));
            let Some(route) = self.route(index, &place, route, names, credentials) else {
                continue;
            };
            if let Some(first) = seen.insert((route.host.clone(), route.path.clone()), index + 1) {
                self.problems.push(
                    Problem::error(place, format!("the same host and path as route {first}"))
                        .help("each request must have one route: change `path` or `host`, or take one out"),
                );
            }
            good.push(route);
        }
        let are_all_read =
            good.len() == written && !self.unusable.iter().any(|path| path.starts_with("routes"));
        for (name, place) in names.iter().filter(|(name, _)| are_all_read && !used.contains(*name)) {
            let title = format!("no route uses the credential `{name}`");
            self.problems.push(Problem::warning(place.clone(), title).help(format!(
                "write credential = \"{name}\" in a route, or take it out: it gets tokens all the same"
            )));
        }
        (good.len() == written).then_some(good)
    }

    fn route(
        &mut self,
        index: usize,
        place: &Range<usize>,
        mut route: schema::Route,
        names: &BTreeMap<String, Range<usize>>,
        credentials: &[Arc<Credential>],
    ) -> Option<Route> {
        let key = |key: &str| format!("routes[{index}].{key}");
        let host = route.host.take().map(|host| self.host(&host));
        let path = match &route.path {
            Some(path) => self.path(path),
            None => Some("/".to_owned()),
        };
        let upstream = match &route.upstream {
            Some(upstream) => self.upstream(upstream),
            None => {
                self.missing(
                    &key("upstream"),
                    place,
                    "where requests go, such as \"https://api.example.com\"",
                );
                None
            }
        };
        let credential = match &route.credential {
            Some(name) => self.credential_of(name, names, credentials),
            None => {
                let help = "whose token requests get: a name from [credentials.NAME], or \"none\"";
                self.missing(&key("credential"), place, help);
                None
            }
        };
        if let (Some(Destination::Discovered), Some(text), Some(credential)) =
            (&upstream, &route.upstream, &credential)
        {
            self.discovered(text.span(), credential.as_deref());
        }
        let is_http = matches!(&upstream, Some(Destination::Written(at)) if at.scheme == Scheme::HTTP);
        let roots = self.roots(route.ca_file.take(), is_http);
        let proxy = self.proxy(route.proxy.take(), "upstream", is_http);
        let credential_of_route = credential.as_ref().and_then(Option::as_ref);
        let rules = self.rules(&mut route, path.as_deref());
        let protection = self.protection(&mut route);
        let strip_prefix = self.strip_prefix(route.strip_prefix, path.as_deref());
        let fields = self.fields(route.headers, &rules, credential_of_route);
        let retry_on = self.retry_on(route.retry_on);
        let retry_429 = self.retry_429(route.retry_429);
        let timeout = self.positive(route.timeout, 60);
        let connect_timeout = self.positive(route.connect_timeout, 5);
        let (allows_websocket, http_version) = self.upgrade(route.upgrade, route.http_version);
        let callers = self.callers(route.callers);
        let read_timeout = Some(duration(route.read_timeout, 5 * 60)).filter(|time| !time.is_zero());
        let host = match host {
            Some(host) => Some(host?),
            None => None,
        };
        Some(Route {
            host,
            path: path?,
            upstream: Upstream { destination: upstream?, roots, proxy, http_version },
            credential: credential?,
            rules,
            strip_prefix,
            fields,
            retry_on,
            allows_websocket,
            retry_429,
            timeout,
            connect_timeout,
            read_timeout,
            callers,
            forwarded: route.forwarded.map_or(Forwarded::None, Spanned::into_inner),
            protection,
        })
    }

    /// A WebSocket begins in HTTP/1.1, so that a route which allows it speaks no other.
    fn upgrade(
        &mut self,
        upgrade: Option<Spanned<Vec<Spanned<Upgrade>>>>,
        http_version: Key<HttpVersion>,
    ) -> (bool, HttpVersion) {
        let written = http_version.as_ref().map_or(HttpVersion::Auto, |version| *version.get_ref());
        if upgrade.is_none_or(|upgrade| upgrade.get_ref().is_empty()) {
            return (false, written);
        }
        if let Some(version) = http_version.filter(|_| written == HttpVersion::Http2) {
            self.problems.push(Problem::error(version.span(), "a WebSocket begins in HTTP/1.1").help(
                "take `http_version` or `upgrade` out; paths that need HTTP/2 can have a route of their own",
            ));
        }
        (true, HttpVersion::Http1)
    }

    fn host(&mut self, host: &Spanned<String>) -> Option<String> {
        let text = host.get_ref().to_ascii_lowercase();
        if hosts::is_host(&text) {
            return Some(text);
        }
        self.problems.push(
            Problem::error(host.span(), "not a host name")
                .help("write the name or address that callers use, without scheme, port or path"),
        );
        None
    }

    /// A prefix as it is matched: no slash at its end but for the root itself.
    fn path(&mut self, path: &Spanned<String>) -> Option<String> {
        let text = path.get_ref();
        if text == "/" {
            return Some("/".to_owned());
        }
        let plain = plain_path(text);
        if plain.is_none() {
            self.problems.push(Problem::error(path.span(), "not a path prefix").help(
                "it starts with `/` and covers all below it: no `*`, no query, no `%`, no `..`, no empty segment",
            ));
        }
        plain
    }

    fn upstream(&mut self, text: &Spanned<String>) -> Option<Destination> {
        if text.get_ref() == DISCOVER {
            return Some(Destination::Discovered);
        }
        let url = self.endpoint(text)?;
        if url.query().is_some() {
            self.problems.push(Problem::error(text.span(), "an upstream has no query"));
            return None;
        }
        let scheme = if url.scheme() == "https" { Scheme::HTTPS } else { Scheme::HTTP };
        let host = url.host_str().unwrap_or_default();
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let authority = Authority::from_str(&authority).ok();
        if authority.is_none() {
            self.problems.push(Problem::error(text.span(), "not an address that requests can go to"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        Some(Destination::Written(Address { scheme, authority: authority?, path }))
    }

    /// `Some(None)` is a route without a credential.
    #[expect(clippy::option_option, reason = "the outer is whether the key is good, the inner what it says")]
    fn credential_of(
        &mut self,
        name: &Spanned<String>,
        names: &BTreeMap<String, Range<usize>>,
        credentials: &[Arc<Credential>],
    ) -> Option<Option<Arc<Credential>>> {
        if name.get_ref() == "none" {
            return Some(None);
        }
        if self.unusable.contains("credentials") {
            return None;
        }
        if !names.contains_key(name.get_ref()) {
            let known: Vec<&str> = names.keys().map(String::as_str).collect();
            let help = if known.is_empty() {
                format!("add [credentials.{}], or write \"none\"", name.get_ref())
            } else {
                format!("there are: {}; or \"none\"", known.join(", "))
            };
            self.problems.push(
                Problem::error(name.span(), format!("there is no credential `{}`", name.get_ref()))
                    .help(help),
            );
            return None;
        }
        // One that is there and not good has been reported with its own place.
        credentials.iter().find(|one| one.name == *name.get_ref()).cloned().map(Some)
    }
}

/// A path below the root that can be read in one way only, without a slash at its end.
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
