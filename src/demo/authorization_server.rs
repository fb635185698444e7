//! An OAuth 2.0 authorization server for one client: issues tokens, revokes them, does as it is told.
//!
//! Answers can be put in a queue; when it is empty, a valid request gets a token. Everything asked is remembered.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustls::ServerConfig;
use tokio::time::Instant;
use url::form_urlencoded;

use super::access_token::new_token;
use super::refresh_tokens::RefreshTokens;
use super::server::{Body, Server, json};

/// An authorization server that runs until it is dropped.
#[derive(Debug)]
pub struct AuthorizationServer {
    server: Server,
    scheme: &'static str,
    state: Arc<State>,
}

/// What a token request is answered with, in the place of a token.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A token after all, but only after this time.
    Late(Duration),
    /// A token with this lifetime in `expires_in`.
    Lifetime(u64),
    /// The token that was issued last, once more.
    SameAgain,
    /// This, whatever was asked.
    Fixed {
        /// The status.
        status: u16,
        /// Its fields; it is JSON unless they say otherwise.
        fields: Vec<(&'static str, String)>,
        /// Its body; `{token}` stands for a token that is issued with it.
        body: String,
    },
    /// A refusal that quotes this parameter of the request.
    Echo(&'static str),
    /// No answer: the connection is closed.
    Hangup,
}

impl Answer {
    /// 429 with so many seconds in `Retry-After`.
    pub fn too_many(retry_after: u64) -> Self {
        let fields = vec![(RETRY_AFTER.as_str(), retry_after.to_string())];
        Self::Fixed { status: 429, fields, body: String::new() }
    }

    /// A status with a JSON body.
    pub fn status(status: u16, body: &str) -> Self {
        Self::Fixed { status, fields: Vec::new(), body: body.to_owned() }
    }
}

/// A token request as it arrived.
#[derive(Clone)]
pub struct Asked {
    /// When its head arrived.
    pub at: Instant,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its form, decoded.
    pub form: Vec<(String, String)>,
    /// Its form as sent.
    pub raw: String,
}

struct State {
    client_id: String,
    client_secret: String,
    memory: Mutex<Memory>,
}

struct Memory {
    /// Whether any client with any grant gets a token.
    takes_all: bool,
    lifetime: u64,
    /// Named in the tokens, which are JWTs then.
    tenant: Option<String>,
    delay: Duration,
    queue: VecDeque<Answer>,
    asked: Vec<Asked>,
    issued: Vec<String>,
    /// When each token ends; revoked ones are not in here.
    live: BTreeMap<String, Instant>,
    under_way: usize,
    most_at_once: usize,
    refresh: RefreshTokens,
}

impl AuthorizationServer {
    /// Starts one that knows this client.
    ///
    /// # Errors
    ///
    /// If no port is to be had.
    pub async fn start(
        client_id: &str,
        client_secret: &str,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let state = Arc::new(State {
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            memory: Mutex::new(Memory {
                takes_all: false,
                lifetime: 3600,
                tenant: None,
                delay: Duration::ZERO,
                queue: VecDeque::new(),
                asked: Vec::new(),
                issued: Vec::new(),
                live: BTreeMap::new(),
                under_way: 0,
                most_at_once: 0,
                refresh: RefreshTokens::default(),
            }),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let answering = Arc::clone(&state);
        let server = Server::start(tls, move |request| {
            let state = Arc::clone(&answering);
            async move { state.answer(request).await }
        })
        .await?;
        Ok(Self { server, scheme, state })
    }

    /// Its token endpoint.
    pub fn token_url(&self) -> String {
        let host = if self.scheme == "https" { "localhost" } else { "127.0.0.1" };
        format!("{}://{host}:{}/token", self.scheme, self.server.address().port())
    }

    /// The lifetime of tokens from now on, in seconds.
    pub fn set_lifetime(&self, seconds: u64) {
        self.memory().lifetime = seconds;
    }

    /// The tenant that tokens name from now on.
    pub fn set_tenant(&self, tenant: &str) {
        self.memory().tenant = Some(tenant.to_owned());
    }

    /// How long each answer takes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.memory().delay = delay;
    }

    /// Gives tokens to any client for any grant: for whoever looks at what was asked by himself.
    pub fn take_all(&self) {
        self.memory().takes_all = true;
    }

    /// A refresh token that is good for one use; each answer to it holds the next (RFC 9700 §4.14.2).
    pub fn authorize(&self) -> String {
        self.memory().refresh.begin()
    }

    /// Which refresh tokens were handed out, and what became of them.
    pub fn refresh_tokens(&self) -> RefreshTokens {
        self.memory().refresh.clone()
    }

    /// Takes the use of a refresh token for one that never was, if it was used: the answer arrived nowhere.
    pub fn take_back(&self, token: &str) -> bool {
        self.memory().refresh.take_back(token)
    }

    /// Puts an answer at the end of the queue.
    pub fn answer_next(&self, answer: Answer) {
        self.memory().queue.push_back(answer);
    }

    /// Forgets the answers that were not given yet.
    pub fn forget_queue(&self) {
        self.memory().queue.clear();
    }

    /// Forgets every token: none is live any more.
    pub fn revoke_all(&self) {
        self.memory().live.clear();
    }

    /// Which tokens are live; for whoever has to check one.
    pub fn introspection(&self) -> Introspection {
        Introspection(Arc::clone(&self.state))
    }

    /// How many token requests have come.
    pub fn requests(&self) -> usize {
        self.memory().asked.len()
    }

    /// All token requests that have come.
    pub fn asked(&self) -> Vec<Asked> {
        self.memory().asked.clone()
    }

    /// All tokens that were issued.
    pub fn issued(&self) -> Vec<String> {
        self.memory().issued.clone()
    }

    /// How many token requests were under way at once at the most.
    pub fn most_at_once(&self) -> usize {
        self.memory().most_at_once
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.state.memory()
    }
}

/// Knows which tokens are live.
#[derive(Clone, Debug)]
pub struct Introspection(Arc<State>);

impl Introspection {
    /// Whether a request's `Authorization` holds a live token, and no other.
    pub fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let token = values.next().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        values.next().is_none() && token.is_some_and(|token| self.is_live(token))
    }

    fn is_live(&self, token: &str) -> bool {
        self.0.memory().live.get(token).is_some_and(|end| Instant::now() < *end)
    }

    /// Whether a token has ended by itself, and how long ago.
    pub fn ended_ago(&self, token: &str) -> Option<Duration> {
        let end = *self.0.memory().live.get(token)?;
        Instant::now().checked_duration_since(end)
    }

    /// Whether a token was issued by this server, live or not.
    pub fn was_issued(&self, token: &str) -> bool {
        self.0.memory().issued.iter().any(|issued| issued == token)
    }

    /// Revokes one token.
    pub fn revoke(&self, token: &str) {
        self.0.memory().live.remove(token);
    }
}

/// Its secrets and tokens are as good as any, and are not shown.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("at", &self.at).finish_non_exhaustive()
    }
}

impl State {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let at = Instant::now();
        let _under_way = UnderWay::begin(&self);
        let (head, body) = request.into_parts();
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

    /// RFC 6749 §5.2: why a request is refused, if it is.
    fn refusal(&self, headers: &HeaderMap, form: &[(String, String)]) -> Option<(u16, &'static str)> {
        let value = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let is_form = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let basic = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        let is_known = match (basic, value("client_id")) {
            // One way to authenticate, not two.
            (Some(pair), None) => {
                pair == STANDARD.encode(format!("{}:{}", self.client_id, self.client_secret))
            }
            (None, Some(id)) => id == self.client_id && value("client_secret") == Some(&self.client_secret),
            _ => false,
        };
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
        if let Some(next) = self.memory().refresh.hand_out() {
            answer["refresh_token"] = next.into();
        }
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

    fn fixed(&self, status: u16, fields: &[(&'static str, String)], body: &str) -> Response<Body> {
        let lifetime = self.memory().lifetime;
        let body = if body.contains("{token}") {
            body.replace("{token}", &self.issue(lifetime))
        } else {
            body.to_owned()
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

    fn issue(&self, lifetime: u64) -> String {
        let end = Instant::now() + Duration::from_secs(lifetime);
        let mut memory = self.memory();
        let token = new_token(memory.tenant.as_deref());
        memory.issued.push(token.clone());
        memory.live.insert(token.clone(), end);
        token
    }
}

/// Counts a request while it is answered.
struct UnderWay(Arc<State>);

impl UnderWay {
    fn begin(state: &Arc<State>) -> Self {
        let mut memory = state.memory();
        memory.under_way += 1;
        memory.most_at_once = memory.most_at_once.max(memory.under_way);
        Self(Arc::clone(state))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.memory().under_way -= 1;
    }
}
