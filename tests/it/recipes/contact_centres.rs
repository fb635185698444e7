//! Contact-centre platforms that behave as their documentation says: each realm issues tokens and serves an API that
//! accepts only these.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use testkit::server::{Body, whole};
use tokio::time::Instant;
use url::Url;

use crate::harness::Internet;
use testkit::harness::request::TEST_ID;

/// A token endpoint, the client it knows, and the API that accepts its tokens.
#[derive(Clone, Debug, Default)]
pub(super) struct Realm {
    pub token_host: &'static str,
    pub token_path: &'static str,
    pub api_host: &'static str,
    /// Parameters that every token request must have.
    pub expects: Vec<(&'static str, &'static str)>,
    /// Client id and secret, if the client authenticates with HTTP Basic.
    pub basic: Option<(&'static str, &'static str)>,
    /// Whether token requests must be JSON; other requests get 401.
    pub is_json: bool,
    /// The lifetime of tokens, in seconds.
    pub lifetime: u64,
    pub scope: &'static str,
    /// Further claims of the tokens, which are JWTs.
    pub claims: Value,
    /// Whether each answer has a refresh token, for one use.
    pub rotates: bool,
}

/// An answer in the place of the usual one.
#[derive(Clone, Debug)]
pub(super) struct Answer(pub u16, pub Vec<(&'static str, &'static str)>, pub &'static str);

/// A call that the API received.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub method: String,
    pub path: String,
    pub accept: Option<String>,
    pub status: u16,
}

#[derive(Debug, Default)]
pub(super) struct Run {
    /// The parameters of each token request, decoded.
    pub asked: Vec<Vec<(String, String)>>,
    pub calls: Vec<Call>,
    issued: Vec<(String, Instant)>,
    revoked: usize,
    refresh: Vec<String>,
    /// The login in progress: code, challenge, redirect URI.
    pending: Option<(String, String, String)>,
    token_answers: VecDeque<Answer>,
    api_answers: VecDeque<Answer>,
}

impl Run {
    /// The refresh tokens that were issued.
    pub(super) fn refresh_tokens(&self) -> &[String] {
        &self.refresh
    }
}

/// Platforms, and the internet that leads to them.
#[derive(Debug)]
pub(super) struct Platform {
    pub internet: Internet,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    realms: Vec<(Realm, Mutex<Run>)>,
    /// Host, path with query, content.
    documents: Vec<(&'static str, &'static str, Value)>,
    violations: Mutex<Vec<String>>,
}

impl Platform {
    pub(super) async fn start(
        realms: Vec<Realm>,
        documents: Vec<(&'static str, &'static str, Value)>,
    ) -> Self {
        let mut hosts: Vec<&str> =
            realms.iter().flat_map(|realm| [realm.token_host, realm.api_host]).collect();
        hosts.extend(documents.iter().map(|(host, ..)| *host));
        hosts.sort_unstable();
        hosts.dedup();
        let realms = realms.into_iter().map(|realm| (realm, Mutex::default())).collect();
        let shared = Arc::new(Shared { realms, documents, violations: Mutex::default() });
        let answering = Arc::clone(&shared);
        let internet = Internet::start(&hosts, move |request| {
            let shared = Arc::clone(&answering);
            async move { shared.answer(request).await }
        })
        .await;
        Self { internet, shared }
    }

    /// The record of a realm.
    pub(super) fn run(&self, realm: usize) -> MutexGuard<'_, Run> {
        self.shared.realms[realm].1.lock().unwrap()
    }

    /// Sets the answers to the next token requests.
    pub(super) fn on_token_request(&self, realm: usize, answers: impl IntoIterator<Item = Answer>) {
        self.run(realm).token_answers.extend(answers);
    }

    /// Sets the answers to the next calls.
    pub(super) fn on_call(&self, realm: usize, answers: impl IntoIterator<Item = Answer>) {
        self.run(realm).api_answers.extend(answers);
    }

    /// Revokes all tokens.
    pub(super) fn revoke(&self, realm: usize) {
        let mut run = self.run(realm);
        run.revoked = run.issued.len();
    }

    /// Logs a person in at this address; returns the address that the browser is redirected to.
    pub(super) fn authorize(&self, realm: usize, address: &str) -> String {
        let (back, login) = code_of_login(address);
        self.run(realm).pending = Some(login);
        back
    }

    /// Requests that break the platforms' rules.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut all = self.shared.violations.lock().unwrap().clone();
        all.extend(self.internet.strangers().into_iter().map(|host| format!("asked for {host}")));
        all
    }

    /// All tokens and refresh tokens that were issued.
    pub(super) fn secrets(&self) -> Vec<String> {
        let runs = self.shared.realms.iter().map(|(_, run)| run.lock().unwrap());
        runs.flat_map(|run| {
            let tokens = run.issued.iter().map(|(token, _)| token.clone());
            tokens.chain(run.refresh.iter().cloned()).collect::<Vec<_>>()
        })
        .collect()
    }
}

/// Logs a person in at this address. Answers the address that the browser is redirected to, and code, challenge and redirect
/// URI of the login.
pub(super) fn code_of_login(address: &str) -> (String, (String, String, String)) {
    let url = Url::parse(address).unwrap();
    let parameter = |name: &str| {
        let mut found = url.query_pairs().filter(|(key, _)| key == name);
        let value = found.next().unwrap_or_else(|| panic!("{name} is missing: {address}")).1.into_owned();
        assert!(found.next().is_none(), "{name} twice: {address}");
        value
    };
    assert_eq!(parameter("response_type"), "code");
    assert_eq!(parameter("code_challenge_method"), "S256");
    let code = format!("code-{:016x}", fastrand::u64(..));
    let redirect_uri = parameter("redirect_uri");
    let mut back = Url::parse(&redirect_uri).unwrap();
    back.query_pairs_mut().append_pair("code", &code).append_pair("state", &parameter("state"));
    (back.to_string(), (code, parameter("code_challenge"), redirect_uri))
}

/// The challenge of a verifier (RFC 7636 §4.2).
pub(super) fn challenge_of(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes()))
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        for (realm, run) in &self.realms {
            if (realm.token_host, realm.token_path) == (host, path.as_str()) {
                return Ok(self.token(realm, run, &head, &body));
            }
        }
        if let Some((.., document)) =
            self.documents.iter().find(|document| (document.0, document.1) == (host, &path))
        {
            if head.headers.contains_key(AUTHORIZATION) {
                self.violation(format!("a public document was asked for with a token: {path}"));
            }
            return Ok(answer_with(200, &[], document.to_string()));
        }
        for (realm, run) in &self.realms {
            if realm.api_host == host {
                return Ok(self.call(realm, run, &head, &path));
            }
        }
        self.violation(format!("{} {host}{path}", head.method));
        Ok(answer_with(404, &[], "{}"))
    }

    fn violation(&self, text: String) {
        self.violations.lock().unwrap().push(text);
    }

    fn token(&self, realm: &Realm, run: &Mutex<Run>, head: &Parts, body: &Bytes) -> Response<Body> {
        let mut run = run.lock().unwrap();
        let content_type = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let expected: &[u8] =
            if realm.is_json { b"application/json" } else { b"application/x-www-form-urlencoded" };
        let parameters: Vec<(String, String)> = if realm.is_json {
            let object: serde_json::Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
            object.into_iter().map(|(name, value)| (name, value.as_str().unwrap().to_owned())).collect()
        } else {
            url::form_urlencoded::parse(body).into_owned().collect()
        };
        run.asked.push(parameters.clone());
        if let Some(Answer(status, fields, body)) = run.token_answers.pop_front() {
            return answer_with(status, &fields, body);
        }
        let value = |name: &str| {
            let mut values =
                parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
            let value = values.next();
            if values.next().is_some() {
                self.violation(format!("{name} twice in a token request"));
            }
            value
        };
        let basic =
            realm.basic.map(|(id, secret)| format!("Basic {}", STANDARD.encode(format!("{id}:{secret}"))));
        let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let is_known = realm.expects.iter().all(|(name, expected)| value(name) == Some(expected));
        if content_type != expected || !is_known || authorization != basic.as_deref() {
            return answer_with(401, &[], "{\"error\":\"invalid_client\"}");
        }
        let is_good = match value("grant_type") {
            Some("client_credentials" | "password") => true,
            // A vendor's endpoint that knows one grant.
            None => realm.is_json,
            Some("authorization_code") => {
                run.pending.take().is_some_and(|(code, challenge, redirect_uri)| {
                    value("code") == Some(&code)
                        && challenge_of(value("code_verifier").unwrap_or_default()) == challenge
                        && value("redirect_uri") == Some(&redirect_uri)
                })
            }
            // Each refresh token can be used once.
            Some("refresh_token") => run.refresh.last().map(String::as_str) == value("refresh_token"),
            _ => false,
        };
        if !is_good {
            return answer_with(400, &[], "{\"error\":\"invalid_grant\"}");
        }
        let token = jwt(realm);
        run.issued.push((token.clone(), Instant::now() + Duration::from_secs(realm.lifetime)));
        let mut answer = json!({ "access_token": token, "expires_in": realm.lifetime, "scope": realm.scope });
        if !realm.is_json {
            answer["token_type"] = "Bearer".into();
        }
        if realm.rotates {
            let next = format!("refresh-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            answer["refresh_token"] = next.clone().into();
            run.refresh.push(next);
        }
        answer_with(200, &[], answer.to_string())
    }

    fn call(&self, realm: &Realm, run: &Mutex<Run>, head: &Parts, path: &str) -> Response<Body> {
        let mut run = run.lock().unwrap();
        let tokens: Vec<&HeaderValue> = head.headers.get_all(AUTHORIZATION).iter().collect();
        let token = match tokens.as_slice() {
            [only] => only.to_str().unwrap_or_default().strip_prefix("Bearer ").unwrap_or_default(),
            _ => "",
        };
        let issued = run.issued.iter().position(|(one, _)| one == token);
        if issued.is_none() {
            self.violation(format!("not a token of {}: {} {path}", realm.api_host, head.method));
        }
        let is_live = issued.is_some_and(|at| at >= run.revoked && Instant::now() < run.issued[at].1);
        let Answer(status, fields, body) = if is_live {
            run.api_answers.pop_front().unwrap_or(Answer(200, vec![], ""))
        } else {
            Answer(401, vec![], "")
        };
        let accept = head.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        run.calls.push(Call { method: head.method.to_string(), path: path.to_owned(), accept, status });
        let body =
            if body.is_empty() && status == 200 { content(realm.api_host, path) } else { body.to_owned() };
        let mut response = answer_with(status, &fields, body);
        if let Some(id) = head.headers.get(TEST_ID) {
            response.headers_mut().insert(TEST_ID, id.clone());
        }
        response
    }
}

/// Lists have three pages; each names the path of the next, and its URL.
fn content(host: &str, path: &str) -> String {
    let page = path.split_once("pageNumber=").map_or(1, |(_, page)| page.parse().unwrap());
    let next = (page < 3).then(|| format!("/api/v2/users?pageNumber={}", page + 1));
    let link = next.as_ref().map(|next| format!("https://{host}{next}"));
    json!({ "entities": [{ "id": page }], "nextPageUri": next, "_links": { "next": link } }).to_string()
}

/// A JWT without a valid signature.
fn jwt(realm: &Realm) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({ "exp": now + realm.lifetime + 1, "jti": format!("{:016x}", fastrand::u64(..)) });
    for (name, value) in realm.claims.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    let signature = format!("{:032x}", fastrand::u128(..));
    let parts = [json!({ "alg": "RS256", "typ": "JWT" }).to_string(), claims.to_string(), signature];
    parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

pub(super) fn answer_with(
    status: u16,
    fields: &[(&'static str, &'static str)],
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(whole(body)).unwrap()
}
