//! Synthetic response to a caller's own OAuth login (`login_stub`). The login is never forwarded.
//!
//! Some SDKs cannot work without tokens of their own. The stub issues worthless ones; the credential's token replaces the
//! access token in each request. Some applications stop unless the response has a refresh token and the scopes that they
//! asked for, so the response names both.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::proxy::body::replay::{BodyError, ReplayBody};
use crate::proxy::downstream::request_body::ClientBody;

/// The tokens of each response.
const WORTHLESS_TOKEN: &str = "bearerd-local";
/// The lifetime of Genesys Cloud's tokens: a day.
const LIFETIME_SECONDS: u32 = 86399;
/// The longest login whose parameters are read.
const MAX_READ_BYTES: usize = 64 * 1024;

/// The members of a token response (RFC 6749 §5.1).
#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'static str,
    token_type: &'static str,
    expires_in: u32,
    refresh_token: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
}

/// Reads the login to its end, and answers with the scopes that the login asks for, or else with `scopes`.
///
/// # Errors
///
/// [`BodyError`] if the body is too large, stalls or ends prematurely.
pub(super) async fn answer(
    request_body: &ReplayBody<ClientBody>,
    query: &str,
    scopes: &str,
) -> Result<Response<Bytes>, BodyError> {
    let mut body = request_body.first();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let login = kept(request_body).await?;
    request_body.free_buffer();
    let asked = asked_scopes(&login, query);
    Ok(response(if asked.is_empty() { scopes } else { &asked }))
}

/// The login, from the replay buffer; empty if the login is longer than [`MAX_READ_BYTES`] or was not kept. The replay
/// buffer is what a request may occupy: nothing else is kept of the body.
async fn kept(request_body: &ReplayBody<ClientBody>) -> Result<Vec<u8>, BodyError> {
    let mut login = Vec::new();
    let Some(mut body) = request_body.replay() else { return Ok(login) };
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if login.len() + data.len() > MAX_READ_BYTES {
            return Ok(Vec::new());
        }
        login.extend_from_slice(&data);
    }
    Ok(login)
}

/// The scopes that a login asks for in its body (a form or JSON) or its query. Characters that no scope may have
/// (RFC 6749 §3.3) are left out.
fn asked_scopes(login: &[u8], query: &str) -> String {
    #[derive(Deserialize)]
    struct Login {
        scope: Option<String>,
    }
    let of_form = |form: &[u8]| {
        let mut pairs = form_urlencoded::parse(form);
        pairs.find(|(name, _)| name == "scope").map_or_else(String::new, |(_, scope)| clean(&scope))
    };
    let in_body = if login.trim_ascii_start().starts_with(b"{") {
        let scope = serde_json::from_slice::<Login>(login).ok().and_then(|login| login.scope);
        scope.map_or_else(String::new, |scope| clean(&scope))
    } else {
        of_form(login)
    };
    if in_body.is_empty() { of_form(query.as_bytes()) } else { in_body }
}

/// The words of a text, separated by one blank, with only the characters that a scope may have.
fn clean(text: &str) -> String {
    let is_legal = |c: &char| matches!(c, '\u{21}' | '\u{23}'..='\u{5b}' | '\u{5d}'..='\u{7e}');
    let words = text.split_whitespace().map(|word| word.chars().filter(is_legal).collect::<String>());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The token response.
fn response(scope: &str) -> Response<Bytes> {
    let json = serde_json::to_vec(&TokenResponse {
        access_token: WORTHLESS_TOKEN,
        token_type: "bearer",
        expires_in: LIFETIME_SECONDS,
        refresh_token: WORTHLESS_TOKEN,
        scope,
    });
    // Texts and a number always become JSON.
    let mut response = Response::new(Bytes::from(json.unwrap_or_default()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_scopes_of_a_login_are_found_in_a_form_in_json_and_in_the_query() {
        for (body, query, scopes) in [
            ("grant_type=x&scope=a%20b&client_id=c", "", "a b"),
            ("scope=a+b:c", "scope=other", "a b:c"),
            (" {\"scope\":\"a b\",\"x\":[1]}", "", "a b"),
            ("{\"scope\":\"a\\u0020b\"}", "", "a b"),
            ("", "x=y&scope=a", "a"),
            ("scope=", "scope=a", "a"),
            ("Scope=a", "", ""),
            ("{\"scope\":[\"a\"]}", "", ""),
            ("{\"scope\":\"a\"", "", ""),
            ("grant_type=x", "", ""),
            // Characters that no scope may have.
            ("scope=a%22b%5Cc%00+%C3%A9+%0d%0ad", "", "abc d"),
        ] {
            assert_eq!(asked_scopes(body.as_bytes(), query), scopes, "{body} {query}");
        }
    }

    proptest! {
        #[test]
        fn no_login_makes_it_panic_or_brings_an_illegal_character(
            body in prop::collection::vec(any::<u8>(), 0..100), query in ".{0,40}", scope in ".{0,40}",
        ) {
            asked_scopes(&body, &query);
            let json = serde_json::json!({ "scope": scope }).to_string();
            let asked = asked_scopes(json.as_bytes(), "");
            prop_assert!(asked.bytes().all(|byte| (b' '..=b'~').contains(&byte) && !b"\"\\".contains(&byte)));
        }
    }
}
