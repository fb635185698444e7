//! A grant in the body of a request: read strictly, and never quoted.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::LengthLimitError;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};

use crate::http::Problem;
use crate::token::NewGrant;

/// As much as an answer of a token endpoint may have.
const MOST_BYTES: usize = 64 * 1024;
/// For the whole of it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a hand-over: what a token endpoint answered, as far as it is of use here (RFC 6749 §5.1).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HandedOver {
    #[serde(deserialize_with = "secret")]
    refresh_token: SecretString,
    #[serde(default, deserialize_with = "optional_secret")]
    access_token: Option<SecretString>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    scope: Option<String>,
}

/// The body of a request that needs none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Option::<String>::deserialize(deserializer).map(|text| text.map(SecretString::from))
}

/// The grant that a request hands over.
///
/// # Errors
///
/// Why its body is none. It may hold a secret, so nothing of it is said but where reading stopped.
pub async fn grant(head: &Parts, body: Body) -> Result<NewGrant, Problem> {
    let bytes = read(body).await?;
    check_type(&head.headers)?;
    let expected = "one JSON object with `refresh_token` and, as far as they are known, `access_token`, \
                    `expires_in` (whole seconds) and `scope`, each once and nothing else";
    let HandedOver { refresh_token, access_token, expires_in, scope } = parse(&bytes, expected)?;
    Ok(NewGrant {
        refresh_token,
        access_token,
        lifetime: expires_in.map(Duration::from_secs),
        scopes: scope.map(|scope| scope.split_whitespace().map(str::to_owned).collect()),
    })
}

/// Reads a body that has nothing to say.
///
/// # Errors
///
/// That it has.
pub async fn nothing(head: &Parts, body: Body) -> Result<(), Problem> {
    let bytes = read(body).await?;
    if bytes.is_empty() {
        return Ok(());
    }
    check_type(&head.headers)?;
    parse::<Nothing>(&bytes, "no body, or an empty JSON object").map(|Nothing {}| ())
}

async fn read(body: Body) -> Result<Vec<u8>, Problem> {
    match tokio::time::timeout(TIMEOUT, to_bytes(body, MOST_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) if is_too_large(&error) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "Body too large",
            format!("The body is larger than {MOST_BYTES} bytes."),
        )),
        Ok(Err(_)) => Err(bad_request("The body is incomplete.".to_owned())),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "Request timeout",
            "The body did not arrive in time.",
        )),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    error.source().is_some_and(<dyn Error>::is::<LengthLimitError>)
}

/// A form of a page can have any other type without asking.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let essence = types.next().and_then(|value| value.to_str().ok()?.split(';').next());
    if essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
        && types.next().is_none()
    {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "not_json",
        "Not JSON",
        "The body must have `Content-Type: application/json`.",
    ))
}

fn parse<'b, T: Deserialize<'b>>(bytes: &'b [u8], expected: &str) -> Result<T, Problem> {
    let wrong = |line, column| {
        bad_request(format!("The body must be {expected}. It is not, at line {line}, column {column}."))
    };
    // serde would take a list of the values too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(wrong(1, 1));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(error.line(), error.column()))
}

fn bad_request(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", "Bad request", detail)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use secrecy::ExposeSecret;

    use super::*;

    async fn read_as(kind: &str, body: &str) -> Result<NewGrant, Problem> {
        let (head, ()) = Request::post("/").header(CONTENT_TYPE, kind).body(()).unwrap().into_parts();
        grant(&head, Body::from(body.to_owned())).await
    }

    #[tokio::test]
    async fn a_grant_needs_its_refresh_token_alone() {
        let grant = read_as("application/json; charset=utf-8", "{\"refresh_token\":\"r\"}").await.unwrap();
        assert_eq!(grant.refresh_token.expose_secret(), "r");
        assert!(grant.access_token.is_none() && grant.lifetime.is_none() && grant.scopes.is_none());

        let all = r#" {"refresh_token":"r","access_token":"a","expires_in":3599,"scope":"a  b"} "#;
        let grant = read_as("APPLICATION/JSON", all).await.unwrap();
        assert_eq!(grant.access_token.unwrap().expose_secret(), "a");
        assert_eq!(grant.lifetime, Some(Duration::from_secs(3599)));
        assert_eq!(grant.scopes.unwrap(), ["a", "b"]);
    }

    #[tokio::test]
    async fn whatever_else_a_body_says_is_refused_and_not_quoted() {
        for body in [
            "",
            "hunter2",
            "[\"hunter2\"]",
            "[\"hunter2\", null, null, null]",
            "{}",
            r#"{"access_token":"hunter2"}"#,
            r#"{"refresh_token":"hunter2""#,
            r#"{"refresh_token":"hunter2"} x"#,
            r#"{"refresh_token":"hunter2","refresh_token":"hunter2"}"#,
            r#"{"refresh_token":"hunter2","hunter2":"x"}"#,
            r#"{"refresh_token":"r","token_type":"hunter2"}"#,
            r#"{"refresh_token":["hunter2"]}"#,
            r#"{"refresh_token":null}"#,
            r#"{"refresh_token":"r","access_token":{"hunter2":1}}"#,
            r#"{"refresh_token":"r","expires_in":"hunter2"}"#,
            r#"{"refresh_token":"r","expires_in":-1}"#,
            r#"{"refresh_token":"r","expires_in":1e400}"#,
            r#"{"refresh_token":"r","scope":["hunter2"]}"#,
        ] {
            let problem = read_as("application/json", body).await.unwrap_err();
            assert_eq!(problem.status, StatusCode::BAD_REQUEST, "{body}");
            assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
        }
    }

    #[tokio::test]
    async fn another_type_or_none_is_refused() {
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
            let problem = read_as(kind, "{\"refresh_token\":\"r\"}").await.unwrap_err();
            assert_eq!(problem.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
        }
    }

    #[tokio::test]
    async fn a_body_of_64_kib_is_read_and_a_larger_one_is_not() {
        let body = |bytes: usize| {
            let frame = "{\"refresh_token\":\"\"}".len();
            format!("{{\"refresh_token\":\"{}\"}}", "r".repeat(bytes - frame))
        };

        assert!(read_as("application/json", &body(MOST_BYTES)).await.is_ok());
        let problem = read_as("application/json", &body(MOST_BYTES + 1)).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_long() {
        let (head, ()) = Request::post("/").body(()).unwrap().into_parts();
        let stalls = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();

        let problem = nothing(&head, Body::from_stream(stalls)).await.unwrap_err();

        assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn a_request_that_needs_no_body_takes_an_empty_object() {
        let empty = Request::post("/").body(()).unwrap().into_parts().0;
        assert!(nothing(&empty, Body::empty()).await.is_ok());
        assert!(nothing(&empty, Body::from("{}")).await.is_err());
        let json =
            Request::post("/").header(CONTENT_TYPE, "application/json").body(()).unwrap().into_parts().0;
        assert!(nothing(&json, Body::from("{}")).await.is_ok());
        assert!(nothing(&json, Body::from("{\"x\":1}")).await.is_err());
    }
}
