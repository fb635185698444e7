//! Answers to authorization requests (RFC 6749 §4.1.2) and to requests for metadata (RFC 8414 §3).

use std::io;
use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};
use url::{Url, form_urlencoded};

use super::{Answer, State};
use crate::server::json;
use crate::server::{Body, whole};

impl State {
    pub(super) fn issuer(&self) -> &str {
        self.issuer.get().map_or("", String::as_str)
    }

    /// Redirects the browser back with a code, as after a login and consent.
    pub(super) fn authorize(self: &Arc<Self>, query: &str) -> Response<Body> {
        let query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let value = |name: &str| {
            query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str()).to_owned()
        };
        let (nonce, asks_for_id_token) =
            (value("nonce"), value("scope").split(' ').any(|scope| scope == "openid"));
        // As some servers do, this one insists on a nonce.
        let is_good = value("response_type") == "code"
            && value("client_id") == self.client_id
            && value("code_challenge_method") == "S256"
            && asks_for_id_token != nonce.is_empty();
        let (challenge, redirect_uri, state) =
            (value("code_challenge"), value("redirect_uri"), value("state"));
        let mut memory = self.memory();
        memory.authorized.push(query);
        let Some(mut back) = Url::parse(&redirect_uri).ok().filter(|_| is_good) else {
            return json(400, "{\"error\":\"invalid_request\"}");
        };
        memory.nonce = asks_for_id_token.then_some(nonce);
        let consent = memory.consent.clone();
        {
            let mut answer = back.query_pairs_mut();
            if consent.is_denied {
                answer.append_pair("error", "access_denied");
                answer.append_pair("error_description", "the person\u{1b}[31m said no");
            } else {
                answer.append_pair("code", &memory.codes.begin(&challenge, &redirect_uri));
            }
            answer.append_pair("state", &state);
            if let Some(iss) = &consent.iss {
                answer.append_pair("iss", iss);
            }
        }
        let mut response = Response::new(whole(""));
        *response.status_mut() = StatusCode::FOUND;
        if let Ok(back) = HeaderValue::from_str(back.as_str()) {
            response.headers_mut().insert(LOCATION, back);
        }
        response
    }

    /// The issuer's metadata, or the answer in its place.
    pub(super) async fn metadata(&self, path: &str) -> io::Result<Response<Body>> {
        let (answer, delay, token_path) = {
            let mut memory = self.memory();
            memory.metadata_asked.push(path.to_owned());
            (memory.metadata.get(path).cloned(), memory.delay, memory.token_path.clone())
        };
        tokio::time::sleep(delay).await;
        match answer {
            Some(Answer::Hangup) => return Err(io::Error::other("told to hang up")),
            Some(Answer::Late(delay)) => tokio::time::sleep(delay).await,
            Some(Answer::Fixed { status, fields, body }) => return Ok(self.fixed(status, &fields, &body)),
            _ => {}
        }
        let issuer = self.issuer();
        let behind = path.replace("/.well-known/oauth-authorization-server", "");
        let behind = behind.replace("/.well-known/openid-configuration", "");
        let document = serde_json::json!({
            "issuer": format!("{issuer}{behind}"),
            "token_endpoint": format!("{issuer}{token_path}"),
            "authorization_endpoint": format!("{issuer}/authorize"),
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        });
        Ok(json(200, document.to_string()))
    }
}
