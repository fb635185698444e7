//! Redaction of a server's text, in which some servers echo what they were sent.
//!
//! The text is searched before it is shortened: for the secrets of the request and the current token, plain, form-encoded or
//! in base64, and for every run of twelve characters of these. A text with such a run is withheld as a whole.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded;

use crate::peer_text::printable;

/// The length of a run of a secret that withholds a text; a shorter secret withholds it as a whole.
const MAX_QUOTED_CHARS: usize = 12;
/// The shortest base64 that is searched for: anything shorter may be an ordinary word.
const MIN_BASE64_CHARS: usize = 4;

/// The text in the place of one that quotes a secret.
pub(super) const WITHHELD: &str = "(withheld: it quoted a secret or a token)";

/// A server's text with nothing in it of the secrets and tokens that the server knows: one line, at most 200 characters.
pub(crate) fn redacted(text: &str, secrets: &[SecretString]) -> String {
    if is_quoted(text, secrets) { WITHHELD.to_owned() } else { printable(text) }
}

/// Whether a text quotes a secret.
pub(super) fn is_quoted(text: &str, secrets: &[SecretString]) -> bool {
    let readings = [
        text.as_bytes().to_vec(),
        percent_decode_str(text).collect(),
        percent_decode_str(&text.replace('+', " ")).collect(),
    ];
    // Hexadecimal digits come in both cases.
    let readings = readings.map(|reading| reading.to_ascii_lowercase());
    secrets.iter().flat_map(encodings).any(|encoding| {
        let encoding = Zeroizing::new(encoding.to_ascii_lowercase());
        let size = encoding.len().min(MAX_QUOTED_CHARS);
        let pieces: HashSet<&[u8]> = encoding.as_bytes().windows(size).collect();
        readings.iter().any(|reading| reading.windows(size).any(|piece| pieces.contains(piece)))
    })
}

/// The encodings of a secret that must not occur. Other percent-encodings are found by decoding the text.
fn encodings(secret: &SecretString) -> Vec<Zeroizing<String>> {
    let plain = secret.expose_secret();
    let form: String = form_urlencoded::byte_serialize(plain.as_bytes()).collect();
    let spaced = form.replace('+', "%20");
    let plain = [plain.to_owned(), form, spaced];
    let offsets = plain.iter().flat_map(|text| (0..3).map(move |offset| (text.as_bytes(), offset)));
    let in_base64: Vec<String> = offsets
        .flat_map(|(text, offset)| {
            [within_base64(&STANDARD_NO_PAD, text, offset), within_base64(&URL_SAFE_NO_PAD, text, offset)]
        })
        .filter(|text| text.len() >= MIN_BASE64_CHARS)
        .collect();
    plain.into_iter().filter(|text| !text.is_empty()).chain(in_base64).map(Zeroizing::new).collect()
}

/// The base64 of bytes that stand `offset` bytes (modulo 3) after the start of a longer text, such as a secret in HTTP Basic;
/// without the characters at both ends that depend on the bytes beside them.
fn within_base64(engine: &impl Engine, bytes: &[u8], offset: usize) -> String {
    let mut shifted = vec![0; offset];
    shifted.extend_from_slice(bytes);
    let encoded = engine.encode(&shifted);
    let (start, end) = ((offset * 8).div_ceil(6), shifted.len() * 8 / 6);
    encoded.get(start..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn kept(secret: &str, words: &str) -> String {
        redacted(words, &[SecretString::from(secret)])
    }

    /// The forms in which a server may echo an id and a secret.
    fn echoes(id: &str, secret: &str) -> Vec<String> {
        let form = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{id}:{secret}");
        let form_pair = format!("{}:{}", form(id), form(secret));
        let percent = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
        vec![
            secret.to_owned(),
            form(secret),
            form(secret).replace('+', "%20"),
            lower_hex(&form(secret)),
            lower_hex(&percent),
            percent,
            STANDARD.encode(secret),
            URL_SAFE.encode(secret),
            STANDARD.encode(&pair),
            URL_SAFE.encode(&pair),
            STANDARD.encode(&form_pair),
            URL_SAFE.encode(&form_pair),
            form(&STANDARD.encode(&pair)),
        ]
    }

    fn lower_hex(text: &str) -> String {
        let mut lower = text.to_owned();
        for (at, _) in text.match_indices('%') {
            if let Some(hex) = lower.get_mut(at + 1..at + 3) {
                hex.make_ascii_lowercase();
            }
        }
        lower
    }

    #[test]
    fn a_secret_is_withheld_in_every_encoding() {
        for secret in ["hunter2", "a b+c/d?e&f=", "s3cr3t:with%+&=/ünïcode====", "~~~???>>>~~~???>>>"] {
            for echo in echoes("legacy-gateway", secret) {
                for words in [echo.clone(), format!("no client with {echo}, sorry"), "x".repeat(195) + &echo]
                {
                    assert_eq!(kept(secret, &words), WITHHELD, "{words}");
                }
            }
        }
    }

    #[test]
    fn a_token_is_withheld_too() {
        let secrets = ["hunter2", "eyJhbGciOiJub25lIn0.e30."].map(SecretString::from);

        assert_eq!(redacted("already issued eyJhbGciOiJub25lIn0.e30.", &secrets), WITHHELD);
        assert_eq!(redacted("already issued eyJhbGciOiJub2...", &secrets), WITHHELD);
        assert_eq!(redacted("already issued", &secrets), "already issued");
    }

    #[test]
    fn a_text_without_a_secret_is_kept() {
        for words in
            ["", "invalid_client", "unknown client legacy-gateway", "100 % wrong%", "+", &"ü".repeat(300)]
        {
            assert_eq!(kept("s3cr3t:with%+&=/ünïcode====", words), printable(words));
        }
        assert_eq!(kept("", "invalid_client"), "invalid_client");
        assert_eq!(kept("x", "invalid_client"), "invalid_client");
    }

    proptest! {
        #[test]
        fn no_piece_of_twelve_characters_of_a_secret_comes_through(
            secret in "[ -~]{12,40}", from in 0usize..30, around in "[ -~]{0,20}",
        ) {
            let from = from.min(secret.len() - MAX_QUOTED_CHARS);
            let words = format!("{around}{}", &secret[from..from + MAX_QUOTED_CHARS]);
            prop_assert_eq!(kept(&secret, &words), WITHHELD);
        }

        #[test]
        fn no_encoding_comes_through_whatever_the_secret(id in "[ -~]{0,20}", secret in "[ -~ü]{4,40}") {
            for echo in echoes(&id, &secret) {
                prop_assert_eq!(kept(&secret, &echo), WITHHELD);
            }
        }
    }
}
