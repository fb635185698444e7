//! Replaces the secrets of a configuration's text with stars.
//!
//! The text may be invalid TOML, so that words, strings and brackets are recognised without the parser. A star replaces
//! a byte: places stay valid. In doubt, too much is masked, never too little.

use std::ops::Range;

/// Masks secrets. The length in bytes does not change.
///
/// Masked are the values of keys that name a secret, with everything in their brackets except the values of `env` and
/// `file`; and in all other words and strings the user of a URL and the parameters that name a secret.
pub(in crate::config) fn mask(text: &str) -> String {
    Masking { masked: String::with_capacity(text.len()), ..Masking::default() }.run(text)
}

/// The state of the left-to-right scan.
#[derive(Default)]
struct Masking {
    masked: String,
    /// The open brackets, outermost first.
    brackets: Vec<Bracket>,
    /// Whether the table of the last header is a secret as a whole.
    header: bool,
    /// The current item.
    item: Item,
    /// In a comment: the number of brackets and the item before it, restored at the end of the line.
    before_comment: Option<(usize, Item)>,
    /// Words and strings not yet written: a key if `=` follows, else a value.
    pending: Vec<Range<usize>>,
}

#[derive(Clone, Copy)]
struct Bracket {
    is_secret: bool,
    /// An array: values without keys.
    is_array: bool,
}

/// A key and its value.
#[derive(Clone, Copy, Default)]
struct Item {
    reading: Reading,
    /// The words and strings of the value are masked.
    is_masked: bool,
    /// Brackets in the value hold a secret.
    is_secret: bool,
    /// The value is the name of an environment variable.
    is_variable: bool,
}

/// The progress in an item.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Reading {
    /// Before `=`.
    #[default]
    Key,
    /// After `=`, before the value.
    Expecting,
    /// In the value.
    Value,
}

impl Masking {
    fn run(mut self, text: &str) -> String {
        let mut at = 0;
        while let Some(next) = text[at..].chars().next() {
            let mut end = at + next.len_utf8();
            match next {
                '\n' => self.line_end(text),
                '[' if self.is_header(text, at) => end = self.header_line(text, at),
                '[' | '{' => self.open(text, next == '['),
                ']' | '}' => self.close(text),
                ',' => self.comma(text),
                '=' if self.item.reading == Reading::Key || !self.item.is_masked => self.equals(text, at),
                '#' => self.comment(text),
                _ if next.is_whitespace() => {}
                _ => {
                    end = match next {
                        '=' => end,
                        '"' | '\'' => string_end(text, at, self.before_comment.is_some()),
                        _ => word_end(text, at),
                    };
                    if self.item.reading == Reading::Expecting {
                        self.item.reading = Reading::Value;
                    }
                    self.pending.push(at..end);
                }
            }
            at = end;
        }
        self.write(text, self.item.is_masked);
        self.masked.push_str(&text[self.masked.len()..]);
        self.masked
    }

    /// Writes the pending words. Returns whether the next word is masked.
    ///
    /// A key may lack its `=`, as in YAML or JSON: the words after a secret's key are masked all the same.
    fn write(&mut self, text: &str, mut is_masked: bool) -> bool {
        for place in std::mem::take(&mut self.pending) {
            self.masked.push_str(&text[self.masked.len()..place.start]);
            let word = &text[place];
            let key_end = word.find(':').unwrap_or(word.len());
            // In the prose of a comment, only a word with a colon is a key.
            let may_be_key = self.before_comment.is_none() || key_end < word.len();
            let is_key = may_be_key
                && self.item.reading == Reading::Key
                && meaning(&word[..key_end]) == Meaning::Secret;
            match (is_masked, is_key) {
                (true, _) => self.masked.push_str(&stars(word)),
                (false, true) => {
                    self.masked.push_str(&word[..key_end]);
                    self.masked.push_str(&stars(&word[key_end..]));
                    is_masked = true;
                }
                (false, false) if self.item.is_variable => self.masked.push_str(&variable_name(word)),
                (false, false) => self.masked.push_str(&without_url_secrets(word)),
            }
        }
        is_masked
    }

    fn is_in_secret(&self) -> bool {
        self.brackets.last().map_or(self.header, |bracket| bracket.is_secret)
    }

    fn next_item(&mut self, is_masked: bool) {
        let is_value = self.brackets.last().is_some_and(|bracket| bracket.is_array);
        let reading = if is_value { Reading::Value } else { Reading::Key };
        self.item = Item { reading, is_masked, is_secret: is_masked, is_variable: false };
    }

    fn line_end(&mut self, text: &str) {
        let is_masked = self.write(text, self.item.is_masked);
        if let Some((depth, item)) = self.before_comment.take() {
            self.brackets.truncate(depth);
            self.item = item;
        }
        // A value may wrongly continue on the next line: masking continues until the next key.
        if self.item.reading != Reading::Expecting {
            self.next_item(is_masked || self.item.is_masked || self.is_in_secret());
        }
    }

    /// Whether this bracket opens a table header.
    fn is_header(&self, text: &str, at: usize) -> bool {
        let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let is_open =
            !self.brackets.is_empty() || self.before_comment.is_some() || self.item.reading != Reading::Key;
        !is_open && text[line..at].trim().is_empty()
    }

    /// Reads a table header. Returns the end of its name.
    fn header_line(&mut self, text: &str, at: usize) -> usize {
        let start = at + text[at..].chars().take_while(|c| *c == '[').count();
        let end = text[start..].find(['\n', ']', '#', '=']).map_or(text.len(), |length| start + length);
        self.header = meaning(&text[start..end]) == Meaning::Secret;
        self.next_item(self.header);
        end
    }

    fn open(&mut self, text: &str, is_array: bool) {
        let is_masked = self.write(text, self.item.is_masked);
        let is_keyless = is_masked && self.item.reading == Reading::Key;
        let is_secret = is_keyless || self.item.is_secret || self.is_in_secret();
        self.brackets.push(Bracket { is_secret, is_array });
        self.next_item(is_secret);
    }

    fn close(&mut self, text: &str) {
        self.write(text, self.item.is_masked);
        let outside = self.before_comment.map_or(0, |(depth, _)| depth);
        if self.brackets.len() > outside
            && let Some(Bracket { is_secret, .. }) = self.brackets.pop()
        {
            self.item = Item { reading: Reading::Value, is_masked: is_secret, is_secret, is_variable: false };
        }
    }

    fn comma(&mut self, text: &str) {
        self.write(text, self.item.is_masked);
        if !self.brackets.is_empty() {
            self.next_item(self.is_in_secret());
        }
    }

    fn equals(&mut self, text: &str, at: usize) {
        let key = self.pending.first().map_or("", |first| &text[first.start..at]);
        // In `env = NAME=value`, the value after the name may be the secret.
        let is_after_variable = self.item.is_variable;
        let meaning = if is_after_variable { Meaning::Secret } else { meaning(key) };
        let is_secret = self.is_in_secret() || meaning == Meaning::Secret;
        let is_masked = (is_secret && meaning != Meaning::Source) || meaning == Meaning::Secrets;
        self.write(text, false);
        let is_variable = meaning == Meaning::Source && is_env(key);
        self.item = Item { reading: Reading::Expecting, is_masked, is_secret, is_variable };
    }

    fn comment(&mut self, text: &str) {
        self.write(text, self.item.is_masked);
        if self.before_comment.is_none() {
            self.before_comment = Some((self.brackets.len(), self.item));
            let is_masked = self.item.is_masked || self.is_in_secret();
            let reading = if is_masked { Reading::Value } else { Reading::Key };
            self.item = Item { reading, is_masked, is_secret: is_masked, is_variable: false };
        }
    }
}

/// The meaning of a key for its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The value is a secret.
    Secret,
    /// The value is a table of credentials; any other value would be a secret.
    Secrets,
    /// The value is the source of a secret.
    Source,
    /// The value is not a secret.
    Other,
}

/// The meaning of a key as written, possibly with dots.
fn meaning(key: &str) -> Meaning {
    let parts = key.split(|c: char| c == '.' || c.is_whitespace());
    let parts: Vec<String> = parts
        .map(|part| part.trim_matches(['"', '\'']).to_ascii_lowercase())
        .filter(|part| !part.is_empty())
        .collect();
    // The name of a credential has no meaning.
    let is_name = |index: usize| index > 0 && parts[index - 1] == "credentials";
    let is_secret = parts.iter().enumerate().any(|(index, part)| !is_name(index) && names_a_secret(part));
    match parts.last().map(String::as_str) {
        Some("env" | "file") => Meaning::Source,
        Some("credentials") => Meaning::Secrets,
        _ if is_secret => Meaning::Secret,
        _ => Meaning::Other,
    }
}

/// Whether the value of a key, as written, is the name of an environment variable.
fn is_env(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or_default();
    last.trim().trim_matches(['"', '\'']).eq_ignore_ascii_case("env")
}

/// Masks what cannot belong to the name of an environment variable, such as the value in `NAME=value`.
fn variable_name(word: &str) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_-.${}\"'".contains(c);
    match word.find(|c| !is_of_name(c)) {
        None => word.to_owned(),
        Some(end) if word[end..].starts_with('=') => format!("{}={}", &word[..end], stars(&word[end + 1..])),
        Some(_) => stars(word),
    }
}

/// Whether the value of a key is a secret or could be one.
fn names_a_secret(name: &str) -> bool {
    let public = ["credentials", "token_url", "key_file", "token_wait", "subject_token_type"];
    let words = [
        "secret",
        "passw",
        "pwd",
        "token",
        "assertion",
        "state_key",
        "passphrase",
        "credentials",
        "authorization",
        "required_header",
        "request_headers",
    ];
    // A misspelt key of a secret, unless it is another known key.
    let misspelt = || {
        let secrets = [
            "client_secret",
            "client_secret_next",
            "password",
            "refresh_token",
            "subject_token",
            "state_key_previous",
        ];
        secrets.iter().any(|secret| strsim::damerau_levenshtein(secret, name) <= 2)
    };
    // Escapes could stand for any key.
    name.contains('\\')
        || name.ends_with("key")
        || (!public.contains(&name) && (words.iter().any(|word| name.contains(word)) || misspelt()))
}

/// Masks the user of a URL, and the parameters that name a secret, in a word or string.
fn without_url_secrets(word: &str) -> String {
    let mut shown = String::with_capacity(word.len());
    let mut rest = word;
    if let Some((before, _)) = word.rsplit_once('@')
        && let Some(start) = before.find("://").map(|at| at + 3).or_else(|| before.find(':').map(|at| at + 1))
    {
        shown.push_str(&word[..start]);
        shown.push_str(&stars(&word[start..before.len()]));
        rest = &word[before.len()..];
    }
    for (index, part) in rest.split_inclusive(['?', '&', ';', '#']).enumerate() {
        match part.split_once('=') {
            Some((name, value)) if index > 0 && names_a_parameter(&name.to_ascii_lowercase()) => {
                shown.push_str(name);
                shown.push('=');
                shown.push_str(&stars(value));
            }
            _ => shown.push_str(part),
        }
    }
    shown
}

fn names_a_parameter(name: &str) -> bool {
    names_a_secret(name) || ["code", "sig", "signature", "auth", "jwt"].contains(&name)
}

/// As many stars as bytes; line ends and quotes stay.
fn stars(text: &str) -> String {
    let mut stars = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '"' | '\'' => stars.push(character),
            _ => stars.extend(std::iter::repeat_n('*', character.len_utf8())),
        }
    }
    stars
}

/// The end of the string that begins at `at`: after the closing quote, or at the end of the line or text.
fn string_end(text: &str, at: usize, is_one_line: bool) -> usize {
    let quote = if text[at..].starts_with('"') { '"' } else { '\'' };
    let long: String = [quote; 3].iter().collect();
    let is_long = !is_one_line && text[at..].starts_with(&long);
    let closing = if is_long { long.as_str() } else { &long[..1] };
    let mut from = at + closing.len();
    while let Some(next) = text[from..].chars().next() {
        if text[from..].starts_with(closing) {
            return from + closing.len();
        }
        if next == '\n' && !is_long {
            return from;
        }
        from += next.len_utf8();
        // An escaped quote does not end the string.
        if next == '\\' && quote == '"' && text[from..].starts_with(['"', '\\']) {
            from += 1;
        }
    }
    from
}

fn word_end(text: &str, at: usize) -> usize {
    let ends = |c: char| c.is_whitespace() || "[]{},=#\"'".contains(c);
    text[at..].find(ends).map_or(text.len(), |length| at + length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_secret_is_masked_wherever_its_line_is_quoted() {
        for text in [
            "client_secret = \"hunter2\"",
            "client_secret=hunter2",
            "client_secret = hunter2==hunter2",
            "client_secret =\n  \"hunter2\"",
            "client_secret = \"\" \"hunter2\"",
            "password = 'hunter2' # hunter2",
            "\"client_secret\" = \"hunter2\"",
            "\"client\\u005fsecret\" = \"hunter2\"",
            "credentials.a.client_secret = \"hunter2",
            "client_secret.value = \"hunter2\"",
            "[credentials.a.client_secret]\nvalue = \"hunter2\"",
            "state_key = \"hunter2\"",
            "token = \"hunter2\"",
            "credentials = \"hunter2\"",
            "# client_secret = \"hunter2\"",
            "client_secret = \"\"\"\nhunter2\nhunter2\"\"\"",
            "client_secret = \"a\\\"hunter2\"",
            "a = { client_id = \"x\", client_secret = \"hunter2\" }",
            "client_secret = { value = \"hunter2\" }",
            "client_secret = { env = { value = \"hunter2\" } }",
            "client_secret = { env = \"X\", value = \"hunter2\" }",
            "client_secret = {\n  env = \"X\", # hunter2\n  value = 'hunter2',\n}",
            "client_secret = [\"hunter2\", \"hunter2\"]",
            "client_secret = [\n  \"hunter2\",\n  [ 'hunter2' ], # hunter2\n  hunter2==\n]",
            "client_secret = [\n\"hunter2\"\n[server]\nx = \"hunter2\"",
            "client_secret: \"hunter2\"",
            "client_secret:hunter2",
            "client_secret\t:\t\"hunter2\"",
            "CLIENT_SECRET \"hunter2\"",
            "client_secret:\n  hunter2\nlisten = 1",
            "client_secret:\n  - hunter2\n",
            "{\"client_secret\": \"hunter2\", \"client_id\": \"x\"}",
            "client_secret: { value = \"hunter2\" }",
            "client_secret: { \"value\": \"hunter2\" }",
            "client_secret: [ \"hunter2\" ]",
            "client_secrt = \"hunter2\"",
            "clientsecet = \"hunter2\"",
            "required_header = \"X-Key hunter2\"",
            "request_headers = { X-Key = \"hunter2\", X-Tenant = { env = \"T\", value = \"hunter2\" } }",
        ] {
            let masked = mask(text);
            assert!(!masked.contains("hunter2"), "{masked}");
            assert_eq!(masked.len(), text.len());
        }
    }

    #[test]
    fn the_value_beside_the_name_of_a_variable_is_masked() {
        for (text, shown) in [
            ("client_secret = { env = \"A_B=hunter2\" }", "client_secret = { env = \"A_B=*******\" }"),
            ("client_secret = { env = 'A=hunter2', x = 1 }", "client_secret = { env = 'A=*******', x = * }"),
            ("client_secret.env = \"A==hunter2\"", "client_secret.env = \"A=********\""),
            ("client_secret.env = A=hunter2", "client_secret.env = A=*******"),
            ("client_secret.env = A=x=hunter2 hunter2", "client_secret.env = A=********* *******"),
            ("[admin.token]\nenv = \"export A=hunter2\"", "[admin.token]\nenv = \"****************\""),
            ("# token = { env = \"A=hunter2\" }", "# token = { env = \"A=*******\" }"),
            ("password = { env = \"hunter2 hunter2\" }", "password = { env = \"***************\" }"),
            ("password = { \"env\" = \"hunter2+/\" }", "password = { \"env\" = \"*********\" }"),
            ("password = { env = \"${A}\" }", "password = { env = \"${A}\" }"),
            (
                "password = { env = \"$A\" }\nclient_id = \"x=y\"",
                "password = { env = \"$A\" }\nclient_id = \"x=y\"",
            ),
        ] {
            assert_eq!(mask(text), shown);
        }
    }

    #[test]
    fn user_and_secret_parameters_of_a_url_are_masked_in_any_line() {
        for (text, shown) in [
            ("upstream = \"https://user:hunter2@host/\"", "upstream = \"https://************@host/\""),
            ("upstream = https://user:hunter2@host/", "upstream = https://************@host/"),
            ("a = [\"https://hunter2@h\"]", "a = [\"https://*******@h\"]"),
            ("a = 'https:u:hun/ter2@h'", "a = 'https:**********@h'"),
            ("# see https://u:hunter2@h", "# see https://*********@h"),
            ("a = \"\"\"\nhttps://u:hunter2@h\"\"\"", "a = \"\"\"\nhttps://*********@h\"\"\""),
            ("a = \"https://h/?x=1&api_key=hunter2&y=2\"", "a = \"https://h/?x=1&api_key=********y=2\""),
            ("a = \"https://h/#access_token=hunter2\"", "a = \"https://h/#access_token=*******\""),
            ("a = https://h/?token=hunter2", "a = https://h/?token=*******"),
        ] {
            assert_eq!(mask(text), shown);
        }
    }

    #[test]
    fn values_of_other_keys_are_shown() {
        for text in [
            "token_url = \"https://as.example.com/token?tenant=1\" # where tokens come from",
            "client_secret = { env = \"CXONE_SECRET\" }",
            "client_secret = {\n  file = '/run/secrets/x',\n}\nclient_id = \"x\"",
            "client_secret.env = \"CXONE_SECRET\"",
            "[credentials.token-service]\nclient_id = \"x\"",
            "credentials = { a = { client_id = \"x\" } }",
            "credentials.my_key.client_id = \"x\"",
            "listen = \"127.0.0.1:8080\"",
            "allow_from = [\n  \"10.0.0.0/8\", # the office's\n]\n[[routes]]\nupstream = \"https://h/@me\"",
        ] {
            let unmasked_path = text.replace("https://h/@me", "https://**@me");
            assert_eq!(mask(text), unmasked_path);
        }
    }

    proptest! {
        #[test]
        fn masking_keeps_every_place(text in "([a-z_]{0,3}|client_secret|https://|é|[\\[\\]{}=,#\"'\\\\\n@?&: .]){0,40}") {
            let masked = mask(&text);

            prop_assert_eq!(masked.len(), text.len());
            for at in 0..=text.len() {
                prop_assert!(!text.is_char_boundary(at) || masked.is_char_boundary(at));
            }
            let ends = |text: &str| text.match_indices('\n').map(|(at, _)| at).collect::<Vec<_>>();
            prop_assert_eq!(ends(&masked), ends(&text));
        }

        #[test]
        fn any_text_can_be_masked(text in any::<String>()) {
            prop_assert_eq!(mask(&text).len(), text.len());
        }

        #[test]
        fn a_string_after_the_key_of_a_secret_is_never_shown(
            secret in "[a-zA-Z0-9=#,{}\\[\\]:@.\"' -]{0,9}SECRET[a-zA-Z0-9=#,{}\\[\\]:@. \\\\-]{0,9}",
            form in prop::sample::select(vec!["S", "{ value = S }", "[S, S]", "[\n1, [S],\n]", "{\n a = { b = S } }"]),
            before in prop::sample::select(vec!["", "scopes = [\"a]\", 'b']\n", "x = { y = 1 }\n", "# don't [\n"]),
        ) {
            let string = format!("\"{}\"", secret.replace('\\', "\\\\").replace('"', "\\\""));
            let text = format!("{before}client_secret = {}\n", form.replace('S', &string));

            prop_assert!(!mask(&text).contains("SECRET"), "{}", mask(&text));
        }
    }
}
