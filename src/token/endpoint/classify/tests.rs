//! Tests of the meaning of a token endpoint's responses, by one table, and of the members of a response.

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::config::AnswerFields;
use crate::token::endpoint::members::MAX_DEPTH;
use crate::token::endpoint::response::MAX_LIFETIME;

/// Classifies a response with a complete body, to a request with these settings.
fn answer_to(
    (holds_token, spends_refresh_token): (bool, bool),
    errors: &ErrorCodes,
    status: u16,
    fields: &[(&'static str, &str)],
    body: &[u8],
) -> Result<TokenResponse, TokenError> {
    let headers = fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
    let secrets = [SecretString::from("hunter2")];
    let asked = Asked {
        expected: Expected {
            fields: &AnswerFields::default(),
            token_types: &["Bearer".to_owned(), "N_A".to_owned()],
        },
        errors,
        secrets: &secrets,
        holds_token,
        spends_refresh_token,
    };
    let body = Body { bytes: body.to_owned().into(), is_complete: true };
    classify(StatusCode::from_u16(status).unwrap(), &headers.collect(), &body, &asked)
}

fn answer(status: u16, fields: &[(&'static str, &str)], body: &str) -> Result<TokenResponse, TokenError> {
    answer_to((false, false), &ErrorCodes::default(), status, fields, body.as_bytes())
}

fn lifetime_of(expires_in: &str) -> Result<TokenResponse, TokenError> {
    answer(200, &[], &format!("{{\"access_token\":\"t\",\"expires_in\":{expires_in}}}"))
}

/// A message "line 1, column 1" would be true of an HTML page, and would help nobody.
#[test]
fn a_page_in_the_place_of_a_response_is_reported_as_one() {
    for page in
        ["<html>Please log in</html>", "\r\n <!doctype html><p>Blocked", "<?xml version=\"1.0\"?><Error/>"]
    {
        let failure = answer(200, &[("content-type", "text/html")], page).unwrap_err();
        assert!(matches!(failure, TokenError::Malformed(Malformed::Page(_) | Malformed::Xml)), "{failure}");
        assert!(failure.to_string().contains("may have answered"), "{failure}");
    }
}

/// The body changes what is said about a response, and not what the response means.
#[test]
fn a_page_or_a_compressed_body_of_an_error_is_named_whatever_the_status() {
    let page = b"<html><title>Zugriff gesperrt f\xc3\xbcr hunter</title>".as_slice();
    for status in [400, 401, 403, 404, 500, 502, 503, 511] {
        for holds_token in [false, true] {
            let of = |fields: &[(&'static str, &str)], body: &[u8]| {
                answer_to((holds_token, false), &ErrorCodes::default(), status, fields, body).unwrap_err()
            };
            let empty = of(&[], b"");
            for (fields, body, words) in [
                (&[][..], page, "its body is an HTML page, titled \"Zugriff gesperrt für hunter\""),
                (&[("content-encoding", "br")], b"\x8b\x02", "its body is compressed (br)"),
                (&[], b"\x1f\x8b\x08\0", "its body is compressed (gzip)"),
            ] {
                let error = of(fields, body);
                assert!(error.to_string().contains(words), "{status}: {error}");
                assert_eq!((error.class(), error.outcome()), (empty.class(), empty.outcome()), "{status}");
                assert_eq!(error.refuses_client(), empty.refuses_client());
            }
        }
    }
    let quoting = answer(403, &[], "<html><title>no hunter2 here</title>").unwrap_err();
    assert!(quoting.to_string().contains("withheld"), "{quoting}");
}

/// The meaning of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Token,
    Transient,
    /// The server limits the rate of requests, and names this number of seconds.
    Throttled(u64),
    /// The server limits the rate of requests, and names no time: the wait is at least a minute.
    AMinute,
    /// The server refuses the grant.
    Dead,
    /// The server refuses the refresh token, perhaps only in passing.
    Passing,
    /// The server refuses the client.
    Client,
    Rejected,
}

use Class::{AMinute, Client, Dead, Passing, Rejected, Throttled, Token, Transient};

impl Class {
    fn of(outcome: &Result<TokenResponse, TokenError>) -> Self {
        const MINUTE: Duration = Duration::from_mins(1);
        match outcome {
            Ok(_) => Token,
            Err(TokenError::Server(_) | TokenError::Unavailable { .. } | TokenError::Malformed(_)) => {
                Transient
            }
            Err(TokenError::Throttled { retry_after: Some(wait), at_least: Duration::ZERO, .. }) => {
                Throttled(wait.as_secs())
            }
            Err(TokenError::Throttled { retry_after: None, at_least: MINUTE, .. }) => AMinute,
            Err(TokenError::Rejected { refusal: Refusal::Grant, .. }) => Dead,
            Err(TokenError::Rejected { refusal: Refusal::GrantInPassing, .. }) => Passing,
            Err(TokenError::Rejected { refusal: Refusal::Client, .. }) => Client,
            Err(TokenError::Rejected { refusal: Refusal::Request, .. }) => Rejected,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// The part of the situation that the meaning depends on.
#[derive(Clone, Copy, Debug)]
enum When {
    Always(Class),
    /// The meaning with a usable token, and the meaning without one.
    Held(Class, Class),
    /// The meaning for a request that spends a refresh token, and for any other request.
    Spent(Class, Class),
    /// As [`UNKNOWN`] while a usable token is held; else a refusal in passing for a request that spends a refresh token.
    NoReason,
}

use When::{Always, Held, NoReason, Spent};

/// Status, fields, body and meaning.
type Row<'a> = (u16, &'a [(&'static str, &'a str)], &'a [u8], When);

fn holds(table: &[Row<'_>], errors: &ErrorCodes) {
    for (status, fields, body, when) in table {
        for situation in [(false, false), (false, true), (true, false), (true, true)] {
            let expected = match (when, situation) {
                (Always(class) | Held(class, _), (true, _))
                | (Always(class) | Held(_, class), (false, _))
                | (Spent(class, _), (_, true))
                | (Spent(_, class), (_, false)) => *class,
                (NoReason, (true, _)) => Transient,
                (NoReason, (false, true)) => Passing,
                (NoReason, (false, false)) => Rejected,
            };
            let outcome = answer_to(situation, errors, *status, fields, body);
            let shown: String = body.escape_ascii().take(80).map(char::from).collect();
            let shown = format!("{status} {fields:?} {shown} {situation:?}: {outcome:?}");
            assert_eq!(Class::of(&outcome), expected, "{shown}");
        }
    }
}

type HeaderFields = &'static [(&'static str, &'static str)];

const SEVEN: HeaderFields = &[("retry-after", "7")];
const A_DATE: HeaderFields =
    &[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")];
const HTML: HeaderFields = &[("content-type", "text/html")];
const FORM: HeaderFields = &[("content-type", "application/x-www-form-urlencoded")];
const UNKNOWN: When = Held(Transient, Rejected);
const DEAD_WHILE_SPENT: When = Spent(Dead, Rejected);

/// The responses of a token endpoint, and the meaning of each.
const TABLE: &[Row<'_>] = &[
    (200, &[], br#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#, Always(Token)),
    (200, &[], br#"{"access_token":"t","token_type":"bearer"}"#, Always(Token)),
    (200, &[], br#"{"access_token":"t","token_type":"BEARER","id_token":"x","x":[{}]}"#, Always(Token)),
    (200, &[], br#"{"access_token":"t","token_type":"n_a"}"#, Always(Token)),
    (201, &[], br#"{"access_token":"t"}"#, Always(Token)),
    (200, HTML, br#"{"access_token":"t"}"#, Always(Token)),
    (200, SEVEN, br#"{"access_token":"t"}"#, Always(Token)),
    // The member `error` is present, but names no error.
    (200, &[], br#"{"access_token":"t","error":null}"#, Always(Token)),
    (200, &[], br#"{"access_token":"t","error":"","error_description":"none"}"#, Always(Token)),
    (200, &[], br#"{"access_token":"t","error":false,"errors":[]}"#, Always(Token)),
    (200, &[], br#"{"access_token":"t","error":0,"errors":[{}]}"#, Always(Token)),
    // 2xx without a usable token.
    (200, &[], b"", Always(Transient)),
    (200, &[], b"  \n", Always(Transient)),
    (200, &[], b"<html>Service is up</html>", Always(Transient)),
    (200, &[], br#"{"access_token":"t","expires_"#, Always(Transient)),
    (200, &[], b"{}", Always(Transient)),
    (200, &[], br#"{"access_token":null}"#, Always(Transient)),
    (200, &[], br#"{"access_token":5}"#, Always(Transient)),
    (200, &[], b"access_token=t&token_type=bearer", Always(Transient)),
    (200, &[], br#"{"access_token":"t","access_token":"u"}"#, Always(Transient)),
    (200, &[], b"\xef\xbb\xbf{\"access_token\":\"t\"}", Always(Token)),
    (200, &[], br#"{"access_token":"t"} trailing"#, Always(Transient)),
    (200, &[], br#"callback({"access_token":"t"})"#, Always(Transient)),
    (200, &[], br#"["access_token"]"#, Always(Transient)),
    (200, &[], br#"{"access_token":"t","token_type":"mac"}"#, Always(Transient)),
    (200, &[], br#"{"access_token":"t","token_type":"DPoP"}"#, Always(Transient)),
    (200, &[], br#"{"access_token":"t","expires_in":-1}"#, Always(Transient)),
    (200, &[], br#"{"access_token":"t","expires_in":NaN}"#, Always(Transient)),
    (204, &[], b"", Always(Transient)),
    (206, &[], br#"{"access_token":"t"}"#, Always(Transient)),
    (102, &[], b"", Always(Transient)),
    // 2xx with an error (GitHub, Slack) has the meaning of the error in a 400.
    (200, &[], br#"{"error":"invalid_grant"}"#, Always(Dead)),
    (200, FORM, b"error=bad_refresh_token&error_description=gone", DEAD_WHILE_SPENT),
    (200, &[], br#"{"ok":false,"error":"invalid_client"}"#, Always(Client)),
    (200, &[], br#"{"ok":false,"error":"fatal_error"}"#, UNKNOWN),
    (200, &[], br#"{"error":"server_error"}"#, Always(Transient)),
    (200, &[], br#"{"error":"slow_down"}"#, Always(AMinute)),
    (200, &[], br#"{"error":"x","error_description":"too many requests"}"#, Always(AMinute)),
    (200, SEVEN, br#"{"error":"invalid_grant"}"#, Always(Throttled(7))),
    (206, &[], br#"{"error":"invalid_grant"}"#, Always(Dead)),
    // The error in every encoding and place.
    (400, HTML, br#" {"error":"invalid_grant"}"#, Always(Dead)),
    (400, &[], b"\xef\xbb\xbf{\"error\":\"invalid_grant\"}", Always(Dead)),
    (400, &[], b"\xef\xbb\xbferror=invalid_grant", Always(Dead)),
    (400, &[], b"{\"error\":\"invalid_grant\",\"error_description\":\"ung\xfcltig\"}", Always(Dead)),
    (400, &[], b"error=invalid_grant&error_description=ung\xfcltig", Always(Dead)),
    (400, &[], b"error_description=a%20b&error=invalid%5Fgrant\r\n", Always(Dead)),
    (400, &[], br#"{"error":{"code":"invalid_grant","message":"x"}}"#, Always(Dead)),
    (400, &[], br#"{"error":{"status":"invalid_grant","code":400}}"#, Always(Dead)),
    (400, &[], br#"{"errors":[{"errorType":"invalid_grant","message":"x"}],"success":false}"#, Always(Dead)),
    (400, &[], br#"{"errors":[{},7,{"code":"invalid_grant"}]}"#, Always(Dead)),
    (400, &[], br#"{"error":"Invalid_Grant","x":1e999}"#, Always(Dead)),
    (400, &[], br#"{"error":"invalid_grant"} trailing"#, NoReason),
    (400, &[], br#"<a href="/?error=invalid_grant">"#, UNKNOWN),
    // Every error status with Retry-After.
    (400, SEVEN, br#"{"error":"invalid_grant"}"#, Always(Throttled(7))),
    (401, SEVEN, br#"{"error":"invalid_client"}"#, Always(Throttled(7))),
    (403, SEVEN, b"", Always(Throttled(7))),
    (404, SEVEN, b"<html>", Always(Throttled(7))),
    (408, SEVEN, b"", Always(Throttled(7))),
    (429, SEVEN, b"", Always(Throttled(7))),
    (429, A_DATE, b"", Always(Throttled(60))),
    (429, &[("retry-after", "31536000")], b"", Always(Throttled(31_536_000))),
    (500, SEVEN, b"", Always(Throttled(7))),
    (502, SEVEN, b"<html>", Always(Throttled(7))),
    (503, SEVEN, b"", Always(Throttled(7))),
    (503, A_DATE, b"", Always(Throttled(60))),
    (504, SEVEN, b"", Always(Throttled(7))),
    (400, &[("retry-after", "soon")], br#"{"error":"invalid_grant"}"#, Always(Dead)),
    (302, SEVEN, b"", Always(Rejected)),
    // A rate limit without a time.
    (429, &[], b"", Always(AMinute)),
    (429, &[("retry-after", "soon")], br#"{"error":"invalid_client"}"#, Always(AMinute)),
    (400, &[], br#"{"error":"slow_down"}"#, Always(AMinute)),
    (
        400,
        &[],
        br#"{"error":"invalid_request","error_description":"Rate Limit exceeded; try later"}"#,
        Always(AMinute),
    ),
    (
        400,
        &[("retry-after", "120")],
        br#"{"error":"invalid_request","error_description":"rate limit exceeded"}"#,
        Always(Throttled(120)),
    ),
    (
        400,
        &[],
        br#"{"error":"access_denied","error_description":"Rate limit exceeded: access_token not expired"}"#,
        Always(AMinute),
    ),
    (400, &[], br#"{"error":"invalid_request","description":"rate-limited"}"#, Always(AMinute)),
    (401, &[], br#"{"error":"too_many_requests"}"#, Always(AMinute)),
    (403, &[], br#"{"error":{"code":403,"message":"Quota exceeded"}}"#, Always(AMinute)),
    (403, HTML, b"<h1>Too Many Requests</h1>", Always(AMinute)),
    (403, &[], b"error=rate_limit_exceeded", Always(AMinute)),
    // Members other than the code and the description are not searched for words.
    (400, &[], br#"{"error":"invalid_grant","rate_limit":{"quota":5}}"#, Always(Dead)),
    (500, &[], b"quota", Always(Transient)),
    (400, &[], br#"{"error":"invalid_request","error_description":"API quota reached"}"#, Always(AMinute)),
    (400, &[], br#"{"error":"TooManyRequestsException"}"#, Always(AMinute)),
    (401, &[], br#"{"message":"Request was throttled."}"#, Always(AMinute)),
    (400, &[], br#"{"message":"Rate exceeded"}"#, Always(AMinute)),
    (
        400,
        &[],
        br#"{"error":"invalid_scope","error_description":"unexpected quotation mark"}"#,
        Always(Rejected),
    ),
    // A failure of the server.
    (500, &[], b"", Always(Transient)),
    (500, &[], br#"{"error":"invalid_grant"}"#, Always(Transient)),
    (502, &[], b"<html>", Always(Transient)),
    (503, &[], b"", Always(Transient)),
    (503, &[("retry-after", "soon")], b"", Always(Transient)),
    (504, &[], b"", Always(Transient)),
    (408, &[], b"", Always(Transient)),
    (421, &[], b"", Always(Transient)),
    (425, &[], b"", Always(Transient)),
    (400, &[], br#"{"error":"temporarily_unavailable"}"#, Always(Transient)),
    (401, &[], br#"{"error":"server_error"}"#, Always(Transient)),
    (302, &[], br#"{"error":"server_error"}"#, Always(Transient)),
    // Perhaps the answer of an ingress or of a firewall.
    (400, HTML, b"<html>", UNKNOWN),
    (400, &[], b"", NoReason),
    (400, &[], b"Bad Request", NoReason),
    (400, &[], br#"{"message":"No"}"#, NoReason),
    (200, &[], br#"{"error":true}"#, NoReason),
    (400, &[], br#"{"error":"no_such_code"}"#, UNKNOWN),
    (403, &[], b"", NoReason),
    (403, &[], b"{}", NoReason),
    (403, HTML, b"<h1>Blocked</h1>", UNKNOWN),
    (404, &[], b"", UNKNOWN),
    (418, &[], b"", UNKNOWN),
    // The server refuses the grant.
    (400, &[], br#"{"error":"invalid_grant"}"#, Always(Dead)),
    (401, &[], br#"{"error":"invalid_grant"}"#, Always(Dead)),
    (400, &[], br#"{"error":"bad_refresh_token"}"#, DEAD_WHILE_SPENT),
    (400, &[], br#"{"error":"invalid_refresh_token"}"#, DEAD_WHILE_SPENT),
    (400, &[], br#"{"error":"expired_token"}"#, DEAD_WHILE_SPENT),
    (400, &[], br#"{"error":"token_expired"}"#, DEAD_WHILE_SPENT),
    (400, &[], br#"{"error":"refresh_token_not_found"}"#, DEAD_WHILE_SPENT),
    (403, &[], br#"{"error":"token_revoked"}"#, DEAD_WHILE_SPENT),
    (
        400,
        &[],
        br#"{"error":"invalid_grant","error_description":"Refresh token is already being processed"}"#,
        Spent(Passing, Dead),
    ),
    (400, FORM, b"error=invalid_grant&error_description=refresh+in+progress", Spent(Passing, Dead)),
    (401, &[], br#"{"error":"invalid_grant","message":"Concurrent_refresh"}"#, Spent(Passing, Dead)),
    (400, &[], br#"{"error":"expired_token","message":"being processed"}"#, Spent(Passing, Rejected)),
    (400, &[], br#"{"error":"invalid_grant","message":"already used"}"#, Always(Dead)),
    (401, &[], br#"{"error":"token_revoked"}"#, Spent(Dead, Client)),
    (
        400,
        &[],
        br#"{"error":"unauthorized_client","error_description":"Invalid refresh token supplied"}"#,
        Spent(Dead, Client),
    ),
    (
        400,
        &[],
        br#"{"error":"unauthorized_client","error_description":"refresh_token expired"}"#,
        Spent(Dead, Client),
    ),
    (
        400,
        &[],
        br#"{"error":"unauthorized_client","error_description":"invalid grant type refresh_token"}"#,
        Always(Client),
    ),
    // The server refuses the client.
    (400, &[], br#"{"error":"unauthorized_client"}"#, Always(Client)),
    (400, &[], br#"{"error":"invalid_client"}"#, Always(Client)),
    (401, &[], br#"{"error":"invalid_client","error_description":"x"}"#, Always(Client)),
    (403, &[], br#"{"error":"access_denied","error_description":"Unauthorized"}"#, Always(Client)),
    (401, &[], b"", Always(Client)),
    (401, HTML, b"<html>", Always(Client)),
    (401, &[], br#"{"error":"no_such_code"}"#, Always(Client)),
    // A person must act.
    (400, &[], br#"{"error":"unsupported_grant_type"}"#, Always(Rejected)),
    (400, &[], br#"{"error":"invalid_scope"}"#, Always(Rejected)),
    (403, &[], br#"{"error":"invalid_scope"}"#, Always(Rejected)),
    (400, &[], br#"{"error":"invalid_target"}"#, Always(Rejected)),
    (400, &[], br#"{"error":"invalid_request","error_description":"no such parameter"}"#, Always(Rejected)),
    (301, &[("location", "https://elsewhere.test/")], b"", Always(Rejected)),
    (302, &[], b"", Always(Rejected)),
    (303, &[], br#"{"error":"invalid_grant"}"#, Always(Rejected)),
    (307, &[("location", "https://elsewhere.test/")], b"", Always(Rejected)),
    (308, &[], b"", Always(Rejected)),
];

#[test]
fn every_response_has_its_class() {
    holds(TABLE, &ErrorCodes::default());
    let huge = "x".repeat(70_000);
    holds(&[(200, &[], huge.as_bytes(), Always(Transient))], &ErrorCodes::default());
}

#[test]
fn the_configured_codes_add_to_those_that_are_known() {
    let list = |code: &str| vec![code.to_owned()];
    let errors = ErrorCodes {
        dead: list("session_over"),
        throttled: list("E17"),
        client: list("app_disabled"),
        transient: list("invalid_scope"),
    };
    holds(
        &[
            (400, &[], br#"{"error":"session_over"}"#, Always(Dead)),
            (500, &[], br#"{"error":"Session_Over"}"#, Always(Dead)),
            (200, &[], br#"{"error":"E17"}"#, Always(AMinute)),
            (500, &[], br#"{"error":{"code":"E17"}}"#, Always(AMinute)),
            (403, &[], br#"{"error":"app_disabled"}"#, Always(Client)),
            (400, &[], br#"{"error":"invalid_scope"}"#, Always(Transient)),
            (400, &[], br#"{"error":"invalid_grant"}"#, Always(Dead)),
        ],
        &errors,
    );
}

/// A message may lack its last bytes although the JSON object is complete.
#[test]
fn a_cut_message_keeps_a_whole_refresh_token_and_a_whole_error() {
    let cut = |status: u16, body: &str| {
        let body = Body { bytes: body.as_bytes().to_owned().into(), is_complete: false };
        let asked = Asked {
            expected: Expected { fields: &AnswerFields::default(), token_types: &["Bearer".to_owned()] },
            errors: &ErrorCodes::default(),
            secrets: &[],
            holds_token: false,
            spends_refresh_token: true,
        };
        classify(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body, &asked)
    };
    let whole = r#"{"access_token":"t","expires_in":60,"refresh_token":"r"}"#;

    let kept = cut(200, whole).unwrap();
    assert_eq!(kept.refresh_token.unwrap().expose_secret(), "r");
    assert_eq!((kept.access_token.as_str(), kept.flaw), ("", Some(Malformed::Incomplete)));
    for length in 0..whole.len() {
        let incomplete = Err(TokenError::Malformed(Malformed::Incomplete));
        assert_eq!(cut(200, &whole[..length]).map(|_| ()), incomplete, "{length}");
    }
    assert!(cut(200, r#"{"access_token":"t"}"#).is_err());
    assert!(cut(400, r#"{"error":"invalid_grant"}"#).unwrap_err().refuses_grant());
    // The cut may be within the code.
    assert!(!cut(400, "error=invalid_grant").unwrap_err().refuses_grant());
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

/// `fields` may lead to nested members; a member that has the whole path as its name takes precedence.
#[test]
fn a_member_is_found_at_its_path() {
    let path = |text: &str| text.parse().unwrap();
    let fields = AnswerFields {
        access_token: path("data.access_token"),
        expires_in: path("data.life.seconds"),
        refresh_token: path("data.refresh"),
        scope: path("data.scopes"),
    };
    let read = |body: &str| {
        let asked = Asked {
            expected: Expected { fields: &fields, token_types: &["Bearer".to_owned()] },
            errors: &ErrorCodes::default(),
            secrets: &[],
            holds_token: false,
            spends_refresh_token: false,
        };
        let body = Body { bytes: body.as_bytes().to_owned().into(), is_complete: true };
        classify(StatusCode::OK, &HeaderMap::new(), &body, &asked)
    };
    let malformed = |body: &str| read(body).map(|_| ()).unwrap_err();

    let found = read(
        r#"{"access_token":"no","data":{"access_token":"t","life":{"seconds":"60"},"refresh":"r","scopes":["a","b"]}}"#,
    )
    .unwrap();
    assert_eq!((found.access_token.as_str(), found.lifetime), ("t", Some(Duration::from_mins(1))));
    assert_eq!(found.refresh_token.unwrap().expose_secret(), "r");
    assert_eq!(found.scopes, Some(vec!["a".to_owned(), "b".to_owned()]));
    for (body, token) in [
        (r#"{"data.access_token":"whole","data":{"access_token":"t"}}"#, "whole"),
        (r#"{"data":{"access_token":"t"},"data.access_token":"whole"}"#, "whole"),
        (r#"{"data":{"access_token":"t","life":"60"}}"#, "t"),
        (r#"{"data":{"access_token":"t","life":null,"refresh":null}}"#, "t"),
    ] {
        let found = read(body).unwrap();
        assert_eq!((found.access_token.as_str(), found.lifetime), (token, None), "{body}");
    }
    for body in [
        r#"{"access_token":"t"}"#,
        r#"{"data":"t"}"#,
        r#"{"data":null}"#,
        r#"{"data":["access_token","t"]}"#,
        r#"{"data":{"data.access_token":"t"}}"#,
    ] {
        assert_eq!(malformed(body), TokenError::Malformed(Malformed::NoToken), "{body}");
    }
    for (body, name) in [
        (r#"{"data":{"access_token":"t"},"data":{}}"#, "refresh_token"),
        (r#"{"data":{"access_token":"t","access_token":"t"}}"#, "access_token"),
    ] {
        assert_eq!(malformed(body), TokenError::Malformed(Malformed::Repeated(name)), "{body}");
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
    for text in ["-1", "\"-5\"", "\"soon\"", "true", "[]", "{}", "\"\"", "\"NaN\"", "\"inf\"", "\"0x10\""] {
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
    // Nothing tells which of the two values is meant.
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
        r#""description":7,"message":null"#,
    ] {
        let error = answer(400, &[], &format!(r#"{{"error":"invalid_grant",{odd}}}"#)).unwrap_err();
        let is_it =
            matches!(&error, TokenError::Rejected { code, description: None, .. } if code == "invalid_grant");
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
    assert_eq!(
        scopes(r#"{"access_token":"t","scope":"a,b, c"}"#),
        Some(vec!["a".into(), "b".into(), "c".into()])
    );
    let listed = scopes(r#"{"access_token":"t","scope":["a","b"]}"#);
    assert_eq!(listed, Some(vec!["a".into(), "b".into()]));
}

#[test]
fn the_content_type_decides_whether_a_response_is_labelled_json() {
    let is_labelled =
        |kind| answer(200, &[("content-type", kind)], r#"{"access_token":"t"}"#).unwrap().is_labelled_json;

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
        situation in any::<(bool, bool)>(),
    ) {
        let retry_after = retry_after.filter(|text| HeaderValue::from_str(text).is_ok());
        let fields: Vec<_> = retry_after.iter().map(|value| ("retry-after", value.as_str())).collect();
        let _ = answer_to(situation, &ErrorCodes::default(), status, &fields, &body);
    }

    #[test]
    fn no_error_makes_it_panic_or_quotes_the_secret(code in ".{0,20}", name in "(error|errors|message|error_description)", shape in 0..4u8) {
        let code = serde_json::json!(format!("{code}hunter2"));
        let value = match shape {
            0 => code,
            1 => serde_json::json!({ "code": code, "message": code }),
            2 => serde_json::json!([{ "errorType": code }]),
            _ => serde_json::json!([code]),
        };
        let body = serde_json::json!({ name: value }).to_string();
        for status in [200, 302, 400, 401, 500] {
            let error = answer(status, &[], &body).unwrap_err();
            prop_assert!(!format!("{error} {error:?}").contains("hunter2"), "{:?}", error);
        }
    }
}
