//! A path as the most lenient of servers might read it.
//!
//! Servers differ: some decode `%2f` before they split a path, or decode twice; some merge slashes, drop `;v=1`,
//! trailing dots and blanks, take `\` for `/`, or stop at a decoded `?`. A rule that forbids something must hold
//! under each of these readings and each mixture of them. So a path is taken apart wherever any of them would, and
//! each piece says whether it may also be part of the one before, or nothing at all.

use std::borrow::Cow;

/// A path with all its escapes decoded, in the end.
#[derive(Debug)]
pub struct Reading<'p>(Cow<'p, [u8]>);

/// What some server might take for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'p> {
    /// Without blanks around it and dots behind it.
    text: &'p [u8],
    /// Only some servers begin a segment here.
    pub may_be_joined: bool,
    /// Some servers do not see it.
    pub may_be_left_out: bool,
}

impl<'p> Reading<'p> {
    /// Reads a path that the guard has let through. Costs nothing where there is no `%`.
    pub fn of(path: &'p str) -> Self {
        if path.contains('%') {
            Self(Cow::Owned(decoded(path.as_bytes())))
        } else {
            Self(Cow::Borrowed(path.as_bytes()))
        }
    }

    /// Whether no server finds in it what is never passed on: a dot segment, or a byte that means another.
    pub fn is_harmless(&self) -> bool {
        let is_harmful = |byte: &u8| matches!(byte, 0..=0x08 | 0x0a..=0x1f | 0x7f | 0xc0 | 0xc1);
        let has_dot_segment = || {
            let segments = self.0.split(|byte| is_separator(*byte));
            segments.map(without_blanks).any(|segment| segment == b"." || segment == b"..")
        };
        !self.0.iter().any(is_harmful) && !has_dot_segment()
    }

    /// Its pieces from left to right; none where the path is empty.
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces { rest: &self.0, in_parameters: false, in_query: false }
    }
}

/// With every escape decoded, and what comes of that again. A decoded slash is written `\`, which no path has, to be
/// told from the caller's own.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    for byte in path {
        bytes.push(*byte);
        // What is decoded is shorter, so that this ends.
        while let [.., b'%', high, low] = bytes[..]
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            bytes.truncate(bytes.len() - 3);
            match high * 16 + low {
                b'/' => bytes.push(b'\\'),
                // Whoever parses the decoded path as a URL drops it (WHATWG URL §4.4), and others at the ends.
                b'\t' => {}
                byte => bytes.push(byte),
            }
        }
    }
    bytes
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\' | b';' | b'?' | b'#')
}

fn without_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = text {
        text = rest;
    }
    text
}

/// The pieces of a [`Reading`].
#[derive(Debug)]
pub struct Pieces<'p> {
    /// Begins with the separator of the next piece.
    rest: &'p [u8],
    /// Behind a `;`: some servers drop what follows, up to the caller's own next slash.
    in_parameters: bool,
    /// Behind a decoded `?` or `#`: for some the path has ended.
    in_query: bool,
}

impl<'p> Iterator for Pieces<'p> {
    type Item = Piece<'p>;

    fn next(&mut self) -> Option<Piece<'p>> {
        let (separator, rest) = self.rest.split_first()?;
        match separator {
            b'/' => self.in_parameters = false,
            b';' => self.in_parameters = true,
            b'?' | b'#' => self.in_query = true,
            _ => {}
        }
        let end = rest.iter().position(|byte| is_separator(*byte)).unwrap_or(rest.len());
        let (text, rest) = rest.split_at(end);
        self.rest = rest;
        let mut text = without_blanks(text);
        while let [shorter @ .., b'.' | b' '] = text {
            text = shorter;
        }
        Some(Piece {
            text,
            may_be_joined: *separator != b'/',
            may_be_left_out: text.is_empty() || self.in_parameters || self.in_query,
        })
    }
}

impl Piece<'_> {
    /// Whether some server takes it for this literal, which is ASCII: in letters of either case, and of any script
    /// that has a letter which is the same in the other case.
    pub fn may_be(&self, literal: &str) -> bool {
        if self.text.is_ascii() {
            return self.text.eq_ignore_ascii_case(literal.as_bytes());
        }
        let text = String::from_utf8_lossy(self.text);
        let mut own = text.chars();
        literal.chars().all(|other| own.next().is_some_and(|own| is_same_letter(own, other)))
            && own.next().is_none()
    }
}

/// `ſ` is an `S` in capitals, and `K` (the Kelvin sign) a `k` in small letters.
fn is_same_letter(own: char, ascii: char) -> bool {
    own.to_lowercase().next() == Some(ascii.to_ascii_lowercase())
        || own.to_uppercase().next() == Some(ascii.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pieces, with `+` before one that may be joined, in brackets if it may be left out.
    fn pieces(path: &str) -> String {
        let reading = Reading::of(path);
        let shown = reading.pieces().map(|piece| {
            let joined = if piece.may_be_joined { "+" } else { "" };
            let text = String::from_utf8_lossy(piece.text);
            if piece.may_be_left_out { format!("{joined}({text})") } else { format!("{joined}{text}") }
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        assert_eq!(pieces("/api/v2"), "api v2");
        assert_eq!(pieces("/%61pi/v%32"), "api v2");
        assert_eq!(pieces("/a@b/c%40d"), "a@b c@d");
        assert_eq!(pieces(""), "");
    }

    #[test]
    fn what_some_servers_read_differently_is_marked() {
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
            assert_eq!(pieces(path), expected, "{path}");
        }
    }

    #[test]
    fn a_dot_segment_is_found_in_any_reading() {
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
            assert!(!Reading::of(path).is_harmless(), "{path}");
        }
        for path in ["/a%2fb", "/a..b/..c/d..", "/...", "/a;b=../x.", "//", "/%C3%A9%09"] {
            let is_harmless = Reading::of(path).is_harmless();
            assert!(is_harmless || path.contains("../"), "{path}");
        }
    }

    #[test]
    fn letters_are_the_same_in_either_case() {
        let may_be = |path: &str, literal: &str| Reading::of(path).pieces().next().unwrap().may_be(literal);

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
        fn nothing_makes_it_panic_and_no_byte_is_read_twice(path in "(/[-a%./;?#025cfF ]{0,8}){0,6}|\\PC{0,30}") {
            let reading = Reading::of(&path);
            reading.is_harmless();
            let read: usize = reading.pieces().map(|piece| piece.text.len() + 1).sum();
            prop_assert!(read <= path.len() + 1);
        }

        /// Decoding again and again comes to the same, in whatever order.
        #[test]
        fn the_last_reading_has_nothing_left_to_decode(path in "/(%|2|5|41|%25|%41|a){0,12}") {
            let once: Vec<u8> = percent_encoding::percent_decode_str(&path).collect();
            let last = decoded(path.as_bytes());
            prop_assert_eq!(&decoded(&once), &last);
            prop_assert_eq!(&decoded(&last), &last);
        }
    }
}
