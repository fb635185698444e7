//! What may be shown of a configuration's text: everything else becomes stars.
//!
//! Nothing is shown because it does not look like a secret. Shown are punctuation, the names of known keys, and the values of
//! the keys that the [`schema`](super::schema) calls `shown`, and of the sources of secrets. Where the text is not TOML, no quote and no key is where it seems to be: of values only
//! numbers, durations, `true`, `false` and the like are shown then. A star replaces a byte: places stay valid.

use toml::de::DeTable;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::schema::File;
use super::shape::{Property, Shape, Shaped};

/// Brackets of which the tables are told apart. toml reads at most 80.
const MAX_DEPTH: usize = 100;

/// Replaces by stars what may not be shown. The length in bytes does not change.
pub(in crate::config) fn mask(text: &str) -> String {
    let mut masking = Masking {
        file: File::shape(),
        is_toml: DeTable::parse(text).is_ok(),
        table: Vec::new(),
        path: Vec::new(),
        place: Place::Key,
        is_public: false,
        is_variable: false,
        open: Vec::new(),
    };
    let mut masked = String::with_capacity(text.len());
    for token in Source::new(text).lex() {
        let span = token.span();
        // The lexer leaves out a byte order mark.
        masked.push_str(&text[masked.len()..span.start()]);
        masked.push_str(&masking.shown(token.kind(), &text[span.start()..span.end()]));
    }
    masked
}

/// The state of a left-to-right scan. In broken files it may be wrong: no secret is shown because of it.
struct Masking {
    /// The form of the whole file.
    file: Shape,
    is_toml: bool,
    /// The path of the table that surrounds the current item.
    table: Vec<String>,
    /// The parts of the current key or header.
    path: Vec<String>,
    place: Place,
    /// Whether the value may be shown.
    is_public: bool,
    /// Whether the value is the name of an environment variable or the path of a file.
    is_variable: bool,
    /// What surrounds the current item, outermost first.
    open: Vec<Bracket>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Key,
    Header,
    Value,
}

struct Bracket {
    is_array: bool,
    /// Whether the values of an array may be shown.
    is_public: bool,
    /// The table that surrounds the bracket.
    outer: Vec<String>,
}

impl Masking {
    fn shown(&mut self, kind: TokenKind, token: &str) -> String {
        match kind {
            TokenKind::Atom | TokenKind::BasicString | TokenKind::LiteralString => return self.word(token),
            TokenKind::Comment | TokenKind::MlBasicString | TokenKind::MlLiteralString => {
                return stars(token);
            }
            TokenKind::Newline if self.open.is_empty() => self.next_key(),
            TokenKind::Newline | TokenKind::Dot | TokenKind::Whitespace | TokenKind::Eof => {}
            TokenKind::Equals => self.begin_value(),
            TokenKind::Comma => match self.open.last() {
                Some(Bracket { is_array: true, is_public, .. }) => self.is_public = *is_public,
                _ => self.next_key(),
            },
            TokenKind::LeftSquareBracket if self.open.is_empty() && self.place != Place::Value => {
                self.path.clear();
                self.place = Place::Header;
            }
            TokenKind::RightSquareBracket if self.place == Place::Header => self.table.clone_from(&self.path),
            TokenKind::LeftSquareBracket => self.open(true),
            TokenKind::LeftCurlyBracket => self.open(false),
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => self.close(),
        }
        token.to_owned()
    }

    fn next_key(&mut self) {
        self.path.clear();
        (self.place, self.is_public, self.is_variable) = (Place::Key, false, false);
    }

    fn open(&mut self, is_array: bool) {
        let outer = self.table.clone();
        // TOML nests less deep: this is a bound on the work for a broken file.
        if self.open.len() < MAX_DEPTH {
            self.table.append(&mut self.path);
        }
        self.open.push(Bracket { is_array, is_public: self.is_public && is_array, outer });
        if !is_array {
            self.next_key();
        }
    }

    fn close(&mut self) {
        if let Some(closed) = self.open.pop() {
            self.table = closed.outer;
        }
        self.path.clear();
        self.place = Place::Value;
        self.is_public = self.open.last().is_some_and(|bracket| bracket.is_public);
    }

    fn begin_value(&mut self) {
        let path = self.table.iter().chain(&self.path).map(String::as_str);
        let value = value_at(&self.file, path);
        self.is_variable = value == Some(Shown::Source);
        self.is_public = match value {
            Some(Shown::Whole) => true,
            Some(Shown::Source) => self.is_toml,
            None => false,
        };
        self.place = Place::Value;
    }

    fn word(&mut self, word: &str) -> String {
        if self.place == Place::Value {
            let is_shown = is_plain(word) || (self.is_toml && !word.contains(['\\', '@']));
            return match (self.is_public && is_shown, self.is_variable) {
                (false, _) => stars(word),
                (true, true) => variable(word),
                (true, false) => without_parameters(word),
            };
        }
        let name = word.trim_end_matches(':').trim_matches(['"', '\'']);
        self.path.push(name.to_owned());
        // Without TOML, a word in the place of a key may be a part of a secret.
        if self.is_toml || is_known(&self.file, name) { word.to_owned() } else { stars(word) }
    }
}

/// What is shown of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// The value.
    Whole,
    /// The name of an environment variable or the path of a file that holds a secret.
    Source,
}

/// What is shown of the value at a path; `None` for nothing.
fn value_at<'p>(file: &Shape, path: impl Iterator<Item = &'p str>) -> Option<Shown> {
    let (mut shape, mut shown) = (file, None);
    for key in path {
        (shape, shown) = match (shape.property(key), shape) {
            (Some(Property { shape, is_shown, .. }), _) => (shape, is_shown.then_some(Shown::Whole)),
            (None, Shape::Map(entry)) => (&**entry, None),
            (None, shape) if is_source(shape, key) => (&Shape::Text, Some(Shown::Source)),
            _ => return None,
        };
    }
    shown
}

/// Whether a key is `env` or `file` in the place of a secret.
fn is_source(shape: &Shape, key: &str) -> bool {
    match shape {
        Shape::Secret => matches!(key, "env" | "file"),
        Shape::List(entry) => is_source(entry, key),
        Shape::OneOf(shapes) => shapes.iter().any(|shape| is_source(shape, key)),
        _ => false,
    }
}

/// Whether a table of the file has this key.
fn is_known(shape: &Shape, key: &str) -> bool {
    match shape {
        Shape::Table(properties) => {
            properties.iter().any(|property| property.key == key || is_known(&property.shape, key))
        }
        Shape::List(entry) | Shape::Map(entry) => is_known(entry, key),
        Shape::OneOf(shapes) => shapes.iter().any(|shape| is_known(shape, key)),
        shape => is_source(shape, key),
    }
}

/// A number, a duration, a size, an address, `true` or `false`: too little for a secret.
fn is_plain(word: &str) -> bool {
    let text = word.trim_matches(['"', '\'']);
    let is_number = |text: &str| text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let units = ["", "ms", "s", "m", "h", "d", "B", "KiB", "MiB", "GiB"];
    let is_quantity = units.iter().any(|unit| text.strip_suffix(unit).is_some_and(is_number));
    let is_address = text.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    matches!(text, "true" | "false" | "off" | "none") || is_quantity || is_address
}

/// The name of a variable; stars for what cannot belong to a name, such as the value in `NAME=value`.
fn variable(word: &str) -> String {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_-./${}\"'".contains(c);
    match word.find(|c| !is_of_name(c)) {
        None => word.to_owned(),
        Some(end) if word[end..].starts_with('=') => format!("{}={}", &word[..end], stars(&word[end + 1..])),
        Some(_) => stars(word),
    }
}

/// A URL or another word without what follows its path.
fn without_parameters(word: &str) -> String {
    let end = word.find(['?', '#', ';', '&']).map_or(word.len(), |at| at + 1);
    word[..end].to_owned() + &stars(&word[end..])
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A text on its own, and in each table.
    fn in_each_table(text: &str) -> [String; 6] {
        ["", "[server]\n", "[admin]\n", "[credentials.a]\n", "[[routes]]\n", "[[webhooks]]\n"]
            .map(|header| format!("{header}{text}"))
    }

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
            "request_headers = { env = \"hunter2\" }",
            "[credentials.a.request_headers]\nenv = \"hunter2\"",
            // An open or stray triple quote, a lone CR, an odd header, an unquoted URL with `=`, an escaped `@`.
            "listen = \"\"\"\nclient_secret = \"\"\"hunter2\"\"\"",
            "client_id = '''a\nclient_secret = '''hunter2=x'''\nx = hunter2",
            "listen = \"1\"\rclient_secret = \"hunter2\"\r",
            "[credentials.]a]\nclient_secret = hunter2",
            "[[credentials.a.client_secret]\nlisten = \"hunter2\"",
            "upstream = https://h/?a=b=hunter2",
            "upstream = \"https://u:hunter2\\u0040h/\"",
            "upstream = \"https://h/?a=hunter2\"",
            "upstream = hunter2",
            "hunter2",
            "hunter2 = 1 =",
            "[hunter2",
            // Keys of other tables with the name of a public key.
            "[credentials.a.request_headers]\nlisten = \"hunter2\"\nfile = \"x\"",
            "a.request_headers = { scopes = \"hunter2\" }",
            "[[routes]]\nheaders = { set = { host = \"hunter2\", path = \"hunter2\" } }",
            "headers.set.host = \"hunter2\"",
            "[credentials.a]\nextra = { audience = [\"hunter2\"] }",
            "[credentials.a]\nextra.audience = \"hunter2\"",
        ] {
            for text in in_each_table(text) {
                let masked = mask(&text);
                assert!(!masked.contains("hunter2"), "{masked}");
                assert_eq!(masked.len(), text.len());
            }
        }
    }

    #[test]
    fn the_value_beside_the_name_of_a_variable_is_masked() {
        for (text, shown) in [
            ("client_secret = { env = \"A_B=hunter2\" }", "client_secret = { env = \"A_B=*******\" }"),
            ("client_secret = { env = 'A=hunter2', x = 1 }", "client_secret = { env = 'A=*******', x = * }"),
            ("client_secret.env = \"A==hunter2\"", "client_secret.env = \"A=********\""),
            ("client_secret.env = A=hunter2", "client_secret.env = *=*******"),
            (
                "[credentials.a.password]\nenv = \"export A=hunter2\"",
                "[credentials.a.password]\nenv = \"****************\"",
            ),
            ("# password = { env = \"A=hunter2\" }", "*********************\"*********\"**"),
            ("password = { env = \"hunter2 hunter2\" }", "password = { env = \"***************\" }"),
            ("password = { env = \"${A}\" }", "password = { env = \"${A}\" }"),
        ] {
            let header = "[credentials.token]\n";
            assert_eq!(mask(&format!("{header}{text}")), format!("{header}{shown}"));
        }
    }

    #[test]
    fn user_and_parameters_of_a_url_are_masked() {
        for (text, shown) in [
            ("upstream = \"https://user:hunter2@host/\"", "upstream = \"**************************\""),
            ("proxy = 'https:u:hun/ter2@h'", "proxy = '******************'"),
            ("upstream = \"https://h/a?x=1&y=2\"", "upstream = \"https://h/a?*******\""),
            ("upstream = \"https://h/#token\"", "upstream = \"https://h/#*****\""),
        ] {
            let header = "[[routes]]\n";
            assert_eq!(mask(&format!("{header}{text}")), format!("{header}{shown}"));
        }
    }

    #[test]
    fn keys_and_the_values_of_public_keys_are_shown() {
        for text in [
            "[credentials.token-service]\ntoken_url = \"https://as.example.com/token\"\nclient_id = \"x\"",
            "[credentials.a]\nclient_secret = { env = \"CXONE_SECRET\" }",
            "[credentials.a]\nstate_key_previous = [{ env = \"OLD\" }, { file = \"old\" }]\nassertion = { alg = \"RS256\" }",
            "[credentials.a]\nrequest_headers = { X-Tenant = { env = \"TENANT\" } }",
            "[credentials.a]\nclient_secret = {\n  file = '/run/secrets/x',\n}\nclient_id = \"x\"",
            "credentials.a.client_secret.env = \"CXONE_SECRET\"",
            "credentials = { a = { client_id = \"x\" } }",
            "credentials.my_key.client_id = \"x\"",
            "[server]\nlisten = [\n  \"127.0.0.1:8080\",\n  \"unix:/run/s\",\n]\nlimits = { streams = 5 }",
            "[server.limits]\nreplay_body = \"1MiB\"",
            "[[routes]]\nupstream = \"https://api.example.com\"\nretry_429 = { attempts = 3 }",
            "tokn_url = \"\"",
            // Not TOML: numbers and the like.
            "[server]\nlisten = \"127.0.0.1:8080\"\ndrain = \"20s\"\nwatch = true\nworkers = = 3",
        ] {
            assert_eq!(mask(text), text);
        }
    }

    /// Texts and secrets of the schema whose values are hidden, and the hidden tables: each other value is shown.
    #[test]
    fn the_hidden_keys_are_these() {
        fn hidden(shape: &Shape, path: &str, found: &mut Vec<String>) {
            match shape {
                Shape::Table(properties) => {
                    for Property { key, shape, is_shown } in properties {
                        let path = format!("{path}.{key}");
                        match shape {
                            Shape::Table(_) | Shape::Map(_) => hidden(shape, &path, found),
                            Shape::List(entry) if matches!(**entry, Shape::Table(_)) => {
                                hidden(entry, &path, found);
                            }
                            _ if !is_shown => found.push(path),
                            _ => {}
                        }
                    }
                }
                Shape::Map(entry) if matches!(**entry, Shape::Table(_)) => hidden(entry, path, found),
                _ => found.push(path.to_owned()),
            }
        }
        let mut found = Vec::new();
        hidden(&File::shape(), "", &mut found);
        assert_eq!(
            found,
            [
                ".server.required_header",
                ".admin.token",
                ".callers.key_hash",
                ".shared.url",
                ".shared.password",
                ".shared.key",
                ".shared.key_previous",
                ".credentials.client_secret",
                ".credentials.client_secret_next",
                ".credentials.assertion.key",
                ".credentials.assertion.aud",
                ".credentials.assertion.sub",
                ".credentials.assertion.claims",
                ".credentials.password",
                ".credentials.refresh_token",
                ".credentials.subject_token",
                ".credentials.extra",
                ".credentials.request_headers",
                ".credentials.request_fields",
                ".credentials.fields.access_token",
                ".credentials.fields.expires_in",
                ".credentials.fields.refresh_token",
                ".credentials.fields.scope",
                ".credentials.state_key",
                ".credentials.state_key_previous",
                ".routes.headers.set",
                ".routes.headers.set_if_absent",
                ".routes.headers.remove",
                ".routes.headers.pass",
                ".audit.key",
                ".webhooks.url",
                ".webhooks.secret",
            ]
        );
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

            for text in in_each_table(&text) {
                prop_assert!(!mask(&text).contains("SECRET"), "{}", mask(&text));
            }
        }
    }
}
