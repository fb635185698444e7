//! Bodies that no authorization server sends: pages of proxies and firewalls, and compressed bodies.
//!
//! The title of a page is redacted like an error's description. No body makes a function panic.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use secrecy::SecretString;

use super::redact::{WITHHELD, is_quoted, redacted};
use crate::token::error::Malformed;

/// The longest character reference that is decoded, without `&` and `;`.
const MAX_REFERENCE: usize = 8;
/// The longest title that is read, in bytes, and half of the text in which the first tag of a page is looked for.
const MAX_TITLE: usize = 1024;

/// The kind of a body that is neither JSON nor a form; `None` if it may be one.
pub(in crate::token) fn foreign(
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[SecretString],
) -> Option<Malformed> {
    if let Some(coding) = coding(headers, body) {
        return Some(Malformed::Compressed(coding));
    }
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    text.starts_with(b"<").then(|| page(&String::from_utf8_lossy(text), secrets))
}

/// The content coding of a body, by its field or its first bytes. bearerd asks for none.
fn coding(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    let named = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase());
    match named.as_deref() {
        None | Some(b"" | b"identity") => match body {
            [0x1f, 0x8b, ..] => Some("gzip"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
            [0x78, 0x01 | 0x9c | 0xda, ..] => Some("deflate"),
            _ => None,
        },
        Some(b"gzip" | b"x-gzip") => Some("gzip"),
        Some(b"br") => Some("br"),
        Some(b"deflate") => Some("deflate"),
        Some(b"zstd") => Some("zstd"),
        Some(_) => Some("an unknown coding"),
    }
}

fn page(text: &str, secrets: &[SecretString]) -> Malformed {
    let start: String = text.chars().take(MAX_TITLE * 2).collect::<String>().to_ascii_lowercase();
    if !["<!doctype html", "<html", "<head", "<body", "<title", "<h1"].iter().any(|tag| start.contains(tag)) {
        return Malformed::Xml;
    }
    let title = element(text, "title").or_else(|| element(text, "h1")).map(|raw| {
        let decoded = words(&decoded(raw));
        if is_quoted(raw, secrets) { WITHHELD.to_owned() } else { redacted(&decoded, secrets) }
    });
    Malformed::Page(title.filter(|title| !title.is_empty()))
}

/// The content of the first element with this name, up to the next tag.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    // A change of the case of ASCII moves no byte.
    let lower = text.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let at = from + lower.get(from..)?.find(&format!("<{name}"))?;
        let after = at + 1 + name.len();
        if lower[after..].starts_with(|c: char| c == '>' || c.is_ascii_whitespace()) {
            let start = after + lower[after..].find('>')? + 1;
            let content = &text[start..];
            let end = content.find('<').unwrap_or(content.len());
            return Some(&content[..content.floor_char_boundary(end.min(MAX_TITLE))]);
        }
        from = after;
    }
}

/// The text with single spaces between its words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text with its character references decoded (HTML §13.5), numeric ones and the most usual names.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        decoded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let reference = rest
            .find(';')
            .filter(|end| *end <= MAX_REFERENCE)
            .and_then(|end| Some((character(&rest[..end])?, end)));
        match reference {
            Some((character, end)) => {
                decoded.push(character);
                rest = &rest[end + 1..];
            }
            None => decoded.push('&'),
        }
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

fn character(reference: &str) -> Option<char> {
    let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
    match reference {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some(' '),
        _ => {
            let digits = reference.strip_prefix('#')?;
            match digits.strip_prefix(['x', 'X']) {
                Some(hex) => number(hex, 16),
                None => number(digits, 10),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(body: &str) -> Option<Malformed> {
        foreign(&HeaderMap::new(), body.as_bytes(), &[SecretString::from("s3cr3t&more")])
    }

    fn titled(title: &str) -> Malformed {
        Malformed::Page(Some(title.to_owned()))
    }

    #[test]
    fn a_page_is_recognized_with_its_title_in_any_language() {
        for (body, expected) in [
            ("<html><head><title>Access denied</title>", Some(titled("Access denied"))),
            (
                "\u{feff}\r\n<!DOCTYPE html>\n<TITLE lang=de>\n Zugriff &#252;ber\n Proxy </TITLE>",
                Some(titled("Zugriff über Proxy")),
            ),
            ("<html><title>アクセス拒否</title>", Some(titled("アクセス拒否"))),
            ("<html><titlebar></titlebar><h1>Sign in &amp; <b>go on</b></h1>", Some(titled("Sign in &"))),
            ("<html><title>a\u{202e}b\x1b[31m</title>", Some(titled("a?b?[31m"))),
            ("<html><title></title>", Some(Malformed::Page(None))),
            ("<html>", Some(Malformed::Page(None))),
            ("<?xml version=\"1.0\"?><fault/>", Some(Malformed::Xml)),
            ("{\"error\":\"<html>\"}", None),
            ("error=x", None),
            ("", None),
        ] {
            assert_eq!(of(body), expected, "{body}");
        }
        let Some(Malformed::Page(Some(long))) = of(&format!("<html><title>{}", "ü".repeat(100_000))) else {
            panic!()
        };
        assert_eq!(long.chars().count(), 203);
    }

    #[test]
    fn a_title_that_quotes_a_secret_is_withheld_however_it_is_written() {
        for echo in ["s3cr3t&more", "s3cr3t&amp;more", "s3cr3t&#38;more", "s3cr3t&#x26;more", "s3cr3t%26more"]
        {
            assert_eq!(of(&format!("<html><title>for {echo}</title>")), Some(titled(WITHHELD)), "{echo}");
        }
    }

    #[test]
    fn a_compressed_body_is_recognized_by_its_field_or_its_first_bytes() {
        for (field, body, expected) in [
            (None, &b"\x1f\x8b\x08\0"[..], Some("gzip")),
            (None, b"\x28\xb5\x2f\xfd\0", Some("zstd")),
            (None, b"\x78\x9c\0", Some("deflate")),
            (None, b"x=1", None),
            (Some("identity"), b"{}", None),
            (Some("GZIP"), b"{}", Some("gzip")),
            (Some("br"), b"\x8b\x03", Some("br")),
            (Some("secret"), b"", Some("an unknown coding")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(field) = field {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(field));
            }
            assert_eq!(foreign(&headers, body, &[]), expected.map(Malformed::Compressed), "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in "<(title|TITLE|h1|html|&#x?[0-9a-f]{0,9};|&|;|<|>|[ -~ü語]){0,30}") {
            let _ = of(&body);
        }
    }
}
