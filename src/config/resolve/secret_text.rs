//! Texts that cannot be the secret they are meant to be: a secret in quotes, a template that was not filled in, a whole
//! file of variables.
//!
//! Most flaws are warnings: a server may know exactly such a secret. No message quotes a secret.

use serde::de::IgnoredAny;

use super::placeholder::{consists_of_nouns, is_placeholder, is_reference};

/// A reason why a text is probably not the intended secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// What the text does, for a sentence that begins with the place of the secret.
    pub(super) what: &'static str,
    /// The remedy.
    pub(super) help: &'static str,
    /// Whether no server has such a secret.
    pub(super) is_fatal: bool,
}

impl Flaw {
    const fn fatal(what: &'static str, help: &'static str) -> Self {
        Self { what, help, is_fatal: true }
    }
}

const ONLY_THE_SECRET: &str = "write only the secret: bearerd uses the whole text as the secret";
const NOT_FILLED_IN: &str =
    "write the secret itself: bearerd replaces no variables, templates or placeholders";

/// The first flaw of a text that is not empty.
pub(super) fn flaw(text: &str) -> Option<Flaw> {
    if text.contains('\0') {
        return Some(Flaw::fatal("holds a zero byte", "save the file as UTF-8 text; UTF-16 has zero bytes"));
    }
    let is_invisible = |c: char| c.is_whitespace() || is_invisible(c);
    if text.chars().all(is_invisible) {
        return Some(Flaw::fatal("holds only blanks", "replace the blanks by the secret"));
    }
    let mark = text.starts_with('\u{feff}');
    let mark =
        mark.then_some(("begins with a byte order mark", "save the file as UTF-8 without a byte order mark"));
    let core = text.trim_matches(is_invisible);
    let (what, help) = mark.or_else(|| content_flaw(core)).or_else(|| form_flaw(text, core))?;
    Some(Flaw { what, help, is_fatal: false })
}

/// The flaw of an id or a name that was probably copied with something around or inside it.
pub(super) fn name_flaw(text: &str) -> Option<(&'static str, &'static str)> {
    let core = text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c));
    quotes(core).or_else(|| blanks(text, core))
}

/// Another content than a secret.
fn content_flaw(core: &str) -> Option<(&'static str, &'static str)> {
    let inner = unquoted(core).unwrap_or(core).trim();
    let is_manifest = |line: &str| line.starts_with("apiVersion:") || line.starts_with("kind:");
    let starts_with = |starts: &[&str]| {
        starts.iter().any(|start| inner.get(..start.len()).is_some_and(|is| is.eq_ignore_ascii_case(start)))
    };
    if is_json(inner) {
        return Some((
            "holds JSON",
            "write the member that is the secret alone, decoded from base64 if it is encoded",
        ));
    }
    if core.lines().any(is_manifest) {
        return Some((
            "holds a manifest of Kubernetes",
            "mount the secret as a file, or write its decoded value alone",
        ));
    }
    if starts_with(&["<!doctype", "<html", "<?xml"]) {
        return Some(("holds a page of HTML or XML", ONLY_THE_SECRET));
    }
    if core.lines().any(is_assignment) {
        return Some(("holds a name and a value, as a file of variables does", ONLY_THE_SECRET));
    }
    if is_reference(inner) || starts_with(&["@Microsoft.KeyVault(", "op://", "vault:secret/"]) {
        return Some(("holds a reference instead of a secret", NOT_FILLED_IN));
    }
    if !inner.contains('\n') && is_placeholder(inner) {
        return Some(("looks like a placeholder", NOT_FILLED_IN));
    }
    if starts_with(&["bearer ", "basic "]) {
        return Some(("begins like the value of an Authorization field", ONLY_THE_SECRET));
    }
    if starts_with(&["file://", "/run/secrets/", "/var/run/secrets/", "/etc/secrets/"])
        && !inner.contains('\n')
    {
        return Some(("holds the path of a file", "write { file = \"/run/secrets/name\" } to read the file"));
    }
    None
}

/// A secret with something around or inside it.
fn form_flaw(text: &str, core: &str) -> Option<(&'static str, &'static str)> {
    if let Some(quotes) = quotes(core) {
        return Some(quotes);
    }
    if core.contains("-----BEGIN ") {
        let is_escaped = core.contains("\\n") && !core.contains('\n');
        let help = "replace each `\\n` by a line break, or read the key from a file";
        return if is_escaped { Some(("holds `\\n` instead of line breaks", help)) } else { None };
    }
    if text.contains('\n') {
        return Some((
            "holds more than one line",
            "all lines are the secret, except for one line break at the end of a file: remove the others",
        ));
    }
    if text.contains('\r') {
        return Some((
            "holds a carriage return",
            "remove it: lines of Windows end with a carriage return, which bearerd sends too",
        ));
    }
    blanks(text, core)
}

fn quotes(core: &str) -> Option<(&'static str, &'static str)> {
    unquoted(core).map(|_| ("is in quotes", "remove the quotes: bearerd sends them too"))
}

/// Blanks around a text, or what cannot be seen inside it.
fn blanks(text: &str, core: &str) -> Option<(&'static str, &'static str)> {
    if core.len() < text.len() {
        return Some(("begins or ends with a blank", "remove the blank: bearerd sends it too"));
    }
    if core.chars().any(|c| is_invisible(c) || c.is_control()) {
        return Some((
            "holds an invisible character",
            "copy the value again, without the invisible character",
        ));
    }
    None
}

/// Characters of no width, which copying from a web page or a chat adds.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

/// The text between quotes.
fn unquoted(text: &str) -> Option<&str> {
    [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’'), ('„', '“'), ('«', '»')]
        .into_iter()
        .find_map(|(open, close)| text.strip_prefix(open)?.strip_suffix(close))
}

/// A JSON object or list, or the beginning of an object. A number or a string may well be a secret.
fn is_json(text: &str) -> bool {
    let is_begun = || {
        let (name, rest) =
            text.trim_start_matches(['{', '[', ' ', '\n']).strip_prefix('"')?.split_once('"')?;
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        (is_name && rest.trim_start().starts_with(':')).then_some(())
    };
    text.starts_with(['{', '[']) && (serde_json::from_str::<IgnoredAny>(text).is_ok() || is_begun().is_some())
}

/// `NAME=value` or `client_secret: value`. The padding of base64 is no value.
fn is_assignment(line: &str) -> bool {
    let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
    let Some(end) = line.find(['=', ':']) else { return false };
    let (name, value) = (line[..end].trim_matches(['"', '\'', ' ']), &line[end + 1..]);
    let has_value = if line[end..].starts_with(':') {
        value.starts_with(' ') && !value.trim().is_empty()
    } else {
        !value.trim().is_empty() && !value.starts_with('=')
    };
    has_value && (is_name(name) || (is_lower_name(name) && !value.contains(char::is_whitespace)))
}

/// Whether a text is the name of a variable in lower case, `key` or `api_pass`. A passphrase may have other words.
fn is_lower_name(name: &str) -> bool {
    let is_last = |word: &str| consists_of_nouns(word) || ["auth", "cert", "pass"].contains(&word);
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte))
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.rsplit(['_', '-', '.']).next().is_some_and(|last| last.len() >= 2 && is_last(last))
}

/// Whether a text is the name of a variable or a key, as a beginning of a random secret would not be.
fn is_name(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_upper = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let lower = name.to_ascii_lowercase();
    let words = ["secret", "password", "passwd", "pwd", "token", "client", "apikey", "api_key", "state_key"];
    name.len() >= 3
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(is_word)
        && (name.bytes().all(is_upper) || words.iter().any(|word| lower.contains(word)))
}
