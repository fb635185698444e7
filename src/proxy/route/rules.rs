//! A route's rules: the requests that are allowed, denied, or protected by the credential's provider.
//!
//! `allow` matches a path as written, except that unreserved characters may be percent-encoded (RFC 3986 §6.2.2.2).
//! `deny` and the protection of the credential match a path in each interpretation of [`LenientPath`], because a caller
//! chooses the spelling. Protection applies to the path at the upstream, with the base path and without the prefix.

use http::Method;

use super::guard::Target;
use super::lenient_path::LenientPath;
use super::percent;
use super::prefix::Prefix;
use crate::config::Route;
use crate::config::model::pattern::{Pattern, Places};
use crate::proxy::error::ProxyError;
use crate::proxy::error::denial::Denial;

/// The rules of a route. The default allows every request.
#[derive(Debug, Default)]
pub struct Rules {
    refuses_ambiguous: bool,
    /// `None` allows everything.
    allow: Option<Vec<Pattern>>,
    deny: Vec<Pattern>,
    /// Patterns for the path at the upstream, each with the positions that it reaches after the base path.
    protected: Vec<(Pattern, Places)>,
}

impl Rules {
    /// The rules of a route as configured. `must_be_plain` refuses paths that servers interpret differently: such a
    /// path might bypass the stricter rules of another route.
    pub fn new(route: &Route, must_be_plain: bool) -> Self {
        let protected = route.credential.iter().flat_map(|credential| &credential.protected);
        let base_path = LenientPath::of(route.upstream.destination.path());
        Self {
            refuses_ambiguous: route.rules.refuses_ambiguous || must_be_plain,
            allow: route.rules.allow.clone(),
            deny: route.rules.deny.clone(),
            protected: protected
                .map(|pattern| (pattern.clone(), follow(pattern, pattern.start(), &base_path)))
                .filter(|(_, places)| !places.is_nowhere())
                .collect(),
        }
    }

    /// Checks whether a request may be forwarded.
    ///
    /// # Errors
    ///
    /// [`ProxyError::BadRequest`] for an ambiguous path; [`ProxyError::RequestDenied`] for a denied request.
    pub fn check(&self, method: &Method, target: &Target<'_>, prefix: &Prefix) -> Result<(), ProxyError> {
        if target.is_ambiguous && self.refuses_ambiguous {
            return Err(ProxyError::BadRequest(
                "servers interpret this path in different ways, and this route refuses such paths (see `encoded`)",
            ));
        }
        let protected = self.protected.iter().filter(|(pattern, _)| pattern.may_have_method(method));
        if any_covers(protected.map(|(pattern, from)| (pattern, *from)), || prefix.strip(target.path)) {
            return Err(ProxyError::RequestDenied(Denial::Protected));
        }
        let deny = self.deny.iter().filter(|pattern| pattern.may_have_method(method));
        if any_covers(deny.map(|pattern| (pattern, pattern.start())), || target.path) {
            return Err(ProxyError::RequestDenied(Denial::Denied));
        }
        let allows =
            |pattern: &Pattern| pattern.has_method(method) && matches_as_written(pattern, target.path);
        match &self.allow {
            Some(allow) if !allow.iter().any(allows) => Err(ProxyError::RequestDenied(Denial::NotAllowed)),
            _ => Ok(()),
        }
    }
}

/// Whether the pattern matches the path as written.
pub fn matches_as_written(pattern: &Pattern, path: &str) -> bool {
    let mut at = pattern.start();
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        at = pattern.after(at, !segment.is_empty(), |literal| is_written(segment, literal));
        if at.is_nowhere() {
            return false;
        }
    }
    pattern.is_end(at)
}

/// Whether a pattern matches the path in some interpretation, from its positions on.
fn any_covers<'r, 'p>(
    patterns: impl Iterator<Item = (&'r Pattern, Places)>,
    path: impl FnOnce() -> &'p str,
) -> bool {
    let mut patterns = patterns.peekable();
    if patterns.peek().is_none() {
        return false;
    }
    let path = LenientPath::of(path());
    patterns.any(|(pattern, from)| pattern.is_end(follow(pattern, from, &path)))
}

/// Whether the pattern matches the path in some interpretation.
pub fn matches_some_interpretation(pattern: &Pattern, path: &str) -> bool {
    pattern.is_end(follow(pattern, pattern.start(), &LenientPath::of(path)))
}

/// The positions in the pattern that the path reaches in any interpretation.
fn follow(pattern: &Pattern, from: Places, path: &LenientPath<'_>) -> Places {
    let mut at = from;
    for segment in path.segments() {
        let mut next = pattern.after(at, true, |literal| segment.may_equal(literal));
        if segment.may_be_joined {
            next = next.or(pattern.within_one(at));
        }
        if segment.may_be_ignored {
            next = next.or(at);
        }
        if next.is_nowhere() {
            return next;
        }
        at = next;
    }
    at
}

/// Whether a segment equals a literal, which contains no `%`, with unreserved characters percent-encoded or not.
fn is_written(segment: &str, literal: &str) -> bool {
    if segment.contains('%') { percent::normalized(segment).eq(literal.chars()) } else { segment == literal }
}

#[cfg(test)]
mod tests;
