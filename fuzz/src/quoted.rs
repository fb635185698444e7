//! A configuration that is not TOML, with a secret planted anywhere: no diagnostic shows a part of the secret.

use std::path::Path;

use bearerd::config::source::diagnostics::{Diagnostics, Problem, Sources};
use bearerd::config::{Environment, parse};

/// Secrets as they are planted, with characters that end a word of TOML.
const SECRETS: [&str; 8] = [
    "Zq7Kx0Wv-Zq7Kx0Wv",
    "Zq7Kx0Wv==",
    "=Zq7Kx0Wv",
    "\"Zq7Kx0Wv\"",
    "https://u:Zq7Kx0Wv@Zq7Kx0Wv/?Zq7Kx0Wv=Zq7Kx0Wv",
    "Zq7Kx0Wv\\u0040Zq7Kx0Wv",
    "\rZq7Kx0Wv",
    "client_secret = \"\"\"Zq7Kx0Wv",
];
/// What is in each secret.
const PART: &str = "Zq7Kx0Wv";

pub fn run(input: &[u8]) {
    assert!(!shows_secret(input, shown), "a secret is shown");
}

/// Whether the output shows the secret that is planted into the input.
pub fn shows_secret(input: &[u8], show: impl Fn(&str) -> String) -> bool {
    let [kind, high, low, text @ ..] = input else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    if text.contains(PART) {
        return false;
    }
    let mut at = usize::from(u16::from_be_bytes([*high, *low])) % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let secret = SECRETS[usize::from(*kind) % SECRETS.len()];
    // The last line is never TOML.
    let planted = format!("{}{secret}{}\n= =\n", &text[..at], &text[at..]);
    show(&planted).contains(PART)
}

/// The diagnostics of the text, and each of its lines as a diagnostic quotes it.
fn shown(text: &str) -> String {
    let path = Path::new("proxy.toml");
    let environment = Environment::from([]);
    let found = match parse(path, text.to_owned(), &environment) {
        Ok(checked) => checked.warnings.to_string(),
        Err(diagnostics) => diagnostics.to_string(),
    };
    let mut start = 0;
    let lines = text.split_inclusive('\n').map(|line| {
        start += line.len();
        Problem::error(start - line.len()..start, "a line")
    });
    let quoted = Diagnostics::new(Sources::new(path, text.to_owned()), lines.collect());
    found + &quoted.to_string()
}
