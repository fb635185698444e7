//! The token endpoint's answers (RFC 6749 §5).

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;
use url::form_urlencoded;

use super::{Answer, Asked, IdToken, State, UnderWay};
use crate::access_token::jwt;
use crate::server::{Body, json};

impl State {
    pub(super) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let at = Instant::now();
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if head.method == Method::GET && path == "/authorize" {
            return Ok(self.authorize(head.uri.query().unwrap_or_default()));
        }
        if head.method == Method::GET && path.contains("/.well-known/") {
            return self.metadata(path).await;
        }
        if path != self.memory().token_path {
            return Ok(json(404, "{}"));
        }
        let _under_way = UnderWay::begin(&self);
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let form: Vec<(String, String)> = form_urlencoded::parse(&body).into_owned().collect();
        let refusal = self.refusal(&head.headers, &form);
        let (answer, delay, refusal) = {
            let mut memory = self.memory();
            let refusal = refusal.filter(|_| !memory.takes_all);
            let raw = String::from_utf8_lossy(&body).into_owned();
            memory.asked.push(Asked { at, headers: head.headers, form, raw });
            (memory.queue.pop_front(), memory.delay, refusal)
        };
        tokio::time::sleep(delay).await;
        let _ = self.is_held.subscribe().wait_for(|is_held| !is_held).await;
        match (answer, refusal) {
            (Some(Answer::Hangup), _) => Err(io::Error::other("told to hang up")),
            (Some(Answer::Echo(name)), _) => Ok(self.echo(name)),
            (Some(Answer::Fixed { status, fields, body }), _) => Ok(self.fixed(status, &fields, &body)),
            (_, Some((status, error))) => Ok(json(status, format!("{{\"error\":\"{error}\"}}"))),
            (Some(Answer::Late(delay)), None) => {
                tokio::time::sleep(delay).await;
                Ok(self.grant(None))
            }
            (Some(Answer::Lifetime(lifetime)), None) => Ok(self.grant(Some(lifetime))),
            (Some(Answer::SameAgain), None) => Ok(self.same_again()),
            (None, None) => Ok(self.grant(None)),
        }
    }

    /// The status and the error of a refused request (RFC 6749 §5.2).
    fn refusal(&self, headers: &HeaderMap, form: &[(String, String)]) -> Option<(u16, &'static str)> {
        let value = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let is_form = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        let is_known = match (basic, value("client_id")) {
            // One authentication method, not two.
            (Some(pair), None) => {
                let is_form = self.memory().expects_form_encoding;
                let encode = |text: &str| {
                    if !is_form {
                        return text.to_owned();
                    }
                    form_urlencoded::byte_serialize(text.as_bytes()).collect()
                };
                pair == STANDARD.encode(format!(
                    "{}:{}",
                    encode(&self.client_id),
                    encode(&self.client_secret)
                ))
            }
            (None, Some(id)) => id == self.client_id && value("client_secret") == Some(&self.client_secret),
            _ => false,
        };
        let is_known = is_known
            || basic.is_none() && self.memory().is_public && value("client_id") == Some(&self.client_id);
        if !is_form {
            Some((400, "invalid_request"))
        } else if !is_known {
            Some((401, "invalid_client"))
        } else {
            match value("grant_type") {
                Some("client_credentials") => None,
                Some("refresh_token") => {
                    let is_good = self.memory().refresh.take(value("refresh_token").unwrap_or_default());
                    (!is_good).then_some((400, "invalid_grant"))
                }
                Some("authorization_code") => {
                    let value = |name| value(name).unwrap_or_default();
                    let mut memory = self.memory();
                    let is_good =
                        memory.codes.take(value("code"), value("redirect_uri"), value("code_verifier"));
                    if is_good && memory.consent.is_lasting {
                        memory.refresh.expect();
                    }
                    (!is_good).then_some((400, "invalid_grant"))
                }
                _ => Some((400, "unsupported_grant_type")),
            }
        }
    }

    fn echo(&self, name: &str) -> Response<Body> {
        let memory = self.memory();
        let form = memory.asked.last().into_iter().flat_map(|asked| &asked.form);
        let value: String = form.filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect();
        let body = serde_json::json!({ "error": "invalid_client", "error_description": value });
        json(401, body.to_string())
    }

    fn grant(&self, lifetime: Option<u64>) -> Response<Body> {
        let lifetime = lifetime.unwrap_or(self.memory().lifetime);
        let token = self.issue(lifetime);
        let mut answer =
            serde_json::json!({ "access_token": token, "token_type": "Bearer", "expires_in": lifetime });
        let mut memory = self.memory();
        if let Some(next) = memory.refresh.hand_out() {
            answer["refresh_token"] = next.into();
        }
        if let Some(scope) = &memory.consent.scope {
            answer["scope"] = scope.as_str().into();
        }
        if let Some(nonce) = memory.nonce.take() {
            match &memory.consent.id_token {
                IdToken::Good => answer["id_token"] = jwt(&serde_json::json!({ "nonce": nonce })).into(),
                IdToken::Fixed(text) => answer["id_token"] = text.as_str().into(),
                IdToken::Missing => {}
            }
        }
        drop(memory);
        json(200, answer.to_string())
    }

    fn same_again(&self) -> Response<Body> {
        let memory = self.memory();
        let token = memory.issued.last().cloned().unwrap_or_default();
        let lifetime = memory.lifetime;
        drop(memory);
        json(
            200,
            format!("{{\"access_token\":\"{token}\",\"token_type\":\"bearer\",\"expires_in\":{lifetime}}}"),
        )
    }

    pub(super) fn fixed(&self, status: u16, fields: &[(&'static str, String)], body: &str) -> Response<Body> {
        let lifetime = self.memory().lifetime;
        let body = if body.contains("{token}") {
            body.replace("{token}", &self.issue(lifetime))
        } else {
            body.replace("{issuer}", self.issuer())
        };
        let mut response = json(status, body);
        if fields.iter().any(|(name, _)| *name == CONTENT_TYPE.as_str()) {
            response.headers_mut().remove(CONTENT_TYPE);
        }
        for (name, value) in fields {
            if let Ok(value) = value.parse() {
                response.headers_mut().append(*name, value);
            }
        }
        response
    }
}
