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
        self.ruling(method, target, prefix).verdict()
    }

    /// The rule that decides about a request.
    pub fn ruling(&self, method: &Method, target: &Target<'_>, prefix: &Prefix) -> Ruling<'_> {
        if target.is_ambiguous && self.refuses_ambiguous {
            return Ruling::Ambiguous;
        }
        let protected = self.protected.iter().filter(|(pattern, _)| pattern.may_have_method(method));
        let protected = protected.map(|(pattern, from)| (pattern, *from));
        if let Some(pattern) = first_that_covers(protected, || prefix.strip(target.path)) {
            return Ruling::Protected(pattern);
        }
        let deny = self.deny.iter().filter(|pattern| pattern.may_have_method(method));
        let deny = deny.map(|pattern| (pattern, pattern.start()));
        if let Some(pattern) = first_that_covers(deny, || target.path) {
            return Ruling::Denied(pattern);
        }
        let Some(allow) = &self.allow else { return Ruling::Unruled };
        let allows =
            |pattern: &&Pattern| pattern.has_method(method) && matches_as_written(pattern, target.path);
        allow.iter().find(allows).map_or(Ruling::NotAllowed, Ruling::Allowed)
    }
}

/// The rule that decides about a request.
#[derive(Clone, Copy, Debug)]
pub enum Ruling<'r> {
    /// No rule: the route has no `allow`.
    Unruled,
    /// This pattern in `allow`.
    Allowed(&'r Pattern),
    /// No pattern in `allow` matches.
    NotAllowed,
    /// This pattern in `deny`.
    Denied(&'r Pattern),
    /// This pattern of the credential's provider.
    Protected(&'r Pattern),
    /// The path is one that servers interpret differently.
    Ambiguous,
}

impl Ruling<'_> {
    /// Whether the request may be forwarded.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub const fn verdict(self) -> Result<(), ProxyError> {
        match self {
            Self::Unruled | Self::Allowed(_) => Ok(()),
            Self::NotAllowed => Err(ProxyError::RequestDenied(Denial::NotAllowed)),
            Self::Denied(_) => Err(ProxyError::RequestDenied(Denial::Denied)),
            Self::Protected(_) => Err(ProxyError::RequestDenied(Denial::Protected)),
            Self::Ambiguous => Err(ProxyError::BadRequest(
                "servers interpret this path in different ways, and this route refuses such paths (see `encoded`)",
            )),
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

/// The first pattern that matches the path in some interpretation, from its positions on.
fn first_that_covers<'r, 'p>(
    patterns: impl Iterator<Item = (&'r Pattern, Places)>,
    path: impl FnOnce() -> &'p str,
) -> Option<&'r Pattern> {
    let mut patterns = patterns.peekable();
    patterns.peek()?;
    let path = LenientPath::of(path());
    let covers = |(pattern, from): &(&Pattern, Places)| pattern.is_end(follow(pattern, *from, &path));
    patterns.find(covers).map(|(pattern, _)| pattern)
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
