//! An OAuth 2.0 authorization server for one client, which a test controls.
//!
//! The server issues and revokes tokens, and answers authorization requests at once, as if a person had consented. A test
//! can queue answers; with an empty queue every valid request gets a token. The server records all requests.

mod answer;
mod browser;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, Response};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access_token::new_token;
use crate::api::{Answering, Script};
use crate::authorization_codes::AuthorizationCodes;
use crate::refresh_tokens::RefreshTokens;
use crate::server::{Server, whole};

/// An authorization server that runs until it is dropped.
#[derive(Debug)]
pub struct AuthorizationServer {
    _server: Server,
    issuer: String,
    state: Arc<State>,
}

/// An answer to a token request that takes the place of the usual token.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A token after this time.
    Late(Duration),
    /// A token with this lifetime in `expires_in`.
    Lifetime(u64),
    /// The token that was issued last.
    SameAgain,
    /// This answer, whatever the request says.
    Fixed {
        /// The status.
        status: u16,
        /// The fields; the body is JSON unless they name another type.
        fields: Vec<(&'static str, String)>,
        /// The body; a new token takes the place of `{token}`, and the issuer the place of `{issuer}`.
        body: String,
    },
    /// A refusal that quotes this parameter of the request.
    Echo(&'static str),
    /// No answer: the connection is closed.
    Hangup,
}

impl Answer {
    /// 429 with this `Retry-After` in seconds.
    pub fn too_many(retry_after: u64) -> Self {
        let fields = vec![(RETRY_AFTER.as_str(), retry_after.to_string())];
        Self::Fixed { status: 429, fields, body: String::new() }
    }

    /// A status with a JSON body.
    pub fn status(status: u16, body: &str) -> Self {
        Self::Fixed { status, fields: Vec::new(), body: body.to_owned() }
    }
}

/// The outcome of authorization requests.
#[derive(Clone, Debug)]
pub struct Consent {
    /// Whether the person denies the request.
    pub is_denied: bool,
    /// Whether the client gets a refresh token.
    pub is_lasting: bool,
    /// The `scope` of token answers; absent if `None`.
    pub scope: Option<String>,
    /// The `iss` of authorization answers (RFC 9207); absent if `None`.
    pub iss: Option<String>,
    /// The ID token of a login with the scope `openid`.
    pub id_token: IdToken,
}

/// The ID token of a login (OpenID Connect Core 1.0 §3.1.3.3).
#[derive(Clone, Debug, Default)]
pub enum IdToken {
    /// A JWT with the nonce of the authorization request.
    #[default]
    Good,
    /// This text.
    Fixed(String),
    /// No ID token.
    Missing,
}

impl Default for Consent {
    fn default() -> Self {
        Self { is_denied: false, is_lasting: true, scope: None, iss: None, id_token: IdToken::Good }
    }
}

/// A token request that was received.
#[derive(Clone)]
pub struct Asked {
    /// When the head arrived.
    pub at: Instant,
    /// The fields.
    pub headers: HeaderMap,
    /// The form, decoded.
    pub form: Vec<(String, String)>,
    /// The form as sent.
    pub raw: String,
}

struct State {
    issuer: OnceLock<String>,
    client_id: String,
    client_secret: String,
    memory: Mutex<Memory>,
    /// Whether answers are held back.
    is_held: watch::Sender<bool>,
}

struct Memory {
    /// Whether every client with every grant gets a token.
    takes_all: bool,
    lifetime: u64,
    /// The tenant that tokens name; such tokens are JWTs.
    tenant: Option<String>,
    delay: Duration,
    queue: VecDeque<Answer>,
    asked: Vec<Asked>,
    issued: Vec<String>,
    /// When each token was issued.
    issued_at: BTreeMap<String, Instant>,
    /// The end of each token that was not revoked.
    live: BTreeMap<String, Instant>,
    under_way: usize,
    most_at_once: usize,
    refresh: RefreshTokens,
    codes: AuthorizationCodes,
    consent: Consent,
    /// The nonce of the last authorization request with `openid`, until its token answer.
    nonce: Option<String>,
    /// The queries of authorization requests.
    authorized: Vec<Vec<(String, String)>>,
    /// Whether HTTP Basic has id and secret form-encoded (RFC 6749 §2.3.1).
    expects_form_encoding: bool,
    /// Whether the client has no secret.
    is_public: bool,
    token_path: String,
    /// Answers in the place of the issuer's metadata, by path.
    metadata: BTreeMap<String, Answer>,
    metadata_asked: Vec<String>,
}

impl AuthorizationServer {
    /// Starts a server that knows this client.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start(
        client_id: &str,
        client_secret: &str,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = State::new(client_id, client_secret);
        let answering = Arc::clone(&state);
        let server = Server::start(tls, move |request| {
            let state = Arc::clone(&answering);
            async move { state.answer(request).await }
        })
        .await?;
        let host = if scheme == "https" { "localhost" } else { "127.0.0.1" };
        let issuer = format!("{scheme}://{host}:{}", server.address().port());
        let issuer = state.issuer.get_or_init(|| issuer).clone();
        Ok(Self { _server: server, issuer, state })
    }

    /// Serves an API of this server's tokens too, over TLS at one address: the API gets every request to a path that is none of
    /// the authorization server's. `/livez` says `ok`.
    ///
    /// # Errors
    ///
    /// If the listener has no address.
    pub fn with_api<S: Script>(
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        host: &str,
        (client_id, client_secret): (&str, &str),
        api: impl FnOnce(Introspection) -> S,
    ) -> io::Result<Self> {
        let state = State::new(client_id, client_secret);
        let api = Arc::new(Answering::new(api(Introspection(Arc::clone(&state)))));
        let answering = Arc::clone(&state);
        let server = Server::serve(listener, Some(tls), move |request| {
            let (state, api) = (Arc::clone(&answering), Arc::clone(&api));
            async move {
                match request.uri().path() {
                    "/livez" => Ok(Response::new(whole("ok\n"))),
                    path if state.is_own(path) => state.answer(request).await,
                    _ => api.answer(request).await,
                }
            }
        })?;
        let issuer = format!("https://{host}:{}", server.address().port());
        let issuer = state.issuer.get_or_init(|| issuer).clone();
        Ok(Self { _server: server, issuer, state })
    }

    /// The issuer identifier. With any path appended it is another issuer of the same server.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The token endpoint.
    pub fn token_url(&self) -> String {
        format!("{}{}", self.issuer, self.memory().token_path)
    }

    /// The authorization endpoint.
    pub fn authorize_url(&self) -> String {
        format!("{}/authorize", self.issuer)
    }

    /// Moves the token endpoint to this path; other paths answer with 404.
    pub fn move_token_endpoint(&self, path: &str) {
        path.clone_into(&mut self.memory().token_path);
    }

    /// Sets the answer at a well-known path in the place of the issuer's metadata.
    pub fn set_metadata(&self, path: &str, answer: Answer) {
        self.memory().metadata.insert(path.to_owned(), answer);
    }

    /// The paths of all metadata requests.
    pub fn metadata_asked(&self) -> Vec<String> {
        self.memory().metadata_asked.clone()
    }

    /// Sets the outcome of further authorization requests.
    pub fn set_consent(&self, consent: Consent) {
        self.memory().consent = consent;
    }

    /// The queries of all authorization requests.
    pub fn authorized(&self) -> Vec<Vec<(String, String)>> {
        self.memory().authorized.clone()
    }

    /// All authorization codes that were issued.
    pub fn codes(&self) -> Vec<String> {
        self.memory().codes.all().to_vec()
    }

    /// Accepts the client's id without a secret from now on.
    pub fn take_public(&self) {
        self.memory().is_public = true;
    }

    /// Accepts HTTP Basic only with a form-encoded id and secret (RFC 6749 §2.3.1) from now on.
    pub fn expect_form_encoding(&self) {
        self.memory().expects_form_encoding = true;
    }

    /// Sets the lifetime of further tokens, in seconds.
    pub fn set_lifetime(&self, seconds: u64) {
        self.memory().lifetime = seconds;
    }

    /// Sets the tenant that further tokens name.
    pub fn set_tenant(&self, tenant: &str) {
        self.memory().tenant = Some(tenant.to_owned());
    }

    /// Delays each further answer by this time.
    pub fn set_delay(&self, delay: Duration) {
        self.memory().delay = delay;
    }

    /// Holds all token answers back until [`release`](Self::release).
    pub fn hold(&self) {
        self.state.is_held.send_replace(true);
    }

    /// Gives the answers that were held back, and holds no more.
    pub fn release(&self) {
        self.state.is_held.send_replace(false);
    }

    /// Accepts every client and grant from now on, for tests that check the requests themselves.
    pub fn take_all(&self) {
        self.memory().takes_all = true;
    }

    /// Issues a refresh token that can be used once; each answer has its successor (RFC 9700 §4.14.2).
    pub fn authorize(&self) -> String {
        self.memory().refresh.begin()
    }

    /// The refresh tokens that were issued.
    pub fn refresh_tokens(&self) -> RefreshTokens {
        self.memory().refresh.clone()
    }

    /// Undoes the use of a refresh token whose answer was lost; returns whether the token had been used.
    pub fn take_back(&self, token: &str) -> bool {
        self.memory().refresh.take_back(token)
    }

    /// Appends an answer to the queue.
    pub fn answer_next(&self, answer: Answer) {
        self.memory().queue.push_back(answer);
    }

    /// Empties the queue.
    pub fn forget_queue(&self) {
        self.memory().queue.clear();
    }

    /// Revokes all tokens.
    pub fn revoke_all(&self) {
        self.memory().live.clear();
    }

    /// A view of the tokens, for an API that checks them.
    pub fn introspection(&self) -> Introspection {
        Introspection(Arc::clone(&self.state))
    }

    /// How many token requests were received.
    pub fn requests(&self) -> usize {
        self.memory().asked.len()
    }

    /// All token requests that were received.
    pub fn asked(&self) -> Vec<Asked> {
        self.memory().asked.clone()
    }

    /// Issues a token that nobody requested.
    #[cfg(test)]
    pub(crate) fn issue(&self) -> String {
        self.state.issue(3600)
    }

    /// All tokens that were issued.
    pub fn issued(&self) -> Vec<String> {
        self.memory().issued.clone()
    }

    /// The greatest number of token requests at the same time.
    pub fn most_at_once(&self) -> usize {
        self.memory().most_at_once
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.state.memory()
    }
}

/// A view of the server's tokens.
#[derive(Clone, Debug)]
pub struct Introspection(Arc<State>);

impl Introspection {
    /// Whether a request has exactly one `Authorization`, with a live token.
    pub fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let token = values.next().and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        values.next().is_none() && token.is_some_and(|token| self.is_live(token))
    }

    fn is_live(&self, token: &str) -> bool {
        self.0.memory().live.get(token).is_some_and(|end| Instant::now() < *end)
    }

    /// How long ago a token expired; `None` if it is live, revoked or unknown.
    pub fn ended_ago(&self, token: &str) -> Option<Duration> {
        let end = *self.0.memory().live.get(token)?;
        Instant::now().checked_duration_since(end)
    }

    /// How long a token is still live; zero if it has ended or was revoked.
    pub fn remaining(&self, token: &str) -> Duration {
        let end = self.0.memory().live.get(token).copied();
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()))
    }

    /// How long ago a token was issued; zero if this server did not.
    pub fn age(&self, token: &str) -> Duration {
        self.0.memory().issued_at.get(token).map_or(Duration::ZERO, Instant::elapsed)
    }

    /// The place of a token in the order of their issue; `None` if this server did not issue the token.
    pub fn number(&self, token: &str) -> Option<usize> {
        self.0.memory().issued.iter().position(|issued| issued == token)
    }

    /// How long ago the token after this one was issued.
    pub fn replaced_ago(&self, token: &str) -> Option<Duration> {
        let next = self.number(token)? + 1;
        let next = self.0.memory().issued.get(next).cloned()?;
        Some(self.age(&next))
    }

    /// Whether this server issued a token, live or not.
    pub fn was_issued(&self, token: &str) -> bool {
        self.0.memory().issued.iter().any(|issued| issued == token)
    }

    /// Revokes one token.
    pub fn revoke(&self, token: &str) {
        self.0.memory().live.remove(token);
    }
}

/// Without the secrets and tokens.
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
    fn new(client_id: &str, client_secret: &str) -> Arc<Self> {
        Arc::new(State {
            issuer: OnceLock::new(),
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
                issued_at: BTreeMap::new(),
                live: BTreeMap::new(),
                under_way: 0,
                most_at_once: 0,
                refresh: RefreshTokens::default(),
                codes: AuthorizationCodes::default(),
                consent: Consent::default(),
                nonce: None,
                authorized: Vec::new(),
                expects_form_encoding: false,
                is_public: false,
                token_path: "/token".to_owned(),
                metadata: BTreeMap::new(),
                metadata_asked: Vec::new(),
            }),
            is_held: watch::Sender::new(false),
        })
    }

    /// Whether the authorization server answers requests to this path.
    fn is_own(&self, path: &str) -> bool {
        path == "/authorize" || path.contains("/.well-known/") || path == self.memory().token_path
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, lifetime: u64) -> String {
        let now = Instant::now();
        let end = now + Duration::from_secs(lifetime);
        let mut memory = self.memory();
        let token = new_token(memory.tenant.as_deref());
        memory.issued_at.insert(token.clone(), now);
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
