//! A path in all interpretations of lenient servers.
//!
//! Servers differ: some decode `%2f` before they split a path, or decode twice; some merge slashes, drop `;v=1`,
//! trailing dots and spaces, treat `\` as `/`, or stop at a decoded `?`. A rule that forbids a path must hold in each
//! of these interpretations and in each combination. A path is therefore split wherever some server would split the
//! path, and each segment has flags for the servers that would not.

use std::borrow::Cow;

use super::percent;

/// A path, decoded until nothing is left to decode.
#[derive(Debug)]
pub struct LenientPath<'p>(Cow<'p, [u8]>);

/// A part of the path that some server treats as a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'p> {
    /// Without surrounding spaces and trailing dots.
    text: &'p [u8],
    /// Whether some server treats the segment as part of the previous one.
    pub may_be_joined: bool,
    /// Whether some server ignores the segment.
    pub may_be_ignored: bool,
}

impl<'p> LenientPath<'p> {
    /// Decodes a path that the guard accepts. Does not allocate for a path without `%`.
    pub fn of(path: &'p str) -> Self {
        if path.contains('%') {
            Self(Cow::Owned(decoded(path.as_bytes())))
        } else {
            Self(Cow::Borrowed(path.as_bytes()))
        }
    }

    /// Whether no server finds a dot segment, a control character or an overlong UTF-8 sequence in the path.
    pub fn is_harmless(&self) -> bool {
        let is_harmful = |byte: &u8| matches!(byte, 0..=0x08 | 0x0a..=0x1f | 0x7f | 0xc0 | 0xc1);
        let has_overlong = || self.0.windows(2).any(|pair| is_overlong(pair[0], Some(pair[1])));
        let has_dot_segment = || {
            let segments = self.0.split(|byte| is_separator(*byte));
            segments.map(trim_spaces).any(|segment| segment == b"." || segment == b"..")
        };
        !self.0.iter().any(is_harmful) && !has_overlong() && !has_dot_segment()
    }

    /// The segments from left to right; none for an empty path.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        // Begins with the separator of the next segment.
        let mut rest: &[u8] = &self.0;
        // After a `;`: some servers ignore the rest up to the next literal slash.
        let mut in_parameters = false;
        // After a decoded `?` or `#`: for some servers the path has ended.
        let mut in_query = false;
        std::iter::from_fn(move || {
            let (separator, from_text) = rest.split_first()?;
            match separator {
                b'/' => in_parameters = false,
                b';' => in_parameters = true,
                b'?' | b'#' => in_query = true,
                _ => {}
            }
            let end = from_text.iter().position(|byte| is_separator(*byte)).unwrap_or(from_text.len());
            let text;
            (text, rest) = from_text.split_at(end);
            let mut text = trim_spaces(text);
            while let [shorter @ .., b'.' | b' '] = text {
                text = shorter;
            }
            let may_be_ignored = text.is_empty() || in_parameters || in_query;
            Some(Segment { text, may_be_joined: *separator != b'/', may_be_ignored })
        })
    }
}

/// Decodes each percent-encoding repeatedly. A decoded slash becomes `\`, which no accepted path contains, so that a
/// decoded slash differs from a literal one.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    for byte in path {
        bytes.push(*byte);
        // Terminates, because each round makes `bytes` shorter.
        while let [.., b'%', high, low] = bytes[..]
            && let Some(decoded) = percent::decode(high, low)
        {
            bytes.truncate(bytes.len() - 3);
            match decoded {
                b'/' => bytes.push(b'\\'),
                // URL parsers remove tabs (WHATWG URL §4.4); some servers trim them.
                b'\t' => {}
                byte => bytes.push(byte),
            }
        }
    }
    bytes
}

/// Whether two bytes begin a character in more bytes than UTF-8 has for it (RFC 3629 §3); C0 and C1 always do. The ranges
/// hold no letter of Latin-1.
pub(super) const fn is_overlong(lead: u8, next: Option<u8>) -> bool {
    matches!(
        (lead, next),
        (0xe0, Some(0x80..=0x9f))
            | (0xf0, Some(0x80..=0x8f))
            | (0xf8, Some(0x80..=0x87))
            | (0xfc, Some(0x80..=0x83))
    )
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\' | b';' | b'?' | b'#')
}

fn trim_spaces(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = text {
        text = rest;
    }
    text
}

impl Segment<'_> {
    /// Whether some server treats the segment as equal to an ASCII literal: case-insensitively, and including letters
    /// outside ASCII whose other case is ASCII.
    pub fn may_equal(&self, literal: &str) -> bool {
        if self.text.is_ascii() {
            return self.text.eq_ignore_ascii_case(literal.as_bytes());
        }
        let text = String::from_utf8_lossy(self.text);
        let mut own = text.chars();
        literal.chars().all(|other| own.next().is_some_and(|own| is_same_letter(own, other)))
            && own.next().is_none()
    }
}

/// The upper case of `ſ` is `S`, and the lower case of `K` (the Kelvin sign) is `k`.
fn is_same_letter(own: char, ascii: char) -> bool {
    own.to_lowercase().next() == Some(ascii.to_ascii_lowercase())
        || own.to_uppercase().next() == Some(ascii.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The segments, with `+` before one that may be joined, in brackets if it may be ignored.
    fn segments(path: &str) -> String {
        let path = LenientPath::of(path);
        let shown = path.segments().map(|segment| {
            let joined = if segment.may_be_joined { "+" } else { "" };
            let text = String::from_utf8_lossy(segment.text);
            if segment.may_be_ignored { format!("{joined}({text})") } else { format!("{joined}{text}") }
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_plain_path_has_one_interpretation() {
        assert_eq!(segments("/api/v2"), "api v2");
        assert_eq!(segments("/%61pi/v%32"), "api v2");
        assert_eq!(segments("/a@b/c%40d"), "a@b c@d");
        assert_eq!(segments(""), "");
    }

    #[test]
    fn differences_between_servers_are_flagged() {
        for (path, expected) in [
            ("/", "()"),
            ("/a/", "a ()"),
            ("//a", "() a"),
            ("/a;v=1/b", "a +(v=1) b"),
            ("/a;/b", "a +() b"),
            ("/a%2fb", "a +b"),
            ("/a%5cb", "a +b"),
            ("/a%252fb", "a +b"),
            ("/a%25252fb", "a +b"),
            ("/a;x%2fy/b", "a +(x) +(y) b"),
            ("/a%3fb/c", "a +(b) (c)"),
            ("/a%23b", "a +(b)"),
            ("/a./b%20/%20c%09", "a b c"),
            ("/.../a", "() a"),
            ("/%2561", "a"),
            ("/%25%36%31", "a"),
        ] {
            assert_eq!(segments(path), expected, "{path}");
        }
    }

    #[test]
    fn a_dot_segment_is_found_in_any_interpretation() {
        for path in [
            "/a%2f..%2fb",
            "/a%5c..",
            "/..;/a",
            "/a/..;x=1/b",
            "/%252e%252e/a",
            "/a/..%20/b",
            "/a/.%09",
            "/a%252f%252e%252e",
            "/..%3fx",
            "/a%2500",
            "/a%25c0%25af",
        ] {
            assert!(!LenientPath::of(path).is_harmless(), "{path}");
        }
        for path in ["/a%2fb", "/a..b/..c/d..", "/...", "/a;b=../x.", "//", "/%C3%A9%09"] {
            let is_harmless = LenientPath::of(path).is_harmless();
            assert!(is_harmless || path.contains("../"), "{path}");
        }
    }

    #[test]
    fn segments_are_compared_case_insensitively() {
        let may_be =
            |path: &str, literal: &str| LenientPath::of(path).segments().next().unwrap().may_equal(literal);

        for path in ["/tokens", "/TOKENS", "/%54okens", "/to%09kens", "/to%E2%84%AAens", "/token%C5%BF"] {
            assert!(may_be(path, "tokens"), "{path}");
        }
        assert!(may_be("/%C4%B1nd%C4%B0a", "india"));
        for path in ["/token", "/tokenss", "/t%C3%B6kens", "/%E2%84%AA", "/tokens%C5%BF"] {
            assert!(!may_be(path, "tokens"), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics_and_no_byte_is_in_two_segments(path in "(/[-a%./;?#025cfF ]{0,8}){0,6}|\\PC{0,30}") {
            let lenient = LenientPath::of(&path);
            lenient.is_harmless();
            let length: usize = lenient.segments().map(|segment| segment.text.len() + 1).sum();
            prop_assert!(length <= path.len() + 1);
        }

        /// The order of decoding makes no difference.
        #[test]
        fn nothing_is_left_to_decode(path in "/(%|2|5|41|%25|%41|a){0,12}") {
            let once: Vec<u8> = percent_encoding::percent_decode_str(&path).collect();
            let last = decoded(path.as_bytes());
            prop_assert_eq!(&decoded(&once), &last);
            prop_assert_eq!(&decoded(&last), &last);
        }
    }
}
