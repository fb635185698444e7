//! Links in JSON: absolute URLs of the API at the start of strings become URLs of the proxy.
//!
//! [`JsonLinks`] is a state machine over the chunks of a body, which may split a string anywhere. It keeps the start of
//! one string at most, no longer than the longest URL that it looks for. Everything else passes as it is, whether it is
//! JSON or not. `\/` is a slash (RFC 8259 §7); a URL with another escape in its beginning is left alone.

use bytes::Bytes;
use url::Url;

/// URLs to look for, and what takes their place.
#[derive(Debug)]
pub struct JsonLinks {
    targets: Vec<Target>,
    replacement: String,
    state: State,
    /// The start of a string from earlier chunks that may become a link.
    held: Vec<u8>,
}

/// The beginning of a link: an origin and a path.
#[derive(Debug)]
struct Target {
    text: Vec<u8>,
    /// The length of the origin, whose case does not matter.
    origin: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between strings.
    #[default]
    Outside,
    /// In a string whose start may be a link.
    Start {
        /// How many characters were compared.
        compared: usize,
        /// The targets that begin with these characters, as bits.
        alive: u8,
        /// Whether the last byte is a backslash.
        is_escaped: bool,
        /// Whether a slash was written as `\/`.
        has_escaped_slash: bool,
    },
    /// In the rest of a string.
    Inside { is_escaped: bool },
}

/// What a character of the start of a string means.
enum Step {
    /// More characters are needed to tell these targets apart from other text.
    More { alive: u8 },
    /// The characters before this one are a target, and it ends the target.
    Found,
    /// The string is no link.
    Other,
}

const START: State =
    State::Start { compared: 0, alive: u8::MAX, is_escaped: false, has_escaped_slash: false };

impl JsonLinks {
    /// Looks for URLs of the API's `origins` with paths at or below `path`, and puts `replacement` in place of both.
    pub fn new(origins: &[&str], path: &str, replacement: String) -> Self {
        let mut targets: Vec<Target> = Vec::new();
        for origin in origins.iter().flat_map(|origin| spellings(origin)) {
            let text = [origin.as_bytes(), path.as_bytes()].concat();
            if !targets.iter().any(|target| target.text == text) {
                targets.push(Target { text, origin: origin.len() });
            }
        }
        Self { targets, replacement, state: State::default(), held: Vec::new() }
    }

    /// Whether [`JsonLinks::finish`] would return nothing.
    pub const fn is_drained(&self) -> bool {
        self.held.is_empty()
    }

    /// What is held at the end of a body that ends in the start of a string.
    pub fn finish(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.held))
    }

    /// The next part of the body with its links replaced; empty if all of it is held.
    pub fn push(&mut self, chunk: &Bytes) -> Bytes {
        let mut out = Vec::new();
        // What is before is in `out`.
        let mut copied = 0;
        // Where the string's start begins in this chunk.
        let mut start = 0;
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            at += 1;
            match self.state {
                State::Outside => {
                    let quote = chunk[at - 1..].iter().position(|byte| *byte == b'"');
                    let Some(quote) = quote else { break };
                    at += quote;
                    (self.state, start) = (START, at);
                }
                State::Inside { is_escaped: true } => self.state = State::Inside { is_escaped: false },
                State::Inside { is_escaped: false } => {
                    let special = chunk[at - 1..].iter().position(|byte| matches!(byte, b'"' | b'\\'));
                    let Some(special) = special else { break };
                    at += special;
                    self.state = match chunk[at - 1] {
                        b'"' => State::Outside,
                        _ => State::Inside { is_escaped: true },
                    };
                }
                State::Start { compared, alive, is_escaped: false, has_escaped_slash } if byte == b'\\' => {
                    self.state = State::Start { compared, alive, is_escaped: true, has_escaped_slash };
                }
                State::Start { compared, alive, is_escaped, has_escaped_slash } => {
                    let has_escaped_slash = has_escaped_slash || is_escaped;
                    match self.step(compared, alive, byte, is_escaped) {
                        Step::More { alive } => {
                            let compared = compared + 1;
                            self.state =
                                State::Start { compared, alive, is_escaped: false, has_escaped_slash };
                            continue;
                        }
                        Step::Found => {
                            out.extend_from_slice(&chunk[copied..start]);
                            self.held.clear();
                            self.write_replacement(&mut out, has_escaped_slash);
                            out.extend_from_slice(if is_escaped { b"\\/" } else { &chunk[at - 1..at] });
                            copied = at;
                        }
                        // Nothing of the chunk is in `out` yet where something is held.
                        Step::Other => out.append(&mut self.held),
                    }
                    let is_end = byte == b'"' && !is_escaped;
                    self.state = if is_end { State::Outside } else { State::Inside { is_escaped: false } };
                }
            }
        }
        let mut end = chunk.len();
        if let State::Start { .. } = self.state {
            self.held.extend_from_slice(&chunk[start..]);
            end = start;
        }
        if out.is_empty() && copied == 0 {
            return chunk.slice(..end);
        }
        out.extend_from_slice(&chunk[copied..end]);
        Bytes::from(out)
    }

    /// Compares a character of the start of a string, which is written as `\` and `byte` if it `is_escaped`.
    fn step(&self, compared: usize, alive: u8, byte: u8, is_escaped: bool) -> Step {
        if is_escaped && byte != b'/' {
            return Step::Other;
        }
        let mut rest = 0;
        for (bit, target) in (0..u8::BITS).map(|bit| 1 << bit).zip(&self.targets) {
            if alive & bit == 0 {
                continue;
            }
            match target.text.get(compared) {
                None if matches!(byte, b'/' | b'?' | b'#' | b'"') => return Step::Found,
                Some(expected) if *expected == byte => rest |= bit,
                Some(expected) if compared < target.origin && expected.eq_ignore_ascii_case(&byte) => {
                    rest |= bit;
                }
                _ => {}
            }
        }
        if rest == 0 { Step::Other } else { Step::More { alive: rest } }
    }

    fn write_replacement(&self, out: &mut Vec<u8>, has_escaped_slash: bool) {
        for byte in self.replacement.bytes() {
            if byte == b'/' && has_escaped_slash {
                out.push(b'\\');
            }
            out.push(byte);
        }
    }
}

/// An origin with and without the default port of its scheme.
fn spellings(origin: &str) -> Vec<String> {
    let Ok(url) = Url::parse(origin) else { return Vec::new() };
    let without_port = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    match (url.port(), url.port_or_known_default()) {
        (Some(port), _) => vec![format!("{without_port}:{port}")],
        (None, Some(port)) => vec![format!("{without_port}:{port}"), without_port],
        (None, None) => vec![without_port],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORIGINS: [&str; 2] = ["https://api.test", "https://public.test:8443"];
    const PROXY: &str = "http://localhost:8080/gen";

    /// The whole body at once, string by string.
    fn reference(body: &[u8], path: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = body;
        while let Some(quote) = rest.iter().position(|byte| *byte == b'"') {
            let (before, string) = rest.split_at(quote + 1);
            out.extend_from_slice(before);
            let mut end = 0;
            while end < string.len() && string[end] != b'"' {
                end += if string[end] == b'\\' { 2 } else { 1 };
            }
            let is_ended = end < string.len();
            let string = &string[..end.min(string.len())];
            out.extend(replaced(string, is_ended, path).unwrap_or_else(|| string.to_vec()));
            rest = &rest[quote + 1 + string.len()..];
            if is_ended {
                out.push(b'"');
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest);
        out
    }

    fn replaced(string: &[u8], is_ended: bool, path: &str) -> Option<Vec<u8>> {
        let targets = ["https://api.test", "https://api.test:443", "https://public.test:8443"];
        targets.iter().find_map(|origin| {
            let (mut at, mut has_escape) = (0, false);
            for (index, expected) in origin.bytes().chain(path.bytes()).enumerate() {
                if string[at..].starts_with(b"\\/") {
                    (at, has_escape) = (at + 1, true);
                }
                let byte = string.get(at)?;
                let is_same = if index < origin.len() {
                    byte.eq_ignore_ascii_case(&expected)
                } else {
                    *byte == expected
                };
                at = if is_same { at + 1 } else { return None };
            }
            let rest = &string[at..];
            let is_slash_escaped = rest.starts_with(b"\\/");
            let ends = match rest {
                [] => is_ended,
                [b'/' | b'?' | b'#', ..] => true,
                _ => is_slash_escaped,
            };
            let proxy =
                if has_escape || is_slash_escaped { PROXY.replace('/', "\\/") } else { PROXY.to_owned() };
            ends.then(|| [proxy.as_bytes(), rest].concat())
        })
    }

    fn rewritten<'c>(chunks: impl IntoIterator<Item = &'c [u8]>, path: &str) -> Vec<u8> {
        let mut links = JsonLinks::new(&ORIGINS, path, PROXY.to_owned());
        let mut out = Vec::new();
        for chunk in chunks {
            out.extend(links.push(&Bytes::copy_from_slice(chunk)));
            assert!(links.held.len() <= 2 * ("https://public.test:8443".len() + path.len()) + 1);
        }
        out.extend(links.finish());
        assert!(links.is_drained());
        out
    }

    #[test]
    fn urls_of_the_api_at_the_start_of_strings_become_the_proxys() {
        for (before, after) in [
            (
                r#"{"next":"https://api.test/v2/x?page=2"}"#,
                r#"{"next":"http://localhost:8080/gen/x?page=2"}"#,
            ),
            (r#"["https:\/\/api.test\/v2\/x"]"#, r#"["http:\/\/localhost:8080\/gen\/x"]"#),
            (r#""HTTPS://API.test:443/v2""#, r#""http://localhost:8080/gen""#),
            (r#""https://public.test:8443/v2?x""#, r#""http://localhost:8080/gen?x""#),
            (r#"["a","https://api.test/v2#top"]"#, r#"["a","http://localhost:8080/gen#top"]"#),
        ] {
            assert_eq!(String::from_utf8(rewritten([before.as_bytes()], "/v2")).unwrap(), after);
            let bytes = before.as_bytes().chunks(1);
            assert_eq!(String::from_utf8(rewritten(bytes, "/v2")).unwrap(), after);
        }
    }

    #[test]
    fn other_text_stays_as_it_is() {
        for text in [
            r#"{"see":"at https://api.test/v2/x","u":"https://api.test/v1"}"#,
            r#""https://api.test/v20""#,
            r#""https://api.test/V2/x""#,
            r#""https://api.test.evil.test/v2/x""#,
            r#""https://user@api.test/v2/x""#,
            r#""https://api.test:443@evil.test/v2/x""#,
            r#""https://api.test:8443/v2/x""#,
            r#""http://api.test/v2/x""#,
            r#""//api.test/v2/x""#,
            r#""https:\u002f\u002fapi.test/v2/x""#,
            r#""\"https://api.test/v2/x""#,
            "https://api.test/v2/x",
            r#""https://api.test/v2"#,
            "\"\\",
            "",
        ] {
            assert_eq!(String::from_utf8(rewritten([text.as_bytes()], "/v2")).unwrap(), text);
        }
    }

    #[test]
    fn a_chunk_without_links_is_passed_on_uncopied() {
        let mut links = JsonLinks::new(&ORIGINS, "", PROXY.to_owned());
        let chunk = Bytes::from_static(b"{\"name\":\"http\",\"id\":7}");
        assert_eq!(links.push(&chunk).as_ptr(), chunk.as_ptr());
    }

    proptest! {
        #[test]
        fn chunks_give_what_the_whole_body_gives(
            parts in prop::collection::vec(
                "(\"|\\\\|\\\\?/|https:|HTTPS:|//api\\.test|\\\\/\\\\/api\\.test|//public\\.test:8443|:443|/v2|[?#a,]|\"https://api\\.test){0,4}",
                0..12,
            ),
            path in "(/v2)?",
        ) {
            let chunks: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
            let expected = reference(&chunks.concat(), &path);
            prop_assert_eq!(rewritten(chunks.iter().copied(), &path), expected.clone());
            let body = chunks.concat();
            prop_assert_eq!(rewritten(body.chunks(1), &path), expected.clone());
            prop_assert_eq!(rewritten([&body[..]], &path), expected);
        }
    }
}
