//! `allow`, `deny`, `encoded` and `retry_on` of a route: what it lets through, and what it sends again.

use http::{Method, StatusCode};
use toml::Spanned;

use super::Resolver;
use crate::config::model::pattern::Pattern;
use crate::config::model::route::Rules;
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::schema;
use crate::config::source::schema::Encoded;

/// Methods of HTTP (RFC 9110 §9, RFC 5789) and of `WebDAV`; others are taken for a slip, and work.
const METHODS: [&str; 16] = [
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
    /// The rules of a route whose path is `prefix`, `None` if that is not good.
    pub(super) fn rules(&mut self, route: &mut schema::Route, prefix: Option<&str>) -> Rules {
        let (allow, deny) = (route.allow.take(), route.deny.take());
        if let Some(none) = allow.as_ref().filter(|allow| allow.get_ref().is_empty()) {
            self.problems.push(
                Problem::error(none.span(), "nothing is allowed, so that every request is refused").help(
                    "write what may be called, such as \"GET /**\", or take `allow` out to let all through",
                ),
            );
        }
        let encoded = route.encoded.take().map_or(Encoded::RefuseIfRuled, Spanned::into_inner);
        let has_own = allow.is_some() || deny.as_ref().is_some_and(|deny| !deny.get_ref().is_empty());
        let refuses_ambiguous = match encoded {
            Encoded::RefuseIfRuled => has_own || prefix.is_some_and(|prefix| prefix != "/"),
            Encoded::Refuse => true,
            Encoded::Opaque => false,
        };
        let prefix = prefix.unwrap_or("/");
        let allow = allow.map(|allow| self.patterns(allow.into_inner(), prefix, false));
        let deny = deny.map_or_else(Vec::new, |deny| self.patterns(deny.into_inner(), prefix, true));
        let deny = deny.into_iter().map(Pattern::without_slash_at_end).collect();
        Rules { allow, deny, refuses_ambiguous }
    }

    /// Whether the route's path, which is `prefix`, is taken off.
    pub(super) fn strip_prefix(&mut self, strips: Key<bool>, prefix: Option<&str>) -> bool {
        let Some(strips) = strips else { return false };
        if *strips.get_ref() && prefix == Some("/") {
            self.problems.push(
                Problem::error(strips.span(), "there is no prefix to strip")
                    .help("write it as `path`, such as path = \"/genesys\", or take `strip_prefix` out"),
            );
        }
        strips.into_inner()
    }

    /// Those of the patterns that are good, and mean something that can be called below `prefix`.
    fn patterns(&mut self, texts: Vec<Spanned<String>>, prefix: &str, any_case: bool) -> Vec<Pattern> {
        let mut patterns = Vec::new();
        for text in texts {
            let pattern: Pattern = match text.get_ref().parse() {
                Ok(pattern) => pattern,
                Err(error) => {
                    self.problems.push(Problem::error(text.span(), error.to_string()).help(error.help()));
                    continue;
                }
            };
            if !may_be_below(&pattern, prefix, any_case) {
                self.problems.push(
                    Problem::error(text.span(), "means nothing that this route could be called for").help(
                        format!("its paths begin with {prefix}, and are compared before `strip_prefix`"),
                    ),
                );
            }
            if let Some(method) = pattern.method().filter(|method| !METHODS.contains(&method.as_str())) {
                self.problems.push(unknown_method(&text, method));
            }
            patterns.push(pattern);
        }
        patterns
    }

    /// Statuses that a dead token may have, and that another token can mend.
    pub(super) fn retry_on(&mut self, statuses: Option<Spanned<Vec<Spanned<u16>>>>) -> Vec<StatusCode> {
        let Some(statuses) = statuses else {
            return vec![StatusCode::UNAUTHORIZED];
        };
        let mut good = Vec::new();
        for status in statuses.into_inner() {
            let says_of_token =
                matches!(status.get_ref(), 400 | 401 | 403 | 418..=420 | 432..=499 | 500 | 520..=599);
            match StatusCode::from_u16(*status.get_ref()) {
                Ok(code) if says_of_token => good.push(code),
                _ => self.problems.push(
                    Problem::error(status.span(), "not a status that another token could mend").help(
                        "400, 401, 403, 419, 440, 498, 500 and statuses without a meaning of their own can say that \
                         a token is dead; others say what is wrong with the request, or that the API is busy",
                    ),
                ),
            }
        }
        good
    }
}

/// Whether some path of a route with this prefix could be meant.
fn may_be_below(pattern: &Pattern, prefix: &str, any_case: bool) -> bool {
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

fn unknown_method(text: &Spanned<String>, method: &Method) -> Problem {
    let distances = METHODS.iter().map(|known| (strsim::damerau_levenshtein(known, method.as_str()), known));
    let nearest = distances.min().filter(|(distance, _)| *distance <= 2).map(|(_, known)| known);
    Problem::warning(text.span(), format!("{method} is not a method that is known")).help(match nearest {
        Some(known) => format!("did you mean {known}? it is matched as it is written"),
        None => "it is matched as it is written".to_owned(),
    })
}

#[cfg(test)]
mod tests;
