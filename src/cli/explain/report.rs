//! The facts of an explanation, and their form in JSON.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use serde_json::{Value, json};

use super::asked::Asked;
use crate::config;
use crate::config::model::fields::is_same_field;
use crate::config::{ApiQuota, Config};
use crate::proxy::callers::{Identified, Unidentified, X_API_KEY};
use crate::proxy::error::ProxyError;
use crate::proxy::route::Route;
use crate::proxy::route::rules::Ruling;
use crate::proxy::service::preview::{Forwarded, Outcome, Preview};

/// The request and what becomes of it.
pub(super) struct Report<'a> {
    pub(super) asked: &'a Asked,
    /// The names in the caller's certificate.
    pub(super) callers: &'a [String],
    /// The address that the caller connects from, if it is given.
    pub(super) address: Option<IpAddr>,
    pub(super) config: &'a Config,
    /// The route as configured, and as requests use it.
    pub(super) route: Option<(&'a config::Route, &'a Route)>,
    pub(super) preview: &'a Preview<'a>,
}

/// Which rule decides.
pub(super) struct Rule {
    /// `none`, `allow`, `deny`, `preset` or `encoded`.
    pub(super) kind: &'static str,
    /// The pattern, where there is one.
    pub(super) pattern: Option<String>,
}

impl Report<'_> {
    /// The URL that the upstream is asked for, byte for byte.
    pub(super) fn upstream_url(forwarded: &Forwarded) -> String {
        let target = forwarded.head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        format!("{}{target}", forwarded.origin)
    }

    /// The path and the query of the request; a query with a key becomes stars.
    pub(super) fn target(&self) -> String {
        let uri = &self.asked.head.uri;
        if matches!(self.preview.caller, Some(Err(Unidentified::KeyInQuery))) {
            return format!("{}?***", uri.path());
        }
        uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned()
    }

    /// The name of the configured caller, and whether the caller is proven.
    pub(super) fn caller(&self) -> Option<(&str, bool)> {
        let Identified { is_proven, .. } = self.preview.caller?.ok()?;
        Some((&self.configured_caller()?.name, is_proven))
    }

    /// The configured caller.
    pub(super) fn configured_caller(&self) -> Option<&config::Caller> {
        let Identified { caller, .. } = self.preview.caller?.ok()?;
        self.config.callers.get(caller.get())
    }

    /// The credentials of the route whose API allows a number of requests.
    pub(super) fn api_quotas(&self) -> impl Iterator<Item = (&str, ApiQuota)> {
        let credentials = self.route.map_or(&[][..], |(route, _)| route.credentials());
        credentials.iter().filter_map(|one| Some((one.name.as_str(), one.api_quota?)))
    }

    /// How many of an API's requests are the caller's share, by the weights of all callers.
    pub(super) fn share(&self, quota: &ApiQuota) -> Option<f64> {
        let weight = f64::from(self.configured_caller()?.weight);
        Some(f64::from(quota.requests.get()) * weight / f64::from(self.weights()))
    }

    /// The sum of the weights of all callers.
    pub(super) fn weights(&self) -> u32 {
        self.config.callers.iter().map(|caller| u32::from(caller.weight)).sum()
    }

    /// The rule that decides, if the request comes to the rules.
    pub(super) fn rule(&self) -> Option<Rule> {
        let (kind, pattern) = match self.preview.ruling? {
            Ruling::Unruled => ("none", None),
            Ruling::Allowed(pattern) => ("allow", Some(pattern)),
            Ruling::NotAllowed => ("allow", None),
            Ruling::Denied(pattern) => ("deny", Some(pattern)),
            Ruling::Protected(pattern) => ("preset", Some(pattern)),
            Ruling::Ambiguous => ("encoded", None),
        };
        Some(Rule { kind, pattern: pattern.map(ToString::to_string) })
    }

    /// Fields with their values. Values of the caller that may be secret become stars.
    pub(super) fn shown(&self, fields: &HeaderMap) -> Vec<(String, String)> {
        let required = self.config.server.required_header.as_ref();
        let is_secret = |name: &HeaderName, value: &HeaderValue| {
            let may_be = [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name)
                || is_same_field(name.as_str(), X_API_KEY.as_str())
                || required.is_some_and(|required| required.name == name)
                || self.route.is_some_and(|(route, _)| route.token_field.name == name);
            may_be && self.asked.head.headers.get_all(name).iter().any(|asked| asked == value)
        };
        let shown = fields.iter().map(|(name, value)| {
            let value = if is_secret(name, value) { "***".to_owned() } else { escaped(value.as_bytes()) };
            (name.to_string(), value)
        });
        shown.collect()
    }

    /// The fields of this request that the upstream does not receive, and those that it receives with another value.
    pub(super) fn changed(&self, forwarded: &Forwarded) -> (Vec<String>, Vec<String>) {
        let (before, after) = (&self.asked.head.headers, &forwarded.head.headers);
        let is_changed = |name: &&HeaderName| before.get_all(*name).iter().ne(after.get_all(*name));
        let changed = before.keys().filter(is_changed);
        let (replaced, removed): (Vec<&HeaderName>, _) = changed.partition(|name| after.contains_key(*name));
        let names = |fields: Vec<&HeaderName>| fields.into_iter().map(ToString::to_string).collect();
        (names(removed), names(replaced))
    }

    /// The fields of callers that the route never forwards.
    pub(super) fn never_forwarded(&self) -> Vec<String> {
        let Some((route, _)) = self.route else { return Vec::new() };
        let mut fields = vec!["authorization".to_owned()];
        if self.config.callers.iter().any(|caller| !caller.keys.is_empty()) {
            fields.push(X_API_KEY.to_string());
        }
        let own = [route.token_field.name.as_str()].into_iter();
        let set = route.fields.set.iter().map(|(name, _)| name.as_str());
        for name in own.chain(route.fields.remove.iter().map(HeaderName::as_str)).chain(set) {
            if !fields.iter().any(|known| known == name) {
                fields.push(name.to_owned());
            }
        }
        fields
    }

    /// The explanation in JSON.
    pub(super) fn json(&self) -> Value {
        let head = &self.asked.head;
        let host = head.headers.get(http::header::HOST).map(|host| escaped(host.as_bytes()));
        let refusal = match &self.preview.outcome {
            Outcome::Refused(error) => Some(error),
            _ => None,
        };
        let forwarded = match &self.preview.outcome {
            Outcome::Forwarded(forwarded) => Some(&**forwarded),
            _ => None,
        };
        let outcome = match &self.preview.outcome {
            Outcome::Refused(_) => "refused",
            Outcome::LoginAnswered => "login_answered",
            Outcome::Forwarded(_) => "forwarded",
        };
        json!({
            "outcome": outcome,
            "code": refusal.map(ProxyError::code),
            "status": refusal.map(|error| error.status().as_u16()),
            "detail": refusal.map(ProxyError::detail),
            "request": {
                "method": head.method.as_str(),
                "host": host,
                "target": self.target(),
                "callers": self.callers,
                "address": self.address,
                "remarks": self.asked.remarks,
            },
            "caller": self.caller().map(|(name, is_proven)| json!({
                "name": name,
                "proven": is_proven,
                "quota": self.configured_caller().and_then(|caller| caller.quota).map(|quota| json!({
                    "requests": quota.requests,
                    "per_ms": milliseconds(quota.per),
                    "wait_ms": milliseconds(quota.wait),
                })),
            })),
            "route": self.route.map(|(route, used)| json!({
                "name": used.name,
                "host": route.host,
                "path": route.path,
            })),
            "rule": self.rule().map(|rule| json!({ "kind": rule.kind, "pattern": rule.pattern })),
            "credential": self.route.and_then(|(route, _)| route.credential.as_ref().map(|one| &one.name)),
            "api_quotas": self.api_quotas().map(|(credential, quota)| json!({
                "credential": credential,
                "requests": quota.requests,
                "per_ms": milliseconds(quota.per),
                "wait_ms": milliseconds(quota.wait),
                "share": self.share(&quota),
            })).collect::<Vec<_>>(),
            "pool": self.route.and_then(|(route, _)| route.pool.as_ref()).map(|pool| json!({
                "name": pool.name,
                "credentials": pool.credentials.iter().map(|one| &one.name).collect::<Vec<_>>(),
            })),
            "upstream": forwarded.map(Self::upstream_url),
            "fields": forwarded.map(|forwarded| json!({
                "sent": self.shown(&forwarded.head.headers),
                "removed": self.changed(forwarded).0,
                "replaced": self.changed(forwarded).1,
                "never_forwarded": self.never_forwarded(),
            })),
            "retries": forwarded.zip(self.route).map(|(forwarded, (route, _))| json!({
                "retry_on": route.credential.as_ref().map_or_else(Vec::new, |_| {
                    route.retry_on.iter().map(http::StatusCode::as_u16).collect::<Vec<_>>()
                }),
                "retry_429_attempts": if forwarded.retries_429 { route.retry_429.attempts } else { 0 },
                "retry_429_max_wait_ms": milliseconds(route.retry_429.max_wait),
                "retry_stale": forwarded.may_resend,
                "replay_body_bytes": self.config.server.limits.replay_body,
            })),
            "timeouts": forwarded.zip(self.route).map(|(_, (route, _))| json!({
                "token_wait_ms": route.credential.as_ref().map(|_| milliseconds(self.config.server.limits.token_wait)),
                "connect_timeout_ms": milliseconds(route.connect_timeout),
                "timeout_ms": milliseconds(route.timeout),
                "read_timeout_ms": route.read_timeout.map(milliseconds),
                "body_timeout_ms": self.body_timeout(route).map(milliseconds),
                "body_rate_bytes": self.body_rate(route),
            })),
        })
    }

    /// Longest pause of the request body; `None` for no limit.
    pub(super) fn body_timeout(&self, route: &config::Route) -> Option<Duration> {
        let timeout = route.body_timeout.unwrap_or(self.config.server.limits.body_timeout);
        (!timeout.is_zero()).then_some(timeout)
    }

    /// Least bytes a second of the request body; 0 for no limit.
    pub(super) fn body_rate(&self, route: &config::Route) -> u64 {
        route.body_rate.unwrap_or(self.config.server.limits.body_rate)
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Text for a terminal: a byte that is not visible ASCII or a space becomes an escape.
pub(super) fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        match byte {
            b' '..=b'~' => text.push(char::from(byte)),
            byte => drop(write!(text, "\\x{byte:02x}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(escaped(b"a b~"), "a b~");
        assert_eq!(escaped("\u{1b}[31m\n\u{7f}é".as_bytes()), "\\x1b[31m\\x0a\\x7f\\xc3\\xa9");
    }
}
