//! `allow`, `deny`, `encoded`, `strip_prefix` and `retry_on` of a route.

use http::StatusCode;

use super::Resolver;
use crate::config::model::pattern::Pattern;
use crate::config::model::route::Rules;
use crate::config::source::choice::Encoded;
use crate::config::source::key::{Entry, Key};
use crate::config::source::nearest::nearest;
use crate::config::source::schema::{self, Texts};

/// Methods of HTTP (RFC 9110 §9, RFC 5789) and `WebDAV`. Another method works, with a warning.
const KNOWN_METHODS: [&str; 16] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
];

impl Resolver<'_> {
    /// The rules of a route with this path prefix; `None` for an unusable one.
    pub(super) fn rules(&mut self, route: &mut schema::Route, prefix: Option<&str>) -> Rules {
        let (allow, deny) = (route.allow.take(), route.deny.take());
        if let Some(empty) = allow.usable().filter(|allow| allow.get_ref().is_empty()) {
            self.error(
                empty.span(),
                "nothing is allowed: every request would be refused",
                "write the allowed requests, such as \"GET /**\", or remove `allow` to allow all",
            );
        }
        let encoded = route.encoded.take().or(Encoded::RefuseIfRuled);
        let has_rules = !allow.is_absent() || deny.usable().is_some_and(|deny| !deny.get_ref().is_empty());
        let refuses_ambiguous = match encoded {
            Encoded::RefuseIfRuled => has_rules || prefix.is_some_and(|prefix| prefix != "/"),
            Encoded::Refuse => true,
            Encoded::Opaque => false,
        };
        let prefix = prefix.unwrap_or("/");
        let allow = allow.into_usable().map(|allow| self.patterns(allow.into_inner(), prefix, false));
        let deny = self.patterns(deny.or_default(), prefix, true);
        let deny = deny.into_iter().map(Pattern::without_slash_at_end).collect();
        Rules { allow, deny, refuses_ambiguous }
    }

    pub(super) fn strip_prefix(&mut self, strips: Key<bool>, prefix: Option<&str>) -> bool {
        let Some(strips) = strips.into_usable() else { return false };
        if *strips.get_ref() && prefix == Some("/") {
            let help = "write the prefix as `path`, such as path = \"/genesys\", or remove `strip_prefix`";
            self.error(strips.span(), "there is no prefix to strip", help);
        }
        strips.into_inner()
    }

    /// The usable patterns. `any_case` compares literals without case.
    fn patterns(&mut self, texts: Texts, prefix: &str, any_case: bool) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for text in texts.into_iter().flatten() {
            let pattern: Pattern = match text.get_ref().parse() {
                Ok(pattern) => pattern,
                Err(error) => {
                    self.error(text.span(), error.to_string(), error.help);
                    continue;
                }
            };
            if !may_match_below(&pattern, prefix, any_case) {
                let help =
                    format!("write paths that begin with {prefix}: `strip_prefix` applies after the rules");
                self.error(text.span(), "matches no request of this route", help);
            }
            if let Some(method) = pattern.method().filter(|method| !KNOWN_METHODS.contains(&method.as_str()))
            {
                let meant = nearest(&KNOWN_METHODS, method.as_str(), |distance, _| distance <= 2);
                let meant = meant.map_or_else(String::new, |meant| format!("did you mean {meant}? "));
                let help = format!("{meant}The pattern matches the method as written");
                self.warning(text.span(), format!("{method} is not a known method"), help);
            }
            patterns.push(pattern);
        }
        patterns
    }

    /// Statuses of a rejected token.
    pub(super) fn retry_on(&mut self, statuses: Key<Vec<Entry<u16>>>) -> Vec<StatusCode> {
        let Some(statuses) = statuses.into_usable() else { return vec![StatusCode::UNAUTHORIZED] };
        let mut usable = Vec::new();
        for status in statuses.into_inner().into_iter().flatten() {
            let may_reject_token =
                matches!(status.get_ref(), 400 | 401 | 403 | 418..=420 | 432..=499 | 500 | 520..=599);
            match StatusCode::from_u16(*status.get_ref()) {
                Ok(code) if may_reject_token => usable.push(code),
                _ => self.error(
                    status.span(),
                    "not a status of a rejected token",
                    "write 400, 401, 403, 419, 440, 498, 500 or a status without a standard meaning: the others \
                     report an error of the request, or an overloaded API",
                ),
            }
        }
        usable
    }
}

/// Whether the pattern can match a path below this prefix.
fn may_match_below(pattern: &Pattern, prefix: &str, any_case: bool) -> bool {
    if prefix == "/" {
        return true;
    }
    let segments = prefix[1..].split('/');
    let end = segments.fold(pattern.start(), |at, segment| {
        let is = |literal: &str| literal == segment || any_case && literal.eq_ignore_ascii_case(segment);
        pattern.after(at, true, is)
    });
    !end.is_nowhere()
}

#[cfg(test)]
mod tests;
