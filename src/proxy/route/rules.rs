//! What a route lets through: pure functions over a request's method and path.
//!
//! A path that is let through by `allow` is one that means itself: its segments are those that the caller wrote, and
//! compared as they are, but for letters, digits and `-._~`, which may be escaped (RFC 3986 §6.2.2.2). One that is
//! denied is denied under every [`Reading`]: who is to be kept out chooses the spelling. What protects the
//! credential is a statement about the upstream's path, whatever is stripped or put in front on the way there.

use http::Method;

use super::guard::Target;
use super::lenient_path::Reading;
use super::prefix::Prefix;
use crate::config::Route;
use crate::config::model::pattern::{Pattern, Places};
use crate::proxy::error::ProxyError;
use crate::proxy::error::denial::Denial;

/// What a route lets through. By default everything.
#[derive(Debug, Default)]
pub struct Rules {
    refuses_ambiguous: bool,
    /// `None` is everything.
    allow: Option<Vec<Pattern>>,
    deny: Vec<Pattern>,
    /// On the upstream's path, each from where the path that is put in front has left off.
    protected: Vec<(Pattern, Places)>,
}

impl Rules {
    /// The rules of a route as configured. Where another route asks more of its callers, this one `must_be_plain`: a path
    /// that could be read as that one's must not lead around it by this.
    pub fn new(route: &Route, must_be_plain: bool) -> Self {
        let protected = route.credential.iter().flat_map(|credential| &credential.protected);
        let in_front = Reading::of(route.upstream.destination.path());
        Self {
            refuses_ambiguous: route.rules.refuses_ambiguous || must_be_plain,
            allow: route.rules.allow.clone(),
            deny: route.rules.deny.clone(),
            protected: protected
                .map(|pattern| (pattern.clone(), follow(pattern, pattern.start(), &in_front)))
                .filter(|(_, places)| !places.is_nowhere())
                .collect(),
        }
    }

    /// Whether a request may go on to the upstream.
    ///
    /// # Errors
    ///
    /// The first reason why not: [`ProxyError::BadRequest`] or [`ProxyError::RequestDenied`].
    pub fn check(&self, method: &Method, target: &Target<'_>, prefix: &Prefix) -> Result<(), ProxyError> {
        if target.is_ambiguous && self.refuses_ambiguous {
            return Err(ProxyError::BadRequest(
                "servers read this path in more than one way, and on this route that matters (see `encoded`)",
            ));
        }
        let protected = self.protected.iter().filter(|(pattern, _)| pattern.may_have_method(method));
        if any_covers(protected.map(|(pattern, from)| (pattern, *from)), || prefix.off(target.path)) {
            return Err(ProxyError::RequestDenied(Denial::Protected));
        }
        let deny = self.deny.iter().filter(|pattern| pattern.may_have_method(method));
        if any_covers(deny.map(|pattern| (pattern, pattern.start())), || target.path) {
            return Err(ProxyError::RequestDenied(Denial::Denied));
        }
        if let Some(allow) = &self.allow
            && !allow.iter().any(|pattern| pattern.has_method(method) && means(pattern, target.path))
        {
            return Err(ProxyError::RequestDenied(Denial::NotAllowed));
        }
        Ok(())
    }
}

/// Whether the pattern means this path as it is written.
pub fn means(pattern: &Pattern, path: &str) -> bool {
    let mut at = pattern.start();
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        at = pattern.after(at, !segment.is_empty(), |literal| is_written(segment, literal));
        if at.is_nowhere() {
            return false;
        }
    }
    pattern.is_end(at)
}

/// Whether one of the patterns means this path under some reading, from its places on.
fn any_covers<'r, 'p>(
    patterns: impl Iterator<Item = (&'r Pattern, Places)>,
    path: impl FnOnce() -> &'p str,
) -> bool {
    let mut patterns = patterns.peekable();
    if patterns.peek().is_none() {
        return false;
    }
    let reading = Reading::of(path());
    patterns.any(|(pattern, from)| pattern.is_end(follow(pattern, from, &reading)))
}

/// Whether the pattern means this path under some reading.
pub fn covers(pattern: &Pattern, path: &str) -> bool {
    pattern.is_end(follow(pattern, pattern.start(), &Reading::of(path)))
}

/// Where in the pattern all readings together may lead.
fn follow(pattern: &Pattern, from: Places, reading: &Reading<'_>) -> Places {
    let mut at = from;
    for piece in reading.pieces() {
        let mut next = pattern.after(at, true, |literal| piece.may_be(literal));
        if piece.may_be_joined {
            next = next.or(pattern.within_one(at));
        }
        if piece.may_be_left_out {
            next = next.or(at);
        }
        if next.is_nowhere() {
            return next;
        }
        at = next;
    }
    at
}

/// Whether a segment is this literal, with unreserved characters escaped or not.
fn is_written(segment: &str, literal: &str) -> bool {
    if !segment.contains('%') {
        return segment == literal;
    }
    let mut bytes = segment.as_bytes();
    for expected in literal.bytes() {
        let (byte, rest) = match bytes {
            [b'%', high, low, rest @ ..] => match unescaped(*high, *low) {
                Some(byte) => (byte, rest),
                None => return false,
            },
            [byte, rest @ ..] => (*byte, rest),
            [] => return false,
        };
        if byte != expected {
            return false;
        }
        bytes = rest;
    }
    bytes.is_empty()
}

/// RFC 3986 §2.3: the unreserved character that these two digits are.
fn unescaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    (byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')).then_some(byte)
}

#[cfg(test)]
mod tests;
