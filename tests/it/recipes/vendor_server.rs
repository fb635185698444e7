//! A vendor that answers as its documentation says: it checks each token request to the last parameter and signature, and
//! each call to the last byte of `Authorization`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LINK};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::PublicKeyData;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::harness::request::TEST_ID;
use testkit::harness::world::assert_absent;
use testkit::server::{Body, whole};
use tokio::time::Instant;

use super::contact_centres::{Answer, answer_with, code_of_login};
use super::keys::KEYS;
use super::{NO_DAEMON, SECRETS, log_in, prepare};
use crate::harness::{Caller, Internet, Process, Reply, eventually, spawn};

/// A path of the APIs that answers with links.
const LIST: &str = "/list";

/// What a vendor expects and answers.
#[derive(Clone, Debug)]
pub(super) struct Vendor {
    pub recipe: &'static str,
    /// Replacements in the recipe, for the alternatives that its comments describe.
    pub changes: Vec<(&'static str, &'static str)>,
    /// Host and path of the token endpoint.
    pub token: (&'static str, &'static str),
    /// All parameters of a token request but its JWT and a refresh token that rotates.
    pub form: Vec<(&'static str, &'static str)>,
    /// Client id and secret, if they are sent by HTTP Basic.
    pub basic: Option<(&'static str, &'static str)>,
    pub jwt: Option<Jwt>,
    /// The answer to a good token request, without the tokens in it.
    pub answer: Value,
    /// What every access token begins with.
    pub prefix: &'static str,
    /// The name of the credential, if a person logs in and each refresh token is for one use.
    pub login: Option<&'static str>,
    pub api: &'static str,
    pub scheme: &'static str,
    /// A field that every call must have.
    pub field: Option<(&'static str, &'static str)>,
    /// Content of the API's 401.
    pub unauthorized: &'static str,
}

impl Default for Vendor {
    fn default() -> Self {
        Self {
            recipe: "",
            changes: Vec::new(),
            token: ("", ""),
            form: Vec::new(),
            basic: None,
            jwt: None,
            answer: json!({}),
            prefix: "",
            login: None,
            api: "",
            scheme: "Bearer",
            field: None,
            unauthorized: "",
        }
    }
}

/// The JWT of a token request.
#[derive(Clone, Debug)]
pub(super) struct Jwt {
    pub parameter: &'static str,
    pub algorithm: Algorithm,
    /// The header without `alg` and `typ`.
    pub header: Value,
    /// The claims without `exp`, `iat` and `jti`.
    pub claims: Value,
    /// Most seconds from now to `exp`, and from `iat` to `exp`.
    pub longest: (u64, u64),
}

#[derive(Debug, Default)]
struct Run {
    token_requests: usize,
    /// Access tokens with their ends.
    issued: Vec<(String, Instant)>,
    revoked: usize,
    refresh_tokens: Vec<String>,
    /// The code, challenge and redirect URI of a login in progress.
    login: Option<(String, String, String)>,
    jwt_ids: BTreeSet<String>,
    calls: Vec<u16>,
    token_answers: VecDeque<Answer>,
    api_answers: VecDeque<Answer>,
    /// The lifetime of the next tokens, if the documented one is too long for a test.
    lifetime: Option<u64>,
    /// Whether the next answer is lost after the refresh token was replaced.
    loses_answer: bool,
    violations: Vec<String>,
}

/// A daemon that runs the recipe.
struct Running {
    run: Arc<Mutex<Run>>,
    internet: Internet,
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
    _folder: TempDir,
}

impl Vendor {
    /// Starts the recipe, after a login where there is one. The vendor answers the first token requests, or those after the
    /// login, with `answers`.
    async fn start(&self, answers: &[Answer]) -> Running {
        let run = Arc::new(Mutex::new(Run::default()));
        let (vendor, shared) = (Arc::new(self.clone()), Arc::clone(&run));
        let mut hosts = vec![self.token.0, self.api];
        hosts.dedup();
        let internet = Internet::start(&hosts, move |request| {
            let (vendor, run) = (Arc::clone(&vendor), Arc::clone(&shared));
            async move { vendor.response(&run, request).await }
        })
        .await;
        let (folder, environment) = prepare(self.recipe, &self.changes, &internet);
        if let Some(credential) = self.login {
            let paste = |address: &str| {
                let (back, login) = code_of_login(address);
                run.lock().unwrap().login = Some(login);
                back
            };
            log_in(&environment, folder.path(), credential, NO_DAEMON, paste).await;
            run.lock().unwrap().revoked = 1;
        }
        run.lock().unwrap().token_answers.extend(answers.iter().cloned());
        let process = spawn(&["run"], &environment, folder.path());
        let address = process.logged_address("listening").await;
        let admin = process.logged_address("admin listening").await;
        Running { run, internet, process, address, admin, _folder: folder }
    }

    /// Requests succeed, also after the token was revoked and after it has ended.
    pub(super) async fn works(&self) {
        let running = self.start(&[]).await;
        assert_eq!(running.get("/x?y=%2F").await.status, 200);
        assert_eq!(running.status().await["state"], "valid");

        // The API rejects the token: one token request, and the caller notices nothing.
        let before = running.run().token_requests;
        running.run().lifetime = self.answer.get("expires_in").map(|_| 2);
        running.revoke();
        assert_eq!(running.get("/x").await.status, 200);
        assert_eq!(running.run().token_requests, before + 1);

        // The token ends: bearerd replaces it before that.
        if self.answer.get("expires_in").is_some() {
            eventually("a scheduled renewal", async || {
                assert_eq!(running.get("/x").await.status, 200);
                running.run().token_requests >= before + 3
            })
            .await;
        }
        let rejected = running.run().calls.iter().filter(|status| **status == 401).count();
        assert_eq!(rejected, if self.login.is_some() { 2 } else { 1 });
        running.finish().await;
    }

    /// The vendor refuses the token request with `answer`: requests get 503 with `code`, and the request is not repeated.
    pub(super) async fn refuses(&self, answer: Answer, code: &str) {
        let running = self.start(&vec![answer; 3]).await;

        for _ in 0..3 {
            let reply = running.get("/x").await;
            assert_eq!((reply.status, reply.code().as_deref()), (503, Some(code)), "{}", reply.text());
        }

        running.expect_failure(code, true).await;
        running.finish().await;
    }

    /// The token endpoint limits the rate of requests with `answer`: bearerd waits for at least so many seconds.
    pub(super) async fn throttles(&self, answer: Answer, seconds: u64) {
        let running = self.start(&vec![answer; 3]).await;

        let reply = running.get("/x").await;

        let code = "token_endpoint_rate_limited";
        assert_eq!((reply.status, reply.code().as_deref()), (503, Some(code)), "{}", reply.text());
        let wait: u64 = reply.get("retry-after").unwrap().parse().unwrap();
        assert!((seconds - 5..=seconds + 10).contains(&wait), "{wait}");
        running.expect_failure(code, false).await;
        running.finish().await;
    }

    /// The token endpoint fails with `answer`, and then issues a token: the caller notices nothing.
    pub(super) async fn recovers(&self, answer: Answer) {
        let running = self.start(&[answer]).await;
        assert_eq!(running.get("/x").await.status, 200);
        running.finish().await;
    }

    /// The API's own limit reaches the caller, and costs no token request.
    pub(super) async fn passes_on(&self, answer: Answer) {
        let running = self.start(&[]).await;
        assert_eq!(running.get("/x").await.status, 200);
        let before = running.run().token_requests;
        running.run().api_answers.push_back(answer.clone());

        let reply = running.get("/x").await;

        assert_eq!((reply.status, reply.text()), (answer.0, answer.2.to_owned()));
        for (name, value) in answer.1 {
            assert_eq!(reply.get(name), Some(value));
        }
        assert_eq!(running.get("/x").await.status, 200);
        assert_eq!(running.run().token_requests, before);
        running.finish().await;
    }

    /// Absolute links of the API lead the caller through bearerd.
    pub(super) async fn links_lead_through_the_proxy(&self, is_field: bool) {
        let running = self.start(&[]).await;
        assert_eq!(running.get("/x").await.status, 200);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let reply = client.get(format!("http://{}{LIST}", running.address)).send().await.unwrap();

        let next = format!("http://{}{LIST}?page=2", running.address);
        if is_field {
            // A reference without a host is relative to the address of the request.
            assert_eq!(reply.headers()[LINK], format!("<{LIST}?page=2>; rel=\"next\""));
        } else {
            let list: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
            assert_eq!(list["next"], next);
        }
        running.finish().await;
    }

    /// The answer to a refresh is lost. The vendor accepts the refresh token again, and then the new one only.
    pub(super) async fn forgives_a_lost_answer(&self) {
        let running = self.start(&[]).await;
        assert_eq!(running.get("/x").await.status, 200);
        running.run().loses_answer = true;
        running.revoke();
        assert_eq!(running.get("/x").await.status, 200);
        running.revoke();
        assert_eq!(running.get("/x").await.status, 200);
        running.finish().await;
    }

    async fn response(&self, run: &Mutex<Run>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let mut run = run.lock().unwrap();
        if (host, head.uri.path()) == self.token {
            return Ok(match self.check(&mut run, &head, &body) {
                Ok(()) => self.issue(&mut run),
                Err(flaw) => {
                    run.violations.push(flaw);
                    answer_with(400, &[], "{\"error\":\"invalid_request\"}")
                }
            });
        }
        if host != self.api {
            run.violations.push(format!("{} {host}{}", head.method, head.uri));
        }
        let mut response = self.call(&mut run, &head);
        if let Some(id) = head.headers.get(TEST_ID) {
            response.headers_mut().insert(TEST_ID, id.clone());
        }
        Ok(response)
    }

    /// Whether a token request is as documented.
    fn check(&self, run: &mut Run, head: &Parts, body: &Bytes) -> Result<(), String> {
        run.token_requests += 1;
        let field = |name| head.headers.get(name).map(HeaderValue::as_bytes);
        if head.method != Method::POST || head.uri.query().is_some() {
            return Err(format!("{} {}", head.method, head.uri));
        }
        if field(CONTENT_TYPE) != Some(b"application/x-www-form-urlencoded")
            || field(ACCEPT) != Some(b"application/json")
        {
            return Err(format!("{:?}", head.headers));
        }
        let basic =
            self.basic.map(|(id, secret)| format!("Basic {}", STANDARD.encode(format!("{id}:{secret}"))));
        if field(AUTHORIZATION) != basic.as_deref().map(str::as_bytes) {
            return Err("another Authorization".to_owned());
        }
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
        let mut form: BTreeMap<String, String> = pairs.iter().cloned().collect();
        if form.len() != pairs.len() {
            return Err(format!("a parameter twice: {pairs:?}"));
        }
        if let Some(jwt) = &self.jwt {
            let sent = form.remove(jwt.parameter).ok_or("no JWT")?;
            let id = jwt.check(&sent)?;
            if !run.jwt_ids.insert(id) {
                return Err("a JWT twice".to_owned());
            }
        }
        let mut expected: BTreeMap<String, String> =
            self.form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if self.login.is_some() {
            if let Some((code, challenge, redirect_uri)) = run.login.take() {
                let verifier = form.remove("code_verifier").ok_or("no verifier")?;
                if super::contact_centres::challenge_of(&verifier) != challenge {
                    return Err("another verifier".to_owned());
                }
                expected.clear();
                for (name, value) in
                    [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", &redirect_uri)]
                {
                    expected.insert(name.to_owned(), value.to_owned());
                }
            } else {
                let sent = form.remove("refresh_token").ok_or("no refresh token")?;
                let last = run.refresh_tokens.len() - 1;
                // A used refresh token works for a while, until the next one is used.
                if sent != run.refresh_tokens[last] && (last == 0 || sent != run.refresh_tokens[last - 1]) {
                    return Err("an old refresh token".to_owned());
                }
            }
        }
        if form == expected { Ok(()) } else { Err(format!("{form:?} and not {expected:?}")) }
    }

    fn issue(&self, run: &mut Run) -> Response<Body> {
        if let Some(Answer(status, fields, body)) = run.token_answers.pop_front() {
            return answer_with(status, &fields, body);
        }
        let token = format!("{}{:016x}{:016x}", self.prefix, fastrand::u64(..), fastrand::u64(..));
        let mut answer = self.answer.clone();
        answer["access_token"] = token.clone().into();
        let documented = answer.get("expires_in").and_then(Value::as_u64);
        let lifetime = run.lifetime.or(documented).unwrap_or(7200);
        if documented.is_some() {
            answer["expires_in"] = lifetime.into();
        }
        run.issued.push((token, Instant::now() + Duration::from_secs(lifetime)));
        if self.login.is_some() {
            let next = format!("refresh-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            answer["refresh_token"] = next.clone().into();
            run.refresh_tokens.push(next);
        }
        if std::mem::take(&mut run.loses_answer) {
            return answer_with(502, &[], "<html>");
        }
        answer_with(200, &[], answer.to_string())
    }

    fn call(&self, run: &mut Run, head: &Parts) -> Response<Body> {
        let values: Vec<&HeaderValue> = head.headers.get_all(AUTHORIZATION).iter().collect();
        let sent = match values.as_slice() {
            [only] => only.to_str().unwrap_or_default(),
            _ => "",
        };
        let now = Instant::now();
        let issued = run.issued.iter().position(|(token, _)| sent == format!("{} {token}", self.scheme));
        let is_live = issued.is_some_and(|at| at >= run.revoked && now < run.issued[at].1);
        if issued.is_none_or(|at| now >= run.issued[at].1) {
            run.violations.push(format!("an unknown or ended token: {sent}"));
        }
        if let Some((name, value)) = self.field.filter(|(name, value)| !has(&head.headers, name, value)) {
            run.violations.push(format!("no {name}: {value}"));
        }
        let answer = if is_live { run.api_answers.pop_front() } else { None };
        let Answer(status, fields, body) = answer.unwrap_or_else(|| {
            if is_live { Answer(200, Vec::new(), "{}") } else { Answer(401, Vec::new(), self.unauthorized) }
        });
        run.calls.push(status);
        if head.uri.path() != LIST {
            return answer_with(status, &fields, body);
        }
        let next = format!("https://{}{LIST}?page=2", self.api);
        let mut response = Response::new(whole(json!({ "next": next }).to_string()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(LINK, format!("<{next}>; rel=\"next\"").parse().unwrap());
        response
    }
}

fn has(headers: &HeaderMap, name: &str, value: &str) -> bool {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).eq([value.as_bytes()])
}

impl Jwt {
    /// Checks signature, header and claims; answers the JWT's id.
    fn check(&self, jwt: &str) -> Result<String, String> {
        let key = match self.algorithm {
            Algorithm::ES256 => DecodingKey::from_ec_der(KEYS.ec.der_bytes()),
            _ => DecodingKey::from_rsa_der(KEYS.rsa.der_bytes()),
        };
        let mut validation = Validation::new(self.algorithm);
        validation.validate_aud = false;
        validation.leeway = 0;
        let mut claims =
            jsonwebtoken::decode::<Value>(jwt, &key, &validation).map_err(|error| error.to_string())?.claims;
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(jwt.split('.').next().unwrap_or_default())
            .unwrap_or_default();
        let header: Value = serde_json::from_slice(&header).unwrap_or_default();
        let mut expected = self.header.clone();
        expected["alg"] = format!("{:?}", self.algorithm).into();
        expected["typ"] = "JWT".into();
        if header != expected {
            return Err(format!("{header} and not {expected}"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut take = |name| claims.as_object_mut().and_then(|claims| claims.remove(name));
        let (exp, iat, id) = (take("exp"), take("iat"), take("jti"));
        let exp = exp.and_then(|exp| exp.as_u64()).ok_or("no exp")?;
        let iat = iat.and_then(|iat| iat.as_u64()).ok_or("no iat")?;
        if exp > now + self.longest.0 || exp - iat > self.longest.1 || iat > now {
            return Err(format!("iat {iat}, exp {exp}, now {now}"));
        }
        if claims != self.claims {
            return Err(format!("{claims} and not {}", self.claims));
        }
        id.and_then(|id| id.as_str().map(str::to_owned)).ok_or_else(|| "no jti".to_owned())
    }
}

impl Running {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap()
    }

    /// The API rejects all tokens that were issued.
    fn revoke(&self) {
        let mut run = self.run();
        run.revoked = run.issued.len();
    }

    async fn get(&self, target: &str) -> Reply {
        Caller::connect(self.address).await.send(&crate::harness::Request::get(target)).await
    }

    /// The status of the only credential.
    async fn status(&self) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("http://{}/status", self.admin)).send().await.unwrap();
        let status: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        status["credentials"][0].clone()
    }

    async fn expect_failure(&self, code: &str, needs_person: bool) {
        let status = self.status().await;
        assert_eq!(
            (&status["state"], &status["reason"], &status["needs_person"]),
            (&json!("unusable"), &json!(code), &json!(needs_person)),
            "{status}"
        );
        // The failure is not repeated; a login had a good request before.
        let login = usize::from(!self.run().refresh_tokens.is_empty());
        assert_eq!(self.run().token_requests, 1 + login);
    }

    async fn finish(mut self) {
        self.process.signal(Signal::TERM);
        let status = self.process.ended().await;
        let output = self.process.output();
        assert_eq!(status.code(), Some(0), "{output}");
        assert!(!output.contains("panicked"), "{output}");
        assert_eq!(self.internet.strangers(), Vec::<String>::new());
        let run = self.run();
        assert_eq!(run.violations, Vec::<String>::new());
        let secrets = run.issued.iter().map(|(token, _)| token.as_str());
        let secrets = secrets.chain(run.refresh_tokens.iter().map(String::as_str));
        for secret in secrets.chain(SECRETS.iter().map(|(_, value)| *value)) {
            assert_absent(&output, secret);
        }
    }
}
