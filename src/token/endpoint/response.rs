//! The response to a token request (RFC 6749 §5).
//!
//! [`classify`] decides what any response means. No bytes that a server can send make it panic, and its result quotes nothing
//! of the response but the code and the description of an error, redacted.

use std::time::{Duration, SystemTime};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use secrecy::SecretString;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::exchange::refuse_throttled;
use super::redact::redacted;
use crate::config::AnswerFields;
use crate::http::{retry_after, server_time};
use crate::token::error::{Malformed, NO_CODE, TokenError};

/// The longest lifetime of a token, a year; a longer one is shortened to this.
pub const MAX_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// The deepest nesting of a response's JSON.
const MAX_DEPTH: usize = 64;

/// The least wait after a 400 that limits the rate of requests; `retry_after_max` does not shorten it.
const MIN_RATE_LIMIT_WAIT: Duration = Duration::from_mins(1);

/// A successful response (RFC 6749 §5.1), before its token is checked against the credential's requirements.
#[derive(Clone)]
pub struct TokenResponse {
    /// The access token.
    pub access_token: String,
    /// The member `expires_in`; `None` if it is missing.
    pub lifetime: Option<Duration>,
    /// Whether the lifetime was longer than [`MAX_LIFETIME`] and was shortened.
    pub lifetime_was_cut: bool,
    /// Whether the Content-Type is one of JSON.
    pub is_labelled_json: bool,
    /// The granted scopes; `None` means as requested.
    pub scopes: Option<Vec<String>>,
    /// The server's clock, by the field `Date`.
    pub server_time: Option<SystemTime>,
    /// The new refresh token; `None` keeps the old one (RFC 6749 §6).
    pub refresh_token: Option<SecretString>,
    /// Why the access token is unusable. Such a response is an error, unless it has a refresh token, which must not be lost.
    pub flaw: Option<Malformed>,
}

impl std::fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenResponse")
            .field("lifetime", &self.lifetime)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// A member of a JSON object, as raw JSON.
#[derive(Clone, Copy, Default)]
enum Member<'a> {
    #[default]
    Missing,
    Once(&'a RawValue),
    Twice,
}

/// Reads the members of a JSON object that have these names; others are ignored (RFC 6749 §5.1). An invalid member does not
/// invalidate the others.
struct Members<'n, const N: usize>([&'n str; N]);

impl<const N: usize> Members<'_, N> {
    fn of(self, json: &[u8]) -> Result<[Member<'_>; N], serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(json);
        let members = self.deserialize(&mut json)?;
        json.end().map(|()| members)
    }
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, N> {
    type Value = [Member<'de>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Member<'de>; N];

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = [Member::Missing; N];
        while let Some(name) = map.next_key::<String>()? {
            let Some(at) = self.0.iter().position(|known| *known == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value()?;
            members[at] = match members[at] {
                Member::Missing => Member::Once(value),
                Member::Once(_) | Member::Twice => Member::Twice,
            };
        }
        Ok(members)
    }
}

impl Member<'_> {
    /// The value; `None` if it is missing or `null`. The name is for the error.
    fn value(&self, name: &'static str) -> Result<Option<&str>, Malformed> {
        match self {
            Self::Missing => Ok(None),
            Self::Once(value) => Ok(Some(value.get()).filter(|json| *json != "null")),
            Self::Twice => Err(Malformed::Repeated(name)),
        }
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, Malformed> {
        let read = |json| serde_json::from_str(json).map_err(|_| Malformed::NotText(name));
        self.value(name)?.map(read).transpose()
    }

    /// Words separated by blanks, as in RFC 6749 §3.3, or a list of words, as some servers send.
    fn words(&self, name: &'static str) -> Result<Option<Vec<String>>, Malformed> {
        let Some(json) = self.value(name)? else { return Ok(None) };
        if json.starts_with('[') {
            return serde_json::from_str(json).map(Some).map_err(|_| Malformed::NotText(name));
        }
        Ok(self.text(name)?.map(|text| text.split_whitespace().map(str::to_owned).collect()))
    }
}

/// Decides what a response means. An error quotes none of the secrets.
///
/// # Errors
///
/// [`TokenError`] for every response without a token.
pub fn classify(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    fields: &AnswerFields,
    secrets: &[SecretString],
) -> Result<TokenResponse, TokenError> {
    refuse_throttled(status, headers)?;
    match status.as_u16() {
        204..=206 => Err(TokenError::Malformed(Malformed::Status(status.as_u16()))),
        200..=299 => success(headers, body, fields).map_err(TokenError::Malformed),
        300..=399 => Err(TokenError::Rejected {
            status: status.as_u16(),
            code: "redirect".to_owned(),
            description: Some(
                "redirects are never followed: they would show the secret to another".to_owned(),
            ),
        }),
        408 => Err(TokenError::Server(408)),
        400..=499 => Err(client_error(status, headers, body, secrets)),
        500..=599 => Err(TokenError::Server(status.as_u16())),
        other => Err(TokenError::Malformed(Malformed::Status(other))),
    }
}

fn success(headers: &HeaderMap, body: &[u8], fields: &AnswerFields) -> Result<TokenResponse, Malformed> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Malformed::Empty);
    }
    if body.trim_ascii_start().starts_with(b"<") {
        return Err(Malformed::Markup);
    }
    if depth(body) > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    let names =
        Members([&fields.access_token, &fields.expires_in, "token_type", "scope", &fields.refresh_token]);
    let [access_token, expires_in, token_type, scope, refresh_token] =
        names.of(body).map_err(|error| Malformed::NotJson { line: error.line(), column: error.column() })?;
    let (refresh_token, its_flaw) = match refresh_token.text("refresh_token") {
        Ok(token) => (token.filter(|token| !token.is_empty()).map(SecretString::from), None),
        Err(flaw) => (None, Some(flaw)),
    };
    let usable = || {
        its_flaw.map_or(Ok(()), Err)?;
        let access_token = access_token.text("access_token")?.ok_or(Malformed::NoToken)?;
        let kind = token_type.text("token_type")?;
        if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(Malformed::TokenType);
        }
        let lifetime = expires_in.value("expires_in")?.map_or(Ok((None, false)), lifetime)?;
        Ok((access_token, lifetime, scope.words("scope")?))
    };
    let ((access_token, (lifetime, lifetime_was_cut), scopes), flaw) = match usable() {
        Ok(usable) => (usable, None),
        Err(flaw) if refresh_token.is_none() => return Err(flaw),
        Err(flaw) => ((String::new(), (None, false), None), Some(flaw)),
    };
    let is_labelled_json = headers.get(CONTENT_TYPE).is_some_and(is_json);
    let server_time = server_time(headers);
    Ok(TokenResponse {
        access_token,
        lifetime,
        lifetime_was_cut,
        is_labelled_json,
        scopes,
        server_time,
        refresh_token,
        flaw,
    })
}

/// The nesting of arrays and objects in a JSON text.
fn depth(json: &[u8]) -> usize {
    let (mut open, mut deepest, mut bytes) = (0_usize, 0, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            // Skips a string.
            b'"' => {
                while bytes.next().is_some_and(|byte| match byte {
                    b'\\' => bytes.next().is_some(),
                    byte => *byte != b'"',
                }) {}
            }
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

/// Whether a media type is `application/json` (RFC 6749 §5.1), or another one with the suffix of JSON (RFC 6839 §3.1).
fn is_json(content_type: &HeaderValue) -> bool {
    let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads `expires_in` from its raw JSON: a number, or a string that holds one. Answers whether the lifetime was shortened,
/// too.
///
/// Parses raw JSON, because servers send numbers that no number type holds.
fn lifetime(json: &str) -> Result<(Option<Duration>, bool), Malformed> {
    let text = match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(json).map_err(|_| Malformed::Lifetime)?,
        _ => json.to_owned(),
    };
    let text = text.trim();
    let looks_like_a_number = text.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if !looks_like_a_number {
        return Err(Malformed::Lifetime);
    }
    let seconds: f64 = text.parse().map_err(|_| Malformed::Lifetime)?;
    if seconds < 1.0 {
        return Ok((Some(Duration::ZERO), false));
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(lifetime) if lifetime <= MAX_LIFETIME => Ok((Some(lifetime), false)),
        _ => Ok((Some(MAX_LIFETIME), true)),
    }
}

fn client_error(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    secrets: &[SecretString],
) -> TokenError {
    // Without a legible body the status alone decides (RFC 6749 §5.2).
    let [code, description] = Members(["error", "error_description"]).of(body).unwrap_or_default();
    let code = code.text("error").ok().flatten();
    let description = description.text("error_description").ok().flatten();
    let is_rate_limit = code.as_deref() == Some("invalid_request")
        && description.as_ref().is_some_and(|text| text.to_ascii_lowercase().contains("rate limit"));
    if is_rate_limit {
        let (retry_after, at_least) = (retry_after(headers), MIN_RATE_LIMIT_WAIT);
        return TokenError::Throttled { status: status.as_u16(), retry_after, at_least };
    }
    TokenError::Rejected {
        status: status.as_u16(),
        code: code.map_or_else(|| NO_CODE.to_owned(), |code| redacted(&code, secrets)),
        description: description.map(|words| redacted(&words, secrets)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::{ExposeSecret, SecretString};

    use super::*;
    use crate::token::error::FailureClass;

    fn answer(status: u16, fields: &[(&'static str, &str)], body: &str) -> Result<TokenResponse, TokenError> {
        let headers = fields.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        let secrets = [SecretString::from("hunter2")];
        let fields = AnswerFields::default();
        classify(
            StatusCode::from_u16(status).unwrap(),
            &headers.collect(),
            body.as_bytes(),
            &fields,
            &secrets,
        )
    }

    fn lifetime_of(expires_in: &str) -> Result<TokenResponse, TokenError> {
        answer(200, &[], &format!("{{\"access_token\":\"t\",\"expires_in\":{expires_in}}}"))
    }

    /// Status, fields, body, and the class of failure; `None` is a token.
    type Row<'a> = (u16, &'a [(&'static str, &'a str)], &'a str, Option<FailureClass>);

    /// "Line 1, column 1" would be true of it, and help nobody.
    #[test]
    fn a_page_in_the_place_of_a_response_is_reported_as_one() {
        for page in [
            "<html>Please log in</html>",
            "\r\n <!doctype html><p>Blocked",
            "<?xml version=\"1.0\"?><Error/>",
        ] {
            let failure = answer(200, &[("content-type", "text/html")], page).unwrap_err();
            assert_eq!(failure, TokenError::Malformed(Malformed::Markup));
            assert!(failure.to_string().contains("HTML or XML"), "{failure}");
        }
    }

    /// The table of what a token endpoint may answer, and what each answer means.
    #[test]
    fn every_response_has_its_class() {
        const MINUTE: Duration = Duration::from_mins(1);
        let transient = Some(FailureClass::Transient);
        let rejected = Some(FailureClass::Rejected);
        let throttled = |retry_after| Some(FailureClass::Throttled { retry_after, at_least: Duration::ZERO });
        let a_minute = |retry_after| Some(FailureClass::Throttled { retry_after, at_least: MINUTE });
        let seven = [("retry-after", "7")];
        let date =
            [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")];
        let huge = "x".repeat(70_000);
        let table: &[Row<'_>] = &[
            (200, &[], r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#, None),
            (200, &[], r#"{"access_token":"t","token_type":"bearer"}"#, None),
            (200, &[], r#"{"access_token":"t","token_type":"BEARER","id_token":"x","x":[{}]}"#, None),
            (201, &[], r#"{"access_token":"t"}"#, None),
            (200, &[("content-type", "text/html")], r#"{"access_token":"t"}"#, None),
            // 2xx without a usable token.
            (200, &[], "", transient),
            (200, &[], "  \n", transient),
            (200, &[], "<html>Service is up</html>", transient),
            (200, &[], r#"{"access_token":"t","expires_"#, transient),
            (200, &[], "{}", transient),
            (200, &[], r#"{"access_token":null}"#, transient),
            (200, &[], r#"{"access_token":5}"#, transient),
            (200, &[], r#"{"error":"invalid_grant"}"#, transient),
            (200, &[], "access_token=t&token_type=bearer", transient),
            (200, &[], r#"{"access_token":"t","access_token":"u"}"#, transient),
            (200, &[], "\u{feff}{\"access_token\":\"t\"}", transient),
            (200, &[], r#"{"access_token":"t"} trailing"#, transient),
            (200, &[], r#"callback({"access_token":"t"})"#, transient),
            (200, &[], r#"["access_token"]"#, transient),
            (200, &[], r#"{"access_token":"t","token_type":"mac"}"#, transient),
            (200, &[], r#"{"access_token":"t","token_type":"DPoP"}"#, transient),
            (200, &[], r#"{"access_token":"t","token_type":"N_A"}"#, transient),
            (200, &[], r#"{"access_token":"t","expires_in":-1}"#, transient),
            (200, &[], r#"{"access_token":"t","expires_in":NaN}"#, transient),
            (200, &[], &huge, transient),
            (204, &[], "", transient),
            (206, &[], r#"{"access_token":"t"}"#, transient),
            // Asked to wait.
            (429, &seven, "", throttled(Some(Duration::from_secs(7)))),
            (429, &date, "", throttled(Some(MINUTE))),
            (429, &[], "", throttled(None)),
            (429, &[("retry-after", "soon")], "", throttled(None)),
            (429, &[("retry-after", "31536000")], "", throttled(Some(Duration::from_hours(8760)))),
            (503, &seven, "", throttled(Some(Duration::from_secs(7)))),
            (503, &date, "", throttled(Some(MINUTE))),
            (
                400,
                &[],
                r#"{"error":"invalid_request","error_description":"Rate Limit exceeded; try later"}"#,
                a_minute(None),
            ),
            (
                400,
                &[("retry-after", "120")],
                r#"{"error":"invalid_request","error_description":"rate limit exceeded"}"#,
                a_minute(Some(MINUTE * 2)),
            ),
            // The server's own trouble.
            (500, &[], "", transient),
            (502, &[], "<html>", transient),
            (503, &[], "", transient),
            (503, &[("retry-after", "soon")], "", transient),
            (504, &[], "", transient),
            (408, &[], "", transient),
            // Someone must act.
            (400, &[], r#"{"error":"invalid_grant"}"#, rejected),
            (400, &[], r#"{"error":"invalid_client"}"#, rejected),
            (401, &[], r#"{"error":"invalid_client","error_description":"x"}"#, rejected),
            (400, &[], r#"{"error":"unauthorized_client"}"#, rejected),
            (400, &[], r#"{"error":"unsupported_grant_type"}"#, rejected),
            (400, &[], r#"{"error":"invalid_scope"}"#, rejected),
            (400, &[], r#"{"error":"invalid_request","error_description":"no such parameter"}"#, rejected),
            (400, &[], "<html>", rejected),
            (401, &[], "", rejected),
            (403, &[], "", rejected),
            (404, &[], "", rejected),
            (418, &[], "", rejected),
            (301, &[("location", "https://elsewhere.test/")], "", rejected),
            (302, &[], "", rejected),
            (303, &[], "", rejected),
            (307, &[("location", "https://elsewhere.test/")], "", rejected),
            (308, &[], "", rejected),
        ];
        for (status, fields, body, class) in table {
            let outcome = answer(*status, fields, body);
            let got = outcome.as_ref().err().map(TokenError::class);
            let shown: String = body.chars().take(80).collect();
            assert_eq!(got, *class, "{status} {fields:?} {shown}: {outcome:?}");
        }
    }

    #[test]
    fn a_lifetime_is_a_number_of_seconds_in_any_notation() {
        for (text, seconds) in [
            ("3600", Some(3600)),
            ("\"3600\"", Some(3600)),
            ("\"3600 \"", Some(3600)),
            ("3600.0", Some(3600)),
            ("3.6e3", Some(3600)),
            ("5", Some(5)),
            ("0", Some(0)),
            ("\"0\"", Some(0)),
            ("null", None),
            ("31536000", Some(31_536_000)),
        ] {
            let grant = lifetime_of(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(grant.lifetime, seconds.map(Duration::from_secs), "{text}");
            assert!(!grant.lifetime_was_cut, "{text}");
        }
    }

    #[test]
    fn an_absurd_lifetime_is_shortened_to_a_year_and_reported() {
        let digits = "9".repeat(400);
        for text in ["99999999999", "1e308", "1e300", "18446744073709551616", "\"1e300\"", &digits] {
            let grant = lifetime_of(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(grant.lifetime, Some(MAX_LIFETIME), "{text}");
            assert!(grant.lifetime_was_cut, "{text}");
        }
    }

    #[test]
    fn a_lifetime_that_is_not_a_number_is_reported_without_its_text() {
        for text in ["-1", "\"-5\"", "\"soon\"", "true", "[]", "{}", "\"\"", "\"NaN\"", "\"inf\"", "\"0x10\""]
        {
            let error = lifetime_of(text).unwrap_err();
            assert_eq!(error, TokenError::Malformed(Malformed::Lifetime), "{text}");
            assert!(error.to_string().contains("expires_in"), "{error}");
        }
    }

    #[test]
    fn an_invalid_response_does_not_lose_its_refresh_token() {
        for (odd, flaw) in [
            (r#""access_token":5"#, Malformed::NotText("access_token")),
            (r#""access_token":{"value":"t"}"#, Malformed::NotText("access_token")),
            (r#""access_token":"t","access_token":"u""#, Malformed::Repeated("access_token")),
            (r#""access_token":null"#, Malformed::NoToken),
            (r#""token":"t""#, Malformed::NoToken),
            (r#""access_token":"t","token_type":["Bearer"]"#, Malformed::NotText("token_type")),
            (r#""access_token":"t","token_type":"mac""#, Malformed::TokenType),
            (r#""access_token":"t","expires_in":-1"#, Malformed::Lifetime),
            (r#""access_token":"t","expires_in":1,"expires_in":2"#, Malformed::Repeated("expires_in")),
            (r#""access_token":"t","scope":7"#, Malformed::NotText("scope")),
            (r#""access_token":"t","scope":["a",7]"#, Malformed::NotText("scope")),
            (r#""access_token":"t","scope":"a","scope":"a""#, Malformed::Repeated("scope")),
        ] {
            let grant = answer(200, &[], &format!(r#"{{{odd},"refresh_token":"r"}}"#)).expect(odd);
            assert_eq!(grant.flaw.as_ref(), Some(&flaw), "{odd}");
            assert_eq!(grant.refresh_token.unwrap().expose_secret(), "r", "{odd}");
            let error = answer(200, &[], &format!("{{{odd}}}")).unwrap_err();
            assert_eq!(error, TokenError::Malformed(flaw), "{odd}");
        }
        // Which of two it would be is not known.
        for (odd, flaw) in [
            (r#""refresh_token":"r","refresh_token":"s""#, Malformed::Repeated("refresh_token")),
            (r#""refresh_token":7"#, Malformed::NotText("refresh_token")),
        ] {
            let error = answer(200, &[], &format!(r#"{{"access_token":"t",{odd}}}"#)).unwrap_err();
            assert_eq!(error, TokenError::Malformed(flaw), "{odd}");
        }
    }

    #[test]
    fn an_error_is_classified_by_its_code_whatever_else_its_body_has() {
        for odd in [
            r#""error_description":{"en":"ended"}"#,
            r#""error_description":["ended"]"#,
            r#""error_description":"a","error_description":"b""#,
            r#""error_uri":7,"errors":[{}]"#,
        ] {
            let error = answer(400, &[], &format!(r#"{{"error":"invalid_grant",{odd}}}"#)).unwrap_err();
            let is_it = matches!(&error, TokenError::Rejected { code, description: None, .. } if code == "invalid_grant");
            assert!(is_it, "{odd}: {error:?}");
        }
    }

    #[test]
    fn granted_scopes_are_those_of_the_response() {
        let scopes = |body| answer(200, &[], body).unwrap().scopes;

        assert_eq!(scopes(r#"{"access_token":"t"}"#), None);
        assert_eq!(scopes(r#"{"access_token":"t","scope":"a  b"}"#), Some(vec!["a".into(), "b".into()]));
        assert_eq!(scopes(r#"{"access_token":"t","scope":""}"#), Some(vec![]));
        assert_eq!(scopes(r#"{"access_token":"t","scope":null}"#), None);
        let listed = scopes(r#"{"access_token":"t","scope":["a","b"]}"#);
        assert_eq!(listed, Some(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn the_content_type_decides_whether_a_response_is_labelled_json() {
        let is_labelled = |kind| {
            answer(200, &[("content-type", kind)], r#"{"access_token":"t"}"#).unwrap().is_labelled_json
        };

        for json in ["application/json", "Application/JSON; charset=utf-8", "application/token+json"] {
            assert!(is_labelled(json), "{json}");
        }
        for other in ["", "text/html", "text/json+html", "application/jsonp", "json", "\u{fc}"] {
            assert!(!is_labelled(other), "{other}");
        }
        assert!(!answer(200, &[], r#"{"access_token":"t"}"#).unwrap().is_labelled_json);
    }

    #[test]
    fn too_deep_a_nesting_is_refused_in_every_member() {
        let nested = |open: &str, close: &str, times: usize| {
            let inner = open.repeat(times) + "1" + &close.repeat(times);
            answer(200, &[], &format!(r#"{{"x":{inner},"access_token":"t"}}"#))
        };

        assert!(nested("[", "]", MAX_DEPTH - 1).is_ok());
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            for times in [MAX_DEPTH, 10_000] {
                let error = nested(open, close, times).unwrap_err();
                assert!(matches!(error, TokenError::Malformed(Malformed::TooDeep)), "{error:?}");
            }
        }
        // Brackets in a string are characters.
        let text = r#"{"x":"[[[\"[[[\\","access_token":"t"}"#.replace('[', &"[".repeat(100));
        assert!(answer(200, &[], &text).is_ok());
    }

    #[test]
    fn an_error_does_not_quote_its_response() {
        let grant = answer(200, &[], r#"{"access_token":"s3cr3t"}"#).unwrap();
        assert!(!format!("{grant:?}").contains("s3cr3t"));
        for body in [r#"{"access_token":"s3cr3t","access_token":"s3cr3t"}"#, "s3cr3t", r#"{"a":"s3cr3t""#] {
            let error = answer(200, &[], body).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[test]
    fn an_error_that_echoes_the_secret_is_reported_without_it() {
        let body =
            format!("{{\"error\":\"invalid_client\",\"error_description\":\"{}hunter2\"}}", "x".repeat(195));
        let told = answer(401, &[], &body).unwrap_err().to_string();
        assert!(told.contains("invalid_client, \"(withheld"), "{told}");

        let told = answer(401, &[], r#"{"error":"hunter2"}"#).unwrap_err().to_string();
        assert!(told.contains("(withheld"), "{told}");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            status in 100u16..=599,
            retry_after in proptest::option::of("[ -~]{0,40}"),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut headers = HeaderMap::new();
            if let Some(value) = retry_after.and_then(|text| HeaderValue::from_str(&text).ok()) {
                headers.insert("retry-after", value);
            }
            let status = StatusCode::from_u16(status).unwrap();
            let _ = classify(status, &headers, &body, &AnswerFields::default(), &["hunter2".into()]);
        }

        #[test]
        fn no_lifetime_makes_it_panic_or_is_longer_than_a_year(text in "[-+.eE0-9\"a-z ]{0,30}") {
            if let Ok((Some(lifetime), _)) = lifetime(&text) {
                prop_assert!(lifetime <= MAX_LIFETIME);
            }
        }
    }
}
