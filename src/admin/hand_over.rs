//! Reads the grant in the body of a request strictly, and never quotes it.

use std::error::Error;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body_util::LengthLimitError;
use serde::Deserialize;

use crate::http::Problem;
use crate::token::{GrantOrigin, NewGrant};

/// The most bytes of a body: as many as a response of a token endpoint may have.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The timeout of reading the whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of a hand-over: the origin of the grant, and the members of a token response that are needed (RFC 6749 §5.1).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HandedOver {
    client_id: String,
    issuer: Option<String>,
    token_url: Option<String>,
    refresh_token: String,
    access_token: Option<String>,
    expires_in: Option<u64>,
    scope: Option<String>,
    refresh_expires_in: Option<u64>,
}

/// The body of a request that needs no content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoContent {}

/// The grant in the body of a request.
///
/// # Errors
///
/// The body is not a grant. The error states the position, but no content, which may be a secret.
pub(super) async fn grant(head: &Parts, body: Body) -> Result<NewGrant, Problem> {
    let bytes = read(body).await?;
    check_type(&head.headers)?;
    let expected = "one JSON object with `refresh_token`, `client_id` and `issuer` or `token_url`, as in the credential, \
                    and optionally `access_token`, `expires_in` and `refresh_expires_in` (whole seconds) and `scope`, each \
                    once and nothing else";
    let handed_over: HandedOver = parse(&bytes, expected)?;
    let HandedOver {
        client_id,
        issuer,
        token_url,
        refresh_token,
        access_token,
        expires_in,
        refresh_expires_in,
        scope,
    } = handed_over;
    if issuer.is_some() == token_url.is_some() {
        return Err(bad_request(format!(
            "The body must be {expected}; it has both of `issuer` and `token_url`, or neither."
        )));
    }
    Ok(NewGrant {
        origin: GrantOrigin { client_id, issuer, token_url },
        refresh_token: refresh_token.into(),
        access_token: access_token.map(Into::into),
        lifetime: expires_in.map(Duration::from_secs),
        scopes: scope.map(|scope| scope.split_whitespace().map(str::to_owned).collect()),
        refresh_lifetime: refresh_expires_in.map(Duration::from_secs),
    })
}

/// Reads a body that must be empty or an empty JSON object.
///
/// # Errors
///
/// The body has content.
pub(super) async fn no_content(head: &Parts, body: Body) -> Result<(), Problem> {
    let bytes = read(body).await?;
    if bytes.is_empty() {
        return Ok(());
    }
    check_type(&head.headers)?;
    parse::<NoContent>(&bytes, "empty or an empty JSON object").map(|NoContent {}| ())
}

async fn read(body: Body) -> Result<Vec<u8>, Problem> {
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(error)) if is_too_large(&error) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "Body too large",
            format!("The body is larger than {MAX_BODY_BYTES} bytes."),
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

/// Requires JSON. Pages of other sites can send some other types without the permission of this server.
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
        bad_request(format!("The body must be {expected}; an error is at line {line}, column {column}."))
    };
    // serde would also accept an array of the values.
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
    async fn a_grant_needs_its_refresh_token_and_its_origin_alone() {
        let minimal = r#"{"refresh_token":"r","client_id":"c","token_url":"https://as.test/t"}"#;
        let grant = read_as("application/json; charset=utf-8", minimal).await.unwrap();
        let token_url = Some("https://as.test/t".to_owned());
        assert_eq!(grant.origin, GrantOrigin { client_id: "c".to_owned(), issuer: None, token_url });
        assert_eq!(grant.refresh_token.expose_secret(), "r");
        assert!(grant.access_token.is_none() && grant.lifetime.is_none() && grant.scopes.is_none());

        let all = r#" {"client_id":"c","issuer":"https://as.test","refresh_token":"r","access_token":"a","expires_in":3599,"scope":"a  b","refresh_expires_in":7} "#;
        let grant = read_as("APPLICATION/JSON", all).await.unwrap();
        assert_eq!(grant.access_token.unwrap().expose_secret(), "a");
        assert_eq!(grant.lifetime, Some(Duration::from_secs(3599)));
        assert_eq!(grant.scopes.unwrap(), ["a", "b"]);
        assert_eq!(grant.refresh_lifetime, Some(Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn any_other_body_is_refused_and_not_quoted() {
        for body in [
            "",
            "hunter2",
            "[\"hunter2\"]",
            "[\"hunter2\", null, null, null]",
            "{}",
            r#"{"ORIGIN,"access_token":"hunter2"}"#,
            r#"{"ORIGIN,"refresh_token":"hunter2""#,
            r#"{"ORIGIN,"refresh_token":"hunter2"} x"#,
            r#"{"ORIGIN,"refresh_token":"hunter2","refresh_token":"hunter2"}"#,
            r#"{"ORIGIN,"refresh_token":"hunter2","hunter2":"x"}"#,
            r#"{"ORIGIN,"refresh_token":"r","token_type":"hunter2"}"#,
            r#"{"ORIGIN,"refresh_token":["hunter2"]}"#,
            r#"{"ORIGIN,"refresh_token":null}"#,
            r#"{"ORIGIN,"refresh_token":"r","access_token":{"hunter2":1}}"#,
            r#"{"ORIGIN,"refresh_token":"r","expires_in":"hunter2"}"#,
            r#"{"ORIGIN,"refresh_token":"r","expires_in":-1}"#,
            r#"{"ORIGIN,"refresh_token":"r","expires_in":1e400}"#,
            r#"{"ORIGIN,"refresh_token":"r","scope":["hunter2"]}"#,
            // Without the origin, or with an ambiguous one.
            r#"{"refresh_token":"hunter2"}"#,
            r#"{"refresh_token":"hunter2","client_id":"c"}"#,
            r#"{"refresh_token":"hunter2","token_url":"u"}"#,
            r#"{"ORIGIN,"refresh_token":"hunter2","token_url":"u"}"#,
        ] {
            let body = body.replace("\"ORIGIN", "\"client_id\":\"c\",\"issuer\":\"i\"");
            let problem = read_as("application/json", &body).await.unwrap_err();
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
            let frame = "{\"client_id\":\"c\",\"issuer\":\"i\",\"refresh_token\":\"";
            format!("{frame}{}\"}}", "r".repeat(bytes - frame.len() - 2))
        };

        assert!(read_as("application/json", &body(MAX_BODY_BYTES)).await.is_ok());
        let problem = read_as("application/json", &body(MAX_BODY_BYTES + 1)).await.unwrap_err();
        assert_eq!(problem.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_refused_in_time() {
        let (head, ()) = Request::post("/").body(()).unwrap().into_parts();
        let stalls = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();

        let problem = no_content(&head, Body::from_stream(stalls)).await.unwrap_err();

        assert_eq!(problem.status, StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn a_request_that_needs_no_content_accepts_an_empty_object() {
        let empty = Request::post("/").body(()).unwrap().into_parts().0;
        assert!(no_content(&empty, Body::empty()).await.is_ok());
        assert!(no_content(&empty, Body::from("{}")).await.is_err());
        let json =
            Request::post("/").header(CONTENT_TYPE, "application/json").body(()).unwrap().into_parts().0;
        assert!(no_content(&json, Body::from("{}")).await.is_ok());
        assert!(no_content(&json, Body::from("{\"x\":1}")).await.is_err());
    }
}
