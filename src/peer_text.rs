//! Text of a peer, fit for the log and for messages.

/// The characters of a text that are shown.
const MAX_CHARS: usize = 200;

/// A peer's text in any language, in one line of at most 200 characters. A character that has no width, ends a line or changes
/// the direction of the text becomes `?`.
pub fn printable(text: &str) -> String {
    printable_within(text, MAX_CHARS)
}

/// As [`printable`], with at most `max_chars` characters of the text.
pub fn printable_within(text: &str, max_chars: usize) -> String {
    let mut chars = text.chars();
    let mut short: String =
        chars.by_ref().take(max_chars).map(|c| if is_shown(c) { c } else { '?' }).collect();
    if chars.next().is_some() {
        short.push_str("...");
    }
    short
}

/// Joiners are shown, because some languages cannot be written without them.
const fn is_shown(c: char) -> bool {
    !matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{180e}'
        | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_text_cannot_forge_a_log_line() {
        assert_eq!(printable("a\r\nb\x1b[31m\u{2028}\u{202e}c\u{9b}d\u{200b}"), "a??b?[31m??c?d?");
        assert_eq!(printable(&"x".repeat(10_000_000)).len(), 203);
        assert_eq!(printable(&"語".repeat(201)).chars().count(), 203);
    }

    #[test]
    fn words_in_every_language_are_shown() {
        for words in
            ["Zugriff verweigert – größer", "アクセスが拒否されました", "доступ запрещён", "הגישה נדחתה"]
        {
            assert_eq!(printable(words), words);
        }
    }
}
