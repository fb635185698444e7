//! An explanation as text: a paragraph for each stage of the request, in the order of its way.

use std::fmt::Display;
use std::fmt::Write as _;
use std::time::Duration;

use super::report::{Report, escaped};
use crate::cli::output;
use crate::config;
use crate::config::{ApiQuota, CallerQuota, Destination, Forwarded as Tells};
use crate::documentation;
use crate::proxy::error::ProxyError;
use crate::proxy::route::rules::Ruling;
use crate::proxy::service::preview::{Forwarded, Outcome};

/// The width of the names of stages.
const WIDTH: usize = 12;

/// Lines with the name of a stage in front of the first of them.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn stage(&mut self, name: &str, text: impl Display) {
        let _ = writeln!(self.0, "{name:WIDTH$}{}", escaped(text.to_string().as_bytes()));
    }

    fn paragraph(&mut self, name: &str, lines: impl IntoIterator<Item = impl Display>) {
        let names = std::iter::once(name).chain(std::iter::repeat(""));
        for (name, line) in names.zip(lines) {
            self.stage(name, line);
        }
    }

    fn more(&mut self, text: impl Display) {
        self.stage("", text);
    }
}

impl Report<'_> {
    /// The explanation as text.
    pub(super) fn text(&self) -> String {
        let mut lines = Lines::default();
        self.request(&mut lines);
        let refusal = match &self.preview.outcome {
            Outcome::Refused(error) => Some(error),
            _ => None,
        };
        match (self.route, refusal) {
            (None, Some(ProxyError::RouteNotFound)) => {
                lines.stage("guard", "accepted");
                lines.stage("route", "none matches this host and path");
            }
            (None, _) => lines.stage("guard", "refused"),
            (Some((route, used)), _) => {
                lines.stage("guard", "accepted");
                let host = route.host.as_deref().unwrap_or("any");
                lines.stage("route", format_args!("{} (host: {host}, path: {})", used.name, route.path));
                if !route.callers.is_everyone() {
                    let proven = || self.caller().filter(|(_, is_proven)| *is_proven).map(|(name, _)| name);
                    let verdict = if used.admits(self.callers, proven) { "admitted" } else { "refused" };
                    lines.stage("callers", format_args!("{verdict} (callers: {})", route.callers));
                }
                self.rules(&mut lines);
            }
        }
        if let (Outcome::Forwarded(forwarded), Some((route, _))) = (&self.preview.outcome, self.route) {
            self.way(&mut lines, forwarded, route);
        }
        match &self.preview.outcome {
            Outcome::Forwarded(_) => lines.stage("result", "forwarded"),
            Outcome::LoginAnswered => {
                lines.stage("result", "answered by bearerd itself: a login at a path in login_stub");
            }
            Outcome::Refused(error) => {
                lines.stage("result", format_args!("refused: {} {}", error.status().as_u16(), error.code()));
                lines.more(error.detail());
                lines.more(documentation::of_code(error.code()));
            }
        }
        lines.0
    }

    fn request(&self, lines: &mut Lines) {
        let head = &self.asked.head;
        lines.stage("request", format_args!("{} {}", head.method, self.target()));
        for (name, value) in self.shown(&head.headers) {
            lines.more(format_args!("{name}: {value}"));
        }
        for remark in &self.asked.remarks {
            lines.more(format_args!("({remark})"));
        }
        let names = match self.callers {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let origin = match self.address {
            Some(address) => format!("from {address}"),
            None => "from a network in server.allow_from".to_owned(),
        };
        lines.stage("caller", format_args!("{origin}; certificate names: {names}"));
        if self.preview.caller.is_some() {
            lines.more(match self.caller() {
                Some((name, true)) => format!("identified as [callers.{name}]"),
                Some((name, false)) => {
                    format!("counted as [callers.{name}], and not proven to be it: `callers` of a route requires proof")
                }
                None => "identified as none of [callers.NAME]".to_owned(),
            });
        }
    }

    fn rules(&self, lines: &mut Lines) {
        let Some(rule) = self.rule() else { return };
        let verdict = if matches!(self.preview.ruling.map(Ruling::verdict), Some(Ok(()))) {
            "allowed"
        } else {
            "refused"
        };
        let why = match (rule.kind, rule.pattern) {
            ("allow", Some(pattern)) => format!("by the pattern \"{pattern}\" in allow"),
            ("allow", None) => "because no pattern in allow matches".to_owned(),
            ("deny", Some(pattern)) => format!("by the pattern \"{pattern}\" in deny"),
            ("preset", Some(pattern)) => {
                format!(
                    "by the pattern \"{pattern}\" of the credential's provider, on the path at the upstream"
                )
            }
            ("encoded", _) => "because the path is ambiguous, and the route refuses such paths".to_owned(),
            _ => "because the route has no allow, and no pattern in deny matches".to_owned(),
        };
        lines.stage("rules", format_args!("{verdict} {why}"));
    }

    /// The stages of a request that is forwarded.
    fn way(&self, lines: &mut Lines, forwarded: &Forwarded, route: &config::Route) {
        let limits = &self.config.server.limits;
        match (&route.pool, &route.credential) {
            (Some(pool), _) => {
                let names: Vec<&str> = pool.credentials.iter().map(|one| &*one.name).collect();
                lines
                    .stage("credential", format_args!("one of the pool {}: {}", pool.name, names.join(", ")));
            }
            (None, Some(credential)) => lines.stage("credential", &credential.name),
            (None, None) => lines.stage("credential", "none"),
        }
        self.quotas(lines);
        lines.stage("upstream", format_args!("{} {}", forwarded.head.method, Self::upstream_url(forwarded)));
        if matches!(route.upstream.destination, Destination::Discovered) {
            lines.more("(the issuer of the credential publishes the address)");
        }
        if route.upstream.proxy.is_some() {
            lines.more("(through a forward proxy)");
        }
        lines.paragraph(
            "sent",
            self.shown(&forwarded.head.headers).into_iter().map(|(name, value)| format!("{name}: {value}")),
        );
        if route.forwarded != Tells::None {
            lines.more("(and the caller's address)");
        }
        let (removed, replaced) = self.changed(forwarded);
        for (name, fields) in [("removed", removed), ("replaced", replaced)] {
            if !fields.is_empty() {
                lines.stage(name, fields.join(", "));
            }
        }
        lines.stage("dropped", format_args!("if a caller sends them: {}", self.never_forwarded().join(", ")));
        lines.more("(in every spelling), fields of one connection, and fields that claim another address,");
        match route.fields.pass.as_slice() {
            [] => lines.more("host, path or method (X-Forwarded-For and the like)"),
            pass => {
                let pass: Vec<&str> = pass.iter().map(http::HeaderName::as_str).collect();
                lines.more(format_args!(
                    "host, path or method (X-Forwarded-For and the like) except {}",
                    pass.join(", ")
                ));
            }
        }
        self.retries(lines, forwarded, route);
        let rate = match self.body_rate(route) {
            0 => "no least rate".to_owned(),
            rate => format!("at least {rate} bytes a second"),
        };
        let mut timeouts = Vec::new();
        if route.credential.is_some() {
            timeouts.push(format!("for a usable token: {}", shown(limits.token_wait)));
        }
        timeouts.push(format!("for a connection: {}", shown(route.connect_timeout)));
        timeouts
            .push(format!("between pieces of a request body: {}; {rate}", or_none(self.body_timeout(route))));
        timeouts.push(format!("for the response head: {}", shown(route.timeout)));
        timeouts.push(format!("between pieces of the response body: {}", or_none(route.read_timeout)));
        lines.paragraph("timeouts", timeouts);
    }

    fn quotas(&self, lines: &mut Lines) {
        let mut quotas = Vec::new();
        if let Some(caller) = self.configured_caller()
            && let Some(CallerQuota { requests, per, wait }) = caller.quota
        {
            quotas.push(format!("[callers.{}]: {requests} requests in {};", caller.name, shown(per)));
            quotas.push(format!("a request waits for its turn: {}", shown(wait)));
        }
        for (credential, quota) in self.api_quotas() {
            let ApiQuota { requests, per, wait, .. } = quota;
            quotas.push(format!(
                "[credentials.{credential}]: {requests} requests in {}, shared by all callers;",
                shown(per)
            ));
            if let (Some(caller), Some(share)) = (self.configured_caller(), self.share(&quota)) {
                quotas.push(format!(
                    "the share of [callers.{}]: {} of them (weight {} of {});",
                    caller.name,
                    (share * 10.0).round() / 10.0,
                    caller.weight,
                    self.weights()
                ));
            }
            quotas.push(format!("a request waits for its turn: {}", shown(wait)));
        }
        lines.paragraph("quota", quotas);
    }

    fn retries(&self, lines: &mut Lines, forwarded: &Forwarded, route: &config::Route) {
        let mut retries = Vec::new();
        if route.credential.is_some() && !route.retry_on.is_empty() {
            let statuses: Vec<&str> = route.retry_on.iter().map(http::StatusCode::as_str).collect();
            retries.push(format!(
                "after {}: once, with a new token (bodies up to {} bytes)",
                statuses.join(", "),
                self.config.server.limits.replay_body
            ));
        }
        if forwarded.retries_429 {
            let retry = &route.retry_429;
            retries.push(format!(
                "after 429: up to {} times within {}",
                retry.attempts,
                shown(retry.max_wait)
            ));
        }
        if forwarded.may_resend {
            retries.push("on a new connection: once, if a reused one closed before the response".to_owned());
        }
        if retries.is_empty() {
            retries.push("none".to_owned());
        }
        lines.paragraph("retries", retries);
    }
}

/// A duration in words; parts of a second as milliseconds.
fn shown(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 { output::duration(duration) } else { format!("{duration:?}") }
}

fn or_none(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "no limit".to_owned(), shown)
}
