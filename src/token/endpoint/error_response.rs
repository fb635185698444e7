//! Reads the error that a response names (RFC 6749 §5.2), in each of the places and encodings that servers
//! use.
//!
//! Some servers send the error with a 2xx status, as a form, after a byte order mark, in Latin-1, as an
//! object, or in a list. No body makes the reader panic.

use std::borrow::Cow;

use http::StatusCode;
use serde_json::value::RawValue;
use url::form_urlencoded;

use super::exchange::Body;
use super::members::{MAX_DEPTH, Member, Members, depth, without_mark};

/// The error that a response names.
#[derive(Default)]
pub(super) struct ErrorResponse {
    /// Whether the response names an error at all.
    pub is_error: bool,
    /// The code of the error.
    pub code: Option<String>,
    /// The server's explanation.
    pub description: Option<String>,
    /// Whether the body is cut, or is a page of HTML or XML: perhaps not the response of an authorization server.
    is_page_or_cut: bool,
    /// The code and the explanation, or the whole body of a client error that has neither. The words are in
    /// lower case, with blanks between them.
    words: String,
}

impl ErrorResponse {
    /// Reads the error that a body names. For a body that names no error, the result is the default.
    pub(super) fn read(status: StatusCode, body: &Body) -> Self {
        let text = text(without_mark(&body.bytes));
        let found = of_object(&text).or_else(|| body.is_complete.then(|| of_form(&text)).flatten());
        let error = found.unwrap_or_default();
        let words = match (&error.code, &error.description) {
            (None, None) if status.is_client_error() => normalized(&text),
            (code, description) => {
                let parts = [code, description].map(|part| part.as_deref().unwrap_or_default());
                normalized(&parts.join(" "))
            }
        };
        Self { words, is_page_or_cut: !body.is_complete || text.starts_with('<'), ..error }
    }

    /// Whether the words mention a rate limit, too many requests or a quota.
    pub(super) fn speaks_of_rate_limit(&self) -> bool {
        const TERMS: &[&str] =
            &["rate limit", "ratelimit", "rate exceeded", "too many requests", "toomanyrequests", "throttl"];
        let has_word = |word| self.words.split(|c: char| !c.is_alphanumeric()).any(|other| other == word);
        TERMS.iter().any(|term| self.words.contains(term)) || has_word("quota") || has_word("quotas")
    }

    /// Whether the words say that the refresh token is in use at the moment, by another request or by an earlier one.
    pub(super) fn speaks_of_use_in_progress(&self) -> bool {
        const TERMS: &[&str] = &[
            "being processed",
            "being refreshed",
            "being used",
            "in progress",
            "concurrent",
            "simultaneous",
            "another request",
        ];
        TERMS.iter().any(|term| self.words.contains(term))
    }

    /// Whether the response is whole, is no page, and has no code.
    pub(super) const fn gives_no_reason(&self) -> bool {
        self.code.is_none() && !self.is_page_or_cut
    }

    /// Whether the words mention an expired, invalid or unknown refresh token.
    pub(super) fn speaks_of_dead_refresh_token(&self) -> bool {
        let has = |terms: &[&str]| terms.iter().any(|term| self.words.contains(term));
        has(&["refresh token", "refreshtoken"])
            && has(&[
                "expired",
                "invalid",
                "unknown",
                "revoked",
                "not found",
                "does not exist",
                "already used",
            ])
            && !has(&["grant type"])
    }
}

/// The body as text: decoded as UTF-8 without a byte order mark, or as Latin-1 if the body is not valid
/// UTF-8.
fn text(body: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text.trim()),
        Err(_) => Cow::Owned(body.trim_ascii().iter().map(|byte| char::from(*byte)).collect()),
    }
}

fn normalized(text: &str) -> String {
    let blank = |c: char| if matches!(c, '_' | '-' | '+') || c.is_whitespace() { ' ' } else { c };
    text.chars().map(|c| blank(c).to_ascii_lowercase()).collect()
}

/// Reads the error in a JSON object; `None` if the text is no JSON object.
fn of_object(text: &str) -> Option<ErrorResponse> {
    if !text.starts_with('{') || depth(text.as_bytes()) > MAX_DEPTH {
        return None;
    }
    let names = Members(["error", "errors", "error_description", "description", "message"]);
    let [error, errors, descriptions @ ..] = names.of(text.as_bytes()).ok()?;
    let mut found = match error {
        Member::Missing => ErrorResponse::default(),
        // The member occurs twice, and nothing tells which occurrence is meant.
        Member::Twice => ErrorResponse { is_error: true, ..ErrorResponse::default() },
        Member::Once(json) => of_member(json.get()),
    };
    if !found.is_error {
        found = errors.value("errors").ok().flatten().and_then(of_list).unwrap_or_default();
    }
    let description = descriptions.iter().find_map(string);
    Some(ErrorResponse { description: description.or(found.description.take()), ..found })
}

/// Reads the raw JSON of the member `error`: a code, a number, an object with a code, or `true`.
fn of_member(json: &str) -> ErrorResponse {
    match json.as_bytes().first() {
        Some(b'"') => {
            let code = serde_json::from_str(json).ok().filter(|code: &String| !code.is_empty());
            ErrorResponse { is_error: code.is_some(), code, ..ErrorResponse::default() }
        }
        Some(b'{') => of_entry(json, ["code", "status"]),
        Some(b'1'..=b'9') => {
            ErrorResponse { is_error: true, code: Some(json.to_owned()), ..ErrorResponse::default() }
        }
        _ => ErrorResponse { is_error: json == "true", ..ErrorResponse::default() },
    }
}

/// Reads the raw JSON of a list, and returns the first error that has a code.
fn of_list(json: &str) -> Option<ErrorResponse> {
    let entries: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    let entries = entries.into_iter().map(|entry| of_entry(entry.get(), ["errorType", "code"]));
    entries.into_iter().find(|entry| entry.code.is_some())
}

/// Reads an error that is a JSON object. Its code is the text of one of the two given members or, if neither
/// has a text, the number; the first member goes before the second.
fn of_entry(json: &str, [first, second]: [&str; 2]) -> ErrorResponse {
    let names = Members([first, second, "message", "description"]);
    let Ok([first, second, descriptions @ ..]) = names.of(json.as_bytes()) else {
        return ErrorResponse::default();
    };
    let number = |member: &Member<'_>| {
        let json = member.value("code").ok().flatten()?;
        json.bytes().all(|byte| byte.is_ascii_digit()).then(|| json.to_owned())
    };
    let codes = [first, second];
    let code = codes.iter().find_map(string).or_else(|| codes.iter().find_map(number));
    let description = descriptions.iter().find_map(string);
    ErrorResponse {
        is_error: code.is_some() || description.is_some(),
        code,
        description,
        ..ErrorResponse::default()
    }
}

fn string(member: &Member<'_>) -> Option<String> {
    member.text("error").ok().flatten().filter(|text| !text.is_empty())
}

/// Reads the error in a form; `None` if the text is no form or names no error.
fn of_form(text: &str) -> Option<ErrorResponse> {
    if text.starts_with(['<', '[', '{']) {
        return None;
    }
    let member = |name: &str| {
        let mut pairs = form_urlencoded::parse(text.as_bytes());
        pairs.find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.into_owned())
    };
    let code = member("error")?;
    let description = member("error_description");
    Some(ErrorResponse { is_error: true, code: Some(code), description, ..ErrorResponse::default() })
}
