//! Patterns of requests, such as `"GET /api/v2/users/*"`, for `allow` and `deny` of a route.
//!
//! A pattern is a method and a path of segments: literals, `*` for one segment, `**` for any number of segments.
//! Matching advances a set of positions in the pattern, one path segment at a time, so that many `**` cost no more
//! than one. The user of the pattern decides when a segment equals a literal.

use std::fmt;
use std::str::FromStr;

use http::Method;
use thiserror::Error;

/// Most segments of a pattern: a set of positions fits into 64 bits.
const MAX_SEGMENTS: usize = 60;

/// A method and a path that match requests.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    /// `None` for any method.
    method: Option<Method>,
    segments: Vec<Segment>,
    /// Bit *n* is set if segment *n* is `*`.
    ones: u64,
    /// Bit *n* is set if segment *n* is `**`.
    manies: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    One,
    Many,
}

/// Positions in a pattern that a path may have reached: bit *n* stands for the position before segment *n*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(u64);

/// The text is not a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{title}")]
pub struct PatternError {
    title: &'static str,
    /// How to correct the pattern.
    pub help: &'static str,
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (method, path) = text.split_once(' ').unwrap_or((text, ""));
        let path = path.trim_start_matches(' ');
        if method.starts_with('/') || path.is_empty() {
            let help = "write both, such as \"GET /api/v2/users/*\"; the method \"*\" matches any";
            return Err(PatternError { title: "a pattern has a method and a path", help });
        }
        let method = if method == "*" { None } else { Some(parse_method(method)?) };
        let rest = path.strip_prefix('/').ok_or(PatternError {
            title: "the path of a pattern begins with `/`",
            help: "write the whole path as callers send it, such as \"GET /api/v2/**\"",
        })?;
        let mut segments: Vec<Segment> = Vec::new();
        let count = rest.split('/').count();
        for (index, segment) in rest.split('/').enumerate() {
            let segment = parse_segment(segment, index + 1 == count)?;
            // Two adjacent `**` match the same paths as one.
            if segment != Segment::Many || segments.last() != Some(&Segment::Many) {
                segments.push(segment);
            }
        }
        if segments.len() > MAX_SEGMENTS {
            let help = "write `**` for the remaining segments";
            return Err(PatternError { title: "a pattern has at most 60 segments", help });
        }
        Ok(Self::new(method, segments))
    }
}

fn parse_method(text: &str) -> Result<Method, PatternError> {
    const METHODS: &str =
        "write GET (which includes HEAD), POST, PUT, PATCH, DELETE or another method, or \"*\" for any";
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    let (title, help) = match Method::from_bytes(text.as_bytes()) {
        Ok(_) if is_word && text.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            ("methods are written in capitals", METHODS)
        }
        Ok(method) if matches!(method.as_str(), "TRACE" | "TRACK" | "CONNECT") => (
            "TRACE, TRACK and CONNECT are never forwarded",
            "remove the pattern, or write \"*\" for any method",
        ),
        Ok(method) if is_word => return Ok(method),
        _ => ("not a method", METHODS),
    };
    Err(PatternError { title, help })
}

fn parse_segment(text: &str, is_last: bool) -> Result<Segment, PatternError> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b";\\\"<>".contains(&byte);
    let (title, help) = match text {
        "*" => return Ok(Segment::One),
        "**" => return Ok(Segment::Many),
        // The empty last segment of `/x/`.
        "" if is_last => return Ok(Segment::Literal(String::new())),
        "" => ("a pattern has no empty segment", "write a single `/` between segments"),
        _ if text.contains(['?', '#']) => (
            "a pattern has no query and no fragment",
            "patterns match paths with any query: remove the part from `?` or `#` on",
        ),
        _ if text.contains('%') => (
            "a pattern has no `%`",
            "write characters unescaped: escaped letters, digits and -._~ in requests match all the same; \
             use `*` for a segment with other characters",
        ),
        _ if text.contains('*') => (
            "`*` and `**` stand for whole segments",
            "write `*` for one segment and `**` for any number, each between slashes",
        ),
        _ if text.ends_with('.') => (
            "a pattern has no `.` or `..` segment, and none that ends with a dot",
            "the daemon never forwards such requests",
        ),
        _ if text.bytes().all(is_allowed) => return Ok(Segment::Literal(text.to_owned())),
        _ => (
            "a pattern is of visible ASCII, without `;` and `\\`",
            "use `*` for a segment with other characters",
        ),
    };
    Err(PatternError { title, help })
}

impl Pattern {
    fn new(method: Option<Method>, segments: Vec<Segment>) -> Self {
        let mask = |wanted: &Segment| {
            let places = segments.iter().enumerate().filter(|(_, segment)| *segment == wanted);
            places.fold(0, |mask, (index, _)| mask | 1 << index)
        };
        let (ones, manies) = (mask(&Segment::One), mask(&Segment::Many));
        Self { method, segments, ones, manies }
    }

    /// Removes a slash at the end.
    #[must_use]
    pub fn without_slash_at_end(mut self) -> Self {
        self.segments.pop_if(|last| matches!(last, Segment::Literal(literal) if literal.is_empty()));
        Self::new(self.method, self.segments)
    }

    /// Whether the pattern matches this method. GET includes HEAD (RFC 9110 §9.3.2).
    pub fn has_method(&self, method: &Method) -> bool {
        match &self.method {
            None => true,
            Some(own) => own == method || (*own == Method::GET && *method == Method::HEAD),
        }
    }

    /// Whether the pattern matches this method on a server that ignores the case of methods.
    pub fn may_have_method(&self, method: &Method) -> bool {
        let is = |own: &Method| own.as_str().eq_ignore_ascii_case(method.as_str());
        match &self.method {
            None => true,
            Some(own) => is(own) || (*own == Method::GET && is(&Method::HEAD)),
        }
    }

    /// The method; `None` for any.
    pub const fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// The positions before the first segment of a path.
    pub const fn start(&self) -> Places {
        self.reach(1)
    }

    /// The positions after one more segment, which equals the literals that `is` accepts, and `*` if `fits_one`.
    pub fn after(&self, at: Places, fits_one: bool, is: impl Fn(&str) -> bool) -> Places {
        let mut next = at.0 & self.manies;
        if fits_one {
            next |= (at.0 & self.ones) << 1;
        }
        let mut literals = at.0 & !self.ones & !self.manies;
        while literals != 0 {
            let index = literals.trailing_zeros();
            literals &= literals - 1;
            if let Some(Segment::Literal(literal)) = self.segments.get(index as usize)
                && is(literal)
            {
                next |= 1 << (index + 1);
            }
        }
        self.reach(next)
    }

    /// The positions that remain if the next segment is a part of the segment that `*` matched before.
    pub const fn within_one(&self, at: Places) -> Places {
        Places(at.0 & (self.ones << 1))
    }

    /// Whether the pattern matches a path that ends at these positions.
    pub const fn is_end(&self, at: Places) -> bool {
        at.0 >> self.segments.len() & 1 == 1
    }

    /// Adds the positions after each `**`, which also matches no segment. No two `**` are adjacent.
    const fn reach(&self, places: u64) -> Places {
        Places(places | (places & self.manies) << 1)
    }
}

impl Places {
    /// Whether the pattern matches no path that continues from here.
    pub const fn is_nowhere(self) -> bool {
        self.0 == 0
    }

    /// The union of both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.method.as_ref().map_or("*", Method::as_str))?;
        for segment in &self.segments {
            let text = match segment {
                Segment::Literal(literal) => literal,
                Segment::One => "*",
                Segment::Many => "**",
            };
            write!(f, "/{text}")?;
        }
        if self.segments.is_empty() { f.write_str("/") } else { Ok(()) }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether the pattern matches this path, comparing segments as they are written.
    fn means(pattern: &str, path: &str) -> bool {
        let pattern: Pattern = pattern.parse().unwrap_or_else(|error| panic!("{pattern}: {error}"));
        let end = path[1..].split('/').fold(pattern.start(), |at, segment| {
            pattern.after(at, !segment.is_empty(), |literal| literal == segment)
        });
        pattern.is_end(end)
    }

    #[test]
    fn a_star_matches_one_segment_and_two_stars_any_number() {
        for (pattern, path) in [
            ("GET /", "/"),
            ("GET /a", "/a"),
            ("GET /a/", "/a/"),
            ("GET /a/*", "/a/b"),
            ("GET /a/*/c", "/a/b/c"),
            ("GET /**", "/"),
            ("GET /**", "/a/b/"),
            ("GET /a/**", "/a"),
            ("GET /a/**", "/a/"),
            ("GET /a/**", "/a/b/c/d"),
            ("GET /a/**/d", "/a/d"),
            ("GET /a/**/d", "/a/b/c/d"),
            ("GET /a/**/d", "/a/d/b/d"),
            ("GET /**/**/a/**", "/x/a"),
            ("GET /*/**", "/a"),
        ] {
            assert!(means(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("GET /", "/a"),
            ("GET /a", "/"),
            ("GET /a", "/a/"),
            ("GET /a/", "/a"),
            ("GET /a", "/A"),
            ("GET /a/*", "/a"),
            ("GET /a/*", "/a/"),
            ("GET /a/*", "/a/b/c"),
            ("GET /a/**/d", "/a/b/c"),
            ("GET /*/**", "/"),
        ] {
            assert!(!means(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn a_method_matches_itself_and_get_includes_head() {
        let has = |pattern: &str, method: Method| pattern.parse::<Pattern>().unwrap().has_method(&method);

        assert!(has("GET /", Method::GET) && has("GET /", Method::HEAD) && has("* /", Method::PATCH));
        assert!(has("PROPFIND /", Method::from_bytes(b"PROPFIND").unwrap()));
        assert!(!has("HEAD /", Method::GET) && !has("GET /", Method::POST));
        let small = |text: &str| Method::from_bytes(text.as_bytes()).unwrap();
        assert!(!has("DELETE /", small("delete")), "methods have a case");

        let may =
            |pattern: &str, method: Method| pattern.parse::<Pattern>().unwrap().may_have_method(&method);
        assert!(may("DELETE /", small("delete")) && may("GET /", small("Head")) && may("* /", small("x")));
        assert!(
            may("DELETE /", Method::DELETE)
                && !may("DELETE /", small("delet"))
                && !may("GET /", small("post"))
        );
    }

    #[test]
    fn a_wrong_pattern_is_refused_with_its_error() {
        let no_method = "a pattern has a method and a path";
        let whole_segments = "`*` and `**` stand for whole segments";
        let character = "a pattern is of visible ASCII";
        for (text, error) in [
            ("", no_method),
            ("/api/**", no_method),
            ("GET", no_method),
            ("GET ", no_method),
            ("/a b", no_method),
            (" /a", "not a method"),
            ("get /a", "methods are written in capitals"),
            ("GET,POST /a", "not a method"),
            ("** /a", "not a method"),
            ("TRACE /a", "TRACE, TRACK and CONNECT are never forwarded"),
            ("TRACK /a", "TRACE, TRACK and CONNECT are never forwarded"),
            ("GET api/**", "the path of a pattern begins with `/`"),
            ("GET *", "the path of a pattern begins with `/`"),
            ("GET https://api.example.com/a", "the path of a pattern begins with `/`"),
            ("GET /a?x=1", "a pattern has no query"),
            ("GET /a#x", "a pattern has no query"),
            ("GET /%61", "a pattern has no `%`"),
            ("GET /a/../b", "a pattern has no `.` or `..` segment"),
            ("GET /./a", "a pattern has no `.` or `..` segment"),
            ("GET /a.", "a pattern has no `.` or `..` segment"),
            ("GET //a", "a pattern has no empty segment"),
            ("GET /a//b", "a pattern has no empty segment"),
            ("GET /a//", "a pattern has no empty segment"),
            ("GET /***", whole_segments),
            ("GET /a*", whole_segments),
            ("GET /*.json", whole_segments),
            ("GET /a;v=1", character),
            ("GET /a\\b", character),
            ("GET /a b", character),
            ("GET /é", character),
            (&format!("GET {}", "/a".repeat(61)), "a pattern has at most 60 segments"),
        ] {
            let refused = text.parse::<Pattern>().unwrap_err();
            assert!(refused.title.starts_with(error) && !refused.help.is_empty(), "{text}: {refused}");
        }
        for text in ["GET /", "* /**", "POST /a/*/b/**/c", "GET /a/", "M-SEARCH /a.b/c~d/:e@f,g=h+i(j)!k&l"] {
            assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
        }
        assert_eq!("GET /**/**/a/**/**".parse::<Pattern>().unwrap().to_string(), "GET /**/a/**");
        assert!(format!("GET {}", "/a".repeat(60)).parse::<Pattern>().is_ok());
        assert_eq!("GET /a/".parse::<Pattern>().unwrap().without_slash_at_end().to_string(), "GET /a");
        assert_eq!("GET /".parse::<Pattern>().unwrap().without_slash_at_end().to_string(), "GET /");
    }

    /// The definition, in exponential time.
    fn by_definition(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**", rest @ ..], _) => {
                by_definition(rest, path) || (!path.is_empty() && by_definition(pattern, &path[1..]))
            }
            (["*", rest @ ..], [segment, path @ ..]) => !segment.is_empty() && by_definition(rest, path),
            ([literal, rest @ ..], [segment, path @ ..]) => literal == segment && by_definition(rest, path),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_by_its_definition(
            pattern in "(/(a|b|\\*|\\*\\*)){1,7}",
            path in "(/(a|b|)){1,7}",
        ) {
            let segments: Vec<&str> = pattern[1..].split('/').collect();
            let called: Vec<&str> = path[1..].split('/').collect();
            prop_assert_eq!(means(&format!("GET {pattern}"), &path), by_definition(&segments, &called));
        }

        #[test]
        fn any_text_is_parsed_without_panic_and_display_can_be_parsed_again(text in "(GET|\\*) /[ab*/%.?;]{0,12}|\\PC{0,20}") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
            }
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_one() {
        let pattern = format!("GET {}", "/**/a".repeat(30));

        // Backtracking would take years.
        assert!(!means(&pattern, &("/a".repeat(20_000) + "/b")));
        assert!(means(&pattern, &"/a".repeat(20_000)));
    }
}
